"""CRS and transform of netCDF variables, as CF, GDAL, rioxarray and open_rasterio write them."""

from __future__ import annotations

from pathlib import Path

import h5netcdf
import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine

from geocore.errors import DataError
from geocore.raster.netcdf import gdal_transform, netcdf_crs, netcdf_transform

UTM = pyproj.CRS("EPSG:32631")
CENTRES = 300_005.0 + 10 * np.arange(20), 4_700_035.0 - 10 * np.arange(30)
NORTH_UP = Affine(10.0, 0.0, 300_000.0, 0.0, -10.0, 4_700_040.0)


def test_crs_of_every_writer() -> None:
    wkt, legacy = UTM.to_wkt(), UTM.to_wkt("WKT1_GDAL")
    assert netcdf_crs({}, {"crs_wkt": wkt}) == wkt
    assert netcdf_crs({"crs": "EPSG:4326"}, {"spatial_ref": legacy}) == legacy
    assert netcdf_crs({"crs": "+init=epsg:32631"}) == "EPSG:32631"
    assert netcdf_crs({"crs": np.array([b"EPSG:32631"])}) == "EPSG:32631"
    assert netcdf_crs({"epsg": np.array([32631])}) == "EPSG:32631"
    assert netcdf_crs({}) is None
    polar = {
        "grid_mapping_name": "polar_stereographic",
        "straight_vertical_longitude_from_pole": np.array([-45.0]),
        "latitude_of_projection_origin": np.array([90.0]),
        "standard_parallel": np.array([70.0]),
        "false_easting": 0.0,
        "false_northing": 0.0,
    }
    way = pyproj.Transformer.from_crs("EPSG:4326", netcdf_crs({}, polar), always_xy=True)
    expected = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True).transform(20, 80)
    assert way.transform(20, 80) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(DataError, match="'unheard_of' is not understood"):
        netcdf_crs({}, {"grid_mapping_name": "unheard_of"})


def test_coordinates_are_centres_unless_the_grid_is_known() -> None:
    x, y = CENTRES
    assert netcdf_transform("a.nc", x, y) == NORTH_UP
    assert netcdf_transform("a.nc", x, y, from_zero=True) == NORTH_UP
    corners = x - 5, y + 5
    assert netcdf_transform("a.nc", *corners, from_zero=True) == NORTH_UP
    # CF knows no corners: half a pixel up and left.
    assert netcdf_transform("a.nc", *corners) == Affine(10.0, 0.0, 299_995.0, 0.0, -10.0, 4_700_045.0)
    # South-up.
    assert netcdf_transform("a.nc", x, y[::-1]) == Affine(10.0, 0.0, 300_000.0, 0.0, 10.0, 4_699_740.0)
    # Degrees in float32.
    lon = (10 + 0.25 / 2 + 0.25 * np.arange(40)).astype(np.float32)
    assert netcdf_transform("a.nc", lon, lon)[:6] == pytest.approx((0.25, 0, 10, 0, 0.25, 10), abs=1e-5)


def test_a_stated_transform_counts_where_it_is_of_these_pixels() -> None:
    x, y = CENTRES
    for coordinates in ((x, y), (x - 5, y + 5)):
        assert netcdf_transform("a.nc", *coordinates, stated=NORTH_UP) == NORTH_UP
    # That of the tile which the variable was cut from, and one of other pixels.
    tile = (10.0, 0.0, 290_000.0, 0.0, -10.0, 4_800_000.0)
    for stated in (tile, (20.0, 0.0, 300_000.0, 0.0, -20.0, 4_700_040.0), (np.nan,) * 6, ()):
        assert netcdf_transform("a.nc", x, y, stated=stated) == NORTH_UP
    assert netcdf_transform("a.nc", x[:1], y, stated=NORTH_UP) == NORTH_UP
    assert gdal_transform({"GeoTransform": "300000 10 0 4700040 0 -10 "}) == list(NORTH_UP[:6])
    assert gdal_transform({}) is None
    with pytest.raises(DataError, match="of one pixel"):
        netcdf_transform("a.nc", x[:1], y)
    with pytest.raises(DataError, match="steps of x are not even"):
        netcdf_transform("a.nc", np.append(x, x[-1] + 20), y)


def test_gdal_reads_the_same_place(tmp_path: Path) -> None:
    """A CF file: what GDAL makes of it is what is made of it here."""
    path = tmp_path / "cf.nc"
    x, y = CENTRES
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"y": len(y), "x": len(x)}
        for name, axis in (("x", x), ("y", y)):
            variable = file.create_variable(name, (name,), data=axis)
            variable.attrs["standard_name"] = f"projection_{name}_coordinate"
            variable.attrs["units"] = "m"
        file.create_variable("spatial_ref", (), data=np.int32(0)).attrs.update(UTM.to_cf())
        band = file.create_variable("band", ("y", "x"), data=np.ones((len(y), len(x)), np.float32))
        band.attrs["grid_mapping"] = "spatial_ref"
        mapping = dict(file["spatial_ref"].attrs)
    try:
        opened = rasterio.open(f"netcdf:{path}:band")
    except rasterio.errors.RasterioIOError:
        pytest.skip("this GDAL reads no netCDF")
    with opened as dataset:
        assert dataset.transform == netcdf_transform("cf.nc", x, y)
        assert pyproj.CRS(netcdf_crs({}, mapping)).equals(pyproj.CRS(dataset.crs.to_wkt()), ignore_axis_order=True)


@pytest.mark.parametrize("kind", ["Area", "Point"])
def test_point_and_area_of_geotiff_are_told_apart(tmp_path: Path, kind: str) -> None:
    """GDAL brings the tie point of a file whose numbers belong to points to the corner; it is told here to stay so."""
    from geocore.raster.geotiff import open_raster

    path = tmp_path / "a.tif"
    transform = rasterio.Affine(10, 0, 300_000, 0, -10, 4_700_040)
    options = {"driver": "GTiff", "count": 1, "dtype": "uint8", "height": 30, "width": 20, "crs": UTM.to_wkt()}
    with rasterio.open(path, "w", transform=transform, **options) as file:
        file.update_tags(AREA_OR_POINT=kind)
        file.write(np.ones((1, 30, 20), np.uint8))
    with open_raster(path) as scene:
        assert scene.grid.transform == NORTH_UP
