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
        self._unread: list[tuple[int, dict[str, Tensor]]] = []
        self._read = unwritten
        self._step, self._time = step, time.monotonic()

    def add(self, step: int, losses: Losses, norm: Tensor | None) -> None:
        """Keep the losses and the gradient norm of a step, without reading them."""
        self._unread.append((step, losses if norm is None else {**losses, _NORM: norm.detach()}))

    def not_finite(self) -> Tensor:
        """Return 1 when a value of the latest step is not finite, else 0; a float32 scalar on the device."""
        _, values = self._unread[-1]
        return torch.isfinite(torch.stack(list(values.values()))).all().logical_not().float()

    def check(self) -> None:
        """Read what was kept, which waits for the device.

        Raises:
            TrainingError: a value is not finite; names the first one and its step.
        """
        everything = [value for _, values in self._unread for value in values.values()]
        # On a device one copy of all is faster, on a CPU each number by itself.
        on_cpu = not everything or everything[0].device.type == "cpu"
        numbers = iter([value.item() for value in everything] if on_cpu else torch.stack(everything).tolist())
        for step, values in self._unread:
            for name in values:
                number = next(numbers)
                if not math.isfinite(number):
                    what = "the gradient's norm" if name == _NORM else f"loss {name!r}"
                    raise TrainingError(
                        f"{what} is {number} at step {step}: it must be finite; lower optimiser.learning_rate, or "
                        "check the input for values that are not; the weights of that step were not saved"
                    )
                self._read.setdefault(name, []).append(number)
        self._unread.clear()

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
