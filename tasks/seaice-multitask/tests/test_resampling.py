"""The working grid: means and middles, majorities, registration of the grids, encodings, and bounded memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from geocore.errors import SceneError, SettingsError
from geocore.raster.bands import Bands
from geocore.raster.grid import ControlPoint, Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Patch, Scene
from seaice_multitask.channels import COARSE_STANDARD, PLACE_STANDARD, RADAR, bands_of
from seaice_multitask.charts import MASKED
from seaice_multitask.config import WINNER_CHANNELS, WorkingSettings
from seaice_multitask.resampling import PLANES, month_code, reduce_chart, reduce_plane, working_scene
from seaice_multitask.scenes import COARSE, SAR

NAME = "20200716T030405_cis"
SHAPE = (253, 331)
SAR_NAMES = (*RADAR, "sar_incidenceangle", "distance_map")


def _points(shape: tuple[int, int], west: float = -60.0) -> tuple[ControlPoint, ...]:
    """Places that are linear in row and column, so that any interpolation must hit them."""
    rows, cols = (np.linspace(0.5, n - 0.5, 21) for n in shape)
    return tuple(
        ControlPoint(row, col, (west + 0.02 * col + 0.01 * row + 180) % 360 - 180, 75 - 0.01 * row)
        for row in rows
        for col in cols
    )


def _scene(shape: tuple[int, int] = SHAPE, seed: int = 0, name: str = NAME, west: float = -60.0) -> Scene:
    rng = np.random.default_rng(seed)
    sar = rng.standard_normal((4, *shape)).astype(np.float32)
    valid = rng.random((4, *shape)) < 0.9
    valid[:, :40, :60] = False
    # What a mask hides must not be seen, however strange it is.
    sar[~valid] = np.inf
    coarse_shape = (-(-shape[0] // 25), -(-shape[1] // 25))
    coarse = rng.standard_normal((20, *coarse_shape)).astype(np.float32)
    coarse_valid = rng.random((20, *coarse_shape)) < 0.9
    sources = {
        SAR: ArrayReader(Layer(SAR, bands_of(SAR_NAMES), "float32"), sar, valid),
        COARSE: ArrayReader(Layer(COARSE, bands_of(tuple(COARSE_STANDARD)), "float32", 25), coarse, coarse_valid),
    }
    return Scene(name, Grid(*shape, crs="EPSG:4326", gcps=_points(shape, west)), sources)


def _planes(scene: Scene, channels: Sequence[str], **working: object) -> np.ndarray:
    reduced = working_scene(scene, channels, WorkingSettings(**working))
    return reduced.read_layers(Window(0, 0, *reduced.grid.shape))[PLANES].values


def _blocks(shape: tuple[int, int], size: int):
    for row in range(-(-shape[0] // size)):
        for col in range(-(-shape[1] // size)):
            yield row, col, (slice(row * size, (row + 1) * size), slice(col * size, (col + 1) * size))


@pytest.mark.parametrize("downscale", [1, 3, 10, 50])
def test_radar_is_averaged_over_valid_pixels(downscale: int) -> None:
    """Defects D1 and D2: masks that enter the mean, and single pixels instead of means."""
    scene = _scene()
    patch = scene.read_layers(Window(0, 0, *SHAPE), [SAR])[SAR]
    found = _planes(scene, ["nersc_sar_secondary"], downscale=downscale)[0]
    assert found.shape == (-(-SHAPE[0] // downscale), -(-SHAPE[1] // downscale))
    for row, col, block in _blocks(SHAPE, downscale):
        values = patch.values[1][block][patch.valid[1][block]].astype(np.float64)
        if values.size == 0:
            assert np.isnan(found[row, col])
        else:
            # Sums of up to 50 float32 of size 1 before float64 takes over.
            assert abs(found[row, col] - values.mean()) < 1e-6


def test_nearest_takes_the_middle_pixel() -> None:
    scene = _scene()
    patch = scene.read_layers(Window(0, 0, *SHAPE), [SAR])[SAR]
    found = _planes(scene, list(SAR_NAMES), downscale=10, sar_reduction="nearest")
    for row, col in ((4, 9), (7, 20), (20, 3)):
        middle = patch.values[:, 10 * row + 5, 10 * col + 5]
        valid = patch.valid[:, 10 * row + 5, 10 * col + 5]
        np.testing.assert_array_equal(found[:, row, col], np.where(valid, middle, np.nan))
    # 253 lines: the last working pixel has three of them, and 255 would lie beyond.
    assert found.shape == (4, 26, 34)
    last = np.where(patch.valid[0, 252, 5::10], patch.values[0, 252, 5::10], np.nan)
    np.testing.assert_array_equal(found[0, 25, :33], last[:33])


def test_means_suppress_speckle_that_the_middle_pixel_keeps() -> None:
    scene = _scene()
    spread = {kind: np.nanstd(_planes(scene, RADAR, downscale=10, sar_reduction=kind)) for kind in ("mean", "nearest")}
    # Of some 90 independent values: a tenth of the spread, and twice that for the pixels of few.
    assert spread["nearest"] > 0.9
    assert spread["mean"] < 0.2


def test_each_channel_has_its_own_mask() -> None:
    scene = _scene()
    reduced = working_scene(scene, [*RADAR, "t2m", "month"], WorkingSettings(downscale=1))
    patch = reduced.read_layers(Window(0, 0, *SHAPE))[PLANES]
    raw = scene.read_layers(Window(0, 0, *SHAPE), [SAR])[SAR]
    np.testing.assert_array_equal(patch.valid[:2], raw.valid[:2])
    assert patch.valid[3].all()
    assert np.isnan(patch.values[~patch.valid]).all()
    np.testing.assert_array_equal(patch.valid, np.isfinite(patch.values))


@pytest.mark.parametrize("downscale", [1, 5, 10, 18, 50])
def test_coarse_pixels_are_registered_to_the_radar(downscale: int) -> None:
    scene = _scene()
    coarse = scene.read_layers(Window(0, 0, 275, 350), [COARSE])[COARSE]
    index = list(COARSE_STANDARD).index("t2m")
    expected = np.where(coarse.valid[index], coarse.values[index], np.nan)
    found = _planes(scene, ["t2m"], downscale=downscale)[0]
    for row, col, _ in _blocks(SHAPE, downscale):
        middle = [min(n * downscale + downscale // 2, edge - 1) for n, edge in zip((row, col), SHAPE, strict=True)]
        np.testing.assert_equal(found[row, col], expected[middle[0] // 25, middle[1] // 25])


def test_channels_come_in_the_order_asked_for_and_by_name() -> None:
    """Defect D14: channels in the order of a dictionary."""
    scene = _scene()
    order = ["month", "tclw", "longitude", "nersc_sar_secondary", "btemp_6_9h", "nersc_sar_primary", "v10m_rotated"]
    reduced = working_scene(scene, order, WorkingSettings())
    assert reduced.layers[PLANES].bands.names == tuple(order)
    assert all(np.isnan(band.nodata) for band in reduced.layers[PLANES].bands)
    together = _planes(scene, order)
    for name, plane in zip(order, together, strict=True):
        np.testing.assert_array_equal(plane, _planes(scene, [name])[0])
    np.testing.assert_array_equal(_planes(scene, order[::-1]), together[::-1])


def test_winds_stay_a_vector_pair() -> None:
    pair = ("u10m_rotated", "v10m_rotated")
    assert working_scene(_scene(), WINNER_CHANNELS, WorkingSettings()).layers[PLANES].bands.vector_pairs == (pair,)
    assert working_scene(_scene(), pair[:1], WorkingSettings()).layers[PLANES].bands.vector_pairs == ()


@pytest.mark.parametrize("sar_reduction", ["mean", "nearest"])
def test_a_window_is_the_same_wherever_it_is_cut(sar_reduction: str) -> None:
    """To the last bit, whatever the other pixels read with it."""
    reduced = working_scene(_scene(), WINNER_CHANNELS, WorkingSettings(downscale=7, sar_reduction=sar_reduction))
    whole = reduced.read_layers(reduced.grid.whole)[PLANES]
    for window in (Window(0, 0, 1, 1), Window(3, 5, 20, 31), Window(36, 47, 1, 1), Window(30, 40, 7, 8)):
        patch = reduced.read_layers(window)[PLANES]
        np.testing.assert_array_equal(patch.values, whole.values[(..., *window.slices)])
        np.testing.assert_array_equal(patch.valid, whole.valid[(..., *window.slices)])


def test_months_are_those_since_january() -> None:
    assert (month_code("20200131T235959_dmi"), month_code("20201201T000000_dmi")) == (-1, 1)
    assert month_code(NAME) == pytest.approx(2 * 6 / 11 - 1)
    assert (_planes(_scene(), ["month"]) == np.float32(2 * 6 / 11 - 1)).all()


def _degrees(scene: Scene, downscale: int) -> list[np.ndarray]:
    planes = _planes(scene, list(PLACE_STANDARD), downscale=downscale)
    return [
        plane.astype(np.float64) * PLACE_STANDARD[n].std + PLACE_STANDARD[n].mean
        for n, plane in zip(PLACE_STANDARD, planes, strict=True)
    ]


def test_places_are_those_of_the_middle_of_a_working_pixel() -> None:
    latitude, longitude = _degrees(_scene(), 10)
    rows, cols = (np.arange(n) * 10 + 5 for n in (25, 33))
    # float32 z-scores times 31 degrees are good to 4e-6, and the last, incomplete pixels are clamped.
    np.testing.assert_allclose(
        latitude[:25, :33], np.broadcast_to(75 - 0.01 * rows[:, None], (25, 33)), atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(longitude[:25, :33], -60 + 0.02 * cols[None] + 0.01 * rows[:, None], atol=1e-5, rtol=0)


def test_longitudes_go_on_across_the_antimeridian() -> None:
    # The middle lies east of it, at -178.5 degrees, then west of it, at 178.5: beyond Alaska, seen from Greenland.
    for west, first in ((177.0, -183.0), (174.0, -186.0), (20.0, 20.0)):
        _, longitude = _degrees(_scene(west=west), 10)
        expected = first + 0.02 * (np.arange(33) * 10 + 5) + 0.05
        np.testing.assert_allclose(longitude[0, :33], expected, atol=2e-5)
        assert np.abs(np.diff(longitude, axis=1)).max() < 0.21
    # However a file counts them.
    _, plain = _degrees(_scene(), 10)
    assert plain.min() >= -180 and plain.max() <= 180


def test_what_a_scene_lacks_is_named() -> None:
    whole = _scene()
    radar = Scene(NAME, Grid(*SHAPE), {SAR: whole.readers[SAR]})
    with pytest.raises(SceneError, match="lacks the channels t2m, skt"):
        working_scene(radar, ["t2m", *RADAR, "skt"], WorkingSettings())
    with pytest.raises(SceneError, match="need control points"):
        working_scene(radar, ["latitude"], WorkingSettings())
    with pytest.raises(SceneError, match="its name has no time"):
        working_scene(_scene(name="my_scene"), ["month"], WorkingSettings())
    with pytest.raises(SettingsError, match="'hh' is unknown"):
        working_scene(whole, ["hh"], WorkingSettings())


class _Constant:
    """A layer of any size that is made when it is read."""

    def __init__(self, layer: Layer, shape: tuple[int, int]) -> None:
        self.layer, self.shape = layer, shape
        self.largest = 0

    def read(self, window: Window) -> Patch:
        self.largest = max(self.largest, window.height * window.width)
        shape = (len(self.layer.bands), *window.shape)
        return Patch(np.ones(shape, np.float32), np.ones(shape, bool))

    def close(self) -> None:
        pass


def test_memory_is_bounded_by_the_window() -> None:
    """Defect D18: whole scenes in memory."""
    shape = (5000, 5213)
    sources = {
        SAR: _Constant(Layer(SAR, bands_of(SAR_NAMES), "float32"), shape),
        COARSE: _Constant(Layer(COARSE, Bands.named("t2m"), "float32", 25), (200, 209)),
    }
    scene = Scene(NAME, Grid(*shape, gcps=_points(shape)), sources)
    channels = [*SAR_NAMES, "t2m", "month", "latitude"]
    full = working_scene(scene, channels, WorkingSettings(downscale=1))
    tracemalloc.start()
    for row in range(0, 4096, 512):
        full.read_layers(Window(row, 4600, 512, 512))
    window_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    coarse = working_scene(scene, channels, WorkingSettings(downscale=10))
    coarse.read(coarse.grid.whole)
    scene_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Seven planes of a window are 7.3 MB and their masks 1.8; radar and result are held at once, and a copy.
    assert window_peak < 40e6
    # The scene's four planes would be 417 MB: it is read in strips of 2 million pixels, 34 MB and masks.
    assert sources[SAR].largest <= 1 << 21
    assert scene_peak < 120e6


def _majority(block: np.ndarray) -> int:
    votes = Counter(int(value) for value in block.ravel() if value != MASKED)
    return min(votes, key=lambda value: (-votes[value], value)) if votes else MASKED


@pytest.mark.parametrize("downscale", [2, 7, 50])
def test_the_majority_of_unmasked_pixels_decides(downscale: int) -> None:
    rng = np.random.default_rng(0)
    chart = rng.choice(np.array([0, 1, 2, 10, 254, MASKED], np.uint8), (123, 205), p=[0.2, 0.2, 0.1, 0.1, 0.1, 0.3])
    chart[:20, :20] = MASKED
    found = reduce_chart(chart, WorkingSettings(downscale=downscale))
    expected = np.array([_majority(chart[block]) for _, _, block in _blocks(chart.shape, downscale)])
    np.testing.assert_array_equal(found.ravel(), expected)
    assert found.dtype == np.uint8


def test_of_equals_the_lower_class_wins() -> None:
    chart = np.array([[7, 3], [3, 7], [9, MASKED], [MASKED, MASKED]], np.uint8)
    assert reduce_chart(chart, WorkingSettings(downscale=2)).ravel().tolist() == [3, 9]


def test_a_chart_without_classes_stays_masked() -> None:
    chart = np.full((30, 30), MASKED, np.uint8)
    assert (reduce_chart(chart, WorkingSettings()) == MASKED).all()


def test_nearest_charts_take_the_middle_pixel_masked_or_not() -> None:
    chart = np.random.default_rng(0).integers(0, 11, (123, 205), dtype=np.uint8)
    chart[45, 55] = MASKED
    found = reduce_chart(chart, WorkingSettings(chart_reduction="nearest"))
    np.testing.assert_array_equal(found[:12, :20], chart[5::10, 5::10][:12, :20])
    assert found[4, 5] == MASKED
    # The last working line has three lines, the last working column five.
    assert found[12, 20] == chart[122, 204]


def test_the_same_grid_comes_back_unchanged() -> None:
    chart = np.random.default_rng(0).integers(0, 11, (23, 25), dtype=np.uint8)
    np.testing.assert_array_equal(reduce_chart(chart, WorkingSettings(downscale=1)), chart)
    plane = np.random.default_rng(0).standard_normal((23, 25)).astype(np.float32)
    np.testing.assert_array_equal(reduce_plane(plane, WorkingSettings(downscale=1)), plane)
