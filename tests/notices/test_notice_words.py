"""The one message that all channels are sent, and what hostile names can do to it: nothing."""

from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_release.core.notice import (
    Facts,
    as_html,
    as_slack,
    as_subject,
    as_text,
    filled,
    notice_of,
    slack_blocks,
)
from canary_release.core.notice_events import EVENTS, Event

CHECK = {
    "check": "error_rate", "verdict": "fail", "evidence": 4100.0, "needed": 200.0, "canary": 0.039, "stable": 0.0041,
    "canary_events": 86, "canary_of": 2204, "stable_events": 172, "stable_of": 41880, "limit": "+0.5 pp", "unit": "%",
    "kind": "proportion",
}  # fmt: skip
LINKS = {"report": "https://airflow.example/canary/report?a=1&b=2", "log": "https://airflow.example/dags/d/runs/r"}


def facts(event: Event, **changes: object) -> Facts:
    known = {
        "service": "checkout", "version": "v2.4.1", "old_version": "v2.4.0", "rollout": "checkout-7",
        "key": "checkout-7 ended", "at": 1_800_000_000.0, "weights": tuple(map(Decimal, (1, 5, 25, 100))), "step": 1,
        "weight": Decimal(5), "started_by": "ada", "reason": "CHK-812", "why": "a task of the run failed",
        "judgement": {"blamed": "error_rate", "checks": [CHECK]}, "exposed": 840.0, "hurt": 86, "links": LINKS,
    }  # fmt: skip
    return Facts(event, **(known | changes))  # type: ignore[arg-type]


def test_rollback_tells_cause_figures_and_links_in_one_line() -> None:
    assert as_text(notice_of(facts("rolled_back"))) == (
        "checkout v2.4.1 ROLLED BACK at 5 %: error rate 3.90 % vs 0.410 % (limit +0.5 pp), 14 min, "
        "about 86 requests hurt · report: https://airflow.example/canary/report?a=1&b=2 "
        "· log: https://airflow.example/dags/d/runs/r"
    )


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("started", "checkout v2.4.1 STARTED: from v2.4.0, 1/5/25/100 %, asked by ada: CHK-812"),
        ("approval", "checkout v2.4.1 WAITS FOR YOU before 25 %: a task of the run failed"),
        ("step", "checkout v2.4.1 step 2 of 4 done at 5 %: error rate 3.90 % vs 0.410 % (limit +0.5 pp), next 25 %"),
        ("promoted", "checkout v2.4.1 PROMOTED: it has all the traffic, v2.4.0 none, after 14 min"),
        ("failed", "checkout v2.4.1 TAKEN BACK at 5 %: a task of the run failed, 14 min, about 86 requests hurt"),
        ("page", "checkout v2.4.1 NEEDS YOU NOW: a task of the run failed"),
    ],
)
def test_every_event_has_its_sentence(event: Event, said: str) -> None:
    assert notice_of(facts(event)).sentence == said


def test_end_before_the_first_step_says_so_and_counts_nobody() -> None:
    notice = notice_of(facts("failed", weight=None, step=-1, judgement=None, exposed=None, hurt=0))
    assert notice.sentence == "checkout v2.4.1 TAKEN BACK before the first user: a task of the run failed"


@pytest.mark.parametrize(
    ("users", "said"), [((4, 86), "86 requests of 4 to 86 users hurt"), ((1, 1), "86 requests of 1 user hurt")]
)
def test_users_are_told_where_the_release_file_says_what_one_asks_for(users: tuple[int, int], said: str) -> None:
    assert notice_of(facts("failed", users_hurt=users)).sentence.endswith(f"about {said}")


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("step", [-1, 0, 3, 4])
def test_no_event_at_any_step_is_without_words(event: Event, step: int) -> None:
    notice = notice_of(facts(event, step=step, judgement=None, why="", exposed=None, weight=None))
    assert notice.headline.startswith("checkout v2.4.1 ")


def test_hostile_words_mention_nobody_in_slack_and_hide_no_link() -> None:
    notice = notice_of(facts("failed", why="<!channel> <https://evil.example|report> & <@U1>"))
    assert as_slack(notice).count("<") == len(LINKS)
    said, links = slack_blocks(notice)
    assert said["text"]["type"] == "plain_text"
    assert links["elements"][0]["text"].count("<") == len(LINKS)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.hrefs: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.hrefs += [value for name, value in attrs if name == "href"]


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_name_breaks_html_or_a_header(version: str, why: str) -> None:
    notice = notice_of(facts("failed", version=version + '"><script>', why=f"{why}\r\nBcc: all@example.com"))
    parser = _Tags()
    parser.feed(as_html(notice))
    assert set(parser.tags) <= {"p", "strong", "ul", "li", "a"}
    assert parser.hrefs == list(LINKS.values())
    for text in (as_subject(notice), as_text(notice), *notice.links):
        assert text.isprintable()


def test_link_gets_the_rollouts_time_and_its_names() -> None:
    url = "https://g.example/d/x?from={from}&to={to}&var-service={service}&v={version}"
    assert filled(url, service="checkout", version="1.0+b", start=10.5, end=20) == (
        "https://g.example/d/x?from=10500&to=20000&var-service=checkout&v=1.0%2Bb"
    )
