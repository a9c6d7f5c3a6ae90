"""What tiles show of objects, from the model's output to a file for each chunk.

A tile shows an object whole, or the part of it that the tile covers; each such view is a detection. The collector of a
chunk takes the tiles that touch it, writes the probability of its own pixels row by row, and keeps the detections of
the tiles that start inside it. Every tile starts in exactly one chunk, so that the chunks' lists together hold each
detection once, whatever the size of a chunk. `instances.merge` makes objects of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError
from geocore.raster.grid import Window
from geocore.storage.files import storage_errors
from geocore.storage.memory import read_arrays
from geocore.tiling.tiles import Chunk, TileGrid

PERCENT_NODATA: Final = 255
"""Probability of invalid pixels."""
HALF: Final = 128
"""Least mask value that counts as object: the first above a probability of one half."""

BoolArray = npt.NDArray[np.bool_]
ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """What a tile shows of one object.

    Raises:
        ValueError: mask and window differ in shape, the mask is not uint8, or the score is not from 0 to 1.
    """

    window: Window
    """Pixels that `mask` covers: of the tile when a model returns it, of the scene when a collector does."""
    mask: ByteArray
    """Shape (row, col), uint8: probability that the pixel belongs to the object x 255, rounded."""
    score: float
    """Probability that there is an object, 0-1."""
    label: int
    """Class value, from 1."""
    tile: tuple[int, int] = (0, 0)
    """Row and column of the tile, counted over the scene; set by the collector."""

    def __post_init__(self) -> None:
        if self.mask.shape != self.window.shape or self.mask.dtype != np.uint8:
            raise ValueError(f"mask {self.mask.dtype} {self.mask.shape} for {self.window}; it must be uint8")
        # Not `< 0 or > 1`: nan passes neither.
        if not 0 <= self.score <= 1:
            raise ValueError(f"score {self.score}: must be from 0 to 1")


@dataclass(frozen=True, slots=True, eq=False)
class TileOutput:
    """What a model returns for one tile."""

    detections: list[Detection]
    """In pixels of the tile."""
    valid: BoolArray
    """Shape (row, col) of the tile, bool: pixels whose input was valid."""


def bounds(mask: BoolArray) -> Window | None:
    """The smallest window that holds all pixels of a mask, shape (row, col); None when there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    cols = np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(cols[0])
    return Window(top, left, int(rows[-1]) - top + 1, int(cols[-1]) - left + 1)


class DetectionCollector:
    """Reducer of `geocore.inference.tiled`: probability rows as they become finished, detections at the end.

    Probability is the largest score x mask over all detections at a pixel, in percent rounded to the nearest whole
    number (a half to the even one). A pixel is valid where all tiles over it call it valid.

    A chunk's tiles must arrive row-major. Memory: two bytes per pixel of a strip of tile x chunk width, and the
    detections.
    """

    def __init__(
        self, chunk: Chunk, tiling: TileGrid, shape: tuple[int, int], on_rows: Callable[[int, ByteArray], None]
    ) -> None:
        """Prepare the strip of a chunk.

        Args:
            chunk: the owned part of the scene.
            tiling: the tiles, anchored at the scene.
            shape: rows and columns of the whole scene.
            on_rows: called with the first row (counted from the scene's first) and probability of shape
                (rows, chunk width), uint8, 0-100, and 255 where invalid; each row of the chunk once, in order.
        """
        self._window = chunk.window
        self._scene = Window(0, 0, *shape)
        self._size = tiling.size
        self._emit = on_rows
        self._percent = np.zeros((tiling.size, chunk.window.width), np.uint8)
        self._valid = np.ones((tiling.size, chunk.window.width), bool)
        self._row_index = -1
        self._top = 0
        self._kept: list[Detection] = []

    def add(self, row_index: int, col_index: int, window: Window, output: TileOutput) -> None:
        """Add one tile.

        Args:
            row_index: row of tiles, counted over the scene.
            col_index: column of tiles, counted over the scene.
            window: the tile in pixels of the scene; it may reach outside.
            output: what the model saw in it.

        Raises:
            ValueError: tiles come out of order, or masks do not fit the tile.
        """
        if row_index < self._row_index:
            raise ValueError(f"tile row {row_index} after {self._row_index}: tiles must come row by row")
        if output.valid.shape != (self._size, self._size):
            raise ValueError(f"valid mask of shape {output.valid.shape} in a tile of {self._size} pixels")
        if row_index > self._row_index:
            self._advance(window.row)
            self._row_index = row_index

        own = self._window
        first, last = max(window.col, own.col), min(window.col_stop, own.col_stop)
        if first < last:
            columns = slice(first - own.col, last - own.col)
            self._valid[:, columns] &= output.valid[:, first - window.col : last - window.col]
        owned = own.row <= window.row < own.row_stop and own.col <= window.col < own.col_stop
        inside = Window(0, 0, self._size, self._size)
        for detection in output.detections:
            if detection.window.intersection(inside) != detection.window:
                raise ValueError(f"{detection.window} reaches outside a tile of {self._size} pixels")
            self._raise_percent(detection, window.col)
            if owned and (kept := self._placed(detection, window, output.valid)) is not None:
                self._kept.append(Detection(*kept, detection.score, detection.label, (row_index, col_index)))

    def finish(self) -> list[Detection]:
        """Emit what is left.

        Returns:
            Detections of the tiles that start in the chunk, in scene pixels, cut to the scene and to valid pixels;
            those with no pixel above one half are left out, as they can neither link nor become an object.
        """
        if self._row_index < 0:
            raise ValueError("no tile was added")
        self._emit_until(self._top + self._size)
        return self._kept

    def _raise_percent(self, detection: Detection, left: int) -> None:
        box = detection.window.shifted(0, left - self._window.col)
        first, last = max(box.col, 0), min(box.col_stop, self._window.width)
        if first >= last:
            return
        # One rounding for each of the 256 values. Rounding keeps the order, so the maximum may be taken after it.
        percent = np.rint(np.arange(256) * detection.score * 100 / 255).astype(np.uint8)
        strip = self._percent[box.row : box.row_stop, first:last]
        np.maximum(strip, percent[detection.mask[:, first - box.col : last - box.col]], out=strip)

    def _placed(self, detection: Detection, tile: Window, valid: BoolArray) -> tuple[Window, ByteArray] | None:
        """Window in scene pixels and mask of what is inside the scene and valid."""
        mask = np.where(valid[detection.window.slices], detection.mask, np.uint8(0))
        box = detection.window.shifted(tile.row, tile.col)
        inside = box.intersection(self._scene)
        if inside is None:
            return None
        mask = mask[inside.shifted(-box.row, -box.col).slices]
        if not (mask >= HALF).any():
            return None
        tight = bounds(mask > 0)
        assert tight is not None
        return tight.shifted(inside.row, inside.col), np.ascontiguousarray(mask[tight.slices])

    def _advance(self, top: int) -> None:
        """Emit the rows above `top` and move the strip down to it."""
        if self._row_index < 0:
            self._top = top
            return
        self._emit_until(top)
        shift = top - self._top
        keep = self._size - shift
        for strip, empty in ((self._percent, 0), (self._valid, 1)):
            # numpy buffers where source and target overlap in memory.
            strip[:keep] = strip[shift:]
            strip[keep:] = empty
        self._top = top

    def _emit_until(self, stop: int) -> None:
        first, last = max(self._top, self._window.row), min(stop, self._window.row_stop)
        if first < last:
            rows = slice(first - self._top, last - self._top)
            self._emit(first, np.where(self._valid[rows], self._percent[rows], np.uint8(PERCENT_NODATA)))


def save_detections(path: Path, detections: Iterable[Detection]) -> None:
    """Write detections as plain arrays, uncompressed: the file lives until its scene is finished, and pace counts.

    Args:
        path: file to write; its suffix stays as it is.
        detections: any number.

    Raises:
        StorageError: the disk is full or closed.
    """
    kept = list(detections)
    windows = [(s.window.row, s.window.col, s.window.height, s.window.width) for s in kept]
    masks = [detection.mask.ravel() for detection in kept]
    with storage_errors(path), path.open("wb") as file:
        np.savez(
            file,
            windows=np.array(windows, np.int64).reshape(-1, 4),
            masks=np.concatenate(masks) if masks else np.zeros(0, np.uint8),
            scores=np.array([detection.score for detection in kept], np.float64),
            labels=np.array([detection.label for detection in kept], np.int64),
            tiles=np.array([detection.tile for detection in kept], np.int64).reshape(-1, 2),
        )


def load_detections(path: Path) -> list[Detection]:
    """Read what `save_detections` wrote, in the same order.

    Raises:
        DataError: the file is missing or not of this kind.
    """
    try:
        arrays = read_arrays(path)
        masks, windows = arrays["masks"], arrays["windows"].tolist()
        scores, labels, tiles = (arrays[name].tolist() for name in ("scores", "labels", "tiles"))
        detections, first = [], 0
        for (row, col, height, width), score, label, tile in zip(windows, scores, labels, tiles, strict=True):
            last = first + height * width
            mask = masks[first:last].reshape(height, width)
            detections.append(Detection(Window(row, col, height, width), mask, score, label, (tile[0], tile[1])))
            first = last
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable file of detections; delete it and map the chunk again") from error
    return detections
