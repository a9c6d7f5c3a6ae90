"""Where a raster lies, a file or an address that GDAL reads by ranges, and which other files a file may name.

A virtual raster or a list of bands says where other files lie. Whoever made it may be a stranger, so that it reaches
nothing but what came with it, unless the environment variable `GEOCORE_ROOTS` states folders, separated as those of
PATH, or addresses (https://host/folder, s3://bucket/folder), whose files any file may name:

    GEOCORE_ROOTS=/data/dem:https://example.org/tiles

What the user names is not asked about, nor are links to files: a folder of links to data elsewhere is as good as any.
What a file names is, after links were followed, as a link can come with it.
"""

from __future__ import annotations

import os
import posixpath
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from geocore.errors import SceneError, SettingsError

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


def as_path_or_url(location: Location) -> Location:
    """The text of an address as it is, everything else as a path."""
    return location if is_remote(location) else Path(location)


def stem_of(location: Location) -> str:
    """Name of the file without folders and ending, for products and messages."""
    return PurePosixPath(urlsplit(str(location)).path).stem if is_remote(location) else Path(location).stem


def redacted(location: Location) -> str:
    """A location for messages and records: an address without what may be a password or a signature."""
    if not is_remote(location):
        return str(location)
    parts = urlsplit(str(location))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def gdal_env(location: Location) -> AbstractContextManager[Any]:
    """How GDAL is to read a location, for the thread that enters: a server that does not answer is given up.

    GDAL's own environment variables take precedence; those of S3 (AWS_PROFILE, AWS_NO_SIGN_REQUEST, ...) count too.
    """
    if not is_remote(location):
        return nullcontext()
    import rasterio

    return rasterio.Env(**{key: value for key, value in _PATIENCE.items() if key not in os.environ})  # type: ignore[no-any-return]


VARIABLE: Final = "GEOCORE_ROOTS"

_BETWEEN: Final = re.compile(rf"{re.escape(os.pathsep)}(?!//)(?!\d+(?:/|$))")
"""Not the colons in an address, in front of its host and its port."""


def check_named(named: Location, *, by: Path, folder: Path) -> None:
    """Refuse a file that another one names, unless it lies beside that or below a stated root.

    Args:
        named: the file, or its http://, https:// or s3:// address.
        by: the file that names it, for the message.
        folder: what lies in it, or in folders below, may be named.

    Raises:
        SceneError: it lies elsewhere.
        SettingsError: a stated root is neither a whole path nor an address.
    """
    place = place_of(named)
    if isinstance(named, Path) and _below(place, place_of(folder)):
        return
    if is_stated(named):
        return
    root = posixpath.dirname(redacted(named)) if is_remote(named) else os.path.dirname(place)
    rule = "not in the folder of the file that names it" if isinstance(named, Path) else "an address"
    raise SceneError(
        f"{by}: names {redacted(named)}, {rule}: if you trust it, set {VARIABLE}={root} to let files name it"
    )


def is_stated(named: Location) -> bool:
    """Whether a file lies below a root that the user states; links are followed.

    Raises:
        SettingsError: a stated root is neither a whole path nor an address.
    """
    place = place_of(named)
    return any(_below(place, root) for root in _stated())


def place_of(location: Location) -> str:
    """Where a file truly lies: a path without links, or an address without what only repeats or hides parts of it."""
    if not is_remote(location):
        return os.path.realpath(location)
    parts = urlsplit(str(location))
    host = parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme.lower()}://{host}{posixpath.normpath('/' + unquote(parts.path).lstrip('/'))}"


def _below(place: str, root: str) -> bool:
    separator = os.sep if "://" not in root else "/"
    return place == root or place.startswith(root.rstrip(separator) + separator)


def _stated() -> tuple[str, ...]:
    roots = []
    for text in filter(None, _BETWEEN.split(os.environ.get(VARIABLE, ""))):
        if not is_remote(text) and not os.path.isabs(text):
            raise SettingsError(
                f"{VARIABLE}: {text!r}: must be whole paths of folders, or addresses (https://host/folder), with "
                f"{os.pathsep!r} between them; correct it"
            )
        roots.append(place_of(text if is_remote(text) else Path(text)))
    return tuple(roots)
