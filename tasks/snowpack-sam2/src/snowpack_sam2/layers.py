"""Layers: boundary lines of masks, and ordered layers between traced boundaries.

A boundary line marks the upper (or left) pixel of the two between which the layer changes, in truth and in prediction
alike: the edge itself lies half a pixel below the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from snowpack_sam2.ridges import Boundary, slope

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_TOUCH_PX = 6
"""A boundary that ends this close to another one is pinched out there; boundaries nearer are one to the eye."""
_PROFILE_PX = 6
"""Reach above and below a boundary in which its contrast and sharpness are measured."""


def boundaries_of(
    layers: npt.NDArray[np.integer], *, ignore: int | None = 255, valid: BoolArray | None = None
) -> BoolArray:
    """Draw one-pixel lines where the layer changes between 4-neighbours.

    Ids are names: only their change counts. A change to or from an ignored or invalid pixel is no boundary.

    Args:
        layers: Shape (row, col), integer: layer id of each pixel.
        ignore: Id of pixels that are no layer; None when all are.
        valid: Shape (row, col): pixels that have an id, as the mask's file says; None when all have.

    Returns:
        Shape (row, col), bool: True on the upper or left pixel of each change.
    """
    lines = np.zeros(layers.shape, bool)
    known = np.ones(layers.shape, bool) if valid is None else valid
    known = known if ignore is None else known & (layers != ignore)
    lines[:-1] |= (layers[:-1] != layers[1:]) & known[:-1] & known[1:]
    lines[:, :-1] |= (layers[:, :-1] != layers[:, 1:]) & known[:, :-1] & known[:, 1:]
    return lines


def layer_map(boundaries: Sequence[Boundary], shape: tuple[int, int], valid: BoolArray) -> npt.NDArray[np.uint16]:
    """Number the layers between ordered boundaries from top to bottom.

    Boundaries that do not cross the whole photo are extended: one that ends at another one stays with it (the layer
    between is pinched out), any other runs parallel to its nearest neighbour. Boundaries never cross.

    Args:
        boundaries: As `trace` gives them.
        shape: (row, col), pixels.
        valid: Shape (row, col), bool.

    Returns:
        Shape (row, col), uint16: layers 1, 2, ... from top to bottom; 0 at invalid pixels.
    """
    begins = np.zeros((shape[0] + 1, shape[1]), np.int64)
    if boundaries:
        rows = _ordered(_extended(boundaries, shape[1]), boundaries)
        first = np.clip(np.floor(rows + 0.5) + 1, 0, shape[0]).astype(int)
        np.add.at(begins, (first, np.arange(shape[1])), 1)
    labels = 1 + np.cumsum(begins[:-1], axis=0)
    # A layer may lie wholly outside the valid part; numbers stay without gaps.
    present = np.unique(labels[valid])
    return np.where(valid, np.searchsorted(present, labels) + 1, 0).astype(np.uint16)


def layer_table(
    layers: npt.NDArray[np.integer],
    photo: npt.NDArray[Any],
    probability: npt.NDArray[np.floating],
    valid: BoolArray,
    *,
    cm_per_px: float | None = None,
) -> list[dict[str, float | int | None]]:
    """Describe each layer: depth, thickness, brightness, and how sure its borders are.

    Depths are counted from the top of the photo, over the columns in which the layer is present. `top_contrast` is
    the brightness below minus that above the upper border; `top_sharpness` the largest change between two rows of the
    mean profile across it as a share of that contrast, 1/pixel (1 = the change is complete within one pixel).
    `confidence` is the mean probability along the layer's borders; a lone layer has none.

    Args:
        layers: Shape (row, col), integer: as `layer_map` gives them.
        photo: Shape (row, col), any real dtype: brightness.
        probability: Shape (row, col), float, 0-1: boundary probability.
        valid: Shape (row, col), bool.
        cm_per_px: Scale of the photo, centimetres per pixel; None leaves the columns in cm empty.

    Returns:
        One row per layer, top to bottom, all with the same keys; None where a value does not exist.
    """
    layers = np.where(valid, layers, 0)
    wall_cols = max(int((layers > 0).any(axis=0).sum()), 1)
    near = ndimage.maximum_filter(probability, 3)
    border = boundaries_of(layers, ignore=0)
    table: list[dict[str, float | int | None]] = []
    for number, box in enumerate(ndimage.find_objects(layers), start=1):
        if box is None:
            continue
        # Only the rows about the layer: a photo may have many layers and many rows.
        start = max(box[0].start - _PROFILE_PX, 0)
        band = slice(start, box[0].stop + _PROFILE_PX)
        inside = layers[band] == number
        thickness = inside.sum(axis=0)
        cols = np.flatnonzero(thickness)
        top = start + inside.argmax(axis=0)[cols]
        bottom = start + len(inside) - inside[::-1].argmax(axis=0)[cols]
        around = border[band] & ndimage.binary_dilation(inside)
        contrast, sharpness = _border_profile(photo[band], layers[band], number, cols)
        brightness = photo[band][inside].astype(np.float64)
        lengths = {
            "top": top.mean(),
            "bottom": bottom.mean(),
            "thickness_mean": thickness[cols].mean(),
            "thickness_min": thickness[cols].min(),
            "thickness_max": thickness[cols].max(),
        }
        row: dict[str, float | int | None] = {"layer": number}
        row |= {f"{name}_px": round(float(value), 2) for name, value in lengths.items()}
        row |= {
            f"{name}_cm": None if cm_per_px is None else round(float(value) * cm_per_px, 3)
            for name, value in lengths.items()
        }
        row |= {
            "brightness_mean": round(float(brightness.mean()), 3),
            "brightness_std": round(float(brightness.std()), 3),
            "top_contrast": contrast,
            "top_sharpness": sharpness,
            "confidence": round(float(near[band][around].mean()), 3) if around.any() else None,
            "width_share": round(len(cols) / wall_cols, 3),
        }
        table.append(row)
    return table


def _extended(boundaries: Sequence[Boundary], width: int) -> FloatArray:
    """Rows of all boundaries in all columns, shape (boundary, col)."""
    rows = np.full((len(boundaries), width), np.nan)
    whole: list[int] = []
    # The long ones first: they guide the short ones.
    for index in sorted(range(len(boundaries)), key=lambda index: -len(boundaries[index].cols)):
        boundary = boundaries[index]
        first, last = int(boundary.cols[0]), int(boundary.cols[-1])
        rows[index, first : last + 1] = boundary.rows
        for end, outside, tail in (
            (first, slice(0, first), boundary.rows[:32]),
            (last, slice(last + 1, width), boundary.rows[-32:]),
        ):
            at = np.arange(width)[outside]
            if whole:
                distances = rows[index, end] - rows[whole, end]
                guide = int(np.argmin(np.abs(distances)))
                offset = 0.0 if abs(distances[guide]) <= _TOUCH_PX else distances[guide]
                rows[index, outside] = rows[whole[guide], at] + offset
            else:
                rows[index, outside] = rows[index, end] + slope(tail) * (at - end)
        whole.append(index)
    return rows


def _ordered(rows: FloatArray, boundaries: Sequence[Boundary]) -> FloatArray:
    """Sort extended boundaries from top to bottom and part those that cross, shape (boundary, col)."""
    count = len(rows)
    measured = np.zeros(rows.shape, bool)
    for index, boundary in enumerate(boundaries):
        measured[index, boundary.cols] = True
    above = np.zeros(count)
    for one in range(count):
        # Compared where both were seen; where that is nowhere, over the whole width.
        both = measured & measured[one]
        both |= ~both.any(axis=1, keepdims=True)
        above[one] = np.count_nonzero(((rows[one] - rows) * both).sum(axis=1) > 0)
    order = np.lexsort((rows.mean(axis=1), above))
    rows, measured = rows[order], measured[order]
    # What was seen stays; what was only extended gives way to it.
    highest = np.maximum.accumulate(np.where(measured, rows, -np.inf), axis=0)
    lowest = np.minimum.accumulate(np.where(measured, rows, np.inf)[::-1], axis=0)[::-1]
    rows = np.where(measured, rows, np.clip(rows, np.minimum(highest, lowest), lowest))
    return np.asarray(np.maximum.accumulate(rows, axis=0), dtype=np.float64)


def _border_profile(
    photo: npt.NDArray[Any], layers: npt.NDArray[np.integer], number: int, cols: npt.NDArray[np.int64]
) -> tuple[float | None, float | None]:
    """Contrast and sharpness of a layer's upper border, from the mean profile across it; None where there is none."""
    if number == 1:
        return None, None
    tops = (layers == number).argmax(axis=0)[cols]
    reach = np.arange(-_PROFILE_PX, _PROFILE_PX)
    inside = (tops >= _PROFILE_PX) & (tops <= len(photo) - _PROFILE_PX)
    at = tops[inside, None] + reach
    samples = photo[at, cols[inside, None]].astype(np.float64)
    full = (layers[at, cols[inside, None]] > 0).all(axis=1)
    if not full.any():
        return None, None
    profile = samples[full].mean(axis=0)
    contrast = float(profile[_PROFILE_PX + 2 :].mean() - profile[: _PROFILE_PX - 2].mean())
    largest = float(np.abs(np.diff(profile)).max())
    sharpness = min(largest / abs(contrast), 1.0) if contrast else None
    return round(contrast, 3), None if sharpness is None else round(sharpness, 3)
