"""Layers decoded once to memory-mapped files, so that windows come at the speed of memory in every later epoch.

A cache folder holds an entry for each layer, as `geocore.cache` writes them: `values.npy` and `valid.npy`. What is
finished is kept; a layer whose decoding was cut off is decoded anew. Any number of processes may ask for one layer: the
first decodes it and the others wait, at locks in the folder `.locks`.
"""

from __future__ import annotations

import glob
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from geocore.cache import new_entry, read_cached
from geocore.errors import DataError, RunError
from geocore.files import FolderLock
from geocore.grid import Window
from geocore.scenes import ArraySource, LayerSource

_VALUES, _VALID = "values", "valid"
_CHUNK_BYTES = 1 << 26
_WAIT_S = 0.2


def decoded(folder: Path, key: str, source: LayerSource, *, fingerprint: str) -> ArraySource:
    """The layer as arrays mapped from a cache, decoded into it where they are missing, damaged or of something else.

    Args:
        folder: of the cache; made when missing.
        key: name of the entry, such as the sample's and the layer's; a file name.
        source: the layer; not closed. Read from the first row to the last if at all.
        fingerprint: hash of all that decides the content, such as that of the file and how it is read.

    Returns:
        A source whose reads are equal to those of `source`, and which may outlive it.

    Raises:
        SceneError: the source cannot be read.
        StorageError: the disk is full or closed.
    """
    # First without the lock: a finished cache may lie where nothing can be written.
    found = _found(folder, key, source, fingerprint)
    if found is not None:
        return found
    with _only_one(folder / ".locks" / key):
        found = _found(folder, key, source, fingerprint)
        if found is None:
            # Nobody else works at this entry, so these are of processes that were killed.
            for left in folder.glob(f".part-{'?' * 12}-{glob.escape(key)}"):
                shutil.rmtree(left, ignore_errors=True)
            _decode(folder, key, source, fingerprint)
            found = _mapped(folder, key, source, fingerprint)
    return found


def _found(folder: Path, key: str, source: LayerSource, fingerprint: str) -> ArraySource | None:
    """The entry, where it is whole and made from this."""
    try:
        return _mapped(folder, key, source, fingerprint)
    except DataError:
        return None


def _decode(folder: Path, key: str, source: LayerSource, fingerprint: str) -> None:
    layer, (rows, cols) = source.layer, source.shape
    block_rows, _ = getattr(source, "block", (1, 1))
    per_row = cols * int(np.prod(layer.axes)) * (np.dtype(layer.dtype).itemsize + 1)
    # Whole rows of blocks, each decoded once.
    step = max(1, _CHUNK_BYTES // (per_row * block_rows)) * block_rows
    with new_entry(folder, key, fingerprint=fingerprint) as entry:
        for row in range(0, rows, step):
            patch = source.read(Window(row, 0, min(step, rows - row), cols))
            for name, array in ((_VALUES, patch.values), (_VALID, patch.valid)):
                # The first patch tells how many masks there are.
                if row == 0:
                    entry.create(name, (*array.shape[:-2], rows, cols), array.dtype.str)
                entry.arrays[name].write(array)


def _mapped(folder: Path, key: str, source: LayerSource, fingerprint: str) -> ArraySource:
    values = read_cached(folder, key, _VALUES, fingerprint=fingerprint)
    valid = read_cached(folder, key, _VALID)
    if values.shape[-2:] != source.shape:
        raise DataError(f"{folder / key}: has another shape than its layer: prepare the data again")
    try:
        # As plain arrays, since cutting a window out of a map costs more than copying it.
        return ArraySource(source.layer, np.asarray(values), np.asarray(valid))
    except ValueError as error:
        raise DataError(f"{folder / key}: does not fit its layer ({error}): prepare the data again") from error


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock, then hold it."""
    lock = FolderLock(path)
    while True:
        try:
            lock.acquire()
            break
        except RunError:
            time.sleep(_WAIT_S)
    try:
        yield
    finally:
        lock.release()
