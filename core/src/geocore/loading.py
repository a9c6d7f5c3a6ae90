"""Training batches: which windows are drawn when, and threads that read them ahead of the model.

The order of the samples is a pure function of (seed, epoch, index): a resumed run goes on with the next batch, and at
any number of processes the global sequence is the same, since a process only takes its slice of each batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from geocore.devices import pin
from geocore.errors import DataError, SettingsError
from geocore.grid import Window
from geocore.scenes import Patch

Item = TypeVar("Item")
Position = tuple[int, int]

_AHEAD = 2
"""Batches that are read ahead: one hides the reading, the second evens out slow reads."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of one epoch, as a reader is asked for it."""

    sample: int
    """Index of the sample (scene, chip) in the list that the sampler was made for."""
    window: Window | None
    """The part to read, reference pixels; None for all of it. May reach outside the sample."""
    epoch: int
    index: int
    """Global position within the epoch, counted over all processes. (seed, epoch, index) keys every random choice."""


class Sampler(Protocol):
    """Lists the draws of an epoch."""

    def epoch(self, epoch: int) -> Sequence[Draw]:
        """Return the draws of an epoch, in order; the same for the same epoch, however often it is asked."""
        ...


class GridSampler:
    """Draws each of a fixed set of windows once an epoch."""

    def __init__(self, windows: Sequence[Sequence[Window | None]], *, seed: int, shuffle: bool = True) -> None:
        """Keep the windows.

        Args:
            windows: for each sample its windows; `[None]` for a sample that is read whole.
            seed: 0 or more.
            shuffle: False keeps the order given.
        """
        self._windows = [(sample, window) for sample, its in enumerate(windows) for window in its]
        self._seed = seed
        self._shuffle = shuffle

    def epoch(self, epoch: int) -> list[Draw]:
        """Return every window once, shuffled by (seed, epoch)."""
        order: Sequence[int] = range(len(self._windows))
        if self._shuffle:
            # Sorting random numbers, since numpy promises the stream of `random` and not that of `permutation`.
            order = np.argsort(np.random.default_rng((self._seed, epoch)).random(len(order)), kind="stable").tolist()
        return [Draw(*self._windows[position], epoch, index) for index, position in enumerate(order)]


class RandomWindowSampler:
    """Draws windows at random places; a sample's chance is its share of the area unless `weights` says otherwise."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        size: int,
        draws_per_epoch: int,
        *,
        seed: int,
        align: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Keep what is needed to draw.

        Args:
            shapes: (rows, cols) of each sample, reference pixels.
            size: edge of the windows, pixels. A smaller sample gives windows that reach outside it.
            draws_per_epoch: length of an epoch. The first draws of an epoch do not depend on it.
            seed: 0 or more.
            align: rows and columns of the windows are multiples of it, as scenes with coarser layers need.
            weights: relative chance of each sample, 0 or more.
        """
        if draws_per_epoch < 1:
            raise ValueError(f"draws_per_epoch = {draws_per_epoch}: must be at least 1")
        self._positions = np.array([[max(0, edge - size) // align + 1 for edge in shape] for shape in shapes])
        chances = np.array([rows * cols for rows, cols in shapes] if weights is None else weights, np.float64)
        if len(shapes) == 0 or len(chances) != len(shapes) or chances.min() < 0 or chances.sum() <= 0:
            raise ValueError(f"{len(shapes)} samples and weights {weights}: needs one weight >= 0 a sample, not all 0")
        self._shares = np.cumsum(chances / chances.sum())
        self._size, self._align, self._draws, self._seed = size, align, draws_per_epoch, seed

    def epoch(self, epoch: int) -> list[Draw]:
        """Return the draws of an epoch; each is a pure function of (seed, epoch, index)."""
        # One row of three numbers a draw, so that a row does not depend on how many follow.
        chance = np.random.default_rng((self._seed, epoch)).random((self._draws, 3))
        # The shares may sum to a hair less than 1.
        samples = np.minimum(np.searchsorted(self._shares, chance[:, 0], side="right"), len(self._shares) - 1)
        corners = (chance[:, 1:] * self._positions[samples]).astype(np.int64) * self._align
        return [
            Draw(sample, Window(row, col, self._size, self._size), epoch, index)
            for index, (sample, (row, col)) in enumerate(zip(samples.tolist(), corners.tolist(), strict=True))
        ]


class Batches(Generic[Item]):
    """Endless batches over the epochs of a sampler, read by threads ahead of their use.

    Batch b of an epoch is the draws b * batch_size to (b + 1) * batch_size; each process reads its contiguous part.
    The state is the position of the batches handed out, whatever has been read ahead. One iteration at a time.
    """

    def __init__(
        self,
        sampler: Sampler,
        read: Callable[[Draw], Item],
        *,
        batch_size: int,
        collate: Callable[[list[Item]], Any] | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 1,
        drop_last: bool = True,
        pin_memory: bool = False,
    ) -> None:
        """Set up reading; nothing is read before the first batch is asked for.

        Args:
            sampler: what is drawn.
            read: reads one draw; called from `threads` threads at once. Its errors surface where the batch is used.
            batch_size: samples in a batch, all processes together.
            collate: makes a batch of the items of one process; `stack` when None. Called from another thread.
            rank: position of this process, 0 to world_size - 1.
            world_size: number of processes; must divide batch_size.
            threads: reading threads; 0 reads in the caller's thread when a batch is asked for.
            drop_last: leaves out an epoch's last, incomplete batch. False fills it up with the first draws of the
                epoch, so that every batch has the same size.
            pin_memory: puts the tensors of a batch into page-locked memory, from which copies to CUDA do not wait.

        Raises:
            SettingsError: the batch cannot be shared out evenly.
        """
        if batch_size < 1 or batch_size % world_size:
            raise SettingsError(
                f"batch_size = {batch_size}: must be a multiple of the {world_size} processes; change it or start "
                "another number of processes"
            )
        self._sampler, self._read, self._collate = sampler, read, stack if collate is None else collate
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._threads, self._drop_last, self._pin = threads, drop_last, pin_memory
        self._position: Position = (0, 0)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the batch within it that come next."""
        return {"epoch": self._position[0], "batch": self._position[1]}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a position of `state_dict`; counts for iterations begun later."""
        self._position = (state["epoch"], state["batch"])

    def __iter__(self) -> Iterator[Any]:
        """Yield batches without end, from the current position.

        Raises:
            DataError: an epoch holds less than one batch.
        """
        if self._threads == 0:
            for position, draws in self._plan():
                batch = self._finished([self._read(draw) for draw in draws])
                self._position = position
                yield batch
        else:
            yield from self._read_ahead()

    def _read_ahead(self) -> Iterator[Any]:
        readers = ThreadPoolExecutor(self._threads, "read")
        # A thread of its own, so that waiting for items never takes a reader's place.
        collator = ThreadPoolExecutor(1, "collate")
        ahead: deque[tuple[Position, Future[Any]]] = deque()
        plan = self._plan()
        try:
            while True:
                while len(ahead) <= _AHEAD:
                    position, draws = next(plan)
                    items = [readers.submit(self._read, draw) for draw in draws]
                    ahead.append((position, collator.submit(self._gathered, items)))
                position, batch = ahead.popleft()
                result = batch.result()
                self._position = position
                yield result
        finally:
            readers.shutdown(cancel_futures=True)
            collator.shutdown(cancel_futures=True)

    def _gathered(self, items: list[Future[Item]]) -> Any:
        return self._finished([item.result() for item in items])

    def _finished(self, items: list[Item]) -> Any:
        batch = self._collate(items)
        return pin(batch) if self._pin else batch

    def _plan(self) -> Iterator[tuple[Position, list[Draw]]]:
        """Yield this process's draws of each batch, with the position that follows."""
        epoch, batch = self._position
        while True:
            draws = self._sampler.epoch(epoch)
            whole, rest = divmod(len(draws), self._batch_size)
            batches = whole if self._drop_last or not rest else whole + 1
            if batches == 0:
                raise DataError(
                    f"an epoch has {len(draws)} samples, less than a batch of {self._batch_size}: lower "
                    "training.batch_size or add data"
                )
            share = self._batch_size // self._world_size
            while batch < batches:
                start = batch * self._batch_size + self._rank * share
                batch += 1
                yield (epoch, batch), [draws[index % len(draws)] for index in range(start, start + share)]
            epoch, batch = epoch + 1, 0


def stack(items: Sequence[Any]) -> Any:
    """Stack items of equal structure along a new first axis.

    Args:
        items: dicts are stacked key by key; a `Patch` becomes {"values", "valid"}; arrays, tensors and numbers become
            one tensor of their dtype (uint16 stays uint16); anything else becomes the list of the items.

    Returns:
        Tensors of shape (batch, ...) in the structure of the items.
    """
    first = items[0]
    if isinstance(first, Mapping):
        return {key: stack([item[key] for item in items]) for key in first}
    if isinstance(first, Patch):
        return {"values": stack([item.values for item in items]), "valid": _stacked_masks(items)}
    if isinstance(first, torch.Tensor):
        return torch.stack(list(items))
    if isinstance(first, np.ndarray | np.generic):
        values = np.stack(items)
        # torch has no foreign byte order.
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
    if isinstance(first, bool | int | float):
        return torch.tensor(items)
    return list(items)


def _stacked_masks(patches: Sequence[Patch]) -> torch.Tensor:
    """Stack valid masks; those with one band axis are spread where another patch has a mask for each band."""
    masks = [patch.valid for patch in patches]
    if len({mask.shape for mask in masks}) > 1:
        masks = [np.broadcast_to(patch.valid, patch.values.shape) for patch in patches]
    return torch.from_numpy(np.stack(masks))
