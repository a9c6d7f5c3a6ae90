"""Map patches: crop, its probability, and a table of parcels; patches of a tile joined to one map.

    uv run crops-predict --run RUN --input PATCHES --output MAPS --mosaic true

For each patch: `<id>_pred.tif`, `<id>_prob.tif`, `<id>_parcels.csv` and `<id>_parcels.parquet`; for each year and tile
`<year>_<tile>_pred.tif` and `<year>_<tile>_prob.tif`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from crops_activesampling.config import TASK, PredictSettings
from geocore.cli.checks import check_inputs, check_run
from geocore.cli.main import command
from geocore.jobs.runner import run_sharded

if TYPE_CHECKING:
    from crops_activesampling.model import CropNet
    from geocore.jobs.job import Job
    from geocore.training.run import Origin, Trained


def main() -> NoReturn:
    """Entry point of `crops-predict`."""
    command(predict, PredictSettings, prog="crops-predict", resumes=True)


@run_sharded
def predict(settings: PredictSettings) -> None:
    """Map all patches; those that fail are listed after the others are done.

    Raises:
        DataError: some patches failed; the products of the others are there. Or there is no patch.
        CheckpointError: the run has no usable checkpoint.
    """
    check_run(settings.run, TASK)
    check_inputs(settings.input, settings.output, kind="patch")
    inputs = find_inputs(settings.input)
    # What can be refused without torch has been.
    from crops_activesampling.mapping import composite_settings
    from crops_activesampling.model import restore_model
    from crops_activesampling.products import mosaic_paths, product_paths, told
    from geocore.inference.batch import BatchPrediction, scene_jobs
    from geocore.storage.files import sha256_file
    from geocore.training.run import chosen_network

    trained = chosen_network(settings.run, settings.checkpoint, restore_model)
    checkpoint, network = trained.checkpoint, trained.network
    identity = {
        "weights": checkpoint.weights_hash,
        "composites": composite_settings(network).model_dump(mode="json"),
        "months": network.model.months,
        "classes": checkpoint.card["classes"],
        "tiling": checkpoint.card["config"]["tiling"],
        "precision": settings.device.precision,
        "version": importlib.metadata.version("crops-activesampling"),
    }
    prediction, output = BatchPrediction(settings.output, checkpoint, identity), settings.output
    tasks = scene_jobs(inputs, sha256_file)
    patches = prediction.run(
        "patches", tasks, MapPatch(settings, trained.origin), products=partial(product_paths, output), workers=settings
    )
    there = [task for task in tasks if task.key in patches.summaries]
    mosaics = prediction.run(
        "joined maps",
        _mosaic_tasks(there) if settings.mosaic else [],
        JoinPatches(settings, trained.origin),
        products=partial(mosaic_paths, output),
    )
    prediction.finish(
        {"patches": patches, "mosaics": mosaics}, told=told, maps=lambda name: product_paths(output, name)[:1]
    )


def find_inputs(inputs: Sequence[Path]) -> dict[str, Path]:
    """Id and file of each patch, in the order of year, tile and place.

    Raises:
        DataError: a path is neither a patch nor a folder with some, or two files are the same patch.
    """
    from crops_activesampling.s4a_format import PatchName, find_patches
    from geocore.errors import DataError

    found: dict[PatchName, Path] = {}
    for path in (path for given in inputs for path in find_patches(given)):
        name = PatchName.of(path)
        if os.path.realpath(found.setdefault(name, path)) != os.path.realpath(path):
            raise DataError(f"{path} and {found[name]} are both patch {name.id}: products are named by it; give one")
    return {name.id: found[name] for name in sorted(found)}


@dataclass(frozen=True, slots=True)
class MapPatch:
    """The job of one patch; sent to worker processes, which read the network themselves."""

    settings: PredictSettings
    origin: Origin

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the products of a patch, then a short summary as the part.

        Args:
            arguments: `path` of the patch, `sha256` of its content.
            part: where the summary goes.
        """
        from crops_activesampling.mapping import check_numbers, map_patch, read_composites
        from crops_activesampling.products import write_products
        from geocore.datasets.shift import warn_if_resized
        from geocore.device import device_context

        trained = _network(self.origin)
        network = trained.network
        scene, parcels = read_composites(Path(arguments["path"]), network)
        warn_if_resized(scene.name, scene.grid, network.layer)
        with device_context(self.settings.device, batch_size=self.settings.batch_size) as context:
            context.prepare(network)
            check_numbers(network, scene)
            found = map_patch(network, scene, tiling=trained.tiling, context=context)
        summary = write_products(self.settings.output, scene.name, scene.grid, found, parcels, network.class_names)
        part.write_text(json.dumps(summary))


@dataclass(frozen=True, slots=True)
class JoinPatches:
    """The job of one tile and year."""

    settings: PredictSettings
    origin: Origin

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Write the joined maps, then a short summary as the part.

        Args:
            arguments: `name` of the map, `patches`: id -> hash of its content.
            part: where the summary goes.
        """
        from crops_activesampling.products import write_mosaic

        network = _network(self.origin).network
        summary = write_mosaic(self.settings.output, arguments["name"], list(arguments["patches"]), network.class_names)
        part.write_text(json.dumps(summary))


def _mosaic_tasks(patches: Sequence[Job]) -> list[Job]:
    """A task for each year and tile of patches."""
    from crops_activesampling.s4a_format import PatchName
    from geocore.jobs.job import Job

    members: dict[str, dict[str, str]] = defaultdict(dict)
    for patch in patches:
        name = PatchName.of(patch.key)
        members[f"{name.year}_{name.tile}"][patch.key] = patch.arguments["sha256"]
    return [Job(name, {"name": name, "patches": hashes}) for name, hashes in members.items()]


def _network(origin: Origin) -> Trained[CropNet]:
    from crops_activesampling.model import restore_model
    from geocore.training.run import same_network

    return same_network(origin, restore_model)
