"""GDAL's handles of raster files: opened with threads that decode, and refused in one clear line."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from geocore.errors import SceneError
from geocore.formats import CAMERA_RAW, why_unread
from geocore.georeferences import unreferenced_allowed
from geocore.locations import Location, shown

# A forked process has GDAL's list of threads but not the threads, and would wait for them for ever.
_PROCESS = os.getpid()


def open_handle(path: Location) -> Any:
    """Open a rasterio dataset, for reading.

    Args:
        path: a file or an address; within `locations.access`.

    Raises:
        SceneError: it is missing, no raster, a camera's raw file, or out of reach.
    """
    if isinstance(path, Path) and path.suffix.lower() in CAMERA_RAW and path.is_file():
        raise SceneError(f"{path}: {why_unread(path)}")
    try:
        # As configuration, since drivers that know no such option would warn of it. Threads of a remote file would also
        # fetch, outside of what `access` asks for, and print its errors.
        with unreferenced_allowed(), rasterio.Env(GDAL_NUM_THREADS=threads() if isinstance(path, Path) else "1"):
            return rasterio.open(path)
    except RasterioError as error:
        if not isinstance(path, Path):
            raise SceneError(
                f"{shown(path)}: cannot be opened as a raster ({reason_of(error)}); check the address, and that its "
                "server answers and lets you in"
            ) from error
        try:
            empty = path.stat().st_size == 0
        except FileNotFoundError:
            raise SceneError(f"{path}: there is no such file; check the path") from error
        except OSError as closed:
            raise SceneError(f"{path}: {closed.strerror}: must be a readable file; check the path") from error
        if path.is_dir():
            raise SceneError(f"{path} is a folder: a raster file is needed; name one of its files") from error
        if not empty and (why := why_unread(path)) is not None:
            raise SceneError(f"{path}: {why}") from error
        reason = "it is empty" if empty else reason_of(error)
        raise SceneError(
            f"{path}: cannot be opened as a raster ({reason}); give a GeoTIFF, TIFF, PNG or JPEG file"
        ) from error


def lossy_compression(dataset: Any) -> str | None:
    """What an open rasterio dataset is compressed with, where that changes values; None where it keeps them.

    A VRT is as its sources are.
    """
    for source in dataset.files[1:] if dataset.driver == "VRT" else ():
        if Path(source).is_file() and Path(source) != Path(dataset.name):
            with closing(open_handle(Path(source))) as part:
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


def remedy_for(path: Location) -> str:
    """What to do when reading fails after opening did not."""
    if isinstance(path, Path):
        return "the file is damaged or incomplete: copy or make it again"
    return "the server does not answer as it should, or the file is damaged: try again"


def threads() -> str:
    """How many threads compress and decompress blocks, as GDAL takes it; they are GDAL's and shared by all files."""
    return "ALL_CPUS" if os.getpid() == _PROCESS else "1"


def reason_of(error: BaseException) -> str:
    """The first cause of a chain in one short line; rasterio's own text only points to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:160].rstrip(".")
