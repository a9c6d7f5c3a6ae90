"""Neighbourhoods kept in memory: parts of layers that are decoded once and serve several windows.

A window of a compressed file costs all blocks that it touches: 256 x 256 pixels in blocks of 512 decode nine times the
pixels that are used, and whole rows where a file is striped. `samplers.NeighbourhoodSampler` draws windows so that
several lie in one neighbourhood, and `pooled` lets any code that reads a scene find them in a pool.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from geocore.grid import Window
from geocore.scenes import Layer, LayerSource, Patch, Scene


class NeighbourhoodPool:
    """Decoded neighbourhoods of any number of scenes, the least recently used of which make room; for all threads.

    Args:
        limit_bytes: of what is kept. It should hold the open neighbourhoods of the sampler and those that batches read
            ahead still need: (cell + size)**2 x bytes of a pixel and its masks for each, twice their number.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, Future[Patch]] = OrderedDict()

    @property
    def bytes_kept(self) -> int:
        """Bytes of the neighbourhoods in the pool."""
        return self._bytes

    def get(self, key: Hashable, decode: Callable[[], Patch]) -> Patch:
        """Return what is kept under a key, decoded where it is missing.

        Threads that ask for what another one is decoding wait for it, and share its error.

        Args:
            key: of the neighbourhood.
            decode: makes it.

        Returns:
            Shared by all: not to be written into.
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
            patch = decode()
        except BaseException as error:
            with self._lock:
                del self._entries[key]
            entry.set_exception(error)
            raise
        entry.set_result(patch)
        with self._lock:
            self._bytes += _bytes_of(patch)
            self._make_room()
        return patch

    def _make_room(self) -> None:
        for key, entry in list(self._entries.items()):
            if self._bytes <= self._limit:
                return
            # What is being decoded does not count yet.
            if entry.done():
                self._bytes -= _bytes_of(entry.result())
                del self._entries[key]


class PooledSource:
    """A layer whose windows are cut out of neighbourhoods in a pool; reads are equal to those of the source itself."""

    def __init__(
        self, source: LayerSource, pool: NeighbourhoodPool, *, cell_px: tuple[int, int], key: Hashable
    ) -> None:
        """Put a pool before a source.

        Args:
            source: where pixels come from; closed with this one.
            pool: may be shared with other sources.
            cell_px: (rows, cols) of the cells in which windows of one neighbourhood start, pixels of this layer.
            key: what sets the source apart from others that share the pool. A source that is opened again under the
                key of an earlier one finds what that one decoded.
        """
        if min(cell_px) < 1:
            raise ValueError(f"cells of {cell_px} pixels: must be at least 1 x 1")
        self._source, self._pool, self._cell, self._key = source, pool, cell_px, key

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
        neighbourhood = self._neighbourhood(window)
        patch = self._pool.get((self._key, neighbourhood), lambda: self._source.read(neighbourhood))
        place = (..., *window.shifted(-neighbourhood.row, -neighbourhood.col).slices)
        return Patch(patch.values[place].copy(), patch.valid[place].copy())

    def close(self) -> None:
        """Close the source; the pool keeps what was decoded."""
        self._source.close()

    def _neighbourhood(self, window: Window) -> Window:
        """All that windows of this size see which start in the same cell."""
        row, col = window.row // self._cell[0] * self._cell[0], window.col // self._cell[1] * self._cell[1]
        height, width = self._cell[0] + window.height - 1, self._cell[1] + window.width - 1
        return Window(row, col, min(height, self.shape[0] - row), min(width, self.shape[1] - col))


def pooled(scene: Scene, pool: NeighbourhoodPool, *, cell_px: tuple[int, int], key: Hashable) -> Scene:
    """The same scene, read through a pool. It takes the place of the one given, and closing it closes that one's files.

    Args:
        scene: any; a layer of ratio r has cells of cell_px / r pixels.
        pool: may be shared with other scenes.
        cell_px: (rows, cols) of the cells, reference pixels, as given to the sampler; rounded up to the scene's
            alignment as there.
        key: what sets the scene apart from others that share the pool, such as its index in the sampler.
    """
    sources: dict[str, LayerSource] = {}
    align = scene.alignment
    for name, source in scene.sources.items():
        rows, cols = (-(-edge // align) * align // source.layer.ratio for edge in cell_px)
        sources[name] = PooledSource(source, pool, cell_px=(rows, cols), key=(key, name))
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
