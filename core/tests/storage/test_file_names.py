"""Files are read and written whatever they are called, also by libraries that read meaning into names."""

from __future__ import annotations

import os
import unicodedata
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely.geometry import box

from geocore.raster.grid import Grid
from geocore.raster.mosaic import write_mosaics
from geocore.raster.products import find_scenes, open_scene
from geocore.raster.write import write_raster
from geocore.storage.names import plain_path
from geocore.vector.features import write_polygons
from geocore.vector.outlines import read_outlines

GRID = Grid(8, 8, (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0), "EPSG:32632", length_unit="m")
SQUARE = box(500010, 4999950, 500050, 4999990)
NAMES = [
    "plain",
    "my scene",
    "wow!x",
    "a;b?c=d#e",
    "50%20",
    "zip+x",
    "a\nb\tc",
    "\x1b[31m",
    "<i>&\"'",
    "Fläche",
    unicodedata.normalize("NFD", "Fläche"),
    "雪",
    "-x",
    ".hidden",
    os.fsdecode(b"Fl\xe4che"),
]


@pytest.mark.parametrize("name", NAMES)
def test_polygons_are_written_and_read_again(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    write_polygons(folder / f"{name}.gpkg", folder / f"{name}.parquet", [SQUARE], {"scene": [name]}, "EPSG:32632")
    assert sorted(os.listdir(folder)) == sorted([f"{name}.gpkg", f"{name}.parquet"])
    assert sorted(os.listdir(tmp_path)) == [name]
    for ending in (".gpkg", ".parquet"):
        read = read_outlines(folder / f"{name}{ending}", GRID, column="scene")
        assert read.geometries[0].equals(SQUARE) and read.values == [name.replace("\udce4", r"\udce4")]
    geopandas.GeoDataFrame({"a": [1]}, geometry=[SQUARE], crs="EPSG:32632").to_file(tmp_path / "s.shp")
    for file in tmp_path.glob("s.*"):
        file.rename(folder / f"{name}{file.suffix}")
    (found,) = read_outlines(folder / f"{name}.shp", GRID).geometries
    assert found.equals(SQUARE)


@pytest.mark.parametrize("name", NAMES)
def test_rasters_are_written_and_read_again(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    values = np.random.default_rng(0).integers(0, 255, (1, 8, 8), "uint8")
    write_raster(folder / f"{name}.tif", values, grid=GRID, nodata=0, class_names={1: "water"})
    assert sorted(os.listdir(folder)) == sorted([f"{name}.tif", f"{name}.tif.aux.xml"])
    ((called, path),) = find_scenes([folder / f"{name}.tif"], extensions=()).items()
    assert called == Path(f"{name}.tif").stem
    with closing(open_scene(path)) as source:
        assert source.grid == GRID and np.array_equal(source.read(GRID.whole).values, values)


def test_what_lies_beside_a_file_is_found_under_its_plain_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"Fl\xe4che")
    with rasterio.open(
        tmp_path / "a.png",
        "w",
        driver="PNG",
        width=8,
        height=8,
        count=1,
        dtype="uint8",
        transform=Affine(2, 0, 7, 0, -2, 9),
    ) as file:
        file.write(np.full((1, 8, 8), 3, "uint8"))
    for path in tmp_path.glob("a.*"):
        path.rename(tmp_path / f"{name}{path.name[1:]}")
    with closing(open_scene(tmp_path / f"{name}.png")) as source:
        assert source.grid.transform[:6] == (2.0, 0.0, 7.0, 0.0, -2.0, 9.0)
    with plain_path(tmp_path / "b.tif") as plain:
        assert plain == tmp_path / "b.tif"


def test_maps_that_a_virtual_raster_cannot_name_are_left_out(tmp_path: Path) -> None:
    names = ["plain", "<i>&\"' 雪", "a\tb", "a\nb", "\x1b[31m", os.fsdecode(b"Fl\xe4che"), "\uffff", " x"]
    for number, name in enumerate(names, start=1):
        grid = Grid(8, 8, (10.0, 0.0, 500000.0 + 80 * number, 0.0, -10.0, 5000000.0), "EPSG:32632", length_unit="m")
        write_raster(tmp_path / f"{name}.tif", np.full((1, 8, 8), number, "uint8"), grid=grid, nodata=0)
    (joined,) = write_mosaics(tmp_path, "all", [tmp_path / f"{name}.tif" for name in names])
    with rasterio.open(joined) as file:
        assert file.read(1)[0, ::8].tolist() == [1, 2]
