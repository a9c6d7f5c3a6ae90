"""The training losses against torch and mmsegmentation's formula, and what ignored pixels must not do to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from floods_prithvi.config import LossSettings
from floods_prithvi.loss import cross_entropy, pixel_loss
from geocore.datasets.labels import IGNORED
from geocore.training.losses import SumCount, masked_softmax_dice

Loss = Callable[[Tensor, Tensor], SumCount]
WEIGHTS = [0.3, 0.7, 1.5]


def weighted(logits: Tensor, target: Tensor) -> SumCount:
    return cross_entropy(logits, target, torch.tensor(WEIGHTS))


def dice(logits: Tensor, target: Tensor) -> SumCount:
    return masked_softmax_dice(logits, target, IGNORED)


LOSSES = pytest.mark.parametrize("loss", [weighted, cross_entropy, dice])


def random_batch(*, seed: int = 0, ignored: float = 0.0, tiles: int = 2) -> tuple[Tensor, Tensor]:
    """Logits of shape (tiles, 3, 7, 9) and a target whose share `ignored` is 255."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(tiles, 3, 7, 9, generator=generator)
    target = torch.randint(3, (tiles, 7, 9), generator=generator).to(torch.uint8)
    target[torch.rand(tiles, 7, 9, generator=generator) < ignored] = 255
    return logits.requires_grad_(), target


def mean(loss: SumCount) -> Tensor:
    total, count = loss
    return total / count


def mmseg_dice(logits: Tensor, target: Tensor) -> Tensor:
    """One value a tile and class, then their mean; without anything ignored."""
    shares = logits.softmax(1)
    values = []
    for tile in range(len(logits)):
        for index in range(logits.shape[1]):
            p, t = shares[tile, index], (target[tile] == index).float()
            values.append(1 - (2 * (p * t).sum() + 1) / ((p**2 + t**2).sum() + 1))
    return torch.stack(values).mean()


def test_dice_is_that_of_mmsegmentation_where_nothing_is_ignored() -> None:
    logits, target = random_batch()
    total, count = dice(logits, target)
    assert count.item() == 2
    # Sums of 63 float32 in another order.
    torch.testing.assert_close(total / count, mmseg_dice(logits, target), rtol=1e-6, atol=0)
    (ours,) = torch.autograd.grad(total / count, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(mmseg_dice(logits, target), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)


def test_dice_under_a_mask_is_that_of_the_labelled_pixels_alone() -> None:
    logits, target = random_batch(ignored=0.4, tiles=1)
    kept = target[0] != 255
    alone = mmseg_dice(logits[:, :, kept][..., None], target[:, kept][..., None])
    torch.testing.assert_close(mean(dice(logits, target)), alone, rtol=1e-6, atol=0)


@LOSSES
def test_predictions_under_ignored_pixels_change_nothing(loss: Loss) -> None:
    """mmsegmentation's Dice leaves them in the denominator, as class 0."""
    logits, target = random_batch(ignored=0.4)
    hidden = (target == 255)[:, None].expand_as(logits)
    other = torch.where(hidden, 5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(9)), logits)
    other = other.detach().requires_grad_()
    values, gradients = [], []
    for given in (logits, other):
        value = mean(loss(given, target))
        values.append(value)
        gradients.append(torch.autograd.grad(value, given)[0])
    assert torch.equal(values[0], values[1])
    assert torch.equal(gradients[0], gradients[1])
    assert (gradients[0][hidden] == 0).all()
    assert (gradients[0][~hidden] != 0).any()


def test_dice_survives_anything_under_the_mask() -> None:
    logits, target = random_batch(ignored=0.4)
    given = torch.where((target == 255)[:, None], float("nan"), logits).detach().requires_grad_()
    value = mean(dice(given, target))
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(value, mean(dice(logits, target)))
    assert given.grad is not None
    assert given.grad.isfinite().all()


def test_cross_entropy_is_torchs_weighted_mean() -> None:
    logits, target = random_batch(ignored=0.4)
    expected = functional.cross_entropy(logits, target.long(), torch.tensor(WEIGHTS), ignore_index=255)
    # A mean in one go rounds differently from a sum that is divided: 2 units in the last place of float32.
    torch.testing.assert_close(mean(weighted(logits, target)), expected, rtol=3e-7, atol=0)
    expected = functional.cross_entropy(logits, target.long(), ignore_index=255)
    torch.testing.assert_close(mean(cross_entropy(logits, target)), expected, rtol=3e-7, atol=0)


def test_mmsegmentation_divides_by_pixels_and_torch_by_weights() -> None:
    """The published models' mean differs by the mean weight of a labelled pixel, as the docstring says."""
    logits, target = random_batch(ignored=0.4)
    labels = target.long()
    each = functional.cross_entropy(logits, labels, torch.tensor(WEIGHTS), ignore_index=255, reduction="none")
    published = each.sum() / (labels != 255).sum()
    factor = torch.tensor(WEIGHTS)[labels[labels != 255]].mean()
    torch.testing.assert_close(published, factor * mean(weighted(logits, target)), rtol=1e-6, atol=0)


@LOSSES
def test_micro_batches_and_ranks_add_up_to_the_whole_batch(loss: Loss) -> None:
    """Sums and counts of any cut, also one with a tile without labels, give the loss of the batch in one."""
    logits, target = random_batch(ignored=0.4, tiles=5)
    target[3] = 255
    whole = loss(logits, target)
    parts = [loss(logits[cut], target[cut]) for cut in (slice(0, 1), slice(1, 4), slice(4, 5))]
    total = torch.stack([part[0] for part in parts]).sum() / torch.stack([part[1] for part in parts]).sum()
    torch.testing.assert_close(total, mean(whole), rtol=1e-6, atol=0)


def test_dice_counts_tiles_with_a_label() -> None:
    logits, target = random_batch(ignored=0.4, tiles=3)
    target[1] = 255
    total, count = dice(logits, target)
    assert count.item() == 2
    alone = [mean(dice(logits[[tile]], target[[tile]])) for tile in (0, 2)]
    torch.testing.assert_close(total, alone[0] + alone[1], rtol=1e-6, atol=0)


@LOSSES
def test_batch_without_a_label_costs_nothing(loss: Loss) -> None:
    logits, _ = random_batch()
    total, count = loss(logits, torch.full((2, 7, 9), 255, dtype=torch.uint8))
    assert (total.item(), count.item()) == (0, 0)
    total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_dice_of_a_right_and_of_a_wrong_map() -> None:
    target = torch.zeros(1, 20, 20, dtype=torch.uint8)
    target[:, 5:] = 1
    right = 50 * functional.one_hot(target.long(), 2).movedim(-1, 1).float()
    assert mean(dice(right, target)).item() < 1e-6
    # 1 - 1 / (400 + 1) for each class: what the smoothing leaves.
    assert mean(dice(-right, target)).item() == pytest.approx(1 - 1 / 401)


def test_settings_choose_the_loss_and_its_weights() -> None:
    logits, target = random_batch(ignored=0.4)
    chosen = {
        "plain": (LossSettings(), cross_entropy),
        "weighted": (LossSettings(class_weights=WEIGHTS), weighted),
        "dice": (LossSettings(kind="dice"), dice),
    }
    for name, (settings, loss) in chosen.items():
        found, expected = pixel_loss(logits, target, settings), loss(logits, target)
        assert torch.equal(found[0], expected[0]), name
        assert torch.equal(found[1], expected[1]), name


@LOSSES
def test_half_precision_is_summed_in_float32(loss: Loss) -> None:
    logits, target = random_batch()
    half = logits.detach().bfloat16()
    total, _ = loss(half, target)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, loss(half.float(), target)[0], rtol=0, atol=0)
