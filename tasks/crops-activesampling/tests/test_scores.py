"""Scores against scikit-learn's, and what counts: pixels, patches without their border, and parcels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from crops_activesampling.scores import (
    PRIMARY,
    VIEWS,
    confusion,
    kappa,
    named,
    parcel_majorities,
    patch_counts,
    per_class,
    scores_of,
    total,
    weighted_f1,
)
from geocore.errors import DataError

CLASSES = 6
Plane = NDArray[np.uint8]


def drawn(seed: int, *, absent: bool) -> tuple[Plane, Plane, NDArray[np.uint32]]:
    """Truth, prediction and parcels; where `absent`, class 4 is never true, 5 never predicted, 6 neither."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES + 1, (40, 50)).astype(np.uint8)
    guess = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(1, CLASSES + 1, truth.shape)).astype(np.uint8)
    guess[guess == 0] = 3
    if absent:
        truth[(truth == 4) | (truth == 6)] = 1
        guess[(guess == 5) | (guess == 6)] = 2
    guess[:2] = 0
    parcels = (1000 * rng.integers(0, 60, truth.shape)).astype(np.uint32)
    return truth, guess, parcels


def expected(truth: NDArray[np.generic], guess: NDArray[np.generic]) -> dict[str, float]:
    return {
        "f1_weighted": metrics.f1_score(truth, guess, average="weighted", zero_division=0.0),
        "f1_macro": metrics.f1_score(truth, guess, average="macro", zero_division=0.0),
        "oa": metrics.accuracy_score(truth, guess),
        "miou": metrics.jaccard_score(truth, guess, average="macro", zero_division=0.0),
        "kappa": metrics.cohen_kappa_score(truth, guess),
    }


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_scikit_learn(seed: int, absent: bool) -> None:
    truth, guess, _ = drawn(seed, absent=absent)
    counted = (truth != 0) & (guess != 0)
    scores = scores_of(confusion(truth, guess, CLASSES))
    assert next(iter(scores)) == PRIMARY
    # The same sums in another order: measured 2e-16.
    assert scores == pytest.approx(expected(truth[counted], guess[counted]), abs=1e-12)


@pytest.mark.parametrize("absent", [False, True])
def test_scores_per_class_are_those_of_scikit_learn(absent: bool) -> None:
    truth, guess, _ = drawn(2, absent=absent)
    counted, labels = (truth != 0) & (guess != 0), list(range(1, CLASSES + 1))
    table = per_class(confusion(truth, guess, CLASSES), ["a", "b", "c", "d", "e", "f"])
    precision, recall, f1, pixels = metrics.precision_recall_fscore_support(
        truth[counted], guess[counted], labels=labels, zero_division=np.nan
    )
    iou = metrics.jaccard_score(truth[counted], guess[counted], labels=labels, average=None, zero_division=0.0)
    for index, row in enumerate(table.values()):
        assert row["precision"] == pytest.approx(precision[index], nan_ok=True)
        assert row["recall"] == pytest.approx(recall[index], nan_ok=True)
        assert row["f1"] == pytest.approx(f1[index], nan_ok=True)
        assert row["pixels"] == pixels[index]
        if absent and index == 5:
            assert math.isnan(row["iou"])  # neither true nor predicted, for which scikit-learn has only a number
        else:
            assert row["iou"] == pytest.approx(iou[index])


def test_patches_add_up_to_all_pixels_pooled() -> None:
    parts = [drawn(seed, absent=False) for seed in (3, 4, 5)]
    counts = total(patch_counts(*part, classes=CLASSES, border_px=4) for part in parts)
    truth, guess = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    counted = (truth != 0) & (guess != 0)
    pooled = expected(truth[counted], guess[counted])
    scores = named(counts)
    assert {name: scores[name] for name in pooled} == pytest.approx(pooled, abs=1e-12)
    assert len(scores) == len(VIEWS) * len(pooled)


def test_the_border_is_left_out() -> None:
    truth, guess, parcels = drawn(6, absent=False)
    counts = patch_counts(truth, guess, parcels, classes=CLASSES, border_px=5)
    assert np.array_equal(counts["cropped"], confusion(truth[5:-5, 5:-5], guess[5:-5, 5:-5], CLASSES))
    assert counts["cropped"].sum() < counts["pixels"].sum()
    whole = patch_counts(truth, guess, parcels, classes=CLASSES, border_px=0)
    assert np.array_equal(whole["cropped"], whole["pixels"])
    assert patch_counts(truth, guess, parcels, classes=CLASSES, border_px=20)["cropped"].sum() == 0
    assert patch_counts(truth, guess, parcels, classes=CLASSES, border_px=60)["cropped"].sum() == 0


def test_a_parcel_is_what_most_of_its_pixels_are() -> None:
    parcels = np.array([[7, 7, 7, 7, 9, 9, 9, 0, 0, 4, 4, 5, 5]], np.uint32)
    truth = np.array([[1, 1, 1, 0, 2, 2, 2, 1, 1, 0, 0, 3, 3]], np.uint8)
    guess = np.array([[1, 2, 1, 3, 2, 1, 1, 1, 1, 3, 3, 0, 0]], np.uint8)
    counts = patch_counts(truth, guess, parcels, classes=3, border_px=0)
    # 7 is right, 9 is taken for 1, 4 has no label, nothing is said of 5, and pixels outside parcels have no vote.
    assert counts["parcels"].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert counts["parcel_pixels"].tolist() == [[3, 0, 0], [3, 0, 0], [0, 0, 0]]
    assert named(counts)["parcel_oa"] == 0.5


def test_parcels_are_those_of_a_slow_loop() -> None:
    truth, guess, parcels = drawn(7, absent=False)
    by_parcel, by_pixel = np.zeros((CLASSES, CLASSES), int), np.zeros((CLASSES, CLASSES), int)

    def majority(values: NDArray[np.uint8]) -> int:
        votes = [int((values == index).sum()) for index in range(1, CLASSES + 1)]
        return 1 + votes.index(max(votes)) if any(votes) else 0

    for number in set(parcels.ravel().tolist()) - {0}:
        inside = parcels == number
        said, labelled = majority(guess[inside]), majority(truth[inside])
        if said and labelled:
            by_parcel[labelled - 1, said - 1] += 1
            for label in truth[inside]:
                if label:
                    by_pixel[label - 1, said - 1] += 1
    counts = patch_counts(truth, guess, parcels, classes=CLASSES, border_px=0)
    assert by_parcel.sum() > 50
    assert np.array_equal(counts["parcels"], by_parcel)
    assert np.array_equal(counts["parcel_pixels"], by_pixel)


def test_of_two_classes_as_frequent_the_lower_one_wins() -> None:
    classes = np.array([3, 1, 3, 1, 0, 0, 0], np.uint8)
    assert parcel_majorities(classes, np.array([0, 0, 0, 0, 0, 0, 1]), 2, 3).tolist() == [1, 0]


def test_nothing_to_count_scores_nan() -> None:
    assert all(math.isnan(score) for score in scores_of(np.zeros((3, 3), np.int64)).values())
    one = np.zeros((3, 3), np.int64)
    one[1, 1] = 4
    assert math.isnan(kappa(one)) and weighted_f1(one) == 1.0


def test_counts_of_the_whole_benchmark_do_not_overflow() -> None:
    # 5000 patches: the square of their pixels is about 4.5e17, of ten thousand times as many above int64.
    matrix = np.array([[9, 1], [2, 8]], np.int64)
    assert kappa(matrix * 10**11) == pytest.approx(kappa(matrix), abs=1e-15)


def test_counts_in_one_row_score_alike() -> None:
    truth, guess, _ = drawn(8, absent=True)
    matrix = confusion(truth, guess, CLASSES)
    assert weighted_f1(matrix.ravel()) == weighted_f1(matrix)


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(DataError, match="true label above 2"):
        confusion(np.array([3], np.uint8), np.array([1], np.uint8), 2)
    with pytest.raises(DataError, match="prediction is not a class"):
        confusion(np.array([1], np.uint8), np.array([3], np.uint8), 2)
