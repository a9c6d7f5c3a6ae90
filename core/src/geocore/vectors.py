"""What vector files are and claim, looked at before their readers, who run what a file asks for, as long as it asks.

GDAL follows a virtual layer or the address of a service, whatever the file is called, to other files and servers. A
view of a GeoPackage is a program, a thousand bytes of Parquet are a million rows, and geometries that lie in each other
are read by recursion in C until its stack ends.
"""

from __future__ import annotations

import os
import re
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from geocore.errors import DataError
from geocore.formats import what_else
from geocore.grid import NAMES_FILES, names_files
from geocore.memory import most_at_once
from geocore.sidecars import rasters_beside
from geocore.specials import open_regular

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
