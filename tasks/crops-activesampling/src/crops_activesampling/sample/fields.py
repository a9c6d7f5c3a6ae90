"""What lies in a patch of the sample: parcels, what grows on them, and what their labels say.

Parcels are the cells of a Voronoi diagram, longer than wide, all in one direction. Shares of the eleven crops of the
benchmark average over both regions to those of Sen4AgriNet's first scenario; each region leans to crops of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore_synthetic.fields import gaussian_field
from geocore_synthetic.shapes import meander

CROPS: Final[Mapping[int, float]] = {
    110: 0.365, 150: 0.251, 435: 0.083, 120: 0.076, 330: 0.056, 438: 0.055, 170: 0.053, 510: 0.026, 770: 0.023,
    140: 0.010, 160: 0.0025,
}  # fmt: skip
"""Code -> share of the labelled area: wheat, barley, rapeseed, maize, grapes, sunflower, oats, potatoes, peas,
sorghum, rye."""
LEANINGS: Final[Mapping[str, Mapping[int, float]]] = {
    "31TCG": {110: 0.75, 150: 1.4, 435: 0.8, 120: 0.9, 330: 1.6, 438: 0.5, 170: 1.2, 510: 0.6, 770: 1.2, 140: 1.3},
    "31TCJ": {110: 1.25, 150: 0.6, 435: 1.2, 120: 1.1, 330: 0.4, 438: 1.5, 170: 0.8, 510: 1.4, 770: 0.8, 140: 0.7},
}
"""Tile -> code -> how many times its average share a crop has there; 1 where none is given."""
OTHERS: Final[Mapping[int, float]] = {910: 0.6, 351: 0.15, 810: 0.15, 975: 0.1}
"""Code -> share among the codes outside the eleven: grass, apples, sugar beet, fallow."""

FOREST: Final = 1
SETTLEMENT: Final = 2
"""What lies outside parcels; below any code."""

_PARCEL_PX: Final = 110.0
"""Mean area of a parcel, pixels: 1.1 ha."""
_STRETCH: Final = 1.6
_OUTSIDE: Final = 0.12
_OTHER: Final = 0.14
_UNLABELLED: Final = 0.08
"""Shares of the cells that are no parcels, have a code outside the eleven, or are parcels without a label."""
_ROAD_PX: Final = 0.8
_NOISY_AREA: Final = 0.18
_NOISY_FLIPS: Final = 0.65
_QUIET_FLIPS: Final = 0.01

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fields:
    """Parcels of a patch."""

    parcels: npt.NDArray[np.uint32]
    """Shape (row, col), uint32: number of the parcel, 0 outside."""
    kinds: Ints
    """Shape (row, col), int64: code of what grows, or FOREST or SETTLEMENT."""
    cells: Ints
    """Shape (row, col), int64: number of the cell, parcels and what lies outside alike."""
    truth: npt.NDArray[np.uint32]
    """Shape (row, col), uint32: code of the label before any was made wrong, 0 where there is none."""
    labels: npt.NDArray[np.uint32]
    """Shape (row, col), uint32: code of the label."""


def shares(tile: str) -> dict[int, float]:
    """Shares of the eleven crops in a region, which add up to 1."""
    leaning = LEANINGS[tile]
    raw = {code: share * leaning.get(code, 1.0) for code, share in CROPS.items()}
    return {code: share / sum(raw.values()) for code, share in raw.items()}


def draw_fields(tile: str, size: int, *, flipped: bool, rng: np.random.Generator) -> Fields:
    """Draw the parcels of a patch.

    Args:
        tile: region, which decides the shares.
        size: pixels of 10 m along a side.
        flipped: whether labels are made wrong.
        rng: source of all randomness; what lies in the patch does not depend on `flipped`.
    """
    centres, cells = _voronoi(size, rng)
    kinds, labelled, parcel = _draw_kinds(tile, len(centres), rng)
    numbers = np.where(parcel, 1 + np.arange(len(centres)) + int(rng.integers(1, 50_000)), 0)
    road = np.abs(meander((size, size), rng, amplitude_px=size / 12, correlation_px=size / 2)) < _ROAD_PX
    true = np.where(labelled, kinds, 0)
    # Drawn in any case, so that what follows from the generator does not depend on it.
    wrong = _flip(true, centres, size, shares(tile), rng)
    codes = wrong if flipped else true
    return Fields(
        parcels=np.where(road, 0, numbers[cells]).astype(np.uint32),
        kinds=np.where(road, SETTLEMENT, kinds[cells]),
        cells=cells,
        truth=np.where(road, 0, true[cells]).astype(np.uint32),
        labels=np.where(road, 0, codes[cells]).astype(np.uint32),
    )


def _voronoi(size: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.float64], Ints]:
    """Centres of the cells, shape (cell, 2), pixels, and the cell of each pixel, shape (row, col)."""
    from scipy.spatial import cKDTree

    margin = 15.0
    count = round((size + 2 * margin) ** 2 / _PARCEL_PX)
    centres = rng.uniform(-margin, size + margin, (count, 2))
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    metric = turn * np.array([[1 / np.sqrt(_STRETCH)], [np.sqrt(_STRETCH)]])
    # Each centre moves to the middle of its cell, so that areas differ less than those of random points do.
    pixels = np.stack(np.meshgrid(*[np.arange(-margin, size + margin)] * 2, indexing="ij"), -1).reshape(-1, 2)
    for _ in range(2):
        _, nearest = cKDTree(centres @ metric.T).query(pixels @ metric.T)
        area = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, pixels[:, axis], minlength=count) for axis in (0, 1)], -1)
        centres = np.where(area[:, None] > 0, sums / np.maximum(area, 1)[:, None], centres)
    inside = np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing="ij"), -1).reshape(-1, 2)
    _, nearest = cKDTree(centres @ metric.T).query(inside @ metric.T)
    return centres, nearest.reshape(size, size).astype(np.int64)


def _draw_kinds(
    tile: str, count: int, rng: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """What each cell is: its kind, whether it has a label, whether it is a parcel; each of shape (cell,)."""
    role = rng.uniform(size=count)
    crops, others = shares(tile), OTHERS
    kinds = rng.choice(list(crops), count, p=list(crops.values()))
    foreign = rng.choice(list(others), count, p=list(others.values()))
    outside = role < _OUTSIDE
    other = (role >= _OUTSIDE) & (role < _OUTSIDE + _OTHER)
    unlabelled = (role >= _OUTSIDE + _OTHER) & (role < _OUTSIDE + _OTHER + _UNLABELLED)
    kinds = np.where(other, foreign, kinds)
    kinds = np.where(outside, np.where(rng.uniform(size=count) < 0.7, FOREST, SETTLEMENT), kinds)
    return kinds.astype(np.int64), ~outside & ~unlabelled, ~outside


def _flip(
    true: Ints, centres: npt.NDArray[Any], size: int, crops: Mapping[int, float], rng: np.random.Generator
) -> Ints:
    """Give some parcels the code of another crop, most of them in a few places, as one careless declarer would."""
    field = gaussian_field((size, size), size / 3, rng)
    place = np.clip(np.rint(centres), 0, size - 1).astype(int)
    noisy = field[place[:, 0], place[:, 1]] > np.quantile(field, 1 - _NOISY_AREA)
    flip = rng.uniform(size=len(true)) < np.where(noisy, _NOISY_FLIPS, _QUIET_FLIPS)
    codes = np.array(list(crops))
    chances = np.array(list(crops.values()))
    wrong = true.copy()
    for cell in np.flatnonzero(flip & np.isin(true, codes)):
        rest = np.where(codes == true[cell], 0, np.sqrt(chances))
        wrong[cell] = rng.choice(codes, p=rest / rest.sum())
    return wrong
