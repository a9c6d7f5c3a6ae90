"""Scenes unlike those that a network was trained on: how far the mean of a band lies from theirs.

A network maps whatever it is given. A scene in another unit, of another season or with the bands in another order
mostly gives itself away by the mean of a band, of which a few windows say enough.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from geocore.grid import Window
from geocore.tiles import Tiling

_LOGGER = logging.getLogger(__name__)
_PROBES = 9


def probes(shape: tuple[int, int], size_px: int) -> list[Window]:
    """Nine windows spread over a scene, fewer where it has fewer tiles; they may reach outside.

    Args:
        shape: rows and columns of the scene.
        size_px: edge of a window.
    """
    rows, cols = (Tiling(size=size_px).starts(length) for length in shape)
    last = len(rows) * len(cols) - 1
    chosen = sorted({round(k * last / (_PROBES - 1)) for k in range(_PROBES)})
    return [Window(rows[index // len(cols)], cols[index % len(cols)], size_px, size_px) for index in chosen]


def farthest(pixels: Iterable[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]) -> tuple[int, float]:
    """The band whose mean over all valid pixels lies farthest from 0.

    Args:
        pixels: windows of one scene: values, shape (band, row, col) or (band, any number), standardised by the mean and
            standard deviation of the training data, anything where invalid; valid, bool, of the same shape or with one
            band.

    Returns:
        Index of the band, and its mean: standard deviations from that of the training data. A band without valid pixels
        counts as 0.
    """
    sums, counts = np.zeros(1), np.zeros(1)
    for values, valid in pixels:
        rest = tuple(range(1, values.ndim))
        # In float64: the mean of a large scene would drown in the rounding of float32.
        sums = sums + values.sum(axis=rest, where=valid, dtype=np.float64)
        counts = counts + valid.sum(axis=rest)
    means = sums / np.maximum(counts, 1)
    worst = int(np.abs(means).argmax())
    return worst, float(means[worst])


def warn_if_far(scene: str, what: str, away: float, *, far: float, reference: str) -> None:
    """Log a warning when a mean lies so far off that the map may be wrong.

    Args:
        scene: its name.
        what: the mean of which band.
        away: how far it lies off, standard deviations.
        far: how far it may lie off, standard deviations.
        reference: the scenes that it is compared with.
    """
    if abs(away) > far:
        _LOGGER.warning(
            "%s: %s lies %.1f standard deviations from the %s; the map may be wrong", scene, what, away, reference
        )
