"""Map the slumps of whole scenes.

    uv run slumps-predict --run RUN --input SCENES --output MAPS --min-area-m2 300

For each scene: `<name>_prob.tif`, `<name>_instances.tif`, `<name>_pred.tif`, `<name>.gpkg` and `<name>.parquet`.
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

from geocore.commands import command, progress
from geocore.shares import in_shares
from slumps_detectron2.config import PredictSettings

if TYPE_CHECKING:
    import numpy as np

    from geocore.checkpoints import Checkpoint
    from geocore.devices import Place
    from geocore.jobs import Outcome
    from geocore.locations import Location
    from geocore.scenes import Scene
    from geocore.settings import TilingSettings
    from geocore.tiles import Region
    from slumps_detectron2.model import SlumpNet

logger = logging.getLogger(__name__)

FAR = 4.0
"""Standard deviations: no scene of the sample, whose seasons differ, has a band whose mean lies half as far off."""


def main() -> NoReturn:
    """Entry point of `slumps-predict`."""
    command(predict, PredictSettings, prog="slumps-predict")


@in_shares
def predict(settings: PredictSettings) -> None:
    """Map all scenes; those that fail are listed after the others are done.

    Raises:
        DataError: some scenes failed; the products of the others are there.
        CheckpointError: the run has no usable checkpoint.
    """
    from geocore.errors import DataError
    from geocore.files import atomic_write_text
    from geocore.images import image_hash
    from geocore.jobs import Task, part_path, run_tasks
    from geocore.masks import MaskRule
    from geocore.shares import remove_joined
    from slumps_detectron2.data import find_scenes
    from slumps_detectron2.products import product_paths

    checkpoint = _checkpoint(settings.run)
    threshold = settings.threshold or checkpoint.progress["scores"]["threshold"]
    if settings.mask is not None:
        MaskRule.parse(settings.mask)  # a bad one would else fail every scene
    scenes = find_scenes(settings.input)
    if settings.plan:
        show_plans(settings, scenes)
        return
    context = {
        "weights": checkpoint.weights_hash,
        "tiling": checkpoint.card["config"]["tiling"],
        "threshold": threshold,
        "min_area_m2": settings.min_area_m2,
        "region_px": settings.region_px,
        **settings.model_dump(mode="json", include={"bands", "scale", "offset", "mask"}),
        "precision": settings.device.precision,
        "version": importlib.metadata.version("slumps-detectron2"),
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

        work = MapScene(settings, threshold, context, tuple(task.key for task in tasks))
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
        from geocore.devices import open_place
        from geocore.images import image_name
        from geocore.inference import predict_scene
        from geocore.locations import located
        from geocore.shares import joining
        from geocore.tiles import Tiling
        from slumps_detectron2.instances import merge
        from slumps_detectron2.products import Selection, write_products
        from slumps_detectron2.sightings import load_sightings

        path, settings = located(arguments["path"]), self.settings
        name = image_name(path)
        checkpoint, network = _network(settings.run)
        tiling = _tiling(checkpoint)
        parts_folder = settings.output / ".parts" / name
        with _open(settings, path, network) as scene:
            with open_place(settings.device) as place:
                network.to(place.device)
                warn_if_shifted(network, scene, tiling, place)
            regions = predict_scene(
                MapRegion(settings, path),
                scene.grid.shape,
                parts_folder,
                region_px=settings.region_px,
                align=1,
                context={**self.context, "sha256": arguments["sha256"]},
                workers=settings.turned(self.scenes.index(name)),
            )
            with joining(parts_folder, [folder for _, folder in regions]):
                sightings = [sighting for _, folder in regions for sighting in load_sightings(folder / "sightings.npz")]
                found = merge(sightings, Tiling(size=tiling.size, overlap=tiling.overlap), scene.grid.shape)
                kept = Selection(self.threshold, settings.min_area_m2).of(found, scene.grid)
                parts = [(region.window, folder) for region, folder in regions]
                summary = write_products(settings.output, name, scene.grid, parts, kept, network.classes)
        part.write_text(json.dumps(summary))


@dataclass(frozen=True, slots=True)
class MapRegion:
    """The job of one region; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    path: Location

    def __call__(self, region: Region, part: Path) -> None:
        """Write the probability plane and the sightings of a region into the folder `part`."""
        from geocore.devices import open_place
        from geocore.inference import map_region
        from geocore.planes import PlaneWriter
        from geocore.scenes import Scene
        from geocore.tiles import Tiling
        from slumps_detectron2.products import PROBABILITY
        from slumps_detectron2.sightings import SightingCollector, save_sightings

        checkpoint, network = _network(self.settings.run)
        tiles = Tiling(size=_tiling(checkpoint).size, overlap=_tiling(checkpoint).overlap)
        with (
            open_place(self.settings.device) as place,
            _open(self.settings, self.path, network) as scene,
            PlaneWriter(part, region.window, [PROBABILITY]) as planes,
        ):

            def emit(row: int, rows: np.ndarray) -> None:
                planes.write(row, {PROBABILITY.name: rows})

            network.to(place.device)
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


def show_plans(settings: PredictSettings, scenes: Mapping[str, Location]) -> None:
    """Print what mapping each scene takes, with the time that some of its tiles took.

    Raises:
        SettingsError: a scene cannot be mapped here; says why.
    """
    from geocore.plans import plan_scene, tell, trial
    from geocore.tiles import Tiling
    from slumps_detectron2.products import PROBABILITY

    checkpoint, network = _network(settings.run)
    tiling = Tiling(size=_tiling(checkpoint).size, overlap=_tiling(checkpoint).overlap)
    plans = {}
    for name, path in scenes.items():
        with _open(settings, path, network) as scene:
            plans[name] = plan_scene(
                scene,
                tiling,
                region_px=settings.region_px,
                align=1,
                channels=1,
                planes=[PROBABILITY],
                seconds_per_tile=trial(MapRegion(settings, path), scene.grid.shape, tiling),
            )
    tell(plans, settings.output)


def warn_if_shifted(network: SlumpNet, scene: Scene, tiling: TilingSettings, place: Place) -> None:
    """Log a warning when a band's mean, over nine tiles, lies far from what the network was trained on."""
    import torch

    from geocore.devices import to_device
    from geocore.loading import stack
    from geocore.tiles import Tiling
    from slumps_detectron2.data import IMAGE

    windows = Tiling(size=tiling.size).windows(scene.grid.shape)
    chosen = [windows[index] for index in sorted({round(k * (len(windows) - 1) / 8) for k in range(9)})]
    sums, counts = torch.zeros(()), torch.zeros(())
    for window in chosen:
        inputs = to_device(stack([scene.read(window)]), place.device)
        values, masks = network.preprocessing(inputs)[IMAGE], network.preprocessing.masks(inputs)[IMAGE]
        sums = sums + values.sum(dim=(0, 2, 3)).cpu()
        counts = counts + masks.sum(dim=(0, 2, 3)).cpu()
    means = sums / counts.clamp_min(1)
    worst = int(means.abs().argmax())
    if abs(float(means[worst])) > FAR:
        logger.warning(
            "%s: the mean of band %s lies %.1f standard deviations from the training scenes; the map may be wrong",
            scene.name,
            network.layer.bands.names[worst],
            float(means[worst]),
        )


def _open(settings: PredictSettings, path: Location, network: SlumpNet) -> Scene:
    from geocore.masks import MaskRule
    from slumps_detectron2.data import open_scene

    return open_scene(
        path,
        network.layer,
        bands=settings.bands,
        scale=settings.scale,
        offset=settings.offset,
        mask=None if settings.mask is None else MaskRule.parse(settings.mask),
    )


def _checkpoint(run: Path) -> Checkpoint:
    from geocore.checkpoints import load_checkpoint

    return load_checkpoint(run / "checkpoints", "best")


def _tiling(checkpoint: Checkpoint) -> TilingSettings:
    from geocore.settings import TilingSettings

    return TilingSettings.model_validate(checkpoint.card["config"]["tiling"])


@functools.lru_cache(maxsize=1)
def _network(run: Path) -> tuple[Checkpoint, SlumpNet]:
    """The network of a run, read once per process."""
    from slumps_detectron2.model import restore_model

    checkpoint = _checkpoint(run)
    return checkpoint, restore_model(checkpoint)
