"""The classifier of single pixels: learns what a pixel tells, is the same each time, and copes with poor patches."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from crops_activesampling import baselines
from crops_activesampling.baselines import PixelClassifier, train_classifier
from crops_activesampling.scores import confusion, weighted_f1
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid
from geocore.raster.scene import ArrayReader, Layer, Scene

LAYER = Layer("medians", Bands.named("B04", "B08", nodata=0), "uint16", times=("1", "2", "3", "4"))
SHAPE = (40, 37)
PERIODS = (2, 4)


class ArrayPatches:
    """Stands for a split: the class follows the second band in the periods 2 and 4; the others mislead."""

    def __init__(self, seeds: Sequence[int], *, classes: Sequence[int] = (1, 2, 3, 4)) -> None:
        self.samples = [SimpleNamespace(id=str(seed)) for seed in seeds]
        self._classes = np.array(classes, np.uint8)

    def _drawn(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(int(self.samples[index].id))
        values = rng.integers(1, 4000, (4, 2, *SHAPE)).astype(np.uint16)
        place = 2 * (values[1, 1] > 2000) + (values[3, 1] > 1500)
        values[0], values[2] = 1000, 1000
        return values, self._classes[place % len(self._classes)]

    def scene(self, index: int) -> Scene:
        values, _ = self._drawn(index)
        values[:, :, :3] = 0  # nothing was observed
        values[3, 0, 3:6] = 0  # a band of one period is missing
        return Scene("patch", Grid(*SHAPE), {"medians": ArrayReader(LAYER, values)})

    def labels(self, index: int) -> np.ndarray:
        _, labels = self._drawn(index)
        labels = labels.copy()
        labels[:, :5] = 0
        return labels


def trained(train: ArrayPatches, *, seed: int = 0) -> PixelClassifier:
    return train_classifier(train, ArrayPatches([4]), classes=4, periods=PERIODS, seed=seed)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def _small() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "GROWTHS", ((2, 0.1, 2), (6, 0.3, 10)))
        patch.setattr(baselines, "PIXELS", 2000)
        yield


@pytest.fixture(scope="module")
def classifier(_small: object) -> PixelClassifier:
    return trained(ArrayPatches([1, 2, 3]))


def test_learns_what_a_pixel_tells(classifier: PixelClassifier) -> None:
    patches = ArrayPatches([5])
    found = classifier.map_scene(patches.scene(0))
    # 0.997 in trials.
    assert weighted_f1(confusion(patches.labels(0)[6:], found[6:], 4)) > 0.98


def test_the_growth_that_does_better_on_validation_is_kept(classifier: PixelClassifier) -> None:
    assert classifier.growth == (6, 0.3, 10)


def test_says_nothing_where_no_period_is_whole(classifier: PixelClassifier) -> None:
    found = classifier.map_scene(ArrayPatches([5]).scene(0))
    assert found.dtype == np.uint8
    assert (found[:3] == 0).all()
    # A gap in one band only takes some help away.
    assert set(found[3:].ravel().tolist()) == {1, 2, 3, 4}


def test_is_the_same_each_time_and_another_with_another_seed(classifier: PixelClassifier) -> None:
    scene, again = ArrayPatches([5]).scene(0), trained(ArrayPatches([1, 2, 3]))
    assert np.array_equal(again.map_scene(scene), classifier.map_scene(scene))
    first, second = (baselines._sampled(ArrayPatches([1, 2]), PERIODS, seed)[0] for seed in (0, 1))  # type: ignore[arg-type]
    assert not np.array_equal(first, second)


def test_pixels_are_drawn_by_patch_and_only_where_labelled() -> None:
    features, labels = baselines._sampled(ArrayPatches([1, 2]), PERIODS, 0)  # type: ignore[arg-type]
    assert features.shape == (2000, 4) and labels.shape == (2000,)
    assert (labels != 0).all()
    # As many of the same pixels, whatever patches stand beside it.
    other, _ = baselines._sampled(ArrayPatches([2, 9]), PERIODS, 0)  # type: ignore[arg-type]
    assert np.array_equal(features[1000:], other[:1000], equal_nan=True)


def test_a_split_of_one_class_gives_that_class() -> None:
    found = trained(ArrayPatches([1], classes=(3,))).map_scene(ArrayPatches([5]).scene(0))
    assert (found[3:] == 3).all()
