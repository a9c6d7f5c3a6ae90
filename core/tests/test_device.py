import json
import os
import socket
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch

from geocore.datasets.batch import pin
from geocore.device import DeviceContext, device_context, keep_freed_memory, out_of_memory, seed_everything, to_device
from geocore.errors import DeviceError
from geocore.settings import DeviceSettings, MappingSettings

CPU = DeviceSettings(device="cpu")
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def test_one_process_needs_no_process_group():
    with device_context(CPU) as context:
        assert (context.device.type, context.rank, context.world_size, context.is_main) == ("cpu", 0, 1, True)
        tensor = torch.tensor([1.0, 2.0])
        assert context.all_reduce_sum(tensor) is tensor
        assert tensor.tolist() == [1.0, 2.0]
        context.barrier()
        assert not torch.distributed.is_initialized()


def test_threads_are_set_and_put_back():
    before = torch.get_num_threads()
    with device_context(DeviceSettings(device="cpu", threads=before + 1)):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_autocast_follows_the_precision():
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with device_context(DeviceSettings(device="cpu", precision=precision)) as context, context.autocast():
            assert layer(x).dtype == dtype


def test_a_place_knows_how_many_tiles_it_maps_at_once():
    with device_context(CPU) as context:
        assert context.batch_size == DeviceContext(torch.device("cpu")).batch_size == MappingSettings().batch_size == 4
    with device_context(CPU, batch_size=9) as context:
        assert context.batch_size == 9


def test_channels_last_names_a_memory_format():
    assert DeviceContext(torch.device("cpu"), channels_last=True).memory_format == torch.channels_last
    assert DeviceContext(torch.device("cpu")).memory_format == torch.contiguous_format


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA GPU")
def test_missing_cuda_is_one_line():
    with (
        pytest.raises(DeviceError, match="device = cuda: torch finds no CUDA GPU here; use --device cpu"),
        device_context(DeviceSettings(device="cuda")),
    ):
        pass
    with device_context(DeviceSettings()) as context:
        assert context.device.type in ("cpu", "mps")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="has an Apple GPU")
def test_missing_mps_is_one_line():
    with (
        pytest.raises(DeviceError, match="device = mps: torch finds no Apple GPU here"),
        device_context(DeviceSettings(device="mps")),
    ):
        pass


def test_more_processes_than_gpus_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in zip(LAUNCHER, ("2", "3", "2", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(DeviceError, match="process 2 of this machine has no GPU: there are 2"),
        device_context(DeviceSettings()),
    ):
        pass


def test_incomplete_launcher_variables_are_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(DeviceError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"), device_context(CPU):
        pass


@pytest.mark.parametrize(("rank", "rule"), [("2", "RANK = 2: must lie between 0 and"), ("x", "must be whole numbers")])
def test_wrong_launcher_variables_are_one_line(monkeypatch, rank, rule):
    for name, value in zip(LAUNCHER, (rank, "2", "0", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=rule), device_context(CPU):
        pass


WORKER = """
import json, torch
from geocore.device import device_context
from geocore.settings import DeviceSettings
with device_context(DeviceSettings(device="cpu", threads=1)) as context:
    tensors = [torch.full((2,), context.rank + 1, dtype=dtype) for dtype in (torch.int64, torch.float64)]
    sums = [context.all_reduce_sum(tensor).tolist() for tensor in tensors]
    context.barrier()
    seen = [context.rank, context.world_size, context.local_rank, context.is_main, torch.distributed.get_backend()]
print(json.dumps([sums, seen, torch.distributed.is_initialized()]))
"""


def test_two_processes_sum_over_gloo():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in range(2):
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in launched.items()}}
        workers.append(
            subprocess.Popen([sys.executable, "-c", WORKER], env=environment, stdout=subprocess.PIPE, text=True)
        )
    for rank, worker in enumerate(workers):
        output, _ = worker.communicate(timeout=100)
        assert worker.returncode == 0
        sums, seen, still_running = json.loads(output.splitlines()[-1])
        assert sums == [[3, 3], [3.0, 3.0]]
        assert seen == [rank, 2, rank, rank == 0, "gloo"]
        assert not still_running


def test_one_launched_process_opens_and_closes_a_group(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in zip(LAUNCHER, ("0", "1", "0", "127.0.0.1", str(port)), strict=True):
        monkeypatch.setenv(name, value)
    with device_context(CPU) as outer:
        assert torch.distributed.is_initialized()
        with device_context(CPU):
            pass
        assert torch.distributed.is_initialized(), "an inner context must not close the outer one's group"
        assert outer.world_size == 1
    assert not torch.distributed.is_initialized()


def test_to_device_walks_through_containers():
    Pair = namedtuple("Pair", "first second")
    batch = {
        "inputs": {"image": {"values": torch.zeros(2, dtype=torch.uint16)}},
        "ragged": [{"boxes": torch.ones(1, 4)}, "name", None],
        "pair": Pair(torch.zeros(1), 3),
        "plain": (torch.zeros(1),),
    }
    moved = to_device(batch, DeviceContext(torch.device("meta")))
    assert moved["inputs"]["image"]["values"].device.type == "meta"
    assert moved["inputs"]["image"]["values"].dtype == torch.uint16
    assert moved["ragged"][0]["boxes"].device.type == "meta"
    assert moved["ragged"][1:] == ["name", None]
    assert type(moved["pair"]) is Pair and moved["pair"].first.device.type == "meta" and moved["pair"].second == 3
    assert type(moved["plain"]) is tuple
    assert batch["ragged"][0]["boxes"].device.type == "cpu"


def test_images_are_laid_out_as_the_place_says_and_nothing_else():
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).to(torch.uint16)
    others = {"series": torch.rand(2, 6, 3, 4, 5), "dates": torch.rand(2, 6, 2), "keys": torch.arange(2), "id": "a"}
    batch = {"image": {"values": images, "valid": torch.ones(2, 1, 4, 5, dtype=torch.bool)}, **others}
    moved = to_device(batch, DeviceContext(torch.device("cpu"), channels_last=True))
    values = moved["image"]["values"]
    assert values.is_contiguous(memory_format=torch.channels_last) and not values.is_contiguous()
    assert values.dtype == torch.uint16 and torch.equal(values.int(), images.int())
    assert all(moved[name] is value for name, value in others.items())
    plain = to_device(batch, DeviceContext(torch.device("cpu")))
    assert plain["image"]["values"] is images


def test_a_model_is_laid_out_for_its_place_whatever_axes_its_weights_have():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dates, self.image = torch.nn.Conv3d(2, 3, 2), torch.nn.Conv2d(3, 4, 3)
            self.tied = torch.nn.Conv2d(3, 4, 3)
            self.tied.weight = self.image.weight
            self.register_buffer("mean", torch.rand(1, 3, 4, 4))

    model, weight = Model(), torch.nn.Parameter
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}

    def laid_out(tensor):
        return tensor.is_contiguous(memory_format=torch.channels_last)

    plain, innermost = DeviceContext(torch.device("cpu")), DeviceContext(torch.device("cpu"), channels_last=True)
    assert plain.prepare(model) is model
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == pointers, "nothing to do"
    innermost.prepare(model)
    assert laid_out(model.image.weight) and laid_out(model.mean) and model.dates.weight.is_contiguous()
    assert model.tied.weight is model.image.weight and type(model.image.weight) is weight
    plain.prepare(model)  # a process may keep a network and be asked for the other layout
    assert model.image.weight.is_contiguous() and model.mean.is_contiguous()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_pin_walks_through_containers_and_keeps_their_types(monkeypatch):
    # Page-locked memory needs a driver; what matters here is which tensors are asked for it.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    Pair = namedtuple("Pair", "first second")
    batch = {"pair": Pair(torch.zeros(1), 3), "plain": (torch.zeros(1), None), "ragged": [{"boxes": torch.zeros(2)}]}
    pinned = pin(batch)
    assert type(pinned["pair"]) is Pair and pinned["pair"] == Pair(torch.ones(1), 3)
    assert type(pinned["plain"]) is tuple and pinned["plain"] == (torch.ones(1), None)
    assert torch.equal(pinned["ragged"][0]["boxes"], torch.ones(2)) and torch.equal(batch["pair"].first, torch.zeros(1))


def test_a_seed_fixes_every_generator():
    import random

    drawn = []
    for _ in range(2):
        seed_everything(7)
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    with pytest.raises(ValueError, match="seed = -1"):
        seed_everything(-1)


def test_out_of_memory_is_told_from_other_errors():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"))
    assert not out_of_memory(RuntimeError("size mismatch"))
    assert not out_of_memory(ValueError("out of memory"))


def test_the_c_library_is_told_once_to_keep_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            told.append((parameter, value))
            return 1

    monkeypatch.setattr("geocore.device.sys.platform", "linux")
    monkeypatch.setattr("geocore.device.ctypes.CDLL", lambda name: Library())
    keep_freed_memory.cache_clear()
    keep_freed_memory()
    keep_freed_memory()
    # Numbers of malloc.h: M_ARENA_MAX is -8, M_MMAP_MAX is -4, M_TRIM_THRESHOLD is -1.
    assert sorted(told) == [(-8, 1), (-4, 0), (-1, 2**30)]
    # A library without it, such as musl, is left alone.
    monkeypatch.setattr("geocore.device.ctypes.CDLL", lambda name: object())
    keep_freed_memory.cache_clear()
    keep_freed_memory()
    keep_freed_memory.cache_clear()


def test_settings_made_for_a_gpu_warn_on_a_cpu(caplog):
    with device_context(DeviceSettings(device="cpu")):
        assert caplog.messages == []
    with device_context(DeviceSettings(device="cpu", made_for="gpu")):
        assert len(caplog.messages) == 1 and "--recipe laptop" in caplog.messages[0]
