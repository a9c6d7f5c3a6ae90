"""The network of a run is read once, and comes with its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from geocore.checkpoints import Checkpoint, Contents, save_checkpoint
from geocore.errors import CheckpointError
from geocore.networks import best_network
from geocore.settings import TilingSettings


def save_run(run: Path, *weights: float, best: int) -> None:
    """Checkpoints of one weight each, of steps 1, 2, ..., of which one scored best."""
    for step, weight in enumerate(weights, 1):
        contents = Contents(
            step=step, model={"weight": torch.tensor([[weight]])}, ema=None, optimiser={}, source={}, random=[],
            progress={}, card={"config": {"tiling": {"size": 64, "overlap": 16}}},
        )  # fmt: skip
        save_checkpoint(run / "checkpoints", contents, best=step == best, keep=3)


def restore(checkpoint: Checkpoint) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    network.load_state_dict(checkpoint.model())
    return network


def test_the_network_is_that_of_the_best_checkpoint(tmp_path: Path) -> None:
    save_run(tmp_path, 1.0, 2.0, 3.0, best=2)
    trained = best_network(tmp_path, restore)
    assert trained.checkpoint.step == 2 and trained.network.weight.item() == 2.0
    assert trained.tiling == TilingSettings(size=64, overlap=16)


def test_a_network_is_read_once_until_another_is_asked_for(tmp_path: Path) -> None:
    restored: list[int] = []

    def counted(checkpoint: Checkpoint) -> nn.Linear:
        restored.append(checkpoint.step)
        return restore(checkpoint)

    for name in ("a", "b"):
        save_run(tmp_path / name, 1.0, best=1)
    first = best_network(tmp_path / "a", counted)
    assert best_network(tmp_path / "a", counted) is first and restored == [1]
    assert best_network(tmp_path / "b", counted).checkpoint.path.parent == tmp_path / "b" / "checkpoints"
    assert best_network(tmp_path / "a", counted) is not first and restored == [1, 1, 1]


def test_a_run_without_a_best_checkpoint_is_refused_until_it_has_one(tmp_path: Path) -> None:
    save_run(tmp_path, 1.0, best=0)
    with pytest.raises(CheckpointError, match="has no 'best' checkpoint"):
        best_network(tmp_path, restore)
    save_run(tmp_path, 1.0, 5.0, best=2)
    assert best_network(tmp_path, restore).network.weight.item() == 5.0
