"""Map a scene of any size: read tiles ahead, batch them, run the model, hand each output to a reducer.

`map_region` makes the part of one region and `predict_scene` runs it over all regions as resumable jobs. What a part
is, the reducer decides: `blending.DenseBlend` streams finished rows, a collector of objects keeps what a region owns.
The task joins the parts afterwards.

For one region plan, tile grid, precision and batch size a part is the same to the bit, whatever the number of workers
and the order of the regions: tiles are anchored at the scene, batches are formed inside a region, and the last batch
is padded to full size, because kernels may round differently at another batch shape.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from geocore.devices import Place, out_of_memory, pin, to_device
from geocore.errors import DeviceError, SceneError
from geocore.grid import Window
from geocore.jobs import Outcome, Task, part_path, run_tasks
from geocore.loading import stack
from geocore.scenes import Patch, Scene
from geocore.tiles import Region, Tiling, regions, tiles_of

T = TypeVar("T")
Part = TypeVar("Part", covariant=True)
P = TypeVar("P")

Tile = tuple[int, int, Window]

BATCHES_AHEAD = 2
"""Batches that wait between reader and model: enough to hide reading, and one more would only cost memory."""


class Reducer(Protocol[Part]):
    """Turns the outputs of a region's tiles into its part."""

    def add(self, row_index: int, col_index: int, window: Window, output: Any) -> None:
        """Take the output of one tile; tiles come row-major.

        Args:
            row_index: row of tiles, counted over the scene.
            col_index: column of tiles, counted over the scene.
            window: the tile in working pixels; it may reach outside the region and the scene.
            output: this tile's share of what the model returned.
        """

    def finish(self) -> Part:
        """The part, after the last tile."""


def valid_of(patches: Mapping[str, Patch], layers: Iterable[str]) -> np.ndarray:
    """Pixels at which a prediction counts: valid in all bands of all these layers, at one date or more if dated.

    Args:
        patches: what `Scene.read` returned.
        layers: the layers that decide; all must have one pixel size.

    Returns:
        Shape (row, col), bool, True = valid.
    """
    # Most layers have one mask for all bands, and most scenes one layer: then nothing is computed.
    own = [patches[layer].valid for layer in layers]
    masks: list[np.ndarray] = [mask[..., 0, :, :] if mask.shape[-3] == 1 else np.all(mask, axis=-3) for mask in own]
    flat: list[np.ndarray] = [np.any(mask, axis=0) if mask.ndim == 3 else mask for mask in masks]
    if len({mask.shape for mask in flat}) != 1:
        shapes = [mask.shape for mask in flat]
        raise ValueError(f"layers {list(layers)} have masks of shapes {shapes}; give layers of one ratio")
    valid: np.ndarray = flat[0] if len(flat) == 1 else np.logical_and.reduce(flat)
    return valid


def map_region(
    forward: Callable[[Any], Mapping[str, Tensor] | Sequence[Any]],
    scene: Scene,
    region: Region,
    tiling: Tiling,
    reducer: Reducer[P],
    *,
    read: Callable[[Scene, Window], Any],
    place: Place,
    batch_size: int,
    collate: Callable[[list[Any]], Any] = stack,
    shape: tuple[int, int] | None = None,
) -> P:
    """Run a model over the tiles that touch a region.

    A thread reads and collates ahead while the model runs. When the device runs out of memory the batch is halved and
    the region goes on; bit-equality with an undisturbed run ends there.

    Args:
        forward: called with a batch on the device, under `torch.inference_mode` and the place's autocast. Returns a
            mapping of tensors with the batch as first axis, or a sequence with one object per tile.
        scene: where tiles are read.
        region: the owned part, in working pixels.
        tiling: the tiles, in working pixels, anchored at the scene.
        reducer: receives each tile's output: the mapping without its batch axis, or the object.
        read: makes the item of one tile, in the reader thread. The window is in working pixels and may reach outside.
        place: device and precision.
        batch_size: tiles per forward.
        collate: makes a batch of items, in the reader thread.
        shape: rows and columns of the scene in working pixels; None where these are the scene's own.

    Returns:
        What the reducer finished.

    Raises:
        UserError: whatever reading and reducing raise.
        DeviceError: not even one tile fits the device's memory.
    """
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} is below 1")
    tiles = tiles_of(region, tiling, shape or scene.grid.shape)
    pinned = place.device.type == "cuda"

    def batches() -> Iterator[tuple[list[Tile], list[Any], Any]]:
        for start in range(0, len(tiles), batch_size):
            chunk = tiles[start : start + batch_size]
            items = [read(scene, window) for _, _, window in chunk]
            batch = collate(_padded(items, batch_size))
            yield chunk, items, pin(batch) if pinned else batch

    fitting = batch_size
    # Closed by name: an exception's traceback would keep the generator, and with it the thread, alive.
    with torch.inference_mode(), closing(read_ahead(batches(), BATCHES_AHEAD)) as ahead:
        for chunk, items, batch in ahead:
            done = 0
            while done < len(chunk):
                if fitting < batch_size:
                    batch = collate(_padded(items[done : done + fitting], fitting))
                outputs = _forward(forward, batch, place)
                if outputs is None:
                    if fitting == 1:
                        raise DeviceError(
                            f"one tile of {tiling.size} pixels does not fit the memory of {place.device}: "
                            "take smaller tiles, bfloat16 or the CPU"
                        )
                    fitting //= 2
                    continue
                for index, (row, col, window) in enumerate(chunk[done : done + fitting]):
                    reducer.add(row, col, window, _share(outputs, index))
                done += fitting
        return reducer.finish()


def read_ahead(source: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Run an iterator in a thread, at most `depth` values ahead of the consumer.

    Args:
        source: what to iterate over; used by the thread alone.
        depth: values that may wait. One more is in the making and one with the consumer.

    Yields:
        The values in order.

    Raises:
        Exception: whatever the source raised, when the consumer gets there.
    """
    ready: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[list[T], BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for value in source:
                if not put(([value], None)):
                    return
            put(([], None))
        except BaseException as error:  # the consumer raises it
            put(([], error))

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            values, error = ready.get()
            if error is not None:
                raise error
            if not values:
                return
            # The list is emptied so that a value is not kept alive here while the consumer works on it.
            yield values.pop()
    finally:
        stopped.set()
        thread.join()


@dataclass(frozen=True, slots=True)
class RegionWork:
    """The job function around a task's map of one region; it can be pickled when `map_one` can."""

    map_one: Callable[[Region, Path], None]

    def __call__(self, arguments: dict[str, Any], part: Path) -> None:
        """Map one region.

        Args:
            arguments: key, row, col, height and width of the region.
            part: where to write.
        """
        key, *window = (arguments[name] for name in ("key", "row", "col", "height", "width"))
        self.map_one(Region(key, Window(*window)), part)


def predict_scene(
    map_one: Callable[[Region, Path], None],
    shape: tuple[int, int],
    folder: Path,
    *,
    region_px: int,
    align: int,
    context: Any,
    workers: int = 0,
    on_done: Callable[[Outcome], None] | None = None,
) -> list[tuple[Region, Path]]:
    """Map all regions of a scene as resumable jobs.

    Args:
        map_one: writes the part of a region, a file or a folder, at the path given; picklable when there are workers.
        shape: rows and columns of the scene in working pixels.
        folder: where the parts go.
        region_px: largest rows and columns of a region, working pixels. Wide regions repeat few tiles; multiples of
            the product's block (512 output pixels) let each block be written once.
        align: multiple at which regions may begin, working pixels.
        context: what decides the parts beside their regions: settings, weights hash. JSON.
        workers: processes; 0 works in this one.
        on_done: called after each region.

    Returns:
        Regions and their parts, in row-major order.

    Raises:
        SceneError: regions failed; the others are kept and the next call does only what is missing.
    """
    plan = regions(shape, region_px, align)
    tasks = [
        Task(
            region.key,
            {
                "key": region.key,
                "row": region.window.row,
                "col": region.window.col,
                "height": region.window.height,
                "width": region.window.width,
            },
        )
        for region in plan
    ]
    outcomes = run_tasks(tasks, RegionWork(map_one), folder, context=context, workers=workers, on_done=on_done)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise SceneError(
            f"{len(failed)} of {len(plan)} regions failed, the first {failed[0].key}: {failed[0].message}; "
            "the same command does these again and keeps the rest"
        )
    return [(region, part_path(folder, region.key)) for region in plan]


def _forward(
    forward: Callable[[Any], Mapping[str, Tensor] | Sequence[Any]], batch: Any, place: Place
) -> Mapping[str, Tensor] | Sequence[Any] | None:
    """Run the model; None where the device has no memory for this batch."""
    try:
        with place.autocast():
            return forward(to_device(batch, place.device))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    # Outside the except block: the error's traceback held the tensors of the failed attempt.
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _padded(items: list[Any], size: int) -> list[Any]:
    return items + [items[-1]] * (size - len(items))


def _share(outputs: Mapping[str, Tensor] | Sequence[Any], index: int) -> Any:
    """What belongs to one tile of the batch."""
    if isinstance(outputs, Mapping):
        return {name: values[index] for name, values in outputs.items()}
    return outputs[index]
