"""Polygons: burnt onto a grid, traced along pixel edges, measured, written with attributes.

Needs the extra `geocore[polygons]` (geopandas, shapely, pyogrio, pyarrow), imported where it is used.
"""

from __future__ import annotations

import importlib
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import rasterio.features
from affine import Affine

from geocore.aliases import plain_path
from geocore.errors import DataError, DiskError, SettingsError
from geocore.files import atomic_path
from geocore.grid import Grid, Transform, Window, length_unit_of
from geocore.ground import Measures, measure_rings
from geocore.tracing import polygonise_labels

Geometry = Any
"""A shapely Polygon or MultiPolygon."""

LAYER: Final = "polygons"
"""Name of the layer in every GeoPackage that is written."""
_INDEX: Final = f"rtree_{LAYER}_geom"
"""Spatial index of the layer, a table beside it."""


def rasterise(geometries: Sequence[Geometry], grid: Grid, dtype: str = "uint32") -> npt.NDArray[Any]:
    """Burn polygons onto a grid; a pixel belongs to a polygon that holds its centre.

    Args:
        geometries: polygons in the grid's CRS; the first gets id 1, the next 2, ...
        grid: with a transform.
        dtype: numpy name of an integer type.

    Returns:
        Shape (row, col), ids, 0 where there is none. Larger polygons are burnt first, so that a small one on top of a
        large one is seen.

    Raises:
        DataError: the grid has no transform.
        ValueError: the type cannot hold the ids.
    """
    if len(geometries) > np.iinfo(dtype).max:
        raise ValueError(f"{len(geometries)} ids do not fit {dtype}")
    if grid.transform is None:
        raise DataError("outlines need a georeference, and the raster has none; give a label raster instead")
    shapely = library("shapely")
    order = sorted(range(len(geometries)), key=lambda index: (-shapely.area(geometries[index]), index))
    if not order:
        return np.zeros(grid.shape, dtype)
    wide = "uint32" if np.dtype(dtype).itemsize <= 4 else "float64"
    burnt = rasterio.features.rasterize(
        ((geometries[index], index + 1) for index in order),
        out_shape=grid.shape,
        transform=Affine(*grid.transform),
        dtype=wide,
    )
    return np.asarray(burnt, dtype=dtype)


def polygonise(mask: npt.NDArray[np.bool_], transform: Transform, window: Window | None = None) -> Geometry:
    """Outline of one object along the edges of its pixels.

    Args:
        mask: shape (row, col), bool; some pixel is True.
        transform: of the scene.
        window: where the mask lies in the scene; None: at its first pixel.

    Returns:
        A valid polygon, or a multipolygon where parts touch at corners only or not at all. Burnt again it gives the
        mask.
    """
    shapely = library("shapely")
    a, b, c, d, e, f = transform
    row, col = (0, 0) if window is None else (window.row, window.col)
    moved = (a, b, a * col + b * row + c, d, e, d * col + e * row + f)
    # Parts that touch at corners stay apart, so that no ring crosses itself there.
    parts, _ = polygonise_labels(mask, moved)
    if not len(parts):
        raise ValueError("a mask without a pixel has no outline")
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(parts))


def measures(geometries: Sequence[Geometry], crs: str | None) -> Measures:
    """Area, perimeter and centroid of polygons on the ground, whatever their CRS.

    Args:
        geometries: valid polygons.
        crs: theirs; None where it is not known, and nothing is then known of them.
    """
    if crs is None or length_unit_of(crs) == "px":
        return Measures.unknown(len(geometries))
    shapely = library("shapely")
    parts, polygon_of_part = shapely.get_parts(np.asarray(geometries, dtype=object), return_index=True)
    rings, part_of = shapely.get_rings(parts, return_index=True)
    points, ring_of = shapely.get_coordinates(rings, return_index=True)
    # The first ring of a part is its outer one.
    holes = np.diff(part_of, prepend=-1) == 0
    return measure_rings(points, ring_of, polygon_of_part[part_of], holes, crs)


def write_polygons(
    gpkg: Path,
    parquet: Path,
    geometries: Sequence[Geometry],
    attributes: Mapping[str, Any],
    crs: str | None,
) -> None:
    """Write polygons with attributes as GeoPackage and as GeoParquet, each whole or not at all.

    Args:
        gpkg: GeoPackage to write.
        parquet: GeoParquet to write.
        geometries: polygons and multipolygons; stored as multipolygons, since a layer has one type.
        attributes: column name -> a value for each polygon, also when there is none; arrays keep their types.
        crs: of the polygons.

    Raises:
        StorageError: the disk is full or closed.
        SettingsError: the extra is not installed.
        ValueError: a column has more or fewer values than there are polygons.
    """
    geopandas, shapely = library("geopandas"), library("shapely")
    many = [shape if shape.geom_type == "MultiPolygon" else shapely.MultiPolygon([shape]) for shape in geometries]
    for name, values in attributes.items():
        if len(values) != len(many):  # pandas would fill up whichever is shorter
            raise ValueError(f"column {name} has {len(values)} values for {len(many)} polygons")
    columns = {name: _column(values) for name, values in attributes.items()}
    table = geopandas.GeoDataFrame(columns, geometry=geopandas.GeoSeries(many, crs=crs), crs=crs)
    with atomic_path(parquet) as temporary, plain_path(temporary) as plain:
        table.to_parquet(plain)
    with (
        atomic_path(gpkg) as temporary,
        plain_path(temporary) as plain,
        _full_disk(gpkg),
        warnings.catch_warnings(),
    ):
        # A scene without a CRS has outlines without one; whoever mapped it has been told.
        warnings.filterwarnings("ignore", message=".*crs.* was not provided")
        table.to_file(plain, layer=LAYER, driver="GPKG", engine="pyogrio", geometry_type="MultiPolygon")
        _check_whole(Path(plain), gpkg, len(table))


def _check_whole(path: Path, gpkg: Path, count: int) -> None:
    """Refuse a GeoPackage that lacks what GDAL adds when it closes it: of a disk that is full by then it tells nobody.

    Args:
        path: where it lies.
        gpkg: what it is to be called.
        count: of the polygons.

    Raises:
        DiskError: so it is.
    """
    found = []
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as file:
        for value, table in (("count(*)", LAYER), ("feature_count", "gpkg_ogr_contents"), ("count(*)", _INDEX)):
            try:
                found.append(file.execute(f"select {value} from {table}").fetchone()[0])
            except sqlite3.Error:
                found.append(-1)
    if found != [count] * 3:
        raise DiskError(
            f"{gpkg}: cannot be written ({max(found[0], 0)} of {count} polygons are there, {max(found[2], 0)} in its "
            "index); is the disk full? free some space or write elsewhere"
        )


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    """GDAL tells of a full disk by what it could not do to the database, without an error number."""
    errors = importlib.import_module("pyogrio.errors")
    try:
        yield
    except (errors.FieldError, errors.GeometryError, errors.CRSError):
        raise  # faults of the table
    except (errors.DataSourceError, errors.DataLayerError) as error:
        reason = " ".join(str(error).split())
        raise DiskError(
            f"{path}: cannot be written ({reason}); is the disk full? free some space or write elsewhere"
        ) from error


def _column(values: Any) -> Any:
    import pandas

    if isinstance(values, list):  # bytes of a file's name that are no text are none in a table either
        values = [each.encode(errors="backslashreplace").decode() if isinstance(each, str) else each for each in values]
    # An empty list says nothing of its type; the empty lists of callers are names.
    return pandas.Series(values, dtype="str" if isinstance(values, list) and not values else None)


def library(name: Literal["geopandas", "shapely", "pyogrio"]) -> Any:
    """A library of the extra.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f'{name} is not installed: outlines and polygons need it; pip install "geocore[polygons]"'
        ) from error
