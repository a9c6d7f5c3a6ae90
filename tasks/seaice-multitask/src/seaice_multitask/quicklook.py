"""Sheets for the eye: radar, mapped classes and, where there is one, the truth of a scene; confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from geocore.report.preview import OUTSIDE, Picture, new_figure, rendered, stretched
from seaice_multitask.channels import RADAR
from seaice_multitask.colours import class_colours, class_names
from seaice_multitask.config import OutputSettings
from seaice_multitask.model import PLANES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from geocore.raster.scene import Scene
    from seaice_multitask.scores import ChartCounts

SIDE_PX: Final = 520
"""About the longer side of a plane of a sheet."""
_POLARISATIONS: Final = dict(zip(RADAR, ("HH", "HV"), strict=True))


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is drawn of a scene; all planes have one size."""

    title: str
    radar: Mapping[str, npt.NDArray[np.float32]]
    """Name -> shape (row, col), float32, any unit, NaN where invalid."""
    found: Mapping[str, npt.NDArray[np.uint8]]
    """Output -> classes, shape (row, col), uint8, 255 where invalid."""
    outputs: Mapping[str, OutputSettings]
    truth: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """Output -> charted classes, as `found`; may lack any."""

    def draw(self) -> Picture:
        """The picture: radar and classes in the first row, the charts below the classes."""
        columns = len(self.found) + (min(1, len(self.radar)) if self.truth else len(self.radar))
        rows = 2 if self.truth else 1
        height, width = next(plane.shape for planes in (self.found, self.radar) for plane in planes.values())
        side = 3.4
        # Room for the titles of a row, and for four lines of legend below the last one.
        row_in = side * min(1.0, height / width) + 0.5
        figure = new_figure(columns * side * min(1.0, width / height), rows * row_in + 1.1)
        figure.suptitle(self.title, fontsize=10)
        axes = figure.subplots(rows, columns, squeeze=False)
        places = [(0, 0), (1, 0)] if self.truth else [(0, number) for number in range(len(self.radar))]
        for (row, col), (name, values) in zip(places, self.radar.items(), strict=False):
            _show(axes[row][col], _grey(values), _POLARISATIONS.get(name, name))
        first = columns - len(self.found)
        for col, (name, classes) in enumerate(self.found.items(), start=first):
            chosen = self.outputs[name]
            _show(axes[0][col], _coloured(classes, name, chosen), f"{name}, mapped")
            if name in self.truth:
                _show(axes[1][col], _coloured(self.truth[name], name, chosen), f"{name}, chart")
            _legend(axes[rows - 1][col], name, chosen)
        for ax in axes.flat:
            ax.set_axis_off()
        return rendered(figure)


def radar_of(scene: Scene) -> dict[str, npt.NDArray[np.float32]]:
    """The radar planes among those of a scene on the working grid, shape (row, col), float32, NaN where invalid."""
    patch = scene.read_layers(scene.grid.whole, [PLANES])[PLANES]
    valid = np.broadcast_to(patch.valid, patch.values.shape)
    names = scene.layers[PLANES].bands.names
    return {
        name: np.where(valid[index], patch.values[index], np.float32(np.nan))
        for index, name in enumerate(names)
        if name in RADAR
    }


def thinned(planes: Mapping[str, npt.NDArray[Any]], step: int) -> dict[str, npt.NDArray[Any]]:
    """Every `step`-th row and column of planes."""
    return {name: plane[::step, ::step] for name, plane in planes.items()}


def thinning(shape: tuple[int, int]) -> int:
    """Every how many pixels of a plane of this shape a sheet shows one."""
    return -(-max(shape) // SIDE_PX)


def draw_confusion(counts: ChartCounts) -> Picture:
    """Confusion matrices: of each true class, the percentage that was taken for each class."""
    figure = new_figure(max(len(counts.outputs), 1) * 4.6, 4.9)
    for position, (name, chosen) in enumerate(counts.outputs.items(), start=1):
        ax = figure.add_subplot(1, len(counts.outputs), position)
        matrix = counts.matrix(name)
        support = matrix.sum(axis=1, keepdims=True)
        shares = 100.0 * matrix / np.maximum(support, 1)
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for row, col in np.ndindex(*matrix.shape):
            if matrix[row, col]:
                colour = "white" if shares[row, col] > 60 else "black"
                ax.text(col, row, f"{shares[row, col]:.0f}", ha="center", va="center", fontsize=6, color=colour)
        numbers = range(chosen.classes)
        names = class_names(name, chosen)
        ax.set_xticks(numbers, [str(number) for number in numbers], fontsize=7)
        ax.set_yticks(numbers, [names[number] for number in numbers], fontsize=6)
        ax.set_title(f"{name}, % of the true class", fontsize=9)
        ax.set_xlabel("mapped class", fontsize=8)
    return rendered(figure)


def _show(ax: Axes, picture: Picture, title: str) -> None:
    ax.imshow(picture, interpolation="nearest")
    ax.set_title(title, fontsize=9)


def _grey(values: npt.NDArray[np.float32]) -> Picture:
    return stretched(values[np.newaxis], np.isfinite(values))


def _coloured(classes: npt.NDArray[np.uint8], name: str, chosen: OutputSettings) -> Picture:
    table = np.empty((256, 3), np.uint8)
    table[:] = OUTSIDE
    for number, colour in class_colours(name, chosen).items():
        table[number] = colour
    return table[classes]


def _legend(ax: Axes, name: str, chosen: OutputSettings) -> None:
    """Names below the lowest picture of a column; classes that share a colour share a line."""
    from matplotlib.patches import Patch

    names, lines = class_names(name, chosen), dict[tuple[int, int, int], list[str]]()
    for number, colour in class_colours(name, chosen).items():
        lines.setdefault(colour, []).append(names[number])
    handles = [
        Patch(
            facecolor=(colour[0] / 255, colour[1] / 255, colour[2] / 255),
            edgecolor="black",
            linewidth=0.4,
            label=labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}",
        )
        for colour, labels in lines.items()
    ]
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=6.5, frameon=False)
