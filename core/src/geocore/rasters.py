"""Scenes read from raster files: GeoTIFF, TIFF, PNG, JPEG and whatever else GDAL reads."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError

from geocore.bands import Band, Bands
from geocore.cogs import RasterWriter, write_raster
from geocore.errors import SceneError
from geocore.georeferences import grid_of, unreferenced_allowed
from geocore.grid import Grid, Window
from geocore.integrity import check_file
from geocore.scenes import Layer, Patch, Scene, valid_mask

__all__ = ["RasterSource", "RasterWriter", "open_raster", "open_rasters", "write_raster"]

_NESTING_TOLERANCE_PX = 0.05


class RasterSource:
    """A layer read from one file, which stays open; reads from several threads take turns at its handle.

    An alpha band is not a band but says which pixels are valid, as do a mask band, a nodata value, and NaN or
    infinity in floats. A palette image is read as its indices.

    Args:
        path: the file.
        layer: name of the layer.
        bands: names of the bands to read, in this order: descriptions stored in the file, or "1", "2", ... by
            position. None reads all but alpha.
        nodata: takes the place of the file's nodata value.

    Raises:
        SceneError: the file is missing, damaged or not a raster, or lacks a band.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        layer: str = "image",
        bands: Sequence[str] | None = None,
        nodata: float | None = None,
    ) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._dataset = dataset = _open(self.path)
        try:
            check_file(dataset, self.path)
            planes, alpha = _planes(dataset)
            names = _band_names(dataset, planes)
            self._indexes = planes if bands is None else [_index_of(name, names, planes, self.path) for name in bands]
            self._alpha = alpha
            self._dtype = np.result_type(*(_dtype(dataset.dtypes[index - 1]) for index in self._indexes))
            self._nodata = [dataset.nodatavals[i - 1] if nodata is None else nodata for i in self._indexes]
            with rasterio.Env():  # looking for masks, GDAL warns on the terminal of oddities that do not matter
                self._mask_indexes = _mask_indexes(dataset, self._indexes)
            self.shape: tuple[int, int] = dataset.shape
            self.grid = grid_of(dataset)
            self.layer = Layer(
                name=layer,
                bands=_bands(dataset, self._indexes, names if bands is None else bands),
                dtype=self._dtype.name,
                nodata=self._nodata[0],
            )
        except BaseException:
            dataset.close()
            raise

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside.

        Raises:
            SceneError: the file is damaged there.
        """
        indexes = self._indexes if self._alpha is None else [*self._indexes, self._alpha]
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        masks: NDArray[np.uint8] | None = None
        try:
            with self._lock:
                if self._dataset.closed:
                    raise ValueError(f"{self.path} is closed")
                values = self._dataset.read(indexes, window=place, out_dtype=self._dtype)
                if self._mask_indexes:
                    masks = self._dataset.read_masks(self._mask_indexes, window=place)
        except RasterioError as error:
            raise SceneError(
                f"{self.path}: {window.height} x {window.width} pixels at row {window.row}, column {window.col} cannot "
                f"be read ({_reason(error)}); the file is damaged or incomplete: copy or make it again"
            ) from error
        alpha = None if self._alpha is None else values[-1:]
        values = values[: len(self._indexes)]
        valid = self._valid_by_value(values)
        for mask in (alpha, masks):
            if mask is not None:
                valid = valid & (mask != 0)
        return Patch(values, valid)

    def _valid_by_value(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Shape (band, row, col); one band where no value is invalid, to save the comparison."""
        if self._dtype.kind not in "fc" and all(nodata is None for nodata in self._nodata):
            return np.ones((1, *values.shape[1:]), np.bool_)
        # By `repr`, since NaN differs from itself.
        if len({repr(nodata) for nodata in self._nodata}) == 1:
            return valid_mask(values, self._nodata[0])
        return np.stack([valid_mask(band, nodata) for band, nodata in zip(values, self._nodata, strict=True)])

    def close(self) -> None:
        """Close the file, after the read in progress."""
        with self._lock:
            self._dataset.close()


def open_raster(
    path: Path | str,
    *,
    layer: str = "image",
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
) -> Scene:
    """Open one file as a scene of one layer, called by the file's stem.

    Args:
        path: GeoTIFF, TIFF, PNG, JPEG, ...
        layer: name of the layer.
        bands: names of the bands to read, in this order: descriptions stored in the file, or "1", "2", ... by
            position. None reads all but alpha.
        nodata: takes the place of the file's nodata value.

    Raises:
        SceneError: the file is missing, damaged or not a raster, or lacks a band.
    """
    source = RasterSource(path, layer=layer, bands=bands, nodata=nodata)
    return Scene(source.path.stem, source.grid, {layer: source})


def open_rasters(name: str, paths: Mapping[str, Path | str], reference: str) -> Scene:
    """Open several files on nested grids as one scene, a layer each.

    Args:
        name: of the scene.
        paths: layer name -> file.
        reference: the layer whose grid is the scene's; none may be finer.

    Raises:
        SceneError: a file cannot be opened, or its pixels are not a whole number of reference pixels wide with
            the same upper left corner. Without a transform the control points decide, else the shape alone, which
            must then fit one ratio only.
    """
    if reference not in paths:
        raise SceneError(f"scene {name} has no layer {reference!r}: the reference must be one of {', '.join(paths)}")
    with ExitStack() as stack:
        sources = {
            layer: stack.enter_context(closing(RasterSource(path, layer=layer))) for layer, path in paths.items()
        }
        grid = sources[reference].grid
        for source in sources.values():
            source.layer = dataclasses.replace(source.layer, ratio=_ratio(grid, source))
        scene = Scene(name, grid, sources)
        stack.pop_all()
    return scene


def _ratio(reference: Grid, source: RasterSource) -> int:
    grid = source.grid
    if reference.transform is None or grid.transform is None:
        ratios = _fitting_ratios(reference, grid)
        if len(ratios) > 1:
            raise SceneError(
                f"{source.path}: each of its {grid.height} x {grid.width} pixels may be {ratios[0]} to {ratios[-1]} of "
                f"the {reference.height} x {reference.width} reference pixels wide: without a georeference only one "
                "ratio may fit; write a transform or the same control points into both files"
            )
        ratio, nested = (ratios or [1])[0], bool(ratios)
    else:
        width = math.dist((0, 0), reference.transform[:2])
        ratio = max(1, round(math.dist((0, 0), grid.transform[:2]) / width)) if width else 1
        coarse = reference.coarser(ratio)
        nested = bool(width) and coarse.shape == grid.shape and coarse.same_georeference(grid, _NESTING_TOLERANCE_PX)
    if not nested:
        raise SceneError(
            f"{source.path}: its {grid.height} x {grid.width} pixels do not nest in the {reference.height} x "
            f"{reference.width} of the reference: a pixel must be a whole number of reference pixels wide and both "
            "must start at the same corner; resample one to the other's grid, or take the finest as reference"
        )
    return ratio


def _fitting_ratios(reference: Grid, grid: Grid) -> list[int]:
    """Ratios at which a grid nests in the reference, by shape and, where both have them, by control points.

    The border pixels of a coarse grid may reach outside, so several ratios can give one shape.
    """
    longest = max(-(-reference.height // grid.height), -(-reference.width // grid.width))
    placed = reference.gcps and grid.gcps
    coarser = {ratio: reference.coarser(ratio) for ratio in range(1, 2 * longest + 1)}
    return [
        ratio
        for ratio, coarse in coarser.items()
        if coarse.shape == grid.shape and (not placed or coarse.same_georeference(grid, _NESTING_TOLERANCE_PX))
    ]


def _open(path: Path) -> Any:
    try:
        with unreferenced_allowed():
            return rasterio.open(path)
    except RasterioError as error:
        try:
            empty = path.stat().st_size == 0
        except FileNotFoundError:
            raise SceneError(f"{path}: there is no such file; check the path") from error
        except OSError as closed:
            raise SceneError(f"{path}: {closed.strerror}: must be a readable file; check the path") from error
        if path.is_dir():
            raise SceneError(f"{path} is a folder: a raster file is needed; name one of its files") from error
        reason = "it is empty" if empty else _reason(error)
        raise SceneError(
            f"{path}: cannot be opened as a raster ({reason}); give a GeoTIFF, TIFF, PNG or JPEG file"
        ) from error


def _planes(dataset: Any) -> tuple[list[int], int | None]:
    """Indexes, from 1, of the bands that hold an image, and of the alpha band if there is one."""
    alpha = [i for i in dataset.indexes if dataset.colorinterp[i - 1] == ColorInterp.alpha]
    planes = [i for i in dataset.indexes if i not in alpha]
    # A file of nothing but alpha is a mask that someone means to read.
    return (planes, alpha[0] if alpha else None) if planes else (list(dataset.indexes), None)


def _mask_indexes(dataset: Any, indexes: Sequence[int]) -> list[int]:
    """Indexes of the bands whose mask has to be read from a mask band: none, one for all, or each.

    GDAL's flags name one origin per band; nodata and alpha are looked at in the values instead, which is cheaper.
    """
    flags = [set(dataset.mask_flag_enums[index - 1]) for index in indexes]
    if all(flag == {MaskFlags.per_dataset} for flag in flags):
        return [indexes[0]]
    masked = any(not flag & {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha} for flag in flags)
    return list(indexes) if masked else []


def _band_names(dataset: Any, planes: Sequence[int]) -> tuple[str, ...]:
    """Descriptions where a band has one, else its number; numbers for all when that would not be unique."""
    names = tuple(dataset.descriptions[index - 1] or str(index) for index in planes)
    return names if len(set(names)) == len(names) else tuple(str(index) for index in planes)


def _index_of(name: str, names: Sequence[str], planes: Sequence[int], path: Path) -> int:
    if name in names:
        return planes[names.index(name)]
    if name.isdecimal() and int(name) in planes:
        return int(name)
    raise SceneError(
        f"{path}: has no band {name!r}: its bands are {', '.join(names)}; name one of these or a number from 1"
    )


def _bands(dataset: Any, indexes: Sequence[int], names: Sequence[str]) -> Bands:
    return Bands(
        tuple(
            Band(name, dataset.units[i - 1] or None, float(dataset.scales[i - 1]), float(dataset.offsets[i - 1]))
            for i, name in zip(indexes, names, strict=True)
        )
    )


def _dtype(name: str) -> np.dtype[Any]:
    """GDAL has complex integers, which numpy has not."""
    return np.dtype("complex64" if name == "complex_int16" else name)


def _reason(error: BaseException) -> str:
    """The first cause of a chain in one short line; rasterio's own text only points to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:160].rstrip(".")
