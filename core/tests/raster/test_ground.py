"""Areas, lengths and places on the ground in many CRS, against PROJ's geodesics and other projections."""

from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
import shapely
from shapely.geometry import MultiPolygon, Polygon, box

from geocore.errors import DataError
from geocore.raster.extents import Extent
from geocore.raster.grid import ControlPoint, Grid, Window, transformer
from geocore.raster.ground import PixelAreas, has_ground, pixel_side_m, to_degrees, wrapped
from geocore.vector.features import measures

ROTATED_POLE = pyproj.CRS.from_cf(
    {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": 39.25,
        "grid_north_pole_longitude": -162.0,
    }
).to_wkt()
# CRS, a place in it, and its units per metre, about.
PLACES = {
    "web mercator at 72 north": ("EPSG:3857", (14404742.0, 11606030.0), 1.0),
    "degrees across 180": ("EPSG:4326", (179.995, 72.0), 1e-5),
    "polar stereographic at the pole": ("EPSG:3413", (-700.0, -600.0), 1.0),
    "US feet": ("EPSG:2263", (984250.0, 190000.0), 3.28083),
    "LAEA": ("EPSG:3035", (4900000.0, 4300000.0), 1.0),
    "equal-area cylinder": ("EPSG:6933", (965000.0, 6300000.0), 1.0),
    "UTM beyond its zone": ("EPSG:32652", (900000.0, 7876930.0), 1.0),
    "another meridian and grads": ("EPSG:4807", (2.0, 50.0), 1e-5),
    "a rotated pole": (ROTATED_POLE, (3.0, -2.0), 1e-5),
}


def shape_at(x: float, y: float, size: float) -> Polygon:
    """An L with a hole."""
    outer = [(0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)]
    hole = [(0.1, 0.1), (0.1, 0.3), (0.3, 0.3), (0.2, 0.1)]
    moved = ([(x + size * a, y + size * b) for a, b in ring] for ring in (outer, hole))
    return Polygon(next(moved), [next(moved)])


def geodesic(shape: Polygon, crs: str, steps: int) -> tuple[float, float]:
    """Area and perimeter by PROJ, each edge in as many geodesics."""
    parsed = pyproj.CRS(crs)
    base = parsed.source_crs if crs == ROTATED_POLE else parsed.geodetic_crs
    way = pyproj.Transformer.from_crs(parsed, base, always_xy=True)
    unit = math.degrees(base.axis_info[0].unit_conversion_factor)
    area = length = 0.0
    for index, ring in enumerate([shape.exterior, *shape.interiors]):
        corners = shapely.get_coordinates(ring)
        share = np.linspace(0, 1, steps, endpoint=False)[:, None]
        points = np.concatenate([a + (b - a) * share for a, b in zip(corners, corners[1:], strict=False)])
        lon, lat = (np.asarray(values) * unit for values in way.transform(points[:, 0], points[:, 1]))
        own, around = base.get_geod().polygon_area_perimeter(lon, lat)
        area += abs(own) * (-1 if index else 1)
        length += around
    return area, length


@pytest.mark.parametrize("size_m", [1_000.0, 100_000.0])
@pytest.mark.parametrize("name", PLACES)
def test_areas_and_lengths_are_those_of_geodesics(name: str, size_m: float) -> None:
    crs, (x, y), units = PLACES[name]
    shape = shape_at(x, y, size_m * units)
    found = measures([shape], crs)
    area, perimeter = geodesic(shape, crs, 1000)
    # The largest of these is 3.1e-6, in Web Mercator: its parallels are far from geodesics.
    assert found.area_m2[0] == pytest.approx(area, rel=5e-6)
    assert found.perimeter_m[0] == pytest.approx(perimeter, rel=1e-7)
    # The centroid of the same shape in an equal-area projection around it.
    lon, lat = to_degrees(crs, *(np.array([value]) for value in shape.centroid.coords[0]))
    around = f"+proj=laea +lat_0={lat[0]} +lon_0={lon[0]} +datum=WGS84"
    moved = shapely.transform(
        shapely.segmentize(shape, size_m * units / 200), _way(crs, around).transform, interleaved=False
    )
    lon, lat = to_degrees(around, *(np.array([value]) for value in moved.centroid.coords[0]))
    off = pyproj.Geod(ellps="WGS84").inv(found.lon[0], found.lat[0], lon[0], lat[0])[2]
    # Datums apart, whose shift PROJ knows to a metre or two.
    assert off < (3.0 if crs == "EPSG:4807" else 1e-5 * size_m)
    assert -180 <= found.lon[0] <= 180


def test_web_mercator_far_north_is_a_tenth_of_its_map() -> None:
    """180 m by 180 m on the map at 71.65 degrees north."""
    found = measures([box(14404942, 11605650, 14405122, 11605830)], "EPSG:3857")
    scale = math.cos(math.radians(71.6)) * math.sqrt(1 - 0.00669438 * math.sin(math.radians(71.6)) ** 2)
    assert found.area_m2[0] == pytest.approx(32400 * scale**2, rel=0.02)
    assert found.perimeter_m[0] == pytest.approx(720 * scale, rel=0.01)


def test_poles_and_the_antimeridian_are_not_special() -> None:
    # Around a pole, as a square of the map and by its halves.
    whole = measures([box(-1e5, -1e5, 1e5, 1e5)], "EPSG:3413")
    halves = measures([box(-1e5, -1e5, 0, 1e5), box(0, -1e5, 1e5, 1e5)], "EPSG:3413")
    assert whole.area_m2[0] == pytest.approx(halves.area_m2.sum(), rel=2e-8)
    assert whole.lat[0] == pytest.approx(90, abs=1e-6)
    # Beyond 180 degrees, and as two parts on either side of it.
    beyond = measures([box(179.9, -10, 180.3, -9)], "EPSG:4326")
    parts = measures([MultiPolygon([box(179.9, -10, 180, -9), box(-180, -10, -179.7, -9)])], "EPSG:4326")
    assert beyond.area_m2[0] == pytest.approx(parts.area_m2[0], rel=1e-9)
    assert (beyond.lon[0], beyond.lat[0]) == pytest.approx((-179.9, parts.lat[0]), abs=1e-7)
    assert parts.lon[0] == pytest.approx(-179.9, abs=1e-6)


def test_many_polygons_are_measured_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    shapes = [shape_at(*rng.uniform(4e5, 5e5, 2), size) for size in rng.uniform(20, 5000, 40)]
    shapes.insert(7, MultiPolygon([shapes[0], box(0, 0, 100, 100)]))
    alone = [measures([shape], "EPSG:32652") for shape in shapes]
    monkeypatch.setattr("geocore.raster.ground._POINTS_AT_ONCE", 50)
    found = measures(shapes, "EPSG:32652")
    for name in ("area_m2", "perimeter_m", "lat", "lon"):
        assert getattr(found, name).tolist() == [getattr(one, name)[0] for one in alone]


def test_what_has_no_place_is_not_a_number() -> None:
    found = measures([box(0, 0, 10, 10), box(1e9, 1e9, 2e9, 2e9)], "EPSG:6933")
    assert np.isfinite(found.area_m2).tolist() == [True, False]
    assert np.isfinite(found.lon).tolist() == [True, False]
    assert np.isnan(measures([box(0, 0, 1, 1)], None).area_m2).all()
    assert len(measures([], "EPSG:32652").area_m2) == 0


GRIDS = {
    "the whole Earth in degrees": (Grid(1800, 3600, (0.1, 0, -180, 0, -0.1, 90), "EPSG:4326"), 3e-5),
    "Web Mercator": (Grid(9000, 8000, (10.0, 0, 14404742, 0, -10.0, 11606030), "EPSG:3857"), 1e-6),
    "polar stereographic": (Grid(900, 900, (1e3, 0, -4.5e5, 0, -1e3, 4.5e5), "EPSG:3413"), 1e-6),
    "a tile of UTM, south-up and turned": (Grid(4000, 4000, (8.0, 6.0, 399960, 6.0, 8.0, 4900020), "EPSG:32631"), 1e-9),
    "one pixel": (Grid(1, 1, (1.0, 0, 10, 0, -1.0, 50), "EPSG:4326"), 1e-12),
}


@pytest.mark.parametrize("name", GRIDS)
def test_pixel_areas_are_those_of_their_outlines(name: str) -> None:
    grid, tolerance = GRIDS[name]
    areas = PixelAreas(grid)
    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform[:6]
    rng = np.random.default_rng(0)
    for _ in range(12):
        row, col = int(rng.integers(max(grid.height - 5, 1))), int(rng.integers(max(grid.width - 7, 1)))
        window = Window(row, col, min(5, grid.height), min(7, grid.width))
        found = areas.within(window)
        assert found.shape == window.shape
        pixel = window.height - 1, window.width - 1
        corners = [(row + pixel[0] + down, col + pixel[1] + right) for down, right in ((0, 0), (0, 1), (1, 1), (1, 0))]
        outline = Polygon([(a * col + b * row + c, d * col + e * row + f) for row, col in corners])
        assert found[pixel] == pytest.approx(measures([outline], grid.crs).area_m2[0], rel=tolerance)
        assert areas.bounds_m2[0] * (1 - 1e-12) <= found[pixel] <= areas.bounds_m2[1] * (1 + 1e-12)


def test_all_pixels_of_the_earth_are_its_surface() -> None:
    grid, _ = GRIDS["the whole Earth in degrees"]
    assert PixelAreas(grid).within(grid.whole).sum() == pytest.approx(510.0656217e12, rel=2e-5)


def test_a_pixel_has_a_side_on_the_ground() -> None:
    assert pixel_side_m(Grid(10, 10, (10.0, 0, 500000, 0, -10.0, 7876930), "EPSG:32652")) == pytest.approx(10.004, 1e-5)
    assert pixel_side_m(Grid(128, 128, (10.0, 0, 14404742, 0, -10.0, 11606030), "EPSG:3857")) == pytest.approx(
        3.17, 3e-3
    )
    # 10 m by 3.09 m.
    degrees = Grid(100, 100, (8.98e-5, 0, 179.999, 0, -8.98e-5, 72.0), "EPSG:4326")
    assert pixel_side_m(degrees) == pytest.approx(math.sqrt(10.02 * 3.10), rel=3e-3)
    feet = Grid(10, 10, (10.0, 0, 984250, 0, -10.0, 190000), "EPSG:2263")
    assert pixel_side_m(feet) == pytest.approx(3.048, rel=1e-3)
    for nowhere in (
        Grid(10, 10),
        Grid(10, 10, (1.0, 0, 0, 0, 1.0, 0)),
        Grid(9, 9, (1.0, 0, 1e9, 0, 1, 1e9), "EPSG:6933"),
    ):
        assert pixel_side_m(nowhere) is None
    assert has_ground(degrees) and not has_ground(Grid(10, 10, (1.0, 0, 0, 0, 1.0, 0)))
    with pytest.raises(ValueError, match="only with a transform and a CRS"):
        PixelAreas(Grid(10, 10))


def test_control_points_alone_give_the_side_of_a_pixel() -> None:
    """Radar of 80 m, the antimeridian across it and the pole not far."""
    ground = Grid(5000, 5000, (80.0, 0, -1.1e6, 0, -80.0, 1.3e6), "EPSG:3413")
    rows, cols = (
        grid.ravel().astype(float) for grid in np.meshgrid(np.linspace(0, 5000, 21), np.linspace(0, 5000, 21))
    )
    lon, lat = to_degrees("EPSG:3413", 80 * cols - 1.1e6, 1.3e6 - 80 * rows)
    points = tuple(ControlPoint(*values) for values in zip(rows, cols, lon, lat, strict=True))
    assert lon.max() - lon.min() > 300
    scene = Grid(5000, 5000, crs="EPSG:4326", gcps=points)
    side = pixel_side_m(scene)
    assert side == pytest.approx(pixel_side_m(ground), rel=2e-3)
    assert pixel_side_m(Grid(5000, 5000, crs="EPSG:4326", gcps=points[:2])) is None
    assert pixel_side_m(Grid(5000, 5000, crs="EPSG:4326", gcps=(points[0], points[1], points[2]))) is None


def test_longitudes_lie_within_180() -> None:
    assert wrapped(np.array([-180.0, 180.0, 180.008, -190.0, 539.0, 12.3])).tolist() == pytest.approx(
        [-180.0, 180.0, -179.992, 170.0, 179.0, 12.3]
    )
    lon, lat = to_degrees("EPSG:4326", [180.008], [10.0])
    assert (lon[0], lat[0]) == pytest.approx((-179.992, 10.0))


def _way(source: str, target: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def test_on_another_body_areas_are_its_own_and_places_are_none_of_the_earth() -> None:
    radius, moon = 1_737_400.0, "+proj=eqc +R=1737400 +units=m"
    shape = box(0, 0, 100_000, 100_000)
    found = measures([shape], moon)
    # Between two parallels of a sphere.
    expected = radius**2 * (100_000 / radius) * math.sin(100_000 / radius)
    assert found.area_m2[0] == pytest.approx(expected, rel=4e-6)
    assert np.isnan([found.lat[0], found.lon[0]]).all()
    grid = Grid(4, 4, (10.0, 0, 0, 0, -10.0, 0), moon, length_unit="m")
    assert has_ground(grid) and pixel_side_m(grid) == pytest.approx(10, rel=1e-6)
    assert PixelAreas(grid).within(Window(0, 0, 4, 4)) == pytest.approx(100, rel=1e-5)
    assert np.isnan(to_degrees(moon, [0.0, 1.0], [0.0, 1.0])).all()


@pytest.mark.parametrize("crs", ["+proj=eqc +R=1737400 +units=m", 'LOCAL_CS["mine",UNIT["metre",1]]'])
def test_no_way_leads_from_another_body_or_from_none_to_the_earth(crs: str) -> None:
    with pytest.raises(DataError, match="no way leads from the CRS"):
        transformer(crs, "EPSG:32630")
    transform = (10.0, 0.0, 0.0, 0.0, -10.0, 0.0)
    assert not Grid(4, 4, transform, crs).same_georeference(Grid(4, 4, transform, "EPSG:32630"))
    assert not Extent(0, 0, 1, 1, crs).meets(Extent(0, 0, 1, 1, "EPSG:32630"))
    assert np.isnan(to_degrees(crs, 0.0, 0.0)).all()
