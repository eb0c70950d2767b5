"""A whole list of hostile names and reasons: text in every answer, whoever wrote them and wherever they stand."""

import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from canary_release.ledger import tables
from canary_release.operators.start_release import plain_text
from security.hostile import HOSTILE_TEXTS
from ui.conftest import Pages

ROLLOUT = "search-12"
SAFE_TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "section", "footer", "h1", "h2", "p", "dl", "dt", "dd",
    "div", "ul", "li", "figure", "table", "thead", "tbody", "tr", "th", "td", "br", "small", "pre",
    "svg", "desc", "text", "line", "polyline", "polygon", "circle", "path", "rect",
}  # fmt: skip
COLUMNS = ("version", "old_version", "outcome_reason", "reason", "started_by", "release_name", "release_text", "run_id")


class Parsed(HTMLParser):
    """The elements, attributes and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [f"{name}={value}" for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


def spoil(pages: Pages, words: str) -> None:
    """As if somebody with access to the ledger had written them wherever a text stands."""
    with pages.ledger._write() as connection:
        of_it = {"rollout_id": ROLLOUT}
        values = dict.fromkeys(COLUMNS, words)
        connection.execute(tables.rollouts.update().where(tables.rollouts.c.id == ROLLOUT).values(**values))
        for table, values in (
            (tables.decisions, {"reason": words}),
            (tables.audit, {"actor": words, "event": words}),
            (tables.intents, {"actor": words, "why": words}),
        ):
            connection.execute(table.update().where(table.c.rollout_id == of_it["rollout_id"]).values(**values))


@pytest.mark.parametrize("name", sorted(HOSTILE_TEXTS))
def test_hostile_words_are_words_in_every_answer(pages: Pages, name: str) -> None:
    # What a conf, a comment or a reason may become in the ledger.
    words = plain_text(HOSTILE_TEXTS[name], 500)
    spoil(pages, words)
    headers = pages.as_("admin")
    page = pages.client.get(f"/api/rollouts/{ROLLOUT}", headers=headers).raise_for_status().json()
    assert (page["row"]["version"], page["cause"], page["decisions"][0]["reason"]) == (words, words, words)
    rows = pages.client.get("/api/services/search/rollouts", headers=headers).raise_for_status().json()["rollouts"]
    assert words in [row["outcome_reason"] for row in rows]
    answer = pages.client.get(f"/rollouts/{ROLLOUT}/report", headers=headers).raise_for_status()
    seen = Parsed(answer.text)
    assert seen.tags <= SAFE_TAGS
    assert not [each for each in seen.attributes if each.startswith(("on", "href", "src", "style="))]
    # Eight fields, and every decision, write and entry of the trail.
    assert seen.words.count(words) >= 8
    charts = pages.client.get(f"/api/rollouts/{ROLLOUT}/charts", headers=headers).raise_for_status().json()
    for drawing in (charts["weight"], charts["evidence"]):
        marks = "".join(ElementTree.fromstring(drawing).itertext())
        assert drawing == charts["evidence"] or words in marks
