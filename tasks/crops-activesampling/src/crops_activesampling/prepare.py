"""Make composites of patches, divide them, and number their crops: a data set to train on.

uv run crops-prepare --data RAW --out DATASET --split.rules s4a-temporal2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from crops_activesampling.config import TASK, PrepareSettings
from geocore.cli.main import command
from geocore.jobs.runner import run_sharded
from geocore.terminal import one_line

if TYPE_CHECKING:
    from geocore.jobs.job import JobResult


def main() -> NoReturn:
    """Entry point of `crops-prepare`."""
    command(prepare, PrepareSettings, prog="crops-prepare", resumes=True)


@run_sharded
def prepare(settings: PrepareSettings) -> None:
    """Fill the cache, write dataset.yaml and preview.png, say what is there; the same command goes on where it stopped.

    Raises:
        DataError: some patches cannot be used: the others are done, and each of these has had its line.
        SettingsError: rules, encoder, bands or periods cannot be understood.
        StorageError: the disk is full or closed.
    """
    from crops_activesampling.caching import FOLDER, cache_patches
    from crops_activesampling.data import chosen_patches, describe, leaks_of, no_choice
    from crops_activesampling.encoders import read_encoder
    from crops_activesampling.overview import overview_of
    from geocore.datasets.dataset import check_out, save_prepared
    from geocore.errors import DataError
    from geocore.report.overview import can_train, present
    from geocore.terminal import progress
    from geocore.tiling.overlaps import PIXELS, refuse_leaks
    from geocore.training.validation import told_by_prepare

    check_out(settings, TASK)
    encoder = read_encoder(settings.encoder)
    chosen = list(chosen_patches(settings)[0])
    failed: list[JobResult] = []
    with progress(len(chosen), "patches") as bar:

        def done(outcome: JobResult) -> None:
            bar.advance()
            if outcome.status == "failed":
                failed.append(outcome)

        outcomes = cache_patches(
            chosen, settings.out, settings.composites, encoder=encoder, workers=settings, on_done=done
        )
    for outcome in failed:
        print(f"failed: {one_line(outcome.message)}")
    dataset = describe(settings, outcomes)
    leaks = leaks_of(dataset)
    if not settings.split.allow_leaks:
        refuse_leaks([leak for leak in leaks if PIXELS in leak], remedy="remove the copies")
    path = save_prepared(dataset, settings)
    useless = told_by_prepare(no_choice(dataset), "crops-train") if can_train(dataset) else []
    written = f"{FOLDER}/ (composites of {len(dataset.samples)} patches)"
    present(overview_of(dataset), settings.out, unvalidated=useless, warnings=leaks, written=[written])
    if failed:
        raise DataError(
            f"{len(failed)} of {len(chosen)} patches cannot be used and are not in {path}: the lines above say why; "
            "mend or remove them, then run the same command again"
        )
