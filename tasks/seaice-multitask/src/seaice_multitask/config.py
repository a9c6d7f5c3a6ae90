"""The settings of the four commands; units stand in the help of each field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

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

TASK = "seaice"

WINNER_CHANNELS = [
    "nersc_sar_primary",
    "nersc_sar_secondary",
    "sar_incidenceangle",
    "distance_map",
    "btemp_18_7h",
    "btemp_18_7v",
    "btemp_36_5h",
    "btemp_36_5v",
    "u10m_rotated",
    "v10m_rotated",
    "t2m",
    "tcwv",
    "tclw",
    "month",
    "latitude",
    "longitude",
]
"""Inputs of the winner of the AutoICE challenge (Chen et al. 2024)."""


class WorkingSettings(Settings):
    """The grid that a network works on: every `downscale`-th pixel of the 80 m scene, along both axes."""

    downscale: int = deciding(10, "80 m pixels per working pixel along an axis; 10 is 800 m", ge=1, le=50)
    sar_reduction: Literal["mean", "nearest"] = deciding(
        "mean", "a working pixel of the radar planes is the mean of its valid 80 m pixels, or the one in its middle"
    )
    chart_reduction: Literal["majority", "nearest"] = deciding(
        "majority",
        "a working pixel of a chart is its most frequent class, masked pixels left out, or the middle one",
    )


class SplitSettings(Settings):
    """Shares of the scenes, where no list says which scene is which."""

    train: float = deciding(0.7, "share of the scenes to train on", gt=0, lt=1)
    val: float = deciding(0.15, "share of the scenes to choose the checkpoint on", gt=0, lt=1)
    seed: int = deciding(0, "seed of the assignment", ge=0)
    allow_leaks: bool = deciding(False, "splits may show the same pixels, which is then a note")

    @model_validator(mode="after")
    def _leave_some_for_test(self) -> SplitSettings:
        if self.train + self.val >= 1:
            raise ValueError(
                f"train + val = {self.train + self.val:g} leaves nothing for test: make the sum less than 1"
            )
        return self


class PrepareSettings(WorkerSettings):
    """List scenes, divide them, and put their planes on the working grid."""

    data: Path = operational(..., "folder of AI4Arctic scenes (ready-to-train *_prep.nc, raw *_icechart_*.nc, or both)")
    out: Path = operational(..., "folder for dataset.yaml and the cache of working planes; scenes stay in place")
    references: Path | None = operational(None, "folder of *_prep_reference.nc for scenes without charts of their own")
    train_list: Path | None = deciding(
        None, "JSON list of file names to train and validate on, as the challenge's dataset.json"
    )
    val_list: Path | None = deciding(None, "JSON list of those among them to validate on")
    test_list: Path | None = deciding(None, "JSON list of file names to test on, as the challenge's testset.json")
    channels: list[str] = deciding(WINNER_CHANNELS, "input planes by name, in any order", min_length=1)
    working: WorkingSettings = WorkingSettings()
    patch: int = deciding(256, "edge of a training window, working pixels", ge=16)
    split: SplitSettings = SplitSettings()


class OutputSettings(Settings):
    """One thing that the network says about every pixel."""

    kind: Literal["classes", "regression"] = deciding("classes", "one class of several, or a number that is rounded")
    classes: int = deciding(..., "number of classes; a regression is clamped to 0 ... classes - 1", ge=2, le=254)
    loss: Literal["cross-entropy", "mean-square"] = deciding("cross-entropy", "mean-square for a regression")
    weight: float = deciding(1.0, "weight of its loss", ge=0)
    ignore: int = deciding(255, "chart value of pixels that neither train nor score", ge=0, le=255)
    decoder: Literal["shared", "own"] = deciding("shared", "last layer on a decoder shared with others, or on its own")

    @model_validator(mode="after")
    def _loss_fits_kind(self) -> OutputSettings:
        if (self.kind == "regression") != (self.loss == "mean-square"):
            raise ValueError(
                f"loss {self.loss} with kind {self.kind}: a regression takes mean-square, classes take cross-entropy"
            )
        return self


AUTOICE_OUTPUTS = {
    "SIC": OutputSettings(kind="regression", classes=11, loss="mean-square", weight=1.0),
    "SOD": OutputSettings(classes=6, weight=3.0),
    "FLOE": OutputSettings(classes=7, weight=3.0),
}


class ModelSettings(Settings):
    """The network: the winner's U-Net, or a backbone and a decode head of mmsegmentation."""

    kind: Literal["unet", "mmseg"] = deciding("unet", "the challenge winner's U-Net, or mmsegmentation's parts")
    widths: list[int] = deciding([32, 32, 64, 64], "filters of the U-Net's levels", min_length=2)
    backbone: dict[str, Any] = deciding({}, "mmsegmentation's configuration of the backbone, type included (mmseg)")
    decode_head: dict[str, Any] = deciding(
        {}, "mmsegmentation's configuration of the decode head, with its type (mmseg)"
    )
    weights: str = deciding("none", "none, or the path of backbone weights (mmseg)")

    @model_validator(mode="after")
    def _parts_are_there(self) -> ModelSettings:
        if self.kind == "mmseg" and not ("type" in self.backbone and "type" in self.decode_head):
            raise ValueError(
                "kind mmseg needs backbone and decode_head, each with its type, as in the recipe segformer-b2"
            )
        if self.kind == "unet" and self.weights != "none":
            raise ValueError(f"weights {self.weights}: the U-Net takes none; remove it, or take model.kind mmseg")
        return self


class AugmentationSettings(Settings):
    """Changes to training windows; winds turn with the image."""

    turn: bool = deciding(True, "mirror and turn by quarter circles")
    cutmix: float = deciding(0.5, "probability of pasting a rectangle of another window of the batch", ge=0, le=1)


class TrainSettings(RunSettings):
    """Train a network for ice concentration, stage of development and floe size, or resume its training."""

    data: Path | None = operational(None, "data set made by seaice-prepare; none: the built-in sample")
    run: Path | None = operational(None, "run folder; none: runs/seaice-<recipe>-<hash>")
    outputs: dict[str, OutputSettings] = deciding(AUTOICE_OUTPUTS, "name of the chart -> what is said about it")
    patches_per_epoch: int = deciding(8000, "windows drawn in an epoch", gt=0)
    model: ModelSettings = ModelSettings()
    tiling: TilingSettings = TilingSettings(size=512, overlap=128)
    augmentation: AugmentationSettings = AugmentationSettings()

    @field_validator("outputs")
    @classmethod
    def _at_least_one(cls, outputs: dict[str, OutputSettings]) -> dict[str, OutputSettings]:
        if not outputs:
            raise ValueError("at least one output is needed, such as SIC")
        return outputs


class EvaluateSettings(EvaluationSettings):
    """Score a checkpoint of a run at 80 m, as the challenge does, beside its baselines."""

    split: Literal["train", "val", "test"] = deciding("test", "split to score")


class PredictSettings(MappingSettings, WorkerSettings):
    """Map whole scenes on their 80 m grid."""

    run: Path = operational(..., "run folder of seaice-train")
    input: list[Path] = operational(..., "scenes (netCDF), or folders of them", min_length=1)
    output: Path = operational(..., "folder for the products")
    checkpoint: CheckpointName = deciding("best", "checkpoint to map with: best, last, or one by its name (step-N)")
    flips: bool = deciding(False, "average over the four mirror images")
    resolution_m: float = deciding(0.0, "pixel of the polar stereographic maps, m; 0: working resolution", ge=0)
    upload: bool = deciding(True, "also write the challenge's upload file, upload_package.nc")
    chunk_px: int = deciding(4096, "edge of the part of a scene that one job maps, working pixels", ge=64)
    plan: bool = operational(False, "say what each scene takes (tiles, bytes, memory, time) and map none")
    device: DeviceSettings = DeviceSettings()

    @field_validator("input", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [value] if isinstance(value, (str, Path)) else value
