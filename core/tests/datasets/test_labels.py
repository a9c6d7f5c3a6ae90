"""Masks of every kind: opened as they are stored, counted by strips, refused where they cannot be masks."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from geocore.datasets import labels
from geocore.datasets.labels import check_mask, check_varied, missing_note, open_label, take_census
from geocore.errors import DataError
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene

RESAMPLINGS = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC]


def scene(values: np.ndarray, nodata: float | None = None) -> Scene:
    layer = Layer("label", Bands((Band("1", nodata=nodata),)), values.dtype.name)
    return Scene("mask", Grid(*values.shape), {"label": ArrayReader(layer, values)})


def layers(seed: int = 0, shape: tuple[int, int] = (96, 128), ids: tuple[int, ...] = (80, 160, 240)) -> np.ndarray:
    """Layers with wavy borders, from top to bottom."""
    rng, cols = np.random.default_rng(seed), np.arange(shape[1])
    values = np.full(shape, ids[0], np.uint8)
    for number, value in enumerate(ids[1:], start=1):
        middle = number * shape[0] / len(ids) + rng.uniform(-3, 3)
        border = middle + 4 * np.sin(cols / rng.uniform(9, 20) + rng.uniform(0, 6))
        values[np.arange(shape[0])[:, None] >= border] = value
    return values


def write(path: Path, values: np.ndarray, *, driver: str = "GTiff", **options: Any) -> Path:
    values = values if values.ndim == 3 else values[np.newaxis]
    profile = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype.name}
    with rasterio.open(path, "w", driver=driver, **profile, **options) as file:
        file.write(values)
    return path


def read(path: Path, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    with open_label(path, **options) as label:
        patch = label.read_layers(label.grid.whole)["label"]
        assert patch.values.dtype == label.layers["label"].dtype
        return patch.values[0], np.broadcast_to(patch.valid, patch.values.shape)[0]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.jpg", {"driver": "JPEG"}, "JPEG changes"),
        ("a.tif", {"compress": "JPEG"}, "JPEG changes"),
        ("a.png", {"compress": "JPEG"}, "JPEG changes"),  # a TIFF by another name
        ("a.jp2", {"driver": "JP2OpenJPEG"}, "lossy JPEG2000 changes"),
        ("b.tif", {"compress": "LERC", "max_z_error": 2}, "LERC with an error of up to 2 changes"),
    ],
)
def test_formats_that_change_values_are_refused(tmp_path: Path, name: str, options: dict[str, Any], said: str) -> None:
    path = write(tmp_path / name, layers(), **options)
    with pytest.raises(DataError, match=f"{name}: {said} values, .*save it as PNG or TIFF") as refused:
        open_label(path)
    assert "\n" not in str(refused.value)


def test_colours_in_a_lossy_tiff_and_a_mosaic_of_jpegs_are_refused_too(tmp_path: Path) -> None:
    colours = np.stack([layers()] * 3)
    for name, options in (("y.tif", {"compress": "JPEG", "photometric": "YCBCR"}), ("w.tif", {"compress": "WEBP"})):
        with pytest.raises(DataError, match="JPEG changes|lossy WEBP changes"):
            open_label(write(tmp_path / name, colours, interleave="pixel", **options))
    write(tmp_path / "a.jpg", layers(), driver="JPEG")
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="128" rasterYSize="96"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.jpg</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(DataError, match=r"a.vrt: JPEG \(of a.jpg\) changes values"):
        open_label(tmp_path / "a.vrt")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {"driver": "PNG"}),
        ("a.tif", {"compress": "DEFLATE"}),
        ("a.jp2", {"driver": "JP2OpenJPEG", "reversible": "YES", "quality": "100"}),
        ("b.tif", {"compress": "LERC"}),
    ],
)
def test_formats_that_keep_values_are_read_as_stored(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    values, valid = read(write(tmp_path / name, layers(), **options))
    assert np.array_equal(values, layers()) and valid.all()


def test_a_palette_keeps_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(layers(ids=(1, 2, 3)), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png")[0], layers(ids=(1, 2, 3)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_numbers_in_floats_are_integers_and_fractions_are_refused(tmp_path: Path, dtype: str) -> None:
    values = layers().astype(dtype)
    values[:5], values[5:9] = np.nan, -1
    found, valid = read(write(tmp_path / "a.tif", values, nodata=-1))
    assert found.dtype == ("int32" if dtype == "float32" else "int64")
    assert not valid[:9].any() and valid[9:].all() and np.array_equal(found[9:], layers()[9:])
    values[50, 50] = 80.25
    with pytest.raises(DataError, match=r"a.tif: holds 80.25, and 1 such pixels"):
        read(write(tmp_path / "a.tif", values))
    values[50, 50] = 2.0**60
    with pytest.raises(DataError, match=r"holds 1.15292e\+18"):
        read(write(tmp_path / "a.tif", values))


def test_what_the_file_calls_nodata_is_invalid_but_for_classes(tmp_path: Path) -> None:
    values = layers(ids=(0, 1, 255))
    path = write(tmp_path / "a.tif", values, nodata=255)
    assert np.array_equal(read(path)[1], values != 255)
    assert read(path, classes=(0, 255))[1].all()
    path = write(tmp_path / "b.tif", values, nodata=0)
    assert np.array_equal(read(path)[1], values != 0) and read(path, classes=(0, 1))[1].all()
    write(tmp_path / "c.tif", values)
    with rasterio.open(tmp_path / "c.tif", "r+") as file:
        file.write_mask(values != 1)
    # A mask band is no value, and so never a class.
    assert np.array_equal(read(tmp_path / "c.tif", classes=(0, 1, 255))[1], values != 1)
    grey = Image.fromarray(np.dstack([values, np.where(values == 1, 0, 255).astype(np.uint8)]), "LA")
    grey.save(tmp_path / "d.png")
    assert np.array_equal(read(tmp_path / "d.png")[1], values != 1)


def test_several_bands_are_no_mask(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.stack([layers()] * 3))
    with pytest.raises(DataError, match=r"a.tif: 3 bands of uint8: a mask has one band of whole numbers"):
        open_label(path)


def naive(values: np.ndarray, valid: np.ndarray) -> tuple[dict[int, int], set[int], int]:
    framed = np.pad(values, 1, mode="edge")
    rows, cols = values.shape
    same = np.ones(values.shape, bool)
    for row in range(rows):
        for col in range(cols):
            same[row, col] = (framed[row : row + 3, col : col + 3] == values[row, col]).all()
    found, counts = np.unique(values[valid], return_counts=True)
    same &= valid
    return dict(zip(found.tolist(), counts.tolist(), strict=True)), set(values[same].tolist()), int(same.sum())


@given(
    arrays.arrays(
        st.sampled_from(["uint8", "int16", "uint32", "int64", "uint64"]),
        st.tuples(st.integers(1, 12), st.integers(1, 9)),
        elements=st.sampled_from([0, 1, 7, 100]),
    ),
    st.integers(1, 30),
)
@settings(deadline=None, max_examples=60)
def test_values_are_counted_whatever_the_strips(values: np.ndarray, strip_px: int) -> None:
    values = np.where(values == 100, np.iinfo(values.dtype).max, values)
    before, labels._STRIP_PX = labels._STRIP_PX, strip_px
    try:
        census = take_census(scene(values, nodata=7))
    finally:
        labels._STRIP_PX = before
    pixels, uniform, uniform_px = naive(values, values != 7)
    assert (dict(census.pixels), set(census.uniform), census.uniform_px) == (pixels, uniform, uniform_px)
    assert list(census.pixels) == sorted(pixels)
    assert (census.missing_px, census.missing) == ((values == 7).sum(), (7,) if (values == 7).any() else ())


def test_a_window_is_counted_alone() -> None:
    census = take_census(scene(layers()), Window(0, 0, 10, 20))
    assert dict(census.pixels) == {80: 200} and census.uniform_px == 200


def test_extremes_of_every_type_are_counted() -> None:
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        limits = np.iinfo(name)
        values = np.array([[limits.min, limits.min + 3, limits.max, limits.max - 1, limits.max]], name)
        expected = {limits.min: 1, limits.min + 3: 1, limits.max - 1: 1, limits.max: 2}
        assert dict(take_census(scene(values)).pixels) == expected


def jpeg(values: np.ndarray, quality: int) -> np.ndarray:
    content = io.BytesIO()
    Image.fromarray(values).save(content, "JPEG", quality=quality)
    return np.array(Image.open(content))


def check(values: np.ndarray, **options: Any) -> Any:
    photo = scene(np.random.default_rng(0).integers(0, 60000, values.shape).astype(np.uint16))
    return check_mask(Path("m.png"), scene(values), "photo.png", photo, **options)


@pytest.mark.parametrize("how", ["turned", "smaller", "larger", "jpeg 75", "jpeg 95"])
@pytest.mark.parametrize("ids", [(80, 160, 240), (10, 20, 30), (0, 255), (1, 2, 255)])
def test_values_that_nobody_drew_are_found(how: str, ids: tuple[int, ...]) -> None:
    drawn = layers(ids=ids)
    for resampling in RESAMPLINGS:
        image = Image.fromarray(drawn)
        match how:
            case "turned":
                values = np.array(image.rotate(3, resampling, fillcolor=ids[0]))
            case "smaller":
                values = np.array(image.resize((90, 70), resampling))
            case "larger":
                values = np.array(image.resize((300, 210), resampling))
            case _:
                values = jpeg(drawn, int(how[5:]))
        thin = len(set(np.unique(values)) - set(ids))
        assert thin >= 4
        with pytest.raises(DataError, match=r"m.png: \d+ of its \d+ values, .*nearest neighbour") as refused:
            check(values)
        assert "\n" not in str(refused.value)
        # Values that are classes were drawn, and ids of objects may be small.
        check(values, classes=range(256))
        check(values, instances=True)
        check(np.array(image.rotate(3, Image.Resampling.NEAREST)))


def test_thin_layers_are_layers() -> None:
    """A pack of crusts of one and two pixels between two thick layers, some pinched out, their ids in order."""
    cols = np.arange(128)
    top = np.rint(40 + 2 * np.sin(cols / 17)).astype(int)
    drawn = np.where(np.arange(96)[:, None] < top, 1, 99).astype(np.uint8)
    for number in range(6):
        until = 128 - 10 * (number % 3)
        for _ in range(1 + number % 2):
            drawn[top[:until], cols[:until]] = 10 + number
            top += 1
    assert check(drawn).thin == [10, 11, 12, 13, 14, 15]


def test_small_objects_are_objects() -> None:
    ids = np.zeros((96, 128), np.uint16)
    for number in range(300):
        row, col = 1 + 3 * (number // 40), 1 + 3 * (number % 40)
        ids[row : row + 2, col : col + 2] = number + 1
    census = check(ids)
    assert len(census.thin) == 300


def test_rare_specks_of_declared_classes_are_classes() -> None:
    rng = np.random.default_rng(1)
    values = np.where(rng.uniform(size=(96, 128)) < 0.01, rng.integers(2, 9, (96, 128)), 1).astype(np.uint8)
    check(values, classes=range(1, 10))


def test_a_photograph_is_no_mask_and_names_what_it_was_swapped_with() -> None:
    noise = np.random.default_rng(0).integers(0, 200, (96, 128)).astype(np.uint8)
    with pytest.raises(DataError, match=r"m.png: is a photograph, or .* 200 values.*give the mask of photo.png"):
        check(noise)
    for instances in (False, True):
        with pytest.raises(DataError, match=r"m.png: is a photograph \(200 values\), and a.png holds few values"):
            check_mask(Path("m.png"), scene(noise), "a.png", scene(layers()), instances=instances)
        with pytest.raises(DataError, match=r"m.png: holds the same pixels as a.png"):
            check_mask(Path("m.png"), scene(layers()), "a.png", scene(layers()), instances=instances)
    # Objects may be many and small.
    check(noise, instances=True)
    flat = scene(np.zeros((9, 9), np.uint8))
    check_mask(Path("m.png"), flat, "a.png", flat)


def test_a_data_set_in_which_nothing_can_be_told_apart_is_refused() -> None:
    assert check_varied("DATA", {"a": {1, 2}, "b": {1}, "c": set()}, names=True) == (
        "2 of 3 masks hold one value only: b, c",
    )
    assert check_varied("DATA", {"a": {1, 2}}, names=True) == ()
    for values in ({"a": {1}, "b": {2}}, {"a": {1}, "b": set()}):
        with pytest.raises(DataError, match=r"DATA: all 2 masks hold one value: a \(1\), b \((2|none)\)"):
            check_varied("DATA", values, names=True)
    assert len(check_varied("DATA", {"a": {0}, "b": {1}}, names=False)) == 1
    with pytest.raises(DataError, match="nothing to tell apart"):
        check_varied("DATA", {"a": {0}, "b": {0}}, names=False)


def test_pixels_that_masks_call_nodata_are_counted() -> None:
    values = np.array([[1, 1, 255], [2, 255, 255]], np.uint8)
    censuses = {"a.tif": take_census(scene(values, 255)), "b.tif": take_census(scene(values))}
    assert missing_note(censuses) == ("1 of 2 masks call 3 pixels nodata (255): these count for nothing: a.tif",)
    assert missing_note({"b.tif": censuses["b.tif"]}) == ()


REAL = [
    "snowpack/pairs/*_mask.png",
    "thaw-slump/masks/*.tif",
    "flood-burn/*/*LabelHand.tif",
    "flood-burn/*/*mask.tif",
    "flood-burn/*/*LULC.tif",
]


@pytest.mark.real
@pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA names no folder of real data")
@pytest.mark.parametrize("pattern", REAL)
def test_no_real_mask_is_refused(pattern: str) -> None:
    paths = sorted(Path(os.environ["GEOCORE_DATA"]).glob(pattern))
    assert paths
    for path in paths:
        with open_label(path) as label:
            values = label.read_layers(label.grid.whole)["label"].values[0]
            census = check(values)
            assert sum(census.pixels.values()) == values.size
