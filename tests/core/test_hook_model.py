"""Calls in a release file: what they mean, and that what could not be called is refused with place and cure."""

import pytest

from canary_release.core.release import Hook, HttpCall, Moment
from core.test_release_file import SMALL, load, problems_of


def test_calls_are_read_in_order_with_their_defaults() -> None:
    text = """\
before:
  - {dag: deploy_shop, conf: {version: "{version}", replicas: 3, fast: true}, timeout: 20m, retries: 1}
  - {http: {connection: warmer, path: /warm, body: {service: "{service}"}}, on_failure: go_on}
on_rollback:
  - {dag: tell_somebody}
"""
    hooks = load(SMALL + text).hooks
    deploy, warm = hooks[Moment.BEFORE]
    assert deploy == Hook(
        dag="deploy_shop", conf={"version": "{version}", "replicas": 3, "fast": True}, timeout=1200.0, retries=1
    )
    assert warm == Hook(http=HttpCall("warmer", "POST", "/warm", {"service": "{service}"}), rolls_back=False)
    assert hooks[Moment.ON_ROLLBACK] == (Hook(dag="tell_somebody", rolls_back=False),)
    assert Moment.AFTER not in hooks


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("{conf: {a: b}}", "needs one of `dag` and `http`"),
        ("{dag: d, http: {connection: c, path: /x}}", "needs one of `dag` and `http`"),
        ("{http: {connection: c, path: /x}, conf: {a: b}}", "belongs to `dag`"),
        ("{http: {connection: c, path: /x}, timeout: 5m}", "a request has 20 s"),
        ("{http: {connection: c, path: x}}", "a path such as `/deploy`"),
        ("{http: {connection: c, path: //evil.example/x}}", "a path such as `/deploy`"),
        ("{http: {connection: c, path: \"http://127.0.0.1/x\"}}", "a path such as `/deploy`"),
        ("{http: {connection: c, path: /x, method: BREW}}", "allowed: POST, PUT, PATCH, DELETE, GET"),
        ("{http: {path: /x}}", "connection: is missing"),
        ("{http: {conection: c, path: /x}}", "did you mean `connection`"),
        ("{dag: d, conf: {v: \"{verison}\"}}", "did you mean `version`"),
        ("{dag: d, conf: {v: \"v-{version}\"}}", "it must be the whole value"),
        ("{dag: d, conf: {v: 1.10}}", "write `\"1.10\"`"),
        ("{dag: d, conf: [a]}", "must be a block of keys"),
        ("{dag: d, timeout: 0s}", "must be more than 0"),
        ("{dag: d, retries: 11}", "at most 10"),
        ("{dag: d, on_failure: shrug}", "allowed: roll_back, go_on"),
        ("{dag: d, on_fail: go_on}", "did you mean `on_failure`"),
    ],
)  # fmt: skip
def test_call_that_cannot_be_made_is_refused_with_place_and_cure(call: str, words: str) -> None:
    (problem,) = problems_of(SMALL + f"before:\n  - {call}\n")
    assert problem.startswith("shop.yaml:10: before[0]")
    assert words in problem


@pytest.mark.parametrize("moment", ["after", "on_rollback"])
def test_call_that_comes_too_late_to_change_anything_cannot_roll_back(moment: str) -> None:
    (problem,) = problems_of(SMALL + f"{moment}:\n  - {{dag: d, on_failure: roll_back}}\n")
    assert "on_failure: is not a known key" in problem


def test_braces_that_are_no_placeholders_are_text() -> None:
    text = 'before:\n  - {dag: d, conf: {a: "{{ x }}", b: "{% y %}", c: "set {1, 2}"}}\n'
    (hook,) = load(SMALL + text).hooks[Moment.BEFORE]
    assert hook.conf == {"a": "{{ x }}", "b": "{% y %}", "c": "set {1, 2}"}
