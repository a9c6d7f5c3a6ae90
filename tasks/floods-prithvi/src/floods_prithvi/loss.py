"""The training losses, over labelled pixels alone: weighted cross-entropy, or Dice.

Both come as (sum, count), which the training loop adds up over micro-batches and processes before it divides.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as functional
from torch import Tensor

from floods_prithvi.config import LossSettings
from floods_prithvi.scores import IGNORED
from geocore.training.losses import SumCount, masked_cross_entropy

SMOOTH: Final = 1.0
"""Added to both parts of Dice, so that a class that is neither true nor predicted costs 0."""


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
        return dice(logits, target)
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


def dice(logits: Tensor, target: Tensor) -> SumCount:
    """Soft Dice loss of a softmax with squares, mean over the classes, one value a tile.

    For class c of a tile, with sums over its labelled pixels alone in numerator and denominator:

        1 - (2 sum p_c t_c + 1) / (sum (p_c^2 + t_c^2) + 1)

    Milletari et al. 2016, V-Net, as in mmsegmentation's `DiceLoss` (which masks the numerator alone, so that ignored
    pixels still push predictions). A tile's value needs all of its pixels and none of another tile. So the sum is that
    of the tiles with a labelled pixel and the count their number: the quotient is the mean over the tiles of an
    optimizer step, however they are cut into micro-batches and processes. It is not the Dice of the pooled pixels.

    Args:
        logits: shape (batch, class, row, col), floating point. May be anything under ignored pixels.
        target: shape (batch, row, col), uint8, class index, 255 where nothing is known.

    Returns:
        Sum over the tiles that hold a labelled pixel, and their number; float32 scalars.
    """
    valid = target != IGNORED
    # Put in before the softmax: the gradient of what is thrown away after it would be 0 times anything.
    shares = torch.where(valid[:, None], logits.float(), 0.0).softmax(1) * valid[:, None]
    labels = target.long().masked_fill(~valid, 0)
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1) * valid[:, None]
    both = (2.0 * shares * truth).sum((2, 3)) + SMOOTH
    each = shares.square().sum((2, 3)) + truth.sum((2, 3)) + SMOOTH
    values = (1.0 - both / each).mean(1)
    labelled = valid.flatten(1).any(1)
    # Without a labelled pixel the quotient is 1 / 1 and the value 0 by itself.
    return values.sum(), labelled.sum().float()
