"""Stories on a folder in memory, closed whatever happens."""

import gc
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from faults.actors import Databases, Story
from faults.rows import Results
from faults.simulator import InLine

# A simulated process is one greenlet of the test's thread, so nothing in it may start threads of its own.
THREADED = "canary_release.control.guardian.SideBySide"
MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def fast_folder() -> Iterator[Path]:
    """In memory where the machine has such a folder: the ledger syncs every transaction."""
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None, prefix="canary-faults-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def databases(fast_folder: Path) -> Iterator[Databases]:
    # Thousands of stories come and go; the collector need not look at everything that was imported each time.
    gc.collect()
    gc.freeze()
    yield Databases(fast_folder)
    gc.unfreeze()


@pytest.fixture
def tell(databases: Databases, results: Results, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Story]]:
    """Makes stories; what a story logs is the expected noise of its faults."""
    stories: list[Story] = []
    monkeypatch.setattr(THREADED, InLine)
    logging.disable(logging.CRITICAL)

    def make(seed: int, **changes: object) -> Story:
        story = Story(databases, seed, **changes)  # type: ignore[arg-type]
        stories.append(story)
        return story

    yield make
    logging.disable(logging.NOTSET)
    for story in stories:
        results.story(story)
        story.close()


@pytest.fixture(scope="session")
def results() -> Iterator[Results]:
    """What was seen, written to the file that CANARY_FAULT_RESULTS names."""
    collected = Results()
    yield collected
    collected.write()
