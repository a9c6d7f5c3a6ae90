"""Scores from counts: count first, add up over tiles, scenes and processes, then compute each score once.

One confusion count serves all class scores. Counts of parts add up exactly, means of scores do not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocore.errors import DataError

Array = np.ndarray[Any, Any]
FloatArray = np.ndarray[Any, np.dtype[np.float64]]

# Codes of a chunk stay in the processor's cache: 2 to 5 times faster than one pass over a batch.
_CHUNK = 1 << 17
# Labels to ignore that lie further out get a row of their own instead of all rows up to them.
_FARTHEST_ROW = 512


class Confusion:
    """Confusion counts of a classification; every score is computed from them.

    The label to ignore is counted in rows of its own that are dropped when counts are read: cheaper than a mask, and
    labels that do not belong show up in the same way. A class that a score is undefined for scores NaN (never seen,
    never predicted); macro means leave it out.
    """

    def __init__(self, classes: int, ignore: int | None = None) -> None:
        """Start with no pixel.

        Args:
            classes: number of classes; labels are 0 to classes - 1.
            ignore: true label of pixels that do not count, any integer.
        """
        if classes < 1:
            raise ValueError(f"classes = {classes}: must be at least 1")
        self.classes = classes
        self.ignore = ignore
        self._moves_ignore = ignore is not None and not -_FARTHEST_ROW <= ignore <= _FARTHEST_ROW
        row = classes if self._moves_ignore else ignore
        self._ignored = None if row is None else int(row)
        known = [0, classes - 1] if self._ignored is None else [0, classes - 1, self._ignored]
        # One row, and one column, on either side collect what is out of range.
        self._first = min(known) - 1
        self._rows = max(known) - self._first + 2
        self._columns = classes + 2
        self._table = torch.zeros(self._rows * self._columns, dtype=torch.int64)

    @classmethod
    def from_counts(cls, counts: Array) -> Confusion:
        """Take counts made elsewhere, such as the sum over a bootstrap sample.

        Args:
            counts: shape (class, class), whole numbers; rows are the truth.
        """
        confusion = cls(len(counts))
        confusion._table.view(confusion._rows, confusion._columns)[1:-1, 1:-1] = torch.as_tensor(counts)
        return confusion

    def update(self, truth: Array | Tensor, prediction: Array | Tensor) -> None:
        """Count pixels.

        On a GPU the counts stay there until they are read.

        Args:
            truth: any shape, bool or integer labels. uint8 is the fastest.
            prediction: the same shape, bool or integer labels 0 to classes - 1.
        """
        if truth.shape != prediction.shape:
            raise ValueError(f"truth has shape {tuple(truth.shape)}, prediction {tuple(prediction.shape)}: must match")
        t, p = _flat(truth), _flat(prediction)
        if p.device != t.device:
            p = p.to(t.device)
        if self._table.device != t.device:
            self._table = self._table.to(t.device)
        step = _CHUNK if t.device.type == "cpu" else max(t.numel(), 1)
        quick = self.classes == 2 and t.device.type == "cpu" and {t.dtype, p.dtype} <= {torch.uint8, torch.bool}
        for start in range(0, t.numel(), step):
            part, guess = t[start : start + step], p[start : start + step]
            if not (quick and self._count_two(part, guess)):
                self._count(part, guess)

    def _count(self, truth: Tensor, prediction: Tensor) -> None:
        if self._moves_ignore:
            assert self.ignore is not None
            wide = truth.to(torch.int64)
            truth = wide.clamp(-1, self.classes + 1).masked_fill_(torch.eq(wide, self.ignore), self.classes)
        first = self._first
        # A copy even of int32, as the steps after it work in place.
        codes = truth.to(torch.int32, copy=True).clamp_(first, first + self._rows - 1).sub_(first).mul_(self._columns)
        codes.add_(prediction.to(torch.int32, copy=True).clamp_(-1, self.classes).add_(1))
        self._table += torch.bincount(codes, minlength=self._table.numel())

    def _count_two(self, truth: Tensor, prediction: Tensor) -> bool:
        """Count two classes by comparing bytes, which is 4 times faster than codes; False if a label is unknown."""
        t, p = truth.view(torch.uint8).numpy(), prediction.view(torch.uint8).numpy()
        if p.max() > 1:
            return False
        positive, negative, guessed = t == 1, t == 0, p == 1
        ones, zeros = np.count_nonzero(positive), np.count_nonzero(negative)
        # uint8 never equals an ignored label outside 0-255, and 0 or 1 is counted as such and dropped on reading.
        outside = self.ignore is not None and 1 < self.ignore < 256
        others = np.count_nonzero(t == self.ignore) if outside else 0
        if ones + zeros + others != t.size:
            return False
        hits, alarms = np.count_nonzero(positive & guessed), np.count_nonzero(negative & guessed)
        table = self._table.view(self._rows, self._columns)
        for label, column, count in ((0, 0, zeros - alarms), (0, 1, alarms), (1, 0, ones - hits), (1, 1, hits)):
            table[label - self._first, column + 1] += int(count)
        if outside:
            assert self._ignored is not None
            table[self._ignored - self._first, 1] += int(others)
        return True

    @property
    def counts(self) -> Array:
        """Counts, shape (class, class), int64; rows are the truth, columns the prediction.

        Raises:
            DataError: a true label is neither a class nor the one to ignore, or a prediction is not a class.
        """
        table = self._table.cpu().numpy().reshape(self._rows, self._columns)
        kept = table[-self._first : -self._first + self.classes].copy()
        known = set(range(self.classes)) | ({self._ignored} if self._ignored is not None else set())
        labels = [int(row) + self._first for row in np.flatnonzero(table.sum(axis=1))]
        strays = [label for label in labels if label not in known]
        if strays:
            ends = {self._first: f"below {self._first + 1}", self._first + self._rows - 1: f"above {max(known)}"}
            named = ", ".join(ends.get(label, str(label)) for label in strays[:3])
            but = "" if self.ignore is None else f" or {self.ignore} (ignored)"
            raise DataError(f"true label {named}: must be 0 to {self.classes - 1}{but}; recode the labels")
        if self._ignored is not None and 0 <= self._ignored < self.classes:
            kept[self._ignored] = 0
        if kept[:, 0].any() or kept[:, -1].any():
            raise DataError(f"a prediction is not a class: must be 0 to {self.classes - 1}; check for nodata")
        return kept[:, 1:-1]

    def support(self) -> Array:
        """True pixels of each class, shape (class,), int64."""
        return np.asarray(self.counts.sum(axis=1))

    def iou(self) -> FloatArray:
        """Intersection over union of each class, shape (class,)."""
        counts = self.counts
        hits = np.diag(counts)
        return _ratio(hits, counts.sum(axis=0) + counts.sum(axis=1) - hits)

    def f1(self) -> FloatArray:
        """F1 score (Dice) of each class, shape (class,)."""
        counts = self.counts
        return _ratio(2 * np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1))

    def precision(self) -> FloatArray:
        """Share of the pixels predicted as a class that are of it, shape (class,)."""
        counts = self.counts
        return _ratio(np.diag(counts), counts.sum(axis=0))

    def recall(self) -> FloatArray:
        """Share of the true pixels of a class that are predicted as it, shape (class,)."""
        counts = self.counts
        return _ratio(np.diag(counts), counts.sum(axis=1))

    def macro_iou(self) -> float:
        """Mean IoU over the classes that are seen or predicted."""
        return macro(self.iou())

    def accuracy(self) -> float:
        """Share of the pixels that have the right class; NaN without a pixel."""
        counts = self.counts
        pixels = int(counts.sum())
        return int(np.trace(counts)) / pixels if pixels else math.nan

    def scores(self, names: Sequence[str]) -> dict[str, float]:
        """All scores by name, NaN where there is no data.

        `miou` (mean IoU of the classes that are true or predicted somewhere), `accuracy`, `mean_recall` (over the
        classes that are true somewhere), `kappa` (Cohen's); and for each class `iou_`, `f1_`, `precision_` and
        `recall_` with its name as `score_words` writes it.

        Args:
            names: of the classes.
        """
        words = score_words(names)
        if len(words) != self.classes:
            raise ValueError(f"{len(words)} names for {self.classes} classes")
        iou, recall = self.iou(), self.recall()
        overall = {
            "miou": macro(iou),
            "accuracy": self.accuracy(),
            "mean_recall": macro(recall),
            "kappa": kappa(self.counts),
        }
        table = {"iou": iou, "f1": self.f1(), "precision": self.precision(), "recall": recall}
        return overall | {
            f"{score}_{word}": float(value)
            for score, values in table.items()
            for word, value in zip(words, values, strict=True)
        }

    def per_class(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """All class scores as a table: class name to score name to value; `pixels` are the true pixels."""
        if len(names) != self.classes:
            raise ValueError(f"{len(names)} names for {self.classes} classes")
        columns = {
            "iou": self.iou(),
            "f1": self.f1(),
            "precision": self.precision(),
            "recall": self.recall(),
            "pixels": self.support(),
        }
        return {name: {key: float(column[i]) for key, column in columns.items()} for i, name in enumerate(names)}


def macro(scores: FloatArray) -> float:
    """Mean over classes, leaving out those that are NaN; NaN when all are.

    Args:
        scores: shape (class,).
    """
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else math.nan


def kappa(matrix: Array) -> float:
    """Cohen's kappa, (p_o - p_e) / (1 - p_e): agreement beyond that of independent maps with the same shares.

    J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20, 1960.

    Args:
        matrix: shape (class, class), int64; rows are the truth.

    Returns:
        At most 1; NaN without a pixel, and where truth and prediction are one and the same class throughout.
    """
    # Whole numbers of Python, since products of the pixels of a split leave int64.
    pixels = int(matrix.sum())
    expected = sum(int(row) * int(column) for row, column in zip(matrix.sum(axis=1), matrix.sum(axis=0), strict=True))
    if not pixels or expected == pixels * pixels:
        return math.nan
    return (pixels * int(np.trace(matrix)) - expected) / (pixels * pixels - expected)


def score_words(names: Sequence[str]) -> list[str]:
    """Class names fit for the names of scores: lower case, words joined by `_`, the index added where two are equal."""
    words = [re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in names]
    return [
        word if word and words.count(word) == 1 else f"{word}_{index}".lstrip("_") for index, word in enumerate(words)
    ]


def _ratio(part: Any, whole: Any) -> FloatArray:
    """Divide, NaN where the whole is not above 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    quotient: FloatArray = np.full(np.broadcast(part, whole).shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def _flat(values: Array | Tensor) -> Tensor:
    """The values in one row, without a copy where memory allows."""
    if isinstance(values, Tensor):
        return values.detach().reshape(-1)
    # Torch refuses read-only memory with a warning and other byte orders with an error; both come from files.
    ready = np.require(values, dtype=values.dtype.newbyteorder("="), requirements=["C", "W"])
    return torch.from_numpy(ready).reshape(-1)
