"""Scenes unlike those of training are found by mean and spread of their bands."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocore.datasets.shift import TrainedOn, compare_with_training, look_over, probe_windows
from geocore.errors import SceneError
from geocore.raster.bands import Band, Bands
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.raster.write import write_raster

RNG = np.random.default_rng(0)
TRAINED = TrainedOn(["red", "nir"], [1000.0, 3000.0], [200.0, 500.0], (), "uint16", "training chips")


def window(
    level: tuple[float, ...] = (1000.0, 3000.0), spread: tuple[float, ...] = (200.0, 500.0), factor: float = 1.0
):
    values = np.stack([RNG.normal(mean, std, (40, 50)) for mean, std in zip(level, spread, strict=True)]) * factor
    return values, np.ones((1, 40, 50), bool)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64))
def test_probes_are_at_most_nine_tiles_from_the_first_to_the_last(rows: int, cols: int, size: int) -> None:
    found = probe_windows((rows, cols), size)
    tiles = -(-rows // size) * -(-cols // size)
    assert len(found) == min(9, tiles) == len({(window.row, window.col) for window in found})
    assert found == sorted(found, key=lambda window: (window.row, window.col))
    assert (found[0].row, found[0].col) == (0, 0)
    assert (found[-1].row_stop, found[-1].col_stop) == (max(rows, size), max(cols, size))


def test_probes_are_spread_evenly() -> None:
    assert [window.col // 10 for window in probe_windows((10, 170), 10)] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert probe_windows((5, 7), 10) == [Window(0, 0, 10, 10)]


def warnings_of(caplog: pytest.LogCaptureFixture, pixels: list, trained: TrainedOn = TRAINED, far: float = 4.0) -> list:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "geocore"):
        compare_with_training("scene", pixels, trained, far=far)
    return caplog.messages


def test_the_band_is_named_whose_mean_over_all_windows_lies_farthest(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, [window()]) == []
    first, second = window((1000.0, 1000.0)), window((1000.0, 200.0))
    away = (np.concatenate([first[0][1], second[0][1]]).mean() - 3000) / 500
    assert warnings_of(caplog, [first, second]) == [
        f"scene: the mean of band nir lies {away:.1f} standard deviations from the training chips; the map may be wrong"
    ]
    assert warnings_of(caplog, [first, second], far=6.0) == []


def test_invalid_pixels_and_nan_in_them_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    values, valid = window()
    valid = np.broadcast_to(valid, values.shape).copy()
    valid[1, :20] = False
    values[1, :20] = np.nan
    assert warnings_of(caplog, [(values, valid)]) == []
    valid[:] = False
    assert warnings_of(caplog, [(values, valid)]) == [
        "scene: no pixel of the windows looked at is valid: the map may be empty"
    ]


def test_a_mean_of_many_pixels_keeps_its_digits(caplog: pytest.LogCaptureFixture) -> None:
    # A running sum in float32 stops growing at 2**24.
    values = np.ones((1, 1, 2**20), np.float32)
    values[..., ::2] += 0.5
    trained = TrainedOn(["a"], [1.25], [0.25])
    assert warnings_of(caplog, [(values, np.ones(values.shape, bool))] * 40, trained, far=1e-6) == []


@pytest.mark.parametrize(
    ("factor", "line"),
    [
        (1e-4, r"1/\d+ times those of the training chips \(band red: mean 0.1\d* against 1000\), as between "
               r"reflectance 0-1 and whole numbers up to 10000: give --scale 10000, or"),
        (1e4, r"about \d+ times .*: give --scale 0.0001, or"),
        (1 / 100, r"1/\d+ times .*, as between shares and percent: give --scale 100, or"),
    ],
)  # fmt: skip
def test_another_unit_is_refused_with_its_cause(factor: float, line: str) -> None:
    with pytest.raises(SceneError, match=rf"^scene: its numbers are .*{line}"):
        compare_with_training("scene", [window(factor=factor)], TRAINED, far=4.0, scale=1.0)
    with pytest.raises(SceneError) as caught:
        compare_with_training("scene", [window(factor=factor)], TRAINED, far=4.0)
    assert "--scale" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_mean_within_reach_does_not_hide_another_unit() -> None:
    # 0.1 for 1000 +- 400 lies 2.5 standard deviations off.
    trained = TrainedOn(["red"], [1000.0], [400.0])
    with pytest.raises(SceneError, match="reflectance 0-1"):
        compare_with_training("scene", [window((1000.0,), (400.0,), 1e-4)], trained, far=4.0, scale=1.0)


def test_eight_bits_for_sixteen_are_named_as_types() -> None:
    with pytest.raises(SceneError, match="trained on uint16, this is uint8"):
        compare_with_training("scene", [window(factor=1 / 257)], TRAINED, far=4.0, dtype="uint8")


def test_one_band_packed_into_integers_is_enough() -> None:
    trained = TrainedOn(["hh", "hv"], [0.0, 0.0], [1.0, 1.0], (), "float32", "challenge's scenes")
    values, valid = window((0.0, 0.0), (1.0, 1.0))
    compare_with_training("scene", [(values, valid)], trained, far=6.0)
    values[1] *= 1000
    with pytest.raises(SceneError, match=r"band hv: .*packed and unpacked"):
        compare_with_training("scene", [(values, valid)], trained, far=6.0)


def test_water_and_flat_ground_are_scenes_like_others(caplog: pytest.LogCaptureFixture) -> None:
    # Dark in the near infrared, and of little contrast: warned of at most, never refused.
    assert len(warnings_of(caplog, [window((900.0, 60.0), (4.0, 2.0))])) == 1
    assert warnings_of(caplog, [window((1000.0, 3000.0), (0.0, 0.0))]) == []


def test_the_number_of_a_physical_zero_is_taken_off() -> None:
    # 1000 + 10000 * reflectance against the same with reflectance a hundredth.
    trained = TrainedOn(["red"], [2000.0], [200.0], [1000.0])
    with pytest.raises(SceneError, match=r"1/\d+ times"):
        compare_with_training("scene", [window((1010.0,), (2.0,))], trained, far=9.0)


def test_a_scene_is_looked_over_before_it_is_mapped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layer = Layer("image", Bands((Band("red", "1", 1e-4, wavelength_nm=665.0),)), "int16")
    values = RNG.normal(1000, 200, (1, 64, 64)).astype(np.int16)
    trained = TrainedOn(["red"], [1000.0], [200.0])

    class Noting(ArrayReader):
        notes = ("a.tif: was turned",)

    grid = Grid(64, 64)
    with caplog.at_level(logging.INFO, "geocore"):
        look_over(Scene("a", grid, {"image": Noting(layer, values)}), "image", trained, far=4.0, size_px=32)
    assert caplog.messages == ["a.tif: was turned"]
    values[0, :8] = -9999
    with pytest.raises(SceneError, match=r"^a: 512 of 4096 pixels of band red lie beyond reflectance .*--nodata -9999"):
        look_over(Scene("a", grid, {"image": ArrayReader(layer, values)}), "image", trained, far=9.0, size_px=32)
    write_raster(tmp_path / "b.tif", values, grid=grid, nodata=-9999)
    with open_raster(tmp_path / "b.tif") as scene:
        look_over(scene, "image", TrainedOn(["1"], [1000.0], [200.0]), far=4.0, size_px=32)
