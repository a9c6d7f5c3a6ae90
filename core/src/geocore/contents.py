"""A hash of all that a scene's name leads to: the file itself, the files of a list or a granule, those behind a VRT.

A list and a VRT say where pixels lie and hold none themselves: whoever goes by their text alone takes another scene for
the same. What lies behind http:// or s3:// is not fetched for it and counts by its address.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from geocore.errors import SceneError
from geocore.files import sha256_file
from geocore.granules import granule_of
from geocore.locations import Location, located, shown
from geocore.specials import check_regular
from geocore.virtuals import MOST_NESTED, named_in


def content_hash(location: Location) -> str:
    """SHA-256 of the content of every file of a scene, 64 hexadecimal digits; wherever they lie.

    Of one file that names no others it is `files.sha256_file`.

    Raises:
        SceneError: a list or a granule cannot be understood.
        OSError: a file cannot be read.
    """
    granule = granule_of(location)
    if granule is None:
        return _content(located(location))
    lines = [
        f"{band} {dataclasses.replace(file, path='')} {_content(file.path)}" for band, file in granule.files.items()
    ]
    return hashlib.sha256("\n".join([str(granule.reference), *lines]).encode()).hexdigest()


def files_of_scene(location: Location) -> Iterator[Path]:
    """Every file whose content `content_hash` takes, without reading what is in them but for lists and VRTs.

    Raises:
        SceneError, OSError: as of `content_hash`.
    """
    granule = granule_of(location)
    for place in [located(location)] if granule is None else [file.path for file in granule.files.values()]:
        yield from _files(place)


def _content(location: Location, above: tuple[Path, ...] = ()) -> str:
    if not isinstance(location, Path):
        return hashlib.sha256(shown(location).encode()).hexdigest()
    check_regular(location)
    digest = sha256_file(location)
    behind = [
        _content(place, (*above, Path(os.path.realpath(location)))) if place.is_file() else "missing"
        for place in _behind(location, above)
    ]
    return hashlib.sha256("\n".join([digest, *behind]).encode()).hexdigest() if behind else digest


def _files(location: Location, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    if isinstance(location, Path):
        yield location
        for place in _behind(location, above):
            if place.is_file():
                yield from _files(place, (*above, Path(os.path.realpath(location))))


def _behind(location: Path, above: tuple[Path, ...]) -> list[Path]:
    """Files that a VRT names, one that those in `above` led to; of any other file none."""
    path = Path(os.path.realpath(location))
    # What names itself, or reaches for what it may not, is refused by whoever opens it.
    if location.suffix.lower() != ".vrt" or path in above or len(above) == MOST_NESTED:
        return []
    try:
        places = [named.place for named in named_in(path, folder=above[0].parent if above else None)]
    except SceneError:
        return []
    return [place for place in dict.fromkeys(places) if isinstance(place, Path)]
