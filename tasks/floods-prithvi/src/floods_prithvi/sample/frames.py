"""Chips of three dates over fields, with the crop of each field exactly known.

A field lies bare, grows green and ripens; when it does so tells the crop. Nothing in it was measured.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from floods_prithvi.sample.flood import parcels
from geocore_synthetic.fields import gaussian_field

DATES: Final = 3

_GREEN: Final = np.array([270, 520, 300, 3900, 1900, 900], dtype=np.float64)
_SOIL: Final = np.array([750, 1050, 1350, 2250, 2900, 2300], dtype=np.float64)
_WATER: Final = np.array([500, 520, 350, 220, 120, 80], dtype=np.float64)
_COVER: Final = np.array(
    [
        (0.45, 0.60, 0.50),
        (0.60, 0.95, 0.85),
        (0.05, 0.75, 0.95),
        (0.05, 0.45, 0.98),
        (0.40, 0.80, 0.60),
        (0.10, 0.15, 0.12),
        (0.00, 0.00, 0.00),
        (0.70, 0.85, 0.05),
        (0.80, 0.55, 0.85),
        (0.10, 0.08, 0.05),
        (0.02, 0.20, 0.70),
        (0.05, 0.30, 0.90),
        (0.30, 0.40, 0.35),
    ]
)
"""Share of green at each date, of the label values 1-13; that of water is not used."""
_OPEN_WATER: Final = 7
_CHANCES: Final = np.array([0.17, 0.10, 0.16, 0.15, 0.05, 0.07, 0.04, 0.08, 0.04, 0.05, 0.03, 0.03, 0.03])


def draw_chip(size: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Draw one chip.

    Args:
        size: edge, pixels.
        rng: source of all randomness.

    Returns:
        Shape (18, row, col), int16, reflectance x 10,000, the six bands of the first date first; shape (row, col),
        int16: 1-13, 0 where nothing is known.
    """
    shape = (size, size)
    ids = parcels(shape, 0.13 * size, rng)
    count = int(ids.max()) + 1
    crops = 1 + rng.choice(len(_CHANCES), count, p=_CHANCES / _CHANCES.sum())
    cover = np.clip(_COVER[crops - 1] + 0.06 * rng.standard_normal((count, DATES)), 0, 1)
    dates = []
    for date in range(DATES):
        spectra = _SOIL + (_GREEN - _SOIL) * cover[:, date, None]
        spectra[crops == _OPEN_WATER] = _WATER
        spectra *= 1 + 0.05 * rng.standard_normal((count, 1))
        texture = 1 + 0.05 * gaussian_field(shape, 2.0, rng)
        dates.append(np.moveaxis(spectra[ids], -1, 0) * texture + 15 * rng.standard_normal((6, *shape)))
    values = np.clip(np.rint(np.concatenate(dates)), 1, 20_000).astype(np.int16)
    label = crops[ids].astype(np.int16)
    label[rng.permutation(count)[ids] < 0.05 * count] = 0
    return values, label
