"""The training losses, over labelled pixels alone: weighted cross-entropy, or Dice.

Both come as (sum, count), which the training loop adds up over micro-batches and processes before it divides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from floods_prithvi.config import LossSettings
from geocore.datasets.labels import IGNORED
from geocore.training.losses import SumCount, masked_cross_entropy, masked_softmax_dice


def pixel_loss(logits: Tensor, target: Tensor, settings: LossSettings) -> SumCount:
    """The loss that the settings name.

    Args:
        logits: shape (batch, class, row, col), floating point, finite.
        target: shape (batch, row, col), uint8, class index, 255 where nothing is known.
        settings: kind, and weights of the classes.

    Returns:
        Float32 scalars. Sum, count and all gradients are 0 where nothing is labelled.
    """
    if settings.kind == "dice":
        return masked_softmax_dice(logits, target, IGNORED)
    weights = settings.class_weights
    return cross_entropy(logits, target, None if weights is None else torch.tensor(weights))


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None = None) -> SumCount:
    """Softmax cross-entropy; each labelled pixel weighs what its true class does.

    The quotient is torch's weighted mean, sum of w * ce over sum of w, over all micro-batches and processes together.
    mmsegmentation 0.x with `avg_non_ignore`, which trained the published models, divides by the number of labelled
    pixels instead, which gives the mean weight of a labelled pixel times as much. That factor changes a little from
    batch to batch; a constant one makes no difference to Adam, and without weights both are the same.

    Args:
        logits: shape (batch, class, row, col), floating point, finite.
        target: shape (batch, row, col), uint8, class index, 255 where nothing is known.
        class_weights: shape (class,), float32; None: 1 each.

    Returns:
        Weighted sum, and the sum of the weights of labelled pixels (their number, without weights).
    """
    return masked_cross_entropy(logits, target, IGNORED, class_weights=class_weights)
