"""Items stacked to a batch, each copied into its place as soon as it has been read, by the thread that read it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from geocore.devices import pin
from geocore.scenes import Patch


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
