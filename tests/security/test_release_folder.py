"""Release files come from their folder and nowhere else, and whatever lies there takes nobody else's DAG along."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from canary_release.core.problems import ReleaseFileError
from canary_release.dag_factory import release_dags
from canary_release.operators.start_release import read_release_file
from security.hostile import SHOP

Put = Callable[[Path], object]


def within(seconds: float, act: Callable[[], dict[str, DAG]]) -> dict[str, DAG]:
    """What ``act`` gives; it fails when that takes longer."""
    done: list[dict[str, DAG]] = []
    thread = threading.Thread(target=lambda: done.append(act()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert done, f"did not come back within {seconds:g} s"
    return done[0]


def huge(file: Path) -> None:
    with file.open("wb") as out:
        out.truncate(10**11)


def link_to_a_link(file: Path) -> None:
    file.with_suffix(".link").symlink_to(outside(file))
    file.symlink_to("x.link")


STRANGE: dict[str, Put] = {
    "link_to_a_file_elsewhere": lambda file: file.symlink_to(outside(file)),
    "link_with_dots": lambda file: file.symlink_to(f"../{outside(file).name}"),
    "link_to_a_link": link_to_a_link,
    "link_to_passwords": lambda file: file.symlink_to("/etc/passwd"),
    "link_to_endless_zeros": lambda file: file.symlink_to("/dev/zero"),
    "link_to_the_terminal": lambda file: file.symlink_to("/dev/stdin"),
    "link_to_itself": lambda file: file.symlink_to(file.name),
    "link_to_nothing": lambda file: file.symlink_to("nothing"),
    "folder": lambda file: file.mkdir(),
    "pipe_without_a_writer": lambda file: os.mkfifo(file),
    "huge": huge,
    "empty": lambda file: file.touch(),
    "program": lambda file: file.write_bytes(Path("/bin/sh").read_bytes()[:50_000]),
}


def outside(file: Path) -> Path:
    """A release file in order, beside the folder."""
    target = file.parent.parent / "outside.yaml"
    target.write_text(SHOP)
    return target


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "releases"
    place.mkdir()
    (place / "good.yaml").write_text(SHOP)
    return place


@pytest.mark.parametrize("name", STRANGE)
def test_strange_file_is_one_red_dag_with_a_sentence_and_the_others_stay(folder: Path, name: str) -> None:
    STRANGE[name](folder / "x.yaml")
    dags = within(10, lambda: release_dags(folder))
    assert sorted(dags) == ["release_good", "release_x"]
    assert "broken" not in dags["release_good"].tags
    assert "broken" in dags["release_x"].tags
    assert "x.yaml:" in (dags["release_x"].doc_md or "")
    assert "root:" not in (dags["release_x"].doc_md or "")


NAMES = {
    "space": "a b.yaml",
    "line_break": "a\nb.yaml",
    "dots": "...yaml.yaml",
    "not_ascii": "ü.yaml",
    "not_utf_8": os.fsdecode(b"\xff\xfe.yaml"),
    "long": "x" * 250 + ".yaml",
    "markup": "<b>`x`.yaml",
    "template": "{{ 7*7 }}.yaml",
    "option": "-rf.yaml",
    "right_to_left": "\u202ex.yaml",
}


@pytest.mark.parametrize("name", NAMES)
def test_strange_file_name_is_one_red_dag_that_can_be_stored(folder: Path, name: str) -> None:
    (folder / NAMES[name]).write_text(SHOP)
    dags = release_dags(folder)
    assert "broken" not in dags.pop("release_good").tags
    for dag in dags.values():
        assert "broken" in dag.tags
        assert "rename it" in (dag.doc_md or "")
        assert dag.dag_display_name.isprintable()
        str(DagSerialization.to_dict(dag)).encode()
    # Hidden files belong to editors and mounts.
    assert len(dags) == (0 if NAMES[name].startswith(".") else 1)


def test_lock_of_an_editor_and_hidden_files_are_not_looked_at(folder: Path) -> None:
    (folder / ".#good.yaml").symlink_to("ann@host.1234")
    (folder / ".good.yaml.swp.yaml").write_bytes(b"\x00")
    assert list(release_dags(folder)) == ["release_good"]


def test_two_names_that_become_the_same_id_are_two_dags(folder: Path) -> None:
    for name in ("a b.yaml", "a_b.yaml", "a\tb.yaml"):
        (folder / name).write_text(SHOP)
    assert len(release_dags(folder)) == 4


def test_mounted_folder_of_links_that_stay_inside_works(folder: Path) -> None:
    (folder / "..2026_01").mkdir()
    (folder / "..2026_01" / "web.yaml").write_text(SHOP)
    (folder / "..data").symlink_to("..2026_01")
    (folder / "web.yaml").symlink_to("..data/web.yaml")
    assert "broken" not in release_dags(folder)["release_web"].tags


def test_file_that_may_not_be_read_is_one_red_dag(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "x.yaml").write_text(SHOP)
    as_usual = Path.open

    # Modes stop nobody who runs the tests as root.
    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "x.yaml":
            raise PermissionError(13, "Permission denied")
        return as_usual(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    dags = release_dags(folder)
    assert "Permission denied" in (dags["release_x"].doc_md or "")
    assert "broken" not in dags["release_good"].tags


def test_file_exchanged_for_a_link_after_parsing_is_refused_at_the_start(folder: Path) -> None:
    file = folder / "good.yaml"
    assert read_release_file(file).service == "shop"
    file.unlink()
    file.symlink_to(outside(file))
    with pytest.raises(ReleaseFileError, match="link out of the folder"):
        read_release_file(file)


def test_service_with_the_longest_name_is_no_broken_dag(folder: Path) -> None:
    (folder / "x.yaml").write_text(SHOP.replace("service: shop", "service: " + "s" * 128))
    assert "broken" not in release_dags(folder)["release_x"].tags


def test_problem_with_backticks_stays_in_its_block(folder: Path) -> None:
    (folder / "x.yaml").write_text(SHOP + "'```\\n# Approved': ![](http://127.0.0.1/x)\n")
    doc = release_dags(folder)["release_x"].doc_md or ""
    assert doc.count("```") == 2
    assert doc.rstrip().endswith("```")
