"""The network of a run as commands that use it take it: from the checkpoint that was chosen, read once per process.

trained = chosen_network(settings.run, settings.checkpoint, restore_model)      # in the command
network = same_network(origin, restore_model).network                           # in each job, given trained.origin
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from geocore.checkpoints import Checkpoint, load_checkpoint
from geocore.errors import CheckpointError
from geocore.settings import TilingSettings

N = TypeVar("N")


@dataclass(frozen=True, slots=True)
class Origin:
    """Which weights: what a command hands to its jobs, wherever they run and however long their process has lived."""

    checkpoint: Path
    """Its folder, absolute."""
    weights_hash: str
    """SHA-256 of the weights, since a run may be trained again in the same folder."""


@dataclass(frozen=True, slots=True)
class Trained(Generic[N]):
    """A network with the checkpoint that it comes from."""

    checkpoint: Checkpoint
    network: N

    @property
    def origin(self) -> Origin:
        """What finds the same network again."""
        return _origin(self.checkpoint)

    @property
    def tiling(self) -> TilingSettings:
        """The tiles that it was trained and validated on."""
        return TilingSettings.model_validate(self.checkpoint.card["config"]["tiling"])


_latest: dict[tuple[Origin, Callable[[Checkpoint], Any]], Trained[Any]] = {}
"""The network that was read last, alone: a process maps many regions with it."""


def chosen_network(run: Path, which: str, restore: Callable[[Checkpoint], N]) -> Trained[N]:
    """The network of a run as it is now.

    Args:
        run: its folder.
        which: `best`, `last`, or the name of a checkpoint.
        restore: makes the network of a checkpoint; a function of a module.

    Raises:
        CheckpointError: the run has no such checkpoint, or it is damaged or of another task.
    """
    return _restored(load_checkpoint(run / "checkpoints", which), restore)


def same_network(origin: Origin, restore: Callable[[Checkpoint], N]) -> Trained[N]:
    """The network that a command has chosen; all who ask for it get the same object.

    Args:
        origin: of the network.
        restore: as for `chosen_network`.

    Raises:
        CheckpointError: the checkpoint is gone or damaged, or holds other weights by now.
    """
    held: Trained[N] | None = _latest.get((origin, restore))
    if held is not None:
        return held
    checkpoint = load_checkpoint(origin.checkpoint.parent, origin.checkpoint.name)
    if checkpoint.weights_hash != origin.weights_hash:
        raise CheckpointError(
            f"{origin.checkpoint} has other weights than when this command began: the run was trained again "
            "meanwhile; start the command anew"
        )
    return _restored(checkpoint, restore)


def _restored(checkpoint: Checkpoint, restore: Callable[[Checkpoint], N]) -> Trained[N]:
    key = (_origin(checkpoint), restore)
    held: Trained[N] | None = _latest.get(key)
    if held is None:
        held = Trained(checkpoint, restore(checkpoint))
        _latest.clear()
        _latest[key] = held
    return held


def _origin(checkpoint: Checkpoint) -> Origin:
    return Origin(checkpoint.path.absolute(), checkpoint.weights_hash)
