"""A patch as a DataArray of xarray: named bands, coordinates of pixel centres, and NaN where nothing is valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geocore.errors import SettingsError
from geocore.raster.grid import parse_crs
from geocore.raster.scene import Layer, Patch

if TYPE_CHECKING:
    import xarray

_SMALL_BYTES = 2
"""Integers of so many bytes are exact in float32."""


def to_data_array(patch: Patch, layer: Layer, name: str) -> xarray.DataArray:
    """Label a patch.

    Needs the extra `geocore[xarray]`.

    Args:
        patch: with its grid.
        layer: that it was read from.
        name: of the result.

    Returns:
        Dimensions (band, y, x), or (time, band, y, x) of a layer with times. Stored values as floats, invalid ones NaN:
        float32 for types of up to 16 bits and float32, else float64, in which integers beyond 2**53 are rounded.
        Coordinates: `band` and, of dated layers, `time`; `x` and `y` of the centres of pixels, where the grid is not
        turned; `unit`, `scale` and `offset` of each band where there are any, physical = value * scale + offset;
        `spatial_ref` with the CRS and the transform, as rioxarray and GDAL have them.

    Raises:
        SettingsError: the extra is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise SettingsError('xarray is not installed: pip install "geocore[xarray]"') from error
    dtype = patch.values.dtype
    wide = dtype.itemsize > (_SMALL_BYTES if dtype.kind in "iu" else 4)
    values = patch.values.astype(np.float64 if wide else np.float32)
    values[~np.broadcast_to(patch.valid, values.shape)] = np.nan
    axes = ("time", "band") if layer.times else ("band",)
    coordinates: dict[str, Any] = {"band": list(layer.bands.names)}
    if layer.times:
        coordinates["time"] = np.array(layer.times, "datetime64[ns]")
    for key, empty in (("unit", None), ("scale", 1.0), ("offset", 0.0)):
        of_bands = [getattr(band, key) for band in layer.bands]
        if any(value != empty for value in of_bands):
            coordinates[key] = ("band", ["" if value is None else value for value in of_bands])
    grid = patch.grid
    if grid is not None and grid.transform is not None:
        a, b, c, d, e, f = grid.transform[:6]
        if not b and not d:
            coordinates["x"] = grid.xy(0, np.arange(grid.width))[0]
            coordinates["y"] = grid.xy(np.arange(grid.height), 0)[1]
        placed = {"GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"}
        if grid.crs is not None:
            text = parse_crs(grid.crs).to_wkt()
            placed |= {"crs_wkt": text, "spatial_ref": text}
        coordinates["spatial_ref"] = ((), 0, placed)
    return xarray.DataArray(values, coordinates, (*axes, "y", "x"), name=name)
