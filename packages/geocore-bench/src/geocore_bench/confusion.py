"""Confusion counts and mean IoU over batches of 16 x 512 x 512 labels, a tenth of them to be ignored.

Every contender sees the same batches, and ends with one mean IoU over the classes; all have to agree. Labels are int64,
as torch's losses take them and a loader hands them over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured, watch

IGNORED = 255
GEOCORE = "geocore Confusion"
TORCHMETRICS = "torchmetrics MulticlassJaccardIndex"
UNVALIDATED = "torchmetrics MulticlassJaccardIndex, validate_args=False"
NUMPY = "numpy.bincount, masked"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is counted."""

    classes: int
    shape: tuple[int, int, int] = (16, 512, 512)
    """Of a batch: (sample, row, col)."""
    batches: int = 2


Batch = tuple[Any, Any]
"""Prediction and truth, int64 tensors."""

Counter = tuple[Callable[[Any, Any], object], Callable[[], Any]]
"""What takes prediction and truth of a batch, and what gives the mean IoU of all of them."""


def draw(setting: Setting) -> list[Batch]:
    """The batches: blocks of one class, of which four fifths of the pixels are predicted right."""
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(setting.classes)
    samples, rows, cols = setting.shape
    batches = []
    for _ in range(setting.batches):
        coarse = rng.integers(0, setting.classes, (samples, rows // 8, cols // 8))
        truth = coarse.repeat(8, 1).repeat(8, 2)
        guess = np.where(rng.random(setting.shape) < 0.8, truth, rng.integers(0, setting.classes, setting.shape))
        truth = np.where(rng.random(setting.shape) < 0.1, IGNORED, truth)
        batches.append((torch.from_numpy(guess.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))))
    return batches


def mean_iou(counts: NDArray[Any]) -> float:
    """Mean over the classes of intersection over union.

    Args:
        counts: shape (class, class).
    """
    values = np.asarray(counts, np.float64)
    hits = np.diag(values)
    return float(np.mean(hits / (values.sum(0) + values.sum(1) - hits)))


def timed(setting: Setting, counter: Callable[[], Counter]) -> Measured:
    """Time the counting of all batches and the mean IoU at the end.

    Args:
        setting: what is counted.
        counter: starts from nothing; called twice, as the first batch is also counted once before, to warm up.

    Returns:
        Million pixels a second, with `mean_iou`.
    """
    batches = draw(setting)
    update, finish = counter()
    update(*batches[0])
    finish()
    update, finish = counter()
    with watch() as seen:
        for guess, truth in batches:
            update(guess, truth)
        score = float(finish())
    pixels = setting.batches * int(np.prod(setting.shape))
    return Measured(pixels / 1e6 / seen.seconds, {**seen.details, "mean_iou": score})


def geocore_confusion(setting: Setting, data: Path) -> Measured:
    """`geocore.metrics.confusion.Confusion`, which checks every label."""
    from geocore.metrics.confusion import Confusion

    def counter() -> Counter:
        confusion = Confusion(setting.classes, ignore=IGNORED)
        return lambda guess, truth: confusion.update(truth, guess), confusion.macro_iou

    return timed(setting, counter)


@dataclass(frozen=True, slots=True)
class Jaccard:
    """torchmetrics, as its documentation shows."""

    validate: bool
    """Whether it looks at the labels."""

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Measure it."""
        from torchmetrics.classification import MulticlassJaccardIndex

        def counter() -> Counter:
            metric = MulticlassJaccardIndex(
                setting.classes, ignore_index=IGNORED, average="macro", validate_args=self.validate
            )
            return metric.update, metric.compute

        return timed(setting, counter)


def mmseg_iou(setting: Setting, data: Path) -> Measured:
    """The IoUMetric of mmsegmentation, image by image, as its evaluator calls it."""
    import torch
    from mmseg.evaluation.metrics import IoUMetric

    def counter() -> Counter:
        kept: list[Any] = []

        def update(guess: Any, truth: Any) -> None:
            for one, label in zip(guess, truth, strict=True):
                kept.append(IoUMetric.intersect_and_union(one, label, setting.classes, IGNORED))

        def finish() -> Any:
            hits, union = (torch.stack([part[place] for part in kept]).double().sum(0) for place in (0, 1))
            return (hits / union).mean()

        return update, finish

    return timed(setting, counter)


def smp_stats(setting: Setting, data: Path) -> Measured:
    """segmentation-models-pytorch's get_stats, which wants a negative value for what is ignored."""
    import torch
    from segmentation_models_pytorch.metrics import get_stats

    def counter() -> Counter:
        kept: list[Any] = []

        def update(guess: Any, truth: Any) -> None:
            label = torch.where(truth == IGNORED, -1, truth)
            kept.append(get_stats(guess, label, mode="multiclass", num_classes=setting.classes, ignore_index=-1))

        def finish() -> Any:
            hits, alarms, misses = (torch.cat([part[place] for part in kept]).double().sum(0) for place in range(3))
            return (hits / (hits + alarms + misses)).mean()

        return update, finish

    return timed(setting, counter)


def sklearn_confusion(setting: Setting, data: Path) -> Measured:
    """scikit-learn's confusion_matrix of the pixels that count."""
    from sklearn.metrics import confusion_matrix

    def counter() -> Counter:
        total = np.zeros((setting.classes, setting.classes), np.int64)

        def update(guess: Any, truth: Any) -> None:
            truth, guess = truth.numpy().ravel(), guess.numpy().ravel()
            kept = truth != IGNORED
            total[...] += confusion_matrix(truth[kept], guess[kept], labels=list(range(setting.classes)))

        return update, lambda: mean_iou(total)

    return timed(setting, counter)


def numpy_bincount(setting: Setting, data: Path) -> Measured:
    """What is often written by hand."""

    def counter() -> Counter:
        total = np.zeros((setting.classes, setting.classes), np.int64)

        def update(guess: Any, truth: Any) -> None:
            label, found = truth.numpy(), guess.numpy()
            kept = label != IGNORED
            codes = label[kept] * setting.classes + found[kept]
            total[...] += np.bincount(codes, minlength=total.size).reshape(total.shape)

        return update, lambda: mean_iou(total)

    return timed(setting, counter)


def prepare(data: Path, quick: bool) -> None:
    """Nothing: the labels are drawn in each run."""


def cases(quick: bool) -> list[Case]:
    """Two, seven and twenty classes; the slower peers are measured with seven alone."""
    main = (
        Contender(GEOCORE, OURS, geocore_confusion),
        Contender(TORCHMETRICS, "peers", Jaccard(validate=True)),
        Contender(UNVALIDATED, "peers", Jaccard(validate=False)),
        Contender(NUMPY, "peers", numpy_bincount),
    )
    others = (
        Contender("mmseg IoUMetric", "peers", mmseg_iou),
        Contender("smp get_stats", "peers", smp_stats),
        Contender("scikit-learn confusion_matrix", "peers", sklearn_confusion),
    )
    found = []
    for classes in (2, 7, 20):
        setting = Setting(classes, (2, 64, 64)) if quick else Setting(classes)
        contenders = main + others if classes == 7 else main
        found.append(Case(f"{classes} classes", "Mpx/s", setting, contenders, agree={"mean_iou": 1e-5}))
    return found
