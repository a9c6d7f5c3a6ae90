"""Batches made in place are those that stacking whole items gives."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from geocore.datasets.loader import Stacking, stack
from geocore.raster.scene import Patch


def test_stack_keeps_types_and_structure():
    items = [
        {
            "inputs": {"image": Patch(np.full((2, 3, 3), k, np.uint16), np.ones((k, 3, 3), bool))},
            "keys": np.array([0, k]),
            "name": f"n{k}",
            "value": float(k),
            "big": np.array([k], ">u2"),
            "boxes": [k],
        }
        for k in (1, 2)
    ]
    batch = stack(items)
    image = batch["inputs"]["image"]
    assert image["values"].dtype == torch.uint16 and image["values"].shape == (2, 2, 3, 3)
    assert image["valid"].dtype == torch.bool and image["valid"].shape == (2, 2, 3, 3)
    assert batch["keys"].tolist() == [[0, 1], [0, 2]]
    assert batch["big"].tolist() == [[1], [2]]
    assert batch["value"].dtype == torch.float32
    assert batch["name"] == ["n1", "n2"] and batch["boxes"] == [[1], [2]]


def item(k, *, bands=1, dtype=np.uint16, size=3):
    return {
        "inputs": {"image": Patch(np.full((2, size, size), k, dtype), np.ones((bands, size, size), bool))},
        "mask": torch.full((size, size), k),
        "scalar": np.int64(k),
        "number": float(k),
        "flag": k > 1,
        "name": f"n{k}",
        "foreign": np.array([k, -k], ">i4"),
    }


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return first == second


VARIANTS = {
    "alike": [{}, {}, {}, {}],
    "one mask first": [{}, {"bands": 2}, {}, {"bands": 2}],
    "two masks first": [{"bands": 2}, {}, {}, {}],
    "types": [{}, {"dtype": np.uint8}, {}, {"dtype": np.float32}],
}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_items_put_in_any_order_make_the_batch_of_stack(variant, order):
    items = [item(k, **options) for k, options in enumerate(VARIANTS[variant])]
    stacking = Stacking(4)
    for place in order:
        stacking.put(place, items[place])
    assert same(stacking.finish(), stack(items))


def test_bare_patches_and_arrays_make_the_batch_of_stack():
    for items in (
        [item(k)["inputs"]["image"] for k in range(3)],
        [np.full((2, 2), k, np.float32) for k in range(3)],
        [True, False, True],
        [None, [1], "a"],
    ):
        stacking = Stacking(3)
        for place, value in enumerate(items):
            stacking.put(place, value)
        assert same(stacking.finish(), stack(items))


def test_items_are_copied_when_they_are_put():
    value = np.ones((2, 2))
    stacking = Stacking(1)
    stacking.put(0, value)
    value[:] = 7
    assert stacking.finish().tolist() == [[[1, 1], [1, 1]]]


def test_items_of_several_threads_find_their_places():
    items = [np.full((64, 64), k) for k in range(64)]
    stacking = Stacking(len(items))
    barrier = threading.Barrier(4)

    def put(first):
        barrier.wait()
        for place in range(first, len(items), 4):
            stacking.put(place, items[place])

    threads = [threading.Thread(target=put, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(stacking.finish(), stack(items))


def test_shapes_that_differ_are_refused():
    stacking = Stacking(2)
    stacking.put(0, item(1))
    stacking.put(1, item(2, size=4))
    with pytest.raises(ValueError, match="same shape"):
        stacking.finish()


def test_pinned_memory_is_allocated_once_and_not_copied_to(monkeypatch):
    allocated, empty = [], torch.empty

    def allocate(shape, *, dtype, pin_memory):
        allocated.append((shape, pin_memory))
        return empty(shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pytest.fail("a batch was copied"))
    stacking = Stacking(2, pin_memory=True)
    for place in range(2):
        stacking.put(place, item(place)["inputs"])
    stacking.finish()
    assert allocated == [((2, 2, 3, 3), True), ((2, 1, 3, 3), True)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_lie_in_pinned_memory():
    stacking = Stacking(2, pin_memory=True)
    for place in range(2):
        stacking.put(place, item(place))
    batch = stacking.finish()
    assert batch["inputs"]["image"]["values"].is_pinned() and batch["mask"].is_pinned()
    assert same(batch, stack([item(place) for place in range(2)]))


@pytest.mark.filterwarnings("error")
def test_a_single_item_is_taken_as_it_is_unless_torch_cannot() -> None:
    plain = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert stack([plain]).data_ptr() == plain.ctypes.data
    sealed = plain.copy()
    sealed.flags.writeable = False
    for item in (plain, plain[::-1, ::-1], plain.T, sealed, np.broadcast_to(plain[:1], (3, 4)), plain[1, 2]):
        found = stack([item])
        assert found.dtype == torch.uint16 and np.array_equal(found.numpy(), np.stack([item]))
    patch = Patch(plain[None, ::-1], np.broadcast_to(np.True_, (1, 3, 4)))
    found = stack([patch])
    assert np.array_equal(found["values"].numpy(), plain[None, None, ::-1]) and bool(found["valid"].all())
