"""Neighbourhoods kept in memory: parts of layers that are decoded once and serve several windows.

A window of a compressed file costs all blocks that it touches: 256 x 256 pixels in blocks of 512 decode nine times the
pixels that are used, and whole rows where a file is striped. `samplers.NeighbourhoodSampler` draws windows so that
several lie in one chunk of a scene, and `pooled` lets any code that reads the scene find the chunk in a pool.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from geocore.grid import Window
from geocore.scenes import Layer, LayerSource, Patch, Scene

POOL_BYTES = 3 << 29
"""Of the chunks that a process keeps while it trains; `samplers.window_sampler` opens no more than fit."""

Item = TypeVar("Item")


class Pool(Generic[Item]):
    """Items made when they are asked for first, the least recently used of which make room; for all threads.

    Args:
        limit: of the sizes of all that is kept, in whatever unit. What is made last may exceed it until it is there.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Garbage collection within it may end with a call of `drop`.
        self._lock = threading.RLock()
        self._entries: OrderedDict[Hashable, Future[Item]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}

    @property
    def kept(self) -> int:
        """Size of all that is kept."""
        return sum(list(self._sizes.values()))

    def get(self, key: Hashable, make: Callable[[], Item], size: Callable[[Item], int]) -> Item:
        """Return what is kept under a key, made where it is missing.

        Threads that ask for what another one is making wait for it, and share its error.

        Args:
            key: of the item.
            make: makes it; asks the pool for nothing.
            size: of the item, in the unit of the limit.

        Returns:
            Shared by all who ask.
        """
        with self._lock:
            entry = self._entries.get(key)
            missing = entry is None
            if entry is None:
                entry = self._entries[key] = Future()
            self._entries.move_to_end(key)
        if not missing:
            return entry.result()
        try:
            item = make()
        except BaseException as error:
            with self._lock:
                self._entries.pop(key, None)
            entry.set_exception(error)
            raise
        entry.set_result(item)
        with self._lock:
            if key in self._entries:
                self._sizes[key] = size(item)
            dropped = self._make_room()
        # Let go of outside the lock: files are closed by it.
        del dropped
        return item

    def drop(self, chosen: Callable[[Hashable], bool]) -> None:
        """Let go of what is kept under some keys."""
        with self._lock:
            dropped = [self._remove(key) for key in list(self._entries) if chosen(key)]
        del dropped

    def _make_room(self) -> list[Future[Item] | None]:
        dropped: list[Future[Item] | None] = []
        kept = self.kept
        for key in list(self._entries):
            if kept <= self._limit:
                break
            # What is being made does not count yet.
            if key in self._sizes:
                kept -= self._sizes[key]
                dropped.append(self._remove(key))
        return dropped

    def _remove(self, key: Hashable) -> Future[Item] | None:
        self._sizes.pop(key, None)
        return self._entries.pop(key, None)


class PooledSource:
    """A layer one chunk of which is decoded once and kept in a pool; reads are equal to those of the layer itself."""

    def __init__(self, source: LayerSource, pool: Pool[Patch], chunk: Window, key: Hashable) -> None:
        """Put a chunk before a source.

        Args:
            source: where pixels come from; closed with this one.
            pool: of chunks by key; limited in bytes.
            chunk: pixels of this layer; what lies outside of the layer is left out. Windows within it are cut out of
                the pool, others are read from the source.
            key: what sets the source apart from others that share the pool. A source that is opened again under the
                key of an earlier one finds what that one decoded.
        """
        self._source, self._pool, self._key = source, pool, key
        self._chunk = chunk.intersection(Window(0, 0, *source.shape))

    @property
    def layer(self) -> Layer:
        """What the layer holds."""
        return self._source.layer

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) in pixels of this layer."""
        return self._source.shape

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside, in pixels of this layer; the caller may write into the result.

        Raises:
            SceneError: the file is damaged there.
        """
        chunk = self._chunk
        if chunk is None or window.intersection(chunk) != window:
            return self._source.read(window)
        patch = self._pool.get((self._key, chunk), lambda: self._source.read(chunk), _bytes_of)
        place = (..., *window.shifted(-chunk.row, -chunk.col).slices)
        return Patch(patch.values[place].copy(), patch.valid[place].copy())

    def close(self) -> None:
        """Close the source; the pool keeps what was decoded."""
        self._source.close()


def pooled(scene: Scene, pool: Pool[Patch], chunk: Window, key: Hashable) -> Scene:
    """The same scene with a chunk of it in a pool.

    Args:
        scene: any; closing the result closes its files.
        pool: limited in bytes; may be shared with other scenes.
        chunk: reference pixels; of a draw, or another window that is aligned to every layer.
        key: what sets the scene apart from others that share the pool, such as its index in the sampler.
    """
    sources = {
        name: PooledSource(source, pool, chunk.coarser(source.layer.ratio), (key, name))
        for name, source in scene.sources.items()
    }
    return Scene(scene.name, scene.grid, sources)


def cell_of(source: LayerSource, size: int) -> tuple[int, int]:
    """A fitting cell for windows of a layer: along the blocks of its file, so that few are decoded in vain.

    It is at least twice as long as a window along either axis, so that windows of one cell seldom look alike. Where the
    file stores whole rows, it has all columns and the rows of a window at least.

    Args:
        source: one that has no `block` counts as blocks of one pixel.
        size: edge of the windows, pixels of the layer.

    Returns:
        (rows, cols), pixels of the layer.
    """
    rows, cols = getattr(source, "block", (1, 1))
    if rows < source.shape[0] and cols >= source.shape[1]:
        return -(-size // rows) * rows, source.shape[1]
    return -(-2 * size // rows) * rows, -(-2 * size // cols) * cols


def _bytes_of(patch: Patch) -> int:
    return patch.values.nbytes + patch.valid.nbytes
