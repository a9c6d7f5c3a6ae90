"""Indices from reflectance, Otsu's threshold against its definition, and thresholds fitted to chips."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from floods_prithvi.chip_reader import IMAGE
from floods_prithvi.config import SIX_BANDS
from floods_prithvi.indices import (
    EDGES,
    IndexName,
    IndexThreshold,
    best_iou,
    histogram,
    index_of,
    mndwi,
    nbr,
    ndwi,
    otsu,
)
from floods_prithvi.scores import count, total
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid
from geocore.raster.scene import ArrayReader, Layer, Scene

SHAPE = (37, 41)
WATER = [0.11, 0.11, 0.10, 0.09, 0.04, 0.03]
LAND = [0.13, 0.13, 0.13, 0.26, 0.18, 0.11]
BURNT = [0.04, 0.05, 0.06, 0.10, 0.17, 0.16]


def scene_of(values: np.ndarray, valid: np.ndarray | None = None) -> Scene:
    layer = Layer(IMAGE, Bands.named(*SIX_BANDS, nodata=float("nan")), "float32")
    mask = np.ones((1, *values.shape[1:]), bool) if valid is None else valid[None]
    return Scene("chip", Grid(*values.shape[1:]), {IMAGE: ArrayReader(layer, values.astype(np.float32), mask)})


class ArrayChips:
    """Stands for a split: a class seen against land, with noise, a gap in the image and unknown pixels."""

    def __init__(self, seeds: Sequence[int], colour: Sequence[float] = WATER, noise: float = 0.02) -> None:
        self.samples = [SimpleNamespace(id=str(seed), group="x") for seed in seeds]
        self._colour, self._noise = colour, noise

    def _drawn(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(int(self.samples[index].id))
        label = np.zeros(SHAPE, np.uint8)
        label[: rng.integers(8, 20)] = 1
        means = np.where(label, np.reshape(self._colour, (6, 1, 1)), np.reshape(LAND, (6, 1, 1)))
        values = means + self._noise * rng.standard_normal((6, *SHAPE))
        valid = np.ones(SHAPE, bool)
        valid[:, :5] = False
        label[:, 30:33] = 255
        return np.where(valid, values, np.nan), valid, label

    def scene(self, index: int) -> Scene:
        return scene_of(*self._drawn(index)[:2])

    def target(self, index: int) -> np.ndarray:
        return self._drawn(index)[2]


def test_formulas() -> None:
    bands = [np.array([value], np.float32) for value in (0.1, 0.3, 0.05, 0.2)]
    green, nir, swir_1, swir_2 = bands
    # One rounding of float32 each in sum, difference and quotient.
    assert mndwi(green, swir_1)[0] == pytest.approx(0.05 / 0.15, rel=2e-7)
    assert ndwi(green, nir)[0] == pytest.approx(-0.2 / 0.4, rel=2e-7)
    assert nbr(nir, swir_2)[0] == pytest.approx(0.1 / 0.5, rel=2e-7)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (0.0, 0.0, 0.0),
        (-0.02, 0.01, -1.0),
        (0.01, -0.02, 1.0),
        (-0.1, -0.1, 0.0),
        (np.nan, 0.2, 0.0),
        (0.2, np.inf, 0.0),
    ],
)
def test_division_is_safe(first: float, second: float, expected: float) -> None:
    """Slightly negative reflectance must not turn the sign: plainly, (-0.02 - 0.01) / (-0.02 + 0.01) = 3."""
    with np.errstate(all="raise"):
        found = mndwi(np.array([[first]], np.float32), np.array([[second]], np.float32))
    assert found.dtype == np.float32
    assert found.tolist() == [[expected]]


@pytest.mark.parametrize(
    ("index", "bands"),
    [("mndwi", ("green", "swir_1")), ("ndwi", ("green", "nir_narrow")), ("nbr", ("nir_narrow", "swir_2"))],
)
def test_bands_are_taken_by_name(index: IndexName, bands: tuple[str, str]) -> None:
    values = np.random.default_rng(0).uniform(0.01, 0.5, (6, *SHAPE))
    valid = np.random.default_rng(1).random(SHAPE) < 0.8
    order = [3, 5, 0, 4, 1, 2]
    layer = Layer(IMAGE, Bands.named(*(SIX_BANDS[place] for place in order)), "float32")
    shuffled = values[order].astype(np.float32)
    scene = Scene("s", Grid(*SHAPE), {IMAGE: ArrayReader(layer, shuffled, valid[None])})
    found, seen = index_of(index, scene)
    a, b = (values[SIX_BANDS.index(name)] for name in bands)
    assert np.allclose(found, (a - b) / (a + b), atol=1e-6)
    assert np.array_equal(seen, valid)


def test_scene_higher_than_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ArrayChips([3]).scene(0)
    whole, seen = index_of("mndwi", scene)
    monkeypatch.setattr("floods_prithvi.indices.ROWS", 10)
    parts, also = index_of("mndwi", scene)
    assert np.array_equal(whole, parts)
    assert np.array_equal(seen, also)


def test_several_dates_have_no_index() -> None:
    layer = Layer(IMAGE, Bands.named(*SIX_BANDS), "float32", times=("1", "2"))
    scene = Scene("s", Grid(3, 3), {IMAGE: ArrayReader(layer, np.zeros((2, 6, 3, 3), np.float32))})
    with pytest.raises(ValueError, match="one date"):
        index_of("mndwi", scene)


def within(counts: np.ndarray, split: int) -> float:
    """Variance within both classes, by definition, weighted by their pixels; bins below `split` are one class."""
    centres = (EDGES[:-1] + EDGES[1:]) / 2
    whole = 0.0
    for part in (slice(None, split), slice(split, None)):
        if counts[part].sum():
            mean = np.average(centres[part], weights=counts[part])
            whole += float((counts[part] * (centres[part] - mean) ** 2).sum())
    return whole


@pytest.mark.parametrize("seed", range(6))
def test_otsu_has_the_least_variance_within_its_classes(seed: int) -> None:
    """What is between is the rest of a constant, so the greatest between is the least within."""
    rng = np.random.default_rng(seed)
    low, high = rng.normal(-0.4, 0.15, rng.integers(200, 3000)), rng.normal(0.4, 0.2, rng.integers(200, 3000))
    counts = histogram(np.clip(np.concatenate([low, high]), -1, 1))
    value = otsu(counts)
    variances = [within(counts, split) for split in range(1, 256)]
    # A gap of empty bins has several best edges.
    assert within(counts, int(np.searchsorted(EDGES, value))) == pytest.approx(min(variances), rel=1e-12)


def test_otsu_of_few_values() -> None:
    counts = np.zeros(256, np.int64)
    assert otsu(counts) == 0.0
    counts[40] = 7
    assert EDGES[40] < otsu(counts) < EDGES[41]
    counts[60] = 1
    assert otsu(counts) == pytest.approx((EDGES[41] + EDGES[60]) / 2)


def test_histogram_puts_a_pixel_on_an_edge_above_it() -> None:
    values = np.array([-1.0, EDGES[100], np.nextafter(np.float32(EDGES[100]), np.float32(-1)), 1.0], np.float32)
    found = np.flatnonzero(histogram(values))
    assert found.tolist() == [0, 99, 100, 255]
    assert histogram(np.array([-1e-12, 0.0], np.float32))[127:129].tolist() == [1, 1]


@pytest.mark.parametrize("above", [True, False])
def test_best_iou_is_that_of_a_search_over_all_edges(above: bool) -> None:
    rng = np.random.default_rng(5)
    counts = np.stack([rng.integers(0, 20, 256), rng.integers(0, 9, 256)]).astype(np.int64)
    counts[1, 128:] *= 4 if above else 1
    counts[1, :128] *= 1 if above else 4

    def iou(edge: int) -> float:
        chosen = slice(edge, None) if above else slice(None, edge)
        return float(counts[1, chosen].sum() / (counts[1].sum() + counts[0, chosen].sum()))

    value = best_iou(counts, above=above)
    assert iou(int(np.searchsorted(EDGES, value))) == max(iou(edge) for edge in range(1, 256))
    assert best_iou(np.zeros((2, 256), np.int64), above=above) == 0.0


@pytest.mark.parametrize(("index", "colour"), [("mndwi", WATER), ("ndwi", WATER), ("nbr", BURNT)])
def test_clear_classes_are_told_apart(index: IndexName, colour: list[float]) -> None:
    """Water lies above its threshold and burnt ground below."""
    train, val, test = (ArrayChips(seeds, colour) for seeds in ([1, 2, 3], [4, 5], [6, 7]))
    for fitted in (IndexThreshold.by_otsu(index, train), IndexThreshold.tuned(index, val)):  # type: ignore[arg-type]
        scores = total(fitted.counts(test)).iou()  # type: ignore[arg-type]
        # 0.92 and more was measured; the other way round it is under 0.04.
        assert scores[1] > 0.9


def test_tuned_threshold_is_best_on_what_it_was_tuned_on() -> None:
    """By the map, pixel by pixel, and not only by the histogram."""
    chips = ArrayChips([1, 2], noise=0.07)
    tuned = IndexThreshold.tuned("mndwi", chips)  # type: ignore[arg-type]
    otsu_s = IndexThreshold.by_otsu("mndwi", chips)  # type: ignore[arg-type]

    def iou(threshold: IndexThreshold) -> float:
        return float(total(threshold.counts(chips)).iou()[1])  # type: ignore[arg-type]

    best = max(iou(IndexThreshold("mndwi", float(edge))) for edge in EDGES[60:200:4])
    assert iou(tuned) >= best
    assert iou(tuned) >= iou(otsu_s)


def test_invalid_and_unknown_pixels_do_not_count() -> None:
    chips = ArrayChips([1])
    threshold = IndexThreshold("mndwi", 0.0)
    classes = threshold.map_scene(chips.scene(0))
    assert (classes[:, :5] == 255).all()
    assert (classes[:, 5:] < 2).all()
    (counts,) = threshold.counts(chips)  # type: ignore[arg-type]
    seen = (classes != 255) & (chips.target(0) != 255)
    assert counts.counts.sum() == seen.sum()
    expected = count(chips.target(0)[seen], classes[seen], 2)
    assert np.array_equal(counts.counts, expected.counts)
