"""The complete lines that were added to a log file since the last look, through rotation.

A place in a file is its inode, the bytes read, and a digest of its first bytes, since an inode may be given to a new
file. A file that was moved away is read to its end under its new name, and looked at once more at the next read: its
writer may have gone on with it until it was told to open the new one.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from canary_release.core.problems import CanaryError, MetricSourceError

HEAD = 256  # bytes of a file's beginning that tell it from another
LONGEST_LINE = 64 * 1024  # bytes
MOST_AT_ONCE = 256 * 1024 * 1024  # bytes
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


class LinesLostError(CanaryError):
    """Lines were written that can no longer be read: what happened is unknown."""


@dataclass(frozen=True)
class Place:
    """How far a file was read. head: hexadecimal digest of its first ``head_size`` bytes."""

    inode: int
    offset: int
    head: str
    head_size: int

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Place":
        """Back from JSON; KeyError, TypeError or ValueError when it is none of ours."""
        place = cls(int(value["inode"]), int(value["offset"]), str(value["head"]), int(value["head_size"]))
        if min(place.offset, place.head_size) < 0:
            raise ValueError("a place before a file's beginning")
        return place

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def is_in(self, file: Path) -> bool:
        """Is this the file, with at least what was read of it?"""
        with file.open("rb") as handle:
            found = os.fstat(handle.fileno())
            return (
                found.st_ino == self.inode
                and found.st_size >= self.offset
                and _digest(handle.read(self.head_size)) == self.head
            )


def end_of(file: Path) -> Place:
    """The place after the file's last complete line. Raises MetricSourceError when it cannot be read."""
    try:
        with file.open("rb") as handle:
            return _place(handle, _last_line_end(handle))
    except OSError as error:
        raise MetricSourceError(f"{file} cannot be read ({error.strerror}); check the connection's extra.") from None


class NewLines:
    """Iterate over it once for the complete lines after ``places``; then ``places`` is where to go on.

    The last of ``places`` is the file that was written to, those before it were moved away.  Raises LinesLostError when
    that file is gone or was cut, or more than 256 MiB are new; MetricSourceError when one cannot be read.
    """

    def __init__(self, file: Path, places: Sequence[Place]) -> None:
        self.file = file
        self.places = list(places)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._lines()
        except OSError as error:
            raise MetricSourceError(f"{self.file} cannot be read ({error.strerror}); check its rights.") from None

    def _lines(self) -> Iterator[bytes]:
        parts = self._parts()
        if sum(file.stat().st_size - offset for file, offset in parts) > MOST_AT_ONCE:
            raise LinesLostError(f"more than {MOST_AT_ONCE // 2**20} MiB were logged since the last look")
        reached = []
        for file, offset in parts:
            with file.open("rb") as handle:
                handle.seek(offset)
                yield from _complete_lines(handle)
                reached.append(_place(handle, handle.tell()))
        # The one that is written to, and the one before it: its writer may not have let go of it yet.
        self.places = reached[-2:]

    def _parts(self) -> list[tuple[Path, int]]:
        """Files in the order they were written, and where to begin in each."""
        family = self._family()
        parts: list[tuple[Path, int]] = []
        for number, place in enumerate(self.places, start=1):
            file = next((one for one in family if place.is_in(one)), None)
            if file is not None:
                parts.append((file, place.offset))
            elif number == len(self.places):
                raise LinesLostError("the log was cut, or moved out of reach, before it was read to its end")
        known = {file for file, _ in parts}
        last = parts[-1][0]
        # What was begun after the last one.
        newer = family[family.index(last) + 1 :]
        return parts + [(file, 0) for file in newer if file not in known]

    def _family(self) -> list[Path]:
        """The log and its rotated parts that are not compressed, oldest first, the log itself last."""
        name, stem, suffix = (re.escape(part) for part in (self.file.name, self.file.stem, self.file.suffix))
        # access.log.1 and access.log-20260131 by logrotate, access-2026-01-31T….log by Caddy.
        old = re.compile(rf"{name}[.-].+|{stem}-\d.*{suffix}")
        rotated = [
            path
            for path in self.file.parent.iterdir()
            if old.fullmatch(path.name) and path.suffix not in COMPRESSED and path.is_file()
        ]
        rotated.sort(key=lambda path: path.stat().st_mtime_ns)
        return [*rotated, *([self.file] if self.file.exists() else [])]


def _complete_lines(handle: BinaryIO) -> Iterator[bytes]:
    """Up to the last line end; the handle then stands there."""
    while line := handle.readline(LONGEST_LINE):
        if not line.endswith(b"\n"):
            if len(line) == LONGEST_LINE:
                raise LinesLostError(f"a line is longer than {LONGEST_LINE // 1024} KiB")
            handle.seek(-len(line), os.SEEK_CUR)
            return
        yield line


def _last_line_end(handle: BinaryIO) -> int:
    size = os.fstat(handle.fileno()).st_size
    start = max(0, size - LONGEST_LINE)
    handle.seek(start)
    # A line that is longer than all of this is none that could be read.
    return start + handle.read(size - start).rfind(b"\n") + 1


def _place(handle: BinaryIO, offset: int) -> Place:
    handle.seek(0)
    head = handle.read(min(HEAD, offset))
    return Place(os.fstat(handle.fileno()).st_ino, offset, _digest(head), len(head))


def _digest(head: bytes) -> str:
    return hashlib.blake2b(head, digest_size=8).hexdigest()
