"""Scores of models and of maps, against scikit-learn."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from sklearn import metrics
from torch import nn

from geocore.errors import DataError, UserError
from geocore.metrics.confusion import Confusion
from geocore.metrics.evaluation import bootstrap_interval
from geocore.raster.geotiff import open_raster
from geocore.segmentation.dataset import SegmentationDataset
from geocore.segmentation.evaluation import Scores, compare, evaluate

CLASSES = ["land", "disc", "square"]


@pytest.fixture(scope="module")
def data(chips: Path) -> SegmentationDataset:
    return SegmentationDataset.from_folder(chips, classes=CLASSES, group=r"^(\w+?)_")


def by_hand(model: nn.Module, data: SegmentationDataset) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes of all pixels that count, each sample predicted whole."""
    truth, found = [], []
    with torch.no_grad():
        for item in (data[index] for index in range(len(data))):
            logits = model(item["image"].nan_to_num()[None])[0]
            known = item["mask"] != 255
            truth.append(item["mask"][known].numpy())
            found.append(logits.argmax(0)[known].numpy())
    return np.concatenate(truth), np.concatenate(found)


def check(scores: Scores, truth: np.ndarray, found: np.ndarray) -> None:
    labels = list(range(len(scores.classes)))
    iou = metrics.jaccard_score(truth, found, labels=labels, average=None)
    f1 = metrics.f1_score(truth, found, labels=labels, average=None)
    recall = metrics.recall_score(truth, found, labels=labels, average=None)
    assert np.array_equal(scores.confusion, metrics.confusion_matrix(truth, found, labels=labels))
    assert scores["miou"] == pytest.approx(iou.mean(), rel=1e-12)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, found), rel=1e-12)
    assert scores["mean_recall"] == pytest.approx(recall.mean(), rel=1e-12)
    assert scores["kappa"] == pytest.approx(metrics.cohen_kappa_score(truth, found), rel=1e-9)
    for row, name in enumerate(scores.classes):
        assert scores[f"iou_{name}"] == scores.per_class[row]["iou"] == pytest.approx(iou[row], rel=1e-12)
        assert scores[f"f1_{name}"] == pytest.approx(f1[row], rel=1e-12)
        assert scores.per_class[row]["pixels"] == (truth == row).sum()


def test_scores_are_those_of_whole_predictions(data: SegmentationDataset, toys: SimpleNamespace) -> None:
    net = toys.net().eval()
    check(evaluate(net, data), *by_hand(net, data))


@pytest.mark.parametrize("size, overlap", [(32, 8), (64, 0), (40, 20)])
def test_tiles_do_not_change_what_looks_at_single_pixels(
    data: SegmentationDataset, size: int, overlap: int, toys: SimpleNamespace
) -> None:
    torch.manual_seed(1)
    net = nn.Conv2d(3, 3, 1)
    net.weight.data *= 0.01
    # Blended probabilities of equal tiles differ in their last digits: a tie may fall otherwise.
    truth, found = by_hand(net, data)
    scores = evaluate(net, data, tile=size, overlap=overlap)
    table = metrics.confusion_matrix(truth, found, labels=[0, 1, 2])
    assert np.abs(scores.confusion - table).sum() <= 2
    assert scores.confusion.sum() == len(truth)


def test_nothing_of_the_model_or_the_process_stays_changed(data: SegmentationDataset, toys: SimpleNamespace) -> None:
    net = nn.Sequential(toys.net(), nn.Dropout2d(0.5)).train()
    net[0].eval()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first, second = (evaluate(net, data.subset(data.samples[:2]), progress=False) for _ in range(2))
    assert np.array_equal(first.counts, second.counts)
    assert net.training and not net[0].training and net[1].training
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_channels_that_are_no_classes_are_one_line(data: SegmentationDataset, toys: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="one channel of logits for each of the 3 classes land, disc, square") as caught:
        evaluate(toys.net(classes=2), data)
    assert "\n" not in str(caught.value)


def test_intervals_draw_groups_or_samples(data: SegmentationDataset, toys: SimpleNamespace) -> None:
    scores = evaluate(toys.net(), data)
    low, high = scores.interval("iou_disc")
    assert low <= scores["iou_disc"] <= high

    def iou(counts: np.ndarray) -> float:
        return float(Confusion.from_counts(counts.astype(np.int64)).iou()[1])

    assert (low, high) == bootstrap_interval(scores.counts.astype(float), iou, groups=data.groups)
    assert scores.interval("iou_disc", by="sample") == bootstrap_interval(scores.counts.astype(float), iou)
    alone = evaluate(toys.net(), data.subset(data.samples[:2]))
    assert all(map(math.isnan, alone.interval("miou")))
    with pytest.raises(KeyError, match="no score 'iou': there are miou, accuracy"):
        scores.interval("iou")


def test_what_is_not_defined_is_nan(tmp_path: Path) -> None:
    truth = np.zeros((4, 4), np.uint8)
    scores = compare(truth, truth, classes=CLASSES)
    assert scores["miou"] == scores["accuracy"] == scores["iou_land"] == 1
    assert math.isnan(scores["iou_disc"]) and math.isnan(scores["f1_square"]) and math.isnan(scores["kappa"])
    nothing = compare(truth, np.full_like(truth, 255), classes=CLASSES)
    assert all(map(math.isnan, nothing.values()))
    assert "-" in str(nothing)


def test_scores_read_as_a_table_and_as_a_line() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 2]])
    found = np.array([[0, 1, 1, 1], [0, 0, 1, 2]])
    scores = compare(found, truth, classes=["open water", "ice", "Land"])
    assert str(scores).split("\n")[0].split() == ["score", "value"]
    assert "open water  0.7500  0.8571" in str(scores)
    assert repr(scores) == "Scores(miou 0.8333, accuracy 0.8750, kappa 0.7949; 1 samples, 8 pixels)"
    assert scores["precision_open_water"] == 1 and scores["recall_land"] == 1
    assert set(scores) >= {"miou", "accuracy", "mean_recall", "kappa", "iou_ice"}


# --- maps ---


def two_maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 4, (70, 90)).astype(np.uint8)
    found = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, 4, truth.shape)).astype(np.uint8)
    truth[random.random(truth.shape) < 0.1] = 255
    found[random.random(truth.shape) < 0.1] = 200
    return found, truth


def test_maps_score_as_with_other_libraries(tmp_path: Path, toys: SimpleNamespace) -> None:
    found, truth = two_maps()
    prediction = toys.write(tmp_path / "found.tif", found, nodata=200)
    reference = toys.write(tmp_path / "truth.tif", truth)
    names = ["a", "b", "c", "d"]
    scores = compare(prediction, str(reference), classes=names)
    known = (truth != 255) & (found != 200)
    check(scores, truth[known], found[known])
    with open_raster(prediction, codes=True) as scene:
        assert dict(compare(scene, truth, classes=names)) == dict(scores)
    floats = np.where(found == 200, np.nan, found.astype(np.float32))
    assert dict(compare(floats[np.newaxis], truth, classes=names)) == dict(scores)
    moved = {10 * value + 1: name for value, name in enumerate(names)}
    shifted = [np.where(values > 3, 7, 10 * values.astype(np.int16) + 1) for values in (found, truth)]
    assert dict(compare(shifted[0], shifted[1], classes=moved, ignore=7)) == dict(scores)


@pytest.mark.parametrize("kind", ["size", "place", "value", "float", "shape", "file", "classes"])
def test_maps_that_cannot_be_compared_are_one_line(tmp_path: Path, kind: str, toys: SimpleNamespace) -> None:
    truth = np.zeros((20, 30), np.uint8)
    reference = toys.write(tmp_path / "truth.tif", truth)
    cases: dict[str, tuple[Any, str]] = {
        "size": (truth[1:], "prediction: 19 x 30 px, but truth has 20 x 30"),
        "place": (toys.write(tmp_path / "b.tif", truth, x=0), "must cover the same pixels, and it spans"),
        "value": (truth + 7, "prediction: holds 7: labels are 0, 1, 2"),
        "float": (truth + 0.5, "whole numbers of shape"),
        "shape": (np.stack([truth, truth]), r"of shape \(2, 20, 30\)"),
        "file": (tmp_path / "c.tif", "c.tif"),
        "classes": (truth, "2 to 254 names"),
    }
    prediction, said = cases[kind]
    with pytest.raises(UserError, match=said) as caught:
        compare(prediction, reference, classes=CLASSES if kind != "classes" else ["land"])
    assert "\n" not in str(caught.value)


def test_maps_whose_grids_differ_in_the_last_digits_are_compared(tmp_path: Path, toys: SimpleNamespace) -> None:
    truth = np.arange(600).reshape(20, 30).astype(np.uint8) % 3
    reference = toys.write(tmp_path / "truth.tif", truth)
    near = toys.write(tmp_path / "near.tif", truth, transform=Affine(10, 0, 500_000.01, 0, -10, 5_000_000))
    assert compare(near, reference, classes=CLASSES)["accuracy"] == 1
