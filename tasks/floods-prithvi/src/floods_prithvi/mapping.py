"""From a network and a scene to classes, their probability and the confidence in them, and to counts of chips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from floods_prithvi.chip_reader import IMAGE
from floods_prithvi.model import CLASSES
from floods_prithvi.scores import count
from geocore.datasets.batch import VALID
from geocore.datasets.labels import IGNORED
from geocore.inference.blend import OutputHead, OverlapBlender
from geocore.inference.outputs import argmax_labels, margin, to_percent
from geocore.inference.tiled import predict_tiles
from geocore.inference.tta import flip_average
from geocore.metrics.confusion import Confusion
from geocore.raster.grid import Window
from geocore.raster.npy_store import OutputBand
from geocore.raster.scene import Patch, Scene
from geocore.terminal import progress
from geocore.tiling.tiles import Chunk, TileGrid

if TYPE_CHECKING:
    from floods_prithvi.data import Chips
    from geocore.device import DeviceContext
    from geocore.settings import TilingSettings

Chart = npt.NDArray[np.uint8]
Inputs = Mapping[str, Mapping[str, Tensor]]

INVALID: Final = 255
"""Class and percentages of pixels without a prediction."""
CLASS: Final = "class"
PROBABILITY: Final = "probability"
"""Percent: of class 1 where there are two, else of the class that was chosen."""
CONFIDENCE: Final = "confidence"
"""Percent: probability of the class that was chosen less that of the runner-up."""


class Network(Protocol):
    """What maps tiles: Prithvi with its head, and the U-Net beside it."""

    @property
    def head(self) -> OutputHead:
        """Classes of the output."""

    def predict(self, inputs: Inputs, dates: Tensor | None = None, places: Tensor | None = None) -> dict[str, Tensor]:
        """Class probabilities of tiles as they are read.

        Args:
            inputs: layer `image` with `values`, shape (batch, band, row, col) or (batch, date, band, row, col),
                float32, reflectance, and `valid`, bool, with one band.
            dates: shape (batch, date, 2), float32: year, and day of the year from 0; NaN: unknown.
            places: shape (batch, 2), float32: latitude and longitude, degrees; NaN: unknown.

        Returns:
            `classes`: shape (batch, class, row, col), float32, 0-1. `valid`: shape (batch, 1, row, col), bool.
        """


def planes() -> list[OutputBand]:
    """The planes of a mapped chunk, uint8, one band each."""
    return [OutputBand(name, "uint8") for name in (CLASS, PROBABILITY, CONFIDENCE)]


def map_rows(
    network: Network,
    scene: Scene,
    chunk: Chunk,
    *,
    tiling: TilingSettings,
    context: DeviceContext,
    on_rows: Callable[[int, dict[str, Chart]], None],
    dates: Tensor | None = None,
    places: Tensor | None = None,
    flips: bool = False,
) -> None:
    """Map a chunk and hand out its rows as they become finished.

    Args:
        network: in evaluation mode, on the context's device.
        scene: with the layer `image`, reflectance.
        chunk: pixels of the scene.
        tiling: size and overlap of the tiles, pixels.
        context: device and precision.
        on_rows: called with the first row, counted from the scene's first, and for each of `planes` an array of shape
            (rows, chunk width), uint8, 255 where invalid.
        dates: of the scene, shape (date, 2), float32: year, and day of the year from 0; None or NaN: unknown.
        places: of the scene's centre, shape (2,), float32: latitude and longitude, degrees; None or NaN: unknown.
        flips: average over the four mirror images.

    Raises:
        SceneError: the scene cannot be read.
    """
    tiles = TileGrid(size=tiling.size, overlap=tiling.overlap)

    def finished(row: int, blended: dict[str, Tensor]) -> None:
        on_rows(row, _described(blended[CLASSES], blended[VALID]))

    def forward(inputs: Inputs) -> dict[str, Tensor]:
        # The batch is halved where memory is short, so its size is known only here.
        values = inputs[IMAGE]["values"]
        return network.predict(inputs, _repeated(dates, values), _repeated(places, values))

    predict_tiles(
        flip_average(forward) if flips else forward,
        scene,
        chunk,
        tiles,
        OverlapBlender(chunk, tiles, scene.grid.shape, {CLASSES: network.head.channels}, on_rows=finished),
        read=_read,
        context=context,
    )


def map_scene(
    network: Network,
    scene: Scene,
    *,
    tiling: TilingSettings,
    context: DeviceContext,
    dates: Tensor | None = None,
    places: Tensor | None = None,
) -> dict[str, Chart]:
    """Map a whole scene that fits into memory; arguments as for `map_rows`.

    Returns:
        Name of each of `planes` -> shape (row, col), uint8, 255 where invalid.
    """
    charts = {plane.name: np.empty(scene.grid.shape, np.uint8) for plane in planes()}

    def on_rows(row: int, rows: dict[str, Chart]) -> None:
        for name, part in rows.items():
            charts[name][row : row + len(part)] = part

    chunk = Chunk("all", Window(0, 0, *scene.grid.shape))
    map_rows(network, scene, chunk, tiling=tiling, context=context, on_rows=on_rows, dates=dates, places=places)
    return charts


def map_chip(network: Network, chips: Chips, index: int, *, tiling: TilingSettings, context: DeviceContext) -> Chart:
    """Classes of one chip of a split, shape (row, col), uint8, 255 where invalid; its date and place are told."""
    dates, places = chips.coordinates(index)
    with chips.scene(index) as scene:
        charts = map_scene(network, scene, tiling=tiling, context=context, dates=_tensor(dates), places=_tensor(places))
    return charts[CLASS]


def chip_counts(network: Network, chips: Chips, *, tiling: TilingSettings, context: DeviceContext) -> list[Confusion]:
    """Counts of every chip of a split.

    Pixels that are invalid in the image do not count, whatever their label.

    Args:
        network: in evaluation mode, on the context's device.
        chips: a split.
        tiling: size and overlap of the tiles, pixels.
        context: device and precision.

    Raises:
        SceneError: a chip cannot be read.
    """
    counts = []
    for index in progress(len(chips.samples), "mapping chips"):
        found = map_chip(network, chips, index, tiling=tiling, context=context)
        target = np.where(found == INVALID, np.uint8(IGNORED), chips.target(index))
        counts.append(count(target, found, network.head.channels))
    return counts


def _read(scene: Scene, window: Window) -> dict[str, Patch]:
    return scene.read_layers(window, [IMAGE])


def _tensor(values: Any) -> Tensor | None:
    return None if values is None else torch.as_tensor(values, dtype=torch.float32)


def _repeated(values: Tensor | None, like: Tensor) -> Tensor | None:
    """What is true of the scene, for each tile of a batch."""
    return None if values is None else values.to(like.device).expand(like.shape[0], *values.shape)


def _described(shares: Tensor, valid: Tensor) -> dict[str, Chart]:
    """Class, probability and confidence of finished rows.

    Args:
        shares: shape (class, rows, cols), float32, 0-1.
        valid: shape (1, rows, cols), bool.

    Returns:
        As `map_rows` emits them.
    """
    classes = argmax_labels(shares)
    probability = shares[1] if len(shares) == 2 else shares.amax(0)
    seen = valid[0]
    described = {
        CLASS: classes.masked_fill(~seen, INVALID),
        PROBABILITY: to_percent(probability, seen),
        CONFIDENCE: to_percent(margin(shares), seen),
    }
    return {name: plane.cpu().numpy() for name, plane in described.items()}
