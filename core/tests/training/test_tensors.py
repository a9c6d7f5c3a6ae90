"""States: what goes in comes back, whatever its names and shapes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from geocore.training.checkpoint import flatten_state, save_tensors, unflatten_state


def there_and_back(value: Any, folder: Path) -> Any:
    tensors: dict[str, torch.Tensor] = {}
    plain = flatten_state(value, "source", tensors)
    save_tensors(folder / "x.safetensors", tensors)
    return unflatten_state(plain, load_file(folder / "x.safetensors"))


def test_names_that_would_meet_in_the_file_stay_apart(tmp_path: Path) -> None:
    state = {"a.b": torch.tensor(1.0), "a": {"b": torch.tensor(2.0)}, 1: torch.tensor(3.0), "1": torch.tensor(4.0)}
    back = there_and_back(state, tmp_path)
    assert [float(x) for x in (back["a.b"], back["a"]["b"], back[1], back["1"])] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_arrays_keep_shape_and_dtype(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=np.int16).reshape(shape)
    back = there_and_back({"seen": array, "half": array[:0] if shape else array}, tmp_path)
    assert back["seen"].shape == shape and back["seen"].dtype == np.int16 and np.array_equal(back["seen"], array)


def test_files_have_the_permissions_of_other_new_files(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_is_no_state_is_named() -> None:
    with pytest.raises(TypeError, match="source.x is a set"):
        flatten_state({"x": {1}}, "source", {})
