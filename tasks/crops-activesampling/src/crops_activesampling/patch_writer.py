"""Writing patches in the layout that `s4a_format` reads, with the attributes of Sen4AgriNet's own files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crops_activesampling.s4a_format import PIXEL_M, RATIOS, PatchName
from geocore.raster.netcdf import new_netcdf
from geocore.storage.files import remove_leftovers

_CHUNK_VALUES: Final = 1 << 19
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class NewPatch:
    """A patch to write."""

    name: PatchName
    corner: tuple[float, float]
    """(x, y) of the upper left corner, in metres of the CRS."""
    crs: str
    """Such as EPSG:32631."""
    bands: Mapping[str, tuple[NDArray[np.uint16], NDArray[np.datetime64]]]
    """Band -> (values, times): shape (time, row, col), uint16, DN, 0 where there is none; shape (time,), datetime64,
    in any order."""
    labels: NDArray[np.uint32]
    """Shape (row, col), uint32, codes at 10 m."""
    parcels: NDArray[np.uint32]
    """Shape (row, col), uint32, numbers at 10 m."""
    attributes: Mapping[str, str]
    """Of the file, besides those that its name tells."""


def write_patch(folder: Path, patch: NewPatch) -> Path:
    """Write a patch to its place in a folder, replacing an older one.

    Returns:
        The file.

    Raises:
        StorageError: the disk is full or closed.
    """
    target = folder / patch.name.relative
    remove_leftovers(target.parent)
    with new_netcdf(target) as file:
        name = patch.name
        file.attrs.update(patch.attributes)
        file.attrs["patch_full_name"] = name.id
        file.attrs["patch_year"] = str(name.year)
        file.attrs["patch_name"] = f"patch_{name.x:02d}_{name.y:02d}"
        file.attrs["patch_tile"] = name.tile
        file.attrs["version"] = "21.03"
        for band, (values, times) in patch.bands.items():
            group = file.create_group(band)
            group.dimensions = dict(zip(("time", "y", "x"), values.shape, strict=True))
            _write_times(group, times)
            _write_plane(group, band, values, patch, RATIOS[band])
        for band, plane in (("labels", patch.labels), ("parcels", patch.parcels)):
            group = file.create_group(band)
            group.dimensions = dict(zip(("y", "x"), plane.shape, strict=True))
            _write_plane(group, band, plane, patch, 1)
    return target


def _write_times(group: Any, times: NDArray[np.datetime64]) -> None:
    """Days since the day of the first image, as xarray writes them: every file and band has its own reference."""
    seconds = times.astype("datetime64[s]")
    first = seconds[0].astype("datetime64[D]")
    counted = (seconds - first).astype(np.int64)
    whole = not (counted % _DAY_S).any()
    variable = group.create_variable("time", ("time",), data=counted // _DAY_S if whole else counted / _DAY_S)
    variable.attrs["units"] = f"days since {first} 00:00:00"
    variable.attrs["calendar"] = "proleptic_gregorian"


def _write_plane(group: Any, name: str, values: NDArray[Any], patch: NewPatch, ratio: int) -> None:
    rows, cols = values.shape[-2:]
    size, (left, top) = PIXEL_M * ratio, patch.corner
    group.create_variable("band", (), data=np.int64(1))
    group.create_variable("y", ("y",), data=top - size * np.arange(rows, dtype=np.float64))
    group.create_variable("x", ("x",), data=left + size * np.arange(cols, dtype=np.float64))
    axes = ("time", "y", "x")[-values.ndim :]
    images = max(1, _CHUNK_VALUES // (rows * cols))
    chunks = (*(min(length, images) for length in values.shape[:-2]), rows, cols)
    variable = group.create_variable(
        name, axes, data=values, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True
    )
    variable.attrs["coordinates"] = "band"
    variable.attrs["transform"] = np.array([size, 0.0, left, 0.0, -size, top])
    # As Sen4AgriNet writes a code; a text is one by itself.
    variable.attrs["crs"] = f"+init={patch.crs.lower()}" if patch.crs.startswith("EPSG:") else patch.crs
    variable.attrs["res"] = np.array([size, size])
    variable.attrs["is_tiled"] = np.int64(0)
    variable.attrs["nodatavals"] = np.float64(np.nan)
    variable.attrs["scales"] = np.float64(1.0)
    variable.attrs["offsets"] = np.float64(0.0)
    variable.attrs["AREA_OR_POINT"] = "Area"
