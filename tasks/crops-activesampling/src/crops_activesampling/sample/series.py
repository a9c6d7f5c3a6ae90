"""What the satellite sees of the sample's parcels over a year: phenology, spectra, clouds, gaps and dates.

The cover of a pixel is a mixture of soil, green and dry plants, flowers, forest and settlement, whose shares follow the
crop's calendar: green from a rise to a fall, both logistic in time, then straw. Spectra are top-of-atmosphere DN of the
order of the published means of Sentinel-2 L1C; they are not measured.

Four things make single pixels hard: the calendars of cereals lie days apart, and parcels and the pixels within them
keep them only to some days; pixels at borders are mixtures; clouds and their shadows stay in the images, as nothing
masks them, and so in medians of few images; and a month is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from crops_activesampling.s4a_format import RATIOS
from crops_activesampling.sample.fields import FOREST, SETTLEMENT, Fields
from geocore_synthetic.fields import gaussian_field
from geocore_synthetic.shapes import corner

Float32 = npt.NDArray[np.float32]
Days = npt.NDArray[np.int64]


class Calendar(NamedTuple):
    """A crop's year; days count from 1 January."""

    rise: float
    """Day on which half of the plants' cover is there."""
    fall: float
    """Day on which half of it is gone."""
    cover: float
    """Share of the ground that is green in between."""
    winter: float
    """The same before."""
    broad: float
    """Share of the green that is broad-leaved, the rest being grass-like."""
    straw: float = 0.0
    """Share of the ground that straw covers for a month afterwards."""
    bloom: float = 0.0
    """Day of the bloom that colours the field; 0: none."""


CALENDARS: Final[Mapping[int, Calendar]] = {
    110: Calendar(74, 166, 0.86, 0.22, 0.0, 0.6),
    150: Calendar(68, 148, 0.80, 0.22, 0.0, 0.6),
    170: Calendar(92, 176, 0.74, 0.08, 0.0, 0.6),
    160: Calendar(58, 160, 0.92, 0.30, 0.0, 0.7),
    435: Calendar(48, 162, 0.88, 0.40, 0.8, 0.4, 106),
    770: Calendar(96, 156, 0.78, 0.08, 0.9, 0.3),
    120: Calendar(160, 264, 0.92, 0.06, 0.3, 0.3),
    140: Calendar(172, 262, 0.78, 0.06, 0.2, 0.3),
    438: Calendar(148, 228, 0.80, 0.06, 0.9, 0.2, 194),
    510: Calendar(144, 242, 0.88, 0.06, 1.0),
    330: Calendar(122, 292, 0.42, 0.12, 0.7),
    910: Calendar(62, 325, 0.74, 0.40, 0.2),
    351: Calendar(100, 302, 0.62, 0.20, 0.7),
    810: Calendar(142, 310, 0.92, 0.05, 1.0),
    975: Calendar(90, 190, 0.35, 0.15, 0.4, 0.2),
}
"""Code -> calendar."""

_NAMES: Final = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_SPECTRA: Final = np.array(
    [
        [1500, 1360, 1360, 1560, 1750, 1950, 2100, 2200, 2350, 700, 12, 2900, 2400],  # soil
        [1350, 1050, 1050, 720, 1250, 2850, 3500, 3700, 3900, 1100, 10, 1800, 850],  # green, grass-like
        [1350, 1050, 1100, 700, 1350, 3200, 4000, 4250, 4450, 1150, 10, 1950, 950],  # green, broad-leaved
        [1500, 1360, 1520, 1760, 2050, 2400, 2600, 2750, 2900, 800, 12, 3300, 2500],  # straw
        [1450, 1150, 1900, 1700, 2400, 3400, 3900, 4100, 4200, 1150, 10, 2000, 1000],  # flowers
        [1300, 950, 850, 600, 900, 1900, 2300, 2350, 2500, 800, 10, 1300, 650],  # forest
        [1700, 1600, 1600, 1650, 1750, 1900, 2000, 2050, 2150, 700, 15, 2100, 1800],  # settlement
    ],
    np.float32,
)
"""Shape (cover, band), DN."""
_CLOUD: Final = np.array([5600, 5300, 5100, 5200, 5300, 5500, 5600, 5600, 5700, 2600, 400, 4200, 3600], np.float32)
_HAZE: Final = np.array([1.6, 1.4, 1.0, 0.8, 0.6, 0.4, 0.3, 0.3, 0.2, 0.1, 0, 0.1, 0.1], np.float32)

_PARCEL_DAYS: Final = 2.5
_PIXEL_DAYS: Final = 9.0
_PIXEL_COVER: Final = 0.25
"""Standard deviations: of a parcel's calendar and of a pixel's within it, days; of a pixel's cover, relative."""
_PIXEL_PX: Final = 1.2
"""Correlation length of both, pixels."""
_CATCH_CROPS: Final = 0.35
_CLEAR: Final = 0.75
_OVERCAST: Final = 0.03
"""Shares of the images without a cloud, and of those that see nothing else: archives leave such out."""
_POINT_SPREAD_PX: Final = 0.6
_NOISE: Final = 0.07
_NOISE_DN: Final = 25.0


@dataclass(frozen=True, slots=True)
class Season:
    """When the satellite came to a tile in a year, and how the year was."""

    days: Days
    """Shape (time,), int64: images, days from 1 January, ascending."""
    band_days: Mapping[str, Days]
    """Band -> indices of the images that the band has."""
    shift: float
    """Days by which everything grows later than in `CALENDARS`."""


def draw_season(year: int, empty_month: int, shift: float, rng: np.random.Generator) -> Season:
    """Draw the dates of a tile and year: every fifth day, less those that were too cloudy for the archive.

    Args:
        year: calendar year.
        empty_month: month without any image, 1-12.
        shift: days by which everything grows later.
        rng: source of all randomness.
    """
    length = int((np.datetime64(f"{year + 1}-01-01") - np.datetime64(f"{year}-01-01")).astype(int))
    days = np.arange(int(rng.integers(0, 5)), length, 5)
    months = (np.datetime64(f"{year}-01-01") + days).astype("datetime64[M]").astype(int) % 12 + 1
    clearer = 0.62 + 0.22 * np.sin(2 * np.pi * (days - 100) / 365)
    kept = days[(rng.uniform(size=len(days)) < clearer) & (months != empty_month)]
    bands = {name: np.flatnonzero(rng.uniform(size=len(kept)) > 0.03) for name in RATIOS}
    return Season(kept, bands, shift)


def draw_series(fields: Fields, season: Season, bands: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    """Draw the images of a patch.

    Args:
        fields: parcels.
        season: dates.
        bands: which to draw.
        rng: source of all randomness.

    Returns:
        Band -> shape (time, row, col), uint16, DN, at the band's own pixel size; 0 where there is no data.
    """
    size = len(fields.kinds)
    cover = _cover(fields, season, rng)
    cloud, shadow = _clouds(season, size, rng)
    lost = np.zeros(cloud.shape, bool)
    for index in np.flatnonzero(rng.uniform(size=len(season.days)) < 0.12):
        lost[index] = corner((size, size), tuple(rng.uniform(0.2, 1.0, 2)), int(rng.integers(4)))
    haze = rng.gamma(2.0, 40.0, len(season.days)).astype(np.float32)
    gain = rng.normal(1, 0.03, len(season.days)).astype(np.float32)
    brightness = rng.uniform(0.8, 1.3, len(season.days)).astype(np.float32)
    series = {}
    for band in bands:
        ratio, place, kept = RATIOS[band], _NAMES.index(band), season.band_days[band]
        mixed = _coarse(cover[:, kept], ratio)
        values = np.add.reduce([mixed[kind] * _SPECTRA[kind, place] for kind in range(len(_SPECTRA))])
        values = values * gain[kept, None, None] + (_HAZE[place] * haze[kept])[:, None, None]
        values *= 1 - 0.45 * _coarse(shadow[kept], ratio)
        opacity = _coarse(cloud[kept], ratio)
        values = values * (1 - opacity) + (_CLOUD[place] * brightness[kept])[:, None, None] * opacity
        noise = rng.standard_normal(values.shape, np.float32)
        # A band of few DN, such as B10, has less noise as well.
        values += noise * (_NOISE * values + min(_NOISE_DN, float(_SPECTRA[0, place]) / 20))
        whole = np.clip(np.rint(values), 1, 12_000).astype(np.uint16)
        gone = lost[kept].reshape(len(kept), size // ratio, ratio, size // ratio, ratio).any(axis=(2, 4))
        series[band] = np.where(gone, np.uint16(0), whole)
    return series


def _cover(fields: Fields, season: Season, rng: np.random.Generator) -> Float32:
    """Shares of the covers of `_SPECTRA` in each pixel, mixed with those around it: (cover, time, row, col)."""
    shape = fields.kinds.shape
    count = int(fields.cells.max()) + 1
    later = rng.normal(season.shift, _PARCEL_DAYS, count)[fields.cells] + _PIXEL_DAYS * gaussian_field(
        shape, _PIXEL_PX, rng
    )
    longer = rng.normal(0, 0.5 * _PARCEL_DAYS, count)[fields.cells]
    vigour = rng.normal(1, 0.08, count)[fields.cells] + _PIXEL_COVER * gaussian_field(shape, _PIXEL_PX, rng)
    catch = (rng.uniform(size=count) < _CATCH_CROPS)[fields.cells] * rng.uniform(0.3, 0.7, count)[fields.cells]
    soil = rng.normal(1, 0.14, count)[fields.cells] + 0.06 * gaussian_field(shape, 6, rng)
    wetness = rng.uniform(0.82, 1.06, len(season.days))

    codes = np.array([*CALENDARS])
    table = np.array([*CALENDARS.values()])
    outside = fields.kinds <= SETTLEMENT
    index = np.searchsorted(codes, fields.kinds, sorter=np.argsort(codes)).clip(max=len(codes) - 1)
    rise, fall, full, winter, broad, straw, bloom = (
        column.astype(np.float32) for column in np.moveaxis(table[np.argsort(codes)][index], -1, 0)
    )
    day = season.days[:, None, None].astype(np.float32)
    rise, fall = (np.float32(rise + later), np.float32(fall + later + longer))
    up, down = _logistic((day - rise) / 11), _logistic((day - fall) / 8)
    again = catch * _logistic((day - 275) / 10) * (straw > 0)
    green = np.clip((winter * (1 - up) + full * up * (1 - down)) * vigour + again, 0, 0.97)
    dry = straw * down * _logistic((fall + 32 - day) / 5) * (1 - green)
    flower = np.where(bloom > 0, 0.75 * green * np.exp(-(((day - bloom - later) / 10) ** 2)), 0)
    green = green - flower
    bare = np.clip(1 - green - flower - dry, 0, 1) * soil * wetness[:, None, None]
    cover = np.stack([bare, green * (1 - broad), green * broad, dry, flower, *np.zeros((2, *bare.shape))])
    cover *= ~outside
    leaves = 0.75 + 0.25 * _logistic((day - 105) / 8) * _logistic((305 - day) / 8)
    cover[5] = (fields.kinds == FOREST) * leaves * np.clip(vigour, 0.6, 1.4)
    cover[0] += (fields.kinds == FOREST) * (1 - leaves)
    cover[6] = (fields.kinds == SETTLEMENT) * soil
    return np.asarray(
        ndimage.gaussian_filter(cover.astype(np.float32), (0, 0, _POINT_SPREAD_PX, _POINT_SPREAD_PX)), np.float32
    )


def _clouds(season: Season, size: int, rng: np.random.Generator) -> tuple[Float32, Float32]:
    """Opacity of clouds and depth of their shadows, each of shape (time, row, col), 0-1."""
    cloud, shadow = (np.zeros((len(season.days), size, size), np.float32) for _ in range(2))
    away = rng.integers(4, 12, 2)
    for index in range(len(season.days)):
        weather = rng.uniform()
        if weather < _CLEAR:
            continue
        covered = rng.uniform(0.05, 0.5) if weather < 1 - _OVERCAST else rng.uniform(0.8, 1.4)
        field = gaussian_field((2 * size, 2 * size), size / 3, rng) + 0.3 * gaussian_field(
            (2 * size, 2 * size), size / 14, rng
        )
        # Twice the patch, so that its share of the cloud differs from one patch to the next.
        opacity = np.clip(3 * (field - np.quantile(field, max(0.0, 1 - covered))), 0, 1) if covered < 1 else None
        if opacity is None:
            cloud[index] = np.clip(0.9 + 0.1 * field[:size, :size], 0.6, 1)
            continue
        cloud[index] = opacity[:size, :size]
        shadow[index] = opacity[away[0] : size + away[0], away[1] : size + away[1]] * (1 - cloud[index])
    return cloud, shadow


def _coarse(values: Float32, ratio: int) -> Float32:
    """Means of ratio x ratio pixels, over the last two axes."""
    if ratio == 1:
        return values
    rows, cols = (length // ratio for length in values.shape[-2:])
    blocks = values.reshape(*values.shape[:-2], rows, ratio, cols, ratio)
    return np.asarray(blocks.mean(axis=(-3, -1)), np.float32)


def _logistic(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values))
