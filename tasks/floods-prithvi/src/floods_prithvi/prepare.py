"""List chips and their labels, check them, divide them, and measure the bands.

uv run floods-prepare --data SEN1FLOODS11 --out DATASET
uv run floods-prepare --data HLS_BURN_SCARS --out DATASET --format burn-scars
"""

from __future__ import annotations

from typing import NoReturn

from floods_prithvi.config import TASK, PrepareSettings
from geocore.commands import command


def main() -> NoReturn:
    """Entry point of `floods-prepare`."""
    command(prepare, PrepareSettings, prog="floods-prepare")


def prepare(settings: PrepareSettings) -> None:
    """Write dataset.yaml and say what is in it; chips stay where they are.

    Raises:
        DataError: chips, labels or lists do not fit together; the message names the file.
        SceneError: a chip cannot be read, or its bands or its unit are not clear.
    """
    from floods_prithvi.data import class_shares, describe, no_choice
    from geocore.prepared import check_out, save_prepared
    from geocore.validation import told_by_prepare

    check_out(settings, TASK)
    dataset = describe(settings)
    path = save_prepared(dataset, settings)
    for note in dataset.notes:
        print(f"note: {note}")
    names = list(dataset.labels["mask"].classes.values())
    for split in dict.fromkeys(["train", "val", "test", *(sample.split for sample in dataset.samples)]):
        samples = [sample for sample in dataset.samples if sample.split == split]
        if not samples:
            print(f"{split}: no chip")
            continue
        shares = ", ".join(
            f"{name} {100 * share:.1f} %" for name, share in zip(names, class_shares(samples), strict=True)
        )
        groups = len({sample.group for sample in samples})
        print(f"{split}: {len(samples)} chips of {groups} {'group' if groups == 1 else 'groups'}; {shares}")
    splits = {sample.split for sample in dataset.samples}
    for line in told_by_prepare(no_choice(dataset), "floods-train") if {"train", "val"} <= splits else ():
        print(line)
    print(path)
