"""Losses between two lines of metrics, kept on the device until they are read."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from geocore.errors import TrainingError
from geocore.gradients import Losses
from geocore.progress import Progress
from geocore.runs import Run

_NORM = "gradient_norm"


class LossMeter:
    """Collects the losses of each step, checks that they are finite, and writes their means to the run."""

    def __init__(self, run: Run, bar: Progress[int], step: int, unwritten: dict[str, list[float]]) -> None:
        """Start after `step` steps.

        Args:
            run: where lines of metrics go.
            bar: progress of the training.
            step: steps done.
            unwritten: name -> values since the last line; the meter keeps them there, so that they can be saved.
        """
        self._run, self._bar = run, bar
        bar.advance(step)
        self._unread: list[tuple[int, str, Tensor]] = []
        self._read = unwritten
        self._step, self._time = step, time.monotonic()

    def add(self, step: int, losses: Losses, norm: Tensor | None) -> None:
        """Keep the losses and the gradient norm of a step, without reading them."""
        for name, loss in losses.items():
            self._unread.append((step, name, loss))
        if norm is not None:
            self._unread.append((step, _NORM, norm.detach()))

    def not_finite(self) -> Tensor:
        """Return 1 when a value of the latest step is not finite, else 0; a float32 scalar on the device."""
        latest = [value for step, _, value in self._unread if step == self._unread[-1][0]]
        return torch.isfinite(torch.stack(latest)).all().logical_not().float()

    def check(self) -> None:
        """Read what was kept, which waits for the device.

        Raises:
            TrainingError: a value is not finite; names the first one and its step.
        """
        for (step, name, _), number in zip(self._unread, self._numbers(), strict=True):
            if not math.isfinite(number):
                what = "the gradient's norm" if name == _NORM else f"loss {name!r}"
                raise TrainingError(
                    f"{what} is {number} at step {step}: it must be finite; lower optimiser.learning_rate, or "
                    "check the input for values that are not; the weights of that step were not saved"
                )
            self._read.setdefault(name, []).append(number)
        self._unread.clear()

    def _numbers(self) -> list[float]:
        """Read what was kept: on a device in one copy, on a CPU each number by itself, which is faster there."""
        values = [value for _, _, value in self._unread]
        return [value.item() for value in values] if not values or values[0].is_cpu else torch.stack(values).tolist()

    def write(self, step: int, learning_rate: float) -> None:
        """Log means since the last line: each loss, their sum as `loss`, the norm, and the pace."""
        self.check()
        means = {name: sum(numbers) / len(numbers) for name, numbers in self._read.items()}
        norm = {_NORM: means.pop(_NORM)} if _NORM in means else {}
        loss = sum(means.values())
        each = {f"loss_{name}": mean for name, mean in means.items()} if len(means) > 1 else {}
        now = time.monotonic()
        pace = (step - self._step) / max(now - self._time, 1e-9)
        self._run.log(step, {"loss": loss, **each, **norm, "learning_rate": learning_rate, "steps_per_second": pace})
        self._bar.advance(step - self._step, note=f"loss {loss:.4g}")
        self._read.clear()
        self._step, self._time = step, now
