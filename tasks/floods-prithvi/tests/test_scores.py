"""Scores from counts against scikit-learn, mmsegmentation's definitions written out, and degenerate maps."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
)

from floods_prithvi.scores import count, named, per_class, primary, score_of_state, total
from geocore.datasets.labels import IGNORED
from geocore.errors import DataError
from geocore.metrics.confusion import kappa
from geocore.metrics.evaluation import bootstrap_interval

FLOOD = {0: "Land", 1: "Water"}
CROPS = dict(enumerate(["Corn", "Open Water", "Fallow/Idle", "Other", "Winter Wheat"]))
Maps = tuple[np.ndarray, np.ndarray]


def maps(classes: int, seed: int, *, ignored: float = 0.3, missing: bool = False) -> Maps:
    """A random truth and a prediction that agrees with six tenths of it; `missing` leaves a class out of one each."""
    rng = np.random.default_rng(seed)
    known = np.arange(classes)
    truth = rng.choice(known[1:] if missing else known, (60, 70)).astype(np.uint8)
    guess = rng.choice(known[:-1] if missing else known, truth.shape).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, np.minimum(truth, guess.max()), guess).astype(np.uint8)
    truth[rng.random(truth.shape) < ignored] = IGNORED
    return truth, prediction


@pytest.mark.parametrize(("classes", "seed"), [(FLOOD, 0), (FLOOD, 1), (CROPS, 2), (CROPS, 3)])
def test_scores_equal_those_of_scikit_learn(classes: dict[int, str], seed: int) -> None:
    truth, prediction = maps(len(classes), seed)
    scores = named(count(truth, prediction, len(classes)), classes)
    labelled = truth != IGNORED
    y, p = truth[labelled], prediction[labelled]
    table = {"iou": jaccard_score, "f1": f1_score, "precision": precision_score, "recall": recall_score}
    for name, function in table.items():
        expected = function(y, p, labels=sorted(classes), average=None)
        for index, label in classes.items():
            word = label.lower().replace(" ", "_").replace("/", "_")
            # A ratio of the same whole numbers; 1 unit in the last place of float64.
            assert scores[f"{name}_{word}"] == pytest.approx(expected[index], rel=3e-16)
    assert scores["aacc"] == pytest.approx(accuracy_score(y, p), rel=3e-16)
    # scikit-learn takes a sum of shares where we take whole numbers.
    assert scores["kappa"] == pytest.approx(cohen_kappa_score(y, p), rel=1e-13)
    assert len(scores) == 4 + 4 * len(classes)


def mmseg(truth: np.ndarray, prediction: np.ndarray, classes: int) -> dict[str, float]:
    """As IoUMetric has it: histograms of a whole split without the ignored pixels, nanmean over classes."""
    kept = truth != IGNORED
    y, p = truth[kept], prediction[kept]
    bins = np.arange(classes + 1)
    intersect = np.histogram(p[p == y], bins=bins)[0]
    predicted, true = np.histogram(p, bins=bins)[0], np.histogram(y, bins=bins)[0]
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return {
            "aacc": intersect.sum() / true.sum(),
            "miou": float(np.nanmean(intersect / (predicted + true - intersect))),
            "macc": float(np.nanmean(intersect / true)),
        }


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("classes", [FLOOD, CROPS])
def test_means_are_those_of_mmsegmentation(classes: dict[int, str], missing: bool) -> None:
    """Also where a class is never true (left out of mAcc) or never found; and one that is neither (out of both)."""
    number = len(classes) + 1
    truth, prediction = maps(len(classes), 4, missing=missing)
    wide = {**classes, number - 1: "never"}
    scores = named(count(truth, prediction, number), wide)
    for name, expected in mmseg(truth, prediction, number).items():
        assert scores[name] == pytest.approx(expected, rel=1e-15), name
    assert math.isnan(scores["iou_never"])
    assert math.isnan(scores["recall_never"])


def test_split_is_scored_as_one_map_and_not_by_means_of_chips() -> None:
    pairs = [maps(2, seed) for seed in range(3)]
    pairs[1][0][:] = IGNORED
    pairs[2][0][:40] = 0
    parts = [count(*pair, 2) for pair in pairs]
    whole = count(np.stack([y for y, _ in pairs]), np.stack([p for _, p in pairs]), 2)
    assert np.array_equal(total(parts).counts, whole.counts)
    assert parts[1].counts.sum() == 0
    assert whole.counts.sum() == sum(part.counts.sum() for part in parts)
    scores = [named(part, FLOOD)["iou_water"] for part in (parts[0], parts[2])]
    assert abs(named(whole, FLOOD)["iou_water"] - np.mean(scores)) > 0.01


def test_rows_are_the_truth() -> None:
    truth, prediction = np.array([0, 1, 1, 1, 255], np.uint8), np.array([0, 0, 0, 1, 1], np.uint8)
    counts = count(truth, torch.from_numpy(prediction).numpy(), 2)
    assert counts.counts.tolist() == [[1, 0], [2, 1]]
    scores = named(counts, FLOOD)
    assert scores["recall_water"] == pytest.approx(1 / 3)
    assert scores["precision_water"] == 1
    assert per_class(counts, FLOOD)["Water"]["pixels"] == 3


def test_primary_is_the_iou_of_class_1_or_the_mean() -> None:
    assert primary(FLOOD) == "iou_water"
    assert primary({0: "Unburnt land", 1: "Burn scar"}) == "iou_burn_scar"
    assert primary(CROPS) == "miou"
    for classes in (FLOOD, CROPS):
        counts = count(*maps(len(classes), 5), len(classes))
        scores = named(counts, classes)
        assert score_of_state(counts.counts.astype(np.float64), classes) == scores[primary(classes)]


def test_classes_whose_names_differ_in_signs_alone_keep_scores_of_their_own() -> None:
    classes = {0: "Wheat (winter)", 1: "wheat winter", 2: "---"}
    counts = count(*maps(3, 6), 3)
    scores = named(counts, classes)
    assert [scores[f"iou_{word}"] for word in ("wheat_winter_0", "wheat_winter_1", "2")] == pytest.approx(
        counts.iou().tolist()
    )


def test_chip_without_labels_or_without_water() -> None:
    nothing = named(count(np.full((4, 4), 255, np.uint8), np.ones((4, 4), np.uint8), 2), FLOOD)
    assert all(math.isnan(score) for score in nothing.values())
    dry = np.zeros((4, 4), np.uint8)
    scores = named(count(dry, dry, 2), FLOOD)
    assert math.isnan(scores["iou_water"])
    assert scores["aacc"] == scores["miou"] == scores["macc"] == 1
    assert math.isnan(scores["kappa"])


def test_kappa_of_a_large_split_does_not_overflow() -> None:
    """Squares of the pixels of 400 chips leave int64."""
    matrix = np.array([[9, 1], [2, 8]], np.int64)
    assert kappa(matrix * 10**10) == pytest.approx(kappa(matrix), rel=1e-15)


def test_values_that_are_no_class_are_refused() -> None:
    with pytest.raises(DataError, match="true label 2"):
        count(np.array([0, 2], np.uint8), np.array([0, 1], np.uint8), 2)
    with pytest.raises(DataError, match="prediction is not a class"):
        count(np.array([0, 1], np.uint8), np.array([0, 255], np.uint8), 2)
    with pytest.raises(ValueError, match="classes"):
        named(count(*maps(3, 0), 3), FLOOD)


def test_bootstrap_over_chips_brackets_the_score() -> None:
    parts = [count(*maps(2, seed), 2) for seed in range(12)]
    score = named(total(parts), FLOOD)["iou_water"]
    matrices = np.stack([part.counts for part in parts]).astype(np.float64)
    low, high = bootstrap_interval(matrices, lambda state: score_of_state(state, FLOOD), resamples=200)
    assert low < score < high
