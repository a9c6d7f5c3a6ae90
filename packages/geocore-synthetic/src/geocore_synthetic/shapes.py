"""Irregular outlines in the plane: blobs, meandering lines, clouds and cut-off corners.

Shapes are fields over all pixels rather than masks, so that a caller can blend, widen and compare them before deciding
which pixel belongs to what. Directions count from the right, 90 degrees is up, as in `illumination.gradient`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geocore_synthetic.fields import gaussian_field, wandering_curve

_HARMONICS = np.arange(2, 13)
"""Waves around an outline: one wave would only move the blob, and more than twelve are lost in the pixels."""


def local_axes(
    shape: tuple[int, int], centre: tuple[float, float], radii_px: tuple[float, float], direction_deg: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coordinates of every pixel about a centre, along and across a direction, in units of two radii.

    Args:
        shape: (row, col), pixels.
        centre: (row, col) of the origin, pixels; may lie outside.
        radii_px: Pixels that count as 1 along and across.
        direction_deg: Where the first coordinate grows: 0 = right, 90 = up, degrees.

    Returns:
        (along, across), each of shape (row, col), float64; across grows a quarter turn anticlockwise of along.
    """
    angle = np.deg2rad(direction_deg)
    up = centre[0] - np.arange(shape[0])[:, None]
    right = np.arange(shape[1])[None, :] - centre[1]
    along = right * np.cos(angle) + up * np.sin(angle)
    across = up * np.cos(angle) - right * np.sin(angle)
    return along / radii_px[0], across / radii_px[1]


def blob(
    along: npt.NDArray[np.float64],
    across: npt.NDArray[np.float64],
    rng: np.random.Generator,
    *,
    roughness: float,
    taper: float = 0.0,
) -> npt.NDArray[np.float64]:
    """Draw an ellipse with an irregular outline.

    Args:
        along: Shape (row, col), coordinates of `local_axes`.
        across: The same across.
        rng: Source of all randomness.
        roughness: Standard deviation of the outline's radius, share of the radius; 0 gives an exact ellipse.
        taper: How much narrower the end at along = -1 is and how much wider the other, share of the width, 0-1.

    Returns:
        Shape (row, col), float64: depth below the outline as a share of the local radius, 1 at the centre, 0 on the
        outline, negative outside.

    Raises:
        ValueError: `roughness` is negative, or `taper` outside 0-1 (1 excluded).
    """
    if roughness < 0 or not 0 <= taper < 1:
        raise ValueError(f"roughness = {roughness}, taper = {taper}: must be >= 0, and in 0-1 below 1")
    across = across / (1 + taper * np.clip(along, -1, 1))
    # Amplitudes fall with the wave number as those of natural outlines do; squared, they add up to 1.
    amplitudes = _HARMONICS**-1.25 * rng.rayleigh(size=len(_HARMONICS))
    amplitudes *= np.sqrt(2 / np.sum(amplitudes**2))
    angles = np.linspace(-np.pi, np.pi, 721)
    waves = np.cos(_HARMONICS[:, None] * angles + rng.uniform(0, 2 * np.pi, len(_HARMONICS))[:, None])
    radius = np.maximum(1 + roughness * np.sum(amplitudes[:, None] * waves, axis=0), 0.2)
    return np.asarray(1 - np.hypot(along, across) / np.interp(np.arctan2(across, along), angles, radius))


def blob_anywhere(
    shape: tuple[int, int], radii_px: tuple[float, float], rng: np.random.Generator, *, stretch: float = 1.0
) -> npt.NDArray[np.float64]:
    """Draw a blob of any size, proportion and direction whose centre may be any pixel.

    Args:
        shape: (row, col), pixels.
        radii_px: Smallest and largest radius, pixels; drawn evenly in its logarithm.
        rng: Source of all randomness.
        stretch: How many times longer than wide it may be.

    Returns:
        Shape (row, col), float64: depth below the outline, as of `blob`.
    """
    radius = float(np.exp(rng.uniform(*np.log(radii_px))))
    centre = (rng.uniform(0, shape[0]), rng.uniform(0, shape[1]))
    along, across = local_axes(shape, centre, (radius * rng.uniform(1, stretch), radius), rng.uniform(0, 360))
    return blob(along, across, rng, roughness=rng.uniform(0.03, 0.12))


def meander(
    shape: tuple[int, int], rng: np.random.Generator, *, amplitude_px: float, correlation_px: float
) -> npt.NDArray[np.float64]:
    """Draw a winding line from one side of the image to the other, near its middle on average.

    Args:
        shape: (row, col), pixels.
        rng: Source of all randomness; it also decides whether the line runs along the rows or the columns.
        amplitude_px: Standard deviation of the winding, pixels.
        correlation_px: Lag in pixels at which the winding's autocorrelation has fallen to 1/e.

    Returns:
        Shape (row, col), float64: signed distance to the line, pixels, right to first order in the line's curvature.
    """
    transposed = rng.uniform() < 0.5
    rows, cols = shape[::-1] if transposed else shape
    middle = rng.uniform(0.3, 0.7) * rows
    line = middle + wandering_curve(
        cols, rng, amplitude_px=amplitude_px, correlation_px=correlation_px, slope=rng.uniform(-0.3, 0.3)
    )
    distance = (np.arange(rows)[:, None] - line) / np.hypot(1, np.gradient(line))
    return np.asarray(distance.T if transposed else distance, dtype=np.float64)


def level_lines(
    shape: tuple[int, int], rng: np.random.Generator, *, width_px: float, correlation_px: float
) -> npt.NDArray[np.float64]:
    """Draw soft lines along one level of a random field; they wind, close, meet and fade in places.

    Args:
        shape: (row, col), pixels.
        rng: Source of all randomness.
        width_px: Distance from a line at which it has faded to 1/e, pixels.
        correlation_px: Correlation length of the field, pixels: about the size of the loops.

    Returns:
        Shape (row, col), float64, 0-1, 1 in the middle of a line.
    """
    field = gaussian_field(shape, correlation_px, rng)
    # Where the field is flat its level is no line: a tenth of the usual steepness is added against broad spots.
    steepness = np.hypot(*np.gradient(field)) + 0.1 / correlation_px
    presence = np.clip(0.5 + gaussian_field(shape, correlation_px, rng), 0, 1)
    return np.asarray(presence * np.exp(-((field / steepness / width_px) ** 2)), dtype=np.float64)


def cloud(depth: npt.NDArray[np.float64], grain_px: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Turn a blob into a cloud: dense inside, ragged and thin towards its outline, nothing beyond.

    Args:
        depth: Shape (row, col), depth of `blob`.
        grain_px: Correlation length of the coarser billows, pixels; the finer ones are a quarter of it.
        rng: Source of all randomness.

    Returns:
        Shape (row, col), float64, opacity 0-1.
    """
    shape = (depth.shape[0], depth.shape[1])
    billows = 0.4 * gaussian_field(shape, grain_px, rng) + 0.2 * gaussian_field(shape, grain_px / 4, rng)
    opacity = np.clip(2 * np.maximum(depth, 0) * (1 + billows), 0, 1)
    return np.asarray(opacity**2 * (3 - 2 * opacity), dtype=np.float64)


def corner(shape: tuple[int, int], legs: tuple[float, float], which: int) -> npt.NDArray[np.bool_]:
    """Cut off a corner of the image along a straight line, as the edge of a satellite's swath does.

    Args:
        shape: (row, col), pixels.
        legs: Length of the cut along the (row, col) axes, share of the image.
        which: 0 upper left, 1 upper right, 2 lower left, 3 lower right.

    Returns:
        Shape (row, col), bool, true in the corner.
    """
    rows = (np.arange(shape[0]) + 0.5) / (shape[0] * legs[0])
    cols = (np.arange(shape[1]) + 0.5) / (shape[1] * legs[1])
    rows, cols = rows[:: -1 if which >= 2 else 1], cols[:: -1 if which % 2 else 1]
    return np.asarray(rows[:, None] + cols[None, :] < 1)
