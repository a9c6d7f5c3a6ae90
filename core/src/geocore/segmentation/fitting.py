"""fit(): train any network on images and masks of one's own.

The loop is that of every command (`geocore.training.fit`), and so are sampling, augmentation, normalization and
validation: what is here says how they are put together for a `SegmentationDataset`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from geocore.datasets.labels import IGNORED
from geocore.datasets.loader import Batches
from geocore.datasets.statistics import Statistics
from geocore.device import DeviceContext
from geocore.errors import DataError, SettingsError
from geocore.metrics.confusion import Confusion
from geocore.segmentation.dataset import IMAGE, MASK, SegmentationDataset
from geocore.segmentation.evaluation import Scores, score
from geocore.segmentation.model import DenseModel
from geocore.segmentation.model import run as run_network
from geocore.settings import RunSettings, deciding
from geocore.storage.files import sha256_json
from geocore.storage.records import METRICS
from geocore.terminal import quiet
from geocore.tiling.samplers import RandomWindowSampler
from geocore.tiling.tiles import TileGrid
from geocore.training import fit as loop
from geocore.training.checkpoint import load_checkpoint
from geocore.training.losses import SumCount, masked_cross_entropy, masked_softmax_dice
from geocore.training.run import Run
from geocore.training.validation import cannot_choose, unseen
from geocore.transforms.augment import Augmentation, Flip, Rot90, compose
from geocore.transforms.normalize import Normalize

Loss = Callable[[Tensor, Tensor], SumCount | Tensor]
"""loss(logits, mask) -> (sum, count), or a mean over the batch. Logits are (batch, class, row, col), the mask is
(batch, row, col), int64, 255 where nothing is known."""

logger = logging.getLogger(__name__)

_TASK: Final = "segmentation"
_TILES: Final = TileGrid(size=512, overlap=128)
"""Of validation, as `evaluate` has them."""


class FitSettings(RunSettings):
    """What decides the run of a call of `fit`, as its folder keeps it."""

    network: str = deciding("", "class of the network and number of its parameters")
    loss: str = deciding("cross_entropy", "loss, by its name")
    patch: int = deciding(256, "edge of the training windows, pixels", gt=0)
    augment: tuple[str, ...] = deciding((), "augmentations, in order")
    normalization: str = deciding("", "hash of the figures that images are normalized with")
    primary: str = deciding("miou", "score that chooses the weights")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained model and how it came about."""

    model: DenseModel = field(repr=False)
    """The best weights, in evaluation mode; takes the numbers that files hold."""
    scores: Scores | None
    """On validation, of these weights; None without validation."""
    history: list[dict[str, float]] = field(repr=False)
    """Lines of metrics: `step`, and losses, learning rate and pace, or `validation_` and the name of a score."""
    steps: int
    """Optimizer steps done."""
    best_step: int | None
    """Step of these weights."""


def fit(
    model: nn.Module,
    train: SegmentationDataset,
    val: SegmentationDataset | None = None,
    *,
    loss: Literal["cross_entropy", "dice"] | Loss = "cross_entropy",
    steps: int = 1000,
    batch_size: int = 8,
    patch: int = 256,
    augment: Sequence[Augmentation] = (Flip(), Rot90()),
    lr: float = 3e-4,
    schedule: Literal["cosine", "poly", "constant"] = "cosine",
    ema: float | None = None,
    normalize: Statistics | None = None,
    run: Path | str | None = None,
    device: str | torch.device = "auto",
    precision: Literal["float32", "bfloat16"] = "float32",
    threads: int = 1,
    seed: int = 0,
    primary: str = "miou",
    validate_every: int | None = None,
    progress: bool = True,
) -> Fitted:
    """Train a network on windows from anywhere in the samples; the best weights on validation are kept.

    Nothing of the process changes but the network, which is moved to the device and ends with the best weights. For
    one seed, device and number of threads the weights are the same to the bit.

    Args:
        model: (batch, band, row, col), float32, normalized, to logits (batch, class, row, col).
        train: to train on; its channels and classes are the network's.
        val: to choose the weights by; None: the last ones are kept.
        loss: softmax cross-entropy over all known pixels, soft Dice, or a function of logits and mask.
        steps: of the optimizer, AdamW.
        batch_size: windows in a step.
        patch: edge of the windows, pixels. Samples that are smaller are filled up with missing pixels.
        augment: changes of the normalized windows, in order; quarter turns and flips unless others are given.
        lr: highest learning rate.
        schedule: of the learning rate, down to zero at the last step, or constant.
        ema: decay of the running mean of the weights, such as 0.999; None: no such mean.
        normalize: statistics to normalize with; None: those of `train`.
        run: folder that keeps metrics and checkpoints: the same call goes on where it was stopped, and is done at once
            when it was finished. None: nothing is written.
        device: auto, cpu, cuda, mps, or one of torch.
        precision: number format of the forward pass.
        threads: that read windows ahead of the network; 0: none.
        seed: of the windows, the augmentation, and what the network draws itself. Its first weights are the caller's.
        primary: the score of `evaluate` that chooses the weights; higher is better.
        validate_every: steps between two validations; None: ten in all.
        progress: show how far it is.

    Raises:
        DataError: the model's channels are not the classes, or the two data sets differ in bands or
            classes, or `val` holds one class only, so that no score there can choose.
        RunError: the folder holds another run.
        SceneError: a sample cannot be read.
        SettingsError: a value cannot be used.
        TrainingError: the loss is not finite, or the memory is full.
    """
    context = DeviceContext.on(device, precision=precision)
    with quiet(not progress):
        _check(train, val, primary)
        statistics = train.statistics() if normalize is None else normalize
        normalizer = Normalize(statistics, {IMAGE: train.bands})
        settings = _settings(
            network=f"{type(model).__qualname__}, {sum(weight.numel() for weight in model.parameters())} parameters",
            loss=loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__qualname__),
            patch=patch,
            augment=tuple(map(repr, augment)),
            normalization=sha256_json(normalizer.card()),
            primary=primary,
            training={
                "steps": steps,
                "batch_size": batch_size,
                "seed": seed,
                "validate_every": validate_every or max(1, steps // 10),
                "ema_decay": ema,
                "choose": "last" if val is None else "score",
            },
            optimizer={"learning_rate": lr},
            schedule={"kind": schedule},
            loader={"threads": threads},
        )
        training = _Training(
            DenseModel(model, context.prepare(normalizer), train.layer, train.classes),
            train,
            val,
            _loss(loss),
            compose(augment, seed=seed, bands={IMAGE: train.bands}),
            settings,
            context,
        )
        return training.fitted() if run is None else training.fitted_in(Path(run))


@dataclass(slots=True)
class _Training:
    """A call of `fit`."""

    model: DenseModel
    train: SegmentationDataset
    val: SegmentationDataset | None
    loss: Callable[[Tensor, Tensor], SumCount]
    augment: Callable[[dict[str, Any]], dict[str, Any]]
    settings: FitSettings
    context: DeviceContext
    best: Scores | None = None
    """Of the validations of this call."""

    def fitted(self) -> Fitted:
        """Train in memory."""
        result = self._fit(None)
        assert result.best_state is not None
        return self._finished(result.best_state, self.best, result.history, result.steps, result.best_step)

    def fitted_in(self, folder: Path) -> Fitted:
        """Train in a run folder, or go on there."""
        with Run.open(folder, settings=self.settings, data_hash=self.train.hash, task=_TASK) as run:
            if not run.finished:
                self._fit(run)
            state, summary = load_checkpoint(run.checkpoints, "best").model(), run.summary
            history = [json.loads(line) for line in (run.folder / METRICS).read_text().splitlines()]
        # A run that went on does not know the counts of the validations before.
        return self._finished(state, None, history, summary["steps"], summary["best_step"])

    def _fit(self, run: Run | None) -> loop.FitResult:
        train, settings = self.train, self.settings
        return loop.fit(
            self.model.net,
            _batches(train, settings),
            self._step,
            None if self.val is None else self._validate,
            training=settings.training,
            optimizer=settings.optimizer,
            schedule=settings.schedule,
            context=self.context,
            run=run,
            card={
                "classes": list(train.classes),
                "layer": train.layer.to_dict(),
                "normalization": self.model.normalize.card(),
            },
            primary=settings.primary,
        )

    def _step(self, net: nn.Module, batch: dict[str, Any]) -> dict[str, SumCount]:
        inputs, normalize = batch["inputs"], self.model.normalize
        moved = self.augment(
            {
                "inputs": normalize(inputs),
                "valid": normalize.masks(inputs),
                "targets": batch["targets"],
                "keys": batch["keys"],
            }
        )
        mask, logits = moved["targets"][MASK], run_network(net, moved["inputs"][IMAGE])
        wanted = (len(mask), len(self.train.classes), *mask.shape[1:])
        if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
            given = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise DataError(
                f"the model gives {given}, but must give logits of shape (batch, class, row, col) = {wanted} for the "
                f"{len(self.train.classes)} classes {', '.join(self.train.classes)}"
            )
        return {"loss": self.loss(logits, mask)}

    def _validate(self, net: nn.Module) -> Mapping[str, float]:
        scores, primary = self._scored(), self.settings.primary
        # As the loop chooses: of equals the later weights, which are trained longer.
        if not math.isnan(scores[primary]) and (self.best is None or scores[primary] >= self.best[primary]):
            self.best = scores
        return scores

    def _scored(self) -> Scores:
        assert self.val is not None
        with self.context.autocast():
            return score(self.model, self.val, tiles=_TILES, context=self.context)

    def _finished(
        self,
        state: Mapping[str, Any],
        scores: Scores | None,
        history: list[dict[str, float]],
        steps: int,
        best_step: int | None,
    ) -> Fitted:
        self.model.net.load_state_dict(state)
        self.context.prepare(self.model).eval()
        if scores is None and self.val is not None:
            scores = self._scored()
        return Fitted(self.model, scores, history, steps, best_step)


def _check(train: SegmentationDataset, val: SegmentationDataset | None, primary: str) -> None:
    if val is None:
        return
    if val.classes != train.classes or val.bands.names != train.bands.names:
        raise DataError(
            f"{val.root}: holds {', '.join(val.classes)} in {', '.join(val.bands.names)}, but {train.root} "
            f"{', '.join(train.classes)} in {', '.join(train.bands.names)}: both must have the same classes and bands"
        )
    names = Confusion(len(train.classes)).scores(train.classes)
    if primary not in names:
        raise SettingsError(f"primary = {primary!r}: must be one of {', '.join(names)}")
    reason = cannot_choose("val", val.class_pixels())
    if reason is not None:
        raise DataError(
            f"{val.root}: {reason}, so that {primary} cannot choose the weights: split with another seed, or give no "
            "val and keep the last ones"
        )
    if (blind := unseen("val", val.class_pixels(), train.class_pixels())) is not None:
        logger.info("%s", blind)


def _settings(**values: Any) -> FitSettings:
    try:
        return FitSettings.model_validate(values | {"tracking": {"tensorboard": False}})
    except ValidationError as error:
        first = error.errors()[0]
        name = {"learning_rate": "lr", "kind": "schedule", "ema_decay": "ema"}.get(str(first["loc"][-1]))
        raise SettingsError(f"{name or first['loc'][-1]} = {first['input']!r}: {first['msg'].lower()}") from error


def _batches(train: SegmentationDataset, settings: FitSettings) -> Batches[Any]:
    size, batch = settings.patch, settings.training.batch_size
    shapes = [sample.shape for sample in train.samples]
    # An epoch is as many windows as the samples have room for, in whole batches.
    windows = sum(rows * cols for rows, cols in shapes) / size**2
    sampler = RandomWindowSampler(shapes, size, max(1, math.ceil(windows / batch)) * batch, seed=settings.training.seed)
    return Batches(sampler, train.read, batch_size=batch, threads=settings.loader.threads)


def _loss(loss: str | Loss) -> Callable[[Tensor, Tensor], SumCount]:
    if loss == "cross_entropy":
        return lambda logits, mask: masked_cross_entropy(logits, mask, IGNORED)
    if loss == "dice":
        return lambda logits, mask: masked_softmax_dice(logits, mask, IGNORED)
    if isinstance(loss, str):
        raise SettingsError(f"loss = {loss!r}: must be cross_entropy, dice, or a function of logits and mask")

    def measured(logits: Tensor, mask: Tensor) -> SumCount:
        found = loss(logits, mask.long())
        # The mean of a batch counts as often as the batch has windows.
        return found if isinstance(found, tuple) else (found * len(mask), torch.full_like(found.detach(), len(mask)))

    return measured
