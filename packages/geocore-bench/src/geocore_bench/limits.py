"""What the machine can do at best: the parts of which the work of every contender is made. No goal, but the reasons.

Each figure is the best of a few goes in one process, on memory in use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured
from geocore_bench.scenes import BANDS, BLOCK_PX, make_cog, make_strips

_GOES = 4
_SIDE_PX = 4096


@dataclass(frozen=True, slots=True)
class Setting:
    """The scenes, as files below the folder of the data."""

    cog: str
    strips: str


@dataclass(frozen=True, slots=True)
class Decoding:
    """Read whole blocks, each once, with GDAL's cache too small to help."""

    strips: bool = False
    threads: int = 1
    """Each with a handle of its own."""

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Decoded MB a second."""
        import rasterio
        from rasterio.windows import Window

        path = data / (setting.strips if self.strips else setting.cog)
        with rasterio.open(path) as source:
            height, width = source.shape
        if self.strips:
            windows = [Window(0, row, width, 16) for row in range(0, min(height, 1024) - 15, 16)]
        else:
            starts = range(0, min(height, _SIDE_PX) - BLOCK_PX + 1, BLOCK_PX)
            windows = [Window(col, row, BLOCK_PX, BLOCK_PX) for row in starts for col in starts]
        size = sum(window.width * window.height for window in windows) * BANDS * 2

        def read(part: list[Any]) -> None:
            with rasterio.open(path) as source:
                for window in part:
                    source.read(window=window)

        def work() -> None:
            parts = [windows[first :: self.threads] for first in range(self.threads)]
            workers = [threading.Thread(target=read, args=(part,)) for part in parts]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        with rasterio.Env(GDAL_CACHEMAX=16):
            return Measured(size / 1e6 / _best(work))


@dataclass(frozen=True, slots=True)
class Encoding:
    """Write class labels into blocks of 512, in memory."""

    compress: str
    level: int

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Million pixels a second."""
        from rasterio.io import MemoryFile

        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, (_SIDE_PX // 32, _SIDE_PX // 32), np.uint8).repeat(32, 0).repeat(32, 1)
        profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "dtype": "uint8"}
        profile |= {"width": _SIDE_PX, "height": _SIDE_PX, "compress": self.compress}
        profile |= {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX}
        profile["zlevel" if self.compress == "deflate" else "zstd_level"] = self.level

        def work() -> None:
            with MemoryFile() as memory, memory.open(**profile) as product:
                product.write(labels, 1)

        return Measured(labels.size / 1e6 / _best(work))


def copy_memory(setting: Setting, data: Path) -> Measured:
    """MB a second of a plain copy."""
    source, target = np.ones(2**27, np.uint8), np.empty(2**27, np.uint8)
    return Measured(source.nbytes / 1e6 / _best(lambda: np.copyto(target, source)))


def cast(setting: Setting, data: Path) -> Measured:
    """MB of uint16 a second, to float32."""
    source, target = np.ones((BANDS, 2048, 2048), np.uint16), np.empty((BANDS, 2048, 2048), np.float32)
    return Measured(source.nbytes / 1e6 / _best(lambda: np.copyto(target, source)))


@dataclass(frozen=True, slots=True)
class Product:
    """Multiply two square matrices of 2048 with two threads."""

    precision: str

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Thousand million operations a second."""
        import torch

        torch.set_num_threads(2)
        matrix = torch.randn(2048, 2048, dtype=getattr(torch, self.precision))
        return Measured(2 * 2048**3 / 1e9 / _best(lambda: matrix @ matrix))


@dataclass(frozen=True, slots=True)
class Labels:
    """The class of the highest of two logits, by one spelling or another, one thread."""

    spelling: str

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Million pixels a second."""
        import torch

        torch.set_num_threads(1)
        logits = torch.randn(2, 1024, 1024)
        spellings: dict[str, Callable[[], Any]] = {
            "argmax": lambda: logits.argmax(0),
            "max": lambda: logits.max(0).indices,
            "compare": lambda: logits[1] > logits[0],
        }
        return Measured(2**20 / 1e6 / _best(spellings[self.spelling]))


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest go."""
    seconds = []
    for _ in range(_GOES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _size(quick: bool) -> int:
    return 1500 if quick else 10_000


def prepare(data: Path, quick: bool) -> None:
    """Make the scenes."""
    make_cog(data, _size(quick))
    make_strips(data, _size(quick))


def cases(quick: bool) -> list[Case]:
    """One case for each part."""
    setting = Setting(f"cog_{_size(quick)}.tif", f"lzw_strip_{_size(quick)}.tif")
    files = (setting.cog, setting.strips)

    def case(name: str, unit: str, contenders: dict[str, Callable[[Any, Path], Measured]]) -> Case:
        found = tuple(Contender(key, OURS, measure) for key, measure in contenders.items())
        return Case(name, unit, setting, found, 3, files=files if name == "decoding" else ())

    decoding = {
        "deflate, blocks": Decoding(),
        "deflate, blocks, two threads": Decoding(threads=2),
        "LZW, strips": Decoding(strips=True),
    }
    encoding = {
        f"{codec} {level}": Encoding(codec, level) for codec, level in (("deflate", 6), ("deflate", 1), ("zstd", 1))
    }
    return [
        case("decoding", "MB/s", {**decoding}),
        case("encoding labels", "Mpx/s", {**encoding}),
        case("memory", "MB/s", {"copy": copy_memory, "uint16 to float32": cast}),
        case("matrix product", "GFLOP/s", {name: Product(name) for name in ("float32", "bfloat16")}),
        case("labels of two classes", "Mpx/s", {name: Labels(name) for name in ("argmax", "max", "compare")}),
    ]
