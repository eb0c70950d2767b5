"""Programs from Debian: taken from the PATH, or one sentence says why not. Nothing is fetched here."""

import subprocess
from pathlib import Path

import pytest

from debian import debian_tools


def program(folder: Path, name: str) -> Path:
    made = folder / name
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    return made


def test_a_program_on_the_path_is_used_and_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    there = program(tmp_path, "victoria-metrics")
    assert debian_tools().tool("victoria-metrics", folder=tmp_path / "tools") == there
    assert not (tmp_path / "tools").exists()


def test_a_private_copy_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "chromium" / "bin"
    folder.mkdir(parents=True)
    there = program(folder, "chromium")
    assert debian_tools().tool("chromium", folder=tmp_path) == there


def test_a_machine_without_debians_tools_says_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tools = debian_tools()
    monkeypatch.setattr(tools, "TOOLS_FOLDER", tmp_path / "tools")
    with pytest.raises(tools.ToolError, match=r"chromium is not on the PATH .* has no apt-get, dpkg-deb of Debian's"):
        tools.tool("chromium", folder=tmp_path / "tools")
    assert tools.main(["nonsense"]) == 1
    assert capsys.readouterr().err == (
        "tools: nonsense is not known; known are chromium, influxd, prometheus, victoria-metrics.\n"
    )


def test_packages_that_cannot_be_found_leave_no_copy_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("apt-get", "dpkg-deb"):
        program(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    installed = tmp_path / "status"
    installed.write_text("")
    tools = debian_tools()
    with pytest.raises(tools.ToolError, match="cannot find victoria-metrics in this machine's package sources"):
        tools.tool("victoria-metrics", folder=tmp_path / "tools", installed=installed)
    assert not (tmp_path / "tools" / "victoria-metrics").exists()


def test_a_wrapper_starts_the_program_with_the_libraries_unpacked_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = debian_tools()
    library = tmp_path / "x.new" / "root" / "usr" / "lib" / "thing"
    library.mkdir(parents=True)
    (library / "libx.so.1").write_text("")
    inside = tmp_path / "x.new" / "root" / "usr" / "bin"
    inside.mkdir(parents=True)
    program(inside, "x").write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH" "$@"\n')
    tools._write_wrapper(tmp_path / "x.new", "x", tools.Tool(("x",), ("x",), "usr/bin/x"))
    (tmp_path / "x.new").rename(tmp_path / "x")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    said = subprocess.run([tmp_path / "x" / "bin" / "x", "a b"], capture_output=True, text=True, check=True).stdout
    assert said == f"{tmp_path}/x/root/usr/lib/thing a b\n"
