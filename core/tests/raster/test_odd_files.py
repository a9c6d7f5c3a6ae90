"""Files that are rare or made to harm: mapped correctly, or refused in one clear line without a large allocation."""

from __future__ import annotations

import math
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from geocore.datasets.batch import VALID
from geocore.device import DeviceContext
from geocore.errors import SceneError
from geocore.inference.blend import OverlapBlender
from geocore.inference.tiled import predict_tiles
from geocore.raster.geotiff import RasterReader, open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import PixelAreas
from geocore.raster.products import open_scene
from geocore.raster.scene import Scene
from geocore.raster.stack import open_stack
from geocore.raster.write import write_raster
from geocore.tiling.tiles import Chunk, TileGrid

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
NORTH_UP = Affine(10, 0, 500000, 0, -10, 8000000)
TILING = TileGrid(size=32, overlap=8)


def numbers(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(-100 if dtype == "int8" else 1, 100, shape).astype(dtype)


def save(path: Path, values: np.ndarray[Any, Any], **options: Any) -> Path:
    count, height, width = values.shape
    made: dict[str, Any] = {"driver": "GTiff", "crs": "EPSG:32652", "transform": NORTH_UP}
    with rasterio.open(
        path, "w", count=count, height=height, width=width, dtype=values.dtype, **(made | options)
    ) as file:
        file.write(values)
    return path


def mapped(scene: Scene, channels: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What a model that changes nothing makes of a scene: float32 of shape (band, row, col) and where it is valid."""
    layer = next(iter(scene.layers))
    values = np.full((channels, *scene.grid.shape), np.nan, np.float32)
    valid = np.zeros(scene.grid.shape, bool)

    def on_rows(row: int, rows: dict[str, torch.Tensor]) -> None:
        values[:, row : row + rows["out"].shape[1]] = rows["out"].numpy()
        valid[row : row + rows["out"].shape[1]] = rows[VALID][0].numpy()

    def read(scene: Scene, window: Window) -> dict[str, Any]:
        patches = scene.read_layers(window)
        return {"values": patches[layer].values, VALID: patches[layer].valid.all(axis=0)}

    def identity(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"out": batch["values"].float(), VALID: batch[VALID]}

    region = Chunk("all", scene.grid.whole)
    blend = OverlapBlender(region, TILING, scene.grid.shape, {"out": channels}, on_rows=on_rows)
    predict_tiles(identity, scene, region, TILING, blend, read=read, context=DeviceContext(torch.device("cpu")))
    return values, valid


def check_mapped(path: Path, expected: np.ndarray[Any, Any]) -> Grid:
    with open_raster(path) as scene:
        values, valid = mapped(scene, len(expected))
        grid = scene.grid
    assert valid.all()
    # Blending sums weights that are exact to 8 units of the last place.
    np.testing.assert_allclose(values, expected.astype("float32"), rtol=1e-6, atol=0)
    product = path.with_name("product.tif")
    write_raster(product, expected[0].astype("float32"), grid=grid)
    with rasterio.open(path) as before, rasterio.open(product) as after:
        assert after.transform == before.transform
        assert after.crs == before.crs
        assert [(p.row, p.col, p.x, p.y) for p in after.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in before.gcps[0]]
    return grid


def test_rotated(tmp_path: Path) -> None:
    values = numbers((2, 50, 70))
    grid = check_mapped(save(tmp_path / "a.tif", values, transform=NORTH_UP @ Affine.rotation(30)), values)
    assert grid.pixel_size == pytest.approx((10, 10))


def test_south_up(tmp_path: Path) -> None:
    values = numbers((1, 50, 70))
    grid = check_mapped(save(tmp_path / "a.tif", values, transform=Affine(10, 0, 500000, 0, 10, 8000000)), values)
    assert grid.pixel_size == (10, 10)
    assert PixelAreas(grid).within(Window(0, 0, 1, 1)).item() == pytest.approx(100 / 0.9996**2, rel=1e-5)


def test_control_points_alone(tmp_path: Path) -> None:
    values = numbers((1, 50, 70))
    points = [GroundControlPoint(row, col, 10 + col / 9, 80 - row / 9) for row in (0, 50) for col in (0, 70)]
    path = save(tmp_path / "a.tif", values, gcps=points, transform=Affine.identity(), crs="EPSG:4326")
    grid = check_mapped(path, values)
    assert len(grid.gcps) == 4
    assert grid.transform is None


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_types(tmp_path: Path, dtype: str) -> None:
    values = numbers((2, 50, 70), dtype)
    check_mapped(save(tmp_path / "a.tif", values), values)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 70), (2, 50, 1)])
def test_one_pixel(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    values = numbers(shape)
    check_mapped(save(tmp_path / "a.tif", values), values)


@pytest.mark.parametrize(
    "options",
    [
        {"BIGTIFF": "YES"},
        {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "lzw", "predictor": 2},
        {"blockysize": 1, "compress": "deflate"},
        {"interleave": "band", "blockysize": 50},
        {"NBITS": "7"},
        {"driver": "JP2OpenJPEG", "REVERSIBLE": "YES", "QUALITY": "100"},
    ],
    ids=str,
)
def test_storage(tmp_path: Path, options: dict[str, Any]) -> None:
    values = numbers((1, 50, 70))
    check_mapped(save(tmp_path / ("a.jp2" if "driver" in options else "a.tif"), values, **options), values)


def test_sparse_blocks_are_nodata_or_zero(tmp_path: Path) -> None:
    for nodata in (None, 7):
        path = tmp_path / f"{nodata}.tif"
        options: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True}
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=200, width=200, dtype="uint8", nodata=nodata,
            crs="EPSG:32652", transform=NORTH_UP, **options,
        ) as file:  # fmt: skip
            file.write(np.full((1, 64, 64), 9, "uint8"), window=rasterio.windows.Window(64, 64, 64, 64))
        with open_raster(path) as scene:
            values, valid = mapped(scene, 1)
        written = np.zeros((200, 200), bool)
        written[64:128, 64:128] = True
        np.testing.assert_array_equal(valid, written if nodata else np.ones((200, 200), bool))
        np.testing.assert_allclose(values[0], np.where(written, 9, 0), rtol=1e-6)


def refused(path: Path, words: str, opener: Callable[[Path], Any] = open_scene) -> None:
    """Opening or reading a corner of the file fails in one line that names it."""
    with pytest.raises(SceneError, match=words) as caught:
        source = opener(path)
        try:
            source.read(Window(0, 0, min(64, source.shape[0]), min(64, source.shape[1])))
        finally:
            source.close()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_numbers_are_refused(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=9, width=9, dtype=dtype) as file:
        file.write(np.ones((1, 9, 9), "complex64"))
    refused(path, rf"holds complex numbers \({dtype}\)")


def test_header_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", numbers((1, 8, 8)))
    with rasterio.open(path, "r+") as file:
        file.descriptions = ["QQQQ"]
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"\xe4\xff\xfe\x80"))
    refused(path, "GDAL_METADATA .* is no text in UTF-8.*write the pixels anew")


@pytest.mark.parametrize("length", [0, 7, 10**6])
def test_a_jpeg_2000_whose_boxes_do_not_end_is_refused(tmp_path: Path, length: int) -> None:
    """GDAL walks from a box of no length to itself, for ever."""
    path = save(tmp_path / "a.jp2", numbers((1, 64, 64)), driver="JP2OpenJPEG", reversible=True, quality=100)
    with open_raster(path) as scene:
        np.testing.assert_array_equal(scene.read_layers(scene.grid.whole)["image"].values, numbers((1, 64, 64)))
    whole = path.read_bytes()
    at = whole.index(b"lbl gml.root-instance") - 4
    path.write_bytes(whole[:at] + length.to_bytes(4, "big") + whole[at + 4 :])
    refused(path, "one of its JPEG 2000 boxes is longer than what it lies in, or has no length")


@pytest.mark.parametrize("numbers_of", [(math.nan, 0, 0, 0, -1, 0), (0, 0, 5, 0, 0, 5), (1, 1, 0, 1, 1, 0)])
def test_a_transform_that_leads_nowhere_is_refused(tmp_path: Path, numbers_of: tuple[float, ...]) -> None:
    path = save(tmp_path / "a.tif", numbers((1, 8, 8)), transform=Affine(*numbers_of), crs="EPSG:32630")
    refused(path, "leads nowhere")


def test_control_points_without_a_crs_are_kept_and_told(tmp_path: Path) -> None:
    points = [GroundControlPoint(row, col, 10.0 * col, 20.0 * row) for row in (0, 8) for col in (0, 8)]
    path = save(tmp_path / "a.tif", numbers((1, 8, 8)), gcps=points, crs=CRS(), transform=None)
    with closing(open_scene(path)) as source:
        write_raster(tmp_path / "map.tif", numbers((1, 8, 8)), grid=source.grid)
        assert any("control points without a CRS" in note for note in source.notes)
    with rasterio.open(tmp_path / "map.tif") as file:
        found, crs = file.gcps
        assert not crs and [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]


def test_rational_polynomials_alone_are_told(tmp_path: Path) -> None:
    ones = [1.0] + [0.0] * 19
    numbers_of = dict.fromkeys(("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff"), ones)
    places = dict.fromkeys(
        f"{axis}_{kind}" for axis in ("height", "lat", "line", "long", "samp") for kind in ("off", "scale")
    )
    path = save(
        tmp_path / "a.tif",
        numbers((1, 8, 8)),
        rpcs=RPC(**dict.fromkeys(places, 1.0), **numbers_of),
        crs=None,
        transform=None,
    )
    with closing(open_scene(path)) as source:
        assert source.grid.transform is None
        assert [note for note in source.notes if "rational polynomials (RPC) alone, which are not kept" in note]


def claim_tiff(path: Path, claimed: int, *, big: bool) -> None:
    """Change the size in the header of a little-endian TIFF."""
    data = bytearray(path.read_bytes())
    first = struct.unpack_from("<Q" if big else "<I", data, 8 if big else 4)[0]
    (length,) = struct.unpack_from("<Q" if big else "<H", data, first)
    for number in range(length):
        at = first + (8 + number * 20 if big else 2 + number * 12)
        if struct.unpack_from("<H", data, at)[0] in (256, 257):
            struct.pack_into("<HQQ" if big else "<HII", data, at + 2, 4, 1, claimed)
    path.write_bytes(data)


def claim_jp2(path: Path, claimed: int, tile: int | None = None) -> None:
    """Change the size in the headers of a JPEG 2000 file, and that of its tiles."""
    data = bytearray(path.read_bytes())
    struct.pack_into(">II", data, data.index(b"ihdr") + 4, claimed, claimed)
    sizes = data.index(b"\xff\x51")
    struct.pack_into(">II", data, sizes + 6, claimed, claimed)
    if tile is not None:
        struct.pack_into(">II", data, sizes + 22, tile, tile)
    path.write_bytes(data)


def test_a_million_pixels_squared_are_refused_without_allocating_them(tmp_path: Path) -> None:
    claimed = 10**6
    values = numbers((1, 512, 512))
    for name, options in (
        ("strips.tif", {"compress": "deflate"}),
        ("tiles.tif", {"tiled": True}),
        ("big.tif", {"BIGTIFF": "YES"}),
    ):
        claim_tiff(save(tmp_path / name, values, **options), claimed, big="BIGTIFF" in options)
    for name, tile in (("small.jp2", None), ("large.jp2", 10**5), ("single.jp2", claimed)):
        claim_jp2(save(tmp_path / name, values, driver="JP2OpenJPEG"), claimed, tile)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in sorted(tmp_path.iterdir()):
        refused(path, "damaged|cannot be opened|can be read at once")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("name", ["a.tif", "a.jp2"])
def test_truncated_files_are_refused(tmp_path: Path, name: str, share: float) -> None:
    options = {"driver": "JP2OpenJPEG"} if name == "a.jp2" else {"tiled": True, "compress": "deflate"}
    path = save(tmp_path / name, numbers((1, 600, 600)), **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SceneError) as caught:
        source = RasterReader(path)
        try:
            source.read(Window(0, 0, 600, 600))
        finally:
            source.close()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_changed_byte_of_a_png_is_noticed(tmp_path: Path) -> None:
    """Each lies under a checksum; of what says which pixels are transparent GDAL only left out what was damaged."""
    path, changed = tmp_path / "a.png", tmp_path / "changed.png"
    with rasterio.open(path, "w", driver="PNG", width=40, height=30, count=1, dtype="uint8", nodata=3) as file:
        file.write(numbers((1, 30, 40)) % 8)
        file.write_colormap(1, {number: (number * 30, number, 255 - number) for number in range(8)})
    data = path.read_bytes()
    with open_raster(path) as scene:
        sound = scene.read_layers(scene.grid.whole)["image"]
        assert not sound.valid.all()
    places = range(data.index(b"IHDR"), data.index(b"IEND"))
    assert data.index(b"tRNS") in places
    noticed = 0
    for place in places:
        changed.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            with open_raster(changed) as scene:
                read = scene.read_layers(scene.grid.whole)["image"]
        except SceneError as error:
            noticed += "damaged" in str(error) or "cannot be" in str(error)
        else:
            assert np.array_equal(read.values, sound.values) and np.array_equal(read.valid, sound.valid), place
    assert noticed > 0.9 * len(places)


def test_several_threads_decode_a_damaged_file_without_a_word_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(
        tmp_path / "a.tif", numbers((3, 1024, 1024)), tiled=True, blockxsize=128, blockysize=128, compress="zstd"
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    path.write_bytes(data)
    source = RasterReader(path)
    with pytest.raises(SceneError, match="damaged or incomplete"):
        source.read(Window(0, 0, 1024, 1024))
    source.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_what_its_parent_has_read(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", numbers((1, 512, 512)), tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    code = (
        "import os, signal, sys; from geocore.raster.geotiff import *; from geocore.raster.grid import Window\n"
        "def read():\n"
        "    with open_raster(sys.argv[1]) as scene: return scene.read_layers(scene.grid.whole)['image'].values.sum()\n"
        "total = read(); child = os.fork()\n"
        "if child == 0: signal.alarm(60); os._exit(0 if read() == total else 1)\n"
        "sys.exit(os.waitpid(child, 0)[1])"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "a.tif"], check=False).returncode == 0


def real(name: str) -> Path:
    root = os.environ.get("GEOCORE_DATA")
    if root is None:
        pytest.skip("GEOCORE_DATA is not set")
    return Path(root) / name


@pytest.mark.real
@pytest.mark.parametrize(
    "name",
    [
        "thaw-slump/raster/L8_LC08_198234_20210718.tif",
        "thaw-slump/raster/S2_20210721T035541_20210721T035540_T52WEE.tif",
        "flood-burn/flood/Spain_7370579_S2Hand.tif",
        "flood-burn/flood/Spain_7370579_LabelHand.tif",
        "flood-burn/burn/subsetted_512x512_HLS.S30.T10TGS.2018285.v1.4.mask.tif",
        "flood-burn/multispectral/38D_378R_2_3_S2L1C.tif",
    ],
)
def test_real_chips_keep_georeference_nodata_and_values(name: str, tmp_path: Path) -> None:
    with rasterio.open(real(name)) as file:
        expected, masks = file.read(), file.read_masks().all(0)
        context, crs, nodata = file.transform, file.crs, file.nodata
    with open_raster(real(name)) as scene:
        values, valid = mapped(scene, len(expected))
        assert {repr(band.nodata) for band in scene.layers["image"].bands} == {repr(nodata)}
        write_raster(tmp_path / "a.tif", values, grid=scene.grid, nodata=np.nan)
    np.testing.assert_array_equal(valid, masks & np.isfinite(expected).all(0))
    np.testing.assert_allclose(values[:, valid], expected[:, valid].astype("float32"), rtol=1e-6)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert (file.transform, file.crs) == (context, crs)


@pytest.mark.real
def test_real_image_and_label_whose_transforms_differ_in_the_last_digits_are_one_stack() -> None:
    image, label = (
        real("flood-burn/flood/Spain_7370579_S2Hand.tif"),
        real("flood-burn/flood/Spain_7370579_LabelHand.tif"),
    )
    with rasterio.open(image) as first, rasterio.open(label) as second:
        assert first.transform != second.transform
        expected = second.read(1)
    with open_stack("chip", {"red": image, "label": label}) as scene:
        np.testing.assert_array_equal(scene.read_layers(scene.grid.whole)["image"].values[1], expected)
