"""Tallies: pixels and ground of each class, strip by strip, and how they are said."""

from __future__ import annotations

import numpy as np
import pytest

from geocore.inference.outputs import Tally, added, by_area, km2, share_km2
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import PixelAreas

UTM = Grid(700, 1300, (10.0, 0.0, 300000.0, 0.0, -10.0, 7900000.0), "EPSG:32633", length_unit="m")
DEGREES = Grid(700, 1300, (0.05, 0.0, -30.0, 0.0, -0.05, 80.0), "EPSG:4326", length_unit="degree")
MERCATOR = Grid(700, 1300, (500.0, 0.0, 0.0, 0.0, -500.0, 1.1e7), "EPSG:3857", length_unit="m")


@pytest.mark.parametrize(("grid", "tolerance"), [(UTM, 1e-5), (DEGREES, 1e-9), (MERCATOR, 1e-9)])
def test_ground_of_each_class(grid: Grid, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(np.array([0, 1, 7, 255], np.uint8), grid.shape, p=[0.6, 0.2, 0.1, 0.1])
    classes[:, :300] = 7  # what lies in one corner has that corner's area
    tally = Tally(grid)
    for row in range(0, grid.height, 256):
        tally.add(row, classes[row : row + 256])
    areas = PixelAreas(grid).within(Window(0, 0, *grid.shape))
    assert tally.areas_m2 is not None
    for value in (0, 1, 7, 255):
        assert tally.pixels[value] == (classes == value).sum()
        assert tally.areas_m2[value] == pytest.approx(areas[classes == value].sum(), rel=tolerance)
    assert tally.pixels.sum() == classes.size and not tally.areas_m2[2:7].any()


def test_a_photograph_has_pixels_alone() -> None:
    tally = Tally(Grid(3, 4))
    tally.add(0, np.ones((3, 4), np.uint8))
    assert tally.pixels[1] == 12 and tally.areas_m2 is None


@pytest.mark.parametrize(
    ("m2", "said"),
    [
        (0, "0 km2"),
        (34_512, "0.0345 km2"),
        (1e6, "1 km2"),
        (12_345_678, "12.3 km2"),
        (1.2345e9, "1,234 km2"),
    ],
)
def test_areas_in_words(m2: float, said: str) -> None:
    assert km2(m2) == said
    assert share_km2(m2, 2e9) == f"{said[:-4]} of 2,000 km2"


def test_the_largest_comes_first() -> None:
    areas = {"wheat": 1e6, "maize": 12e6, "rye": 0.0, "oats": 2e6, "peas": 3e5}
    assert by_area(areas) == "maize 12 km2, oats 2 km2, wheat 1 km2, peas 0.3 km2"
    assert by_area(areas, most=2) == "maize 12 km2, oats 2 km2, others 1.3 km2"
    assert by_area({"rye": 0.0}) == ""


def test_what_one_scene_does_not_know_nobody_does() -> None:
    known = {"a": {"m2": {"x": 1.0, "y": 2.0}}, "b": {"m2": {"x": 3.0}}}
    assert added(known, "m2") == {"x": 4.0, "y": 2.0} and added({}, "m2") == {}
    assert added(known | {"c": {"m2": None}}, "m2") is None
