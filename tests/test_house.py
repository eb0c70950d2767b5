"""The shape of the house: who may import whom, and what keeps Airflow from running our package file by file."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "plugins"
PACKAGE = PLUGINS / "canary_release"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.stem != "__init__")

# A part may import itself, what stands to its left, and the value types in core.
ORDER = ["core", "ledger", "hooks", "control", "triggers", "operators", "sensors", "dag_factory", "ui", "cli"]
PURE = {"pydantic", "numpy", "pandas", "yaml"}


def part_of(dotted: str) -> str:
    return dotted.removeprefix("canary_release").lstrip(".").split(".")[0] or "canary_release"


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports fail where Airflow runs a file by itself"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_left(path: Path) -> None:
    own = part_of(".".join(path.relative_to(PLUGINS).with_suffix("").parts))
    for name in imports_of(path):
        if not name.startswith("canary_release"):
            continue
        other = part_of(name)
        if other == own or own not in ORDER or other not in ORDER:
            continue
        assert ORDER.index(other) < ORDER.index(own), f"{path} ({own}) may not import {name} ({other})"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=lambda path: path.name)
def test_core_is_pure(path: Path) -> None:
    for name in imports_of(path):
        top = name.split(".")[0]
        allowed = top in PURE or name.startswith("canary_release.core") or top in sys.stdlib_module_names
        assert allowed, f"{path} imports {name}"
        assert top not in {"os", "socket", "time", "subprocess", "urllib", "http"}, f"{path}: {name} is not pure"


def test_airflow_does_not_execute_the_package_file_by_file() -> None:
    assert "canary_release/" in (PLUGINS / ".airflowignore").read_text().split()


def test_no_stem_replaces_another_module() -> None:
    stems = [path.stem for path in MODULES if path.stem != "__main__"]
    twice = {stem for stem in stems if stems.count(stem) > 1}
    assert not twice, f"Airflow registers plugin files under their bare name: {twice} stand twice"
    assert not set(stems) & set(sys.stdlib_module_names), "a stem of the standard library would be replaced"


def test_what_a_folder_shares_ends_with_the_folder() -> None:
    """Without ``__init__.py`` pytest keeps a package's fixture, a whole Airflow or browser, to the very end."""
    sharing = [each for each in ROOT.glob("tests/**/conftest.py") if 'scope="package"' in each.read_text()]
    assert sharing
    assert [each for each in sharing if not each.with_name("__init__.py").exists()] == []
