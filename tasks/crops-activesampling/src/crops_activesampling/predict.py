"""Map patches: crop, its probability, and a table of parcels; patches of a tile joined to one map.

    uv run crops-predict --run RUN --input PATCHES --output MAPS --mosaic true

For each patch: `<id>_pred.tif`, `<id>_prob.tif`, `<id>_parcels.csv` and `<id>_parcels.parquet`; for each year and tile
`<year>_<tile>_pred.tif` and `<year>_<tile>_prob.tif`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from crops_activesampling.config import PredictSettings
from geocore.commands import command, progress
from geocore.shares import in_shares

if TYPE_CHECKING:
    from crops_activesampling.model import CropNet
    from geocore.checkpoints import Checkpoint
    from geocore.jobs import Outcome, Task

logger = logging.getLogger(__name__)

FAR: Final = 1.0
"""Standard deviations: no patch of the sample has a band whose mean over the year lies half as far off."""


def main() -> NoReturn:
    """Entry point of `crops-predict`."""
    command(predict, PredictSettings, prog="crops-predict")


@in_shares
def predict(settings: PredictSettings) -> None:
    """Map all patches; those that fail are listed after the others are done.

    Raises:
        DataError: some patches failed; the products of the others are there. Or there is no patch.
        CheckpointError: the run has no usable checkpoint.
    """
    from crops_activesampling.mapping import composite_settings
    from crops_activesampling.products import mosaic_paths, product_paths
    from geocore.errors import DataError
    from geocore.files import atomic_write_text, sha256_file
    from geocore.jobs import Task, run_tasks

    checkpoint, network = _network(settings.run)
    context = {
        "weights": checkpoint.weights_hash,
        "composites": composite_settings(network).model_dump(mode="json"),
        "months": network.model.months,
        "classes": checkpoint.card["classes"],
        "tiling": checkpoint.card["config"]["tiling"],
        "precision": settings.device.precision,
        "version": importlib.metadata.version("crops-activesampling"),
    }
    patches, done = find_inputs(settings.input), settings.output / ".done"
    tasks = [Task(name, {"path": str(path), "sha256": sha256_file(path)}) for name, path in patches.items()]
    for task in tasks:
        _forget_incomplete(done, task.key, product_paths(settings.output, task.key))
    with progress(len(tasks), "patches") as bar:
        outcomes = run_tasks(
            tasks,
            MapPatch(settings),
            done,
            context=context,
            workers=settings,
            on_done=lambda outcome: bar.advance(),
        )
    joined: list[Outcome] = []
    if settings.mosaic:
        mosaics = _mosaic_tasks(tasks, outcomes)
        for task in mosaics:
            _forget_incomplete(done, task.key, mosaic_paths(settings.output, task.key))
        joined = run_tasks(mosaics, JoinPatches(settings), done, context=context)
    failed = [outcome for outcome in (*outcomes, *joined) if outcome.status == "failed"]
    record = {
        "checkpoint": str(checkpoint.path),
        "data_hash": checkpoint.card["data_hash"],
        "versions": checkpoint.card["versions"],
        "context": context,
        "patches": _summaries(done, outcomes),
        "mosaics": _summaries(done, joined),
        "failed": {outcome.key: outcome.message for outcome in failed},
    }
    atomic_write_text(settings.output / "run.json", json.dumps(record, indent=2) + "\n")
    print(f"{len(record['patches'])} of {len(outcomes)} patches mapped in {settings.output}")
    if failed:
        lines = "; ".join(f"{outcome.key}: {outcome.message}" for outcome in failed)
        kinds = "patches and joined maps" if joined else "patches"
        raise DataError(f"{len(failed)} of {len(outcomes) + len(joined)} {kinds} failed: {lines}")


def find_inputs(inputs: Sequence[Path]) -> dict[str, Path]:
    """Id and file of each patch, in the order of year, tile and place.

    Raises:
        DataError: a path is neither a patch nor a folder with some, or two files are the same patch.
    """
    from crops_activesampling.layout import PatchName, find_patches
    from geocore.errors import DataError

    found: dict[PatchName, Path] = {}
    for path in (path for given in inputs for path in find_patches(given)):
        name = PatchName.of(path)
        if found.setdefault(name, path).resolve() != path.resolve():
            raise DataError(f"{path} and {found[name]} are both patch {name.id}: products are named by it; give one")
    return {name.id: found[name] for name in sorted(found)}


@dataclass(frozen=True, slots=True)
class MapPatch:
    """The job of one patch; sent to worker processes, which read the network themselves."""

    settings: PredictSettings

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of a patch, then a short summary as the part.

        Args:
            arguments: `path` of the patch, `sha256` of its content.
            part: where the summary goes.
        """
        from crops_activesampling.mapping import farthest_band, map_patch, read_composites
        from crops_activesampling.products import write_products
        from geocore.devices import open_place
        from geocore.settings import TilingSettings

        checkpoint, network = _network(self.settings.run)
        tiling = TilingSettings.model_validate(checkpoint.card["config"]["tiling"])
        scene, parcels = read_composites(Path(arguments["path"]), network)
        with open_place(self.settings.device) as place:
            network.to(place.device)
            band, away = farthest_band(network, scene, place)
            if abs(away) > FAR:
                logger.warning(
                    "%s: the mean of band %s lies %.1f standard deviations from the training patches; the map may be "
                    "wrong",
                    scene.name,
                    band,
                    away,
                )
            found = map_patch(network, scene, tiling=tiling, place=place)
        summary = write_products(self.settings.output, scene.name, scene.grid, found, parcels, network.class_names)
        part.write_text(json.dumps(summary))


@dataclass(frozen=True, slots=True)
class JoinPatches:
    """The job of one tile and year."""

    settings: PredictSettings

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the joined maps, then a short summary as the part.

        Args:
            arguments: `name` of the map, `patches`: id -> hash of its content.
            part: where the summary goes.
        """
        from crops_activesampling.products import write_mosaic

        _, network = _network(self.settings.run)
        summary = write_mosaic(self.settings.output, arguments["name"], list(arguments["patches"]), network.class_names)
        part.write_text(json.dumps(summary))


def _mosaic_tasks(tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> list[Task]:
    """A task for each year and tile of the patches that are mapped."""
    from crops_activesampling.layout import PatchName
    from geocore.jobs import Task

    members: dict[str, dict[str, str]] = defaultdict(dict)
    for task, outcome in zip(tasks, outcomes, strict=True):
        if outcome.status != "failed":
            name = PatchName.of(task.key)
            members[f"{name.year}_{name.tile}"][task.key] = task.arguments["sha256"]
    return [Task(name, {"name": name, "patches": patches}) for name, patches in members.items()]


def _forget_incomplete(done: Path, key: str, products: Sequence[Path]) -> None:
    """Have a map made again of which a product was deleted."""
    from geocore.jobs import part_path

    summary = part_path(done, key)
    # In this order, since another shard may be writing: products are there before the summary.
    if summary.exists() and not all(path.exists() for path in products):
        summary.unlink(missing_ok=True)


def _summaries(done: Path, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Name -> the summary that its job left behind, for those that are done."""
    from geocore.jobs import part_path

    return {
        outcome.key: json.loads(part_path(done, outcome.key).read_text())
        for outcome in outcomes
        if outcome.status != "failed"
    }


@functools.lru_cache(maxsize=1)
def _network(run: Path) -> tuple[Checkpoint, CropNet]:
    """The network of a run, read once per process."""
    from crops_activesampling.model import restore_model
    from geocore.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(run / "checkpoints", "best")
    return checkpoint, restore_model(checkpoint)
