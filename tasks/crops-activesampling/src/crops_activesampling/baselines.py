"""The baseline: a classifier that sees the composites of one pixel at a time.

It is a set of gradient-boosted trees (scikit-learn's histogram implementation), trained anew on sampled pixels whenever
it is needed: that takes seconds, gives the same trees every time, and leaves nothing to unpickle. How the trees grow is
chosen by weighted F1 on validation.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from crops_activesampling.scores import Classes, confusion, weighted_f1
from crops_activesampling.windows import MEDIANS
from geocore.raster.grid import Window
from geocore.raster.scene import Scene
from geocore.terminal import progress

if TYPE_CHECKING:
    from crops_activesampling.windows import Patches

PIXELS: Final = 40_000
"""Most pixels that trees are trained on."""
GROWTHS: Final = ((15, 0.1, 60), (31, 0.05, 120), (63, 0.05, 120))
"""Leaves of a tree, learning rate and trees a class: the choices."""
_ROWS: Final = 128

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PixelClassifier:
    """Fitted trees."""

    periods: tuple[int, ...]
    """That are seen, from 1."""
    growth: tuple[int, float, int]
    """One of `GROWTHS`."""
    trees: Any
    """The estimator."""

    def map_scene(self, scene: Scene) -> Classes:
        """Classes of a patch.

        Args:
            scene: with the layer `medians`.

        Returns:
            Shape (row, col), uint8, classes 1 to n, 0 where all bands of no period have data.
        """
        height, width = scene.grid.shape
        found = np.zeros((height, width), np.uint8)
        for row in range(0, height, _ROWS):
            features, seen = _features(scene, Window(row, 0, min(_ROWS, height - row), width), self.periods)
            if seen.any():
                found[row : row + _ROWS][seen] = self.trees.predict(features[seen])
        return found


def train_classifier(
    train: Patches, held_out: Patches, *, classes: int, periods: Sequence[int], seed: int
) -> PixelClassifier:
    """Fit trees with each of `GROWTHS` and keep those that score best on validation.

    Args:
        train: patches that pixels are drawn from, as many from each.
        held_out: validation.
        classes: number of classes without the ignored one.
        periods: that are seen, from 1.
        seed: of the draw of pixels.

    Returns:
        The same for the same patches and seed.
    """
    features, labels = _sampled(train, periods, seed)
    best, best_score = None, -np.inf
    logger.info("training the baseline, a classifier of single pixels: %d of them", len(labels))
    for growth in progress(GROWTHS, "training the pixel classifier"):
        candidate = PixelClassifier(tuple(periods), growth, _fitted(features, labels, growth, seed))
        score = float(np.nan_to_num(_validated(candidate, held_out, classes)))
        logger.info("pixel classifier, trees of %d leaves at %g: %.4f on validation", *growth[:2], score)
        if score > best_score:
            best, best_score = candidate, score
    assert best is not None
    return best


def _validated(classifier: PixelClassifier, patches: Patches, classes: int) -> float:
    """Weighted F1 of a split."""
    counts = np.zeros((classes, classes), np.int64)
    for index in range(len(patches.samples)):
        counts += confusion(patches.labels(index), classifier.map_scene(patches.scene(index)), classes)
    return weighted_f1(counts)


def _sampled(
    patches: Patches, periods: Sequence[int], seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Features, shape (pixel, period * band), and classes, shape (pixel,), of labelled pixels of every patch."""
    share = -(-PIXELS // len(patches.samples))
    features: list[npt.NDArray[np.float32]] = []
    classes: list[npt.NDArray[np.uint8]] = []
    for index, sample in enumerate(patches.samples):
        scene, labels = patches.scene(index), patches.labels(index)
        values, seen = _features(scene, scene.grid.whole, periods)
        candidates = np.flatnonzero(seen & (labels != 0))
        # By the patch's name, so that it gives the same pixels whatever other patches there are.
        key = hashlib.sha256(f"{seed}/{sample.id}".encode()).digest()
        order = np.argsort(np.random.default_rng(list(key)).random(len(candidates)), kind="stable")
        chosen = candidates[order[:share]]
        features.append(values.reshape(-1, values.shape[-1])[chosen])
        classes.append(labels.ravel()[chosen])
    return np.concatenate(features), np.concatenate(classes)


def _features(
    scene: Scene, window: Window, periods: Sequence[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """What a pixel is told by, and where there is something to tell by.

    Returns:
        (features, seen): shape (row, col, period * band), float32, twice the DN, NaN, which trees have a branch for,
        where there is none; shape (row, col), bool.
    """
    patch, chosen = scene.read_layers(window, [MEDIANS])[MEDIANS], [period - 1 for period in periods]
    values, valid = patch.values[chosen], patch.valid[chosen]
    known = np.where(valid, values, np.float32(np.nan)).astype(np.float32)
    seen: npt.NDArray[np.bool_] = np.logical_or.reduce(valid.all(axis=1), axis=0)
    return np.moveaxis(known.reshape(-1, *window.shape), 0, -1), seen


def _fitted(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8], growth: tuple[int, float, int], seed: int
) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier

    if len(np.unique(labels)) < 2:
        return DummyClassifier(strategy="most_frequent").fit(features, labels)
    leaves, rate, rounds = growth
    trees = HistGradientBoostingClassifier(
        max_iter=rounds, max_leaf_nodes=leaves, learning_rate=rate, early_stopping=False, random_state=seed
    )
    return trees.fit(features, labels)
