"""Boundary lines from boundary probability: ridge lines in any direction, and curves that run from left to right.

A line marks the upper (or left) pixel of the two between which the layer changes, as `layers.boundaries_of` does: the
edge itself lies half a pixel below it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_SMOOTHING_PX = 1.5
"""Sigma of the smoothing before ridges are sought: a line 3-5 px wide has one, the two of a lens merge below 6 px."""
_LEAST_BEND = 0.02
"""Least curvature of a ridge relative to its height, in units of the smoothing."""
_FADING = 0.5
"""Share of the threshold down to which a boundary is followed: cut where it fades, it would leave slivers of layers."""
_MAX_GAP_PX = 24
"""Columns over which two pieces of one boundary are joined; a piece shorter than half a gap cannot bridge it."""
_LEAST_PIECE_PX = 4
"""Connected ridges that extend over fewer rows and columns are noise and are not followed."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """A boundary traced from left to right."""

    cols: npt.NDArray[np.int64]
    """Shape (point,): consecutive columns."""
    rows: FloatArray
    """Shape (point,): row of the line in each column, sub-pixel; the edge lies 0.5 below."""
    confidence: float
    """Mean probability along the line, 0-1; gaps that were bridged count with what was there."""


def boundary_mask(
    probability: npt.NDArray[np.floating], valid: BoolArray, threshold: float, *, min_length_px: int = 8
) -> BoolArray:
    """Thin a boundary probability to its ridge lines, in any direction.

    A pixel is on a ridge when the smoothed probability is highest there across the direction of strongest downward
    curvature (non-maximum suppression along the Hessian's first eigenvector, Steger 1998).

    Args:
        probability: Shape (row, col), float, 0-1.
        valid: Shape (row, col), bool: True where the photo shows the wall.
        threshold: Least probability, 0-1, at the ridge or beside it.
        min_length_px: Connected ridges that extend over fewer rows and columns are dropped.

    Returns:
        Shape (row, col), bool: lines one or two pixels wide.
    """
    ridge, _ = _ridge(probability, valid, threshold)
    return _long(ridge, min_length_px)


def trace(
    probability: npt.NDArray[np.floating], valid: BoolArray, threshold: float, *, min_length_px: int = 24
) -> list[Boundary]:
    """Link ridge lines into boundaries that run from left to right.

    Ridge pixels are followed from column to column, sloping as they like; pieces of one boundary are joined over gaps
    of up to 24 columns. Parts that stand upright in one column cannot be a border between an upper and a lower layer
    and are left out here (`boundary_mask` keeps them).

    Args:
        probability: Shape (row, col), float, 0-1.
        valid: Shape (row, col), bool: True where the photo shows the wall.
        threshold: Least probability, 0-1, that a boundary reaches; on from there it is followed down to half of it.
        min_length_px: Boundaries that span fewer columns are dropped.

    Returns:
        Boundaries, longest first; empty when nothing reaches the threshold.
    """
    certain, _ = _ridge(probability, valid, threshold)
    ridge, smooth = _ridge(probability, valid, _FADING * threshold)
    ridge = _holding(ridge, certain)
    pieces = _joined(_followed(_long(ridge, _LEAST_PIECE_PX), smooth))
    near = ndimage.maximum_filter(probability, 3)
    boundaries = []
    for cols, rows in pieces:
        if len(cols) >= min_length_px:
            at = np.clip(np.rint(rows), 0, len(near) - 1).astype(int)
            boundaries.append(Boundary(cols, rows, float(near[at, cols].mean())))
    return sorted(boundaries, key=lambda boundary: (-len(boundary.cols), float(boundary.rows[0])))


def _ridge(probability: npt.NDArray[np.floating], valid: BoolArray, threshold: float) -> tuple[BoolArray, FloatArray]:
    """Ridge pixels at or above the threshold, and the smoothed probability, both of shape (row, col)."""
    values = np.where(valid, probability, 0).astype(np.float64)
    smooth = ndimage.gaussian_filter(values, _SMOOTHING_PX, mode="nearest")
    down, across, mixed = (
        ndimage.gaussian_filter(values, _SMOOTHING_PX, order=order, mode="nearest")
        for order in ((2, 0), (0, 2), (1, 1))
    )
    # Eigenvector of the Hessian's smaller eigenvalue: the direction across the ridge.
    angle = 0.5 * np.arctan2(2 * mixed, down - across)
    normal_row, normal_col = -np.sin(angle), np.cos(angle)
    curvature = (down + across) / 2 - np.hypot((down - across) / 2, mixed)
    # One sign for all normals, so that of two equal pixels it is always the same that stays.
    flip = np.where((normal_row < -1e-9) | ((np.abs(normal_row) <= 1e-9) & (normal_col < 0)), -1.0, 1.0)
    normal_row, normal_col = normal_row * flip, normal_col * flip
    # A Gaussian line has a curvature of about -height / (2 sigma**2) there; the foot of a line has next to none.
    bent = curvature * _SMOOTHING_PX**2 < -_LEAST_BEND * smooth
    ridge = valid & bent & (smooth > 0) & (ndimage.maximum_filter(values, 3) >= threshold)
    rows, cols = np.nonzero(ridge)
    step_row, step_col = normal_row[ridge], normal_col[ridge]
    here = smooth[ridge]
    after = ndimage.map_coordinates(smooth, [rows + step_row, cols + step_col], order=1, mode="nearest")
    before = ndimage.map_coordinates(smooth, [rows - step_row, cols - step_col], order=1, mode="nearest")
    ridge[ridge] = (here >= after - 1e-12) & (here > before + 1e-12)
    return ridge, smooth


def _long(ridge: BoolArray, min_length_px: int) -> BoolArray:
    """Drop 8-connected ridges whose extent along both axes is shorter."""
    pieces, _ = ndimage.label(ridge, structure=np.ones((3, 3)))
    extents = [max(part.stop - part.start for part in box) for box in ndimage.find_objects(pieces)]
    return np.asarray(np.array([False, *(extent >= min_length_px for extent in extents)])[pieces], dtype=np.bool_)


def _holding(ridge: BoolArray, certain: BoolArray) -> BoolArray:
    """Keep the 8-connected ridges that hold a certain pixel."""
    pieces, count = ndimage.label(ridge, structure=np.ones((3, 3)))
    kept = np.zeros(count + 1, bool)
    kept[pieces[ridge & certain]] = True
    return np.asarray(kept[pieces] & ridge, dtype=np.bool_)


def _followed(ridge: BoolArray, smooth: FloatArray) -> list[tuple[npt.NDArray[np.int64], FloatArray]]:
    """Follow ridge pixels from column to column; (columns, sub-pixel rows) of each piece."""
    done: list[list[tuple[int, float]]] = []
    active: list[tuple[list[tuple[int, float]], int, int]] = []  # points, first and last row of the last run
    for col in np.flatnonzero(ridge.any(axis=0)).tolist():
        runs = _runs(ridge[:, col])
        still = [piece for piece in active if col - piece[0][-1][0] <= 2]
        done += [piece[0] for piece in active if col - piece[0][-1][0] > 2]
        # A run continues a piece when their rows touch, allowing two rows of slack.
        firsts, lasts = [first for first, _ in runs], [last for _, last in runs]
        pairs = sorted(
            (abs(piece[0][-1][1] - (firsts[number] + lasts[number]) / 2), index, number)
            for index, piece in enumerate(still)
            for number in range(bisect_left(lasts, piece[1] - 2), bisect_right(firsts, piece[2] + 2))
        )
        taken: dict[int, int] = {}
        continued: set[int] = set()
        for _, index, number in pairs:
            if index not in continued and number not in taken:
                taken[number] = index
                continued.add(index)
        active = [piece for index, piece in enumerate(still) if index not in continued]
        for number, (first, last) in enumerate(runs):
            points = still[taken[number]][0] if number in taken else []
            points.append((col, _ridge_row(smooth[:, col], first, last)))
            active.append((points, first, last))
    done += [piece[0] for piece in active]
    return [_filled(points) for points in done]


def _runs(column: BoolArray) -> list[tuple[int, int]]:
    """First and last row of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], column, [False]]).astype(np.int8)))
    return [(int(first), int(stop) - 1) for first, stop in zip(edges[::2], edges[1::2], strict=True)]


def _ridge_row(column: FloatArray, first: int, last: int) -> float:
    """Row of a run's ridge: its middle when it is long (a steep line), else the vertex of a parabola."""
    if last - first > 2:
        return (first + last) / 2
    row = first + int(np.argmax(column[first : last + 1]))
    if not 0 < row < len(column) - 1:
        return float(row)
    above, here, below = column[row - 1 : row + 2]
    bend = above - 2 * here + below
    return row + float(np.clip(0.5 * (above - below) / bend, -0.5, 0.5)) if bend < 0 else float(row)


def _filled(points: Sequence[tuple[int, float]]) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Columns without gaps, rows linear across the gaps."""
    cols = np.arange(points[0][0], points[-1][0] + 1)
    return cols, np.interp(cols, [col for col, _ in points], [row for _, row in points])


def _joined(
    pieces: list[tuple[npt.NDArray[np.int64], FloatArray]],
) -> list[tuple[npt.NDArray[np.int64], FloatArray]]:
    """Join pieces whose ends lie in line, the best fit first; each end is used once."""
    starts = sorted((int(cols[0]), index) for index, (cols, _) in enumerate(pieces))
    candidates = []
    for left, (left_cols, left_rows) in enumerate(pieces):
        end = int(left_cols[-1])
        reach = end + min(_MAX_GAP_PX, 2 * len(left_cols))
        for start, right in starts[bisect_left(starts, (end + 1, 0)) : bisect_left(starts, (reach + 1, 0))]:
            right_cols, right_rows = pieces[right]
            gap = start - end
            # The first test only spares the slopes, which are no steeper than 1.
            if gap > 2 * len(right_cols) or abs(right_rows[0] - left_rows[-1]) > 2 + 1.2 * gap:
                continue
            tilt = (slope(left_rows[-16:]) + slope(right_rows[:16])) / 2
            miss = abs(float(right_rows[0] - left_rows[-1]) - tilt * gap)
            if miss <= 2 + 0.2 * gap:
                candidates.append((gap + 2 * miss, left, right))
    following: dict[int, int] = {}
    followers: set[int] = set()
    for _, left, right in sorted(candidates):
        if left not in following and right not in followers:
            following[left] = right
            followers.add(right)
    joined = []
    for first in sorted(set(range(len(pieces))) - followers):
        points: list[tuple[int, float]] = []
        piece: int | None = first
        while piece is not None:
            points += zip(pieces[piece][0].tolist(), pieces[piece][1].tolist(), strict=True)
            piece = following.get(piece)
        joined.append(_filled(points))
    return joined


def slope(rows: FloatArray) -> float:
    """Slope of consecutive rows, rows per column; 0 for fewer than four points, never steeper than 1."""
    if len(rows) < 4:
        return 0.0
    at = np.arange(len(rows)) - (len(rows) - 1) / 2
    return float(np.clip((at * rows).sum() / (at**2).sum(), -1, 1))
