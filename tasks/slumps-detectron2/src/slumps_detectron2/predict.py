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
from geocore.jobs.runner import in_shares
from slumps_detectron2.config import TASK, PredictSettings

if TYPE_CHECKING:
    import numpy as np

    from geocore.raster.paths import Location
    from geocore.raster.scene import Scene
    from geocore.tiling.tiles import Region
    from geocore.training.run import Origin, Trained
    from slumps_detectron2.model import SlumpNet

FAR = 4.0
"""Standard deviations: no scene of the sample, whose seasons differ, has a band whose mean lies half as far off."""


def main() -> NoReturn:
    """Entry point of `slumps-predict`."""
    command(predict, PredictSettings, prog="slumps-predict", resumes=True)


@in_shares
def predict(settings: PredictSettings) -> None:
    """Map all scenes; those that fail are listed after the others are done.

    Raises:
        DataError: some scenes failed; the products of the others are there.
        CheckpointError: the run has no usable checkpoint.
    """
    check_run(settings.run, TASK)
    check_inputs(settings.input, settings.output)
    from geocore.raster.masks import MaskRule
    from slumps_detectron2.data import find_scenes

    if settings.mask is not None:
        MaskRule.parse(settings.mask)  # a bad one would else fail every scene
    scenes = find_scenes(settings.input)
    # What can be refused without torch has been.
    from geocore.inference.batch import Survey, scene_tasks
    from geocore.inference.estimate import show_plans
    from geocore.raster.products import content_hash
    from geocore.training.run import chosen_network
    from slumps_detectron2.model import restore_model
    from slumps_detectron2.products import PROBABILITY, product_paths, told

    trained = chosen_network(settings.run, settings.checkpoint, restore_model)
    checkpoint = trained.checkpoint
    threshold = settings.threshold or checkpoint.validated("threshold")
    if settings.plan:
        show_plans(
            _to_plan(settings, trained, scenes),
            trained.tiling,
            settings.output,
            region_px=settings.region_px,
            channels=1,
            planes=[PROBABILITY],
            batch_size=settings.batch_size,
        )
        return
    context = {
        "weights": checkpoint.weights_hash,
        "tiling": checkpoint.card["config"]["tiling"],
        "threshold": threshold,
        "min_area_m2": settings.min_area_m2,
        "region_px": settings.region_px,
        **settings.model_dump(mode="json", include={"bands", "scale", "offset", "nodata", "mask"}),
        "precision": settings.device.precision,
        "version": importlib.metadata.version("slumps-detectron2"),
    }
    survey = Survey(settings.output, checkpoint, context)
    mapped = survey.map(
        "scenes",
        scene_tasks(scenes, content_hash),
        # Workers share the regions of a scene: scenes may be few and large.
        MapScene(settings, trained.origin, threshold, context, tuple(scenes)),
        products=partial(product_paths, settings.output),
    )
    survey.finish({"scenes": mapped}, told=told, maps=lambda name: product_paths(settings.output, name)[2:3])


@dataclass(frozen=True, slots=True)
class MapScene:
    """The job of one scene: its regions, then what needs all of them."""

    settings: PredictSettings
    origin: Origin
    threshold: float
    context: dict[str, Any]
    scenes: tuple[str, ...]
    """Names of all: shards share out the regions of each from another one on."""

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of one scene, then a short summary as the part.

        Args:
            arguments: `path` of the scene, `sha256` of its content.
            part: where the summary goes.
        """
        from geocore.datasets.shift import look_over, warn_if_resized
        from geocore.inference.batch import parts_folder
        from geocore.inference.tiled import predict_scene
        from geocore.jobs.runner import joining
        from geocore.raster.paths import located
        from geocore.raster.products import image_name
        from geocore.tiling.tiles import Tiling
        from slumps_detectron2.data import IMAGE
        from slumps_detectron2.instances import merge
        from slumps_detectron2.products import Selection, write_products
        from slumps_detectron2.sightings import load_sightings

        path, settings = located(arguments["path"]), self.settings
        name = image_name(path)
        trained = _network(self.origin)
        network = trained.network
        tiling = Tiling(size=trained.tiling.size, overlap=trained.tiling.overlap)
        folder = parts_folder(settings.output, name)
        with _open(settings, path, network) as scene:
            warn_if_resized(name, scene.grid, network.layer)
            scale = network.layer.bands.bands[0].scale
            look_over(scene, IMAGE, network.trained_on, far=FAR, size_px=tiling.size, scale=scale)
            regions = predict_scene(
                MapRegion(settings, self.origin, path),
                scene.grid.shape,
                folder,
                region_px=settings.region_px,
                align=1,
                context={**self.context, "sha256": arguments["sha256"]},
                workers=settings.turned(self.scenes.index(name)),
            )
            parts = [(region.window, made) for region, made in regions]
            with joining(folder, [made for _, made in parts]):
                sightings = [sighting for _, made in parts for sighting in load_sightings(made / "sightings.npz")]
                found = merge(sightings, tiling, scene.grid.shape)
                kept = Selection(self.threshold, settings.min_area_m2).of(found, scene.grid)
                summary = write_products(settings.output, name, scene.grid, parts, kept, network.classes)
        part.write_text(json.dumps(summary))


@dataclass(frozen=True, slots=True)
class MapRegion:
    """The job of one region; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    origin: Origin
    path: Location

    def __call__(self, region: Region, part: Path) -> None:
        """Write the probability plane and the sightings of a region into the folder `part`."""
        from geocore.device import open_place
        from geocore.inference.tiled import map_region
        from geocore.raster.npy_store import PlaneWriter
        from geocore.raster.scene import Scene
        from geocore.tiling.tiles import Tiling
        from slumps_detectron2.products import PROBABILITY
        from slumps_detectron2.sightings import SightingCollector, save_sightings

        trained = _network(self.origin)
        network = trained.network
        tiles = Tiling(size=trained.tiling.size, overlap=trained.tiling.overlap)
        with (
            open_place(self.settings.device, batch_size=self.settings.batch_size) as place,
            _open(self.settings, self.path, network) as scene,
            PlaneWriter(part, region.window, [PROBABILITY]) as planes,
        ):

            def emit(row: int, rows: np.ndarray) -> None:
                planes.write(row, {PROBABILITY.name: rows})

            place.prepare(network)
            collector = SightingCollector(region, tiles, scene.grid.shape, emit=emit)
            sightings = map_region(
                network.detect,
                scene,
                region,
                tiles,
                collector,
                read=Scene.read,
                place=place,
            )
            save_sightings(part / "sightings.npz", sightings)


def _to_plan(
    settings: PredictSettings, trained: Trained[SlumpNet], scenes: Mapping[str, Location]
) -> Iterator[tuple[str, Scene, MapRegion]]:
    network = trained.network
    for name, path in scenes.items():
        with _open(settings, path, network) as scene:
            yield name, scene, MapRegion(settings, trained.origin, path)


def _open(settings: PredictSettings, path: Location, network: SlumpNet) -> Scene:
    from geocore.raster.masks import MaskRule
    from slumps_detectron2.data import open_scene

    return open_scene(
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
