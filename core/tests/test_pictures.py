"""What pictures show, by value; Pillow and its `exif_transpose` say what viewers make of a file."""

from __future__ import annotations

import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image, ImageOps

from geocore.errors import SceneError
from geocore.grid import Window
from geocore.rasters import RasterSource, open_raster
from geocore.scenes import Patch

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
GREY = np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
PLACE = {"crs": "EPSG:32652", "transform": Affine(10, 0, 500000, 0, -10, 8000000)}


def whole(path: Path, **options: Any) -> Patch:
    with open_raster(path, **options) as scene:
        return scene.read(scene.grid.window)["image"]


def viewed(path: Path, mode: str | None = None) -> np.ndarray[Any, Any]:
    """What a viewer shows, shape (band, row, col)."""
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        values = np.asarray(upright if mode is None else upright.convert(mode))
    return values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1)


def save(path: Path, values: np.ndarray[Any, Any], **options: Any) -> Path:
    count, height, width = values.shape
    made: dict[str, Any] = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", **(made | options)) as file:
        file.write(values)
    return path


def turned(path: Path, values: np.ndarray[Any, Any], orientation: int, **options: Any) -> Path:
    """A picture stored as it is given, with the orientation in what its format has for it."""
    if path.suffix == ".tif":
        # What Pillow maps into memory it turns wrongly.
        Image.fromarray(values).save(path, tiffinfo={274: orientation}, compression="tiff_lzw", **options)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(values).save(path, exif=exif.tobytes(), **options)
    return path


def tagged(path: Path, tag: int, value: int) -> Path:
    """A TIFF with one more tag, of type SHORT, in a directory written anew at its end."""
    data = path.read_bytes()
    order, big = {b"II": "<", b"MM": ">"}[data[:2]], data[2:4] in (b"+\0", b"\0+")
    counted, link, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    first = struct.unpack_from(order + link, data, 8 if big else 4)[0]
    (count,) = struct.unpack_from(order + counted, data, first)
    start = first + struct.calcsize(order + counted)
    entries = [data[start + i * entry : start + (i + 1) * entry] for i in range(count)]
    entries = [old for old in entries if struct.unpack_from(f"{order}H", old)[0] != tag]
    entries.append(struct.pack(f"{order}HH{link}H{entry - 6 - struct.calcsize(order + link)}x", tag, 3, 1, value))
    entries.sort(key=lambda old: struct.unpack_from(f"{order}H", old)[0])
    table = struct.pack(order + counted, len(entries)) + b"".join(entries)
    rest = data[start + count * entry :][: struct.calcsize(order + link)]
    head = data[: 8 if big else 4] + struct.pack(order + link, len(data) + len(data) % 2)
    path.write_bytes(head + data[len(head) :] + b"\0" * (len(data) % 2) + table + rest)
    return path


def refused(path: Path, words: str, **options: Any) -> None:
    with pytest.raises(SceneError, match=words) as caught:
        RasterSource(path, **options).close()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["grey.jpg", "grey.png", "grey.tif", "rgb.jpg", "rgb.png", "rgb.tif", "rgb.webp"])
def test_each_orientation_is_put_upright_in_any_window(tmp_path: Path, name: str, orientation: int) -> None:
    values = GREY if name.startswith("grey") else RGB
    options: dict[str, Any] = {"rgb.webp": {"lossless": True}, "rgb.jpg": {"subsampling": 0}}.get(name, {})
    path = turned(tmp_path / name, values, orientation, **options)
    expected = viewed(path)
    assert expected.shape[-2:] == ((60, 90) if orientation < 5 else (90, 60))
    with open_raster(path) as scene:
        source = scene.sources["image"]
        assert scene.grid.shape == source.shape == expected.shape[-2:]
        shown = scene.read(scene.grid.window)["image"].values.astype(int)
        # Two builds of libjpeg, Pillow's and GDAL's, round colours apart.
        np.testing.assert_allclose(shown, expected, rtol=0, atol=1 if name == "rgb.jpg" else 0)
        for window in (Window(0, 0, 7, 9), Window(13, 21, 30, 17), Window(50, 41, 10, 19)):
            patch = scene.read(window)["image"]
            np.testing.assert_array_equal(patch.values, shown[(..., *window.slices)])
            assert patch.valid.all()
            assert patch.valid.shape == (1, *window.shape)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_first_row_and_column_lie_where_the_standard_says(tmp_path: Path, orientation: int) -> None:
    # TIFF 6.0, page 36: the visual side of row 0 and of column 0.
    row_0, col_0 = [
        ("top", "left"), ("top", "right"), ("bottom", "right"), ("bottom", "left"),
        ("left", "top"), ("right", "top"), ("right", "bottom"), ("left", "bottom"),
    ][orientation - 1]  # fmt: skip
    stored = np.zeros((8, 10), np.uint8)
    stored[0], stored[:, 0], stored[0, 0] = 100, 50, 200
    shown = whole(turned(tmp_path / "a.png", stored, orientation)).values[0]
    side = {"top": shown[0], "bottom": shown[-1], "left": shown[:, 0], "right": shown[:, -1]}
    assert sorted(side[row_0]) == [100] * 9 + [200]
    assert sorted(side[col_0]) == [50] * 7 + [200]


def test_a_turned_picture_is_decoded_into_parts_of_larger_arrays(tmp_path: Path) -> None:
    path = turned(tmp_path / "a.tif", RGB, 6)
    expected = viewed(path)
    values, valid = np.zeros((3, 100, 80), np.uint8), np.zeros((1, 100, 80), np.bool_)
    with closing(RasterSource(path)) as source:
        source.decode(Window(10, 5, 70, 50), Patch(values[:, 20:90, 20:70], valid[:, 20:90, 20:70]))
    np.testing.assert_array_equal(values[:, 20:90, 20:70], expected[:, 10:80, 5:55])
    assert values.sum() == values[:, 20:90, 20:70].sum()
    assert valid.sum() == 70 * 50


@pytest.mark.parametrize(("orientation", "block"), [(1, (16, 90)), (3, (16, 90)), (5, (90, 16)), (8, (90, 16))])
@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("big", ["YES", "NO"])
def test_blocks_nodata_and_numbers_of_a_turned_tiff(
    tmp_path: Path, orientation: int, block: tuple[int, int], endian: str, big: str
) -> None:
    stored = GREY[np.newaxis].astype("uint16") * 257
    path = save(tmp_path / "a.tif", stored, blockysize=16, nodata=257, endianness=endian, BIGTIFF=big)
    with open_raster(tagged(path, 274, orientation)) as scene:
        source = scene.sources["image"]
        assert source.block == block
        patch = scene.read(scene.grid.window)["image"]
    upright = np.asarray(viewed(turned(tmp_path / "b.png", GREY, orientation)), "uint16") * 257
    np.testing.assert_array_equal(patch.values, upright)
    np.testing.assert_array_equal(patch.valid, upright != 257)
    assert not patch.valid.all()


def test_labels_and_transparency_are_turned_as_pictures_are(tmp_path: Path) -> None:
    label = turned(tmp_path / "label.png", GREY % 4, 8)
    np.testing.assert_array_equal(whole(label, codes=True).values, viewed(label))
    stored = np.dstack([GREY, np.where(GREY > 99, 255, 0).astype(np.uint8)])
    path = turned(tmp_path / "la.png", stored, 7)
    shown, patch = viewed(path), whole(path)
    np.testing.assert_array_equal(patch.values, shown[:1])
    np.testing.assert_array_equal(patch.valid, shown[1:] == 255)


def test_an_orientation_that_contradicts_the_georeference_is_refused(tmp_path: Path) -> None:
    path = tagged(save(tmp_path / "a.tif", GREY[np.newaxis], **PLACE), 274, 3)
    refused(path, r"has a georeference and is to be turned \(orientation 3\).*gdal_translate IN OUT")
    rasterio.shutil.copy(path, tmp_path / "b.tif", driver="GTiff")
    np.testing.assert_array_equal(whole(tmp_path / "b.tif").values[0], GREY)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_orientations_that_do_not_exist_are_none(tmp_path: Path, value: int) -> None:
    path = tagged(save(tmp_path / "a.tif", GREY[np.newaxis]), 274, value)
    np.testing.assert_array_equal(whole(path).values[0], GREY)


def shuffled(path: Path, values: np.ndarray[Any, Any], entries: np.ndarray[Any, Any], **options: Any) -> Path:
    """A palette of another order than that of brightness."""
    order = np.random.default_rng(2).permutation(256)
    picture = Image.fromarray(order[values].astype(np.uint8))
    picture.putpalette(entries[np.argsort(order)].astype(np.uint8).ravel().tolist())
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "gif", "bmp"])
def test_a_palette_is_read_as_its_colours(tmp_path: Path, ending: str) -> None:
    grey = np.repeat(np.arange(256)[:, np.newaxis], 3, 1)
    path = shuffled(tmp_path / f"grey.{ending}", GREY, grey)
    patch = whole(path)
    np.testing.assert_array_equal(patch.values, GREY[np.newaxis])
    assert patch.valid.all() and patch.valid.shape[0] == 1
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], 1)
    path = shuffled(tmp_path / f"rgb.{ending}", GREY, colours)
    np.testing.assert_array_equal(whole(path).values, viewed(path, "RGB"))
    np.testing.assert_array_equal(whole(path).values, colours[GREY].transpose(2, 0, 1))
    np.testing.assert_array_equal(whole(path, bands=["3", "1"]).values, whole(path).values[[2, 0]])
    with open_raster(path) as scene:
        assert scene.layers["image"].bands.names == ("1", "2", "3")
        assert scene.layers["image"].dtype == "uint8"


@pytest.mark.parametrize("ending", ["png", "tif", "gif", "bmp"])
def test_codes_of_a_palette_stay_as_they_are(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    picture = Image.fromarray(GREY % 5)
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200, 7, 7, 7])
    picture.save(path)
    np.testing.assert_array_equal(whole(path, codes=True).values[0], GREY % 5)


@pytest.mark.parametrize("transparent", [3, bytes([255, 0, 255, 0, 100])])
def test_transparent_entries_of_a_palette_are_invalid(tmp_path: Path, transparent: int | bytes) -> None:
    picture = Image.fromarray(GREY % 5)
    picture.putpalette([10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40, 50, 50, 50])
    picture.save(tmp_path / "a.png", transparency=transparent)
    patch = whole(tmp_path / "a.png")
    np.testing.assert_array_equal(patch.values[0], GREY % 5 * 10 + 10)
    unseen = [transparent] if isinstance(transparent, int) else [1, 3]
    np.testing.assert_array_equal(patch.valid[0], ~np.isin(GREY % 5, unseen))
    # The value that a user names is a brightness.
    np.testing.assert_array_equal(
        whole(tmp_path / "a.png", nodata=30).valid[0], ~np.isin(GREY % 5, unseen) & (GREY % 5 != 2)
    )
