"""Pictures for the report: a patch in false colour with what is true, what was found and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from crops_activesampling.products import class_colours
from crops_activesampling.scores import Classes, Counts
from crops_activesampling.windows import MEDIANS
from geocore.report.preview import OUTSIDE, Picture, new_figure, rendered, stretched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geocore.raster.scene import Scene
    from geocore.raster.write import Colour

_CHANNELS: Final = (("B08", "B8A", "B07", "B06"), ("B04", "B05", "B11"), ("B03", "B02", "B12"))
"""For red, green and blue, the first band that there is: plants are red, bare soil is grey or green."""
_RIGHT: Final[Colour] = (222, 222, 218)
_WRONG: Final[Colour] = (204, 51, 17)
_SIDE_IN: Final = 3.2


def draw_patch(
    scene: Scene, periods: Sequence[int], truth: Classes, found: Classes, class_names: Mapping[int, str]
) -> Picture:
    """Draw a patch four times, side by side.

    Args:
        scene: with the layer `medians`.
        periods: that the network sees, from 1; that with the most data is shown.
        truth: shape (row, col), uint8, crops 1 to n, 0 where unlabelled.
        found: shape (row, col), uint8, crops 1 to n, 0 where unseen.
        class_names: number and name of each crop.
    """
    image, date = false_colour(scene, periods)
    colours = class_colours(class_names)
    figure = new_figure(4 * _SIDE_IN, _SIDE_IN + 0.9)
    axes = figure.subplots(1, 4)
    panes = (
        (image, f"period from {date}"),
        (_coloured(truth, colours), "labels"),
        (_coloured(found, colours), "mapped"),
        (differences(truth, found), "wrong: red; no label: dark"),
    )
    for ax, (picture, title) in zip(axes, panes, strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    there = set(np.unique(truth)) | set(np.unique(found))
    _legend(figure, {class_names[number]: colours[number] for number in sorted(class_names) if number in there})
    return rendered(figure)


def draw_confusion(matrix: Counts, class_names: Mapping[int, str]) -> Picture:
    """Draw a confusion matrix: of the pixels of each true crop, the percentage that was taken for each crop.

    Args:
        matrix: shape (n, n), int64; rows are the truth, the first one is class 1.
        class_names: number and name of each crop.
    """
    names = [class_names[number] for number in sorted(class_names)]
    side = 2.4 + 0.42 * len(names)
    figure = new_figure(side + 0.6, side)
    ax = figure.subplots()
    shares = 100.0 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, col in np.ndindex(*matrix.shape):
        if matrix[row, col]:
            colour = "white" if shares[row, col] > 60 else "black"
            ax.text(col, row, f"{shares[row, col]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xlabel("mapped")
    ax.set_ylabel("label")
    return rendered(figure)


def false_colour(scene: Scene, periods: Sequence[int]) -> tuple[Picture, str]:
    """The composite of `composite`, in false colour.

    Bands are stretched from percentile 2 to 98.

    Args:
        scene: with the layer `medians`.
        periods: to choose from, from 1.

    Returns:
        (picture, first day of the period).
    """
    values, valid, period = composite(scene, periods)
    return stretched(values, valid), scene.layers[MEDIANS].times[period - 1]


def composite(scene: Scene, periods: Sequence[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_], int]:
    """The composite that has the most data, of several that nearest the middle of the series.

    Args:
        scene: with the layer `medians`.
        periods: to choose from, from 1.

    Returns:
        (bands of `false_colour_bands`, shape (3, row, col), native dtype; valid, shape (row, col), bool; the period).
    """
    patch, layer = scene.read_layers(scene.grid.whole, [MEDIANS])[MEDIANS], scene.layers[MEDIANS]
    seen: npt.NDArray[np.bool_] = np.logical_and.reduce(patch.valid, axis=1)
    middle = (min(periods) + max(periods)) / 2
    best = max(periods, key=lambda period: (int(seen[period - 1].sum()), -abs(period - middle))) - 1
    return patch.values[best][false_colour_bands(layer.bands.names)], seen[best], best + 1


def false_colour_bands(names: Sequence[str]) -> list[int]:
    """Positions of the bands that are shown as red, green and blue; the first one where there is none for a colour."""
    return [names.index(next((name for name in its if name in names), names[0])) for its in _CHANNELS]


def differences(truth: Classes, found: Classes) -> Picture:
    """Where two maps agree and where they do not, shape (row, col, 3); dark where either says nothing.

    Args:
        truth: shape (row, col), uint8, 0 where unlabelled.
        found: shape (row, col), uint8, 0 where unseen.
    """
    counted = (truth != 0) & (found != 0)
    kinds = np.where(counted, np.where(truth == found, 1, 2), 0)
    return np.array([OUTSIDE, _RIGHT, _WRONG], np.uint8)[kinds]


def _coloured(classes: Classes, colours: Mapping[int, Colour]) -> Picture:
    table = np.empty((256, 3), np.uint8)
    table[:] = OUTSIDE
    for number, colour in colours.items():
        table[number] = colour
    return table[classes]


def _legend(figure: Figure, colours: Mapping[str, Colour]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=(red / 255, green / 255, blue / 255), edgecolor="black", linewidth=0.4, label=name)
        for name, (red, green, blue) in colours.items()
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=8, fontsize=8, frameon=False)
