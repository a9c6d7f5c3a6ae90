"""The U-Net of the AutoICE winner (Chen et al. 2024, The Cryosphere 18, 1621), in an encoder and a decoder.

Apart, because several decoders may read one encoder: outputs with a decoder of their own, and one for those that share.

Shape letters: B batch, C channel, H and W rows and columns of the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


class UNetEncoder(nn.Module):
    """Levels of two convolutions each, every one at half the size of the one before, and the bridge below them."""

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        """Build the encoder.

        Args:
            in_channels: input planes.
            widths: filters of the levels, finest first; the bridge has as many as the last.
        """
        super().__init__()
        inputs = [in_channels, *widths]
        self.levels = nn.ModuleList(_two_convs(*pair) for pair in zip(inputs, [*widths, widths[-1]], strict=True))
        self.multiple_px = 2 ** len(widths)
        """Rows and columns of the input must be a multiple of this."""

    def forward(self, planes: Tensor) -> list[Tensor]:
        """Features of every level, the bridge last.

        Args:
            planes: shape (B, C, H, W), float32; H and W are multiples of `multiple_px`.

        Returns:
            Level i: shape (B, width i, H / 2**i, W / 2**i), float32.
        """
        features: list[Tensor] = []
        x = planes
        for index, level in enumerate(self.levels):
            x = level(functional.max_pool2d(x, 2) if index else x)
            features.append(x)
        return features


class UNetDecoder(nn.Module):
    """From the bridge back to full size: bilinear up-sampling, the level's features beside it, two convolutions."""

    def __init__(self, widths: Sequence[int]) -> None:
        """Build the decoder.

        Args:
            widths: filters of the encoder's levels, finest first.
        """
        super().__init__()
        below = [*widths[1:], widths[-1]]
        self.levels = nn.ModuleList(
            _two_convs(lower + width, width) for width, lower in zip(widths, below, strict=True)
        )
        self.width = widths[0]
        """Channels of the result."""
        self.align_corners = False

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features of every pixel.

        Args:
            features: as `UNetEncoder` returns them.

        Returns:
            Shape (B, width, H, W), float32.
        """
        x = features[-1]
        for level, beside in zip(reversed(self.levels), reversed(features[:-1]), strict=True):
            upsampled = functional.interpolate(x, size=beside.shape[-2:], mode="bilinear", align_corners=False)
            x = level(torch.cat([beside, upsampled], dim=1))
        return x


def _two_convs(in_channels: int, width: int) -> nn.Sequential:
    def one(channels: int) -> list[nn.Module]:
        # The norm subtracts the mean, so a bias in front of it would do nothing.
        return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]

    return nn.Sequential(*one(in_channels), *one(width))
