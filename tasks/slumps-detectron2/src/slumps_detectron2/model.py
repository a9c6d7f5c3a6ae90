"""The network of the task: a Mask R-CNN of either backend between normalization and the pixels of objects.

Shape letters: B batch, H and W rows and columns of the tile.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from geocore.datasets.shift import TrainedOn
from geocore.errors import CheckpointError, DataError
from geocore.raster.scene import Layer
from geocore.training.pretrained import load_strictly
from geocore.transforms.normalize import Normalize
from slumps_detectron2.config import TASK, ModelSettings
from slumps_detectron2.data import IMAGE, INSTANCES
from slumps_detectron2.detections import TileOutput
from slumps_detectron2.paste_masks import detections

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.training.checkpoint import Checkpoint
    from slumps_detectron2.detectron import Detectron2Detector
    from slumps_detectron2.mask_rcnn import TorchvisionDetector

    Detector = TorchvisionDetector | Detectron2Detector

logger = logging.getLogger(__name__)

_IN_CARD = {"backend", "depth", "norm", "width", "anchors_px", "score_floor", "nms_iou", "detections_per_tile"}
"""Settings without which the same network cannot be built again; the weights are in the checkpoint."""


class SlumpNet(nn.Module):
    """Tiles in, objects out; normalization inside, so that it travels with the weights."""

    class_values: Tensor

    def __init__(
        self,
        detector: Detector,
        normalize: Normalize,
        layer: Layer,
        classes: Mapping[int, str],
        settings: ModelSettings,
        *,
        tile_px: int,
    ) -> None:
        """Put the parts together.

        Args:
            detector: Mask R-CNN of one backend, on the bands of `layer` and as many classes.
            normalize: normalizes the layer `image`.
            layer: bands and nodata rule of the scenes.
            classes: value and name of each kind of object.
            settings: what the detector was built from.
            tile_px: edge of a training tile.
        """
        super().__init__()
        self.layer = layer
        self.classes = dict(sorted(classes.items()))
        self.settings = settings
        self.tile_px = tile_px
        self.normalize = normalize
        self.detector = detector
        self.register_buffer("class_values", torch.tensor(list(self.classes)), persistent=False)

    @property
    def trained_on(self) -> TrainedOn:
        """What the numbers of its training data were."""
        return TrainedOn.of(self.normalize.card()["layers"][IMAGE], self.layer, "training scenes")

    def card(self) -> dict[str, Any]:
        """What a checkpoint says about the network, so that `restore_model` can build it again."""
        return {
            "model": {
                "settings": self.settings.model_dump(mode="json", include=_IN_CARD),
                "tile_px": self.tile_px,
                "detector": self.detector.card(),
            },
            "classes": {str(value): name for value, name in self.classes.items()},
            "layer": self.layer.to_dict(),
            "normalize": self.normalize.card(),
        }

    def forward(self, image: Tensor, objects: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Training losses of normalized tiles; training augments between `normalize` and this.

        A tile may have no objects; every loss hangs on the graph all the same.

        Args:
            image: shape (B, band, H, W), float32, as `normalize` returns it.
            objects: of each tile `boxes`, shape (n, 4), float32, left, top, right, bottom in pixels, right and bottom
                exclusive; `labels`, shape (n,), int64, class values; `masks`, shape (n, H, W), uint8, 1 on the object.

        Returns:
            Scalars, means over what was sampled in the batch: `objectness` and `anchor_box` of the proposals,
            `classifier`, `box` and `mask` of the objects.

        Raises:
            ValueError: the network is in evaluation mode.
        """
        if not self.training:
            raise ValueError("losses are computed in training mode")
        indexed = [{**tile, "labels": torch.searchsorted(self.class_values, tile["labels"])} for tile in objects]
        return self.detector.losses(image, indexed)

    def detect(self, inputs: dict[str, dict[str, Tensor]]) -> list[TileOutput]:
        """Objects of tiles as they are stored.

        Args:
            inputs: layer `image` with `values`, shape (B, band, H, W), any dtype, and `valid`, shape (B, 1 or band, H,
                W), bool.

        Returns:
            Of each tile its objects, best first, and the pixels that are valid in all bands.

        Raises:
            ValueError: the network is in training mode.
        """
        if self.training:
            raise ValueError("objects are found in evaluation mode")
        with torch.no_grad():
            found = self.detector.detect(self.normalize(inputs)[IMAGE])
        valid = inputs[IMAGE]["valid"].all(dim=1).cpu().numpy()
        values = tuple(self.classes)
        return [TileOutput(detections(tile, values, mask.shape), mask) for tile, mask in zip(found, valid, strict=True)]


def build_model(dataset: Dataset, settings: ModelSettings, *, tile_px: int) -> SlumpNet:
    """A network for a data set, in training mode, on the CPU.

    Args:
        dataset: its scenes' bands and statistics and its classes. A pretrained first convolution is adapted to the
            bands; it is never frozen.
        settings: backend, architecture, weights and standardisation.
        tile_px: edge of a training tile. Proposals and samples follow its area.

    Raises:
        DataError: the data set has no statistics.
        SettingsError: the backend is not installed, or its configuration file cannot be used.
        WeightsError: the weights cannot be read safely, do not fit, or cannot be fetched.
    """
    layer = dataset.layers[IMAGE]
    if dataset.statistics is None:
        raise DataError(f"{dataset.root}: no statistics: prepare the data again")
    if settings.norm == "frozen-batch" and settings.weights == "none":
        logger.warning("model.norm = frozen-batch without pretrained weights normalizes nothing: group suits better")
    mode: Literal["tile", "dataset"] = "tile" if settings.standardisation == "local" else "dataset"
    normalize = Normalize(dataset.statistics, {IMAGE: layer.bands}, mode=mode)
    classes = dataset.labels[INSTANCES].classes
    sizes = {"bands": len(layer.bands), "classes": len(classes), "tile_px": tile_px}
    detector: Detector
    if settings.backend == "detectron2":
        from slumps_detectron2.detectron import build_detector as build_detectron2

        detector = build_detectron2(settings, **sizes)
    else:
        from slumps_detectron2.mask_rcnn import build_detector

        detector = build_detector(settings, **sizes)
    return SlumpNet(detector, normalize, layer, classes, settings, tile_px=tile_px)


def restore_model(checkpoint: Checkpoint) -> SlumpNet:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the checkpoint is not one of this task, or does not fit the network that its card describes.
        SettingsError: its backend is not installed.
    """
    card = checkpoint.card
    if card.get("task") != TASK:
        raise CheckpointError(f"{checkpoint.path} belongs to the task {card.get('task')!r}: give a run of {TASK}-train")
    try:
        layer = Layer.from_dict(IMAGE, card["layer"])
        described = card["model"]
        settings = ModelSettings.model_validate(described["settings"])
        classes = {int(value): name for value, name in card["classes"].items()}
        sizes = {"bands": len(layer.bands), "classes": len(classes), "tile_px": int(described["tile_px"])}
        keys = described["detector"].get("keys", {})
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: the card does not describe the network ({type(error).__name__}): train again"
        ) from error
    normalize = Normalize.from_card(card["normalize"], {IMAGE: layer.bands})
    detector: Detector
    if settings.backend == "detectron2":
        from slumps_detectron2.detectron import Detectron2Detector

        detector = Detectron2Detector(settings, **sizes, keys=keys)
    else:
        from slumps_detectron2.mask_rcnn import TorchvisionDetector

        detector = TorchvisionDetector(settings, **sizes)
    network = SlumpNet(detector, normalize, layer, classes, settings, tile_px=sizes["tile_px"])
    load_strictly(network, checkpoint.model(), checkpoint.path)
    return network.eval()
