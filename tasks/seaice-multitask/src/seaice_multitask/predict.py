"""Map whole scenes at 80 m: classes, probability, entropy, polar stereographic maps, and the challenge's upload file.

    uv run seaice-predict --run RUN --input SCENES --output MAPS

For each scene: `<id>_pred.tif`, `<id>_prob.tif`, `<id>_entropy.tif`, `<id>_<output>_map.tif` and `<id>_sheet.png`; for
all of them `upload_package.nc`.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from geocore.cli.checks import check_inputs, check_run
from geocore.cli.main import command
from geocore.jobs.runner import run_sharded
from seaice_multitask.config import TASK, PredictSettings

if TYPE_CHECKING:
    import numpy as np

    from geocore.inference.batch import BatchPrediction
    from geocore.raster.scene import Scene
    from geocore.tiling.tiles import Chunk
    from geocore.training.run import Origin, Trained
    from seaice_multitask.model import SeaIceNet

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `seaice-predict`."""
    command(predict, PredictSettings, prog="seaice-predict", resumes=True)


@run_sharded
def predict(settings: PredictSettings) -> None:
    """Map all scenes; those that fail are listed after the others are done.

    Raises:
        DataError: some scenes failed; the products of the others are there.
        CheckpointError: the run has no usable checkpoint.
    """
    check_run(settings.run, TASK)
    check_inputs(settings.input, settings.output)
    from seaice_multitask.data import find_scenes, scene_id

    scenes = {scene_id(path): path for path in find_scenes(settings.input)}
    # What can be refused without torch has been.
    from geocore.inference.batch import BatchPrediction, scene_jobs
    from geocore.inference.estimate import print_estimates
    from geocore.storage.files import sha256_file
    from geocore.training.run import chosen_network
    from seaice_multitask.mapping import planes_of
    from seaice_multitask.model import restore_model
    from seaice_multitask.products import map_paths, product_paths, told

    trained = chosen_network(settings.run, settings.checkpoint, restore_model)
    checkpoint, network = trained.checkpoint, trained.network
    if settings.plan:
        print_estimates(
            _to_plan(settings, trained, scenes),
            trained.tiling,
            settings.output,
            chunk_px=settings.chunk_px,
            channels=sum(head.channels for head in network.heads.values()),
            planes=planes_of(network.outputs),
            batch_size=settings.batch_size,
        )
        return
    identity = {
        "weights": checkpoint.weights_hash,
        "tiling": checkpoint.card["config"]["tiling"],
        "flips": settings.flips,
        "resolution_m": settings.resolution_m,
        "chunk_px": settings.chunk_px,
        "precision": settings.device.precision,
        "version": importlib.metadata.version("seaice-multitask"),
    }
    prediction = BatchPrediction(settings.output, checkpoint, identity)
    mapped = prediction.run(
        "scenes",
        scene_jobs(scenes, sha256_file),
        # Workers share the chunks of a scene: scenes may be few and large.
        MapScene(settings, trained.origin, identity, tuple(scenes)),
        products=partial(product_paths, settings.output, outputs=network.outputs),
    )
    if settings.upload and mapped.summaries:
        _write_upload(prediction, mapped.summaries, network.working.downscale)
    prediction.finish(
        {"scenes": mapped},
        told=partial(told, outputs=network.outputs),
        maps=partial(map_paths, settings.output, outputs=network.outputs),
    )


@dataclass(frozen=True, slots=True)
class MapScene:
    """The job of one scene: its chunks, then what needs all of them."""

    settings: PredictSettings
    origin: Origin
    identity: dict[str, Any]
    scenes: tuple[str, ...]
    """Names of all: shards share out the chunks of each from another one on."""

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of one scene, then its classes and a short summary into the folder `part`.

        Args:
            arguments: `path` of the scene, `sha256` of its content.
            part: made here.
        """
        from geocore.datasets.shift import look_over, warn_if_resized
        from geocore.inference.batch import SUMMARY, chunk_dir
        from geocore.inference.tiled import run_chunks
        from geocore.jobs.runner import merging
        from seaice_multitask.data import PLANES, open_scene, working_scene
        from seaice_multitask.products import CLASSES_FILE, MappedScene, write_products
        from seaice_multitask.resampling import FAR, PROBE_PX, standard_planes

        path, settings = Path(arguments["path"]), self.settings
        network = _network(self.origin).network
        with open_scene(path, network.channels) as scene:
            grid = scene.grid.coarser(network.working.downscale)
            folder = chunk_dir(settings.output, scene.name)
            warn_if_resized(scene.name, grid, network.layer)
            working = working_scene(scene, network.channels, network.working)
            look_over(working, PLANES, standard_planes(network.channels), far=FAR, size_px=PROBE_PX)
            chunks = run_chunks(
                MapChunk(settings, self.origin, path),
                grid.shape,
                folder,
                chunk_px=settings.chunk_px,
                align=1,
                identity={**self.identity, "sha256": arguments["sha256"]},
                workers=settings.turned(self.scenes.index(scene.name)),
            )
            parts = [(chunk.window, made) for chunk, made in chunks]
            with merging(folder, [made for _, made in parts]):
                mapped = MappedScene(parts, network.working.downscale, scene.grid.shape)
                summary = write_products(
                    settings.output,
                    scene,
                    mapped,
                    network.outputs,
                    resolution_m=settings.resolution_m or 80.0 * network.working.downscale,
                    truth=_charts(path, tuple(network.outputs)),
                )
                part.mkdir()
                mapped.save_classes(part / CLASSES_FILE, network.outputs)
        (part / SUMMARY).write_text(json.dumps(summary))


@dataclass(frozen=True, slots=True)
class MapChunk:
    """The job of one chunk; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    origin: Origin
    path: Path

    def __call__(self, chunk: Chunk, part: Path) -> None:
        """Write the planes of a chunk into the folder `part`."""
        from geocore.device import device_context
        from geocore.raster.npy_store import StripWriter
        from seaice_multitask.data import open_scene, working_scene
        from seaice_multitask.mapping import map_rows, planes_of

        trained = _network(self.origin)
        network = trained.network
        with (
            device_context(self.settings.device, batch_size=self.settings.batch_size) as context,
            open_scene(self.path, network.channels) as scene,
            StripWriter(part, chunk.window, planes_of(network.outputs)) as planes,
        ):
            map_rows(
                context.prepare(network),
                working_scene(scene, network.channels, network.working),
                chunk,
                tiling=trained.tiling,
                context=context,
                on_rows=planes.write,
                flips=self.settings.flips,
            )


def _to_plan(
    settings: PredictSettings, trained: Trained[SeaIceNet], scenes: Mapping[str, Path]
) -> Iterator[tuple[str, Scene, MapChunk]]:
    from seaice_multitask.data import open_scene, working_scene

    network = trained.network
    for name, path in scenes.items():
        with open_scene(path, network.channels) as scene:
            yield (
                name,
                working_scene(scene, network.channels, network.working),
                MapChunk(settings, trained.origin, path),
            )


def _write_upload(prediction: BatchPrediction, summaries: Mapping[str, Any], downscale: int) -> None:
    from seaice_multitask.products import CLASSES_FILE, UPLOAD_NAME, write_upload

    write_upload(
        prediction.output / UPLOAD_NAME,
        {
            name: (prediction.part(name) / CLASSES_FILE, downscale, (summary["lines"], summary["samples"]))
            for name, summary in summaries.items()
        },
    )


def _charts(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The charts of a scene, for its sheet; a scene to be mapped need not have any, nor usable ones."""
    from geocore.errors import DataError
    from seaice_multitask.data import read_charts

    try:
        return {name: chart for name, chart in read_charts(path).items() if name in names}
    except DataError as error:
        logger.debug("%s: no chart on the sheet: %s", path, error)
        return {}


def _network(origin: Origin) -> Trained[SeaIceNet]:
    from geocore.training.run import same_network
    from seaice_multitask.model import restore_model

    return same_network(origin, restore_model)
