"""Backbones and decode heads of mmsegmentation, built from its configuration dictionaries.

The only module that imports `mmseg`, inside functions, as that takes seconds. A decode head ends where it would hand
its features to its classifier: the classifiers are those of `SeaIceNet`, so that one head serves several outputs and
number of classes, losses and threshold of a copied configuration do not matter.

A configuration also comes out of checkpoints made by others. mmengine would import and call whatever a `type` names
with dots, and unpickle files that an `init_cfg` points to; both are refused before anything is built.

Shape letters: B batch, C channel, H and W rows and columns of the input.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geocore.errors import SettingsError
from geocore.training.pretrained import adapt_first_conv, load_foreign, load_strictly

#: Keys of a decode head that the settings of the outputs take the place of.
_REPLACED = ("num_classes", "out_channels", "threshold", "loss_decode", "ignore_index", "sampler")
#: Ends of the keys under which mmsegmentation names files of weights, or asks for a download with `true`.
_FILE_KEYS = ("pretrained", "checkpoint", "_path")
#: Edge of the image that shows sizes and channels of the features: 2**7, more than any stride in use.
_PROBE_PX = 128

logger = logging.getLogger(__name__)


class Backbone(nn.Module):
    """A backbone of mmsegmentation."""

    def __init__(self, parts: nn.Module, name: str, in_channels: int) -> None:
        """Wrap a backbone and find out what its features look like.

        Args:
            parts: the backbone, on the CPU.
            name: its type, for messages.
            in_channels: input planes.

        Raises:
            SettingsError: it does not give feature maps.
        """
        super().__init__()
        self.parts = parts
        self.name = name
        with _evaluated(parts), _settings_errors(f"model.backbone {name}", "correct its settings"):
            probe = self(torch.zeros(1, in_channels, _PROBE_PX, _PROBE_PX))
        if not all(isinstance(level, Tensor) and level.ndim == 4 for level in probe):
            raise SettingsError(f"model.backbone {name}: must give feature maps; take one such as ResNetV1c")
        self.shapes = tuple(level.shape for level in probe)
        """Shapes (1, channels, row, col) of the features of a small image, by which decode heads are checked."""
        self.multiple_px = max(1, *(_PROBE_PX // level.shape[-1] for level in probe))
        """Its coarsest stride: rows and columns of the input must be a multiple of this."""

    def forward(self, planes: Tensor) -> list[Tensor]:
        """Features at several strides.

        Args:
            planes: shape (B, C, H, W), float32.

        Returns:
            Shapes (B, channels, H / stride, W / stride), float32.
        """
        features = self.parts(planes)
        return [features] if isinstance(features, Tensor) else list(features)


class DecodeHead(nn.Module):
    """A decode head of mmsegmentation without its classifier.

    Dropout stays in front of where the classifier was and sees (B, C, H, W), so that it drops whole channels.
    """

    def __init__(self, head: Any, name: str, backbone: Backbone) -> None:
        """Take the classifier off and check that the head fits the backbone.

        Args:
            head: the decode head, on the CPU, with its weights initialised.
            name: its type, for messages.
            backbone: whose features it reads.

        Raises:
            SettingsError: the head cannot read the features, or gives anything but a feature map.
        """
        super().__init__()
        head.conv_seg = nn.Identity()
        self.head = head
        self.width: int = head.channels
        """Channels of the result."""
        self.align_corners: bool = head.align_corners
        given = [shape[1] for shape in backbone.shapes]
        place = (
            f"model.decode_head {name} (in_channels {head.in_channels}, in_index {head.in_index}) on "
            f"{backbone.name}, whose outputs have {given} channels"
        )
        with _evaluated(head), _settings_errors(place, "name channels and positions of outputs"):
            result: object = self([torch.zeros(shape) for shape in backbone.shapes])
        if not isinstance(result, Tensor) or result.ndim != 4 or result.shape[1] != self.width:
            raise SettingsError(
                f"model.decode_head {name}: must end in one classifier of pixels; take one such as UPerHead"
            )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features of every pixel.

        Args:
            features: as `Backbone` returns them.

        Returns:
            Shape (B, width, H / stride, W / stride), float32; the stride is that of the finest features it reads.
        """
        result: Tensor = self.head(features)
        return result


def build_backbone(config: Mapping[str, Any], in_channels: int, weights: Path | None) -> Backbone:
    """A backbone that reads any number of planes.

    Args:
        config: mmsegmentation's dictionary; its `in_channels` is replaced.
        in_channels: input planes.
        weights: file of its weights on any number of bands, or of a whole network that has it as `backbone.`; the
            first convolution is adapted to the planes. None: random.

    Raises:
        SettingsError: an unknown type, settings that do not fit together, or files named inside the configuration.
        WeightsError: the weights cannot be read safely or do not fit.
    """
    name = str(config["type"])
    # Read first: building a large network only to learn that a path is wrong wastes the user's time.
    state = None if weights is None else _backbone_state(load_foreign(weights))
    # timm's networks are fetched from the internet unless told otherwise.
    offline = {"pretrained": False} if name == "TIMMBackbone" else {}
    parts = _built(config, "model.backbone", {"in_channels": in_channels, **offline})
    first, conv = _first_conv(parts, in_channels)
    if state is not None and weights is not None:
        held = state.get(f"{first}.weight")
        if held is not None and held.ndim == 4 and held.shape[1] != in_channels:
            parts = _built(config, "model.backbone", {"in_channels": held.shape[1], **offline})
            conv = parts.get_submodule(first)
        load_strictly(parts, state, weights)
        if conv is not None:
            parts.set_submodule(first, adapt_first_conv(conv, in_channels))
    return Backbone(parts, name, in_channels)


def build_decoder(config: Mapping[str, Any], backbone: Backbone) -> DecodeHead:
    """A decode head on a backbone's features.

    Args:
        config: mmsegmentation's dictionary; what the outputs decide (classes, losses) is replaced.
        backbone: the features.

    Raises:
        SettingsError: an unknown type, settings that do not fit together or the backbone.
    """
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    kept = {key: value for key, value in config.items() if key not in _REPLACED}
    # Any number but 2, of which mmsegmentation warns; the classifier is taken off.
    head = _built(kept, "model.decode_head", {"num_classes": 3})
    if not isinstance(head, BaseDecodeHead) or not isinstance(getattr(head, "conv_seg", None), nn.Conv2d):
        raise SettingsError(
            f"model.decode_head {config['type']}: must end in one classifier of pixels; take one such as UPerHead"
        )
    return DecodeHead(head, str(config["type"]), backbone)


def _built(config: Mapping[str, Any], place: str, replaced: Mapping[str, Any]) -> nn.Module:
    """A part with initial weights, without SyncBatchNorm."""
    with warnings.catch_warnings():
        # mmcv warns of compiled operators that none of these parts uses.
        warnings.simplefilter("ignore")
        from mmengine.logging import MMLogger
        from mmseg.registry import MODELS, WEIGHT_INITIALIZERS

        MODELS.import_from_location()
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    known = {name for registry in (MODELS, WEIGHT_INITIALIZERS) for name in _registered(registry)}
    _check_config(config, place, known)
    name = config["type"]
    with (
        _settings_errors(f"{place} {name}", "correct its settings (mmsegmentation's documentation lists them)"),
        warnings.catch_warnings(),
        # Some backbones print what they initialise.
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        # The scope lets mmcv find what mmsegmentation registers, such as the up-sampling of its UNet.
        part: Any = MODELS.build({**config, **replaced, "_scope_": "mmseg"})
        part.init_weights()
    if count := _without_sync(part):
        logger.info("%s %s: %d SyncBN layers became BN, which runs on a CPU too", place, name, count)
    assert isinstance(part, nn.Module)
    return part


def _registered(registry: Any) -> Iterator[str]:
    while registry is not None:
        yield from registry.module_dict
        registry = registry.parent


def _check_config(config: object, place: str, known: set[str]) -> None:
    """Refuse what is unknown or would read files or call arbitrary code, at any depth."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "type" and not (isinstance(value, str) and value in known):
                raise SettingsError(f"{place}.type {value!r}: must be a name in mmsegmentation's registry; correct it")
            names_file = str(key).endswith(_FILE_KEYS) and (isinstance(value, str) or value is True)
            if names_file or key == "_scope_":
                remedy = "remove it, and give weights as --model.weights PATH" if names_file else "remove it"
                raise SettingsError(f"{place}.{key} {value!r}: must not be there; {remedy}")
            _check_config(value, f"{place}.{key}", known)
    elif isinstance(config, list | tuple):
        for value in config:
            _check_config(value, place, known)


def _without_sync(part: nn.Module) -> int:
    """Put BatchNorm in the place of SyncBatchNorm, which fails on a CPU; their states are alike."""
    count = 0
    for parent in list(part.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.SyncBatchNorm):
                plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine)
                plain.load_state_dict(norm.state_dict())
                for own, other in zip(plain.parameters(), norm.parameters(), strict=True):
                    own.requires_grad_(other.requires_grad)
                setattr(parent, name, plain)
                count += 1
    return count


def _first_conv(parts: nn.Module, in_channels: int) -> tuple[str, Any]:
    """Name and module of the convolution (or patch embedding) that reads the planes; empty when there is none."""
    for name, module in parts.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == in_channels:
            return name, module
    return "", None


def _backbone_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's share of a file, without prefix and without the classifier of image-level training."""
    prefix = "backbone."
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return inside or {name: value for name, value in state.items() if not name.startswith(("fc.", "head."))}


@contextlib.contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, so that a probe changes no running mean and draws no random number."""
    # Not .eval(): some backbones return None from it.
    module.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(True)


@contextlib.contextmanager
def _settings_errors(place: str, remedy: str) -> Iterator[None]:
    """What mmsegmentation raises about a configuration, as one line."""
    try:
        yield
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0][:200] or "its settings contradict each other"
        raise SettingsError(f"{place}: {reason}; {remedy}") from error
