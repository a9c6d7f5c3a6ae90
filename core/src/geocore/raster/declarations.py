"""What the numbers of a band mean and which are missing, decided for each band of each file.

Whoever says something is asked in turn: the command line, then the file itself, then the data set or the format that
the file is of. Files of one folder may differ; none is read by what another one says.

What is said may be wrong, and a scene whose numbers mean something else is mapped like any other. Reflectance below
-0.2 or above 2, or backscatter of 200 dB, gives it away: mostly it is a value of missing pixels that nobody declared,
or a scale. So units are known by what they measure, and quantities by the values that they can have.
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

from geocore.errors import DataError, SceneError
from geocore.raster.bands import Band, Bands

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
class ResolvedBand:
    """A band, and who decided what its numbers mean."""

    band: Band
    nodata_by: str = ""
    """Who said which value is missing; empty where nobody did."""
    numbers_by: str = ""
    """Who said scale, offset or unit; empty where nobody did."""
    dtype: str = ""
    """numpy name of the type in which the file stores the band."""


def decide(name: str, *declarations: Declaration, masked: bool = False, dtype: str = "") -> ResolvedBand:
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
    return ResolvedBand(band, by.get("nodata", ""), " and ".join(numbers), dtype)


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
        self._resolved: dict[str, Sequence[ResolvedBand]] = {}
        self._notes: list[str] = []

    def add(self, name: str, resolved: Sequence[ResolvedBand], notes: Iterable[str] = ()) -> None:
        """Add a file by its name, with what was decided of each of its bands."""
        self._resolved[name] = resolved
        self._notes += notes

    def lines(self, what: str = "files") -> list[str]:
        """A line for each way in which files were read, then the remarks.

        Args:
            what: the files are called, in the plural.

        Returns:
            Such as "12 files: 0 is missing (file), numbers x 0.0001 - 0.1 in '1' (file)".
        """
        alike: dict[str, list[str]] = defaultdict(list)
        for name, resolved in self._resolved.items():
            ways = list(dict.fromkeys(map(_told, resolved)))
            if len(ways) > 1:
                ways = [f"{resolution.band.name}: {_told(resolution)}" for resolution in resolved]
            alike["; ".join(ways)].append(name)
        # Where nobody says anything of any file there is nothing to tell.
        silent = len(alike) == 1 and not any(
            resolution.nodata_by or resolution.numbers_by for bands in self._resolved.values() for resolution in bands
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


def _told(resolution: ResolvedBand) -> str:
    band = resolution.band
    if resolution.nodata_by.endswith("mask"):
        missing = f"missing as the {resolution.nodata_by} says"
    elif band.nodata is None:
        missing = "no value is missing"
    else:
        missing = f"{band.nodata:g} is missing ({resolution.nodata_by})"
    if not resolution.numbers_by:
        return f"{missing}, numbers as stored"
    unit = f" in {band.unit!r}" if band.unit else ""
    shift = f" {'-' if band.offset < 0 else '+'} {abs(band.offset):g}" if band.offset else ""
    return f"{missing}, numbers x {band.scale:g}{shift}{unit} ({resolution.numbers_by})"


def _listed(names: Sequence[str], what: str, limit: int = 3) -> str:
    return ", ".join(names) if len(names) <= limit else f"{len(names)} {what}"


def _numbers(value: Any) -> list[float]:
    """Numbers of an attribute, whatever its form; none where it is text or empty."""
    try:
        return [] if value is None else np.ravel(np.asarray(value)).astype(np.float64).tolist()
    except (TypeError, ValueError):
        return []


_UNITS: Final[Mapping[tuple[str, float, float], tuple[str, ...]]] = {
    ("share", 1.0, 0.0): ("1", "reflectance", "unitless", "dimensionless", "none"),
    ("share", 0.01, 0.0): ("%", "percent"),
    ("temperature", 1.0, 0.0): ("k", "kelvin"),
    ("temperature", 1.0, 273.15): ("degc", "deg c", "°c", "c", "celsius", "degree_celsius", "degrees_celsius"),
    ("length", 1.0, 0.0): ("m", "metre", "metres", "meter", "meters"),
    ("length", 0.01, 0.0): ("cm", "centimetre", "centimetres", "centimeter", "centimeters"),
    ("length", 0.001, 0.0): ("mm", "millimetre", "millimetres", "millimeter", "millimeters"),
    ("backscatter", 1.0, 0.0): ("db", "decibel", "decibels"),
    ("angle", 1.0, 0.0): ("degree", "degrees", "deg", "°"),
}
"""(What is measured, factor and shift to its usual unit): names of the unit, in lower case."""

_POSSIBLE: Final = {"reflectance": (-0.2, 2.0), "temperature": (50.0, 400.0), "backscatter": (-100.0, 60.0)}
"""Lowest and highest value of a quantity. Atmospheric correction brings dark pixels below 0, and sunlit cloud or ice
reach 1.7; brightness temperatures lie between those of cold space seen by the antenna's side and of fire."""

_DARKEST: Final = 0.0005
"""Reflectance: the darkest water is a hundred times brighter in blue."""
_FEW: Final = 1e-3
"""Share of pixels beyond the limits that glints and edges of detectors explain."""
_PREVAILING: Final = 0.9
"""Share of the pixels beyond the limits that one value has to have, to be taken for that of missing ones."""
_BYTE: Final = 255
_BRIGHT: Final = 0.1
"""Reflectance that soil, vegetation and snow reach in some band."""


def same_kind(first: str, second: str) -> bool:
    """Whether two units measure the same, such as "1" and "%"; a unit that is not known does only as it is written."""
    return _kind(first)[0] == _kind(second)[0]


def in_units_of(held: Bands, wanted: Bands) -> Bands:
    """Bands with the scale and offset that lead to the units of others, where both have one and they measure the same.

    Args:
        held: bands.
        wanted: as many bands, in the same order.
    """

    def converted(mine: Band, theirs: Band) -> Band:
        if not mine.unit or not theirs.unit or mine.unit == theirs.unit or not same_kind(mine.unit, theirs.unit):
            return mine
        (_, factor, shift), (_, wanted_factor, wanted_shift) = _kind(mine.unit), _kind(theirs.unit)
        return Band(
            mine.name,
            theirs.unit,
            mine.scale * factor / wanted_factor,
            (mine.offset * factor + shift - wanted_shift) / wanted_factor,
            mine.wavelength_nm,
            mine.nodata,
        )

    pairs = zip(held, wanted, strict=True)
    return Bands(tuple(converted(mine, theirs) for mine, theirs in pairs), held.vector_pairs)


@dataclass(slots=True)
class _Beyond:
    """Pixels of one band beyond the limits of its quantity."""

    counted: int = 0
    below: int = 0
    above: int = 0
    highest: float = -math.inf
    lowest: float = math.inf
    prevailing: float = math.nan
    """The most frequent of the values beyond the limits, over the windows so far."""
    alike: int = 0
    """How many have it."""


class QuantityCheck:
    """Counts pixels that cannot be what a scene's bands are said to measure, window by window.

    Bands in dB or K are looked at, and optical ones, that is of a wavelength, in shares of 1; any other may hold
    anything.
    """

    def __init__(self, bands: Bands, resolved: Sequence[ResolvedBand] = ()) -> None:
        """Begin with no pixel.

        Args:
            bands: of the arrays to come.
            resolved: what was decided of each band in its file, where it was one; in the same order, or of more dates.
        """
        self._bands = bands
        self._resolved = list(resolved)[: len(bands)]
        self._limits = [_POSSIBLE.get(_quantity(band)) for band in bands]
        self._found = [_Beyond() for _ in bands]

    def update(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Count the valid pixels of a window.

        Args:
            values: shape (..., band, row, col), numbers of the bands.
            valid: shape (..., band or 1, row, col), bool.
        """
        valid = np.broadcast_to(valid, values.shape)
        for index, (band, limits, found) in enumerate(zip(self._bands, self._limits, self._found, strict=True)):
            if limits is None:
                continue
            pixels = values[..., index, :, :][valid[..., index, :, :]].astype(np.float64) * band.scale + band.offset
            if not pixels.size:
                continue
            found.counted += pixels.size
            found.lowest, found.highest = min(found.lowest, pixels.min()), max(found.highest, pixels.max())
            below, above = pixels < limits[0], pixels > limits[1]
            found.below += int(below.sum())
            found.above += int(above.sum())
            if below.any() or above.any():
                numbers, counts = np.unique(pixels[below | above], return_counts=True)
                place = int(counts.argmax())
                if numbers[place] == found.prevailing:
                    found.alike += int(counts[place])
                elif counts[place] > found.alike:
                    found.prevailing, found.alike = float(numbers[place]), int(counts[place])

    def raise_if_impossible(self, name: str) -> None:
        """Refuse the scene where more than one pixel in a thousand cannot be, or all are too dark.

        Args:
            name: of the scene, for the message.

        Raises:
            SceneError: names the first band, the count, the likely cause and the remedy.
        """
        for index, (band, limits, found) in enumerate(zip(self._bands, self._limits, self._found, strict=True)):
            if limits is None or not found.counted:
                continue
            quantity, resolution = _quantity(band), self._resolved[index] if self._resolved else None
            beyond = found.below + found.above
            if beyond > _FEW * found.counted:
                raise SceneError(
                    f"{name}: {beyond} of {found.counted} pixels of band {band.name} lie beyond {quantity} "
                    f"({limits[0]:g} to {limits[1]:g}; found {found.lowest:.4g} to {found.highest:.4g}): "
                    f"{self._cause(band, found, resolution)}"
                )
            if quantity == "reflectance" and self._too_dark(band, found, resolution):
                stored = f" ({resolution.dtype})" if resolution and resolution.dtype else ""
                raise SceneError(
                    f"{name}: no pixel of band {band.name} lies above {found.highest:.4g}{stored}: reflectance lies "
                    "between 0 and 1, and was divided by too large a number; give --scale a larger one, such as 1 for "
                    "0-1 or 0.0039 for 0-255"
                )

    def _cause(self, band: Band, found: _Beyond, resolution: ResolvedBand | None) -> str:
        if found.alike >= _PREVAILING * (found.below + found.above):
            file = resolution.band if resolution else band
            stored = (found.prevailing - file.offset) / file.scale
            said = resolution.nodata_by if resolution and resolution.nodata_by else ""
            missing = f", which {said} does not call missing" if said else ""
            return (
                f"{found.alike} of them hold {round(stored, 6):g}{missing}: if these are missing pixels, give --nodata "
                f"{round(stored, 6):g}"
            )
        if found.above > found.below:
            return (
                "they are stored numbers taken for physical ones, or of another scale; give --scale a smaller one, "
                "such as 0.0001 for 0-10000"
            )
        return "scale or offset is another one; give --scale and --offset, or --nodata for a value of missing pixels"

    def _too_dark(self, band: Band, found: _Beyond, resolution: ResolvedBand | None) -> bool:
        if found.highest < _DARKEST:
            return True
        if resolution is None or resolution.dtype not in ("uint8", "int8"):
            return False
        # Bytes taken for numbers up to 10000, and nobody said so of this file.
        told = any(by in resolution.numbers_by for by in (FILE, COMMAND_LINE))
        return not told and _BYTE * resolution.band.scale < _BRIGHT


def _quantity(band: Band) -> str:
    """What a band measures; optical bands in shares of 1 are reflectance."""
    kind, factor, shift = _kind(band.unit) if band.unit else ("", 1.0, 0.0)
    if (factor, shift) != (1.0, 0.0):
        return ""
    if kind == "share":
        named = band.unit is not None and band.unit.strip().lower() == "reflectance"
        return "reflectance" if band.wavelength_nm is not None or named else ""
    return kind


def _kind(unit: str) -> tuple[str, float, float]:
    plain = unit.strip().lower()
    return next((kind for kind, names in _UNITS.items() if plain in names), (plain, 1.0, 0.0))
