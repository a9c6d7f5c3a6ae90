"""What the numbers of a band mean and which are missing, decided for each band of each file.

Whoever says something is asked in turn: the command line, then the file itself, then the data set or the format that
the file is of. Files of one folder may differ; none is read by what another one says.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geocore.bands import Band
from geocore.errors import DataError

COMMAND_LINE: Final = "command line"
FILE: Final = "file"

_KEYS: Final = ("nodata", "scale", "offset", "unit")

_PACKING: Final = (("scale_factor", 1.0), ("add_offset", 0.0))
_LIMITS: Final = (("valid_min", -math.inf), ("valid_max", math.inf))
_NETCDF_FILLS: Final = {
    "i2": -32767, "u2": 65535, "i4": -2147483647, "u4": 4294967295, "i8": -9223372036854775806,
    "u8": 18446744073709551614, "f4": 9.969209968386869e36, "f8": 9.969209968386869e36,
}  # fmt: skip
"""Of netCDF's header netcdf.h; variables of single bytes have none, as all of their values may be meant."""
_RAW_UNITS: Final = frozenset({"dn", "digital number", "digital numbers", "digital count", "count", "counts"})
"""Units of numbers that are not calibrated: they say no more than none."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one party says of a band; None where it says nothing."""

    nodata: float | None = None
    """Stored value of missing pixels; may be NaN or infinite."""
    scale: float | None = None
    """Physical value of one stored unit."""
    offset: float | None = None
    """Physical value of a stored zero."""
    unit: str | None = None
    """Of the physical value."""
    by: str = FILE
    """Who says so, for people: "command line", "file", "format sen1floods11", "training data"."""

    @classmethod
    def of(cls, band: Band, by: str) -> Declaration:
        """What a band of a data set says; a scale of 1 without offset and unit says nothing of its numbers."""
        if not calibrated([band]):
            return cls(band.nodata, by=by)
        return cls(band.nodata, band.scale, band.offset, band.unit, by)

    def before(self, other: Declaration) -> Declaration:
        """What this one says, and where it says nothing the other."""
        said = {key: getattr(self, key) for key in _KEYS}
        if all(value is None for value in said.values()):
            return other
        filled = {key: getattr(other, key) if value is None else value for key, value in said.items()}
        return Declaration(**filled, by=self.by)


NOTHING: Final = Declaration()
"""Nobody says anything."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A band, and who decided what its numbers mean."""

    band: Band
    nodata_by: str = ""
    """Who said which value is missing; empty where nobody did."""
    numbers_by: str = ""
    """Who said scale, offset or unit; empty where nobody did."""
    dtype: str = ""
    """numpy name of the type in which the file stores the band."""


def decide(name: str, *declarations: Declaration, masked: bool = False, dtype: str = "") -> Decision:
    """Decide what a band holds.

    Args:
        name: of the band.
        declarations: in the order in which they are asked; for each property the first that says something decides.
        masked: whether the file itself tells missing pixels by a mask or transparency. Then what comes behind the file
            in the order has no say in `nodata`.
        dtype: numpy name of the type in which the file stores it.

    Returns:
        The band with scale 1 and offset 0 where nobody says otherwise.
    """
    found: dict[str, Any] = {}
    by: dict[str, str] = {}
    for declaration in declarations:
        for key in _KEYS:
            value = getattr(declaration, key)
            if value is not None and key not in found:
                found[key], by[key] = value, declaration.by
        if masked and declaration.by == FILE:
            found.setdefault("nodata", None)
            by.setdefault("nodata", f"{FILE}'s mask")
    band = Band(name, found.get("unit"), found.get("scale", 1.0), found.get("offset", 0.0), nodata=found.get("nodata"))
    numbers = dict.fromkeys(by[key] for key in ("scale", "offset", "unit") if key in by)
    return Decision(band, by.get("nodata", ""), " and ".join(numbers), dtype)


def calibrated(bands: Iterable[Band]) -> bool:
    """Whether bands say how their numbers become physical values; a scale of 1 without a unit says nothing."""
    return any(band.scale != 1 or band.offset != 0 or band.unit for band in bands)


def stated(nodata: float | None, scale: float, offset: float, unit: str | None) -> Declaration:
    """What a file says, where its format has a scale of 1 and an offset of 0 for those that say nothing.

    Of a scale of 0, NaN or infinity nothing could be read: whoever wrote it meant none.
    """
    unit = None if unit is None or unit.strip().lower() in ("", *_RAW_UNITS) else unit.strip()
    if scale == 0 or not math.isfinite(scale) or not math.isfinite(offset):
        scale, offset = 1.0, 0.0
    if scale == 1 and offset == 0 and unit is None:
        return Declaration(nodata)
    return Declaration(nodata, scale, offset, unit)


@dataclass(frozen=True, slots=True)
class CfDeclaration:
    """What the attributes of a netCDF variable say."""

    said: Declaration
    missing: tuple[float, ...]
    """Stored values of missing pixels: `_FillValue`, those of `missing_value`, and netCDF's own where neither is there,
    which is what pixels hold that nobody wrote."""
    lowest: float = -math.inf
    """Stored values below are missing too."""
    highest: float = math.inf
    """Stored values above are missing too."""

    def valid(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where stored values are valid; any shape, in the type of the variable."""
        valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
        for value in self.missing:
            if math.isfinite(value):
                # In the variable's own type: -9999.9 as float32 is not the float64.
                valid &= values != (values.dtype.type(value) if values.dtype.kind == "f" else value)
        if self.lowest > -math.inf:
            valid &= values >= self.lowest
        if self.highest < math.inf:
            valid &= values <= self.highest
        return valid

    def decoded(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Physical values, float64, NaN where missing; any shape, in the type of the variable."""
        physical = values.astype(np.float64) * (self.said.scale or 1.0) + (self.said.offset or 0.0)
        physical[~self.valid(values)] = np.nan
        return physical


def stated_by_cf(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> CfDeclaration:
    """What the attributes of a netCDF variable say (CF conventions 1.11, sections 2.5.1, 3.1 and 8.1).

    Args:
        attributes: of the variable.
        dtype: of its stored values.
    """
    missing: list[float] = []
    for key in ("_FillValue", "missing_value"):
        missing += [value for value in _numbers(attributes.get(key)) if repr(value) not in map(repr, missing)]
    first = missing[0] if missing else None
    if not missing and dtype.str[1:] in _NETCDF_FILLS:
        missing = [_NETCDF_FILLS[dtype.str[1:]]]
    scale, offset = (next(iter(_numbers(attributes.get(key))), default) for key, default in _PACKING)
    unit = attributes.get("units")
    limits = _numbers(attributes.get("valid_range"))
    if len(limits) != 2:
        limits = [next(iter(_numbers(attributes.get(key))), default) for key, default in _LIMITS]
    said = stated(first, scale, offset, None if unit is None else str(unit))
    return CfDeclaration(said, tuple(missing), *limits)


def valid_codes(
    values: NDArray[Any], attributes: Mapping[str, Any], *, classes: Collection[int] = ()
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Labels of a netCDF variable, and where there are any: not where its attributes call them missing, nor below 0.

    Args:
        values: as stored, of any shape; floats hold whole numbers, as programs leave them that decode fill values.
        attributes: of the variable.
        classes: values that mean something even where the attributes call one of them missing.

    Returns:
        Integers, 0 where there is no label, and where there is one; both of the shape of `values`.

    Raises:
        DataError: a label is no whole number.
    """
    declared = np.isin(values, list(classes)) if classes else np.zeros(values.shape, np.bool_)
    valid = (stated_by_cf(attributes, values.dtype).valid(values) | declared) & (values >= 0)
    codes = np.where(valid, values, values.dtype.type(0))
    if values.dtype.kind == "f":
        fractions = (codes != np.rint(codes)) | (np.abs(codes) >= 1 << 63)
        if fractions.any():
            raise DataError(f"holds {codes[fractions][0]:g}: labels are whole numbers; write the file again")
        codes = codes.astype(np.int64)
    return codes, valid


class Readings:
    """How the files of a data set were read: what was taken from where, and what readers remark."""

    def __init__(self) -> None:
        """Begin with no file."""
        self._decisions: dict[str, Sequence[Decision]] = {}
        self._notes: list[str] = []

    def add(self, name: str, decisions: Sequence[Decision], notes: Iterable[str] = ()) -> None:
        """Add a file by its name, with what was decided of each of its bands."""
        self._decisions[name] = decisions
        self._notes += notes

    def lines(self, what: str = "files") -> list[str]:
        """A line for each way in which files were read, then the remarks.

        Args:
            what: the files are called, in the plural.

        Returns:
            Such as "12 files: 0 is missing (file), numbers x 0.0001 - 0.1 in '1' (file)".
        """
        alike: dict[str, list[str]] = defaultdict(list)
        for name, decisions in self._decisions.items():
            ways = list(dict.fromkeys(map(_told, decisions)))
            if len(ways) > 1:
                ways = [f"{decision.band.name}: {_told(decision)}" for decision in decisions]
            alike["; ".join(ways)].append(name)
        # Where nobody says anything of any file there is nothing to tell.
        silent = len(alike) == 1 and not any(
            decision.nodata_by or decision.numbers_by for bands in self._decisions.values() for decision in bands
        )
        ways_told = [] if silent else [f"{_listed(names, what)}: {way}" for way, names in alike.items()]
        return [*ways_told, *_folded(self._notes, what)]


def _folded(notes: Sequence[str], what: str) -> Iterator[str]:
    """Notes of which many say the same of other files, such as with another count, told once."""
    alike: dict[str, list[str]] = defaultdict(list)
    for note in dict.fromkeys(notes):
        said = note.partition(": ")[2] or note
        alike[re.sub(r"\d+", "0", said)].append(note)
    for first, *others in alike.values():
        yield f"{first} (and likewise {len(others)} more {what})" if len(others) > 1 else first
        yield from others if len(others) == 1 else ()


def _told(decision: Decision) -> str:
    band = decision.band
    if decision.nodata_by.endswith("mask"):
        missing = f"missing as the {decision.nodata_by} says"
    elif band.nodata is None:
        missing = "no value is missing"
    else:
        missing = f"{band.nodata:g} is missing ({decision.nodata_by})"
    if not decision.numbers_by:
        return f"{missing}, numbers as stored"
    unit = f" in {band.unit!r}" if band.unit else ""
    shift = f" {'-' if band.offset < 0 else '+'} {abs(band.offset):g}" if band.offset else ""
    return f"{missing}, numbers x {band.scale:g}{shift}{unit} ({decision.numbers_by})"


def _listed(names: Sequence[str], what: str, limit: int = 3) -> str:
    return ", ".join(names) if len(names) <= limit else f"{len(names)} {what}"


def _numbers(value: Any) -> list[float]:
    """Numbers of an attribute, whatever its form; none where it is text or empty."""
    try:
        return [] if value is None else np.ravel(np.asarray(value)).astype(np.float64).tolist()
    except (TypeError, ValueError):
        return []
