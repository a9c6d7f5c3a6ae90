"""Noise of cameras and radars: speckle, photon shot noise and small bright or dark spots."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def speckle(shape: tuple[int, int], strength: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Draw multiplicative, uncorrelated speckle.

    Args:
        shape: (row, col), pixels.
        strength: Standard deviation relative to the mean; the gamma law of 1 / strength**2 looks (Goodman 1976).
            0 gives ones.
        rng: Source of all randomness.

    Returns:
        Shape (row, col), float32, factor >= 0 of mean 1 in expectation.

    Raises:
        ValueError: `strength` is negative.
    """
    if strength < 0:
        raise ValueError(f"strength = {strength}: must be >= 0")
    if strength == 0:
        return np.ones(shape, np.float32)
    looks = 1 / strength**2
    return np.asarray(rng.gamma(looks, 1 / looks, shape), dtype=np.float32)


def shot(values: npt.NDArray[np.floating], full_well: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Replace a brightness by a photon count of that expectation.

    Args:
        values: Shape (..., row, col), float, brightness 0-1; negative values count as 0.
        full_well: Photons that make a brightness of 1; the noise is sqrt(value / full_well).
        rng: Source of all randomness.

    Returns:
        Same shape, float32, brightness; may exceed 1.

    Raises:
        ValueError: `full_well` is not positive.
    """
    if full_well <= 0:
        raise ValueError(f"full_well = {full_well}: must be > 0 photons")
    return np.asarray(rng.poisson(np.maximum(values, 0) * full_well) / full_well, dtype=np.float32)


def spots(
    shape: tuple[int, int], density: float, radius_px: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Scatter small round spots, evenly and independently of each other.

    Args:
        shape: (row, col), pixels.
        density: Expected spots per pixel.
        radius_px: Standard deviation of a spot's Gaussian shape, pixels.
        rng: Source of all randomness; each spot has its own height, uniform in 0-1.

    Returns:
        Shape (row, col), float32, >= 0: the sum of the spots.

    Raises:
        ValueError: `density` is negative.
    """
    if density < 0:
        raise ValueError(f"density = {density}: must be >= 0 spots per pixel")
    count = int(rng.poisson(density * shape[0] * shape[1]))
    rows, cols = rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)
    peaks = np.zeros(shape)
    np.add.at(peaks, (rows, cols), rng.uniform(0, 1, count))
    # The filter keeps the volume; a spot of height 1 has the volume 2 pi radius**2.
    volume = max(1.0, 2 * np.pi * radius_px**2)
    return np.asarray(volume * ndimage.gaussian_filter(peaks, radius_px), dtype=np.float32)
