"""Scores of samples against their formulas on single pixels, and who wins by them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crops_activesampling.config import Score, SelectionSettings
from crops_activesampling.loss import sample_losses
from crops_activesampling.scoring import (
    FROM_HOLDOUT,
    FROM_LOGITS,
    Scorer,
    best,
    correct_class_margins,
    entropies,
    margins,
    needs_forward,
    needs_holdout,
    perturbed,
    sample_scores,
)
from geocore.device import DeviceContext

CPU = DeviceContext(torch.device("cpu"))
ALL: tuple[Score, ...] = (
    "random", "loss", "correct-class-margin", "margin", "entropy", "irreducible", "rho-loss",
)  # fmt: skip


def _random(samples: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, 3, 5, 6, generator=generator)
    target = torch.randint(0, 4, (samples, 5, 6), generator=generator).to(torch.uint8)
    return logits, target


def _slow(kind: str, logits: Tensor, target: Tensor) -> float:
    """The mean over the labelled pixels of one sample, pixel by pixel in float64."""
    values = []
    for row in range(target.shape[0]):
        for col in range(target.shape[1]):
            label = int(target[row, col])
            if label == 0:
                continue
            p = logits[:, row, col].double().softmax(0)
            right, wrong = p[label - 1], torch.cat([p[: label - 1], p[label:]]).max()
            ordered = p.sort(descending=True).values
            values.append(
                {
                    "loss": -right.log(),
                    "correct-class-margin": wrong.log() - right.log(),
                    "margin": -(ordered[0] - ordered[1]),
                    "entropy": -(p * p.log()).sum(),
                }[kind].item()
            )
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("loss", sample_losses),
        ("correct-class-margin", correct_class_margins),
        ("margin", margins),
        ("entropy", entropies),
    ],
)
def test_scores_are_means_over_labelled_pixels(kind: str, function: Any) -> None:
    logits, target = _random()
    expected = [_slow(kind, *pair) for pair in zip(logits, target, strict=True)]
    # float32 against float64 over 30 pixels: measured 1e-7.
    assert function(logits, target).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_neither_unlabelled_pixels_nor_their_number_change_a_score(kind: Score) -> None:
    """C1 item 2: the seed's scores mostly ranked how much of a sample is labelled."""
    logits, target = _random()
    given = {"holdout": torch.tensor([0.1, 0.9, 0.4, 2.0]), "uniform": torch.tensor([0.3, 0.1, 0.9, 0.5])}
    alone = sample_scores({kind: 1.0}, target, logits=logits, **given)
    wider = torch.cat([logits, torch.full_like(logits, 50.0)], dim=-1)
    beside = torch.cat([target, torch.zeros_like(target)], dim=-1)
    # Sums over twice as many addends, half of them 0, and differences of the results: measured 2e-7 of losses near 1.
    torch.testing.assert_close(sample_scores({kind: 1.0}, beside, logits=wider, **given), alone, rtol=3e-7, atol=6e-7)


def test_sums_are_weighted_and_rho_is_loss_less_the_hold_out_loss() -> None:
    logits, target = _random()
    holdout, uniform = torch.tensor([0.1, 0.9, 0.4, 2.0]), torch.rand(4)
    losses = sample_losses(logits, target)
    given = {"logits": logits, "holdout": holdout, "uniform": uniform}
    assert torch.equal(sample_scores({"rho-loss": 1.0}, target, **given), losses - holdout)
    assert torch.equal(sample_scores({"irreducible": 1.0}, target, **given), -holdout)
    both = sample_scores({"loss": 1.0, "irreducible": 0.5, "random": 2.0}, target, **given)
    torch.testing.assert_close(both, losses - 0.5 * holdout + 2 * uniform)


@pytest.mark.parametrize("kind", ALL)
def test_a_sample_without_labels_or_with_numbers_that_are_not_finite_never_wins(kind: Score) -> None:
    logits, target = _random(6)
    target[1] = 0
    logits[4, :, 0, 0], target[4, 0, 0] = torch.nan, 2
    holdout = torch.tensor([0.1, 0.2, torch.nan, 0.3, 0.4, 0.5])
    scores = sample_scores({kind: 1.0}, target, logits=logits, holdout=holdout, uniform=torch.rand(6))
    excluded = {1}
    excluded |= {4} if kind in FROM_LOGITS else set()
    excluded |= {2} if kind in FROM_HOLDOUT else set()
    assert {index for index in range(6) if scores[index].isnan()} == excluded
    for number in range(1, 7):
        chosen = best(scores, number)
        assert len(chosen) == number and not excluded & set(chosen.tolist())


def test_which_scores_cost_what() -> None:
    assert [kind for kind in ALL if needs_forward({kind: 1.0})] == [
        "loss", "correct-class-margin", "margin", "entropy", "rho-loss",
    ]  # fmt: skip
    assert [kind for kind in ALL if needs_holdout({kind: 1.0})] == ["irreducible", "rho-loss"]


def test_the_best_come_in_their_original_order_and_the_first_of_equal_ones() -> None:
    scores = torch.tensor([0.0, 3.0, 1.0, 3.0, 2.0, -1.0])
    assert best(scores, 3).tolist() == [1, 3, 4]
    assert best(torch.ones(5), 2).tolist() == [0, 1]


def test_too_few_finite_scores_fill_up_with_the_best_of_them() -> None:
    """C1 item 3: the seed kept NaN samples in most blocks that held three of them."""
    scores = torch.tensor([torch.nan, 1.0, torch.inf, 2.0, -torch.inf])
    assert best(scores, 2).tolist() == [1, 3]
    assert best(scores, 3).tolist() == [1, 3, 3]
    assert best(scores, 5).tolist() == [1, 1, 3, 3, 3]
    assert best(torch.full((4,), torch.nan), 2).tolist() == []


def test_random_nans_never_win() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        scores = torch.randn(16, generator=generator)
        scores[torch.randperm(16, generator=generator)[:3]] = torch.nan
        assert scores[best(scores, 8)].isfinite().all()


def test_gumbel_noise_draws_by_the_exponential_of_the_score() -> None:
    scores = torch.tensor([0.0, 1.0, 2.0, torch.nan])
    generator = torch.Generator().manual_seed(0)
    draws, wins = 20_000, torch.zeros(4)
    spread = float(scores[:3].std(correction=0))
    for _ in range(draws):
        wins[best(perturbed(scores, torch.rand(4, generator=generator), 1.0), 1)] += 1
    expected = torch.softmax(scores[:3] / spread, 0)
    # Standard error of a share at 20 000 draws is at most 0.0035: four of them.
    assert (wins[:3] / draws).tolist() == pytest.approx(expected.tolist(), abs=0.014)
    assert wins[3] == 0


def test_temperature_leads_from_the_top_to_chance_and_equal_scores_are_drawn() -> None:
    scores = torch.arange(8.0)
    uniform = torch.rand(8, generator=torch.Generator().manual_seed(1))
    assert best(perturbed(scores, uniform, 1e-6), 3).tolist() == [5, 6, 7]
    by_chance = best(uniform, 3).tolist()
    assert best(perturbed(scores, uniform, 1e6), 3).tolist() == by_chance
    assert best(perturbed(torch.ones(8), uniform, 1.0), 3).tolist() == by_chance
    edges = torch.tensor([0.0, 1 - 2.0**-24])
    assert perturbed(torch.zeros(2), edges, 1.0).isfinite().all()


class _Network(nn.Module):
    """Stands for `CropNet`: batch normalization, dropout and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 3, 1))
        self.body[2].eval()

    def images(self, inputs: Any) -> Tensor:
        values: Tensor = inputs["medians"]["values"]
        return values

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits


def _batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    return {
        "inputs": {"medians": {"values": torch.randn(4, 2, 5, 6, generator=generator)}},
        "targets": {"crops": torch.randint(1, 4, (4, 5, 6), generator=generator).to(torch.uint8)},
        "index": torch.tensor([3, 0, 2, 5]),
    }


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_scoring_leaves_the_network_as_it_was(mode: Any) -> None:
    """C1 item 11: rejected samples polluted the batch statistics."""
    network: Any = _Network().train()
    network.body[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    scorer = Scorer(network, SelectionSettings(scores={"loss": 1.0}, mode=mode), CPU)
    uniform = torch.rand(4)
    scores = scorer(_batch(), uniform)
    assert not scores.requires_grad
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    copy: Any = _Network()
    copy.train(mode == "train")
    copy.body[2].train(mode == "train")
    torch.manual_seed(7)
    expected = sample_losses(copy(_batch()["inputs"]["medians"]["values"]), _batch()["targets"]["crops"])
    torch.manual_seed(7)
    assert torch.equal(scorer(_batch(), uniform), expected.detach())


def test_hold_out_losses_are_looked_up_by_window_without_a_forward_pass() -> None:
    holdout = torch.arange(6.0)
    settings: Any = SimpleNamespace(scores={"irreducible": 1.0}, mode="eval")
    network: Any = None
    scorer = Scorer(network, settings, CPU, holdout)
    assert scorer(_batch(), torch.rand(4)).tolist() == [-3, 0, -2, -5]
