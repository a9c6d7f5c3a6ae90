"""Map whole scenes at 80 m: classes, probability, entropy, polar stereographic maps, and the challenge's upload file.

    uv run seaice-predict --run RUN --input SCENES --output MAPS

For each scene: `<id>_pred.tif`, `<id>_prob.tif`, `<id>_entropy.tif`, `<id>_<output>_map.tif` and `<id>_sheet.png`; for
all of them `upload_package.nc`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from geocore.commands import command, progress
from geocore.shares import in_shares
from seaice_multitask.config import PredictSettings

if TYPE_CHECKING:
    import numpy as np

    from geocore.checkpoints import Checkpoint
    from geocore.jobs import Outcome
    from geocore.scenes import Scene
    from geocore.settings import TilingSettings
    from geocore.tiles import Region
    from seaice_multitask.model import SeaIceNet

logger = logging.getLogger(__name__)

FAR = 6.0
"""Standard deviations: no plane of a scene of the challenge or the sample has a mean half as far off."""
_PROBE_PX = 64
_SUMMARY = "summary.json"


def main() -> NoReturn:
    """Entry point of `seaice-predict`."""
    command(predict, PredictSettings, prog="seaice-predict")


@in_shares
def predict(settings: PredictSettings) -> None:
    """Map all scenes; those that fail are listed after the others are done.

    Raises:
        DataError: some scenes failed; the products of the others are there.
        CheckpointError: the run has no usable checkpoint.
    """
    from geocore.errors import DataError
    from geocore.files import atomic_write_text, sha256_file
    from geocore.jobs import Task, part_path, run_tasks
    from geocore.shares import remove_joined
    from seaice_multitask.data import find_scenes, scene_id
    from seaice_multitask.products import product_paths

    checkpoint, network = _network(settings.run)
    scenes = {path: scene_id(path) for path in find_scenes(settings.input)}
    if settings.plan:
        show_plans(settings, checkpoint, network, scenes)
        return
    context = {
        "weights": checkpoint.weights_hash,
        "tiling": checkpoint.card["config"]["tiling"],
        "flips": settings.flips,
        "resolution_m": settings.resolution_m,
        "region_px": settings.region_px,
        "precision": settings.device.precision,
        "version": importlib.metadata.version("seaice-multitask"),
    }
    done = settings.output / ".done"
    for name in scenes.values():
        part = part_path(done, name)
        # In this order, since another shard may be writing: products are there before the part.
        if part.exists() and not all(path.exists() for path in product_paths(settings.output, name, network.outputs)):
            # A product was deleted: make it again.
            shutil.rmtree(part, ignore_errors=True)
    tasks = [Task(name, {"path": str(path), "sha256": sha256_file(path)}) for path, name in scenes.items()]
    parts = settings.output / ".parts"
    with progress(len(tasks), "scenes") as bar:

        def ended(outcome: Outcome) -> None:
            if outcome.is_there:
                remove_joined(parts / outcome.key)
            bar.advance()

        work = MapScene(settings, context, tuple(scenes.values()))
        # Workers share the regions of a scene: scenes may be few and large.
        outcomes = run_tasks(tasks, work, done, context=context, on_done=ended)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    record = {
        "checkpoint": str(checkpoint.path),
        "data_hash": checkpoint.card["data_hash"],
        "versions": checkpoint.card["versions"],
        "context": context,
        "scenes": _summaries(done, outcomes),
        "failed": {outcome.key: outcome.message for outcome in failed},
    }
    atomic_write_text(settings.output / "run.json", json.dumps(record, indent=2) + "\n")
    if settings.upload and len(failed) < len(outcomes):
        _write_upload(settings.output, _summaries(done, outcomes), network.working.downscale)
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
        """Write the products of one scene, then its classes and a short summary into the folder `part`.

        Args:
            arguments: `path` of the scene, `sha256` of its content.
            part: made here.
        """
        from geocore.devices import open_place
        from geocore.inference import predict_scene
        from geocore.shares import joining
        from seaice_multitask.data import open_scene, working_scene
        from seaice_multitask.products import CLASSES_FILE, MappedScene, write_products

        path, settings = Path(arguments["path"]), self.settings
        _, network = _network(settings.run)
        with open_scene(path, network.channels) as scene:
            grid = scene.grid.coarser(network.working.downscale)
            parts_folder = settings.output / ".parts" / scene.name
            with open_place(settings.device):
                warn_if_shifted(network, working_scene(scene, network.channels, network.working))
            regions = predict_scene(
                MapRegion(settings, path),
                grid.shape,
                parts_folder,
                region_px=settings.region_px,
                align=1,
                context={**self.context, "sha256": arguments["sha256"]},
                workers=settings.turned(self.scenes.index(scene.name)),
            )
            parts = [(region.window, folder) for region, folder in regions]
            with joining(parts_folder, [folder for _, folder in regions]):
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
        (part / _SUMMARY).write_text(json.dumps(summary))


@dataclass(frozen=True, slots=True)
class MapRegion:
    """The job of one region; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    path: Path

    def __call__(self, region: Region, part: Path) -> None:
        """Write the planes of a region into the folder `part`."""
        from geocore.devices import open_place
        from geocore.planes import PlaneWriter
        from seaice_multitask.data import open_scene, working_scene
        from seaice_multitask.mapping import map_rows, planes_of

        checkpoint, network = _network(self.settings.run)
        with (
            open_place(self.settings.device) as place,
            open_scene(self.path, network.channels) as scene,
            PlaneWriter(part, region.window, planes_of(network.outputs)) as planes,
        ):
            map_rows(
                network.to(place.device),
                working_scene(scene, network.channels, network.working),
                region,
                tiling=_tiling(checkpoint),
                place=place,
                emit=planes.write,
                flips=self.settings.flips,
            )


def show_plans(
    settings: PredictSettings, checkpoint: Checkpoint, network: SeaIceNet, scenes: Mapping[Path, str]
) -> None:
    """Print what mapping each scene takes, with the time that some of its tiles took.

    Raises:
        SettingsError: a scene cannot be mapped here; says why.
    """
    from geocore.plans import plan_scene, tell, trial
    from geocore.tiles import Tiling
    from seaice_multitask.data import open_scene, working_scene
    from seaice_multitask.mapping import planes_of

    tiling = Tiling(size=_tiling(checkpoint).size, overlap=_tiling(checkpoint).overlap)
    plans = {}
    for path, name in scenes.items():
        with open_scene(path, network.channels) as scene:
            working = working_scene(scene, network.channels, network.working)
            plans[name] = plan_scene(
                working,
                tiling,
                region_px=settings.region_px,
                align=1,
                channels=sum(head.channels for head in network.heads.values()),
                planes=planes_of(network.outputs),
                seconds_per_tile=trial(MapRegion(settings, path), working.grid.shape, tiling),
            )
    tell(plans, settings.output)


def warn_if_shifted(network: SeaIceNet, scene: Scene) -> None:
    """Log a warning when a plane's mean, over nine small windows, lies far from the standard that it should follow.

    Args:
        network: names the planes.
        scene: on the working grid.
    """
    import numpy as np

    from geocore.tiles import Tiling
    from seaice_multitask.model import PLANES

    windows = Tiling(size=_PROBE_PX).windows(scene.grid.shape)
    chosen = [windows[index] for index in sorted({round(k * (len(windows) - 1) / 8) for k in range(9)})]
    sums, counts = np.zeros(len(network.channels)), np.zeros(len(network.channels))
    for window in chosen:
        patch = scene.read(window, [PLANES])[PLANES]
        valid = np.broadcast_to(patch.valid, patch.values.shape)
        sums += np.where(valid, patch.values, 0.0).sum(axis=(1, 2), dtype=np.float64)
        counts += valid.sum(axis=(1, 2))
    means = sums / np.maximum(counts, 1)
    worst = int(np.abs(means).argmax())
    if abs(means[worst]) > FAR:
        logger.warning(
            "%s: the mean of %s lies %.1f standard deviations from the challenge's scenes; the map may be wrong",
            scene.name,
            network.channels[worst],
            float(means[worst]),
        )


def _summaries(done: Path, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Scene -> the summary that its job left behind, for those that are done."""
    from geocore.jobs import part_path

    return {
        outcome.key: json.loads((part_path(done, outcome.key) / _SUMMARY).read_text())
        for outcome in outcomes
        if outcome.status != "failed"
    }


def _write_upload(folder: Path, summaries: dict[str, Any], downscale: int) -> None:
    from geocore.jobs import part_path
    from seaice_multitask.products import CLASSES_FILE, UPLOAD_NAME, write_upload

    write_upload(
        folder / UPLOAD_NAME,
        {
            name: (
                part_path(folder / ".done", name) / CLASSES_FILE,
                downscale,
                (summary["lines"], summary["samples"]),
            )
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


def _tiling(checkpoint: Checkpoint) -> TilingSettings:
    from geocore.settings import TilingSettings

    return TilingSettings.model_validate(checkpoint.card["config"]["tiling"])


@functools.lru_cache(maxsize=1)
def _network(run: Path) -> tuple[Checkpoint, SeaIceNet]:
    """The network of a run, read once per process."""
    from geocore.checkpoints import load_checkpoint
    from seaice_multitask.model import restore_model

    checkpoint = load_checkpoint(run / "checkpoints", "best")
    return checkpoint, restore_model(checkpoint)
