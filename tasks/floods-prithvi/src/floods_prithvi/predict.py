"""Map whole scenes: class, probability, confidence, and polygons.

    uv run floods-predict --run RUN --input SCENES --output MAPS

For each scene: `<name>_pred.tif`, `<name>_prob.tif`, `<name>_confidence.tif`, `<name>.gpkg` and `<name>.parquet`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from floods_prithvi.config import PredictSettings
from geocore.commands import command, progress
from geocore.shares import in_shares

if TYPE_CHECKING:
    from floods_prithvi.model import FloodNet
    from geocore.checkpoints import Checkpoint
    from geocore.jobs import Outcome
    from geocore.locations import Location
    from geocore.scenes import Scene
    from geocore.settings import TilingSettings
    from geocore.tiles import Region

logger = logging.getLogger(__name__)

FAR = 4.0
"""Standard deviations: no event of the sample has a band whose mean lies half as far off."""


def main() -> NoReturn:
    """Entry point of `floods-predict`."""
    command(predict, PredictSettings, prog="floods-predict")


@in_shares
def predict(settings: PredictSettings) -> None:
    """Map all scenes; those that fail are listed after the others are done.

    Raises:
        DataError: some scenes failed; the products of the others are there. Or the date is none.
        CheckpointError: the run has no usable checkpoint.
    """
    from floods_prithvi.names import find_rasters
    from floods_prithvi.products import product_paths
    from geocore.errors import DataError
    from geocore.files import atomic_write_text
    from geocore.images import image_hash
    from geocore.jobs import Task, part_path, run_tasks
    from geocore.masks import MaskRule
    from geocore.shares import remove_joined

    checkpoint, network = _network(settings.run)
    # A bad date or mask would else fail every scene.
    _coordinates(settings, network, None)
    if settings.mask is not None:
        MaskRule.parse(settings.mask)
    scenes = find_rasters(settings.input)
    if settings.plan:
        show_plans(settings, checkpoint, network, scenes)
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
    done = settings.output / ".done"
    for scene in scenes:
        summary = part_path(done, scene)
        # In this order, since another shard may be writing: products are there before the summary.
        if summary.exists() and not all(path.exists() for path in product_paths(settings.output, scene)):
            summary.unlink(missing_ok=True)  # a product was deleted: make it again
    # A worker may run in another folder; an address is a text and stays as it is.
    places = {name: path.absolute() if isinstance(path, Path) else path for name, path in scenes.items()}
    tasks = [Task(name, {"path": str(path), "sha256": image_hash(path)}) for name, path in places.items()]
    parts = settings.output / ".parts"
    with progress(len(tasks), "scenes") as bar:

        def ended(outcome: Outcome) -> None:
            if outcome.is_there:
                remove_joined(parts / outcome.key)
            bar.advance()

        work = MapScene(settings, context, tuple(task.key for task in tasks))
        # Workers share the regions of a scene: scenes may be few and large.
        outcomes = run_tasks(tasks, work, done, context=context, on_done=ended)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    record = {
        "checkpoint": str(checkpoint.path),
        "data_hash": checkpoint.card["data_hash"],
        "versions": checkpoint.card["versions"],
        "context": context,
        "scenes": {
            outcome.key: json.loads(part_path(done, outcome.key).read_text())
            for outcome in outcomes
            if outcome.status != "failed"
        },
        "failed": {outcome.key: outcome.message for outcome in failed},
    }
    atomic_write_text(settings.output / "run.json", json.dumps(record, indent=2) + "\n")
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} scenes mapped in {settings.output}")
    if failed:
        lines = "; ".join(f"{outcome.key}: {outcome.message}" for outcome in failed)
        raise DataError(f"{len(failed)} of {len(outcomes)} scenes failed: {lines}")


@dataclass(frozen=True, slots=True)
class MapScene:
    """The job of one scene: its regions, then what needs all of them."""

    settings: PredictSettings
    context: dict[str, Any]
    scenes: tuple[str, ...]
    """Names of all: shards share out the regions of each from another one on."""

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of one scene, then a short summary as the part.

        Args:
            arguments: `path` of the scene, `sha256` of its content.
            part: where the summary goes.
        """
        from floods_prithvi.chips import check_unit
        from floods_prithvi.products import write_products
        from geocore.devices import open_place
        from geocore.images import image_name
        from geocore.inference import predict_scene
        from geocore.locations import located
        from geocore.shares import joining

        path, settings = located(arguments["path"]), self.settings
        name = image_name(path)
        _, network = _network(settings.run)
        parts_folder = settings.output / ".parts" / name
        with _open(settings, path, network) as scene:
            check_unit(scene, network.layer)
            with open_place(settings.device):
                warn_if_shifted(network, scene)
            regions = predict_scene(
                MapRegion(settings, path),
                scene.grid.shape,
                parts_folder,
                region_px=settings.region_px,
                align=1,
                context={**self.context, "sha256": arguments["sha256"]},
                workers=settings.turned(self.scenes.index(name)),
            )
            parts = [(region.window, folder) for region, folder in regions]
            with joining(parts_folder, [folder for _, folder in regions]):
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
    path: Location

    def __call__(self, region: Region, part: Path) -> None:
        """Write the planes of a region into the folder `part`."""
        from floods_prithvi.mapping import map_rows, planes
        from geocore.devices import open_place
        from geocore.planes import PlaneWriter

        checkpoint, network = _network(self.settings.run)
        with (
            open_place(self.settings.device) as place,
            _open(self.settings, self.path, network) as scene,
            PlaneWriter(part, region.window, planes()) as writer,
        ):
            dates, places = _coordinates(self.settings, network, scene)
            map_rows(
                network.to(place.device),
                scene,
                region,
                tiling=_tiling(checkpoint),
                place=place,
                emit=writer.write,
                dates=dates,
                places=places,
                flips=self.settings.flips,
            )


def show_plans(
    settings: PredictSettings, checkpoint: Checkpoint, network: FloodNet, scenes: Mapping[str, Location]
) -> None:
    """Print what mapping each scene takes, with the time that some of its tiles took.

    Raises:
        SettingsError: a scene cannot be mapped here; says why.
    """
    from floods_prithvi.mapping import planes
    from geocore.plans import plan_scene, tell, trial
    from geocore.tiles import Tiling

    tiling = Tiling(size=_tiling(checkpoint).size, overlap=_tiling(checkpoint).overlap)
    plans = {}
    for name, path in scenes.items():
        with _open(settings, path, network) as scene:
            plans[name] = plan_scene(
                scene,
                tiling,
                region_px=settings.region_px,
                align=1,
                channels=network.head.channels,
                planes=planes(),
                seconds_per_tile=trial(MapRegion(settings, path), scene.grid.shape, tiling),
            )
    tell(plans, settings.output)


def warn_if_shifted(network: FloodNet, scene: Scene) -> None:
    """Log a warning when a band's mean, over nine tiles, lies far from what the network was trained on."""
    import torch

    from floods_prithvi.chips import IMAGE
    from geocore.loading import stack
    from geocore.tiles import Tiling

    windows = Tiling(size=256).windows(scene.grid.shape)
    chosen = [windows[index] for index in sorted({round(k * (len(windows) - 1) / 8) for k in range(9)})]
    sums, counts = torch.zeros(()), torch.zeros(())
    preprocessing = network.preprocessing.cpu()
    for window in chosen:
        inputs = stack([scene.read(window)])
        sums = sums + preprocessing(inputs)[IMAGE].sum(dim=(0, 2, 3))
        counts = counts + preprocessing.masks(inputs)[IMAGE].sum(dim=(0, 2, 3))
    means = sums / counts.clamp_min(1)
    worst = int(means.abs().argmax())
    if abs(float(means[worst])) > FAR:
        names = network.layer.bands.names
        logger.warning(
            "%s: the mean of band %s lies %.1f standard deviations from the training chips; the map may be wrong",
            scene.name,
            names[worst % len(names)],
            float(means[worst]),
        )


def _open(settings: PredictSettings, path: Location, network: FloodNet) -> Scene:
    from floods_prithvi.chips import open_scene
    from geocore.granules import granule_of
    from geocore.masks import MaskRule

    stored = network.stored
    # The files of a granule say themselves which value is missing.
    missing = stored.nodata if granule_of(path) is None else None
    return open_scene(
        path,
        network.layer,
        bands=settings.bands,
        scale=settings.scale,
        offset=settings.offset,
        assumed=(stored.scale, stored.offset),
        nodata=missing if settings.nodata is None else settings.nodata,
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


def _tiling(checkpoint: Checkpoint) -> TilingSettings:
    from geocore.settings import TilingSettings

    return TilingSettings.model_validate(checkpoint.card["config"]["tiling"])


@functools.lru_cache(maxsize=1)
def _network(run: Path) -> tuple[Checkpoint, FloodNet]:
    """The network of a run, read once per process."""
    from floods_prithvi.model import restore_model
    from geocore.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(run / "checkpoints", "best")
    return checkpoint, restore_model(checkpoint)
