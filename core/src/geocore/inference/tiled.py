"""Map a scene of any size: read tiles ahead, batch them, run the model, hand each output to a reducer.

`predict_tiles` makes the part of one chunk and `run_chunks` runs it over all chunks as resumable jobs. What a part
is, the reducer decides: `blend.OverlapBlender` streams finished rows, a collector of objects keeps what a chunk owns.
The task joins the parts afterwards.

For one chunk plan, tile grid, precision and batch size a part is the same to the bit, whatever the number of workers
and the order of the chunks: tiles are anchored at the scene, batches are formed inside a chunk, and the last batch
is padded to full size, because kernels may round differently at another batch shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from geocore.datasets.batch import pin
from geocore.datasets.loader import stack
from geocore.device import DeviceContext, out_of_memory, to_device
from geocore.errors import DeviceError, SceneError
from geocore.jobs.job import Job, part_path
from geocore.jobs.prefetch import in_order, read_ahead
from geocore.jobs.runner import run_jobs
from geocore.raster.block_cache import cached_blocks
from geocore.raster.grid import Window
from geocore.raster.scene import Scene
from geocore.settings import WorkerSettings
from geocore.terminal import progress
from geocore.tiling.tiles import Chunk, TileGrid, chunks, tiles_in

Part = TypeVar("Part", covariant=True)
P = TypeVar("P")
Tile = tuple[int, int, Window]
_Batch = tuple[list[Tile], list[Any], Any]

BATCHES_AHEAD = 2
"""Batches that wait between reader and an accelerator: enough to hide reading, and one more would only cost memory."""

TILES_AHEAD = 8
"""Tiles that wait between reader and the threads of a CPU; while they are worked on, the next blocks are decoded."""


class TileReducer(Protocol[Part]):
    """Turns the outputs of a chunk's tiles into its part."""

    def add(self, row_index: int, col_index: int, window: Window, output: Any) -> None:
        """Take the output of one tile; tiles come row-major.

        Args:
            row_index: row of tiles, counted over the scene.
            col_index: column of tiles, counted over the scene.
            window: the tile in working pixels; it may reach outside the chunk and the scene.
            output: this tile's share of what the model returned.
        """

    def finish(self) -> Part:
        """The part, after the last tile."""


def predict_tiles(
    forward: Callable[[Any], Mapping[str, Tensor] | Sequence[Any]],
    scene: Scene,
    chunk: Chunk,
    tiling: TileGrid,
    reducer: TileReducer[P],
    *,
    read: Callable[[Scene, Window], Any],
    context: DeviceContext,
    batch_size: int | None = None,
    shape: tuple[int, int] | None = None,
) -> P:
    """Run a model over the tiles that touch a chunk.

    A thread reads and collates ahead while the model runs. Each block of a file is decoded once
    (`geocore.raster.block_cache`). When the device runs out of memory the batch is halved and the chunk goes on;
    bit-equality with an undisturbed run ends there.

    In a context of `device_context` a CPU takes the batches in as many threads as torch has, one core each: a tile's
    values stay in the core's cache, and no core waits for another. In a context made by hand, where threads are the
    caller's, it takes one batch after the other, which is slower, and GDAL may keep up to 5 % of the memory in blocks.
    What is mapped differs by no more than the rounding of kernels for another number of threads.

    Args:
        forward: called with a batch on the device, under `torch.inference_mode` and the context's autocast; on a CPU
            from several threads at once where the context is dedicated. Returns a mapping of tensors with the batch as
            first axis, or a sequence with one object per tile.
        scene: where tiles are read.
        chunk: the owned part, in working pixels.
        tiling: the tiles, in working pixels, anchored at the scene.
        reducer: receives each tile's output: the mapping without its batch axis, or the object.
        read: makes the item of one tile, in the reader thread, from the scene it is given; items become a batch by
            `datasets.loader.stack`. The window is in working pixels and may reach outside.
        context: device, precision, memory format and, on an accelerator, tiles per forward.
        batch_size: tiles per forward, also on a CPU; None: 1 there, and that of the context elsewhere.
        shape: rows and columns of the scene in working pixels; None where these are the scene's own.

    Returns:
        What the reducer finished.

    Raises:
        UserError: whatever reading and reducing raise.
        DeviceError: not even one tile fits the device's memory.
    """
    on_cpu = context.device.type == "cpu"
    size = (1 if on_cpu else context.batch_size) if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"batch size {size} is below 1")
    tiles = tiles_in(chunk, tiling, shape or scene.grid.shape)
    run = _Forward(forward, context, size, tiling.size)

    def batches(scene: Scene) -> Iterator[_Batch]:
        for start in range(0, len(tiles), size):
            group = tiles[start : start + size]
            items = [read(scene, window) for _, _, window in group]
            batch = stack(_padded(items, size))
            yield group, items, pin(batch) if context.device.type == "cuda" else batch

    # Working pixels of another size are left to the reader: then any column may be asked for.
    first = min(window.col for _, _, window in tiles) if shape is None else 0
    stop = max(window.col_stop for _, _, window in tiles) if shape is None else scene.grid.width
    ahead = -(-TILES_AHEAD // size) if on_cpu else BATCHES_AHEAD
    with torch.inference_mode(), cached_blocks(scene, (first, stop)) as fed, context.mapping() as cores:
        # Closed by name: an exception's traceback would keep the generators, and with them their threads, alive.
        with (
            closing(read_ahead(batches(fed), ahead)) as ready,
            closing(in_order(ready, run, cores)) as done,
            progress(len(tiles), "tiles", delay=1.0) as bar,
        ):
            for group, outputs in done:
                for (row, col, window), output in zip(group, outputs, strict=True):
                    reducer.add(row, col, window, output)
                bar.advance(len(group))
        return reducer.finish()


class _Forward:
    """The model as a stage of the pipeline: batches in, outputs of each tile out."""

    def __init__(
        self,
        forward: Callable[[Any], Mapping[str, Tensor] | Sequence[Any]],
        context: DeviceContext,
        batch_size: int,
        tile_px: int,
    ) -> None:
        self._forward, self._context = forward, context
        self._full = self._fitting = batch_size
        self._tile_px = tile_px

    def __call__(self, entry: _Batch) -> tuple[list[Tile], list[Any]]:
        group, items, batch = entry
        shares: list[Any] = []
        # Set in each thread: torch keeps both modes by thread.
        with torch.inference_mode(), self._context.autocast():
            while len(shares) < len(group):
                fitting = self._fitting
                if fitting < self._full:
                    batch = stack(_padded(items[len(shares) : len(shares) + fitting], fitting))
                outputs = self._attempt(batch)
                if outputs is None:
                    if fitting == 1:
                        raise DeviceError(
                            f"one tile of {self._tile_px} pixels does not fit the memory of {self._context.device}: "
                            "take smaller tiles, bfloat16, fewer threads or the CPU"
                        )
                    self._fitting = max(1, fitting // 2)
                    continue
                shares += [_share(outputs, index) for index in range(min(fitting, len(group) - len(shares)))]
        return group, shares

    def _attempt(self, batch: Any) -> Mapping[str, Tensor] | Sequence[Any] | None:
        """Run the model; None where the device has no memory for this batch."""
        try:
            return self._forward(to_device(batch, self._context))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # Outside the except block: the error's traceback held the tensors of the failed attempt.
        if self._context.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


@dataclass(frozen=True, slots=True)
class ChunkJob:
    """The job function around a task's map of one chunk; it can be pickled when `map_one` can."""

    map_one: Callable[[Chunk, Path], None]

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Map one chunk.

        Args:
            arguments: key, row, col, height and width of the chunk.
            part: where to write.
        """
        key, *window = (arguments[name] for name in ("key", "row", "col", "height", "width"))
        self.map_one(Chunk(key, Window(*window)), part)


def run_chunks(
    map_one: Callable[[Chunk, Path], None],
    shape: tuple[int, int],
    folder: Path,
    *,
    chunk_px: int,
    align: int,
    identity: Any,
    workers: int | WorkerSettings = 0,
) -> list[tuple[Chunk, Path]]:
    """Map all chunks of a scene as resumable jobs.

    Args:
        map_one: writes the part of a chunk, a file or a folder, at the path given; picklable when there are workers.
        shape: rows and columns of the scene in working pixels.
        folder: where the parts go.
        chunk_px: largest rows and columns of a chunk, working pixels. Wide chunks repeat few tiles; multiples of
            the product's block (512 output pixels) let each block be written once.
        align: multiple at which chunks may begin, working pixels.
        identity: what decides the parts beside their chunks: settings, weights hash. JSON.
        workers: processes, 0 works in this one; or how the command shares its work out.

    Returns:
        Chunks and their parts, in row-major order.

    Raises:
        SceneError: chunks failed; the others are kept and the next call does only what is missing.
    """
    plan = chunks(shape, chunk_px, align)
    jobs = [
        Job(
            chunk.key,
            {
                "key": chunk.key,
                "row": chunk.window.row,
                "col": chunk.window.col,
                "height": chunk.window.height,
                "width": chunk.window.width,
            },
        )
        for chunk in plan
    ]
    outcomes = run_jobs(jobs, ChunkJob(map_one), folder, identity=identity, workers=workers)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise SceneError(
            f"{len(failed)} of {len(plan)} chunks failed, the first {failed[0].key}: {failed[0].message}; "
            "the same command does these again and keeps the rest"
        )
    return [(chunk, part_path(folder, chunk.key)) for chunk in plan]


def _padded(items: list[Any], size: int) -> list[Any]:
    return items + [items[-1]] * (size - len(items))


def _share(outputs: Mapping[str, Tensor] | Sequence[Any], index: int) -> Any:
    """What belongs to one tile of the batch."""
    if isinstance(outputs, Mapping):
        return {name: values[index] for name, values in outputs.items()}
    return outputs[index]
