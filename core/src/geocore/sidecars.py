"""What lies beside a file and is read with it by GDAL, whoever put it there: overviews, masks, georeferences, tables.

GDAL opens `a.tif.ovr`, `a.tif.msk` and `a.aux` with any of its drivers, whatever the drivers for `a.tif` itself, and
would wait for ever for a pipe called `a.tfw`, as for one called `a.dbf` beside a Shapefile.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Final

from geocore.errors import SceneError
from geocore.formats import HEAD_BYTES, holds_pixels, what_else
from geocore.specials import check_regular, open_regular

_RASTERS: Final = (".ovr", ".msk", ".aux")
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
    begins = (path.name.lower(), path.stem.lower())
    return [name for name in names if any(_belongs(name.lower(), begin) for begin in begins) and name != path.name]


def _belongs(name: str, begin: str) -> bool:
    rest = name.removeprefix(begin) if name.startswith(begin) else ""
    return _TEXTS.fullmatch(rest) is not None or (rest.startswith(".") and rest.endswith(_RASTERS))


# A folder changes when something is put into it; rasters are opened by the thousand where nothing is.
@functools.lru_cache(maxsize=256)
def _unusual(folder: str, inode: int, changed_ns: int) -> tuple[str, ...] | None:
    """Entries that are no plain files, or called as rasters beside others are; None where there are too many."""
    names = []
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number == _MOST_LISTED:
                return None
            if entry.name.lower().endswith(_RASTERS) or not (
                entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
            ):
                names.append(entry.name)
    return tuple(names)
