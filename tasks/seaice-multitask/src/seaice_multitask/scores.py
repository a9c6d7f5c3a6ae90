"""The challenge's scores from counts: R2 of concentration, weighted F1 of the other charts, and both combined.

Counts of tiles, scenes and processes add up exactly, so the scores are those of all pixels pooled, though none is kept.
Definitions: Stokholm et al. 2024, The Cryosphere 18, 3471; scikit-learn's `r2_score` and weighted `f1_score`.
Scores are percentages with three decimals, as the challenge publishes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geocore.errors import DataError
from geocore.metrics.confusion import Confusion, macro
from seaice_multitask.charts import MASKED
from seaice_multitask.config import OutputSettings

PRIMARY: Final = "combined"
_CHARTS: Final = {"SIC": "ice concentration", "SOD": "stage of development", "FLOE": "floe size"}
WEIGHTS: Final[Mapping[str, float]] = {"SIC": 2.0, "SOD": 2.0, "FLOE": 1.0}
"""Weights in the combined score; other charts weigh 1."""

Counts = npt.NDArray[np.int64]
_METRICS: Final = {"SIC": "r2", "SOD": "f1", "FLOE": "f1"}


class ChartCounts:
    """Confusion counts of several charts, a matrix each: true classes are rows, predicted ones columns."""

    def __init__(self, outputs: Mapping[str, OutputSettings]) -> None:
        """Start with no pixel.

        Args:
            outputs: chart -> its kind, classes and ignored value.
        """
        self.outputs = dict(outputs)
        self._matrices: dict[str, Counts] = {
            name: np.zeros((output.classes, output.classes), np.int64) for name, output in self.outputs.items()
        }

    def update(
        self,
        truth: Mapping[str, npt.NDArray[Any] | Tensor],
        prediction: Mapping[str, npt.NDArray[Any] | Tensor],
    ) -> None:
        """Count pixels.

        Args:
            truth: chart -> classes, any shape, integer (uint8 is fastest); 255 and the output's ignored value
                do not count.
            prediction: chart -> classes, the same shape, integer; a regression rounded and clamped. Where the truth is
                masked it may hold anything.

        Raises:
            DataError: a value that counts is no class; the message names the chart, and nothing is counted.
        """
        counted: dict[str, Counts] = {}
        for name, output in self.outputs.items():
            if name not in truth or name not in prediction:
                raise ValueError(f"{name} is missing: truth has {sorted(truth)}, prediction {sorted(prediction)}")
            confusion = Confusion(output.classes, output.ignore)
            labels = truth[name]
            if output.ignore != MASKED:
                # Charts are masked by 255 whatever else an output ignores.
                labels = torch.as_tensor(labels)
                labels = labels.masked_fill(labels == MASKED, output.ignore)
            confusion.update(labels, prediction[name])
            try:
                counted[name] = confusion.counts
            except DataError as error:
                raise DataError(f"{name}: {error}") from None
        for name, matrix in counted.items():
            self._matrices[name] += matrix

    def merge(self, other: ChartCounts) -> None:
        """Add the counts of another part."""
        if self._shapes() != other._shapes():
            raise ValueError(f"charts {self._shapes()} and {other._shapes()}: only equal ones add up")
        for name, matrix in other._matrices.items():
            self._matrices[name] += matrix

    def matrix(self, name: str) -> Counts:
        """Confusion matrix of a chart, shape (class, class), int64; rows are the truth."""
        return self._matrices[name].copy()

    def pixels(self, name: str) -> int:
        """Pixels of a chart that count."""
        return int(self._matrices[name].sum())

    @property
    def state(self) -> Counts:
        """All counts in one row, shape (sum of squared numbers of classes,), int64; states of parts add up."""
        return np.concatenate([np.zeros(0, np.int64), *(matrix.ravel() for matrix in self._matrices.values())])

    def load_state(self, state: npt.NDArray[Any]) -> None:
        """Replace the counts by those of `state`.

        Args:
            state: shape (sum of squared numbers of classes,), whole numbers.
        """
        sizes = [matrix.size for matrix in self._matrices.values()]
        if state.shape != (sum(sizes),):
            raise ValueError(f"state has shape {state.shape}: must be {(sum(sizes),)}")
        start = 0
        for name, size in zip(self._matrices, sizes, strict=True):
            part = np.array(state[start : start + size], np.int64)
            self._matrices[name] = part.reshape(self._matrices[name].shape)
            start += size

    def _shapes(self) -> dict[str, int]:
        return {name: len(matrix) for name, matrix in self._matrices.items()}


def total(counts: Iterable[ChartCounts]) -> ChartCounts:
    """Counts of several parts together; at least one."""
    whole: ChartCounts | None = None
    for part in counts:
        if whole is None:
            whole = ChartCounts(part.outputs)
        whole.merge(part)
    if whole is None:
        raise ValueError("no counts to add up")
    return whole


def all_water(counts: ChartCounts) -> ChartCounts:
    """Counts of the prediction that there is no ice anywhere, for the same truth."""
    water = ChartCounts(counts.outputs)
    for name, matrix in water._matrices.items():
        matrix[:, 0] = counts.matrix(name).sum(axis=1)
    return water


def named(counts: ChartCounts) -> dict[str, float]:
    """Scores by the names under which they are reported, percent with three decimals.

    `combined`; `SIC_r2`, `SOD_f1`, `FLOE_f1` (R2 or weighted F1 by its kind for a chart of another name); for a chart
    with F1 also `<chart>_f1_macro`, the mean over classes that are there or predicted, and `<chart>_f1_<class>`. NaN
    where there is no data: F1 without a pixel (of a class: neither true nor predicted), R2 without two different true
    values, the combined score without one of its parts.
    """
    scores = _leading_scores(counts)
    result = {PRIMARY: _combined(scores)}
    for name in counts.outputs:
        result[f"{name}_{metric(counts.outputs, name)}"] = scores[name]
        if metric(counts.outputs, name) == "f1":
            each = Confusion.from_counts(counts.matrix(name)).f1()
            result[f"{name}_f1_macro"] = _percent(macro(each))
            result |= {f"{name}_f1_{number}": _percent(float(value)) for number, value in enumerate(each)}
    return result


def combined_of_state(state: npt.NDArray[Any], outputs: Mapping[str, OutputSettings]) -> float:
    """Combined score from summed states of `ChartCounts`, as the bootstrap hands them over; percent."""
    counts = ChartCounts(outputs)
    counts.load_state(state)
    return _combined(_leading_scores(counts))


def per_class(counts: ChartCounts, names: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Table of all classes of all charts.

    Args:
        counts: what was counted.
        names: chart -> names of its classes; a chart that is not there has its classes numbered.

    Returns:
        `<chart> <class name>` -> `f1`, `precision`, `recall`, `iou` in percent with three decimals, and true `pixels`.
    """
    table = {}
    for name, output in counts.outputs.items():
        labels = names.get(name, ())
        if len(labels) != output.classes:
            labels = [str(number) for number in range(output.classes)]
        for label, scores in Confusion.from_counts(counts.matrix(name)).per_class(labels).items():
            table[f"{name} {label}"] = {
                key: value if key == "pixels" else _percent(value) for key, value in scores.items()
            }
    return table


def meanings(outputs: Mapping[str, OutputSettings]) -> dict[str, str]:
    """Score -> what it says."""
    said = {PRIMARY: "the challenge's figure, per cent: concentration and stage count twice, floe size once"}
    for name in outputs:
        by = metric(outputs, name)
        said[f"{name}_{by}"] = (
            f"{_CHARTS.get(name, name)}: variance explained, per cent"
            if by == "r2"
            else f"{_CHARTS.get(name, name)}: F1 of each class, averaged by its share of the pixels, per cent"
        )
    return said


def metric(outputs: Mapping[str, OutputSettings], name: str) -> str:
    """`r2` or `f1`: what a chart is scored by, however the network says it."""
    return _METRICS.get(name, "r2" if outputs[name].kind == "regression" else "f1")


def r2(matrix: Counts) -> float:
    """Coefficient of determination of class numbers, 1 - sum (y - p)^2 / sum (y - mean y)^2, by whole-number sums.

    Args:
        matrix: shape (class, class), int64; rows are the true y, columns the predicted p.

    Returns:
        At most 1; NaN where y has fewer than two different values, for which scikit-learn would say 0 or 1.
    """
    number = np.arange(len(matrix))
    # Whole numbers of Python, since pixels times squares of the 7.9e9 real pixels overflow int64.
    support = [int(count) for count in matrix.sum(axis=1)]
    pixels = sum(support)
    first = sum(y * count for y, count in enumerate(support))
    second = sum(y * y * count for y, count in enumerate(support))
    errors = int((matrix * (number[:, None] - number) ** 2).sum())
    spread = pixels * second - first * first
    return 1.0 - pixels * errors / spread if spread else math.nan


def weighted_f1(matrix: Counts) -> float:
    """Mean F1 of the classes, each weighted by its true pixels; NaN without a pixel.

    Args:
        matrix: shape (class, class), int64; rows are the truth.
    """
    support = matrix.sum(axis=1)
    present = support > 0
    if not present.any():
        return math.nan
    f1 = Confusion.from_counts(matrix).f1()
    return float((f1[present] * support[present]).sum() / support.sum())


def _leading_scores(counts: ChartCounts) -> dict[str, float]:
    """Chart -> its score in the combined one, percent."""
    functions = {"r2": r2, "f1": weighted_f1}
    return {name: _percent(functions[metric(counts.outputs, name)](counts.matrix(name))) for name in counts.outputs}


def _combined(scores: Mapping[str, float]) -> float:
    """Weighted mean of scores that were rounded before, as the challenge does it."""
    weights = {name: WEIGHTS.get(name, 1.0) for name in scores}
    whole = sum(weights.values())
    return round(sum(weights[name] * score for name, score in scores.items()) / whole, 3) if whole else math.nan


def _percent(score: float) -> float:
    return round(100.0 * score, 3)
