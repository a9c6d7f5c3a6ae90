"""Class, probability, confidence and entropy of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geocore.inference.outputs import PERCENT_NODATA, argmax_labels, margin, normalized_entropy, to_percent


def shares(classes: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), (9, 11)).astype(np.float32)
    ).permute(2, 0, 1)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_confidence_is_the_lead_over_the_runner_up(classes: int) -> None:
    given = shares(classes)
    ordered = np.sort(given.numpy(), axis=0)
    assert np.array_equal(margin(given).numpy(), ordered[-1] - ordered[-2])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_confidence_of_two_equal_classes_is_none(classes: int) -> None:
    given = torch.zeros(classes, 1, 1)
    given[:2] = 0.5
    assert float(margin(given)) == 0


@pytest.mark.parametrize("classes", [2, 5])
def test_entropy_runs_from_certain_to_equal_shares(classes: int) -> None:
    certain = torch.zeros(classes, 1, 1)
    certain[1] = 1
    assert float(normalized_entropy(certain)) == 0
    assert float(normalized_entropy(torch.full((classes, 1, 1), 1 / classes))) == pytest.approx(1, abs=1e-6)
    given = shares(classes).double()
    expected = -(given * given.clamp_min(1e-300).log()).sum(0) / math.log(classes)
    torch.testing.assert_close(normalized_entropy(given), expected)


def test_describing_leaves_the_shares_as_they_are() -> None:
    for classes in (2, 4):
        given = shares(classes)
        before = given.clone()
        argmax_labels(given), margin(given), normalized_entropy(given)
        to_percent(given[0], torch.ones(9, 11, dtype=torch.bool))
        assert torch.equal(given, before)


def test_percentages_are_rounded_and_marked_where_invalid() -> None:
    given = torch.tensor([[0.0, 0.004, 0.006, 1.0000001, 0.5]])
    valid = torch.tensor([[True, True, True, True, False]])
    assert to_percent(given, valid).tolist() == [[0, 0, 1, 100, PERCENT_NODATA]]
