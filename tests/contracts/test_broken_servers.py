"""What every load balancer hook says and does when its server fails: too slow, too busy, broken, or gone half-way."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest

from canary_release.core.problems import LoadBalancerError
from canary_release.core.values import Weights
from contracts.broken_wire import DONE, REFUSED, broken, is_one_clear_sentence, wire
from contracts.case import Case
from contracts.every_case import CASES
from contracts.shop import BACKENDS
from contracts.waiting import wait_until
from demo.fault_proxy import FaultProxy

STABLE, CANARY = BACKENDS
# The memory balancer has no server that could fail.
WITH_SERVER = [name for name in CASES if name != "memory"]


def split(canary_percent: int) -> Weights:
    return Weights.split(stable=STABLE, canary=CANARY, canary_percent=Decimal(canary_percent))


@contextmanager
def wired(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Case, FaultProxy]]:
    """The case with 5 % for the canary, and the proxy that it goes through."""
    case = CASES[name](request)
    connection: str = case.balancer.connection_id  # type: ignore[attr-defined]
    with wire(connection, monkeypatch) as proxy:
        put(case, 5)
        yield case, proxy


def put(case: Case, percent: int) -> None:
    """As the control part does it: write, and read until it is there."""
    case.balancer.set_weights(split(percent))
    read_back(case, percent, "written")


def read_back(case: Case, percent: int, why: str) -> None:
    read: list[Weights] = []

    def there() -> bool:
        read.append(case.balancer.get_weights())
        return read[-1] == split(percent)

    try:
        wait_until(there, f"{percent} % read back")
    finally:
        print(f"{why}: {percent} % expected, {read[-1:]} read after {len(read)} looks")


def tried(case: Case, percent: int) -> bool:
    """Whether the hook says that it has written; a LoadBalancerError says that it has not."""
    said: LoadBalancerError | None = None
    try:
        case.balancer.set_weights(split(percent))
    except LoadBalancerError as error:
        said = error
    if said is not None:
        expect_words(said)
    return said is None


def expect_words(error: LoadBalancerError) -> None:
    assert type(error) is LoadBalancerError, "a failing server is no unknown target"
    assert is_one_clear_sentence(str(error)), str(error)


def writing(proxy: FaultProxy) -> bytes:
    """What tells a request that writes from one that reads, in what passed so far."""
    lines = [call.request for call in proxy.calls()]
    if any(line.startswith(b"set ") for line in lines):
        return b"set "
    if all(line.startswith(b"POST / ") for line in lines):
        return b"Action=Modify"  # AWS' query protocol
    methods = {line.partition(b" ")[0] for line in lines} - {b"GET"}
    # Where a file is written instead, everything that is asked around it.
    return next(iter(methods)) + b" " if methods else b""


@pytest.mark.parametrize("name", WITH_SERVER)
def test_a_read_from_a_broken_server_is_an_error_in_words_and_the_next_one_is_right(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wired(name, request, monkeypatch) as (case, proxy):
        for what, fault in (REFUSED | DONE).items():
            with broken(proxy, fault), pytest.raises(LoadBalancerError) as raised:
                case.balancer.get_weights()
            expect_words(raised.value)
            assert case.balancer.get_weights() == split(5), what


@pytest.mark.parametrize("name", WITH_SERVER)
def test_a_write_that_the_server_never_did_is_an_error_and_changes_nothing(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wired(name, request, monkeypatch) as (case, proxy):
        for what, fault in REFUSED.items():
            with broken(proxy, fault, only=writing(proxy)):
                said = tried(case, 20)
            # A file that the balancer reads is written whatever its API says; then it has been.
            read_back(case, 20 if said else 5, what)
            put(case, 5)


@pytest.mark.parametrize("name", WITH_SERVER)
@pytest.mark.parametrize("what", list(DONE))
def test_a_write_whose_answer_is_lost_can_be_made_again_and_the_way_back_is_open(
    name: str, what: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wired(name, request, monkeypatch) as (case, proxy):
        for percent in (20, 0):
            with broken(proxy, DONE[what], only=writing(proxy)):
                said = tried(case, percent)
            if said:
                read_back(case, percent, what)
            put(case, percent)
