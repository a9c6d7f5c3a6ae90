"""Which counts decide here: average precision of objects, object F1 at three overlaps, pixel IoU, and the threshold.

Two objects are compared by the intersection over union (IoU) of their pixels. Average precision follows COCO (T.-Y. Lin
et al., Microsoft COCO, ECCV 2014; 101 recall points), as computed by pycocotools, with no limit on detections and every
size of object. Precision, recall and F1 match one to one: of all pairs of one class with at least the asked overlap,
those with the highest IoU first. Objects that lie mostly on pixels without a label neither count nor fail.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.raster.grid import Window
from slumps_detectron2.instances import Instance

PRIMARY: Final = "ap50"
MEANINGS: Final = {
    PRIMARY: "precision over all score thresholds, of objects that overlap a true one by half (COCO)",
    "object_f1_30": "objects found at the threshold: precision and recall in one figure",
    "object_precision_30": "of the objects found, the share that overlaps a true one by 30 %",
    "object_recall_30": "of the true objects, the share that is found so",
    "pixel_iou": "ground that is slump in map and truth, as a share of what is slump in either",
}
"""Score -> what it says; the overlap is intersection over union."""
OVERLAPS: Final = (0.1, 0.3, 0.5)
"""IoU from which an object counts as found; 0.3 chooses the threshold, as inventories of slumps do."""
CHOOSING: Final = 0.3
THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Object scores among which validation chooses."""

Counts = npt.NDArray[np.int64]
"""Shape (4, 3), int64: hits, alarms and misses of objects at each of `OVERLAPS`, then of pixels."""
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MappedArea:
    """An area with the objects that were found and those that are there; pixels counted from its first."""

    found: Sequence[Instance]
    """They do not overlap."""
    true: Sequence[Instance]
    ids: npt.NDArray[np.uint32]
    """Shape (row, col), uint32: 1 + position in `true`, 0 elsewhere."""
    labelled: BoolArray
    """Shape (row, col), bool: pixels that count."""

    def of_class(self, label: int) -> MappedArea:
        """The same area with the objects of one class only."""
        true = [instance for instance in self.true if instance.label == label]
        ids = np.zeros_like(self.ids)
        for number, instance in enumerate(true, start=1):
            ids[instance.window.slices][instance.mask] = number
        found = [instance for instance in self.found if instance.label == label]
        return MappedArea(found, true, ids, self.labelled)

    def counted(self) -> list[Instance]:
        """The found objects of which at least half lies on labelled pixels."""
        return [
            instance
            for instance in self.found
            if 2 * np.count_nonzero(self.labelled[instance.window.slices] & instance.mask) >= instance.pixels
        ]

    def overlaps(self) -> list[tuple[float, int, int]]:
        """IoU, position in `counted()` and position in `true` of every pair of one class that shares a pixel."""
        pairs = []
        for position, instance in enumerate(self.counted()):
            under, shared = np.unique(self.ids[instance.window.slices][instance.mask], return_counts=True)
            for number, pixels in zip(under.tolist(), shared.tolist(), strict=True):
                if number and self.true[number - 1].label == instance.label:
                    union = instance.pixels + self.true[number - 1].pixels - pixels
                    pairs.append((pixels / union, position, number - 1))
        return pairs

    def counts(self, thresholds: Sequence[float]) -> list[Counts]:
        """Counts of this area for several thresholds of the score."""
        pairs = sorted(self.overlaps(), key=lambda pair: (-pair[0], pair[1], pair[2]))
        objects = self.counted()
        scores = np.array([instance.score for instance in objects], np.float64)
        highest = np.zeros(self.ids.shape, np.float32)
        for instance in self.found:
            place = highest[instance.window.slices]
            place[instance.mask] = np.maximum(place[instance.mask], np.float32(instance.score))
        slump = (self.ids > 0) & self.labelled
        results = []
        for threshold in thresholds:
            kept = scores >= threshold
            rows = []
            for overlap in OVERLAPS:
                hits = _matched([pair for pair in pairs if pair[0] >= overlap and kept[pair[1]]])
                rows.append((hits, int(kept.sum()) - hits, len(self.true) - hits))
            predicted = (highest >= np.float32(threshold)) & self.labelled
            both, alone, there = (int(plane.sum()) for plane in (predicted & slump, predicted, slump))
            rows.append((both, alone - both, there - both))
            results.append(np.array(rows, np.int64))
        return results


def _matched(pairs: Sequence[tuple[float, int, int]]) -> int:
    """Pairs left when each object is taken once, the first pairs first."""
    taken: tuple[set[int], set[int]] = (set(), set())
    for _, found, true in pairs:
        if found not in taken[0] and true not in taken[1]:
            taken[0].add(found)
            taken[1].add(true)
    return len(taken[0])


def named(counts: Counts) -> dict[str, float]:
    """Precision, recall and F1 of objects and F1 and IoU of pixels, by the names under which they are reported.

    Precision is NaN where nothing was found, recall where nothing is there, F1 and IoU where both hold.
    """
    scores = {}
    for overlap, (hits, alarms, misses) in zip(OVERLAPS, counts[:3].tolist(), strict=True):
        digits = f"{round(100 * overlap)}"
        scores[f"object_f1_{digits}"] = _ratio(2 * hits, 2 * hits + alarms + misses)
        scores[f"object_precision_{digits}"] = _ratio(hits, hits + alarms)
        scores[f"object_recall_{digits}"] = _ratio(hits, hits + misses)
    hits, alarms, misses = counts[3].tolist()
    scores["pixel_f1"] = _ratio(2 * hits, 2 * hits + alarms + misses)
    scores["pixel_iou"] = _ratio(hits, hits + alarms + misses)
    return scores


def choose_threshold(areas: Sequence[MappedArea]) -> float:
    """The score with the best object F1 at IoU 0.3 over all areas; the lowest among equals."""
    by_threshold = zip(*(area.counts(THRESHOLDS) for area in areas), strict=True)
    row = OVERLAPS.index(CHOOSING)
    best, chosen = -1.0, THRESHOLDS[0]
    for threshold, counts in zip(THRESHOLDS, by_threshold, strict=True):
        hits, alarms, misses = np.sum([part[row] for part in counts], axis=0).tolist()
        score = 2 * hits / max(2 * hits + alarms + misses, 1)
        if score > best:
            best, chosen = score, threshold
    return chosen


class AveragePrecision:
    """Average precision over areas; the pairing within an area is done once, so that areas can be resampled."""

    def __init__(self, areas: Sequence[MappedArea], labels: Sequence[int] = (1,)) -> None:
        """Pair detections and true objects area by area.

        Args:
            areas: at least one.
            labels: the class values.
        """
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        truth, found = COCO(), COCO()
        truth.dataset, found.dataset = _coco(areas, labels, predicted=False), _coco(areas, labels, predicted=True)
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
            found.createIndex()
            self._evaluation = COCOeval(truth, found, "segm")
            parameters = self._evaluation.params
            parameters.maxDets = [max(1, *(len(area.found) for area in areas))]
            parameters.areaRng, parameters.areaRngLbl = [[0, 1e15]], ["all"]
            self._evaluation.evaluate()
        self._areas = len(areas)
        self._pairings = np.array(self._evaluation.evalImgs, dtype=object).reshape(len(labels), len(areas))

    def scores(self, times: npt.NDArray[Any] | None = None) -> dict[str, float]:
        """AP50, AP75 and their mean over IoU 0.50, 0.55 ... 0.95; means over the classes that occur, NaN without any.

        Args:
            times: how often each area counts, shape (area,), int; once each where None.
        """
        order = np.repeat(np.arange(self._areas), 1 if times is None else times)
        evaluation = copy.copy(self._evaluation)
        evaluation.evalImgs = self._pairings[:, order].ravel().tolist()
        evaluation._paramsEval = copy.copy(self._evaluation._paramsEval)
        evaluation.params = copy.copy(self._evaluation.params)
        evaluation.params.imgIds = evaluation._paramsEval.imgIds = list(range(len(order)))
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        # Shape (IoU, recall, class, size, limit); -1 where a class does not occur.
        precision = evaluation.eval["precision"][..., 0, 0]
        known = precision[:, 0] > -1
        means = [float(level[:, there].mean()) if there.any() else math.nan for level, there in _zip(precision, known)]
        return {"ap50": means[0], "ap75": means[5], "map": float(np.mean(means))}


def _zip(precision: npt.NDArray[Any], known: BoolArray) -> Iterable[tuple[npt.NDArray[Any], BoolArray]]:
    return zip(precision, known, strict=True)


def _coco(areas: Sequence[MappedArea], labels: Sequence[int], *, predicted: bool) -> dict[str, Any]:
    """Objects of all areas in the form that pycocotools takes."""
    annotations: list[dict[str, Any]] = []

    def add(image: int, label: int, window: Window, mask: BoolArray, **more: Any) -> None:
        shape = areas[image].labelled.shape
        entry = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "iscrowd": 0, "ignore": 0}
        box = [window.col, window.row, window.width, window.height]
        encoded = run_lengths(window, mask, (shape[0], shape[1]))
        annotations.append(entry | {"area": int(mask.sum()), "bbox": box, "segmentation": encoded} | more)

    for image, area in enumerate(areas):
        for instance in area.found if predicted else area.true:
            add(image, instance.label, instance.window, instance.mask, score=instance.score)
        if not predicted and not area.labelled.all():
            # What lies on a crowd counts neither as a hit nor as an alarm.
            whole = Window(0, 0, *area.labelled.shape)
            for label in labels:
                add(image, label, whole, ~area.labelled, iscrowd=1, ignore=1)
    return {
        "info": {},
        "images": [{"id": i, "height": a.labelled.shape[0], "width": a.labelled.shape[1]} for i, a in enumerate(areas)],
        "categories": [{"id": label} for label in labels],
        "annotations": annotations,
    }


def run_lengths(window: Window, mask: BoolArray, shape: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask within a larger image, without making that image.

    Args:
        window: where the mask lies.
        mask: shape of the window, bool.
        shape: (row, col) of the image.
    """
    from pycocotools import mask as coco

    # Runs go down the columns of the whole image; the first one is background.
    edges = np.diff(mask.T.astype(np.int8), axis=1, prepend=0, append=0)
    cols, rows = np.nonzero(edges)
    bounds = (cols + window.col) * shape[0] + rows + window.row
    # A run that ends at the foot of a column goes on at the head of the next.
    meets = np.flatnonzero(np.diff(bounds) == 0)
    bounds = np.delete(bounds, np.concatenate([meets, meets + 1]))
    total = shape[0] * shape[1]
    counts = np.diff(bounds[bounds < total], prepend=0, append=total)
    encoded: dict[str, Any] = coco.frPyObjects({"counts": counts.tolist(), "size": list(shape)}, *shape)
    return encoded


def all_scores(areas: Sequence[MappedArea], threshold: float, labels: Sequence[int]) -> dict[str, float]:
    """All scores of several areas together at one threshold."""
    counts = np.sum([area.counts([threshold])[0] for area in areas], axis=0)
    return AveragePrecision(areas, labels).scores() | named(counts)


def resampled(areas: Sequence[MappedArea], labels: Sequence[int]) -> tuple[Counts, Callable[[Any], float]]:
    """What `geocore.metrics.evaluation.bootstrap_interval` takes to resample AP50: how often each area counts."""
    precision = AveragePrecision(areas, labels)
    return np.eye(len(areas), dtype=np.int64), lambda times: precision.scores(times)[PRIMARY]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
