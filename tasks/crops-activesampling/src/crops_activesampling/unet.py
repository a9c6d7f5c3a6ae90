"""The U-Net of segmentation-models-pytorch (Ronneberger et al. 2015, with encoders for images) on stacked dates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from geocore.errors import SettingsError

if TYPE_CHECKING:
    from crops_activesampling.config import ModelSettings

_NARROWEST: Final = 16
"""Channels of the decoder at full size; they double with each level."""


def unet(model: ModelSettings, channels: int, classes: int) -> nn.Module:
    """A U-Net with random weights.

    Args:
        model: encoder and depth.
        channels: of the images, dates times bands.
        classes: channels of the logits.

    Returns:
        Takes images of shape (batch, channel, row, col) whose edges are multiples of 2 ** depth; its last layer is
        `segmentation_head[0]`.

    Raises:
        SettingsError: segmentation-models-pytorch has no such encoder, or not at this depth.
    """
    # Seconds to import, and ConvSTAR has no use for it.
    import segmentation_models_pytorch as smp

    widths: Sequence[int] = [_NARROWEST * 2**level for level in reversed(range(model.depth))]
    try:
        built: nn.Module = smp.Unet(
            model.encoder,
            encoder_depth=model.depth,
            encoder_weights=None,
            decoder_channels=tuple(widths),
            in_channels=channels,
            classes=classes,
        )
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip("'\"").splitlines()[0][:200]
        raise SettingsError(
            f"model.encoder {model.encoder} with depth {model.depth}: segmentation-models-pytorch cannot build it "
            f"({reason}); take an encoder that it lists, such as resnet18"
        ) from error
    return _without_idle_stages(built, torch.zeros(1, channels, 64, 64))


def _without_idle_stages(net: nn.Module, image: Tensor) -> nn.Module:
    """Drop the stages of an encoder that lie below the depth asked for; smp keeps them, without ever calling them.

    They would be saved with every checkpoint, and processes of a distributed run would wait for their gradients.
    """
    encoder: Any = net.encoder
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(lambda module, *_: called.add(module)) for module in encoder.modules()]
    net.eval()(image).sum().backward()
    net.train()
    for hook in hooks:
        hook.remove()
    for parent in list(encoder.modules()):
        for name, stage in list(parent.named_children()):
            if any(True for _ in stage.parameters()) and not called & set(stage.modules()):
                setattr(parent, name, nn.Identity())
    for parameter in net.parameters():
        # Some encoders run one block beyond the last stage that is looked at.
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    return net
