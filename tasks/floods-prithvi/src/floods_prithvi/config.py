"""The settings of the four commands; units stand in the help of each field."""

from __future__ import annotations

from datetime import date as day
from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator

from geocore.settings import (
    AnyNumber,
    CacheSettings,
    CheckpointName,
    ClassSamplingSettings,
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

TASK = "floods"

SIX_BANDS = ["blue", "green", "red", "nir_narrow", "swir_1", "swir_2"]
"""The bands that Prithvi was trained on, in its order."""

Format = Literal["sen1floods11", "burn-scars", "frames"]
Variant = Literal["v1-100m", "v2-tiny", "v2-100m", "v2-300m", "v2-600m", "crop-6"]


class SplitSettings(Settings):
    """Shares of the groups (flood events, image tiles), where no list says which chip is which."""

    train: float = deciding(0.7, "share of the chips to train on", gt=0, lt=1)
    val: float = deciding(0.15, "share of the chips to choose the checkpoint on", gt=0, lt=1)
    seed: int = deciding(0, "seed of the assignment", ge=0)
    allow_leaks: bool = deciding(False, "splits may show the same ground or the same pixels, which is then a note")

    @model_validator(mode="after")
    def _leave_some_for_test(self) -> SplitSettings:
        if self.train + self.val >= 1:
            raise ValueError(
                f"train + val = {self.train + self.val:g} leaves nothing for test: make the sum less than 1"
            )
        return self


class PrepareSettings(Settings):
    """List chips and their labels, check them, divide them, and measure the bands."""

    data: Path = operational(..., "folder of the chips as they were published, in any depth of folders")
    out: Path = operational(..., "folder for dataset.yaml; chips stay in place")
    format: Format = deciding(
        "sen1floods11",
        "sen1floods11 (*_S2Hand.tif, *_LabelHand.tif), burn-scars (*_merged.tif, *.mask.tif), or frames (chips of "
        "several dates, bands of the first date first)",
    )
    bands: list[str] | None = deciding(
        None, "names, or numbers from 1, of the file's bands that stand for the six, in their order; none: by name"
    )
    frames: int = deciding(3, "dates in a chip (format frames)", ge=1)
    classes: dict[int, str] | None = deciding(None, "label value and name of each class; none: those of the format")
    ignore: list[int] | None = deciding(
        None, "label values of pixels that neither train nor score; none: those of the format"
    )
    scale: float | None = deciding(
        None, "reflectance of one stored unit; none: as each file says, else 0.0001, and 1 for burn-scars", gt=0
    )
    offset: float | None = deciding(None, "reflectance of a stored zero; none: as each file says, else 0")
    nodata: AnyNumber | None = deciding(
        None, "stored value of missing pixels; none: as each file says, else as the format does"
    )
    lists: Path | None = deciding(
        None,
        "folder of split lists (flood_train_data.csv, ..., or train.txt, val.txt, test.txt); none: those found "
        "below data, else shares of the groups",
    )
    metadata: Path | None = operational(
        None, "GeoJSON with the dates of flood events; none: Sen1Floods11_Metadata.geojson where it lies below data"
    )
    split: SplitSettings = SplitSettings()


class ModelSettings(Settings):
    """A Prithvi backbone with a small head."""

    variant: Variant = deciding("v1-100m", "backbone; crop-6 is that of the published multi-temporal crop model")
    coordinates: bool = deciding(False, "time and location as inputs (v2 variants whose weights end in TL)")
    head: Literal["fcn", "unet"] = deciding(
        "fcn", "fcn: transposed convolutions and an FCN head, as released; unet: a pyramid of four blocks and a U-Net"
    )
    auxiliary: float = deciding(0.0, "weight of a second FCN head in training, 0: none (fcn)", ge=0)
    dropout: float = deciding(0.1, "dropout in front of the last layer", ge=0, lt=1)
    positions: Literal["interpolated", "regenerated"] = deciding(
        "interpolated",
        "position code for sizes other than that of pre-training: bicubic, or made anew for the larger grid",
    )
    weights: str = deciding("none", "none, or the path of Prithvi's or of a published fine-tuned checkpoint")
    resize_px: int | None = deciding(
        None, "edge that a tile is brought to before the network, pixels; none: as it is", ge=16
    )
    freeze: bool = deciding(False, "train the head alone")
    layer_decay: float = deciding(
        1.0, "factor on the learning rate from each block of the backbone to the one before it", gt=0, le=1
    )


class LossSettings(Settings):
    """What is minimised over labelled pixels."""

    kind: Literal["cross-entropy", "dice"] = deciding("cross-entropy", "loss")
    class_weights: list[float] | None = deciding(None, "weight of each class (cross-entropy); none: equal")


class AugmentationSettings(Settings):
    """Changes to training tiles."""

    flip: float = deciding(0.5, "probability of a mirror image, along each axis", ge=0, le=1)
    turn: bool = deciding(True, "turn by quarter circles")


class BaselineSettings(Settings):
    """The U-Net that evaluation trains once beside the index threshold."""

    steps: int = deciding(200, "optimizer steps; 0: no U-Net", ge=0)
    batch_size: int = deciding(4, "tiles in a batch", gt=0)
    learning_rate: float = deciding(1e-3, "highest learning rate", gt=0)
    encoder: str = deciding("resnet18", "encoder of segmentation-models-pytorch")


class TrainSettings(CacheSettings, RunSettings):
    """Fine-tune a Prithvi backbone, or resume it."""

    data: Path | None = operational(None, "data set made by floods-prepare; none: the built-in sample")
    run: Path | None = operational(None, "run folder; none: runs/floods-<recipe>-<hash>")
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    tiling: TilingSettings = TilingSettings(size=224, overlap=112)
    patches_per_epoch: int = deciding(1000, "windows drawn in an epoch; a grid has one of its own", gt=0)
    sampling: ClassSamplingSettings = ClassSamplingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    baseline: BaselineSettings = BaselineSettings()

    @model_validator(mode="after")
    def _parts_fit(self) -> TrainSettings:
        from floods_prithvi.variants import VARIANTS

        if self.model.weights == "official":
            file = VARIANTS[self.model.variant].official_file
            raise ValueError(f"model.weights official: nothing is downloaded here; get {file} and give its path")
        if self.model.auxiliary and self.model.head != "fcn":
            raise ValueError("model.auxiliary belongs to model.head fcn: set it to 0")
        if self.loss.class_weights is not None and self.loss.kind == "dice":
            raise ValueError("loss.class_weights belong to cross-entropy: leave them out with dice")
        if self.model.coordinates and not self.model.variant.startswith("v2"):
            raise ValueError(f"model.coordinates with {self.model.variant}: only v2 variants take time and location")
        return self


class EvaluateSettings(EvaluationSettings):
    """Score a checkpoint of a run, or a published checkpoint, beside its baselines."""

    split: str = deciding("test", "split to score: train, val, test, or another of the data set such as bolivia")


class PredictSettings(MappingSettings, WorkerSettings):
    """Map whole scenes."""

    run: Path = operational(..., "run folder of floods-train")
    input: list[Path | str] = operational(
        ...,
        "scenes (GeoTIFF, its http(s):// or s3:// address, Sentinel-2 SAFE folder, HLS granule, YAML list of bands and "
        "their files), or folders of them",
        min_length=1,
    )
    output: Path = operational(..., "folder for the products")
    checkpoint: CheckpointName = deciding("best", "checkpoint to map with: best, last, or one by its name (step-N)")
    bands: list[str] | None = operational(
        None, "names, or numbers from 1, of the scenes' bands that stand for the six, in their order; none: by name"
    )
    scale: float | None = operational(
        None, "reflectance of one stored unit; none: as the scene says, else as in the data set", gt=0
    )
    offset: float | None = operational(
        None, "reflectance of a stored zero; none: as the scene says, else as in the data set"
    )
    nodata: AnyNumber | None = operational(
        None, "stored value of missing pixels; none: as the scene says, else as in the data set"
    )
    mask: str | None = operational(
        None,
        "mask band of the scenes with the values or bits that are not mapped: SCL:3,8,9,10 or Fmask:bit1,bit3",
    )
    date: str | None = operational(None, "date of the scenes (YYYY-MM-DD), for networks that take time and location")
    min_area_m2: float = deciding(0.0, "smaller polygons are left out, m2", ge=0)
    flips: bool = deciding(False, "average over the four mirror images")
    chunk_px: int = deciding(16384, "edge of the part of a scene that one job maps, pixels", ge=256)
    plan: bool = operational(False, "say what each scene takes (tiles, bytes, memory, time) and map none")
    device: DeviceSettings = DeviceSettings()

    @field_validator("date")
    @classmethod
    def _dates(cls, dates: str | None) -> str | None:
        for word in (dates or "").split():
            try:
                day.fromisoformat(word)
            except ValueError:
                raise ValueError(f"{word!r} is no date: give YYYY-MM-DD, several in quotation marks") from None
        return dates

    @field_validator("input", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [value] if isinstance(value, (str, Path)) else value


class ImportSettings(Settings):
    """Make a run folder of a published fine-tuned checkpoint, to be evaluated and to map scenes."""

    weights: Path = operational(..., "published mmsegmentation checkpoint (.pth)")
    run: Path = operational(..., "run folder to make")
    published: Literal["sen1floods11", "burn-scars", "multi-temporal-crop"] = deciding(
        "sen1floods11", "which of the three: says what bands, statistics, classes and network the file goes with"
    )
