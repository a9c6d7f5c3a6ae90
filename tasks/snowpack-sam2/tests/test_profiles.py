"""The change-point baseline solves flat, evenly lit walls and is tuned on other photos than it is tested on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from geocore.metrics.boundary import BoundaryCounts
from snowpack_sam2.layers import boundaries_of
from snowpack_sam2.profiles import GRID, ChangePointSettings, change_points, tune
from snowpack_sam2.sample import Difficulty, sample_photos

BoolArray = npt.NDArray[np.bool_]
Walls = tuple[list[npt.NDArray[np.uint16]], list[BoolArray], list[BoolArray]]


def f1(truths: Sequence[BoolArray], predictions: Sequence[BoolArray], valids: Sequence[BoolArray]) -> float:
    counts = BoundaryCounts(5)
    for truth, prediction, valid in zip(truths, predictions, valids, strict=True):
        counts.update(truth, prediction, valid)
    return counts.f1()


def walls(difficulty: Difficulty, seed: int, pits: int) -> Walls:
    photos = list(sample_photos(seed=seed, pits=pits, photos_per_pit=1, shape=(256, 256), difficulty=difficulty))
    return (
        [photo.values for photo in photos],
        [boundaries_of(photo.layers) for photo in photos],
        [photo.layers != 255 for photo in photos],
    )


def test_flat_walls_are_solved_after_tuning_on_other_pits() -> None:
    settings = tune(*walls("flat", 1, 3), f1)
    photos, truths, valids = walls("flat", 2, 8)
    found = [change_points(photo, valid, settings) for photo, valid in zip(photos, valids, strict=True)]
    assert f1(truths, found, valids) >= 0.9


def test_strips_follow_slopes_that_the_full_width_cannot() -> None:
    photos, truths, valids = walls("standard", 2, 6)
    scores = {}
    for strips in (1, 16):
        settings = ChangePointSettings(strips=strips)
        found = [change_points(photo, valid, settings) for photo, valid in zip(photos, valids, strict=True)]
        scores[strips] = f1(truths, found, valids)
    assert scores[16] > scores[1] + 0.1


def test_an_even_wall_has_no_boundary() -> None:
    photo = 50_000 + 300 * np.random.default_rng(0).standard_normal((200, 200))
    assert not change_points(photo, np.ones(photo.shape, bool), ChangePointSettings(threshold=9.0)).any()
    assert not change_points(np.full((200, 200), 7), np.ones((200, 200), bool), ChangePointSettings()).any()


def test_the_line_runs_where_a_true_line_runs() -> None:
    layers = np.ones((200, 200), np.uint8)
    layers[120:] = 2
    photo = 1000.0 * layers + np.random.default_rng(0).standard_normal(layers.shape)
    found = change_points(photo, np.ones(layers.shape, bool), ChangePointSettings())
    np.testing.assert_array_equal(found, boundaries_of(layers))


def test_neither_unit_nor_invalid_values_change_the_result() -> None:
    (photo,), _, _ = walls("standard", 5, 1)
    valid = np.ones(photo.shape, bool)
    valid[:, :40] = valid[:60, -30:] = False
    settings = ChangePointSettings()
    found = change_points(photo, valid, settings)
    assert found.any()
    assert not found[~valid].any()
    np.testing.assert_array_equal(found, change_points(photo / 65535, valid, settings))
    spoilt = np.where(valid, photo.astype(float), np.nan)
    np.testing.assert_array_equal(found, change_points(spoilt, valid, settings))


def test_a_photo_without_valid_pixels_has_no_boundary() -> None:
    nothing = np.zeros((50, 60), bool)
    assert not change_points(np.ones((50, 60)), nothing, ChangePointSettings()).any()


def test_tuning_takes_the_best_values_of_the_grid() -> None:
    photos, truths, valids = walls("flat", 1, 1)

    def by_threshold(truths: Sequence[BoolArray], found: Sequence[BoolArray], valids: Sequence[BoolArray]) -> float:
        return -float(found[0].sum())  # the fewest lines win

    grid = {"threshold": (2.0, 6.0, 1e9)}
    assert tune(photos, truths, valids, by_threshold, grid=grid).threshold == 1e9
    assert set(GRID) == set(ChangePointSettings.__slots__)


def test_a_score_that_is_not_a_number_never_wins() -> None:
    photos, truths, valids = walls("flat", 1, 1)

    def score(truths: Sequence[BoolArray], found: Sequence[BoolArray], valids: Sequence[BoolArray]) -> float:
        return 0.1 if found[0].any() else float("nan")

    assert tune(photos, truths, valids, score, grid={"threshold": (1e9, 6.0)}).threshold == 6.0


def test_tuning_needs_one_truth_and_one_mask_for_each_photo() -> None:
    with pytest.raises(ValueError, match="need one of each"):
        tune([], [], [], f1)
