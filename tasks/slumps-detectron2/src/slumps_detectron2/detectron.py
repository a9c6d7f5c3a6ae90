"""Mask R-CNN from detectron2, on any number of bands and at the size of the tile.

The only module that imports `detectron2`, which is not on PyPI and therefore imported inside functions. Its own
settings are a tree of keys; ours fill it, and a configuration file of detectron2 may change keys of the architecture.

Shape letters: B batch, H and W rows and columns of the tile.
"""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from geocore.errors import SettingsError
from slumps_detectron2.architecture import Keys, fixed_keys, keys_from_settings, read_keys
from slumps_detectron2.interface import Effort, Found
from slumps_detectron2.pretrained import Anatomy, load_pretrained, read_pretrained

if TYPE_CHECKING:
    from slumps_detectron2.config import ModelSettings

_ANATOMY = Anatomy(
    first_filters="backbone.bottom_up.stem.conv1.weight",
    last_layers=re.compile(r"roi_heads\.(box_predictor\.(\d\.)?(cls_score|bbox_pred)|mask_head\.predictor)\."),
)
_LOSSES = {
    "objectness": "loss_rpn_cls",
    "anchor_box": "loss_rpn_loc",
    "classifier": "loss_cls",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}
"""Ours -> how the names of detectron2 start; a cascade adds the number of its stage."""
_NATURAL_STD = 57.4
"""Standard deviation of photographs with values 0-255: mean over the channels of ImageNet's 0.229, 0.224, 0.225."""


class Detectron2Detector(nn.Module):
    """detectron2's `GeneralizedRCNN`, from normalized tiles to losses or detections."""

    def __init__(self, settings: ModelSettings, *, bands: int, classes: int, tile_px: int, keys: Keys) -> None:
        """Build it with random weights.

        Args:
            settings: depth, normalization, anchors and what is kept of the detections.
            bands: bands of a tile.
            classes: kinds of objects, without the background.
            tile_px: edge of a training tile.
            keys: keys of the architecture that replace those from the settings.

        Raises:
            SettingsError: detectron2 is not installed, or does not take the keys.
        """
        super().__init__()
        require_detectron2()
        from detectron2.config import get_cfg
        from detectron2.modeling import build_model

        self.keys = keys
        self.detections_per_tile = settings.detections_per_tile
        effort = Effort.of(tile_px**2, settings.detections_per_tile)
        configuration = get_cfg()
        try:
            for part in (keys_from_settings(settings, keys, effort), keys, fixed_keys(settings, bands, classes)):
                configuration.merge_from_other_cfg(type(configuration)({"MODEL": copy.deepcopy(part)}))
            configuration.TEST.DETECTIONS_PER_IMAGE = settings.detections_per_tile
            self.net = build_model(configuration)
        except (KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
            if not keys:
                raise
            reason = (str(error).strip("'\"").splitlines() or [type(error).__name__])[0]
            raise SettingsError(
                f"model.yaml: detectron2 cannot build a Mask R-CNN with feature pyramid from it ({reason}): correct it"
            ) from error
        self.most_proposals = int(configuration.MODEL.RPN.POST_NMS_TOPK_TEST)

    def card(self) -> dict[str, Any]:
        """What the settings do not say about the network."""
        return {"keys": self.keys}

    def losses(self, image: Tensor, objects: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Training losses; see `mask_rcnn.TorchvisionDetector.losses`."""
        from detectron2.structures import BitMasks, Boxes, Instances
        from detectron2.utils.events import EventStorage

        batch = []
        for tile, seen in zip(image, objects, strict=True):
            instances = Instances(tuple(image.shape[-2:]))
            instances.gt_boxes = Boxes(seen["boxes"])
            instances.gt_classes = seen["labels"]
            instances.gt_masks = BitMasks(seen["masks"].bool())
            batch.append({"image": tile, "instances": instances})
        # Its modules write figures into whatever storage is open, and fail without one.
        with EventStorage():
            found = self.net(batch)
        return {
            name: sum((value for key, value in found.items() if key.startswith(theirs)), image.new_zeros(()))
            for name, theirs in _LOSSES.items()
        }

    def detect(self, image: Tensor) -> list[Found]:
        """Detections of each tile; see `mask_rcnn.TorchvisionDetector.detect`."""
        effort = Effort.of(math.prod(image.shape[-2:]), self.detections_per_tile)
        self.net.proposal_generator.post_nms_topk[False] = min(effort.proposals, self.most_proposals)
        tiles = self.net.inference([{"image": tile} for tile in image], do_postprocess=False)
        return [
            Found(
                boxes=tile.pred_boxes.tensor.float().cpu().numpy(),
                scores=tile.scores.float().cpu().numpy(),
                classes=tile.pred_classes.cpu().numpy(),
                masks=tile.pred_masks[:, 0].float().cpu().numpy(),
            )
            for tile in tiles
        ]


def build_detector(settings: ModelSettings, *, bands: int, classes: int, tile_px: int) -> Detectron2Detector:
    """A network that starts from random weights or from those of a checkpoint or of the model zoo.

    Args:
        settings: architecture and weights.
        bands: bands of a tile.
        classes: kinds of objects, without the background.
        tile_px: edge of a training tile.

    Raises:
        SettingsError: detectron2 is not installed, or the configuration file cannot be used.
        WeightsError: the weights cannot be read safely or do not fit.
    """
    require_detectron2()
    if settings.weights == "official":
        raise SettingsError(
            "model.weights = official with model.backend = detectron2: official weights are torchvision's; download a "
            "Mask R-CNN of detectron2's model zoo and give its path"
        )
    keys = read_keys(settings.yaml, bands) if settings.yaml else {}
    detector = Detectron2Detector(settings, bands=bands, classes=classes, tile_px=tile_px, keys=keys)
    if settings.weights != "none":
        path = Path(settings.weights)
        weights = read_pretrained(path)
        state = weights.state
        stored_std = state.get("pixel_std")
        std = keys.get("PIXEL_STD", [1.0]) if stored_std is None else stored_std.flatten().tolist()
        # Older files hold values that follow from the configuration.
        state = {
            name: value
            for name, value in state.items()
            if name not in ("pixel_mean", "pixel_std") and "anchor_generator.cell_anchors" not in name
        }
        if not weights.ours:
            _fit_units(state, std)
        load_pretrained(detector.net, state, path, _ANATOMY)
    return detector


def require_detectron2() -> None:
    """Import detectron2.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import detectron2.modeling  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"model.backend = detectron2: it cannot be imported ({error}) and is not on PyPI: build it with `uv run "
            "--package slumps-detectron2 --group detectron2 slumps-train ...`, or set model.backend to torchvision"
        ) from None


def _fit_units(state: dict[str, Tensor], std: list[float]) -> None:
    """Make filters that were trained on values 0-255 fit standardised bands.

    Networks of the model zoo that start from Caffe's weights divide by a PIXEL_STD of 1: their first filters are
    smaller by the standard deviation of photographs, and standardised bands would hardly move them.
    """
    filters = state.get(_ANATOMY.first_filters)
    if filters is not None and filters.ndim == 4 and filters.shape[1] == 3 and all(value == 1 for value in std):
        state[_ANATOMY.first_filters] = filters.float() * _NATURAL_STD
