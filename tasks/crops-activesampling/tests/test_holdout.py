"""The hold-out model's losses: made once, kept beside it, looked up by window."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from crops_activesampling.config import TASK, ModelSettings, SelectionSettings, TrainSettings
from crops_activesampling.holdout import HoldoutLosses, holdout_losses
from crops_activesampling.loss import sample_losses
from crops_activesampling.model import build_model, restore_model
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import BandStatistics, Statistics
from geocore.device import DeviceContext
from geocore.errors import CheckpointError, DataError, RunError
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Window
from geocore.raster.scene import Layer
from geocore.storage.files import write_sealed
from geocore.tiling.samplers import PatchIndex
from geocore.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint

CPU = DeviceContext(torch.device("cpu"))
WINDOWS = 21
"""More than a batch, and no multiple of it."""


def _dataset(root: Path, *, crops: tuple[str, ...] = ("wheat", "maize"), bands: tuple[str, ...] = ("B04",)) -> Dataset:
    statistics = BandStatistics(9, 0.0, 9000.0, 2000.0, 500.0, {1.0: 0.0, 50.0: 2000.0, 99.0: 20000.0})
    times = tuple(f"2019-0{month}-01" for month in (1, 2, 3))
    layer = Layer("medians", Bands(tuple(Band(name, "DN", 0.5) for name in bands)), "uint16", times=times)
    samples = [
        Sample(
            id=split,
            group="31TCG",
            split=split,
            inputs={},
            labels={},
            attributes={f"class_{index}_px": 10 for index in range(1 + len(crops))},
        )
        for split in ("train", "val")
    ]
    return Dataset(
        root=root,
        task=TASK,
        samples=samples,
        layers={"medians": layer},
        labels={"crops": LabelSpec("crops", dict(enumerate(("unknown", *crops))), ignore=0)},
        statistics=Statistics({"medians": tuple(statistics for _ in bands)}),
    )


def _settings(*, swap: bool = False, months: str = "1..3", **changes: Any) -> TrainSettings:
    model = ModelSettings(kind="convstar", hidden=4, layers=1, months=months)
    return TrainSettings(model=model, swap=swap, **changes)


def _window(index: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(index)
    values = 4000 * torch.rand(3, 1, 6, 6, generator=random)
    target = torch.randint(0, 3, (6, 6), generator=random).to(torch.uint8)
    if index == 4:
        target[:] = 0
    return {"values": values, "target": target}


class _Windows:
    """Stands for `data.Windows`: three patches of seven windows, whose numbers are not those of their order."""

    def __init__(self, periods: Sequence[int]) -> None:
        self.periods = periods
        self.windows = [[Window(0, 10 * (7 * patch + place), 6, 6) for place in range(7)] for patch in range(3)]
        self.reads = 0

    def read(self, draw: PatchIndex) -> dict[str, Any]:
        self.reads += 1
        assert draw.window is not None
        index = WINDOWS - 1 - draw.window.col // 10
        values = _window(index)["values"][[period - 1 for period in self.periods]]
        valid = torch.ones(len(self.periods), 1, 6, 6, dtype=torch.bool)
        return {
            "inputs": {"medians": {"values": values, "valid": valid}},
            "targets": {"crops": _window(index)["target"]},
            "keys": torch.tensor([draw.epoch, draw.index]),
            "index": torch.tensor(index),
        }


def _holdout_run(
    folder: Path, dataset: Dataset, *, months: str = "1..3", finished: bool = True, swap: bool = True
) -> Path:
    settings = _settings(swap=swap, months=months, choose_by="loss")
    torch.manual_seed(0)
    network = build_model(dataset, settings)
    card = {"task": TASK, "config": settings.model_dump(mode="json"), "data_hash": dataset.hash, **network.card()}
    contents = CheckpointState(
        step=1,
        model=network.state_dict(),
        ema=None,
        optimizer={},
        source={},
        random=[],
        progress={},
        card=card,
    )
    save_checkpoint(folder / "checkpoints", contents, best=True, keep=1)
    costs = [{"step": 5, "forwards": 100, "seconds": 1.0}, {"step": 10, "forwards": 240, "seconds": 2.5}, {"step": 10}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in costs))
    if finished:
        write_sealed(folder / "finished.json", {})
    return folder


def _asked(run: Path, dataset: Dataset, settings: TrainSettings | None = None) -> tuple[HoldoutLosses, list[_Windows]]:
    made: list[_Windows] = []

    def windows(periods: Sequence[int]) -> Any:
        made.append(_Windows(periods))
        return made[-1]

    return holdout_losses(run, dataset, settings or _settings(), windows=windows, context=CPU), made


def test_each_window_has_the_loss_of_the_hold_out_model_at_its_number(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path)
    run = _holdout_run(tmp_path / "holdout", dataset, months="3,1")
    found, (windows,) = _asked(run, dataset)
    assert tuple(windows.periods) == (3, 1), "the periods are those of the hold-out model"
    network = restore_model(load_checkpoint(run / "checkpoints", "best"))
    assert found.losses.shape == (WINDOWS,) and found.losses.dtype == torch.float32
    for index in range(WINDOWS):
        values, target = _window(index)["values"][[2, 0]], _window(index)["target"]
        valid = torch.ones(1, 2, 1, 6, 6, dtype=torch.bool)
        logits = network(network.images({"medians": {"values": values[None], "valid": valid}}))
        # A batch of one rounds differently: measured 2e-7.
        torch.testing.assert_close(found.losses[index], sample_losses(logits, target[None])[0].detach(), rtol=2e-6,
                                   atol=0, equal_nan=True)  # fmt: skip
    assert found.losses.isnan().tolist() == [index == 4 for index in range(WINDOWS)]


def test_losses_are_made_once_for_data_model_and_split(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path)
    run = _holdout_run(tmp_path / "holdout", dataset)
    first, (windows,) = _asked(run, dataset)
    # The last batch is filled up to its full size.
    assert windows.reads >= WINDOWS
    other_seed = _settings(selection=SelectionSettings(scores={"rho-loss": 1.0}, holdout=run), skip_empty=True)
    again, none = _asked(run, dataset, other_seed)
    assert none == [] and torch.equal(first.losses.nan_to_num(), again.losses.nan_to_num())
    assert dataclasses.replace(again, losses=first.losses) == first
    whole, one = _asked(run, dataset, _settings(skip_empty=False))
    assert len(one) == 1 and whole.identity != first.identity
    elsewhere = _holdout_run(tmp_path / "other", dataset, months="1..2")
    assert _asked(elsewhere, dataset)[0].identity not in (first.identity, whole.identity)


def test_what_the_losses_and_the_model_cost_is_known(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path)
    found, _ = _asked(_holdout_run(tmp_path / "holdout", dataset), dataset)
    assert found.forwards == WINDOWS and found.seconds > 0
    assert (found.training_forwards, found.training_seconds) == (240, 2.5)


@pytest.mark.parametrize("name", ["losses.npy", "entry.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "missing", "folder"])
def test_damaged_losses_are_made_again(tmp_path: Path, name: str, harm: str) -> None:
    dataset = _dataset(tmp_path)
    run = _holdout_run(tmp_path / "holdout", dataset)
    first, _ = _asked(run, dataset)
    (path,) = (run / "losses").glob(f"*/{name}")
    whole = path.read_bytes()
    path.unlink()
    match harm:
        case "flipped":
            path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        case "cut":
            path.write_bytes(whole[:50])
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
    again, made = _asked(run, dataset)
    assert len(made) == 1 and torch.equal(first.losses.nan_to_num(), again.losses.nan_to_num())
    assert _asked(run, dataset)[1] == []


def test_damaged_metrics_leave_the_cost_of_the_model_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = _dataset(tmp_path)
    run = _holdout_run(tmp_path / "holdout", dataset)
    (run / "metrics.jsonl").write_text('{"step": 5, "forw')
    found, _ = _asked(run, dataset)
    assert (found.training_forwards, found.training_seconds) == (0, 0.0)
    assert "what the training of the hold-out model cost is not known: " in caplog.text


def test_a_hold_out_model_that_does_not_belong_is_one_clear_line(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path)
    run = _holdout_run(tmp_path / "holdout", dataset)
    with pytest.raises(DataError, match="trained on the split 'val', which it has to judge: train one with --recipe"):
        _asked(run, dataset, _settings(swap=True))
    with pytest.raises(DataError, match="knows wheat, maize, .* has wheat, rye: train one on it"):
        _asked(run, _dataset(tmp_path, crops=("wheat", "rye")))
    with pytest.raises(DataError, match="takes B04 of 3 periods, .* has B04, B08 of 3: train one on it"):
        _asked(run, _dataset(tmp_path, bands=("B04", "B08")))
    with pytest.raises(RunError, match="is not finished: go on with crops-train"):
        _asked(_holdout_run(tmp_path / "begun", dataset, finished=False), dataset)
    with pytest.raises(CheckpointError, match="has no 'best' checkpoint: train first"):
        _asked(tmp_path / "missing", dataset)
