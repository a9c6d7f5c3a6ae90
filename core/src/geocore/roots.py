"""Which files a file may name: those in its own folder, and those below a root that the user states.

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
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from geocore.errors import SceneError, SettingsError
from geocore.locations import Location, is_remote, shown

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
    root = posixpath.dirname(shown(named)) if is_remote(named) else os.path.dirname(place)
    rule = "not in the folder of the file that names it" if isinstance(named, Path) else "an address"
    raise SceneError(f"{by}: names {shown(named)}, {rule}: if you trust it, set {VARIABLE}={root} to let files name it")


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
