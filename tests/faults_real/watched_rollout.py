"""A rollout without Airflow: this process does what its tasks and its trigger do, with the real hooks and clock."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from canary_release.control.desk import Desk
from canary_release.control.ending import abort
from canary_release.control.real_desk import read_frozen
from canary_release.control.starting import StartRequest, start
from canary_release.control.stepping import Observed, shift
from canary_release.control.system_clock import SystemClock
from canary_release.control.watching import Watcher
from canary_release.hooks import registry
from canary_release.ledger.records import Rollout
from canary_release.ledger.store import Ledger
from faults_real.patience import wait_for
from faults_real.store import POLL, Store, require_exposed

LEASE = 10.0
BLIND = 14.0  # longer than the lease, so that it is seen which of the two ends a blind rollout


class Hands:
    """Starts, shifts and watches rollouts of stores, with a ledger in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}")
        self.pages: list[str] = []
        self.desk = Desk(
            ledger=self.ledger,
            clock=SystemClock(),
            balancer_of=registry.make_load_balancer,
            source_of=lambda release, stable, canary: registry.make_metric_source(
                release, stable=stable, canary=canary
            ),
            read_release=read_frozen,
            page=lambda service, sentence: self.pages.append(sentence),
        )

    def start(self, store: Store) -> Rollout:
        version = store.next_version()
        name = f"{store.name}.yaml"
        release = read_frozen(store.release_text(lease=LEASE, blind=BLIND), name)
        request = StartRequest(release, name, version, dag_id=store.dag, run_id=version, by="test")
        return start(self.desk, request).rollout

    def shift(self, rollout: Rollout) -> Rollout:
        return shift(self.desk, rollout, 0, actor="test").rollout

    @contextmanager
    def exposed(self, *stores: Store) -> Iterator[list[Rollout]]:
        """Rollouts at their first step, each watched by a thread like a trigger; aborted at the end."""
        stop = threading.Event()
        rollouts = [self.shift(self.start(store)) for store in stores]
        threads = [threading.Thread(target=self._watch, args=(rollout.id, stop)) for rollout in rollouts]
        for thread in threads:
            thread.start()
        try:
            for rollout in rollouts:
                wait_for("the first windows", lambda: self.ledger.windows(rollout.id), 20)  # noqa: B023
            for store, rollout in zip(stores, rollouts, strict=True):
                require_exposed(store, self.ledger.rollout(rollout.id))
            yield rollouts
        finally:
            stop.set()
            for store in stores:
                store.heal()
            for thread in threads:
                thread.join(30)

    def again(self, rollout: Rollout) -> Rollout:
        """As the ledger knows it now."""
        return self.ledger.rollout(rollout.id)

    def raises(self, rollout: Rollout) -> int:
        return sum(write.raises for write in self.ledger.writes(rollout.id))

    def clean(self, *stores: Store) -> None:
        """End what is unfinished, so that the next test finds the stores idle."""
        for store in stores:
            store.heal()
            if self.ledger.active(store.name) is not None:
                abort(self.desk, store.name, "the test is over", actor="test")

    def close(self) -> None:
        self.ledger.close()

    def _watch(self, rollout_id: str, stop: threading.Event) -> None:
        # The hooks are kept by the desk; a thread of its own gets its own, as a trigger's process does.
        watcher = Watcher(replace(self.desk, _balancers={}, _sources={}), rollout_id, 0, actor="watcher")
        while not stop.wait(POLL):
            seen: Observed | None = watcher.look()
            if seen is not None and Watcher.finished(seen):
                return
