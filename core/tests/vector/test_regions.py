"""Regions of a class map do not know of the strips in which a scene was read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import shapely
from scipy import ndimage

from geocore.raster.grid import Grid
from geocore.vector.polygonize import Region, trace_regions


def blobs(seed: int) -> dict[str, np.ndarray]:
    """Three classes in patches with islands, and a gap."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((90, 150)), 4)
    chart = np.digitize(field, np.quantile(field, [1 / 3, 2 / 3])).astype(np.uint8)
    chart[20:40, 30:60] = 255
    return {"class": chart, "probability": rng.integers(50, 101, chart.shape).astype(np.uint8)}


def strips_of(charts: dict[str, np.ndarray], rows: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for row in range(0, len(charts["class"]), rows):
        yield row, charts["class"][row : row + rows], charts["probability"][row : row + rows]


def traced(charts: dict[str, np.ndarray], rows: int, least: float = 0.0) -> list[Region]:
    height, width = charts["class"].shape
    grid = Grid(height, width, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), "EPSG:32720", length_unit="m")
    return trace_regions(strips_of(charts, rows), grid, range(3), least)


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("least", [0.0, 600.0])
def test_height_of_the_strips_changes_nothing(rows: int, least: float) -> None:
    """Points, too: none is left where a seam was."""
    rng = np.random.default_rng(rows)
    for charts in (
        {"class": rng.integers(0, 3, (40, 30)).astype(np.uint8), "probability": np.full((40, 30), 80, np.uint8)},
        blobs(rows),
    ):
        whole, parts = traced(charts, 1000, least), traced(charts, rows, least)
        assert len(whole) == len(parts) > 5
        for ours, theirs in zip(whole, parts, strict=True):
            assert (ours.label, ours.pixels) == (theirs.label, theirs.pixels)
            assert ours.mean == pytest.approx(theirs.mean, rel=1e-12)
            assert theirs.shape.is_valid
            assert theirs.shape.area == theirs.pixels
            assert shapely.equals(ours.shape, theirs.shape)
            # Rings that touch at a corner may be told apart differently; each repeats its first point.
            points = [shapely.get_num_coordinates(s) - len(shapely.get_rings(s)) for s in (ours.shape, theirs.shape)]
            assert points[0] == points[1]


def test_classes_that_touch_are_not_joined_and_corners_of_one_are() -> None:
    chart = np.array([[0, 1, 2], [1, 0, 2], [2, 2, 0]], np.uint8)
    charts = {"class": chart, "probability": np.full((3, 3), 50, np.uint8)}
    for rows in (1, 2, 3):
        found = traced(charts, rows)
        assert [(region.label, region.pixels) for region in found] == [(0, 3), (1, 2), (2, 4)]


def test_parts_that_meet_only_further_down_are_one() -> None:
    """A fork and a ring, strip by strip."""
    chart = np.full((6, 7), 255, np.uint8)
    chart[0:4, 0] = chart[0:4, 2] = chart[0:4, 4] = chart[4, 0:5] = 1
    chart[2, 6] = 1
    found = traced({"class": chart, "probability": np.full((6, 7), 50, np.uint8)}, 1)
    assert [region.pixels for region in found] == [17, 1]


def test_corners_of_one_class_join_only_where_they_count() -> None:
    chart = np.array([[1, 255, 1], [255, 1, 255], [7, 7, 1]], np.uint8)
    grid = Grid(3, 3)
    for rows in (1, 3):
        strips = [(row, chart[row : row + rows], chart[row : row + rows]) for row in range(0, 3, rows)]
        joined = trace_regions(strips, grid, None, background=[255])
        apart = trace_regions(strips, grid, None, background=[255], connectivity=4)
        assert [(region.label, region.pixels, region.mean) for region in joined] == [(1, 4, 1.0), (7, 2, 7.0)]
        assert [(region.label, region.pixels) for region in apart] == [(1, 1), (1, 1), (1, 1), (7, 2), (1, 1)]
