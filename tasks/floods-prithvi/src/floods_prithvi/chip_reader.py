"""Chips and scenes as reflectance: which bands of a file stand for the six, what a number means, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from floods_prithvi.bands import choose_bands
from floods_prithvi.config import SIX_BANDS
from geocore.raster.bands import Band, Bands, taken_for
from geocore.raster.declarations import NOTHING, Declaration
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import to_degrees
from geocore.raster.masks import MaskRule
from geocore.raster.paths import Location
from geocore.raster.products import ProductReader, open_scene, scene_name
from geocore.raster.scene import Layer, Patch, Scene, notes_of, resolved_bands

IMAGE: Final = "image"
"""Layer of a scene."""
MASK: Final = "mask"
"""The label of a chip."""

Chart = npt.NDArray[np.uint8]

_WAVELENGTHS_NM: Final = (490.0, 560.0, 665.0, 865.0, 1610.0, 2200.0)


def image_layer(times: Sequence[str] = ()) -> Layer:
    """The layer `image`: six bands of reflectance, float32, missing pixels NaN.

    Args:
        times: a name for each date; none where there is one date.
    """
    bands = (
        Band(name, "1", wavelength_nm=nm, nodata=float("nan"))
        for name, nm in zip(SIX_BANDS, _WAVELENGTHS_NM, strict=True)
    )
    return Layer(IMAGE, Bands(tuple(bands)), "float32", times=tuple(times))


def open_chip(
    path: Location,
    layer: Layer,
    *,
    bands: Sequence[str] | None = None,
    given: Declaration = NOTHING,
    usual: Declaration = NOTHING,
    mask: MaskRule | None = None,
) -> Scene:
    """Open a GeoTIFF or a granule of Sentinel-2 or HLS as a scene of the one layer `image`.

    Values are shape (band, row, col), or (time, band, row, col) for a layer with times; `valid` has one band. The file
    holds all bands of the first date first, unless its names say otherwise.

    Args:
        path: the file, its address, or a granule as `geocore.raster.products.granule_of` knows it.
        layer: of `image_layer`.
        bands: names, or numbers from 1, of the bands that stand for the six, in their order; of several dates those of
            the first, or of all. None: by name; a file without names must have no other bands.
        given: scale, offset and nodata that count before what the scene says.
        usual: those of a scene that says nothing. A nodata value of 0 marks a pixel whose bands are all 0 at that date,
            as one band may be dark; any other value, and what is not finite, marks a pixel in whichever band it stands.
        mask: pixels that a mask band of the scene makes invalid.

    Raises:
        SceneError: the file cannot be read, or it is not clear which bands stand for the six.
    """
    frames = max(1, len(layer.times))
    chosen = choose_bands(path, bands, frames)
    source = open_scene(path, layer=IMAGE, bands=chosen, given=given, usual=usual, mask=mask)
    remarks = taken_for(scene_name(path), source.layer.bands.names, layer.bands.names * frames)
    return Scene(scene_name(path), source.grid, {IMAGE: _Reflectance(source, layer, remarks)})


class _Reflectance:
    """A layer of a file whose numbers become reflectance as they are read."""

    def __init__(self, source: ProductReader, layer: Layer, remarks: tuple[str, ...]) -> None:
        self.layer = layer
        self._remarks = remarks
        self.resolved = resolved_bands(source)
        self.shape = source.shape
        self.block = source.block
        self._source = source
        held = source.layer.bands
        self._zero_is_missing = np.array([band.nodata == 0 for band in held]).reshape(layer.axes)
        axes = (*layer.axes, 1, 1)
        self._scale = np.array([band.scale for band in held], np.float32).reshape(axes)
        # In stored units, so that the 1000 of newer Sentinel-2 products is taken off without rounding.
        self._shift = np.array([band.offset / band.scale for band in held], np.float32).reshape(axes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how files were read."""
        return (*notes_of(self._source), *self._remarks)

    def read(self, window: Window) -> Patch:
        stored = self._source.read(window)
        shape = (*self.layer.axes, *window.shape)
        numbers = stored.values.reshape(shape)
        held = np.broadcast_to(stored.valid, stored.values.shape).reshape(shape)
        valid = self._folded(held)
        if numbers.dtype.kind == "f":
            valid &= np.isfinite(numbers).all(axis=-3, keepdims=True)
        values = numbers.astype(np.float32)
        values += self._shift
        values *= self._scale
        values[~np.broadcast_to(valid, shape)] = np.nan
        return Patch(values, valid)

    def _folded(self, held: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which pixels are valid in all bands of a date; (..., band, row, col) becomes (..., 1, row, col)."""
        zero = self._zero_is_missing
        if zero.all():
            any_held: npt.NDArray[np.bool_] = np.logical_or.reduce(held, axis=-3, keepdims=True)
            return any_held
        if not zero.any():
            all_held: npt.NDArray[np.bool_] = np.logical_and.reduce(held, axis=-3, keepdims=True)
            return all_held
        apart = zero[..., None, None]
        never: npt.NDArray[np.bool_] = np.logical_not(zero.any(axis=-1, keepdims=True))
        dark = np.logical_or.reduce(held & apart, axis=-3, keepdims=True) | never[..., None, None]
        return np.logical_and.reduce(held | apart, axis=-3, keepdims=True) & dark

    def close(self) -> None:
        self._source.close()


def centre_of(grid: Grid) -> tuple[float, float] | None:
    """Latitude and longitude (-180 to 180) of the middle of a grid, degrees; None where it is not known."""
    if grid.transform is None or grid.crs is None:
        return None
    longitude, latitude = to_degrees(grid.crs, *(grid.transform @ (grid.width / 2, grid.height / 2)))
    return (float(latitude), float(longitude)) if np.isfinite([latitude, longitude]).all() else None
