"""Georeference of raster files: from an open rasterio dataset to a `Grid`, and from a `Grid` to creation options."""

from __future__ import annotations

import functools
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning

from geocore.errors import DataError, SceneError
from geocore.grid import ControlPoint, Grid, length_unit_of

# The filters of `warnings` are shared by all threads; two that open files at once would restore each other's.
_opening = threading.Lock()


@contextmanager
def unreferenced_allowed() -> Iterator[None]:
    """Open a file without rasterio's warning that it has no georeference: for a photograph that is as it should be."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def grid_of(dataset: Any) -> Grid:
    """The grid of an open rasterio dataset; an identity transform is taken for none, as GDAL does.

    Raises:
        SceneError: the CRS or the transform is none.
    """
    try:
        return _grid_of(dataset)
    except SceneError:
        raise
    except (CRSError, DataError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SceneError(f"its CRS cannot be read ({reason}); write it anew: gdal_edit.py -a_srs EPSG:CODE") from error


def _grid_of(dataset: Any) -> Grid:
    points, points_crs = dataset.gcps
    transform = dataset.transform
    if transform == Affine.identity():
        crs = crs_text(points_crs if points else dataset.crs)
        gcps = tuple(ControlPoint(float(p.row), float(p.col), float(p.x), float(p.y), float(p.z or 0)) for p in points)
        # Control points alone give no pixel size, so the unit stays "px".
        return Grid(dataset.height, dataset.width, crs=crs, gcps=gcps)
    crs = crs_text(dataset.crs)
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or a * e == b * d:
        raise SceneError(
            f"its transform {(a, b, c, d, e, f)} leads nowhere: must be finite, with pixels that have an area; write "
            "it anew: gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM"
        )
    return Grid(dataset.height, dataset.width, (a, b, c, d, e, f), crs, length_unit=length_unit_of(crs))


def crs_text(crs: CRS | None) -> str | None:
    """A code such as "EPSG:32652" when it says exactly the same, otherwise WKT; None for an empty CRS."""
    return _named(str(crs.to_wkt())) if crs else None


# Looking for a code that a CRS does not have takes 0.2 s, and the files of a data set share a few.
@functools.lru_cache(maxsize=64)
def _named(wkt: str) -> str:
    crs = CRS.from_wkt(wkt)
    try:
        authority = crs.to_authority(confidence_threshold=100)
        if authority and CRS.from_authority(*authority) == crs:
            return ":".join(authority)
    except CRSError:  # A code of an authority that PROJ does not know.
        pass
    return wkt


def creation_options(grid: Grid) -> dict[str, Any]:
    """The arguments of `rasterio.open` that give a new file the shape and georeference of a grid."""
    options: dict[str, Any] = {"height": grid.height, "width": grid.width}
    if grid.crs is not None:
        options["crs"] = CRS.from_user_input(grid.crs)
    if grid.transform is not None:
        options["transform"] = Affine(*grid.transform)
    elif grid.gcps:
        options.setdefault("crs", CRS())  # none is not taken for no CRS here
        options["gcps"] = [
            GroundControlPoint(row=p.row, col=p.col, x=p.x, y=p.y, z=p.z, id=str(number))
            for number, p in enumerate(grid.gcps, start=1)
        ]
    return options
