"""Blocks of a layer decoded once: for all the tiles that overlap there, or for several windows of one chunk.

Files are stored in compressed blocks, and tiles that overlap or lie across blocks would have each of them decoded
several times. A cache keeps the blocks that the present row of tiles touches in one buffer, decodes those below when a
tile first asks for them, and lets go of those above. The buffer is allocated once: pages of memory that are touched for
the first time cost more than the copy into them.

A window at random costs all blocks that it touches: 256 x 256 pixels in blocks of 512 decode nine times the pixels that
are used, and whole rows where a file is striped. `samplers.ChunkedSampler` draws windows so that several lie in
one chunk, and `with_chunk` lets any code that reads a scene find them in a pool.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from geocore.raster.grid import Window
from geocore.raster.scene import BandReader, Layer, Patch, ReadIntoReader, Scene, TiledReader

PIECE_BYTES = 16 * 2**20
"""Decoded at once: several blocks, which GDAL decodes beside each other, and little enough to stay in its cache where
it passes them on from there."""

CACHE_BYTES = 32 * 2**20
"""Enough for GDAL's own cache while those here are in use: as each block is decoded once, it has to hold a piece. It is
the process's, so that only one dedicated to the work makes it so small (`device.DeviceContext.mapping`)."""

_TALLEST_STRIP = 1024
"""Rows; of taller strips, such as files of one, GDAL decodes the rows that are asked for, one after the other."""

_LOWEST_BAND = 64
"""Rows decoded at once where blocks are lower, such as strips of a row."""


class BlockCacheReader:
    """A layer read through a cache of block rows; reads are equal to those of the source itself.

    Fast for windows of one size that come row by row from the top, as the tiles of a chunk do: each block is decoded
    when the first of them touches it. Windows above the cache or outside its columns are read from the source.

    Memory: (height of a window + twice that of a block) x width x bytes of a pixel, and `PIECE_BYTES`.
    """

    def __init__(self, source: BandReader, block: tuple[int, int], columns: tuple[int, int]) -> None:
        """Set up an empty cache.

        Args:
            source: where pixels come from; it stays open when the cache is closed.
            block: (rows, cols) of its blocks.
            columns: first column and the one after the last that windows will touch; may reach outside the layer.
        """
        self._source = source
        cols = source.shape[1]
        self._rows = 1 if block[0] > _TALLEST_STRIP and block[1] >= cols else block[0]
        if self._rows < _LOWEST_BAND:
            self._rows *= -(-_LOWEST_BAND // self._rows)
        self._cols = min(block[1], cols)
        self._left = min(max(0, columns[0]), cols) // self._cols * self._cols
        self._right = max(self._left, min(cols, columns[1]))
        self._lock = threading.Lock()
        self._allocate(0)

    @property
    def layer(self) -> Layer:
        """What the layer holds."""
        return self._source.layer

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) in pixels of this layer."""
        return self._source.shape

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside, in pixels of this layer; the caller may write into the result."""
        with self._lock:
            if window.col < self._left or window.col_stop > self._right:
                return self._source.read(window)
            bands = range(window.row // self._rows, (window.row_stop - 1) // self._rows + 1)
            if len(bands) > len(self._held):
                # One more, since the same window lies across one more border elsewhere.
                self._allocate(len(bands) + 1)
            if any(self._held[band % len(self._held)] > band for band in bands):
                return self._source.read(window)
            for band in bands:
                self._load(band, window)
            return Patch(self._cut(self._values, window), self._cut(self._valid, window))

    def close(self) -> None:
        """Let go of the buffers; the source stays open."""
        with self._lock:
            self._allocate(0)

    def _allocate(self, count: int) -> None:
        """Make room for so many bands, each one row of blocks; band b lies in place b % count, so that none is moved.

        What was held is lost.
        """
        shape = (count * self._rows, self._right - self._left)
        axes: tuple[int, ...] = ()
        masks: tuple[int, ...] = ()
        if count:
            # One pixel tells the number of masks.
            axes, masks = self.layer.axes, self._source.read(Window(0, 0, 1, 1)).valid.shape[:-2]
        self._values: NDArray[Any] = np.empty((*axes, *shape), self.layer.dtype)
        self._valid: NDArray[np.bool_] = np.empty((*masks, *shape), np.bool_)
        self._held = [-1] * count
        self._loaded = np.zeros((count, -(-shape[1] // self._cols)), np.bool_)

    def _load(self, band: int, window: Window) -> None:
        """Decode the blocks of a band that a window touches and that are not there yet."""
        place = band % len(self._held)
        if self._held[place] != band:
            self._held[place] = band
            self._loaded[place] = False
        loaded = self._loaded[place]
        first, stop = (window.col - self._left) // self._cols, -(-(window.col_stop - self._left) // self._cols)
        rows = min(self._rows, self.shape[0] - band * self._rows)
        pixel = int(np.prod(self.layer.axes)) * self._values.itemsize
        for col in range(first, stop):
            if loaded[col]:
                continue
            # On to the right, where the next tiles lie, up to what is there already.
            until = min(col + max(1, PIECE_BYTES // (rows * self._cols * pixel)), len(loaded))
            until = next((other for other in range(col + 1, until) if loaded[other]), until)
            cols = slice(col * self._cols, min(until * self._cols, self._right - self._left))
            piece = Window(band * self._rows, self._left + cols.start, rows, cols.stop - cols.start)
            part = (..., slice(place * self._rows, place * self._rows + rows), cols)
            if isinstance(self._source, ReadIntoReader):
                self._source.decode(piece, Patch(self._values[part], self._valid[part]))
            else:
                patch = self._source.read(piece)
                self._values[part], self._valid[part] = patch.values, patch.valid
            loaded[col:until] = True

    def _cut(self, buffer: NDArray[Any], window: Window) -> NDArray[Any]:
        """A copy of a window, which may lie across the end of the buffer."""
        cut = np.empty((*buffer.shape[:-2], *window.shape), buffer.dtype)
        cols = slice(window.col - self._left, window.col_stop - self._left)
        row, capacity = window.row, buffer.shape[-2]
        while row < window.row_stop:
            place = row % capacity
            rows = min(window.row_stop - row, capacity - place)
            cut[..., row - window.row : row - window.row + rows, :] = buffer[..., place : place + rows, cols]
            row += rows
        return cut


@contextmanager
def cached_blocks(scene: Scene, columns: tuple[int, int]) -> Iterator[Scene]:
    """The scene with its block-wise layers read through caches; layers in memory stay as they are.

    Args:
        scene: stays open at the end.
        columns: first column and the one after the last that will be read, reference pixels; may reach outside.
    """
    sources: dict[str, BandReader] = {}
    caches: list[BlockCacheReader] = []
    for name, source in scene.readers.items():
        if isinstance(source, TiledReader):
            ratio = source.layer.ratio
            cache = BlockCacheReader(source, source.block, (columns[0] // ratio, -(-columns[1] // ratio)))
            caches.append(cache)
            sources[name] = cache
        else:
            sources[name] = source
    if not caches:
        yield scene
        return
    try:
        yield Scene(scene.name, scene.grid, sources)
    finally:
        _close(caches)


def _close(caches: Iterable[BlockCacheReader]) -> None:
    for cache in caches:
        cache.close()


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


class ChunkReader:
    """A layer one chunk of which is decoded once and kept in a pool; reads are equal to those of the layer itself."""

    def __init__(self, source: BandReader, pool: Pool[Patch], chunk: Window, key: Hashable) -> None:
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


def with_chunk(scene: Scene, pool: Pool[Patch], chunk: Window, key: Hashable) -> Scene:
    """The same scene with a chunk of it in a pool.

    Args:
        scene: any; closing the result closes its files.
        pool: limited in bytes; may be shared with other scenes.
        chunk: reference pixels; of a draw, or another window that is aligned to every layer.
        key: what sets the scene apart from others that share the pool, such as its index in the sampler.
    """
    sources = {
        name: ChunkReader(source, pool, chunk.coarser(source.layer.ratio), (key, name))
        for name, source in scene.readers.items()
    }
    return Scene(scene.name, scene.grid, sources)


def chunk_for(source: BandReader, size: int) -> tuple[int, int]:
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
