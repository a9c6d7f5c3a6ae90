"""Layers decoded once to memory-mapped files, so that windows come at the speed of memory in every later epoch.

A cache folder holds an entry for each layer, as `geocore.cache` writes them: `values.npy` and `valid.npy`. What is
finished is kept; a layer whose decoding was cut off is decoded anew. Any number of processes may ask for one layer: the
first decodes it and the others wait, at locks in the folder `.locks`. What is mapped lies in the system's file cache:
processes share it, and it gives way when memory is needed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from geocore.cache import new_entry, read_cached
from geocore.errors import DataError, RunError
from geocore.files import FolderLock, real_folder, remove_leftovers, sha256_json
from geocore.grid import Grid, Window
from geocore.scenes import ArraySource, Layer, LayerSource, Scene

logger = logging.getLogger(__name__)

_VALUES, _VALID = "values", "valid"
_CHUNK_BYTES = 1 << 26
_LONG_BYTES = 1 << 30
"""Decoding this much takes long enough to say so."""
_MAPPED = 64
"""Scenes that stay mapped, of which each layer holds two files open; many systems allow a process 1024."""
_STEM = 100
"""Letters of a file's name in those of its entries: a path's part has 255 at most."""
_WAIT_S = 0.2


@dataclass(frozen=True, slots=True)
class _Known:
    """What a scene was when its file was opened."""

    name: str
    grid: Grid
    layers: Mapping[str, tuple[Layer, tuple[int, int]]]
    """Name -> what the layer holds, and its (rows, cols)."""


class DecodedScenes:
    """Scenes decoded once into a cache folder; without a folder, windows are decoded whenever they are read.

    Threads, processes and data sets may share a folder: entries are called by what they were made from, so that another
    content gets another entry. Old ones stay until someone removes the folder, which may be done at any time.
    """

    def __init__(self, folder: Path | None, *, reader: str) -> None:
        """Decode nothing yet.

        Args:
            folder: of the cache, made when missing; None: no cache.
            reader: package whose code opens the files: another version of it or of geocore decodes them anew.
        """
        self._folder = folder
        self._versions = {name: importlib.metadata.version(name) for name in ("geocore", reader)}
        self._known: dict[tuple[str, str], _Known] = {}
        # Maps hold files open, and a data set may have thousands.
        self._mapped = functools.lru_cache(maxsize=_MAPPED)(self._map)

    def decodes(self, path: Path, digest: str | None) -> bool:
        """Whether `open` serves a file from the cache; else it opens the file each time, which callers may keep open.

        Args:
            path: the file. A VRT is never decoded, as its content says nothing of the files that it names.
            digest: SHA-256 of its content; None where it is not known, so that it is not decoded either.
        """
        return self._folder is not None and digest is not None and path.suffix.lower() != ".vrt"

    def open(
        self, path: Path, digest: str | None, opened: Callable[[Path], Scene], *, rules: JsonValue = None
    ) -> Scene:
        """A scene whose reads are equal to those of the one in its file.

        What is decoded costs little to open again, and only holds files open as long as somebody has the scene: ask for
        it at each window.

        Args:
            path: as for `decodes`.
            digest: as for `decodes`.
            opened: opens the file; called once for what is decoded.
            rules: all else that decides what the scene holds, such as bands and scale.

        Raises:
            SceneError: the file cannot be read.
            StorageError: the disk is full or closed.
        """
        if not self.decodes(path, digest):
            return opened(path)
        assert self._folder is not None
        fingerprint = sha256_json({"versions": self._versions, "file": digest, "rules": rules})
        stem = f"{path.stem[:_STEM]}-{fingerprint[:16]}"
        if (stem, fingerprint) in self._known:
            try:
                return self._mapped(stem, fingerprint)
            except DataError:
                pass  # removed in the meantime
        with opened(path) as scene:
            layers = {}
            for name, source in scene.sources.items():
                decoded(self._folder, f"{stem}-{name}", source, fingerprint=fingerprint)
                layers[name] = (source.layer, source.shape)
            self._known[stem, fingerprint] = _Known(scene.name, scene.grid, layers)
        return self._mapped(stem, fingerprint)

    def _map(self, stem: str, fingerprint: str) -> Scene:
        assert self._folder is not None
        known = self._known[stem, fingerprint]
        sources = {
            name: _mapped(self._folder, f"{stem}-{name}", layer, shape, fingerprint)
            for name, (layer, shape) in known.layers.items()
        }
        return Scene(known.name, known.grid, sources)


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
    layer, shape = source.layer, source.shape
    found = _found(folder, key, layer, shape, fingerprint)
    if found is not None:
        return found
    with _only_one(real_folder(folder, ".locks", key)):
        found = _found(folder, key, layer, shape, fingerprint)
        if found is None:
            remove_leftovers(folder)
            _decode(folder, key, source, fingerprint)
            found = _mapped(folder, key, layer, shape, fingerprint)
    return found


def _found(folder: Path, key: str, layer: Layer, shape: tuple[int, int], fingerprint: str) -> ArraySource | None:
    """The entry, where it is whole and made from this."""
    try:
        return _mapped(folder, key, layer, shape, fingerprint)
    except DataError:
        return None


def _decode(folder: Path, key: str, source: LayerSource, fingerprint: str) -> None:
    layer, (rows, cols) = source.layer, source.shape
    block_rows, _ = getattr(source, "block", (1, 1))
    per_row = cols * int(np.prod(layer.axes)) * (np.dtype(layer.dtype).itemsize + 1)
    # Whole rows of blocks, each decoded once.
    step = max(1, _CHUNK_BYTES // (per_row * block_rows)) * block_rows
    if per_row * rows >= _LONG_BYTES:
        logger.info("decoding %s into %s: up to %.1f GB", key, folder, per_row * rows / 1e9)
    with new_entry(folder, key, fingerprint=fingerprint) as entry:
        for row in range(0, rows, step):
            patch = source.read(Window(row, 0, min(step, rows - row), cols))
            for name, array in ((_VALUES, patch.values), (_VALID, patch.valid)):
                # The first patch tells how many masks there are.
                if row == 0:
                    entry.create(name, (*array.shape[:-2], rows, cols), array.dtype.str)
                entry.arrays[name].write(array)


def _mapped(folder: Path, key: str, layer: Layer, shape: tuple[int, int], fingerprint: str) -> ArraySource:
    values = read_cached(folder, key, _VALUES, fingerprint=fingerprint)
    valid = read_cached(folder, key, _VALID)
    if values.shape[-2:] != shape:
        raise DataError(f"{folder / key}: has another shape than its layer: prepare the data again")
    try:
        # As plain arrays, since cutting a window out of a map costs more than copying it.
        return ArraySource(layer, np.asarray(values), np.asarray(valid))
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
