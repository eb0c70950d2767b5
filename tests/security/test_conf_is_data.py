"""What a run's conf holds is text to be stored and shown: never a template, a query, a path, a log line, a secret."""

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from canary_release.control.ending import abort
from canary_release.control.stepping import shift
from canary_release.dag_factory import release_dags
from canary_release.ledger.records import Rollout, State
from canary_release.operators.guard import AbortOperator
from canary_release.operators.start_release import StartReleaseOperator
from control.world import World
from faults.results_file import record_own
from security.hostile import HOSTILE_TEXTS, NO_SECRETS, ROOT, SECRET_TEXTS, a_context

Conf = dict[str, Any]


@pytest.fixture
def start(world: World, tmp_path: Path) -> StartReleaseOperator:
    return StartReleaseOperator(task_id="start", release_file=str(tmp_path / "shop.yaml"))


def started(world: World, run_id: str = "run-1") -> Rollout:
    rollout = world.ledger.rollout_of_run("release_shop", run_id)
    assert rollout is not None
    return rollout


def refused(world: World, start: StartReleaseOperator, conf: Conf) -> str:
    """The sentence a start is refused with; nothing was written and nobody holds the service."""
    with pytest.raises(AirflowFailException) as refusal:
        start.execute(a_context(conf))
    assert not world.balancer.writes
    assert world.ledger.active("shop") is None
    sentence = str(refusal.value)
    assert sentence.isprintable()
    assert len(sentence) < 600
    return sentence


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_row_28_hostile_reason_is_one_line_of_text_in_log_and_ledger(
    world: World, start: StartReleaseOperator, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    start.execute(a_context({"version": "v2", "reason": HOSTILE_TEXTS[name]}))
    kept = started(world).reason
    assert kept.isprintable()
    assert 0 < len(kept) <= 2000
    events = [entry.event for entry in world.ledger.audit_trail()]
    assert events[0] == "started"
    assert events.count("started") == 1
    assert world.ledger.audit_trail()[0].detail["reason"] == kept
    assert world.ledger.verify_audit()[1] == []
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "asked by" in line]
    assert not [line for line in lines if line.strip().startswith(("REFUSED", "forged", "<html>"))]
    record_own(28, f"{len(HOSTILE_TEXTS)} hostile texts as a reason, version, profile or steps: text, or refused")


@pytest.mark.parametrize("name", ["script", "jinja", "percent", "braces", "shell", "rich", "sql", "path"])
def test_printable_reason_is_kept_to_the_letter(world: World, start: StartReleaseOperator, name: str) -> None:
    start.execute(a_context({"version": "v2", "reason": HOSTILE_TEXTS[name]}))
    assert started(world).reason == HOSTILE_TEXTS[name]


def test_line_break_in_a_user_name_makes_no_line(world: World, start: StartReleaseOperator) -> None:
    start.execute(a_context({"version": "v2"}, user="ada\nforged: eve" + "x" * 300))
    by = started(world).started_by
    assert by.startswith("ada\\nforged")
    assert len(by) <= 250


@pytest.mark.parametrize("key", ["version", "profile", "steps"])
def test_hostile_version_profile_or_steps_are_refused(world: World, start: StartReleaseOperator, key: str) -> None:
    for text in HOSTILE_TEXTS.values():
        refused(world, start, {"version": "v2", key: text})


@pytest.mark.parametrize(
    "conf",
    [
        {"version": None},
        {"version": 2},
        {"version": True},
        {"version": ["v2"]},
        {"version": {"a": {"b": []}}},
        {"version": ""},
        {"version": "v2", "profile": ["standard"]},
        {"version": "v2", "profile": 1},
        {"version": "v2", "steps": [1, 100]},
        {"version": "v2", "steps": 100},
        {"version": "v2", "steps": "1," * 300 + "100"},
        {"version": "v2", "steps": "9" * 200},
        {"version": "v2", "dry_run": "false"},
        {"version": "v2", "dry_run": 1},
        {"version": "v2", "reason": {"text": "x"}},
        {"version": "v2", "reason": "x" * 2001},
        {"version": "v2", "reason": "x" * 1_000_000},
    ],
    ids=lambda conf: str(conf)[:40],
)
def test_value_of_the_wrong_kind_or_size_is_refused_in_one_sentence(
    world: World, start: StartReleaseOperator, conf: Conf
) -> None:
    refused(world, start, conf)


def test_unknown_key_is_refused_with_the_known_ones(world: World, start: StartReleaseOperator) -> None:
    sentence = refused(world, start, {"version": "v2", "dryrun": True})
    assert "`dryrun` is not known (did you mean `dry_run`?)" in sentence
    assert "version, profile, steps, reason, dry_run" in sentence


def test_hostile_key_is_refused_in_one_printable_sentence(world: World, start: StartReleaseOperator) -> None:
    for text in HOSTILE_TEXTS.values():
        refused(world, start, {"version": "v2", text: "x"})


def test_thousand_unknown_keys_make_no_long_sentence(world: World, start: StartReleaseOperator) -> None:
    refused(world, start, {"version": "v2", **{f"k{number}": "x" * 999 for number in range(1000)}})


@pytest.mark.parametrize("key", ["password", "db_passwd", "token", "client-secret", "api_key", "APIKEY", "ssh_key"])
def test_key_that_names_a_secret_is_refused_without_its_value(
    world: World, start: StartReleaseOperator, key: str
) -> None:
    sentence = refused(world, start, {"version": "v2", key: "hunter2"})
    assert "looks as if it held a secret" in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize("key", ["version", "reason", "profile", "note", None])
def test_value_that_looks_like_a_secret_is_refused_and_written_nowhere(
    world: World,
    start: StartReleaseOperator,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    key: str | None,
) -> None:
    for secret in SECRET_TEXTS.values():
        conf = {"version": "v2", secret: "x"} if key is None else {"version": "v2", key: secret}
        assert "looks as if it held a secret" in refused(world, start, conf)
    out, err = capsys.readouterr()
    written = out + err + caplog.text
    assert written.count("REFUSED") >= len(SECRET_TEXTS)
    assert not [secret for secret in SECRET_TEXTS.values() if secret in written]


@pytest.mark.parametrize("reason", NO_SECRETS)
def test_words_about_secrets_are_no_secrets(world: World, start: StartReleaseOperator, reason: str) -> None:
    start.execute(a_context({"version": "v2", "reason": reason}))
    assert started(world).reason == reason


@pytest.fixture
def all_dags(tmp_path: Path, world: World) -> list[DAG]:
    dags = list(release_dags(tmp_path).values())
    for name in ("canary_abort", "canary_guardian"):
        path = ROOT / "dags" / f"{name}.py"
        namespace: dict[str, Any] = {"__file__": str(path), "__name__": name}
        exec(compile(path.read_text(), str(path), "exec"), namespace)  # noqa: S102  as Airflow does
        dags.append(namespace["dag"])
    return dags


def test_no_task_renders_a_template(all_dags: list[DAG]) -> None:
    tasks = [task for dag in all_dags for task in dag.tasks]
    assert len(tasks) > 10
    for task in tasks:
        assert not task.template_fields, f"{task.task_id} renders {task.template_fields}"


def exposed(world: World) -> Rollout:
    world.desk.read_release = lambda text, name: world.release
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="test")
    assert world.canary_percent == 1
    return rollout


@pytest.mark.parametrize("name", [*HOSTILE_TEXTS, *SECRET_TEXTS])
def test_abort_is_never_refused_for_its_words(world: World, name: str) -> None:
    rollout = exposed(world)
    words = {**HOSTILE_TEXTS, **SECRET_TEXTS}[name]
    sentence = AbortOperator(task_id="abort").execute(a_context({"service": "shop", "reason": words, "why": 1}))
    assert world.canary_percent == 0
    ended = world.ledger.rollout(rollout.id)
    assert ended.state is State.ROLLED_BACK
    assert ended.outcome_reason.isprintable()
    assert sentence.isprintable()
    if name in SECRET_TEXTS:
        assert words not in sentence + ended.outcome_reason
        assert "left out" in ended.outcome_reason


def test_abort_from_a_terminal_that_is_not_utf_8_takes_the_canary_off(world: World) -> None:
    exposed(world)
    abort(world.desk, "shop", "caf\udce9", actor="ada (terminal)")
    assert world.canary_percent == 0


def test_abort_by_a_user_with_a_strange_name_takes_the_canary_off(world: World) -> None:
    exposed(world)
    AbortOperator(task_id="abort").execute(a_context({"service": "shop"}, user="eve\ud800\x00\nroot"))
    assert world.canary_percent == 0


def test_abort_of_something_that_is_no_service_is_one_sentence(world: World) -> None:
    exposed(world)
    for service in [*HOSTILE_TEXTS.values(), None, 7, ["shop"], {"a": 1}]:
        with pytest.raises(AirflowFailException, match="knows no service") as refusal:
            AbortOperator(task_id="abort").execute(a_context({"service": service}))
        assert str(refusal.value).isprintable()
    assert world.canary_percent == 1
