"""The baselines: open water everywhere, and a classifier that sees one working pixel at a time.

The classifier is a set of gradient-boosted trees for each chart (scikit-learn's histogram implementation), trained anew
on sampled pixels whenever it is needed: that takes seconds, gives the same trees every time, and leaves nothing to
unpickle. How the trees grow is chosen for each chart by its own score on validation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from geocore.raster.grid import Window
from geocore.raster.scene import Patch, Scene
from geocore.terminal import progress
from seaice_multitask.config import OutputSettings, WorkingSettings
from seaice_multitask.data import reduce_chart
from seaice_multitask.mapping import INVALID, Chart, chart_counts, usable
from seaice_multitask.model import PLANES
from seaice_multitask.scores import ChartCounts, metric, named, total

if TYPE_CHECKING:
    from seaice_multitask.data import Scenes

PIXELS: Final = 30_000
"""Most pixels that the trees of a chart are trained on."""
ROWS: Final = 256
"""Rows of a scene that are predicted at once."""
GROWTHS: Final = ((6, 0.1), (12, 0.1), (24, 0.1))
"""Leaves of a tree, and learning rate: the choices."""
_ROUNDS: Final = 60

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PixelClassifier:
    """Trees for each chart."""

    outputs: Mapping[str, OutputSettings]
    working: WorkingSettings
    trees: Mapping[str, Any]
    """Output -> fitted estimator."""

    def map_scene(self, scene: Scene) -> dict[str, Chart]:
        """Classes of a scene.

        Args:
            scene: on the working grid, with the layer `planes`.

        Returns:
            Output -> shape (row, col), uint8, 255 where the radar is invalid.
        """
        height, width = scene.grid.shape
        charts = {name: np.full((height, width), INVALID, np.uint8) for name in self.outputs}
        for row in range(0, height, ROWS):
            window = Window(row, 0, min(ROWS, height - row), width)
            patch = scene.read_layers(window, [PLANES])[PLANES]
            seen = usable(patch.valid, scene.layers[PLANES].bands.names)
            if seen.any():
                features = _features(patch)[seen]
                for name, chart in charts.items():
                    chart[row : row + window.height][seen] = self._classes(name, features)
        return charts

    def _classes(self, name: str, features: npt.NDArray[np.float32]) -> Chart:
        predicted = self.trees[name].predict(features)
        classes: Chart = np.clip(np.rint(predicted), 0, self.outputs[name].classes - 1).astype(np.uint8)
        return classes

    def counts(self, scenes: Scenes) -> list[ChartCounts]:
        """Counts of every scene of a split at 80 m."""
        return [
            chart_counts(
                self.map_scene(scenes.scene(index)), scenes.charts(index), self.working.downscale, self.outputs
            )
            for index in progress(len(scenes.samples), "mapping by the pixel classifier")
        ]


def train_classifier(
    train: Scenes, held_out: Scenes, outputs: Mapping[str, OutputSettings], working: WorkingSettings, *, seed: int
) -> PixelClassifier:
    """Fit trees with each of `GROWTHS` and keep, for each chart, those that score best on validation.

    Args:
        train: scenes that pixels are drawn from.
        held_out: validation.
        outputs: name -> what is said.
        working: how charts are brought to the working grid.
        seed: of the draw of pixels.

    Returns:
        The same for the same scenes and seed.
    """
    pixels = {name: _sampled(train, name, outputs[name], working, seed) for name in outputs}
    logger.info("training the baseline, a classifier of single pixels")
    candidates = [
        PixelClassifier(
            outputs, working, {name: _fitted(*pixels[name], outputs[name], growth, seed) for name in outputs}
        )
        for growth in progress(GROWTHS, "training the pixel classifier")
    ]
    scores = [named(total(candidate.counts(held_out))) for candidate in candidates]
    trees = {}
    for name in outputs:
        ranked = np.nan_to_num([score[f"{name}_{metric(outputs, name)}"] for score in scores], nan=-np.inf)
        best = int(np.argmax(ranked))
        logger.info("pixel classifier, %s: trees of %d leaves", name, GROWTHS[best][0])
        trees[name] = candidates[best].trees[name]
    return PixelClassifier(outputs, working, trees)


def _sampled(
    scenes: Scenes, name: str, output: OutputSettings, working: WorkingSettings, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Features, shape (pixel, channel), and classes, shape (pixel,), of as many pixels from each scene."""
    rng = np.random.default_rng(seed)
    share = -(-PIXELS // len(scenes.samples))
    features: list[npt.NDArray[np.float32]] = []
    classes: list[npt.NDArray[np.uint8]] = []
    for index in range(len(scenes.samples)):
        scene = scenes.scene(index)
        patch = scene.read_layers(scene.grid.whole, [PLANES])[PLANES]
        chart = reduce_chart(scenes.charts(index)[name], working)
        seen = usable(patch.valid, scene.layers[PLANES].bands.names)
        candidates = np.flatnonzero(seen & (chart != output.ignore))
        chosen = rng.choice(candidates, min(share, len(candidates)), replace=False)
        features.append(_features(patch).reshape(-1, patch.values.shape[0])[chosen])
        classes.append(chart.ravel()[chosen])
    return np.concatenate(features), np.concatenate(classes)


def _fitted(
    features: npt.NDArray[np.float32],
    classes: npt.NDArray[np.uint8],
    output: OutputSettings,
    growth: tuple[int, float],
    seed: int,
) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if len(np.unique(classes)) < 2:
        return _constant(DummyClassifier, features, classes)
    kind = HistGradientBoostingRegressor if output.kind == "regression" else HistGradientBoostingClassifier
    leaves, rate = growth
    trees = kind(max_iter=_ROUNDS, max_leaf_nodes=leaves, learning_rate=rate, early_stopping=False, random_state=seed)
    return trees.fit(features, classes)


def _constant(dummy: Any, features: npt.NDArray[np.float32], classes: npt.NDArray[np.uint8]) -> Any:
    """Where the training pixels hold one class or none, say that class or open water."""
    if not len(classes):
        features, classes = np.zeros((1, features.shape[1]), np.float32), np.zeros(1, np.uint8)
    return dummy(strategy="most_frequent").fit(features, classes)


def _features(patch: Patch) -> npt.NDArray[np.float32]:
    """Planes of a patch, shape (row, col, channel), float32; NaN, which trees have a branch for, where invalid."""
    values: npt.NDArray[np.float32] = np.where(patch.valid, patch.values, np.float32(np.nan))
    return np.moveaxis(values, 0, -1)
