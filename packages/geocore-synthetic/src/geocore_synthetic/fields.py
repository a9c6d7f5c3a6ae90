"""Random fields and curves with a correlation length: the raw material of textures, drifts and wandering boundaries.

All functions draw from the generator they are given and from nothing else; the same generator state gives the same
array for any number of threads (no BLAS call is involved).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_KNOTS_PER_SIGMA = 2
"""The field is smoothed on a grid this many times finer than the kernel's sigma; a cubic spline then errs by < 1 %."""


def gaussian_field(
    shape: tuple[int, ...], correlation_px: float | tuple[float, ...], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Draw a smooth Gaussian random field.

    The autocorrelation at a lag of d pixels is exp(-(d / correlation_px)**2): white noise smoothed with a Gaussian
    kernel of sigma = correlation_px / 2 (below 2 px the pixel grid makes it fall faster). A correlation much longer
    than the field gives little more than a slope.

    Args:
        shape: Pixels along each axis; one axis gives a curve.
        correlation_px: Lag in pixels at which the autocorrelation has fallen to 1/e; one number, or one per axis.
            0 gives white noise.
        rng: Source of all randomness.

    Returns:
        Array of `shape`, float32, with mean 0 and standard deviation 1 over its pixels (one pixel alone: 0).

    Raises:
        ValueError: A correlation is negative, or there is not one per axis.
    """
    correlations = correlation_px if isinstance(correlation_px, tuple) else (correlation_px,) * len(shape)
    if len(correlations) != len(shape) or min(correlations) < 0:
        raise ValueError(f"correlation_px = {correlation_px}: one length >= 0 for each of {len(shape)} axes")
    sigmas = [correlation / 2 for correlation in correlations]
    steps = [max(1, int(sigma / _KNOTS_PER_SIGMA)) for sigma in sigmas]
    # Knots beyond both ends, so that neither the smoothing nor the spline sees a border inside the field.
    margins = [int(np.ceil(4 * sigma / step)) + 4 for sigma, step in zip(sigmas, steps, strict=True)]
    knots = [
        int(np.ceil(length / step)) + 2 * margin for length, step, margin in zip(shape, steps, margins, strict=True)
    ]
    field = rng.standard_normal(knots)
    for axis, (sigma, step) in enumerate(zip(sigmas, steps, strict=True)):
        if sigma > 0.1:  # a narrower kernel is a single pixel
            field = ndimage.gaussian_filter1d(field, sigma / step, axis=axis)
        if step > 1:
            field = _refined(field, axis, step, margins[axis], shape[axis])
        else:
            field = np.take(field, np.arange(margins[axis], margins[axis] + shape[axis]), axis=axis)
    field -= field.mean()
    deviation = field.std()
    return np.asarray(field / deviation if deviation > 0 else field, dtype=np.float32)


def _refined(field: npt.NDArray[np.float64], axis: int, step: int, margin: int, length: int) -> npt.NDArray[np.float64]:
    """Interpolate `length` samples, 1/step knots apart, along one axis from knot `margin` on (cubic spline)."""
    spline = ndimage.spline_filter1d(field, order=3, axis=axis)
    table = np.moveaxis(spline, axis, 0).reshape(field.shape[axis], -1)
    # The four cubic B-spline weights by hand: scipy would apply one spline order along all axes, at the price of all.
    at = margin + np.arange(length) / step
    first = np.floor(at).astype(int)
    t = (at - first)[:, None]
    weights = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    values = sum(weight * table[first + k - 1] for k, weight in enumerate(weights))
    others = [n for i, n in enumerate(field.shape) if i != axis]
    return np.moveaxis(np.asarray(values).reshape(length, *others), 0, axis)


def wandering_curve(
    length: int, rng: np.random.Generator, *, amplitude_px: float, correlation_px: float, slope: float = 0.0
) -> npt.NDArray[np.float64]:
    """Draw a 1-D curve that wanders about a straight line.

    Args:
        length: Samples, one pixel apart.
        rng: Source of all randomness.
        amplitude_px: Standard deviation of the wandering, pixels.
        correlation_px: Lag in pixels at which the autocorrelation has fallen to 1/e.
        slope: Rise of the straight line, pixels per pixel; the line passes through 0 at the middle.

    Returns:
        Shape (length,), float64, pixels, mean 0.
    """
    line = slope * (np.arange(length) - (length - 1) / 2)
    return line + amplitude_px * gaussian_field((length,), correlation_px, rng).astype(np.float64)
