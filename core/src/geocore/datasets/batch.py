"""Batches: tensors in nested dicts, lists and tuples, and how all of them are changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Batch = TypeVar("Batch")

VALID = "valid"
"""Name under which a tile output carries its valid mask."""


def pin(batch: Batch) -> Batch:
    """Copy the tensors inside dicts, lists and tuples to page-locked memory, from which copies to CUDA do not wait.

    Everything else stays as it is.
    """
    return map_tensors(batch, torch.Tensor.pin_memory)


def map_tensors(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    """Change the tensors inside nested dicts, lists and tuples."""
    changed: object = batch
    if isinstance(batch, torch.Tensor):
        changed = change(batch)
    elif isinstance(batch, dict):
        changed = {key: map_tensors(value, change) for key, value in batch.items()}
    elif isinstance(batch, list):
        changed = [map_tensors(value, change) for value in batch]
    elif isinstance(batch, tuple):
        values = [map_tensors(value, change) for value in batch]
        # A named tuple takes its fields one by one, a tuple takes one iterable.
        changed = type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
    return changed  # type: ignore[return-value]
