"""A rollout as one self-contained, printable HTML file for auditors: no script, nothing from anywhere else."""

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from canary_release.core.wording import amount, odds
from canary_release.ui.charts import Story, draw
from canary_release.ui.rollout_page import RolloutPage
from canary_release.ui.svg_canvas import style_sheet

_HERE = Path(__file__).parent
_WIDTH = 960


@cache
def _style() -> str:
    return style_sheet() + (_HERE / "static" / "canary_report.css").read_text(encoding="utf-8")


def policy() -> str:
    """The Content-Security-Policy under which the report is complete: its own style and nothing more."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def report_html(page: RolloutPage, story: Story) -> str:
    charts = draw(story, _WIDTH)
    # Markup: our own drawings, in which every text was escaped.
    pictures = [Markup(svg) for svg in (charts.weight, charts.evidence, *(each.svg for each in charts.checks))]
    template = _environment().get_template("report.html.jinja")
    return template.render(page=page, pictures=pictures, style=Markup(_style()), policy=policy())


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    made.filters |= {
        "instant": _instant,
        "word": lambda text: str(text).replace("_", " "),
        "share": lambda share: "unknown" if share is None else f"{share:g} %",
        "quantity": amount,
        "odds": lambda evidence: "unknown" if evidence is None else odds(evidence),
    }
    return made


def _instant(at: float | None) -> str:
    return "not yet" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
