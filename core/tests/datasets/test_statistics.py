"""Band statistics equal numpy's, exactly for integers up to 16 bits and within the stated error for the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geocore.datasets.statistics import PERCENTILES, BandStatistics, RunningStatistics, Statistics, compute_statistics
from geocore.errors import DataError
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid
from geocore.raster.scene import ArrayReader, Layer, Scene

ERROR = 2.0**-8


def layer_of(values: np.ndarray, **options: object) -> Layer:
    bands = Bands.named(*(f"b{i}" for i in range(values.shape[-3])))
    return Layer("image", bands, values.dtype.name, **options)  # type: ignore[arg-type]


def counted(values: np.ndarray, valid: np.ndarray | None = None, parts: int = 1) -> tuple[BandStatistics, ...]:
    """Statistics of (band, row, col), fed as column blocks to several counters that are merged."""
    valid = np.ones((1, *values.shape[-2:]), bool) if valid is None else valid
    counters = [RunningStatistics(layer_of(values)) for _ in range(parts)]
    blocks = np.array_split(np.arange(values.shape[-1]), 2 * parts)
    for i, cols in enumerate(blocks):
        counters[i % parts].update(values[..., cols], valid[..., cols])
    for other in counters[1:]:
        counters[0].merge(other)
    return counters[0].finish()


def assert_exact(found: BandStatistics, pixels: np.ndarray) -> None:
    assert found.count == pixels.size
    assert (found.minimum, found.maximum) == (pixels.min(), pixels.max())
    wide = pixels.astype(np.float64)
    assert found.mean == pytest.approx(wide.mean(), rel=1e-12, abs=1e-12)
    assert found.std == pytest.approx(wide.std(), rel=1e-9, abs=1e-9)
    expected = np.percentile(wide, PERCENTILES)
    assert list(found.percentiles) == list(PERCENTILES)
    np.testing.assert_allclose(list(found.percentiles.values()), expected, rtol=1e-14, atol=0)


@given(st.data(), st.sampled_from(["bool", "uint8", "int8", "uint16", "int16"]), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_small_integers_are_exact(data: st.DataObject, dtype: str, parts: int) -> None:
    values = data.draw(hnp.arrays(dtype, st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 9))))
    for band, found in enumerate(counted(values, parts=parts)):
        assert_exact(found, values[band].ravel())


def test_skewed_uint16_image_is_exact() -> None:
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, 900.0, (3, 200, 300)).clip(0, 65535).astype(np.uint16)
    valid = rng.random((3, 200, 300)) > 0.3
    for band, found in enumerate(counted(values, valid, parts=3)):
        assert_exact(found, values[band][valid[band]])


def check_inexact(found: BandStatistics, pixels: np.ndarray) -> None:
    wide = np.sort(pixels.astype(np.float64))
    assert (found.minimum, found.maximum) == (wide[0], wide[-1])
    scale = max(abs(wide[0]), abs(wide[-1]))
    assert found.mean == pytest.approx(wide.mean(), rel=1e-9, abs=1e-12 * scale)
    assert found.std == pytest.approx(wide.std(), rel=1e-7, abs=1e-9 * scale)
    for percent, value in found.percentiles.items():
        rank = (wide.size - 1) * percent / 100
        near = wide[[int(np.floor(rank)), int(np.ceil(rank))]]
        # Below 1.2e-38 numbers are subnormal and the error is absolute.
        assert abs(value - np.percentile(wide, percent)) <= ERROR * np.abs(near).max() + 1.2e-38


@given(st.data(), st.sampled_from(["float32", "float64", "int32", "uint32", "int64"]), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_floats_and_wide_integers_keep_the_stated_error(data: st.DataObject, dtype: str, parts: int) -> None:
    numbers = None
    if dtype.startswith("float"):
        numbers = (
            st.floats(-1e30, 1e30, width=int(dtype[5:]))
            if dtype == "float64"
            else st.floats(-(2.0**99), 2.0**99, width=32)
        )
    shape = st.tuples(st.just(1), st.integers(1, 6), st.integers(1, 9))
    values = data.draw(hnp.arrays(dtype, shape, elements=numbers))
    check_inexact(counted(values, parts=parts)[0], values[0].ravel())


def test_a_float_image_keeps_the_stated_error_and_its_zero() -> None:
    rng = np.random.default_rng(2)
    decibels = rng.normal(-18, 4, (1, 300, 300)).astype(np.float32)
    check_inexact(counted(decibels, parts=2)[0], decibels.ravel())
    rain = np.where(rng.random((1, 300, 300)) < 0.8, 0, rng.gamma(1, 2, (1, 300, 300))).astype(np.float32)
    assert counted(rain)[0].percentiles[50.0] == 0.0


def test_a_large_offset_does_not_cost_the_standard_deviation() -> None:
    rng = np.random.default_rng(3)
    values = (1e6 + rng.normal(0, 1, (1, 100, 100))).astype(np.float64)
    assert counted(values, parts=3)[0].std == pytest.approx(values.std(), rel=1e-6)


def test_invalid_pixels_and_nan_do_not_count() -> None:
    values = np.array([[[1, np.nan, 3], [np.inf, 5, -999]]], np.float32)
    valid = np.array([[[True, True, True], [True, True, False]]])
    found = counted(values, valid)[0]
    assert (found.count, found.minimum, found.maximum, found.mean) == (3, 1, 5, 3)


def test_a_time_axis_counts_into_its_bands() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    valid = np.ones((2, 1, 2, 2), bool)
    valid[1, 0, 0, 0] = False
    counts = RunningStatistics(layer_of(values, times=("2020-01-01", "2020-02-01")))
    counts.update(values, valid)
    for band, found in enumerate(counts.finish()):
        assert_exact(found, values[:, band][valid[:, 0]])


def test_a_band_without_valid_pixels_is_named() -> None:
    with pytest.raises(DataError, match=r"layer 'image', band 'b1': 0 valid pixels"):
        counted(np.zeros((2, 2, 2), np.uint8), np.array([[[True] * 2] * 2, [[False] * 2] * 2]))


def test_arrays_that_do_not_fit_are_bugs() -> None:
    counts = RunningStatistics(layer_of(np.zeros((2, 1, 1), np.uint8)))
    with pytest.raises(ValueError, match="values are uint16"):
        counts.update(np.zeros((2, 4, 4), np.uint16), np.ones((1, 4, 4), bool))
    with pytest.raises(ValueError, match="do not fit 2 bands"):
        counts.update(np.zeros((3, 4, 4), np.uint8), np.ones((1, 4, 4), bool))
    with pytest.raises(ValueError, match="do not merge"):
        counts.merge(RunningStatistics(layer_of(np.zeros((3, 1, 1), np.uint8))))
    with pytest.raises(DataError, match="complex64: must be real"):
        RunningStatistics(layer_of(np.zeros((1, 1, 1), np.complex64)))


def scene_of(name: str, fine: np.ndarray, coarse: np.ndarray) -> Scene:
    sources = {
        "fine": ArrayReader(Layer("fine", Bands.named("a", "b", nodata=0), "uint16"), fine),
        "coarse": ArrayReader(Layer("coarse", Bands.named("c"), "float32", ratio=6), coarse),
    }
    return Scene(name, Grid(*fine.shape[-2:]), sources)


def test_measure_reads_every_layer_of_every_scene_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geocore.datasets.statistics._BLOCK_ROWS", 10)
    rng = np.random.default_rng(4)
    fine = [rng.integers(0, 3000, (2, 45, 4100), dtype=np.uint16), rng.integers(0, 9, (2, 7, 5), dtype=np.uint16)]
    coarse = [rng.random((1, -(-array.shape[1] // 6), -(-array.shape[2] // 6)), np.float32) for array in fine]
    opened = []

    def scenes() -> object:
        for i in range(2):
            opened.append(i)
            yield scene_of(f"s{i}", fine[i], coarse[i])

    found = compute_statistics(scenes(), ["fine", "coarse"])  # type: ignore[arg-type]
    assert opened == [0, 1]
    for band in range(2):
        pixels = np.concatenate([array[band].ravel() for array in fine])
        assert_exact(found.layers["fine"][band], pixels[pixels > 0])
    check_inexact(found.layers["coarse"][0], np.concatenate([array.ravel() for array in coarse]))


def test_measure_refuses_scenes_that_disagree() -> None:
    one = Scene("one", Grid(4, 4), {"x": ArrayReader(Layer("x", Bands.named("a"), "uint8"), np.ones((1, 4, 4), "u1"))})
    two = Scene("two", Grid(4, 4), {"x": ArrayReader(Layer("x", Bands.named("b"), "uint8"), np.ones((1, 4, 4), "u1"))})
    with pytest.raises(DataError, match=r"scene 'two', layer 'x' is uint8 with bands b: must be uint8 with bands a"):
        compute_statistics([one, two], ["x"])
    with pytest.raises(DataError, match="scene 'one' has no layer 'y': it has x"):
        compute_statistics([one], ["y"])
    with pytest.raises(DataError, match="no scene to measure"):
        compute_statistics([], ["x"])


def test_statistics_survive_json_and_yaml() -> None:
    values = np.random.default_rng(5).random((2, 9, 9)).astype(np.float32)
    statistics = Statistics({"image": counted(values)})
    for text in (json.loads(json.dumps(statistics.to_dict())), yaml.safe_load(yaml.safe_dump(statistics.to_dict()))):
        again = Statistics.from_dict(text)
        assert again == statistics
    with pytest.raises(DataError, match="band statistics"):
        Statistics.from_dict({"image": [{"count": 3}]})
    with pytest.raises(DataError, match="band statistics"):
        Statistics.from_dict({"image": [7]})


def test_values_whose_squares_are_infinite_are_refused() -> None:
    with pytest.raises(DataError, match=r"values from -1e\+300 to 1e\+300 are too large"):
        counted(np.array([[[1e300, -1e300]]]))
