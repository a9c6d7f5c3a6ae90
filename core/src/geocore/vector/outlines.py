"""Outlines read from vector files for one scene, with a report of what became of each.

Needs the extra `geocore[polygons]` (geopandas, shapely, pyogrio, pyarrow), imported where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError, UserError
from geocore.raster.extents import Extent, crs_name, extent_of, likely_cause
from geocore.raster.grid import Grid, parse_crs, same_crs
from geocore.storage.names import plain_path
from geocore.vector.attributes import check_negatives, class_columns, listed_counts, selected, texts_of
from geocore.vector.features import Geometry, check_vectors, library

OUTLINE_EXTENSIONS: Final = (".gpkg", ".shp", ".geojson", ".json", ".parquet", ".geoparquet")
"""Files of outlines, in lower case."""

_PARQUET: Final = (".parquet", ".geoparquet")
_GEOJSON: Final = (".geojson", ".json")
_POLYGONS: Final = ("Polygon", "MultiPolygon")

_KEPT: Final = "on the scene"
_OUTSIDE: Final = "outside it"
_EMPTY: Final = "empty"
_POINT: Final = "point"
_LINE: Final = "line"
_AREALESS: Final = "without an area"
_NOWHERE: Final = "without a place in its CRS"

Texts = npt.NDArray[Any]
"""Shape (feature,), text."""


@dataclass(frozen=True, slots=True)
class Outlines:
    """The polygons of a file that lie on a scene."""

    geometries: list[Geometry]
    """Valid polygons and multipolygons in the scene's CRS, in the file's order, whole where its border cuts them."""
    values: list[str]
    """Of the column that was asked for, one for each polygon, "" where there is none; empty without a column."""
    notes: tuple[str, ...]
    """For people, each a line: what was read, brought to another CRS, cut by the border, repaired and left out; and
    columns that look like classes and are not used."""


def read_outlines(
    path: Path,
    grid: Grid,
    *,
    scene: str = "the scene",
    column: str | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
) -> Outlines:
    """Read the polygons of a file that lie on a scene, repaired and in its CRS.

    Args:
        path: GeoPackage, Shapefile, GeoJSON or GeoParquet; of several layers the only one with polygons is read, and
            where none has polygons alone, the only one of mixed geometries.
        grid: of the scene.
        scene: its name, for messages.
        column: attribute whose value is wanted of every polygon.
        where: attribute -> values of the features that are read, as of `geocore.vector.attributes.parse_where`.

    Returns:
        No polygon where the file holds no feature, or none that `where` selects: all of the scene is background.

    Raises:
        DataError: the file is missing, no vector file, a table without geometries, or has several layers with polygons;
            the scene has no transform, or one of scene and file no CRS; a column is missing, or looks like a class that
            some features are not of while there is neither `column` nor `where`; or there are features, but none is a
            polygon, or none lies on the scene.
        SettingsError: the extra is not installed.
    """
    shapely = library("shapely")
    if grid.transform is None:
        raise DataError(f"{path}: outlines need a georeference, and {scene} has none; give a label raster of its shape")
    table = _read(path)
    if not len(table):
        return Outlines([], [], (f"{path.name}: holds no outline: all of {scene} is background",))
    crs = None if table.crs is None else _crs_of(table)
    _check_crs(path, crs, grid.crs, scene)
    columns = class_columns(table)
    if column is None and not where:
        check_negatives(path, columns)
    said = f"{path.name}: {_some(len(table))}"
    if where:
        table = table[selected(path, table, where)]
        wanted = " and ".join(f"{name}={'/'.join(values)}" for name, values in where.items())
        said += f", of which {len(table)} have {wanted}"
        if not len(table):
            return Outlines([], [], (f"{said}: all of {scene} is background",))
    given = shapely.force_2d(np.asarray(table.geometry, dtype=object))
    moved = _moved(given, table, grid)
    if moved is not given:
        said += f", brought from {crs_name(crs)} to {crs_name(grid.crs)}"
    area = _area_of(grid)
    try:
        shapes, states, repaired = _polygons(given, moved)
        _check_kinds(path, states)
        inside = states == _KEPT
        inside[inside] = shapely.intersects(shapes[inside], area) & ~shapely.touches(shapes[inside], area)
    except shapely.errors.GEOSException as error:
        raise DataError(
            f"{path}: an outline cannot be worked with ({' '.join(str(error).split())[:160]}); mend it (in QGIS: Fix "
            "geometries) or remove it"
        ) from error
    states[(states == _KEPT) & ~inside] = _OUTSIDE
    if not inside.any():
        raise DataError(_elsewhere(path, given, crs, grid, scene))
    cut = ~shapely.covers(area, shapes[inside])
    notes = [f"{said}: {_became(scene, states, int(cut.sum()), int((repaired & inside).sum()))}"]
    notes += [
        f"{path.name}: column {name} looks like a class and is not used: {listed_counts(values)}; choose by it with "
        "--where, or make classes of it with --label-column"
        for name, values in columns.items()
        if name != column and name not in (where or {})
    ]
    values = [] if column is None else np.array(texts_of(path, table, column), object)[inside].tolist()
    return Outlines(list(shapes[inside]), values, tuple(notes))


def _became(scene: str, states: Texts, cut: int, repaired: int) -> str:
    """What became of features, in words."""
    said = [f"{int((states == _KEPT).sum())} on {scene}"]
    said += [f"{count} {what}" for count, what in ((cut, "of them cut by its border"), (repaired, "repaired")) if count]
    left_out = (_OUTSIDE, _EMPTY, _POINT, _LINE, _AREALESS, _NOWHERE)
    return ", ".join([*said, *_listed(states, left_out)])


def _listed(states: Texts, wanted: Iterable[str]) -> list[str]:
    """States with how many features are in them, but for those that none is in."""
    counted = ((int((states == state).sum()), state) for state in wanted)
    return [
        f"{count} {state}{'s' if count > 1 and state in (_POINT, _LINE) else ''}" for count, state in counted if count
    ]


def _some(count: int) -> str:
    return f"{count} outline{'s' if count != 1 else ''}"


def _read(path: Path) -> Any:
    """The features of a file as a GeoDataFrame.

    Raises:
        DataError: it cannot be read as one.
    """
    geopandas = library("geopandas")
    try:
        check_vectors(path)
        # Coordinates that are no numbers are told later.
        with plain_path(path) as plain, np.errstate(invalid="ignore"):
            # A relative path might begin as one of GDAL's own names do (PG:, WFS:).
            name = os.path.join(os.curdir, plain)
            if path.suffix.lower() in _PARQUET:
                table = geopandas.read_parquet(name)
            else:
                table = geopandas.read_file(name, layer=_layer(path, name))
    except UserError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; check the path") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}: must be a readable file; check the path") from error
    except Exception as error:  # the readers below raise many kinds
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{path}: cannot be read as outlines ({reason}); give GeoPackage, Shapefile, GeoJSON or GeoParquet"
        ) from error
    if not isinstance(table, geopandas.GeoDataFrame):
        raise DataError(f"{path}: holds no geometries; give a vector file of outlines")
    return table


def _layer(path: Path, name: str) -> str | None:
    """The layer to read; None leaves it to the reader."""
    pyogrio = library("pyogrio")
    kinds = {str(layer): str(kind) for layer, kind in pyogrio.list_layers(name) if kind is not None}
    layers = [name for name, kind in kinds.items() if "Polygon" in kind]
    # "Unknown" is what OGR calls a layer of mixed geometries.
    layers = layers or [name for name, kind in kinds.items() if "Unknown" in kind or "Collection" in kind]
    if len(layers) > 1:
        raise DataError(
            f"{path}: layers {', '.join(layers)} all hold polygons: save the one that is meant in a file of its own"
        )
    return next(iter(layers or kinds), None)


def _crs_of(table: Any) -> str:
    authority = table.crs.to_authority(min_confidence=100)
    return ":".join(authority) if authority else str(table.crs.to_wkt())


def _check_crs(path: Path, own: str | None, of_scene: str | None, scene: str) -> None:
    if own is None and of_scene is not None:
        raise DataError(
            f"{path}: states no CRS, and {scene} has {crs_name(of_scene)}: write it into the file (a .prj for a "
            "Shapefile)"
        )
    if own is not None and of_scene is None:
        raise DataError(
            f"{path}: is in {crs_name(own)}, and {scene} states no CRS, so that its place is not known: write it into "
            "the scene (gdal_edit.py -a_srs EPSG:CODE)"
        )


def _moved(shapes: npt.NDArray[Any], table: Any, grid: Grid) -> npt.NDArray[Any]:
    """Geometries in the scene's CRS, shape (feature,)."""
    if grid.crs is None or same_crs(table.crs.to_wkt(), grid.crs):
        return shapes
    series = library("geopandas").GeoSeries(shapes, crs=table.crs)
    return np.asarray(series.to_crs(parse_crs(grid.crs)), dtype=object)


def _polygons(
    given: npt.NDArray[Any], moved: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], Texts, npt.NDArray[np.bool_]]:
    """Valid polygons of features.

    Returns:
        Polygons, None where there is none; what became of each feature, or `_KEPT`; which were repaired; each of shape
        (feature,).
    """
    shapely = library("shapely")
    # After the move, which can spoil a shape, and only what has a place: the repair cannot handle infinity.
    coordinates, owners = shapely.get_coordinates(moved, return_index=True)
    placed = np.ones(len(moved), np.bool_)
    placed[owners[~np.isfinite(coordinates).all(axis=1)]] = False
    finite = np.where(placed, moved, np.array(None, object))
    invalid = ~shapely.is_valid(finite) & ~shapely.is_missing(finite)
    mended = np.where(invalid, shapely.make_valid(finite), finite)
    shapes, states = np.full(len(given), None, object), np.full(len(given), _KEPT, object)
    for index, (before, after) in enumerate(zip(given, mended, strict=True)):
        if before is None or before.is_empty:
            states[index] = _EMPTY
        elif not placed[index]:
            states[index] = _NOWHERE
        elif (polygonal := _polygonal(after)) is not None:
            shapes[index] = polygonal
        else:
            states[index] = _kind_of(before)
    return shapes, states, invalid & (states == _KEPT)


def _kind_of(shape: Geometry) -> str:
    """What a geometry without an area is."""
    parts = getattr(shape, "geoms", [])
    if shape.geom_type == "GeometryCollection" and len(parts):
        return _kind_of(parts[0])
    if "Point" in shape.geom_type:
        return _POINT
    return _LINE if "Line" in shape.geom_type else _AREALESS


def _polygonal(shape: Geometry) -> Geometry | None:
    """The polygons of a geometry, repaired ones among them; None where there is no area."""
    if shape.geom_type in _POLYGONS:
        return shape if shape.area > 0 else None
    parts = [part for part in getattr(shape, "geoms", []) if part.geom_type in _POLYGONS and part.area > 0]
    return library("shapely").union_all(parts) if parts else None


def _check_kinds(path: Path, states: Texts) -> None:
    """Refuse a file that has features, and no polygon among them.

    Raises:
        DataError: so it is; points and lines are named.
    """
    if (states == _KEPT).any() or (states == _NOWHERE).any():
        return
    held = ", ".join(_listed(states, dict.fromkeys(states)))
    remedy = {
        _POINT: "draw polygons, or buffer the points by what they stand for",
        _LINE: "close them (in QGIS: Lines to polygons)",
    }.get(str(states[0]), "draw polygons")
    raise DataError(f"{path}: holds {held} and no polygon: an outline is a polygon around its object; {remedy}")


def _area_of(grid: Grid) -> Geometry:
    """The ground of a raster as a polygon."""
    assert grid.transform is not None
    corners = [(0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height)]
    return library("shapely").Polygon([grid.transform @ corner for corner in corners])


def _elsewhere(path: Path, given: npt.NDArray[Any], crs: str | None, grid: Grid, scene: str) -> str:
    """What to say of features none of which lies on the scene."""
    if not np.isfinite(library("shapely").get_coordinates(given)).all():
        return (
            f"{path}: 0 of {len(given)} outlines lie on {scene}, and some have coordinates that are no numbers; mend it"
        )
    # As the file has them: what lies elsewhere may have no place in the scene's CRS.
    left, bottom, right, top = (float(value) for value in library("shapely").total_bounds(given))
    found, area = Extent(left, bottom, right, top, crs), extent_of(grid)
    assert area is not None
    count = f"{path}: 0 of {len(given)} outlines lie on {scene}: they span {found}, and {scene} {area}"
    if found.meets(area):
        return f"{count}; give the outlines of this scene, or an empty file where it truly has none"
    standard = path.suffix.lower() in _GEOJSON and crs_name(crs) == "EPSG:4326"
    rule = " (GeoJSON without crs is longitude and latitude, RFC 7946)" if standard else ""
    return f"{count}: {likely_cause(found, area)}{rule}"
