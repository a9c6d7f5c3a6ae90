"""Illumination and mosaicking faults, each a field of factors to multiply an image with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def vignetting(
    shape: tuple[int, int], strength: float, centre: tuple[float, float] = (0.5, 0.5)
) -> npt.NDArray[np.float32]:
    """Fall-off of brightness from a lens's centre: 1 - strength * (distance / farthest corner)**2.

    Args:
        shape: (row, col), pixels.
        strength: Loss at the corner farthest from the centre, 0-1.
        centre: Optical centre as a share of (row, col).

    Returns:
        Shape (row, col), float32, factor; 1 at the centre, 1 - strength at the farthest corner.

    Raises:
        ValueError: `strength` lies outside 0-1.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength = {strength}: must lie in 0-1")
    rows = np.arange(shape[0])[:, None] - centre[0] * (shape[0] - 1)
    cols = np.arange(shape[1])[None, :] - centre[1] * (shape[1] - 1)
    squares = (rows**2 + cols**2).astype(np.float64)
    return np.asarray(1 - strength * squares / max(float(squares.max()), 1e-12), dtype=np.float32)


def gradient(shape: tuple[int, int], strength: float, direction_deg: float) -> npt.NDArray[np.float32]:
    """Plane of factors that rises towards one direction.

    Args:
        shape: (row, col), pixels.
        strength: Difference between the brightest and the darkest corner.
        direction_deg: Where it is brightest: 0 = right, 90 = top, degrees.

    Returns:
        Shape (row, col), float32, factor from 1 - strength / 2 to 1 + strength / 2, mean 1.
    """
    angle = np.deg2rad(direction_deg)
    rows = np.linspace(0.5, -0.5, shape[0])[:, None] * np.sin(angle)
    cols = np.linspace(-0.5, 0.5, shape[1])[None, :] * np.cos(angle)
    plane = rows + cols
    return np.asarray(1 + strength * plane / max(float(np.ptp(plane)), 1e-12), dtype=np.float32)


def panel_numbers(shape: tuple[int, int], row_seams: Sequence[int], col_seams: Sequence[int]) -> npt.NDArray[np.int64]:
    """Number the panels of a mosaic whose straight seams run through the whole image.

    Args:
        shape: (row, col), pixels.
        row_seams: Rows at which a new panel begins, ascending, pixels.
        col_seams: Columns at which a new panel begins, ascending, pixels.

    Returns:
        Shape (row, col), int64: 0, 1, ... row by row of panels.
    """
    rows = np.searchsorted(np.asarray(row_seams), np.arange(shape[0]), side="right")
    cols = np.searchsorted(np.asarray(col_seams), np.arange(shape[1]), side="right")
    return np.asarray(rows[:, None] * (len(col_seams) + 1) + cols[None, :], dtype=np.int64)


def seam_gains(
    shape: tuple[int, int],
    row_seams: Sequence[int],
    col_seams: Sequence[int],
    gain_step: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Gain of each panel of a badly balanced mosaic: constant in a panel, with a step at each seam.

    Args:
        shape: (row, col), pixels.
        row_seams: Rows at which a new panel begins, ascending, pixels.
        col_seams: Columns at which a new panel begins, ascending, pixels.
        gain_step: Standard deviation of the panels' gains.
        rng: Source of all randomness.

    Returns:
        Shape (row, col), float32, factor about 1; all 1 where there is no seam.
    """
    gains = 1 + gain_step * rng.standard_normal((len(row_seams) + 1) * (len(col_seams) + 1))
    if gains.size == 1:
        return np.ones(shape, np.float32)
    return np.asarray(gains[panel_numbers(shape, row_seams, col_seams)], dtype=np.float32)
