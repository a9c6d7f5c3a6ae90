"""Training batches, read by threads ahead of the model.

The order of the samples is a pure function of (seed, epoch, index): a resumed run goes on with the next batch, and at
any number of processes the global sequence is the same, since a process only takes its slice of each batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from geocore.collation import Stacking, stack
from geocore.devices import pin
from geocore.errors import DataError, SettingsError
from geocore.samplers import (
    Draw,
    GridSampler,
    NeighbourhoodSampler,
    RandomWindowSampler,
    Sampler,
    window_sampler,
)

__all__ = [
    "Batches",
    "Draw",
    "GridSampler",
    "NeighbourhoodSampler",
    "RandomWindowSampler",
    "Sampler",
    "stack",
    "window_sampler",
]

Item = TypeVar("Item")
Position = tuple[int, int]

_AHEAD = 2
"""Batches that are read ahead: one hides the reading, the second evens out slow reads."""


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
            collate: makes a batch of the items of one process, called from another thread. None: as `stack`, but the
                reading threads copy each item into its place in the batch.
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
        self._sampler, self._read, self._collate = sampler, read, collate
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
                assembly = self._assembly(len(draws))
                for place, draw in enumerate(draws):
                    assembly.put(place, self._read(draw))
                batch = assembly.finish()
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
                    assembly = self._assembly(len(draws))
                    reads = [readers.submit(self._read_into, assembly, place, draw) for place, draw in enumerate(draws)]
                    ahead.append((position, collator.submit(_finished, assembly, reads)))
                position, batch = ahead.popleft()
                result = batch.result()
                self._position = position
                yield result
        finally:
            readers.shutdown(cancel_futures=True)
            collator.shutdown(cancel_futures=True)

    def _read_into(self, assembly: Stacking | _Collating, place: int, draw: Draw) -> None:
        assembly.put(place, self._read(draw))

    def _assembly(self, size: int) -> Stacking | _Collating:
        if self._collate is None:
            return Stacking(size, pin_memory=self._pin)
        return _Collating(size, self._collate, self._pin)

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


class _Collating:
    """A batch made by a function that is given all items."""

    def __init__(self, size: int, collate: Callable[[list[Any]], Any], pin_memory: bool) -> None:
        self._items: list[Any] = [None] * size
        self._collate, self._pin = collate, pin_memory

    def put(self, place: int, item: Any) -> None:
        self._items[place] = item

    def finish(self) -> Any:
        batch = self._collate(self._items)
        return pin(batch) if self._pin else batch


def _finished(assembly: Stacking | _Collating, reads: list[Future[None]]) -> Any:
    for read in reads:
        read.result()
    return assembly.finish()
