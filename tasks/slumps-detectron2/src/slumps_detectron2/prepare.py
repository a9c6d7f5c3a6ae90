"""Turn label rasters or outlines into instances, divide the ground and measure the bands.

uv run slumps-prepare -i SCENE.tif -l LABEL.tif -o DATASET --split.by block
uv run slumps-prepare --data PAIRS.csv --out DATASET
"""

from __future__ import annotations

from typing import NoReturn

from geocore.cli.main import command
from slumps_detectron2.config import TASK, PrepareSettings


def main() -> NoReturn:
    """Entry point of `slumps-prepare`."""
    command(prepare, PrepareSettings, prog="slumps-prepare")


def prepare(settings: PrepareSettings) -> None:
    """Write dataset.yaml, label rasters and preview.png, and say what is in the data set.

    Raises:
        DataError: scenes and labels do not fit together; the message names them.
    """
    from geocore.datasets.dataset import check_out, save_prepared
    from geocore.report.overview import present
    from geocore.training.validation import told_by_prepare
    from slumps_detectron2 import label_folder
    from slumps_detectron2.data import describe, no_choice
    from slumps_detectron2.overview import overview_of

    check_out(settings, TASK)
    dataset = describe(settings)
    save_prepared(dataset, settings)
    label_folder.end(dataset)
    useless = told_by_prepare(no_choice(dataset), "slumps-train")
    rasters = {path for sample in dataset.samples for path in sample.labels.values()}
    written = f"labels/ ({len(rasters)} label rasters)"
    present(overview_of(dataset), settings.out, unvalidated=useless, written=[written])
