"""Grids whose pixels are a whole number of pixels of a finer grid wide and start at the same corner."""

from __future__ import annotations

import math

from geocore.errors import SceneError
from geocore.grid import Grid

_TOLERANCE_PX = 0.05


def nesting_ratio(reference: Grid, grid: Grid, name: str) -> int | None:
    """Reference pixels per pixel of a grid, along an axis.

    Without a transform the control points decide, else the shape alone, which must then fit one ratio only.

    Args:
        reference: the finer grid.
        grid: to be compared with it; its border pixels may reach beyond.
        name: of the grid's file, for the message.

    Returns:
        1 for the same grid; None where the grid does not nest.

    Raises:
        SceneError: without a georeference, several ratios fit.
    """
    if reference.transform is None or grid.transform is None:
        ratios = _fitting_ratios(reference, grid)
        if len(ratios) > 1:
            raise SceneError(
                f"{name}: each of its {grid.height} x {grid.width} pixels may be {ratios[0]} to {ratios[-1]} of "
                f"the {reference.height} x {reference.width} reference pixels wide: without a georeference only one "
                "ratio may fit; write a transform or the same control points into both files"
            )
        return ratios[0] if ratios else None
    width = math.dist((0, 0), reference.transform[:2])
    ratio = max(1, round(math.dist((0, 0), grid.transform[:2]) / width)) if width else 1
    coarse = reference.coarser(ratio)
    nested = bool(width) and coarse.shape == grid.shape and coarse.same_georeference(grid, _TOLERANCE_PX)
    return ratio if nested else None


def _fitting_ratios(reference: Grid, grid: Grid) -> list[int]:
    """Ratios at which a grid nests in the reference, by shape and, where both have them, by control points.

    The border pixels of a coarse grid may reach outside, so several ratios can give one shape.
    """
    longest = max(-(-reference.height // grid.height), -(-reference.width // grid.width))
    placed = reference.gcps and grid.gcps
    coarser = {ratio: reference.coarser(ratio) for ratio in range(1, 2 * longest + 1)}
    return [
        ratio
        for ratio, coarse in coarser.items()
        if coarse.shape == grid.shape and (not placed or coarse.same_georeference(grid, _TOLERANCE_PX))
    ]
