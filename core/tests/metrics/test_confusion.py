import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn import metrics as sklearn
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.functional.classification import multiclass_jaccard_index

from geocore.errors import DataError
from geocore.metrics.boundary import BoundaryCounts
from geocore.metrics.confusion import Confusion, macro

torch.set_num_threads(1)


def _maps(classes, dtype=np.uint8, ignore=255, shape=(3, 40, 50), seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape).astype(np.int64)
    prediction = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, classes, shape))
    if ignore is not None:
        truth[rng.random(shape) < 0.1] = ignore
    return truth.astype(dtype), prediction.astype(dtype if np.dtype(dtype) != bool else np.uint8)


@pytest.mark.parametrize("classes", [2, 3, 20])
@pytest.mark.parametrize(
    ("dtype", "ignore"),
    [
        (np.uint8, 255),
        (np.uint8, None),
        (np.uint8, 0),
        (np.int64, 255),
        (np.int64, -1),
        (np.int32, -100),
        (np.int64, 100_000),
        (np.int64, 2**40),
        (np.uint16, 65535),
        (">i2", -9999),
    ],
)
def test_counts_equal_scikit_learn(classes, dtype, ignore):
    truth, prediction = _maps(classes, dtype, ignore)
    confusion = Confusion(classes, ignore)
    given = truth.copy(), prediction.copy()
    confusion.update(truth, prediction)
    np.testing.assert_array_equal(truth, given[0])
    np.testing.assert_array_equal(prediction, given[1])
    kept = truth != ignore if ignore is not None else np.ones_like(truth, bool)
    labels = list(range(classes))
    t, p = truth[kept].astype(np.int64), prediction[kept].astype(np.int64)
    expected = sklearn.confusion_matrix(t, p, labels=labels)
    assert confusion.counts.dtype == np.int64
    np.testing.assert_array_equal(confusion.counts, expected)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_tensors_count_like_arrays(kind):
    truth, prediction = _maps(2, np.uint8, 7)
    first, second = Confusion(2, 7), Confusion(2, 7)
    first.update(truth, prediction)
    second.update(torch.from_numpy(truth).to(kind), torch.from_numpy(prediction))
    np.testing.assert_array_equal(first.counts, second.counts)


def test_booleans_and_read_only_and_strided_arrays_are_counted():
    truth, prediction = (x.astype(bool) for x in _maps(2, np.uint8, None))
    truth.flags.writeable = False
    confusion = Confusion(2)
    confusion.update(truth[:, ::2, ::-1], prediction[:, ::2, ::-1])
    expected = sklearn.confusion_matrix(truth[:, ::2].ravel(), prediction[:, ::2].ravel())
    np.testing.assert_array_equal(confusion.counts, expected)


def test_chunks_do_not_matter():
    truth, prediction = _maps(5, shape=(3, 300, 301))  # more than two chunks
    confusion = Confusion(5, 255)
    confusion.update(truth, prediction)
    kept = truth != 255
    np.testing.assert_array_equal(confusion.counts, sklearn.confusion_matrix(truth[kept], prediction[kept]))


def test_scores_equal_the_oracles():
    truth, prediction = _maps(6)
    truth[truth == 5] = 2  # class 5 is predicted, never true
    confusion = Confusion(6, 255)
    confusion.update(truth, prediction)
    t, p = truth[truth != 255], prediction[truth != 255]
    options = {"labels": list(range(6)), "average": None, "zero_division": np.nan}
    np.testing.assert_allclose(confusion.f1(), sklearn.f1_score(t, p, **options))
    np.testing.assert_allclose(confusion.precision(), sklearn.precision_score(t, p, **options))
    np.testing.assert_allclose(confusion.recall(), sklearn.recall_score(t, p, **options))
    np.testing.assert_allclose(confusion.iou(), sklearn.jaccard_score(t, p, labels=list(range(6)), average=None))
    T, P = torch.from_numpy(truth).long(), torch.from_numpy(prediction).long()
    iou = multiclass_jaccard_index(P, T, 6, average=None, ignore_index=255)
    np.testing.assert_allclose(confusion.iou(), iou.numpy(), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 7, 20])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_mean_iou_over_batches_is_that_of_torchmetrics(classes, dtype):
    confusion, oracle = Confusion(classes, 255), MulticlassJaccardIndex(classes, ignore_index=255, average="macro")
    for seed in range(3):
        truth, prediction = _maps(classes, dtype, seed=seed)
        confusion.update(torch.from_numpy(truth), torch.from_numpy(prediction))
        oracle.update(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    # It divides in float32.
    assert confusion.macro_iou() == pytest.approx(float(oracle.compute()), rel=1e-6)
    np.testing.assert_array_equal(confusion.counts, oracle.confmat.numpy())


def test_a_class_that_never_occurs_is_nan_and_left_out_of_means():
    confusion = Confusion(3)
    confusion.update(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(confusion.iou(), [0.5, 2 / 3, np.nan])
    assert confusion.macro_iou() == pytest.approx((0.5 + 2 / 3) / 2)
    assert confusion.per_class(["a", "b", "c"])["a"] == pytest.approx(
        {"iou": 0.5, "f1": 2 / 3, "precision": 1.0, "recall": 0.5, "pixels": 2.0}
    )


def test_nothing_counted_scores_nan():
    confusion = Confusion(2, 255)
    confusion.update(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8))
    confusion.update(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8))
    assert confusion.counts.sum() == 0
    assert math.isnan(confusion.macro_iou()) and np.isnan(confusion.f1()).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("classes", [2, 3])
def test_labels_that_are_no_class_are_refused(dtype, classes):
    good = np.zeros(5, dtype)
    for label, text in [(classes, str(classes)), (99, r"99|above 255")]:
        confusion = Confusion(classes, 255)
        confusion.update(np.array([0, 1, label, 1, 255], dtype), good)
        with pytest.raises(DataError, match=f"true label ({text}): must be 0 to {classes - 1} or 255"):
            confusion.iou()
        confusion = Confusion(classes, 255)
        confusion.update(good, np.array([0, 1, label, 1, 0], dtype))
        with pytest.raises(DataError, match="a prediction is not a class"):
            confusion.iou()


def test_negative_labels_are_refused():
    for truth, prediction in (([-1, 0], [0, 0]), ([0, 0], [0, -1])):
        confusion = Confusion(2)
        confusion.update(np.array(truth), np.array(prediction))
        with pytest.raises(DataError):
            _ = confusion.counts


def test_counts_of_parts_add_up_to_the_whole():
    truth, prediction = _maps(4)
    whole, parts = Confusion(4, 255), [Confusion(4, 255) for _ in range(3)]
    whole.update(truth, prediction)
    for part, t, p in zip(parts, truth, prediction, strict=True):
        part.update(t, p)
    added = Confusion.from_counts(sum(part.counts for part in parts))
    np.testing.assert_array_equal(added.counts, whole.counts)
    np.testing.assert_array_equal(added.iou(), whole.iou())


def test_macro_of_nothing_is_nan():
    assert math.isnan(macro(np.array([np.nan])))


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3])
@pytest.mark.parametrize("seed", range(3))
def test_boundary_scores_equal_brute_force(tolerance, seed):
    rng = np.random.default_rng(seed)
    truth, prediction = (rng.random((24, 30)) < 0.04 for _ in range(2))
    valid = ndimage.gaussian_filter(rng.normal(size=(24, 30)), 3) > -0.05
    counts = BoundaryCounts(tolerance)
    counts.update(truth, prediction, valid)
    true, predicted = np.argwhere(truth & valid), np.argwhere(prediction & valid)
    near = [
        sum(any(math.dist(a, b) <= tolerance for b in those) for a in these)
        for these, those in ((predicted, true), (true, predicted))
    ]
    assert len(true) and len(predicted)
    precision, recall = near[0] / len(predicted), near[1] / len(true)
    assert counts.precision() == pytest.approx(precision)
    assert counts.recall() == pytest.approx(recall)
    assert counts.f1() == pytest.approx(2 * precision * recall / (precision + recall) if precision else 0)


def test_invalid_boundary_pixels_neither_count_nor_match():
    truth, prediction = np.zeros((2, 20, 20), bool)
    truth[5], prediction[[5, 12]] = True, True
    valid = np.ones((20, 20), bool)
    valid[8:] = False
    counts = BoundaryCounts(2)
    counts.update(truth, prediction, valid)
    assert counts.precision() == counts.recall() == 1.0
    valid[5] = False
    counts = BoundaryCounts(20)
    counts.update(truth, prediction, valid)
    assert math.isnan(counts.f1())


def test_boundary_within_and_beyond_the_tolerance():
    truth, prediction = np.zeros((2, 20, 20), bool)
    truth[:, 7], prediction[:, 9] = True, True
    for tolerance, score in ((1.9, 0.0), (2.0, 1.0)):
        counts = BoundaryCounts(tolerance)
        counts.update(truth, prediction)
        assert counts.f1() == score


def test_boundary_of_empty_images():
    nothing, something = np.zeros((6, 6), bool), np.eye(6, dtype=bool)
    empty, missed = BoundaryCounts(2), BoundaryCounts(2)
    empty.update(nothing, nothing)
    assert math.isnan(empty.f1()) and empty.images == 1
    missed.update(something, nothing)
    assert missed.f1() == 0 and missed.recall() == 0 and math.isnan(missed.precision())
    missed.merge(empty)
    assert missed.images == 2
    with pytest.raises(ValueError):
        missed.merge(BoundaryCounts(3))
