"""Boundary scores at 5 px and the choice of the threshold."""

from __future__ import annotations

import numpy as np
import pytest

from snowpack_sam2.scores import PRIMARY, MappedPhoto, choose_threshold, count, f1_of_state, named, pooled_f1, total


def _lines(row: int, shape: tuple[int, int] = (60, 50)) -> np.ndarray:
    lines = np.zeros(shape, bool)
    lines[row] = True
    return lines


ALL = np.ones((60, 50), bool)


@pytest.mark.parametrize(("offset", "f1"), [(0, 1.0), (5, 1.0), (6, 0.0)])
def test_tolerance_is_five_pixels_inclusive(offset: int, f1: float) -> None:
    assert count(_lines(20), _lines(20 + offset), ALL).f1() == f1


def test_pooled_counts_are_summed_before_dividing() -> None:
    hit, miss = count(_lines(20), _lines(20), ALL), count(_lines(20), _lines(40), ALL)
    both = total([hit, miss])
    assert named(both) == {PRIMARY: 0.5, "boundary_precision_5px": 0.5, "boundary_recall_5px": 0.5}
    assert f1_of_state(both.state.numpy()) == 0.5
    assert pooled_f1([_lines(20)] * 2, [_lines(20), _lines(40)], [ALL] * 2) == 0.5


def test_nothing_predicted_scores_zero_and_nothing_there_is_no_number() -> None:
    nothing = np.zeros((60, 50), bool)
    assert count(_lines(20), nothing, ALL).f1() == 0.0
    assert np.isnan(count(nothing, nothing, ALL).f1())
    assert pooled_f1([nothing], [nothing], [ALL]) == 0.0


def test_threshold_that_separates_line_from_false_alarm_is_chosen() -> None:
    probability = np.zeros((60, 50), np.float32)
    probability[20] = 0.85
    probability[45] = 0.55
    photo = MappedPhoto(probability, _lines(20), ALL)
    threshold, scores = choose_threshold([photo])
    assert 0.55 < threshold <= 0.85
    assert scores[PRIMARY] == 1.0


def test_unlabelled_boundaries_do_not_count() -> None:
    labelled = ALL.copy()
    labelled[38:] = False
    probability = np.zeros((60, 50), np.float32)
    probability[[20, 50]] = 0.9
    assert MappedPhoto(probability, _lines(20), labelled).counts(0.5).precision() == 1.0
