"""The network of a run is read once, comes with its checkpoint, and is the same for all jobs of a command."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from geocore.errors import CheckpointError
from geocore.settings import TilingSettings
from geocore.training.checkpoint import Checkpoint, CheckpointState, save_checkpoint
from geocore.training.run import chosen_network, same_network


def save_run(run: Path, *weights: float, best: int) -> None:
    """Checkpoints of one weight each, of steps 1, 2, ..., of which one scored best."""
    for step, weight in enumerate(weights, 1):
        contents = CheckpointState(
            step=step, model={"weight": torch.tensor([[weight]])}, ema=None, optimizer={}, source={}, random=[],
            progress={}, card={"config": {"tiling": {"size": 64, "overlap": 16}}},
        )  # fmt: skip
        save_checkpoint(run / "checkpoints", contents, best=step == best, keep=3)


def restore(checkpoint: Checkpoint) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    network.load_state_dict(checkpoint.model())
    return network


def test_the_network_is_that_of_the_checkpoint_that_was_asked_for(tmp_path: Path) -> None:
    save_run(tmp_path, 1.0, 2.0, 3.0, best=2)
    for which, step in (("best", 2), ("last", 3), ("step-000001", 1)):
        trained = chosen_network(tmp_path, which, restore)
        assert trained.checkpoint.step == step and trained.network.weight.item() == float(step)
    assert trained.tiling == TilingSettings(size=64, overlap=16)


def test_a_network_is_read_once_until_another_is_asked_for(tmp_path: Path) -> None:
    restored: list[str] = []

    def counted(checkpoint: Checkpoint) -> nn.Linear:
        restored.append(f"{checkpoint.path.parents[1].name} {checkpoint.step}")
        return restore(checkpoint)

    for name in ("a", "b"):
        save_run(tmp_path / name, 1.0, 2.0, best=1)
    first = chosen_network(tmp_path / "a", "best", counted)
    assert chosen_network(tmp_path / "a", "step-000001", counted) is first
    assert same_network(first.origin, counted) is first and restored == ["a 1"]
    other = chosen_network(tmp_path / "a", "last", counted)
    assert other.checkpoint.step == 2
    chosen_network(tmp_path / "b", "best", counted)
    assert same_network(first.origin, counted).network.weight.item() == 1.0
    assert restored == ["a 1", "a 2", "b 1", "a 1"]


def test_jobs_use_the_weights_that_their_command_chose_however_long_their_process_has_lived(tmp_path: Path) -> None:
    save_run(tmp_path, 1.0, 2.0, best=1)
    old = chosen_network(tmp_path, "best", restore)  # a long-lived worker holds this one
    save_run(tmp_path, 1.0, 2.0, 7.0, best=3)
    new = pickle.loads(pickle.dumps(chosen_network(tmp_path, "best", restore).origin))
    same_network(old.origin, restore)
    assert same_network(new, restore).network.weight.item() == 7.0
    # The run is trained again in the same folder, and has another checkpoint of the same name.
    save_run(tmp_path, 5.0, 6.0, 8.0, best=3)
    assert chosen_network(tmp_path, "best", restore).network.weight.item() == 8.0
    with pytest.raises(CheckpointError, match=r"step-000003 has other weights than when this command began: .* anew"):
        same_network(new, restore)


def test_a_run_without_the_checkpoint_is_refused_until_it_has_it(tmp_path: Path) -> None:
    save_run(tmp_path, 1.0, best=0)
    with pytest.raises(CheckpointError, match="no 'best' checkpoint: take one of step-000001 with --checkpoint"):
        chosen_network(tmp_path, "best", restore)
    with pytest.raises(CheckpointError, match="no 'step-000002' checkpoint: take one of step-000001 with --checkpoint"):
        chosen_network(tmp_path, "step-000002", restore)
    save_run(tmp_path, 1.0, 5.0, best=2)
    assert chosen_network(tmp_path, "best", restore).network.weight.item() == 5.0
