"""Samples that show the same ground or the same pixels, in one CRS and in several."""

from __future__ import annotations

import time

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore.errors import DataError
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.tiling.overlaps import Footprint, Signature, View, kept_together, refuse_leaks, shared_by_splits, view_of

NOTHING = Signature(np.zeros(0, np.uint64), None, (1, 1))
UTM = "EPSG:32608"


def grid(x: float = 4e5, y: float = 7e6, size: int = 128, pixel: float = 10.0, crs: str = UTM) -> Grid:
    return Grid(size, size, (pixel, 0.0, x, 0.0, -pixel, y), crs)


def view(name: str, place: Grid, window: Window | None = None, counts: np.ndarray | None = None) -> View:
    return View(name, Footprint.of(place, window or place.whole, counts), NOTHING)


def same(first: Grid, second: Grid) -> bool:
    one, other = Footprint.of(first, first.whole), Footprint.of(second, second.whole)
    assert one is not None
    assert other is not None
    assert one.meets(other) == other.meets(one)
    lines = shared_by_splits([view("a", first), view("b", second)], ["train", "test"])
    assert (lines != []) == one.meets(other)
    return one.meets(other)


def test_what_overlaps_shares_ground_and_what_touches_does_not() -> None:
    assert same(grid(), grid())
    assert same(grid(), grid(x=4e5 + 1200))
    # Three pixels and one pixel of 128, and none.
    assert same(grid(), grid(x=4e5 + 1250))
    assert not same(grid(), grid(x=4e5 + 1270))
    assert not same(grid(), grid(x=4e5 + 1280))
    # One inside the other, much smaller and much larger.
    assert same(grid(), grid(x=4e5 + 603, y=7e6 - 507, size=8))
    assert same(grid(pixel=30.0, size=4000), grid(x=4e5 + 70_000, y=7e6 - 50_000, size=64))
    # South-up.
    turned = Grid(128, 128, (10.0, 0.0, 4e5, 0.0, 10.0, 7e6 - 1280), UTM)
    assert same(grid(), turned)
    assert not same(grid(x=4e5 + 1300), turned)


def test_ground_is_known_again_in_another_crs() -> None:
    lon, lat = pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(4e5 + 640, 7e6 - 640)
    for crs, pixel in (("EPSG:4326", 1e-4), ("EPSG:3857", 20.0), ("EPSG:3413", 10.0), ("EPSG:32609", 10.0)):
        x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
        assert same(grid(), grid(x - 4 * pixel, y + 4 * pixel, 8, pixel, crs)), crs
        assert not same(grid(), grid(x + 500 * pixel, y, 100, pixel, crs)), crs
    # Across the antimeridian, once beyond 180 degrees and once from -180 on.
    assert same(grid(179.99, 70.0, 200, 1e-4, "EPSG:4326"), grid(-180.0, 70.0, 50, 1e-4, "EPSG:4326"))
    # The other side of the Earth.
    assert not same(grid(10.0, 50.0, 100, 1e-3, "EPSG:4326"), grid(-170.0, -50.0, 100, 1e-3, "EPSG:4326"))
    # A chip on the far edge of a continental map, whose parallels are bent.
    continent = grid(-30.0, 72.0, 4000, 0.01, "EPSG:4326")
    assert same(continent, grid(500_000, 7_984_000, 100, 10.0, "EPSG:32629"))
    assert not same(continent, grid(500_000, 7_999_000, 100, 10.0, "EPSG:32629"))


@given(st.integers(-140, 140), st.integers(-140, 140), st.integers(20, 128), st.sampled_from([UTM, "EPSG:32609"]))
@settings(deadline=None, max_examples=60)
def test_overlap_is_that_of_rectangles(right: int, down: int, size: int, crs: str) -> None:
    """Against the pixels that two windows of one grid have in common; in another CRS the second is described anew."""
    first = grid()
    second = Grid(size, size, (10.0, 0.0, 4e5 + 10 * right, 0.0, -10.0, 7e6 - 10 * down), UTM)
    common = first.whole.intersection(Window(down, right, size, size))
    shared = 0 if common is None else min(common.shape)
    if crs != UTM:  # axes along those of UTM, from a CRS of another name
        second = Grid(size, size, second.transform, pyproj.CRS(UTM).to_wkt().replace("zone 8N", "zone eight"))
    if shared == 0 or shared >= 3:
        assert same(first, second) == (shared >= 3)


def test_pixels_that_do_not_count_show_no_ground() -> None:
    """Two swaths whose grids overlap in what both of them lack."""
    diagonal = np.tri(128, dtype=bool)
    left, right = view("left", grid(), counts=diagonal), view("right", grid(), counts=~diagonal)
    wide = view("wide", grid(), counts=np.ones((128, 128), bool))
    assert shared_by_splits([left, right], ["train", "test"]) == []
    assert len(shared_by_splits([left, wide], ["train", "test"])) == 1
    assert Footprint.of(grid(), Window(0, 0, 9, 9), np.zeros((9, 9), bool)) is None
    assert Footprint.of(Grid(9, 9), Window(0, 0, 9, 9)) is None


def test_blocks_of_a_scene_are_apart_with_and_without_a_strip_between() -> None:
    place = grid(size=1000)
    for step, size in ((100, 100), (100, 90)):
        blocks = [
            view(f"{row}-{col}", place, Window(row, col, size, size))
            for row in range(0, 1000, step)
            for col in range(0, 1000, step)
        ]
        names = [block.name for block in blocks]
        assert kept_together(blocks, names) == (names, [])


def test_groups_of_one_ground_become_one() -> None:
    views = [view(f"date{i}", grid()) for i in range(4)] + [view("far", grid(x=5e5)), view("next", grid(x=4e5 + 1000))]
    groups, notes = kept_together(views, [each.name for each in views])
    assert groups == ["date0 and 4 more"] * 4 + ["far", "date0 and 4 more"]
    assert notes == ["date0, date1, date2, date3, next show the same ground: they stay in one split"]
    # What the samples were grouped by stays together with what they share.
    groups, _ = kept_together(views, ["a", "a", "b", "c", "d", "e"])
    assert groups == ["a and 3 more"] * 4 + ["d", "a and 3 more"]
    assert kept_together(views[3:5], ["x", "y"]) == (["x", "y"], [])


def test_splits_are_told_what_they_share() -> None:
    views = [view(f"date{i}", grid()) for i in range(3)] + [view("far", grid(x=5e5))]
    lines = shared_by_splits(views, ["train", "train", "test", "val"])
    assert lines == [
        "2 pairs of samples of train and test show the same ground: date0 and date2, date1 and date2",
    ]
    refuse_leaks([], remedy="")
    with pytest.raises(DataError, match=r"2 pairs of .* say nothing; move one, or accept it with --split.allow-leaks"):
        refuse_leaks(lines, remedy="move one")


def test_copies_without_georeference_are_found_by_their_pixels() -> None:
    rng = np.random.default_rng(0)

    def seen(name: str, values: np.ndarray, place: Grid | None = None) -> View:
        layer = Layer("image", Bands.named("1", "2"), values.dtype.name)
        place = place or Grid(*values.shape[1:])
        return view_of(name, Scene(name, place, {"image": ArrayReader(layer, values)}), "image", samples=4)

    image = rng.integers(0, 4000, (2, 200, 200), np.uint16)
    views = [
        seen("scene", image),
        seen("crop", image[:, 50:150, 30:140]),
        seen("other", rng.integers(0, 4000, (2, 200, 200), np.uint16)),
        seen("placed", image[:, 100:], Grid(100, 200, (10.0, 0.0, 4e5, 0.0, -10.0, 7e6), UTM)),
    ]
    groups, notes = kept_together(views, ["1", "2", "3", "4"])
    assert groups == ["1 and 2 more", "1 and 2 more", "3", "1 and 2 more"]
    assert notes == ["1, 2, 4 show the same pixels: they stay in one split"]
    (line,) = shared_by_splits(views[:3], ["val", "train", "train"])
    assert line == "1 pair of samples of train and val show the same pixels: crop and scene"


def test_many_dates_of_many_blocks_are_compared_in_seconds() -> None:
    place = grid(size=1280)
    views = [
        view(f"{date}-{row}-{col}", place, Window(row, col, 120, 120))
        for date in range(20)
        for row in range(0, 1280, 128)
        for col in range(0, 1280, 128)
    ]
    start = time.perf_counter()
    groups, notes = kept_together(views, [each.name for each in views])
    assert time.perf_counter() - start < 20
    assert len(set(groups)) == 100
    assert notes == [
        "2000 groups show the same ground as others, such as 0-0-0, 1-0-0, 10-0-0 and 17 more: they are 100 groups "
        "now, each in one split"
    ]
