"""The settings of the commands; units stand in the help of each field."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from geocore.settings import (
    CheckpointName,
    DeviceSettings,
    EvaluationSettings,
    MappingSettings,
    RunSettings,
    Settings,
    TilingSettings,
    WorkerSettings,
    deciding,
    operational,
)

TASK = "crops"

BANDS = ["B02", "B03", "B04", "B08"]
"""The bands of 10 m, on which the benchmark of Sen4AgriNet was run."""


class CompositeSettings(Settings):
    """How dates become one composite a period."""

    frequency: str = deciding("1MS", "length of a period as a pandas frequency, such as 1MS, 2MS or 10D")
    bands: list[str] = deciding(BANDS, "bands by name, in any order", min_length=1)
    start: str | None = deciding(None, "first day of the series, YYYY-MM-DD; none: 1 January of the patch's year")
    end: str | None = deciding(None, "last day of the series, YYYY-MM-DD; none: 31 December of the patch's year")
    fill: Literal["none", "linear"] = deciding(
        "none", "periods without an observation stay empty, or are interpolated between those around them"
    )


class MediansSettings(WorkerSettings):
    """Medians of patches: one composite a period, band and pixel, with the number of observations behind it."""

    data: Path = operational(..., "folder of Sen4AgriNet patches (netCDF), in any depth of folders")
    out: Path = operational(..., "folder for the cache of medians; patches stay in place")
    composites: CompositeSettings = CompositeSettings()
    limit: int | None = operational(None, "only so many patches, in the order of their names", gt=0)


class SplitSettings(Settings):
    """Which patches train, choose and test."""

    rules: str = deciding("s4a-naive", "packaged rules by name, or the path of a rule file (YAML)")
    seed: int = deciding(0, "seed of the draws and of the fractions", ge=0)
    fractions: dict[str, float] = deciding({}, "split -> share of its patches that is kept")
    swap: bool = deciding(False, "train and val change places, as a hold-out model needs it")
    allow_leaks: bool = deciding(False, "splits may hold copies of the same patch, which is then a warning")

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: dict[str, float]) -> dict[str, float]:
        for name, share in fractions.items():
            if name not in ("train", "val", "test") or not 0 < share <= 1:
                raise ValueError(f"fractions {name}: {share}: give shares above 0, at most 1, of train, val or test")
        return fractions


class SplitCommandSettings(Settings):
    """Assign patches to splits by rules, check them, and count classes."""

    data: Path = operational(..., "folder of Sen4AgriNet patches (netCDF)")
    out: Path = operational(..., "folder for train.txt, val.txt, test.txt and the tables of counts")
    split: SplitSettings = SplitSettings()
    encoder: str = deciding("s4a-labels", "packaged label encoder by name, or the path of one (YAML)")


class PrepareSettings(WorkerSettings):
    """Medians, split and labels together: a data set to train on."""

    data: Path = operational(..., "folder of Sen4AgriNet patches (netCDF), in any depth of folders")
    out: Path = operational(..., "folder for dataset.yaml and the cache of medians; patches stay in place")
    composites: CompositeSettings = CompositeSettings()
    split: SplitSettings = SplitSettings()
    lists: Path | None = deciding(None, "folder of train.txt, val.txt, test.txt made before; none: by split.rules")
    encoder: str = deciding("s4a-labels", "packaged label encoder by name, or the path of one (YAML)")
    subpatch: int = deciding(61, "edge of a training window, pixels of 10 m", ge=8)
    edge: Literal["drop", "overlap"] = deciding(
        "overlap",
        "where the patch is no multiple of the window: the rest is dropped, or the last window overlaps the one before",
    )
    limit: int | None = operational(None, "only so many patches, in the order of their names", gt=0)


class ModelSettings(Settings):
    """The network."""

    kind: Literal["unet", "convstar"] = deciding(
        "unet", "U-Net on stacked dates, or ConvSTAR, which reads them in turn"
    )
    encoder: str = deciding("resnet18", "encoder of segmentation-models-pytorch (unet)")
    depth: int = deciding(4, "levels of the encoder (unet)", ge=3, le=5)
    hidden: int = deciding(64, "channels of each cell (convstar)", ge=4)
    layers: int = deciding(3, "cells above one another (convstar)", ge=1)
    months: str = deciding("1..12", "periods of the series that are seen, from 1, such as 4..9 or 3,5,7")

    @field_validator("months")
    @classmethod
    def _periods(cls, months: str) -> str:
        periods_of(months)
        return months


class LossSettings(Settings):
    """Cross-entropy over labelled pixels."""

    class_weighting: float = deciding(
        0.1, "0: classes weigh alike a pixel; 1: by the inverse of their share; between: blended", ge=0, le=1
    )


Score = Literal["random", "loss", "correct-class-margin", "margin", "entropy", "irreducible", "rho-loss"]


class SelectionSettings(Settings):
    """Which of the samples that are read are trained on."""

    scores: dict[Score, float] = deciding(
        {}, "score -> weight; the weighted sum decides, and higher is trained on; empty: every sample"
    )
    block: int = deciding(2, "samples looked at for each one that is trained on", ge=1)
    batches_per_block: int = deciding(1, "batches that are chosen at once, by the same scores", ge=1)
    pick: Literal["top", "boltzmann"] = deciding("top", "the highest scores, or drawn by their exponential")
    temperature: float = deciding(1.0, "of boltzmann, in standard deviations of the block's scores", gt=0)
    warmup_steps: int = deciding(0, "steps in which samples are chosen at random", ge=0)
    mode: Literal["eval", "train"] = deciding("eval", "mode of the network while it scores")
    holdout: Path | None = operational(None, "run folder of the hold-out model (irreducible, rho-loss)")

    @model_validator(mode="after")
    def _holdout_is_there(self) -> SelectionSettings:
        if {"irreducible", "rho-loss"} & set(self.scores) and self.holdout is None:
            raise ValueError(
                "irreducible and rho-loss need a hold-out model: train one with --recipe holdout and give its run "
                "folder as selection.holdout"
            )
        return self


class AugmentationSettings(Settings):
    """Changes to training windows."""

    turn: bool = deciding(True, "mirror and turn by quarter circles")


class TrainSettings(RunSettings):
    """Train a crop map, on every sample or on chosen ones, or resume it."""

    data: Path | None = operational(None, "data set made by crops-prepare; none: the built-in sample")
    run: Path | None = operational(None, "run folder; none: runs/crops-<recipe>-<hash>")
    swap: bool = deciding(False, "train on val and validate on train, as a hold-out model does")
    choose_by: Literal["f1_weighted", "loss"] = deciding(
        "f1_weighted", "score on validation that decides which checkpoint is best; a hold-out model goes by loss"
    )
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    selection: SelectionSettings = SelectionSettings()
    skip_empty: bool = deciding(True, "windows without a labelled pixel are not drawn")
    tiling: TilingSettings = TilingSettings(size=122, overlap=32)
    augmentation: AugmentationSettings = AugmentationSettings()


class EvaluateSettings(EvaluationSettings):
    """Score a checkpoint of a run beside a classifier of single pixels."""

    split: Literal["train", "val", "test"] = deciding("test", "split to score")
    border_px: int = deciding(5, "border that the cropped scores leave out, pixels", ge=0)


class PredictSettings(MappingSettings, WorkerSettings):
    """Map patches."""

    run: Path = operational(..., "run folder of crops-train")
    input: list[Path] = operational(..., "patches (netCDF), or folders of them", min_length=1)
    output: Path = operational(..., "folder for the products")
    checkpoint: CheckpointName = deciding("best", "checkpoint to map with: best, last, or one by its name (step-N)")
    mosaic: bool = deciding(False, "patches of one tile and year are also joined into one map")
    device: DeviceSettings = DeviceSettings()

    @field_validator("input", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [value] if isinstance(value, (str, Path)) else value


class CompareSettings(Settings):
    """Does choosing samples pay? F1 of several runs against steps, forward passes and seconds."""

    runs: list[Path] = operational(..., "run folders of crops-train; those that differ in the seed alone are averaged")
    out: Path = operational(Path("comparison"), "folder for the table (CSV, Markdown) and the picture")
    reference: str | None = operational(None, "name of the strategy to beat; none: the one without a selection")


def periods_of(text: str) -> list[int]:
    """Periods, from 1, of a text such as `4..9` or `3,5,7`.

    Raises:
        ValueError: it is no such text.
    """
    periods: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise ValueError(f"months {text!r}: give periods from 1, such as 4..9 or 3,5,7")
        periods += range(int(first), int(last if dots else first) + 1)
    if not periods or min(periods) < 1 or len(set(periods)) != len(periods):
        raise ValueError(f"months {text!r}: give each period once, from 1, such as 4..9 or 3,5,7")
    return periods
