"""YAML without surprises: nested dicts, lists and texts, with the line and column of every key and value.

Nothing is constructed: every scalar stays the text that was written, so `1.10`, `0123456` and `on` survive. What makes
YAML files dangerous or ambiguous is a flaw: anchors, aliases, tags, merge keys, duplicate keys, several documents,
missing values, depth over 20, more than 64 KiB, bytes that are not UTF-8, control characters.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from canary_release.core.suggest import shown

LARGEST = 64 * 1024
DEEPEST = 20
_MOST_FLAWS = 200  # nobody reads more, and a hostile file must not cost seconds

Path = tuple[str | int, ...]
Data = Any
"""``dict[str, Data] | list[Data] | Scalar``"""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# C0 and C1 except tab and line ends, surrogates, byte order marks, non-characters, and the marks that reorder text
# on screen, with which a file reads differently from what it says.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
_NOTHING = {"", "~", "null", "Null", "NULL"}
_YAML_1_2_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+")
_KINDS = {"int": "a number", "float": "a number", "bool": "yes or no", "null": "nothing", "timestamp": "a date"}


class Scalar(str):
    """A text of the file. quoted: it stood in quotes or a block, so no YAML program takes it for anything else."""

    __slots__ = ("quoted",)
    quoted: bool

    def __new__(cls, text: str, *, quoted: bool = False) -> "Scalar":
        scalar = super().__new__(cls, text)
        scalar.quoted = quoted
        return scalar


@dataclass(frozen=True)
class Place:
    """Both count from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Flaw:
    """What is wrong with the YAML itself. path: of the key or value it concerns, empty for the file as a whole."""

    line: int
    path: Path
    what: str


@dataclass(frozen=True)
class Document:
    """data: the top of the file, None when it could not be read to its end.

    values, keys: the place of every value and of every key, by path.
    """

    data: Data
    values: Mapping[Path, Place]
    keys: Mapping[Path, Place]
    flaws: tuple[Flaw, ...]

    def line(self, path: Path) -> int:
        """The line of a key or list entry, or of the nearest thing around it that the file has."""
        for length in range(len(path), -1, -1):
            place = self.keys.get(path[:length]) or self.values.get(path[:length])
            if place:
                return place.line
        return 1


def bent_into(text: str) -> str | None:
    """What YAML programs take this unquoted text for (``a number``, ``yes or no``, ``a date``), None for a text.

    By PyYAML's own table for YAML 1.1, and the numbers of YAML 1.2.
    """
    if _YAML_1_2_NUMBER.fullmatch(text):
        return _KINDS["float"]
    if text in {"y", "Y", "n", "N"}:
        return _KINDS["bool"]
    table = yaml.SafeLoader.yaml_implicit_resolvers
    for tag, pattern in [*table.get(text[:1], []), *table.get(None, [])]:
        if pattern.match(text):
            return _KINDS.get(tag.removeprefix("tag:yaml.org,2002:"))
    return None


def read_yaml(source: str | bytes) -> Document:
    """Read one strict YAML document. Never raises for bad input: see ``Document.flaws``."""
    data = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
    if len(data) > LARGEST:
        return _unreadable(1, f"the file is larger than {LARGEST // 1024} KiB; a release file is a few dozen lines")
    try:
        text = data.decode("utf-8") if isinstance(source, bytes) else source
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return _unreadable(line, f"byte {error.start + 1} is not UTF-8 text; save the file as UTF-8")
    text = text.removeprefix("\ufeff")
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        line = text.count("\n", 0, forbidden.start()) + 1
        return _unreadable(line, f"the character U+{ord(forbidden[0]):04X} is not allowed; remove it")
    return _build(text)


def _unreadable(line: int, what: str) -> Document:
    return Document(None, {}, {}, (Flaw(line, (), what),))


def _build(text: str) -> Document:
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if not builder.take(event) or len(builder.flaws) >= _MOST_FLAWS:
                return builder.document(complete=False)
    except yaml.MarkedYAMLError as error:
        builder.flaws.append(_syntax_flaw(error, text))
        return builder.document(complete=False)
    except yaml.YAMLError as error:
        builder.flaws.append(Flaw(1, (), f"this is not YAML: {shown(str(error))}"))
        return builder.document(complete=False)
    return builder.document(complete=True)


_SYNTAX = (
    ("mapping values are not allowed", "a `:` stands where none is expected; put text with `: ` in quotes, or indent"),
    ("'-' indicator", "the entries of one list start in the same column; line up the `-`"),
    ("node content", "a key or a value is missing here"),
    ("block end", "the indentation does not fit the lines above; keys of one block start in the same column"),
    ("did not find expected key", "the indentation does not fit the lines above, or a value needs quotes"),
    ("expected ',' or", "a bracket or brace is not closed, or a comma is missing"),
    ("flow sequence", "a bracket `[` is not closed, or a comma is missing"),
    ("flow mapping", "a brace `{` is not closed, or a comma is missing"),
    ("unexpected end of stream", "a quote is not closed"),
    ("expected ':'", "a key without its `:`"),
    ("cannot start any token", "a value may not start with this character; put it in quotes"),
    ("escape", "a backslash in double quotes that YAML does not know; use single quotes"),
    ("document start", "something stands after the end of the file's content; one document is allowed"),
)


def _syntax_flaw(error: yaml.MarkedYAMLError, text: str) -> Flaw:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return Flaw(line, (), "a tab is used for indentation; use spaces")
    said = f"{error.problem or ''} {error.context or ''}"
    words = next((words for part, words in _SYNTAX if part in said), f"this is not YAML: {said.strip()}")
    begun = error.context_mark
    since = f" (it began in line {begun.line + 1})" if begun and begun.line + 1 < line else ""
    return Flaw(line, (), words + since)


@dataclass
class _Frame:
    """An open dict or list. key: the key read last, waiting for its value. path None: discarded with all below."""

    path: Path | None
    value: dict[str, Data] | list[Data]
    key: Scalar | None = None
    waiting: bool = False


@dataclass
class _Builder:
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    stack: list[_Frame] = field(default_factory=list)
    data: Data = None
    documents: int = 0

    def document(self, *, complete: bool) -> Document:
        if complete and not self.documents:
            self.flaws.append(
                Flaw(1, (), "the file is empty; it needs at least service, load_balancer, metrics, steps")
            )
        usable = complete and isinstance(self.data, dict)
        if complete and self.documents and not usable and not self.flaws:
            self.flaws.append(Flaw(1, (), "the file must consist of keys and values, such as `service: checkout`"))
        return Document(self.data if usable else None, self.values, self.keys, tuple(self.flaws))

    def take(self, event: yaml.Event) -> bool:
        """False when reading on makes no sense."""
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    self._flaw(event, (), "a second document starts here; one file holds one release")
                    return False
            case yaml.AliasEvent():
                self._flaw(event, self._here(), f"aliases (`*{event.anchor}`) are not allowed; write the value out")
                self._put(Scalar("", quoted=True), event)
            case yaml.ScalarEvent():
                self._refuse_marks(event)
                self._put(Scalar(event.value, quoted=event.style not in (None, "")), event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._refuse_marks(event)
                return self._open(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self.stack.pop()
        return True

    def _open(self, event: yaml.Event) -> bool:
        if len(self.stack) >= DEEPEST:
            self._flaw(event, (), f"nested more than {DEEPEST} levels deep; a release file needs five")
            return False
        value: dict[str, Data] | list[Data] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._put(value, event)
        self.stack.append(_Frame(path, value))
        return True

    def _put(self, value: Data, event: yaml.Event) -> Path | None:
        """Put a key or value where it belongs; its path, None when it is discarded."""
        if not self.stack:
            self.data, self.values[()] = value, _place(event)
            return ()
        frame = self.stack[-1]
        if isinstance(frame.value, dict) and not frame.waiting:
            self._key(frame, value, event)
            return None
        path = self._here()
        known = frame.path is not None and (isinstance(frame.value, list) or frame.key is not None)
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is not None:
            frame.value[frame.key] = value
        frame.key, frame.waiting = None, False
        if not known:
            return None
        self.values[path] = _place(event)
        self._refuse_content(value, event, path)
        return path

    def _key(self, frame: _Frame, key: Data, event: yaml.Event) -> None:
        """Remember the key for the value that follows; a key that cannot stand discards its value."""
        frame.key, frame.waiting = None, True
        if frame.path is None:
            return
        if not isinstance(key, Scalar):
            self._flaw(event, frame.path, "a key must be a word, not a list or a block")
        elif key == "<<":
            self._flaw(event, frame.path, "merge keys (`<<`) are not allowed; write the keys out")
        elif not key:
            self._flaw(event, frame.path, "a key is missing before `:`")
        elif str(key) in frame.value:
            first = self.keys[(*frame.path, str(key))].line
            self._flaw(event, (*frame.path, str(key)), f"stands twice, first in line {first}; keep one")
        else:
            frame.key = key
            self.keys[(*frame.path, str(key))] = _place(event)

    def _here(self) -> Path:
        if not self.stack or self.stack[-1].path is None:
            return ()
        frame = self.stack[-1]
        if isinstance(frame.value, list):
            return (*frame.path, len(frame.value)) if frame.path is not None else ()
        return (*(frame.path or ()), str(frame.key)) if frame.key is not None else frame.path or ()

    def _refuse_marks(self, event: Any) -> None:
        if event.anchor is not None:
            self._flaw(event, self._here(), f"anchors (`&{event.anchor}`) are not allowed; write the value out")
        if event.tag is not None:
            tag = shown(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self._flaw(event, self._here(), f"tags ({tag}) are not allowed; remove it")

    def _refuse_content(self, value: Data, event: yaml.Event, path: Path) -> None:
        if not isinstance(value, Scalar):
            return
        if not value.quoted and value in _NOTHING and not getattr(event, "tag", None):
            self._flaw(event, path, "has no value; give one, or leave the key out")
        forbidden = _FORBIDDEN.search(value)
        if forbidden:
            self._flaw(event, path, f"holds the character U+{ord(forbidden[0]):04X}, which is not allowed; remove it")

    def _flaw(self, event: Any, path: Path, what: str) -> None:
        self.flaws.append(Flaw(event.start_mark.line + 1, path, what))


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)
