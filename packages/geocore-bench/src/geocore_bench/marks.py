"""The clock inside a training loop: the steps between two marks count, not the start and not the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from geocore_bench.harness import Measured

if TYPE_CHECKING:
    from torch import Tensor


class Marks:
    """Called once a step, at the same point of each."""

    def __init__(self, warm: int, steps: int) -> None:
        """Set it up.

        Args:
            warm: steps before those that count.
            steps: steps that count.
        """
        self._first, self._last = warm, warm + steps
        self._seen = 0
        self._start = self._stop = (0.0, 0.0)
        self.loss: Tensor | None = None
        """Of the step in progress; set by the loop."""
        self._final = 0.0

    def __call__(self) -> None:
        """Count a step."""
        self._seen += 1
        if self._seen == self._first:
            self._start = (time.perf_counter(), time.process_time())
        elif self._seen == self._last:
            self._stop = (time.perf_counter(), time.process_time())
            self._final = float(self.loss) if self.loss is not None else 0.0

    def measured(self) -> Measured:
        """Microseconds a step, and the loss at the end, in which loops have to agree."""
        steps = self._last - self._first
        wall, cpu = (1e6 * (stop - start) / steps for start, stop in zip(self._start, self._stop, strict=True))
        return Measured(wall, {"cpu_us": cpu, "loss": self._final})
