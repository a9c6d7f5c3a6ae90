"""YAML and JSON of whatever origin: read within bounds, so that a hostile file is one line and never a crash.

Beyond what the formats themselves say, a document here has a largest size in bytes, at most 100 levels, whole numbers
of at most 64 bits, no key twice in a mapping, no NUL character, and aliases that stand for little. YAML has plain
values only: text, numbers, truth values, dates, lists and mappings.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from geocore.storage.special_files import open_regular

MANY_BYTES: Final = 1 << 28
"""Of documents that grow with the data: lists of samples, records of runs and of maps."""
FEW_BYTES: Final = 1 << 24
"""Of documents that people write: settings, lists of files."""

_MOST_LEVELS: Final = 100
_MOST_DIGITS: Final = 20
_BITS: Final = 64
_MOST_ALIASED: Final = 1 << 20
"""Values, and characters of text, that aliases may stand for beside what the document holds once."""
_NUL: Final = re.compile(r"\\(?:0|x00|u0000|U0{8})")
# What opens block collections within a line: a column of it opens two levels at most, a list within a mapping.
_RUN: Final = 20
_INDENTED: Final = re.compile(rf"[ \t?:-]{{{_RUN}}}")
_FEW_BRACKETS: Final = _MOST_LEVELS - 4 * _RUN

# What PyYAML's constructors raise on values such as `!!bool maybe` or a date of the year 0, beside YAMLError.
_UNFIT: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


class DocumentError(ValueError):
    """A document breaks a rule of its format or a bound; the text says which, and begins with the line if known."""

    def __init__(self, rule: str, line: int | None = None, column: int | None = None, *, syntax: bool = False) -> None:
        """Say what is wrong.

        Args:
            rule: what is broken, in words.
            line: of the document, from 1.
            column: of the line, from 1.
            syntax: whether it is no document of its format at all.
        """
        place = "" if line is None else f"line {line}: " if column is None else f"line {line}, column {column}: "
        super().__init__(place + rule)
        self.rule = rule
        self.line = line
        self.syntax = syntax


def read_yaml(path: Path, *, most_bytes: int = FEW_BYTES) -> Any:
    """The value in a YAML file.

    Args:
        path: the file.
        most_bytes: a longer one is refused unread.

    Raises:
        DocumentError: it breaks a rule.
        OSError: it cannot be opened.
    """
    return parse_yaml(read_text(path, most_bytes=most_bytes))


def read_json(path: Path, *, most_bytes: int = MANY_BYTES, finite: bool = True) -> Any:
    """The value in a JSON file.

    Args:
        path: the file.
        most_bytes: a longer one is refused unread.
        finite: whether NaN and infinity are refused, as the standard wants it; 1e999 is infinity as well.

    Raises:
        DocumentError: it breaks a rule.
        OSError: it cannot be opened.
    """
    return parse_json(read_text(path, most_bytes=most_bytes), finite=finite)


def read_text(path: Path, *, most_bytes: int = FEW_BYTES) -> str:
    """The text of a file in UTF-8, without a byte-order mark, its lines ending in a line feed.

    Raises:
        DocumentError: it is longer, or no text in UTF-8.
        OSError: it cannot be opened, or is no file of data.
    """
    with open_regular(path) as file:
        fits = os.fstat(file.fileno()).st_size <= most_bytes
        # Some files have no size before they are read.
        data = file.read(most_bytes + 1) if fits else b""
    if not fits or len(data) > most_bytes:
        raise DocumentError(f"is longer than the {most_bytes >> 20} MiB that are read")
    if (end := data.find(b"\0")) >= 0:
        raise DocumentError("holds a NUL character, and is no text", data.count(b"\n", 0, end) + 1, syntax=True)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError("not UTF-8 text", line, syntax=True) from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        DocumentError: it breaks a rule.
    """
    import yaml

    try:
        # The reader composes nodes by recursion in C, which 60 kB of brackets are enough to crash.
        if _may_be_deep(text) or ("*" in text and "&" in text):
            _look_through(text)
        value = yaml.load(text, Loader=_loader())
    except DocumentError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place: tuple[int | None, int | None] = (mark.line + 1, mark.column + 1) if mark else (None, None)
        # The end of a text is told as a line of its own.
        if mark and mark.line > (last := text.rstrip().count("\n")):
            place = (last + 1, None)
        rule = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise DocumentError(str(rule), *place, syntax=True) from None
    except _UNFIT as error:
        said = " ".join(str(error).split()) if isinstance(error, ValueError) else ""
        raise DocumentError(said or "a value is not what its tag says", syntax=True) from None
    if _NUL.search(text):
        _refuse_nul(value)
    return value


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """The value of a JSON text, or of one line of JSON lines.

    Args:
        text: the whole of it; bytes are UTF-8.
        finite: as of `read_json`.

    Raises:
        DocumentError: it breaks a rule.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = (_FINITE if finite else _ANY_NUMBER).decode(text)
    except DocumentError:
        raise
    except json.JSONDecodeError as error:
        raise DocumentError(error.msg, error.lineno, error.colno, syntax=True) from None
    except UnicodeDecodeError:
        raise DocumentError("not UTF-8 text", syntax=True) from None
    except RecursionError:
        raise DocumentError(f"more than {_MOST_LEVELS} levels deep") from None
    if text.count("[") + text.count("{") > _MOST_LEVELS:
        _refuse_deep(value)
    if _NUL.search(text):
        _refuse_nul(value)
    return value


def _may_be_deep(text: str) -> bool:
    """Whether a YAML text could have too many levels, by what can open them; cheap, and never wrongly False."""
    return text.count("[") + text.count("{") > _FEW_BRACKETS or _INDENTED.search(text) is not None


def _look_through(text: str) -> None:
    """Count levels of a YAML text and what its aliases stand for, event by event, before anything is built of it."""
    import yaml

    opened: list[tuple[str | None, int]] = []
    sizes: dict[str | None, int | None] = {}
    total = aliased = 0
    for event in yaml.parse(text, Loader=_base()):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 0)
            if size is None:
                raise DocumentError(f"alias *{event.anchor} holds itself", line)
            aliased += size
            if aliased > _MOST_ALIASED:
                raise DocumentError("aliases stand for more than a million values: write them out", line)
            total += size
        elif isinstance(event, yaml.ScalarEvent):
            total += 1 + len(event.value)
            if event.anchor is not None:
                sizes[event.anchor] = 1 + len(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, total))
            if len(opened) > _MOST_LEVELS:
                raise DocumentError(f"more than {_MOST_LEVELS} levels deep", line)
            if event.anchor is not None:
                sizes[event.anchor] = None
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = total - before


def _base() -> Any:
    """The reader of libyaml, ten times faster where it is built in; both are safe."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@functools.cache
def _loader() -> Any:
    """PyYAML's safe loader with the rules above. A class made late, since a command that needs none imports no YAML."""
    import yaml

    tag = "tag:yaml.org,2002:"

    class Loader(_base()):  # type: ignore[misc]
        """Refuses a key that is given twice, long numbers, and tags of anything but plain values."""

        def flatten_mapping(self, node: Any) -> None:
            own = node.value
            super().flatten_mapping(node)
            if node.value is not own:  # a merge (<<) puts the pairs of others in front, in a new list
                node.own = own

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) != len(node.value):  # what is merged may be given again, and nothing else
                keys: set[Any] = set()
                for key_node, _ in getattr(node, "own", node.value):
                    key = self.construct_object(key_node, deep=True)
                    if key in keys:
                        raise DocumentError(f"key {_shown(key)} is given twice", key_node.start_mark.line + 1)
                    keys.add(key)
            return mapping

        def construct_yaml_int(self, node: Any) -> Any:
            value = self.construct_scalar(node)
            if len(value) > 2 + _BITS + _MOST_DIGITS:
                raise DocumentError(_too_long(value), node.start_mark.line + 1)
            number = int(value) if value.isdecimal() and value[0] != "0" else super().construct_yaml_int(node)
            if number.bit_length() > _BITS:
                raise DocumentError(_too_long(value), node.start_mark.line + 1)
            return number

    plain = ("null", "bool", "int", "float", "str", "seq", "map", "timestamp")
    Loader.yaml_constructors = {tag + name: yaml.SafeLoader.yaml_constructors[tag + name] for name in plain} | {
        tag + "int": Loader.construct_yaml_int,
        None: yaml.SafeLoader.yaml_constructors[None],
    }
    return Loader


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON."""
    made = dict(pairs)
    if len(made) != len(pairs):
        keys: set[str] = set()
        for key, _ in pairs:
            if key in keys:
                raise DocumentError(f"key {_shown(key)} is given twice")
            keys.add(key)
    return made


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS + 1 or (number := int(digits)).bit_length() > _BITS:
        raise DocumentError(_too_long(digits))
    return number


def _number(digits: str) -> float:
    if (number := float(digits)) in (float("inf"), float("-inf")):
        raise DocumentError(f"{_shown(digits)} is no finite number")
    return number


def _no_number(word: str) -> float:
    raise DocumentError(f"{word} is no finite number")


_FINITE: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_no_number
)
_ANY_NUMBER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer)


def _refuse_deep(value: Any) -> None:
    """Go down level by level; containers are counted once, as nothing in JSON is shared."""
    level = [value]
    for _ in range(_MOST_LEVELS):
        if not (level := [item for held in level for item in _held(held) if isinstance(item, dict | list)]):
            return
    raise DocumentError(f"more than {_MOST_LEVELS} levels deep")


def _refuse_nul(value: Any) -> None:
    """Refuse text that no path and no other program can hold."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        held = waiting.pop()
        if isinstance(held, str) and "\0" in held:
            raise DocumentError(f"{_shown(held)} holds a NUL character")
        if isinstance(held, dict | list) and id(held) not in seen:
            seen.add(id(held))
            waiting.extend(_held(held))
            if isinstance(held, dict):
                waiting.extend(held)


def _held(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _too_long(digits: str) -> str:
    return f"{_shown(digits)} is a number of more than {_BITS} bits"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
