"""What files claim is compared with the memory of the process before anything is allocated; arrays of a .npz are."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from geocore.storage.special_files import open_regular

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


_PIECE_BYTES: Final = 1 << 20


class ArchiveError(ValueError):
    """An archive is damaged, or claims more than its bytes can hold."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an archive, as `numpy.savez` and `savez_compressed` write them; nothing is unpickled.

    Args:
        path: the archive.

    Returns:
        Name -> values.

    Raises:
        ArchiveError: it is no archive of arrays of numbers and text, is damaged, or claims more than it can hold.
        OSError: it cannot be opened, or is no file of data.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            claimed, size = sum(entry.file_size for entry in entries), path.stat().st_size
            if claimed > most_at_once(size):
                raise ArchiveError(f"claims {claimed / 2**30:.2g} GiB in {size} bytes")
            arrays = {}
            for entry in entries:
                with archive.open(entry) as content:
                    arrays[entry.filename.removesuffix(".npy")] = _array(content, entry.file_size)
            return arrays
    except (OSError, ArchiveError):
        raise
    except Exception as error:  # zipfile, zlib and numpy's reader of headers raise many kinds
        raise ArchiveError(" ".join(str(error).split()) or type(error).__name__) from error


def _array(content: IO[bytes], size: int) -> NDArray[Any]:
    """The array of a .npy file of some bytes."""
    version = npy.read_magic(content)  # type: ignore[no-untyped-call]
    if version not in ((1, 0), (2, 0)):
        raise ArchiveError(f"version {version} of .npy")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read_header(content)
    if dtype.hasobject:
        raise ArchiveError("holds Python's objects, which are not read")
    needed = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed != size - content.tell():
        raise ArchiveError(f"an array of {' x '.join(map(str, shape))} in {size} bytes")
    values = np.empty(prod(shape), dtype)
    filled, at = values.view(np.uint8) if needed else np.empty(0, np.uint8), 0
    while piece := content.read(_PIECE_BYTES):  # to the end, where its sum is checked
        filled[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    return values.reshape(shape, order="F" if by_columns else "C")
