"""Real cubes of WorldCereal become patches: same pixels, codes and dates; what is not there is said in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pyproj
import pytest

from crops_activesampling.composites import patch_composites
from crops_activesampling.config import CompositeSettings
from crops_activesampling.s4a_format import PatchName, find_patches, open_patch
from crops_activesampling.worldcereal import (
    WorldcerealSettings,
    connected_parcels,
    s4a_codes,
    site_patch,
    worldcereal,
)
from geocore.errors import DataError

TWENTY = ["B05", "B06", "B07", "B8A", "B11", "B12"]


def write_cube(path: Path, bands: tuple[str, ...], size: int, *, scl: int = 4, scale: float = 1e-4) -> None:
    """Three dates over two years; values count up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"timestamp": 3, "y": size, "x": size}
        time = file.create_variable("timestamp", ("timestamp",), data=np.array([0, 86_400 * 200, 86_400 * 210]))
        time.attrs["units"] = "seconds since 2018-08-04 10:50:22"
        time.attrs["calendar"] = "proleptic_gregorian"
        for band in bands:
            values = 1 + np.arange(3 * size * size, dtype=np.uint16).reshape(3, size, size)
            file.create_variable(band, ("timestamp", "y", "x"), data=values).attrs["scale_factor"] = scale
        if scl:
            classes = np.full((3, size, size), scl, np.uint8)
            classes[1, 0, 0] = 9
            file.create_variable("SCL", ("timestamp", "y", "x"), data=classes)


def write_labels(path: Path, types: np.ndarray, corner: tuple[float, float] = (574_680.0, 5_622_440.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5netcdf.File(path, "w") as file:
        file.dimensions = dict(zip(("y", "x"), types.shape, strict=True))
        variable = file.create_variable("CT", ("y", "x"), data=types.astype(np.uint16))
        variable.attrs.update({"epsg": "32631", "tile": "31UES", "source": "2019_BE_LPIS"})
        file.create_variable("x", ("x",), data=corner[0] + 5 + 10.0 * np.arange(types.shape[1]))
        file.create_variable("y", ("y",), data=corner[1] - 5 - 10.0 * np.arange(types.shape[0]))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "cubes" / "site"
    types = np.repeat([[1110, 0], [9120, 1200]], 6, axis=0).repeat(6, axis=1)
    write_labels(folder / "OUTPUT_site.nc", types)
    write_cube(folder / "S2_L2A_10m_site.nc", ("B02", "B08"), 12, scl=0)
    write_cube(folder / "S2_L2A_20m_site.nc", ("B05", "B11"), 6)
    return folder


def test_a_site_becomes_a_patch_of_the_year_with_most_images(site: Path, tmp_path: Path) -> None:
    worldcereal(WorldcerealSettings(data=site.parent, out=tmp_path / "out"))
    (path,) = find_patches(tmp_path / "out")
    with open_patch(path) as patch:
        assert patch.name == PatchName(2019, "31UES", 20, 21)
        assert patch.bands == ("B02", "B05", "B08", "B11")
        assert patch.grid.transform[:6] == (10.0, 0.0, 574_680.0, 0.0, -10.0, 5_622_440.0)
        assert patch.times("B02").astype(str).tolist() == ["2019-02-20", "2019-03-02"]
        values, _ = patch.series("B05")
        # The class 9 of one pixel of 20 m is a cloud, which hides four of 10 m.
        expected = 1 + np.arange(36, 108, dtype=np.uint16).reshape(2, 6, 6)
        expected[0, 0, 0] = 0
        np.testing.assert_array_equal(values, expected)
        fine, _ = patch.series("B08")
        assert (fine[0] == 0).sum() == 4 and (fine[0, :2, :2] == 0).all() and fine[1].all()
        np.testing.assert_array_equal(patch.labels()[::6, ::6], [[110, 0], [912, 120]])
        np.testing.assert_array_equal(patch.parcels()[::6, ::6], [[1, 0], [3, 2]])


def test_clouds_stay_when_they_are_not_masked(site: Path) -> None:
    assert (site_patch(site, year=None, mask_clouds=False).bands["B08"][0] > 0).all()
    assert site_patch(site, year=2018, mask_clouds=True).bands["B08"][0].shape == (1, 12, 12)


def test_codes_are_the_groups_of_the_indicative_crop_classification() -> None:
    types = np.array([0, 1110, 1120, 1200, 1500, 1510, 1910, 5100, 8100, 9120], np.uint32)
    assert s4a_codes(types).tolist() == [0, 110, 110, 120, 150, 150, 190, 510, 810, 912]


def test_parcels_are_connected_areas_of_one_code() -> None:
    labels = np.array([[5, 5, 0, 5], [0, 5, 3, 3], [5, 0, 3, 0]], np.uint32)
    parcels = connected_parcels(labels)
    assert ((parcels == 0) == (labels == 0)).all()
    assert len(np.unique(parcels[labels == 5])) == 3
    assert len(np.unique(parcels[labels == 3])) == 1


def test_what_is_missing_is_one_line(site: Path, tmp_path: Path) -> None:
    def fails(rule: str, **options: Any) -> None:
        with pytest.raises(DataError, match=rule) as error:
            worldcereal(WorldcerealSettings(data=site.parent, out=tmp_path / "out", **options))
        assert "\n" not in str(error.value)

    fails("no image is of 2021: it has some of 2018, 2019", year=2021)
    write_cube(site / "S2_L2A_20m_site.nc", ("B05",), 6, scale=1.0)
    fails("B05 is uint16 with scale 1")
    write_cube(site / "S2_L2A_20m_site.nc", ("B05",), 5)
    fails(r"SCL is \(3, 5, 5\), the labels need \(3, 6, 6\)")
    write_cube(site / "S2_L2A_20m_more.nc", ("B05",), 6)
    fails("2 files are called")
    for path in site.glob("S2*"):
        path.unlink()
    fails("has none of")
    (site / "OUTPUT_site.nc").unlink()
    fails("no folder has OUTPUT")


def test_two_sites_of_one_place_are_refused(site: Path, tmp_path: Path) -> None:
    other = site.parent / "twin"
    write_labels(other / "OUTPUT_twin.nc", np.full((12, 12), 1110), (574_700.0, 5_622_400.0))
    write_cube(other / "S2_L2A_20m_twin.nc", ("B05",), 6)
    with pytest.raises(DataError, match="a patch is one site"):
        worldcereal(WorldcerealSettings(data=site.parent, out=tmp_path / "out"))


@pytest.mark.real
@pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA is not set")
def test_both_real_sites_become_patches_whose_crops_follow_the_season(tmp_path: Path) -> None:
    cubes = Path(os.environ["GEOCORE_DATA"]) / "sen4agri" / "worldcereal"
    worldcereal(WorldcerealSettings(data=cubes, out=tmp_path))
    west, east = find_patches(tmp_path)
    assert [PatchName.of(path).id for path in (west, east)] == ["2019_31UES_patch_07_08", "2019_31UES_patch_20_21"]
    for path, codes in ((west, [0, 110, 120, 190, 510, 912]), (east, [0, 110, 120, 150, 510, 810, 912])):
        with open_patch(path) as patch:
            assert patch.bands == (
                tuple(TWENTY)
                if path == west
                else ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
            )
            labels = patch.labels()
            assert np.unique(labels).tolist() == codes
            made = patch_composites(patch, CompositeSettings(bands=["B05", "B8A"]))
        assert made.medians.shape == (12, 2, 64, 64)
        assert not made.counts[11].any()  # the cubes end in November
        red, infrared = (made.medians[:, place].astype(float) for place in (0, 1))
        index = (infrared - red) / np.maximum(infrared + red, 1)
        wheat, maize = (np.median(index[:, labels == code], axis=1) for code in (110, 120))
        assert wheat[4] > maize[4] + 0.1  # May
        assert maize[7] > wheat[7] + 0.1  # August
    with h5netcdf.File(next(cubes.rglob("S2_L2A_10m_*.nc"))) as cube, open_patch(east) as patch:
        values, _ = patch.series("B04")
        raw = cube["B04"][...][-len(values) :]
        assert (values[values > 0] == raw[values > 0]).all()
        assert 0.2 < (values > 0).mean() < 0.8
    with open_patch(west) as patch:
        times = patch.times("B8A")
        # Two granules of one day, seconds apart, are two images.
        assert (times[1:] == times[:-1]).any()


def test_rows_that_run_to_the_north_and_a_crs_as_text_make_the_same_patch(site: Path, tmp_path: Path) -> None:
    """The same site written from south to north, its CRS in the variable of the grid mapping alone."""
    worldcereal(WorldcerealSettings(data=site.parent, out=tmp_path / "out"))
    turned = tmp_path / "turned" / "site"
    turned.mkdir(parents=True)
    for path in site.iterdir():
        with h5netcdf.File(path) as source, h5netcdf.File(turned / path.name, "w") as file:
            file.dimensions = {name: len(dimension) for name, dimension in source.dimensions.items()}
            for name, variable in source.variables.items():
                values = variable[...]
                values = np.flip(values, variable.dimensions.index("y")) if "y" in variable.dimensions else values
                file.create_variable(name, variable.dimensions, data=values).attrs.update(dict(variable.attrs))
            if "y" not in file.variables:
                size, ratio = file.dimensions["y"].size, 12 // file.dimensions["y"].size
                file.create_variable("y", ("y",), data=5_622_440.0 - 120 + 10.0 * ratio * (np.arange(size) + 0.5))
            if "CT" in file.variables:
                del file["CT"].attrs["epsg"]
                file["CT"].attrs["grid_mapping"] = "spatial_ref"
                mapping = file.create_variable("spatial_ref", (), data=np.int32(0))
                mapping.attrs["crs_wkt"] = pyproj.CRS("EPSG:32631").to_wkt()
    worldcereal(WorldcerealSettings(data=turned.parent, out=tmp_path / "again"))
    ((first,), (second,)) = (find_patches(tmp_path / name) for name in ("out", "again"))
    with open_patch(first) as one, open_patch(second) as other:
        assert one.grid.transform == other.grid.transform
        assert pyproj.CRS(one.grid.crs).equals(pyproj.CRS(other.grid.crs), ignore_axis_order=True)
        assert np.array_equal(one.labels(), other.labels())
        for band in one.bands:
            assert np.array_equal(one.series(band)[0], other.series(band)[0])
