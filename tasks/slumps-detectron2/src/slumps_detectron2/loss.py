"""The training loss: the five parts of Mask R-CNN, weighted, as sums over tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from slumps_detectron2.config import LossSettings


def detection_losses(
    losses: dict[str, Tensor], images: int, settings: LossSettings
) -> dict[str, tuple[Tensor, Tensor]]:
    """Weigh the parts, so that every tile counts the same however the batch is cut.

    Args:
        losses: what `SlumpNet.forward` returned: `objectness`, `anchor_box`, `classifier`, `box` and `mask`, scalars,
            means over what was sampled in the batch.
        images: number of tiles in the batch.
        settings: weights, one for each part.

    Returns:
        Part -> (sum, count): mean x weight x number of tiles, and the number of tiles; scalars.
    """
    return {
        name: (value * (getattr(settings, name) * images), value.new_tensor(float(images)))
        for name, value in losses.items()
    }
