"""Rasters and polygons of a mapped scene, read back by other programs' libraries."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from rasterio import features

from geocore.errors import DataError
from geocore.raster.grid import Grid, Window
from geocore.raster.npy_store import StripWriter
from geocore.raster.write import read_legend
from slumps_detectron2.instances import Instance
from slumps_detectron2.products import PROBABILITY, Selection, product_paths, told, write_products

SHAPE = (700, 640)
GRID = Grid(*SHAPE, (3.0, 0.0, -600000.0, 0.0, -3.0, 1200000.0), "EPSG:3413", length_unit="m")
_POLAR = pyproj.Proj("EPSG:3413")
PIXEL_M2 = 9.0 / _POLAR.get_factors(*_POLAR(-599000, 1199000, inverse=True)).areal_scale
"""Ground under a pixel in the middle of the grid, by PROJ: the map is too small at 77 degrees north."""
NAMES = {1: "slump", 4: "gully"}


def parts_of(folder: Path, probability: np.ndarray) -> list[tuple[Window, Path]]:
    """Two regions, one below the other."""
    parts = []
    for window in (Window(0, 0, 400, SHAPE[1]), Window(400, 0, 300, SHAPE[1])):
        part = folder / f"part-{window.row}"
        with StripWriter(part, window, [PROBABILITY]) as planes:
            planes.write(window.row, {"probability": probability[window.slices]})
        parts.append((window, part))
    return parts


def objects() -> list[Instance]:
    ring = np.ones((20, 20), bool)
    ring[5:10, 5:10] = False
    return [
        Instance(Window(100, 50, 20, 20), ring, 0.9, 1),
        Instance(Window(390, 300, 30, 10), np.ones((30, 10), bool), 0.6, 4),
        Instance(Window(600, 110, 9, 9), np.eye(9, dtype=bool), 0.7, 1),
    ]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    probability = np.zeros(SHAPE, np.uint8)
    for instance in objects():
        probability[instance.window.slices][instance.mask] = round(100 * instance.score)
    probability[300:310, 390:420] = 40  # nothing was kept here
    probability[600:620, :110] = 255
    summary = write_products(tmp_path, "tundra", GRID, parts_of(tmp_path, probability), objects(), NAMES)
    assert (summary["objects"], summary["kinds"]) == (3, {"slump": 2, "gully": 1})
    assert summary["area_m2"] == pytest.approx((375 + 300 + 9) * PIXEL_M2, rel=1e-4)
    return tmp_path


def test_what_was_found_is_told_in_one_line() -> None:
    one = {"kinds": {"slump": 1, "gully": 0}, "area_m2": 34_000.0}
    assert told({"a": one}) == "1 object (1 slump, 0 gully) on 0.034 km2"
    one["kinds"] = {"slump": 1}
    assert told({"a": one}) == "1 slump on 0.034 km2"
    assert told({"a": one, "b": one}) == "2 slumps on 0.068 km2"
    assert told({"a": one, "b": one | {"area_m2": None}}) == "2 slumps"


def test_rasters(written: Path) -> None:
    prob, ids, pred, _, _ = product_paths(written, "tundra")
    expected = np.zeros(SHAPE, np.uint32)
    for number, instance in enumerate(objects(), start=1):
        expected[instance.window.slices][instance.mask] = number
    with rasterio.open(ids) as source:
        assert (source.dtypes, source.nodata) == (("uint32",), 4294967295)
        assert source.transform.to_gdal() == (-600000.0, 3.0, 0.0, 1200000.0, 0.0, -3.0)
        values = source.read(1)
    invalid = np.zeros(SHAPE, bool)
    invalid[600:620, :110] = True
    assert np.array_equal(values[~invalid], expected[~invalid])
    assert (values[invalid] == 4294967295).all()
    with rasterio.open(pred) as source:
        assert (source.dtypes, source.nodata) == (("uint8",), 255)
        legend = read_legend(pred)
        assert legend is not None and legend.transparent == {0} and legend.names == {0: "background", **NAMES}
        assert source.tags()["CLASS_4"] == "gully" and source.tags()["CLASS_0"] == "background"
        assert source.overviews(1)
        classes = source.read(1)
    assert np.array_equal(classes[~invalid], np.array([0, 1, 4, 1])[expected][~invalid])
    assert (classes[invalid] == 255).all()
    with rasterio.open(prob) as source:
        assert (source.dtypes, source.nodata) == (("uint8",), 255)
        assert source.read(1)[305, 400] == 40


@pytest.mark.parametrize("ending", [".gpkg", ".parquet"])
def test_polygons(written: Path, ending: str) -> None:
    path = written / f"tundra{ending}"
    table = geopandas.read_file(path) if ending == ".gpkg" else geopandas.read_parquet(path)
    assert table.crs.to_epsg() == 3413
    assert table["id"].tolist() == [1, 2, 3]
    assert table["class"].tolist() == ["slump", "gully", "slump"]
    assert table["score"].tolist() == [0.9, 0.6, 0.7]
    assert table["mean_probability"].tolist() == pytest.approx([0.9, 0.6, 0.7])
    assert table["max_probability"].tolist() == pytest.approx([0.9, 0.6, 0.7])
    assert table["area_m2"].tolist() == pytest.approx([375 * PIXEL_M2, 300 * PIXEL_M2, 9 * PIXEL_M2], rel=1e-4)
    # Outer edge and hole of the ring; a staircase of single pixels.
    side = PIXEL_M2**0.5
    assert table["perimeter_m"].tolist() == pytest.approx([(80 + 20) * side, 80 * side, 36 * side], rel=1e-4)
    assert table["touches_nodata"].tolist() == [False, False, True]
    assert table["scene"].tolist() == ["tundra"] * 3
    assert table.geometry.is_valid.all()
    degrees = table.geometry.centroid.to_crs("EPSG:4326")
    assert table["centroid_lat"].tolist() == pytest.approx(degrees.y.tolist(), abs=1e-7)
    assert table["centroid_lon"].tolist() == pytest.approx(degrees.x.tolist(), abs=1e-7)
    # Burnt again, the polygons give the instances.
    with rasterio.open(written / "tundra_instances.tif") as source:
        ids, transform = source.read(1), source.transform
    burnt = features.rasterize(
        zip(table.geometry, table["id"], strict=True), SHAPE, transform=transform, dtype="uint32"
    )
    known = ids != 4294967295
    assert np.array_equal(burnt[known], ids[known])


def test_objects_at_the_border_are_flagged(tmp_path: Path) -> None:
    probability = np.full(SHAPE, 50, np.uint8)
    edge = Instance(Window(0, 10, 5, 5), np.ones((5, 5), bool), 0.5, 1)
    inner = Instance(Window(1, 30, 5, 5), np.ones((5, 5), bool), 0.5, 1)
    write_products(tmp_path, "border", GRID, parts_of(tmp_path, probability), [edge, inner], NAMES)
    assert geopandas.read_parquet(tmp_path / "border.parquet")["touches_nodata"].tolist() == [True, False]


def test_a_scene_without_objects_has_all_products(tmp_path: Path) -> None:
    summary = write_products(tmp_path, "empty", GRID, parts_of(tmp_path, np.zeros(SHAPE, np.uint8)), [], NAMES)
    assert summary == {"objects": 0, "kinds": {"slump": 0, "gully": 0}, "area_m2": 0.0}
    assert all(path.exists() for path in product_paths(tmp_path, "empty"))
    assert len(geopandas.read_file(tmp_path / "empty.gpkg")) == 0
    assert "area_m2" in geopandas.read_parquet(tmp_path / "empty.parquet").columns


def test_minimum_mapping_unit_and_threshold() -> None:
    assert [part.label for part in Selection(0.65).of(objects(), GRID)] == [1, 1]
    assert [part.pixels for part in Selection(0.1, 299.9 * PIXEL_M2).of(objects(), GRID)] == [375, 300]
    assert [part.pixels for part in Selection(0.1, 300.1 * PIXEL_M2).of(objects(), GRID)] == [375]
    # One degree in a thousand at 70 degrees north: 38.4 m by 111.6 m a pixel.
    degrees = Grid(*SHAPE, (0.001, 0.0, 120.0, 0.0, -0.001, 70.0), "EPSG:4326", length_unit="degree")
    assert len(Selection(0.1, 1.2e6).of(objects(), degrees)) == 2
    assert len(Selection(0.1, 1.5e6).of(objects(), degrees)) == 1
    with pytest.raises(DataError, match="no georeference"):
        Selection(0.1, 1.0).of(objects(), Grid(*SHAPE))


@pytest.mark.parametrize(
    ("crs", "corner", "pixel", "pixel_m2"),
    [
        ("EPSG:3857", (14404742.0, 11606030.0), 10.0, 10.04),
        ("EPSG:4326", (179.99, 72.0), 1e-4, 38.5),
        ("EPSG:2263", (984250.0, 190000.0), 10.0, 9.29),
    ],
)
def test_areas_are_those_on_the_ground_in_any_crs(
    tmp_path: Path, crs: str, corner: tuple[float, float], pixel: float, pixel_m2: float
) -> None:
    """Web Mercator at 72 degrees north, degrees beyond the antimeridian, and feet."""
    grid = Grid(*SHAPE, (pixel, 0.0, corner[0], 0.0, -pixel, corner[1]), crs)
    summary = write_products(tmp_path, "far", grid, parts_of(tmp_path, np.full(SHAPE, 50, np.uint8)), objects(), NAMES)
    assert summary["area_m2"] == pytest.approx((375 + 300 + 9) * pixel_m2, rel=0.01)
    table = geopandas.read_parquet(tmp_path / "far.parquet")
    geod = pyproj.CRS(crs).get_geod()
    own = table.to_crs(pyproj.CRS(crs).geodetic_crs).geometry if crs != "EPSG:4326" else table.geometry
    areas = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in shapely.orient_polygons(own.array)]
    assert table["area_m2"].tolist() == pytest.approx(areas, rel=1e-4)
    assert table["perimeter_m"].tolist() == pytest.approx([geod.geometry_length(s.boundary) for s in own], rel=1e-6)
    assert table["centroid_lon"].between(-180, 180).all()
    assert len(Selection(0.1, 310 * pixel_m2).of(objects(), grid)) == 1
    assert len(Selection(0.1, 290 * pixel_m2).of(objects(), grid)) == 2
