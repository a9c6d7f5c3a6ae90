"""Scores of boundaries: how much of a predicted line lies near a true one, and the reverse."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

BoolArray = NDArray[np.bool_]


class BoundaryCounts:
    """Boundary precision, recall and F1 within a tolerance, from counts that add up over images.

    Precision is the share of the predicted boundary pixels that lie within `tolerance_px` (Euclidean, inclusive) of a
    true boundary pixel, recall the share of the true ones within the tolerance of a predicted one, F1 their harmonic
    mean. As in Csurka et al. 2013, "What is a good evaluation measure for semantic segmentation?", pixels need not be
    matched one to one, unlike Martin et al. 2004, who introduced the boundary F-measure. Unlike both, counts are summed
    over images before dividing. Boundaries are lines about a pixel wide; a thick one counts all its pixels.
    """

    def __init__(self, tolerance_px: float) -> None:
        """Start with no image.

        Args:
            tolerance_px: largest distance between the centres of matching pixels, pixels.
        """
        if tolerance_px < 0:
            raise ValueError(f"tolerance_px = {tolerance_px}: must not be negative")
        self.tolerance_px = tolerance_px
        self._counts = torch.zeros(6, dtype=torch.int64)

    def update(self, truth: BoolArray, prediction: BoolArray, valid: BoolArray | None = None) -> None:
        """Count one image.

        Args:
            truth: true boundary, shape (row, col).
            prediction: predicted boundary, shape (row, col).
            valid: shape (row, col); boundary pixels elsewhere do not count and match nothing. None when all are valid.
        """
        if truth.shape != prediction.shape or truth.ndim != 2 or (valid is not None and valid.shape != truth.shape):
            raise ValueError(f"truth {truth.shape} and prediction {prediction.shape}: must have one shape (row, col)")
        true = truth if valid is None else truth & valid
        predicted = prediction if valid is None else prediction & valid
        counts = (
            np.count_nonzero(predicted),
            self._near(predicted, true),
            np.count_nonzero(true),
            self._near(true, predicted),
            1,
            int(not true.any() and not predicted.any()),
        )
        self._counts = self._counts + torch.tensor(counts, dtype=torch.int64)

    def _near(self, these: BoolArray, those: BoolArray) -> int:
        """Number of `these` pixels within the tolerance of any of `those`."""
        if not these.any() or not those.any():
            return 0
        distance = ndimage.distance_transform_edt(~those)
        return int(np.count_nonzero(distance[these] <= self.tolerance_px))

    @property
    def state(self) -> Tensor:
        """Predicted, predicted and matched, true, true and matched pixels, images, empty images; shape (6,), int64."""
        return self._counts

    def load_state(self, state: Tensor) -> None:
        """Replace the counts by those of `state`."""
        self._counts = state.clone()

    def merge(self, other: BoundaryCounts) -> None:
        """Add the counts of another part."""
        if other.tolerance_px != self.tolerance_px:
            raise ValueError(f"tolerances {self.tolerance_px} and {other.tolerance_px} px: only equal ones add up")
        self._counts = self._counts + other._counts

    @property
    def images(self) -> int:
        """Images counted."""
        return int(self._counts[4])

    def precision(self) -> float:
        """Matched share of the predicted boundary; NaN without one."""
        predicted, matched = self._counts[:2].tolist()
        return matched / predicted if predicted else math.nan

    def recall(self) -> float:
        """Matched share of the true boundary; NaN without one."""
        true, matched = self._counts[2:4].tolist()
        return matched / true if true else math.nan

    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 when only one side has a boundary, NaN when neither has."""
        predicted, predicted_matched, true, true_matched, _, _ = self._counts.tolist()
        if not predicted and not true:
            return math.nan
        if not predicted_matched or not true_matched:
            return 0.0
        precision, recall = self.precision(), self.recall()
        return 2.0 * precision * recall / (precision + recall)
