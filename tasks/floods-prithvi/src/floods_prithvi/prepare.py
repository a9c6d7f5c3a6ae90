"""List chips and their labels, check them, divide them, and measure the bands.

uv run floods-prepare --data SEN1FLOODS11 --out DATASET
uv run floods-prepare --data HLS_BURN_SCARS --out DATASET --format burn-scars
"""

from __future__ import annotations

from typing import NoReturn

from floods_prithvi.config import TASK, PrepareSettings
from geocore.cli.main import command


def main() -> NoReturn:
    """Entry point of `floods-prepare`."""
    command(prepare, PrepareSettings, prog="floods-prepare")


def prepare(settings: PrepareSettings) -> None:
    """Write dataset.yaml and preview.png, and say what is in the data set; chips stay where they are.

    Raises:
        DataError: chips, labels or lists do not fit together; the message names the file.
        SceneError: a chip cannot be read, or its bands or its unit are not clear.
    """
    from floods_prithvi.data import describe, no_choice
    from floods_prithvi.overview import overview_of
    from geocore.datasets.dataset import check_out, save_prepared
    from geocore.report.overview import can_train, present
    from geocore.training.validation import told_by_prepare

    check_out(settings, TASK)
    dataset = describe(settings)
    save_prepared(dataset, settings)
    useless = told_by_prepare(no_choice(dataset), "floods-train") if can_train(dataset) else []
    present(overview_of(dataset), settings.out, unvalidated=useless)
