from __future__ import annotations

import numpy as np
import pytest
import rasterio.windows
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geocore.errors import DataError, SceneError
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene, valid_mask

SAR = np.arange(1, 2 * 13 * 11 + 1, dtype=np.float32).reshape(2, 13, 11)
ICE = np.arange(3 * 1 * 4 * 3, dtype=np.int16).reshape(3, 1, 4, 3)


def two_layers() -> Scene:
    """13 x 11 pixels of radar and, four times coarser, 4 x 3 of three dates; both borders reach beyond the grid."""
    sar = Layer("sar", Bands.named("HH", "HV"), "float32")
    ice = Layer("ice", Bands.named("sic", nodata=0), "int16", ratio=4, times=("2020-01-01", "2020-01-02", "2020-01-03"))
    return Scene("s1", Grid(13, 11), {"sar": ArrayReader(sar, SAR), "ice": ArrayReader(ice, ICE)})


def test_layers_and_alignment() -> None:
    with two_layers() as scene:
        assert scene.alignment == 4
        assert list(scene.layers) == ["sar", "ice"]
        assert scene.layers["ice"].ratio == 4
    six = Layer("b", Bands.named("b"), "uint8", ratio=6)
    four = Layer("a", Bands.named("a"), "uint8", ratio=4)
    arrays = {"a": ArrayReader(four, np.zeros((3, 3), "u1")), "b": ArrayReader(six, np.zeros((2, 2), "u1"))}
    assert Scene("x", Grid(12, 12), arrays).alignment == 12


def test_coarse_layer_comes_as_its_own_pixels() -> None:
    patches = two_layers().read_layers(Window(4, 4, 8, 4))
    np.testing.assert_array_equal(patches["sar"].values, SAR[:, 4:12, 4:8])
    np.testing.assert_array_equal(patches["ice"].values, ICE[:, :, 1:3, 1:2])
    assert patches["ice"].values.dtype == np.int16
    assert list(two_layers().read_layers(Window(1, 1, 2, 2), ["sar"])) == ["sar"]


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 20), st.integers(1, 20))
def test_outside_is_zero_and_invalid(row: int, col: int, height: int, width: int) -> None:
    patch = two_layers().read_layers(Window(row, col, height, width), ["sar"])["sar"]
    padded = np.pad(SAR, ((0, 0), (20, 40), (20, 40)))
    inside = np.pad(np.ones_like(SAR, bool), ((0, 0), (20, 40), (20, 40)))
    place = (slice(None), slice(row + 20, row + 20 + height), slice(col + 20, col + 20 + width))
    np.testing.assert_array_equal(patch.values, padded[place])
    np.testing.assert_array_equal(patch.valid, inside[place])
    assert patch.values.dtype == np.float32


def test_coarse_layer_outside_keeps_time_axis_and_mask_shape() -> None:
    patch = two_layers().read_layers(Window(-4, -4, 8, 8), ["ice"])["ice"]
    assert patch.values.shape == patch.valid.shape == (3, 1, 2, 2)
    np.testing.assert_array_equal(patch.values[:, 0, 1, 1], ICE[:, 0, 0, 0])
    np.testing.assert_array_equal(patch.valid[:, 0, 1, 1], [False, True, True])
    assert not patch.valid[:, :, 0].any()
    far = two_layers().read_layers(Window(400, 400, 8, 8), ["ice"])["ice"]
    assert far.values.shape == far.valid.shape == (3, 1, 2, 2)
    assert not far.valid.any()


@pytest.mark.parametrize("window", [Window(2, 0, 4, 4), Window(0, 2, 4, 4), Window(0, 0, 6, 4), Window(0, 0, 4, 6)])
def test_window_must_be_aligned_to_the_layers_read(window: Window) -> None:
    with pytest.raises(ValueError, match="ratio 4"):
        two_layers().read_layers(window)
    two_layers().read_layers(window, ["sar"])


def test_unknown_layer_and_misfit_are_clear() -> None:
    with pytest.raises(SceneError, match="no layer 'dem'.*sar, ice"):
        two_layers().read_layers(Window(0, 0, 4, 4), ["dem"])
    layer = Layer("a", Bands.named("a"), "uint8", ratio=2)
    with pytest.raises(SceneError, match="needs 7 x 6") as caught:
        Scene("x", Grid(13, 11), {"a": ArrayReader(layer, np.zeros((6, 6), "u1"))})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="filed under"):
        Scene("x", Grid(6, 6), {"b": ArrayReader(Layer("a", Bands.named("a"), "uint8"), np.zeros((6, 6), "u1"))})


def test_result_belongs_to_the_caller() -> None:
    scene = two_layers()
    patch = scene.read_layers(scene.grid.whole, ["sar"])["sar"]
    patch.values[:] = -1
    patch.valid[:] = False
    again = scene.read_layers(scene.grid.whole, ["sar"])["sar"]
    np.testing.assert_array_equal(again.values, SAR)
    assert again.valid.all()


def test_big_endian_array_is_read_in_native_order() -> None:
    layer = Layer("a", Bands.named("a"), "int16")
    patch = ArrayReader(layer, np.array([[1, 256]], ">i2")).read(Window(0, 0, 1, 2))
    assert patch.values.dtype == np.dtype("int16")
    assert patch.values.dtype.isnative
    assert patch.values.tolist() == [[[1, 256]]]


def test_explicit_mask_keeps_its_one_band() -> None:
    layer = Layer("a", Bands.named("a", "b", nodata=7), "uint8")
    mask = np.eye(3, dtype=bool)
    patch = ArrayReader(layer, np.full((2, 3, 3), 7, "u1"), mask).read(Window(0, 0, 2, 3))
    np.testing.assert_array_equal(patch.valid, mask[np.newaxis, :2])


def test_array_must_be_what_the_layer_says() -> None:
    layer = Layer("a", Bands.named("a", "b"), "uint8", times=("2020-01-01",))
    with pytest.raises(ValueError, match=r"needs \(1, 2\)"):
        ArrayReader(layer, np.zeros((2, 3, 3), "u1"))
    with pytest.raises(ValueError, match="declared uint8"):
        ArrayReader(layer, np.zeros((1, 2, 3, 3), "u2"))
    with pytest.raises(ValueError, match="mask"):
        ArrayReader(layer, np.zeros((1, 2, 3, 3), "u1"), np.ones((1, 3, 3, 3), bool))


@pytest.mark.parametrize(
    ("values", "nodata", "valid"),
    [
        (np.array([0, 1, 255], "u1"), 255, [True, True, False]),
        (np.array([0, 1, 255], "u1"), None, [True, True, True]),
        (np.array([0, 1, 255], "u1"), -9999, [True, True, True]),
        (np.array([0, 1, 255], "u1"), float("nan"), [True, True, True]),
        (np.array([0, 1, 255], "u1"), 0.5, [True, True, True]),
        (np.array([-1, 0, 1], "i2"), -1, [False, True, True]),
        (np.array([np.nan, 1, np.inf], "f4"), None, [False, True, False]),
        (np.array([-np.inf, 1, np.nan], "f4"), -np.inf, [False, True, False]),
        (np.array([np.nan, 0, 1], "f4"), np.nan, [False, True, True]),
        (np.array([0.1, 0, np.nan], "f4"), 0.1, [False, True, False]),
        # The lowest float32, rounded by the program that wrote the header.
        (np.array([np.finfo("f4").min, 0, 1], "f4"), -3.4028235e38, [False, True, True]),
        (np.array([np.finfo("f4").min, 0, 1], "f4"), -3.4028236e38, [False, True, True]),
        (np.array([np.finfo("f4").min, 0, 1], "f4"), -3.402823e38, [False, True, True]),
        (np.array([np.finfo("f4").min, 0, 1], "f4"), np.finfo("f8").min, [False, True, True]),
    ],
)
def test_valid_mask(values: np.ndarray, nodata: float | None, valid: list[bool]) -> None:
    assert valid_mask(values, nodata).tolist() == valid


UTM = Grid(13, 11, Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")


def one_layer() -> Scene:
    return Scene("s1", UTM, {"sar": ArrayReader(Layer("sar", Bands.named("HH", "HV"), "float32"), SAR)})


def test_a_scene_of_one_layer_is_read_without_its_name() -> None:
    with one_layer() as scene:
        whole = scene.read()
        np.testing.assert_array_equal(whole.values, SAR)
        assert whole.valid.all() and whole.grid == UTM
        part = scene.read(Window(2, 3, 4, 5))
        np.testing.assert_array_equal(part.values, SAR[:, 2:6, 3:8])
        assert part.grid is not None
        assert part.grid.transform == Affine(10.0, 0.0, 500030.0, 0.0, -10.0, 7999980.0)
        assert part.grid.crs == UTM.crs and part.grid.shape == (4, 5)
        theirs = scene.read(rasterio.windows.Window(3, 2, 5, 4))
        np.testing.assert_array_equal(theirs.values, part.values)
        assert scene.bands.names == ("HH", "HV") and scene.dtype == "float32"


def test_a_box_on_the_map_is_read_by_its_bounds() -> None:
    with one_layer() as scene:
        box = scene.read(bounds=(500031.0, 7999941.0, 500079.0, 7999979.0))
        np.testing.assert_array_equal(box.values, SAR[:, 2:6, 3:8])
        assert box.grid is not None and box.grid.bounds == (500030.0, 7999940.0, 500080.0, 7999980.0)
        beside = scene.read(bounds=(499980.0, 7999990.0, 500010.0, 8e9))
        np.testing.assert_array_equal(beside.values, SAR[:, :1, :1])
        assert beside.grid is not None and beside.grid.bounds == (500000.0, 7999990.0, 500010.0, 8000000.0)
        for window in ("0, 0, 4, 4", (0, 0, 4, 4)):
            with pytest.raises(DataError, match=r"must be geocore.Window\(row, col, height, width\)"):
                scene.read(window)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="must be \\(left, bottom, right, top\\)"):
            scene.read(bounds=(0.0, 0.0, 1.0))  # type: ignore[arg-type]
        with pytest.raises(SceneError, match=r"lie outside it: it spans \(500000.0, 7999870.0, 500110.0, 8000000.0\)"):
            scene.read(bounds=(0.0, 0.0, 1.0, 1.0))
        with pytest.raises(ValueError, match="give one of them"):
            scene.read(Window(0, 0, 1, 1), bounds=(500000.0, 7999990.0, 500010.0, 8000000.0))
    with two_layers() as scene, pytest.raises(DataError, match="has no transform"):
        scene.read(bounds=(0.0, 0.0, 1.0, 1.0), layer="sar")


def test_a_layer_of_several_is_named_and_comes_on_its_own_grid() -> None:
    with two_layers() as scene:
        with pytest.raises(SceneError, match="has the layers sar, ice: name the one to read"):
            scene.read()
        with pytest.raises(SceneError, match="has the layers sar, ice"):
            scene.bands  # noqa: B018 - the property raises
        with pytest.raises(SceneError, match="no layer 'dem'"):
            scene.read(layer="dem")
        ice = scene.read(layer="ice")
        np.testing.assert_array_equal(ice.values, ICE)
        assert ice.grid is not None and ice.grid.shape == (4, 3)
    layers = {"ice": ArrayReader(Layer("ice", Bands.named("sic"), "int16", ratio=4), ICE[0])}
    with Scene("s2", UTM, layers) as scene:
        part = scene.read(bounds=(500050.0, 7999900.0, 500060.0, 7999910.0))
        np.testing.assert_array_equal(part.values, ICE[0][:, 2:3, 1:2])
        assert part.grid is not None and part.grid.bounds == (500040.0, 7999880.0, 500080.0, 7999920.0)


def test_scenes_and_patches_tell_what_they_are() -> None:
    with two_layers() as scene:
        assert repr(scene) == (
            "Scene('s1', Grid(13 x 11 px), sar: HH, HV float32; ice: sic int16 at 3 times, 1/4)"
        )  # fmt: skip
        assert repr(scene.read(layer="sar")) == "Patch(2 x 13 x 11 float32, 100.0% valid, Grid(13 x 11 px))"
