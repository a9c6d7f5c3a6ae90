"""Cut a grid into overlapping square tiles to run a model on, and into chunks to own an output.

Tiles are anchored at the first pixel of the scene, so that a chunk, a worker or a restart never moves one. A tile
that does not fit is moved back to end at the border instead of being cut, and a scene shorter than a tile is covered
by one tile that reaches outside: a model sees one size only. All lengths are pixels of one grid.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from geocore.errors import SettingsError
from geocore.raster.grid import Window


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Square tiles of one size on a regular stride.

    Raises:
        SettingsError: the numbers do not fit together.
    """

    size: int
    """Height and width of a tile in pixels."""
    overlap: int = 0
    """Pixels shared by neighbouring tiles along an axis, 0 <= overlap < size. The last tile may share more."""
    align: int = 1
    """Every tile starts at a multiple of this, and size and stride are multiples of it: the least common multiple of
    the ratios of a scene's layers, so that a tile holds whole pixels of the coarsest layer."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SettingsError(f"tiling.size = {self.size}: must be at least 1 pixel; 256 is usual")
        if not 0 <= self.overlap < self.size:
            raise SettingsError(
                f"tiling.overlap = {self.overlap}: must be from 0 to {self.size - 1}, below tiling.size = {self.size};"
                f" {self.size // 4} is usual"
            )
        if self.align < 1:
            raise SettingsError(f"tiling.align = {self.align}: must be at least 1 pixel")
        for name, length in (("size", self.size), ("stride (size - overlap)", self.stride)):
            if length % self.align:
                nearest = max(self.align, round(length / self.align) * self.align)
                raise SettingsError(
                    f"tiling {name} = {length}: must be a multiple of {self.align}, the coarsest layer's pixel;"
                    f" {nearest} fits"
                )

    @property
    def stride(self) -> int:
        """Pixels from the start of a tile to the start of the next one."""
        return self.size - self.overlap

    def starts(self, length: int) -> tuple[int, ...]:
        """First pixel of each tile along an axis.

        Args:
            length: pixels of the scene along the axis, at least 1.

        Returns:
            0, stride, 2 * stride, ... and a last tile that ends at the border. Where `align` forbids that, it ends
            fewer than `align` pixels outside. `(0,)` for a scene not longer than a tile.
        """
        if length < 1:
            raise ValueError(f"length = {length}: an axis has at least one pixel")
        last = -(-max(length - self.size, 0) // self.align) * self.align
        return (*range(0, last, self.stride), last)

    def grid_positions(self, shape: tuple[int, int]) -> list[tuple[int, int, Window]]:
        """Tile row, tile column and window of every tile of a scene, row by row.

        Args:
            shape: rows and columns of the scene in pixels.
        """
        cols = self.starts(shape[1])
        return [
            (i, j, Window(row, col, self.size, self.size))
            for i, row in enumerate(self.starts(shape[0]))
            for j, col in enumerate(cols)
        ]

    def windows(self, shape: tuple[int, int]) -> list[Window]:
        """Window of every tile of a scene, row by row; windows may reach outside the scene.

        Args:
            shape: rows and columns of the scene in pixels.
        """
        return [window for _, _, window in self.grid_positions(shape)]

    def weights(self, length: int) -> list[npt.NDArray[np.float32]]:
        """Blending weights along one axis; the weight of a pixel of a tile is the product over both axes.

        A tile fades by a Hann ramp, sin^2(pi/2 * (k + 1/2) / n) at pixel k of n, over what it shares with the tile
        before and with the tile after it, so it enters and leaves near zero but never at it. It does not fade at the
        border of the scene. The ramps are divided by their sum over all tiles at each pixel: ramps of two tiles sum
        to one anyway, but three and more tiles meet where the overlap exceeds half a tile or the last tile was moved
        back.

        Args:
            length: pixels of the scene along the axis, at least 1.

        Returns:
            One array per tile of `starts(length)`, shape (size,), float32, above 0. At every pixel the weights of all
            tiles sum to 1 within float32 rounding.
        """
        starts = self.starts(length)
        # float64 throughout: far inside a deep overlap the product of two ramps is small.
        ramps = np.ones((len(starts), self.size))
        for i, (before, after) in enumerate(pairwise(starts)):
            shared = before + self.size - after
            rise = np.sin(np.pi / 2 * (np.arange(shared) + 0.5) / max(shared, 1)) ** 2
            ramps[i, self.size - shared :] *= rise[::-1]
            ramps[i + 1, :shared] *= rise
        total = np.zeros(starts[-1] + self.size)
        for start, ramp in zip(starts, ramps, strict=True):
            total[start : start + self.size] += ramp
        return [
            (ramp / total[start : start + self.size]).astype(np.float32)
            for start, ramp in zip(starts, ramps, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the output that one job owns; chunks of a scene cover it without overlap."""

    key: str
    """Name from the first pixel, `r000000-c000000`: fit for a file and in row order when sorted."""
    window: Window
    """Pixels of the chunk, inside the scene."""


def chunks(shape: tuple[int, int], size_px: int, align: int = 1) -> list[Chunk]:
    """Cut a scene into chunks of about equal size, row by row; one chunk when the scene is not larger.

    Args:
        shape: rows and columns of the scene in pixels.
        size_px: largest height and width of a chunk in pixels, rounded down to a multiple of `align`.
        align: every chunk starts at a multiple of this.

    Raises:
        SettingsError: if `size_px` is below `align`.
    """
    if size_px < max(align, 1):
        raise SettingsError(f"chunk size = {size_px}: must be at least {max(align, 1)} pixels; 16384 is usual")
    row_edges, col_edges = (_chunk_edges(length, size_px, align) for length in shape)
    return [
        Chunk(f"r{top:06d}-c{left:06d}", Window(top, left, bottom - top, right - left))
        for top, bottom in pairwise(row_edges)
        for left, right in pairwise(col_edges)
    ]


def tiles_in(chunk: Chunk, tiling: TileGrid, shape: tuple[int, int]) -> list[tuple[int, int, Window]]:
    """Tiles of a scene that touch a chunk, row by row.

    Args:
        chunk: chunk of the same scene.
        tiling: tiles of the whole scene.
        shape: rows and columns of the scene in pixels.

    Returns:
        Tile row, tile column and window of each, counted over the whole scene.
    """
    window = chunk.window
    rows = tiling.starts(shape[0])
    cols = tiling.starts(shape[1])
    return [
        (i, j, Window(rows[i], cols[j], tiling.size, tiling.size))
        for i in _touching(rows, tiling.size, window.row, window.row_stop)
        for j in _touching(cols, tiling.size, window.col, window.col_stop)
    ]


def _chunk_edges(length: int, size_px: int, align: int) -> list[int]:
    units = -(-length // align)
    count = -(-units // (size_px // align))
    # Equal shares instead of full chunks and a sliver, which would repeat almost as many tiles as it owns pixels.
    return [units * i // count * align for i in range(count)] + [length]


def _touching(starts: tuple[int, ...], size: int, first: int, stop: int) -> range:
    return range(bisect_right(starts, first - size), bisect_left(starts, stop))
