"""What lies beside a file and is read with it by GDAL, whoever put it there: overviews, masks, georeferences, tables.

GDAL opens `a.tif.ovr`, `a.tif.msk` and `a.aux` with any of its drivers, whatever the drivers for `a.tif` itself, and
would wait for ever for a pipe called `a.tfw`, as for one called `a.dbf` beside a Shapefile.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import re
from pathlib import Path
from typing import Final

from geocore.errors import SceneError
from geocore.formats import HEAD_BYTES, holds_pixels, what_else
from geocore.grid import NAMES_FILES, names_files
from geocore.specials import check_regular, open_regular

_RASTERS: Final = (".ovr", ".msk", ".aux")
_CRS_TEXTS: Final = (".aux.xml", ".prj", ".hdr")
"""Georeferences as texts, of a CRS in which GDAL opens the files that it names as soon as it reads it."""
_MOST_CRS_BYTES: Final = 1 << 24
_TEXTS: Final = re.compile(
    r"\.(aux\.xml|[a-z]{1,4}w|[a-z]{3,4}wx|wld|tab|prj|hdr|clr|sta|stx|rrd|ige|imd|rpb|pvl|xml|txt|tif\.xml)"
    r"|_(rpc|metadata|mtl|rpc_org|pvl)\.(txt|rpb|xml)"
    r"|\.(dbf|shx|cpg|sbn|sbx|qix|idm|ind)|-(wal|shm|journal)"  # of outlines
)
"""Behind the name of a raster with or without its own ending, in lower case."""
_MOST_LISTED: Final = 1000
"""GDAL, too, looks up no more entries of a folder (GDAL_READDIR_LIMIT_ON_OPEN), and then asks for plain names only."""
_PLAIN: Final = (
    ".ovr", ".OVR", ".msk", ".MSK", ".aux", ".AUX", ".aux.xml", ".tfw", ".TFW", ".pgw", ".jgw", ".wld", ".WLD", ".hdr",
    ".prj", ".dbf", ".shx", ".cpg", "-wal", "-journal",
)  # fmt: skip


def rasters_beside(path: Path) -> tuple[Path, ...]:
    """Files beside a raster that GDAL opens as rasters: overviews, masks, and statistics of ERDAS Imagine.

    Raises:
        SceneError: one of them is no raster that holds its own pixels, or what is read with the raster is a pipe, a
            socket or a device.
    """
    found = []
    for name in _entries(path):
        beside = path.with_name(name)
        try:
            if name.lower().endswith(_CRS_TEXTS):
                _check_crs(path, beside)
                continue
            if not name.lower().endswith(_RASTERS):
                check_regular(beside)
                continue
            with open_regular(beside) as file:
                head = file.read(HEAD_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SceneError(
                f"{path}: is read with {name}, which lies beside it and {error.strerror}: remove that"
            ) from error
        if holds_pixels(head):
            found.append(beside)
        elif not name.lower().endswith(".aux"):  # which is GDAL's only where it is of ERDAS Imagine
            what = what_else(head) or "no raster"
            raise SceneError(f"{path}: is read with {name}, which lies beside it and is {what}: remove that")
    return tuple(found)


def _check_crs(path: Path, beside: Path) -> None:
    with open_regular(beside) as file:
        text = file.read(_MOST_CRS_BYTES)
    if names_files(text.decode(errors="replace")):
        raise SceneError(f"{path}: its CRS, in {beside.name} beside it, {NAMES_FILES}")


def _entries(path: Path) -> list[str]:
    """Names of what GDAL may read with a raster, in the folder of it."""
    folder = path.parent
    try:
        state = folder.stat()
        names = _unusual(str(folder), state.st_ino, state.st_mtime_ns)
    except OSError:  # whoever opens the raster says why
        return []
    if names is None:
        found, fronts = [], [path.name, path.stem]
        for front in fronts:
            beside = [name for ending in _PLAIN if os.path.lexists(folder / (name := f"{front}{ending}"))]
            found += beside
            fronts += [name for name in beside if name.lower().endswith(_RASTERS)]  # overviews have masks, and so on
        return found
    stem = path.stem.lower()
    found = []
    # In the order of the alphabet, as a folder may hold a text for each of a thousand rasters.
    for lower, name in itertools.islice(names, bisect.bisect_left(names, (stem,)), None):
        if not lower.startswith(stem):
            break
        if name != path.name and (_belongs(lower, stem) or _belongs(lower, path.name.lower())):
            found.append(name)
    return found


def _belongs(name: str, begin: str) -> bool:
    rest = name.removeprefix(begin) if name.startswith(begin) else ""
    return _TEXTS.fullmatch(rest) is not None or (rest.startswith(".") and rest.endswith(_RASTERS))


# A folder changes when something is put into it; rasters are opened by the thousand where nothing is.
@functools.lru_cache(maxsize=256)
def _unusual(folder: str, inode: int, changed_ns: int) -> tuple[tuple[str, str], ...] | None:
    """Entries that are no plain files, or called as what is looked into, in lower case and as they are, sorted.

    None where there are too many.
    """
    names = []
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number == _MOST_LISTED:
                return None
            plain = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
            if not plain or entry.name.lower().endswith((*_RASTERS, *_CRS_TEXTS)):
                names.append((entry.name.lower(), entry.name))
    return tuple(sorted(names))
