"""What a benchmark is made of: cases, the contenders that take turns in them, and what a run of one brings back.

A contender runs in a fresh process of its own environment, so that its memory is its own and nothing of another
contender is warm. It sets itself up, then measures with `watch` the work alone. Only the standard library is imported
here, since this module is read by every peer's interpreter.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

BENCHMARKS = (
    "limits",
    "cold_start",
    "confusion",
    "polygons",
    "medians",
    "training",
    "sampling",
    "correlation",
    "mapping",
    "prithvi",
)
"""Modules with `prepare` and `cases`, the short ones first."""

_POLL_S = 0.1
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run of a contender brings back."""

    value: float
    """In the unit of the case."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Other figures by name: `cpu_s`, `growth_mb`, parts of the work, and what the results of contenders agree in."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work."""

    name: str
    environment: str
    """Name of the environment in which it runs, see `environments`."""
    measure: Callable[[Any, Path], Measured]
    """Called with the case's setting and the folder of the data."""


@dataclass(frozen=True, slots=True)
class Case:
    """Work that several contenders do, in one setting."""

    name: str
    unit: str
    setting: Any
    """Handed to every contender: a frozen dataclass of the benchmark."""
    contenders: tuple[Contender, ...]
    """geocore's own first: what it finds is what the results of the others must agree with."""
    repetitions: int = 5
    more_is_better: bool = True
    threads: int = 1
    """Threads that numerical libraries may use, in every contender."""
    files: tuple[str, ...] = ()
    """Files, below the folder of the data, that are read once before a run so that they are in the page cache."""
    agree: Mapping[str, float] = field(default_factory=dict)
    """Detail -> largest difference from the first contender's; a contender that differs by more does not count."""

    def __post_init__(self) -> None:
        names = [contender.name for contender in self.contenders]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"case {self.name}: contenders {names}: needs one at least, each with a name of its own")

    def contender(self, name: str) -> Contender:
        """The contender of that name."""
        return next(contender for contender in self.contenders if contender.name == name)


def load(benchmark: str) -> ModuleType:
    """Import the module of a benchmark.

    It has `prepare(data: Path, quick: bool)`, which makes its inputs where they are missing, and
    `cases(quick: bool) -> list[Case]`.

    Raises:
        ValueError: there is no such benchmark.
    """
    if benchmark not in BENCHMARKS:
        raise ValueError(f"no benchmark {benchmark!r}: there are {', '.join(BENCHMARKS)}")
    return importlib.import_module(f"geocore_bench.{benchmark}")


def case_of(benchmark: str, name: str, quick: bool) -> Case:
    """The case of that name."""
    cases: list[Case] = load(benchmark).cases(quick)
    return next(case for case in cases if case.name == name)


@dataclass(slots=True)
class Watch:
    """What the work under `watch` took."""

    seconds: float = 0.0
    """Wall clock."""
    cpu_seconds: float = 0.0
    """Of this process, and of its children that have ended."""
    growth_mb: float = 0.0
    """Largest resident memory, MiB, less what was resident before the work; children count with what is theirs."""

    @property
    def details(self) -> dict[str, float]:
        """The figures that every contender reports."""
        return {
            "seconds": round(self.seconds, 4),
            "cpu_s": round(self.cpu_seconds, 3),
            "growth_mb": round(self.growth_mb),
        }


@contextmanager
def watch() -> Iterator[Watch]:
    """Measure a block: wall seconds, CPU seconds, growth of the resident memory.

    Yields:
        Filled when the block ends.
    """
    seen = Watch()
    with _children_watched() as largest:
        _forget_peak()
        before = _status_mib("VmRSS")
        start, cpu = time.perf_counter(), _cpu_seconds()
        yield seen
        seen.seconds, seen.cpu_seconds = time.perf_counter() - start, _cpu_seconds() - cpu
        seen.growth_mb = max(0.0, _status_mib("VmHWM") - before)
    seen.growth_mb += largest[0]


@contextmanager
def _children_watched() -> Iterator[list[float]]:
    """Look at the memory of child processes now and then; the list holds the largest sum seen, MiB."""
    largest, ended = [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(_POLL_S):
            largest[0] = max(largest[0], sum(_proportional_mib(child) for child in _children()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield largest
    finally:
        ended.set()
        thread.join()


def _children() -> list[int]:
    """Numbers of all processes below this one."""
    found, waiting = [], [os.getpid()]
    while waiting:
        parent = waiting.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = [int(word) for word in task.read_text().split()]
            except OSError:  # the thread or the process has ended
                continue
            found += children
            waiting += children
    return found


def _proportional_mib(process: int) -> float:
    """Memory of a process, pages that it shares counted by its share; 0 when it has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    line = next((line for line in text.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(line.split()[1]) / 1024


def _status_mib(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / _MIB
    raise RuntimeError(f"/proc/self/status says nothing of {key}")


def _forget_peak() -> None:
    """Set the peak of the resident memory back to what is resident now: imports have a peak of their own."""
    Path("/proc/self/clear_refs").write_text("5")


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
