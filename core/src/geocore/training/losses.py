"""Losses that two or more tasks use. Each returns (sum, count), never a mean.

The loss of a step is the sum of all sums divided by the sum of all counts, over micro-batches and processes, so that
every valid pixel weighs the same however the batch is cut. Both are float32 scalars on the device of the logits; the
sum always hangs on the graph, and where nothing is valid sum and count are 0 and the gradients are exactly 0.

Targets may hold anything (NaN too) where they are not valid. Logits must be finite everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SumCount = tuple[Tensor, Tensor]

# No label of an unsigned or small signed dtype can be equal to it.
_NO_LABEL = -(2**31)
# Added to both parts of Dice, so that a class that is neither true nor predicted costs 0.
_SMOOTH = 1.0


def masked_cross_entropy(
    logits: Tensor, target: Tensor, ignore: int | None, *, class_weights: Tensor | None = None
) -> SumCount:
    """Softmax cross-entropy over the pixels whose label is not `ignore`.

    Args:
        logits: shape (batch, class, ...), floating point.
        target: shape (batch, ...), any integer dtype, labels 0 to class - 1 or `ignore`.
        ignore: the label to leave out; None when every pixel counts.
        class_weights: shape (class,); each pixel is weighted by the weight of its true class.

    Returns:
        The weighted sum and the sum of the weights (the number of pixels without weights), so that their quotient is
        the usual weighted mean.
    """
    labels = target.long()
    weights = None if class_weights is None else class_weights.to(logits.device, torch.float32)
    label = _NO_LABEL if ignore is None else ignore
    total = functional.cross_entropy(logits.float(), labels, weight=weights, ignore_index=label, reduction="sum")
    valid = labels != label
    if weights is None:
        return total, valid.sum().float()
    count = torch.where(valid, weights[torch.where(valid, labels, 0)], 0.0).sum()
    return total, count


def masked_bce_with_logits(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, *, pos_weight: Tensor | float | None = None
) -> SumCount:
    """Binary cross-entropy on logits, summed over valid elements; the count is their number.

    Args:
        logits: any shape, floating point.
        target: shape of `logits`, bool, integer or floating point, 0 to 1.
        valid: bool, broadcast to the shape of `logits`; None when all count.
        pos_weight: factor of the positive part, a number or broadcast to `logits`.
    """
    logits, truth, mask = _prepared(logits, target, valid)
    weight = None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float32, device=logits.device)
    each = functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight, reduction="none")
    return _summed(each, mask)


def masked_dice(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> SumCount:
    """Soft Dice loss on sigmoids, one value a sample: 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1).

    Sudre et al. 2017, "Generalised Dice overlap as a deep learning loss function", two-class form. With the pixel
    that is added to both parts an empty truth with an empty prediction costs 0.

    Args:
        logits: shape (batch, ...), floating point. All axes but the first belong to one sample.
        target: shape of `logits`, bool or 0/1.
        valid: bool, broadcast to the shape of `logits`; None when all count.

    Returns:
        The sum over the samples that hold any valid pixel, and the number of such samples.
    """
    logits, truth, mask = _prepared(logits, target, valid)
    p = torch.where(mask, torch.sigmoid(logits), 0.0).flatten(1)
    t = truth.flatten(1)
    each = 1.0 - (2.0 * (p * t).sum(1) + 1.0) / (p.sum(1) + t.sum(1) + 1.0)
    return _summed(each, mask.flatten(1).any(1))


def masked_softmax_dice(logits: Tensor, target: Tensor, ignore: int) -> SumCount:
    """Soft Dice loss of a softmax with squares, mean over the classes, one value a sample.

    For class c of a sample, with sums over its labelled pixels alone in numerator and denominator:

        1 - (2 sum p_c t_c + 1) / (sum (p_c^2 + t_c^2) + 1)

    Milletari et al. 2016, V-Net, as in mmsegmentation's `DiceLoss` (which masks the numerator alone, so that ignored
    pixels still push predictions). A sample's value needs all of its pixels and none of another. So the sum is that of
    the samples with a labelled pixel and the count their number: the quotient is the mean over the samples of an
    optimizer step, however they are cut into micro-batches and processes. It is not the Dice of the pooled pixels.

    Args:
        logits: shape (batch, class, row, col), floating point. May be anything under ignored pixels.
        target: shape (batch, row, col), any integer dtype, class index, or `ignore` where nothing is known.
        ignore: the label to leave out.

    Returns:
        Sum over the samples that hold a labelled pixel, and their number; float32 scalars.
    """
    valid = target != ignore
    # Put in before the softmax: the gradient of what is thrown away after it would be 0 times anything.
    shares = torch.where(valid[:, None], logits.float(), 0.0).softmax(1) * valid[:, None]
    labels = target.long().masked_fill(~valid, 0)
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1) * valid[:, None]
    both = (2.0 * shares * truth).sum((2, 3)) + _SMOOTH
    each = shares.square().sum((2, 3)) + truth.sum((2, 3)) + _SMOOTH
    values = (1.0 - both / each).mean(1)
    labelled = valid.flatten(1).any(1)
    # Without a labelled pixel the quotient is 1 / 1 and the value 0 by itself.
    return values.sum(), labelled.sum().float()


def _prepared(logits: Tensor, target: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return float32 logits, float32 target with 0 where not valid, and the mask, all of the logits' shape."""
    if target.shape != logits.shape:
        raise ValueError(f"target has shape {tuple(target.shape)}, logits {tuple(logits.shape)}: they must be equal")
    if valid is None:
        mask = torch.ones_like(logits, dtype=torch.bool)
    else:
        mask = valid.to(torch.bool).expand_as(logits)
    # A NaN target would poison the gradient through `where` even where its loss is thrown away.
    return logits.float(), torch.where(mask, target.float(), 0.0), mask


def _summed(each: Tensor, mask: Tensor) -> SumCount:
    return torch.where(mask, each, 0.0).sum(), mask.sum().float()
