"""netCDF files as layers: laziness, masks, types, and files that are not what they should be."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5netcdf
import numpy as np
import pytest

from geocore.errors import SceneError
from geocore.raster.grid import Grid, Window
from geocore.raster.netcdf import NetcdfReader, new_netcdf, open_netcdf
from geocore.raster.scene import Scene

SHAPE = (30, 40)


def _planes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(SHAPE).astype(np.float32) for name in ("hh", "hv")}


def _write(path: Path, planes: dict[str, np.ndarray], **attributes: dict[str, object]) -> Path:
    with h5netcdf.File(path, "w") as file:
        file.attrs["title"] = "a scene"
        for name, values in planes.items():
            dimensions = tuple(f"{name}_{axis}" for axis in range(values.ndim))
            file.dimensions.update(dict(zip(dimensions, values.shape, strict=True)))
            variable = file.create_variable(name, dimensions, values.dtype, data=values)
            for key, value in attributes.get(name, {}).items():
                variable.attrs[key] = value
    return path


def test_a_file_says_what_it_holds(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", _planes(), hh={"units": "dB", "gain": np.int64(3)})
    with open_netcdf(path) as file:
        assert file.attributes["title"] == "a scene"
        assert file.dimensions["hh_0"] == 30
        assert file.variables["hh"].shape == SHAPE
        assert file.variables["hh"].attributes["gain"] == 3
        assert file.variables["hh"].dtype == np.float32


def test_bands_come_in_the_order_asked_for(tmp_path: Path) -> None:
    planes = _planes()
    source = NetcdfReader(_write(tmp_path / "a.nc", planes), ["hv", "hh"], layer="sar")
    assert source.layer.bands.names == ("hv", "hh")
    patch = source.read(Window(3, 5, 7, 11))
    np.testing.assert_array_equal(patch.values, np.stack([planes["hv"], planes["hh"]])[:, 3:10, 5:16])
    source.close()


def test_each_band_has_its_own_mask(tmp_path: Path) -> None:
    planes = _planes()
    planes["hh"][2, 3] = 0
    planes["hv"][4, 5] = np.nan
    planes["hv"][6, 7] = 0
    source = NetcdfReader(_write(tmp_path / "a.nc", planes), ["hh", "hv"], layer="sar", nodata={"hh": 0})
    patch = source.read(Window(0, 0, *SHAPE))
    assert np.argwhere(~patch.valid).tolist() == [[0, 2, 3], [1, 4, 5]]
    assert [band.nodata for band in source.layer.bands] == [0, None]


def test_fill_values_of_the_file_are_invalid(tmp_path: Path) -> None:
    planes = _planes()
    planes["hh"][2, 3] = -999
    source = NetcdfReader(_write(tmp_path / "a.nc", planes, hh={"missing_value": -999.0}), ["hh"], layer="sar")
    assert source.layer.bands["hh"].nodata == -999
    assert np.argwhere(~source.read(Window(0, 0, *SHAPE)).valid).tolist() == [[0, 2, 3]]


def test_types_are_joined_and_byte_orders_made_native(tmp_path: Path) -> None:
    planes = {"a": np.arange(1200, dtype=">i2").reshape(SHAPE), "b": np.full(SHAPE, 0.1)}
    attributes = {"a": {"scale_factor": 0.5, "add_offset": 2.0}}
    source = NetcdfReader(_write(tmp_path / "a.nc", planes, **attributes), ["a", "b"], layer="x")
    patch = source.read(Window(0, 0, 2, 3))
    assert source.layer.dtype == "float64" and patch.values.dtype == np.dtype("=f8")
    assert patch.values[:, 1, 2].tolist() == [42.0, 0.1]
    assert (source.layer.bands["a"].scale, source.layer.bands["a"].offset) == (0.5, 2.0)


def test_a_window_reads_only_its_part(tmp_path: Path) -> None:
    path = tmp_path / "large.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"row": 4096, "col": 4096}
        # Never written, so that the file stays small: 64 MiB once they are read.
        file.create_variable("hh", ("row", "col"), "f4", chunks=(256, 256), fillvalue=1.0)
    tracemalloc.start()
    with Scene("s", Grid(4096, 4096), {"sar": NetcdfReader(path, ["hh"], layer="sar")}) as scene:
        patch = scene.read_layers(Window(1000, 1000, 256, 256))["sar"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert patch.values.shape == (1, 256, 256) and patch.values.min() == 1
    # A window is 0.26 MB and is held a few times; importing h5netcdf takes some more.
    assert peak < 16e6


def test_several_threads_may_read(tmp_path: Path) -> None:
    planes = _planes()
    source = NetcdfReader(_write(tmp_path / "a.nc", planes), ["hh", "hv"], layer="sar")
    windows = [Window(row, col, 5, 5) for row in range(0, 25, 5) for col in range(0, 35, 5)]
    with ThreadPoolExecutor(4) as pool:
        for window, patch in zip(windows, pool.map(source.read, windows), strict=True):
            np.testing.assert_array_equal(patch.values[0], planes["hh"][window.slices])


def test_a_list_of_strings_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with h5netcdf.File(path, "w") as file:
        import h5py

        file.dimensions = {"n": 2}
        file.create_variable("codes", ("n",), h5py.string_dtype(), data=np.array(["id;CT", "1;92"], dtype=object))
        file.create_variable("number", ("n",), "f4", data=np.zeros(2, "f4"))
    with open_netcdf(path) as opened:
        assert opened.text("codes") == ["id;CT", "1;92"]
        with pytest.raises(SceneError, match="'number' must be a list of strings"):
            opened.text("number")


def _one_line(error: pytest.ExceptionInfo[SceneError], path: Path) -> None:
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_missing_variable_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", _planes())
    with pytest.raises(SceneError, match="no variable 'vv': the file holds hh, hv") as error:
        NetcdfReader(path, ["hh", "vv"], layer="sar")
    _one_line(error, path)


@pytest.mark.parametrize(
    "planes, rule",
    [
        ({"hh": np.zeros((3, 4)), "hv": np.zeros((3, 5))}, "'hv' is 3 x 5, but 'hh' is 3 x 4"),
        ({"hh": np.zeros(3), "hv": np.zeros((3, 5))}, "'hh' is 3 of float64: a band must be rows x columns"),
        ({"hh": np.zeros((0, 4)), "hv": np.zeros((0, 4))}, "'hh' is 0 x 4"),
    ],
)
def test_bands_of_another_shape_are_refused(tmp_path: Path, planes: dict[str, np.ndarray], rule: str) -> None:
    path = _write(tmp_path / "a.nc", planes)
    with pytest.raises(SceneError, match=rule) as error:
        NetcdfReader(path, ["hh", "hv"], layer="sar")
    _one_line(error, path)


def test_a_file_cut_short_is_said_to_be(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nc", _planes())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneError, match="incomplete") as error:
        NetcdfReader(path, ["hh"], layer="sar")
    _one_line(error, path)


def test_damaged_content_is_said_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"row": 64, "col": 64}
        values = np.random.default_rng(0).standard_normal((64, 64))
        file.create_variable("hh", ("row", "col"), "f8", data=values, chunks=(64, 64), compression="gzip")
    content = bytearray(path.read_bytes())
    # The packed chunk is by far the longest part of the file, so that its middle lies inside.
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(bytes(content))
    source = NetcdfReader(path, ["hh"], layer="sar")
    with pytest.raises(SceneError, match="variable 'hh' cannot be read .* damaged") as error:
        source.read(Window(0, 0, 64, 64))
    _one_line(error, path)


@pytest.mark.parametrize(
    "content, rule",
    [
        (b"", "is empty"),
        (b"P5 20 20 255 and so on", "is no netCDF file"),
        (b"CDF\x01" + bytes(100), "is netCDF-3"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, rule: str) -> None:
    path = tmp_path / "a.nc"
    path.write_bytes(content)
    with pytest.raises(SceneError, match=rule) as error:
        NetcdfReader(path, ["hh"], layer="sar")
    _one_line(error, path)


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="No such file") as error, open_netcdf(tmp_path / "none.nc"):
        pass
    _one_line(error, tmp_path / "none.nc")


def test_a_new_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new/a.nc"

    def write(values: np.ndarray) -> None:
        with new_netcdf(path) as file:
            file.dimensions = {"row": 3, "col": 4}
            file.create_variable("hh", ("row", "col"), "f4", data=values[:2])

    with pytest.raises(ValueError, match="Shape"):
        write(np.zeros((3, 4), np.float32))
    assert not path.exists()
    with new_netcdf(path) as file:
        file.dimensions = {"row": 3, "col": 4}
        file.create_variable("hh", ("row", "col"), "f4", data=np.arange(12, dtype="f4").reshape(3, 4))
        assert not path.exists()
    with open_netcdf(path) as read:
        assert read.read("hh", Window(1, 1, 2, 2)).tolist() == [[5, 6], [9, 10]]
    assert [entry.name for entry in path.parent.iterdir()] == ["a.nc"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of the size of files")
def test_where_a_new_file_has_no_room_the_process_lives_and_says_so(tmp_path: Path) -> None:
    # HDF5 itself, writing to the disk, ends with a segmentation fault as it closes the file.
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from geocore.raster.netcdf import new_netcdf
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
try:
    with new_netcdf(Path(sys.argv[1])) as file:
        file.dimensions = {"row": 100, "col": 100}
        file.create_variable("hh", ("row", "col"), "f8", data=np.random.rand(100, 100), chunks=(50, 50))
except Exception as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.nc"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "DiskError\n", "")
    assert list(tmp_path.iterdir()) == []


def test_plain_hdf5_tells_what_it_holds(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "a.nc"
    with h5py.File(path, "w") as file:
        file["image"] = np.zeros((3, 4))
    with pytest.raises(SceneError, match="no variable 'hh': the file holds image"):
        NetcdfReader(path, ["hh"], layer="sar")


def test_the_module_loads_neither_torch_nor_h5netcdf() -> None:
    code = "import sys, geocore.raster.netcdf; print([m for m in ('torch', 'h5netcdf', 'h5py') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
