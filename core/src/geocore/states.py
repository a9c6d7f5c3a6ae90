"""Nested states (of an optimiser, a batch source) as JSON beside a file of tensors, so that nothing is pickled."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with the permissions that other new files get.

    Args:
        path: the file.
        tensors: names -> tensors of any device, layout and sharing.

    Raises:
        OSError: as Python's own writing would; the library only has the number in its message.
    """
    whole: dict[str, Tensor] = {}
    owners: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().to("cpu").contiguous()
        storage = flat.untyped_storage()
        # The format has no views: tied weights and slices are written as tensors of their own.
        if storage.data_ptr() in owners or storage.nbytes() != flat.nbytes:
            flat = flat.clone()
        owners.add(flat.untyped_storage().data_ptr())
        whole[name] = flat
    # The library makes private files; readers of the run may be others than its owner.
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(whole, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number.group(1)), str(error), str(path)) from error
        raise
    path.chmod(mode)


def packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a nested state into JSON; its tensors and arrays move to `tensors` under the name that stays behind.

    Args:
        value: nested dicts, lists and tuples of tensors, arrays and JSON values.
        name: begins the names of its tensors.
        tensors: receives them.

    Raises:
        TypeError: there is something else in it.
    """
    while name in tensors:  # {"a.b": x} beside {"a": {"b": y}}
        name += "'"
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.array(value, order="C"))
        return {"$array": name}
    if isinstance(value, Mapping):
        # A list of pairs, since JSON would turn the numbers that key an optimiser's state into strings.
        return {"$items": [[key, packed(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [packed(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}: a saved state holds dicts, lists, tensors, numbers and texts")


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put the tensors back: the inverse of `packed`."""
    if isinstance(value, list):
        return [unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "$tensor":
        return tensors[content]
    if kind == "$array":
        return tensors[content].numpy()
    if kind == "$items":
        return {key: unpacked(item, tensors) for key, item in content}
    return tuple(unpacked(item, tensors) for item in content)
