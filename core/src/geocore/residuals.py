"""Scores of a regression from sums that add up over tiles, scenes and processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


class RegressionSums:
    """Sums of a regression in float64; r2, RMSE, MAE and bias are computed from them."""

    def __init__(self) -> None:
        """Start with no pixel."""
        self._sums = torch.zeros(6, dtype=torch.float64)

    def update(self, truth: Array | Tensor, prediction: Array | Tensor, valid: Array | Tensor | None = None) -> None:
        """Count pixels.

        Args:
            truth: any shape, any real dtype; may be NaN where not valid.
            prediction: the same shape and unit.
            valid: bool, the same shape; None when all count.
        """
        if truth.shape != prediction.shape or (valid is not None and valid.shape != truth.shape):
            raise ValueError(f"truth {tuple(truth.shape)}, prediction {tuple(prediction.shape)}: must have one shape")
        t, p = _float64(truth), _float64(prediction)
        if valid is not None:
            mask = torch.as_tensor(valid).cpu()
            t, p = t[mask], p[mask]
        error = p - t
        parts = (torch.ones_like(t), error, error.abs(), error.square(), t, t.square())
        self._sums = self._sums + torch.stack([part.sum() for part in parts])

    @property
    def state(self) -> Tensor:
        """Sums of 1, error, |error|, error**2, truth, truth**2; shape (6,), float64."""
        return self._sums

    def load_state(self, state: Tensor) -> None:
        """Replace the sums by those of `state`."""
        self._sums = state.clone()

    def merge(self, other: RegressionSums) -> None:
        """Add the sums of another part."""
        self._sums = self._sums + other._sums

    @property
    def count(self) -> int:
        """Number of pixels."""
        return int(self._sums[0])

    def r2(self) -> float:
        """Coefficient of determination, 1 - squared errors / squared deviations of the truth from its mean.

        NaN where the truth does not vary.
        """
        n, _, _, squared, t, t2 = self._sums.tolist()
        if n == 0:
            return math.nan
        deviations = t2 - t * t / n
        # What is left of a constant truth is rounding.
        return 1.0 - squared / deviations if deviations > 1e-12 * t2 else math.nan

    def rmse(self) -> float:
        """Root mean square error, in the unit of the values."""
        return math.sqrt(_ratio(self._sums[3].item(), self._sums[0].item()))

    def mae(self) -> float:
        """Mean absolute error, in the unit of the values."""
        return _ratio(self._sums[2].item(), self._sums[0].item())

    def bias(self) -> float:
        """Mean of prediction minus truth, in the unit of the values."""
        return _ratio(self._sums[1].item(), self._sums[0].item())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def _float64(values: Array | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu().double()
    return torch.from_numpy(values.astype(np.float64))
