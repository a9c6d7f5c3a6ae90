"""Pictures for the report: outlines of true and found objects over a scene in colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from slumps_detectron2.instances import Instance

_SIDE_PX = 640
"""Longer side of a picture, about."""
_TRUE, _FOUND, _BOTH, _OUTSIDE = (86, 180, 233), (255, 120, 20), (255, 255, 255), (72, 76, 84)
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
) -> npt.NDArray[np.uint8]:
    """Draw the outlines of true and found objects.

    Args:
        values: shape (3, row, col), any real dtype: red, green, blue; each is stretched to its own percentiles 1-99.
        valid: shape (row, col), bool; other pixels are drawn in one dark colour.
        ids: shape (row, col), uint32: true objects, 0 elsewhere.
        found: objects in pixels of the picture.

    Returns:
        Shape (row, col, 3), uint8; the longer side has about 640 pixels.
    """
    image = np.zeros((*valid.shape, 3))
    for channel, band in enumerate(values.astype(np.float64)):
        low, high = np.percentile(band[valid], (1, 99)) if valid.any() else (0, 1)
        image[..., channel] = np.clip((band - low) / max(high - low, 1e-9), 0, 1) * 255
    image[~valid] = _OUTSIDE
    painted = np.zeros(valid.shape, np.uint32)
    for number, instance in enumerate(found, start=1):
        painted[instance.window.slices][instance.mask] = number
    side = max(valid.shape)
    shrink, grow = -(-side // _SIDE_PX), max(1, round(_SIDE_PX / side))
    image, ids, painted = (plane[::shrink, ::shrink].repeat(grow, 0).repeat(grow, 1) for plane in (image, ids, painted))
    true, ours = _edges(ids), _edges(painted)
    image[true] = _TRUE
    image[ours] = _FOUND
    image[true & ours] = _BOTH
    drawn: npt.NDArray[np.uint8] = np.rint(image).astype(np.uint8)
    return drawn


def _edges(ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Pixels of objects that have a pixel of something else above, below, left or right."""
    edges = np.zeros(ids.shape, bool)
    down, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges & (ids > 0)
