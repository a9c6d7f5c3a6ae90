"""From tokens to a map of classes: the released neck and head, and a U-Net on a pyramid.

Neck and FCN head have the parameters of the released checkpoints under their names. A head gives its logits at 16 times
the resolution of the tokens, which is that of the image where a patch has 16 pixels.

Shape letters: B batch, C channel, T date, h and w rows and columns of tokens, D numbers in a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

#: Edge of the map in pixels for each token: four steps of two.
UPSAMPLING = 16

#: Channels of the finest to the coarsest level of the pyramid, and of the coarsest to the finest step up.
_LEVELS = (32, 64, 128, 256)
_STEPS = (128, 64, 32, 16)


def tokens_to_image(tokens: Tensor, times: int, rows: int, cols: int) -> Tensor:
    """Lay tokens out as an image; the dates become channels.

    Args:
        tokens: shape (B, 1 + T * h * w, D), class token in front, columns fastest, dates slowest.
        times: T.
        rows: h.
        cols: w.

    Returns:
        Shape (B, D * T, h, w); number d of date t is channel d * T + t, as in the released checkpoints.
    """
    # (B, T, h, w, D) -> (B, D, T, h, w)
    stacked = tokens[:, 1:].reshape(len(tokens), times, rows, cols, -1).permute(0, 4, 1, 2, 3)
    return stacked.flatten(1, 2)


class Neck(nn.Module):
    """Four steps of two from the resolution of tokens to that of pixels (ConvTransformerTokensToEmbeddingNeck)."""

    def __init__(self, width: int) -> None:
        """Build it.

        Args:
            width: channels in and out, D * T.
        """
        super().__init__()
        self.fpn1 = _two_steps(width)
        self.fpn2 = _two_steps(width)

    def forward(self, image: Tensor) -> Tensor:
        """Shape (B, D * T, h, w) -> (B, D * T, 16 * h, 16 * w), float32."""
        pixels: Tensor = self.fpn2(self.fpn1(image))
        return pixels


class FcnHead(nn.Module):
    """Convolutions of 3 x 3 and one of 1 x 1, as mmsegmentation's FCNHead without `concat_input`."""

    def __init__(self, in_channels: int, channels: int, *, convs: int, classes: int, dropout: float) -> None:
        """Build it.

        Args:
            in_channels: channels of the neck.
            channels: channels of the convolutions.
            convs: number of convolutions.
            classes: number of classes.
            dropout: share of channels left out in training.
        """
        super().__init__()
        self.convs = nn.Sequential(
            *(_ConvModule(in_channels if index == 0 else channels, channels) for index in range(convs))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = _classifier(channels if convs else in_channels, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits: shape (B, in_channels, H, W) -> (B, class, H, W), float32."""
        logits: Tensor = self.conv_seg(self.dropout(self.convs(pixels)))
        return logits


class UnetHead(nn.Module):
    """Tokens of four blocks as a pyramid, and the decoder of segmentation-models-pytorch's U-Net on it.

    The first block gives the finest level, at 8 times the resolution of the tokens, the last one the coarsest, at
    theirs.
    """

    def __init__(self, in_channels: int, *, classes: int, dropout: float) -> None:
        """Build it.

        Args:
            in_channels: channels of each of the four, D * T.
            classes: number of classes.
            dropout: share of channels left out in training.
        """
        super().__init__()
        # Takes a second or two, which the other head need not wait for.
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        steps = len(_LEVELS)
        self.levels = nn.ModuleList(_level(in_channels, steps - 1 - index) for index in range(steps))
        # The decoder takes the image itself as its first feature, for its size alone.
        self.decoder = UnetDecoder(
            encoder_channels=(in_channels, *_LEVELS), decoder_channels=_STEPS, n_blocks=steps, use_norm="batchnorm"
        )
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = _classifier(_STEPS[-1], classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of a pyramid.

        Args:
            features: of four blocks, the first block first, each of shape (B, D * T, h, w).

        Returns:
            Shape (B, class, 16 * h, 16 * w), float32.
        """
        if len(features) != len(_LEVELS):
            raise ValueError(f"{len(features)} features: must be those of {len(_LEVELS)} blocks")
        pyramid = [level(feature) for level, feature in zip(self.levels, features, strict=True)]
        whole = features[0].new_empty(0, 0, *(UPSAMPLING * edge for edge in features[0].shape[-2:]))
        logits: Tensor = self.conv_seg(self.dropout(self.decoder([whole, *pyramid])))
        return logits


class _Norm2d(nn.Module):
    """Layer norm over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        normed: Tensor = self.ln(image.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2).contiguous()


class _ConvModule(nn.Module):
    """Convolution, batch norm, ReLU; mmcv's names."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(image)))


def _two_steps(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 2, stride=2),
        _Norm2d(width),
        nn.GELU(),
        nn.ConvTranspose2d(width, width, 2, stride=2),
    )


def _level(in_channels: int, steps: int) -> nn.Sequential:
    """Fewer channels first, as those of several dates would make the steps up slow."""
    parts: list[nn.Module] = [nn.Conv2d(in_channels, _LEVELS[-1], 1)]
    for step in range(steps):
        fine, coarse = _LEVELS[-2 - step], _LEVELS[-1 - step]
        parts += [nn.ConvTranspose2d(coarse, fine, 2, stride=2), _Norm2d(fine), nn.GELU()]
    return nn.Sequential(*parts)


def _classifier(channels: int, classes: int) -> nn.Conv2d:
    """One number for each class, small at first so that no class starts ahead (mmsegmentation's 0.01)."""
    conv = nn.Conv2d(channels, classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
