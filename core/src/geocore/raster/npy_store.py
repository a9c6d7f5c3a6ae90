"""Arrays on disk as `.npy`, mapped into memory: decoded inputs that are kept, and outputs written row by row.

An entry of the cache is a folder with one `.npy` file per array and `entry.json`, which says what the entry was made
from (the fingerprint) and what it holds. It appears whole or not at all. An array is compared with its hash when a
process maps it for the first time. Nothing is pickled, and nothing pickled is read. A window comes in a tenth of a
millisecond.

An output part is a folder with one `<name>.npy` per plane, of shape (row, band, col), so that finished rows are
appended and a reader maps the file without loading it; parts are joined block by block.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from geocore.errors import DataError
from geocore.raster.grid import Window
from geocore.storage.files import atomic_path, read_sealed, sha256_file, storage_errors, write_sealed

_MANIFEST = "entry.json"
_FORMAT = 1
# numpy parses headers as Python, which CPython 3.11 fails at ("AST constructor recursion depth mismatch") when the
# garbage collector lets another thread in that does the same.
_PARSING = threading.Lock()
_whole: set[tuple[object, ...]] = set()
"""Files that this process has compared with their hashes, as they were then."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a finished entry says about itself."""

    fingerprint: str
    """Hash of what decided the content."""
    hashes: Mapping[str, str]
    """Array -> SHA-256 of its file."""
    facts: Mapping[str, Any]
    """Whatever else the maker noted; JSON values."""


class CachedArray:
    """An array of an entry under construction, written from the first row to the last."""

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._file, self._next = file, 0
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._start = file.tell()

    def write(self, values: NDArray[Any]) -> None:
        """Append rows.

        Args:
            values: shape (..., rows, col), of the array's type; rows is the last axis but one.

        Raises:
            ValueError: type or shape do not fit, or more rows come than there are.
            StorageError: the disk is full.
        """
        rows = values.shape[-2]
        if values.dtype != self.dtype or values.shape != (*self.shape[:-2], rows, self.shape[-1]):
            raise ValueError(f"{values.dtype} {values.shape} does not continue {self.dtype} {self.shape}")
        if self._next + rows > self.shape[-2]:
            raise ValueError(f"{rows} rows after {self._next} are more than {self.shape[-2]}")
        stride = self.shape[-1] * self.dtype.itemsize
        # Written, not mapped: a full disk ends a process that writes to a map, without a message.
        with storage_errors(self._file.name):
            for place, plane in enumerate(values.reshape(-1, rows, self.shape[-1])):
                self._file.seek(self._start + (place * self.shape[-2] + self._next) * stride)
                self._file.write(np.ascontiguousarray(plane).data)
        self._next += rows

    def finish(self) -> None:
        """Check that all rows have come, and close the file."""
        if self._next != self.shape[-2]:
            raise ValueError(f"{self._next} rows of {self.shape[-2]} were written")
        with storage_errors(self._file.name):
            self._file.close()


class NewEntry:
    """An entry under construction."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.facts: dict[str, Any] = {}
        """JSON values to keep beside the arrays."""
        self.arrays: dict[str, CachedArray] = {}
        self._folder, self._stack = folder, stack

    def create(self, name: str, shape: tuple[int, ...], dtype: str) -> CachedArray:
        """Begin an array of two or more axes, to be written row by row.

        Raises:
            StorageError: the disk is full or closed.
        """
        if np.dtype(dtype).hasobject:
            raise ValueError(f"array {name!r} holds Python objects, which would have to be pickled")
        if name in self.arrays or Path(name).name != name or len(shape) < 2:
            raise ValueError(f"array {name!r} of shape {shape}: needs a name of its own, no path, and two axes")
        with storage_errors(self._folder):
            file = self._stack.enter_context((self._folder / f"{name}.npy").open("wb"))
            self.arrays[name] = CachedArray(file, shape, dtype)
        return self.arrays[name]


@contextmanager
def new_entry(folder: Path, key: str, *, fingerprint: str) -> Iterator[NewEntry]:
    """Make an entry piece by piece; it appears when the block ends, and replaces an older one.

    Args:
        folder: of the cache.
        key: name of the entry.
        fingerprint: hash of all that decides the content.

    Raises:
        StorageError: the disk is full or closed.
        ValueError: an array lacks rows.
    """
    with atomic_path(folder / key) as temporary:
        temporary.mkdir()
        with ExitStack() as stack:
            entry = NewEntry(temporary, stack)
            yield entry
            for array in entry.arrays.values():
                array.finish()
        hashes = {name: sha256_file(temporary / f"{name}.npy") for name in entry.arrays}
        content = {"format": _FORMAT, "fingerprint": fingerprint, "hashes": hashes, "facts": entry.facts}
        write_sealed(temporary / _MANIFEST, content)
        for name, digest in hashes.items():
            _whole.add(_identity(temporary / f"{name}.npy", digest))


def write_cached(folder: Path, key: str, arrays: Mapping[str, NDArray[Any]], *, fingerprint: str) -> Path:
    """Write an entry of arrays in memory, each of two or more axes.

    Returns:
        Folder of the entry.

    Raises:
        StorageError: the disk is full or closed.
    """
    with new_entry(folder, key, fingerprint=fingerprint) as entry:
        for name, values in arrays.items():
            entry.create(name, values.shape, values.dtype.str).write(values)
    return folder / key


def read_entry(folder: Path, key: str, *, fingerprint: str | None = None) -> Entry:
    """What an entry says about itself; its arrays are not touched.

    Args:
        folder: of the cache.
        key: name of the entry.
        fingerprint: what it must have been made from; None takes any.

    Raises:
        DataError: there is no such entry, it was made from something else, or it is damaged.
    """
    path = folder / key / _MANIFEST
    try:
        content = read_sealed(path)
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}")
        entry = Entry(str(content["fingerprint"]), dict(content["hashes"]), dict(content["facts"]))
    except FileNotFoundError as error:
        raise DataError(f"{folder / key}: not in the cache: prepare the data again") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be understood ({error}): prepare the data again") from error
    if fingerprint is not None and entry.fingerprint != fingerprint:
        raise DataError(f"{folder / key}: was made from other data or settings: prepare the data again")
    return entry


def read_cached(folder: Path, key: str, name: str, *, fingerprint: str | None = None) -> np.memmap[Any, Any]:
    """Map an array of an entry; nothing is read before it is looked at.

    Args:
        folder: of the cache.
        key: name of the entry.
        name: of the array.
        fingerprint: what the entry must have been made from; None does not look.

    Returns:
        Shape and type as written, read-only.

    Raises:
        DataError: there is no such entry or array, it was made from something else, or it is damaged.
    """
    entry = read_entry(folder, key, fingerprint=fingerprint)
    path = folder / key / f"{name}.npy"
    if name not in entry.hashes:
        raise DataError(f"{path}: not in the cache: prepare the data again")
    return map_array(path, entry.hashes[name])


def is_whole(path: Path, digest: str) -> bool:
    """Compare a file with its hash, unless this process has done so since the file was last written.

    Args:
        path: the file.
        digest: SHA-256 of what it should hold.

    Raises:
        OSError: it cannot be read.
    """
    known = _identity(path, digest)
    if known not in _whole:
        if sha256_file(path) != digest:
            return False
        _whole.add(known)
    return True


def _check_hash(path: Path, digest: str) -> None:
    try:
        if not is_whole(path, digest):
            raise DataError(f"{path}: is not what was written; the disk may be damaged: prepare the data again")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: prepare the data again") from error


def _identity(path: Path, digest: str) -> tuple[object, ...]:
    # Not by its path, since an entry gets its name only when it is whole.
    found = os.stat(path)
    return digest, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def map_array(path: Path, digest: str | None = None) -> np.memmap[Any, Any]:
    """Map a `.npy` file, read-only.

    Args:
        path: the file.
        digest: its SHA-256, with which it is compared when this process maps it for the first time; None does not look.

    Raises:
        DataError: it is missing, cut off, not what was written, or holds pickled objects.
    """
    try:
        # Unlike `np.load` it reads nothing but .npy, and it refuses arrays of Python objects.
        with _PARSING:
            mapped: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise DataError(f"{path}: not in the cache: prepare the data again") from error
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:  # its header is a Python literal
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be mapped ({reason}): prepare the data again") from error
    if digest is not None:
        _check_hash(path, digest)
    return mapped


_BLOCK_ROWS: Final = 512
"""Rows that a product is written by: those of its blocks."""


@dataclass(frozen=True, slots=True)
class OutputBand:
    """What one plane holds."""

    name: str
    """Also the name of its file."""
    dtype: str
    bands: int = 1


class StripWriter:
    """Appends finished rows of one chunk; a context manager."""

    def __init__(self, folder: Path, window: Window, planes: Iterable[OutputBand]) -> None:
        """Create the files.

        Args:
            folder: the part; created.
            window: the chunk in output pixels.
            planes: what is written; at least one.

        Raises:
            StorageError: the disk is full or closed.
        """
        self._window = window
        self._planes = {plane.name: plane for plane in planes}
        self._next = window.row
        self._files: dict[str, BinaryIO] = {}
        with storage_errors():
            folder.mkdir(parents=True)
            for plane in self._planes.values():
                self._files[plane.name] = file = (folder / f"{plane.name}.npy").open("wb")
                header = {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(plane.dtype)),
                    "fortran_order": False,
                    "shape": (window.height, plane.bands, window.width),
                }
                np.lib.format.write_array_header_1_0(file, header)

    def write(self, row: int, values: Mapping[str, np.ndarray]) -> None:
        """Append rows to all planes.

        Args:
            row: first row, output pixels counted from the scene's first; must follow the rows already written.
            values: per plane shape (band, rows, chunk width), or (rows, chunk width) for one band, of its dtype;
                as many rows in each.

        Raises:
            ValueError: the rows do not follow, or a plane is missing or of another shape or dtype; nothing is written.
            StorageError: the disk is full.
        """
        if row != self._next or values.keys() != self._planes.keys():
            raise ValueError(
                f"rows from {row} of {sorted(values)} where {self._next} of {sorted(self._planes)} are due"
            )
        stacks = {name: array if array.ndim == 3 else array[None] for name, array in values.items()}
        rows = next(iter(stacks.values())).shape[1]
        # All are looked at before one is written: planes of different lengths would shift against each other.
        for name, stack in stacks.items():
            plane, expected = self._planes[name], (self._planes[name].bands, rows, self._window.width)
            if stack.shape != expected or stack.dtype != plane.dtype:
                raise ValueError(f"'{name}' is {stack.dtype} {stack.shape}, not {plane.dtype} {expected}")
        with storage_errors():
            for name, stack in stacks.items():
                self._files[name].write(np.ascontiguousarray(stack.transpose(1, 0, 2)).data)
        self._next = row + rows

    def __enter__(self) -> StripWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with storage_errors():
            for file in self._files.values():
                file.close()
        if kind is None and self._next != self._window.row_stop:
            raise ValueError(f"rows up to {self._next} were written of {self._window.row_stop}")


def read_output_band(folder: Path, name: str) -> np.ndarray:
    """Map a plane of a part.

    Args:
        folder: the part.
        name: the plane.

    Returns:
        Shape (band, row, col), a read-only view of the file.
    """
    mapped: np.ndarray = np.load(folder / f"{name}.npy", mmap_mode="r")
    return mapped.transpose(1, 0, 2)


def merge_chunks(
    parts: Iterable[tuple[Window, Path]],
    name: str,
    write: Callable[[np.ndarray, int, int], None],
) -> None:
    """Hand a plane of all parts to a raster writer, a block of rows at a time.

    Args:
        parts: each chunk in output pixels with its part.
        name: the plane.
        write: called with values of shape (band, rows, chunk width), first row and first column, output pixels.
    """
    for window, folder in parts:
        plane = read_output_band(folder, name)
        for first in range(0, window.height, _BLOCK_ROWS):
            rows = np.ascontiguousarray(plane[:, first : first + _BLOCK_ROWS])
            write(rows, window.row + first, window.col)
