"""Where the work runs: device, precision, seeds and torch.distributed start-up.

This is the one module that asks for CUDA and for torch.distributed; everything else takes a `DeviceContext`. Under
`torchrun` (or SLURM with the same variables) each process opens its own context, with one GPU a process.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import logging
import os
import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from geocore.datasets.batch import Batch, map_tensors
from geocore.errors import DeviceError
from geocore.raster.block_cache import CACHE_BYTES
from geocore.settings import TILES_PER_FORWARD, DeviceSettings

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)

_mapping = threading.Lock()
"""Held by who maps with all cores of the process."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3)."""


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """A process's device and its position among the processes of a run."""

    device: torch.device
    rank: int = 0
    """Position among all processes, 0 to world_size - 1."""
    world_size: int = 1
    """Number of processes over all machines."""
    local_rank: int = 0
    """Position among the processes of this machine; also the index of its GPU."""
    precision: str = "float32"
    """`float32` or `bfloat16`. Parameters stay float32 in both; bfloat16 is autocast. On CUDA torch's own defaults
    decide about TF32 inside float32 convolutions."""
    channels_last: bool = False
    """Whether models and image batches are laid out as (batch, row, col, band) in memory."""
    batch_size: int = TILES_PER_FORWARD
    """Tiles per forward where an accelerator maps; a CPU takes them one by one."""
    dedicated: bool = False
    """Whether the process is there for this work alone, as `device_context` has it. Where it is not, nothing of it is
    changed: threads, allocator, GDAL's cache, generators of random numbers and signal handlers stay the caller's."""

    @classmethod
    def on(
        cls,
        device: str | torch.device = "auto",
        *,
        precision: str = "float32",
        channels_last: bool = False,
        batch_size: int = TILES_PER_FORWARD,
    ) -> Self:
        """A context for calls from a program or a notebook, which leave the process as it is.

        Within a block of `device_context` the process is dedicated already, and so is this context.

        Args:
            device: `auto`, which takes cuda, then mps, then cpu; one of these; or a device of torch.
            precision: `float32` or `bfloat16`.
            channels_last: whether models and image batches are laid out as (batch, row, col, band).
            batch_size: tiles per forward where an accelerator maps.

        Raises:
            DeviceError: the device or the precision asked for is not there.
        """
        picked = _pick_device(device, 0, 1) if isinstance(device, str) else device
        _check_precision(precision, picked)
        return cls(
            picked,
            precision=precision,
            channels_last=channels_last,
            batch_size=batch_size,
            dedicated=bool(_open_contexts),
        )

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout for models and image batches."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def prepare(self, model: M) -> M:
        """Move a model here and lay it out as its images will be, see `to_device`; it is changed in place.

        Weights of two-dimensional convolutions are laid out, and those of others stay as they are. A model that was
        prepared for the other layout is laid out anew.
        """
        model.to(self.device)
        # Not by Module.to(), which refuses a model that has weights of five axes.
        for tensor in (*model.parameters(), *model.buffers()):
            has_channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
            if has_channels_last or (tensor.ndim == 4 and self.channels_last):
                tensor.data = tensor.data.to(memory_format=self.memory_format)
        return model

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context that runs forwards in `precision`."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextmanager
    def mapping(self) -> Iterator[int]:
        """Have the cores of a dedicated process work beside each other for the length of a block, one tile in each.

        On a CPU torch then computes in one thread wherever it is called; on any device GDAL's cache is small, since
        mapping reads each block once. Both are put back at the end. One block at a time has the process: in one that
        begins meanwhile, in whatever thread, nothing changes, nor does it in a context that is not dedicated.

        Yields:
            Threads to work in.
        """
        if not self.dedicated or not _mapping.acquire(blocking=False):
            yield 1
            return
        try:
            cores = torch.get_num_threads() if self.device.type == "cpu" else 1
            with _small_block_cache():
                if cores > 1:
                    torch.set_num_threads(1)
                try:
                    yield cores
                finally:
                    if cores > 1:
                        torch.set_num_threads(cores)
        finally:
            _mapping.release()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size == 1:
            return
        if self.device.type == "cuda":
            dist.barrier(device_ids=[self.device.index])
        else:
            dist.barrier()

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place.

        Args:
            tensor: any shape and numeric dtype, the same in every process; on the CPU or on the context's device.

        Returns:
            The same tensor, now holding the sum.
        """
        if self.world_size == 1:
            return tensor
        # NCCL takes only tensors of its GPU, gloo works best with those of the CPU.
        moved = tensor.to(self.device)
        dist.all_reduce(moved, op=dist.ReduceOp.SUM)
        if moved is not tensor:
            tensor.copy_(moved)
        return tensor


_open_contexts: list[DeviceContext] = []
"""Those of `device_context` in this process."""


@contextmanager
def device_context(settings: DeviceSettings, *, batch_size: int = TILES_PER_FORWARD) -> Iterator[DeviceContext]:
    """Take the process for one piece of work, as every command and each of its workers does.

    A program or a notebook that is there for the work as well may enter it, and gains the speed of a command:

        with device_context(DeviceSettings()) as context:
            predict_tiles(..., context=context)

    What takes no context, but a device, makes its own by `DeviceContext.on`, which is then a dedicated one as well.

    Within the block torch has `settings.threads` threads, maps are made with one tile in each
    (`DeviceContext.mapping`), training heeds SIGINT and SIGTERM, the GPU that was picked is the current one, and
    torch.distributed runs (gloo on CPU, NCCL on CUDA) where the environment holds WORLD_SIZE, as `torchrun` sets it.
    All that is put back at the end, but a process group that ran before goes on.

    Two things are for good: the C library keeps freed memory where several threads of a CPU work, which it cannot be
    talked out of, and training leaves the global generators as it used them.

    Args:
        settings: which device, and how it computes.
        batch_size: tiles per forward where an accelerator maps.

    Raises:
        DeviceError: the device or the precision asked for is not there, or the launcher's variables are incomplete.
    """
    rank, world_size, local_rank = _launched()
    device = _pick_device(settings.device, local_rank, world_size)
    _check_precision(settings.precision, device)
    if settings.made_for == "gpu" and device.type == "cpu" and rank == 0:
        logger.warning(
            "these settings are made for a GPU and may take days on a CPU: --recipe laptop is made for one, and "
            "--training.steps shortens a run"
        )
    threads_before = torch.get_num_threads()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if device.type == "cpu" and torch.get_num_threads() > 1:
        keep_freed_memory()
    context = DeviceContext(
        device,
        rank,
        world_size,
        local_rank,
        settings.precision,
        settings.channels_last,
        batch_size,
        dedicated=True,
    )
    started = False
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        _open_contexts.append(context)
        try:
            if "WORLD_SIZE" in os.environ and not dist.is_initialized():
                _start(device, rank, world_size)
                started = True
            yield context
        finally:
            _open_contexts.remove(context)
            if started and dist.is_initialized():
                dist.destroy_process_group()
                # The group's threads end with its last reference, and models wrapped for it lie in cycles. A thread
                # that lets go of a tensor while Python shuts down aborts a process that did all its work.
                gc.collect()
            torch.set_num_threads(threads_before)


def _launched() -> tuple[int, int, int]:
    """Read (rank, world size, local rank) from the launcher's variables; (0, 1, 0) without a launcher."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1, 0
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise DeviceError(
            f"WORLD_SIZE is set but {', '.join(missing)} is not: a distributed run needs all of {', '.join(names)}; "
            "start it with torchrun, or unset WORLD_SIZE"
        )
    try:
        rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except ValueError as error:
        raise DeviceError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers ({error}); use torchrun") from error
    if not 0 <= rank < world_size:
        raise DeviceError(f"RANK = {rank}: must lie between 0 and WORLD_SIZE - 1 = {world_size - 1}; use torchrun")
    return rank, world_size, local_rank


def _pick_device(wanted: str, local_rank: int, world_size: int) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `mps` into a device that exists here."""
    if wanted == "auto":
        if torch.cuda.is_available():
            wanted = "cuda"
        elif torch.backends.mps.is_available() and world_size == 1:
            wanted = "mps"
        else:
            wanted = "cpu"
    if wanted == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise DeviceError("device = cuda: torch finds no CUDA GPU here; use --device cpu, or check the driver")
        if local_rank >= count:
            raise DeviceError(
                f"process {local_rank} of this machine has no GPU: there are {count}, one for each process; "
                f"start at most {count} processes here"
            )
        return torch.device("cuda", local_rank)
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("device = mps: torch finds no Apple GPU here; use --device cpu")
        if world_size > 1:
            raise DeviceError(f"device = mps with {world_size} processes: one Apple GPU serves one; use --device cpu")
        return torch.device("mps")
    if wanted == "cpu":
        return torch.device("cpu")
    raise DeviceError(f"device = {wanted}: must be auto, cpu, cuda or mps")


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in ("float32", "bfloat16"):
        raise DeviceError(f"precision = {precision}: must be float32 or bfloat16")
    if precision == "float32" or device.type != "cuda":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise DeviceError(f"precision = bfloat16: {name} has no bfloat16 arithmetic; use float32")


def _start(device: torch.device, rank: int, world_size: int) -> None:
    """Start the process group of this run."""
    # Wrapping a model imports it, and its functions keep the group of that time, if there is one, as a default.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        if device.type == "cuda":
            dist.init_process_group("nccl", rank=rank, world_size=world_size, device_id=device)
        else:
            dist.init_process_group("gloo", rank=rank, world_size=world_size)
    except (dist.DistError, RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(
            f"process {rank} of {world_size} cannot join the others at {address} ({reason}); "
            "check the address and that the port is free"
        ) from error


def to_device(batch: Batch, context: DeviceContext) -> Batch:
    """Copy the tensors inside dicts, lists and tuples to a context's device; everything else stays as it is.

    Where the context has channels last, tensors of four axes, (batch, band, row, col), are laid out so; others, such as
    images of several dates, keep their layout. Copies to CUDA do not wait for the GPU when the tensors lie in pinned
    memory.
    """
    device = context.device

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        there = tensor.to(device, non_blocking=device.type == "cuda")
        laid_out = context.channels_last and there.ndim == 4
        return there.contiguous(memory_format=torch.channels_last) if laid_out else there

    return map_tensors(batch, moved)


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep memory that was freed for the next tensor of the process; glibc can be told to.

    By default each thread gives large blocks back to the system, and touching new ones costs more than the arithmetic
    in them; several threads that do so wait for each other in the kernel. Nor does a thread see what another one freed,
    as it does here, where all threads begun after this call take from one heap. What is kept was in use before.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, such as musl
        return
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, 2**30)):
        mallopt(parameter, value)


@contextmanager
def _small_block_cache() -> Iterator[None]:
    """Keep GDAL from holding up to 5 % of the memory in blocks that will not be asked for again."""
    import rasterio
    from rasterio.session import DummySession

    # The size is the process's, but rasterio puts it back only at the end of a thread's outermost environment. So this
    # one has a thread of its own, in which it is that, wherever the caller is.
    environment = rasterio.Env(session=DummySession(), GDAL_CACHEMAX=CACHE_BYTES)
    with ThreadPoolExecutor(1, "gdal-cache") as its_own:
        its_own.submit(environment.__enter__).result()
        try:
            yield
        finally:
            its_own.submit(environment.__exit__, None, None, None).result()


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's (CPU and every GPU) global generators.

    Args:
        seed: 0 to 2**32 - 1 (numpy's range).
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed}: must lie between 0 and 2**32 - 1")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - upstream frameworks draw from the global generator
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int, context: DeviceContext) -> Iterator[None]:
    """Seed the global generators that a context's work draws from; a CUDA device is the current one within.

    A dedicated process is seeded for good. Elsewhere Python's, numpy's and torch's generators of the CPU and of the
    context's device are, no others, and the states that they had come back at the end of the block. A CPU draws the
    same numbers either way.

    Args:
        seed: 0 to 2**32 - 1 (numpy's range).
        context: where the work runs.
    """
    if context.dedicated:
        seed_everything(seed)
        yield
        return
    device = context.device
    module = torch.get_device_module(device) if device.type in ("cuda", "mps") else None
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        # numpy's is global as well: upstream frameworks draw from it.
        python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        there = None if module is None else module.get_rng_state()
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            # Not torch.manual_seed(), which seeds every device, also those that are opened later.
            torch.default_generator.manual_seed(seed)
            if module is not None:
                module.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002
            torch.set_rng_state(tensors)
            if module is not None:
                module.set_rng_state(there)


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the device's memory is full (CUDA, MPS, or torch's CPU allocator)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    signs = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
