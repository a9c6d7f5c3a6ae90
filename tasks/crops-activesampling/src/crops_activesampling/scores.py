"""Scores of crop maps, all from confusion counts, which add up over patches exactly.

Patches are counted four times: by pixel, by pixel without the border of the patch, and by parcel, each parcel being
what most of its pixels are predicted to be, once with a vote a parcel and once with its pixels. Class 0 is never true
and never predicted: such pixels do not count.

Definitions are those of scikit-learn: `f1_score` (weighted, macro), `accuracy_score`, `jaccard_score` (macro) and
`cohen_kappa_score`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.metrics.confusion import Confusion, macro

PRIMARY: Final = "f1_weighted"
MEANINGS: Final = {
    PRIMARY: "F1 of each crop over pixels, averaged by the crop's share of the ground",
    "f1_macro": "the same, every crop counting alike, however rare",
    "oa": "share of labelled pixels that have the right crop",
    "parcel_f1_weighted": "F1 of whole parcels by their majority crop",
    "cropped_f1_weighted": "as the first, without the border of each patch",
}
"""Score -> what it says."""
VIEWS: Final[Mapping[str, str]] = {
    "pixels": "", "cropped": "cropped_", "parcels": "parcel_", "parcel_pixels": "parcel_pixels_"
}  # fmt: skip
"""What is counted -> what stands in front of the names of its scores."""

Counts = npt.NDArray[np.int64]
Classes = npt.NDArray[np.uint8]


def patch_counts(
    truth: Classes, prediction: Classes, parcels: npt.NDArray[np.uint32], *, classes: int, border_px: int
) -> dict[str, Counts]:
    """Counts of a patch.

    Args:
        truth: shape (row, col), uint8, classes 1 to n, 0 where unlabelled.
        prediction: shape (row, col), uint8, classes 1 to n, 0 where nothing is said.
        parcels: shape (row, col), uint32, number of the parcel, 0 outside.
        classes: n.
        border_px: width of the border that `cropped` leaves out, pixels.

    Returns:
        Each of `VIEWS` -> shape (n, n), int64; rows are the truth, the first one is class 1.

    Raises:
        DataError: a class is above n.
    """
    rows, cols = truth.shape
    inner = (slice(border_px, rows - border_px), slice(border_px, cols - border_px))
    by_parcel, by_pixel = _parcel_counts(truth, prediction, parcels, classes)
    return {
        "pixels": confusion(truth, prediction, classes),
        "cropped": confusion(truth[inner], prediction[inner], classes),
        "parcels": by_parcel,
        "parcel_pixels": by_pixel,
    }


def total(parts: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Counts of several patches together; at least one."""
    found = list(parts)
    return {view: np.sum([part[view] for part in found], axis=0, dtype=np.int64) for view in found[0]}


def named(counts: Mapping[str, Counts]) -> dict[str, float]:
    """Scores by the names under which they are reported, 0-1 but for kappa, which is at most 1.

    `f1_weighted` (by true pixels), `f1_macro`, `oa`, `miou` and `kappa`, of each of `VIEWS` with its prefix. NaN where
    nothing was counted; kappa also where truth and prediction are one and the same class throughout.
    """
    return {
        f"{VIEWS[view]}{name}": score for view, matrix in counts.items() for name, score in scores_of(matrix).items()
    }


def scores_of(matrix: Counts) -> dict[str, float]:
    """The five scores of one confusion matrix, shape (n, n), int64; rows are the truth."""
    every = Confusion.from_counts(matrix)
    return {
        PRIMARY: weighted_f1(matrix),
        "f1_macro": macro(every.f1()),
        "oa": _share(np.trace(matrix), matrix.sum()),
        "miou": every.macro_iou(),
        "kappa": kappa(matrix),
    }


def weighted_f1(matrix: Counts) -> float:
    """Mean F1 of the classes, each weighted by its true pixels; NaN without a pixel.

    Args:
        matrix: shape (n, n) or the same in one row, int64, as the bootstrap hands it over; rows are the truth.
    """
    square = matrix.reshape(math.isqrt(matrix.size), -1)
    support = square.sum(axis=1)
    f1 = np.nan_to_num(Confusion.from_counts(square).f1())
    return _share((f1 * support).sum(), support.sum())


def kappa(matrix: Counts) -> float:
    """Cohen's kappa, (observed - expected) / (1 - expected) agreement; NaN where the expected one is 1.

    Args:
        matrix: shape (n, n), int64; rows are the truth.
    """
    # Whole numbers of Python: squares of the pixels of thousands of patches overflow int64.
    pixels, right = int(matrix.sum()), int(np.trace(matrix))
    expected = sum(int(a) * int(b) for a, b in zip(matrix.sum(axis=0), matrix.sum(axis=1), strict=True))
    return _share(right * pixels - expected, pixels * pixels - expected)


def per_class(matrix: Counts, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Class name -> `f1`, `iou`, `precision`, `recall`, 0-1, and true `pixels`; NaN where a score is not defined.

    Args:
        matrix: shape (n, n), int64; rows are the truth.
        names: of the classes 1 to n.
    """
    return Confusion.from_counts(matrix).per_class(names)


def confusion(truth: npt.NDArray[Any], prediction: npt.NDArray[Any], classes: int) -> Counts:
    """Confusion counts of pixels.

    Args:
        truth: any shape, integer, classes 1 to n, 0 where unlabelled.
        prediction: the same shape, integer, classes 1 to n, 0 where nothing is said.
        classes: n.

    Returns:
        Shape (n, n), int64; rows are the truth, the first one is class 1. Pixels with a 0 in either do not count.

    Raises:
        DataError: a class is above n.
    """
    every = Confusion(classes + 1)
    every.update(truth, prediction)
    return np.asarray(every.counts[1:, 1:], np.int64)


def parcel_majorities(classes_of: Classes, places: npt.NDArray[np.intp], parcels: int, classes: int) -> Classes:
    """The class that most pixels of each parcel have, the lower one of two as frequent.

    Args:
        classes_of: shape (pixel,), uint8, classes 1 to n; pixels of 0 have no vote.
        places: shape (pixel,), number of the parcel of each pixel, from 0.
        parcels: how many there are.
        classes: n.

    Returns:
        Shape (parcels,), uint8; 0 where no pixel has a vote.
    """
    codes = places * (classes + 1) + classes_of
    votes = np.bincount(codes, minlength=parcels * (classes + 1)).reshape(parcels, classes + 1)[:, 1:]
    return np.where(votes.any(axis=1), votes.argmax(axis=1) + 1, 0).astype(np.uint8)


def _parcel_counts(
    truth: Classes, prediction: Classes, parcels: npt.NDArray[np.uint32], classes: int
) -> tuple[Counts, Counts]:
    """Counts with a vote a parcel, and with the labelled pixels of each parcel."""
    inside = parcels != 0
    numbers, places = np.unique(parcels[inside], return_inverse=True)
    predicted = parcel_majorities(prediction[inside], places, len(numbers), classes)
    labelled = parcel_majorities(truth[inside], places, len(numbers), classes)
    return (
        confusion(labelled, predicted, classes),
        confusion(truth[inside], predicted[places], classes),
    )


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else math.nan
