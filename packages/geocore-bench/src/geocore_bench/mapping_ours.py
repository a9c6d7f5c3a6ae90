"""How geocore maps a scene, and the parts that it cannot do without: decoding, casting, the model, encoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from geocore_bench.harness import Measured
from geocore_bench.maps import CLASSES, Details, Setting, build, mapped
from geocore_bench.scenes import BLOCK_PX, REFLECTANCE

if TYPE_CHECKING:
    import torch

    from geocore.device import DeviceContext

_OUTPUT = "classes"
_FORWARDS = 12


@dataclass(frozen=True, slots=True)
class GeocoreMap:
    """Map with `geocore.inference.tiled.predict_tiles` and `OverlapBlender`, in a process that is there for it."""

    precision: Literal["float32", "bfloat16"] = "float32"
    cog: bool = False
    """Whether the product gets its overviews, which no peer makes."""

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Measure it."""
        from geocore.device import device_context
        from geocore.settings import DeviceSettings

        where = DeviceSettings(
            device="cpu",
            threads=setting.threads,
            precision=self.precision,
            channels_last=setting.model == "unet",
        )
        with device_context(where) as context:
            model = context.prepare(build(setting, data))
            _set_up_kernels(model, setting, context)

            def predict(target: Path) -> Details:
                tiles = self._map(model, setting, data / setting.scene, target, context)
                return {"tiles": tiles}

            measured = mapped(predict, data)
        tiles, seconds = measured.details["tiles"], measured.details["seconds"]
        rate = {"tile_mpx_s": tiles * setting.tile_px**2 / 1e6 / seconds}
        return Measured(measured.value, {**measured.details, **rate})

    def _map(self, model: Any, setting: Setting, path: Path, target: Path, context: DeviceContext) -> int:
        """Write the product and return the number of tiles; the calls of geocore that are measured are all here."""
        from geocore.datasets.batch import VALID
        from geocore.inference.blend import OverlapBlender
        from geocore.inference.outputs import argmax_labels
        from geocore.inference.tiled import predict_tiles
        from geocore.raster.geotiff import open_raster
        from geocore.raster.grid import Window
        from geocore.raster.write import RasterWriter
        from geocore.tiling.tiles import Chunk, TileGrid

        tiling = TileGrid(size=setting.tile_px, overlap=setting.overlap_px)
        with (
            open_raster(path) as scene,
            RasterWriter(target, grid=scene.grid, count=1, dtype="uint8", cog=self.cog) as writer,
        ):
            shape = scene.grid.shape
            chunk = Chunk("all", Window(0, 0, *shape))
            product = _BlockRows(writer.write, *shape)

            def forward(batch: Any) -> dict[str, Any]:
                images = batch["image"]["values"].float().mul_(1 / REFLECTANCE)
                return {_OUTPUT: model(images), VALID: batch["image"]["valid"]}

            def on_rows(row: int, rows: dict[str, torch.Tensor]) -> None:
                product.write(row, argmax_labels(rows[_OUTPUT]).numpy())

            predict_tiles(
                forward,
                scene,
                chunk,
                tiling,
                OverlapBlender(chunk, tiling, shape, {_OUTPUT: CLASSES}, on_rows=on_rows),
                read=lambda scene, window: scene.read_layers(window),
                context=context,
            )
            return len(tiling.windows(shape))


def _set_up_kernels(model: Any, setting: Setting, context: DeviceContext) -> None:
    """Call the model once as it will be called: in one thread, its precision and its memory format.

    `build` has done so with all threads and in float32, which are kernels that the others need.
    """
    import torch

    from geocore.device import to_device

    torch.set_num_threads(1)
    image = torch.rand(1, setting.bands, setting.tile_px, setting.tile_px)
    with torch.inference_mode(), context.autocast():
        model(to_device(image, context))
    torch.set_num_threads(setting.threads)


class _BlockRows:
    """Gathers rows to whole rows of blocks, so that each block of the product is compressed once."""

    def __init__(self, write: Callable[[NDArray[np.uint8], int], None], height: int, width: int) -> None:
        self._write, self._height = write, height
        self._rows = np.empty((1, BLOCK_PX, width), np.uint8)

    def write(self, row: int, labels: NDArray[np.uint8]) -> None:
        """Take the rows that follow, shape (row, col), from the first of the scene on."""
        while len(labels):
            context = row % BLOCK_PX
            taken = min(BLOCK_PX - context, len(labels))
            self._rows[0, context : context + taken] = labels[:taken]
            row, labels = row + taken, labels[taken:]
            if row % BLOCK_PX == 0 or row == self._height:
                self._write(self._rows[:, : context + taken], row - context - taken)


def parts_alone(setting: Setting, data: Path) -> Measured:
    """Decode every block once, cast it, run the model on every tile, encode the product: nothing in between.

    Each part runs by itself in one thread, on memory in use, and all over the scene. The value is the rate at which
    all threads would map if nothing else cost anything: threads x pixels / CPU seconds of the parts.
    """
    import rasterio
    import torch
    from rasterio.io import MemoryFile
    from rasterio.windows import Window

    from geocore.tiling.tiles import TileGrid

    model = build(setting, data)
    torch.set_num_threads(1)
    spent = {"decode_cpu_s": 0.0, "cast_cpu_s": 0.0, "model_cpu_s": 0.0, "encode_cpu_s": 0.0}

    def timed(part: str, work: Any) -> Any:
        start = time.process_time()
        result = work()
        spent[f"{part}_cpu_s"] += time.process_time() - start
        return result

    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(data / setting.scene) as source, torch.inference_mode():
        height, width = source.shape
        pixels = np.empty((setting.bands, BLOCK_PX, width), np.uint16)
        cast = torch.empty(setting.bands, BLOCK_PX, width)
        for row in range(0, height, BLOCK_PX):
            rows = min(BLOCK_PX, height - row)
            window = Window(0, row, width, rows)
            timed("decode", lambda window=window, rows=rows: source.read(window=window, out=pixels[:, :rows]))
            timed("cast", lambda: cast.copy_(torch.from_numpy(pixels)).mul_(1 / REFLECTANCE))
        tile = cast[None, :, : setting.tile_px, : setting.tile_px].contiguous()
        for _ in TileGrid(size=setting.tile_px, overlap=setting.overlap_px).windows((height, width)):
            timed("model", lambda: model(tile))
        labels = (pixels[:1] > 1500).astype(np.uint8)
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "width": width, "height": height}
        blocks = {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "deflate"}
        with MemoryFile() as memory:
            product = memory.open(**profile, **blocks)

            def encode(row: int) -> None:
                rows = min(BLOCK_PX, height - row)
                product.write(labels[:, :rows], window=Window(0, row, width, rows))

            for row in range(0, height, BLOCK_PX):
                timed("encode", lambda row=row: encode(row))
            timed("encode", product.close)
    total = sum(spent.values())
    return Measured(setting.threads * height * width / 1e6 / total, {"cpu_s": total, **spent})


def forward_alone(setting: Setting, data: Path) -> Measured:
    """The model on one tile after another: million pixels of tiles a second.

    The better of two ways to use the threads: all of them inside one forward, or one forward in each.
    """
    import torch

    from geocore.device import DeviceContext, to_device

    context = DeviceContext(torch.device("cpu"), channels_last=True)
    model = context.prepare(build(setting, data))
    image = to_device(torch.rand(1, setting.bands, setting.tile_px, setting.tile_px), context)

    def forwards(_: int) -> None:
        with torch.inference_mode():
            for _ in range(_FORWARDS // setting.threads):
                model(image)

    def rate(within: int, beside: int) -> float:
        torch.set_num_threads(within)
        with ThreadPoolExecutor(beside) as pool:
            list(pool.map(forwards, range(beside)))  # the first round sets up kernels
            rounds = range(setting.threads)
            start = time.perf_counter()
            list(pool.map(forwards, rounds))
            done = len(rounds) * (_FORWARDS // setting.threads)
            return done * setting.tile_px**2 / 1e6 / (time.perf_counter() - start)

    inside, beside = rate(setting.threads, 1), rate(1, setting.threads)
    return Measured(max(inside, beside), {"threads_inside_mpx_s": inside, "threads_beside_mpx_s": beside})
