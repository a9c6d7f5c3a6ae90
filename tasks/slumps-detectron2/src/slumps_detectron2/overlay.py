"""Pictures for the report: outlines of true and found objects over a scene in colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.report.preview import Picture, edges, stretched
from slumps_detectron2.instances import Instance

_SIDE_PX = 640
"""Longer side of a picture, about."""
_TRUE, _FOUND, _BOTH = (86, 180, 233), (255, 120, 20), (255, 255, 255)
"""RGB, 0-255; blue and orange are told apart by the colour-blind too."""
COLOURS: Final = "true outlines blue, found ones orange, both white"
"""What the colours of a comparison mean."""
_RED_FIRST = (("red", "b4"), ("green", "b3"), ("blue", "b2"))


def visible_bands(names: Sequence[str]) -> list[int]:
    """Positions of the bands to show as red, green and blue.

    By the names red, green, blue or, of Sentinel-2, B4, B3, B2; else the first three bands, or the first one thrice.
    """
    lower = [name.lower() for name in names]
    found = [next((lower.index(name) for name in choices if name in lower), None) for choices in _RED_FIRST]
    known = [position for position in found if position is not None]
    if len(known) == 3:
        return known
    return [2, 1, 0] if len(names) >= 3 else [0, 0, 0]


def draw_comparison(
    values: npt.NDArray[Any], valid: npt.NDArray[np.bool_], ids: npt.NDArray[np.uint32], found: Sequence[Instance]
) -> Picture:
    """Draw the outlines of true and found objects.

    Args:
        values: shape (3, row, col), any real dtype: red, green, blue; each is stretched to its own percentiles 1-99.
        valid: shape (row, col), bool; other pixels are drawn in one dark colour.
        ids: shape (row, col), uint32: true objects, 0 elsewhere.
        found: objects in pixels of the picture.

    Returns:
        Shape (row, col, 3), uint8; the longer side has about 640 pixels.
    """
    image = stretched(values, valid, percentiles=(1, 99))
    painted = np.zeros(valid.shape, np.uint32)
    for number, instance in enumerate(found, start=1):
        painted[instance.window.slices][instance.mask] = number
    side = max(valid.shape)
    shrink, grow = -(-side // _SIDE_PX), max(1, round(_SIDE_PX / side))
    image = image[::shrink, ::shrink].repeat(grow, 0).repeat(grow, 1)
    ids, painted = (plane[::shrink, ::shrink].repeat(grow, 0).repeat(grow, 1) for plane in (ids, painted))
    true, ours = edges(ids) & (ids > 0), edges(painted) & (painted > 0)
    image[true] = _TRUE
    image[ours] = _FOUND
    image[true & ours] = _BOTH
    return image
