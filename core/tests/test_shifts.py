"""A scene unlike those of training is found by the means of its bands."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocore.grid import Window
from geocore.shifts import farthest, probes, warn_if_far


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_probes_are_at_most_nine_tiles_from_the_first_to_the_last(rows: int, cols: int, size: int) -> None:
    found = probes((rows, cols), size)
    tiles = -(-rows // size) * -(-cols // size)
    assert len(found) == min(9, tiles) == len({(window.row, window.col) for window in found})
    assert found == sorted(found, key=lambda window: (window.row, window.col))
    assert (found[0].row, found[0].col) == (0, 0)
    assert (found[-1].row_stop, found[-1].col_stop) == (max(rows, size), max(cols, size))


def test_probes_are_spread_evenly() -> None:
    assert [window.col // 10 for window in probes((10, 170), 10)] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert probes((5, 7), 10) == [Window(0, 0, 10, 10)]


@pytest.mark.parametrize("bands_of_mask", [1, 3])
def test_the_farthest_band_is_that_of_the_mean_over_all_valid_pixels(bands_of_mask: int) -> None:
    random = np.random.default_rng(0)
    windows = []
    for level in (1.0, 3.0):
        values = random.normal(0, 0.1, (3, 8, 9)).astype(np.float32)
        values[1] -= level
        valid = random.random((bands_of_mask, 8, 9)) < 0.5
        values[~np.broadcast_to(valid, values.shape)] = np.nan
        windows.append((values, valid))
    band, away = farthest(windows)
    both = np.concatenate([values[1].ravel() for values, _ in windows])
    assert band == 1 and away == pytest.approx(np.nanmean(both.astype(float)), abs=1e-12)


def test_pixels_of_a_band_may_lie_in_a_row() -> None:
    values, valid = np.array([[1.0, 5.0, 100.0]]), np.array([[True, True, False]])
    assert farthest([(values, valid)]) == (0, 3.0)


def test_a_mean_of_many_pixels_keeps_its_digits() -> None:
    # A running sum in float32 stops growing at 2**24.
    values = np.ones((1, 1, 2**20), np.float32)
    assert farthest((values, np.ones(values.shape, bool)) for _ in range(40)) == (0, 1.0)


def test_a_band_without_valid_pixels_is_not_far() -> None:
    values = np.full((2, 4, 4), 9.0, np.float32)
    assert farthest([(values, np.zeros((1, 4, 4), bool))]) == (0, 0.0)
    valid = np.stack([np.zeros((4, 4), bool), np.ones((4, 4), bool)])
    assert farthest([(values, valid)]) == (1, 9.0)


@pytest.mark.parametrize(("away", "warned"), [(4.1, True), (-4.1, True), (4.0, False), (-3.9, False), (0.0, False)])
def test_a_mean_that_lies_far_off_is_warned_of(caplog: pytest.LogCaptureFixture, away: float, warned: bool) -> None:
    with caplog.at_level(logging.WARNING, "geocore"):
        warn_if_far("scene", "the mean of band red", away, far=4.0, reference="training chips")
    line = f"scene: the mean of band red lies {away:.1f} standard deviations from the training chips"
    assert caplog.messages == ([f"{line}; the map may be wrong"] if warned else [])
