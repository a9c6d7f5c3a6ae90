"""Blend overlapping tile outputs into whole rows, with memory that does not grow with the height of a scene.

A chunk's tiles arrive row of tiles by row of tiles. `OverlapBlender` adds each one, weighted by the product of two 1-D
weights that sum to 1 over all tiles of the scene at every pixel, to a strip one tile high. Rows that no later tile
touches leave the strip at once, on the device of the model: what the caller makes of them (class labels, percentages)
is small enough to copy to the host. Because the weights already sum to 1 there is neither a count array nor a division.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from geocore.datasets.batch import VALID
from geocore.errors import DataError
from geocore.raster.grid import Window
from geocore.tiling.tiles import Chunk, TileGrid

_CACHED_PIXELS = 2**18
"""Pixels emitted at once by a CPU: 1 MiB a channel."""


@dataclass(frozen=True, slots=True)
class OutputHead:
    """One dense output of a model."""

    channels: int
    """Channels of the raw output: classes, independent probabilities or predicted quantities."""
    kind: Literal["classes", "sigmoid", "values"]
    """classes: exactly one channel is true; sigmoid: each channel is true or false; values: numbers as they are."""

    def activate(self, raw: Tensor) -> Tensor:
        """Turn raw outputs into what is blended: probabilities, or the values themselves.

        Args:
            raw: shape (batch, channel, row, col), float of any width.

        Returns:
            Same shape, float32, probability 0-1 (classes sum to 1 over the channels) or the values' own unit.
        """
        if raw.shape[1] != self.channels:
            raise ValueError(f"{raw.shape[1]} channels where the head has {self.channels}")
        if self.kind == "classes":
            return raw.float().softmax(1)
        return raw.float().sigmoid() if self.kind == "sigmoid" else raw.float()


def output_window(chunk: Chunk, scale: int, output_shape: tuple[int, int]) -> Window:
    """The part of the output that a chunk owns.

    Args:
        chunk: in working pixels.
        scale: output pixels per working pixel along an axis.
        output_shape: rows and columns of the output scene, which may end inside the last working pixel.
    """
    inside = chunk.window.finer(scale).intersection(Window(0, 0, *output_shape))
    if inside is None:
        raise ValueError(f"chunk {chunk.key} lies outside an output of {output_shape}")
    return inside


class OverlapBlender:
    """Reducer for dense outputs: a rolling strip one tile high, which emits finished rows in order.

    Each output is a mapping from a head's name to a tensor of shape (channel, size x scale, size x scale), and from
    `VALID` to a bool tensor of shape (1, size x scale, size x scale) or (size x scale, size x scale). An output pixel
    is valid where all tiles over it call it valid; its blended values are 0 elsewhere, whatever the model put there.

    A chunk's tiles must arrive row-major. Memory: sum of channels x tile x chunk width x 4 bytes.
    """

    def __init__(
        self,
        chunk: Chunk,
        tiling: TileGrid,
        shape: tuple[int, int],
        channels: Mapping[str, int],
        *,
        on_rows: Callable[[int, dict[str, Tensor]], None],
        scale: int = 1,
        output_shape: tuple[int, int] | None = None,
    ) -> None:
        """Prepare the strip of a chunk.

        Args:
            chunk: the owned part of the scene, in working pixels.
            tiling: the tiles, in working pixels, anchored at the scene.
            shape: rows and columns of the whole scene, in working pixels.
            channels: channels of each head.
            on_rows: called with the first row (output pixels, counted from the scene's first) and, for each head, a
                tensor of shape (channel, rows, chunk width), float32, and `VALID` of shape (1, rows, chunk width),
                bool. The tensors are views of the strip: use or copy them before returning.
            scale: output pixels per working pixel along an axis.
            output_shape: rows and columns of the output scene when it ends inside the last working pixel.
        """
        if VALID in channels or not channels:
            raise ValueError(f"heads {sorted(channels)}: at least one, and none called '{VALID}'")
        full = (shape[0] * scale, shape[1] * scale)
        rows, cols = output_shape or full
        if not (full[0] - scale < rows <= full[0] and full[1] - scale < cols <= full[1]):
            raise ValueError(f"output shape {(rows, cols)} does not end in the last working pixel of {full}")
        fine = TileGrid(size=tiling.size * scale, overlap=tiling.overlap * scale, align=tiling.align * scale)
        self._row_weights = [torch.from_numpy(weights) for weights in fine.weights(full[0])]
        self._col_weights = [torch.from_numpy(weights) for weights in fine.weights(full[1])]
        self._size = fine.size
        self._scale = scale
        self._channels = dict(channels)
        self._emit = on_rows
        self.window = output_window(chunk, scale, (rows, cols))
        """The chunk in output pixels."""
        self._strips: dict[str, Tensor] = {}
        self._valid = torch.empty(0, dtype=torch.bool)
        self._row_index = -1
        self._top = 0
        self._held_rows = self._held_cols = 0

    def add(self, row_index: int, col_index: int, window: Window, output: Mapping[str, Tensor]) -> None:
        """Add one tile.

        Args:
            row_index: row of tiles, counted over the scene.
            col_index: column of tiles, counted over the scene.
            window: the tile in working pixels.
            output: heads and valid mask of this tile, see the class.

        Raises:
            DataError: the rows that became finished hold numbers that are not finite.
        """
        if output.keys() != self._channels.keys() | {VALID}:
            raise ValueError(f"outputs {sorted(output)} where {sorted(self._channels)} and '{VALID}' are due")
        if row_index < self._row_index:
            raise ValueError(f"tile row {row_index} after {self._row_index}: tiles must come row by row")
        top, left = window.row * self._scale, window.col * self._scale
        if self._row_index < 0:
            self._allocate(output[VALID].device, top)
        elif row_index > self._row_index:
            self._advance(top)
        self._row_index = row_index

        first, last = max(left, self.window.col), min(left + self._size, self.window.col_stop)
        if first >= last:
            return
        tile, strip = slice(first - left, last - left), slice(first - self.window.col, last - self.window.col)
        held, fresh = self._places(strip)
        weights = torch.outer(self._row_weights[row_index], self._col_weights[col_index][tile])
        for name, channels in self._channels.items():
            value = output[name]
            if value.shape != (channels, self._size, self._size):
                raise ValueError(f"'{name}' is {tuple(value.shape)}, not {(channels, self._size, self._size)}")
            value, target = value[:, :, tile].float(), self._strips[name][:, :, strip]
            for rows, cols in held:
                target[:, rows, cols].addcmul_(value[:, rows, cols], weights[rows, cols])
            torch.mul(value[:, *fresh], weights[fresh], out=target[:, *fresh])
        valid, target = output[VALID].reshape(1, self._size, self._size)[:, :, tile], self._valid[:, :, strip]
        for rows, cols in held:
            target[:, rows, cols] &= valid[:, rows, cols]
        target[:, *fresh] = valid[:, *fresh]
        self._held_cols = strip.stop

    def finish(self) -> None:
        """Emit what is left.

        Raises:
            DataError: these rows hold numbers that are not finite.
        """
        if self._row_index < 0:
            raise ValueError("no tile was added")
        self._emit_until(self._top + self._size)

    def _places(self, strip: slice) -> tuple[list[tuple[slice, slice]], tuple[slice, slice]]:
        """Rows and columns of a tile over which the strip holds something already, and those over which it does not.

        What is fresh is written and not added to: nothing has to be cleared before.
        """
        if strip.start > self._held_cols:
            raise ValueError(f"no tile covers columns {self._held_cols} to {strip.start} of the chunk")
        above, left = self._held_rows, self._held_cols - strip.start
        held = []
        if above:
            held.append((slice(0, above), slice(0, strip.stop - strip.start)))
        if left:
            held.append((slice(above, self._size), slice(0, left)))
        return held, (slice(above, self._size), slice(left, strip.stop - strip.start))

    def _allocate(self, device: torch.device, top: int) -> None:
        width = self.window.width
        # On the device once, since a copy for each tile would wait for it.
        self._row_weights = [weights.to(device) for weights in self._row_weights]
        self._col_weights = [weights.to(device) for weights in self._col_weights]
        self._strips = {
            name: torch.empty((channels, self._size, width), device=device) for name, channels in self._channels.items()
        }
        self._valid = torch.empty((1, self._size, width), dtype=torch.bool, device=device)
        self._top = top

    def _advance(self, top: int) -> None:
        """Emit the rows above `top` and move the strip down to it."""
        self._emit_until(top)
        shift = top - self._top
        keep = self._size - shift
        for strip in (*self._strips.values(), self._valid):
            kept = strip[:, shift:]
            # Source and target overlap in memory when more than half of the strip is kept.
            strip[:, :keep] = kept.clone() if keep > shift else kept
        self._top, self._held_rows, self._held_cols = top, keep, 0

    def _emit_until(self, stop: int) -> None:
        if self._held_cols < self.window.width:
            raise ValueError(f"no tile covers columns {self._held_cols} to {self.window.width} of the chunk")
        first, last = max(self._top, self.window.row), min(stop, self.window.row_stop)
        rows = last - first
        if self._valid.device.type == "cpu":
            # What is made of the rows then stays in the core's cache instead of passing through memory at each step.
            rows = max(1, _CACHED_PIXELS // self.window.width)
        for row in range(first, last, max(rows, 1)):
            self._emit_rows(row, min(row + rows, last))

    def _emit_rows(self, first: int, last: int) -> None:
        rows = slice(first - self._top, last - self._top)
        valid = self._valid[:, rows]
        finished = {name: strip[:, rows] for name, strip in self._strips.items()}
        # Looking is cheaper than filling, by numpy above all, but an accelerator would have to be waited for.
        holes = valid.device.type != "cpu" or not valid.numpy().all()
        for name, values in finished.items():
            # The sum of a pixel holds nothing of its neighbours: what an invalid pixel got is dropped here, once.
            if holes:
                values.masked_fill_(~valid, 0.0)
            # One sum is cheaper than a mask of finite pixels; it is finite whenever all of them are.
            if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
                count = int((~torch.isfinite(values)).any(0).sum())
                raise DataError(
                    f"output '{name}' is not finite at {count} valid pixels of rows {first} to {last - 1}: "
                    "check the input's nodata rule and the weights, or compute in float32"
                )
        self._emit(first, finished | {VALID: valid})
