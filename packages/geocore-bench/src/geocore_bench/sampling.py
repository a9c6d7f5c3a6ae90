"""Random windows of 256 x 256 x 6 a second, as float32 batches of 16, from one compressed scene.

Peers read every window for itself. geocore does too when asked for independent windows; several windows of one decoded
chunk (`--sampling.kind chunked --sampling.windows-per-chunk N` of a training command), and a scene that was
decoded before (`--cache FOLDER`), are what it offers to go faster. Windows are drawn and read by what those commands
call. Its chunks end one by one from the first batch on, so that as many are decoded in what is measured as over
a long training. What correlated windows do to a trained score is a question of its own: `correlation`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured, watch
from geocore_bench.scenes import BANDS, REFLECTANCE, make_cog, make_strips

SIZE_PX, BATCH = 256, 16
COG, COG_TWO, STRIPS = "deflate COG", "deflate COG, two readers", "LZW strips"
INDEPENDENT = "geocore, independent windows"
CACHED = "geocore, decoded before"
TORCHGEO, TORCHGEO_NEW = "torchgeo 0.8.1", "torchgeo 0.10.1"

_WARM = 4
"""Batches that a loader has handed out before the clock starts: the chunks of the start are open by then."""
_SPARE = 8
"""Batches behind the last one that counts, so that readers have work until then."""


def each_of(windows: int) -> str:
    """Name of the contender that draws so many windows from a chunk."""
    return f"geocore, {windows} windows a chunk"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is read."""

    scene: str
    """File below the folder of the data."""
    batches: int
    """Of peers, behind those that warm up."""
    readers: int = 0
    """Worker processes of torch's DataLoader; geocore reads with as many threads, and with one where this is 0."""


def timed(batches: Iterator[Any], count: int) -> Measured:
    """Time so many batches, after those that warm up.

    Args:
        batches: shape (BATCH, BANDS, SIZE_PX, SIZE_PX), float32 tensors, stored numbers.
        count: of batches.

    Returns:
        Windows a second.
    """
    for _ in range(_WARM):
        next(batches)
    with watch() as seen:
        for _ in range(count):
            batch = next(batches)
    shape = (BATCH, BANDS, SIZE_PX, SIZE_PX)
    if tuple(batch.shape) != shape or str(batch.dtype) != "torch.float32":
        raise ValueError(f"batches are {batch.dtype} {tuple(batch.shape)}, not float32 {shape}")
    if not 1 <= float(batch.min()) <= float(batch.max()) <= REFLECTANCE:
        raise ValueError("the windows do not hold what the scene does")
    return Measured(BATCH * count / seen.seconds, seen.details)


@dataclass(frozen=True, slots=True)
class GeocoreWindows:
    """`geocore.datasets.loader.Batches` over one scene, as a training command makes them of its settings."""

    each: int = 0
    """Windows of a chunk; 0: every window is drawn and read by itself."""
    cached: bool = False
    """Whether the scene is decoded into a cache before."""
    longer: int = 4
    """Times as many batches as of peers, so that a fast loader is not over in a moment."""

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Measure it."""
        import torch

        torch.set_num_threads(1)
        count = setting.batches * self.longer
        with tempfile.TemporaryDirectory(dir=data) as folder:
            draws = (count + _WARM + _SPARE) * BATCH
            path, cache = data / setting.scene, Path(folder) if self.cached else None
            batches, decoding_s = self._batches(path, draws, max(1, setting.readers), cache)
            # What loaders hand over is cast on the device; here that is the CPU, and it counts.
            floats = (batch.float() for batch in batches)
            measured = timed(floats, count)
            floats.close()
        return Measured(measured.value, {**measured.details, "decoding_s": decoding_s})

    def _batches(self, path: Path, draws: int, threads: int, cache: Path | None) -> tuple[Iterator[Any], float]:
        """The batches of one epoch, and the seconds that decoding took before; all calls of geocore are here."""
        from geocore.datasets.cache import SceneCache
        from geocore.datasets.loader import Batches
        from geocore.raster.geotiff import open_raster
        from geocore.settings import SamplingSettings
        from geocore.tiling.samplers import PatchIndex, window_sampler

        scenes, name = SceneCache(cache, reader="geocore"), path.stem
        settings = SamplingSettings(kind="chunked", windows_per_chunk=self.each) if self.each else SamplingSettings()

        def stored(_: int) -> Any:
            return scenes.open(path, name, open_raster, stored=True)

        def read(draw: PatchIndex) -> Any:
            assert draw.window is not None
            return scenes.open(path, name, open_raster, chunk=draw.chunk).read_layers(draw.window)["image"].values

        with watch() as seen:
            shapes = [scenes.open(path, name, open_raster).grid.shape]
        sampler = window_sampler(settings, shapes, SIZE_PX, draws, seed=0, batch_size=BATCH, stored=stored)
        return iter(Batches(sampler, read, batch_size=BATCH, threads=threads)), seen.seconds if self.cached else 0.0


def torchgeo_random(setting: Setting, data: Path) -> Measured:
    """torchgeo: a RasterDataset, a RandomGeoSampler and torch's DataLoader, as its documentation shows."""
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler

    torch.set_num_threads(1)
    dataset = RasterDataset(str(data / setting.scene))
    torch.manual_seed(0)
    sampler = RandomGeoSampler(dataset, size=SIZE_PX, length=(setting.batches + _WARM + _SPARE) * BATCH)

    def collate(samples: list[Any]) -> Any:
        return stack_samples([{"image": sample["image"]} for sample in samples])

    return _loaded(
        DataLoader(dataset, BATCH, sampler=sampler, num_workers=setting.readers, collate_fn=collate), setting
    )


def rasterio_kept_open(setting: Setting, data: Path) -> Measured:
    """A Dataset over rasterio that keeps the file open in each worker: what is often written by hand."""
    import rasterio
    import torch
    from rasterio.windows import Window
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)
    path = data / setting.scene
    with rasterio.open(path) as source:
        height, width = source.shape
    rng = np.random.default_rng(0)
    length = (setting.batches + _WARM + _SPARE) * BATCH
    corners = np.stack([rng.integers(0, height - SIZE_PX, length), rng.integers(0, width - SIZE_PX, length)], axis=1)
    opened: dict[int, Any] = {}

    class Windows(Dataset[Any]):
        def __len__(self) -> int:
            return length

        def __getitem__(self, index: int) -> Any:
            process = os.getpid()
            if process not in opened:
                opened[process] = rasterio.open(path)
            row, col = corners[index].tolist()
            pixels = opened[process].read(window=Window(col, row, SIZE_PX, SIZE_PX))
            return {"image": torch.from_numpy(pixels.astype(np.float32))}

    return _loaded(DataLoader(Windows(), BATCH, num_workers=setting.readers), setting)


def _loaded(loader: Any, setting: Setting) -> Measured:
    return timed((batch["image"] for batch in loader), setting.batches)


def _size(quick: bool) -> int:
    return 1500 if quick else 10_000


def prepare(data: Path, quick: bool) -> None:
    """Make the scene in both its forms."""
    make_cog(data, _size(quick))
    make_strips(data, _size(quick))


def cases(quick: bool) -> list[Case]:
    """One reader and two from blocks, one from strips."""
    batches = 2 if quick else 24
    cog, strips = f"cog_{_size(quick)}.tif", f"lzw_strip_{_size(quick)}.tif"

    def peers(*more: tuple[str, str, Callable[[Setting, Path], Measured]]) -> tuple[Contender, ...]:
        both = ((TORCHGEO, "peers", torchgeo_random), (TORCHGEO_NEW, "torchgeonew", torchgeo_random))
        return tuple(Contender(*parts) for parts in (*both, *more))

    by_hand = ("rasterio, kept open", "peers", rasterio_kept_open)
    one = (
        Contender(each_of(8), OURS, GeocoreWindows(each=8)),
        Contender(each_of(16), OURS, GeocoreWindows(each=16)),
        Contender(INDEPENDENT, OURS, GeocoreWindows(longer=1)),
        Contender(CACHED, OURS, GeocoreWindows(cached=True, longer=8)),
        *peers(by_hand),
    )
    two = (Contender(each_of(8), OURS, GeocoreWindows(each=8)), *peers())
    # A chunk of strips is as wide as the scene: 8 of them are open, not 32, and each has to serve more.
    rows = (Contender(each_of(32), OURS, GeocoreWindows(each=32)), *peers())
    unit = "windows/s"
    return [
        Case(COG, unit, Setting(cog, batches), one, threads=1, files=(cog,)),
        Case(COG_TWO, unit, Setting(cog, batches, readers=2), two, 3, threads=1, files=(cog,)),
        Case(STRIPS, unit, Setting(strips, batches), rows, threads=1, files=(strips,)),
    ]
