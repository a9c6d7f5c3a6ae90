"""The classifier of single pixels: learns what a pixel tells, is the same each time, and copes with poor scenes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from geocore.raster.bands import Bands
from geocore.raster.grid import Grid
from geocore.raster.scene import ArrayReader, Layer, Scene
from seaice_multitask.baselines import PixelClassifier, train_classifier
from seaice_multitask.config import OutputSettings, WorkingSettings
from seaice_multitask.model import PLANES
from seaice_multitask.scores import all_water, named, total

OUTPUTS = {
    "SIC": OutputSettings(kind="regression", classes=11, loss="mean-square"),
    "SOD": OutputSettings(classes=4),
}
WORKING = WorkingSettings(downscale=2)
LAYER = Layer(PLANES, Bands.named("nersc_sar_primary", "nersc_sar_secondary", "t2m"), "float32")
SHAPE = (30, 33)


class ArrayScenes:
    """Stands for a split: concentration follows the first plane, the stage the second one."""

    def __init__(self, seeds: Sequence[int], *, masked: bool = False) -> None:
        self.samples = [SimpleNamespace(id=str(seed)) for seed in seeds]
        self._masked = masked

    def planes(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(int(self.samples[index].id))
        values = rng.standard_normal((3, *SHAPE)).astype(np.float32)
        valid = np.ones((3, *SHAPE), bool)
        valid[0, :4] = valid[2, :, :5] = False
        return np.where(valid, values, np.float32(np.nan)), valid

    def scene(self, index: int) -> Scene:
        values, valid = self.planes(index)
        return Scene("s", Grid(*SHAPE), {PLANES: ArrayReader(LAYER, values, valid)})

    def charts(self, index: int) -> dict[str, np.ndarray]:
        values, valid = self.planes(index)
        first, second = np.nan_to_num(values[0]), values[1]
        sic = np.clip(np.rint(3 * first + 4), 0, 10).astype(np.uint8)
        sod = np.digitize(second, [-0.5, 0, 1]).astype(np.uint8)
        working = {"SIC": sic, "SOD": sod}
        for chart in working.values():
            chart[~valid[0]] = 255
            if self._masked:
                chart[:] = 255
        # Odd: the last working pixels are partial.
        return {name: chart.repeat(2, 0).repeat(2, 1)[:-1, :-1] for name, chart in working.items()}


def trained(train: ArrayScenes, held_out: ArrayScenes) -> PixelClassifier:
    return train_classifier(train, held_out, OUTPUTS, WORKING, seed=0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def classifier() -> PixelClassifier:
    return trained(ArrayScenes([1, 2, 3]), ArrayScenes([4]))


def test_learns_what_a_pixel_tells(classifier: PixelClassifier) -> None:
    counts = classifier.counts(ArrayScenes([5, 6]))  # type: ignore[arg-type]
    scores, water = named(total(counts)), named(all_water(total(counts)))
    # 95 and more in trials; trees see 3000 pixels.
    assert scores["SIC_r2"] > 90 and scores["SOD_f1"] > 90
    assert scores["combined"] > 50 + water["combined"]


def test_says_nothing_where_the_radar_is_invalid(classifier: PixelClassifier) -> None:
    chart = classifier.map_scene(ArrayScenes([5]).scene(0))["SOD"]
    assert (chart[:4] == 255).all()
    # A gap in another plane only takes some help away.
    assert (chart[4:] < 4).all()


def test_is_the_same_each_time(classifier: PixelClassifier) -> None:
    again = trained(ArrayScenes([1, 2, 3]), ArrayScenes([4]))
    scene = ArrayScenes([5]).scene(0)
    for name, chart in classifier.map_scene(scene).items():
        assert np.array_equal(again.map_scene(scene)[name], chart)


def test_scenes_without_charted_pixels_give_open_water() -> None:
    poor = trained(ArrayScenes([1], masked=True), ArrayScenes([4], masked=True))
    chart = poor.map_scene(ArrayScenes([5]).scene(0))
    assert (chart["SIC"][4:] == 0).all() and (chart["SOD"][4:] == 0).all()
