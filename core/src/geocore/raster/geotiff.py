"""Scenes read from raster files: GeoTIFF, TIFF, PNG, JPEG and the others of `gdal.FORMATS`."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError

from geocore.errors import SceneError
from geocore.raster.align import Warp, integer_ratio
from geocore.raster.bands import Bands
from geocore.raster.declarations import COMMAND_LINE, NOTHING, Declaration, ResolvedBand, decide, stated
from geocore.raster.gdal import grid_of, open_dataset, read_hint, reason_of
from geocore.raster.grid import Grid, Window
from geocore.raster.headers import check_file
from geocore.raster.paths import as_path_or_url, gdal_env, redacted, stem_of
from geocore.raster.pictures import alpha_bands, alpha_notes, picture_of
from geocore.raster.scene import Layer, Patch, Scene, valid_mask


class RasterReader:
    """A layer read from one file, which stays open; reads from several threads take turns at its handle.

    An alpha band is not a band but says which pixels are valid, as do a mask band, a nodata value, and NaN or
    infinity in floats. What numbers mean and which are missing is decided for each band
    (`geocore.raster.declarations`). Pictures are read as viewers show them (`geocore.raster.pictures`): upright, a
    palette as its colours. Blocks of a wide window are decoded by all cores.

    Args:
        path: the file, or its http(s):// or s3:// address, of which only the ranges needed are fetched.
        layer: name of the layer.
        bands: names of the bands to read, in this order: descriptions stored in the file, or "1", "2", ... by
            position. A band flagged alpha is one where it is asked for. None reads all but alpha.
        given: counts before what the file says; one for all bands, or one for each.
        usual: counts where the file says nothing; likewise.
        warp: the grid that the file is brought to; None leaves it on its own. All bands need one nodata value then.
        codes: the numbers are classes, ids or bits, as in labels and mask bands, and stay as they are stored.

    Raises:
        SceneError: the file is missing, damaged or not a raster, lacks a band, cannot be brought to the grid, or is no
            picture of brightness.
    """

    block: tuple[int, int]
    """(rows, cols) of the blocks in which the file is stored, pixels of this layer: each is decoded whole, so windows
    along their borders cost least. A striped file has blocks of some rows and its whole width."""
    names: tuple[str, ...]
    """Of all bands of the file by position, also of one flagged alpha: what can be asked for, as can numbers from 1."""

    def __init__(
        self,
        path: Path | str,
        *,
        layer: str = "image",
        bands: Sequence[str] | None = None,
        given: Declaration | Sequence[Declaration] = NOTHING,
        usual: Declaration | Sequence[Declaration] = NOTHING,
        warp: Warp | None = None,
        codes: bool = False,
    ) -> None:
        self.path = as_path_or_url(path)
        self._name = redacted(self.path)
        self._lock = threading.Lock()
        with gdal_env(self.path), ExitStack() as opened:
            dataset = opened.enter_context(closing(open_dataset(self.path)))
            if isinstance(self.path, Path):
                check_file(dataset, self.path)
            self._stored = dataset
            self.picture = picture_of(dataset, self.path, codes=codes)
            shown_dataset = self.picture.shows(dataset)
            planes, self._alpha = _planes(shown_dataset)
            self.names = _band_names(shown_dataset)
            self._indexes = planes if bands is None else [_index_of(name, self.names, self._name) for name in bands]
            self._alpha_as_band = self._alpha in self._indexes
            if self._alpha_as_band:
                if warp is not None:
                    raise SceneError(
                        f"{self._name}: band {self._alpha} is flagged alpha, by which files of other pixels are "
                        f"resampled; take the flag out: gdal_edit.py -colorinterp_{self._alpha} undefined FILE"
                    )
                self._alpha = None
            called = bands or [self.names[index - 1] for index in planes]
            self.resolved: tuple[ResolvedBand, ...] = self._decided(shown_dataset, called, given, usual)
            """What each band holds, and who decided it."""
            decided = [resolution.band for resolution in self.resolved]
            if warp is not None:
                # Of a palette the number is marked, which none of its colours can be.
                missing = self.picture.number_of(decided[0].nodata)
                if self.picture.colours is not None:
                    missing, warp = dataset.nodata, dataclasses.replace(warp, interpolation="nearest")
                dataset = opened.enter_context(closing(warp.open(dataset, self._name, missing)))
                shown_dataset = self.picture.shows(dataset)
                self._alpha = _planes(shown_dataset)[1]
            self._dataset = dataset = shown_dataset
            dtypes = dataset.dtypes
            held = {dtypes[index - 1] for index in self._indexes}
            self._dtype = np.result_type(*(_dtype(dtype, self._name) for dtype in sorted(held)))
            self._nodata = [band.nodata for band in decided]
            with rasterio.Env():
                self._mask_indexes = _mask_indexes(dataset, self._indexes)
            # Whether values can be missing; else one mask will do for all bands, which saves the comparison.
            self._marked = self._dtype.kind == "f" or any(nodata is not None for nodata in self._nodata)
            self._masks = len(self._indexes) if self._marked or len(self._mask_indexes) > 1 else 1
            self._one_type = len(held) == 1
            self.shape: tuple[int, int] = dataset.shape
            self.block = dataset.block_shapes[self._indexes[0] - 1]
            self.grid = self._grid_of(dataset)
            self.layer = Layer(
                name=layer,
                bands=Bands(tuple(decided)),
                dtype=self._dtype.name,
            )
            self._opened = opened.pop_all()

    def _grid_of(self, dataset: Any) -> Grid:
        try:
            return grid_of(dataset)
        except SceneError as error:
            raise SceneError(f"{self._name}: {error}") from error

    def _decided(
        self,
        dataset: Any,
        names: Sequence[str],
        given: Declaration | Sequence[Declaration],
        usual: Declaration | Sequence[Declaration],
    ) -> tuple[ResolvedBand, ...]:
        """What each band that is read holds."""
        first, last = (
            [said] * len(self._indexes) if isinstance(said, Declaration) else said for said in (given, usual)
        )
        with rasterio.Env():  # looking for masks, GDAL warns on the terminal of oddities that do not matter
            masked = self._alpha is not None or bool(_mask_indexes(dataset, self._indexes))
        # Asked for once: each time rasterio lists all bands anew.
        said = [
            stated(nodata, float(scale), float(offset), unit)
            for nodata, scale, offset, unit in zip(
                dataset.nodatavals, dataset.scales, dataset.offsets, dataset.units, strict=True
            )
        ]
        dtypes = dataset.dtypes
        return tuple(
            decide(name, before, said[index - 1], behind, masked=masked, dtype=dtypes[index - 1])
            for name, index, before, behind in zip(names, self._indexes, first, last, strict=True)
        )

    @property
    def shared_nodata(self) -> bool:
        """Whether all of several bands have one nodata value, as in every GeoTIFF: it may not be meant for each."""
        return self._stored.count > 1 and len(set(map(repr, self._stored.nodatavals))) == 1

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside.

        Raises:
            SceneError: the file is damaged there.
        """
        patch = Patch(
            np.empty((len(self._indexes), *window.shape), self._dtype), np.empty((self._masks, *window.shape), np.bool_)
        )
        self.decode(window, patch)
        return patch

    def decode(self, window: Window, into: Patch) -> None:
        """Read a window that lies inside into arrays that are there, such as a part of larger ones.

        Args:
            window: in pixels of this layer.
            into: of the shapes and types that `read` gives; its rows and bands need not follow each other in memory.

        Raises:
            SceneError: the file is damaged there.
        """
        place = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        masks: list[NDArray[Any]] = []
        try:
            with self._lock, gdal_env(self.path):
                if self._dataset.closed:
                    raise ValueError(f"{self._name} is closed")
                if self._one_type:
                    self._dataset.read(self._indexes, window=place, out=into.values)
                else:  # rasterio reads one type at once
                    for index, band in zip(self._indexes, into.values, strict=True):
                        self._dataset.read(index, window=place, out=band)
                if self._alpha is not None:
                    alpha, opaque = self._dataset.read([self._alpha], window=place), self.picture.opaque
                    masks.append(alpha if opaque is None else alpha == opaque)
                if self._mask_indexes:
                    masks.append(self._dataset.read_masks(self._mask_indexes, window=place))
        except RasterioError as error:
            raise SceneError(
                f"{self._name}: {window.height} x {window.width} pixels at row {window.row}, column {window.col} "
                f"cannot be read ({reason_of(error)}); {read_hint(self.path)}"
            ) from error
        self._find_valid(into)
        for mask in masks:
            np.logical_and(into.valid, mask, out=into.valid)

    def _find_valid(self, patch: Patch) -> None:
        """Mark the pixels whose values are not missing."""
        if not self._marked:
            patch.valid[...] = True
            return
        for band, nodata, held in zip(patch.values, self._nodata, patch.valid, strict=True):
            held[...] = valid_mask(band, nodata)

    @functools.cached_property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how the file is read, a line each; looks at a few windows of an alpha band."""
        with self._lock, gdal_env(self.path):
            name = PurePosixPath(self._name).name
            notes = [
                *self.picture.notes,
                *alpha_notes(self._stored, name, self.picture, as_band=self._alpha_as_band),
            ]
            if self.grid.transform is None and not self.grid.gcps and self._stored.rpcs is not None:
                notes.append(
                    f"{name}: has rational polynomials (RPC) alone, which are not kept: maps of it have no "
                    "georeference; bring it to a map first: gdalwarp -rpc -t_srs EPSG:CODE IN OUT"
                )
            elif self.grid.gcps and self.grid.crs is None:
                notes.append(
                    f"{name}: has control points without a CRS: what is made of it has them too, and lies nowhere; "
                    "state it: gdal_edit.py -a_srs EPSG:CODE"
                )
            return tuple(notes)

    def close(self) -> None:
        """Close the file, after the read in progress."""
        with self._lock:
            self._opened.close()


def open_raster(
    path: Path | str,
    *,
    layer: str = "image",
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    usual: Declaration | Sequence[Declaration] = NOTHING,
    codes: bool = False,
) -> Scene:
    """Open one file as a scene of one layer, called by the file's stem.

    Args:
        path: GeoTIFF, TIFF, PNG, JPEG, ..., or its http(s):// or s3:// address.
        layer: name of the layer.
        bands: names of the bands to read, in this order: descriptions stored in the file, or "1", "2", ... by
            position. None reads all but alpha.
        nodata: takes the place of the file's nodata value.
        usual: counts where the file says nothing; one for all bands, or one for each.
        codes: the numbers are classes, ids or bits, as in labels, and stay as they are stored.

    Raises:
        SceneError: the file is missing, damaged or not a raster, lacks a band, or is no picture of brightness.
    """
    given = Declaration(nodata, by=COMMAND_LINE)
    source = RasterReader(path, layer=layer, bands=bands, given=given, usual=usual, codes=codes)
    return Scene(stem_of(source.path), source.grid, {layer: source})


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
            layer: stack.enter_context(closing(RasterReader(path, layer=layer))) for layer, path in paths.items()
        }
        grid = sources[reference].grid
        for source in sources.values():
            source.layer = dataclasses.replace(source.layer, ratio=_ratio(grid, source))
        scene = Scene(name, grid, sources)
        stack.pop_all()
    return scene


def _ratio(reference: Grid, source: RasterReader) -> int:
    grid, name = source.grid, redacted(source.path)
    ratio = integer_ratio(reference, grid, name)
    if ratio is None:
        raise SceneError(
            f"{name}: its {grid.height} x {grid.width} pixels do not nest in the {reference.height} x "
            f"{reference.width} of the reference: a pixel must be a whole number of reference pixels wide and both "
            "must start at the same corner; resample one to the other's grid, or take the finest as reference"
        )
    return ratio


def _planes(dataset: Any) -> tuple[list[int], int | None]:
    """Indexes, from 1, of the bands that hold an image, and of the alpha band if there is one."""
    alpha = alpha_bands(dataset)
    planes = sorted(set(dataset.indexes) - set(alpha))
    # A file of nothing but alpha is a mask that someone means to read.
    return (planes, alpha[0] if alpha else None) if planes else (list(dataset.indexes), None)


def _mask_indexes(dataset: Any, indexes: Sequence[int]) -> list[int]:
    """Indexes of the bands whose mask has to be read from a mask band: none, one for all, or each.

    GDAL's flags name one origin per band; nodata and alpha are looked at in the values instead, which is cheaper.
    """
    every = dataset.mask_flag_enums
    flags = [set(every[index - 1]) for index in indexes]
    if all(flag == {MaskFlags.per_dataset} for flag in flags):
        return [indexes[0]]
    masked = any(not flag & {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha} for flag in flags)
    return list(indexes) if masked else []


def _band_names(dataset: Any) -> tuple[str, ...]:
    """Descriptions where a band has one, else its number; numbers for all when that would not be unique."""
    numbers = tuple(map(str, dataset.indexes))
    names = tuple(described or number for described, number in zip(dataset.descriptions, numbers, strict=True))
    return names if len(set(names)) == len(names) else numbers


def _index_of(name: str, names: Sequence[str], path: str) -> int:
    if name in names:
        return names.index(name) + 1
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return int(name)
    raise SceneError(
        f"{path}: has no band {name!r}: its bands are {', '.join(names)}; name one of these or a number from 1"
    )


def _dtype(name: str, file: str) -> np.dtype[Any]:
    if name.startswith("complex"):
        raise SceneError(
            f"{file}: holds complex numbers ({name}): only real ones can be mapped; write the amplitude or the phase "
            "to a file of its own"
        )
    return np.dtype(name)
