"""The training loss and the losses of samples against plain torch, and what unlabelled pixels must not do to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from crops_activesampling.config import TASK
from crops_activesampling.loss import class_pixels, class_weights, crop_loss, sample_losses
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import LabelSpec, Sample
from geocore.errors import DataError


def _random(*, ignored: float = 0.0, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits of shape (3, classes, 7, 9), and labels 1 to classes of which a share is 0."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, classes, 7, 9, generator=generator, requires_grad=True)
    target = torch.randint(1, classes + 1, (3, 7, 9), generator=generator).to(torch.uint8)
    target[torch.rand(3, 7, 9, generator=generator) < ignored] = 0
    return logits, target


def test_class_one_is_channel_zero_and_class_zero_never_counts() -> None:
    logits, target = _random(ignored=0.4)
    total, count = crop_loss(logits, target)
    assert count.item() == (target != 0).sum().item() < 189
    expected = functional.cross_entropy(logits, target.long() - 1, ignore_index=-1)
    # A mean in one go rounds differently from a sum that is divided: 2 units in the last place of float32.
    torch.testing.assert_close(total / count, expected, rtol=3e-7, atol=0)
    (gradient,) = torch.autograd.grad(total, logits)
    assert not gradient[(target == 0)[:, None].expand_as(gradient)].any()


def test_weights_count_in_sum_and_number() -> None:
    logits, target = _random(ignored=0.3)
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    total, count = crop_loss(logits, target, weights)
    assert count.item() == pytest.approx(float(weights[(target[target != 0] - 1).long()].sum()))
    expected = functional.cross_entropy(logits, target.long() - 1, ignore_index=-1, weight=weights)
    torch.testing.assert_close(total / count, expected, rtol=3e-7, atol=0)


def test_a_batch_without_labels_costs_nothing_and_has_finite_gradients() -> None:
    logits, target = _random()
    total, count = crop_loss(logits, torch.zeros_like(target))
    (gradient,) = torch.autograd.grad(total, logits)
    assert (total.item(), count.item()) == (0, 0)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_losses_of_samples_are_means_over_their_own_labelled_pixels() -> None:
    logits, target = _random(ignored=0.4)
    target[1] = 0
    losses = sample_losses(logits, target)
    assert losses[1].isnan()
    for index in (0, 2):
        labelled = target[index] != 0
        flat = logits[index].flatten(1).T[labelled.flatten()]
        expected = functional.cross_entropy(flat, target[index][labelled].long() - 1)
        torch.testing.assert_close(losses[index], expected, rtol=3e-7, atol=0)


def test_what_is_predicted_without_a_label_changes_no_loss_of_a_sample() -> None:
    """C1 item 2: not even where it is not finite."""
    logits, target = _random(ignored=0.4)
    wild = torch.where((target == 0)[:, None], torch.nan, logits)
    assert torch.equal(sample_losses(wild, target), sample_losses(logits, target))


def test_weights_are_the_inverse_shares_blended_with_one() -> None:
    pixels = torch.tensor([60, 30, 10, 0])
    assert class_weights(pixels, 0.0).tolist() == [1, 1, 1, 1]
    assert class_weights(pixels, 1.0).tolist() == pytest.approx([1 / 2.4, 1 / 1.2, 1 / 0.4, 1])
    assert class_weights(pixels, 0.1).tolist() == pytest.approx([0.1 / 2.4 + 0.9, 0.1 / 1.2 + 0.9, 0.25 + 0.9, 1])
    shares = pixels / pixels.sum()
    assert float((class_weights(pixels[:3], 1.0) * shares[:3]).sum()) == pytest.approx(1), "the mean weight stays 1"


def _dataset(counts: dict[str, list[tuple[int, int, int]]]) -> Dataset:
    samples = [
        Sample(
            id=f"{split}-{index}",
            group="31TCG",
            split=split,
            inputs={},
            labels={},
            attributes={f"class_{number}_px": value for number, value in enumerate(row)},
        )
        for split, rows in counts.items()
        for index, row in enumerate(rows)
    ]
    labels = {"crops": LabelSpec("crops", {0: "unknown", 1: "wheat", 2: "maize"}, ignore=0)}
    return Dataset(root=Path("prepared"), task=TASK, samples=samples, layers={}, labels=labels)


def test_class_pixels_are_those_of_the_split_without_class_zero() -> None:
    dataset = _dataset({"train": [(5, 10, 1), (900, 20, 2)], "val": [(1, 7, 7)]})
    assert class_pixels(dataset, "train").tolist() == [30, 3]
    assert class_pixels(dataset, "val").tolist() == [7, 7]


def test_a_split_without_labels_is_one_clear_line() -> None:
    with pytest.raises(DataError, match="split 'train' has no labelled pixel: check the label encoder"):
        class_pixels(_dataset({"train": [(9, 0, 0)]}), "train")
    with pytest.raises(DataError, match="split 'val' has no sample"):
        class_pixels(_dataset({"train": [(9, 1, 0)]}), "val")
