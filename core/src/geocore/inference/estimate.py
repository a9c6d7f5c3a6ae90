"""What mapping a scene will take, before it is begun: tiles, bytes, memory and time, and why it cannot be done.

The numbers follow from the shapes alone, but for the model's own share, which a trial of a few tiles measures.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geocore.errors import SettingsError
from geocore.inference.tiled import BATCHES_AHEAD, TILES_AHEAD
from geocore.raster.block_cache import CACHE_BYTES, PIECE_BYTES
from geocore.raster.grid import Window
from geocore.raster.npy_store import OutputBand
from geocore.raster.scene import Scene, TiledReader
from geocore.settings import TILES_PER_FORWARD, TilingSettings
from geocore.storage.memory import memory_limit
from geocore.terminal import one_line, progress
from geocore.tiling.tiles import Chunk, TileGrid, chunks, tiles_in

_FEW, _MANY = 1, 9
"""Tiles in a row of the two chunks of a trial."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What one scene takes."""

    chunks: int
    tiles: int
    """Forwards of the model, one tile each."""
    repeated: int
    """Those among them that are done more than once, because the tile touches several chunks."""
    read_bytes: int
    """Decoded pixels of all layers; a block at the seam of two chunks counts twice."""
    part_bytes: int
    """Parts of the chunks on disk, until the products are made of them."""
    memory_bytes: int
    """Buffers of one chunk: block caches, tiles that wait, rows that are blended. The model comes on top."""
    seconds: float | None = None
    """At the rate of the trial; None without one."""

    def problems(self, *, free_bytes: int, memory_limit: int) -> list[str]:
        """Why the job is impossible, one line each; empty where it is not.

        Args:
            free_bytes: on the disk of the output.
            memory_limit: bytes that the process may use.
        """
        found = []
        if self.part_bytes > free_bytes:
            found.append(
                f"the parts take {_size(self.part_bytes)} and the disk of the output has {_size(free_bytes)} left: "
                "free some or write elsewhere"
            )
        if self.memory_bytes > memory_limit:
            found.append(
                f"the buffers of a chunk take {_size(self.memory_bytes)} of {_size(memory_limit)} of memory: take "
                "smaller chunks (chunk_px) or tiles"
            )
        return found

    def __str__(self) -> str:
        """The plan in one line."""
        spent = "" if self.seconds is None else f", about {_duration(self.seconds)}"
        return (
            f"{self.tiles} tiles in {self.chunks} chunks ({self.repeated} of them repeated at seams), "
            f"{_size(self.read_bytes)} to decode, {_size(self.part_bytes)} of parts on disk, "
            f"{_size(self.memory_bytes)} of buffers beside the model{spent}"
        )


def estimate_scene(
    scene: Scene,
    tiling: TileGrid,
    *,
    chunk_px: int,
    align: int,
    channels: int,
    planes: Sequence[OutputBand],
    batch_size: int = TILES_PER_FORWARD,
    seconds_per_tile: float | None = None,
) -> CostEstimate:
    """Count what mapping a scene takes; nothing is read.

    Args:
        scene: on its working grid.
        tiling: the tiles.
        chunk_px: largest rows and columns of a chunk.
        align: multiple at which chunks may begin.
        channels: of all heads together, float32 while they are blended; 0 for objects.
        planes: what is written of each pixel.
        batch_size: tiles per forward of an accelerator.
        seconds_per_tile: of `time_tiles`.
    """
    shape = scene.grid.shape
    parts = chunks(shape, chunk_px, align)
    seen: set[Window] = set()
    tiles = 0
    read_bytes = memory = 0
    layers = {name: (source, _pixel_bytes(scene, name)) for name, source in scene.readers.items()}
    tile_bytes = sum(tiling.size**2 // source.layer.ratio**2 * pixel for source, pixel in layers.values())
    for chunk in parts:
        touched = [window for _, _, window in tiles_in(chunk, tiling, shape)]
        tiles += len(touched)
        seen.update(touched)
        reach = _reach(chunk, touched, shape)
        buffers = (
            max(TILES_AHEAD, BATCHES_AHEAD * batch_size) * tile_bytes
            + (4 * channels + 1) * tiling.size * chunk.window.width
        )
        for source, pixel in layers.values():
            ratio = source.layer.ratio
            rows, cols = -(-reach.height // ratio), -(-reach.width // ratio)
            read_bytes += rows * cols * pixel
            if isinstance(source, TiledReader):
                high = tiling.size // ratio + 2 * source.block[0]
                buffers += min(high, rows) * cols * (pixel + 1) + PIECE_BYTES + CACHE_BYTES
        memory = max(memory, buffers)
    pixels = shape[0] * shape[1]
    part_bytes = sum(pixels * plane.bands * np.dtype(plane.dtype).itemsize for plane in planes)
    seconds = None if seconds_per_tile is None else tiles * seconds_per_tile
    return CostEstimate(len(parts), tiles, tiles - len(seen), read_bytes, part_bytes, memory, seconds)


def time_tiles(map_one: Callable[[Chunk, Path], None], shape: tuple[int, int], tiling: TileGrid) -> float:
    """Seconds per tile, measured on some tiles in the middle of the scene.

    What a chunk costs whatever its tiles, such as reading the weights, is left out: two chunks are mapped, and the
    difference between them is divided by that of their tiles.

    Args:
        map_one: writes the part of a chunk at the path given.
        shape: rows and columns of the scene, working pixels.
        tiling: the tiles.
    """
    spent: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        # The first forwards of a model are slow: the small chunk is mapped twice, and the second counts.
        for attempt, tiles in enumerate((_FEW, _FEW, _MANY)):
            chunk = _middle(shape, tiling, tiles)
            begun = time.perf_counter()
            map_one(chunk, Path(folder, str(attempt)))
            spent[len(tiles_in(chunk, tiling, shape))] = time.perf_counter() - begun
    (few, fast), (many, slow) = min(spent.items()), max(spent.items())
    return max(slow - fast, 0.0) / (many - few) if many > few else fast / few


def print_estimates(
    scenes: Iterable[tuple[str, Scene, Callable[[Chunk, Path], None]]],
    tiling: TilingSettings,
    output: Path,
    *,
    chunk_px: int,
    channels: int,
    planes: Sequence[OutputBand],
    batch_size: int,
) -> None:
    """Print what mapping each scene takes, with the time that some of its tiles took.

    Args:
        scenes: name, scene on its working grid, and what writes the part of a chunk; one is not used any more when the
            next is asked for.
        tiling: the tiles.
        output: as for `tell`.
        chunk_px: as for `estimate_scene`, and so the rest; chunks may begin at any pixel.
        channels: of all heads together.
        planes: what is written of each pixel.
        batch_size: tiles per forward of an accelerator.

    Raises:
        SettingsError: a scene cannot be mapped here; says why.
    """
    tiles = TileGrid(size=tiling.size, overlap=tiling.overlap)
    plans = {
        name: estimate_scene(
            scene,
            tiles,
            chunk_px=chunk_px,
            align=1,
            channels=channels,
            planes=planes,
            batch_size=batch_size,
            seconds_per_tile=time_tiles(map_one, scene.grid.shape, tiles),
        )
        for name, scene, map_one in progress(scenes, "planning")
    }
    tell(plans, output)


def tell(plans: Mapping[str, CostEstimate], output: Path) -> None:
    """Print what each scene takes.

    Args:
        plans: scene -> its plan.
        output: folder for the products, which need not be there yet.

    Raises:
        SettingsError: a job is impossible; says why.
    """
    for name, plan in plans.items():
        print(f"{one_line(name)}: {plan}")
    disk = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    free, limit = shutil.disk_usage(disk).free, memory_limit()
    for name, plan in plans.items():
        for problem in plan.problems(free_bytes=free, memory_limit=limit):
            raise SettingsError(f"{name}: {problem}")


def _middle(shape: tuple[int, int], tiling: TileGrid, tiles: int) -> Chunk:
    """A chunk of about so many tiles in a row, along the longer side."""
    window = []
    for axis, length in enumerate(shape):
        starts = tiling.starts(length)
        count = min(tiles, len(starts)) if (axis == 0) == (shape[0] > shape[1]) else 1
        first = (len(starts) - count) // 2
        window.append((starts[first], min(starts[first + count - 1] + tiling.size, length)))
    (top, bottom), (left, right) = window
    return Chunk("time_tiles", Window(top, left, bottom - top, right - left))


def _reach(chunk: Chunk, touched: Sequence[Window], shape: tuple[int, int]) -> Window:
    """What the tiles of a chunk cover of the scene."""
    top, left = (min(getattr(window, name) for window in touched) for name in ("row", "col"))
    bottom, right = (max(getattr(window, name) for window in touched) for name in ("row_stop", "col_stop"))
    covered = Window(top, left, bottom - top, right - left).intersection(Window(0, 0, *shape))
    return chunk.window if covered is None else covered


def _pixel_bytes(scene: Scene, name: str) -> int:
    layer = scene.layers[name]
    return math.prod(layer.axes) * np.dtype(layer.dtype).itemsize


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
