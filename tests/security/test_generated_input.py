"""Thousands of broken release files and confs: each is a sentence, soon, without a write and without much memory."""

import gc
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canary_release.control.ending import abort
from canary_release.core.plan import make_plan, render_plan
from canary_release.core.problems import RefusedError
from canary_release.core.release_file import lint, load_release
from canary_release.core.values import Weights
from canary_release.dag_factory import dag_for
from canary_release.hooks import registry
from canary_release.hooks.registry import BACKENDS
from canary_release.operators.start_release import KNOWN, StartReleaseOperator, checked_conf
from control.world import World
from faults.results_file import record_figure, record_own
from security.hostile import HOSTILE_TEXTS, ROOT, SECRET_TEXTS, SHOP, a_context, mutations

SLOWEST = 0.2  # seconds of this thread's own processor time
MOST_MEMORY = 50 * 1024  # KiB on top of what the process had
GOOD = [SHOP, *(path.read_text() for path in sorted((ROOT / "include" / "releases").glob("*.yaml")))]
MANY = [2_000, pytest.param(10_000, marks=pytest.mark.slow)]


class Watch:
    """Times every act and remembers the worst."""

    def __init__(self) -> None:
        self.worst, self.example, self.before = 0.0, "", _memory()

    def time(self, act: Callable[[], Any], what: object) -> Any:
        began = time.thread_time()
        try:
            return act()
        finally:
            took = time.thread_time() - began
            if took > self.worst:
                self.worst, self.example = took, repr(what)[:300]

    def check(self, record: Callable[[str, object], None], count: int) -> None:
        grown = _memory() - self.before
        record("slowest_seconds", round(self.worst, 4))
        print(f"{count} inputs: the slowest took {1000 * self.worst:.0f} ms, memory grew by {grown / 1024:.0f} MiB")
        assert self.worst < SLOWEST, self.example
        assert grown < MOST_MEMORY


@pytest.fixture(autouse=True)
def _own_garbage_only() -> Iterator[None]:
    """A whole Airflow is imported here; looking through it for garbage takes longer than any file may."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every connection that is opened and every hook of a load balancer that is made."""
    made: list[str] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: made.append(f"connect to {address}"))
    monkeypatch.setattr(registry, "make_load_balancer", lambda *_: made.append("a load balancer's hook"))
    return made


def record_all(key: str, count: int, calls: list[str]) -> None:
    """Only the whole number of the promise is a figure."""
    if count >= 10_000:
        record_figure(key, f"{count:,}: 0 tracebacks, {len(calls)} calls", held=not calls)
    assert calls == []


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def read(data: bytes, file: Path) -> bool:
    """Lint bytes as a file; whether it may run. What may run has a plan that can be shown."""
    file.write_bytes(data)
    problems = lint(file, source_name=file.name, backends=BACKENDS)
    for problem in problems:
        assert problem.startswith(f"{file.name}:")
        assert problem.isprintable(), repr(problem)
        assert len(problem) < 1000
    if not problems:
        release = load_release(file, source_name=file.name, backends=BACKENDS)
        assert render_plan(release, make_plan(release))
    return not problems


@pytest.mark.parametrize("count", MANY)
def test_row_22_mutated_release_file_is_ok_or_told_in_lines_that_name_the_place(
    tmp_path: Path, record_property: Callable[[str, object], None], calls: list[str], count: int
) -> None:
    file, fine = tmp_path / "web.yaml", 0
    for text in GOOD:
        read(text.encode(), file)  # what is imported once is no file's own time
    watch = Watch()
    for data, _ in zip(mutations(GOOD, seed=count), range(count), strict=False):
        fine += watch.time(lambda data=data: read(data, file), data)
    watch.check(record_property, count)
    # Mostly broken, or the generator shows nothing; not all, or it never gets past the surface.
    assert 0 < fine < count / 2
    record_own(22, f"{count:,} mutated release files: 0 tracebacks, the slowest {1000 * watch.worst:.0f} ms")
    record_all("release files", count, calls)


def test_mutated_release_file_is_always_one_dag(tmp_path: Path) -> None:
    file, broken = tmp_path / "web.yaml", 0
    for data, _ in zip(mutations(GOOD, seed=5), range(150), strict=False):
        file.write_bytes(data)
        dag = dag_for(file)
        assert dag.dag_id == "release_web"
        broken += "broken" in dag.tags
    assert 50 < broken < 150


def json_values(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


# Lone surrogates, too: JSON can hold them.
ANY_TEXT = st.text(st.characters(), max_size=40) | st.sampled_from([*HOSTILE_TEXTS.values(), *SECRET_TEXTS.values()])
FILE_KEYS = ["service", "load_balancer", "metrics", "steps", "checks", "profiles", "window", "poll", "lease", "drift"]
FILES = st.dictionaries(st.sampled_from(FILE_KEYS) | ANY_TEXT, json_values(ANY_TEXT), max_size=6)
CONF_KEYS = list(KNOWN)
CONFS = st.dictionaries(st.sampled_from(CONF_KEYS) | ANY_TEXT, json_values(ANY_TEXT), max_size=5)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changes=FILES)
def test_generated_release_file_is_ok_or_told(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    whole = {**yaml.safe_load(SHOP), **changes}
    text = yaml.safe_dump(whole, allow_unicode=True).encode("utf-8", "surrogatepass")
    read(text, tmp_path_factory.getbasetemp() / "generated.yaml")


def _some_text(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return chance.choice([*HOSTILE_TEXTS.values(), *SECRET_TEXTS.values(), "v2.4.1", "careful", "1,100"])
    codes = (chance.choice([chance.randrange(128), chance.randrange(0x110000)]) for _ in range(chance.randrange(40)))
    return "".join(map(chr, codes))


def _some_value(chance: random.Random, depth: int = 0) -> Any:
    kinds: list[Any] = [None, True, False, 7, -1e308, float("nan"), 10**400, "", _some_text(chance), _some_text(chance)]
    if depth < 4:
        inner = [_some_value(chance, depth + 1) for _ in range(chance.randrange(3))]
        kinds += [inner, {_some_text(chance): value for value in inner}]
    return chance.choice(kinds)


def a_conf(chance: random.Random) -> dict[str, Any]:
    """Sometimes in order, mostly not."""
    conf: dict[str, Any] = {"version": "v2"} if chance.random() < 0.8 else {}
    for _ in range(chance.randrange(4)):
        key = chance.choice(CONF_KEYS) if chance.random() < 0.8 else _some_text(chance)
        conf[key] = _some_value(chance)
    return conf


def sentence_of(conf: dict[str, Any]) -> str | None:
    """Why a conf is refused, None when it is taken."""
    try:
        taken = checked_conf(conf)
    except RefusedError as error:
        return str(error)
    assert set(taken) == set(CONF_KEYS)
    return None


def require_sentence(text: str | None) -> None:
    if text is not None:
        assert text.isprintable(), repr(text)
        assert len(text) < 600


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(conf=CONFS)
def test_conf_made_by_hypothesis_is_taken_or_refused_in_one_sentence(conf: dict[str, Any]) -> None:
    require_sentence(sentence_of(conf))
    require_sentence(sentence_of({"version": "v2", **conf}))


@pytest.mark.parametrize("count", MANY)
def test_row_22_generated_conf_is_taken_whole_or_refused_in_one_sentence(
    record_property: Callable[[str, object], None], calls: list[str], count: int
) -> None:
    watch, taken, chance = Watch(), 0, random.Random(count)
    for _ in range(count):
        conf = a_conf(chance)
        sentence = watch.time(lambda conf=conf: sentence_of(conf), conf)
        require_sentence(sentence)
        taken += sentence is None
    watch.check(record_property, count)
    assert 0 < taken < count / 2
    record_own(22, f"{count:,} generated confs: 0 tracebacks")
    record_all("confs", count, calls)


def test_row_22_generated_conf_that_is_refused_touches_no_load_balancer(world: World, tmp_path: Path) -> None:
    start, refused = StartReleaseOperator(task_id="start", release_file=str(tmp_path / "shop.yaml")), 0
    reads: list[int] = []
    looked = world.balancer.get_weights

    def counted() -> Weights:
        reads.append(1)
        return looked()

    world.balancer.get_weights = counted  # type: ignore[method-assign]
    chance = random.Random(8)
    for number in range(120):
        conf = a_conf(chance)
        reads.clear()
        world.balancer.writes.clear()
        try:
            start.execute(a_context(conf, run_id=f"run-{number}"))
        except AirflowFailException:
            refused += 1
            assert not reads
            assert not world.balancer.writes
            assert world.ledger.active("shop") is None
        else:
            abort(world.desk, "shop", "the next one", actor="test")
    assert refused > 50
    record_own(22, f"{refused} refused starts: 0 calls of a load balancer")
