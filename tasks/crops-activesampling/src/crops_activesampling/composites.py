"""Composites: one median a period, band and pixel over the images that have data there, and how many those were.

A period begins with its first day and ends before the first day of the next, as pandas counts. Medians are kept as
twice the DN, which is a whole number whatever the count of images: a median of an even number of DN may end in .5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from crops_activesampling.config import CompositeSettings
from crops_activesampling.layout import RATIOS, Patch
from geocore.errors import DataError, SettingsError

SCALE: Final = 0.5
"""DN of one unit of a stored median."""

_LARGEST: Final = 2 * 32767
_MOST_COUNTED: Final = 255
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
    doubled, counts = np.zeros(shape, np.uint32), np.zeros(shape, np.uint8)
    period = np.searchsorted(edges, times, side="right") - 1
    for index in range(shape[0]):
        # Zeros come first, so that what follows them is sorted data.
        images = np.sort(values[period == index], axis=0)
        if not len(images):
            continue
        empty = np.count_nonzero(images == 0, axis=0)
        count = len(images) - empty
        # The two in the middle, which are one where the count is odd; where nothing is, both are 0.
        low = np.take_along_axis(images, (empty + np.maximum(count - 1, 0) // 2).clip(max=len(images) - 1)[None], 0)[0]
        high = np.take_along_axis(images, (empty + count // 2).clip(max=len(images) - 1)[None], 0)[0]
        doubled[index] = low.astype(np.uint32) + high
        counts[index] = np.minimum(count, _MOST_COUNTED)
    return _stored(doubled), counts


def patch_composites(patch: Patch, settings: CompositeSettings) -> Composites:
    """Composites of a patch at 10 m, where pixels of 20 and 60 m are repeated.

    Args:
        patch: an open patch.
        settings: bands in the order that the composites are to have, periods, and filling.

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
    counts = np.empty(shape, np.uint8)
    planes: list[Medians] = []
    for place, band in enumerate(settings.bands):
        medians, count = composite(*patch.series(band), edges)
        if settings.fill == "linear":
            medians = fill_gaps(medians, edges)
        ratio = RATIOS[band]
        counts[:, place] = _repeated(count, ratio)
        planes.append(medians)
    if not counts.any():
        raise DataError(
            f"{patch.path}: no image has data from {edges[0]} to {edges[-1] - np.timedelta64(1, 'D')}: set "
            "composites.start and .end to the dates of the patch, or take it out"
        )
    stacked = np.empty(shape, np.result_type(*(plane.dtype for plane in planes)))
    for place, (band, plane) in enumerate(zip(settings.bands, planes, strict=True)):
        stacked[:, place] = _repeated(plane, RATIOS[band])
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


def _stored(doubled: NDArray[np.uint32]) -> Medians:
    if doubled.max(initial=0) <= _LARGEST:
        return doubled.astype(np.uint16)
    return doubled.astype(np.float32)


def _repeated(values: NDArray[Any], ratio: int) -> NDArray[Any]:
    """Pixels as ratio x ratio ones."""
    return values if ratio == 1 else values.repeat(ratio, axis=-2).repeat(ratio, axis=-1)
