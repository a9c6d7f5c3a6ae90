"""The network of a run as commands that use it take it: from the best checkpoint, read once per process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from geocore.checkpoints import Checkpoint, load_checkpoint
from geocore.settings import TilingSettings

N = TypeVar("N")


@dataclass(frozen=True, slots=True)
class Trained(Generic[N]):
    """A network with the checkpoint that it comes from."""

    checkpoint: Checkpoint
    network: N

    @property
    def tiling(self) -> TilingSettings:
        """The tiles that it was trained and validated on."""
        return TilingSettings.model_validate(self.checkpoint.card["config"]["tiling"])


def best_network(run: Path, restore: Callable[[Checkpoint], N]) -> Trained[N]:
    """The network that scored best in a run.

    The latest one is kept, because a process maps many regions with it; all who ask for it get the same object.

    Args:
        run: its folder.
        restore: makes the network of a checkpoint; a function of a module.

    Raises:
        CheckpointError: the run has no usable checkpoint, or it is of another task.
    """
    trained: Trained[N] = _read(run, restore)
    return trained


@functools.lru_cache(maxsize=1)
def _read(run: Path, restore: Callable[[Checkpoint], Any]) -> Trained[Any]:
    checkpoint = load_checkpoint(run / "checkpoints", "best")
    return Trained(checkpoint, restore(checkpoint))
