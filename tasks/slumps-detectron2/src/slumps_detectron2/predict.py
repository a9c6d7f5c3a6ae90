"""Map the slumps of whole scenes.

    uv run slumps-predict --run RUN --input SCENES --output MAPS --min-area-m2 300

For each scene: `<name>_prob.tif`, `<name>_instances.tif`, `<name>_pred.tif`, `<name>.gpkg` and `<name>.parquet`.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from geocore.cli.checks import check_inputs, check_run
from geocore.cli.main import command
from geocore.jobs.runner import run_sharded
from slumps_detectron2.config import TASK, PredictSettings

if TYPE_CHECKING:
    import numpy as np

    from geocore.raster.paths import Location
    from geocore.raster.scene import Scene
    from geocore.tiling.tiles import Chunk
    from geocore.training.run import Origin, Trained
    from slumps_detectron2.model import SlumpNet

FAR = 4.0
"""Standard deviations: no scene of the sample, whose seasons differ, has a band whose mean lies half as far off."""


def main() -> NoReturn:
    """Entry point of `slumps-predict`."""
    command(predict, PredictSettings, prog="slumps-predict", resumes=True)


@run_sharded
def predict(settings: PredictSettings) -> None:
    """Map all scenes; those that fail are listed after the others are done.

    Raises:
        DataError: some scenes failed; the products of the others are there.
        CheckpointError: the run has no usable checkpoint.
    """
    check_run(settings.run, TASK)
    check_inputs(settings.input, settings.output)
    from geocore.raster.masks import MaskRule
    from slumps_detectron2.data import find_inputs

    if settings.mask is not None:
        MaskRule.parse(settings.mask)  # a bad one would else fail every scene
    scenes = find_inputs(settings.input)
    # What can be refused without torch has been.
    from geocore.inference.batch import BatchPrediction, scene_jobs
    from geocore.inference.estimate import print_estimates
    from geocore.raster.products import scene_hash
    from geocore.training.run import chosen_network
    from slumps_detectron2.model import restore_model
    from slumps_detectron2.products import PROBABILITY, product_paths, told

    trained = chosen_network(settings.run, settings.checkpoint, restore_model)
    checkpoint = trained.checkpoint
    threshold = settings.threshold or checkpoint.validated("threshold")
    if settings.plan:
        print_estimates(
            _to_plan(settings, trained, scenes),
            trained.tiling,
            settings.output,
            chunk_px=settings.chunk_px,
            channels=1,
            planes=[PROBABILITY],
            batch_size=settings.batch_size,
        )
        return
    identity = {
        "weights": checkpoint.weights_hash,
        "tiling": checkpoint.card["config"]["tiling"],
        "threshold": threshold,
        "min_area_m2": settings.min_area_m2,
        "chunk_px": settings.chunk_px,
        **settings.model_dump(mode="json", include={"bands", "scale", "offset", "nodata", "mask"}),
        "precision": settings.device.precision,
        "version": importlib.metadata.version("slumps-detectron2"),
    }
    prediction = BatchPrediction(settings.output, checkpoint, identity)
    mapped = prediction.run(
        "scenes",
        scene_jobs(scenes, scene_hash),
        # Workers share the chunks of a scene: scenes may be few and large.
        MapScene(settings, trained.origin, threshold, identity, tuple(scenes)),
        products=partial(product_paths, settings.output),
    )
    prediction.finish({"scenes": mapped}, told=told, maps=lambda name: product_paths(settings.output, name)[2:3])


@dataclass(frozen=True, slots=True)
class MapScene:
    """The job of one scene: its chunks, then what needs all of them."""

    settings: PredictSettings
    origin: Origin
    threshold: float
    identity: dict[str, Any]
    scenes: tuple[str, ...]
    """Names of all: shards share out the chunks of each from another one on."""

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of one scene, then a short summary as the part.

        Args:
            arguments: `path` of the scene, `sha256` of its content.
            part: where the summary goes.
        """
        from geocore.datasets.shift import look_over, warn_if_resized
        from geocore.inference.batch import chunk_dir
        from geocore.inference.tiled import run_chunks
        from geocore.jobs.runner import merging
        from geocore.raster.paths import as_path_or_url
        from geocore.raster.products import scene_name
        from geocore.tiling.tiles import TileGrid
        from slumps_detectron2.data import IMAGE
        from slumps_detectron2.detections import load_detections
        from slumps_detectron2.instances import merge
        from slumps_detectron2.products import Selection, write_products

        path, settings = as_path_or_url(arguments["path"]), self.settings
        name = scene_name(path)
        trained = _network(self.origin)
        network = trained.network
        tiling = TileGrid(size=trained.tiling.size, overlap=trained.tiling.overlap)
        folder = chunk_dir(settings.output, name)
        with _open(settings, path, network) as scene:
            warn_if_resized(name, scene.grid, network.layer)
            scale = network.layer.bands.bands[0].scale
            look_over(scene, IMAGE, network.trained_on, far=FAR, size_px=tiling.size, scale=scale)
            chunks = run_chunks(
                MapChunk(settings, self.origin, path),
                scene.grid.shape,
                folder,
                chunk_px=settings.chunk_px,
                align=1,
                identity={**self.identity, "sha256": arguments["sha256"]},
                workers=settings.turned(self.scenes.index(name)),
            )
            parts = [(chunk.window, made) for chunk, made in chunks]
            with merging(folder, [made for _, made in parts]):
                detections = [detection for _, made in parts for detection in load_detections(made / "detections.npz")]
                found = merge(detections, tiling, scene.grid.shape)
                kept = Selection(self.threshold, settings.min_area_m2).of(found, scene.grid)
                summary = write_products(settings.output, name, scene.grid, parts, kept, network.classes)
        part.write_text(json.dumps(summary))


@dataclass(frozen=True, slots=True)
class MapChunk:
    """The job of one chunk; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    origin: Origin
    path: Location

    def __call__(self, chunk: Chunk, part: Path) -> None:
        """Write the probability plane and the detections of a chunk into the folder `part`."""
        from geocore.device import device_context
        from geocore.inference.tiled import predict_tiles
        from geocore.raster.npy_store import StripWriter
        from geocore.raster.scene import Scene
        from geocore.tiling.tiles import TileGrid
        from slumps_detectron2.detections import DetectionCollector, save_detections
        from slumps_detectron2.products import PROBABILITY

        trained = _network(self.origin)
        network = trained.network
        tiles = TileGrid(size=trained.tiling.size, overlap=trained.tiling.overlap)
        with (
            device_context(self.settings.device, batch_size=self.settings.batch_size) as context,
            _open(self.settings, self.path, network) as scene,
            StripWriter(part, chunk.window, [PROBABILITY]) as planes,
        ):

            def on_rows(row: int, rows: np.ndarray) -> None:
                planes.write(row, {PROBABILITY.name: rows})

            context.prepare(network)
            collector = DetectionCollector(chunk, tiles, scene.grid.shape, on_rows=on_rows)
            detections = predict_tiles(
                network.detect,
                scene,
                chunk,
                tiles,
                collector,
                read=Scene.read_layers,
                context=context,
            )
            save_detections(part / "detections.npz", detections)


def _to_plan(
    settings: PredictSettings, trained: Trained[SlumpNet], scenes: Mapping[str, Location]
) -> Iterator[tuple[str, Scene, MapChunk]]:
    network = trained.network
    for name, path in scenes.items():
        with _open(settings, path, network) as scene:
            yield name, scene, MapChunk(settings, trained.origin, path)


def _open(settings: PredictSettings, path: Location, network: SlumpNet) -> Scene:
    from geocore.raster.masks import MaskRule
    from slumps_detectron2.data import open_area

    return open_area(
        path,
        network.layer,
        bands=settings.bands,
        nodata=settings.nodata,
        scale=settings.scale,
        offset=settings.offset,
        mask=None if settings.mask is None else MaskRule.parse(settings.mask),
    )


def _network(origin: Origin) -> Trained[SlumpNet]:
    from geocore.training.run import same_network
    from slumps_detectron2.model import restore_model

    return same_network(origin, restore_model)
