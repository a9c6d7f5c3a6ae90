"""Objects: pixels, score and class; from detections in tiles, from label rasters, and back to rasters.

`merge` makes objects of the detections of all tiles of a scene, by the rules of `merging` (which detections are one
object, and a weighted vote on its pixels). Objects then take their pixels by falling score. One of which more than
half lies inside better objects is a second view of the same ground and is dropped; of the others the better object
keeps the pixels that two claim. The result is disjoint and ordered by the first pixel of each object, row by row, so
that ids do not depend on tiles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from geocore.raster.grid import Window
from geocore.tiling.tiles import TileGrid
from slumps_detectron2.detections import HALF, BoolArray, Detection, bounds
from slumps_detectron2.merging import SceneTiles, groups, vote


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object of a scene.

    Raises:
        ValueError: mask and window differ in shape, or the mask is not bool.
    """

    window: Window
    """Pixels of the scene that `mask` covers; the smallest that hold the object."""
    mask: BoolArray
    """Shape (row, col), bool."""
    score: float
    """Probability that there is an object, 0-1."""
    label: int
    """Class value, from 1."""

    def __post_init__(self) -> None:
        if self.mask.shape != self.window.shape or self.mask.dtype != np.bool_:
            raise ValueError(f"mask {self.mask.dtype} {self.mask.shape} for {self.window}; it must be bool")

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def first(self) -> tuple[int, int]:
        """Row and column of the first pixel, row by row."""
        return self.window.row, self.window.col + int(self.mask[0].argmax())

    def within(self, kept: BoolArray) -> Instance | None:
        """The object without some of its pixels.

        Args:
            kept: shape of the mask, bool; pixels that may stay.

        Returns:
            In its smallest window; None when no pixel stays.
        """
        mask = self.mask & kept
        tight = bounds(mask)
        if tight is None:
            return None
        window = tight.shifted(self.window.row, self.window.col)
        return dataclasses.replace(self, window=window, mask=np.ascontiguousarray(mask[tight.slices]))


def merge(detections: Iterable[Detection], tiling: TileGrid, shape: tuple[int, int]) -> list[Instance]:
    """Objects of a scene from the detections of all its tiles.

    Args:
        detections: in scene pixels, with their tiles; those of one tile in the model's order, tiles in any order.
        tiling: the tiles that they come from.
        shape: rows and columns of the scene.

    Returns:
        Disjoint objects, by their first pixel.
    """
    grid = SceneTiles(tiling, shape)
    seen = sorted((s for s in detections if (s.mask >= HALF).any()), key=lambda detection: detection.tile)
    found = []
    for members in groups(seen, grid):
        window, mask, score = vote([seen[index] for index in members], grid)
        # All of a group are of one class.
        voted = Instance(window, mask, score, seen[members[0]].label).within(np.ones_like(mask))
        if voted is not None:
            found.append(voted)
    return disjoint(found, shape)


def disjoint(instances: Iterable[Instance], shape: tuple[int, int]) -> list[Instance]:
    """Give each pixel to the best object over it and drop those of which better ones cover more than half.

    Objects of one score are taken by falling size, then by their first pixel. Memory: one byte per pixel of the
    scene, of which only pages near objects are used.

    Args:
        instances: in pixels of the scene, of any class.
        shape: rows and columns of the scene.

    Returns:
        Objects that share no pixel, by their first pixel.
    """
    ranked = sorted(instances, key=lambda instance: (-instance.score, -instance.pixels, instance.first, instance.label))
    taken = np.zeros(shape, bool)
    kept = []
    for instance in ranked:
        ground = taken[instance.window.slices]
        if 2 * np.count_nonzero(ground & instance.mask) > instance.pixels:
            continue
        rest = instance.within(~ground)
        if rest is not None:
            ground |= instance.mask
            kept.append(rest)
    return sorted(kept, key=lambda instance: instance.first)


def cut(instances: Iterable[Instance], window: Window) -> list[Instance]:
    """Restrict objects to a window.

    Args:
        instances: in pixels of the scene.
        window: of the scene.

    Returns:
        The parts inside, still in pixels of the scene; objects that lie outside are left out.
    """
    parts = []
    for instance in instances:
        own = instance.window
        shared = own.intersection(window)
        if shared == own:
            parts.append(instance)
        elif shared is not None:
            mask = instance.mask[shared.shifted(-own.row, -own.col).slices]
            part = dataclasses.replace(instance, window=shared, mask=mask).within(np.ones_like(mask))
            if part is not None:
                parts.append(part)
    return parts


def paint(instances: Sequence[Instance], window: Window) -> npt.NDArray[np.uint32]:
    """Ids of the objects at the pixels of a window.

    Args:
        instances: disjoint, in pixels of the scene; ids are 1, 2, ... in this order.
        window: of the scene.

    Returns:
        Shape (row, col) of the window, uint32, 0 background.
    """
    ids = np.zeros(window.shape, np.uint32)
    top, left, bottom, right = window.row, window.col, window.row_stop, window.col_stop
    for number, instance in enumerate(instances, start=1):
        own = instance.window
        # Compared before anything is built: a window of many calls holds few of the objects.
        if own.row < bottom and own.col < right and own.row_stop > top and own.col_stop > left:
            shared = own.intersection(window)
            assert shared is not None
            mask = instance.mask[shared.shifted(-own.row, -own.col).slices]
            ids[shared.shifted(-top, -left).slices][mask] = number
    return ids


def instances_of(
    ids: npt.NDArray[Any], *, ignored: int | None, classes: npt.NDArray[np.uint8] | None = None
) -> list[Instance]:
    """Objects of a label raster.

    Args:
        ids: shape (row, col), any integer type; 0 background, every other value one object, whether its pixels touch
            or not.
        ignored: value of ignored pixels; None where there is no such value, and then no id is taken for one.
        classes: shape (row, col), uint8, class value of each pixel, 0 where there is none.

    Returns:
        By rising id, with score 1. The class is the most frequent one under the object, the lowest of several, and 1
        where there is none.

    Raises:
        ValueError: the ids are not whole numbers, or negative ones are neither background nor ignored.
    """
    if ids.dtype.kind not in "iu":
        raise ValueError(f"ids of type {ids.dtype}: they must be whole numbers")
    marked = ids != 0 if ignored is None else (ids != 0) & (ids != ignored)
    values = ids[marked]
    # Values may be anything up to 2**32; positions among those present are what can be indexed.
    present = np.unique(values)
    if len(present) and present[0] < 0:
        raise ValueError(f"id {present[0]}: ids are positive")
    compact = np.zeros(ids.shape, np.int32)
    compact[marked] = np.searchsorted(present, values) + 1
    instances = []
    for number, slices in enumerate(ndimage.find_objects(compact), start=1):
        mask = compact[slices] == number
        label = 1
        if classes is not None:
            counts = np.bincount(classes[slices][mask], minlength=2)
            label = int(counts[1:].argmax()) + 1
        rows, cols = slices
        window = Window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
        instances.append(Instance(window, mask, 1.0, label))
    return instances
