"""Outlines of connected pixels, from a scene that is read once, strip by strip.

Memory follows the width of a scene and the number of outlines, not its height: connected pixels are numbered and traced
in each strip, and what touches across a seam is joined afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geocore.raster.grid import Grid, Window
from geocore.raster.ground import PixelAreas
from geocore.vector.polygonize import components, polygonize_labels

Chart = npt.NDArray[np.uint8]
Strip = tuple[int, Chart, Chart]
"""First row, classes and probability (percent), each of shape (row, col)."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Pixels of one class that touch."""

    label: int
    """Class index."""
    pixels: int
    probability: float
    """Mean over the pixels, 0-1."""
    shape: Any
    """Polygon or multipolygon along the edges of the pixels; x is the column and y the row, in pixels."""


def trace(strips: Iterable[Strip], grid: Grid, labels: Sequence[int], min_area_m2: float = 0.0) -> list[Outline]:
    """Outlines of a scene that is read once, from top to bottom.

    Args:
        strips: whole rows of the scene, without a gap; of any height, which does not change the result.
        grid: of the scene.
        labels: classes that get outlines.
        min_area_m2: pixels with less ground under them are left out; 0 for a grid without ground.

    Returns:
        By their first pixel, row by row.

    Raises:
        ValueError: a least area is asked for, but the grid has no ground.
    """
    pieces = _Pieces(grid, labels, min_area_m2)
    for row, classes, percent in strips:
        pieces.add(row, classes, percent)
    return pieces.joined()


@dataclass(frozen=True, slots=True)
class _Piece:
    """What of an outline lies in one strip."""

    label: int
    pixels: int
    percent: float
    """Sum over the pixels."""
    ground_m2: float
    """Area of the pixels; 0 where none is asked for."""
    first: int
    """First pixel, counted over the scene."""
    polygons: list[Any]


class _Pieces:
    """The pieces of all strips so far, and which of them are one."""

    def __init__(self, grid: Grid, labels: Sequence[int], min_area_m2: float) -> None:
        self._grid, self._labels, self._least = grid, labels, min_area_m2
        self._ground = PixelAreas(grid) if min_area_m2 else None
        self._pieces: list[_Piece] = []
        self._parents: list[int] = []
        self._above: tuple[Chart, npt.NDArray[np.int64]] | None = None

    def add(self, row: int, classes: Chart, percent: Chart) -> None:
        """Number and trace the pieces of the strip that starts at `row`, and link them with those above."""
        ids = self._numbered(classes)
        held = np.flatnonzero(ids)
        values = ids.ravel()[held]
        size = int(values.max(initial=0)) + 1
        pixels = np.bincount(values, minlength=size)
        sums = np.bincount(values, percent.ravel()[held], minlength=size)
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
        polygons, numbers = polygonize_labels(ids, (1.0, 0.0, 0.0, 0.0, 1.0, float(row)))
        for polygon, place in zip(polygons, places[numbers].tolist(), strict=True):
            self._pieces[place].polygons.append(polygon)
        self._link(classes[0], places[ids[0]])
        self._above = (classes[-1].copy(), places[ids[-1]])

    def joined(self) -> list[Outline]:
        """The outlines of the scene, once all strips are in."""
        members: dict[int, list[_Piece]] = {}
        for index, piece in enumerate(self._pieces):
            members.setdefault(self._root(index), []).append(piece)
        found = []
        for own in members.values():
            if self._least and sum(piece.ground_m2 for piece in own) < self._least:
                continue
            polygons = [polygon for piece in own for polygon in piece.polygons]
            shape = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
            if len(own) > 1:
                shape = _straightened(shapely.union_all(polygons))
            pixels = sum(piece.pixels for piece in own)
            probability = sum(piece.percent for piece in own) / pixels / 100
            first = min(piece.first for piece in own)
            found.append((first, Outline(own[0].label, pixels, probability, shape)))
        return [outline for _, outline in sorted(found, key=lambda pair: pair[0])]

    def _numbered(self, classes: Chart) -> npt.NDArray[np.uint32]:
        """Pieces of all classes, 1, 2, ...; pixels that touch at a corner belong together."""
        ids = np.zeros(classes.shape, np.uint32)
        for label in self._labels:
            own = components(classes == label)
            np.add(own, ids.max(), out=ids, where=own > 0)
        return ids

    def _link(self, classes: Chart, pieces: npt.NDArray[np.int64]) -> None:
        """Link pieces of one class across a seam, straight and by corners."""
        if self._above is None:
            return
        upper_classes, upper = self._above
        width = len(pieces)
        for shift in (-1, 0, 1):
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
    polygons = []
    for polygon in getattr(shape, "geoms", [shape]):
        rings = []
        for ring in (polygon.exterior, *polygon.interiors):
            points = shapely.get_coordinates(ring)[:-1]
            before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
            rings.append(points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]])
        polygons.append(shapely.Polygon(rings[0], rings[1:]))
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
