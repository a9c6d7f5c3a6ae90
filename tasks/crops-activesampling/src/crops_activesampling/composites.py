"""Composites: one median a period, band and pixel over the images that have data there, and how many those were.

A period begins with its first day and ends before the first day of the next, as pandas counts. Medians are kept as
twice the DN, which is a whole number whatever the count of images: a median of an even number of DN may end in .5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crops_activesampling.config import CompositeSettings
from crops_activesampling.median_network import Plane, middle_of
from crops_activesampling.s4a_format import RATIOS, Patch
from geocore.errors import DataError, SettingsError

SCALE: Final = 0.5
"""DN of one unit of a stored median."""

_LARGEST: Final = 2 * 32767
_MOST_COUNTED: Final = 255
# One MiB, which a processor's cache holds, unless so many images leave too few pixels for the call of each operation.
_SCRATCH_VALUES: Final = 1 << 19
_FEWEST_PX: Final = 1 << 14
Medians = NDArray[np.uint16] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Composites:
    """The composites of a patch."""

    medians: Medians
    """Shape (period, band, row, col), uint16, or float32 where a DN exceeds 32767; twice the DN, 0: no image has data
    here (nor was it filled)."""
    counts: NDArray[np.uint8]
    """Shape (period, band, row, col), uint8: images behind each median; 0 where it was filled. 255 stands for more."""
    edges: NDArray[np.datetime64]
    """Shape (period + 1,), datetime64[D]: first day of each period, and the day after the last."""


def period_edges(settings: CompositeSettings, year: int) -> NDArray[np.datetime64]:
    """First day of each period, and the day after the last.

    Where the series begins within a period of the frequency, as on 15 January with months, what is left of it is the
    first period; the last one ends with the series.

    Args:
        settings: frequency, start and end.
        year: of the patch, whose calendar year is the series where neither is given.

    Returns:
        Shape (period + 1,), datetime64[D].

    Raises:
        SettingsError: the frequency is none of whole days, or the series ends before it starts.
    """
    import pandas as pd

    first, last = settings.start or f"{year}-01-01", settings.end or f"{year}-12-31"
    try:
        start, stop = (np.datetime64(day, "D") for day in (first, last))
    except ValueError as error:
        raise SettingsError(f"composites start {first!r}, end {last!r}: give days as YYYY-MM-DD") from error
    if stop < start:
        raise SettingsError(f"composites from {first} to {last}: the series must not end before it starts")
    rule = f"composites.frequency {settings.frequency!r}: give a pandas frequency of whole days, such as 1MS or 10D"
    try:
        offset = pd.tseries.frequencies.to_offset(settings.frequency)
    except (ValueError, TypeError) as error:
        raise SettingsError(rule) from error
    if offset is None or offset.n < 1:
        raise SettingsError(rule)
    if offset.freqstr.partition("-")[0].endswith("E"):
        raise SettingsError(f"{rule}; one that ends in E gives the last days of periods, and S the first")
    starts = pd.date_range(start, stop, freq=offset)
    if (starts != starts.normalize()).any() or starts.has_duplicates:
        raise SettingsError(rule)
    days = starts.to_numpy().astype("datetime64[D]")
    if (days[1:] == days[:-1]).any():
        raise SettingsError(rule)
    return np.unique(np.concatenate([[start], days, [stop + np.timedelta64(1, "D")]]))


def composite(
    values: NDArray[np.uint16], times: NDArray[np.datetime64], edges: NDArray[np.datetime64]
) -> tuple[Medians, NDArray[np.uint8]]:
    """Medians of one band.

    Args:
        values: shape (time, row, col), uint16, DN, 0 where there is none.
        times: shape (time,), datetime64, in any order.
        edges: shape (period + 1,), datetime64; an image at a time t belongs to the period with start <= t < end.

    Returns:
        (medians, counts), each of shape (period, row, col): twice the median DN, uint16, or float32 where that exceeds
        65534, 0 where there is none; images behind it, uint8, at most 255.
    """
    shape = (len(edges) - 1, *values.shape[1:])
    counts = np.zeros(shape, np.uint8)
    medians: Medians = np.zeros(shape, np.uint16)
    period = np.searchsorted(edges, times, side="right") - 1
    members = [np.flatnonzero(period == index) for index in range(shape[0])]
    most, pixels = max(map(len, members)), counts[0].size
    images = values.reshape(len(values), pixels)
    step = min(max(_FEWEST_PX, _SCRATCH_VALUES // (most + 1)), pixels)
    scratch = np.empty((most + 1, step), np.uint16)
    for index, start in product(range(shape[0]), range(0, pixels, step)):
        part = slice(start, start + step)
        chosen = [images[image, part] for image in members[index]]
        if not chosen:
            continue
        low, high, seen = middle_of(chosen, scratch[:, : chosen[0].size])
        if medians.dtype == np.uint16 and _too_large(low, high):
            medians = medians.astype(np.float32)
        np.add(low, high, out=medians.reshape(shape[0], -1)[index, part], dtype=medians.dtype)
        counts.reshape(shape[0], -1)[index, part] = np.minimum(seen, _MOST_COUNTED)
    return medians, counts


def patch_composites(patch: Patch, settings: CompositeSettings, *, threads: int = 1) -> Composites:
    """Composites of a patch at 10 m, where pixels of 20 and 60 m are repeated.

    Args:
        patch: an open patch.
        settings: bands in the order that the composites are to have, periods, and filling.
        threads: bands that are read and composed at once; the result is the same for any number.

    Raises:
        DataError: the patch lacks a band, its times are unusable, or no image of any band has data in the series.
        SettingsError: a band is named twice or unknown, or the periods cannot be made.
    """
    check_bands(settings.bands)
    missing = [band for band in settings.bands if band not in patch.bands]
    if missing:
        raise DataError(
            f"{patch.path}: no band {', '.join(missing)}: the file has {', '.join(patch.bands)}; ask for these "
            "(composites.bands), or take the patch out"
        )
    edges = period_edges(settings, patch.name.year)
    shape = (len(edges) - 1, len(settings.bands), *patch.grid.shape)
    stacked: Medians = np.empty(shape, np.uint16)
    counts = np.empty(shape, np.uint8)

    def of_band(band: str) -> tuple[Medians, NDArray[np.uint8]]:
        medians, count = composite(*patch.series(band), edges)
        return (fill_gaps(medians, edges) if settings.fill == "linear" else medians), count

    with ThreadPoolExecutor(threads) as pool:
        for place, (medians, count) in enumerate(pool.map(of_band, settings.bands)):
            ratio = RATIOS[settings.bands[place]]
            stacked = stacked.astype(np.result_type(stacked, medians), copy=False)
            stacked[:, place] = _repeated(medians, ratio)
            counts[:, place] = _repeated(count, ratio)
    if not counts.any():
        raise DataError(
            f"{patch.path}: no image has data from {edges[0]} to {edges[-1] - np.timedelta64(1, 'D')}: set "
            "composites.start and .end to the dates of the patch, or take it out"
        )
    return Composites(stacked, counts, edges)


def check_bands(bands: Sequence[str]) -> None:
    """Refuse bands that no patch has, or that are named twice.

    Raises:
        SettingsError: with one line.
    """
    wrong = [band for band in bands if band not in RATIOS]
    if wrong:
        raise SettingsError(f"composites.bands {', '.join(wrong)}: give bands of Sentinel-2: {', '.join(RATIOS)}")
    twice = [band for band, count in Counter(bands).items() if count > 1]
    if twice:
        raise SettingsError(f"composites.bands {', '.join(twice)}: name each band once")


def fill_gaps(medians: Medians, edges: NDArray[np.datetime64]) -> Medians:
    """Interpolate linearly in time between the middles of the periods before and after a gap, never beyond the ends.

    Args:
        medians: shape (period, row, col), twice the DN, 0 where there is none.
        edges: shape (period + 1,), datetime64.

    Returns:
        The same shape and type; what was filled is rounded to half a DN, what was there is untouched.
    """
    days = (edges - edges[0]).astype("timedelta64[D]").astype(np.float64)
    middles = (days[1:] + days[:-1]) / 2
    there = medians != 0
    periods = np.arange(len(medians))[:, None, None]
    # Index of the last period with data up to each one, and of the first from each one on.
    before = np.maximum.accumulate(np.where(there, periods, -1), axis=0)
    after = np.minimum.accumulate(np.where(there, periods, len(medians))[::-1], axis=0)[::-1]
    gap = ~there & (before >= 0) & (after < len(medians))
    before, after = before.clip(min=0), after.clip(max=len(medians) - 1)
    low, high = (np.take_along_axis(medians, index, 0).astype(np.float64) for index in (before, after))
    span = np.where(gap, middles[after] - middles[before], 1.0)
    line = np.rint(low + (high - low) * (middles[:, None, None] - middles[before]) / span)
    filled = medians.copy()
    filled[gap] = line[gap]
    return filled


def _too_large(low: Plane, high: Plane) -> bool:
    """Whether twice a median is more than uint16 keeps."""
    return 2 * int(high.max()) > _LARGEST and int(np.add(low, high, dtype=np.uint32).max()) > _LARGEST


def _repeated(values: NDArray[Any], ratio: int) -> NDArray[Any]:
    """Pixels as ratio x ratio ones."""
    return values if ratio == 1 else values.repeat(ratio, axis=-2).repeat(ratio, axis=-1)
