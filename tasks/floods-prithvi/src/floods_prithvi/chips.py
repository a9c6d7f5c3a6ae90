"""Chips and scenes as reflectance: which bands of a file stand for the six, what a number means, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from floods_prithvi.bands import choose_bands
from floods_prithvi.config import SIX_BANDS
from geocore.bands import Band, Bands
from geocore.declarations import NOTHING, Declaration
from geocore.errors import DataError
from geocore.grid import Grid, Window, parse_crs
from geocore.images import ImageSource, image_name, open_image
from geocore.locations import Location
from geocore.masks import MaskRule
from geocore.rasters import open_raster
from geocore.scenes import Layer, Patch, Scene, decisions_of, notes_of, valid_mask

IMAGE: Final = "image"
"""Layer of a scene."""
MASK: Final = "mask"
"""The label of a chip."""
IGNORED: Final = 255
"""Target of pixels that neither train nor score."""

Chart = npt.NDArray[np.uint8]

_WAVELENGTHS_NM: Final = (490.0, 560.0, 665.0, 865.0, 1610.0, 2200.0)
_GRID_TOLERANCE_PX: Final = 0.1
_LABEL_RULE: Final = "a chip and its label must cover the same pixels"


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


def open_scene(
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
        path: the file, its address, or a granule as `geocore.granules.granule_of` knows it.
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
    source = open_image(path, layer=IMAGE, bands=chosen, given=given, usual=usual, mask=mask)
    return Scene(image_name(path), source.grid, {IMAGE: _Reflectance(source, layer)})


class _Reflectance:
    """A layer of a file whose numbers become reflectance as they are read."""

    def __init__(self, source: ImageSource, layer: Layer) -> None:
        self.layer = layer
        self.decisions = decisions_of(source)
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
        return notes_of(self._source)

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
    """Latitude and longitude of the middle of a grid, degrees; None where it is not known."""
    if grid.transform is None or grid.crs is None:
        return None
    import pyproj

    a, b, c, d, e, f = grid.transform
    col, row = grid.width / 2, grid.height / 2
    transformer = pyproj.Transformer.from_crs(parse_crs(grid.crs), parse_crs("EPSG:4326"), always_xy=True)
    longitude, latitude = transformer.transform(a * col + b * row + c, d * col + e * row + f)
    return (float(latitude), float(longitude)) if np.isfinite([latitude, longitude]).all() else None


@dataclass(frozen=True, slots=True)
class LabelCodes:
    """What the numbers in label files mean."""

    values: tuple[int, ...]
    """Value of each class; its place is the class index."""
    ignored: tuple[int, ...] = ()
    """Values of pixels that neither train nor score."""


def read_target(path: Path, codes: LabelCodes, window: Window | None = None) -> Chart:
    """Class indices of a label file.

    Args:
        path: the file; of several bands the first counts.
        codes: what its numbers mean. The file's own nodata value is ignored too, unless it is a class.
        window: may reach outside; None: all.

    Returns:
        Shape (row, col), uint8: class index, 255 where ignored or outside.

    Raises:
        SceneError: the file cannot be read.
        DataError: it holds a value that is neither a class nor ignored.
    """
    with open_label(path) as label:
        return target_of(label, path, codes, window)


def open_label(path: Path) -> Scene:
    """A label file as a scene of the one layer `mask`, with the numbers that it holds.

    Raises:
        SceneError: the file cannot be read.
    """
    return open_raster(path, layer=MASK, codes=True)


def target_of(label: Scene, path: Path, codes: LabelCodes, window: Window | None = None) -> Chart:
    """Class indices of a label that is open; arguments, result and errors as of `read_target`."""
    window = window or label.grid.window
    target = np.full(window.shape, IGNORED, np.uint8)
    inside = window.intersection(label.grid.window)
    if inside is not None:
        stored = label.read(inside)[MASK].values[0]
        nodata = label.layers[MASK].bands.bands[0].nodata
        target[inside.shifted(-window.row, -window.col).slices] = _indices(stored, nodata, codes, path)
    return target


def check_label_grid(path: Path, scene: Scene) -> None:
    """Compare the grid of a label with that of its chip.

    Published grids differ in the last digits, and their CRS in how they are written, so that a tenth of a pixel is let
    pass. A label without any georeference is taken to lie on its chip.

    Raises:
        SceneError: the label cannot be read.
        DataError: it has another size, or lies elsewhere.
    """
    with open_label(path) as label:
        grid = label.grid
    if grid.shape != scene.grid.shape:
        sizes = [f"{rows} x {cols}" for rows, cols in (grid.shape, scene.grid.shape)]
        raise DataError(f"{path}: {sizes[0]} px, but {scene.name} has {sizes[1]}: {_LABEL_RULE}; cut or resample it")
    placed = grid.transform is not None and scene.grid.transform is not None
    if placed and not scene.grid.same_georeference(grid, _GRID_TOLERANCE_PX):
        raise DataError(
            f"{path}: lies more than a tenth of a pixel from {scene.name}, or in another CRS: {_LABEL_RULE}; "
            "resample it to the chip's grid"
        )


def _indices(stored: npt.NDArray[Any], nodata: float | None, codes: LabelCodes, path: Path) -> Chart:
    target = np.full(stored.shape, IGNORED, np.uint8)
    known = ~valid_mask(stored, nodata)
    for value in codes.ignored:
        known |= stored == value
    for index, value in enumerate(codes.values):
        here = stored == value
        target[here] = index
        known |= here
    if not known.all():
        classes, ignored = ", ".join(map(str, codes.values)), ", ".join(map(str, codes.ignored)) or "none"
        raise DataError(
            f"{path}: holds {stored[~known][0]}: labels are {classes}, and ignored {ignored}; correct the label, or "
            "name the value with --classes or --ignore"
        )
    return target
