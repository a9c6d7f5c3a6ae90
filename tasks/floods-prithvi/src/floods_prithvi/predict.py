"""Map whole scenes: class, probability, confidence, and polygons.

    uv run floods-predict --run RUN --input SCENES --output MAPS

For each scene: `<name>_pred.tif`, `<name>_prob.tif`, `<name>_confidence.tif`, `<name>.gpkg` and `<name>.parquet`.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from floods_prithvi.config import TASK, PredictSettings
from geocore.cli.checks import check_inputs, check_run
from geocore.cli.main import command
from geocore.jobs.runner import run_sharded

if TYPE_CHECKING:
    from floods_prithvi.model import FloodNet
    from geocore.raster.paths import Location
    from geocore.raster.scene import Scene
    from geocore.tiling.tiles import Chunk
    from geocore.training.run import Origin, Trained

FAR = 4.0
"""Standard deviations: no event of the sample has a band whose mean lies half as far off."""
_PROBE_PX = 256


def main() -> NoReturn:
    """Entry point of `floods-predict`."""
    command(predict, PredictSettings, prog="floods-predict", resumes=True)


@run_sharded
def predict(settings: PredictSettings) -> None:
    """Map all scenes; those that fail are listed after the others are done.

    Raises:
        DataError: some scenes failed; the products of the others are there. Or the date is none.
        CheckpointError: the run has no usable checkpoint.
    """
    check_run(settings.run, TASK)
    check_inputs(settings.input, settings.output)
    from floods_prithvi.file_patterns import find_rasters
    from geocore.raster.masks import MaskRule

    if settings.mask is not None:
        MaskRule.parse(settings.mask)
    scenes = find_rasters(settings.input)
    # What can be refused without torch has been.
    from floods_prithvi.mapping import planes
    from floods_prithvi.model import restore_model
    from floods_prithvi.products import product_paths, told
    from geocore.inference.batch import BatchPrediction, scene_jobs
    from geocore.inference.estimate import print_estimates
    from geocore.raster.products import scene_hash
    from geocore.training.run import chosen_network

    trained = chosen_network(settings.run, settings.checkpoint, restore_model)
    checkpoint, network = trained.checkpoint, trained.network
    _coordinates(settings, network, None)  # too few dates would else fail every scene
    if settings.plan:
        print_estimates(
            _to_plan(settings, trained, scenes),
            trained.tiling,
            settings.output,
            chunk_px=settings.chunk_px,
            channels=network.head.channels,
            planes=planes(),
            batch_size=settings.batch_size,
        )
        return
    identity = {
        "weights": checkpoint.weights_hash,
        "tiling": checkpoint.card["config"]["tiling"],
        **settings.model_dump(
            mode="json", include={"bands", "scale", "offset", "nodata", "mask", "date", "flips", "min_area_m2"}
        ),
        "chunk_px": settings.chunk_px,
        "precision": settings.device.precision,
        "version": importlib.metadata.version("floods-prithvi"),
    }
    prediction = BatchPrediction(settings.output, checkpoint, identity)
    mapped = prediction.run(
        "scenes",
        scene_jobs(scenes, scene_hash),
        # Workers share the chunks of a scene: scenes may be few and large.
        MapScene(settings, trained.origin, identity, tuple(scenes)),
        products=partial(product_paths, settings.output),
    )
    prediction.finish({"scenes": mapped}, told=told, maps=lambda name: product_paths(settings.output, name)[:1])


@dataclass(frozen=True, slots=True)
class MapScene:
    """The job of one scene: its chunks, then what needs all of them."""

    settings: PredictSettings
    origin: Origin
    identity: dict[str, Any]
    scenes: tuple[str, ...]
    """Names of all: shards share out the chunks of each from another one on."""

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of one scene, then a short summary as the part.

        Args:
            arguments: `path` of the scene, `sha256` of its content.
            part: where the summary goes.
        """
        from floods_prithvi.chip_reader import IMAGE
        from floods_prithvi.products import write_products
        from geocore.datasets.shift import look_over, warn_if_resized
        from geocore.inference.batch import chunk_dir
        from geocore.inference.tiled import run_chunks
        from geocore.jobs.runner import merging
        from geocore.raster.paths import as_path_or_url
        from geocore.raster.products import scene_name

        path, settings = as_path_or_url(arguments["path"]), self.settings
        name = scene_name(path)
        network = _network(self.origin).network
        folder = chunk_dir(settings.output, name)
        with _open(settings, path, network) as scene:
            warn_if_resized(name, scene.grid, network.layer)
            look_over(scene, IMAGE, network.trained_on, far=FAR, size_px=_PROBE_PX, scale=1.0)
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
                summary = write_products(
                    settings.output,
                    name,
                    scene.grid,
                    parts,
                    network.class_names,
                    min_area_m2=settings.min_area_m2,
                )
        part.write_text(json.dumps(summary))


@dataclass(frozen=True, slots=True)
class MapChunk:
    """The job of one chunk; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    origin: Origin
    path: Location

    def __call__(self, chunk: Chunk, part: Path) -> None:
        """Write the planes of a chunk into the folder `part`."""
        from floods_prithvi.mapping import map_rows, planes
        from geocore.device import device_context
        from geocore.raster.npy_store import StripWriter

        trained = _network(self.origin)
        network = trained.network
        with (
            device_context(self.settings.device, batch_size=self.settings.batch_size) as context,
            _open(self.settings, self.path, network) as scene,
            StripWriter(part, chunk.window, planes()) as writer,
        ):
            dates, places = _coordinates(self.settings, network, scene)
            map_rows(
                context.prepare(network),
                scene,
                chunk,
                tiling=trained.tiling,
                context=context,
                on_rows=writer.write,
                dates=dates,
                places=places,
                flips=self.settings.flips,
            )


def _to_plan(
    settings: PredictSettings, trained: Trained[FloodNet], scenes: Mapping[str, Location]
) -> Iterator[tuple[str, Scene, MapChunk]]:
    network = trained.network
    for name, path in scenes.items():
        with _open(settings, path, network) as scene:
            yield name, scene, MapChunk(settings, trained.origin, path)


def _open(settings: PredictSettings, path: Location, network: FloodNet) -> Scene:
    from floods_prithvi.chip_reader import open_chip
    from geocore.raster.declarations import COMMAND_LINE, Declaration
    from geocore.raster.masks import MaskRule

    return open_chip(
        path,
        network.layer,
        bands=settings.bands,
        given=Declaration(settings.nodata, settings.scale, settings.offset, by=COMMAND_LINE),
        usual=network.stored.declaration,
        mask=None if settings.mask is None else MaskRule.parse(settings.mask),
    )


def _coordinates(settings: PredictSettings, network: FloodNet, scene: Scene | None) -> tuple[Any, Any]:
    """Dates and place of a scene, for networks that take them.

    Raises:
        DataError: the date is none, or not as many as the network takes.
    """
    from floods_prithvi.chip_reader import centre_of
    from floods_prithvi.model import coordinates_of

    context = None if scene is None else centre_of(scene.grid)
    return coordinates_of(settings.date, context, network.frames)


def _network(origin: Origin) -> Trained[FloodNet]:
    from floods_prithvi.model import restore_model
    from geocore.training.run import same_network

    return same_network(origin, restore_model)
