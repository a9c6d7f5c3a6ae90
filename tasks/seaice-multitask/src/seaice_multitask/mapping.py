"""From a network and a scene to classes, their probability and entropy, on the working grid and at 80 m.

Classes of a working pixel are repeated over its 80 m pixels. For a regression that is the same as bringing its value to
80 m by the nearest pixel and rounding there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geocore.datasets.batch import VALID
from geocore.inference.blend import OverlapBlender
from geocore.inference.outputs import argmax_labels, normalized_entropy, to_percent
from geocore.inference.tiled import predict_tiles
from geocore.inference.tta import flip_average
from geocore.raster.grid import Window
from geocore.raster.npy_store import OutputBand
from geocore.raster.scene import Scene
from geocore.terminal import progress
from geocore.tiling.tiles import Chunk, TileGrid
from seaice_multitask.channels import RADAR
from seaice_multitask.model import PLANES
from seaice_multitask.scores import ChartCounts
from seaice_multitask.vectors import Winds

if TYPE_CHECKING:
    from geocore.device import DeviceContext
    from geocore.settings import TilingSettings
    from seaice_multitask.config import OutputSettings
    from seaice_multitask.data import Scenes
    from seaice_multitask.model import SeaIceNet

Chart = npt.NDArray[np.uint8]

INVALID: Final = 255
"""Class, percentage and entropy of pixels without a prediction."""


def class_plane(name: str) -> str:
    """Name of the plane that holds the classes of an output."""
    return f"{name}_class"


def probability_plane(name: str) -> str:
    """Name of the plane that holds the probability of the class, percent; only for outputs of kind classes."""
    return f"{name}_probability"


def entropy_plane(name: str) -> str:
    """Name of the plane that holds the entropy, percent of that of equal shares; only for outputs of kind classes."""
    return f"{name}_entropy"


def planes_of(outputs: Mapping[str, OutputSettings]) -> list[OutputBand]:
    """The planes of a mapped chunk, uint8, one band each."""
    planes = []
    for name, chosen in outputs.items():
        planes.append(OutputBand(class_plane(name), "uint8"))
        if chosen.kind == "classes":
            planes += [OutputBand(probability_plane(name), "uint8"), OutputBand(entropy_plane(name), "uint8")]
    return planes


def map_rows(
    network: SeaIceNet,
    scene: Scene,
    chunk: Chunk,
    *,
    tiling: TilingSettings,
    context: DeviceContext,
    on_rows: Callable[[int, dict[str, Chart]], None],
    flips: bool = False,
) -> None:
    """Map a chunk and hand out its rows as they become finished.

    Args:
        network: in evaluation mode, on the context's device.
        scene: on the working grid, with the layer `planes`.
        chunk: working pixels of the scene.
        tiling: size and overlap of the tiles, working pixels.
        context: device and precision.
        on_rows: called with the first row, counted from the scene's first, and for each of `planes_of` an array of
            shape (rows, chunk width), uint8, 255 where invalid.
        flips: average over the four mirror images.

    Raises:
        SceneError: the scene cannot be read.
    """
    tiles = TileGrid(size=tiling.size, overlap=tiling.overlap)

    def finished(row: int, blended: dict[str, Tensor]) -> None:
        on_rows(row, _described(blended, network.outputs))

    channels = {name: head.channels for name, head in network.heads.items()}
    predict_tiles(
        flip_average(network.predict, {PLANES: Winds(network.layer.bands).mirrored}) if flips else network.predict,
        scene,
        chunk,
        tiles,
        OverlapBlender(chunk, tiles, scene.grid.shape, channels, on_rows=finished),
        read=Scene.read_layers,
        context=context,
    )


def map_scene(
    network: SeaIceNet, scene: Scene, *, tiling: TilingSettings, context: DeviceContext, flips: bool = False
) -> dict[str, Chart]:
    """Classes of a whole scene.

    Args:
        network: in evaluation mode, on the context's device.
        scene: on the working grid, with the layer `planes`.
        tiling: size and overlap of the tiles, working pixels.
        context: device and precision.
        flips: average over the four mirror images.

    Returns:
        Output -> shape (row, col) of the working grid, uint8, 255 where invalid.
    """
    charts = {name: np.empty(scene.grid.shape, np.uint8) for name in network.outputs}

    def on_rows(row: int, rows: dict[str, Chart]) -> None:
        for name, chart in charts.items():
            part = rows[class_plane(name)]
            chart[row : row + len(part)] = part

    chunk = Chunk("all", Window(0, 0, *scene.grid.shape))
    map_rows(network, scene, chunk, tiling=tiling, context=context, on_rows=on_rows, flips=flips)
    return charts


def scene_counts(
    network: SeaIceNet, scenes: Scenes, *, tiling: TilingSettings, context: DeviceContext, flips: bool = False
) -> list[ChartCounts]:
    """Counts of every scene of a split at 80 m, against charts that no working grid has touched.

    Args:
        network: as for `map_rows`.
        scenes: a split.
        tiling: size and overlap of the tiles, working pixels.
        context: device and precision.
        flips: average over the four mirror images.
    """
    counts = []
    for index in progress(len(scenes.samples), "mapping scenes"):
        found = map_scene(network, scenes.scene(index), tiling=tiling, context=context, flips=flips)
        counts.append(chart_counts(found, scenes.charts(index), network.working.downscale, network.outputs))
    return counts


def chart_counts(
    found: Mapping[str, Chart], truth: Mapping[str, Chart], downscale: int, outputs: Mapping[str, OutputSettings]
) -> ChartCounts:
    """Count the pixels of a scene at 80 m.

    Args:
        found: output -> classes on the working grid, shape (row, col), uint8, 255 where invalid.
        truth: output -> chart at 80 m, shape (line, sample), uint8.
        downscale: 80 m pixels per working pixel along an axis.
        outputs: what is compared.
    """
    counts = ChartCounts(outputs)
    counts.update(
        {name: truth[name] for name in outputs},
        {name: at_80m(submitted(found[name]), downscale, truth[name].shape) for name in outputs},
    )
    return counts


def submitted(classes: Chart) -> Chart:
    """Classes as they are scored and handed in: 0, open water, where the network gave none.

    The challenge scores every pixel that the reference charts, and 255 would count as a class there.
    """
    return np.where(classes == INVALID, np.uint8(0), classes)


def at_80m(classes: Chart, downscale: int, shape: tuple[int, ...], row: int = 0) -> Chart:
    """Repeat working pixels over the 80 m pixels that they stand for.

    Args:
        classes: shape (row, col), working pixels, uint8; its first row holds the line `row`.
        downscale: 80 m pixels per working pixel along an axis.
        shape: lines and samples of the result.
        row: first line of the result, 80 m pixels counted from the scene's first.
    """
    skipped = row % downscale
    lines = classes[: -(-(skipped + shape[0]) // downscale)].repeat(downscale, axis=0)[skipped : skipped + shape[0]]
    return lines.repeat(downscale, axis=1)[:, : shape[1]]


def usable(valid: npt.NDArray[np.bool_], names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Where a scene counts: the radar planes among those named, or all planes without one, are valid.

    Args:
        valid: shape (1 or plane, row, col), bool.
        names: of the planes.

    Returns:
        Shape (row, col), bool.
    """
    deciding = [index for index, name in enumerate(names) if name in RADAR]
    chosen = valid[deciding] if deciding and len(valid) > 1 else valid
    mask: npt.NDArray[np.bool_] = np.logical_and.reduce(chosen)
    return mask


def _described(blended: Mapping[str, Tensor], outputs: Mapping[str, OutputSettings]) -> dict[str, Chart]:
    """Classes, probability and entropy of finished rows.

    Args:
        blended: output -> shape (channel, rows, cols), float32; `valid`, shape (1, rows, cols), bool.
        outputs: what the channels mean.

    Returns:
        As `map_rows` emits them.
    """
    valid = blended[VALID][0]
    described: dict[str, Tensor] = {}
    for name, chosen in outputs.items():
        values = blended[name]
        if chosen.kind == "regression":
            # Halves go to the even class, as numpy's rint and torch's round have it.
            classes = values[0].round().clamp(0, chosen.classes - 1).to(torch.uint8)
        else:
            classes = argmax_labels(values)
            described[probability_plane(name)] = to_percent(values.amax(0), valid)
            described[entropy_plane(name)] = to_percent(normalized_entropy(values), valid)
        described[class_plane(name)] = classes.masked_fill(~valid, INVALID)
    return {name: plane.cpu().numpy() for name, plane in described.items()}
