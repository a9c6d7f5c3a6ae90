"""Which files are read: by their names, by their first bytes, and with what lies beside them.

GDAL opens `a.tif.ovr`, `a.tif.msk` and `a.aux` with any of its drivers, whatever the drivers for `a.tif` itself, and
would wait for ever for a pipe called `a.tfw`, as for one called `a.dbf` beside a Shapefile.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from geocore.errors import SceneError
from geocore.raster.grid import NAMES_FILES, names_files
from geocore.storage.special_files import check_regular, open_regular

CAMERA_RAW: Final = frozenset(
    (
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc", ".mef", ".mos",
        ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    )
)  # fmt: skip
"""What cameras write before they make a picture of it. Many are TIFF files, of which GDAL opens a small preview."""

_UNREAD: Final = (
    ("camera raw files", "export TIFF", CAMERA_RAW),
    ("HEIF pictures", "export TIFF, PNG or JPEG", frozenset((".heic", ".heif", ".hif"))),
    ("AVIF pictures", "export TIFF, PNG or JPEG", frozenset((".avif",))),
    ("JPEG XL pictures", "export TIFF, PNG or JPEG", frozenset((".jxl",))),
    ("layered files", "export TIFF, PNG or JPEG", frozenset((".psb", ".psd", ".xcf"))),
    ("drawings", "export TIFF or PNG", frozenset((".ai", ".eps", ".svg"))),
    ("ECW and MrSID files", "convert to GeoTIFF with a program that has a licence", frozenset((".ecw", ".sid"))),
    ("archives", "unpack it and name what it holds", frozenset((".7z", ".gz", ".rar", ".tar", ".tgz", ".zip"))),
    ("films", "save frames as pictures", frozenset((".avi", ".m4v", ".mov", ".mp4"))),
)
"""What they are, what to do instead, and their endings."""


def why_unread(path: Path) -> str | None:
    """What a file is by its ending, that it is not read, and what to do; None of an ending that tells nothing.

    GDAL may be built to read some of these all the same, but never rightly what is in `CAMERA_RAW`.
    """
    ending = path.suffix.lower()
    return next((f"{kind} are not read: {remedy}" for kind, remedy, endings in _UNREAD if ending in endings), None)


def unread_among(paths: Iterable[Path]) -> str:
    """What to add to a message that something is missing: files beside it that are not read, but for hidden ones."""
    found: dict[str, list[str]] = {}
    for path in paths:
        if (reason := why_unread(path)) is not None and not path.name.startswith("."):
            found.setdefault(reason, []).append(path.name)
    return "".join(
        f"; {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {why}" for why, names in found.items()
    )


HEAD_BYTES: Final = 4096
"""Of a file's beginning, enough for what is told by it: GDAL itself looks at 1024 first."""

_OWN_PIXELS: Final = re.compile(
    rb"II\*\0|MM\0\*|II\+\0|MM\0\+"  # TIFF and BigTIFF
    rb"|\x89PNG\r\n\x1a\n\0"
    # A first segment that begins as it has to, since what follows the marker of a comment could be any text.
    rb"|\xff\xd8\xff(?s:.{0,8}?\0|\xe2..ICC_PROFILE\0|\xe1..http://ns\.adobe\.com/|\xed..Photoshop )"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51\0"  # JPEG 2000, in boxes and bare
    rb"|RIFF(?s:.{4})WEBPVP8[ LX]"
    rb"|BM(?s:.{4})\0\0\0\0"
    rb"|EHFA_HEADER_TAG\0"  # ERDAS Imagine
)
"""Formats whose files hold their own pixels, by signatures that leave no room for a text in front of a zero byte: GDAL
looks for the words of its texts, such as <VRTDataset, up to there."""
_TEXTS: Final = (
    (b"<VRTDataset", "a virtual raster (VRT), which names other files"),
    (b"<GDALTileIndexDataset", "a tile index (GTI), which names other files"),
    (b"<GDAL_WMS", "the address of a map service (WMS)"),
    (b"<WMS", "the address of a map service (WMS)"),
    (b"<GDAL_WMTS", "the address of a map service (WMTS)"),
    (b"<Capabilities", "the address of a map service (WMTS)"),
    (b"<WCS_GDAL", "the address of a map service (WCS)"),
    (b"<OGRVRTDataSource", "a virtual layer (OGR VRT), which names other files"),
    (b"<OGRWFSDataSource", "the address of a feature service (WFS)"),
    (b"<OGRCSWDataSource", "the address of a catalogue (CSW)"),
    (b"gdal_streamed_alg", "a list of commands of GDAL (GDALG)"),
    (b"<MRF_META", "an MRF header, which names other files"),
    (b"DatasetHeader ", "an ERS header, which names another file"),
    (b'"stac_version"', "a catalogue (STAC), which names other files"),
)
"""What must be in a text for GDAL to take it so, and what it is then."""
_SIGNATURES: Final = (
    (b"\x89HDF\r\n\x1a\n", "netCDF-4 or HDF5"),
    (b"CDF\x01", "netCDF-3"),
    (b"CDF\x02", "netCDF-3"),
    (b"CDF\x05", "netCDF-3"),
    (b"\x0e\x03\x13\x01", "HDF4"),
    (b"GRIB", "GRIB"),
    (b"SQLite format 3\0", "a database (SQLite), such as a GeoPackage"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"NITF", "NITF"),
    (b"<", "a text of XML or HTML"),
    (b"{", "a text of JSON"),
)


def holds_pixels(head: bytes) -> bool:
    """Whether a file is by its first bytes a raster that holds its own pixels, whoever asks GDAL to open it."""
    return _OWN_PIXELS.match(head) is not None


def is_virtual(head: bytes) -> bool:
    """Whether GDAL takes a file for a virtual raster by its first bytes."""
    return b"<VRTDataset" in head.partition(b"\0")[0]


def what_text(head: bytes) -> str | None:
    """What a text is by its first bytes that leads GDAL to other files or to an address; None of any other content."""
    text = head.partition(b"\0")[0]
    return next((kind for words, kind in _TEXTS if words in text), None)


def what_else(head: bytes) -> str | None:
    """What a file is by its first bytes that is no raster read here; None where they tell nothing."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return what_text(head) or next((kind for signature, kind in _SIGNATURES if start.startswith(signature)), None)


_RASTERS: Final = (".ovr", ".msk", ".aux")
_CRS_TEXTS: Final = (".aux.xml", ".prj", ".hdr")
"""Georeferences as texts, of a CRS in which GDAL opens the files that it names as soon as it reads it."""
_MOST_CRS_BYTES: Final = 1 << 24
_TEXT_SIDECARS: Final = re.compile(
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
    return _TEXT_SIDECARS.fullmatch(rest) is not None or (rest.startswith(".") and rest.endswith(_RASTERS))


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
