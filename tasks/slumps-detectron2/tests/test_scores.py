"""Counts, average precision and the threshold, against hand-made cases and pycocotools called the usual way."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest

from geocore.raster.grid import Window
from geocore.vector.polygonize import components
from slumps_detectron2.instances import Instance, instances_of
from slumps_detectron2.scores import (
    OVERLAPS,
    AveragePrecision,
    MappedArea,
    all_scores,
    choose_threshold,
    named,
    resampled,
    run_lengths,
)

SHAPE = (60, 80)


def block(row: int, col: int, height: int, width: int, score: float = 1.0, label: int = 1) -> Instance:
    return Instance(Window(row, col, height, width), np.ones((height, width), bool), score, label)


def area(found: list[Instance], true: list[Instance], labelled: np.ndarray | None = None) -> MappedArea:
    ids = np.zeros(SHAPE, np.uint32)
    for number, instance in enumerate(true, start=1):
        ids[instance.window.slices][instance.mask] = number
    return MappedArea(found, true, ids, np.ones(SHAPE, bool) if labelled is None else labelled)


def noisy_area(seed: int) -> MappedArea:
    """Blobs, found with shifts, misses, alarms and random scores."""
    rng = np.random.default_rng(seed)
    true = instances_of(components(rng.random((6, 8)).repeat(10, 0).repeat(10, 1) > 0.75), ignored=None)
    found = []
    taken = np.zeros(SHAPE, bool)
    for instance in true:
        if rng.random() < 0.8:
            window = instance.window.shifted(int(rng.integers(0, 4)), int(rng.integers(0, 4)))
            inside = window.intersection(Window(0, 0, *SHAPE))
            assert inside is not None
            mask = instance.mask[: inside.height, : inside.width] & ~taken[inside.slices]
            if mask.any():
                taken[inside.slices] |= mask
                found.append(Instance(inside, mask, float(rng.random()), 1))
    return area(found, true)


def test_counts_of_a_case_worked_out_by_hand() -> None:
    true = [block(0, 0, 10, 10), block(20, 20, 10, 10), block(40, 40, 10, 10)]
    # IoU 1; 50 / 150 = 1/3; nothing; and below every threshold.
    found = [block(0, 0, 10, 10, 0.9), block(20, 25, 10, 10, 0.8), block(0, 60, 5, 5, 0.7), block(40, 40, 10, 10, 0.1)]
    counts = area(found, true).counts([0.5])[0]
    assert counts.tolist() == [[2, 1, 1], [2, 1, 1], [1, 2, 2], [150, 75, 150]]
    scores = named(counts)
    assert scores["object_f1_30"] == pytest.approx(4 / 6)
    assert scores["object_precision_50"] == pytest.approx(1 / 3)
    assert scores["object_recall_10"] == pytest.approx(2 / 3)
    assert scores["pixel_iou"] == pytest.approx(150 / 375)


def test_an_object_is_matched_once() -> None:
    true = [block(0, 0, 10, 20)]
    halves = [block(0, 0, 10, 10, 0.9), block(0, 10, 10, 10, 0.8)]
    assert area(halves, true).counts([0.5])[0][:3].tolist() == [[1, 1, 0]] * 3
    both = [block(0, 0, 10, 10), block(0, 10, 10, 10)]
    assert area([block(0, 0, 10, 20, 0.9)], both).counts([0.5])[0][:3].tolist() == [[1, 0, 1]] * 3


def test_the_best_pairs_come_first() -> None:
    """A loose pair must not take the partner of a close one."""
    true = [block(0, 0, 10, 10), block(0, 10, 10, 4)]
    found = [block(0, 4, 10, 10, 0.9), block(0, 0, 10, 4, 0.8)]
    # IoU: first with first 60/140, first with second 40/100, second with first 40/100.
    assert area(found, true).counts([0.5])[0][1].tolist() == [1, 1, 1]


def test_classes_do_not_match_each_other() -> None:
    mapped = area([block(0, 0, 10, 10, 0.9, label=2)], [block(0, 0, 10, 10, label=1)])
    assert mapped.counts([0.5])[0][0].tolist() == [0, 1, 1]
    assert mapped.of_class(1).counts([0.5])[0][0].tolist() == [0, 0, 1]
    assert mapped.of_class(2).counts([0.5])[0][0].tolist() == [0, 1, 0]


def test_objects_on_pixels_without_a_label_do_not_count() -> None:
    labelled = np.ones(SHAPE, bool)
    labelled[:, 40:] = False
    true = [block(0, 0, 10, 10)]
    inside, outside, mostly_in = block(0, 0, 10, 10, 0.9), block(30, 50, 10, 10, 0.95), block(30, 34, 10, 10, 0.7)
    counts = area([inside, outside, mostly_in], true, labelled).counts([0.5])[0]
    assert counts[0].tolist() == [1, 1, 0]
    assert counts[3].tolist() == [100, 60, 0]
    assert AveragePrecision([area([inside, outside], true, labelled)]).scores()["ap50"] == pytest.approx(1.0)
    everywhere = area([inside, outside], true)
    assert AveragePrecision([everywhere]).scores()["ap50"] < 0.6


def test_scores_without_objects() -> None:
    assert all(math.isnan(score) for score in all_scores([area([], [])], 0.5, [1]).values())
    missed = all_scores([area([], [block(0, 0, 5, 5)])], 0.5, [1])
    assert missed["ap50"] == 0.0
    assert missed["object_f1_30"] == 0.0
    assert math.isnan(missed["object_precision_30"])


def test_the_threshold_with_the_best_f1_is_chosen() -> None:
    true = [block(0, 0, 10, 10), block(20, 20, 10, 10)]
    found = [
        block(0, 0, 10, 10, 0.92),
        block(20, 20, 10, 10, 0.62),
        block(40, 60, 9, 9, 0.33),
        block(40, 0, 9, 9, 0.58),
    ]
    assert choose_threshold([area(found, true), area([], [])]) == 0.6


def test_average_precision_is_that_of_pycocotools() -> None:
    """On objects of fewer than 100 an area, written as whole masks, with its own limits."""
    from pycocotools import mask as coco
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    areas = [noisy_area(seed) for seed in range(9)]
    assert sum(len(each.found) for each in areas) > 20
    documents = []
    for kind in ("true", "found"):
        annotations = []
        for image, each in enumerate(areas):
            for instance in getattr(each, kind):
                whole = np.zeros(SHAPE, np.uint8, order="F")
                whole[instance.window.slices][instance.mask] = 1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": 1,
                        "iscrowd": 0,
                        "segmentation": coco.encode(whole),
                        "area": int(whole.sum()),
                        "bbox": [0, 0, 1, 1],
                        "score": instance.score,
                    }
                )
        document = COCO()
        images = [{"id": image, "height": SHAPE[0], "width": SHAPE[1]} for image in range(len(areas))]
        document.dataset = {"info": {}, "images": images, "categories": [{"id": 1}], "annotations": annotations}
        documents.append(document)
    with contextlib.redirect_stdout(io.StringIO()):
        for document in documents:
            document.createIndex()
        usual = COCOeval(*documents, "segm")
        usual.evaluate()
        usual.accumulate()
        usual.summarize()
    ours = AveragePrecision(areas).scores()
    assert [ours["map"], ours["ap50"], ours["ap75"]] == pytest.approx(usual.stats[:3].tolist(), abs=1e-12)
    assert 0.05 < ours["map"] < ours["ap50"] < 1.0


def test_more_than_a_hundred_objects_count() -> None:
    true = [block(row, col, 3, 3) for row in range(0, 60, 4) for col in range(0, 80, 4)]
    assert len(true) > 100
    assert AveragePrecision([area(true, true)]).scores()["map"] == pytest.approx(1.0)


def test_resampling_counts_areas_several_times() -> None:
    areas = [noisy_area(seed) for seed in range(3)]
    units, score = resampled(areas, [1])
    assert score(np.array([1, 1, 1]) @ units) == AveragePrecision(areas).scores()["ap50"]
    repeated = [areas[0], areas[0], areas[2]]
    assert score(np.array([2, 0, 1]) @ units) == AveragePrecision(repeated).scores()["ap50"]


def test_run_lengths_are_those_of_the_whole_image() -> None:
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for row, col, height, width in ((0, 0, 60, 80), (5, 7, 9, 11), (59, 79, 1, 1), (0, 3, 60, 2), (50, 0, 10, 80)):
        mask = rng.random((height, width)) > 0.4
        whole = np.zeros(SHAPE, np.uint8, order="F")
        whole[row : row + height, col : col + width] = mask
        assert run_lengths(Window(row, col, height, width), mask, SHAPE) == coco.encode(whole)


def test_overlaps_are_those_of_the_issue() -> None:
    assert OVERLAPS == (0.1, 0.3, 0.5)
