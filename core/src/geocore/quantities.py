"""Physical quantities: which units measure the same, and which values a quantity cannot have.

A scene whose numbers mean something else than it says is mapped like any other. Reflectance below -0.2 or above 2, or
backscatter of 200 dB, gives it away: mostly it is a value of missing pixels that nobody declared, or a scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geocore.bands import Band, Bands
from geocore.declarations import COMMAND_LINE, FILE, Decision
from geocore.errors import SceneError

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

_LIMITS: Final = {"reflectance": (-0.2, 2.0), "temperature": (50.0, 400.0), "backscatter": (-100.0, 60.0)}
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

    def __init__(self, bands: Bands, decisions: Sequence[Decision] = ()) -> None:
        """Begin with no pixel.

        Args:
            bands: of the arrays to come.
            decisions: what was decided of each band in its file, where it was one; in the same order, or of more dates.
        """
        self._bands = bands
        self._decisions = list(decisions)[: len(bands)]
        self._limits = [_LIMITS.get(_quantity(band)) for band in bands]
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
            quantity, decision = _quantity(band), self._decisions[index] if self._decisions else None
            beyond = found.below + found.above
            if beyond > _FEW * found.counted:
                raise SceneError(
                    f"{name}: {beyond} of {found.counted} pixels of band {band.name} lie beyond {quantity} "
                    f"({limits[0]:g} to {limits[1]:g}; found {found.lowest:.4g} to {found.highest:.4g}): "
                    f"{self._cause(band, found, decision)}"
                )
            if quantity == "reflectance" and self._too_dark(band, found, decision):
                stored = f" ({decision.dtype})" if decision and decision.dtype else ""
                raise SceneError(
                    f"{name}: no pixel of band {band.name} lies above {found.highest:.4g}{stored}: reflectance lies "
                    "between 0 and 1, and was divided by too large a number; give --scale a larger one, such as 1 for "
                    "0-1 or 0.0039 for 0-255"
                )

    def _cause(self, band: Band, found: _Beyond, decision: Decision | None) -> str:
        if found.alike >= _PREVAILING * (found.below + found.above):
            file = decision.band if decision else band
            stored = (found.prevailing - file.offset) / file.scale
            said = decision.nodata_by if decision and decision.nodata_by else ""
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

    def _too_dark(self, band: Band, found: _Beyond, decision: Decision | None) -> bool:
        if found.highest < _DARKEST:
            return True
        if decision is None or decision.dtype not in ("uint8", "int8"):
            return False
        # Bytes taken for numbers up to 10000, and nobody said so of this file.
        told = any(by in decision.numbers_by for by in (FILE, COMMAND_LINE))
        return not told and _BYTE * decision.band.scale < _BRIGHT


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
