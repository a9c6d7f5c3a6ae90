"""From the coarse mask of a detection to pixels of its tile, by one formula for both backends.

Mask R-CNN predicts a mask of 28 x 28 probabilities that divide the box evenly. A pixel whose centre lies at x (column
+ 0.5) gets the value of the mask at

    u = (x - left) / (right - left) * side - 0.5

by bilinear interpolation between the cells next to u, in both directions, with 0 beyond the mask: what the reference
systems of the paper do (He et al. 2017, "Mask R-CNN"; `paste_masks_in_image` of detectron2). Only pixels that the box
touches are returned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from geocore.raster.grid import Window
from slumps_detectron2.detections import Detection
from slumps_detectron2.interface import Found


def detections(found: Found, class_values: Sequence[int], shape: tuple[int, int]) -> list[Detection]:
    """Turn the detections of a tile into objects of its pixels.

    Args:
        found: detections of one tile.
        class_values: value of each class, in the network's order.
        shape: rows and columns of the tile.

    Returns:
        In the order of `found`, without those that reach no pixel of the tile.
    """
    objects = []
    for box, score, index, mask in zip(found.boxes, found.scores, found.classes, found.masks, strict=True):
        if (pasted := paste(mask, box, shape)) is not None:
            window, pixels = pasted
            objects.append(Detection(window, pixels, float(score), int(class_values[int(index)])))
    return objects


def paste(
    mask: npt.NDArray[np.float32], box: npt.NDArray[np.float32], shape: tuple[int, int]
) -> tuple[Window, npt.NDArray[np.uint8]] | None:
    """Sample a mask at the pixels that its box touches.

    Args:
        mask: shape (side, side), float32, probability 0-1.
        box: left, top, right, bottom in pixels.
        shape: rows and columns of the tile; the box may reach outside.

    Returns:
        The window of the tile, and its probabilities x 255, rounded, shape (row, col), uint8. None where the box has
        no area, lies outside or holds no probability.
    """
    left, top, right, bottom = (float(edge) for edge in box)
    rows, cols = _touched(top, bottom, shape[0]), _touched(left, right, shape[1])
    if not rows or not cols:
        return None
    side_rows, side_cols = mask.shape
    probability = _weights(rows, top, bottom, side_rows) @ mask @ _weights(cols, left, right, side_cols).T
    pixels = np.rint(probability * 255).astype(np.uint8)
    if not pixels.any():
        return None
    return Window(rows.start, cols.start, len(rows), len(cols)), pixels


def _touched(start: float, stop: float, length: int) -> range:
    """Pixels of an axis between two coordinates; none when the interval is empty or not finite."""
    if not stop > start or not np.isfinite(stop - start):
        return range(0)
    return range(max(int(np.floor(start)), 0), min(int(np.ceil(stop)), length))


def _weights(pixels: range, start: float, stop: float, side: int) -> npt.NDArray[np.float32]:
    """Weight of each cell of the mask in each pixel of an axis, shape (pixel, cell).

    Bilinear interpolation is a product of one such matrix for each axis: a cell weighs 1 at its centre and falls to 0
    at the centres of its neighbours.
    """
    centres = np.arange(pixels.start, pixels.stop) + 0.5
    u = (centres - start) / (stop - start) * side - 0.5
    weights: npt.NDArray[np.float32] = np.maximum(1 - np.abs(u[:, None] - np.arange(side)), 0).astype(np.float32)
    return weights
