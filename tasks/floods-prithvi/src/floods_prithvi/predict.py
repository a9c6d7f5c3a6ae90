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
from geocore.jobs.runner import in_shares

if TYPE_CHECKING:
    from floods_prithvi.model import FloodNet
    from geocore.raster.paths import Location
    from geocore.raster.scene import Scene
    from geocore.tiling.tiles import Region
    from geocore.training.run import Origin, Trained

FAR = 4.0
"""Standard deviations: no event of the sample has a band whose mean lies half as far off."""
_PROBE_PX = 256


def main() -> NoReturn:
    """Entry point of `floods-predict`."""
    command(predict, PredictSettings, prog="floods-predict", resumes=True)


@in_shares
def predict(settings: PredictSettings) -> None:
    """Map all scenes; those that fail are listed after the others are done.

    Raises:
        DataError: some scenes failed; the products of the others are there. Or the date is none.
        CheckpointError: the run has no usable checkpoint.
    """
    check_run(settings.run, TASK)
    check_inputs(settings.input, settings.output)
    from floods_prithvi.names import find_rasters
    from geocore.raster.masks import MaskRule

    if settings.mask is not None:
        MaskRule.parse(settings.mask)
    scenes = find_rasters(settings.input)
    # What can be refused without torch has been.
    from floods_prithvi.mapping import planes
    from floods_prithvi.model import restore_model
    from floods_prithvi.products import product_paths, told
    from geocore.inference.batch import Survey, scene_tasks
    from geocore.inference.estimate import show_plans
    from geocore.raster.products import content_hash
    from geocore.training.run import chosen_network

    trained = chosen_network(settings.run, settings.checkpoint, restore_model)
    checkpoint, network = trained.checkpoint, trained.network
    _coordinates(settings, network, None)  # too few dates would else fail every scene
    if settings.plan:
        show_plans(
            _to_plan(settings, trained, scenes),
            trained.tiling,
            settings.output,
            region_px=settings.region_px,
            channels=network.head.channels,
            planes=planes(),
            batch_size=settings.batch_size,
        )
        return
    context = {
        "weights": checkpoint.weights_hash,
        "tiling": checkpoint.card["config"]["tiling"],
        **settings.model_dump(
            mode="json", include={"bands", "scale", "offset", "nodata", "mask", "date", "flips", "min_area_m2"}
        ),
        "region_px": settings.region_px,
        "precision": settings.device.precision,
        "version": importlib.metadata.version("floods-prithvi"),
    }
    survey = Survey(settings.output, checkpoint, context)
    mapped = survey.map(
        "scenes",
        scene_tasks(scenes, content_hash),
        # Workers share the regions of a scene: scenes may be few and large.
        MapScene(settings, trained.origin, context, tuple(scenes)),
        products=partial(product_paths, settings.output),
    )
    survey.finish({"scenes": mapped}, told=told, maps=lambda name: product_paths(settings.output, name)[:1])


@dataclass(frozen=True, slots=True)
class MapScene:
    """The job of one scene: its regions, then what needs all of them."""

    settings: PredictSettings
    origin: Origin
    context: dict[str, Any]
    scenes: tuple[str, ...]
    """Names of all: shards share out the regions of each from another one on."""

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of one scene, then a short summary as the part.

        Args:
            arguments: `path` of the scene, `sha256` of its content.
            part: where the summary goes.
        """
        from floods_prithvi.chips import IMAGE
        from floods_prithvi.products import write_products
        from geocore.datasets.shift import look_over, warn_if_resized
        from geocore.inference.batch import parts_folder
        from geocore.inference.tiled import predict_scene
        from geocore.jobs.runner import joining
        from geocore.raster.paths import located
        from geocore.raster.products import image_name

        path, settings = located(arguments["path"]), self.settings
        name = image_name(path)
        network = _network(self.origin).network
        folder = parts_folder(settings.output, name)
        with _open(settings, path, network) as scene:
            warn_if_resized(name, scene.grid, network.layer)
            look_over(scene, IMAGE, network.trained_on, far=FAR, size_px=_PROBE_PX, scale=1.0)
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
class MapRegion:
    """The job of one region; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    origin: Origin
    path: Location

    def __call__(self, region: Region, part: Path) -> None:
        """Write the planes of a region into the folder `part`."""
        from floods_prithvi.mapping import map_rows, planes
        from geocore.device import open_place
        from geocore.raster.npy_store import PlaneWriter

        trained = _network(self.origin)
        network = trained.network
        with (
            open_place(self.settings.device, batch_size=self.settings.batch_size) as place,
            _open(self.settings, self.path, network) as scene,
            PlaneWriter(part, region.window, planes()) as writer,
        ):
            dates, places = _coordinates(self.settings, network, scene)
            map_rows(
                place.prepare(network),
                scene,
                region,
                tiling=trained.tiling,
                place=place,
                emit=writer.write,
                dates=dates,
                places=places,
                flips=self.settings.flips,
            )


def _to_plan(
    settings: PredictSettings, trained: Trained[FloodNet], scenes: Mapping[str, Location]
) -> Iterator[tuple[str, Scene, MapRegion]]:
    network = trained.network
    for name, path in scenes.items():
        with _open(settings, path, network) as scene:
            yield name, scene, MapRegion(settings, trained.origin, path)


def _open(settings: PredictSettings, path: Location, network: FloodNet) -> Scene:
    from floods_prithvi.chips import open_scene
    from geocore.raster.declarations import COMMAND_LINE, Declaration
    from geocore.raster.masks import MaskRule

    return open_scene(
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
    from floods_prithvi.chips import centre_of
    from floods_prithvi.model import coordinates_of

    place = None if scene is None else centre_of(scene.grid)
    return coordinates_of(settings.date, place, network.frames)


def _network(origin: Origin) -> Trained[FloodNet]:
    from floods_prithvi.model import restore_model
    from geocore.training.run import same_network

    return same_network(origin, restore_model)
