"""Chips of burn scars as HLS sees them, with the scar exactly known.

Forest, shrub and grass on rugged ground, one scar in the middle with islands that the fire left, and rock and water
that have a burn ratio as low. Surface reflectances are chosen to lie about the means and standard deviations published
for HLS Burn Scars (blue to second short-wave infrared 0.033, 0.057, 0.059, 0.232, 0.197, 0.119 and 0.023, 0.027, 0.040,
0.078, 0.087, 0.072); spectra of the single kinds of ground are guesses.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from geocore_synthetic.fields import gaussian_field
from geocore_synthetic.shapes import blob, blob_anywhere, corner, local_axes

NODATA: Final = -9999.0
BANDS: Final = ("B02", "B03", "B04", "B8A", "B11", "B12")

Field = npt.NDArray[np.float32]


def _spectrum(*values: float) -> Field:
    return np.asarray(values, dtype=np.float32)[:, None, None]


_CONIFER: Final = _spectrum(0.018, 0.036, 0.027, 0.205, 0.115, 0.055)
_SHRUB: Final = _spectrum(0.040, 0.066, 0.074, 0.225, 0.230, 0.145)
_GRASS: Final = _spectrum(0.046, 0.080, 0.092, 0.290, 0.290, 0.175)
_ROCK: Final = _spectrum(0.075, 0.100, 0.120, 0.175, 0.215, 0.200)
_WATER: Final = _spectrum(0.030, 0.033, 0.022, 0.012, 0.007, 0.005)
_CHAR: Final = _spectrum(0.028, 0.042, 0.050, 0.095, 0.175, 0.165)


def draw_chip(
    size: int, rng: np.random.Generator, *, wedge: bool, easy: bool = False
) -> tuple[Field, npt.NDArray[np.int16]]:
    """Draw one chip.

    Args:
        size: edge, pixels.
        rng: source of all randomness.
        wedge: whether a corner is missing.
        easy: level ground without rock and water, burnt through; `wedge` does not count.

    Returns:
        Shape (6, row, col), float32, reflectance, -9999 where missing; shape (row, col), int16: 1 burnt, 0 not, -1
        missing.
    """
    shape, scale = (size, size), size / 256
    image = _mixed(_SHRUB, _CONIFER, _patches(shape, 70 * scale, 0.3, rng))
    image = _mixed(image, _GRASS, _patches(shape, 50 * scale, 0.8, rng))
    if not easy:
        image = _mixed(image, _ROCK, 0.9 * _patches(shape, 35 * scale, 1.3, rng))
    image = image * (1 + 0.06 * gaussian_field(shape, 2.0, rng) + 0.06 * gaussian_field(shape, 12 * scale, rng))
    scar = _scar(shape, scale, rng, islands=not easy)
    severity = 0.95 if easy else np.clip(0.75 + 0.18 * gaussian_field(shape, 25 * scale, rng), 0.4, 1)
    image = _mixed(image, _CHAR, ndimage.gaussian_filter(scar.astype(np.float64), 0.7) * severity)
    if not easy:
        for _ in range(rng.integers(0, 3)):
            lake = blob_anywhere(shape, (6 * scale, 20 * scale), rng, stretch=1.8)
            image = _mixed(image, _WATER, np.clip(8 * lake, 0, 1))
            scar &= lake <= 0
        slope = np.gradient(gaussian_field(shape, 18 * scale, rng), axis=1)
        image = image * np.clip(1 + 0.16 * slope / slope.std(), 0.45, 1.5)
    image += np.float32(0.003) * rng.standard_normal(image.shape).astype(np.float32)
    mask = scar.astype(np.int16)
    values = np.maximum(image, 0.0001).astype(np.float32)
    if wedge and not easy:
        missing = corner(shape, (rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9)), int(rng.integers(4)))
        values[:, missing], mask[missing] = NODATA, -1
    return values, mask


def _mixed(image: Field, other: Field, share: npt.NDArray[np.floating]) -> Field:
    """Blend (band, row, col) values towards others by a share (row, col), 0-1."""
    return np.asarray(image + (other - image) * share, dtype=np.float32)


def _patches(shape: tuple[int, int], size_px: float, above: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Soft patches where a field with standard deviation 1 lies above a level, shape (row, col), 0-1."""
    return np.clip(2 * (gaussian_field(shape, size_px, rng).astype(np.float64) - above) + 0.5, 0, 1)


def _scar(shape: tuple[int, int], scale: float, rng: np.random.Generator, *, islands: bool) -> npt.NDArray[np.bool_]:
    """One irregular area about the middle, shape (row, col)."""
    centre = tuple(rng.uniform(0.4, 0.6) * length for length in shape)
    radius = rng.uniform(30, 75) * scale
    axes = local_axes(shape, (centre[0], centre[1]), (radius * rng.uniform(1, 1.7), radius), rng.uniform(0, 360))
    depth = blob(*axes, rng, roughness=rng.uniform(0.1, 0.2)) + 0.12 * gaussian_field(shape, 14 * scale, rng)
    burnt = depth > 0
    if islands:
        burnt &= gaussian_field(shape, 16 * scale, rng) < 1.4
    return np.asarray(burnt)
