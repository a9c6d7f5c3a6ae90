"""What a map says of a pixel: its class, how probable that is, and how sure the model was.

All four are made of the same blended shares, a few rows at a time and on the model's device, so that only small
integers leave it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PERCENT_NODATA = 255
"""Value of invalid pixels in a percentage raster."""


def labels_of(blended: Tensor) -> Tensor:
    """Class of the highest probability; the lower class where two are equal.

    Args:
        blended: shape (class, row, col), float; at least 2 and at most 256 classes.

    Returns:
        Shape (row, col), uint8, class index.
    """
    classes = blended.shape[0]
    if not 2 <= classes <= 256:
        raise ValueError(f"{classes} channels: labels need 2 to 256 classes; compare one probability with a threshold")
    if classes == 2:
        return (blended[1] > blended[0]).to(torch.uint8)
    # argmax over an outer dimension is 5 to 20 times slower than max on a CPU.
    return blended.max(0).indices.to(torch.uint8)


def percent_of(probability: Tensor, valid: Tensor) -> Tensor:
    """Probability as a whole percentage.

    Args:
        probability: shape (..., row, col), float, 0-1.
        valid: shape broadcastable to it, bool.

    Returns:
        Shape of `probability`, uint8, 0-100, and 255 where invalid.
    """
    return (probability * 100).round_().clamp_(0, 100).to(torch.uint8).masked_fill_(~valid, PERCENT_NODATA)


def confidence_of(shares: Tensor) -> Tensor:
    """Probability of the chosen class less that of the runner-up.

    Args:
        shares: shape (class, row, col), float, 0-1; at least 2 classes.

    Returns:
        Shape (row, col), float, 0-1; 0 where two classes are equal.
    """
    if len(shares) == 2:
        return (shares[1] - shares[0]).abs_()
    # Each pixel's own class is taken out, so that of two equal ones the other is the runner-up.
    highest, chosen = shares.max(0)
    return highest - shares.scatter(0, chosen[None], -1.0).amax(0)


def entropy_of(shares: Tensor) -> Tensor:
    """Entropy of the shares as a part of its greatest value, that of equal shares.

    C. E. Shannon, A mathematical theory of communication, Bell Syst. Tech. J. 27, 1948.

    Args:
        shares: shape (class, row, col), float, 0-1; at least 2 classes.

    Returns:
        Shape (row, col), float, 0-1; sums of shares differ from 1 by rounding, and it may exceed 1 by as much.
    """
    entropy: Tensor = torch.special.entr(shares).sum(0)
    return entropy.div_(math.log(len(shares)))
