"""The working grid: scenes and charts at 80 m brought to the coarser pixels that a network sees.

A working pixel stands for a block of `downscale` by `downscale` pixels of 80 m; blocks are counted from the scene's
upper left corner, and the last of a line or column may be incomplete. Only what a window needs is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.datasets.shift import TrainedOn
from geocore.errors import SceneError
from geocore.raster.grid import Window
from geocore.raster.scene import Layer, Patch, Scene
from seaice_multitask.channels import COARSE_STANDARD, MONTH, PLACE_STANDARD, SAR_STANDARD, bands_of
from seaice_multitask.charts import MASKED
from seaice_multitask.config import WorkingSettings
from seaice_multitask.gcp_grid import Places
from seaice_multitask.names import scene_time
from seaice_multitask.scenes import COARSE, COARSE_RATIO, SAR

PLANES: Final = "planes"
"""The one layer of a scene on the working grid."""

# Read at once: some hundred lines of a whole scene, so that the blocks of the file are rarely unpacked twice.
_FINE_PX: Final = 1 << 21
# Of a chart, reduced at once: what one class leaves behind is still in the processor's cache at the next.
_CHART_PX: Final = 1 << 18

FAR: Final = 6.0
"""Standard deviations: no plane of a scene of the challenge or the sample has a mean half as far off."""
PROBE_PX: Final = 64
"""Edge of the windows by which a scene is looked over, working pixels."""

Float32 = npt.NDArray[np.float32]
Chart = npt.NDArray[np.uint8]


def planes_layer(channels: Sequence[str]) -> Layer:
    """The layer of the named channels, in this order.

    Raises:
        SettingsError: a name is unknown or occurs twice.
    """
    bands = bands_of(channels)
    marked = tuple(dataclasses.replace(band, nodata=math.nan) for band in bands)
    return Layer(PLANES, dataclasses.replace(bands, bands=marked), "float32")


def standard_planes(channels: Sequence[str]) -> TrainedOn:
    """What the planes of every scene should be: z-scores."""
    ones = [1.0] * len(channels)
    return TrainedOn(channels, [0.0] * len(channels), ones, (), "float32", "challenge's scenes")


def working_scene(scene: Scene, channels: Sequence[str], working: WorkingSettings) -> Scene:
    """A scene on the working grid, with the one layer `planes`; closing it closes the scene at 80 m.

    Args:
        scene: at 80 m, of `open_scene`.
        channels: names, in the order wanted.
        working: pixel size and reduction.

    Raises:
        SettingsError: a name is unknown or occurs twice.
        SceneError: the scene lacks a channel, its time or its control points.
    """
    return Scene(scene.name, scene.grid.coarser(working.downscale), {PLANES: WorkingSource(scene, channels, working)})


class WorkingSource:
    """Channels on the working grid, computed window by window; NaN where invalid."""

    def __init__(self, scene: Scene, channels: Sequence[str], working: WorkingSettings) -> None:
        """Look up what is needed; nothing is read.

        Args:
            scene: at 80 m.
            channels: names, in the order wanted.
            working: pixel size and reduction.

        Raises:
            SettingsError: a name is unknown or occurs twice.
            SceneError: the scene lacks a channel, its time or its control points.
        """
        self.layer = planes_layer(channels)
        self.shape = scene.grid.coarser(working.downscale).shape
        self._scene, self._working = scene, working
        self._sar = _positions(scene, SAR, [name for name in channels if name in SAR_STANDARD])
        self._coarse = _positions(scene, COARSE, [name for name in channels if name in COARSE_STANDARD])
        self._month = month_code(scene.name) if MONTH in channels else math.nan
        self._places = Places.of(scene.grid, scene.name) if set(channels) & set(PLACE_STANDARD) else None

    def read(self, window: Window) -> Patch:
        """Compute a window, in working pixels, fully inside."""
        planes: dict[str, Float32] = {}
        if self._sar:
            reduced = self._radar(window)
            planes |= {name: reduced[index] for index, name in enumerate(self._sar)}
        if self._coarse:
            nearest = self._nearest_coarse(window)
            planes |= {name: nearest[index] for index, name in enumerate(self._coarse)}
        if self._places is not None:
            planes |= self._place(self._places, window)
        planes[MONTH] = np.full(window.shape, self._month, np.float32)
        values = np.stack([planes[name] for name in self.layer.bands.names])
        return Patch(values, np.isfinite(values))

    def close(self) -> None:
        """Close the scene at 80 m."""
        self._scene.close()

    def _radar(self, window: Window) -> Float32:
        """Reduced planes of the radar's grid, shape (band, row, col), NaN where invalid."""
        downscale = self._working.downscale
        indices = list(self._sar.values())
        reduced = np.empty((len(indices), *window.shape), np.float32)
        rows = max(1, _FINE_PX // (window.width * downscale**2))
        for row in range(0, window.height, rows):
            part = Window(window.row + row, window.col, min(rows, window.height - row), window.width)
            fine = part.finer(downscale).intersection(self._scene.grid.whole)
            assert fine is not None
            patch = self._scene.read_layers(fine, [SAR])[SAR]
            for place, index in enumerate(indices):
                block = np.where(patch.valid[index], patch.values[index], np.float32(np.nan))
                reduced[place, row : row + part.height] = reduce_plane(block, self._working)
        return reduced

    def _nearest_coarse(self, window: Window) -> Float32:
        """Planes of the 2 km grid at the middle of each working pixel, shape (band, row, col), NaN where invalid."""
        middles = (
            _middle(start, length, self._working.downscale, edge) // COARSE_RATIO
            for start, length, edge in zip((window.row, window.col), window.shape, self._scene.grid.shape, strict=True)
        )
        rows, cols = middles
        part = Window(int(rows[0]), int(cols[0]), int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1)
        patch = self._scene.read_layers(part.finer(COARSE_RATIO), [COARSE])[COARSE]
        values = np.where(patch.valid, patch.values, np.float32(np.nan))[list(self._coarse.values())]
        nearest: Float32 = values[:, (rows - rows[0])[:, None], (cols - cols[0])[None, :]]
        return nearest

    def _place(self, places: Places, window: Window) -> dict[str, Float32]:
        """Standardised latitude and longitude at the middle of each working pixel, each of shape (row, col)."""
        rows, cols = (
            np.minimum((np.arange(start, start + length) + 0.5) * self._working.downscale, edge)
            for start, length, edge in zip((window.row, window.col), window.shape, self._scene.grid.shape, strict=True)
        )
        # Off Alaska longitudes go on to the west, where the scenes of the challenge lie.
        degrees = places.at(rows, cols, around=PLACE_STANDARD["longitude"].mean)
        return {
            name: ((degrees[name] - standard.mean) / standard.std).astype(np.float32)
            for name, standard in PLACE_STANDARD.items()
        }


def reduce_plane(values: Float32, working: WorkingSettings) -> Float32:
    """Bring a plane at 80 m to the working grid.

    Args:
        values: shape (row, col), float32, NaN where invalid; begins at the corner of a working pixel.
        working: pixel size, and whether a working pixel is the mean of its valid pixels or the one in its middle.

    Returns:
        Shape (ceil(row / downscale), ceil(col / downscale)), float32, NaN where no pixel (the middle one) is valid.
    """
    size = working.downscale
    if working.sar_reduction == "nearest" or size == 1:
        rows, cols = (_middle(0, -(-edge // size), size, edge) for edge in values.shape)
        return values[np.ix_(rows, cols)]
    valid = np.isfinite(values)
    total = _block_sums(np.where(valid, values, np.float32(0)), size, np.float32, np.float64)
    count = _block_sums(valid, size, np.uint8, np.uint16)
    mean: Float32 = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    return mean


def reduce_chart(chart: Chart, working: WorkingSettings) -> Chart:
    """Bring a chart at 80 m to the working grid.

    Args:
        chart: shape (row, col), uint8, 255 where masked; begins at the corner of a working pixel.
        working: pixel size, and whether a working pixel is the most frequent class of its unmasked pixels (the lower
            one of two that are as frequent) or the pixel in its middle.

    Returns:
        Shape (ceil(row / downscale), ceil(col / downscale)), uint8, 255 where all pixels (the middle one) are masked.
    """
    size = working.downscale
    shape = tuple(-(-edge // size) for edge in chart.shape)
    if working.chart_reduction == "nearest" or size == 1:
        rows, cols = (_middle(0, edge, size, length) for edge, length in zip(shape, chart.shape, strict=True))
        return chart[np.ix_(rows, cols)]
    reduced = np.full(shape, MASKED, np.uint8)
    step = max(1, _CHART_PX // (chart.shape[1] * size))
    for row in range(0, shape[0], step):
        part = chart[row * size : (row + step) * size]
        into = reduced[row : row + step]
        most = np.zeros(into.shape, np.uint16)
        for value in np.flatnonzero(np.bincount(part.ravel(), minlength=MASKED)[:MASKED]):
            votes = _block_sums(part == value, size, np.uint8, np.uint16)
            # Classes come in rising order, so that of equals the lower one stays.
            ahead = votes > most
            into[ahead] = value
            np.maximum(most, votes, out=most)
    return reduced


def month_code(name: str) -> float:
    """Time of the year as the challenge's winner fed it: -1 in January, 1 in December.

    Whole months since 1 January, over 11, on the scale from -1 to 1 (Chen et al. 2024, The Cryosphere 18, 1621).

    Raises:
        SceneError: the scene's name does not say when it was taken.
    """
    return 2 * (scene_time(name).month - 1) / 11 - 1


def _positions(scene: Scene, layer: str, names: Sequence[str]) -> dict[str, int]:
    """Where the named channels are in a layer of the scene."""
    if not names:
        return {}
    there = scene.layers[layer].bands.names if layer in scene.layers else ()
    missing = [name for name in names if name not in there]
    if missing:
        raise SceneError(
            f"scene {scene.name} lacks the channels {', '.join(missing)}: leave them out or open it with them"
        )
    return {name: there.index(name) for name in names}


def _middle(start: int, length: int, size: int, edge: int) -> npt.NDArray[np.intp]:
    """Index at 80 m of the middle pixel of working pixels; of an incomplete one the last, where it ends before."""
    return np.minimum(np.arange(start, start + length) * size + size // 2, edge - 1)


def _block_sums(values: npt.NDArray[Any], size: int, first: Any, then: Any) -> npt.NDArray[Any]:
    """Sums over blocks of size x size, which the last of an axis may not fill.

    Args:
        values: shape (row, col).
        size: edge of a block, at most 50.
        first: type of sums down a block's columns.
        then: type of the block's sum.
    """
    missing = [(0, -edge % size) for edge in values.shape]
    if any(after for _, after in missing):
        values = np.pad(values, missing)
    rows, cols = (edge // size for edge in values.shape)
    # Down the columns first: whole lines are added, and the short sums across meet a small array.
    lines = values.reshape(rows, size, -1).sum(axis=1, dtype=first)
    sums: npt.NDArray[Any] = lines.reshape(rows, cols, size).sum(axis=2, dtype=then)
    return sums
