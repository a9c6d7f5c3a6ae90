"""Trace the layers in photographs.

    uv run snowpack-predict --run RUN --input PHOTOS --output MAPS --cm-per-px 0.05

For each photograph: `<name>_prob.tif` (boundary probability, 0-100), `<name>_pred.tif` (layer numbers from top to
bottom), `<name>_overlay.png` and `<name>_layers.csv`.
"""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from geocore.cli.checks import check_inputs, check_run
from geocore.cli.main import command
from geocore.jobs.runner import run_sharded
from snowpack_sam2.config import TASK, PredictSettings

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from geocore.device import DeviceContext
    from geocore.raster.scene import Scene
    from geocore.settings import TilingSettings
    from geocore.training.run import Origin, Trained
    from snowpack_sam2.data import Photos
    from snowpack_sam2.model import BoundaryNet
    from snowpack_sam2.scores import MappedPhoto

logger = logging.getLogger(__name__)

_MAPPED_BYTES = 100
"""Of a pixel, at the least; one of a wall with many layers takes 240."""
FAR = 4.0
"""Standard deviations: no photograph of the sample, whose exposures differ, has a mean half as far off."""


def main() -> NoReturn:
    """Entry point of `snowpack-predict`."""
    command(predict, PredictSettings, prog="snowpack-predict", resumes=True)


@run_sharded
def predict(settings: PredictSettings) -> None:
    """Map all photographs; those that fail are listed after the others are done.

    Raises:
        DataError: some photographs failed; the products of the others are there.
        CheckpointError: the run has no usable checkpoint.
    """
    check_run(settings.run, TASK)
    check_inputs(settings.input, settings.output, kind="photograph")
    from geocore.inference.batch import BatchPrediction, scene_jobs
    from geocore.raster.products import scene_hash
    from geocore.training.run import chosen_network
    from snowpack_sam2.data import find_photos
    from snowpack_sam2.model import restore_model

    trained = chosen_network(settings.run, settings.checkpoint, restore_model)
    checkpoint = trained.checkpoint
    threshold = settings.threshold or checkpoint.validated("threshold")
    photos = find_photos(settings.input)
    identity = {
        "weights": checkpoint.weights_hash,
        "tiling": checkpoint.card["config"]["tiling"],
        "threshold": threshold,
        "min_length_px": settings.min_length_px,
        "cm_per_px": settings.cm_per_px,
        "precision": settings.device.precision,
        "version": importlib.metadata.version("snowpack-sam2"),
    }
    prediction = BatchPrediction(settings.output, checkpoint, identity)
    traced = prediction.run(
        "photographs",
        scene_jobs({photo.stem: photo for photo in photos}, scene_hash),
        TracePhoto(settings, trained.origin, threshold),
        products=partial(products, settings.output),
        workers=settings,
    )
    prediction.finish({"photographs": traced}, told=told, maps=lambda name: products(settings.output, name)[2:3])


def told(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """What was found in photographs: `23 layers, 4 to 9 in each`."""
    layers = sorted(summary["layers"] for summary in summaries.values())
    several = f", {layers[0]} to {layers[-1]} in each" if len(layers) > 1 else ""
    return f"{sum(layers)} layer{'' if sum(layers) == 1 else 's'}{several}"


def products(folder: Path, name: str) -> list[Path]:
    """The files that a photograph gives: probability, layers, overlay, table."""
    return [folder / f"{name}{ending}" for ending in ("_prob.tif", "_pred.tif", "_overlay.png", "_layers.csv")]


@dataclass(frozen=True, slots=True)
class TracePhoto:
    """The job of one photograph; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    origin: Origin
    threshold: float

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of one photograph, then a short summary as the part.

        Args:
            arguments: `path` of the photograph.
            part: where the summary goes.
        """
        from geocore.device import device_context
        from snowpack_sam2.data import PHOTO, check_memory, open_photo

        trained = _network(self.origin)
        network = trained.network
        with (
            device_context(self.settings.device, batch_size=self.settings.batch_size) as context,
            open_photo(Path(arguments["path"]), layer=network.layer) as scene,
        ):
            check_memory(arguments["path"], scene.grid.shape, _MAPPED_BYTES)
            context.prepare(network)
            check_brightness(network, scene)
            probability, valid = boundary_probability(network, scene, tiling=trained.tiling, context=context)
            photo = scene.read_layers(scene.grid.whole)[PHOTO].values[0]
            rows = self._write(scene, probability, valid, photo)
        part.write_text(json.dumps({"layers": len(rows), "boundaries": max(len(rows) - 1, 0)}))

    def _write(
        self, scene: Scene, probability: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], photo: npt.NDArray[Any]
    ) -> list[dict[str, Any]]:
        import torch

        from geocore.inference.outputs import PERCENT_NODATA, to_percent
        from geocore.raster.write import write_raster
        from geocore.storage.files import atomic_path, atomic_write_text
        from snowpack_sam2.layers import layer_map, layer_table
        from snowpack_sam2.overlay import LAYER_COLOURS, draw_overlay
        from snowpack_sam2.ridges import trace

        prob, pred, overlay, table = products(self.settings.output, scene.name)
        boundaries = trace(probability, valid, self.threshold, min_length_px=self.settings.min_length_px)
        layers = layer_map(boundaries, scene.grid.shape, valid)
        rows = layer_table(layers, photo, probability, valid, cm_per_px=self.settings.cm_per_px)
        percent = to_percent(torch.from_numpy(probability), torch.from_numpy(valid)).numpy()
        write_raster(prob, percent, grid=scene.grid, nodata=PERCENT_NODATA, band_names=["boundary probability, %"])
        write_raster(
            pred,
            layers,
            grid=scene.grid,
            nodata=0,
            band_names=["layer, from top to bottom"],
            colours={number: LAYER_COLOURS[(number - 1) % len(LAYER_COLOURS)] for number in range(1, len(rows) + 1)},
            class_names={number: f"layer {number}" for number in range(1, len(rows) + 1)},
        )
        with atomic_path(overlay) as temporary:
            draw_overlay(temporary, photo, valid, layers, boundaries)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["layer"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write_text(table, text.getvalue())
        return rows


def boundary_probability(
    network: BoundaryNet, scene: Scene, *, tiling: TilingSettings, context: DeviceContext
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Map a whole photograph in overlapping tiles.

    Args:
        network: in evaluation mode, on the context's device.
        scene: the photograph.
        tiling: size and overlap of the tiles, pixels.
        context: device and precision.

    Returns:
        Probability, shape (row, col), float32, 0-1, 0 where invalid; valid pixels, shape (row, col), bool.
    """
    from geocore.datasets.batch import VALID
    from geocore.inference.blend import OverlapBlender
    from geocore.inference.tiled import predict_tiles
    from geocore.raster.scene import Scene
    from geocore.tiling.tiles import Chunk, TileGrid

    shape = scene.grid.shape
    probability = np.zeros(shape, np.float32)
    valid = np.zeros(shape, np.bool_)

    def on_rows(row: int, rows: dict[str, Tensor]) -> None:
        stop = row + rows[VALID].shape[1]
        probability[row:stop] = rows["boundary"][0].cpu().numpy()
        valid[row:stop] = rows[VALID][0].cpu().numpy()

    chunk = Chunk("all", scene.grid.whole)
    tiles = TileGrid(size=tiling.size, overlap=tiling.overlap)
    reducer = OverlapBlender(chunk, tiles, shape, {"boundary": 1}, on_rows=on_rows)
    predict_tiles(
        network.predict,
        scene,
        chunk,
        tiles,
        reducer,
        read=Scene.read_layers,
        context=context,
    )
    return probability, valid


def map_photos(
    network: BoundaryNet, photos: Photos, *, tiling: TilingSettings, context: DeviceContext
) -> Iterator[MappedPhoto]:
    """Boundary probability and truth of every photograph of a split."""
    from geocore.terminal import progress
    from snowpack_sam2.scores import MappedPhoto

    for index in progress(len(photos.samples), "mapping photographs"):
        probability, valid = boundary_probability(network, photos.scene(index), tiling=tiling, context=context)
        lines, labelled = photos.truth(index)
        yield MappedPhoto(probability, lines & valid, labelled & valid)


def check_brightness(network: BoundaryNet, scene: Scene) -> None:
    """Say how a photograph was read, and compare its brightness with that of the training photographs.

    Raises:
        SceneError: it is of another unit or type, such as 8-bit for 16-bit.
    """
    from geocore.datasets.shift import compare_with_training
    from geocore.raster.scene import resolved_bands
    from snowpack_sam2.data import PHOTO

    for note in scene.notes:
        logger.info("%s", note)
    patch = scene.read_layers(scene.grid.whole)[PHOTO]
    valid = np.broadcast_to(patch.valid, patch.values.shape)
    # Bands of a photograph differ by its colour; together they are its brightness.
    together = [(patch.values.reshape(1, 1, -1), valid.reshape(1, 1, -1))]
    resolved = resolved_bands(scene.readers[PHOTO])
    dtype = resolved[0].dtype if resolved else None
    compare_with_training(scene.name, together, network.trained_on, far=FAR, dtype=dtype)


def _network(origin: Origin) -> Trained[BoundaryNet]:
    from geocore.training.run import same_network
    from snowpack_sam2.model import restore_model

    return same_network(origin, restore_model)
