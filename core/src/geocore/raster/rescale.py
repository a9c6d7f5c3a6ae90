"""Stored numbers brought to those of a data set that holds the same quantity with another scale or offset.

A band's physical value is stored number * scale + offset. Sentinel-2 products since processing baseline 04.00 (January
2022) hold reflectance as (number - 1000) / 10000 where earlier ones held number / 10000.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocore.errors import DataError, SceneError
from geocore.raster.bands import Band, Bands, taken_for
from geocore.raster.declarations import calibrated, in_units_of, same_kind
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import BandReader, Layer, Patch, ReadIntoReader, notes_of, resolved_bands


def with_scale(bands: Bands, scale: float | None, offset: float | None) -> Bands:
    """The bands with another scale or offset, both physical; None keeps what they have."""
    changes: dict[str, Any] = {key: value for key, value in (("scale", scale), ("offset", offset)) if value is not None}
    return dataclasses.replace(bands, bands=tuple(dataclasses.replace(band, **changes) for band in bands))


class RescaledReader:
    """A layer whose numbers are brought to the scale and offset of another's.

    Whole numbers up to 16 bits come out as the float32 that holds exactly the number that the other layer would, where
    both scales are the same and the offsets differ by whole numbers, as they do between baselines of Sentinel-2.

    Args:
        source: stored numbers; without times.
        layer: what comes out: its bands, in the order of the source's, say the scale and offset wanted.
        held: bands of the source with their own scale and offset.
        grid: of the source.
        remarks: on what was read, beside those of the source.
    """

    def __init__(
        self, source: BandReader, layer: Layer, held: Sequence[Band], grid: Grid, remarks: tuple[str, ...] = ()
    ) -> None:
        bands = tuple(dataclasses.replace(band, nodata=math.nan) for band in layer.bands)
        self.layer = dataclasses.replace(layer, dtype="float32", bands=dataclasses.replace(layer.bands, bands=bands))
        self.resolved = resolved_bands(source)
        self.shape = source.shape
        self.grid = grid
        self.block: tuple[int, int] = getattr(source, "block", (1, source.shape[1]))
        self._source = source
        self._remarks = remarks
        factors, shifts = _conversion(held, layer.bands)
        self._factors, self._shifts = factors[:, None, None], shifts[:, None, None]

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how files were read."""
        return (*notes_of(self._source), *self._remarks)

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside.

        Raises:
            SceneError: the file is damaged there.
        """
        patch = self._source.read(window)
        values = patch.values.astype(np.float32)
        values += self._shifts
        values *= self._factors
        return Patch(values, patch.valid)

    def close(self) -> None:
        """Close the layer."""
        self._source.close()


def physical(source: BandReader, grid: Grid) -> BandReader:
    """A layer in physical values, float32: the source itself where its numbers are physical as they are stored.

    Args:
        source: without times.
        grid: of the source.
    """
    bands = source.layer.bands
    if all(band.scale == 1 and band.offset == 0 for band in bands):
        return source
    unpacked = tuple(dataclasses.replace(band, scale=1.0, offset=0.0) for band in bands)
    layer = dataclasses.replace(source.layer, bands=dataclasses.replace(bands, bands=unpacked))
    return RescaledReader(source, layer, tuple(bands), grid)


def match_scale(
    source: BandReader,
    layer: Layer,
    grid: Grid,
    name: str,
    *,
    scale: float | None = None,
    offset: float | None = None,
) -> BandReader:
    """A layer in the numbers that a data set would hold for it.

    What is the same already stays as it is stored, whole numbers too, unless the data set holds float32 because its own
    files differ. A scene that does not say what its numbers mean is taken to hold those of the data set; so is one with
    a scale alone where the data set says nothing.

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
    clash = next(((mine, theirs) for mine, theirs in units if mine and theirs and not same_kind(mine, theirs)), None)
    if clash and not told:
        raise SceneError(
            f"{name}: its numbers are in {clash[0]!r}, those of the training data in {clash[1]!r}: units must agree; "
            "give --scale and --offset that lead to the latter"
        )
    base = own if calibrated(own) and calibrated(wanted) else wanted
    held = with_scale(base if told else in_units_of(base, wanted), scale, offset)
    factors, shifts = _conversion(held, wanted)
    widened = layer.dtype == "float32" and source.layer.dtype != layer.dtype
    remarks = taken_for(name, own.names, wanted.names)
    if (factors == 1).all() and not shifts.any() and not widened:
        return RelabelledReader(source, result, grid, remarks)
    return RescaledReader(source, result, tuple(held), grid, remarks)


def common_layer(layers: Mapping[str, Layer], *, remedy: str) -> Layer:
    """The layer of a data set whose files may differ in nodata, scale, offset, unit and type.

    Files that are alike in their numbers keep the type in which they are stored. Otherwise numbers are those of the
    first file, as float32, to which `match_scale` brings the others. A nodata value is the layer's where all files have
    it.

    Args:
        layers: name of each file -> its layer; at least one.
        remedy: what to do where bands differ.

    Raises:
        DataError: bands differ, or the numbers of one file cannot be brought to those of the first, because one of the
            two does not say what they mean or they measure something else.
    """
    (first_name, first), *others = layers.items()
    same = True
    for name, layer in others:
        if layer.bands.names != first.bands.names:
            own, wanted = (", ".join(bands.names) for bands in (layer.bands, first.bands))
            raise DataError(f"{name}: bands {own}, but {first_name} has {wanted}: all must have the same; {remedy}")
        problem = _difference(layer, first, first_name)
        if problem is not None:
            raise DataError(f"{name}: {problem}")
        same &= layer.dtype == first.dtype and _numbers_of(layer) == _numbers_of(first)
    marks = [{repr(layer.bands.bands[index].nodata) for layer in layers.values()} for index in range(len(first.bands))]
    bands = tuple(
        band if len(found) == 1 else dataclasses.replace(band, nodata=None)
        for band, found in zip(first.bands, marks, strict=True)
    )
    held = dataclasses.replace(first.bands, bands=bands)
    return dataclasses.replace(first, bands=held, dtype=first.dtype if same else "float32")


def _difference(layer: Layer, first: Layer, first_name: str) -> str | None:
    """Why a file cannot be in one data set with another; None where it can."""
    told, first_told = calibrated(layer.bands), calibrated(first.bands)
    if told != first_told:
        silent, loud = ("it", first_name) if first_told else (first_name, "it")
        band = next(band for band in (first.bands if first_told else layer.bands) if calibrated([band]))
        return (
            f"{loud} says what its numbers mean (scale {band.scale:g}, offset {band.offset:g}), but {silent} does not: "
            "they cannot be brought to one unit; write scale and offset into the file that lacks them (gdal_edit.py "
            "-scale S -offset O FILE)"
        )
    for mine, theirs in zip(layer.bands, first.bands, strict=True):
        if mine.unit and theirs.unit and not same_kind(mine.unit, theirs.unit):
            return f"band {mine.name} is in {mine.unit!r}, but in {first_name} in {theirs.unit!r}: convert one"
    kinds = [(np.dtype(dtype).kind in "iu", np.dtype(dtype).itemsize) for dtype in (layer.dtype, first.dtype)]
    if not told and layer.dtype != first.dtype and kinds[0] != kinds[1]:
        return (
            f"{layer.dtype}, but {first_name} is {first.dtype}, and neither says what its numbers mean: convert one, "
            "or write scale and offset into both"
        )
    return None


def _numbers_of(layer: Layer) -> list[tuple[float, float, str | None]]:
    return [(band.scale, band.offset, band.unit) for band in layer.bands]


class RelabelledReader:
    """A layer whose numbers stay and whose bands are called and understood as another's."""

    def __init__(self, source: BandReader, layer: Layer, grid: Grid, remarks: tuple[str, ...] = ()) -> None:
        self.layer = layer
        self._remarks = remarks
        self.resolved = resolved_bands(source)
        self.shape = source.shape
        self.grid = grid
        self.block: tuple[int, int] = getattr(source, "block", (1, source.shape[1]))
        self._source = source
        self.read = source.read
        self.close = source.close
        if isinstance(source, ReadIntoReader):
            self.decode = source.decode

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how files were read."""
        return (*notes_of(self._source), *self._remarks)


def _conversion(held: Sequence[Band] | Bands, wanted: Bands) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factor and shift of each band, so that wanted number = (held number + shift) * factor; shape (band,), float32.

    Shifted in stored units, so that the 1000 of newer Sentinel-2 products is taken off without rounding.
    """
    pairs = list(zip(held, wanted, strict=True))
    factors = [mine.scale / theirs.scale for mine, theirs in pairs]
    shifts = [(mine.offset - theirs.offset) / mine.scale for mine, theirs in pairs]
    return np.array(factors, np.float32), np.array(shifts, np.float32)
