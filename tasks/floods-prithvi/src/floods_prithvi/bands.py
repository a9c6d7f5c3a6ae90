"""Which bands of a file stand for the six: by name, as the user says, or all where there are six."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Final

from rasterio.enums import ColorInterp

from floods_prithvi.config import SIX_BANDS
from geocore.errors import SceneError
from geocore.raster.gdal import open_dataset
from geocore.raster.paths import Location, gdal_env, redacted
from geocore.raster.products import granule_of

_SCHEMES: Final = (
    (("blue",), ("green",), ("red",), ("nirnarrow", "nir08", "nir"), ("swir1", "swir16"), ("swir2", "swir22")),
    (("b2",), ("b3",), ("b4",), ("b8a",), ("b11",), ("b12",)),
    (("b2",), ("b3",), ("b4",), ("b5",), ("b6",), ("b7",)),
)
"""Names that stand for the six, the preferred one first: common names, Sentinel-2 and HLS S30, Landsat and HLS L30."""
_ONLY_SENTINEL_2: Final = frozenset({"b8", "b8a", "b12"})
"""B5, B6 and B7 of a file with one of these are red edge, and B11 is no temperature."""


def choose_bands(path: Location, bands: Sequence[str] | None, frames: int) -> list[str] | None:
    """Numbers, from 1, of the bands to read from a file, all six of the first date first, as text.

    Args:
        path: the file, its address, or a granule.
        bands: names, or numbers from 1, of the bands that stand for the six, in their order; of several dates those of
            the first, or of all. None: by name. A name that stands once for each date is read date by date, wherever
            its bands lie; a file without names that are known must hold no others, all bands of the first date first,
            but for one flagged alpha.
        frames: number of dates.

    Returns:
        None where the file cannot be opened; opening it for good says why.

    Raises:
        SceneError: it is not clear which bands stand for the six.
    """
    names, flagged = _names(path)
    return [str(number) for number in _choose(path, names, flagged, bands, frames)] if names else None


def _names(path: Location) -> tuple[list[str], list[int]]:
    """What a file calls its bands, empty text where it has no name, and the numbers of those flagged alpha.

    No names where the file cannot be opened.
    """
    granule = granule_of(path)
    if granule is not None:
        return list(granule.files), []
    try:
        with gdal_env(path), closing(open_dataset(path)) as file:
            flagged = [number for number in file.indexes if file.colorinterp[number - 1] == ColorInterp.alpha]
            return [name or "" for name in file.descriptions], flagged
    except SceneError:
        return [], []


def _choose(
    path: Location, names: Sequence[str], flagged: Sequence[int], bands: Sequence[str] | None, frames: int
) -> list[int]:
    """Numbers, from 1, of the bands to read: all six of the first date first."""
    six = ", ".join(SIX_BANDS)
    dates = f" at {frames} dates" if frames > 1 else ""
    if bands is not None:
        return _given(path, names, flagged, bands, frames)
    found = _by_name(names, frames)
    if found is not None:
        return found
    if not any(map(_known, names)):
        seen = [number for number in range(1, len(names) + 1) if number not in flagged]
        if len(seen) == len(SIX_BANDS) * frames:
            return seen
        alpha = f", besides one flagged alpha (band {flagged[0]})" if flagged else ""
        problem = f"{len(seen)} bands without names that are known{alpha}"
    else:
        problem = f"its bands are {', '.join(name or '?' for name in names)}"
    raise SceneError(
        f"{redacted(path)}: {problem}, but six are needed{dates} ({six}): say which ones, such as --bands 2 3 4 9 12 "
        "13 for the thirteen of Sentinel-2"
    )


def _given(
    path: Location, names: Sequence[str], flagged: Sequence[int], bands: Sequence[str], frames: int
) -> list[int]:
    plain = [_plain(name) for name in names]
    numbers = []
    for band in bands:
        if band in names:
            numbers.append(names.index(band) + 1)
        elif band.isdecimal() and 1 <= int(band) <= len(names):
            numbers.append(int(band))
        elif _plain(band) in plain:
            numbers.append(plain.index(_plain(band)) + 1)
        else:
            held = ", ".join(filter(None, names)) or f"numbered 1 to {len(names)}"
            raise SceneError(f"{redacted(path)}: has no band {band!r}: its bands are {held}; correct --bands")
    each, rest = divmod(len(names) - len(flagged), frames)
    if len(numbers) == len(SIX_BANDS) and frames > 1 and not rest and max(numbers) <= each:
        numbers = [number + frame * each for frame in range(frames) for number in numbers]
    if len(numbers) != len(SIX_BANDS) * frames:
        dates = f" at {frames} dates, or six among those of the first date" if frames > 1 else ""
        raise SceneError(
            f"{redacted(path)}: --bands names {len(bands)} ({', '.join(bands)}), but six are needed{dates}: give one "
            f"for each of {', '.join(SIX_BANDS)}, in this order"
        )
    return numbers


def _by_name(names: Sequence[str], frames: int) -> list[int] | None:
    """As `_choose`; a name that occurs once a date is read date by date, wherever its bands stand."""
    places: dict[str, list[int]] = {}
    for number, name in enumerate(names, start=1):
        places.setdefault(_plain(name), []).append(number)
    for scheme in _SCHEMES:
        if scheme is _SCHEMES[-1] and _ONLY_SENTINEL_2 & places.keys():
            continue
        chosen = [_first(places, accepted, frames) for accepted in scheme]
        if all(chosen):
            return [own[frame] for frame in range(frames) for own in chosen]
    return None


def _first(places: Mapping[str, list[int]], accepted: Sequence[str], frames: int) -> list[int]:
    return next((places[name] for name in accepted if len(places.get(name, ())) == frames), [])


def _known(name: str) -> bool:
    return any(_plain(name) in accepted for scheme in _SCHEMES for accepted in scheme)


def _plain(name: str) -> str:
    """A name in small letters without separators, and without the zero of B02."""
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    number = re.fullmatch(r"b0?(\d{1,2}a?)", bare)
    return f"b{number[1]}" if number else bare
