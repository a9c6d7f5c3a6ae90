"""A network with its normalization inside, so that whoever has the model gives it the numbers that files hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geocore.datasets.shift import TrainedOn
from geocore.device import out_of_memory
from geocore.errors import DataError, SceneError
from geocore.raster.grid import Grid
from geocore.raster.rescale import match_scale
from geocore.raster.scene import BandReader, Layer
from geocore.segmentation.dataset import IMAGE
from geocore.transforms.normalize import Normalize

AnyModel = Callable[[Tensor], Any]
"""A network: (batch, band, row, col), float32, to logits (batch, class, row, col). Usually an `nn.Module`."""


class DenseModel(nn.Module):
    """Numbers as files hold them in, logits of classes out."""

    def __init__(self, net: nn.Module, normalize: Normalize, layer: Layer, classes: Sequence[str]) -> None:
        """Put the two together.

        Args:
            net: (batch, band, row, col), float32, normalized, to logits (batch, class, row, col).
            normalize: of the layer `image`.
            layer: that the network was trained on: its bands, in order, and what their numbers mean.
            classes: names, in the order of the logits.
        """
        super().__init__()
        self.net = net
        self.normalize = normalize
        self.layer = layer
        self.classes = tuple(classes)

    @property
    def trained_on(self) -> TrainedOn:
        """What the numbers of the training data were."""
        figures = {**self.normalize.card()["layers"][IMAGE], "bands": self.layer.bands.names}
        return TrainedOn.of(figures, self.layer, "training images")

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
        logits: Tensor = run(self.net, self.normalize({IMAGE: {"values": values, "valid": held}})[IMAGE])
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
        logits = run(model, torch.where(valid, values.float(), 0.0))
    return logits


def run(net: AnyModel, images: Tensor) -> Any:
    """What a network gives for images.

    Args:
        net: of anybody's.
        images: shape (batch, band, row, col), float32.

    Raises:
        DataError: the network cannot take them, as where it was made for another number of bands.
    """
    try:
        return net(images)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"the model cannot take an image of (batch, band, row, col) = {tuple(images.shape)} ({reason}): open the "
            "scene with the bands that it was made for, in their order, and take tiles that it can divide"
        ) from error


def as_trained(model: object, source: BandReader, grid: Grid, name: str) -> BandReader:
    """A layer in the numbers that a `DenseModel` was trained on; as it is for any other model.

    Args:
        model: that is to see it.
        source: the layer.
        grid: of the layer.
        name: of the scene, for messages.

    Raises:
        SceneError: the bands are others, or in another order, or their numbers cannot be brought to those.
    """
    if not isinstance(model, DenseModel):
        return source
    own, wanted = source.layer.bands.names, model.layer.bands.names
    # Bands without a name are called by their number.
    told = not all(band.isdecimal() for band in own) and not all(band.isdecimal() for band in wanted)
    if len(own) != len(wanted) or (told and own != wanted):
        raise SceneError(
            f"{name}: holds the bands {', '.join(own)}, but the model was trained on {', '.join(wanted)}: open it with "
            f"bands={list(wanted) if told else f'[...], {len(wanted)} of them in that order'}"
        )
    return match_scale(source, model.layer, grid, name)


def finite(values: Tensor) -> Tensor:
    """Where numbers are finite, of the same shape."""
    if values.is_floating_point():
        return torch.isfinite(values)
    return torch.ones_like(values, dtype=torch.bool)
