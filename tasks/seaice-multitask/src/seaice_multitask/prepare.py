"""List scenes, divide them, and bring their planes and charts to the working grid.

uv run seaice-prepare --data RAW --out DATASET --working.downscale 10 --patch 256
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from geocore.cli.main import command
from geocore.jobs.runner import run_sharded
from geocore.terminal import one_line
from seaice_multitask.config import TASK, PrepareSettings

if TYPE_CHECKING:
    from geocore.jobs.job import JobResult


def main() -> NoReturn:
    """Entry point of `seaice-prepare`."""
    command(prepare, PrepareSettings, prog="seaice-prepare", resumes=True)


@run_sharded
def prepare(settings: PrepareSettings) -> None:
    """Fill the cache, write dataset.yaml and preview.png, say what is there; the same command goes on where it stopped.

    Raises:
        DataError: some scenes cannot be used: the others are done, and each of these has had its line.
        SettingsError: a channel is unknown.
    """
    from geocore.datasets.dataset import check_out, save_prepared
    from geocore.errors import DataError
    from geocore.report.overview import can_train, present
    from geocore.terminal import progress
    from geocore.training.validation import told_by_prepare
    from seaice_multitask.caching import FOLDER
    from seaice_multitask.config import AUTOICE_OUTPUTS
    from seaice_multitask.data import (
        assign_splits,
        cache_scenes,
        describe,
        find_scenes,
        no_choice,
        planes_layer,
        scene_id,
    )
    from seaice_multitask.overview import overview_of

    check_out(settings, TASK)
    planes_layer(settings.channels)  # an unknown channel would else fail every scene
    found = find_scenes([settings.data])
    used = assign_splits(found, settings)[0]
    wanted = [path for path in found if scene_id(path) in used]
    failed: list[JobResult] = []
    with progress(len(wanted), "scenes") as bar:

        def done(outcome: JobResult) -> None:
            bar.advance()
            if outcome.status == "failed":
                failed.append(outcome)

        outcomes = cache_scenes(settings, wanted, done)
    for outcome in failed:
        print(f"failed: {one_line(outcome.message)}")
    dataset = describe(settings, outcomes)
    path = save_prepared(dataset, settings)
    useless = told_by_prepare(no_choice(dataset, AUTOICE_OUTPUTS), "seaice-train") if can_train(dataset) else []
    written = f"{FOLDER}/ (planes and charts of {len(dataset.samples)} scenes)"
    present(overview_of(dataset), settings.out, unvalidated=useless, written=[written])
    if failed:
        raise DataError(
            f"{len(failed)} of {len(wanted)} scenes cannot be used and are not in {path}: the lines above say why; "
            "mend or remove them, then run the same command again"
        )
