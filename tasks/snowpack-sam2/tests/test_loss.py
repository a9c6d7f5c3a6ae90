"""The training loss against its definition, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch

from snowpack_sam2.config import LossSettings
from snowpack_sam2.loss import boundary_loss


def _line(width: int = 9) -> torch.Tensor:
    target = torch.zeros(1, 1, 9, width, dtype=torch.uint8)
    target[0, 0, 4] = 1
    return target


def _settings(**changes: float) -> LossSettings:
    return LossSettings(**{"boundary_width_px": 3, "positive_weight": 3.0, "dice": 1.0} | changes)


def test_cross_entropy_weighs_a_widened_line() -> None:
    total, count = boundary_loss(torch.zeros(1, 1, 9, 9), _line(), _settings())["cross_entropy"]
    # Logit 0: every pixel costs log 2, three rows of nine weighted threefold, over 81 pixels.
    assert count.item() == 81
    assert total.item() == pytest.approx(math.log(2) * (81 + 2 * 27))


@pytest.mark.parametrize(("width", "rows"), [(1, [4]), (2, [4, 5]), (3, [3, 4, 5]), (4, [3, 4, 5, 6])])
def test_even_widths_centre_on_the_edge_below_the_marked_pixel(width: int, rows: list[int]) -> None:
    logits = torch.full((1, 1, 9, 9), -20.0)
    logits[0, 0, rows] = 20.0
    losses = boundary_loss(logits, _line(), _settings(boundary_width_px=width))
    assert losses["cross_entropy"][0].item() < 1e-4
    assert losses["dice"][0].item() < 1e-4


def test_ignored_pixels_neither_cost_nor_count() -> None:
    target = _line()
    target[..., 5:] = 255
    logits = torch.zeros(1, 1, 9, 9)
    logits[..., 5:] = 50.0
    total, count = boundary_loss(logits, target, _settings())["cross_entropy"]
    assert count.item() == 45
    assert total.item() == pytest.approx(math.log(2) * (45 + 2 * 15))


def test_tile_without_labels_gives_zero_and_a_gradient() -> None:
    logits = torch.zeros(1, 1, 9, 9, requires_grad=True)
    losses = boundary_loss(logits, torch.full((1, 1, 9, 9), 255, dtype=torch.uint8), _settings())
    sum(total for total, _ in losses.values()).backward()
    assert [count.item() for _, count in losses.values()] == [0, 0]
    assert logits.grad is not None
    assert not logits.grad.any()


def test_dice_weight_scales_its_part() -> None:
    once = boundary_loss(torch.zeros(1, 1, 9, 9), _line(), _settings(dice=1.0))["dice"]
    twice = boundary_loss(torch.zeros(1, 1, 9, 9), _line(), _settings(dice=2.0))["dice"]
    assert twice[0].item() == pytest.approx(2 * once[0].item())
    assert once[1] == twice[1]
