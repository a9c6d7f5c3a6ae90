"""Which counts decide here: boundary precision, recall and F1 within 5 pixels, and the threshold that maximises F1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from geocore.metrics.boundary import BoundaryCounts
from snowpack_sam2.ridges import boundary_mask

TOLERANCE_PX: Final = 5.0
PRIMARY: Final = "boundary_f1_5px"
MEANINGS: Final = {
    PRIMARY: "boundaries found within 5 px: precision and recall in one figure",
    "boundary_precision_5px": "of the boundary that was drawn, the share that lies within 5 px of a true one",
    "boundary_recall_5px": "of the true boundary, the share that has a drawn one within 5 px",
}
"""Score -> what it says."""
THRESHOLDS: Final = (0.05, *(round(0.1 * step, 1) for step in range(1, 10)), 0.95)
"""Boundary probabilities among which validation chooses."""

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MappedPhoto:
    """A photograph with its boundary probability and its truth."""

    probability: npt.NDArray[np.float32]
    """Shape (row, col), float32, 0-1."""
    lines: BoolArray
    """Shape (row, col), bool: true boundary, one pixel wide."""
    labelled: BoolArray
    """Shape (row, col), bool: pixels that count."""

    def counts(self, threshold: float) -> BoundaryCounts:
        """Boundary counts of this photograph at a threshold."""
        return count(self.lines, boundary_mask(self.probability, self.labelled, threshold), self.labelled)


def count(lines: BoolArray, predicted: BoolArray, labelled: BoolArray) -> BoundaryCounts:
    """Counts of one photograph.

    Args:
        lines: true boundary, shape (row, col).
        predicted: predicted boundary, shape (row, col).
        labelled: pixels that count, shape (row, col).
    """
    counts = BoundaryCounts(TOLERANCE_PX)
    counts.update(lines, predicted, labelled)
    return counts


def total(counts: Iterable[BoundaryCounts]) -> BoundaryCounts:
    """Counts of all photographs together."""
    whole = BoundaryCounts(TOLERANCE_PX)
    for part in counts:
        whole.merge(part)
    return whole


def named(counts: BoundaryCounts) -> dict[str, float]:
    """Scores by the names under which they are reported."""
    return {
        PRIMARY: counts.f1(),
        "boundary_precision_5px": counts.precision(),
        "boundary_recall_5px": counts.recall(),
    }


def f1_of_state(state: npt.NDArray[Any]) -> float:
    """F1 from summed counts, as the bootstrap hands them over."""
    counts = BoundaryCounts(TOLERANCE_PX)
    counts.load_state(torch.as_tensor(state))
    return counts.f1()


def pooled_f1(truths: Sequence[BoolArray], predictions: Sequence[BoolArray], valids: Sequence[BoolArray]) -> float:
    """F1 of several photographs together; 0 where nothing is there to be found and nothing was."""
    counts = total(count(*photo) for photo in zip(truths, predictions, valids, strict=True))
    return float(np.nan_to_num(counts.f1()))


def choose_threshold(photos: Sequence[MappedPhoto]) -> tuple[float, dict[str, float]]:
    """The threshold with the best F1 over all photographs, the lowest among equals, and the scores there."""
    best: tuple[float, dict[str, float]] = (THRESHOLDS[0], {})
    for threshold in THRESHOLDS:
        scores = named(total(photo.counts(threshold) for photo in photos))
        if not best[1] or np.nan_to_num(scores[PRIMARY]) > np.nan_to_num(best[1][PRIMARY]):
            best = (threshold, scores)
    return best
