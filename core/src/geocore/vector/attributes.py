"""Attributes of outlines: which of them look like classes, and how features are chosen by their values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from geocore.errors import DataError, SettingsError

_CLASS_NAMES: Final = re.compile(r"class|label|type|categ|kind|status|positive|slump|rts", re.IGNORECASE)
"""In the name of a column: it may say what an outline is."""
_OTHER_NAMES: Final = re.compile(
    r"(^|_)(fid|id|uid|uuid|gid|objectid)(_|$)|[a-z]I[Dd]$|date|time|year|month|area|length|perimeter|comment|notes?$",
    re.IGNORECASE,
)
"""In the name of a column: it says something else, whatever its values."""
_NO: Final = re.compile(
    r"neg(ative)?|background|backgr|bg|no|n|false|f|absent|nothing|(no|not|non)[ _-].+|nonslump|false.?positive",
    re.IGNORECASE,
)
"""A value that says that an outline is none of what is sought."""
_MOST_CLASSES: Final = 12


def parse_where(conditions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Column -> values, of conditions such as `TrainClass=Positive`; several of one column are alternatives.

    Raises:
        SettingsError: a condition is something else.
    """
    found: dict[str, tuple[str, ...]] = {}
    for condition in conditions:
        column, separator, value = (part.strip() for part in condition.partition("="))
        if not column or not separator or not value:
            raise SettingsError(f"where {condition!r}: must be a column and a value, such as TrainClass=Positive")
        found[column] = (*found.get(column, ()), value)
    return found


def texts_of(path: Path, table: Any, column: str) -> list[str]:
    """Values of a column as text, "" where there is none; a whole number has no decimals.

    Raises:
        DataError: there is no such column.
    """
    import difflib

    names = [str(name) for name in table.columns if name != table.geometry.name]
    if column not in names:
        near = difflib.get_close_matches(column, names, 1)
        what = f"did you mean {near[0]}?" if near else f"its columns are {', '.join(names) or 'none'}"
        raise DataError(f"{path}: has no column {column!r}: {what}")
    return [_text(value) for value in table[column].tolist()]


def selected(path: Path, table: Any, where: Mapping[str, Sequence[str]]) -> list[bool]:
    """Which rows have one of the values of each column; capitals do not count.

    Args:
        path: of the file, for messages.
        table: a GeoDataFrame.
        where: as of `parse_where`.

    Returns:
        Whether, for each row.

    Raises:
        DataError: a column is missing, or a value that does not occur is nearly one that does.
    """
    import difflib

    kept = [True] * len(table)
    for column, values in where.items():
        texts = texts_of(path, table, column)
        present = {text.casefold(): text for text in texts}
        for value in values:
            near = difflib.get_close_matches(value.casefold(), present, 1, cutoff=0.8)
            if value.casefold() not in present and near:
                raise DataError(
                    f"{path}: no outline has {column}={value}: the column holds {listed_counts(Counter(texts))}; did "
                    f"you mean {column}={present[near[0]]}?"
                )
        wanted = {value.casefold() for value in values}
        kept = [had and text.casefold() in wanted for had, text in zip(kept, texts, strict=True)]
    return kept


def class_columns(table: Any) -> dict[str, Counter[str]]:
    """Columns that look like classes, and their values with the rows of each.

    These are columns of text or truth values with few values for many rows, and columns of any whole numbers or text
    whose name speaks of a class, a label or a type; no ids, dates and sizes.
    """
    found = {}
    for name in table.columns:
        if name == table.geometry.name or _OTHER_NAMES.search(str(name)):
            continue
        values = Counter(text for text in map(_text, table[name].tolist()) if text)
        rows, named = sum(values.values()), bool(_CLASS_NAMES.search(str(name)))
        if not rows or len(values) > _MOST_CLASSES or not (named or _is_text(table[name])):
            continue
        denied = any(_says_no(value, named) for value in values)
        several = len(values) > 1 and (named or len(values) <= rows / 2)
        if not any(map(_is_fraction, values)) and (denied or several):
            found[str(name)] = values
    return found


def check_negatives(path: Path, columns: Mapping[str, Counter[str]]) -> None:
    """Refuse outlines of which a column says that some are none of what is sought.

    Args:
        path: of the file, for messages.
        columns: of `class_columns`.

    Raises:
        DataError: a column does; the message names the options that say what is meant.
    """
    for name, values in columns.items():
        denied = [value for value in values if _says_no(value, bool(_CLASS_NAMES.search(name)))]
        if not denied:
            continue
        meant = next((value for value in values if value not in denied), "VALUE")
        raise DataError(
            f"{path}: its column {name} holds {listed_counts(values)}, so that not every outline is an object: say "
            f"which are with --where {name}={meant}, or make classes of them with --label-column {name}; to take all, "
            f"name every value (--where {' '.join(f'{name}={value}' for value in list(values)[:3])})"
        )


def listed_counts(values: Mapping[str, int], limit: int = 6) -> str:
    """Values with how often they occur, the most frequent first."""
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    rest = len(ordered) - limit
    text = ", ".join(f"{value or 'nothing'} ({count})" for value, count in ordered[:limit])
    return text + (f" and {rest} more" if rest > 0 else "")


def _says_no(value: str, named: bool) -> bool:
    return _NO.fullmatch(value) is not None or (named and value == "0")


def _is_text(column: Any) -> bool:
    return column.dtype.kind in "OUb" or str(column.dtype) in ("str", "string", "category", "boolean")


def _is_fraction(value: str) -> bool:
    return re.fullmatch(r"[-+]?\d*\.\d+([eE][-+]?\d+)?", value) is not None


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN and NaT differ from themselves
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
