"""A baseline is trained once, and again whenever what is kept of it can be neither used nor gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from geocore.errors import CheckpointError, RunError, StorageError
from geocore.settings import Settings, deciding
from geocore.storage.files import FolderLock
from geocore.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint
from geocore.training.run import baseline_run


class Example(Settings):
    rate: float = deciding(0.5, "learning rate")


def trained(folder: Path, rate: float = 0.5, data_hash: str = "d") -> tuple[list[float], int]:
    """The weights of the best checkpoint of a baseline, and how many steps were trained for them."""
    steps = 0
    with baseline_run(folder, settings=Example(rate=rate), data_hash=data_hash, task="toy-baseline") as run:
        if not run.finished:
            try:
                first = load_checkpoint(run.checkpoints).step + 1
            except CheckpointError:
                first = 1
            for step in range(first, 4):
                steps += 1
                run.log(step, {"loss": 1 / step})
                weights = {"w": torch.tensor([rate, float(step)])}
                contents = CheckpointState(step, weights, None, {}, {}, [], {}, {})
                save_checkpoint(run.checkpoints, contents, best=step == 3, keep=3)
            run.mark_finished({"steps": 3})
        return load_checkpoint(run.checkpoints, "best").model()["w"].tolist(), steps


def test_it_is_trained_once(tmp_path: Path) -> None:
    assert trained(tmp_path / "baseline") == ([0.5, 3.0], 3)
    assert trained(tmp_path / "baseline") == ([0.5, 3.0], 0)


@pytest.mark.parametrize(
    "place", ["run.json", "checkpoints/best", "checkpoints/step-000003/model.safetensors", "checkpoints"]
)
@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "missing", "folder"])
def test_what_is_damaged_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str, harm: str
) -> None:
    folder = tmp_path / "baseline"
    trained(folder)
    path = folder / place
    if path.is_dir():
        path = path.rename(tmp_path / "away")
        if harm == "cut":
            (folder / place).touch()
    else:
        whole = path.read_bytes()
        path.unlink()
        match harm:
            case "flipped":
                path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
            case "cut":
                path.write_bytes(whole[:-3])
            case "empty":
                path.touch()
            case "folder":
                path.mkdir()
    (folder / ".notes").write_text("mine")
    assert trained(folder) == ([0.5, 3.0], 3)
    assert "is trained again: " in caplog.text and (folder / ".notes").read_text() == "mine"
    assert trained(folder) == ([0.5, 3.0], 0)


def test_one_that_was_stopped_goes_on(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "finished.json").write_text("{")
    (tmp_path / "checkpoints/last").write_text("step-000002")
    assert trained(tmp_path) == ([0.5, 3.0], 1)


@pytest.mark.parametrize("other", [{"rate": 0.25}, {"data_hash": "e"}])
def test_one_of_another_run_is_trained_again(tmp_path: Path, other: dict, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path)
    assert trained(tmp_path, **other)[1] == 3
    assert "is of another run: " in caplog.text
    assert trained(tmp_path, **other)[1] == 0


def test_what_somebody_else_works_at_or_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "baseline"
    trained(folder)
    (folder / "run.json").write_text("{")
    with FolderLock(folder), pytest.raises(RunError, match="in use"):
        trained(folder)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(StorageError, match="symbolic link"):
        trained(tmp_path / "link")
    assert (folder / "checkpoints/step-000003").is_dir() and (folder / "run.json").read_text() == "{"
