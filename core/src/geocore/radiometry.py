"""Stored numbers brought to those of a data set that holds the same quantity with another scale or offset.

A band's physical value is stored number * scale + offset. Sentinel-2 products since processing baseline 04.00 (January
2022) hold reflectance as (number - 1000) / 10000 where earlier ones held number / 10000.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocore.bands import Band, Bands
from geocore.errors import SceneError
from geocore.grid import Grid, Window
from geocore.scenes import DecodingSource, Layer, LayerSource, Patch


def calibrated(bands: Bands) -> bool:
    """Whether bands say how their numbers become physical values; a scale of 1 without a unit says nothing."""
    return any(band.scale != 1 or band.offset != 0 or band.unit for band in bands)


def overridden(bands: Bands, scale: float | None, offset: float | None) -> Bands:
    """The bands with another scale or offset, both physical; None keeps what they have."""
    changes: dict[str, Any] = {key: value for key, value in (("scale", scale), ("offset", offset)) if value is not None}
    return dataclasses.replace(bands, bands=tuple(dataclasses.replace(band, **changes) for band in bands))


class RescaledSource:
    """A layer whose numbers are brought to the scale and offset of another's.

    Whole numbers up to 16 bits come out as the float32 that holds exactly the number that the other layer would, where
    both scales are the same and the offsets differ by whole numbers, as they do between baselines of Sentinel-2.

    Args:
        source: stored numbers; without times.
        layer: what comes out: its bands, in the order of the source's, say the scale and offset wanted.
        held: bands of the source with their own scale and offset.
        grid: of the source.
    """

    def __init__(self, source: LayerSource, layer: Layer, held: Sequence[Band], grid: Grid) -> None:
        self.layer = dataclasses.replace(layer, dtype="float32", nodata=math.nan)
        self.shape = source.shape
        self.grid = grid
        self.block: tuple[int, int] = getattr(source, "block", (1, source.shape[1]))
        self._source = source
        factors, shifts = _conversion(held, layer.bands)
        self._factors, self._shifts = factors[:, None, None], shifts[:, None, None]

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside.

        Raises:
            SceneError: the file is damaged there.
        """
        patch = self._source.read(window)
        values = patch.values.astype(np.float32)
        values *= self._factors
        values += self._shifts
        return Patch(values, patch.valid)

    def close(self) -> None:
        """Close the layer."""
        self._source.close()


def matched(
    source: LayerSource,
    layer: Layer,
    grid: Grid,
    name: str,
    *,
    scale: float | None = None,
    offset: float | None = None,
) -> LayerSource:
    """A layer in the numbers that a data set would hold for it.

    What is the same already stays as it is stored, whole numbers too. A scene that does not say what its numbers mean
    is taken to hold those of the data set; so is one with a scale alone where the data set says nothing.

    Args:
        source: its bands in the order of the data set's.
        layer: of the data set, or of the model trained on it.
        grid: of the source.
        name: of the scene, for messages.
        scale: physical value of one stored unit of the scene; None: as it says.
        offset: physical value of a stored zero of the scene; None: as it says. Where the data set does not say what its
            numbers mean, these themselves count as physical.

    Raises:
        SceneError: the scene has an offset and the data set does not say what its own numbers mean, or their units
            differ.
    """
    own, wanted = source.layer.bands, layer.bands
    result = dataclasses.replace(source.layer, bands=wanted)
    told = scale is not None or offset is not None
    if not told and calibrated(own) and not calibrated(wanted):
        band = next((band for band in own if band.offset), None)
        if band is not None:
            raise SceneError(
                f"{name}: its numbers have scale {band.scale:g} and offset {band.offset:g}, but the training data do "
                "not say what theirs mean: give --scale and --offset that lead from one to the other, such as "
                f"--scale 1 --offset {band.offset / band.scale:g} where those have the same scale and no offset"
            )
    units = [(mine.unit, theirs.unit) for mine, theirs in zip(own, wanted, strict=True)]
    clash = next((pair for pair in units if all(pair) and pair[0] != pair[1]), None)
    if clash and not told:
        raise SceneError(
            f"{name}: its numbers are in {clash[0]!r}, those of the training data in {clash[1]!r}: units must agree; "
            "give --scale and --offset that lead to the latter"
        )
    base = own if calibrated(own) and calibrated(wanted) else wanted
    held = overridden(base, scale, offset)
    factors, shifts = _conversion(held, wanted)
    if (factors == 1).all() and not shifts.any():
        return RelabelledSource(source, result, grid)
    return RescaledSource(source, result, tuple(held), grid)


class RelabelledSource:
    """A layer whose numbers stay and whose bands are called and understood as another's."""

    def __init__(self, source: LayerSource, layer: Layer, grid: Grid) -> None:
        self.layer = layer
        self.shape = source.shape
        self.grid = grid
        self.block: tuple[int, int] = getattr(source, "block", (1, source.shape[1]))
        self.read = source.read
        self.close = source.close
        if isinstance(source, DecodingSource):
            self.decode = source.decode


def _conversion(held: Sequence[Band] | Bands, wanted: Bands) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factor and shift of each band, so that wanted number = held number * factor + shift; shape (band,), float32."""
    pairs = list(zip(held, wanted, strict=True))
    factors = [mine.scale / theirs.scale for mine, theirs in pairs]
    shifts = [(mine.offset - theirs.offset) / theirs.scale for mine, theirs in pairs]
    return np.array(factors, np.float32), np.array(shifts, np.float32)
