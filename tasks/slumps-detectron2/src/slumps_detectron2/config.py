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
    Settings,
    TilingSettings,
    WorkerSettings,
    deciding,
    operational,
)
from geocore.vector.attributes import parse_where

TASK = "slumps"

LabelKind = Literal["binary", "classes", "instances"]


class SplitSettings(Settings):
    """How ground is divided; the rest after train and val is test."""

    by: Literal["region", "block"] = deciding(
        "region", "whole regions (the region column; without one every scene its own), or square blocks of each scene"
    )
    train: float = deciding(0.6, "share of the ground to train on", gt=0, lt=1)
    val: float = deciding(0.2, "share of the ground to choose checkpoint and threshold on", gt=0, lt=1)
    seed: int = deciding(0, "seed of the assignment", ge=0)
    block_px: int = deciding(1024, "edge of a block, pixels", ge=16)
    buffer_px: int = deciding(32, "width of the unused strip between two blocks, pixels", ge=0)
    allow_leaks: bool = deciding(False, "splits may show the same ground or the same pixels, which is then a note")

    @model_validator(mode="after")
    def _leave_some_for_test(self) -> SplitSettings:
        if self.train + self.val >= 1:
            raise ValueError(
                f"train + val = {self.train + self.val:g} leaves nothing for test: make the sum less than 1"
            )
        if self.by == "block" and self.buffer_px > self.block_px // 2:
            raise ValueError(f"buffer_px {self.buffer_px} leaves little of blocks of {self.block_px} px: lower it")
        return self


class CutSettings(Settings):
    """Which windows of the ground a model is trained on."""

    size: int = deciding(256, "edge of a training tile, pixels", ge=32)
    stride: int = deciding(128, "pixels from one tile to the next; below size the tiles overlap", ge=8)
    negatives: float = deciding(1.0, "tiles without a slump, as a multiple of those with one", ge=0)
    least_slump_px: int = deciding(16, "a slump, or the part of it in a tile, counts from this many pixels", ge=1)
    least_valid: float = deciding(0.5, "share of a tile's pixels that must be valid and not ignored", gt=0, le=1)


class PrepareSettings(Settings):
    """Turn label rasters or outlines into instances, divide the ground, and measure the bands.

    Either a table of pairs (--data) or one pair (--image and --label).
    """

    data: Path | None = operational(None, "CSV of pairs with columns image, label and, where wanted, region and split")
    image: Path | None = operational(None, "scene of a one-pair run", short="-i")
    label: list[Path] = operational(
        [], "its label raster or outlines; several: one per expert, and what half of them marked is true", short="-l"
    )
    out: Path = operational(..., "folder for dataset.yaml and the instance rasters; scenes stay in place", short="-o")
    bands: list[str] | None = deciding(None, "names or numbers (from 1) of the bands to use; none: all", short="-b")
    label_kind: LabelKind | None = deciding(
        None,
        "what a label raster holds: binary (not 0 is slump), classes (one value per kind of object) or instances "
        "(one value per object); none: binary where the values are 0 and 255",
    )
    class_names: dict[int, str] = deciding(
        {1: "slump"}, "value and name of each kind of object in a classes raster or a label column"
    )
    label_column: str | None = deciding(
        None, "column of outlines that holds their class, as a value or name of class_names; none: all are of class 1"
    )
    where: list[str] = deciding(
        [], "outlines that count: COLUMN=VALUE; several values of one column are alternatives; none: all"
    )
    ignore: int | None = deciding(None, "label value of pixels that neither train nor score; never assumed")
    like: bool = deciding(False, "clip each scene to its label raster, where that covers a part of it only")
    nodata: AnyNumber | None = deciding(None, "value of invalid pixels of the scenes; none: as each file says")
    scale: float | None = deciding(None, "physical value of one stored unit; none: as each file says", gt=0)
    offset: float | None = deciding(None, "physical value of a stored zero; none: as each file says")
    split: SplitSettings = SplitSettings()
    cut: CutSettings = CutSettings()

    @model_validator(mode="after")
    def _one_source(self) -> PrepareSettings:
        one_pair = self.image is not None or bool(self.label)
        if (self.data is not None) == one_pair or (one_pair and (self.image is None or not self.label)):
            raise ValueError("give either --data CSV, or both --image (-i) and --label (-l)")
        if self.ignore == 0:
            raise ValueError("ignore = 0: 0 is background; give the value of pixels that nobody looked at")
        parse_where(self.where)
        bad = [value for value in self.class_names if not 1 <= value <= 254]
        if bad or not self.class_names:
            raise ValueError(f"class_names {bad or 'is empty'}: values of classes run from 1 to 254")
        return self


class ModelSettings(Settings):
    """Mask R-CNN."""

    backend: Literal["torchvision", "detectron2"] = deciding("torchvision", "library that holds the network")
    depth: Literal[18, 34, 50, 101] = deciding(50, "layers of the ResNet under the feature pyramid")
    weights: str = deciding(
        "none", "none, official (COCO; depth 50), or the path of a checkpoint of the same architecture"
    )
    norm: Literal["group", "batch", "frozen-batch"] = deciding(
        "group", "normalization in the ResNet; pretrained weights need frozen-batch or batch"
    )
    yaml: Path | None = deciding(None, "detectron2 configuration whose architecture keys are taken over (detectron2)")
    width: int = deciding(
        256, "channels of the feature pyramid and the heads, a multiple of 32; pretrained weights need 256", ge=32
    )
    anchors_px: list[int] = deciding(
        [32, 64, 128, 256, 512], "edge of the anchors on the five levels of the pyramid, ascending, pixels"
    )
    standardisation: Literal["global", "local"] = deciding(
        "global", "bands standardised with the statistics of the data set, or of each tile"
    )
    score_floor: float = deciding(0.05, "detections with a lower score are dropped at once", gt=0, lt=1)
    nms_iou: float = deciding(0.5, "of detections of a tile whose boxes overlap more, the best stays", gt=0, lt=1)
    detections_per_tile: int = deciding(100, "best detections of a tile that are kept", ge=1)

    @model_validator(mode="after")
    def _official_weights_fit(self) -> ModelSettings:
        official = self.weights == "official" and self.backend == "torchvision"
        if official and (self.depth != 50 or self.norm == "group"):
            raise ValueError(
                f"weights official with depth {self.depth} and norm {self.norm}: official weights are of depth 50 with "
                "batch statistics; set model.depth to 50 and model.norm to frozen-batch"
            )
        return self

    @field_validator("width")
    @classmethod
    def _whole_groups(cls, width: int) -> int:
        if width % 32:
            raise ValueError(f"width {width}: must be a multiple of 32, such as {max(width // 32, 1) * 32}")
        return width

    @field_validator("anchors_px")
    @classmethod
    def _five_levels(cls, anchors: list[int]) -> list[int]:
        if len(anchors) != 5 or sorted(set(anchors)) != anchors or anchors[0] < 4:
            raise ValueError("five ascending sizes of at least 4 px are needed, such as 8 16 32 64 128")
        return anchors


class AugmentationSettings(Settings):
    """Changes to training tiles; a slump seen from above has neither an up nor a left."""

    turn: bool = deciding(True, "mirror and turn by quarter circles, all eight positions equally often")
    gain: float = deciding(0.1, "standardised values are multiplied by 1 +- this", ge=0, lt=1)
    bias: float = deciding(0.2, "standardised values are shifted by up to +- this", ge=0)
    noise: float = deciding(0.05, "standard deviation of noise added to standardised values", ge=0)


class LossSettings(Settings):
    """Weights of the parts of the Mask R-CNN loss."""

    objectness: float = deciding(1.0, "anchors: object or background", ge=0)
    anchor_box: float = deciding(1.0, "anchors: shift to the object's box", ge=0)
    classifier: float = deciding(1.0, "proposals: class", ge=0)
    box: float = deciding(1.0, "proposals: shift to the object's box", ge=0)
    mask: float = deciding(1.0, "proposals: mask", ge=0)


class BaselineSettings(Settings):
    """The semantic U-Net whose connected components are scored beside the model."""

    encoder: str = deciding("resnet18", "encoder of segmentation-models-pytorch")
    steps: int = deciding(300, "optimizer steps", gt=0)
    batch_size: int = deciding(8, "tiles in a batch", gt=0)
    learning_rate: float = deciding(1e-3, "highest learning rate", gt=0)


class TrainSettings(CacheSettings, RunSettings):
    """Train a Mask R-CNN on a data set, or resume its training."""

    data: Path | None = operational(None, "data set made by slumps-prepare; none: the built-in sample")
    run: Path | None = operational(None, "run folder; none: runs/slumps-<recipe>-<hash>")
    model: ModelSettings = ModelSettings()
    tiling: TilingSettings = TilingSettings(size=512, overlap=128)
    score_threshold: float | None = deciding(
        None, "objects with a lower score are left out; none: the one with the best F1 on validation", gt=0, lt=1
    )
    augmentation: AugmentationSettings = AugmentationSettings()
    loss: LossSettings = LossSettings()
    baseline: BaselineSettings = BaselineSettings()

    @field_validator("tiling")
    @classmethod
    def _overlap_joins(cls, tiling: TilingSettings) -> TilingSettings:
        if tiling.overlap < 2:
            raise ValueError(f"overlap {tiling.overlap}: objects are joined where tiles overlap; give at least 2 px")
        return tiling


class EvaluateSettings(EvaluationSettings):
    """Score a checkpoint of a run beside the U-Net baseline and the untrained network."""

    split: Literal["train", "val", "test"] = deciding("test", "split to score")


class PredictSettings(MappingSettings, WorkerSettings):
    """Map the slumps of whole scenes."""

    run: Path = operational(..., "run folder of slumps-train")
    input: list[Path | str] = operational(
        ...,
        "scenes (GeoTIFF, its http(s):// or s3:// address, Sentinel-2 SAFE folder, HLS granule, YAML list of bands and "
        "their files), or folders of them",
        min_length=1,
    )
    output: Path = operational(..., "folder for rasters and polygons")
    checkpoint: CheckpointName = deciding("best", "checkpoint to map with: best, last, or one by its name (step-N)")
    bands: list[str] | None = deciding(
        None, "bands of the scenes, by name or number, in the order of the model's; none: by the model's names"
    )
    scale: float | None = deciding(
        None,
        "physical value of one stored unit, in the unit of the training data; none: as the scene says, else as those",
        gt=0,
    )
    offset: float | None = deciding(None, "physical value of a stored zero; none: as for scale")
    nodata: AnyNumber | None = deciding(
        None, "value of invalid pixels of the scenes; none: as the scene says, else as in the training data"
    )
    mask: str | None = deciding(
        None,
        "mask band of the scenes with the values or bits that are not mapped: SCL:3,8,9,10 or Fmask:bit1,bit3",
    )
    threshold: float | None = deciding(None, "score of an object; none: the one of the run", gt=0, lt=1)
    min_area_m2: float = deciding(0.0, "minimum mapping unit: smaller objects are dropped, m2", ge=0)
    chunk_px: int = deciding(8192, "edge of the part of a scene that one job maps, pixels", ge=256)
    plan: bool = operational(False, "say what each scene takes (tiles, bytes, memory, time) and map none")
    device: DeviceSettings = DeviceSettings()

    @field_validator("input", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [value] if isinstance(value, (str, Path)) else value
