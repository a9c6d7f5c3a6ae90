"""Polygons burnt and traced back, measured and written; against geopandas and PROJ called directly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box

from geocore.errors import DataError, StorageError
from geocore.raster.grid import Grid, Window
from geocore.vector.features import measures, polygonize, rasterize, write_polygons

UTM = "EPSG:32652"
TRANSFORM = Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 7976930.0)
GRID = Grid(40, 50, TRANSFORM, UTM, length_unit="m")
SQUARES = [box(500100, 7976700, 500200, 7976800), box(500210, 7976700, 500250, 7976740)]
BOW_TIE = Polygon([(500300, 7976600), (500400, 7976700), (500400, 7976600), (500300, 7976700)])


def write(path: Path, shapes: list[object], crs: str | None = UTM, **options: object) -> Path:
    table = geopandas.GeoDataFrame({"n": range(len(shapes))}, geometry=shapes, crs=crs)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_file(path, **options)
    return path


def test_pixels_whose_centre_is_inside_are_burnt_and_small_shapes_stay_on_top() -> None:
    large, small = box(500100, 7976700, 500200, 7976800), box(500126, 7976726, 500154, 7976754)
    ids = rasterize([small, large], GRID)
    assert ids.dtype == np.uint32
    assert (ids == 1).sum() == 4  # centres at 500125 and 500155 lie outside, 500135 and 500145 inside
    assert (ids > 0).sum() == 100
    assert rasterize([], GRID).sum() == 0
    with pytest.raises(DataError, match="georeference"):
        rasterize([small], Grid(4, 4))


MASKS = st.integers(1, 9).flatmap(
    lambda rows: st.integers(1, 9).flatmap(
        lambda cols: st.lists(st.booleans(), min_size=rows * cols, max_size=rows * cols).map(
            lambda values: np.array(values).reshape(rows, cols)
        )
    )
)


@given(MASKS.filter(lambda mask: mask.any()), st.integers(0, 5), st.integers(0, 5))
@settings(deadline=None)
def test_a_traced_mask_burns_to_itself(mask: np.ndarray, row: int, col: int) -> None:
    window = Window(row, col, *mask.shape)
    shape = polygonize(mask, TRANSFORM, window)
    assert shape.is_valid
    assert shape.geom_type in ("Polygon", "MultiPolygon")
    assert shape.area == 100 * mask.sum()
    expected = np.zeros(GRID.shape, bool)
    expected[window.slices] = mask
    assert np.array_equal(rasterize([shape], GRID) == 1, expected)


def test_ids_follow_the_order_given() -> None:
    many = [box(500000 + 10 * i, 7976920, 500010 + 10 * i, 7976930) for i in range(3)]
    assert rasterize(many, GRID, "uint8")[0, :4].tolist() == [1, 2, 3, 0]
    with pytest.raises(ValueError, match="256 ids"):
        rasterize(many[:1] * 256, GRID, "uint8")


def test_measures_on_a_projected_crs() -> None:
    hole = Polygon(SQUARES[0].exterior.coords, [box(500120, 7976720, 500140, 7976740).exterior.coords])
    found = measures([hole, MultiPolygon(SQUARES)], UTM)
    # On the meridian of the zone the map is 0.04 % too small.
    assert found.area_m2.tolist() == pytest.approx([9600 / 0.9996**2, 11600 / 0.9996**2], rel=1e-6)
    assert found.perimeter_m.tolist() == pytest.approx([480 / 0.9996, 560 / 0.9996], rel=1e-6)
    lon, lat = pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(
        [hole.centroid.x, MultiPolygon(SQUARES).centroid.x], [hole.centroid.y, MultiPolygon(SQUARES).centroid.y]
    )
    assert found.lat.tolist() == pytest.approx(lat)
    assert found.lon.tolist() == pytest.approx(lon)


def test_measures_in_feet_degrees_and_nowhere() -> None:
    foot = 1200 / 3937
    # California 1, whose map is true to scale at 40 and 41.67 degrees.
    found = measures([box(6.6e6, 2e6, 6.6e6 + 100, 2e6 + 100)], "EPSG:2225")
    assert found.area_m2[0] == pytest.approx(10000 * foot**2, rel=3e-4)
    assert found.perimeter_m[0] == pytest.approx(400 * foot, rel=1.5e-4)
    degree = box(129.0, 71.0, 129.1, 71.05)
    found = measures([degree, shapely.reverse(degree)], "EPSG:4326")
    area, perimeter = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(degree)
    assert found.area_m2.tolist() == pytest.approx([abs(area)] * 2)
    assert found.perimeter_m.tolist() == pytest.approx([perimeter] * 2)
    assert (found.lat[0], found.lon[0]) == pytest.approx((71.025, 129.05), abs=1e-4)
    # A hole counts as one whichever way its ring runs.
    hole = box(129.02, 71.01, 129.04, 71.02)
    inside = abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(hole)[0])
    for ring in (hole.exterior, shapely.reverse(hole.exterior)):
        found = measures([Polygon(degree.exterior, [ring])], "EPSG:4326")
        assert found.area_m2[0] == pytest.approx(abs(area) - inside)
    nowhere = measures([degree], None)
    assert np.isnan([nowhere.area_m2, nowhere.perimeter_m, nowhere.lat, nowhere.lon]).all()


def test_polygons_are_written_with_the_same_rows_in_both_formats(tmp_path: Path) -> None:
    columns = {"id": np.array([1, 4294967294], np.int64), "score": np.array([0.5, 1.0]), "name": ["a", "b"]}
    gpkg, parquet = tmp_path / "a.gpkg", tmp_path / "a.parquet"
    write_polygons(gpkg, parquet, [SQUARES[0], MultiPolygon(SQUARES)], columns, "EPSG:3413")
    for table in (geopandas.read_file(gpkg, layer="polygons"), geopandas.read_parquet(parquet)):
        assert table.crs.to_epsg() == 3413
        assert table["id"].tolist() == [1, 4294967294]
        assert table["score"].tolist() == [0.5, 1.0]
        assert table["name"].tolist() == ["a", "b"]
        assert table.geometry.geom_type.unique().tolist() == ["MultiPolygon"]
        assert table.geometry.area.tolist() == [10000, 11600]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gpkg", "a.parquet"]


def test_no_polygons_leave_files_with_columns(tmp_path: Path) -> None:
    columns = {"id": np.zeros(0, np.int64), "score": np.zeros(0), "flag": np.zeros(0, bool), "name": []}
    write_polygons(tmp_path / "a.gpkg", tmp_path / "a.parquet", [], columns, UTM)
    for table in (geopandas.read_file(tmp_path / "a.gpkg"), geopandas.read_parquet(tmp_path / "a.parquet")):
        assert len(table) == 0
        assert [*table.columns] == ["id", "score", "flag", "name", "geometry"]
        assert (table["id"].dtype, table["score"].dtype) == (np.int64, np.float64)
        assert table["flag"].dtype == bool
    import pyarrow.parquet

    # In the files: pandas shows text and a column of no type alike.
    assert str(pyarrow.parquet.read_schema(tmp_path / "a.parquet").field("name").type) in ("string", "large_string")


def test_columns_have_a_value_for_each_polygon(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="column id has 3 values for 2 polygons"):
        write_polygons(tmp_path / "a.gpkg", tmp_path / "a.parquet", SQUARES, {"id": [1, 2, 3]}, UTM)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.filterwarnings("error")
def test_polygons_without_a_crs_are_written_quietly(tmp_path: Path) -> None:
    write_polygons(tmp_path / "a.gpkg", tmp_path / "a.parquet", SQUARES, {"id": [1, 2]}, None)
    found = geopandas.read_file(tmp_path / "a.gpkg")
    assert found.crs is None
    assert [shape.area for shape in found.geometry] == [shape.area for shape in SQUARES]


def test_a_write_that_fails_leaves_no_part_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = geopandas.GeoDataFrame.to_file

    def full(self: geopandas.GeoDataFrame, path: Path, **options: object) -> None:
        whole(self, path, **options)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(geopandas.GeoDataFrame, "to_file", full)
    with pytest.raises(StorageError, match="no space left"):
        write_polygons(tmp_path / "a.gpkg", tmp_path / "a.parquet", SQUARES, {"id": [1, 2]}, UTM)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("share", [0.8, 0.97])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, share: float) -> None:
    """Also where only the spatial index finds no room, which GDAL makes when it closes the file, and tells nobody."""
    code = (
        "import resource, sys, shapely; from pathlib import Path; from geocore.vector.features import *\n"
        "from geocore.errors import DiskError\n"
        "shapes = [shapely.Point(i, i).buffer(20, quad_segs=64) for i in range(50)]\n"
        "folder = Path(sys.argv[1])\n"
        "write_polygons(folder / 'b.gpkg', folder / 'b.parquet', shapes, {}, 'EPSG:32633')\n"
        "limit = int(float(sys.argv[2]) * (folder / 'b.gpkg').stat().st_size)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try: write_polygons(folder / 'a.gpkg', folder / 'a.parquet', shapes, {}, 'EPSG:32633')\n"
        "except DiskError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, str(share)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(tmp_path)) and "free some" in done.stdout and done.stdout.count("\n") == 1
    assert ("in its index" in done.stdout) is (share > 0.9)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "a.gpkg").exists()
