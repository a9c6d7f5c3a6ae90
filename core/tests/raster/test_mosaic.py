"""Mosaics: many maps behind one name, without a copy of their pixels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from geocore.raster.grid import Grid
from geocore.raster.mosaic import write_mosaics
from geocore.raster.write import write_raster

SIZE = 20


def grid(left: float, top: float, *, pixel: float = 10.0, crs: str = "EPSG:32608") -> Grid:
    return Grid(SIZE, SIZE, (pixel, 0.0, left, 0.0, -pixel, top), crs, length_unit="m")


def write(path: Path, value: int, at: Grid, hole: bool = False, **options: Any) -> Path:
    values = np.full((SIZE, SIZE), value, np.uint8)
    if hole:
        values[:, : SIZE // 2] = 255
    write_raster(path, values, grid=at, nodata=255, **options)
    return path


def test_maps_beside_each_other_are_read_as_one(tmp_path: Path) -> None:
    classes = {"colours": {0: (9, 9, 9), 1: (1, 2, 3)}, "class_names": {0: "land", 1: "water"}, "transparent": (0,)}
    paths = [
        write(tmp_path / "a.tif", 1, grid(0.0, 200.0), **classes),
        # Half over the first, but there it knows nothing.
        write(tmp_path / "b.tif", 0, grid(100.0, 200.0), hole=True, **classes),
        write(tmp_path / "c.tif", 1, grid(-400.0, 0.0, pixel=20.0), **classes),
    ]
    (joined,) = write_mosaics(tmp_path, "all_pred", paths)
    assert joined == tmp_path / "all_pred.vrt"
    with rasterio.open(joined) as file:
        assert (file.crs, file.nodata, file.dtypes) == ("EPSG:32608", 255, ("uint8",))
        assert file.transform[:6] == (10.0, 0.0, -400.0, 0.0, -10.0, 200.0) and file.shape == (60, 70)
        values = file.read(1)
        assert file.colormap(1)[0] == (9, 9, 9, 0) and file.colormap(1)[1] == (1, 2, 3, 255)
    expected = np.full((60, 70), 255)
    expected[:20, 40:60], expected[:20, 60:70], expected[20:60, :40] = 1, 0, 1
    np.testing.assert_array_equal(values, expected)
    names = [each.text for each in ElementTree.parse(joined).findall(".//CategoryNames/Category")]
    assert names == ["land", "water"]
    # The folder may be moved.
    shutil.move(tmp_path, moved := tmp_path.with_name(f"{tmp_path.name}-moved"))
    with rasterio.open(moved / "all_pred.vrt") as file:
        np.testing.assert_array_equal(file.read(1), expected)


def test_each_zone_has_its_own(tmp_path: Path) -> None:
    wkt = 'LOCAL_CS["site grid",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    paths = [
        write(tmp_path / "a.tif", 1, grid(0.0, 0.0)),
        write(tmp_path / "b.tif", 1, grid(0.0, 0.0, crs="EPSG:32609")),
        write(tmp_path / "c.tif", 1, Grid(SIZE, SIZE, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), wkt)),
    ]
    found = write_mosaics(tmp_path, "all", paths)
    assert [path.name for path in found] == ["all_EPSG32608.vrt", "all_EPSG32609.vrt", "all_CRS3.vrt"]
    for path, source in zip(found, paths, strict=True):
        with rasterio.open(path) as file, rasterio.open(source) as own:
            assert file.crs == own.crs and file.transform == own.transform and file.read(1).all()


def test_those_of_a_call_before_go_and_what_a_user_put_there_stays(tmp_path: Path) -> None:
    first = [write(tmp_path / f"{name}.tif", 1, grid(200.0 * i, 0.0)) for i, name in enumerate("ab")]
    kept = [tmp_path / name for name in ("all_pred_mine.vrt", "all_pred_map.vrt", "all.vrt")]
    for path in kept:
        path.write_text("")
    write_mosaics(tmp_path, "all_pred", first)
    write_mosaics(tmp_path, "all_pred", [*first, write(tmp_path / "c.tif", 1, grid(0.0, 0.0, crs="EPSG:32609"))])
    names = {path.name for path in tmp_path.glob("*.vrt")} - {path.name for path in kept}
    assert names == {"all_pred_EPSG32608.vrt", "all_pred_EPSG32609.vrt"} and all(path.exists() for path in kept)
    write_mosaics(tmp_path, "all_pred", first)
    assert {path.name for path in tmp_path.glob("*.vrt")} == {"all_pred.vrt", *(path.name for path in kept)}


def test_what_cannot_be_joined_is_left_out(tmp_path: Path) -> None:
    turned = Grid(SIZE, SIZE, (8.0, 6.0, 0.0, 6.0, -8.0, 0.0), "EPSG:32608", length_unit="m")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0")
    others = [
        write(tmp_path / "photo.tif", 1, Grid(SIZE, SIZE)),
        write(tmp_path / "turned.tif", 1, turned),
        tmp_path / "damaged.tif",
    ]
    one = write(tmp_path / "a.tif", 1, grid(0.0, 0.0))
    assert write_mosaics(tmp_path, "all", [one, *others]) == [] and not list(tmp_path.glob("*.vrt"))
    two = write(tmp_path / "b.tif", 2, grid(200.0, 0.0))
    (joined,) = write_mosaics(tmp_path, "all", [*others, one, two])
    with rasterio.open(joined) as file:
        assert file.read(1)[0, [0, -1]].tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32"])
def test_bands_keep_their_type_names_and_values(tmp_path: Path, dtype: str) -> None:
    values = np.arange(2 * SIZE * SIZE).reshape(2, SIZE, SIZE).astype(dtype)
    for name, left in (("a", 0.0), ("b", 200.0)):
        write_raster(tmp_path / f"{name}.tif", values, grid=grid(left, 0.0), band_names=["SIC, %", "SOD"])
    (joined,) = write_mosaics(tmp_path, "all", [tmp_path / "a.tif", tmp_path / "b.tif"])
    with rasterio.open(joined) as file:
        assert file.dtypes == (dtype, dtype) and file.descriptions == ("SIC, %", "SOD") and file.nodata is None
        np.testing.assert_array_equal(file.read(), np.concatenate([values, values], axis=2))
