"""The settings of the four commands; units stand in the help of each field."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from geocore.settings import (
    AnyNumber,
    CacheSettings,
    CheckpointName,
    DeviceSettings,
    EvaluationSettings,
    MappingSettings,
    RunSettings,
    SamplingSettings,
    Settings,
    TilingSettings,
    WorkerSettings,
    deciding,
    operational,
)

TASK = "snowpack"


class SplitSettings(Settings):
    """Shares of the pits that go into each split; the rest after train and val is test."""

    train: float = deciding(0.6, "share of the pits to train on", gt=0, lt=1)
    val: float = deciding(0.2, "share of the pits to choose checkpoint and threshold on", gt=0, lt=1)
    seed: int = deciding(0, "seed of the assignment", ge=0)
    allow_leaks: bool = deciding(False, "splits may show the same pixels, which is then a note")

    @model_validator(mode="after")
    def _leave_some_for_test(self) -> SplitSettings:
        if self.train + self.val >= 1:
            raise ValueError(
                f"train + val = {self.train + self.val:g} leaves nothing for test: make the sum less than 1"
            )
        return self


class PrepareSettings(Settings):
    """Pair photographs with their masks, split them by pit and measure their brightness."""

    data: Path = operational(..., "folder of photographs, each beside its mask (or in images/ and masks/)")
    out: Path = operational(..., "folder that receives dataset.yaml; the photographs stay where they are")
    mask_suffix: str = deciding("_mask", "a mask is called <stem><mask suffix>.<extension>")
    image_suffix: str = deciding("", "a photograph is called <stem><image suffix>.<extension>")
    ignore: int | None = deciding(255, "mask value of pixels without a label; none when every pixel has one")
    nodata: AnyNumber | None = deciding(
        None, "brightness of pixels that show no wall, such as 0 in rotated photographs"
    )
    pit: str | None = deciding(
        None, "regular expression whose first group, found in the stem, names the pit; none: every photograph its own"
    )
    split: SplitSettings = SplitSettings()


class ModelSettings(Settings):
    """The network."""

    variant: Literal["tiny", "small", "base-plus", "large"] = deciding("tiny", "Hiera encoder of SAM 2.1")
    weights: str = deciding("none", "none, official, or the path of an official SAM 2.1 checkpoint")
    normalization: Literal["dataset", "tile"] = deciding(
        "dataset", "brightness standardised with the statistics of the training photographs, or of each tile"
    )


class AugmentationSettings(Settings):
    """Changes to training tiles; a wall has an up and a down, so it is never flipped vertically or turned."""

    mirror: float = deciding(0.5, "probability of swapping left and right", ge=0, le=1)
    gain: float = deciding(0.1, "brightness is multiplied by 1 +- this", ge=0, lt=1)
    bias: float = deciding(0.3, "standardised brightness is shifted by up to +- this", ge=0)
    noise: float = deciding(0.1, "standard deviation of noise added to standardised brightness", ge=0)


class LossSettings(Settings):
    """What the network is asked for."""

    boundary_width_px: int = deciding(5, "boundaries are drawn this wide in the training target", ge=1, le=31)
    positive_weight: float = deciding(1.0, "weight of boundary pixels in the cross-entropy", gt=0)
    dice: float = deciding(1.0, "weight of the Dice loss beside the cross-entropy", ge=0)


class TrainSettings(CacheSettings, RunSettings):
    """Train a boundary network, or resume its training."""

    data: Path | None = operational(None, "data set made by snowpack-prepare; none: the built-in sample")
    run: Path | None = operational(None, "run folder; none: runs/snowpack-<recipe>-<hash>")
    patches_per_epoch: int = deciding(1000, "tiles drawn in an epoch; a grid has one of its own", gt=0)
    sampling: SamplingSettings = SamplingSettings()
    model: ModelSettings = ModelSettings()
    tiling: TilingSettings = TilingSettings(size=256, overlap=64)
    augmentation: AugmentationSettings = AugmentationSettings()
    loss: LossSettings = LossSettings()

    @field_validator("tiling")
    @classmethod
    def _fits_the_encoder(cls, tiling: TilingSettings) -> TilingSettings:
        if tiling.size % 32:
            raise ValueError(
                f"size {tiling.size}: SAM 2 needs a multiple of 32 px, such as {tiling.size // 32 * 32 or 32}"
            )
        return tiling


class EvaluateSettings(EvaluationSettings):
    """Score a checkpoint of a run beside the change-point baseline and the untrained network."""

    split: Literal["train", "val", "test"] = deciding("test", "split to score")


class PredictSettings(MappingSettings, WorkerSettings):
    """Trace the layers in photographs."""

    run: Path = operational(..., "run folder of snowpack-train")
    input: list[Path] = operational(..., "photographs, or folders of them", min_length=1)
    output: Path = operational(..., "folder for maps, overlays and layer tables")
    checkpoint: CheckpointName = deciding("best", "checkpoint to map with: best, last, or one by its name (step-N)")
    threshold: float | None = deciding(None, "boundary probability; none: the one chosen on validation", gt=0, lt=1)
    min_length_px: int = deciding(40, "boundaries shorter than this many pixels are dropped", ge=1)
    cm_per_px: float | None = deciding(None, "size of a pixel on the wall in cm; none: depths in pixels only", gt=0)
    device: DeviceSettings = DeviceSettings()

    @field_validator("input", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [value] if isinstance(value, (str, Path)) else value
