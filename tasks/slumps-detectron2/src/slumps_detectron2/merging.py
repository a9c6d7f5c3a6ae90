"""Which detections are one object, and which pixels that object has.

**Links.** Two detections of one class in two tiles are the same object when, within the pixels that both tiles cover,
their masks (values from 128) overlap with an IoU of at least `LINK_IOU`. Links are taken by falling IoU; where equal
the one with more pixels in common comes first, then the order of the tiles. A link that would bring two detections of
one tile together is refused: a tile that saw two neighbours apart keeps them apart, although another tile saw one.

**Vote.** At each pixel the mask probabilities of the tiles that cover it and have a detection in the group are
averaged with the weights of `SceneTiles.weights` (row weight x column weight: a tile's middle counts most). A pixel
belongs to the object where the mean is at least one half. The score is the mean of the tiles' scores, weighted by the
sum of each tile's weights under its mask; a tile that covers the object and has no detection of it counts with 0. A
fragment seen at the border of one tile, where the others see nothing, therefore ranks low.

Two adjacent pixels always lie together in some tile when tiles overlap, and tiles that agree on a shared pixel of an
object agree on all pixels they share. So tiles that show the truth give back the truth: objects of any size and shape,
touching or not, from any grid of overlapping tiles.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt

from geocore.raster.grid import Window
from geocore.tiling.tiles import TileGrid
from slumps_detectron2.detections import HALF, BoolArray, Detection

LINK_IOU: Final = 0.5
"""Least IoU, within the pixels that two tiles share, of two detections of one object."""
_STRIP_PX = 1 << 22
"""Pixels that vote at a time: 64 MiB of sums, whatever the size of an object."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Tile = tuple[int, int]
Link = tuple[float, int, int, int]


@dataclass(frozen=True)
class SceneTiles:
    """Where the tiles of a scene lie and how much they count."""

    tiling: TileGrid
    shape: tuple[int, int]
    """Rows and columns of the scene."""

    @cached_property
    def starts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First rows of the rows of tiles, first columns of the columns of tiles."""
        return self.tiling.starts(self.shape[0]), self.tiling.starts(self.shape[1])

    @cached_property
    def _weights(self) -> tuple[list[FloatArray], list[FloatArray]]:
        # float64: the product of two small weights stays above 0.
        rows, cols = ([weights.astype(np.float64) for weights in self.tiling.weights(length)] for length in self.shape)
        return rows, cols

    def window(self, tile: Tile) -> Window:
        """The pixels of a tile; they may reach outside the scene."""
        return Window(self.starts[0][tile[0]], self.starts[1][tile[1]], self.tiling.size, self.tiling.size)

    def weights(self, tile: Tile, window: Window) -> tuple[FloatArray, FloatArray]:
        """Row and column weights of a tile, shapes (row,) and (col,), at a window of scene pixels inside it."""
        top, left = self.starts[0][tile[0]], self.starts[1][tile[1]]
        rows = self._weights[0][tile[0]][window.row - top : window.row_stop - top]
        return rows, self._weights[1][tile[1]][window.col - left : window.col_stop - left]

    def later_neighbours(self, tile: Tile) -> Iterator[Tile]:
        """Tiles that share pixels with a tile and follow it in row-major order."""
        row, col = tile
        rows, cols = self.starts
        size = self.tiling.size
        row_stop = bisect_left(rows, rows[row] + size)
        # The first column of tiles that ends behind this tile's first pixel.
        col_start, col_stop = bisect_left(cols, cols[col] - size + 1), bisect_left(cols, cols[col] + size)
        for i in range(row, row_stop):
            for j in range(col + 1 if i == row else col_start, col_stop):
                yield i, j


def groups(detections: Sequence[Detection], grid: SceneTiles) -> list[list[int]]:
    """Indices of the detections of each object.

    Args:
        detections: in scene pixels, sorted by tile.
        grid: the tiles that they come from.

    Returns:
        Every detection in one group; groups by their first member, members in order.
    """
    found: list[Link] = []
    spans: dict[Tile, tuple[int, int]] = {}
    first = 0
    for tile, members in groupby(detections, key=lambda detection: detection.tile):
        spans[tile] = (first, first + sum(1 for _ in members))
        first = spans[tile][1]
    boxes = np.array(
        [(s.window.row, s.window.col, s.window.row_stop, s.window.col_stop) for s in detections], np.int64
    ).reshape(-1, 4)
    labels = np.array([detection.label for detection in detections], np.int64)
    for tile, span in spans.items():
        for other in grid.later_neighbours(tile):
            shared = grid.window(tile).intersection(grid.window(other))
            if other in spans and shared is not None:
                found += _links(detections, boxes, labels, span, spans[other], shared)
    return _joined(detections, np.array(found, np.float64).reshape(-1, 4))


def vote(members: Sequence[Detection], grid: SceneTiles) -> tuple[Window, BoolArray, float]:
    """Pixels and score of an object.

    Args:
        members: its detections, each from another tile, in scene pixels.
        grid: the tiles that they come from.

    Returns:
        A window of the scene; the mask in it, shape (row, col), bool, empty where no pixel reaches one half; and the
        score.
    """
    row, col = (min(getattr(s.window, name) for s in members) for name in ("row", "col"))
    row_stop, col_stop = (max(getattr(s.window, name) for s in members) for name in ("row_stop", "col_stop"))
    window = Window(row, col, row_stop - row, col_stop - col)
    mask = np.zeros(window.shape, bool)
    step = max(_STRIP_PX // window.width, 1)
    for top in range(row, row_stop, step):
        strip = Window(top, col, min(step, row_stop - top), window.width)
        mask[strip.shifted(-row, -col).slices] = _elected(members, grid, strip)
    shares = []
    for detection in members:
        rows, cols = grid.weights(detection.tile, detection.window)
        shares.append(float(rows @ (detection.mask >= HALF) @ cols))
    seen = sum(share * detection.score for share, detection in zip(shares, members, strict=True))
    # The weights of all tiles add up to 1 at a pixel. Masks that reach beyond what was voted do not add to the score.
    score = seen / max(sum(shares), float(np.count_nonzero(mask)))
    # The mean of equal scores may leave 0-1 by a rounding.
    return window, mask, min(max(score, 0.0), 1.0)


def _links(
    detections: Sequence[Detection],
    boxes: IntArray,
    labels: IntArray,
    span: tuple[int, int],
    other: tuple[int, int],
    shared: Window,
) -> list[Link]:
    """Links between two tiles: -IoU, -pixels in common, and the indices of both detections."""
    low, high = (shared.row, shared.col), (shared.row_stop, shared.col_stop)
    # Per tile the detections that reach the shared pixels, and their boxes within these.
    reach, clipped = [], []
    for begin, end in (span, other):
        box = np.hstack([np.maximum(boxes[begin:end, :2], low), np.minimum(boxes[begin:end, 2:], high)])
        inside = np.flatnonzero((box[:, :2] < box[:, 2:]).all(axis=1))
        reach.append(inside + begin)
        clipped.append(box[inside])
    mine, theirs = clipped
    meet = labels[reach[0], None] == labels[None, reach[1]]
    for axis in (0, 1):  # Plane by plane: a crowded tile has a thousand detections, and their square counts.
        meet &= mine[:, None, axis] < theirs[None, :, axis + 2]
        meet &= theirs[None, :, axis] < mine[:, None, axis + 2]
    pairs = np.argwhere(meet)
    a, b = mine[pairs[:, 0]], theirs[pairs[:, 1]]
    both = np.hstack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])])
    areas = [
        {k: _count(_object(detections[reach[side][k]], clipped[side][k])) for k in set(pairs[:, side].tolist())}
        for side in (0, 1)
    ]
    links = []
    for (k, m), box in zip(pairs.tolist(), both, strict=True):
        small, large = sorted((areas[0][k], areas[1][m]))
        if not small or small < LINK_IOU * large:
            continue  # They share at most the smaller one.
        one, two = int(reach[0][k]), int(reach[1][m])
        common = _count(_object(detections[one], box) & _object(detections[two], box))
        iou = common / (small + large - common)
        if iou >= LINK_IOU:
            links.append((-iou, -common, one, two))
    return links


def _object(detection: Detection, box: IntArray) -> BoolArray:
    """Object pixels of a detection between rows and columns of the scene: row, col, row_stop, col_stop."""
    top, left, bottom, right = box.tolist()
    row, col = detection.window.row, detection.window.col
    return detection.mask[top - row : bottom - row, left - col : right - col] >= HALF


def _count(mask: BoolArray) -> int:
    return int(np.count_nonzero(mask))


def _joined(detections: Sequence[Detection], links: FloatArray) -> list[list[int]]:
    """Join by falling IoU, refusing what would bring two detections of one tile together."""
    parents = list(range(len(detections)))
    tiles = [{detection.tile} for detection in detections]

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = index = parents[parents[index]]
        return index

    order = np.lexsort(links.T[::-1])
    for a, b in links[order, 2:].astype(np.int64).tolist():
        large, small = root(a), root(b)
        if len(tiles[large]) < len(tiles[small]):
            large, small = small, large
        if large != small and tiles[large].isdisjoint(tiles[small]):
            tiles[large] |= tiles[small]
            tiles[small] = set()
            parents[small] = large
    members: dict[int, list[int]] = {}
    for index in range(len(detections)):
        members.setdefault(root(index), []).append(index)
    return list(members.values())


def _elected(members: Sequence[Detection], grid: SceneTiles, strip: Window) -> BoolArray:
    """The vote in a window of the scene."""
    votes, weight = np.zeros(strip.shape), np.zeros(strip.shape)
    for detection in members:
        # A tile votes wherever it looked, also where it saw nothing of the object.
        seen = grid.window(detection.tile).intersection(strip)
        if seen is not None:
            rows, cols = grid.weights(detection.tile, seen)
            weight[seen.shifted(-strip.row, -strip.col).slices] += np.multiply.outer(rows, cols)
        box = detection.window.intersection(strip)
        if box is not None:
            rows, cols = grid.weights(detection.tile, box)
            mask = detection.mask[box.shifted(-detection.window.row, -detection.window.col).slices]
            votes[box.shifted(-strip.row, -strip.col).slices] += np.multiply.outer(rows, cols) * mask
    # Compared without a division: masks of 255 give 2 x 255 x weight, far from a rounding of the right side.
    return (votes > 0) & (2 * votes >= 255 * weight)
