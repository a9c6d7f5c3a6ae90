"""How much memory a process may use, so that what a file claims is compared with it before anything is allocated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_FREE_BYTES: Final = 1 << 28
_MOST_BYTES_PER_BYTE: Final = 200


def memory_limit() -> int:
    """Bytes of memory that this process may use: the machine's, or less where a control group or a limit says so.

    A job of a scheduler or a container has a control group of its own, whose limit may stand in any group above it.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_group_limits(), *_own_limits()]
    return min(limits)


def most_at_once(file_bytes: int) -> int:
    """Bytes that what a file of some size claims may take in one piece: half of the memory, and little of a small file.

    What packs better, or was never written, is mostly nothing; 256 MiB of it are granted to any file.
    """
    return min(memory_limit() // 2, max(_FREE_BYTES, file_bytes * _MOST_BYTES_PER_BYTE))


def _group_limits() -> Iterator[int]:
    for place in _group_files():
        try:
            text = place.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():
            yield int(text)


def _group_files() -> Iterator[Path]:
    """Files that may hold a limit, of both versions of control groups."""
    yield _ROOT / "memory.max"
    yield _ROOT / "memory/memory.limit_in_bytes"
    try:
        lines = _OWN.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = [*line.split(":", 2), "", ""][:3]
        named = [*PurePosixPath(own.lstrip("/")).parents, PurePosixPath(own.lstrip("/"))]
        for group in named:
            if not controllers:
                yield _ROOT / group / "memory.max"
            elif "memory" in controllers.split(","):
                yield _ROOT / "memory" / group / "memory.limit_in_bytes"


def _own_limits() -> Iterator[int]:
    """What `ulimit -v` allows."""
    try:
        import resource
    except ImportError:  # Windows has none
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft
