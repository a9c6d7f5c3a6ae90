"""Pair photographs with masks, split them by pit and measure their brightness.

uv run snowpack-prepare --data RAW --out DATASET
"""

from __future__ import annotations

from typing import NoReturn

from geocore.cli.main import command
from snowpack_sam2.config import TASK, PrepareSettings


def main() -> NoReturn:
    """Entry point of `snowpack-prepare`."""
    command(prepare, PrepareSettings, prog="snowpack-prepare")


def prepare(settings: PrepareSettings) -> None:
    """Write dataset.yaml and preview.png, and say what is in the data set.

    Raises:
        DataError: photographs and masks do not fit together; the message names them.
    """
    from geocore.datasets.dataset import check_out, save_prepared
    from geocore.report.overview import present
    from geocore.training.validation import told_by_prepare
    from snowpack_sam2.data import describe, no_choice
    from snowpack_sam2.overview import overview_of

    check_out(settings, TASK)
    dataset = describe(settings)
    save_prepared(dataset, settings)
    useless = told_by_prepare(no_choice(dataset), "snowpack-train")
    present(overview_of(dataset), settings.out, unvalidated=useless)
