"""Scores of classified pixels, all from one confusion matrix of a whole split, as fractions 0-1.

Means of scores of chips are not used: they weigh a chip with ten labelled pixels like a full one. Matrices of chips add
up, so that events and resampled chips are scored in the same way as the split. mIoU, aAcc and mAcc are those of
mmsegmentation (`IoUMetric`): means over classes leave out a class whose score has no data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from geocore.datasets.labels import IGNORED
from geocore.metrics.confusion import Confusion, macro, score_words


def count(truth: npt.NDArray[Any] | Tensor, prediction: npt.NDArray[Any] | Tensor, classes: int) -> Confusion:
    """Count the pixels of a chip.

    Args:
        truth: any shape, integer (uint8 is fastest), class index; 255 does not count.
        prediction: the same shape, class index.
        classes: number of classes.

    Raises:
        DataError: a label that counts, or any prediction under it, is no class.
    """
    confusion = Confusion(classes, IGNORED)
    confusion.update(truth, prediction)
    return Confusion.from_counts(confusion.counts)


def total(parts: Iterable[Confusion]) -> Confusion:
    """Counts of several chips together; at least one."""
    matrices = [part.counts for part in parts]
    if not matrices:
        raise ValueError("no counts to add up")
    return Confusion.from_counts(np.stack(matrices).sum(axis=0))


def primary(classes: Mapping[int, str]) -> str:
    """Name of the leading score: IoU of class 1 where there are two classes, else mIoU.

    Args:
        classes: index and name of each class.
    """
    return f"iou_{score_words(_names(classes))[1]}" if len(classes) == 2 else "miou"


def named(confusion: Confusion, classes: Mapping[int, str]) -> dict[str, float]:
    """All scores by the names under which they are reported.

    `miou` (mean IoU of classes that are true or predicted somewhere), `aacc` (share of right pixels), `macc` (mean
    recall of classes that are true somewhere), `kappa` (Cohen's); and for each class `iou_`, `f1_`, `precision_` and
    `recall_` with its name in lower case, words joined by `_`. NaN where there is no data.

    Args:
        confusion: what was counted.
        classes: index and name of each class.
    """
    scores = confusion.scores(_listed(confusion, classes))
    published = {"accuracy": "aacc", "mean_recall": "macc"}
    return {published.get(name, name): value for name, value in scores.items()}


def meanings(classes: Mapping[int, str]) -> dict[str, str]:
    """Score -> what it says; of two classes those of the second, else those over all."""
    overall = {
        "miou": "IoU, averaged over the classes",
        "aacc": "share of labelled pixels that have the right class",
        "macc": "share of each class that is found, averaged over the classes",
    }
    if len(classes) != 2:
        return overall
    word, name = score_words(_names(classes))[1], classes[1]
    return {
        f"iou_{word}": f"{name} in map and truth, as a share of what is {name} in either",
        f"precision_{word}": f"of what is mapped as {name}, the share that is",
        f"recall_{word}": f"of the {name}, the share that is mapped",
        **overall,
    }


def per_class(confusion: Confusion, classes: Mapping[int, str]) -> dict[str, dict[str, float]]:
    """Table of all classes: name -> `iou`, `f1`, `precision`, `recall`, and true `pixels`."""
    return confusion.per_class(_listed(confusion, classes))


def score_of_state(state: npt.NDArray[Any], classes: Mapping[int, str]) -> float:
    """The leading score from summed matrices, as the bootstrap hands them over.

    Args:
        state: shape (class, class), whole numbers of any type.
        classes: index and name of each class.
    """
    iou = Confusion.from_counts(state.astype(np.int64)).iou()
    return float(iou[1]) if len(classes) == 2 else macro(iou)


def _names(classes: Mapping[int, str]) -> list[str]:
    return [classes[index] for index in sorted(classes)]


def _listed(confusion: Confusion, classes: Mapping[int, str]) -> list[str]:
    if sorted(classes) != list(range(confusion.classes)):
        raise ValueError(f"classes {sorted(classes)} for counts of {confusion.classes}")
    return _names(classes)
