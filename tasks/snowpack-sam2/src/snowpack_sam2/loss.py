"""The training loss: weighted cross-entropy and Dice on boundaries drawn a few pixels wide."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor

from geocore.training.losses import masked_bce_with_logits, masked_dice
from snowpack_sam2.config import LossSettings
from snowpack_sam2.data import IGNORED


def boundary_loss(logits: Tensor, target: Tensor, settings: LossSettings) -> dict[str, tuple[Tensor, Tensor]]:
    """Cross-entropy and Dice against the widened boundary.

    A line of one pixel, drawn by hand, says little about the pixel beside it: the target is widened so that a
    prediction one pixel off is not punished as a miss and an alarm at once.

    Args:
        logits: shape (batch, 1, row, col), float32.
        target: shape (batch, 1, row, col), uint8: 1 boundary, 0 none, 255 ignored.
        settings: width of the boundary in pixels and weights of the parts.

    Returns:
        Sum and count of `cross_entropy` (per labelled pixel) and `dice` (per tile with labelled pixels).
    """
    valid = target != IGNORED
    wide = _widened(target == 1, settings.boundary_width_px) & valid
    dice_sum, dice_count = masked_dice(logits, wide, valid)
    return {
        "cross_entropy": masked_bce_with_logits(logits, wide, valid, pos_weight=settings.positive_weight),
        "dice": (settings.dice * dice_sum, dice_count),
    }


def _widened(lines: Tensor, width_px: int) -> Tensor:
    # An even width reaches one pixel further down and right, where the true edge lies (see layers.boundaries_of).
    before, after = (width_px - 1) // 2, width_px // 2
    padded = functional.pad(lines.float(), (after, before, after, before))
    return functional.max_pool2d(padded, width_px, stride=1) > 0
