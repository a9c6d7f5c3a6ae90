"""GDAL's raster files: opened with threads that decode or refused in one clear line, and where their pixels lie."""

from __future__ import annotations

import functools
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from geocore.errors import DataError, SceneError
from geocore.raster.formats import (
    CAMERA_RAW,
    HEAD_BYTES,
    holds_pixels,
    is_virtual,
    rasters_beside,
    what_else,
    why_unread,
)
from geocore.raster.grid import NAMES_FILES, ControlPoint, Grid, length_unit_of, names_files
from geocore.raster.headers import check_texts
from geocore.raster.paths import VARIABLE, Location, redacted
from geocore.raster.vrt import MOST_NESTED, named_in
from geocore.storage.names import is_text, plain_path
from geocore.storage.special_files import check_regular, open_regular

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
    if not all(map(math.isfinite, transform[:6])) or transform.determinant == 0:
        raise SceneError(
            f"its transform {tuple(transform[:6])} leads nowhere: must be finite, with pixels that have an area; write "
            "it anew: gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM"
        )
    return Grid(dataset.height, dataset.width, transform, crs, length_unit=length_unit_of(crs))


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
        options["transform"] = grid.transform
    elif grid.gcps:
        options.setdefault("crs", CRS())  # none is not taken for no CRS here
        options["gcps"] = [
            GroundControlPoint(row=p.row, col=p.col, x=p.x, y=p.y, z=p.z, id=str(number))
            for number, p in enumerate(grid.gcps, start=1)
        ]
    return options


FORMATS: Final = (
    "GTiff", "PNG", "JPEG", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JPEG2000", "WEBP", "BMP", "GIF", "BIGGIF", "PNM",
    "HFA", "ENVI", "EHdr", "AAIGrid", "SRTMHGT", "DTED",
)  # fmt: skip
"""GDAL's drivers of formats whose pixels lie in the file itself, or in the one that its header lies beside: all others,
such as WMS, GTI, STACIT, MRF, ERS, PCIDSK, netCDF or Zarr, may lead to other files or to an address."""

_MOST_BANDS: Final = 10_000
"""Each is asked for its type, its mask, its unit and more, in a tenth of a millisecond; some callers ask repeatedly."""

# A forked process has GDAL's list of threads but not the threads, and would wait for them for ever.
_PROCESS = os.getpid()


def open_dataset(path: Location) -> Any:
    """Open a rasterio dataset, for reading.

    Only formats that hold their own pixels are opened, and a virtual raster (.vrt) that names such files in its own
    folder or below a stated root (`geocore.raster.paths`): a file reaches for no other one, whatever it holds or is
    called.

    Args:
        path: a file or an address; within `paths.gdal_env`.

    Raises:
        SceneError: it is missing, no raster, a camera's raw file, out of reach, or reaches for other files.
        SettingsError: a stated root is neither a whole path nor an address.
    """
    if not isinstance(path, Path):
        return _open_remote(path)
    if path.suffix.lower() in CAMERA_RAW and path.is_file():
        raise SceneError(f"{path}: {why_unread(path)}")
    try:
        if path.suffix.lower() == ".vrt" and is_virtual(_head(path)):
            real = Path(os.path.realpath(path))
            _check_virtual(path, real.parent)
            for beside in rasters_beside(real):
                _check_pixels(beside)
            return _opened(real, ("VRT",))  # its names are taken relative to where it truly lies
        check_regular(path)
        return _open_alone(path)
    except RasterioError as error:
        raise SceneError(f"{path}: {_reason(path, error)}") from error
    except IsADirectoryError as error:
        raise SceneError(f"{path} is a folder: a raster file is needed; name one of its files") from error
    except FileNotFoundError as error:
        raise SceneError(f"{path}: there is no such file; check the path") from error
    except OSError as error:
        raise SceneError(f"{path}: {error.strerror}: must be a readable file; check the path") from error


def _open_alone(path: Path) -> Any:
    """Open a file that holds its own pixels.

    Raises:
        SceneError: it, or what is read with it, leads to other files.
        RasterioError: it is no such raster.
    """
    check_texts(path)
    for beside in rasters_beside(path):
        _check_pixels(beside)
    return _open_contained(path)


def _open_contained(location: Location) -> Any:
    dataset = _opened(location, FORMATS)
    try:
        _check_contained(dataset, location)
    except BaseException:
        dataset.close()
        raise
    return dataset


def _check_pixels(path: Path) -> None:
    """Refuse a file that leads to others, without keeping it open; each is looked at once while it stays what it is."""
    state = path.stat()
    _check_unchanged(path, state.st_ino, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=100_000)
def _check_unchanged(path: Path, inode: int, changed_ns: int, size: int) -> None:
    try:
        _open_contained(path).close()
    except RasterioError as error:
        raise SceneError(f"{path}: {_reason(path, error)}") from error


def _check_contained(dataset: Any, location: Location) -> None:
    """Refuse what a file names beside its pixels: overviews, files of its CRS, and spill files of ERDAS Imagine."""
    # Asked for first: GDAL opens them, with any driver, to list its files or to read fewer pixels.
    if (named := dataset.get_tag_item("OVERVIEW_FILE", "OVERVIEWS")) is not None:
        raise SceneError(
            f"{redacted(location)}: takes its overviews from another file ({named[:80]}), which is not followed: write "
            "the pixels anew: gdal_translate IN OUT.tif"
        )
    for crs in (dataset.crs, dataset.gcps[1]):
        if crs and names_files(crs.to_wkt()):
            raise SceneError(f"{redacted(location)}: its CRS {NAMES_FILES}")
    if dataset.driver == "HFA" and isinstance(location, Path):
        folder = os.path.realpath(location.parent)
        for file in dataset.files:
            if os.path.dirname(os.path.realpath(file)) != folder and Path(file) != Path(dataset.name):
                raise SceneError(
                    f"{location}: takes its pixels from {file}, which lies elsewhere: convert it where you trust it: "
                    "gdal_translate IN OUT.tif"
                )


def _check_virtual(path: Path, folder: Path, above: tuple[str, ...] = (), checked: set[str] | None = None) -> None:
    """Refuse a virtual raster that reaches for more than rasters in a folder, also through others that it names.

    Raises:
        SceneError: so it is, or a file that it names is missing or no raster.
        OSError: the VRT cannot be read.
    """
    real, checked = os.path.realpath(path), set() if checked is None else checked
    if real in above or len(above) == MOST_NESTED:
        raise SceneError(f"{path}: names itself, or is the {MOST_NESTED + 1}th one in another: build it from rasters")
    for named in named_in(path, folder=folder if above else None):
        place = named.place
        if not isinstance(place, Path) or str(place) in checked:
            continue
        try:
            if not named.whole:
                check_regular(place)
            elif is_virtual(head := _head(place)):
                if place.suffix.lower() != ".vrt":
                    raise SceneError(f"{path}: names {place}, which is {what_else(head)}: its name must end in .vrt")
                _check_virtual(place, folder, (*above, real), checked)
            elif not holds_pixels(head):
                raise SceneError(
                    f"{path}: names {place}, which is {what_else(head) or 'of a format without a signature'}: must be "
                    "a raster that holds its own pixels; convert it: gdal_translate IN OUT.tif"
                )
            else:
                _check_pixels(place)
            for beside in rasters_beside(place):
                _check_pixels(beside)
        except OSError as error:
            raise SceneError(f"{path}: names {place}: {error.strerror}: must be a raster; build it anew") from error
        checked.add(str(place))


def _head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(HEAD_BYTES)


def _open_remote(address: str) -> Any:
    try:
        return _open_contained(address)
    except RasterioError as error:
        remedy = "check the address, and that its server answers and lets you in"
        if urlsplit(address).path.lower().endswith(".vrt"):
            remedy = f"a virtual raster is read from a disk only: save it, and set {VARIABLE} to where its files lie"
        raise SceneError(f"{redacted(address)}: cannot be opened as a raster ({reason_of(error)}); {remedy}") from error


def _opened(location: Location, drivers: Sequence[str]) -> Any:
    # A relative path might begin as one of GDAL's own names do (GTIFF_DIR:1:, /vsizip/).
    name = os.path.join(os.curdir, location) if isinstance(location, Path) else location
    # Threads as configuration, since drivers that know no such option would warn of it. Those of a remote file would
    # also fetch, outside of what `access` asks for, and print its errors.
    with unreferenced_allowed(), rasterio.Env(GDAL_NUM_THREADS=threads() if isinstance(location, Path) else "1"):
        try:
            if isinstance(location, Path) and not is_text(location):
                with plain_path(location) as plain:  # all that lies beside it is found while it is opened
                    return _described(str(plain), drivers, location)
            return _described(name, drivers, location)
        except RasterioError:
            raise
        except Exception as error:
            # What rasterio raises of a header that GDAL has read, beside its own errors.
            if not isinstance(error, UnicodeError | CRSError) and not is_gdals(error):
                raise
            raise SceneError(
                f"{redacted(location)}: its header cannot be understood ({reason_of(error)}); write the pixels anew: "
                "gdal_translate IN OUT.tif"
            ) from error


def _described(name: str, drivers: Sequence[str], location: Location) -> Any:
    dataset = _reader(location, name, list(drivers))
    try:
        _check_described(dataset, location)
    except BaseException:
        dataset.close()
        raise
    return dataset


def _check_described(dataset: Any, location: Location) -> None:
    """Look at all that a file says of itself: what cannot be understood of it is told here, and nowhere else.

    Raises:
        SceneError: there is no band, or more than can be looked at.
    """
    if not dataset.count:
        raise SceneError(f"{redacted(location)}: has no band: save the raster that counts as a GeoTIFF of its own")
    if dataset.count > _MOST_BANDS:
        raise SceneError(
            f"{redacted(location)}: has {dataset.count} bands, and at most {_MOST_BANDS} can be read; write those that "
            "are meant to a file of their own: gdal_translate -b 1 -b 2 ... IN OUT"
        )
    for index in dataset.indexes:
        dataset.tags(index)
    for name in ("descriptions", "units", "scales", "offsets", "nodatavals", "colorinterp", "dtypes", "crs", "gcps"):
        getattr(dataset, name)
    dataset.tags()


# As `rasterio.open` does it, which takes no list of drivers; credentials are looked for where the first is no path.
@ensure_env_with_credentials  # type: ignore[untyped-decorator]
def _reader(location: Location, name: str, drivers: list[str]) -> Any:
    return DatasetReader(name, driver=drivers)


def _reason(path: Path, error: RasterioError) -> str:
    """Why GDAL does not open a file that can be read, and what to do."""
    head = _head(path)
    if head and (why := why_unread(path)) is not None:
        return why
    if is_virtual(head):
        return f"is {what_else(head)}: such a file is read under a name that ends in .vrt; rename it if you trust it"
    if (kind := what_else(head)) is not None:
        return f"is {kind}, which is not read: if you trust it, convert it: gdal_translate IN OUT.tif"
    reason = "it is empty" if not head else reason_of(error)
    return f"cannot be opened as a raster ({reason}); give a GeoTIFF, TIFF, PNG or JPEG file"


def lossy_compression(dataset: Any) -> str | None:
    """What an open rasterio dataset is compressed with, where that changes values; None where it keeps them.

    A VRT is as its sources are.
    """
    for source in dataset.files[1:] if dataset.driver == "VRT" else ():
        if Path(source).is_file() and Path(source) != Path(dataset.name):
            with closing(open_dataset(Path(source))) as part:
                if (found := lossy_compression(part)) is not None:
                    return f"{found} (of {Path(source).name})"
    tags = {**dataset.tags(ns="IMAGE_STRUCTURE"), **(dataset.tags(1, ns="IMAGE_STRUCTURE") if dataset.count else {})}
    compression = tags.get("COMPRESSION") or dataset.driver
    if dataset.driver == "JPEG" or "JPEG" in compression.split():
        return "JPEG"
    if tags.get("COMPRESSION_REVERSIBILITY", "").startswith("LOSSY"):
        return f"lossy {compression}"
    if float(tags.get("MAX_Z_ERROR", 0)) > 0:
        return f"{compression} with an error of up to {tags['MAX_Z_ERROR']}"
    return None


def read_hint(path: Location) -> str:
    """What to do when reading fails after opening did not."""
    if isinstance(path, Path):
        return "the file is damaged or incomplete: copy or make it again"
    return "the server does not answer as it should, or the file is damaged: try again"


def threads() -> str:
    """How many threads compress and decompress blocks, as GDAL takes it; they are GDAL's and shared by all files."""
    return "ALL_CPUS" if os.getpid() == _PROCESS else "1"


def is_gdals(error: BaseException) -> bool:
    """Whether an error is GDAL's, handed on as it came: rasterio's classes for them are no part of its API."""
    module = type(error).__module__
    return module.startswith("rasterio.") and module != RasterioError.__module__


def reason_of(error: BaseException) -> str:
    """The first cause of a chain in one short line; rasterio's own text only points to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:160].rstrip(".")
