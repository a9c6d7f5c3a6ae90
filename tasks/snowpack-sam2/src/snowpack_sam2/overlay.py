"""The quality check that a person looks at: layers and boundaries drawn over the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from geocore.report.preview import OUTSIDE

if TYPE_CHECKING:
    from snowpack_sam2.ridges import Boundary

_LINE = "#d62728"
LAYER_COLOURS = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (188, 189, 34),
    (23, 190, 207),
)
"""Red, green, blue, 0-255, of layers 1, 2, ...; then from the start. The map and the overlay share them."""
_TINT = 0.16
"""Opacity of the layer colours: strong enough to tell neighbours apart, weak enough to see the snow."""
_SIDE_PX = 640
"""Longer side of a comparison, about: large enough for thin layers, small enough for several in one file."""
_TRUE, _PREDICTED = (86, 180, 233), (255, 120, 20)
"""RGB, 0-255; blue and orange are told apart by the colour-blind too."""
COLOURS: Final = "true boundaries blue, predicted ones orange"
"""What the colours of a comparison mean."""


def draw_overlay(
    path: Path,
    photo: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    layers: npt.NDArray[np.integer],
    boundaries: Sequence[Boundary],
) -> None:
    """Write a PNG of the photograph, stretched to its own brightness, with numbered layers and their boundaries.

    Args:
        path: file to write.
        photo: shape (row, col), any real dtype.
        valid: shape (row, col), bool: pixels that show the wall.
        layers: shape (row, col), integer: layer number from top to bottom, 0 where invalid.
        boundaries: the traced lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, cols = photo.shape
    scale = max(1.0, 700 / max(rows, cols))  # small photographs are enlarged so that lines and numbers can be read
    figure = Figure(figsize=(cols * scale / 100, rows * scale / 100), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    low, high = np.percentile(photo[valid], (0.5, 99.5)) if valid.any() else (0, 1)
    axes.imshow(photo, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest")
    colours = np.array(LAYER_COLOURS)[(layers.astype(int) - 1) % len(LAYER_COLOURS)] / 255
    tint = np.dstack([colours, np.where(layers > 0, _TINT, 0.0)])
    axes.imshow(tint, interpolation="nearest")
    for boundary in boundaries:
        axes.plot(boundary.cols, boundary.rows, color=_LINE, linewidth=1.2)
    for number in np.unique(layers[layers > 0]):
        where = np.nonzero(layers == number)
        axes.text(
            cols * 0.02 + np.min(where[1]),
            np.median(where[0]),
            str(number),
            color="white",
            fontsize=9,
            verticalalignment="center",
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 1.5, "linewidth": 0},
        )
    axes.set_xlim(-0.5, cols - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    figure.savefig(path, format="png")


def draw_comparison(
    photo: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.bool_],
    predicted: npt.NDArray[np.bool_],
) -> npt.NDArray[np.uint8]:
    """Draw predicted boundaries over the true ones over the photograph, stretched to its own brightness.

    Both stay visible where they agree: true boundaries are wider. A large photograph is reduced by a whole number, a
    small one enlarged, before lines are drawn, so that their width does not depend on its size.

    Args:
        photo: shape (row, col), any real dtype.
        valid: shape (row, col), bool: pixels that count; others are drawn in one dark colour.
        truth: shape (row, col), bool: true boundary lines.
        predicted: shape (row, col), bool: predicted boundary lines.

    Returns:
        Shape (row, col, 3), uint8; the longer side has about 640 pixels.
    """
    low, high = np.percentile(photo[valid], (0.5, 99.5)) if valid.any() else (0, 1)
    grey = np.clip((photo.astype(np.float64) - low) / max(high - low, 1e-9), 0, 1) * 255
    side = max(photo.shape)
    shrink, grow = -(-side // _SIDE_PX), max(1, round(_SIDE_PX / side))
    image = np.repeat(_blocks(np.where(valid, grey, 0), shrink).mean(axis=(1, 3))[..., None], 3, axis=2)
    image[~_blocks(valid, shrink).any(axis=(1, 3))] = OUTSIDE
    image = image.repeat(grow, axis=0).repeat(grow, axis=1)
    for lines, colour, reach in ((truth, _TRUE, 3), (predicted, _PREDICTED, 1)):
        reduced = _blocks(lines & valid, shrink).any(axis=(1, 3))
        image[_widened(reduced.repeat(grow, axis=0).repeat(grow, axis=1), reach)] = colour
    drawn: npt.NDArray[np.uint8] = np.rint(image).astype(np.uint8)
    return drawn


def _blocks(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Square blocks of an image, shape (row, size, col, size); those at two edges repeat its last pixels."""
    rows, cols = (-length % size for length in values.shape)
    whole = np.pad(values, ((0, rows), (0, cols)), mode="edge")
    return whole.reshape(whole.shape[0] // size, size, whole.shape[1] // size, size)


def _widened(lines: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Lines and all pixels within `reach` rows and columns of them."""
    for axis in (0, 1):
        wide = lines.copy()
        for shift in range(1, reach + 1):
            ahead, behind = [slice(None)] * 2, [slice(None)] * 2
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            wide[tuple(ahead)] |= lines[tuple(behind)]
            wide[tuple(behind)] |= lines[tuple(ahead)]
        lines = wide
    return lines
