"""From a network and a patch to crops and how probable they are, and to counts of patches.

A patch has some hundred pixels along a side, so that it is mapped as a whole and held in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from torch import Tensor

from crops_activesampling.composites import patch_composites
from crops_activesampling.config import CompositeSettings
from crops_activesampling.model import CLASSES, MEDIANS, read_window
from crops_activesampling.s4a_format import open_patch
from crops_activesampling.scores import Classes, Counts, patch_counts
from geocore.datasets.batch import VALID
from geocore.datasets.shift import TrainedOn, compare_with_training
from geocore.errors import CheckpointError, DataError
from geocore.inference.blend import OverlapBlender
from geocore.inference.outputs import argmax_labels, to_percent
from geocore.inference.tiled import predict_tiles
from geocore.raster.grid import Window
from geocore.raster.scene import ArrayReader, Scene
from geocore.terminal import progress
from geocore.tiling.tiles import Chunk, TileGrid

if TYPE_CHECKING:
    from crops_activesampling.model import CropNet
    from crops_activesampling.windows import Patches
    from geocore.device import DeviceContext
    from geocore.settings import TilingSettings

UNSEEN: Final = 0
"""Class of pixels without a prediction: where all bands of no period have data. No crop has this number."""
FAR: Final = 1.0
"""Standard deviations: no patch of the sample has a band whose mean over the year lies half as far off."""


@dataclass(frozen=True, slots=True)
class MappedPatch:
    """What a network says about a patch."""

    classes: Classes
    """Shape (row, col), uint8: crop, 1 to n, 0 where unseen."""
    probability: npt.NDArray[np.uint8]
    """Shape (row, col), uint8: percent, of the crop in `classes`, 255 where unseen."""
    shares: npt.NDArray[np.float32]
    """Shape (n, row, col), float32: probability of each crop, 0-1, the first one being class 1; 0 where unseen."""


def map_patch(network: CropNet, scene: Scene, *, tiling: TilingSettings, context: DeviceContext) -> MappedPatch:
    """Map a patch.

    Args:
        network: in evaluation mode, on the context's device.
        scene: with the layer `medians`, as stored.
        tiling: size and overlap of the tiles, pixels.
        context: device and precision.

    Raises:
        SceneError: the patch cannot be read.
    """
    shape, channels = scene.grid.shape, network.head.channels
    classes = np.empty(shape, np.uint8)
    probability = np.empty(shape, np.uint8)
    shares = np.empty((channels, *shape), np.float32)

    def keep(row: int, blended: dict[str, Tensor]) -> None:
        values, seen = blended[CLASSES], blended[VALID][0]
        rows = slice(row, row + len(seen))
        classes[rows] = (argmax_labels(values) + 1).masked_fill(~seen, UNSEEN).cpu().numpy()
        probability[rows] = to_percent(values.amax(0), seen).cpu().numpy()
        shares[:, rows] = values.cpu().numpy()

    chunk, tiles = Chunk("all", Window(0, 0, *shape)), TileGrid(size=tiling.size, overlap=tiling.overlap)
    predict_tiles(
        network.predict,
        scene,
        chunk,
        tiles,
        OverlapBlender(chunk, tiles, shape, {CLASSES: channels}, on_rows=keep),
        read=read_window,
        context=context,
    )
    return MappedPatch(classes, probability, shares)


def map_split(
    network: CropNet, patches: Patches, *, tiling: TilingSettings, context: DeviceContext
) -> Iterator[Classes]:
    """Classes of every patch of a split, one after the other; arguments as for `map_patch`.

    Raises:
        DataError: a patch cannot be read.
    """
    for index in progress(len(patches.samples), "mapping patches"):
        yield map_patch(network, patches.scene(index), tiling=tiling, context=context).classes


def counts_of_maps(
    patches: Patches, maps: Iterable[Classes], *, classes: int, border_px: int
) -> list[dict[str, Counts]]:
    """Counts of every patch of a split, by whatever mapped them.

    Args:
        patches: a split.
        maps: classes of each patch, shape (row, col), uint8, 1 to n, 0 where unseen.
        classes: n.
        border_px: width of the border that the cropped scores leave out, pixels.

    Raises:
        DataError: the cache lacks a patch.
    """
    return [
        patch_counts(patches.labels(index), found, patches.parcels(index), classes=classes, border_px=border_px)
        for index, found in enumerate(maps)
    ]


def composite_settings(network: CropNet) -> CompositeSettings:
    """How the composites were made that the network was trained on.

    Raises:
        CheckpointError: its card does not say it.
    """
    try:
        given = {name: network.protocol[name] for name in CompositeSettings.model_fields}
        return CompositeSettings.model_validate(given | {"bands": str(given["bands"]).split()})
    except (KeyError, ValidationError) as error:
        raise CheckpointError(
            f"the checkpoint does not say how composites are made ({str(error).splitlines()[0]}): train again"
        ) from error


def read_composites(path: Path, network: CropNet) -> tuple[Scene, npt.NDArray[np.uint32]]:
    """Composites of a patch as the network takes them, made as those that it was trained on.

    Args:
        path: of the patch.
        network: says which bands and periods.

    Returns:
        (scene, parcels): with the layer `medians`, as stored, in memory; numbers of parcels, shape (row, col), uint32,
        0 where there is none, as everywhere in a patch without the group `parcels`.

    Raises:
        DataError: the patch is missing, damaged, lacks a band, or has no data in the periods.
    """
    with open_patch(path) as patch:
        made = patch_composites(patch, composite_settings(network))
        parcels = patch.parcels() if "parcels" in patch.groups else np.zeros(patch.grid.shape, np.uint32)
    times, wanted = tuple(str(day) for day in made.edges[:-1]), len(network.layer.times)
    if len(times) != wanted:
        raise DataError(
            f"{path}: its year has {len(times)} periods of {network.protocol['frequency']}, the network takes {wanted}:"
            " train with a frequency that cuts years alike, such as 1MS"
        )
    # A DN above 32767 makes this patch float32, whatever those were that the network was trained on.
    layer = dataclasses.replace(network.layer, dtype=made.medians.dtype.name, times=times)
    return Scene(patch.name.id, patch.grid, {MEDIANS: ArrayReader(layer, made.medians)}), parcels


def check_numbers(network: CropNet, scene: Scene) -> None:
    """Compare the composites of a patch with those that a network was trained on.

    Args:
        network: says what they were, and which periods it sees.
        scene: with the layer `medians`.

    Raises:
        SceneError: they are in another unit.
    """
    patch = scene.read_layers(scene.grid.whole)[MEDIANS]
    periods = [period - 1 for period in network.periods]
    # A pixel is seen where all bands have data.
    seen: npt.NDArray[np.bool_] = np.logical_and.reduce(patch.valid[periods], axis=1, keepdims=True)
    trained = TrainedOn.of(network.normalize.card()["layers"][MEDIANS], network.layer, "training patches")
    compare_with_training(scene.name, [(patch.values[periods], seen)], trained, far=FAR)
