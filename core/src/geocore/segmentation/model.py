"""A network with its normalization inside, so that whoever has the model gives it the numbers that files hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geocore.segmentation.dataset import IMAGE
from geocore.transforms.normalize import Normalize

AnyModel = Callable[[Tensor], Any]
"""A network: (batch, band, row, col), float32, to logits (batch, class, row, col). Usually an `nn.Module`."""


class DenseModel(nn.Module):
    """Numbers as files hold them in, logits of classes out."""

    def __init__(self, net: nn.Module, normalize: Normalize) -> None:
        """Put the two together.

        Args:
            net: (batch, band, row, col), float32, normalized, to logits (batch, class, row, col).
            normalize: of the layer `image`.
        """
        super().__init__()
        self.net = net
        self.normalize = normalize

    def forward(self, values: Tensor, valid: Tensor | None = None) -> Tensor:
        """Logits of an image.

        Args:
            values: shape (batch, band, row, col), any real dtype, as the data set held them.
            valid: bool, of the same shape or with one band: False is missing, whatever stands there, and becomes the
                mean. None: all that is finite is valid.

        Returns:
            Shape (batch, class, row, col).
        """
        held = finite(values) if valid is None else valid
        logits: Tensor = self.net(self.normalize({IMAGE: {"values": values, "valid": held}})[IMAGE])
        return logits


def logits_of(model: AnyModel, values: Tensor, valid: Tensor) -> Tensor:
    """Logits of an image by a `DenseModel`, or by a network that takes the numbers as they are, 0 where missing.

    Args:
        model: either.
        values: shape (batch, band, row, col), any real dtype.
        valid: bool, of the same shape or with one band.
    """
    if isinstance(model, DenseModel):
        logits: Tensor = model(values, valid)
    else:
        logits = model(torch.where(valid, values.float(), 0.0))
    return logits


def finite(values: Tensor) -> Tensor:
    """Where numbers are finite, of the same shape."""
    if values.is_floating_point():
        return torch.isfinite(values)
    return torch.ones_like(values, dtype=torch.bool)
