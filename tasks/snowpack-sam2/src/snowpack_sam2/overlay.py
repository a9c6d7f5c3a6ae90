"""The quality check that a person looks at: layers and boundaries drawn over the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from snowpack_sam2.crests import Boundary

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
