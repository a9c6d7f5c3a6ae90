"""What training costs: forward passes and seconds, counted around a source of batches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from crops_activesampling.selection import Selecting

if TYPE_CHECKING:
    from geocore.training.fit import BatchSource

BACKWARD_FORWARDS: Final = 2
"""Forward passes that a backward pass costs: one for the gradient of the weights, one for that of the inputs."""


class Metered:
    """Counts the samples and seconds that go into training; wraps a source of batches and is one.

    Seconds run from one micro-batch to the next, so that they hold reading, choosing, the step and its checkpoint, in
    the process at hand; what runs within `paused`, such as a validation, is left out. A resumed run goes on from the
    count of its checkpoint.
    """

    def __init__(self, batches: BatchSource, *, batch_size: int, forwards: int = 0, seconds: float = 0.0) -> None:
        """Wrap a source.

        Args:
            batches: the source; samples that a `Selecting` scores are counted too.
            batch_size: samples of a micro-batch, over all processes.
            forwards: forward passes of one sample that were made before.
            seconds: that were spent before.
        """
        self._batches, self._batch_size = batches, batch_size
        self._before, self._seconds = forwards, seconds
        self._handed = 0
        self._since: float | None = None

    @property
    def handed(self) -> int:
        """Micro-batches handed out."""
        return self._handed

    @property
    def forwards(self) -> int:
        """Cost so far in forward passes of one sample, over all processes; a training step costs 3 for each sample."""
        scored = self._batches.scored if isinstance(self._batches, Selecting) else 0
        return self._before + scored + self._handed * self._batch_size * (1 + BACKWARD_FORWARDS)

    @property
    def seconds(self) -> float:
        """Cost so far, seconds."""
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock."""
        running, self._seconds, self._since = self._since is not None, self.seconds, None
        yield
        self._since = time.monotonic() if running else None

    def state_dict(self) -> dict[str, Any]:
        """State of the source, and the counts."""
        return {
            "batches": dict(self._batches.state_dict()),
            "handed": self._handed,
            "before": self._before,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position of `state_dict`; counts for iterations begun later."""
        self._batches.load_state_dict(state["batches"])
        self._handed, self._before, self._seconds = state["handed"], state["before"], state["seconds"]
        self._since = None

    def __iter__(self) -> Iterator[Any]:
        """Yield the micro-batches of the source."""
        source = iter(self._batches)
        while True:
            if self._since is None:
                self._since = time.monotonic()
            batch = next(source)
            self._handed += 1
            yield batch
