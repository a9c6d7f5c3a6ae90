from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import rasterio.transform
import rasterio.windows
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geocore.errors import DataError
from geocore.raster.grid import ControlPoint, Grid, Window, length_unit_of

UTM = Grid(100, 200, (10.0, 0.0, 500000.0, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")
# As found in a burn-scar mask: UTM 10 on an unnamed datum, without a code.
UTM10_WITHOUT_CODE = (
    'PROJCS["UTM Zone 10",GEOGCS["Unknown datum based upon the WGS 84 ellipsoid",'
    'DATUM["Not_specified_based_on_WGS_84_spheroid",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",-123],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)

metres = st.floats(-4e6, 9e6).map(lambda value: round(value, 2))
turned = st.builds(
    lambda x, y, across, down, angle, shear: (
        Affine.translation(x, y) @ Affine.rotation(angle) @ Affine.shear(shear) @ Affine.scale(across, down)
    ),
    metres, metres, st.sampled_from([10.0, 0.5, -30.0]), st.sampled_from([-10.0, 2.0, -0.25]),
    st.sampled_from([0.0, 30.0, -135.0]), st.sampled_from([0.0, 12.0]),
)  # fmt: skip
windows = st.builds(Window, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 40), st.integers(1, 40))


def pixels(window: Window) -> set[tuple[int, int]]:
    return {(r, c) for r in range(window.row, window.row_stop) for c in range(window.col, window.col_stop)}


@given(windows, windows)
def test_intersection_is_the_pixels_in_both(first: Window, second: Window) -> None:
    both = first.intersection(second)
    assert (pixels(both) if both else set()) == pixels(first) & pixels(second)


@given(windows, st.integers(1, 7))
def test_coarser_is_the_smallest_cover(window: Window, ratio: int) -> None:
    coarse = window.coarser(ratio)
    assert pixels(coarse) == {(r // ratio, c // ratio) for r, c in pixels(window)}
    assert window.finer(ratio).coarser(ratio) == window


def test_slices_refuse_to_count_from_the_end() -> None:
    assert Window(2, 3, 4, 5).slices == (slice(2, 6), slice(3, 8))
    with pytest.raises(ValueError, match="outside"):
        Window(-1, 0, 4, 4).slices  # noqa: B018 - the property raises


def test_empty_windows_and_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Window(0, 0, 0, 5)
    with pytest.raises(ValueError, match="at least 1"):
        Grid(0, 5)


def test_a_coarser_grid_keeps_the_corner() -> None:
    coarse = UTM.coarser(3)
    assert coarse.shape == (34, 67)
    assert coarse.pixel_size == (30.0, 30.0)
    assert coarse.transform is not None
    assert (coarse.transform[2], coarse.transform[5]) == (500000.0, 8000000.0)
    assert Grid(9, 9, gcps=(ControlPoint(4, 6, 1, 2),)).coarser(2).gcps == (ControlPoint(2, 3, 1, 2),)


def test_pixel_size_of_rotated_and_unreferenced_grids() -> None:
    angle = math.radians(30)
    sin, cos = math.sin(angle), math.cos(angle)
    rotated = Grid(5, 5, (2 * cos, -3 * sin, 0, 2 * sin, 3 * cos, 0), length_unit="cm")
    assert rotated.pixel_size == pytest.approx((3.0, 2.0))
    assert Grid(5, 5).pixel_size == (1.0, 1.0)


def test_feet_become_metres() -> None:
    feet = Grid(5, 5, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), "EPSG:2263", length_unit="m")
    assert feet.pixel_size == pytest.approx((3.048006096, 3.048006096))


def test_length_unit_follows_from_the_crs() -> None:
    assert [length_unit_of(crs) for crs in ("EPSG:32652", "EPSG:4326", UTM10_WITHOUT_CODE, None)] == [
        "m",
        "degree",
        "m",
        "px",
    ]
    with pytest.raises(DataError, match="EPSG:32652, or WKT"):
        length_unit_of("EPSG:nonsense")


def test_same_georeference_allows_rounding_and_no_more() -> None:
    near = Grid(100, 200, (10.0, 0.0, 500000.005, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")
    off = Grid(100, 200, (10.0, 0.0, 500001.0, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")
    stretched = Grid(100, 200, (10.001, 0.0, 500000.0, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")
    assert UTM.same_georeference(near)
    assert not UTM.same_georeference(off)
    assert UTM.same_georeference(off, tolerance_px=0.2)
    assert not UTM.same_georeference(stretched)
    assert not UTM.same_georeference(Grid(100, 200))
    assert Grid(3, 3).same_georeference(Grid(3, 3))


def test_same_georeference_compares_places_where_crs_are_written_differently() -> None:
    place = (30.0, 0.0, 500000.0, 0.0, -30.0, 5000000.0)
    coded = Grid(512, 512, place, "EPSG:32610", length_unit="m")
    assert coded.same_georeference(Grid(512, 512, place, UTM10_WITHOUT_CODE, length_unit="m"))
    assert not coded.same_georeference(Grid(512, 512, place, "EPSG:32611", length_unit="m"))
    assert not coded.same_georeference(Grid(512, 512, place, "EPSG:4326", length_unit="degree"))


def test_same_georeference_compares_control_points() -> None:
    points = (ControlPoint(0, 0, 10.0, 80.0), ControlPoint(9, 9, 11.0, 79.0))
    grid = Grid(10, 10, crs="EPSG:4326", gcps=points)
    assert grid.same_georeference(Grid(10, 10, crs="EPSG:4326", gcps=points))
    assert not grid.same_georeference(Grid(10, 10, crs="EPSG:4326", gcps=points[:1]))
    assert not grid.same_georeference(Grid(10, 10, crs="EPSG:3413", gcps=points))
    assert not grid.same_georeference(Grid(10, 10))


def test_light_modules_import_nothing_heavy() -> None:
    light = "geocore.raster.grid, geocore.raster.bands, geocore.storage.files, geocore.errors"
    code = f"import sys, {light}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rasterio", "scipy", "torch", "pyproj", "numpy"} & set(modules)


@given(turned, st.integers(1, 300), st.integers(1, 300), st.integers(-20, 400), st.integers(-20, 400))
def test_coordinates_are_those_of_rasterio(transform: Affine, height: int, width: int, row: int, col: int) -> None:
    grid = Grid(height, width, transform, "EPSG:32652", length_unit="m")
    x, y = grid.xy(row, col)
    assert (x, y) == pytest.approx(rasterio.transform.xy(transform, row, col), rel=1e-12, abs=1e-6)
    assert grid.rowcol(x, y) == (row, col) == tuple(rasterio.transform.rowcol(transform, x, y))
    rows, cols = np.array([row, 0]), np.array([col, height])
    xs, ys = grid.xy(rows, cols)
    assert (xs[0], ys[0]) == (x, y)
    found = grid.rowcol(xs, ys)
    assert np.array_equal(found[0], rows) and np.array_equal(found[1], cols) and found[0].dtype == np.int64
    corners = [transform @ corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
    left, bottom, right, top = grid.bounds
    assert left < right and bottom < top
    assert [left, right] == pytest.approx([f(x for x, _ in corners) for f in (min, max)], rel=1e-12, abs=1e-6)
    assert [bottom, top] == pytest.approx([f(y for _, y in corners) for f in (min, max)], rel=1e-12, abs=1e-6)


@given(turned, windows)
def test_the_window_of_the_bounds_of_a_window_covers_it_and_no_more_where_nothing_is_turned(
    transform: Affine, window: Window
) -> None:
    grid = Grid(100, 100, transform, "EPSG:32652", length_unit="m")
    part = grid.crop(window)
    assert part.shape == window.shape
    assert part.xy(2, 3) == pytest.approx(grid.xy(window.row + 2, window.col + 3), rel=1e-12, abs=1e-6)
    found = grid.window(part.bounds)
    assert pixels(found) >= pixels(window)
    if transform.is_rectilinear and abs(transform.b) < abs(transform.a):
        assert found == window
        theirs = rasterio.windows.from_bounds(*part.bounds, transform) if transform.a > 0 > transform.e else None
        if theirs is not None:
            assert Window.from_rasterio(theirs) == window


def test_bounds_are_rounded_outwards_but_for_the_decimals_of_coordinates() -> None:
    assert UTM.window((500009.9, 7999980.0, 500020.1, 7999999.9)) == Window(0, 0, 2, 3)
    assert UTM.window((500010.000001, 7999980.0, 500020.000001, 8000000.0)) == Window(0, 1, 2, 1)
    assert UTM.window((500009.999999, 7999980.0, 500020.0, 8000000.000001)) == Window(0, 1, 2, 1)
    assert UTM.window((500012.0, 7999995.0, 500013.0, 7999996.0)) == Window(0, 1, 1, 1)
    assert UTM.window((499990.0, 8000000.0, 500010.0, 8000020.0)) == Window(-2, -1, 2, 2)
    for wrong in ((500020.0, 7999980.0, 500010.0, 8000000.0), (0.0, 0.0, 0.0, 1.0), (0.0, math.nan, 1.0, 1.0)):
        with pytest.raises(DataError, match=r"must be \(left, bottom, right, top\)"):
            UTM.window(wrong)


def test_control_points_of_a_part_keep_their_places() -> None:
    grid = Grid(50, 60, crs="EPSG:4326", gcps=(ControlPoint(10.0, 20.0, 5.0, 60.0),))
    (point,) = grid.crop(Window(4, -5, 9, 9)).gcps
    assert (point.row, point.col, point.x, point.y) == (6.0, 25.0, 5.0, 60.0)
    with pytest.raises(DataError, match=r"50 x 60 px, 1 control points\) has no transform.*gdalwarp"):
        grid.xy(0, 0)


def test_what_has_no_place_is_told() -> None:
    with pytest.raises(DataError, match="has no transform: no pixel of it has coordinates"):
        Grid(4, 4).bounds  # noqa: B018 - the property raises
    with pytest.raises(ValueError, match="not finite"):
        UTM.rowcol(math.nan, 8000000.0)


def test_six_numbers_are_a_transform() -> None:
    assert UTM.transform == Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 8000000.0)
    assert Grid(100, 200, UTM.transform, "EPSG:32652", length_unit="m") == UTM
    assert hash(Grid(100, 200, UTM.transform, "EPSG:32652", length_unit="m")) == hash(UTM)
    assert repr(UTM) == "Grid(100 x 200 px, EPSG:32652, transform=(10.0, 0.0, 500000.0, 0.0, -10.0, 8000000.0))"


def test_windows_are_those_of_rasterio() -> None:
    window = Window(3, 4, 5, 6)
    theirs = window.to_rasterio()
    assert (theirs.row_off, theirs.col_off, theirs.height, theirs.width) == (3, 4, 5, 6)
    assert Window.from_rasterio(theirs) == window
    assert Window.from_rasterio(rasterio.windows.Window(4.2, 3.9, 6, 5)) == Window(3, 4, 6, 7)
