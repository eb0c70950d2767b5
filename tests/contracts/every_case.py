"""Every case of the contract suites: what the files ``*_cases.py`` in this folder hold.

Such a file has ``CASES``: for each load balancer how its case is made.  ``IN_TRAFFIC`` names those of them whose
traffic the normal run shifts, too, and fixtures are found by themselves.  A new file here is all that a new load
balancer needs for the contract suite, ``make bench-shift`` and the rehearsal of its example.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from contracts.case import Case

Make = Callable[[pytest.FixtureRequest], Case]

FILES = sorted(Path(__file__).parent.glob("*_cases.py"))
MODULES: list[ModuleType] = [import_module(f"contracts.{file.stem}") for file in FILES]
CASES: dict[str, Make] = {name: make for module in MODULES for name, make in module.CASES.items()}
IN_TRAFFIC: list[str] = [name for module in MODULES for name in getattr(module, "IN_TRAFFIC", ())]


def fixtures() -> dict[str, Any]:
    """The fixtures that the cases ask for, by name. AssertionError when two files call theirs the same."""
    found: dict[str, Any] = {}
    for module in MODULES:
        own = {name: value for name, value in vars(module).items() if _is_fixture(value)}
        assert not (twice := found.keys() & own.keys()), f"{module.__name__}: {twice} stand in another file, too"
        found |= own
    return found


def _is_fixture(value: object) -> bool:
    return type(value).__name__ == "FixtureFunctionDefinition"  # pytest does not give its name away
