"""Scene: the layers of one place on nested grids, read window by window as native values with a mask of what is valid.

A photograph or a GeoTIFF is a scene of one layer. Sentinel-2 is three layers whose pixels are 1, 2 and 6 reference
pixels wide. `geocore.raster.geotiff` opens scenes from files; `ArrayReader` serves arrays in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from geocore.errors import DataError, SceneError
from geocore.raster.bands import Bands
from geocore.raster.declarations import ResolvedBand
from geocore.raster.grid import Bounds, Grid, Window

if TYPE_CHECKING:
    import rasterio.windows
    import xarray


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer of a scene holds."""

    name: str
    bands: Bands
    dtype: str
    """numpy name of the native type, e.g. "uint16"."""
    ratio: int = 1
    """Reference pixels per pixel of this layer, along an axis."""
    times: tuple[str, ...] = ()
    """ISO dates of the time axis; empty when there is none."""
    pixel_m: tuple[float, float] | None = None
    """Of a data set: smallest and largest side of a pixel on the ground in what trains, m; None: not known."""

    def __post_init__(self) -> None:
        if self.ratio < 1:
            raise ValueError(f"layer {self.name!r} has ratio {self.ratio}: it must be at least 1")

    @property
    def axes(self) -> tuple[int, ...]:
        """Lengths of the axes in front of (row, col): (band,) or (time, band)."""
        return (len(self.times), len(self.bands)) if self.times else (len(self.bands),)

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the name and without what is at its default, for data sets and checkpoint cards."""
        values: dict[str, Any] = {"dtype": self.dtype, "ratio": self.ratio}
        if self.times:
            values["times"] = list(self.times)
        if self.pixel_m is not None:
            values["pixel_m"] = list(self.pixel_m)
        return values | self.bands.to_dict()

    @classmethod
    def from_dict(cls, name: str, values: Mapping[str, Any]) -> Self:
        """The layer that `to_dict` described.

        Raises:
            DataError: the dtype or a band is not understood.
        """
        try:
            dtype = np.dtype(values["dtype"])
            if dtype.kind not in "buifc":
                raise TypeError(f"{dtype} is not a number")
        except (KeyError, TypeError, ValueError) as error:
            given = values.get("dtype")
            raise DataError(f"layer {name!r}: dtype {given!r}: must be a number of numpy's, such as uint16") from error
        bands = Bands.from_dict({key: values[key] for key in ("bands", "vector_pairs") if key in values})
        times, pixel_m = tuple(values.get("times", ())), values.get("pixel_m")
        size = None if pixel_m is None else (float(pixel_m[0]), float(pixel_m[1]))
        return cls(name, bands, dtype.name, values.get("ratio", 1), times, size)


@dataclass(frozen=True, slots=True)
class Patch:
    """A window of one layer."""

    values: NDArray[Any]
    """Shape (band, row, col), or (time, band, row, col) for a layer with times; the layer's dtype. Invalid pixels
    keep the value that the file has there, NaN included; pixels outside the scene are 0."""
    valid: NDArray[np.bool_]
    """As `values`, but the band axis has length 1 where all bands share one mask. True is valid."""
    grid: Grid | None = None
    """Where the patch lies, as `Scene.read` tells it; None where nobody asked, as in batches."""

    def __repr__(self) -> str:
        """Shape, type and how much is valid, in one line."""
        shape = " x ".join(str(length) for length in self.values.shape)
        where = "" if self.grid is None else f", {self.grid!r}"
        return f"Patch({shape} {self.values.dtype}, {self.valid.mean():.1%} valid{where})"


class BandReader(Protocol):
    """Where the pixels of one layer come from; `read` may be called from several threads."""

    @property
    def layer(self) -> Layer:
        """What the layer holds."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) in pixels of this layer."""

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside, in pixels of this layer; the caller may write into the result."""

    def close(self) -> None:
        """Let go of files."""


@runtime_checkable
class TiledReader(Protocol):
    """A source whose pixels are decoded block by block."""

    @property
    def block(self) -> tuple[int, int]:
        """(rows, cols) of a block, in pixels of the layer."""


@runtime_checkable
class ReadIntoReader(TiledReader, Protocol):
    """A source that decodes into memory of the caller's, which saves a copy, and memory touched for the first time."""

    def decode(self, window: Window, into: Patch) -> None:
        """Read a window that lies inside.

        Args:
            window: in pixels of the layer.
            into: parts of larger arrays, of the shapes and types that `read` gives.
        """


class ArrayReader:
    """A layer held in memory: a netCDF variable, a plane computed from metadata, a test image.

    Args:
        layer: its dtype must be that of `values`.
        values: shape (band, row, col), or (time, band, row, col) for a layer with times; not copied. A single band
            may come as (row, col).
        valid: bool, True is valid; broadcast to `values` but for a band axis of length 1, which stays. None: valid
            is what is neither the nodata value of its band nor, for floats, NaN or infinite.

    Raises:
        ValueError: shapes or types do not match.
    """

    def __init__(self, layer: Layer, values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> None:
        if values.ndim == 2:
            values = values[np.newaxis]
        if values.ndim != len(layer.axes) + 2 or values.shape[:-2] != layer.axes:
            raise ValueError(f"layer {layer.name!r} needs {layer.axes} in front of (row, col), not {values.shape[:-2]}")
        if values.dtype.newbyteorder("=") != np.dtype(layer.dtype):
            raise ValueError(f"layer {layer.name!r} is declared {layer.dtype} but its array is {values.dtype}")
        if valid is not None:
            bands = valid.shape[-3] if valid.ndim >= 3 else 1
            shape = (*layer.axes[:-1], bands, *values.shape[-2:])
            if bands not in (1, len(layer.bands)):
                raise ValueError(f"mask of layer {layer.name!r} has {bands} bands, not 1 or {len(layer.bands)}")
            valid = np.broadcast_to(valid, shape)
        self.layer = layer
        self.shape: tuple[int, int] = (values.shape[-2], values.shape[-1])
        self._values = values
        self._valid = valid

    def read(self, window: Window) -> Patch:
        """Copy a window out of the arrays."""
        place = (..., *window.slices)
        # Arrays of netCDF-3 and FITS origin are big-endian, which torch cannot take.
        values = self._values[place].astype(self.layer.dtype, order="C")
        valid = valid_in_bands(values, self.layer.bands) if self._valid is None else self._valid[place].copy()
        return Patch(values, valid)

    def close(self) -> None:
        """Nothing to let go of."""


class Scene:
    """Layers of one place on a reference grid; a context manager that closes its files.

    Args:
        name: for file names and messages.
        grid: the reference grid; a layer of ratio r has ceil(height / r) x ceil(width / r) pixels.
        readers: layer name -> where its pixels come from.

    Raises:
        SceneError: a layer's shape does not fit the grid and its ratio.
    """

    def __init__(self, name: str, grid: Grid, readers: Mapping[str, BandReader]) -> None:
        for key, source in readers.items():
            if source.layer.name != key:
                raise ValueError(f"source of layer {source.layer.name!r} is filed under {key!r}")
            expected = grid.coarser(source.layer.ratio).shape
            if source.shape != expected:
                raise SceneError(
                    f"scene {name}: layer {key!r} has {source.shape[0]} x {source.shape[1]} pixels, but at ratio "
                    f"{source.layer.ratio} the {grid.height} x {grid.width} grid needs {expected[0]} x {expected[1]}; "
                    "crop or resample it"
                )
        self.name = name
        self.grid = grid
        self._readers = dict(readers)

    @property
    def readers(self) -> dict[str, BandReader]:
        """Layer name -> where its pixels come from."""
        return dict(self._readers)

    @property
    def layers(self) -> dict[str, Layer]:
        """Layer name -> what it holds."""
        return {name: source.layer for name, source in self._readers.items()}

    @property
    def alignment(self) -> int:
        """Reference pixels that a window's position and size must be a multiple of, to suit every layer."""
        return math.lcm(*(source.layer.ratio for source in self._readers.values()))

    def __repr__(self) -> str:
        """Name, grid and layers, in one line."""
        told = "; ".join(
            f"{name}: {', '.join(layer.bands.names) if len(layer.bands) < 9 else f'{len(layer.bands)} bands'} "
            f"{layer.dtype}" + (f" at {len(layer.times)} times" if layer.times else "")
            + (f", 1/{layer.ratio}" if layer.ratio > 1 else "")
            for name, layer in self.layers.items()
        )  # fmt: skip
        return f"Scene({self.name!r}, {self.grid!r}, {told})"

    @property
    def bands(self) -> Bands:
        """Bands of the one layer.

        Raises:
            SceneError: there are several layers.
        """
        return self.layers[self._one_layer(None)].bands

    @property
    def dtype(self) -> str:
        """Type of the one layer as numpy calls it, such as "uint16".

        Raises:
            SceneError: there are several layers.
        """
        return self.layers[self._one_layer(None)].dtype

    def read(
        self,
        window: Window | rasterio.windows.Window | None = None,
        *,
        bounds: Bounds | None = None,
        layer: str | None = None,
    ) -> Patch:
        """Read one layer: a window of it, what lies in a box on the map, or all; safe to call from several threads.

        Args:
            window: in reference pixels, also one of rasterio; what lies outside the scene is 0 and invalid. Position
                and size must be multiples of the layer's ratio.
            bounds: (left, bottom, right, top) in units of the scene's CRS instead; rounded outwards to whole pixels of
                the layer, and cut to the scene, as the patch's grid tells.
            layer: its name; None: the only one.

        Returns:
            Values, mask and grid, in pixels of the layer.

        Raises:
            SceneError: there are several layers and none is named, the layer does not exist, the box lies outside the
                scene, or a file cannot be read.
            DataError: bounds are given, and the scene has no transform or these are none; the window is none.
            ValueError: window and bounds are given, or the window is not aligned to the layer.
        """
        name = self._one_layer(layer)
        if window is not None and bounds is not None:
            raise ValueError("window and bounds are given: give one of them")
        ratio = self._source(name).layer.ratio
        if bounds is not None:
            inside = self.grid.window(bounds).intersection(self.grid.whole)
            if inside is None:
                raise SceneError(
                    f"scene {self.name}: bounds {tuple(bounds)} lie outside it: it spans {self.grid.bounds} in "
                    f"{self.grid.crs or 'units of no known CRS'}; give them in its CRS"
                )
            wanted = inside.coarser(ratio).finer(ratio)
        elif window is None:
            wanted = self.grid.whole.coarser(ratio).finer(ratio)
        elif isinstance(window, Window) or hasattr(window, "row_off"):
            wanted = window if isinstance(window, Window) else Window.from_rasterio(window)
        else:
            raise DataError(f"window {window!r}: must be geocore.Window(row, col, height, width), or one of rasterio")
        patch = self._read_layer(name, wanted)
        grid = self.grid.coarser(ratio).crop(wanted.coarser(ratio))
        return Patch(patch.values, patch.valid, grid)

    def to_xarray(
        self,
        window: Window | rasterio.windows.Window | None = None,
        *,
        bounds: Bounds | None = None,
        layer: str | None = None,
    ) -> xarray.DataArray:
        """Read one layer as a DataArray; see `geocore.raster.data_array` for what it holds. Arguments as of `read`.

        Raises:
            SettingsError: the extra `geocore[xarray]` is not installed.
            SceneError: as of `read`.
        """
        from geocore.raster.data_array import to_data_array  # It knows scenes.

        name = self._one_layer(layer)
        return to_data_array(self.read(window, bounds=bounds, layer=name), self._source(name).layer, self.name)

    def _one_layer(self, name: str | None) -> str:
        if name is not None:
            return name
        if len(self._readers) > 1:
            raise SceneError(f"scene {self.name} has the layers {', '.join(self._readers)}: name the one to read")
        return next(iter(self._readers))

    def read_layers(self, window: Window, layers: Iterable[str] | None = None) -> dict[str, Patch]:
        """Read a window of some layers; safe to call from several threads.

        Args:
            window: in reference pixels; what lies outside the scene is 0 and invalid. Position and size must be
                multiples of the ratio of each layer read.
            layers: names; None reads all.

        Returns:
            Layer name -> its patch of window / ratio pixels.

        Raises:
            SceneError: a layer does not exist or a file cannot be read.
            ValueError: the window is not aligned to a layer.
        """
        return {name: self._read_layer(name, window) for name in (self._readers if layers is None else layers)}

    def _source(self, name: str) -> BandReader:
        source = self._readers.get(name)
        if source is None:
            raise SceneError(f"scene {self.name} has no layer {name!r}: its layers are {', '.join(self._readers)}")
        return source

    def _read_layer(self, name: str, window: Window) -> Patch:
        source = self._source(name)
        ratio = source.layer.ratio
        if any(value % ratio for value in (window.row, window.col, window.height, window.width)):
            raise ValueError(f"{window} is not aligned to ratio {ratio} of layer {name!r}")
        wanted = window.coarser(ratio)
        inside = wanted.intersection(Window(0, 0, *source.shape))
        if inside == wanted:
            return source.read(wanted)
        # Read even when nothing is inside: one pixel tells the number of masks.
        patch = source.read(inside or Window(0, 0, 1, 1))
        values = np.zeros((*patch.values.shape[:-2], *wanted.shape), patch.values.dtype)
        valid = np.zeros((*patch.valid.shape[:-2], *wanted.shape), np.bool_)
        if inside is not None:
            place = (..., *inside.shifted(-wanted.row, -wanted.col).slices)
            values[place] = patch.values
            valid[place] = patch.valid
        return Patch(values, valid)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how files were read, for people: one line each."""
        return tuple(dict.fromkeys(note for source in self._readers.values() for note in notes_of(source)))

    def close(self) -> None:
        """Close all layers."""
        for source in self._readers.values():
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def notes_of(source: BandReader) -> tuple[str, ...]:
    """Remarks of a source on how its files were read, one line each; what is wrapped around it passes them on."""
    return tuple(getattr(source, "notes", ()))


def resolved_bands(source: BandReader) -> tuple[ResolvedBand, ...]:
    """What was decided of each band of a source that reads files, passed on likewise; none of one in memory."""
    return tuple(getattr(source, "resolved", ()))


def valid_in_bands(values: NDArray[Any], bands: Bands) -> NDArray[np.bool_]:
    """Where values are valid by the nodata value of each band.

    Args:
        values: shape (..., band, row, col), any numeric type.
        bands: of the band axis.

    Returns:
        bool, the shape of `values`, True is valid.
    """
    marks = [band.nodata for band in bands]
    if len({repr(mark) for mark in marks}) == 1:
        return valid_mask(values, marks[0])
    valid = np.empty(values.shape, np.bool_)
    for index, mark in enumerate(marks):
        valid[..., index, :, :] = valid_mask(values[..., index, :, :], mark)
    return valid


def valid_mask(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Where values are valid: not nodata and, for floats, finite.

    Args:
        values: any shape and numeric type.
        nodata: as a file states it, so it may lie outside the type's range, and then marks nothing in integers.

    Returns:
        bool, the shape of `values`, True is valid.
    """
    if values.dtype.kind in "fc":
        valid: NDArray[np.bool_] = np.isfinite(values)
        if nodata is not None and math.isfinite(nodata):
            largest = float(np.finfo(values.dtype).max)
            if abs(nodata) > 0.99 * largest:
                # The end of the type's range, which files state in rounded decimals or as that of a wider type.
                valid &= np.abs(values) < largest * (1 - 1e-6)
            else:
                valid &= values != values.dtype.type(nodata)
        return valid
    if nodata is None or not math.isfinite(nodata) or nodata != int(nodata):
        return np.ones(values.shape, np.bool_)
    mask: NDArray[np.bool_] = values != int(nodata)
    return mask
