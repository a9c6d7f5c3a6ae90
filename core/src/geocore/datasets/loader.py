"""Training batches, read by threads ahead of the model, each item copied into its place by the thread that read it.

The order of the samples is a pure function of (seed, epoch, index): a resumed run goes on with the next batch, and at
any number of processes the global sequence is the same, since a process only takes its slice of each batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from geocore.datasets.batch import pin
from geocore.errors import DataError, SettingsError
from geocore.raster.scene import Patch
from geocore.tiling.samplers import (
    PatchIndex,
    Sampler,
)


class Stacking:
    """A batch under construction; equal to `stack` of its items, whatever the order in which they come.

    Args:
        size: items of the batch.
        pin_memory: allocates page-locked memory, from which copies to CUDA do not wait.
    """

    def __init__(self, size: int, *, pin_memory: bool = False) -> None:
        self._size, self._pin = size, pin_memory
        self._lock = threading.Lock()
        self._structure: Any = None
        self._buffers: list[Any] = []
        self._others: dict[int, Any] = {}

    def put(self, place: int, item: Any) -> None:
        """Copy an item into its place; called once for each place, from any thread."""
        leaves: list[Any] = []
        structure = _structure(item, leaves)
        with self._lock:
            if self._structure is None:
                self._structure = structure
                self._buffers = [_buffer(leaf, self._size, self._pin) for leaf in leaves]
        if structure != self._structure:
            # Masks with one band may meet masks with several, and types may need a common one.
            self._others[place] = item
            return
        for buffer, leaf in zip(self._buffers, leaves, strict=True):
            if isinstance(buffer, torch.Tensor) and not isinstance(leaf, torch.Tensor):
                # By numpy, which lets other threads run meanwhile and takes any byte order.
                buffer.numpy()[place] = leaf
            else:
                buffer[place] = leaf

    def finish(self) -> Any:
        """Return the batch; every place has been put."""
        if not self._others:
            return _batch(self._structure, iter(self._buffers))
        items = [
            self._others[place] if place in self._others else _item(self._structure, iter(self._buffers), place)
            for place in range(self._size)
        ]
        batch = stack(items)
        return pin(batch) if self._pin else batch


def stack(items: Sequence[Any]) -> Any:
    """Stack items of equal structure along a new first axis.

    Args:
        items: dicts are stacked key by key; a `Patch` becomes {"values", "valid"}; arrays, tensors and numbers become
            one tensor of their dtype (uint16 stays uint16); anything else becomes the list of the items.

    Returns:
        Tensors of shape (batch, ...) in the structure of the items; that of a single item shares its memory.
    """
    first = items[0]
    if isinstance(first, Mapping):
        return {key: stack([item[key] for item in items]) for key in first}
    if isinstance(first, Patch):
        return {"values": stack([item.values for item in items]), "valid": _stacked_masks(items)}
    if isinstance(first, torch.Tensor):
        return torch.stack(list(items))
    if isinstance(first, np.ndarray | np.generic):
        values = _stacked(items)
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
    return torch.from_numpy(_stacked(masks))


def _stacked(arrays: Sequence[Any]) -> np.ndarray:
    """As `np.stack`, but a single array is not copied unless it is mirrored or read-only, which torch does not take."""
    return np.require(arrays[0], requirements=["C", "W"])[None] if len(arrays) == 1 else np.stack(arrays)


def _structure(item: Any, leaves: list[Any]) -> tuple[Any, ...]:
    """Describe an item by its containers and the shape and type of what they hold, which is added to `leaves`."""
    if isinstance(item, Mapping):
        return ("mapping", *((key, _structure(value, leaves)) for key, value in item.items()))
    if isinstance(item, Patch):
        return ("patch", _structure(item.values, leaves), _structure(item.valid, leaves))
    leaves.append(item)
    if isinstance(item, torch.Tensor):
        return ("tensor", item.shape, item.dtype)
    if isinstance(item, np.ndarray | np.generic):
        return ("array", item.shape, item.dtype.newbyteorder("="))
    return ("number",) if isinstance(item, bool | int | float) else ("other",)


def _buffer(leaf: Any, size: int, pin_memory: bool) -> Any:
    """Room for the leaves of `size` items."""
    if isinstance(leaf, np.ndarray | np.generic):
        dtype = torch.from_numpy(np.empty(0, leaf.dtype.newbyteorder("="))).dtype
    elif isinstance(leaf, torch.Tensor):
        dtype = leaf.dtype
    else:
        return [None] * size
    return torch.empty((size, *leaf.shape), dtype=dtype, pin_memory=pin_memory)


def _batch(structure: tuple[Any, ...], buffers: Iterator[Any]) -> Any:
    """Buffers in the structure that `stack` gives."""
    kind, *inner = structure
    if kind == "mapping":
        return {key: _batch(value, buffers) for key, value in inner}
    if kind == "patch":
        return {name: _batch(value, buffers) for name, value in zip(("values", "valid"), inner, strict=True)}
    return torch.tensor(next(buffers)) if kind == "number" else next(buffers)


def _item(structure: tuple[Any, ...], buffers: Iterator[Any], place: int) -> Any:
    """An item as it was put, its arrays views of the buffers."""
    kind, *inner = structure
    if kind == "mapping":
        return {key: _item(value, buffers, place) for key, value in inner}
    if kind == "patch":
        return Patch(*(_item(value, buffers, place) for value in inner))
    buffer = next(buffers)
    return buffer.numpy()[place] if kind == "array" else buffer[place]


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
        read: Callable[[PatchIndex], Item],
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

    def _read_into(self, assembly: Stacking | _Collating, place: int, draw: PatchIndex) -> None:
        assembly.put(place, self._read(draw))

    def _assembly(self, size: int) -> Stacking | _Collating:
        if self._collate is None:
            return Stacking(size, pin_memory=self._pin)
        return _Collating(size, self._collate, self._pin)

    def _plan(self) -> Iterator[tuple[Position, list[PatchIndex]]]:
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
