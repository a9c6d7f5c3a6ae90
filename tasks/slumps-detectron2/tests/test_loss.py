"""The weighted loss as sums over tiles."""

from __future__ import annotations

import pytest
import torch

from slumps_detectron2.config import LossSettings
from slumps_detectron2.loss import detection_losses

PARTS = ("objectness", "anchor_box", "classifier", "box", "mask")


def _losses() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(index + 1.0, requires_grad=True) for index, name in enumerate(PARTS)}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_has_its_own_weight(part: str) -> None:
    summed = detection_losses(_losses(), 3, LossSettings(**{part: 0.25}))
    means = {name: (total / count).item() for name, (total, count) in summed.items()}
    assert means == {name: (index + 1.0) * (0.25 if name == part else 1.0) for index, name in enumerate(PARTS)}


def test_batches_of_unequal_size_count_by_tiles() -> None:
    one = detection_losses({"mask": torch.tensor(4.0)}, 1, LossSettings())["mask"]
    three = detection_losses({"mask": torch.tensor(8.0)}, 3, LossSettings())["mask"]
    # As fit() joins micro-batches: (1 x 4 + 3 x 8) / 4 tiles.
    assert ((one[0] + three[0]) / (one[1] + three[1])).item() == 7.0


def test_part_without_weight_still_hangs_on_the_graph() -> None:
    losses = _losses()
    total, count = detection_losses(losses, 2, LossSettings(mask=0.0))["mask"]
    total.backward()
    assert (total.item(), count.item(), losses["mask"].grad) == (0.0, 2.0, torch.tensor(0.0))
    assert not count.requires_grad
