"""The contact sheet: samples and their labels at known places, in known colours."""

from __future__ import annotations

import numpy as np
import pytest

from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.report.preview import (
    CLASS_COLOURS,
    OUTSIDE,
    UNLABELLED,
    ClassKey,
    Marks,
    Picture,
    Preview,
    class_keys,
    colours_shown,
    draw_previews,
    read_reduced,
    samples_a_row,
    thinned,
)

KEYS = {"mask": class_keys({0: "land", 1: "water"}, background=0)}
WATER = CLASS_COLOURS[0]


def preview(title: str = "a", size: int = 100) -> Preview:
    """A grey ramp with a square of water, a strip without data and a strip without a label."""
    values = np.arange(size)[np.newaxis, np.newaxis].repeat(size, 1).astype(np.float32)
    valid = np.ones((size, size), bool)
    valid[:10] = False
    classes = np.zeros((size, size), np.uint8)
    classes[40:60, 30:70] = 1
    classes[90:] = UNLABELLED
    return Preview(title, values, valid, {"mask": Marks(classes)})


def squares(sheet: Picture, side: int) -> tuple[Picture, Picture]:
    """The two pictures of the only sample of a sheet, found by the strip without data that begins both."""
    rows, cols = np.nonzero((sheet == OUTSIDE).all(axis=2))
    inside = rows < rows.min() + side
    top, left = rows.min(), cols[inside].min()
    right = cols[inside].max() + 1
    return sheet[top : top + side, left : left + side], sheet[top : top + side, right - side : right]


def test_a_label_is_drawn_where_it_is() -> None:
    sheet = draw_previews([[preview()]], KEYS)
    # 100 px become 400, the whole multiple that fits.
    image, marked = squares(sheet, 400)
    assert (image[:40] == OUTSIDE).all() and not (image[40:] == OUTSIDE).all(axis=2).any()
    assert (np.diff(image[200, ::4, 0].astype(int)) >= 0).all() and image[200, 0, 0] == 0 and image[200, -1, 0] == 255
    rows, cols = np.nonzero((marked == WATER).all(axis=2))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (160, 239, 120, 279)
    # Outlines of two pixels about a tint through which the image is seen.
    assert (marked[160:240, 120:122] == WATER).all() and (marked[160:162, 120:280] == WATER).all()
    assert (marked[162, 123:277] != WATER).any(axis=1).all()
    expected = np.rint(0.65 * image[200, 150:250] + 0.35 * np.array(WATER))
    assert (marked[200, 150:250] == expected).all()
    # Land is as it was, and what is not labelled has stripes.
    assert (marked[40:158] == image[40:158]).all() and (marked[:40] == image[:40]).all()
    striped = (marked[360:] != image[360:]).any(axis=2).mean()
    assert 0.15 < striped < 0.35


def test_objects_of_one_class_have_outlines_of_their_own() -> None:
    given = preview()
    regions = np.zeros((100, 100), np.uint32)
    regions[40:60, 30:70] = 1
    regions[40:60, 50:70] = 2
    apart = Preview("a", given.values, given.valid, {"mask": Marks(given.marks["mask"].classes, regions)})
    marked = [squares(draw_previews([[each]], KEYS), 400)[1] for each in (given, apart)]
    assert not (marked[0][200, 198:202] == WATER).all(axis=1).any()
    assert (marked[1][200, 198:202] == WATER).all()


def test_classes_that_cover_an_image_in_colour_are_stronger_and_have_their_own_side_of_a_border() -> None:
    values = np.random.default_rng(0).integers(0, 100, (3, 40, 60))
    classes = np.ones((40, 60), np.uint8)
    classes[:, 30:] = 2
    keys = {"crops": {1: ClassKey("wheat", (10, 200, 30)), 2: ClassKey("", (200, 10, 30))}}
    sheet = draw_previews([[Preview("a", values, np.ones((40, 60), bool), {"crops": Marks(classes)})]], keys)
    first = np.nonzero((sheet == (10, 200, 30)).all(axis=2).sum(axis=0) > 200)[0]
    second = np.nonzero((sheet == (200, 10, 30)).all(axis=2).sum(axis=0) > 200)[0]
    assert len(first) == len(second) == 1 and second[0] == first[0] + 1


def test_what_is_not_there_is_not_in_the_legend() -> None:
    whole = preview()
    plain = Preview("a", whole.values, np.ones((100, 100), bool), {"mask": Marks(np.zeros((100, 100), np.uint8))})
    dark = [(draw_previews([[each]], KEYS)[450:] == OUTSIDE).all(axis=2).any() for each in (whole, plain)]
    assert dark == [True, False]


def test_a_sheet_has_a_row_for_each_split_and_is_no_wider_than_a_screen() -> None:
    row = [preview(str(number), size) for number, size in enumerate((30, 700, 100))]
    sheet = draw_previews([row, [], row, row[:1]], KEYS, heading="all of them")
    assert sheet.dtype == np.uint8 and 1500 < sheet.shape[1] <= 1900
    # Three rows of pictures of at most 300 px.
    assert 700 < len(sheet) < 1200
    assert draw_previews([row[:1]], KEYS).shape[1] < 1100


def test_long_titles_and_odd_names_are_drawn() -> None:
    long = preview("x" * 400 + "$y_{1}$")
    assert draw_previews([[long]], KEYS).shape == draw_previews([[preview()]], KEYS).shape


@pytest.mark.parametrize("shape", [(700, 900), (1000, 10), (37, 53), (481, 480)])
def test_reduced_images_are_means_of_blocks_and_labels_their_middles(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(1, 60000, (3, *shape)).astype(np.uint16)
    # On the left, one or two of three rows have no value.
    values[:, 1::3, : shape[1] // 2] = 0
    values[:, 2::3, : shape[1] // 4] = 0
    layer = Layer("image", Bands.named("a", "b", "c", nodata=0), "uint16")
    scene = Scene("s", Grid(*shape), {"image": ArrayReader(layer, values)})
    means, valid = read_reduced(scene, "image", [2, 0], side_px=48)
    label = thinned(np.arange(shape[0] * shape[1]).reshape(shape), 48)
    assert means.shape[1:] == valid.shape == label.shape and max(valid.shape) == min(48, max(shape))
    # Block by block, in the plainest way.
    rows, cols = ([n * i // count for i in range(count + 1)] for n, count in zip(shape, valid.shape, strict=True))
    for row in range(valid.shape[0]):
        for col in range(valid.shape[1]):
            place = (slice(rows[row], rows[row + 1]), slice(cols[col], cols[col + 1]))
            known = (values[2][place] != 0) & (values[0][place] != 0)
            assert valid[row, col] == (known.mean() >= 0.5)
            for band, number in ((0, 2), (1, 0)):
                expected = values[number][place][known].mean() if known.any() else 0
                assert means[band, row, col] == pytest.approx(expected, rel=1e-4)
            middle = ((rows[row] + rows[row + 1]) // 2, (cols[col] + cols[col + 1]) // 2)
            assert label[row, col] == middle[0] * shape[1] + middle[1]


def test_a_window_and_a_period_are_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(2 * 1 * 3000 * 2000, dtype=np.float32).reshape(2, 1, 3000, 2000)
    layer = Layer("image", Bands.named("a"), "float32", times=("1", "2"))
    source = ArrayReader(layer, values)
    read, pixels = source.read, []
    monkeypatch.setattr(source, "read", lambda window: (pixels.append(window.height * window.width), read(window))[1])
    scene = Scene("s", Grid(3000, 2000), {"image": source})
    means, valid = read_reduced(scene, "image", [0], period=1, window=Window(1000, 500, 8, 16))
    assert means.tolist() == values[1, :, 1000:1008, 500:516].tolist() and valid.all()
    assert sum(pixels) == 8 * 16
    pixels.clear()
    read_reduced(scene, "image", [0])
    assert sum(pixels) == 3000 * 2000 and max(pixels) <= 1 << 22


def test_words() -> None:
    assert colours_shown(["Red", "green", "blue"]) == "true colour"
    assert colours_shown(["B8", "B4", "B3"]) == "B8, B4, B3 as red, green, blue"
    assert colours_shown(["1", "1", "1"]) == colours_shown(["1"]) == "band 1 in grey"
    assert [samples_a_row(labels) for labels in (1, 2, 3)] == [3, 2, 2]
    keys = class_keys({0: "none", **{value: str(value) for value in range(1, 9)}}, background=0)
    assert keys[0].colour is None and keys[1].colour == keys[8].colour == CLASS_COLOURS[0]
