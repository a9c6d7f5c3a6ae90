"""Rasters and outlines of a mapped scene, read back by other programs' libraries."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
from rasterio import features
from scipy import ndimage

from floods_prithvi.mapping import planes
from floods_prithvi.products import class_colours, outlined, product_paths, write_products
from geocore.errors import DataError
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import PixelAreas
from geocore.raster.npy_store import StripWriter

SHAPE = (700, 560)
GRID = Grid(*SHAPE, (10.0, 0.0, 600000.0, 0.0, -10.0, 8200000.0), "EPSG:32720", length_unit="m")
_UTM = pyproj.Proj("EPSG:32720")
SCALE = _UTM.get_factors(*_UTM(602800, 8196500, inverse=True)).areal_scale ** 0.5
"""Metres on the map per metre on the ground, in the middle of the grid, by PROJ."""
FLOOD = {0: "land", 1: "water"}
CROPS = {0: "Corn", 1: "Open water", 2: "Other"}


def charts_of(shape: tuple[int, int] = SHAPE, classes: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Blobs with islands, speckle, and a gap."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 6)
    speckle = 0.02 * rng.standard_normal(shape)
    chart = np.digitize(field + speckle, np.quantile(field, np.linspace(0, 1, classes + 1)[1:-1])).astype(np.uint8)
    probability = rng.integers(50, 101, shape).astype(np.uint8)
    charts = {"class": chart, "probability": probability, "confidence": (probability - 50) * 2}
    for plane in charts.values():
        plane[300:330, 100:140] = 255
    return charts


def parts_of(folder: Path, charts: dict[str, np.ndarray]) -> list[tuple[Window, Path]]:
    """Three regions whose borders are none of blocks."""
    height, width = charts["class"].shape
    middle = height // 2 + 30
    left, low = width // 3, height - middle
    windows = [Window(0, 0, middle, width), Window(middle, 0, low, left), Window(middle, left, low, width - left)]
    parts = []
    for number, window in enumerate(windows):
        part = folder / f"part-{number}"
        with StripWriter(part, window, planes()) as writer:
            writer.write(window.row, {name: plane[window.slices] for name, plane in charts.items()})
        parts.append((window, part))
    return parts


def table_of(folder: Path, name: str = "lake") -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(folder / f"{name}.parquet")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("products")
    summary = write_products(folder, "lake", GRID, parts_of(folder / ".parts", charts_of()), FLOOD)
    chart = charts_of()["class"]
    water = int((chart == 1).sum())
    assert summary["valid_px"] == (chart != 255).sum()
    assert summary["percent"]["water"] == pytest.approx(100 * water / summary["valid_px"], abs=0.005)
    assert summary["area_m2"] == pytest.approx(water * 100.0 / SCALE**2, rel=1e-5)
    return folder


def test_rasters_are_cogs_with_names_and_colours(written: Path) -> None:
    charts = charts_of()
    for name, path in zip(("class", "probability", "confidence"), product_paths(written, "lake"), strict=False):
        with rasterio.open(path) as source:
            assert (source.dtypes, source.nodata, source.crs.to_epsg()) == (("uint8",), 255, 32720)
            assert source.transform.to_gdal() == (600000.0, 10.0, 0.0, 8200000.0, 0.0, -10.0)
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert source.overviews(1)
            assert np.array_equal(source.read(1), charts[name])
            if name == "class":
                assert (source.tags()["CLASS_0"], source.tags()["CLASS_1"]) == ("land", "water")
                assert source.colormap(1)[1][2] > source.colormap(1)[1][0]
            else:
                assert "%" in source.descriptions[0]
                assert ("of water" in source.descriptions[0]) == (name == "probability")


@pytest.mark.parametrize("ending", [".gpkg", ".parquet"])
def test_outlines_have_attributes(written: Path, ending: str) -> None:
    path = written / f"lake{ending}"
    table = geopandas.read_file(path) if ending == ".gpkg" else geopandas.read_parquet(path)
    columns = ["id", "class", "mean_probability", "area_m2", "perimeter_m", "centroid_lat", "centroid_lon", "scene"]
    assert [name for name in table.columns if name != "geometry"] == columns
    assert table.crs.to_epsg() == 32720
    assert table.geometry.is_valid.all()
    assert table["id"].tolist() == list(range(1, len(table) + 1))
    assert set(table["class"]) == {"water"}
    assert set(table["scene"]) == {"lake"}
    assert np.allclose(table["area_m2"], table.geometry.area / SCALE**2, rtol=2e-5)
    assert np.allclose(table["perimeter_m"], table.geometry.length / SCALE, rtol=2e-5)
    degrees = table.geometry.centroid.to_crs("EPSG:4326")
    assert np.allclose(table["centroid_lat"], degrees.y, atol=1e-7)
    assert np.allclose(table["centroid_lon"], degrees.x, atol=1e-7)


def test_outlines_are_the_connected_pixels_over_strips_and_regions(written: Path) -> None:
    """The scene is higher than a strip; scipy sees it whole. Burnt again, the outlines give the pixels."""
    charts = charts_of()
    parts, count = ndimage.label(charts["class"] == 1, structure=np.ones((3, 3)))
    table = table_of(written)
    assert len(table) == count > 50
    with rasterio.open(written / "lake_pred.tif") as source:
        transform = source.transform
    burnt = features.rasterize(zip(table.geometry, table["id"], strict=True), SHAPE, transform=transform, dtype="int32")
    # The same partition, with the same order by first pixels.
    firsts = [int(np.flatnonzero(parts.ravel() == number)[0]) for number in range(1, count + 1)]
    order = np.zeros(count + 1, np.int32)
    order[1 + np.argsort(firsts)] = np.arange(1, count + 1)
    assert np.array_equal(burnt, order[parts])
    means = ndimage.mean(charts["probability"], burnt, np.arange(1, count + 1)) / 100
    assert np.allclose(table["mean_probability"], means, rtol=1e-12)


def test_smallest_area_is_that_of_the_pixels(tmp_path: Path) -> None:
    chart = np.zeros((600, 40), np.uint8)
    chart[3, 3:6] = chart[10, 3:5] = 1
    chart[510:514, 20] = 1  # four pixels in two strips, two of them in each
    charts = {"class": chart, "probability": np.full_like(chart, 70), "confidence": np.full_like(chart, 40)}
    grid = Grid(600, 40, GRID.transform, GRID.crs, length_unit="m")
    # The map is 0.05 % too small here.
    for least, expected in ((0.0, [300.0, 200.0, 400.0]), (300.1, [300.0, 400.0]), (300.2, [400.0]), (401.0, [])):
        folder = tmp_path / str(least)
        summary = write_products(folder, "lake", grid, parts_of(folder / ".parts", charts), FLOOD, min_area_m2=least)
        table = table_of(folder)
        assert table["area_m2"].tolist() == pytest.approx(expected, rel=6e-4)
        assert summary["polygons"] == len(expected)
        # The classes stay as they are.
        with rasterio.open(folder / "lake_pred.tif") as source:
            assert np.array_equal(source.read(1), chart)


def test_degrees_give_areas_on_the_ellipsoid(tmp_path: Path) -> None:
    """The pixel of Sen1Floods11 at 60 degrees north: 5.0 m by 10.0 m."""
    pixel = 8.983152841195215e-05
    charts = charts_of((64, 300))
    charts["class"][:] = 0
    charts["class"][10:14, 20:40] = 1
    grid = Grid(64, 300, (pixel, 0.0, 25.0, 0.0, -pixel, 60.0), "EPSG:4326", length_unit="degree")
    parts = parts_of(tmp_path / ".parts", charts)
    summary = write_products(tmp_path, "lake", grid, parts, FLOOD, min_area_m2=3900.0)
    assert summary["polygons"] == 1
    assert summary["area_m2"] == pytest.approx(PixelAreas(grid).within(Window(10, 20, 4, 20)).sum(), rel=1e-6)
    assert summary["area_m2"] == pytest.approx(80 * 5.0 * 10.0, rel=0.01)
    table = table_of(tmp_path)
    assert table["centroid_lat"][0] == pytest.approx(60.0 - 12 * pixel, abs=1e-9)
    assert table["centroid_lon"][0] == pytest.approx(25.0 + 30 * pixel, abs=1e-9)


def test_more_classes_get_outlines_each(tmp_path: Path) -> None:
    charts = charts_of((200, 260), classes=3)
    grid = Grid(200, 260, GRID.transform, GRID.crs, length_unit="m")
    write_products(tmp_path, "lake", grid, parts_of(tmp_path / ".parts", charts), CROPS)
    table = table_of(tmp_path)
    assert set(table["class"]) == set(CROPS.values())
    known = charts["class"] != 255
    assert table["area_m2"].sum() == pytest.approx(known.sum() * 100.0 / SCALE**2, rel=1e-5)
    for index, name in CROPS.items():
        assert (table["class"] == name).sum() == ndimage.label(charts["class"] == index, np.ones((3, 3)))[1]
    assert outlined(FLOOD) == (1,)
    assert outlined(CROPS) == (0, 1, 2)


def test_scene_without_georeference_has_outlines_in_pixels(tmp_path: Path) -> None:
    charts = charts_of((80, 240))
    parts = parts_of(tmp_path / ".parts", charts)
    summary = write_products(tmp_path, "lake", Grid(80, 240), parts, FLOOD)
    assert summary["area_m2"] is None
    table = table_of(tmp_path)
    assert table.crs is None
    assert table.geometry.area.sum() == (charts["class"] == 1).sum()
    assert table["area_m2"].isna().all()
    with pytest.raises(DataError, match="no georeference"):
        write_products(tmp_path, "pond", Grid(80, 240), parts, FLOOD, min_area_m2=10.0)
    assert not (tmp_path / "pond_pred.tif").exists()


@pytest.mark.parametrize("value", [0, 255])
def test_scene_without_water_has_all_products(tmp_path: Path, value: int) -> None:
    charts = {name: np.full((70, 240), value, np.uint8) for name in ("class", "probability", "confidence")}
    grid = Grid(70, 240, GRID.transform, GRID.crs, length_unit="m")
    summary = write_products(tmp_path, "dry", grid, parts_of(tmp_path / ".parts", charts), FLOOD)
    assert (summary["polygons"], summary["area_m2"]) == (0, 0.0)
    assert summary["percent"] == {"land": 100.0 if value == 0 else 0.0, "water": 0.0}
    assert all(path.exists() for path in product_paths(tmp_path, "dry"))
    assert len(geopandas.read_file(tmp_path / "dry.gpkg")) == 0
    assert "mean_probability" in table_of(tmp_path, "dry").columns


def test_colours_differ() -> None:
    names = {index: f"crop {index}" for index in range(12)} | {12: "Open Water"}
    assert len(set(class_colours(names).values())) == 13
    assert class_colours(names)[12] == class_colours(FLOOD)[1]
