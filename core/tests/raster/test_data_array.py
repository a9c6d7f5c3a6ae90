"""Scenes as xarray's arrays: labels, places, units and missing pixels."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import xarray
from affine import Affine

from geocore.errors import SettingsError
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene

UTM = Grid(3, 4, Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")
VALUES = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)


def scene(grid: Grid = UTM) -> Scene:
    bands = Bands((Band("red", unit="1", scale=1e-4, nodata=0), Band("nir", scale=1e-4, nodata=0)))
    return Scene("a", grid, {"image": ArrayReader(Layer("image", bands, "uint16"), VALUES)})


def test_bands_places_and_missing_pixels_are_labelled() -> None:
    found = scene().to_xarray()
    assert isinstance(found, xarray.DataArray)
    assert found.dims == ("band", "y", "x") and found.name == "a" and found.dtype == np.float32
    assert found.band.values.tolist() == ["red", "nir"]
    assert found.x.values.tolist() == [500005.0, 500015.0, 500025.0, 500035.0]
    assert found.y.values.tolist() == [7999995.0, 7999985.0, 7999975.0]
    assert float(found.sel(band="nir").sel(x=500017, y=7999984, method="nearest")) == VALUES[1, 1, 1]
    assert np.isnan(found.values[0, 0, 0]) and np.isnan(found.values).sum() == 1
    assert found.scale.values.tolist() == [1e-4, 1e-4] and found.unit.values.tolist() == ["1", ""]
    assert "offset" not in found.coords
    assert found.spatial_ref.attrs["GeoTransform"] == "500000.0 10.0 0.0 8000000.0 0.0 -10.0"
    assert "32652" in found.spatial_ref.attrs["crs_wkt"]


def test_a_part_lies_where_it_lay() -> None:
    part = scene().to_xarray(Window(1, 2, 2, 2))
    assert part.x.values.tolist() == [500025.0, 500035.0] and part.y.values.tolist() == [7999985.0, 7999975.0]
    np.testing.assert_array_equal(part.values, VALUES[:, 1:, 2:].astype(np.float32))
    same = scene().to_xarray(bounds=(500020.0, 7999970.0, 500040.0, 7999990.0))
    xarray.testing.assert_identical(part, same)


def test_a_turned_grid_has_a_transform_and_no_axes() -> None:
    turned = Grid(3, 4, Affine.translation(5e5, 8e6) @ Affine.rotation(30) @ Affine.scale(10, -10), "EPSG:32652")
    found = scene(turned).to_xarray()
    assert "x" not in found.coords and len(found.spatial_ref.attrs["GeoTransform"].split()) == 6
    assert "spatial_ref" not in scene(Grid(3, 4)).to_xarray().coords


def test_dates_are_an_axis_and_wide_integers_stay_exact() -> None:
    layer = Layer("ice", Bands.named("sic"), "int32", times=("2020-01-01", "2020-02-01"))
    values = np.array([2**24 + 1, 5], np.int32).reshape(2, 1, 1, 1)
    found = Scene("a", Grid(1, 1), {"ice": ArrayReader(layer, values)}).to_xarray()
    assert found.dims == ("time", "band", "y", "x") and found.dtype == np.float64
    assert found.sel(time="2020-01-01").values.ravel().tolist() == [2**24 + 1]


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "xarray":
            raise ImportError(name)
        return imported(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r'xarray is not installed: pip install "geocore\[xarray\]"'):
        scene().to_xarray()
