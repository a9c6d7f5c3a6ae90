"""Vector files and their features: judged before they are read, burnt onto a grid, traced, measured, written.

GDAL follows a virtual layer or the address of a service, whatever the file is called, to other files and servers. A
view of a GeoPackage is a program, a thousand bytes of Parquet are a million rows, and geometries that lie in each other
are read by recursion in C until its stack ends. So a file is looked at before its reader is, who runs what it asks for.

Needs the extra `geocore[polygons]` (geopandas, shapely, pyogrio, pyarrow), imported where it is used.
"""

from __future__ import annotations

import importlib
import os
import re
import sqlite3
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import rasterio.features
from affine import Affine

from geocore.errors import DataError, DiskError, SettingsError
from geocore.raster.formats import rasters_beside, what_else
from geocore.raster.grid import NAMES_FILES, Grid, Window, length_unit_of, names_files
from geocore.raster.ground import Measures, measure_rings
from geocore.storage.files import atomic_path
from geocore.storage.memory import most_at_once
from geocore.storage.names import plain_path
from geocore.storage.special_files import open_regular
from geocore.vector.polygonize import polygonize_labels

_SQLITE: Final = b"SQLite format 3\0"
_PARQUET: Final = b"PAR1"
_SHAPEFILE: Final = b"\0\0\x27\x0a"
_FOLLOWED: Final = re.compile(rb"<OGR|<VRTDataset|gdal_streamed_alg")
"""Words anywhere in a text by which GDAL takes it for one that leads to other files or to addresses; the signatures of
the other formats leave no room for them in front of a zero byte, up to which it looks."""
_HEAD_BYTES: Final = 1 << 16
_PIECE_BYTES: Final = 1 << 20
_OVERLAP_BYTES: Final = 1 << 10
_VALUE_OF_PATH: Final = re.compile(rb'"value"\s*:\s*"[^"]*[/\\\\]')
"""A parameter of a CRS in PROJJSON that is a path."""
_ESCAPED: Final = re.compile(rb"\\u00([2-7][0-9a-fA-F])")
"""A character of ASCII that JSON needs not to escape."""
# An index in a tree is a table that SQLite itself keeps.
_PROGRAM: Final = re.compile(r"create\s+virtual\s.*\busing\s+(?!rtree\b)|\bgenerated\s+always\b|\bas\s*\(", re.I | re.S)
_MOST_NESTED: Final = 32
"""As GDAL reads them."""
_SHX_HEADER_BYTES, _SHX_RECORD_BYTES, _SHP_LEAST_BYTES = 100, 8, 12
_PARTS: Final = frozenset((4, 5, 6, 7, 9, 10, 11, 12, 15, 16))
"""Kinds of geometries that hold others, by their numbers in well-known binary (OGC 06-103r4, 8.2)."""
_LINES: Final = (2, 8, 13)
_RINGS: Final = (3, 14, 17)


def check_vectors(path: Path) -> None:
    """Refuse a file that would lead its reader elsewhere, or take it far more memory or time than its size.

    Args:
        path: GeoPackage, Shapefile, GeoJSON or GeoParquet, by its content.

    Raises:
        DataError: it is something else, or a pipe or a device lies beside it that is read with it; or it holds a view
            or another program, more rows or values than bytes could hold, or geometries that lie in each other too
            deeply.
        OSError: it cannot be opened, or is no file of data.
    """
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
    rasters_beside(path)
    if head.startswith(_SQLITE):
        _check_geopackage(path)
    elif head.startswith(_PARQUET):
        _check_parquet(path)
    elif head.startswith(_SHAPEFILE):
        _check_shapefile(path)
    elif head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and not _FOLLOWED.search(head):
        _check_geojson(path)
    else:
        found = f"is {what_else(head) or 'of another format'}" if head else "is empty"
        raise DataError(
            f"{path}: cannot be read as outlines (it {found}); give GeoPackage, Shapefile, GeoJSON or GeoParquet"
        )


def _check_crs(path: Path, text: str) -> None:
    """GDAL opens the files that a CRS names as soon as it reads it."""
    if names_files(text):
        raise DataError(f"{path}: its CRS {NAMES_FILES}")


def _check_geojson(path: Path) -> None:
    """A CRS of its own, as files older than RFC 7946 have it, may stand anywhere."""
    names, has_crs = False, False
    with open_regular(path) as file:
        end = b""
        while piece := file.read(_PIECE_BYTES):
            text = end + piece
            if b"\\u00" in text:
                text = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text)
            has_crs = has_crs or b'"crs"' in text
            names = names or names_files(text.decode("latin-1"))
            end = piece[-_OVERLAP_BYTES:]
    if has_crs and names:
        raise DataError(f"{path}: its CRS {NAMES_FILES}")


def _check_geopackage(path: Path) -> None:
    """Views, tables of modules and computed columns are programs, which run when rows are read, maybe for ever."""
    try:
        # As it lies there: nothing is locked, and no journal of a writer is played back.
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)) as database:
            entries = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
            for kind, name, text in entries:
                if kind == "view" or (kind == "table" and _PROGRAM.search(str(text))):
                    raise DataError(
                        f"{path}: {str(name)[:60]} is a view or a computed table, which runs as a program when it is "
                        "read: save the outlines as a table: ogr2ogr OUT.gpkg IN.gpkg LAYER"
                    )
            for row in database.execute("SELECT * FROM gpkg_spatial_ref_sys"):
                _check_crs(path, str(row))
    except sqlite3.Error:
        return


def _check_shapefile(path: Path) -> None:
    """An index with more records than the file has room for is read to its end."""
    for suffix in (".shx", ".SHX"):
        index = path.with_suffix(suffix)
        if index.is_file():
            records = (index.stat().st_size - _SHX_HEADER_BYTES) // _SHX_RECORD_BYTES
            if records > path.stat().st_size // _SHP_LEAST_BYTES:
                raise DataError(
                    f"{path}: its index ({index.name}) lists {records} outlines, which {path.stat().st_size} bytes "
                    "cannot hold; the file is damaged: copy it or get it again"
                )


def _check_parquet(path: Path) -> None:
    from pyarrow import ArrowException, parquet

    size = os.path.getsize(path)
    try:
        file = parquet.ParquetFile(path)
    except (ArrowException, OSError, ValueError):
        return
    with file:
        held = file.metadata
        if _VALUE_OF_PATH.search((held.metadata or {}).get(b"geo", b"")):
            raise DataError(f"{path}: its CRS {NAMES_FILES}")
        groups = [held.row_group(number) for number in range(held.num_row_groups)]
        unpacked = sum(group.column(n).total_uncompressed_size for group in groups for n in range(group.num_columns))
        if held.num_rows > size or unpacked > most_at_once(size):
            what = f"{held.num_rows} outlines" if held.num_rows > size else f"{unpacked / 2**30:.2g} GiB of values"
            raise DataError(
                f"{path}: promises {what}, far more than its {size} bytes can hold: the file is damaged, or has to be "
                "written anew with the outlines that are meant"
            )
        for name in _binary_columns(file):
            if _lies_deep(file, name):
                raise DataError(
                    f"{path}: a geometry of {name} holds others more than {_MOST_NESTED} levels deep: an outline is a "
                    "polygon; write its parts by themselves"
                )


def _binary_columns(file: Any) -> list[str]:
    from pyarrow import types

    kinds = {
        field.name: field.type.value_type if types.is_dictionary(field.type) else field.type
        for field in file.schema_arrow
    }
    return [name for name, kind in kinds.items() if types.is_binary(kind) or types.is_large_binary(kind)]


def _lies_deep(file: Any, column: str) -> bool:
    from pyarrow import compute

    for batch in file.iter_batches(columns=[column]):
        values = batch.column(0)
        values = values.dictionary if hasattr(values, "dictionary") else values
        heads = compute.binary_slice(values, 0, 5)
        mixed = {head for head in heads.unique().to_pylist() if head and len(head) == 5 and _kind_of(head)[1] in _PARTS}
        if mixed:
            found = (value.as_py() for head, value in zip(heads.to_pylist(), values, strict=True) if head in mixed)
            if any(map(is_nested, found)):
                return True
    return False


def _kind_of(head: bytes) -> tuple[str, int, int, bool]:
    """Byte order, kind and axes of a geometry, and whether the number of a CRS follows, as PostGIS writes it."""
    order = "<" if head[0] else ">"
    (number,) = struct.unpack(f"{order}I", head[1:5])
    thousands, kind = divmod(number & 0x0FFFFFFF, 1000)
    axes = 2 + bool(number & 0x80000000) + bool(number & 0x40000000) + {1: 1, 2: 1, 3: 2}.get(thousands, 0)
    return order, kind, axes, bool(number & 0x20000000)


def is_nested(shape: bytes) -> bool:
    """Whether a geometry in well-known binary holds others more than 32 levels deep.

    Damage is for its reader to tell.
    """
    left, at = [1], 0
    try:
        while left:
            if not left[-1]:
                left.pop()
                continue
            left[-1] -= 1
            order, kind, axes, has_id = _kind_of(shape[at : at + 5])
            at += 9 if has_id else 5
            if kind == 1:
                at += 8 * axes
                continue
            (count,) = struct.unpack_from(f"{order}I", shape, at)
            at += 4
            if kind in _LINES:
                at += 8 * axes * count
            elif kind in _RINGS:
                for _ in range(count):
                    (points,) = struct.unpack_from(f"{order}I", shape, at)
                    at += 4 + 8 * axes * points
            elif kind in _PARTS:
                left.append(count)
                if len(left) > _MOST_NESTED:
                    return True
            else:
                return False
    except (struct.error, IndexError):
        pass
    return False


Geometry = Any
"""A shapely Polygon or MultiPolygon."""

LAYER: Final = "polygons"
"""Name of the layer in every GeoPackage that is written."""
_INDEX: Final = f"rtree_{LAYER}_geom"
"""Spatial index of the layer, a table beside it."""


def rasterize(geometries: Sequence[Geometry], grid: Grid, dtype: str = "uint32") -> npt.NDArray[Any]:
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
        transform=grid.transform,
        dtype=wide,
    )
    return np.asarray(burnt, dtype=dtype)


def polygonize(mask: npt.NDArray[np.bool_], transform: Affine, window: Window | None = None) -> Geometry:
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
    moved = transform if window is None else transform @ Affine.translation(window.col, window.row)
    # Parts that touch at corners stay apart, so that no ring crosses itself there.
    parts, _ = polygonize_labels(mask, moved)
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
    _write_parquet(parquet, table)
    _write_gpkg(gpkg, table)


def write_table(path: Path, table: Any) -> None:
    """Write a GeoDataFrame of polygons, whole or not at all.

    Args:
        path: ending in .gpkg, .parquet or .geoparquet.
        table: whose geometries are polygons or multipolygons.

    Raises:
        SettingsError: the path ends otherwise.
        StorageError: the disk is full or closed.
    """
    if path.suffix.lower() == ".gpkg":
        shapely = library("shapely")
        many = [
            shape if shape.geom_type == "MultiPolygon" else shapely.MultiPolygon([shape]) for shape in table.geometry
        ]
        _write_gpkg(path, table.set_geometry(library("geopandas").GeoSeries(many, index=table.index, crs=table.crs)))
    elif path.suffix.lower() in (".parquet", ".geoparquet"):
        _write_parquet(path, table)
    else:
        raise SettingsError(f"{path}: polygons are written as .gpkg or .parquet; give a name that ends so")


def _write_parquet(path: Path, table: Any) -> None:
    with atomic_path(path) as temporary, plain_path(temporary) as plain:
        table.to_parquet(plain)


def _write_gpkg(path: Path, table: Any) -> None:
    with (
        atomic_path(path) as temporary,
        plain_path(temporary) as plain,
        _full_disk(path),
        warnings.catch_warnings(),
    ):
        # A scene without a CRS has outlines without one; whoever mapped it has been told.
        warnings.filterwarnings("ignore", message=".*crs.* was not provided")
        table.to_file(plain, layer=LAYER, driver="GPKG", engine="pyogrio", geometry_type="MultiPolygon")
        _check_whole(Path(plain), path, len(table))


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
