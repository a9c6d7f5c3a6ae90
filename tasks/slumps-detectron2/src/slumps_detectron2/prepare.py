"""Turn label rasters or outlines into instances, divide the ground and measure the bands.

uv run slumps-prepare -i SCENE.tif -l LABEL.tif -o DATASET --split.by block
uv run slumps-prepare --data PAIRS.csv --out DATASET
"""

from __future__ import annotations

from typing import NoReturn

from geocore.commands import command
from slumps_detectron2.config import TASK, PrepareSettings


def main() -> NoReturn:
    """Entry point of `slumps-prepare`."""
    command(prepare, PrepareSettings, prog="slumps-prepare")


def prepare(settings: PrepareSettings) -> None:
    """Write dataset.yaml and the label rasters, and say what is in them.

    Raises:
        DataError: scenes and labels do not fit together; the message names them.
    """
    from geocore.prepared import check_out, save_prepared
    from geocore.validation import told_by_prepare
    from slumps_detectron2.data import describe, no_choice

    check_out(settings, TASK)
    dataset = describe(settings)
    path = save_prepared(dataset, settings)
    for note in dataset.notes:
        print(f"note: {note}")
    for split in ("train", "val", "test"):
        samples = [sample for sample in dataset.samples if sample.split == split]
        slumps = sum(int(sample.attributes["slumps"]) for sample in samples)
        tiles = f", {dataset.protocol['training_tiles']} training tiles" if split == "train" else ""
        print(f"{split}: {len(samples)} areas with {slumps} slumps{tiles}")
    for line in told_by_prepare(no_choice(dataset), "slumps-train"):
        print(line)
    print(path)
