"""The training loss: cross-entropy over the pixels that have a crop, classes weighted by how rare they are.

Labels are 0 where nothing is to be learnt and 1 to n for the crops, which are channels 0 to n - 1 of the logits: the
class 0 is never predicted, and no pixel of it counts in a sum or in a number of pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional
from torch import Tensor

from geocore.errors import DataError
from geocore.training.losses import SumCount, masked_cross_entropy

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset

CROPS = "crops"

UNLABELLED = 0
"""Label of pixels without a crop that counts."""


def crop_loss(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> SumCount:
    """Cross-entropy over labelled pixels.

    Args:
        logits: shape (batch, n, row, col), floating point.
        target: shape (batch, row, col), any integer dtype, 0 where unlabelled, else 1 to n.
        weights: shape (n,), of the pixels of each class; None: all 1.

    Returns:
        The weighted sum and the sum of the weights, float32 scalars; both 0 where nothing is labelled.
    """
    return masked_cross_entropy(logits, target.long() - 1, UNLABELLED - 1, class_weights=weights)


def sample_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels of each sample, all classes weighing alike.

    Args:
        logits: shape (batch, n, row, col), floating point.
        target: shape (batch, row, col), any integer dtype, 0 where unlabelled, else 1 to n.

    Returns:
        Shape (batch,), float32, nats; NaN where a sample has no labelled pixel.
    """
    labels = target.long() - 1
    each = functional.cross_entropy(logits.float(), labels, ignore_index=UNLABELLED - 1, reduction="none")
    return labelled_means(each, target)


def labelled_means(values: Tensor, target: Tensor) -> Tensor:
    """Mean over the labelled pixels of each sample.

    Args:
        values: shape (batch, row, col), floating point; anything where unlabelled.
        target: shape (batch, row, col), 0 where unlabelled.

    Returns:
        Shape (batch,), float32; NaN where a sample has no labelled pixel.
    """
    labelled = target != UNLABELLED
    # Selected, not multiplied by the mask: 0 * NaN is NaN.
    sums = torch.where(labelled, values.float(), 0.0).flatten(1).sum(1)
    return sums / labelled.flatten(1).sum(1)


def class_weights(pixels: Tensor, blend: float) -> Tensor:
    """Weight of the pixels of each class: blend * 1 / (n f_c) + (1 - blend), with the class's share f_c.

    Args:
        pixels: shape (n,), labelled pixels of each class.
        blend: 0: all 1; 1: each class weighs alike however many pixels it has.

    Returns:
        Shape (n,), float32. A class without pixels has the weight 1, which no pixel uses.
    """
    shares = pixels.double() / pixels.sum()
    inverse = torch.where(pixels > 0, 1.0 / (len(pixels) * shares), 1.0)
    return (blend * inverse + (1.0 - blend)).float()


def class_pixels(dataset: Dataset, split: str) -> Tensor:
    """Labelled pixels of each class in a split.

    Args:
        dataset: prepared; its samples have the numbers of pixels as attributes `class_1_px`, `class_2_px`...
        split: its name.

    Returns:
        Shape (n,), int64, of the classes 1 to n.

    Raises:
        DataError: the split is empty or has no labelled pixel, or the data set does not know the numbers.
    """
    classes = [index for index in sorted(dataset.labels[CROPS].classes) if index != UNLABELLED]
    try:
        counts = [[int(sample.attributes[f"class_{index}_px"] or 0) for index in classes]
                  for sample in dataset.split(split)]  # fmt: skip
    except KeyError as error:
        raise DataError(f"{dataset.root}: samples without {error}: prepare the data again") from error
    pixels = torch.tensor(counts, dtype=torch.int64).sum(0)
    if not pixels.any():
        raise DataError(f"{dataset.root}: split {split!r} has no labelled pixel: check the label encoder and the split")
    return pixels
