"""Mask R-CNN from the parts of torchvision, on any number of bands and at the size of the tile.

torchvision's own forward pass resizes photographs, subtracts the means of ImageNet and paints every mask at full size.
Here its backbone, proposal network and heads are called one after the other instead.

Shape letters: B batch, H and W rows and columns of the tile.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from slumps_detectron2.interface import Effort, Found
from slumps_detectron2.pretrained import Anatomy, is_official, load_pretrained, official_weights, read_pretrained

if TYPE_CHECKING:
    from slumps_detectron2.config import ModelSettings

_ANATOMY = Anatomy(
    first_filters="backbone.body.conv1.weight",
    last_layers=re.compile(r"roi_heads\.(box_predictor\.(cls_score|bbox_pred)|mask_predictor\.mask_fcn_logits)\."),
)
_LOSSES = {
    "objectness": "loss_objectness",
    "anchor_box": "loss_rpn_box_reg",
    "classifier": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
_OLD_NAMES = (
    (re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)"), r"\1.0.\2"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)"), r"\1.0.0.\2"),
)
_OLD_MASK_HEAD = re.compile(r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)")

STRIDE_PX = 32
"""Tiles are padded with zeros at the bottom and the right to a multiple of the coarsest level's stride."""


class TorchvisionDetector(nn.Module):
    """torchvision's Mask R-CNN, from normalized tiles to losses or detections."""

    def __init__(self, settings: ModelSettings, *, bands: int, classes: int, tile_px: int) -> None:
        """Build it with random weights.

        Args:
            settings: depth, normalization, anchors and what is kept of the detections.
            bands: bands of a tile.
            classes: kinds of objects, without the background.
            tile_px: edge of a training tile.
        """
        super().__init__()
        self.detections_per_tile = settings.detections_per_tile
        effort = Effort.of(tile_px**2, settings.detections_per_tile)
        self.net = MaskRCNN(
            _backbone(settings, bands),
            num_classes=classes + 1,
            rpn_anchor_generator=AnchorGenerator(
                sizes=tuple((edge,) for edge in settings.anchors_px), aspect_ratios=((0.5, 1.0, 2.0),) * 5
            ),
            # Sorting out 2000 candidates a level takes longer than classifying what is left of them on a small tile.
            rpn_pre_nms_top_n_train=min(4 * effort.proposals, 2000),
            rpn_post_nms_top_n_train=2 * effort.proposals,
            rpn_batch_size_per_image=effort.anchors,
            box_batch_size_per_image=effort.samples,
            box_score_thresh=settings.score_floor,
            box_nms_thresh=settings.nms_iou,
            box_detections_per_img=settings.detections_per_tile,
        )
        # The heads are as wide as the pyramid; at 256 channels they are those of the paper.
        width, heads = settings.width, self.net.roi_heads
        heads.box_head = TwoMLPHead(width * 7**2, 4 * width)
        heads.box_predictor = FastRCNNPredictor(4 * width, classes + 1)
        heads.mask_head = MaskRCNNHeads(width, (width,) * 4, 1)
        heads.mask_predictor = MaskRCNNPredictor(width, width, classes + 1)
        # torchvision starts mask logits at random values of order 1: from 0 the first steps are calmer.
        nn.init.normal_(heads.mask_predictor.mask_fcn_logits.weight, std=0.001)
        nn.init.zeros_(heads.mask_predictor.mask_fcn_logits.bias)
        # Boxes are computed in the type of what the heads return, and bfloat16 would round them to several pixels.
        for head in (self.net.rpn.head, heads.box_predictor, heads.mask_predictor):
            head.register_forward_hook(_in_float32)

    def card(self) -> dict[str, Any]:
        """What the settings do not say about the network."""
        return {}

    def losses(self, image: Tensor, objects: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Training losses.

        Args:
            image: shape (B, band, H, W), float32, normalized.
            objects: of each tile `boxes`, shape (n, 4), float32, left, top, right, bottom in pixels; `labels`, shape
                (n,), int64, position in the list of classes, from 0; `masks`, shape (n, H, W), uint8.

        Returns:
            Five scalars, by the names in `detections.LOSSES`.
        """
        targets = [{**tile, "labels": tile["labels"] + 1} for tile in objects]
        images, features = self._features(image)
        proposals, first = self.net.rpn(images, features, targets)
        _, second = self.net.roi_heads(features, proposals, images.image_sizes, targets)
        found = first | second
        return {name: found[theirs] for name, theirs in _LOSSES.items()}

    def detect(self, image: Tensor) -> list[Found]:
        """Detections of each tile.

        Args:
            image: shape (B, band, H, W), float32, normalized.
        """
        effort = Effort.of(math.prod(image.shape[-2:]), self.detections_per_tile)
        # Tiles in mapping may be larger than those in training; torchvision has no public way to say so.
        self.net.rpn._post_nms_top_n["testing"] = effort.proposals
        images, features = self._features(image)
        proposals, _ = self.net.rpn(images, features)
        tiles, _ = self.net.roi_heads(features, proposals, images.image_sizes)
        return [
            Found(
                boxes=tile["boxes"].float().cpu().numpy(),
                scores=tile["scores"].float().cpu().numpy(),
                classes=tile["labels"].cpu().numpy() - 1,
                masks=tile["masks"][:, 0].float().cpu().numpy(),
            )
            for tile in tiles
        ]

    def _features(self, image: Tensor) -> tuple[ImageList, dict[str, Tensor]]:
        rows, cols = image.shape[-2:]
        padded = functional.pad(image, (0, -cols % STRIDE_PX, 0, -rows % STRIDE_PX))
        return ImageList(padded, [(rows, cols)] * len(image)), self.net.backbone(padded)


def build_detector(settings: ModelSettings, *, bands: int, classes: int, tile_px: int) -> TorchvisionDetector:
    """A network that starts from random, given or official weights.

    Args:
        settings: architecture and weights.
        bands: bands of a tile.
        classes: kinds of objects, without the background.
        tile_px: edge of a training tile.

    Raises:
        WeightsError: the weights cannot be read safely, do not fit, or cannot be fetched.
    """
    detector = TorchvisionDetector(settings, bands=bands, classes=classes, tile_px=tile_px)
    if settings.weights == "none":
        return detector
    path = official_weights() if settings.weights == "official" else Path(settings.weights)
    state = {_present_name(name): value for name, value in read_pretrained(path).state.items()}
    if settings.norm == "frozen-batch" and is_official(path):
        _fold_statistics(state)
    load_pretrained(detector.net, state, path, _ANATOMY)
    return detector


def _backbone(settings: ModelSettings, bands: int) -> BackboneWithFPN:
    """A ResNet under a feature pyramid, all of it trainable."""
    norms: dict[str, Any] = {
        "group": partial(nn.GroupNorm, 32),
        "batch": nn.BatchNorm2d,
        "frozen-batch": FrozenBatchNorm2d,
    }
    norm = norms[settings.norm]
    body = getattr(resnet, f"resnet{settings.depth}")(weights=None, norm_layer=norm)
    if bands != body.conv1.in_channels:
        body.conv1 = nn.Conv2d(bands, body.conv1.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(body.conv1.weight, mode="fan_out", nonlinearity="relu")
    widths = [body.fc.in_features // 8 * factor for factor in (1, 2, 4, 8)]
    return BackboneWithFPN(
        body,
        return_layers={f"layer{level + 1}": str(level) for level in range(4)},
        in_channels_list=widths,
        out_channels=settings.width,
        # Pretrained pyramids have biases instead.
        norm_layer=norm if settings.norm == "group" else None,
    )


def _fold_statistics(state: dict[str, Tensor]) -> None:
    """Turn frozen statistics into factors and offsets alone.

    The published weights were trained without the small number that is now added to the variance before the root, and
    some of their variances are far smaller than it (torchvision's own loader sets it to 0 for them).
    """
    for name in [name.removesuffix(".running_var") for name in state if name.endswith(".running_var")]:
        factor = state[f"{name}.weight"] * state[f"{name}.running_var"].rsqrt()
        state[f"{name}.bias"] = state[f"{name}.bias"] - state[f"{name}.running_mean"] * factor
        state[f"{name}.weight"] = factor
        state[f"{name}.running_mean"] = torch.zeros_like(factor)
        state[f"{name}.running_var"] = torch.full_like(factor, 1 - FrozenBatchNorm2d(1).eps)


def _present_name(name: str) -> str:
    """Name of a parameter since torchvision 0.13; the published weights are older."""
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name) if pattern.fullmatch(name) else name
    if match := _OLD_MASK_HEAD.fullmatch(name):
        name = f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    return name


def _in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    return type(output)(_in_float32(module, inputs, part) for part in output)
