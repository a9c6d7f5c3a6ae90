"""All polygons of a label raster: those of GDAL, one raster from another, and each rule by itself."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from shapely.geometry import shape

from geocore.errors import SettingsError
from geocore.vector import polygonize
from geocore.vector.polygonize import polygonize_labels

PIXELS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
UTM = (10.0, 0.0, 500000.0, 0.0, -10.0, 7976930.0)

Labels = npt.NDArray[np.generic]
small = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


def by_gdal(labels: Labels, transform: tuple[float, ...], background: Collection[int]) -> list[tuple[bytes, int]]:
    mask = ~np.isin(labels, list(background))
    if not mask.any():  # GDAL takes an empty mask for none
        return []
    traced = rasterio.features.shapes(labels, mask=mask, connectivity=4, transform=Affine(*transform))
    return comparable(*zip(*((shape(outline), value) for outline, value in traced), strict=True))


def comparable(polygons: Collection[object], values: Collection[float]) -> list[tuple[bytes, int]]:
    """Polygons and values without their order, and without that of rings and points."""
    normal = shapely.to_wkb(shapely.normalize(np.asarray(polygons, object)))
    return sorted(zip(normal, map(int, values), strict=True))


def cut(labels: Labels, heights: list[int]) -> Iterator[Labels]:
    row = 0
    for height in heights:
        yield labels[row : row + height]
        row += height
    yield labels[row:]


def blobs(size: int) -> Labels:
    """Four values in patches with islands, holes within holes, and pixels that touch at corners."""
    rng = np.random.default_rng(size)
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)), 3) + 0.02 * rng.standard_normal((size, size))
    return np.digitize(field, np.quantile(field, [0.3, 0.5, 0.8])).astype(np.uint8)


@given(small, st.sampled_from([(0,), (0, 2), (), (7,)]), st.lists(st.integers(0, 4), max_size=6))
@settings(deadline=None, max_examples=400)
def test_polygons_and_values_are_those_of_gdal(labels: Labels, background: tuple[int, ...], heights: list[int]) -> None:
    polygons, values = polygonize_labels(cut(labels, heights), UTM, background)
    assert comparable(polygons, values) == by_gdal(labels, UTM, background)
    assert shapely.is_valid(polygons).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()


@given(small)
@settings(deadline=None)
def test_burnt_again_they_give_the_raster(labels: Labels) -> None:
    polygons, values = polygonize_labels(labels, PIXELS)
    pairs = list(zip(polygons, values.tolist(), strict=True))
    burnt = np.zeros_like(labels)
    if pairs:
        burnt = rasterio.features.rasterize(pairs, out_shape=labels.shape, dtype=labels.dtype)
    assert np.array_equal(burnt, labels)


@pytest.mark.parametrize("block_px", [1, 1000, 10**9])
def test_neither_strips_nor_blocks_change_anything(monkeypatch: pytest.MonkeyPatch, block_px: int) -> None:
    monkeypatch.setattr(polygonize, "_BLOCK_PX", block_px)
    labels = blobs(230)
    polygons, values = polygonize_labels(labels, UTM)
    assert comparable(polygons, values) == by_gdal(labels, UTM, (0,))
    assert sum(len(polygon.interiors) for polygon in polygons) > 50
    for heights in ([1] * 229, [64, 0, 100]):
        again, same = polygonize_labels(cut(labels, heights), UTM)
        assert shapely.equals_exact(polygons, again).all()
        assert np.array_equal(values, same)


def test_polygons_come_by_their_first_pixels() -> None:
    labels = np.array([[0, 5, 5, 0, 9], [3, 0, 5, 0, 9], [3, 3, 0, 7, 7]], np.uint16)
    polygons, values = polygonize_labels(labels, PIXELS)
    assert values.tolist() == [5, 9, 3, 7]
    assert values.dtype == np.uint16
    assert shapely.area(polygons).tolist() == [3, 2, 3, 2]
    assert [len(shapely.get_coordinates(polygon)) for polygon in polygons] == [7, 5, 7, 5]


def test_holes_belong_to_the_object_around_them() -> None:
    """Rings within rings, of two values, each with a hole of its own beside."""
    labels = np.ones((13, 15), np.uint8)
    labels[1, 1] = labels[11, 13] = 0
    labels[2:11, 3:12] = 2
    labels[3, 4] = 0
    labels[4:9, 5:10] = 1
    labels[5:8, 6:9] = 0
    labels[6, 7] = 2
    polygons, values = polygonize_labels(labels, PIXELS)
    assert values.tolist() == [1, 2, 1, 2]
    assert [len(polygon.interiors) for polygon in polygons] == [3, 2, 1, 0]
    assert shapely.area(polygons).tolist() == [13 * 15 - 81 - 2, 81 - 25 - 1, 25 - 9, 1]


@pytest.mark.parametrize(
    "rows",
    [
        ["111", "101", "110"],  # the hole touches the outside
        ["11111", "10111", "11011", "11101", "11111"],  # three holes touch one another
        ["0111", "1101", "1011", "1110"],  # outside, hole, hole and outside
        ["11122", "10122", "11022", "22101", "22111"],  # two values through one corner
    ],
)
def test_what_touches_at_corners_is_a_hole_of_its_own(rows: list[str]) -> None:
    labels = np.array([[int(value) for value in row] for row in rows], np.uint8)
    polygons, values = polygonize_labels(labels, PIXELS)
    assert shapely.is_valid(polygons).all()
    assert sum(len(polygon.interiors) for polygon in polygons) > 0
    assert comparable(polygons, values) == by_gdal(labels, PIXELS, (0,))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (np.uint32, 4_000_000_000, 4_294_967_295),
        (np.int64, -(2**62), 2**62),
        (np.uint64, 2**63, 2**64 - 1),
        (">i2", -9999, 300),
        (bool, 0, 1),
    ],
)
def test_values_of_any_type(dtype: str, low: int, high: int) -> None:
    labels = np.array([[low, high, high], [low, low, high]], dtype)
    polygons, values = polygonize_labels(labels, PIXELS, background=(low,))
    assert (values.dtype, values.tolist()) == (labels.dtype.newbyteorder("="), [high])
    assert polygons[0].area == 3
    # A background that the type cannot hold is nowhere.
    _, values = polygonize_labels(labels, PIXELS, background=(-10_000_000,))
    assert values.tolist() == [low, high]


def test_columns_beyond_16_bits() -> None:
    labels = np.zeros((2, 70_000), np.uint8)
    labels[:, ::2], labels[1, 4465:69_000] = 1, 1  # columns that differ by 65 536, among others
    polygons, values = polygonize_labels(labels, PIXELS)
    assert comparable(polygons, values) == by_gdal(labels, PIXELS, (0,))


def test_the_transform_may_turn_and_shear() -> None:
    labels, turned = blobs(40), (8.0, 2.0, 1000.0, -1.0, 4.0, 500.0)
    plain, _ = polygonize_labels(labels, PIXELS)
    moved, _ = polygonize_labels(labels, turned)
    points = shapely.get_coordinates(plain) @ np.array([[8.0, -1.0], [2.0, 4.0]]) + (1000.0, 500.0)
    assert np.array_equal(shapely.get_coordinates(moved), points)


def test_a_raster_of_background_has_no_polygons() -> None:
    for labels in (np.zeros((3, 4), np.int16), np.zeros((1, 1), np.int16)):
        polygons, values = polygonize_labels(labels, PIXELS)
        assert (polygons.shape, values.shape, values.dtype) == ((0,), (0,), np.int16)


def test_memory_follows_the_outlines_and_not_the_raster() -> None:
    def strips() -> Iterator[Labels]:
        for number in range(100):
            strip = np.zeros((200, 500), np.uint8)
            strip[:, 10:200] = 1  # one object from top to bottom
            strip[50:60, 300:310] = number % 5
            yield strip

    tracemalloc.start()
    try:
        polygons, _ = polygonize_labels(strips(), PIXELS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(polygons) == 81
    assert polygons[0].bounds == (10, 0, 200, 20_000)
    # The raster is 10 MB; the strips in hand and what is compared of them are 0.7 MB.
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("strips", "text"),
    [
        ([], "without pixels"),
        ([np.zeros((0, 4), int), np.zeros((3, 0), int)], "without pixels"),
        ([np.zeros((2, 3))], r"shape \(2, 3\) and type float64"),
        ([np.zeros(3, int)], r"shape \(3,\)"),
        ([np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8)], "4 columns of uint8 below 3 of uint8"),
        ([np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.int16)], "3 columns of int16 below 3 of uint8"),
    ],
)
def test_rows_that_are_no_raster_are_refused(strips: list[Labels], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        polygonize_labels(strips, PIXELS)


def test_shapely_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    with pytest.raises(SettingsError, match=r'pip install "geocore\[polygons\]"'):
        polygonize_labels(np.ones((1, 1), int), PIXELS)
