"""What the pages read: who sees what, in which order, and that words stay words."""

import html
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

from canary_release.ledger import overview, tables
from demo.page_states import HOSTILE
from ui.conftest import FORBIDDEN_DAG, Pages


def listed(pages: Pages, role: str = "user") -> dict[str, Any]:
    rows = pages.client.get("/api/services", headers=pages.as_(role)).raise_for_status().json()["services"]
    return {row["service"]: row for row in rows}


def test_service_whose_dag_may_not_be_read_is_not_listed(pages: Pages) -> None:
    assert "stock" in listed(pages, "user")
    assert "stock" not in listed(pages, "viewer")
    assert listed(pages, "user")["stock"]["dag_id"] == FORBIDDEN_DAG


def test_weight_left_behind_by_a_dag_that_airflow_forgot_is_still_listed_first(pages: Pages) -> None:
    rows = listed(pages)
    assert list(rows)[:2] == ["pricing", "web"]
    assert rows["pricing"]["phase"]["name"] == "stuck"
    assert "weight without a rollout: pricing-green was last seen with 1 %" in rows["pricing"]["phase"]["words"]


def test_every_state_is_told(pages: Pages) -> None:
    phases = {service: row["phase"]["name"] for service, row in listed(pages).items()}
    told = {name: phases[name] for name in ("checkout", "web", "search", "profile", "pricing", "billing")}
    assert told == {
        "checkout": "baking", "web": "waiting", "search": "rolled_back", "profile": "promoted", "pricing": "stuck",
        "billing": "closed",
    }  # fmt: skip


def test_row_says_what_was_asked_read_back_and_seen(pages: Pages) -> None:
    traffic = listed(pages)["checkout"]["traffic"]
    assert (traffic["asked"], traffic["read_back"]) == (5.0, 5.0)
    assert 3.5 < traffic["observed"] < 6.5
    assert traffic["differs"] == ""


def test_load_balancer_that_says_something_else_is_told(pages: Pages) -> None:
    from canary_release.ledger import tables

    with pages.ledger._write() as connection:
        last = connection.execute(
            tables.intents.select()
            .where(tables.intents.c.rollout_id == "checkout-12")
            .order_by(tables.intents.c.id.desc())
        ).first()
        assert last is not None
        table = tables.observations
        other = {"checkout-blue": "80", "checkout-green": "20"}
        connection.execute(table.update().where(table.c.intent_id == last.id).values(weights=other))
    assert listed(pages)["checkout"]["traffic"]["differs"] == "asked for 5 %, the load balancer says 20 %"


def test_question_to_the_user_makes_the_rollout_theirs(pages: Pages) -> None:
    row = listed(pages)["web"]
    assert row["question"]["weight"] == "25"
    assert row["question"]["approvers"] == ["admin", "release-managers"]
    assert not row["yours"]


def test_figures_count_the_last_thirty_days(pages: Pages) -> None:
    answer = pages.client.get("/api/services", headers=pages.as_("admin")).json()
    figures = answer["figures"]
    assert figures["finished"] == figures["promoted"] + figures["rolled_back"]
    assert figures["success_rate"] == pytest.approx(figures["promoted"] / figures["finished"])
    assert 40 <= figures["seconds_to_zero"] <= 120


def test_finished_rollout_is_summed_up_once_and_the_sum_is_kept(pages: Pages) -> None:
    before = pages.ledger.rollout("search-12")
    assert before.summary is None
    # The client returns after the work that follows the answer.
    pages.client.get("/api/services", headers=pages.as_("admin"))
    kept = pages.ledger.rollout("search-12").summary
    assert kept is not None
    assert kept["seconds_to_zero"] > 0
    overview.keep_summary(pages.ledger, "search-12", {"requests": 0})
    assert pages.ledger.rollout("search-12").summary == kept


def test_rolled_back_rollout_says_why_and_how_many_requests_it_hurt(pages: Pages) -> None:
    page = pages.client.get("/api/rollouts/search-12", headers=pages.as_("viewer")).json()
    assert page["title"] == "search v1.10 → v3.2.0 · rolled back at 5 %"
    assert "error_rate: canary" in page["cause"]
    assert page["harm"]["errors_above_stable"] > 20
    assert page["harm"]["highest_weight"] == 5
    assert [step["state"] for step in page["plan"]] == ["done", "failed", "open", "open"]
    verdicts = {(row["weight"], row["verdict"]["check"]): row["verdict"]["verdict"] for row in page["checks"]}
    assert verdicts["5", "error_rate"] == "fail"
    assert {row["task_id"] for row in page["checks"]} == {"weight_1.compare", "weight_5.compare"}
    assert [(each["decision"], each["times"] > 1) for each in page["decisions"]] == [
        ("hold", True), ("advance", False), ("hold", True), ("roll_back", False),
    ]  # fmt: skip
    assert page["release_text"].startswith("service: search")


def test_rollout_that_must_wait_says_until_when_and_why(pages: Pages) -> None:
    page = pages.client.get("/api/rollouts/billing-1", headers=pages.as_("viewer")).json()
    assert page["row"]["phase"]["words"] == "waits at 5 % for the calendar"
    assert page["row"]["phase"]["until"] > page["at"] + 600_000
    assert "(the books are closed); it opens then." in page["cause"]


def test_run_and_rollout_give_the_same_page(pages: Pages) -> None:
    headers = pages.as_("viewer")
    by_run = pages.client.get("/api/dags/release_search/runs/search-v3.2.0/rollout", headers=headers).json()
    by_id = pages.client.get("/api/rollouts/search-12", headers=headers).json()
    assert by_run["row"]["rollout"] == by_id["row"]["rollout"] == "search-12"


def test_run_that_never_began_a_rollout_is_told(pages: Pages) -> None:
    answer = pages.client.get("/api/dags/release_search/runs/nothing/rollout", headers=pages.as_("viewer"))
    assert (answer.status_code, answer.json()["detail"]) == (
        404, "The run nothing of release_search has no rollout in the ledger.",
    )  # fmt: skip


def test_history_of_a_service_lists_its_rollouts_newest_first(pages: Pages) -> None:
    answer = pages.client.get("/api/services/search/rollouts?limit=3", headers=pages.as_("viewer"))
    rows = answer.raise_for_status().json()["rollouts"]
    assert [row["rollout"] for row in rows] == ["search-12", "search-11", "search-10"]
    assert (rows[0]["state"], rows[0]["started_by"], rows[0]["step"]) == ("rolled_back", "ada", 1)
    assert "error_rate: canary" in rows[0]["outcome_reason"]


def test_history_of_a_dag_that_may_not_be_read_is_refused_and_of_nothing_is_unknown(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from canary_release.ui import page_routes

    monkeypatch.setattr(page_routes, "may", lambda user, method, dag_id: dag_id != FORBIDDEN_DAG)
    headers = pages.as_("none")
    assert pages.client.get("/api/services/stock/rollouts", headers=headers).status_code == 403
    assert pages.client.get("/api/services/search/rollouts", headers=headers).status_code == 200
    answer = pages.client.get("/api/services/nobody/rollouts", headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (404, "The ledger knows no rollout of 'nobody'.")


def test_unknown_rollout_and_unknown_chart_are_told(pages: Pages) -> None:
    headers = pages.as_("viewer")
    assert pages.client.get("/api/rollouts/none-1", headers=headers).status_code == 404
    answer = pages.client.get("/api/rollouts/search-12/charts/pie.svg", headers=headers)
    assert answer.status_code == 404
    assert "there are: weight, evidence, check-0, check-1" in answer.json()["detail"]


@pytest.mark.parametrize("rollout", ["checkout-12", "search-12", "profile-12", "pricing-12", "hostile-1", "web-12"])
def test_every_chart_is_well_formed_and_as_wide_as_asked(pages: Pages, rollout: str) -> None:
    for width in (1, 330, 1600):
        answer = pages.client.get(f"/api/rollouts/{rollout}/charts?width={width}", headers=pages.as_("admin"))
        charts = answer.raise_for_status().json()
        drawings = [charts["weight"], charts["evidence"], *(each["svg"] for each in charts["checks"])]
        assert len(drawings) == 4
        for drawing in drawings:
            root = ElementTree.fromstring(drawing)
            assert root.get("width") == str(max(width, 260))
            tags = {element.tag.rpartition("}")[2] for element in root.iter()}
            assert tags <= {"svg", "title", "desc", "text", "line", "polyline", "polygon", "circle", "path", "rect"}
            for element in root.iter():
                assert not [name for name in element.attrib if name.startswith("on") or "href" in name]
                assert all("nan" not in value and "inf" not in value for value in element.attrib.values())


@pytest.mark.parametrize("rollout", ["checkout-12", "search-12", "profile-12"])
def test_no_label_of_an_axis_is_cut_off(pages: Pages, rollout: str) -> None:
    charts = pages.client.get(f"/api/rollouts/{rollout}/charts?width=330", headers=pages.as_("admin")).json()
    drawings = [charts["weight"], charts["evidence"], *(each["svg"] for each in charts["checks"])]
    labels = [each.text or "" for drawing in drawings for each in ElementTree.fromstring(drawing).iter()]
    assert "0 ms" in labels
    assert not [label for label in labels if label.endswith("…")]


def test_one_percent_can_be_told_from_nothing_on_the_weight_chart(pages: Pages) -> None:
    drawing = pages.client.get("/api/rollouts/search-12/charts/weight.svg?width=330", headers=pages.as_("viewer")).text
    root = ElementTree.fromstring(drawing)
    labels = {element.text: float(element.get("y", 0)) for element in root.iter() if element.tag.endswith("text")}
    assert labels["0 %"] - labels["1 %"] >= 12
    assert labels["1 %"] - labels["5 %"] >= 12


class Parsed(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def test_hostile_words_stay_words_in_the_report(pages: Pages) -> None:
    answer = pages.client.get("/rollouts/hostile-1/report", headers=pages.as_("admin"))
    seen = Parsed(answer.raise_for_status().text)
    assert not seen.tags & {"script", "img", "iframe", "object", "link", "b"}
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert "49" not in answer.text.split("Reason given")[1].split("</dd>")[0], "a template in the data was evaluated"


def test_report_needs_nothing_from_anywhere_and_says_so(pages: Pages) -> None:
    answer = pages.client.get("/rollouts/search-12/report?download=true", headers=pages.as_("viewer"))
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert answer.headers["content-disposition"] == 'attachment; filename="search-12.html"'
    seen = Parsed(answer.text)
    assert not [value for name, value in seen.attributes if name in ("src", "href", "action", "style")]
    for part in ("rolled back at 5 %", "Release file as it was", "service: search", "What it did to users", "<svg"):
        assert part in answer.text


def test_report_says_what_was_learned_and_reads_records_from_before_that_was_kept(pages: Pages) -> None:
    """So does the page, which gets the same fields."""

    def report() -> str:
        answer = pages.client.get("/rollouts/search-12/report", headers=pages.as_("viewer"))
        return html.unescape(answer.raise_for_status().text)

    last = pages.ledger.decisions("search-12")[-1].judgement
    assert last is not None
    said = [check.pop("learned") for check in last["checks"]]
    assert any(said)
    assert all(one in report() for one in said)
    with pages.ledger._write() as connection:
        connection.execute(tables.decisions.update().values(judgement=last))
    assert not any(one in report() for one in said if one)
    (row, *_) = pages.client.get("/api/rollouts/search-12", headers=pages.as_("viewer")).json()["checks"]
    assert "learned" not in row["verdict"]


def test_hostile_words_leave_json_unharmed(pages: Pages) -> None:
    page = pages.client.get("/api/rollouts/hostile-1", headers=pages.as_("admin")).json()
    assert page["row"]["old_version"] == HOSTILE[0]
    assert page["notices"][0]["channel"] == HOSTILE[0]


def test_answers_may_be_framed_by_nobody_else_and_kept_by_nobody(pages: Pages) -> None:
    answer = pages.client.get("/api/services", headers=pages.as_("viewer"))
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    script = pages.client.get("/static/canary_pages.js")
    assert script.headers["cache-control"] == "no-cache"
    assert "javascript" in script.headers["content-type"]


def test_ledger_that_cannot_be_read_is_one_sentence(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    from canary_release.core.problems import LedgerError
    from canary_release.ui import page_routes

    def gone() -> None:
        raise LedgerError("the ledger at sqlite:///x cannot be opened: no such file")

    monkeypatch.setattr(page_routes, "open_ledger", gone)
    answer = pages.client.get("/api/services", headers=pages.as_("viewer"))
    assert (answer.status_code, answer.json()) == (
        503,
        {"detail": "the ledger at sqlite:///x cannot be opened: no such file"},
    )
