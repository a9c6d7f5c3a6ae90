"""Corners of the outlines in a label raster: points between pixels at which an outline turns.

Rows may come in strips; what is kept of them grows with the corners alone. `tracing` makes polygons of corners.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]

NW: Final = 0
"""The pixel to the upper left of a corner; `NE`, `SW` and `SE` are the others."""
NE: Final = 1
SW: Final = 2
SE: Final = 3

# Pixels that are compared at a time: few enough to stay in the processor's cache.
_BLOCK_PX: Final = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """Corners, line by line, and what lies around each; shape (corner,), where nothing else is said.

    An object is here what shares one value and, around the corner, edges.
    """

    row: npt.NDArray[np.int32]
    """Of the pixels below."""
    col: npt.NDArray[np.int32]
    """Of the pixels to the right."""
    value: Array
    """Of the pixel `SE`, in the type of the labels."""
    run: npt.NDArray[np.int32]
    """Where a hole may begin: first column of the pixels of one value that lie beside each other up to `NE`; else 0."""
    convex: BoolArray
    """Shape (4, corner): the outline turns around this pixel; neither of its neighbours here is of its object."""
    concave: BoolArray
    """Shape (4, corner): the outline turns around the pixel opposite; the two others are of this pixel's object."""
    touching: BoolArray
    """Shape (2, corner): `NW` and `SE`, or `NE` and `SW`, are of one value and meet at this corner only."""


def find_corners(strips: Iterable[Array], background: Collection[int]) -> Corners:
    """Corners of all outlines of a label raster.

    Args:
        strips: its rows from top to bottom, each of shape (row, col), of any height, bool or any integer type; none may
            change before all are read.
        background: values without outlines.

    Raises:
        ValueError: there is no pixel, or the rows are not whole numbers of one width and type.
    """
    found = [_between(*block, background) for block in _blocks(strips)]
    if not found:
        raise ValueError("a raster without pixels has no outlines")
    return Corners(
        *(np.concatenate([getattr(part, field.name) for part in found], axis=-1) for field in fields(Corners))
    )


def _blocks(strips: Iterable[Array]) -> Iterator[tuple[Array, int, bool, bool]]:
    """Rows, number of the first, and whether the raster begins and ends with them; a block repeats the row above it."""
    held: tuple[Array, int] | None = None
    is_first = True
    for rows, first in _overlapping(strips):
        if held is not None:
            yield *held, is_first, False
            is_first = False
        held = rows, first
    if held is not None:
        yield *held, is_first, True


def _overlapping(strips: Iterable[Array]) -> Iterator[tuple[Array, int]]:
    above: Array | None = None
    done = 0
    for strip in strips:
        if strip.ndim != 2 or strip.dtype.kind not in "biu":
            raise ValueError(f"labels of shape {strip.shape} and type {strip.dtype}: must be (row, col), whole numbers")
        if not strip.size:
            continue
        if above is None and len(strip) == 1:
            yield strip, 0
        elif above is not None:
            if (above.shape, above.dtype) != (strip.shape[1:], strip.dtype):
                raise ValueError(f"{strip.shape[1]} columns of {strip.dtype} below {len(above)} of {above.dtype}")
            yield np.stack([above, strip[0]]), done - 1
        step = max(_BLOCK_PX // strip.shape[1], 1)
        for first in range(0, len(strip) - 1, step):
            yield strip[first : first + step + 1], done + first
        above = strip[-1]
        done += len(strip)


def _between(rows: Array, first: int, is_first: bool, is_last: bool, background: Collection[int]) -> Corners:
    """Corners on the lines between rows, and on the raster's first and last line."""
    height, width = rows.shape
    # Edges of pixels, beside what differs and all around the raster. Outlines turn where a level one meets an upright.
    level, upright = np.empty((height + 1, width), bool), np.zeros((height + 2, width + 1), bool)
    level[0], level[-1] = is_first, is_last
    np.not_equal(rows[1:], rows[:-1], out=level[1:-1])
    upright[1:-1, 0] = upright[1:-1, -1] = True
    np.not_equal(rows[:, 1:], rows[:, :-1], out=upright[1:-1, 1:-1])
    meeting = np.empty((height + 1, width + 1), bool)
    meeting[:, 0], meeting[:, -1] = level[:, 0], level[:, -1]
    np.logical_or(level[:, 1:], level[:, :-1], out=meeting[:, 1:-1])
    meeting &= upright[1:] | upright[:-1]
    places = np.flatnonzero(meeting)
    line, col = np.divmod(places, width + 1)

    # Pixels that are no object, outside the raster too, equal nothing; there `clip` takes any other.
    up, down, left, right = line > 0, line < height, col > 0, col < width
    flat = np.ascontiguousarray(rows).reshape(-1)
    corner = places - line - (width + 1)
    nw, ne, sw, se = (flat.take(corner + offset, mode="clip") for offset in (0, 1, width, width + 1))
    held = [up & left, up & right, down & left, down & right]
    for value, mine in zip((nw, ne, sw, se), held, strict=True):
        for other in background:
            mine &= value != other
    north, south = held[NW] & held[NE] & (nw == ne), held[SW] & held[SE] & (sw == se)
    west, east = held[NW] & held[SW] & (nw == sw), held[NE] & held[SE] & (ne == se)
    falling, rising = held[NW] & held[SE] & (nw == se), held[NE] & held[SW] & (ne == sw)
    around = ((north, west, falling), (north, east, rising), (south, west, rising), (south, east, falling))
    convex = np.stack([mine & ~(one | other) for mine, (one, other, _) in zip(held, around, strict=True)])
    concave = np.stack([one & other & ~opposite for one, other, opposite in around])
    touching = np.stack([falling & convex[NW] & convex[SE], rising & convex[NE] & convex[SW]])

    run = np.zeros(len(places), np.int32)
    begins = np.flatnonzero(concave[NW] | touching[1])
    if len(begins):
        walls = np.flatnonzero(upright)
        start = line[begins] * (width + 1)
        run[begins] = walls[np.searchsorted(walls, start + col[begins], side="right") - 1] - start
    return Corners((line + first).astype(np.int32), col.astype(np.int32), se, run, convex, concave, touching)
