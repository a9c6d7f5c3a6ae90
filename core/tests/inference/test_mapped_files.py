"""Files mapped by an identity or a fixed model: what is invalid stays so, and neither size nor neighbours matter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from torch import Tensor

from geocore.datasets.batch import VALID
from geocore.device import DeviceContext
from geocore.inference.blend import OverlapBlender
from geocore.inference.tiled import predict_tiles
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Window
from geocore.raster.scene import Scene
from geocore.tiling.tiles import Chunk, TileGrid

CONTEXT = DeviceContext(torch.device("cpu"))


def write(path: Path, values: np.ndarray, *, colours: list[ColorInterp] | None = None, **options: Any) -> Path:
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    place = {"crs": "EPSG:32633", "transform": from_origin(5e5, 6e6, 10, 10)}
    tiled = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    with rasterio.open(path, "w", **profile, dtype=values.dtype, **place, **tiled | options) as target:
        if colours is not None:
            target.colorinterp = colours
        target.write(values)
    return path


def read_tile(scene: Scene, window: Window) -> dict[str, np.ndarray]:
    patches = scene.read_layers(window)
    return {"values": patches["image"].values, VALID: patches["image"].valid.all(axis=0)}


def far_seeing(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each pixel, and the mean of the whole tile, so that one bad value would be everywhere."""
    valid = batch[VALID][:, None]
    image = batch["values"].float().masked_fill(~valid, 0.0)
    mean = image.sum((1, 2, 3), keepdim=True) / valid.sum((1, 2, 3), keepdim=True).clamp_min(1)
    return {"out": torch.cat([image[:, :1], mean.expand_as(image[:, :1])], 1), VALID: batch[VALID]}


def mapped(path: Path, tiling: TileGrid, forward: Any = far_seeing) -> tuple[np.ndarray, np.ndarray]:
    with open_raster(path) as scene:
        values, valid = np.full((2, *scene.grid.shape), np.nan, np.float32), np.zeros(scene.grid.shape, bool)

        def on_rows(row: int, out: dict[str, Tensor]) -> None:
            values[:, row : row + out["out"].shape[1]] = out["out"].numpy()
            valid[row : row + out["out"].shape[1]] = out[VALID][0].numpy()

        chunk = Chunk("all", Window(0, 0, *scene.grid.shape))
        blend = OverlapBlender(chunk, tiling, scene.grid.shape, {"out": 2}, on_rows=on_rows)
        predict_tiles(forward, scene, chunk, tiling, blend, read=read_tile, context=CONTEXT)
    return values, valid


def image_with_holes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 3000, (2, 100, 90)).astype(np.uint16)
    valid = np.ones((100, 90), bool)
    valid[:30, :40] = False
    valid[70, 55] = False
    return values, valid


@pytest.mark.parametrize("marked_by", ["sentinel", "nan", "infinity", "mask band", "alpha"])
def test_what_is_invalid_stays_so_and_reaches_no_valid_pixel(tmp_path: Path, marked_by: str) -> None:
    values, valid = image_with_holes()
    path = tmp_path / "scene.tif"
    if marked_by == "sentinel":
        write(path, np.where(valid, values, 65535).astype(np.uint16), nodata=65535)
    elif marked_by in ("nan", "infinity"):
        hole = {"nan": np.nan, "infinity": -np.inf}[marked_by]
        write(path, np.where(valid, values, hole).astype(np.float32), nodata=hole)
    elif marked_by == "mask band":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            write(path, np.where(valid, values, 9999).astype(np.uint16))
            with rasterio.open(path, "r+") as target:
                target.write_mask(valid)
    else:
        alpha = np.where(valid, 65535, 0).astype(np.uint16)[np.newaxis]
        planes = np.concatenate([np.where(valid, values, 9999).astype(np.uint16), alpha])
        write(path, planes, colours=[ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha])
    found, seen = mapped(path, TileGrid(32, 8))
    assert np.array_equal(seen, valid)
    assert np.isfinite(found).all() and (found[:, ~valid] == 0).all()
    # Means of a tile over the sum of both bands, which a sentinel, NaN or what lies behind a mask would change.
    assert found[1, valid].min() > 2500 and found[1, valid].max() < 3500
    np.testing.assert_allclose(found[0, valid], values[0][valid], rtol=8 * np.finfo(np.float32).eps)


def test_a_bright_object_changes_nothing_elsewhere(tmp_path: Path) -> None:
    """A constant scene, with a bright square in one of them: only its own pixels differ."""
    flat = np.full((1, 96, 96), 10, np.uint16)
    bright = flat.copy()
    bright[0, 40:44, 40:44] = 60000

    def identity(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out": batch["values"].float().expand(-1, 2, -1, -1), VALID: batch[VALID]}

    results = [
        mapped(write(tmp_path / f"{name}.tif", image), TileGrid(32, 8), identity)[0]
        for name, image in (("flat", flat), ("bright", bright))
    ]
    assert np.array_equal(results[0] != results[1], np.broadcast_to(flat != bright, (2, 96, 96)))


SPARSE = """
import sys, resource
import torch
from geocore.inference.blend import VALID, OverlapBlender
from geocore.inference.outputs import argmax_labels
from geocore.device import device_context
from geocore.raster.grid import Window
from geocore.inference.tiled import predict_tiles
from geocore.raster.geotiff import open_raster
from geocore.raster.scene import Scene
from geocore.settings import DeviceSettings
from geocore.tiling.tiles import TileGrid, chunks

rows = []

def read(scene, window):
    patches = scene.read_layers(window)
    return {"values": patches["image"].values, VALID: patches["image"].valid.all(axis=0)}

def forward(batch):
    return {"out": batch["values"][:, :2].float(), VALID: batch[VALID]}

with open_raster(sys.argv[1]) as scene, device_context(DeviceSettings(device="cpu", threads=1)) as context:
    tiling = TileGrid(512, 64)
    chunk = chunks(scene.grid.shape, 16384, 512)[24]
    assert chunk.window.width > 14000
    # The height of a chunk does not enter: the first rows of tiles do.
    chunk = type(chunk)(chunk.key, Window(chunk.window.row, chunk.window.col, 900, chunk.window.width))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blend = OverlapBlender(chunk, tiling, scene.grid.shape, {"out": 2},
                       on_rows=lambda row, out: rows.append(len(argmax_labels(out["out"]))))
    predict_tiles(forward, scene, chunk, tiling, blend, read=read, context=context)
    assert sum(rows) == 900
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_sparse_scene_of_ten_gigapixels_needs_memory_for_its_width_only(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    options = {"count": 4, "height": 100_000, "width": 100_000, "dtype": "uint16", "SPARSE_OK": True, "BIGTIFF": "YES"}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "zstd"}
    with rasterio.open(
        path, "w", driver="GTiff", crs="EPSG:32633", transform=from_origin(0, 0, 10, 10), **options, **tiled
    ):
        pass
    assert path.stat().st_size < 10_000_000
    done = subprocess.run([sys.executable, "-c", SPARSE, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    # Blocks 1024 x 14,286 pixels of 9 bytes, strip 512 x 14,286 of 9, GDAL's cache: about 250 MB were measured; the
    # scene has 80 GB.
    assert int(done.stdout) < 500
