"""Polygons along the edges of pixels: of all objects of a label raster at once, and of the regions of a class map.

Objects are connected components: pixels of a mask that touch, at corners too, under one number. The corners of their
outlines, points between pixels at which an outline turns, are found strip by strip; what is kept grows with them alone.

An outline takes level and upright edges in turn. Its corners in the order of rows are the ends of the level edges, pair
by pair, and in the order of columns those of the upright ones: all outlines are linked without a loop over points. They
are told apart and put in order by pointer jumping (J. JaJa, An Introduction to Parallel Algorithms, 1992, section 2.2),
whose every step doubles how far each edge sees along its outline.

Regions, pixels of one class that touch, are traced strip by strip and joined where they touch across a seam: memory
follows the width of a scene and the number of regions, not its height.

Needs the extra `geocore[polygons]` (shapely), imported where it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from affine import Affine
from scipy import ndimage

from geocore.errors import SettingsError
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import PixelAreas

Connectivity = Literal[4, 8]


def components(mask: npt.NDArray[np.bool_], connectivity: Connectivity = 8) -> npt.NDArray[np.uint32]:
    """Connected parts of a mask.

    Args:
        mask: shape (row, col), bool.
        connectivity: 8: pixels that touch at a corner are connected; 4: only those that share an edge.

    Returns:
        Same shape, uint32, 0 background, parts numbered by their first pixel, row by row.
    """
    labels, _ = ndimage.label(mask, structure=ndimage.generate_binary_structure(2, 2 if connectivity == 8 else 1))
    return renumbered(labels)


def renumbered(ids: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Number objects by their first pixel, row by row.

    Args:
        ids: shape (row, col), any integer type, 0 background, others positive.

    Returns:
        Same shape, uint32, 0 background, ids without gaps.
    """
    marked = ids != 0
    values = ids[marked]
    if len(values) and int(values.max()) > ids.size:  # Too large to index a table.
        values = np.searchsorted(np.unique(values), values) + 1
    firsts = np.full(int(values.max(initial=0)) + 1, -1, np.int64)
    # Of several values for one place the last stays: from behind, that is the first pixel.
    firsts[values[::-1]] = np.arange(len(values))[::-1]
    present = np.flatnonzero(firsts >= 0)
    ranks = np.zeros(len(firsts), np.uint32)
    ranks[present[np.argsort(firsts[present])]] = np.arange(1, len(present) + 1, dtype=np.uint32)
    numbered = np.zeros(ids.shape, np.uint32)
    numbered[marked] = ranks[values]
    return numbered


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


IntArray = npt.NDArray[np.intp]


def polygonize_labels(
    labels: Array | Iterable[Array], transform: Affine, background: Collection[int] = (0,)
) -> tuple[npt.NDArray[Any], Array]:
    """Outline every object of a label raster: pixels of one value that share edges, not only corners.

    Polygons are valid, have no points on straight edges, and burnt again they give the raster. What an object encloses
    is a hole, also where it touches the outside or another hole at a corner.

    Args:
        labels: shape (row, col), bool or any integer type; or the rows of one raster from top to bottom, in arrays of
            any height, none of which may change before all are read. Memory beyond them grows with the corners of the
            outlines alone, by about 150 bytes each.
        transform: of the raster; the identity leaves columns and rows.
        background: values that get no polygons.

    Returns:
        Polygons of shapely, shape (polygon,), object, by their first pixels, row by row; and the value of each, shape
        (polygon,), in the type of the labels.

    Raises:
        SettingsError: the extra is not installed.
        ValueError: there is no pixel, or the rows are not whole numbers of one width and type.
    """
    shapely = _shapely()
    corners = find_corners([labels] if isinstance(labels, np.ndarray) else labels, background)
    rings = _rings(corners, _edges(corners))
    col, row = corners.col[rings.corners], corners.row[rings.corners]
    a, b, c, d, e, f = transform[:6]
    points = np.column_stack([c + a * col + b * row, f + d * col + e * row])
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, points, (rings.starts, rings.shells))
    return polygons, rings.values


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Level edges: those on top of their object, then those under it, each line by line.

    Edge i leads from end 2i to end 2i + 1, its object to the right of the way.
    """

    corners: IntArray
    """Corner of each end, shape (end,)."""
    tops: int
    """How many are on top of their object."""
    onward: IntArray
    """End from which the way goes on after each edge and the upright one that follows, shape (edge,)."""
    touching: IntArray
    """Ends on one corner at which pixels of one value touch, shape (2, pair)."""
    walls: IntArray
    """Upper ends of the upright edges that have their object to the right, column by column, shape (wall,)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rings:
    """Rings of corners; each polygon's shell, then its holes."""

    corners: IntArray
    """Of all rings, each with its first corner again as its last, shape (point,)."""
    starts: IntArray
    """Where each ring begins, and the end of the last, shape (ring + 1,)."""
    shells: IntArray
    """Number of the ring with which each polygon begins, and of all rings, shape (polygon + 1,)."""
    values: Array
    """Of each polygon, shape (polygon,)."""


def _edges(corners: Corners) -> _Edges:
    """Find all edges and link them."""
    convex, concave, count = corners.convex, corners.concave, corners.row.size
    # On one corner an edge ends before another starts, so that the ends on a line are left, right, left, right.
    tops = np.flatnonzero(np.stack([convex[SW] | concave[SE], convex[SE] | concave[SW]], axis=1))
    unders = np.flatnonzero(np.stack([convex[NW] | concave[NE], convex[NE] | concave[NW]], axis=1))
    numbers = np.full((2, 2 * count), -1)
    numbers[0, tops] = np.arange(len(tops))
    numbers[1, unders] = len(tops) + (np.arange(len(unders)) ^ 1)  # led from right to left
    ends = np.empty(len(tops) + len(unders), np.intp)
    ends[numbers[0, tops]], ends[numbers[1, unders]] = tops >> 1, unders >> 1
    # Of the end that lies on each corner: the right and left one of an edge on top, and of one under its object.
    (top_right, top_left), (under_right, under_left) = (each.reshape(count, 2).T for each in numbers)

    order = _by_column(corners.col)

    def upright(lower: IntArray, upper: IntArray) -> IntArray:
        """Upper and lower end of upright edges, shape (edge, 2), column by column."""
        found = np.stack([lower, upper], axis=1)[order].reshape(-1)
        return found[found >= 0].reshape(-1, 2)

    walls = upright(
        _either(convex[NE], under_left, concave[SE], top_right),
        _either(convex[SE], top_left, concave[NE], under_right),
    )
    others = upright(
        _either(convex[NW], under_right, concave[SW], top_left),
        _either(convex[SW], top_right, concave[NW], under_left),
    )
    onward = np.empty(len(ends) // 2, np.intp)
    onward[walls[:, 1] >> 1] = walls[:, 0]
    onward[others[:, 0] >> 1] = others[:, 1]
    falling, rising = (np.flatnonzero(each) for each in corners.touching)
    touching = np.stack(
        [
            np.concatenate([under_right[falling], under_left[rising]]),
            np.concatenate([top_left[falling], top_right[rising]]),
        ]
    )
    return _Edges(ends, len(tops) // 2, onward, touching, walls[:, 0])


def _by_column(col: npt.NDArray[np.int32]) -> IntArray:
    """Order of corners by column, from top to bottom in each."""
    # Sorted by digits, and so several times faster, when 16 bits are enough.
    return np.argsort(col.astype(np.uint16) if col.max(initial=0) < 1 << 16 else col, kind="stable")


def _either(first: BoolArray, chosen: IntArray, second: BoolArray, otherwise: IntArray) -> IntArray:
    """Number of an end where there is one, else -1."""
    return np.where(first, chosen, np.where(second, otherwise, -1))


def _rings(corners: Corners, edges: _Edges) -> _Rings:
    """Follow all outlines."""
    # An outline is known by the left corner of its first edge, line by line. That of a shell is on top of the object,
    # that of a hole under it; where two outlines begin at one corner, their values differ.
    left = np.where(np.arange(len(edges.onward)) < edges.tops, edges.corners[0::2], edges.corners[1::2])
    following = _untied(edges, _lowest(left, edges.onward >> 1)) >> 1
    heads = np.flatnonzero(_lowest(left, following) == left)
    heads = heads[np.argsort(left[heads])]
    ring, steps = _steps(heads, following)
    shell = _shells(corners, edges, heads, left, ring)
    order = np.argsort(shell, kind="stable")  # a shell begins above its holes
    starts = np.zeros(len(heads) + 1, np.intp)
    np.cumsum(2 * np.bincount(ring, minlength=len(heads))[order] + 1, out=starts[1:])
    begin = np.empty(len(heads), np.intp)
    begin[order] = starts[:-1]
    # Steps lead to the head, so that rings run against the way: anticlockwise where north is up.
    place = begin[ring] + 2 * steps
    points = np.empty(starts[-1], np.intp)
    points[place], points[place + 1] = edges.corners[1::2], edges.corners[0::2]
    points[starts[1:] - 1] = points[starts[:-1]]
    shells = np.append(np.flatnonzero(heads[order] < edges.tops), len(heads))
    return _Rings(points, starts, shells, corners.value[left[heads[heads < edges.tops]]])


def _lowest(corners: IntArray, following: IntArray) -> IntArray:
    """Lowest of the corners on the outline of each edge."""
    while True:
        # An edge knows the lowest of the next 1, 2, 4, ... edges, and of all once that changes nothing.
        lower = np.minimum(corners, corners[following])
        if np.array_equal(lower, corners):
            return corners
        corners, following = lower, following[following]


def _untied(edges: _Edges, outline: IntArray) -> IntArray:
    """The way on after each edge, where no outline passes a corner twice.

    One that does surrounds, between the two visits, a hole that touches the outside or another hole. Exchanging the
    ways on separates them. Pairs of visits are nested, never interlaced, as all touch from the same side of a curve
    that does not cross itself; so all are exchanged at once.
    """
    one, two = edges.touching[:, np.equal(*outline[edges.touching >> 1])]
    other = np.arange(len(edges.corners))
    other[one], other[two] = two, one
    onward: IntArray = other[edges.onward[other[1::2] >> 1]]
    return onward


def _steps(heads: IntArray, following: IntArray) -> tuple[IntArray, IntArray]:
    """Number of the outline of each edge, and steps from the edge to the outline's head."""
    steps, ahead = np.ones(len(following), np.intp), following.copy()
    steps[heads], ahead[heads] = 0, heads
    while (further := steps[ahead]).any():
        steps += further
        ahead = ahead[ahead]
    number = np.empty(len(following), np.intp)
    number[heads] = np.arange(len(heads))
    return number[ahead], steps


def _shells(corners: Corners, edges: _Edges, heads: IntArray, left: IntArray, ring: IntArray) -> IntArray:
    """Ring of the polygon that each ring belongs to, which for shells is itself."""
    shell = np.arange(len(heads))
    holes = np.flatnonzero(heads >= edges.tops)
    # To the left of a hole's first edge, in the row above, the same object begins at an upright edge. Its outline lies
    # higher: it is the shell, or another hole, of which the same holds.
    begin = left[heads[holes]]
    height = np.int64(corners.row.max(initial=0)) + 1  # a product of 32 bits would not fit them
    upper = edges.corners[edges.walls]
    walls = corners.col[upper] * height + corners.row[upper]
    sought = corners.run[begin] * height + corners.row[begin] - 1
    shell[holes] = ring[edges.walls[np.searchsorted(walls, sought, side="right") - 1] >> 1]
    while not np.array_equal(shell, further := shell[shell]):
        shell = further
    return shell


Strip = tuple[int, Array, Array]
"""First row; classes, integers, and a quantity such as the probability in per cent, each of shape (row, col)."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Pixels of one class that touch."""

    label: int
    """Class value."""
    pixels: int
    mean: float
    """Of the quantity over the pixels, in its unit."""
    shape: Any
    """Polygon or multipolygon along the edges of the pixels; x is the column and y the row, in pixels."""


def trace_regions(
    strips: Iterable[Strip],
    grid: Grid,
    labels: Collection[int] | None,
    min_area_m2: float = 0.0,
    *,
    background: Collection[int] = (),
    connectivity: Connectivity = 8,
) -> list[Region]:
    """Trace the regions of a class map that is read once, from top to bottom.

    Args:
        strips: whole rows of the map, without a gap; of any height, which does not change the result.
        grid: of the map.
        labels: classes whose regions are wanted; None: all but `background`.
        min_area_m2: regions with less ground under their pixels are left out; 0 for a grid without ground.
        background: values that are no class.
        connectivity: 8: pixels that touch at a corner are one region; 4: only those that share an edge.

    Returns:
        By their first pixel, row by row.

    Raises:
        SettingsError: the extra is not installed.
        ValueError: a least area is asked for, but the grid has no ground.
    """
    pieces = _Pieces(grid, labels, background, min_area_m2, connectivity)
    for row, classes, quantity in strips:
        pieces.add(row, classes, quantity)
    return pieces.joined()


@dataclass(frozen=True, slots=True)
class _Piece:
    """What of a region lies in one strip."""

    label: int
    pixels: int
    total: float
    """Sum of the quantity over the pixels."""
    ground_m2: float
    """Area of the pixels; 0 where none is asked for."""
    first: int
    """First pixel, counted over the scene."""
    polygons: list[Any]


class _Pieces:
    """The pieces of all strips so far, and which of them are one."""

    def __init__(
        self,
        grid: Grid,
        labels: Collection[int] | None,
        background: Collection[int],
        min_area_m2: float,
        connectivity: Connectivity,
    ) -> None:
        self._grid, self._labels, self._background = grid, labels, background
        self._least, self._connectivity = min_area_m2, connectivity
        self._ground = PixelAreas(grid) if min_area_m2 else None
        self._pieces: list[_Piece] = []
        self._parents: list[int] = []
        self._above: tuple[Array, npt.NDArray[np.int64]] | None = None

    def add(self, row: int, classes: Array, quantity: Array) -> None:
        """Number and trace the pieces of the strip that starts at `row`, and link them with those above."""
        ids = self._numbered(classes)
        held = np.flatnonzero(ids)
        values = ids.ravel()[held]
        size = int(values.max(initial=0)) + 1
        pixels = np.bincount(values, minlength=size)
        sums = np.bincount(values, quantity.ravel()[held], minlength=size)
        ground: npt.NDArray[Any] = np.zeros(size)
        if self._ground is not None:
            areas = self._ground.within(Window(row, 0, *ids.shape))
            ground = np.bincount(values, areas.ravel()[held], minlength=size)
        firsts = np.zeros(size, np.int64)
        # Of several values for one place the last stays: from behind, that is the first pixel.
        firsts[values[::-1]] = held[::-1]
        kept = ground >= self._least if self._least else np.ones(size, bool)
        # What reaches a seam may go on beyond it.
        if row > 0:
            kept[ids[0]] = True
        if row + len(ids) < self._grid.height:
            kept[ids[-1]] = True
        kept[0] = False
        # Place of each number of the strip among all pieces.
        places = np.full(size, -1, np.int64)
        places[kept] = len(self._pieces) + np.arange(np.count_nonzero(kept))
        labels, offset = classes.ravel()[firsts], row * ids.shape[1]
        for number in np.flatnonzero(kept).tolist():
            figures = int(pixels[number]), float(sums[number]), float(ground[number])
            self._parents.append(len(self._pieces))
            self._pieces.append(_Piece(int(labels[number]), *figures, offset + int(firsts[number]), []))
        ids[~kept[ids]] = 0
        # In whole pixels, so that seams fit exactly.
        polygons, numbers = polygonize_labels(ids, Affine.translation(0.0, float(row)))
        for polygon, place in zip(polygons, places[numbers].tolist(), strict=True):
            self._pieces[place].polygons.append(polygon)
        self._link(classes[0], places[ids[0]])
        self._above = (classes[-1].copy(), places[ids[-1]])

    def joined(self) -> list[Region]:
        """The regions of the map, once all strips are in."""
        members: dict[int, list[_Piece]] = {}
        for index, piece in enumerate(self._pieces):
            members.setdefault(self._root(index), []).append(piece)
        shapely, found = _shapely(), []
        for own in members.values():
            if self._least and sum(piece.ground_m2 for piece in own) < self._least:
                continue
            polygons = [polygon for piece in own for polygon in piece.polygons]
            shape = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
            if len(own) > 1:
                shape = _straightened(shapely.union_all(polygons))
            pixels = sum(piece.pixels for piece in own)
            mean = sum(piece.total for piece in own) / pixels
            first = min(piece.first for piece in own)
            found.append((first, Region(own[0].label, pixels, mean, shape)))
        return [region for _, region in sorted(found, key=lambda pair: pair[0])]

    def _numbered(self, classes: Array) -> npt.NDArray[np.uint32]:
        """Pieces of all classes, 1, 2, ..."""
        ids = np.zeros(classes.shape, np.uint32)
        labels = self._labels
        for label in self._present(classes) if labels is None else labels:
            own = components(classes == label, self._connectivity)
            np.add(own, ids.max(), out=ids, where=own > 0)
        return ids

    def _present(self, classes: Array) -> list[int]:
        """Values of a strip that are classes, rising."""
        flat = classes.ravel()
        # Where a run begins: sorting all pixels would take longer than tracing them.
        begins = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        values: list[int] = np.setdiff1d(flat[np.append(0, begins)], list(self._background)).tolist()
        return values

    def _link(self, classes: Array, pieces: npt.NDArray[np.int64]) -> None:
        """Link pieces of one class across a seam, straight and, where they count, by corners."""
        if self._above is None:
            return
        upper_classes, upper = self._above
        width = len(pieces)
        for shift in (0,) if self._connectivity == 4 else (-1, 0, 1):
            over = slice(max(shift, 0), width + min(shift, 0))
            under = slice(max(-shift, 0), width + min(-shift, 0))
            touching = (upper[over] >= 0) & (pieces[under] >= 0) & (upper_classes[over] == classes[under])
            for pair in np.unique(np.stack([upper[over], pieces[under]])[:, touching], axis=1).T.tolist():
                first, second = sorted(self._root(index) for index in pair)
                self._parents[second] = first

    def _root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index


def _straightened(shape: Any) -> Any:
    """The same shape without the points that seams have left on straight edges."""
    shapely, polygons = _shapely(), []
    for polygon in getattr(shape, "geoms", [shape]):
        rings = []
        for ring in (polygon.exterior, *polygon.interiors):
            points = shapely.get_coordinates(ring)[:-1]
            before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
            rings.append(points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]])
        polygons.append(shapely.Polygon(rings[0], rings[1:]))
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _shapely() -> Any:
    try:
        return importlib.import_module("shapely")
    except ImportError as error:
        raise SettingsError('shapely is not installed: polygons need it; pip install "geocore[polygons]"') from error
