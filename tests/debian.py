"""Programs from Debian that a test needs: taken from the PATH, fetched into ``.tools``, or the test is skipped."""

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

_SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "debian_tools.py"


@cache
def debian_tools() -> ModuleType:
    """``scripts/debian_tools.py``, which stands beside no package."""
    spec = spec_from_file_location("debian_tools", _SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    # Its dataclasses look themselves up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def _had(name: str) -> tuple[Path | None, str]:
    tools = debian_tools()
    try:
        return tools.tool(name), ""
    except tools.ToolError as error:
        return None, str(error)


def require_tool(name: str, *, packages: tuple[str, ...] = (), program: str = "") -> Path:
    """The program; without it the test is skipped, and the reason printed. Tries to fetch it once a session.

    packages, program: as in ``debian_tools.Tool``, for one that the script does not know.
    """
    if packages:
        tools = debian_tools()
        tools.TOOLS.setdefault(name, tools.Tool((name,), packages, program))
    path, reason = _had(name)
    if path is None:
        print(f"skipped: {reason}")
        pytest.skip(reason)
    return path
