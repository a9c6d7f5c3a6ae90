"""From a network and an area to objects: tiles, detections, merged instances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geocore.inference.tiled import predict_tiles
from geocore.raster.grid import Window
from geocore.settings import TilingSettings
from geocore.terminal import progress
from geocore.tiling.tiles import Chunk, TileGrid
from slumps_detectron2.detections import DetectionCollector
from slumps_detectron2.instances import Instance, instances_of, merge
from slumps_detectron2.scores import MappedArea

if TYPE_CHECKING:
    from geocore.device import DeviceContext
    from geocore.raster.scene import Patch, Scene
    from slumps_detectron2.areas import Areas
    from slumps_detectron2.model import SlumpNet


def map_area(
    network: SlumpNet, scene: Scene, area: Window, *, tiling: TilingSettings, context: DeviceContext
) -> tuple[list[Instance], np.ndarray]:
    """Find the objects of an area.

    The tiles see the scene beyond the area's border, where there is any; objects are cut to the area.

    Args:
        network: in evaluation mode, on the context's device.
        scene: where the area lies.
        area: pixels of the scene.
        tiling: size and overlap of the tiles, pixels.
        context: device and precision.

    Returns:
        Objects in pixels of the area, whatever their score; probability, shape (row, col), uint8, 0-100, 255 where
        invalid.
    """
    tiles = TileGrid(size=tiling.size, overlap=tiling.overlap)
    chunk = Chunk("all", Window(0, 0, *area.shape))
    probability = np.zeros(area.shape, np.uint8)

    def read(scene: Scene, window: Window) -> dict[str, Patch]:
        return scene.read_layers(window.shifted(area.row, area.col))

    def on_rows(row: int, rows: np.ndarray) -> None:
        probability[row : row + len(rows)] = rows

    collector = DetectionCollector(chunk, tiles, area.shape, on_rows=on_rows)
    detections = predict_tiles(
        network.detect,
        scene,
        chunk,
        tiles,
        collector,
        read=read,
        context=context,
        shape=area.shape,
    )
    return merge(detections, tiles, area.shape), probability


def map_areas(
    network: SlumpNet, areas: Areas, *, tiling: TilingSettings, context: DeviceContext
) -> Iterator[MappedArea]:
    """Objects found and true of every area of a split."""
    for index in progress(len(areas.samples), "mapping areas"):
        found, _ = map_area(network, areas.scene(index), areas.window(index), tiling=tiling, context=context)
        yield compared(areas, index, found)


def compared(areas: Areas, index: int, found: Sequence[Instance]) -> MappedArea:
    """Put what was found in an area beside its truth."""
    truth: Any = areas.truth(index)
    true = instances_of(truth.ids, ignored=None, classes=truth.classes)
    # Ids may have gaps where an area holds a part of a scene.
    present = np.unique(truth.ids[truth.ids > 0])
    ids = np.where(truth.ids > 0, np.searchsorted(present, truth.ids) + 1, 0).astype(np.uint32)
    return MappedArea(found, true, ids, truth.labelled)
