"""Pair photographs with masks, split them by pit and measure their brightness.

uv run snowpack-prepare --data RAW --out DATASET
"""

from __future__ import annotations

from typing import NoReturn

from geocore.commands import command
from snowpack_sam2.config import TASK, PrepareSettings


def main() -> NoReturn:
    """Entry point of `snowpack-prepare`."""
    command(prepare, PrepareSettings, prog="snowpack-prepare")


def prepare(settings: PrepareSettings) -> None:
    """Write dataset.yaml and say what is in it.

    Raises:
        DataError: photographs and masks do not fit together; the message names them.
    """
    from collections import Counter

    from geocore.prepared import check_out, save_prepared
    from geocore.validation import told_by_prepare
    from snowpack_sam2.data import describe, no_choice

    check_out(settings, TASK)
    dataset = describe(settings)
    path = save_prepared(dataset, settings)
    for note in dataset.notes:
        print(f"note: {note}")
    for line in told_by_prepare(no_choice(dataset), "snowpack-train"):
        print(line)
    photos = Counter(sample.split for sample in dataset.samples)
    print(f"{path}: " + ", ".join(f"{photos[split]} {split}" for split in ("train", "val", "test")) + " photographs")
