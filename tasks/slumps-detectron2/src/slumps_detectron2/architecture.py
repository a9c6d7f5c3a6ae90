"""The keys that describe a Mask R-CNN to detectron2: from our settings, and from a configuration file of detectron2.

Needs no detectron2. Files are read as plain YAML: detectron2's own reader would run code that a file carries.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocore.errors import SettingsError
from geocore.storage.documents import DocumentError, read_yaml

if TYPE_CHECKING:
    from slumps_detectron2.config import ModelSettings
    from slumps_detectron2.interface import Effort

logger = logging.getLogger(__name__)

Keys = dict[str, Any]
"""Keys of detectron2 below MODEL, nested."""

_NORMS = {"group": "GN", "batch": "BN", "frozen-batch": "FrozenBN"}
_LEFT_OUT = ("WEIGHTS", "DEVICE", "MASK_ON", "PIXEL_MEAN")
"""Keys of a configuration file that this package decides."""


def read_keys(path: Path, bands: int) -> Keys:
    """Read the keys of the architecture from a configuration file of detectron2.

    Args:
        path: the file. `_BASE_` names another one, relative to it.
        bands: bands of a tile.

    Returns:
        What stands below MODEL, without what this package decides: weights, device, masks, number of classes.

    Raises:
        SettingsError: the file is missing, holds anything but plain values, or describes something else than a Mask
            R-CNN on tiles of these bands.
    """
    keys = _read_with_base(path, ()).get("MODEL", {})
    if not isinstance(keys, dict):
        raise SettingsError(f"model.yaml {path}: MODEL is {keys!r}, not a table of keys: correct the file")
    for name in ("PIXEL_MEAN", "PIXEL_STD"):
        values = keys.get(name)
        if values is not None and (not isinstance(values, list) or len(values) != bands):
            raise SettingsError(
                f"model.yaml {path}: MODEL.{name} = {values} on tiles of {bands} band(s): remove it, bands and their "
                "normalization come from the data set"
            )
    architecture = keys.get("META_ARCHITECTURE", "GeneralizedRCNN")
    if architecture != "GeneralizedRCNN" or keys.get("KEYPOINT_ON", False):
        what = f"MODEL.META_ARCHITECTURE = {architecture}, KEYPOINT_ON = {keys.get('KEYPOINT_ON', False)}"
        raise SettingsError(f"model.yaml {path}: {what}: only a GeneralizedRCNN with masks can be trained here")
    taken = {name: value for name, value in keys.items() if name not in _LEFT_OUT}
    logger.info("%s decides on MODEL.%s", path.name, ", MODEL.".join(sorted(taken)) or "nothing")
    return taken


def keys_from_settings(settings: ModelSettings, keys: Keys, effort: Effort) -> Keys:
    """What our settings and the architecture of a Mask R-CNN with feature pyramid say; a file may replace it."""
    depth = keys.get("RESNETS", {}).get("DEPTH", settings.depth)
    norm = _NORMS[settings.norm]
    stages = ["res2", "res3", "res4", "res5"]
    levels = ["p2", "p3", "p4", "p5"]
    return {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {
            "DEPTH": depth,
            "OUT_FEATURES": stages,
            "NORM": norm,
            "RES2_OUT_CHANNELS": 64 if depth in (18, 34) else 256,
        },
        "FPN": {"IN_FEATURES": stages, "OUT_CHANNELS": settings.width, "NORM": norm if norm == "GN" else ""},
        "ANCHOR_GENERATOR": {
            "SIZES": [[edge] for edge in settings.anchors_px],
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
        },
        "RPN": {
            "IN_FEATURES": [*levels, "p6"],
            "BATCH_SIZE_PER_IMAGE": effort.anchors,
            "PRE_NMS_TOPK_TRAIN": 2000,
            "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 2 * effort.proposals,
            "POST_NMS_TOPK_TEST": max(1000, settings.detections_per_tile),
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": levels,
            "BATCH_SIZE_PER_IMAGE": effort.samples,
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_FC": 2,
            "FC_DIM": 4 * settings.width,
            "POOLER_RESOLUTION": 7,
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 4,
            "CONV_DIM": settings.width,
            "POOLER_RESOLUTION": 14,
        },
    }


def fixed_keys(settings: ModelSettings, bands: int, classes: int) -> Keys:
    """What no file may replace. Normalization is ours, and nothing is frozen: a first layer for other bands is new."""
    return {
        "DEVICE": "cpu",
        "MASK_ON": True,
        "PIXEL_MEAN": [0.0] * bands,
        "PIXEL_STD": [1.0] * bands,
        "LOAD_PROPOSALS": False,
        "PROPOSAL_GENERATOR": {"NAME": "RPN"},
        "BACKBONE": {"FREEZE_AT": 0},
        "ROI_HEADS": {
            "NUM_CLASSES": classes,
            "SCORE_THRESH_TEST": settings.score_floor,
            "NMS_THRESH_TEST": settings.nms_iou,
        },
    }


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> Keys:
    path = Path(os.path.realpath(path.expanduser()))
    if path in seen:
        raise SettingsError(f"model.yaml {path}: _BASE_ leads back to the file itself: correct it")
    try:
        content = read_yaml(path)
    except OSError as error:
        raise SettingsError(f"model.yaml {path}: {error.strerror}: give the path of a readable file") from None
    except DocumentError as error:
        raise SettingsError(f"model.yaml {path}: not plain YAML ({error}): keep plain values only") from None
    if not isinstance(content, dict):
        raise SettingsError(f"model.yaml {path}: holds no table of keys: give a configuration of detectron2")
    if (base := content.pop("_BASE_", None)) is None:
        return content
    if not isinstance(base, str) or "://" in base:
        raise SettingsError(f"model.yaml {path}: _BASE_ = {base!r}: must be the path of a file beside it")
    return _merged(_read_with_base(path.parent / Path(base).expanduser(), (*seen, path)), content)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> Keys:
    merged = dict(below)
    for name, value in above.items():
        held = merged.get(name)
        merged[name] = _merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged
