"""Where a raster lies: a file, or an address that GDAL reads by ranges through HTTP or S3."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

Location = Path | str
"""A path, or the text of an address: as a path it would lose one of its slashes."""

_SCHEMES: Final = ("http", "https", "s3")
_PATIENCE: Final = MappingProxyType(
    {
        # Listing the folder of an address would fetch what nobody asked for.
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_HTTP_CONNECTTIMEOUT": "10",
        # A server that sends less than a byte a second for half a minute has gone.
        "GDAL_HTTP_LOW_SPEED_TIME": "30",
        "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
        "GDAL_HTTP_MAX_RETRY": "3",
        "GDAL_HTTP_RETRY_DELAY": "1",
    }
)


def is_remote(location: Location) -> bool:
    """Whether a location is an address: http://, https:// or s3://."""
    return isinstance(location, str) and urlsplit(location).scheme.lower() in _SCHEMES


def located(location: Location) -> Location:
    """The text of an address as it is, everything else as a path."""
    return location if is_remote(location) else Path(location)


def name_of(location: Location) -> str:
    """Name of the file without folders and ending, for products and messages."""
    return PurePosixPath(urlsplit(str(location)).path).stem if is_remote(location) else Path(location).stem


def shown(location: Location) -> str:
    """A location for messages and records: an address without what may be a password or a signature."""
    if not is_remote(location):
        return str(location)
    parts = urlsplit(str(location))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def access(location: Location) -> AbstractContextManager[Any]:
    """How GDAL is to read a location, for the thread that enters: a server that does not answer is given up.

    GDAL's own environment variables take precedence; those of S3 (AWS_PROFILE, AWS_NO_SIGN_REQUEST, ...) count too.
    """
    if not is_remote(location):
        return nullcontext()
    import rasterio

    return rasterio.Env(**{key: value for key, value in _PATIENCE.items() if key not in os.environ})  # type: ignore[no-any-return]
