"""Outlines and polygons: read from vector files, burnt onto a grid, traced along pixel edges, written with attributes.

Needs the extra `geocore[polygons]` (geopandas, shapely, pyogrio, pyarrow), imported where it is used.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import rasterio.features
from affine import Affine

from geocore.errors import DataError, SettingsError
from geocore.files import atomic_path
from geocore.grid import Grid, Transform, Window, length_unit_of, parse_crs, same_crs
from geocore.ground import Measures, measure_rings
from geocore.tracing import polygonise_labels

Geometry = Any
"""A shapely Polygon or MultiPolygon."""

_PARQUET: Final = (".parquet", ".geoparquet")
_GEOJSON: Final = (".geojson", ".json")


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons read from a file."""

    geometries: list[Geometry]
    """Valid polygons and multipolygons in the CRS that was asked for, in the file's order."""
    repaired: int
    """How many were not valid, such as those that cross themselves, and were made so."""
    dropped: int
    """How many were empty, held no area, such as lines and points, or have no place in the CRS."""


def read_outlines(path: Path, crs: str | None) -> Outlines:
    """Read polygons, repair them and bring them to a CRS.

    Args:
        path: GeoPackage, Shapefile, GeoJSON or GeoParquet; of several layers the only one with polygons is read, and
            where none has polygons alone, the only one of mixed geometries.
        crs: of the result; None takes coordinates as they are.

    Raises:
        DataError: the file is missing, no vector file or a table without geometries, has several layers with polygons,
            or states no CRS while one is asked for.
        SettingsError: the extra is not installed.
    """
    geopandas, shapely = _library("geopandas"), _library("shapely")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; check the path")
    try:
        if path.suffix.lower() in _PARQUET:
            table = geopandas.read_parquet(path)
        else:
            table = geopandas.read_file(path, layer=_layer(path))
    except DataError:
        raise
    except Exception as error:  # the readers below raise many kinds
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{path}: cannot be read as outlines ({reason}); give GeoPackage, Shapefile, GeoJSON or GeoParquet"
        ) from error
    if not isinstance(table, geopandas.GeoDataFrame):
        raise DataError(f"{path}: holds no geometries; give a vector file of outlines")
    shapes = geopandas.GeoSeries(shapely.force_2d(np.asarray(table.geometry, dtype=object)), crs=table.crs)
    if crs is not None and len(shapes):
        if table.crs is None:
            raise DataError(
                f"{path}: states no CRS, and the raster has one; write it into the file (a .prj for a Shapefile)"
            )
        if not same_crs(table.crs.to_wkt(), crs):
            shapes = shapes.to_crs(parse_crs(crs))
    # After the move, which can spoil a shape, and only what has a place: the repair cannot handle infinity.
    finite = np.where(np.isfinite(shapely.bounds(shapes.array)).all(axis=1), shapes.array, None)
    invalid = ~shapely.is_valid(finite) & ~shapely.is_missing(finite)
    shapes = [_polygonal(shape) for shape in np.where(invalid, shapely.make_valid(finite), finite)]
    kept = [shape for shape in shapes if shape is not None]
    repaired = sum(bool(bad) and shape is not None for bad, shape in zip(invalid, shapes, strict=True))
    return Outlines(kept, repaired, len(shapes) - len(kept))


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
    shapely = _library("shapely")
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
    shapely = _library("shapely")
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
    shapely = _library("shapely")
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
    *,
    layer: str,
) -> None:
    """Write polygons with attributes as GeoPackage and as GeoParquet, each whole or not at all.

    Args:
        gpkg: GeoPackage to write.
        parquet: GeoParquet to write.
        geometries: polygons and multipolygons; stored as multipolygons, since a layer has one type.
        attributes: column name -> a value for each polygon, also when there is none; arrays keep their types.
        crs: of the polygons.
        layer: name of the layer.

    Raises:
        StorageError: the disk is full or closed.
        SettingsError: the extra is not installed.
        ValueError: a column has more or fewer values than there are polygons.
    """
    geopandas, shapely = _library("geopandas"), _library("shapely")
    many = [shape if shape.geom_type == "MultiPolygon" else shapely.MultiPolygon([shape]) for shape in geometries]
    for name, values in attributes.items():
        if len(values) != len(many):  # pandas would fill up whichever is shorter
            raise ValueError(f"column {name} has {len(values)} values for {len(many)} polygons")
    columns = {name: _column(values) for name, values in attributes.items()}
    table = geopandas.GeoDataFrame(columns, geometry=geopandas.GeoSeries(many, crs=crs), crs=crs)
    with atomic_path(parquet) as temporary:
        table.to_parquet(temporary)
    with atomic_path(gpkg) as temporary, warnings.catch_warnings():
        # A scene without a CRS has outlines without one; whoever mapped it has been told.
        warnings.filterwarnings("ignore", message=".*crs.* was not provided")
        table.to_file(temporary, layer=layer, driver="GPKG", engine="pyogrio", geometry_type="MultiPolygon")


def _column(values: Any) -> Any:
    import pandas

    # An empty list says nothing of its type; the empty lists of callers are names.
    return pandas.Series(values, dtype="str" if isinstance(values, list) and not values else None)


def _polygonal(shape: Geometry) -> Geometry | None:
    """The polygons of a geometry, repaired ones among them; None where there is no area."""
    shapely = _library("shapely")
    if shape is None or shape.is_empty:
        return None
    if shape.geom_type in ("Polygon", "MultiPolygon"):
        return shape if shape.area > 0 else None
    parts = [part for part in _parts(shape) if part.geom_type in ("Polygon", "MultiPolygon") and part.area > 0]
    return shapely.union_all(parts) if parts else None


def _parts(shape: Geometry) -> Iterable[Geometry]:
    return getattr(shape, "geoms", [])


def _layer(path: Path) -> str | None:
    """The layer to read; None leaves it to the reader."""
    pyogrio = _library("pyogrio")
    kinds = {str(name): str(kind) for name, kind in pyogrio.list_layers(path) if kind is not None}
    layers = [name for name, kind in kinds.items() if "Polygon" in kind]
    # "Unknown" is what OGR calls a layer of mixed geometries.
    layers = layers or [name for name, kind in kinds.items() if "Unknown" in kind or "Collection" in kind]
    if len(layers) > 1:
        raise DataError(
            f"{path}: layers {', '.join(layers)} all hold polygons: save the one that is meant in a file of its own"
        )
    return next(iter(layers or kinds), None)


def _library(name: Literal["geopandas", "shapely", "pyogrio"]) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SettingsError(
            f'{name} is not installed: outlines and polygons need it; pip install "geocore[polygons]"'
        ) from error
