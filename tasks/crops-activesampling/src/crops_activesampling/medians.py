"""Medians of patches: one composite a period, band and pixel, and the number of images behind it.

uv run crops-medians --data RAW --out DATASET --composites.frequency 1MS --composites.bands B02 B03 B04 B08
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from crops_activesampling.config import MediansSettings
from geocore.cli.main import command
from geocore.jobs.runner import run_sharded
from geocore.terminal import one_line, shell_word

if TYPE_CHECKING:
    from geocore.jobs.job import JobResult


def main() -> NoReturn:
    """Entry point of `crops-medians`."""
    command(medians, MediansSettings, prog="crops-medians", resumes=True)


@run_sharded
def medians(settings: MediansSettings) -> None:
    """Fill the cache and say what is in it; the same command goes on where it was stopped.

    Raises:
        DataError: some patches cannot be used: the others are done, and each of these has had its line.
        SettingsError: bands or periods are unusable.
    """
    from collections import Counter

    from crops_activesampling.caching import FOLDER, cache_patches
    from crops_activesampling.s4a_format import find_patches
    from geocore.datasets.schema import FILE_NAME
    from geocore.errors import DataError
    from geocore.raster.npy_store import read_entry
    from geocore.terminal import progress

    if (settings.out / FILE_NAME).exists():
        raise DataError(
            f"{settings.out} holds a data set, whose medians these would take the place of: choose another folder with "
            "--out; those of the data set are there already"
        )
    found = find_patches(settings.data)[: settings.limit]
    failed: list[JobResult] = []
    with progress(len(found), "patches") as bar:

        def done(outcome: JobResult) -> None:
            bar.advance()
            if outcome.status == "failed":
                failed.append(outcome)

        outcomes = cache_patches(found, settings.out, settings.composites, workers=settings, on_done=done)
    for outcome in failed:
        print(f"failed: {one_line(outcome.message)}")
    kept = [outcome for outcome in outcomes if outcome.status != "failed"]
    facts = [read_entry(settings.out / FOLDER, outcome.key).facts for outcome in kept]
    empty = Counter(str(period) for fact in facts for period in fact["empty_periods"])
    for period in sorted(empty, key=int):
        print(f"note: period {period}: no data in one band at least in {empty[period]} of {len(kept)} patches")
    made = sum(outcome.status == "done" for outcome in kept)
    print(f"{one_line(str(settings.out / FOLDER))}: medians of {len(kept)} patches, {made} of them made now")
    print(f"next: crops-prepare --data {shell_word(settings.data)} --out {shell_word(settings.out)}")
    if failed:
        raise DataError(
            f"{len(failed)} of {len(found)} patches cannot be used: the lines above say why; mend or remove them, then "
            "run the same command again"
        )
