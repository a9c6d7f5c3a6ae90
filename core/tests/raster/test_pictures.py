"""What pictures show, by value; Pillow and its `exif_transpose` say what viewers make of a file."""

from __future__ import annotations

import struct
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from PIL import Image, ImageOps

from geocore.datasets.pairing import pair_by_suffix
from geocore.errors import DataError, SceneError
from geocore.raster.align import Warp
from geocore.raster.geotiff import RasterReader, open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.headers import Header, header_of
from geocore.raster.masks import MaskRule
from geocore.raster.pictures import Picture, picture_of
from geocore.raster.products import find_scenes, open_scene, scene_bands
from geocore.raster.scene import Patch
from geocore.raster.write import write_raster

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
GREY = np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
PLACE = {"crs": "EPSG:32652", "transform": Affine(10, 0, 500000, 0, -10, 8000000)}


def whole(path: Path, **options: Any) -> Patch:
    with open_raster(path, **options) as scene:
        return scene.read_layers(scene.grid.whole)["image"]


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
        RasterReader(path, **options).close()
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
        source = scene.readers["image"]
        assert scene.grid.shape == source.shape == expected.shape[-2:]
        shown = scene.read_layers(scene.grid.whole)["image"].values.astype(int)
        # Two builds of libjpeg, Pillow's and GDAL's, round colours apart.
        np.testing.assert_allclose(shown, expected, rtol=0, atol=1 if name == "rgb.jpg" else 0)
        for window in (Window(0, 0, 7, 9), Window(13, 21, 30, 17), Window(50, 41, 10, 19)):
            patch = scene.read_layers(window)["image"]
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
    with closing(RasterReader(path)) as source:
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
        source = scene.readers["image"]
        assert source.block == block
        patch = scene.read_layers(scene.grid.whole)["image"]
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


def test_a_palette_is_resampled_by_its_colours_and_not_by_its_numbers(tmp_path: Path) -> None:
    colours = {number: ((37 * number) % 256, (91 * number) % 256, number, 255) for number in range(256)}
    path = tmp_path / "a.tif"
    made: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": 60, "width": 90, "dtype": "uint8"}
    with rasterio.open(path, "w", photometric="palette", **made, **PLACE) as file:
        file.write(GREY, 1)
        file.write_colormap(1, colours)
    moved = Grid(20, 20, (10.0, 0.0, 500104.0, 0.0, -10.0, 7999896.0), "EPSG:32652", length_unit="m")
    with closing(RasterReader(path, warp=Warp(moved))) as source:
        patch = source.read(Window(0, 0, 20, 20))
    assert patch.valid.all()
    np.testing.assert_array_equal(
        patch.values, np.array([colours[number][:3] for number in GREY[10:30, 10:30].ravel()]).T.reshape(3, 20, 20)
    )


def test_in_a_list_of_bands_a_palette_is_classes_or_all_of_its_colours(tmp_path: Path) -> None:
    made: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": 60, "width": 90, "dtype": "uint8"}
    with rasterio.open(tmp_path / "cover.tif", "w", photometric="palette", **made, **PLACE) as file:
        file.write(GREY % 7, 1)
        file.write_colormap(1, {number: (10 * number, 20 * number, number, 255) for number in range(7)})
    save(tmp_path / "red.tif", GREY[np.newaxis], **PLACE)
    scene, bands = tmp_path / "scene.yaml", "bands: {red: red.tif, cover: {file: cover.tif, interpolation: nearest}}"
    scene.write_text(bands)
    with closing(open_scene(scene, bands=["cover"])) as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, 60, 90)).values[0], GREY % 7)
    with closing(open_scene(scene, mask=MaskRule.parse("cover:3,5"))) as source:
        np.testing.assert_array_equal(source.read(Window(0, 0, 60, 90)).valid[0], ~np.isin(GREY % 7, (3, 5)))
    scene.write_text("bands: {r: {file: cover.tif, band: 1}, g: {file: cover.tif, band: 2}}")
    with closing(open_scene(scene)) as source:
        expected = np.stack([GREY % 7 * 10, GREY % 7 * 20])
        np.testing.assert_array_equal(source.read(Window(0, 0, 60, 90)).values, expected)
    scene.write_text("bands: {red: red.tif, cover: cover.tif}")
    with pytest.raises(SceneError, match="cover.tif: has a palette of colours.*`interpolation: nearest`"):
        open_scene(scene)


def test_what_gdal_tells_of_a_remote_picture(tmp_path: Path) -> None:
    with rasterio.open(turned(tmp_path / "a.jpg", GREY, 6)) as file:
        assert picture_of(file, "https://example.org/a.jpg?key=1", codes=False).orientation == 6
    path = save(tmp_path / "a.tif", GREY[np.newaxis], photometric="MINISWHITE")
    with rasterio.open(path) as file:
        picture = picture_of(file, "s3://bucket/a.tif", codes=False)
        assert picture.white == 255 and picture.notes[0].startswith("a.tif: counts from white")
        with pytest.raises(SceneError, match="s3://bucket/a.tif: counts from white"):
            picture_of(file, "s3://bucket/a.tif", codes=True)


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint16", 65535)])
@pytest.mark.parametrize("alpha", [False, True])
def test_what_counts_from_white_is_brightness(tmp_path: Path, dtype: str, white: int, alpha: bool) -> None:
    bright = (GREY.astype(dtype) * (white // 255))[np.newaxis]
    stored = white - bright
    options: dict[str, Any] = {}
    if alpha:
        stored = np.concatenate([stored, np.where(bright > white // 2, white, 0).astype(dtype)])
        options["alpha"] = "yes"
    path = save(tmp_path / "a.tif", stored, photometric="MINISWHITE", nodata=None if alpha else 0, **options)
    with open_raster(path) as scene:
        patch = scene.read_layers(scene.grid.whole)["image"]
        assert scene.layers["image"].dtype == dtype
        assert scene.readers["image"].notes == (
            f"a.tif: counts from white (MinIsWhite), which is read as brightness, {white} less what is stored",
        )
    np.testing.assert_array_equal(patch.values, bright)
    np.testing.assert_array_equal(patch.valid, bright > white // 2 if alpha else bright != white)
    if dtype == "uint8" and not alpha:
        np.testing.assert_array_equal(patch.values, viewed(path))
    # The value that a user names is a brightness.
    seen = whole(path, nodata=white).valid
    np.testing.assert_array_equal(seen, (bright != white) & (patch.valid if alpha else True))
    refused(path, "counts from white.*gdal_translate -co PHOTOMETRIC=MINISBLACK", codes=True)


def test_measurements_that_count_from_white_stay_as_they_are_stored(tmp_path: Path) -> None:
    heights = GREY[np.newaxis].astype("int16") - 100
    three = np.stack([GREY, GREY, GREY])
    for name, values in (("a.tif", heights), ("b.tif", heights.astype("float32")), ("c.tif", three)):
        path = save(tmp_path / name, values, photometric="MINISWHITE", **PLACE)
        np.testing.assert_array_equal(whole(path).values, values)
        with closing(RasterReader(path)) as source:
            assert source.notes == (
                f"{name}: counts from white (MinIsWhite), which means nothing for its bands: they are stored",
            )


def test_missing_pixels_of_what_counts_from_white_are_resampled_as_missing(tmp_path: Path) -> None:
    stored = GREY[np.newaxis].copy()
    stored[0, :, 40:] = 7
    path = save(
        tmp_path / "a.tif", np.where(stored == 7, 7, 200).astype(np.uint8), photometric="MINISWHITE", nodata=7, **PLACE
    )
    moved = Grid(20, 80, (10.0, 0.0, 500025.0, 0.0, -10.0, 7999895.0), "EPSG:32652", length_unit="m")
    with closing(RasterReader(path, warp=Warp(moved))) as source:
        patch = source.read(Window(0, 0, 20, 80))
    assert patch.valid[0, :, :35].any() and not patch.valid[0, :, 45:].any()
    assert set(np.unique(patch.values[patch.valid])) == {55}


@pytest.mark.parametrize("name", ["black.tif", "white.tif", "fax.tif", "a.png", "a.bmp"])
def test_one_bit_is_black_or_white(tmp_path: Path, name: str) -> None:
    options = {"white.tif": {"tiffinfo": {262: 0}}, "fax.tif": {"compression": "group4"}}.get(name, {})
    Image.fromarray(GREY > 127).save(tmp_path / name, **options)
    np.testing.assert_array_equal(whole(tmp_path / name).values[0], np.where(GREY > 127, 255, 0))
    if name != "white.tif":
        np.testing.assert_array_equal(whole(tmp_path / name, codes=True).values[0], GREY > 127)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_reaches_from_black_to_white(tmp_path: Path, bits: int) -> None:
    stored = GREY % (1 << bits)
    path = save(tmp_path / "a.png", stored[np.newaxis], driver="PNG", nbits=bits)
    np.testing.assert_array_equal(whole(path).values, viewed(path))
    assert whole(path).values.max() == 255
    np.testing.assert_array_equal(whole(path, codes=True).values[0], stored)
    path = save(tmp_path / "b.png", stored[np.newaxis], driver="PNG", nbits=bits, nodata=1)
    np.testing.assert_array_equal(whole(path).valid[0], stored != 1)


def test_numbers_that_are_brightness_already_stay_as_they_are(tmp_path: Path) -> None:
    wide = GREY.astype("uint16") * 201
    Image.fromarray(wide).save(tmp_path / "16.png")
    save(tmp_path / "big.tif", wide[np.newaxis], endianness="BIG")
    save(tmp_path / "float.tif", wide[np.newaxis].astype("float32") / 7)
    Image.fromarray(RGB).save(tmp_path / "rgb.png")
    save(tmp_path / "nbits.tif", wide[np.newaxis] % 4096, nbits=12)
    for name, values in (
        ("16.png", wide[np.newaxis]),
        ("big.tif", wide[np.newaxis]),
        ("float.tif", wide[np.newaxis].astype("float32") / 7),
        ("rgb.png", RGB.transpose(2, 0, 1)),
        ("nbits.tif", wide[np.newaxis] % 4096),
    ):
        with closing(RasterReader(tmp_path / name)) as source:
            patch = source.read(Window(0, 0, 60, 90))
            assert source.picture == Picture()
            assert source.notes == ()
        np.testing.assert_array_equal(patch.values, values)
        assert patch.valid.all() and patch.values.dtype == values.dtype


def test_pages_of_one_size_are_refused_and_previews_are_not(tmp_path: Path) -> None:
    first, others = Image.fromarray(GREY), [Image.fromarray(255 - GREY)] * 2
    first.save(tmp_path / "pages.tif", save_all=True, append_images=others)
    refused(tmp_path / "pages.tif", r"holds 3 pages \(1, 2, 3\).*save the one that counts.*GTIFF_DIR:2:")
    refused(tmp_path / "pages.tif", "holds 3 pages", codes=True)
    with rasterio.open(f"GTIFF_DIR:2:{tmp_path / 'pages.tif'}") as page:  # the remedy
        np.testing.assert_array_equal(page.read(1), 255 - GREY)
    for size in ((20, 15), (90, 15), (20, 60)):
        first.save(tmp_path / "small.tif", save_all=True, append_images=[others[0].resize(size)])
        np.testing.assert_array_equal(whole(tmp_path / "small.tif").values[0], GREY)
    with rasterio.open(save(tmp_path / "masked.tif", GREY[np.newaxis]), "r+") as file:
        file.write_mask(GREY > 9)
    np.testing.assert_array_equal(whole(tmp_path / "masked.tif").valid[0], GREY > 9)
    write_raster(tmp_path / "cog.tif", np.tile(GREY, (20, 20)), grid=Grid(1200, 1800))
    with rasterio.open(tmp_path / "cog.tif") as file:
        assert file.overviews(1)
    np.testing.assert_array_equal(whole(tmp_path / "cog.tif").values[0], np.tile(GREY, (20, 20)))


@pytest.mark.parametrize("kind", ["CMYK", "CIELab", "ICCLab", "ITULab"])
def test_what_has_no_brightness_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    count = 4 if kind == "CMYK" else 3
    path = save(tmp_path / "a.tif", np.stack([GREY] * count), photometric=kind.upper())
    refused(path, f"is {kind}, whose numbers are no brightness: save it as RGB or grey")
    if kind == "CMYK":
        Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.jpg")
        refused(tmp_path / "a.jpg", "is CMYK")


def test_ycbcr_is_read_as_colours_and_not_turned_in_parts(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 60 * 90 * 3).reshape(60, 90, 3).astype(np.uint8)
    Image.fromarray(smooth).convert("YCbCr").save(tmp_path / "a.tif")
    # Two libraries round the colours apart.
    np.testing.assert_allclose(whole(tmp_path / "a.tif").values.astype(int), smooth.transpose(2, 0, 1), rtol=0, atol=3)
    refused(tagged(tmp_path / "a.tif", 274, 3), "is YCbCr and to be turned.*save it as RGB or grey")
    path = save(tmp_path / "b.tif", smooth.transpose(2, 0, 1), photometric="YCBCR", compress="jpeg", quality=100)
    # Colours are stored for two by two pixels.
    upright = smooth[::-1, ::-1].transpose(2, 0, 1)
    np.testing.assert_allclose(whole(tagged(path, 274, 3)).values.astype(int), upright, rtol=0, atol=12)


@pytest.mark.parametrize("name", ["IMG_1.CR2", "IMG_1.nef", "scan.dng"])
def test_camera_raw_files_are_refused_though_gdal_reads_their_preview(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, GREY[np.newaxis])
    refused(path, "camera raw files are not read: export TIFF")
    tagged(path, 50706, 1).rename(tmp_path / "renamed.tif")
    refused(tmp_path / "renamed.tif", "is a camera raw file, of which only a preview could be read")


def test_files_that_gdal_does_not_read_are_called_by_name(tmp_path: Path) -> None:
    for name, words in (
        ("a.heic", "HEIF pictures are not read: export TIFF, PNG or JPEG"),
        ("a.PSD", "layered files are not read"),
        ("a.zip", "archives are not read: unpack it"),
        ("a.xyz", "cannot be opened as a raster"),
    ):
        (tmp_path / name).write_bytes(b"nothing that GDAL knows" * 9)
        refused(tmp_path / name, words)
    (tmp_path / "empty.heic").touch()
    refused(tmp_path / "empty.heic", "it is empty")


def test_a_folder_says_which_of_its_files_are_not_read(tmp_path: Path) -> None:
    for name in ("a.CR2", "b.CR2", "c.heic", ".d.nef"):
        (tmp_path / name).touch()
    why = r"check the path; a.CR2 and 1 more: camera raw files are not read: export TIFF; c.heic: HEIF pictures are not"
    with pytest.raises(DataError, match=why):
        pair_by_suffix(tmp_path)
    with pytest.raises(DataError, match=why):
        find_scenes([tmp_path], extensions=(".tif",))
    for name in ("a_mask.png", "b_mask.png", "b.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=r"a_mask.png \(no partner\).*rename or remove files; a.CR2: camera raw"
    ) as caught:
        pair_by_suffix(tmp_path)
    assert "heic" not in str(caught.value) and "b.CR2" not in str(caught.value)


def test_transparency_that_is_near_infrared_is_told_and_a_band_by_number(tmp_path: Path) -> None:
    four = np.stack([RGB[..., 0], RGB[..., 1], RGB[..., 2], np.where(GREY < 40, 0, GREY)])
    path = save(tmp_path / "naip.tif", four, photometric="RGB", alpha="YES", **PLACE)
    with closing(RasterReader(path)) as source:
        assert source.names == ("1", "2", "3", "4")
        assert source.layer.bands.names == ("1", "2", "3")
        patch = source.read(Window(0, 0, 60, 90))
        np.testing.assert_array_equal(patch.valid[0], GREY >= 40)
        assert source.notes == (
            "naip.tif: band 4 is flagged alpha and taken for transparency, though it holds "
            f"{len(set(np.unique(four[3])) - {0, 255})} values between: ask for it by number if it is near infrared",
        )
    with closing(RasterReader(path, bands=["1", "2", "3", "4"])) as source:
        patch = source.read(Window(0, 0, 60, 90))
        assert source.notes == ()
    np.testing.assert_array_equal(patch.values, four)
    assert patch.valid.all()
    assert scene_bands(path) == ("1", "2", "3")
    assert scene_bands(path, alpha=True) == ("1", "2", "3", "4")
    np.testing.assert_array_equal(whole(path, bands=["4"]).values, four[3:])
    with pytest.raises(SceneError, match="has no band '5': its bands are 1, 2, 3, 4"):
        RasterReader(path, bands=["5"])


def test_true_transparency_that_is_read_as_a_band_is_told(tmp_path: Path) -> None:
    four = np.stack([GREY, GREY, GREY, np.where(GREY < 40, 0, 255).astype(np.uint8)])
    path = save(tmp_path / "a.tif", four, photometric="RGB", alpha="YES", **PLACE)
    with closing(RasterReader(path)) as source:
        assert source.notes == ()
    with closing(RasterReader(path, bands=["4"])) as source:
        assert source.notes == ("a.tif: band 4 is flagged alpha and read as a band, though it holds 0 and 255 alone",)
    moved = Grid(20, 20, (20.0, 0.0, 500005.0, 0.0, -20.0, 7999995.0), "EPSG:32652", length_unit="m")
    refused(path, "band 4 is flagged alpha.*gdal_edit.py -colorinterp_4 undefined", bands=["4"], warp=Warp(moved))
    undefined = save(tmp_path / "b.tif", four, photometric="RGB", alpha="UNSPECIFIED")
    np.testing.assert_array_equal(whole(undefined).values, four)


def test_of_colours_multiplied_by_alpha_only_opaque_pixels_count(tmp_path: Path) -> None:
    alpha = np.where(GREY < 80, 0, np.where(GREY < 160, 128, 255)).astype(np.uint8)
    four = np.stack([GREY, GREY, GREY, alpha])
    for name, kind, valid in (("a.tif", "PREMULTIPLIED", alpha == 255), ("b.tif", "YES", alpha > 0)):
        path = save(tmp_path / name, four, photometric="RGB", alpha=kind)
        np.testing.assert_array_equal(whole(path).valid[0], valid)
        with closing(RasterReader(path)) as source:
            multiplied = f"{name}: its colours are multiplied by alpha (band 4): only pixels that are opaque count"
            assert (multiplied in source.notes) == (kind == "PREMULTIPLIED")
        np.testing.assert_array_equal(whole(path, bands=["1", "4"]).valid, True)


def test_one_transparent_colour_is_missing_where_all_bands_have_it(tmp_path: Path) -> None:
    rgb = RGB.copy()
    rgb[:5], rgb[5:10, :, 0] = (9, 8, 7), 9
    Image.fromarray(rgb).save(tmp_path / "a.png", transparency=(9, 8, 7))
    patch = whole(tmp_path / "a.png")
    np.testing.assert_array_equal(patch.values, rgb.transpose(2, 0, 1))
    np.testing.assert_array_equal(patch.valid, np.broadcast_to(~(rgb == (9, 8, 7)).all(-1), patch.valid.shape))
    assert patch.valid[..., 5:, :].all()


def test_interlaced_grey_and_alpha(tmp_path: Path) -> None:
    alpha = np.where(GREY > 30, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([GREY, alpha])).save(tmp_path / "la.png")
    patch = whole(tmp_path / "la.png")
    np.testing.assert_array_equal(patch.values[0], GREY)
    np.testing.assert_array_equal(patch.valid[0], GREY > 30)
    rasterio.shutil.copy(tmp_path / "la.png", tmp_path / "inter.png", driver="PNG", WORLDFILE="NO", INTERLACING="YES")


@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.png", "a.webp"])
def test_headers_made_to_harm_are_no_worse_than_none(tmp_path: Path, name: str) -> None:
    path = turned(tmp_path / name, RGB[:9, :9], 6)
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    assert header_of(path).orientation == 6
    # The directory of a TIFF and some chunks stand at the end.
    ends = np.array([*range(min(300, len(sound))), *range(max(0, len(sound) - 300), len(sound))])
    found = set()
    for _ in range(150):
        data = bytearray(sound)
        for at in rng.choice(ends, rng.integers(1, 6)):
            data[at] = rng.choice([0, 1, 127, 255, rng.integers(256)])
        path.write_bytes(data[: rng.integers(1, len(data))] if rng.random() < 0.2 else data)
        found.add(header_of(path).orientation)
    assert {1, 6} <= found <= set(range(1, 9))


def test_directories_that_never_end_or_lie_nowhere_take_no_time(tmp_path: Path) -> None:
    loop = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 274, 3, 1, 6, 8)
    far = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**63 + 5)
    many = struct.pack("<2sHIH", b"II", 42, 8, 65535)
    values = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 338, 3, 2**32 - 1, 8, 0)
    filling = b"\xff\xd8" + b"\xff" * 10**6
    chunks = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 2**32 - 1, b"IDAT")
    riff = b"RIFF\xff\xff\xff\xffWEBP" + struct.pack("<4sI", b"EXIF", 2**32 - 1)
    started = time.perf_counter()
    for number, data in enumerate((loop, far, many, values, filling, chunks, riff)):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert header_of(path) == Header(orientation=6 if data is loop else 1)
    assert time.perf_counter() - started < 0.5


def test_a_header_costs_little_beside_opening_the_file(tmp_path: Path) -> None:
    write_raster(tmp_path / "cog.tif", np.zeros((3, 2048, 2048), np.uint16), grid=Grid(2048, 2048))
    with rasterio.open(tmp_path / "cog.tif") as file:
        costs = []
        for _ in range(20):
            started = time.perf_counter()
            picture = picture_of(file, tmp_path / "cog.tif", codes=False)
            costs.append(time.perf_counter() - started)
        assert picture.shows(file) is file
    assert min(costs) < 1e-3
