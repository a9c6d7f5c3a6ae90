"""Reading: which bands stand for the six, what a stored number means, what is missing, and what labels say."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from affine import Affine
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from floods_prithvi.chip_reader import IMAGE, centre_of, image_layer, open_chip
from floods_prithvi.config import SIX_BANDS
from geocore.datasets.labels import Census, LabelCodes, check_label, read_target
from geocore.datasets.statistics import BandStatistics, Statistics
from geocore.errors import DataError, SceneError
from geocore.raster.declarations import Declaration, QuantityCheck
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import Scene, resolved_bands
from geocore.transforms.normalize import Normalize

THIRTEEN = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12"]
PLACE = Affine(10, 0, 500_000, 0, -10, 4_200_000)
LAYER = image_layer()
FLOOD = LabelCodes((0, 1), (-1,))


def write(
    path: Path,
    values: npt.NDArray[Any],
    *,
    names: Sequence[str | None] | None = None,
    nodata: float | None = None,
    transform: Affine | None = PLACE,
    crs: str | None = "EPSG:32630",
) -> Path:
    planes = values[np.newaxis] if values.ndim == 2 else values
    count, height, width = planes.shape
    size: dict[str, Any] = {"count": count, "height": height, "width": width}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(
            path, "w", driver="GTiff", dtype=planes.dtype, nodata=nodata, transform=transform, crs=crs, **size
        )
    with file:
        file.write(planes)
        if names is not None:
            file.descriptions = tuple(names)
    return path


def tagged(count: int, shape: tuple[int, int] = (3, 4)) -> npt.NDArray[np.int16]:
    """Bands 1, 2, ... whose every pixel holds the band's number."""
    return np.broadcast_to(np.arange(1, count + 1)[:, None, None], (count, *shape)).astype(np.int16)


def bands_read(path: Path, **options: Any) -> list[int]:
    with open_chip(path, LAYER, **options) as scene:
        values = scene.read_layers(scene.grid.whole)[IMAGE].values
    assert values.dtype == np.float32
    assert values.shape == (6, *scene.grid.shape)
    return [int(value) for value in values[:, 0, 0]]


# --- bands ---


@pytest.mark.parametrize(
    "names, expected",
    [
        (THIRTEEN, [2, 3, 4, 9, 12, 13]),
        ([f"B0{n[1:]}" if len(n) == 2 else n for n in THIRTEEN], [2, 3, 4, 9, 12, 13]),
        (["B02", "B03", "B04", "B8A", "B11", "B12"], [1, 2, 3, 4, 5, 6]),
        (THIRTEEN[::-1], [12, 11, 10, 5, 2, 1]),
        (["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B10", "B11"], [2, 3, 4, 5, 6, 7]),
        (["swir_2", "swir_1", "nir_narrow", "red", "green", "blue"], [6, 5, 4, 3, 2, 1]),
        (["BLUE", "GREEN", "RED", "NIR_BROAD", "NIR_NARROW", "SWIR_1", "SWIR_2"], [1, 2, 3, 5, 6, 7]),
        (["red", "green", "blue", "nir", "nir08", "swir16", "swir22"], [3, 2, 1, 5, 6, 7]),
        ([None] * 6, [1, 2, 3, 4, 5, 6]),
        (["a", "b", "c", "d", "e", "f"], [1, 2, 3, 4, 5, 6]),
    ],
)
def test_bands_go_by_name_wherever_they_stand(tmp_path: Path, names: list[str | None], expected: list[int]) -> None:
    assert bands_read(write(tmp_path / "a.tif", tagged(len(names)), names=names)) == expected


def test_bands_that_are_named_by_the_user(tmp_path: Path) -> None:
    bare = write(tmp_path / "bare.tif", tagged(13))
    assert bands_read(bare, bands=["2", "3", "4", "9", "12", "13"]) == [2, 3, 4, 9, 12, 13]
    named = write(tmp_path / "named.tif", tagged(13), names=THIRTEEN)
    assert bands_read(named, bands=["B02", "b3", "4", "B8", "11", "13"]) == [2, 3, 4, 8, 11, 13]
    with pytest.raises(SceneError, match=r"no band '14': its bands are B1, B2.*--bands"):
        bands_read(named, bands=["2", "3", "4", "9", "12", "14"])
    with pytest.raises(SceneError, match=r"names 3 \(2, 3, 4\), but six are needed"):
        bands_read(named, bands=["2", "3", "4"])


def test_thirteen_bands_without_names_are_refused_in_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"13 bands without names.*--bands 2 3 4 9 12 13") as caught:
        bands_read(write(tmp_path / "a.tif", tagged(13)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12"],  # B5 is red edge, and the narrow infrared is missing
        ["blue", "green", "red", "swir_1", "swir_2"],
        ["blue", "green", "red", "red_edge", "swir_1", "swir_2"],  # six, but other ones
        ["B2", "B3", "B4", "B8A", "B11", "B12"] * 2,  # of which date?
    ],
)
def test_bands_that_are_not_the_six_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(SceneError, match=r"its bands are .*six are needed.*--bands"):
        bands_read(write(tmp_path / "a.tif", tagged(len(names)), names=names))


def test_transparency_is_no_band(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", tagged(7))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:6], rasterio.enums.ColorInterp.alpha]
    assert bands_read(path) == [1, 2, 3, 4, 5, 6]


def test_a_band_flagged_alpha_is_one_when_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", tagged(6))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:5], rasterio.enums.ColorInterp.alpha]
    with pytest.raises(SceneError, match=r"5 bands without names that are known, besides one flagged alpha \(band 6\)"):
        bands_read(path)
    assert bands_read(path, bands=["1", "2", "3", "4", "5", "6"]) == [1, 2, 3, 4, 5, 6]
    named = write(tmp_path / "named.tif", tagged(6), names=["blue", "green", "red", "nir", "swir1", "swir2"])
    with rasterio.open(named, "r+") as file:
        file.colorinterp = [*file.colorinterp[:5], rasterio.enums.ColorInterp.alpha]
    assert bands_read(named) == [1, 2, 3, 4, 5, 6]


def test_file_that_is_no_raster_or_is_cut_off_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    rng = np.random.default_rng(0)
    whole = write(tmp_path / "cut.tif", rng.integers(0, 9999, (6, 64, 64)).astype(np.int16))
    whole.write_bytes(whole.read_bytes()[:20_000])
    for path in (tmp_path / "none.tif", tmp_path / "text.tif", whole):
        with pytest.raises(SceneError, match=path.name) as caught, open_chip(path, LAYER) as scene:
            scene.read(scene.grid.whole)
        assert "\n" not in str(caught.value)


# --- several dates ---


def tags(dates: int = 3) -> npt.NDArray[np.int16]:
    """Shape (date, band, row, col): 100 * date + band."""
    numbers = 100 * np.arange(dates)[:, None] + np.arange(6)
    return np.broadcast_to(numbers[..., None, None], (dates, 6, 2, 3)).astype(np.int16)


def misplaced(found: npt.NDArray[Any]) -> int:
    """Planes of (date, band, row, col) that hold another one's number."""
    return int((found != tags(len(found))).any(axis=(2, 3)).sum())


def frames_read(path: Path, **options: Any) -> npt.NDArray[np.float32]:
    with open_chip(path, image_layer(["1", "2", "3"]), **options) as scene:
        patch = scene.read_layers(scene.grid.whole)[IMAGE]
    assert patch.valid.shape == (3, 1, 2, 3)
    return patch.values


def test_eighteen_bands_are_read_date_by_date(tmp_path: Path) -> None:
    path = write(tmp_path / "chip.tif", tags().reshape(18, 2, 3))
    assert misplaced(frames_read(path)) == 0
    # The same file taken for band by band: only the first and the last plane stay where they are.
    with rasterio.open(path) as file:
        band_major = file.read().reshape(6, 3, 2, 3).swapaxes(0, 1)
    assert misplaced(band_major) == 16


def test_dates_and_bands_keep_their_places_up_to_the_network(tmp_path: Path) -> None:
    values = frames_read(write(tmp_path / "chip.tif", tags().reshape(18, 2, 3)))
    figures = BandStatistics(1, 0.0, 1.0, 0.0, 1.0, {50.0: 0.0})
    normalize = Normalize(Statistics({IMAGE: (figures,) * 6}), {IMAGE: image_layer().bands})
    whole = {"values": torch.from_numpy(values)[None], "valid": torch.ones(1, 3, 1, 2, 3, dtype=torch.bool)}
    channels = normalize({IMAGE: whole})[IMAGE]
    assert channels[0, :, 0, 0].tolist() == [100 * date + band for date in range(3) for band in range(6)]


def test_names_that_occur_once_a_date_win_over_the_order(tmp_path: Path) -> None:
    names = ["B02", "B03", "B04", "B8A", "B11", "B12"]
    by_band = tags().swapaxes(0, 1).reshape(18, 2, 3)
    path = write(tmp_path / "a.tif", by_band, names=[name for name in names for _ in range(3)])
    assert misplaced(frames_read(path)) == 0
    path = write(tmp_path / "b.tif", tags()[:, ::-1].reshape(18, 2, 3), names=names[::-1] * 3)
    assert misplaced(frames_read(path)) == 0
    # Without names nothing tells; the format says date by date.
    assert misplaced(frames_read(write(tmp_path / "c.tif", by_band))) == 16


def test_bands_of_the_first_date_stand_for_those_of_all(tmp_path: Path) -> None:
    spare = np.full((3, 1, 2, 3), 999, np.int16)
    path = write(tmp_path / "a.tif", np.concatenate([spare, tags(), spare], axis=1).reshape(24, 2, 3))
    assert misplaced(frames_read(path, bands=["2", "3", "4", "5", "6", "7"])) == 0
    every = [str(8 * date + band) for date in range(3) for band in range(2, 8)]
    assert misplaced(frames_read(path, bands=every)) == 0
    with pytest.raises(SceneError, match=r"six are needed at 3 dates"):
        frames_read(path)
    with pytest.raises(SceneError, match=r"names 7 .*six are needed at 3 dates, or six among those of the first"):
        frames_read(path, bands=["1", "2", "3", "4", "5", "6", "7"])


# --- reflectance and what is missing ---


def test_stored_numbers_become_reflectance(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", tagged(6) * 1000)
    with open_chip(path, LAYER, given=Declaration(scale=1e-4, offset=-0.1)) as scene:
        patch = scene.read_layers(Window(0, 0, 2, 2))[IMAGE]
    assert scene.layers[IMAGE] == LAYER
    assert np.allclose(patch.values[:, 0, 0], np.arange(1, 7) * 0.1 - 0.1, atol=1e-7)
    assert patch.valid.all()
    assert patch.valid.shape == (1, 2, 2)


def test_what_a_scene_says_of_its_numbers_counts_before_what_is_assumed(tmp_path: Path) -> None:
    """Sentinel-2 since baseline 04.00, told by the file, gives the very reflectance of the baselines before."""
    numbers = np.random.default_rng(0).integers(1, 9000, (6, 20, 30)).astype(np.uint16)
    old = write(tmp_path / "old.tif", numbers)
    new = write(tmp_path / "new.tif", numbers + np.uint16(1000))
    bare = write(tmp_path / "bare.tif", numbers + np.uint16(1000))
    with rasterio.open(new, "r+") as file:
        file.scales, file.offsets = (1e-4,) * 6, (-0.1,) * 6

    def reflectance(path: Path, **options: Any) -> npt.NDArray[np.float32]:
        usual = Declaration(scale=1e-4, offset=0.0, by="format")
        with open_chip(path, LAYER, given=Declaration(**options), usual=usual) as scene:
            values: npt.NDArray[np.float32] = scene.read_layers(Window(0, 0, 20, 30))[IMAGE].values
            return values

    expected = reflectance(old)
    np.testing.assert_array_equal(expected, numbers.astype(np.float32) * np.float32(1e-4))
    np.testing.assert_array_equal(reflectance(new), expected)
    np.testing.assert_array_equal(reflectance(bare, offset=-0.1), expected)
    np.testing.assert_array_equal(reflectance(new, scale=1e-4, offset=0.0), reflectance(bare))


@pytest.mark.parametrize("tag, given", [(0, None), (None, 0.0), (-5, 0.0)])
def test_zero_is_missing_only_where_all_six_bands_are_zero(
    tmp_path: Path, tag: float | None, given: float | None
) -> None:
    values = np.full((13, 2, 3), 700, np.int16)
    values[:, 0, 0] = 0
    values[4, 0, 1] = 0  # a band that is not read
    values[[1, 2, 3, 8, 11], 1, 1] = 0  # water so dark that five bands are 0
    values[[1, 2, 3, 8, 11, 12], 1, 2] = 0  # all six, though others are not
    path = write(tmp_path / "a.tif", values, names=THIRTEEN, nodata=tag)
    with open_chip(path, LAYER, given=Declaration(given)) as scene:
        patch = scene.read_layers(scene.grid.whole)[IMAGE]
    assert patch.valid[0].tolist() == [[False, True, True], [True, True, False]]
    assert np.array_equal(np.isnan(patch.values).all(axis=0), ~patch.valid[0])
    assert np.isfinite(patch.values[:, patch.valid[0]]).all()


def test_other_values_are_missing_in_whichever_band_they_stand(tmp_path: Path) -> None:
    values = np.full((6, 2, 3), 0.1, np.float32)
    values[5, 0, 0] = -9999
    values[0, 0, 1], values[2, 1, 1] = np.nan, np.inf
    values[:, 1, 2] = 0
    for tag, given in ((-9999.0, None), (None, -9999.0)):
        path = write(tmp_path / "a.tif", values, nodata=tag)
        with open_chip(path, LAYER, given=Declaration(given)) as scene:
            assert scene.read_layers(scene.grid.whole)[IMAGE].valid[0].tolist() == [
                [False, False, True],
                [True, False, True],
            ]
    # Zero as the missing value says nothing of NaN, which is never reflectance.
    with open_chip(path, LAYER, given=Declaration(0.0)) as scene:
        assert scene.read_layers(scene.grid.whole)[IMAGE].valid[0].tolist() == [
            [True, False, True],
            [True, False, False],
        ]


def test_each_date_is_missing_for_itself(tmp_path: Path) -> None:
    values = tags() + np.int16(1)
    values[1, :, 0, 0] = 0
    values[2, 3, 1, 1] = 0
    path = write(tmp_path / "a.tif", values.reshape(18, 2, 3), nodata=0)
    with open_chip(path, image_layer(["a", "b", "c"])) as scene:
        valid = scene.read_layers(scene.grid.whole)[IMAGE].valid
    assert np.argwhere(~valid).tolist() == [[1, 0, 0, 0]]


def test_window_outside_is_not_valid(tmp_path: Path) -> None:
    with open_chip(write(tmp_path / "a.tif", tagged(6)), LAYER) as scene:
        patch = scene.read_layers(Window(-1, 2, 3, 4))[IMAGE]
    assert patch.valid[0].tolist() == [[False] * 4, [True, True, False, False], [True, True, False, False]]


# --- unit ---


def check_quantities(scene: Scene) -> None:
    patch = scene.read_layers(scene.grid.whole)[IMAGE]
    check = QuantityCheck(LAYER.bands, resolved_bands(scene.readers[IMAGE]))
    check.update(patch.values, patch.valid)
    check.raise_if_impossible(scene.name)


@pytest.mark.parametrize(
    "level, scale, remedy",
    [
        (1500.0, 1.0, r"9900 of 9900 pixels of band blue lie beyond reflectance .*such as 0.0001 for 0-10000"),
        (0.15, 1e-4, r"no pixel of band blue lies above 1\.5\d*e-05 \(float32\).*--scale a larger one"),
        (1500.0, 1e-4, None),
        (0.15, 1.0, None),
        (0.002, 1.0, None),  # deep shadow over water
        (1.4, 1.0, None),  # sunlit cloud
    ],
)
def test_numbers_that_cannot_be_reflectance_are_refused(
    tmp_path: Path, level: float, scale: float, remedy: str | None
) -> None:
    # Noise, since a value that all share is taken for that of missing pixels.
    values = (level * np.random.default_rng(0).normal(1, 0.01, (6, 150, 90))).astype(np.float32)
    values[:, :40] = -9999
    path = write(tmp_path / "scene.tif", values, nodata=-9999)
    with open_chip(path, LAYER, given=Declaration(scale=scale)) as scene:
        if remedy is None:
            check_quantities(scene)
        else:
            with pytest.raises(SceneError, match=rf"^scene: {remedy}"):
                check_quantities(scene)


def test_scene_without_a_valid_pixel_has_no_unit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((6, 20, 20), np.int16), nodata=0)
    with open_chip(path, LAYER) as scene:
        check_quantities(scene)


# --- place ---


def test_centre_is_latitude_and_longitude() -> None:
    degrees = Grid(100, 200, (0.01, 0, 10.0, 0, -0.01, 50.0), "EPSG:4326", length_unit="degree")
    assert centre_of(degrees) == pytest.approx((49.5, 11.0))
    # 500 km east of the false origin is the central meridian, 3 degrees west in zone 30.
    metres = Grid(10, 10, (10, 0, 500_000 - 50, 0, -10, 4_427_757 + 50), "EPSG:32630", length_unit="m")
    assert centre_of(metres) == pytest.approx((40.0, -3.0), abs=1e-4)
    assert centre_of(Grid(10, 10)) is None
    beyond = Grid(100, 200, (0.01, 0, 179.5, 0, -0.01, 50.0), "EPSG:4326", length_unit="degree")
    assert centre_of(beyond) == pytest.approx((49.5, -179.5))


# --- labels ---


def test_labels_become_class_indices(tmp_path: Path) -> None:
    stored = np.array([[-1, 0, 1], [1, 0, -1]], np.int16)
    path = write(tmp_path / "a.tif", stored)
    assert read_target(path, FLOOD).tolist() == [[255, 0, 1], [1, 0, 255]]
    assert read_target(path, LabelCodes((-1, 1), (0,))).tolist() == [[0, 255, 1], [1, 255, 0]]
    assert read_target(path, FLOOD, Window(-1, 1, 2, 3)).tolist() == [[255, 255, 255], [0, 1, 255]]
    assert read_target(path, FLOOD, Window(5, 5, 1, 2)).tolist() == [[255, 255]]


def test_nodata_of_a_label_is_ignored_unless_it_is_a_class(tmp_path: Path) -> None:
    stored = np.array([[0, 1, 77]], np.int16)
    assert read_target(write(tmp_path / "a.tif", stored, nodata=77), FLOOD).tolist() == [[0, 1, 255]]
    stored[0, 2] = 1
    assert read_target(write(tmp_path / "b.tif", stored, nodata=0), FLOOD).tolist() == [[0, 1, 1]]
    floats = np.array([[0.0, 1.0, np.nan]], np.float32)
    assert read_target(write(tmp_path / "c.tif", floats, nodata=np.nan), FLOOD).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("strange", [2, -2, 255])
def test_unknown_value_of_a_label_is_one_line(tmp_path: Path, strange: int) -> None:
    path = write(tmp_path / "a.tif", np.array([[0, 1, strange]], np.int16))
    with pytest.raises(
        DataError, match=rf"a\.tif: holds {strange}: labels are 0, 1, and ignored -1.*--ignore"
    ) as caught:
        read_target(path, FLOOD)
    assert "\n" not in str(caught.value)


def check(label: Path, scene: Scene) -> Census:
    return check_label(label, Path("chip.tif"), scene, FLOOD)


def test_grid_of_a_label_may_differ_in_its_last_digits_only(tmp_path: Path) -> None:
    step = 8.983152841195215e-05
    image = write(
        tmp_path / "a.tif", tagged(6, (50, 60)), transform=Affine(step, 0, -0.7, 0, -step, 38.1), crs="EPSG:4326"
    )

    def label(name: str, shape: tuple[int, int] = (50, 60), **place: Any) -> Path:
        return write(tmp_path / name, np.zeros(shape, np.int16), **place)

    last = 8.983152841195184e-05
    with open_chip(image, LAYER) as scene:
        check(label("b.tif", transform=Affine(last, 0, -0.7, 0, -last, 38.1), crs="EPSG:4326"), scene)
        check(label("c.tif", transform=None, crs=None), scene)
        moved = label("d.tif", transform=Affine(step, 0, -0.7 + 0.2 * step, 0, -step, 38.1), crs="EPSG:4326")
        with pytest.raises(DataError, match=r"d\.tif: .*first pixel lies 0 rows above and 0.2 columns right of"):
            check(moved, scene)
        with pytest.raises(DataError, match=r"e\.tif: 49 x 60 px, but a has 50 x 60"):
            check(label("e.tif", (49, 60), transform=Affine(step, 0, -0.7, 0, -step, 38.1), crs="EPSG:4326"), scene)
        with pytest.raises(DataError, match=r"f\.tif: .*EPSG:32630, and a longitude -0.7 to .*: check the pair"):
            check(label("f.tif", crs="EPSG:32630"), scene)


def test_what_the_mask_band_of_a_label_hides_is_ignored_even_where_it_is_a_class(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.array([[0, 1, 1]], np.int16), nodata=0)
    with rasterio.open(path, "r+") as file:
        file.nodata = None
        file.write_mask(np.array([[True, True, False]]))
    assert read_target(path, FLOOD).tolist() == [[0, 1, 255]]


def test_a_label_that_is_no_mask_is_refused_by_name(tmp_path: Path) -> None:
    water = np.zeros((60, 60), np.uint8)
    water[15:40, 20:45] = 1
    image = write(tmp_path / "image.tif", tagged(6, (60, 60)))
    with open_chip(image, LAYER) as scene:
        assert dict(check(write(tmp_path / "a.tif", water), scene).pixels) == {0: 2975, 1: 625}
        Image.fromarray(water).save(tmp_path / "b.tif", "JPEG")
        with pytest.raises(DataError, match=r"b.tif: JPEG changes values"):
            check(tmp_path / "b.tif", scene)
        turned = np.array(Image.fromarray(255 * water).rotate(7, Image.Resampling.BILINEAR))
        with pytest.raises(DataError, match=r"c.tif: \d+ of its \d+ values, .*nearest neighbour"):
            check(write(tmp_path / "c.tif", turned), scene)
        noise = np.random.default_rng(0).integers(0, 3000, (60, 60)).astype(np.int16)
        with pytest.raises(DataError, match=r"d.tif: is a photograph"):
            check(write(tmp_path / "d.tif", noise), scene)
        with pytest.raises(DataError, match=r"e.tif: 6 bands of "):
            check(write(tmp_path / "e.tif", tagged(6, (60, 60))), scene)


# --- real files ---


def real_folder() -> Path:
    return Path(os.environ["GEOCORE_DATA"]) / "flood-burn"


needs_data = pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA is not set")


@pytest.mark.real
@needs_data
def test_published_flood_chip_and_its_label() -> None:
    folder = real_folder() / "flood"
    label = folder / "Spain_7370579_LabelHand.tif"
    with open_chip(folder / "Spain_7370579_S2Hand.tif", LAYER, given=Declaration(scale=1e-4)) as scene:
        check(label, scene)
        check_quantities(scene)
        patch = scene.read_layers(scene.grid.whole)[IMAGE]
        assert centre_of(scene.grid) == pytest.approx((38.1058, -0.7589), abs=1e-4)
    assert patch.valid.all()
    target = read_target(label, FLOOD)
    assert [int((target == value).sum()) for value in (255, 0, 1)] == [99, 192_010, 70_035]
    # Means x 10,000 stated for its classes: blue, narrow near infrared, both short-wave infrared.
    for value, expected in ((1, (1093, 948, 449, 258)), (0, (1334, 2560, 1839, 1138))):
        means = patch.values[[0, 3, 4, 5]][:, target == value].mean(axis=1) * 10_000
        assert np.abs(means - expected).max() < 1
    with open_chip(folder / "Spain_7370579_S2Hand.tif", LAYER) as scene, pytest.raises(SceneError, match="--scale"):
        check_quantities(scene)


@pytest.mark.real
@needs_data
def test_published_burn_mask_has_a_crs_without_a_code(tmp_path: Path) -> None:
    mask = next((real_folder() / "burn").glob("*.mask.tif"))
    target = read_target(mask, FLOOD)
    assert [int((target == value).sum()) for value in (255, 0, 1)] == [0, 211_640, 50_504]
    with rasterio.open(mask) as file:
        assert file.crs.to_epsg() is None
        own = file.crs.to_wkt()
    values = np.full((6, 512, 512), 0.1, np.float32)
    # An image of the same tile as written by others: with the code, or with the text.
    for crs, accepted in (("EPSG:32610", True), (own, True), ("EPSG:32611", False)):
        path = write(tmp_path / "image.tif", values, crs=crs, transform=Affine(30, 0, 699_960, 0, -30, 5_200_020))
        with open_chip(path, LAYER) as scene:
            assert centre_of(scene.grid) is not None
            if accepted:
                check(mask, scene)
                assert centre_of(scene.grid) == pytest.approx((46.852, -120.276), abs=1e-3)
            else:
                with pytest.raises(DataError, match="its numbers are in EPSG:32611, the scene's CRS, not UTM Zone 10"):
                    check(mask, scene)


@pytest.mark.real
@needs_data
@pytest.mark.parametrize("path", ["38D_378R_2_3_S2L1C.tif", "433D_629L_3_1_S2L1C.tif"])
def test_published_chips_of_thirteen_bands_without_names(path: str) -> None:
    file = real_folder() / "multispectral" / path
    with pytest.raises(SceneError, match="13 bands without names.*--bands 2 3 4 9 12 13"):
        open_chip(file, LAYER)
    with open_chip(file, LAYER, bands=["2", "3", "4", "9", "12", "13"], given=Declaration(scale=1e-4)) as scene:
        check_quantities(scene)
        values = scene.read_layers(scene.grid.whole)[IMAGE].values
    with rasterio.open(file) as raw:
        assert np.allclose(values, raw.read([2, 3, 4, 9, 12, 13]) * 1e-4, atol=1e-6)


@pytest.mark.real
@needs_data
def test_chip_in_reflectance_with_names_and_another_nodata() -> None:
    path = real_folder() / "burn" / "hls_like_6band_from_S2_Bykovsky.tif"
    with open_chip(path, LAYER) as scene:
        assert scene.layers[IMAGE].bands.names == tuple(SIX_BANDS)
        check_quantities(scene)
    with (
        open_chip(path, LAYER, given=Declaration(scale=1e-4)) as scene,
        pytest.raises(SceneError, match="--scale a larger one"),
    ):
        check_quantities(scene)
