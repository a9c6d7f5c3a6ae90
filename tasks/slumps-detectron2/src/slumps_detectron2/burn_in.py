"""Where a label raster or an outline lies on the pixels of a scene."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from geocore.errors import DataError
from geocore.raster.extents import misfit
from geocore.raster.grid import Grid, Window, same_crs

_TOLERANCE_PX: Final = 0.05
"""How far a corner of a label raster may lie from a corner of the scene's pixels."""
_RULE: Final = "a label raster has the pixels of its scene"


def covered(path: Path, label: Grid, scene: Grid, name: str, *, like: bool) -> Window:
    """Pixels of the scene that a label raster covers.

    Args:
        path: of the label.
        label: its grid.
        scene: grid of the scene.
        name: of the scene.
        like: whether it may cover others than the scene has.

    Raises:
        DataError: the grids do not fit.
    """
    if label.transform is None or scene.transform is None:
        if label.shape != scene.shape:
            raise DataError(
                f"{path}: {_size(label)}, but {name} has {_size(scene)}: without a georeference in both, label and "
                "scene must match pixel by pixel (--like needs one, too); crop one, or georeference both"
            )
        return scene.whole
    if (label.crs is None) != (scene.crs is None) or (
        label.crs is not None and scene.crs is not None and not same_crs(label.crs, scene.crs)
    ):
        raise DataError(f"{path}: {_RULE}, and {misfit(label, scene, name)}")
    down, right = offset(label, scene)
    placed = Window(down, right, *label.shape)
    common = placed.intersection(scene.whole)
    coincide = all(
        math.dist(scene.fractional_rowcol(*(label.transform @ (col, row))), (row + down, col + right)) <= _TOLERANCE_PX
        for row, col in corners(label)
    )
    if common is None or not coincide:
        raise DataError(f"{path}: {_RULE}, and {misfit(label, scene, name)}")
    if placed != scene.whole and not like:
        what = "a part of the scene only" if common == placed else "other pixels than the scene"
        raise DataError(
            f"{path}: {_size(label)} that cover {what} ({_size(scene)}): give --like to clip the scene to its label"
        )
    return common


def offset(label: Grid, scene: Grid) -> tuple[int, int]:
    """Row and column of the scene nearest to the label's first pixel."""
    if label.transform is None or scene.transform is None:
        return 0, 0
    row, col = scene.fractional_rowcol(label.transform.c, label.transform.f)
    return round(float(row)), round(float(col))


def corners(grid: Grid) -> list[tuple[int, int]]:
    """(row, col) of the four corners, in the order of a ring."""
    return [(0, 0), (0, grid.width), (grid.height, grid.width), (grid.height, 0)]


def _size(grid: Grid) -> str:
    return f"{grid.height} x {grid.width} px"
