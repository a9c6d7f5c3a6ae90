"""The training losses: squared error or cross-entropy over the labelled pixels of each output."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from geocore.training.losses import SumCount, masked_cross_entropy
from seaice_multitask.charts import MASKED
from seaice_multitask.config import OutputSettings


def output_losses(
    outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], settings: Mapping[str, OutputSettings]
) -> dict[str, SumCount]:
    """Weighted losses, one for each output.

    The share of masked pixels has no influence on their scale: sums are divided by the number of labelled pixels, by
    the caller, over micro-batches and processes. Where nothing is labelled, sum, count and gradients are 0.

    Args:
        outputs: name -> logits of shape (batch, class, row, col), or values of shape (batch, 1, row, col) for a
            regression; floating point.
        targets: name -> class of each pixel, shape (batch, row, col), uint8, 255 where there is none.
        settings: name -> what the output is, its weight and the class to ignore.

    Returns:
        Name -> weighted sum and number of labelled pixels, float32 scalars.
    """
    return {name: _weighted(outputs[name], targets[name], chosen) for name, chosen in settings.items()}


def masked_mse(prediction: Tensor, target: Tensor, valid: Tensor) -> SumCount:
    """Squared error, summed over valid pixels; the count is their number.

    Args:
        prediction: any shape, floating point. May be anything where not valid, infinite too.
        target: shape of `prediction`, any real dtype, same unit.
        valid: shape of `prediction`, bool.

    Returns:
        Float32 scalars; the sum hangs on the graph, and where nothing is valid the gradients are 0.
    """
    # Selected before it is squared: the gradient of a square that is thrown away would be 0 times infinity.
    difference = torch.where(valid, prediction.float() - target.float(), 0.0)
    return difference.square().sum(), valid.sum().float()


def _weighted(raw: Tensor, target: Tensor, chosen: OutputSettings) -> SumCount:
    # Where the chart says nothing a pixel never counts, whatever else is ignored.
    labels = target.masked_fill(target == MASKED, chosen.ignore)
    if chosen.kind == "regression":
        total, count = masked_mse(raw[:, 0], labels, labels != chosen.ignore)
    else:
        total, count = masked_cross_entropy(raw, labels, chosen.ignore)
    return chosen.weight * total, count
