"""Where the pixels of a netCDF variable lie: its CRS and its transform, by the CF conventions and by what writers do.

CF (1.11, chapters 4, 5.6 and 7.1) puts coordinates into the middle of cells and names a variable with the CRS in
`grid_mapping`. GDAL and rioxarray write the CRS there as `crs_wkt` and `spatial_ref`, and a transform of corners as
`GeoTransform`; what `xarray.open_rasterio` read has `crs` and `transform` at the variable itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError
from geocore.grid import Transform

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
) -> Transform:
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
        return _six(given)
    steps = [_step(where, name, np.asarray(axis, np.float64)) for name, axis in (("x", x), ("y", y))]
    firsts = [float(x[0]), float(y[0])]
    if given is not None and _agrees(given, steps, firsts):
        return _six(given)
    corners = from_zero and all(_is_whole(first / step) for first, step in zip(firsts, steps, strict=True))
    left, top = (first if corners else first - step / 2 for first, step in zip(firsts, steps, strict=True))
    return steps[0], 0.0, left, 0.0, steps[1], top


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


def _six(values: Sequence[float]) -> Transform:
    a, b, c, d, e, f = (float(value) for value in values[:6])
    return a, b, c, d, e, f


def _plain(value: Any) -> Any:
    """An attribute as Python's own value: readers give arrays of one element."""
    flat = np.ravel(value)
    if flat.size == 1 and isinstance(flat[0], np.generic):
        value = flat[0].item()
    return value.decode(errors="replace") if isinstance(value, bytes) else value
