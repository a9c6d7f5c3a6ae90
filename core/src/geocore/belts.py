"""Belts: rows of a layer decoded once and handed out to all the tiles that overlap there.

Files are stored in compressed blocks, and tiles that overlap or lie across blocks would have each of them decoded
several times. A belt keeps the blocks that the present row of tiles touches in one buffer, decodes those below when a
tile first asks for them, and lets go of those above. The buffer is allocated once: pages of memory that are touched for
the first time cost more than the copy into them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocore.grid import Window
from geocore.scenes import BlockSource, DecodingSource, Layer, LayerSource, Patch, Scene

PIECE_BYTES = 16 * 2**20
"""Decoded at once: several blocks, which GDAL decodes beside each other, and little enough to stay in its cache where
it passes them on from there."""

CACHE_BYTES = 32 * 2**20
"""GDAL's own cache of blocks while belts are in use; as each block is decoded once, it only has to hold a piece."""

_TALLEST_STRIP = 1024
"""Rows; of taller strips, such as files of one, GDAL decodes the rows that are asked for, one after the other."""

_LOWEST_BAND = 64
"""Rows decoded at once where blocks are lower, such as strips of a row."""


class BeltSource:
    """A layer read through a belt of block rows; reads are equal to those of the source itself.

    Fast for windows of one size that come row by row from the top, as the tiles of a region do: each block is decoded
    when the first of them touches it. Windows above the belt or outside its columns are read from the source.

    Memory: (height of a window + twice that of a block) x width x bytes of a pixel, and `PIECE_BYTES`.
    """

    def __init__(self, source: LayerSource, block: tuple[int, int], columns: tuple[int, int]) -> None:
        """Set up an empty belt.

        Args:
            source: where pixels come from; it stays open when the belt is closed.
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
            if isinstance(self._source, DecodingSource):
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
def belted(scene: Scene, columns: tuple[int, int]) -> Iterator[Scene]:
    """The scene with its block-wise layers read through belts; layers in memory stay as they are.

    Args:
        scene: stays open at the end.
        columns: first column and the one after the last that will be read, reference pixels; may reach outside.
    """
    sources: dict[str, LayerSource] = {}
    belts: list[BeltSource] = []
    for name, source in scene.sources.items():
        if isinstance(source, BlockSource):
            ratio = source.layer.ratio
            belt = BeltSource(source, source.block, (columns[0] // ratio, -(-columns[1] // ratio)))
            belts.append(belt)
            sources[name] = belt
        else:
            sources[name] = source
    if not belts:
        yield scene
        return
    try:
        with _small_block_cache():
            yield Scene(scene.name, scene.grid, sources)
    finally:
        _close(belts)


def _close(belts: Iterable[BeltSource]) -> None:
    for belt in belts:
        belt.close()


@contextmanager
def _small_block_cache() -> Iterator[None]:
    """Keep GDAL from holding up to 5 % of the memory in blocks that will not be asked for again."""
    from rasterio._env import get_gdal_config, set_gdal_config

    before = get_gdal_config("GDAL_CACHEMAX")
    set_gdal_config("GDAL_CACHEMAX", CACHE_BYTES)
    try:
        yield
    finally:
        set_gdal_config("GDAL_CACHEMAX", before)
