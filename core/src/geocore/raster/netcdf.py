"""netCDF-4 files read window by window: what a file holds, and a layer made of its two-dimensional variables.

Needs the extra `netcdf` (h5netcdf). Values stay as the file has them; `scale_factor` and `add_offset` become scale and
offset of the band, and `geocore.raster.rescale.physical` makes what they stand for of them.

Where the pixels lie is said in more than one way. CF (1.11, chapters 4, 5.6 and 7.1) puts coordinates into the middle
of cells and names a variable with the CRS in `grid_mapping`. GDAL and rioxarray write the CRS there as `crs_wkt` and
`spatial_ref`, and a transform of corners as `GeoTransform`; what `xarray.open_rasterio` read has `crs` and `transform`
at the variable itself.
"""

from __future__ import annotations

import dataclasses
import io
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from affine import Affine
from numpy.typing import NDArray

from geocore.errors import DataError, SceneError
from geocore.raster.bands import Bands
from geocore.raster.declarations import FILE, CfDeclaration, ResolvedBand, decide, stated_by_cf
from geocore.raster.grid import Window
from geocore.raster.hdf5 import DecodedChunks, StoredArray, open_hdf5
from geocore.raster.scene import Layer, Patch
from geocore.storage.files import atomic_write_bytes
from geocore.storage.special_files import open_regular

_EVEN: Final = 1e-3
"""Of a cell: how far a coordinate may lie from where even steps put it. float32 degrees are rounded by 1e-5."""
_SAME: Final = 0.01


def netcdf_crs(attributes: Mapping[str, Any], mapping: Mapping[str, Any] | None = None) -> str | None:
    """The CRS of a variable as text; None where nothing says it.

    Args:
        attributes: of the variable, then of the file.
        mapping: of the variable that `grid_mapping` names.

    Raises:
        DataError: the parameters of the mapping cannot be understood.
    """
    import pyproj

    named = dict(mapping or {})
    for key in ("crs_wkt", "spatial_ref"):
        if str(named.get(key, "")).strip():
            return str(named[key])
    if "grid_mapping_name" in named:
        try:
            return str(pyproj.CRS.from_cf({key: _plain(value) for key, value in named.items()}).to_wkt())
        except (pyproj.exceptions.CRSError, KeyError, ValueError) as error:
            raise DataError(
                f"grid mapping {named['grid_mapping_name']!r} is not understood ({error}): write crs_wkt beside it"
            ) from error
    text = str(_plain(attributes.get("crs", ""))).strip()
    if text:
        # As PROJ wrote it before version 6.
        return re.sub(r"^\+init=epsg:", "EPSG:", text, flags=re.IGNORECASE)
    code = str(_plain(attributes.get("epsg", ""))).strip()
    return f"EPSG:{code}" if code.isdecimal() else None


def netcdf_transform(
    where: str,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    *,
    stated: Sequence[float] | None = None,
    from_zero: bool = False,
) -> Affine:
    """The transform of the pixels of a variable: of their corners, whichever way its axes run.

    A transform that is stated counts where its steps are those of the coordinates, and their first pixel is its first,
    by its corner or its middle. One of a larger image that the variable was cut from does not.

    Args:
        where: the file, for messages.
        x: coordinate of each column, shape (col,).
        y: coordinate of each row, shape (row,), rising or falling.
        stated: (a, b, c, d, e, f) as of `Grid.transform`.
        from_zero: whether the corners of pixels are known to be whole steps from 0, as those of Sentinel-2's bands are:
            coordinates that are such are corners then.

    Raises:
        DataError: an axis has a single pixel and nothing is stated, or its steps are not even.
    """
    given = None if stated is None or len(stated) < 6 or not np.isfinite(stated[:6]).all() else stated
    if min(len(x), len(y)) < 2:
        if given is None:
            raise DataError(f"{where}: an axis of one pixel says nothing of its size: write the attribute transform")
        return Affine(*(float(value) for value in given[:6]))
    steps = [_step(where, name, np.asarray(axis, np.float64)) for name, axis in (("x", x), ("y", y))]
    firsts = [float(x[0]), float(y[0])]
    if given is not None and _agrees(given, steps, firsts):
        return Affine(*(float(value) for value in given[:6]))
    corners = from_zero and all(_is_whole(first / step) for first, step in zip(firsts, steps, strict=True))
    left, top = (first if corners else first - step / 2 for first, step in zip(firsts, steps, strict=True))
    return Affine(steps[0], 0.0, left, 0.0, steps[1], top)


def gdal_transform(mapping: Mapping[str, Any]) -> list[float] | None:
    """The transform that GDAL wrote as `GeoTransform`, in the order of `Grid.transform`; None where there is none."""
    words = str(_plain(mapping.get("GeoTransform", ""))).split()
    if len(words) != 6:
        return None
    c, a, b, f, d, e = (float(word) for word in words)
    return [a, b, c, d, e, f]


def _agrees(stated: Sequence[float], steps: Sequence[float], firsts: Sequence[float]) -> bool:
    a, b, c, d, e, f = (float(value) for value in stated[:6])
    if b or d or not a or not e:
        return False
    own = all(abs(step / of - 1) < _EVEN for step, of in zip(steps, (a, e), strict=True))
    # In pixels from the first corner: 0, or a half.
    offsets = [(first - corner) / size for first, corner, size in zip(firsts, (c, f), (a, e), strict=True)]
    return own and any(all(abs(offset - place) < _SAME for offset in offsets) for place in (0.0, 0.5))


def _step(where: str, name: str, axis: npt.NDArray[np.float64]) -> float:
    step = (axis[-1] - axis[0]) / (len(axis) - 1)
    even = axis[0] + step * np.arange(len(axis))
    if not np.isfinite(step) or not step or np.abs(axis - even).max() > _EVEN * abs(step):
        raise DataError(f"{where}: the steps of {name} are not even: its pixels are no grid; resample it to one")
    return float(step)


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < _SAME


def _plain(value: Any) -> Any:
    """An attribute as Python's own value: readers give arrays of one element."""
    flat = np.ravel(value)
    if flat.size == 1 and isinstance(flat[0], np.generic):
        value = flat[0].item()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


_NOT_A_COORDINATE = "_nc4_non_coord_"
"""Stands in front of the name of a variable that is called as a dimension is and does not belong to it."""
# What h5py and h5netcdf raise on damaged content, beside OSError.
_DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Variable:
    """What a file says about one variable."""

    name: str
    dimensions: tuple[str, ...]
    """Names of its axes."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """In this machine's byte order; `object` for text."""
    attributes: Mapping[str, Any]

    @property
    def declared(self) -> CfDeclaration:
        """What the attributes say of the numbers."""
        return stated_by_cf(self.attributes, self.dtype)


class NetcdfFile:
    """An open netCDF-4 file; a context manager, safe for several threads.

    Raises:
        SceneError: the file is missing, not netCDF-4, or damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            # A quarter of a second; readers of other formats must not pay for it.
            import h5netcdf
        except ImportError as error:
            raise SceneError(f"{path}: reading netCDF needs h5netcdf: install geocore[netcdf]") from error
        _check_signature(self.path)
        try:
            self._content = open_hdf5(self.path)
        except _DAMAGE as error:
            raise _damaged(self.path, error) from error
        try:
            # Files that lack dimension scales still tell what they hold, so that a message can name it.
            self._file = h5netcdf.File(self._content, "r", phony_dims="access")
            self.attributes: Mapping[str, Any] = dict(self._file.attrs)
            self.dimensions: Mapping[str, int] = {name: len(dim) for name, dim in self._file.dimensions.items()}
            self.variables: Mapping[str, Variable] = {
                name: Variable(name, tuple(item.dimensions), tuple(item.shape), _native(item.dtype), dict(item.attrs))
                for name, item in self._file.variables.items()
            }
        except _DAMAGE as error:
            self._content.close()
            raise _damaged(self.path, error) from error
        self._chunks = DecodedChunks()
        self._arrays: dict[str, StoredArray] = {}

    def variable(self, name: str) -> Variable:
        """What the file says about a variable.

        Raises:
            SceneError: there is none of this name.
        """
        found = self.variables.get(name)
        if found is None:
            raise SceneError(
                f"{self.path}: no variable {name!r}: the file holds {_listed(list(self.variables))}; get a file that "
                "has it, or do not ask for it"
            )
        return found

    def read(self, name: str, window: Window | None = None) -> NDArray[Any]:
        """Values of a variable in its own type and this machine's byte order.

        Args:
            name: of the variable.
            window: pixels of its last two axes, fully inside; None reads all.

        Returns:
            Shape of the variable, or (..., window rows, window columns).

        Raises:
            SceneError: there is no such variable, its content is damaged, or it claims more than its file and the
                memory can hold.
        """
        variable = self.variable(name)
        place = tuple(slice(0, length) for length in variable.shape)
        place = place if window is None else (*place[:-2], *window.slices)
        try:
            with self._lock:
                stored = self._stored(name)
                if variable.dtype.kind in "uif" and stored.shape == variable.shape:
                    values = stored.read(place, cache=None if window is None else self._chunks)
                else:  # text, or a dimension that has grown since
                    stored.check(place)
                    values = np.asarray(self._file.variables[name][place])
        except _DAMAGE as error:
            raise _damaged(self.path, error, name) from error
        return values.astype(_native(values.dtype), copy=False)

    def _stored(self, name: str) -> StoredArray:
        if name not in self._arrays:
            held = name if name in self._content else f"{_NOT_A_COORDINATE}{name}"
            self._arrays[name] = StoredArray(self._content[held])
        return self._arrays[name]

    def decoded(self, name: str) -> NDArray[np.float64]:
        """Physical values of a variable: unpacked, NaN where missing.

        Returns:
            Shape of the variable, float64.

        Raises:
            SceneError: there is no such variable, it holds no numbers, or its content is damaged.
        """
        variable, values = self.variable(name), self.read(name)
        if values.dtype.kind not in "buif":
            raise SceneError(f"{self.path}: variable {name!r} is {values.dtype}: must be numbers; get the file again")
        return variable.declared.decoded(values)

    def text(self, name: str) -> list[str]:
        """Elements of a one-dimensional variable of strings.

        Raises:
            SceneError: there is no such variable, it is no list of strings, or its content is damaged.
        """
        values = self.read(name)
        if values.ndim != 1 or values.dtype.kind not in "OSUT":
            raise SceneError(f"{self.path}: variable {name!r} must be a list of strings; get the file again")
        return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in values.tolist()]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()
            self._content.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def open_netcdf(path: Path | str) -> Iterator[NetcdfFile]:
    """Open a file for a while.

    Raises:
        SceneError: the file is missing, not netCDF-4, or damaged.
    """
    with NetcdfFile(path) as file:
        yield file


class NetcdfReader:
    """A layer made of two-dimensional variables of one file, each a band with a mask of its own.

    Opening reads names and shapes only; a window reads only its part.
    """

    def __init__(
        self,
        path: Path | str,
        variables: Sequence[str],
        *,
        layer: str,
        ratio: int = 1,
        nodata: Mapping[str, float] | None = None,
    ) -> None:
        """Open the file.

        Args:
            path: netCDF-4 file.
            variables: names in the order of the bands; all of one shape (row, col). Types may differ: values are read
                in the smallest type that holds them all.
            layer: name of the layer.
            ratio: reference pixels per pixel, along an axis.
            nodata: variable -> physical value of pixels that are invalid beside those that its attributes call so. NaN
                and infinity never are valid.

        Raises:
            SceneError: the file cannot be read, lacks a variable, or the variables do not share one shape.
        """
        if not variables:
            raise ValueError(f"layer {layer!r} needs at least one variable")
        self._file = NetcdfFile(path)
        try:
            found = [self._file.variable(name) for name in variables]
            for variable in found:
                _check_shape(self._file.path, variable, found[0])
        except SceneError:
            self._file.close()
            raise
        self.shape: tuple[int, int] = (found[0].shape[0], found[0].shape[1])
        self._declared = [_with_missing(item.declared, (nodata or {}).get(item.name)) for item in found]
        self.resolved: tuple[ResolvedBand, ...] = tuple(
            decide(variable.name, declared.said, dtype=variable.dtype.name)
            for variable, declared in zip(found, self._declared, strict=True)
        )
        """What each band holds, as the attributes say."""
        self.layer = Layer(
            layer,
            Bands(tuple(resolution.band for resolution in self.resolved)),
            np.result_type(*(variable.dtype for variable in found)).name,
            ratio,
        )

    def read(self, window: Window) -> Patch:
        """Read a window of every variable.

        Raises:
            SceneError: the content is damaged.
        """
        shape = (len(self.layer.bands), *window.shape)
        values, valid = np.empty(shape, self.layer.dtype), np.empty(shape, np.bool_)
        for index, (name, declared) in enumerate(zip(self.layer.bands.names, self._declared, strict=True)):
            own = self._file.read(name, window)
            # In its own type, since a value may no longer equal its nodata value in a wider one.
            valid[index] = declared.valid(own)
            values[index] = own
        return Patch(values, valid)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _with_missing(declared: CfDeclaration, physical: float | None) -> CfDeclaration:
    """With one more value of missing pixels, which packing has turned into another stored one."""
    if physical is None:
        return declared
    said = declared.said
    stored = physical
    if said.scale is not None and (said.scale != 1 or said.offset):
        stored = round((physical - (said.offset or 0.0)) / said.scale)
    first = stored if said.nodata is None else said.nodata
    return dataclasses.replace(
        declared, said=dataclasses.replace(said, nodata=first, by=FILE), missing=(*declared.missing, stored)
    )


def _check_shape(path: Path, variable: Variable, first: Variable) -> None:
    sizes = " x ".join(map(str, variable.shape)) or "a single value"
    if len(variable.shape) != 2 or 0 in variable.shape or variable.dtype.kind not in "buif":
        raise SceneError(
            f"{path}: variable {variable.name!r} is {sizes} of {variable.dtype.name}: a band must be rows x columns of "
            "numbers; get the file again"
        )
    if variable.shape != first.shape:
        raise SceneError(
            f"{path}: variable {variable.name!r} is {sizes}, but {first.name!r} is {first.shape[0]} x "
            f"{first.shape[1]}: the bands of a layer must have the same shape; get the file again"
        )


@contextmanager
def new_netcdf(path: Path) -> Iterator[Any]:
    """A netCDF-4 file under construction, in memory; it appears, whole, when the block ends.

    On a full disk HDF5 ends the process with a segmentation fault as it closes a file (seen with h5py 3.16, HDF5 2.0).

    Args:
        path: the file; replaced when it exists.

    Yields:
        A `h5netcdf.File` to be filled.

    Raises:
        StorageError: the disk is full or closed.
    """
    import h5netcdf

    content = io.BytesIO()
    with h5netcdf.File(content, "w") as file:
        yield file
    # A copy: a view that an error holds on to would be told of when the memory goes.
    atomic_write_bytes(path, content.getvalue())


def _check_signature(path: Path) -> None:
    """Tell apart what h5py reports in one and the same way: older netCDF, other formats, no file."""
    try:
        with open_regular(path) as file:
            start = file.read(8)
    except OSError as error:
        raise SceneError(
            f"{path}: {error.strerror or error}: must be a readable netCDF file; check the path"
        ) from error
    if start[:3] == b"CDF":
        raise SceneError(f"{path}: is netCDF-3: only netCDF-4 is read; convert it: nccopy -k nc4 IN OUT")
    if start != b"\x89HDF\r\n\x1a\n":
        held = "is empty" if not start else "is no netCDF file"
        raise SceneError(f"{path}: {held}: must be netCDF-4; get the file again")


def _damaged(path: Path, error: Exception, name: str | None = None) -> SceneError:
    reason = (str(error).strip("'\" ").splitlines() or [type(error).__name__])[0]
    if "truncated" in reason:
        return SceneError(f"{path}: ends early: the file is incomplete; copy it or get it again")
    where = "the file" if name is None else f"variable {name!r}"
    return SceneError(f"{path}: {where} cannot be read ({reason}); the file is damaged: copy it or get it again")


def _native(dtype: Any) -> np.dtype[Any]:
    # Text comes as Python's `str` instead of a dtype.
    return np.dtype(object) if dtype is str else np.dtype(dtype).newbyteorder("=")


def _listed(names: Sequence[str], limit: int = 12) -> str:
    rest = len(names) - limit
    return (", ".join(names[:limit]) or "none") + (f" and {rest} more" if rest > 0 else "")
