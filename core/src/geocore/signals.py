"""Ctrl-C and SIGTERM as a wish to stop, which a loop looks at between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from geocore.devices import Place
from geocore.interruptions import REPEAT_S

_ROUND = 10
"""Steps between two exchanges about stopping: seldom enough to cost nothing, often enough for the 30 seconds that
torchrun and SLURM leave a process after SIGTERM, up to three seconds a step."""


class StopSignals:
    """Notes SIGINT and SIGTERM while it is open; a second wish of the same kind acts as it did before."""

    def __init__(self, place: Place) -> None:
        """Keep the place; signals are noted from `with` on."""
        self._place = place
        self._received: int | None = None
        self._came: dict[int, float] = {}
        self._previous: dict[int, Any] = {}

    def agreed(self, step: int) -> int | None:
        """Return the signal to stop for, or None; the same answer in every process.

        Args:
            step: steps done; processes exchange what they received at every tenth.
        """
        if self._place.world_size == 1:
            return self._received
        if step % _ROUND:
            return None
        wishes = self._place.all_reduce_sum(torch.tensor(float(self._received is not None)))
        return (self._received or signal.SIGTERM) if float(wishes) > 0 else None

    def __enter__(self) -> Self:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._came.setdefault(number, now) > REPEAT_S:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
        self._received = number
