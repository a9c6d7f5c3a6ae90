"""Prithvi with a linear head, on whichever backbone the environment has: that of floods-prithvi or of terratorch.

Both have parameters of the same names, and the same weights are drawn into them.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

BANDS, PATCH_PX = 6, 16
_DIM = 768


class Segmenter(nn.Module):
    """The 100M of the first release for one date, and one linear layer from a token to the logits of its pixels."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(_DIM, classes * PATCH_PX**2, 1)

    def favour_first(self, logit: Tensor) -> None:
        """Add so much to the logits of the first class; shape ()."""
        assert self.head.bias is not None
        self.head.bias[: PATCH_PX**2] += logit

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            images: shape (batch, band, row, col), float32; rows and columns are multiples of the patch.

        Returns:
            Shape (batch, class, row, col).
        """
        rows, cols = (length // PATCH_PX for length in images.shape[-2:])
        tokens: Tensor = self.backbone(images[:, :, None])[-1]
        grid = tokens[:, 1:].transpose(1, 2).reshape(len(images), _DIM, rows, cols)
        return nn.functional.pixel_shuffle(self.head(grid), PATCH_PX)


def segmenter(classes: int) -> Segmenter:
    """Build it and draw its weights, the same for either backbone.

    Raises:
        ImportError: the environment has neither.
    """
    network = Segmenter(_backbone(), classes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            if name == "backbone.pos_embed":  # a buffer in one of them, and a function of the size in both
                continue
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return network


def _backbone() -> nn.Module:
    # By name, as no library depends on a task.
    try:
        ours: Any = importlib.import_module("floods_prithvi.backbone")
    except ImportError:
        from terratorch.models.backbones import prithvi_vit

        theirs: nn.Module = prithvi_vit._create_prithvi("prithvi_eo_v1_100", num_frames=1)
        return theirs
    variants: Any = importlib.import_module("floods_prithvi.variants")
    network: nn.Module = ours.Prithvi(variants.VARIANTS["v1-100m"], frames=1, coordinates=False)
    return network
