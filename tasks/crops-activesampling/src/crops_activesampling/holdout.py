"""The hold-out model: its loss on every training window, made once and looked up.

The model is one of `crops-train --recipe holdout`, trained on the validation split and chosen by its loss on the
training split. Its losses lie in its own run folder, so that all runs on the same data share them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from crops_activesampling.config import TASK, TrainSettings
from crops_activesampling.loss import CROPS, sample_losses
from crops_activesampling.model import MEDIANS, class_names, restore_model, training_split
from geocore.datasets.loader import Batches
from geocore.device import DeviceContext, to_device
from geocore.errors import DataError, RunError
from geocore.raster.npy_store import Entry, new_entry, read_cached, read_entry
from geocore.storage.files import remove_leftovers, sha256_json
from geocore.storage.records import read_metrics, read_summary
from geocore.terminal import progress
from geocore.tiling.samplers import GridSampler
from geocore.training.checkpoint import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crops_activesampling.data import Windows
    from crops_activesampling.model import CropNet
    from geocore.datasets.dataset import Dataset

logger = logging.getLogger(__name__)

FOLDER: Final = "losses"
_LOSSES: Final = "losses"
_WINDOWS_PER_BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class HoldoutLosses:
    """What the hold-out model says about the windows of a split, and what that cost."""

    losses: Tensor
    """Mean cross-entropy of each window, shape (windows,), float32, nats; NaN where it has no label."""
    identity: str
    """Hash of the data, the model and the way windows are cut."""
    forwards: int
    """Forward passes of one window that the losses cost."""
    seconds: float
    """That the losses took when they were made."""
    training_forwards: int
    """Cost of the model itself, in forward passes of one window; 0 where its run does not say it."""
    training_seconds: float


def holdout_losses(
    run: Path,
    dataset: Dataset,
    settings: TrainSettings,
    *,
    windows: Callable[[Sequence[int]], Windows],
    context: DeviceContext,
) -> HoldoutLosses:
    """Losses of a hold-out model on the windows that a run trains on; made by the first process that asks.

    Every process of a distributed run has to call it.

    Args:
        run: finished run folder of the hold-out model.
        dataset: what is trained on.
        settings: of the run that asks: its split, whether empty windows are left out, and reading threads.
        windows: windows(periods) -> the windows that are trained on, with the periods that the hold-out model sees.
        context: where the model runs.

    Raises:
        CheckpointError: there is no model, or it is not one of this task.
        DataError: it was made for other bands, periods or crops, or trained on the very windows that it has to judge.
        RunError: the run has not reached its end.
        StorageError: the losses cannot be written.
    """
    checkpoint, split = holdout_checkpoint(run), training_split(settings)
    network = restore_model(checkpoint)
    _check(run, checkpoint, network, dataset, settings)
    identity = sha256_json(
        {
            "data": dataset.hash,
            "weights": checkpoint.weights_hash,
            "split": split,
            "skip_empty": settings.skip_empty,
            "periods": list(network.periods),
        }
    )
    folder, key = run / FOLDER, identity[:12]
    if context.is_main and not _is_there(folder, key, identity):
        remove_leftovers(folder)
        began = time.monotonic()
        cut = windows(network.periods)
        losses = _losses(context.prepare(network), cut, context, threads=settings.loader.threads)
        with new_entry(folder, key, fingerprint=identity) as entry:
            entry.create(_LOSSES, (1, len(losses)), "<f4").write(losses[None])
            entry.facts.update(
                forwards=sum(map(len, cut.windows)), seconds=time.monotonic() - began, **_training_cost(run)
            )
    context.barrier()
    entry_read: Entry = read_entry(folder, key, fingerprint=identity)
    stored = read_cached(folder, key, _LOSSES)[0]
    return HoldoutLosses(torch.from_numpy(np.array(stored, np.float32)), identity, **entry_read.facts)


def holdout_checkpoint(run: Path) -> Checkpoint:
    """The best checkpoint of a finished run.

    Raises:
        CheckpointError: there is none.
        RunError: the run has not reached its end.
    """
    checkpoint = load_checkpoint(run / "checkpoints", "best")
    if read_summary(run) is None:
        raise RunError(f"{run}: the hold-out model is not finished: go on with {TASK}-train --run {run}")
    return checkpoint


def _check(run: Path, checkpoint: Checkpoint, network: CropNet, dataset: Dataset, settings: TrainSettings) -> None:
    layer = dataset.layers[MEDIANS]
    if network.layer.bands != layer.bands or len(network.layer.times) != len(layer.times):
        raise DataError(
            f"{run}: the hold-out model takes {', '.join(network.layer.bands.names)} of {len(network.layer.times)} "
            f"periods, {dataset.root} has {', '.join(layer.bands.names)} of {len(layer.times)}: train one on it"
        )
    if network.class_names != class_names(dataset):
        raise DataError(
            f"{run}: the hold-out model knows {', '.join(network.class_names.values())}, {dataset.root} has "
            f"{', '.join(class_names(dataset).values())}: train one on it"
        )
    theirs = TrainSettings.model_validate(checkpoint.card["config"])
    if checkpoint.card["data_hash"] == dataset.hash and training_split(theirs) == training_split(settings):
        raise DataError(
            f"{run}: the hold-out model was trained on the split {training_split(settings)!r}, which it has to judge: "
            "train one with --recipe holdout, which swaps train and val"
        )
    if theirs.choose_by != "loss":
        logger.info("%s was chosen by %s: --recipe holdout goes by loss", run, theirs.choose_by)


def _is_there(folder: Path, key: str, identity: str) -> bool:
    try:
        read_entry(folder, key, fingerprint=identity)
        read_cached(folder, key, _LOSSES)
    except DataError:
        return False
    return True


def _losses(
    network: CropNet, windows: Windows, context: DeviceContext, *, threads: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Loss of every window by its index, shape (windows,), float32, NaN where a window is not read or has no label."""
    count = sum(len(its) for its in windows.windows)
    batch_size = min(_WINDOWS_PER_BATCH, count)
    # The last batch is filled up, so that all have one shape; the second losses of those windows are the first.
    batches = Batches(
        GridSampler(windows.windows, seed=0, shuffle=False),
        windows.read,
        batch_size=batch_size,
        threads=threads,
        drop_last=False,
    )
    found: dict[int, float] = {}
    steps = iter(batches)
    for _ in progress(range(-(-count // batch_size)), "hold-out losses"):
        batch = next(steps)
        with torch.inference_mode(), context.autocast():
            given = to_device(batch, context)
            losses = sample_losses(network(network.images(given["inputs"])), given["targets"][CROPS])
        found |= dict(zip(batch["index"].tolist(), losses.float().tolist(), strict=True))
    values = np.full(max(found) + 1, np.nan, np.float32)
    values[list(found)] = list(found.values())
    return values


def _training_cost(run: Path) -> dict[str, float]:
    """What the hold-out model itself cost, from the last line of its metrics that says it."""
    cost: dict[str, float] = {"training_forwards": 0, "training_seconds": 0.0}
    try:
        entries = read_metrics(run)
    except RunError as error:
        logger.warning("what the training of the hold-out model cost is not known: %s", error)
        return cost
    for entry in entries:
        if "forwards" in entry:
            cost = {"training_forwards": entry["forwards"], "training_seconds": entry["seconds"]}
    return cost
