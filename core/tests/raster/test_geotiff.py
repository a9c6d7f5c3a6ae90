from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from geocore.errors import DiskError, SceneError, StorageError
from geocore.raster.geotiff import RasterReader, open_raster, open_rasters
from geocore.raster.grid import ControlPoint, Grid, Window
from geocore.raster.scene import Patch, Scene
from geocore.raster.write import RasterWriter, write_raster

UTM = Grid(60, 70, (10.0, 0.0, 500000.0, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def image(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(1, np.iinfo(dtype).max, shape).astype(dtype)


def save(path: Path, values: np.ndarray[Any, Any], driver: str = "GTiff", **options: Any) -> Path:
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype=values.dtype, **options
    ) as file:
        file.write(values)
    return path


def whole(path: Path, **options: Any) -> Any:
    with open_raster(path, **options) as scene:
        return scene.read_layers(scene.grid.whole)["image"]


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_windows_of_every_type_in_native_values(tmp_path: Path, dtype: str, endian: str) -> None:
    values = image((3, 60, 70), dtype)
    path = save(tmp_path / "a.tif", values, endianness=endian, tiled=True, blockxsize=32, blockysize=16)
    assert path.read_bytes()[:2] == (b"II" if endian == "LITTLE" else b"MM")
    with open_raster(path) as scene:
        patch = scene.read_layers(Window(7, 9, 40, 33))["image"]
        assert scene.name == "a"
        assert scene.layers["image"].dtype == dtype
    np.testing.assert_array_equal(patch.values, values[:, 7:47, 9:42])
    assert patch.values.dtype.isnative
    assert patch.valid.all()


def test_window_reaching_outside_is_padded(tmp_path: Path) -> None:
    values = image((2, 20, 30), "uint16")
    with open_raster(save(tmp_path / "a.tif", values, nodata=0)) as scene:
        patch = scene.read_layers(Window(-5, 25, 40, 10))["image"]
    expected = np.zeros((2, 40, 10), "uint16")
    expected[:, 5:25, :5] = values[:, :, 25:]
    np.testing.assert_array_equal(patch.values, expected)
    np.testing.assert_array_equal(patch.valid, expected > 0)


@pytest.mark.parametrize(("driver", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("GTiff", ".tiff")])
def test_photographs_have_no_georeference(tmp_path: Path, driver: str, suffix: str) -> None:
    path = save(tmp_path / f"photo{suffix}", image((3, 20, 30), "uint8"), driver)
    with open_raster(path) as scene:
        assert scene.grid == Grid(20, 30)
        assert scene.layers["image"].bands.names == ("1", "2", "3")
        patch = scene.read_layers(scene.grid.whole)["image"]
    assert patch.values.shape == (3, 20, 30)
    assert patch.valid.shape == (1, 20, 30)


@pytest.mark.filterwarnings("error")
def test_no_warning_about_missing_georeference(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", image((20, 30), "uint8"), grid=Grid(20, 30))
    assert whole(tmp_path / "a.tif").valid.all()


@pytest.mark.parametrize("nodata", [np.nan, -np.inf, np.inf, -9999.0, None])
def test_float_nodata_and_nan_are_invalid_per_band_and_keep_their_value(tmp_path: Path, nodata: float | None) -> None:
    values = image((2, 8, 8), "float32")
    values[0, 1, 1] = np.nan
    values[1, 2, 2] = np.nan if nodata is None else nodata
    patch = whole(save(tmp_path / "a.tif", values, nodata=nodata))
    expected = np.ones((2, 8, 8), bool)
    expected[0, 1, 1] = expected[1, 2, 2] = False
    np.testing.assert_array_equal(patch.valid, expected)
    np.testing.assert_array_equal(patch.values, values)


def test_nodata_override_takes_the_place_of_the_files(tmp_path: Path) -> None:
    values = np.array([[[0, 1, 2]]], "uint8")
    path = save(tmp_path / "a.tif", values, nodata=0)
    assert whole(path).valid.tolist() == [[[False, True, True]]]
    assert whole(path, nodata=2).valid.tolist() == [[[True, True, False]]]


@pytest.mark.parametrize(("driver", "name"), [("GTiff", "a.tif"), ("PNG", "a.png")])
def test_alpha_is_the_mask_and_not_a_band(tmp_path: Path, driver: str, name: str) -> None:
    values = image((4, 9, 9), "uint8")
    values[3, :4] = 0
    options = {"photometric": "RGB", "alpha": "YES"} if driver == "GTiff" else {}
    patch = whole(save(tmp_path / name, values, driver, **options))
    np.testing.assert_array_equal(patch.values, values[:3])
    np.testing.assert_array_equal(patch.valid, values[3:] != 0)


def test_mask_band_and_nodata_both_count(tmp_path: Path) -> None:
    values = image((2, 9, 9), "uint8")
    values[0, 8, 8] = 0
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=2, height=9, width=9, dtype="uint8", nodata=0
    ) as file:
        file.write(values)
        mask = np.ones((9, 9), bool)
        mask[0] = False
        file.write_mask(mask)
    patch = whole(tmp_path / "a.tif")
    expected = np.broadcast_to(mask, (2, 9, 9)).copy()
    expected[0, 8, 8] = False
    np.testing.assert_array_equal(patch.valid, expected)


def test_mask_band_alone_is_shared_by_the_bands(tmp_path: Path) -> None:
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=2, height=9, width=9, dtype="uint8") as file:
        file.write(image((2, 9, 9), "uint8"))
        file.write_mask(np.eye(9, dtype=bool))
    np.testing.assert_array_equal(whole(tmp_path / "a.tif").valid, np.eye(9, dtype=bool)[np.newaxis])


def test_bands_are_read_by_description_or_number_in_the_order_asked(tmp_path: Path) -> None:
    values = image((3, 5, 5), "uint16")
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=3, height=5, width=5, dtype="uint16") as file:
        file.write(values)
        file.set_band_description(1, "B02")
        file.set_band_description(3, "B8A")
        file.units = ("1", None, None)
        file.scales = (1e-4, 1.0, 1.0)
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.layers["image"].bands.names == ("B02", "2", "B8A")
        band = scene.layers["image"].bands["B02"]
        assert (band.unit, band.scale) == ("1", 1e-4)
    with open_raster(tmp_path / "a.tif", bands=("B8A", "1"), layer="s2") as scene:
        np.testing.assert_array_equal(scene.read_layers(scene.grid.whole)["s2"].values, values[[2, 0]])
        assert scene.layers["s2"].bands.names == ("B8A", "1")
    for missing in ("B05", "4", "0"):
        with pytest.raises(SceneError, match="B02, 2, B8A"):
            open_raster(tmp_path / "a.tif", bands=(missing,))


def test_repeated_descriptions_give_way_to_numbers(tmp_path: Path) -> None:
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=2, height=5, width=5, dtype="uint8") as file:
        file.descriptions = ("band", "band")
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.layers["image"].bands.names == ("1", "2")


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("kind", ["plain", "nodata", "float", "alpha", "mask", "mixed"])
def test_pixels_decoded_into_a_part_of_an_array_are_those_that_are_read(
    tmp_path: Path, kind: str, interleave: str
) -> None:
    path = tmp_path / "a.tif"
    values = image((3, 90, 110), "float32" if kind == "float" else "uint16")
    if kind == "float":
        values[1, 3:9, 60:70] = np.nan
    options = {"photometric": "RGB", "alpha": "YES"} if kind == "alpha" else {}
    if kind == "alpha":
        values = np.concatenate([values, values[:1] % 2 * 65535])
    save(path, values, interleave=interleave, tiled=True, blockxsize=32, blockysize=32, **options)
    if kind in ("nodata", "mask"):
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            if kind == "nodata":
                file.nodata = int(values[0, 0, 0])
            else:
                file.write_mask(values[0] % 3 > 0)
    if kind == "mixed":
        other = save(tmp_path / "b.tif", image((1, 90, 110), "uint8"))
        build_vrt(tmp_path / "mixed.vrt", path, other)
        path = tmp_path / "mixed.vrt"
    with closing(RasterReader(path)) as source:
        for window in (Window(0, 0, 90, 110), Window(31, 17, 40, 64), Window(89, 109, 1, 1)):
            patch = source.read(window)
            assert patch.values.shape[0] == (4 if kind == "mixed" else 3)
            assert window.height < 90 or patch.valid.all() == (kind in ("plain", "mixed"))
            room = Patch(np.zeros((5, 100, 300), patch.values.dtype), np.zeros((5, 100, 300), np.bool_))
            part = (slice(1, 1 + len(patch.values)), slice(4, 4 + window.height), slice(9, 9 + window.width))
            masks = (slice(1, 1 + len(patch.valid)), *part[1:])
            source.decode(window, Patch(room.values[part], room.valid[masks]))
            assert np.array_equal(room.values[part], patch.values, equal_nan=kind == "float")
            assert np.array_equal(room.valid[masks], patch.valid)
            room.values[part] = 0
            room.valid[masks] = False
            assert not room.values.any() and not room.valid.any()


def build_vrt(path: Path, first: Path, second: Path) -> None:
    """A raster of the three uint16 bands of one file and the uint8 band of another."""
    bands = [(first, band, "UInt16") for band in (1, 2, 3)] + [(second, 1, "Byte")]
    lines = [
        f'<VRTRasterBand dataType="{dtype}" band="{place}"><SimpleSource><SourceFilename>{file}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for place, (file, band, dtype) in enumerate(bands, 1)
    ]
    path.write_text(f'<VRTDataset rasterXSize="110" rasterYSize="90">{"".join(lines)}</VRTDataset>')


def sentinel(folder: Path) -> dict[str, Path]:
    """Layers of 10, 20 and 60 m; 100 x 130 pixels are no multiple of 6."""
    files = {}
    for name, ratio in (("m60", 6), ("m10", 1), ("m20", 2)):
        shape = (1, -(-100 // ratio), -(-130 // ratio))
        place = Affine(10 * ratio, 0, 500000, 0, -10 * ratio, 8000000)
        files[name] = save(folder / f"{name}.tif", image(shape, "uint16", ratio), transform=place, crs="EPSG:32652")
    return files


def test_files_on_nested_grids_make_one_scene(tmp_path: Path) -> None:
    files = sentinel(tmp_path)
    with open_rasters("s2", files, "m10") as scene:
        assert {name: layer.ratio for name, layer in scene.layers.items()} == {"m60": 6, "m10": 1, "m20": 2}
        assert scene.alignment == 6
        assert scene.grid.shape == (100, 130)
        patches = scene.read_layers(Window(90, 120, 12, 12))
    assert [patches[name].values.shape for name in ("m10", "m20", "m60")] == [(1, 12, 12), (1, 6, 6), (1, 2, 2)]
    np.testing.assert_array_equal(patches["m60"].values, image((1, 17, 22), "uint16", 6)[:, 15:, 20:])
    assert patches["m60"].valid.all()
    assert patches["m10"].valid.sum() == 100


@pytest.mark.parametrize(("shape", "ratio"), [((10, 11), 25), ((117, 134), 2), ((234, 268), 1)])
def test_ratio_of_rasters_without_georeference_comes_from_their_shapes(
    tmp_path: Path, shape: tuple[int, int], ratio: int
) -> None:
    fine = save(tmp_path / "fine.tif", image((1, 234, 268), "uint8"))
    coarse = save(tmp_path / "coarse.tif", image((1, *shape), "uint8"))
    with open_rasters("pair", {"fine": fine, "coarse": coarse}, "fine") as scene:
        assert scene.layers["coarse"].ratio == ratio


@pytest.mark.parametrize(("shape", "words"), [((10, 13), "do not nest"), ((2, 2), "may be 134 to 233 of the 234")])
def test_shapes_that_fit_no_ratio_or_several_are_refused(tmp_path: Path, shape: tuple[int, int], words: str) -> None:
    fine = save(tmp_path / "fine.tif", image((1, 234, 268), "uint8"))
    coarse = save(tmp_path / "coarse.tif", image((1, *shape), "uint8"))
    with pytest.raises(SceneError, match=words):
        open_rasters("pair", {"fine": fine, "coarse": coarse}, "fine")


def test_a_path_through_a_file_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", image((1, 8, 8), "uint8"))
    with pytest.raises(SceneError, match="Not a directory: must be a readable file"):
        open_raster(tmp_path / "a.tif" / "b.tif")


def test_control_points_decide_where_several_ratios_fit(tmp_path: Path) -> None:
    grid = Grid(
        235, 298, crs="EPSG:4326", gcps=tuple(ControlPoint(r, c, c / 9, r / 9) for r in (0, 235) for c in (0, 298))
    )
    assert grid.coarser(25).shape == grid.coarser(26).shape
    write_raster(tmp_path / "fine.tif", image((1, 235, 298), "uint8"), grid=grid)
    write_raster(tmp_path / "coarse.tif", image((1, 10, 12), "uint8"), grid=grid.coarser(25))
    elsewhere = dataclasses.replace(grid, gcps=tuple(dataclasses.replace(p, x=p.x + 1) for p in grid.gcps))
    write_raster(tmp_path / "elsewhere.tif", image((1, 10, 12), "uint8"), grid=elsewhere.coarser(25))
    with open_rasters("pair", {"fine": tmp_path / "fine.tif", "coarse": tmp_path / "coarse.tif"}, "fine") as scene:
        assert scene.layers["coarse"].ratio == 25
    with pytest.raises(SceneError, match="do not nest"):
        open_rasters("pair", {"fine": tmp_path / "fine.tif", "coarse": tmp_path / "elsewhere.tif"}, "fine")


def test_a_transform_without_width_is_refused(tmp_path: Path) -> None:
    flat = save(tmp_path / "flat.tif", image((1, 8, 8), "uint8"), transform=Affine(0, 0, 5e5, 0, 10, 5e6))
    with pytest.raises(SceneError, match="leads nowhere"):
        open_rasters("pair", {"a": flat, "b": flat}, "a")


@pytest.mark.parametrize("reference", ["m20", "m60"])
def test_reference_must_be_the_finest(tmp_path: Path, reference: str) -> None:
    with pytest.raises(SceneError, match="finest as reference"):
        open_rasters("s2", sentinel(tmp_path), reference)


@pytest.mark.parametrize(
    ("shape", "size", "shift"), [((50, 65), 20, 10), ((67, 87), 15, 0), ((40, 65), 20, 0)], ids=["shift", "15m", "crop"]
)
def test_grids_that_do_not_nest_are_refused(tmp_path: Path, shape: tuple[int, int], size: int, shift: int) -> None:
    files = sentinel(tmp_path)
    place = Affine(size, 0, 500000 + shift, 0, -size, 8000000)
    files["other"] = save(tmp_path / "other.tif", image((1, *shape), "uint8"), transform=place, crs="EPSG:32652")
    with pytest.raises(SceneError, match="do not nest") as caught:
        open_rasters("s2", files, "m10")
    assert "\n" not in str(caught.value)


def test_files_without_georeference_nest_by_shape(tmp_path: Path) -> None:
    files = {
        "fine": save(tmp_path / "a.png", image((1, 25, 31), "uint8"), "PNG"),
        "coarse": save(tmp_path / "b.png", image((1, 7, 8), "uint8"), "PNG"),
    }
    with open_rasters("x", files, "fine") as scene:
        assert scene.layers["coarse"].ratio == 4
    with pytest.raises(SceneError, match="must be one of fine, coarse"):
        open_rasters("x", files, "dem")


def test_threads_take_turns_at_the_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = image((2, 256, 256), "uint16")
    path = save(tmp_path / "a.tif", values, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    windows = [Window(row, col, 50, 50) for row in range(0, 200, 40) for col in range(0, 200, 40)]
    inside: list[int] = []
    source = RasterReader(path)

    class Watched:
        """The dataset, keeping count of how many threads are in it."""

        closed = False

        def read(self, *arguments: Any, **options: Any) -> Any:
            inside.append(threading.get_ident())
            time.sleep(0.001)
            assert len(inside) == 1
            try:
                return dataset.read(*arguments, **options)
            finally:
                inside.clear()

        def close(self) -> None:
            dataset.close()

    dataset = source._dataset
    monkeypatch.setattr(source, "_dataset", Watched())
    with Scene("a", source.grid, {"image": source}) as scene, ThreadPoolExecutor(8) as threads:
        for window, patches in zip(windows, threads.map(scene.read_layers, windows), strict=True):
            np.testing.assert_array_equal(patches["image"].values, values[(slice(None), *window.slices)])


def one_line(path: Path, remedy: str | None = None) -> None:
    """Opening and reading the file fails with one line that names it."""
    with pytest.raises(SceneError, match=remedy) as caught:
        whole(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_is_no_raster_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("This is not a raster.\n" * 50)
    (tmp_path / "empty.tif").touch()
    one_line(tmp_path / "text.tif", "not recognized")
    one_line(tmp_path / "empty.tif", "it is empty")
    one_line(tmp_path / "missing.tif", "no such file")
    one_line(tmp_path, "is a folder")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("name", ["plain.tif", "tiled.tif", "cog.tif", "a.png", "a.jpg"])
def test_truncated_file_is_one_clear_line(tmp_path: Path, name: str, share: float) -> None:
    values = image((3, 300, 300), "uint8")
    path = tmp_path / name
    if name == "cog.tif":
        write_raster(path, values, grid=Grid(300, 300))
    else:
        driver = {"a.png": "PNG", "a.jpg": "JPEG"}.get(name, "GTiff")
        save(path, values, driver, **({"tiled": True, "compress": "zstd"} if name == "tiled.tif" else {}))
    whole(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    one_line(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_flipped_bits_are_noticed(tmp_path: Path, name: str) -> None:
    options = {} if name == "a.png" else {"compress": "deflate"}
    path = save(tmp_path / name, image((3, 300, 300), "uint8"), "PNG" if name == "a.png" else "GTiff", **options)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    one_line(path)


def tiff_header(path: Path, height: int, width: int, *, tile: int | None = None, compression: int = 8) -> Path:
    """A TIFF of 400 bytes that promises any size."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, tile), (323, 4, tile), (324, 4, 300), (325, 4, 99)] if tile else []
    tags += [] if tile else [(273, 4, 300), (278, 4, height), (279, 4, 99)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(tags))
    data = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries
    path.write_bytes(data.ljust(400, b"\0"))
    return path


def png_header(path: Path, height: int, width: int, *, interlaced: bool) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_header_that_promises_too_much_allocates_nothing(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one_line(tiff_header(tmp_path / "strip.tif", 200_000, 200_000), "promises 200000 x 200000")
    one_line(tiff_header(tmp_path / "plain.tif", 30_000, 30_000, compression=1), "promises")
    one_line(tiff_header(tmp_path / "tiles.tif", 2**20, 2**20, tile=512), "promises")
    one_line(tiff_header(tmp_path / "block.tif", 2**20, 2**20, tile=2**19), "256.0 GiB")
    one_line(png_header(tmp_path / "lines.png", 100_000, 100_000, interlaced=False), "promises")
    one_line(png_header(tmp_path / "interlaced.png", 30_000, 30_000, interlaced=True), "promises")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("options", [{"blockysize": 4000}, {"sparse_ok": True, "tiled": True}, {}], ids=str)
def test_well_packed_file_is_not_taken_for_a_lie(tmp_path: Path, options: dict[str, Any]) -> None:
    zeros = np.zeros((1, 4000, 4000), "uint8")
    path = save(tmp_path / "a.tif", zeros, compress="zstd", **options)
    with open_raster(path) as scene:
        assert not scene.read_layers(Window(3000, 3000, 10, 10))["image"].values.any()


def test_closed_scene_is_a_bug_of_the_caller(tmp_path: Path) -> None:
    with open_raster(save(tmp_path / "a.tif", image((1, 5, 5), "uint8"))) as scene:
        pass
    with pytest.raises(ValueError, match="closed"):
        scene.read(Window(0, 0, 5, 5))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("cog", [True, False])
def test_written_raster_is_read_back_the_same(tmp_path: Path, dtype: str, cog: bool) -> None:
    values = image((4, 60, 70), dtype)
    path = tmp_path / "new" / "a.tif"
    write_raster(path, values, grid=UTM, nodata=0, band_names=["a", "b", "c", "d"], cog=cog)
    with open_raster(path) as scene:
        assert scene.grid == UTM
        assert scene.layers["image"].bands.names == ("a", "b", "c", "d")
        assert {band.nodata for band in scene.layers["image"].bands} == {0}
        np.testing.assert_array_equal(scene.read_layers(UTM.whole)["image"].values, values)
    assert os.listdir(path.parent) == ["a.tif"]


def test_control_points_survive(tmp_path: Path) -> None:
    points = tuple(ControlPoint(r, c, 10.0 + c / 50, 80.0 - r / 50) for r in (0, 60) for c in (0, 35, 70))
    grid = Grid(60, 70, crs="EPSG:4326", gcps=points)
    write_raster(tmp_path / "a.tif", image((60, 70), "uint8"), grid=grid)
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.grid == grid
    place = [GroundControlPoint(0, 0, 10, 80), GroundControlPoint(0, 9, 11, 80), GroundControlPoint(9, 0, 10, 79)]
    save(tmp_path / "b.tif", image((1, 9, 9), "uint8"), gcps=place, crs="EPSG:4326")
    with open_raster(tmp_path / "b.tif") as scene:
        assert scene.grid.gcps[1] == ControlPoint(0, 9, 11, 80)
        assert scene.grid.transform is None


def test_classes_are_a_cog_with_colours_names_and_nearest_overviews(tmp_path: Path) -> None:
    grid = Grid(1100, 1200, UTM.transform, UTM.crs, length_unit="m")
    values = image((1100, 1200), "uint8") % 2 * 10
    colours = {0: (0, 0, 255), 10: (255, 0, 0)}
    write_raster(
        tmp_path / "a.tif", values, grid=grid, nodata=255, colours=colours, class_names={0: "water", 10: "snow"}
    )
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes == [(512, 512)]
        assert file.colormap(1)[10] == (255, 0, 0, 255)
        assert (file.tags()["CLASS_0"], file.tags()["CLASS_10"]) == ("water", "snow")
        assert file.overviews(1)
        small = file.read(1, out_shape=(550, 600))
        assert np.isin(small, [0, 10]).all()


def test_classes_without_colours_can_have_nearest_overviews(tmp_path: Path) -> None:
    values = np.indices((1024, 1024)).sum(0).astype("uint8") % 2 * 10
    for number, options in enumerate(({"overviews": "nearest"}, {"class_names": {10: "snow"}})):
        path = tmp_path / f"{number}.tif"
        write_raster(path, values, grid=Grid(1024, 1024), **options)
        with rasterio.open(path) as file:
            assert np.isin(file.read(1, out_shape=(512, 512)), [0, 10]).all()


def test_quantities_have_average_overviews(tmp_path: Path) -> None:
    grid = Grid(1024, 1024)
    values = np.indices((1024, 1024)).sum(0).astype("float32") % 2
    write_raster(tmp_path / "a.tif", values, grid=grid)
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(1, out_shape=(512, 512)), 0.5)


def test_streamed_windows_equal_one_write_and_gaps_are_nodata(tmp_path: Path) -> None:
    values = image((2, 700, 900), "uint16")
    grid = Grid(700, 900)
    path = tmp_path / "a.tif"
    with RasterWriter(path, grid=grid, count=2, dtype="uint16", nodata=65535) as writer:
        for row in range(0, 700, 512):
            for col in range(0, 512, 512):
                writer.write(values[:, row : row + 512, col : col + 512], row, col)
        assert not path.exists()
    patch = whole(path)
    np.testing.assert_array_equal(patch.values[:, :, :512], values[:, :, :512])
    assert (patch.values[:, :, 512:] == 65535).all()
    assert not patch.valid[:, :, 512:].any()
    assert os.listdir(tmp_path) == ["a.tif"]


def test_failed_block_leaves_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("old")
    with pytest.raises(KeyError), RasterWriter(path, grid=Grid(9, 9), count=1, dtype="uint8") as writer:
        writer.write(np.ones((1, 9, 9), "uint8"))
        raise KeyError
    writer.discard()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.tif"]
    writer = RasterWriter(path, grid=Grid(9, 9), count=1, dtype="uint8")
    writer.close()
    writer.close()
    assert whole(path).values.sum() == 0


def test_misuse_of_the_writer_is_refused(tmp_path: Path) -> None:
    def open_writer(**changes: Any) -> RasterWriter:
        options: dict[str, Any] = {"grid": Grid(9, 9), "count": 1, "dtype": "uint8"}
        return RasterWriter(tmp_path / "a.tif", **options | changes)

    with pytest.raises(ValueError, match="2 band names for 1"):
        open_writer(band_names=["a", "b"])
    with pytest.raises(ValueError, match="colour table"):
        open_writer(dtype="float32", colours={1: (0, 0, 0)})
    with pytest.raises(ValueError, match="reach outside"), open_writer() as writer:
        writer.write(np.zeros((1, 5, 5), "uint8"), 5, 0)
    with pytest.raises(ValueError, match="takes 1 bands of uint8"), open_writer() as writer:
        writer.write(np.zeros((1, 9, 9), "uint16"))
    with pytest.raises(ValueError, match="for a grid"):
        write_raster(tmp_path / "a.tif", np.zeros((8, 9)), grid=Grid(9, 9))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("share", "cog"), [(0.05, True), (0.9, True), (0.999, True), (0.5, False), (0.999, False)])
def test_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path, share: float, cog: bool) -> None:
    values = image((1, 1100, 600), "uint16")
    np.save(tmp_path / "values.npy", values)
    path = tmp_path / "out" / "a.tif"
    write_raster(path, values, grid=Grid(1100, 600), cog=cog)
    limit = int(path.stat().st_size * share)
    path.unlink()
    code = (
        "import resource, sys, numpy; from geocore.raster.grid import Grid\n"
        "from geocore.raster.write import write_raster\n"
        "from geocore.errors import StorageError\n"
        "values = numpy.load(sys.argv[2]); limit = int(sys.argv[3])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try: write_raster(sys.argv[1], values, grid=Grid(1100, 600), cog=sys.argv[4] == 'True')\n"
        "except StorageError as error: print(error)"
    )
    arguments = [sys.executable, "-c", code, path, tmp_path / "values.npy", str(limit), str(cog)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert str(path) in done.stdout
    assert done.stdout.count("\n") == 1
    assert os.listdir(path.parent) == []


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="in the way"):
        write_raster(tmp_path / "file" / "a.tif", np.zeros((9, 9), "uint8"), grid=Grid(9, 9))


def real(name: str) -> Path:
    root = os.environ.get("GEOCORE_DATA")
    if root is None:
        pytest.skip("GEOCORE_DATA is not set")
    return Path(root) / name


@pytest.mark.real
def test_every_real_raster_is_read_as_rasterio_reads_it() -> None:
    paths = [path for path in sorted(real("").rglob("*")) if path.suffix in (".tif", ".png", ".jpg")]
    assert len(paths) > 20
    for path in paths:
        with rasterio.open(path) as file, open_raster(path) as scene:
            window = Window(file.height // 3, file.width // 3, 64, 48)
            patch = scene.read_layers(window)["image"]
            expected = file.read(window=rasterio.windows.Window(window.col, window.row, 48, 64))
            masks = file.read_masks(window=rasterio.windows.Window(window.col, window.row, 48, 64))
            np.testing.assert_array_equal(patch.values, expected, err_msg=path.name)
            assert patch.values.dtype == expected.dtype
            np.testing.assert_array_equal(np.broadcast_to(patch.valid, masks.shape), masks != 0, err_msg=path.name)
            with pytest.raises(SceneError):
                RasterReader(path, bands=["no such band"])


@pytest.mark.real
def test_real_landsat_has_infinite_nodata_and_does_not_nest_in_sentinel() -> None:
    landsat = real("thaw-slump/raster/L8_LC08_198234_20210718.tif")
    sentinel = real("thaw-slump/raster/S2_20210721T035541_20210721T035540_T52WEE.tif")
    with open_raster(landsat) as scene:
        assert {band.nodata for band in scene.layers["image"].bands} == {-np.inf}
        assert scene.grid.pixel_size == (15.0, 15.0)
        assert scene.read_layers(Window(160, 160, 20, 20))["image"].valid.sum() == 7 * 7 * 7
    with pytest.raises(SceneError, match="do not nest"):
        open_rasters("bykovsky", {"l8": landsat, "s2": sentinel}, "s2")


@pytest.mark.real
def test_real_mask_whose_crs_has_no_code_lies_on_utm_10(tmp_path: Path) -> None:
    with open_raster(real("flood-burn/burn/subsetted_512x512_HLS.S30.T10TGS.2018285.v1.4.mask.tif")) as scene:
        grid = scene.grid
        mask = scene.read_layers(grid.whole)["image"].values
    assert grid.length_unit == "m"
    assert grid.pixel_size == (30.0, 30.0)
    assert grid.same_georeference(Grid(512, 512, grid.transform, "EPSG:32610", length_unit="m"))
    write_raster(tmp_path / "a.tif", mask, grid=grid)
    with open_raster(tmp_path / "a.tif") as scene:
        assert scene.grid.same_georeference(grid)
        np.testing.assert_array_equal(scene.read_layers(grid.whole)["image"].values, mask)


@pytest.mark.parametrize("cog", [True, False])
def test_what_may_not_fit_on_the_disk_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cog: bool) -> None:
    """A disk that is full while libtiff closes a classic TIFF can keep it in a loop for ever."""
    values = np.arange(256 * 256, dtype=np.uint16).reshape(1, 256, 256)
    grid = Grid(256, 256, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), "EPSG:32633", length_unit="m")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("geocore.raster.write.shutil.disk_usage", lambda folder: usage._replace(free=50_000))
    with pytest.raises(DiskError, match="no space left on the disk: 0.05 MB are free and up to 0"):
        write_raster(tmp_path / "a.tif", values, grid=grid, cog=cog)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_before_the_product_is_a_big_tiff(tmp_path: Path) -> None:
    """Of these a full disk makes no endless loop; what users get is a classic one."""
    grid = Grid(64, 64, (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), "EPSG:32633", length_unit="m")
    with RasterWriter(tmp_path / "a.tif", grid=grid, count=1, dtype="uint8") as writer:
        writer.write(np.ones((1, 64, 64), np.uint8))
        (working,) = tmp_path.glob(".part-*.working.tif")
        assert working.read_bytes()[:4] == b"II+\0"
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II*\0"
