"""Patches as their files have them: names, groups, times of all kinds, geometry, and files that are none."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pyproj
import pytest

from crops_activesampling import s4a_format
from crops_activesampling.cf_times import decode_times
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.s4a_format import RATIOS, PatchName, find_patches, open_patch, true_labels, truth_path
from geocore.errors import DataError

SIZE = 12
NAME = PatchName(2020, "31TCG", 14, 3)
DAYS = np.array(["2020-03-01", "2020-01-05", "2020-12-31"], "datetime64[D]")


def new_patch(bands: tuple[str, ...] = tuple(RATIOS), name: PatchName = NAME, size: int = SIZE) -> NewPatch:
    """A patch of counted values, whose images are not in the order of time."""
    series = {}
    for number, band in enumerate(bands):
        own = size // RATIOS[band]
        values = np.arange(3 * own * own, dtype=np.uint16).reshape(3, own, own) + 1000 * number
        series[band] = (values, DAYS + np.timedelta64(number, "D"))
    plane = np.arange(size * size, dtype=np.uint32).reshape(size, size)
    return NewPatch(name, (300_000.0, 4_700_040.0), "EPSG:32631", series, plane, plane + 70_000, {"title": "test"})


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    with h5netcdf.File(path, "a") as file:
        change(file)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_patch(tmp_path, new_patch())


def test_a_name_is_read_from_a_path_and_written_to_its_place() -> None:
    name = PatchName.of(Path("any/2020_31TCG_patch_14_03.nc"))
    assert name == NAME
    assert name.id == "2020_31TCG_patch_14_03"
    assert name.relative == "2020/31TCG/2020_31TCG_patch_14_03.nc"
    assert PatchName.of("2019_31TCJ_patch_5_2").id == "2019_31TCJ_patch_05_02"
    for wrong in ("2020_31TCG_14_03.nc", "x2020_31TCG_patch_14_03.nc", "2020_31TCG_patch_14_03.nc.npz"):
        with pytest.raises(DataError, match=r"rename the file|is no patch: patches are netCDF files"):
            PatchName.of(wrong)


def test_patches_are_found_in_any_depth_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [PatchName(2019, "31TCG", x, y) for x, y in ((2, 0), (10, 0), (2, 1))] + [PatchName(2020, "31TCF", 0, 0)]
    for name in names:
        write_patch(tmp_path / "deep", new_patch(("B02",), name))
    (tmp_path / "other.nc").touch()
    found = find_patches(tmp_path)
    assert [PatchName.of(path) for path in found] == sorted(names)
    assert find_patches(found[0]) == [found[0]]
    write_patch(tmp_path / "twice", new_patch(("B02",), names[0]))
    with pytest.raises(DataError, match="2 files of patch 2019_31TCG_patch_02_00"):
        find_patches(tmp_path)


def test_a_folder_without_patches_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs files such as"):
        find_patches(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        find_patches(tmp_path / "missing")


def test_a_patch_has_a_grid_and_bands_of_three_pixel_sizes(path: Path) -> None:
    with open_patch(path) as patch:
        assert patch.name == NAME
        assert patch.bands == tuple(RATIOS)
        assert patch.grid.shape == (SIZE, SIZE)
        assert patch.grid.transform[:6] == (10.0, 0.0, 300_000.0, 0.0, -10.0, 4_700_040.0)
        assert (patch.grid.crs, patch.grid.length_unit) == ("EPSG:32631", "m")
        for band, size in (("B08", 12), ("B8A", 6), ("B10", 2)):
            values, _ = patch.series(band)
            assert values.shape == (3, size, size)
            assert values.dtype == np.uint16
        plane = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
        for values, expected in ((patch.labels(), plane), (patch.parcels(), plane + 70_000)):
            assert values.dtype == np.uint32
            np.testing.assert_array_equal(values, expected)


def test_images_are_sorted_by_time_with_their_values(path: Path) -> None:
    with open_patch(path) as patch:
        for number, band in ((0, "B01"), (1, "B02")):
            values, times = patch.series(band)
            np.testing.assert_array_equal(times, np.sort(DAYS) + np.timedelta64(number, "D"))
            np.testing.assert_array_equal(patch.times(band), times)
            # In the file the images came in the order 1, 0, 2 of time.
            assert values[:, 0, 0].tolist() == [1000 * number + image * values[0].size for image in (1, 0, 2)]


def test_opening_reads_no_images(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = h5py.Dataset.__getitem__

    def spy(variable: Any, key: Any) -> Any:
        read.append(variable.name)
        return original(variable, key)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    chunks = s4a_format.read_dataset
    monkeypatch.setattr(s4a_format, "read_dataset", lambda variable: (read.append(variable.name), chunks(variable))[1])
    with open_patch(path) as patch:
        # The coordinates alone, to compare the transform with.
        assert set(read) == {"/labels/x", "/labels/y"}
        read.clear()
        patch.times("B02")
        assert set(read) == {"/B02/time"}


@pytest.mark.parametrize(
    "attributes, values",
    [
        ({"units": "days since 2019-12-31", "calendar": "proleptic_gregorian"}, np.array([2, 367])),
        ({"units": "days since 1970-01-01 00:00:00"}, np.array([18263.0, 18628.0])),
        ({"units": "hours since 2020-01-01T12:00:00Z", "calendar": "standard"}, np.array([12, 8772], np.int32)),
        ({"units": "seconds since 2020-1-1 0:0:0"}, np.array([86_400, 31_622_400])),
        ({"units": "days since 0001-01-01", "calendar": "proleptic_gregorian"}, np.array([737425, 737790])),
    ],
)
def test_times_count_from_any_reference_date(attributes: dict[str, str], values: np.ndarray) -> None:
    times = decode_times(values, attributes, "here")
    # 2020 was a leap year.
    assert times.astype("datetime64[s]").astype(str).tolist() == ["2020-01-02T00:00:00", "2021-01-01T00:00:00"]


@pytest.mark.parametrize(
    "attributes, rule",
    [
        ({}, "give units such as"),
        ({"units": "months since 2020-01-01"}, "give units such as"),
        ({"units": "days since 2020-13-01"}, "give units such as"),
        ({"units": "days since 2020-01-01", "calendar": "360_day"}, "360_day"),
        ({"units": "days since 0001-01-01", "calendar": "standard"}, "ambiguous"),
    ],
)
def test_times_that_cannot_be_told_are_one_line(attributes: dict[str, str], rule: str) -> None:
    with pytest.raises(DataError, match=rule) as error:
        decode_times(np.array([1, 2]), attributes, "here")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="not a number"):
        decode_times(np.array([1, np.nan]), {"units": "days since 2020-01-01"}, "here")
    # Both were other dates, in silence.
    for far in (np.array([1, 1e300]), np.array([1, 2**62])):
        with pytest.raises(DataError, match=r"here has a time \d.* days since 2020-01-01: must lie within 8000 years"):
            decode_times(far, {"units": "days since 2020-01-01"}, "here")


def test_a_time_that_occurs_twice_is_refused_but_two_images_of_a_day_are_not(tmp_path: Path) -> None:
    twice = new_patch(("B02",))
    values, times = twice.bands["B02"]
    path = write_patch(tmp_path, NewPatch(**{**_fields(twice), "bands": {"B02": (values, times[[0, 1, 0]])}}))
    with open_patch(path) as patch, pytest.raises(DataError, match="2020-03-01T00:00:00 more than once"):
        patch.series("B02")
    hours = times.astype("datetime64[s]")[[0, 1, 0]] + np.array([3, 0, 0], "timedelta64[h]")
    path = write_patch(tmp_path, NewPatch(**{**_fields(twice), "bands": {"B02": (values, hours)}}))
    with open_patch(path) as patch:
        read, days = patch.series("B02")
        assert days.astype(str).tolist() == ["2020-01-05", "2020-03-01", "2020-03-01"]
        np.testing.assert_array_equal(read, values[[1, 2, 0]])


def _fields(patch: NewPatch) -> dict[str, Any]:
    return {name: getattr(patch, name) for name in NewPatch.__dataclass_fields__}


def test_a_band_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with open_patch(write_patch(tmp_path, new_patch(("B02", "B8A")))) as patch:
        assert patch.bands == ("B02", "B8A")
        with pytest.raises(DataError, match=r"no B04: the file holds B02, B8A, labels, parcels"):
            patch.series("B04")
        with pytest.raises(DataError, match="no B04"):
            patch.times("B04")


def test_a_patch_without_bands_of_10_m_has_the_grid_of_its_labels(tmp_path: Path) -> None:
    path = write_patch(tmp_path, new_patch(("B05", "B11")))
    with open_patch(path) as patch:
        assert patch.grid.shape == (SIZE, SIZE)
        assert patch.grid.transform[:6] == (10.0, 0.0, 300_000.0, 0.0, -10.0, 4_700_040.0)

    def without_labels(file: Any) -> None:
        for group in ("labels", "parcels"):
            del file._h5file[group]

    with open_patch(changed(path, without_labels)) as patch:
        assert patch.grid.shape == (SIZE, SIZE)
        assert patch.grid.transform[:6] == (10.0, 0.0, 300_000.0, 0.0, -10.0, 4_700_040.0)
        with pytest.raises(DataError, match="no labels"):
            patch.labels()


def test_the_georeference_is_found_without_attributes(path: Path) -> None:
    def strip(file: Any) -> None:
        for name in ("transform", "crs"):
            del file["labels"]["labels"].attrs._h5attrs[name]

    with open_patch(changed(path, strip)) as patch:
        assert patch.grid.transform[:6] == (10.0, 0.0, 300_000.0, 0.0, -10.0, 4_700_040.0)
        assert patch.grid.crs == "EPSG:32631"


def test_another_fill_value_becomes_no_data(path: Path) -> None:
    def fill(file: Any) -> None:
        file["B02"]["B02"].attrs["_FillValue"] = np.uint16(1005)

    with open_patch(path) as patch:
        before, _ = patch.series("B02")
    with open_patch(changed(path, fill)) as patch:
        after, _ = patch.series("B02")
    assert (before == 1005).sum() == 1
    np.testing.assert_array_equal(after, np.where(before == 1005, 0, before))


def test_what_is_no_patch_is_one_line(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "2020_31TCG_patch_00_00.nc"
    cases: list[tuple[bytes | None, str]] = [
        (None, "check the path"),
        (b"", "is empty"),
        (b"no netCDF", "is no netCDF file"),
        (path.read_bytes()[:3000], "truncated|ends early|damaged"),
    ]
    for content, rule in cases:
        if content is not None:
            other.write_bytes(content)
        with pytest.raises(DataError, match=rule) as error, open_patch(other) as patch:
            patch.series("B02")
        assert "\n" not in str(error.value)
    other.unlink()
    with h5netcdf.File(other, "w") as file:
        file.create_group("bands")
    with pytest.raises(DataError, match="holds bands: a patch has groups such as B02"), open_patch(other):
        pass


def test_sizes_and_types_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    good = new_patch(("B02", "B05"))
    wrong = NewPatch(**{**_fields(good), "bands": {"B05": (np.ones((3, 5, 6), np.uint16), DAYS)}})
    with pytest.raises(DataError, match="B05 has 5 x 6 pixels of 20 m, but labels covers 12 x 12 of 10 m"):
        open_patch(write_patch(tmp_path, wrong))
    floats: Any = np.ones((3, 12, 12), np.float32)
    wrong = NewPatch(**{**_fields(good), "bands": {"B02": (floats, DAYS)}})
    with open_patch(write_patch(tmp_path, wrong)) as patch, pytest.raises(DataError, match="DN are uint16"):
        patch.series("B02")


def test_a_chunk_that_is_too_short_is_one_line(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["B02/B02"].id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(10)))
    with (
        open_patch(path) as patch,
        pytest.raises(DataError, match=r"B02 cannot be read \(a chunk of 864 bytes holds 10\): copy it") as error,
    ):
        patch.series("B02")
    assert "\n" not in str(error.value)


def test_texts_of_a_fixed_length_are_read(path: Path) -> None:
    with open_patch(path) as patch:
        expected = patch.times("B02"), patch.grid

    def fix(file: Any) -> None:
        for variable, name in (("B02/time", "units"), ("B02/time", "calendar"), ("labels/labels", "crs")):
            attributes = file._h5file[variable].attrs
            attributes[name] = np.bytes_(attributes[name].encode())

    with open_patch(changed(path, fix)) as patch:
        np.testing.assert_array_equal(patch.times("B02"), expected[0])
        assert patch.grid == expected[1]


def replace_plane(path: Path, group: str, values: np.ndarray) -> None:
    with h5py.File(path, "a") as file:
        del file[group][group]
        file[group].create_dataset(group, data=values)


@pytest.mark.parametrize(
    ("dtype", "none", "fill"),
    [
        ("int32", -1, None),
        ("int16", -32768, None),
        ("uint32", 4294967295, 0),
        ("uint64", 18446744073709551615, 0),
        ("int64", 9999, 9999),
        ("uint16", 65535, 65535),
        ("float64", np.nan, None),
        ("float32", -9999.0, -9999.0),
    ],
)
@pytest.mark.parametrize("group", ["labels", "parcels"])
def test_where_there_is_none_is_neither_label_nor_parcel(
    path: Path, group: str, dtype: str, none: float, fill: float | None
) -> None:
    expected = np.arange(SIZE * SIZE, dtype=np.uint32).reshape(SIZE, SIZE)
    values = expected.astype(dtype)
    values[:3] = none
    replace_plane(path, group, values)
    if fill is not None:
        with h5py.File(path, "a") as file:
            file[group][group].attrs["_FillValue"] = np.dtype(dtype).type(fill)
    with open_patch(path) as patch:
        found = patch.labels() if group == "labels" else patch.parcels()
    expected[:3] = 0
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, expected)


def test_numbers_that_do_not_fit_are_refused_instead_of_wrapped(path: Path) -> None:
    plane = np.zeros((SIZE, SIZE))
    for number, message in ((2.0**33, "holds 8589934592: numbers up to 4294967294"), (1.5, "holds 1.5")):
        plane[4, 4] = number
        replace_plane(path, "parcels", plane)
        with open_patch(path) as patch, pytest.raises(DataError, match=f"parcels {message}"):
            patch.parcels()


def test_true_labels_lie_beside_the_patch(path: Path) -> None:
    assert true_labels(path) is None
    codes = np.arange(4, dtype=np.uint32).reshape(2, 2)
    np.savez_compressed(truth_path(path), codes=codes)
    found = true_labels(path)
    assert found is not None
    np.testing.assert_array_equal(found, codes)
    truth_path(path).write_bytes(b"PK")
    with pytest.raises(DataError, match="make the sample again"):
        true_labels(path)
    assert find_patches(path.parent) == [path]


@pytest.mark.parametrize("reader", ["netCDF4", "xarray"])
def test_other_libraries_read_what_is_written(path: Path, reader: str) -> None:
    library = pytest.importorskip(reader)
    with open_patch(path) as patch:
        expected, days = patch.series("B11")
    if reader == "xarray":
        with library.open_dataset(path, group="B11", engine="h5netcdf") as data:
            ordered = data.sortby("time")
            values, times = ordered["B11"].values, ordered["time"].values
            assert ordered["B11"].dims == ("time", "y", "x")
            assert data["x"].values.tolist() == [300_000.0 + 20 * col for col in range(6)]
            assert int(data["band"]) == 1
    else:
        with library.Dataset(path) as file:
            file.set_auto_mask(False)
            group = file["B11"]
            counted = np.asarray(group["time"][...])
            times = np.datetime64(group["time"].units.split()[2]) + counted.astype("timedelta64[D]")
            values, times = np.asarray(group["B11"][...])[np.argsort(times)], np.sort(times)
            assert file.patch_full_name == NAME.id
            assert group["B11"].crs == "+init=epsg:32631"
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(times.astype("datetime64[D]"), days)


def _declare(**attributes: Any) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        for key, value in attributes.items():
            file["B02"]["B02"].attrs[key] = value

    return change


def test_numbers_are_brought_to_those_of_the_first_products(path: Path) -> None:
    """1000 and -0.1 stand for 0 since January 2022; what is not above is 1, since 0 is no data."""
    with open_patch(path) as patch:
        stored, times = patch.series("B02")
    stored = stored.copy()
    expected = np.where(stored == 0, 0, np.clip(stored.astype(int) - 1000, 1, None)).astype(np.uint16)
    changed(path, _declare(scale_factor=1e-4, add_offset=-0.1))
    with open_patch(path) as patch:
        found, same = patch.series("B02")
        assert patch.added == {"B02": 1000}
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(same, times)
    assert (expected == 1).any() and (expected > 1).any()


def test_a_scale_alone_changes_nothing(path: Path) -> None:
    with open_patch(path) as patch:
        stored = patch.series("B02")[0].copy()
    changed(path, _declare(scale_factor=np.float32(1e-4), missing_value=np.uint16(7)))
    with open_patch(path) as patch:
        np.testing.assert_array_equal(patch.series("B02")[0], np.where(stored == 7, 0, stored))


@pytest.mark.parametrize(
    "attributes",
    [
        {"scale_factor": 1e-3},
        {"scale_factor": 1e-4, "add_offset": 0.00005},
        {"scale_factor": 1e-4, "add_offset": 1e300},
    ],
)
def test_numbers_that_are_no_dn_are_one_line(path: Path, attributes: dict[str, float]) -> None:
    changed(path, _declare(**attributes))
    with open_patch(path) as patch, pytest.raises(DataError, match="B02 has scale_factor .*write the file again"):
        patch.series("B02")


@pytest.mark.parametrize("how", ["centres", "corners", "transform of the tile", "north", "grid mapping"])
def test_a_patch_lies_where_its_file_says_it_in_each_way(tmp_path: Path, how: str) -> None:
    path = write_patch(tmp_path, new_patch(("B02", "B8A")))
    with h5py.File(path, "r+") as file:
        for name in ("B02", "B8A", "labels", "parcels"):
            group = file[name]
            stated = group[name].attrs["transform"]
            if how != "transform of the tile":
                del group[name].attrs["transform"]
            else:
                group[name].attrs["transform"] = stated + np.array([0, 0, -stated[0] * 900, 0, 0, stated[0] * 300])
            if how in ("centres", "north"):
                group["x"][...] += stated[0] / 2
                group["y"][...] -= stated[0] / 2
            if how == "north":
                group["y"][...] = group["y"][...][::-1]
            if how == "grid mapping":
                del group[name].attrs["crs"]
                group[name].attrs["grid_mapping"] = "utm"
                group.create_dataset("utm", data=0).attrs["crs_wkt"] = pyproj.CRS("EPSG:32630").to_wkt()
    with open_patch(path) as patch:
        north = 4_700_040.0 - 10 * SIZE
        expected = (10.0, 0.0, 300_000.0, 0.0, *((10.0, north) if how == "north" else (-10.0, 4_700_040.0)))
        assert patch.grid.transform[:6] == expected
        assert pyproj.CRS(patch.grid.crs).to_epsg() == (32630 if how == "grid mapping" else 32631)
