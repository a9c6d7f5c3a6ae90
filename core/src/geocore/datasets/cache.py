"""Files read window by window: opened once and kept open, or decoded once to memory-mapped files.

A process keeps as many files open as its limit allows with room to spare, half of it, and closes the least recently
used first. Whoever is given one keeps it open as long as he has it, so it is asked for anew at each window.

Decoded, windows come at the speed of memory in every later epoch. A cache folder holds an entry for each layer, as
`geocore.raster.npy_store` writes them: `values.npy` and `valid.npy`. What is finished is kept; a layer whose decoding
was cut off is decoded anew. Any number of processes may ask for one layer: the first decodes it and the others wait, at
locks in the folder `.locks`. What is mapped lies in the system's file cache: processes share it, and it gives way when
memory is needed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import logging
import os
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import JsonValue

from geocore.errors import DataError
from geocore.raster.block_cache import POOL_BYTES, Pool, with_chunk
from geocore.raster.grid import Grid, Window
from geocore.raster.npy_store import map_array, new_entry, read_cached
from geocore.raster.scene import ArrayReader, BandReader, Layer, Patch, Scene
from geocore.storage.files import patient_lock, real_folder, remove_leftovers, sha256_json

logger = logging.getLogger(__name__)

_VALUES, _VALID = "values", "valid"
_CHUNK_BYTES = 1 << 26
_LONG_BYTES = 1 << 30
"""Decoding this much takes long enough to say so."""
_MOST_OPEN = 1024
"""Files kept open where the system sets no limit, or a higher one; each takes some tens of kB."""
_PRODUCT_FILES = 16
"""Files that a list of bands or a product holds open at most: Sentinel-2 has 13 bands, and a mask."""
_STEM = 100
"""Letters of a file's name in those of its entries: a path's part has 255 at most."""

Opened = TypeVar("Opened")
_numbers = itertools.count()


@functools.cache
def _open_files() -> Pool[Any]:
    """What this process keeps open, by the number of files."""
    try:
        import resource
    except ImportError:  # Windows has none
        return Pool(_MOST_OPEN // 4)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Pool(_MOST_OPEN if soft == resource.RLIM_INFINITY else min(_MOST_OPEN, soft // 2))


_left: list[Pool[Any]] = []


def _leave_to_parent() -> None:
    """Forked processes share the positions of open files, so they open their own; closing others' could block."""
    if _open_files.cache_info().currsize:
        _left.append(_open_files())
        _open_files.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _kept(key: Hashable, opened: Callable[[], Opened], *, files: Callable[[], int]) -> Opened:
    """What is kept open under a key, opened where it is not, and then holds so many files."""
    found: Opened = _open_files().get(key, opened, lambda _: files())
    return found


def kept_array(path: Path, digest: str | None = None) -> np.memmap[Any, Any]:
    """As `npy_store.map_array`, but what was mapped stays so for the next who asks, until others need the room.

    Raises:
        DataError: as `npy_store.map_array`.
    """
    try:
        found = os.stat(path)
    except OSError:
        return map_array(path, digest)
    key = (path, digest, found.st_ino, found.st_size, found.st_mtime_ns)
    return _kept(key, lambda: map_array(path, digest), files=lambda: 1)


class _KeptScene(Scene):
    """A scene that several read. Closing it leaves it to the others: its files close when nobody has it any more."""

    def close(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a scene was when its file was opened."""

    name: str
    grid: Grid
    layers: Mapping[str, tuple[Layer, tuple[int, int]]]
    """Name -> what the layer holds, and its (rows, cols)."""


class SceneCache:
    """The scenes of a data set: decoded once into a cache folder, or without one opened once and kept open.

    Threads, processes and data sets may share a folder: entries are called by what they were made from, so that another
    content gets another entry. Old ones stay until someone removes the folder, which may be done at any time.
    """

    def __init__(self, folder: Path | None, *, reader: str) -> None:
        """Open nothing yet.

        Args:
            folder: of the cache, made when missing; None: no cache.
            reader: package whose code opens the files: another version of it or of geocore decodes them anew.
        """
        self._folder = folder
        self._versions = {name: importlib.metadata.version(name) for name in ("geocore", reader)}
        self._known: dict[tuple[str, str], _Known] = {}
        self._chunks: Pool[Patch] = Pool(POOL_BYTES)
        # A number of its own, since another data set may understand the same file in another way.
        self._number = ("scenes", next(_numbers))
        weakref.finalize(self, _let_go, self._number)

    def open(
        self,
        path: Path,
        digest: str | None,
        opened: Callable[[Path], Scene],
        *,
        rules: JsonValue = None,
        chunk: Window | None = None,
        stored: bool = False,
    ) -> Scene:
        """A scene whose reads are equal to those of the one in its file; safe for several threads.

        It holds its files open as long as somebody has it, and closing it does nothing: ask for it at each window.

        Args:
            path: the file. A VRT is never decoded, as its content says nothing of the files that it names.
            digest: SHA-256 of its content; None where it is not known, so that it is not decoded either.
            opened: opens the file; called once, and again where others needed the room.
            rules: all else that decides what the scene holds, such as bands and scale.
            chunk: part of the scene that is worth keeping in memory, as of a `Draw`; of no use where it is decoded.
            stored: the scene as its file stores it, in its blocks, also where there is a cache.

        Raises:
            SceneError: the file cannot be read.
            StorageError: the disk is full or closed.
        """
        if stored or self._folder is None or digest is None or path.suffix.lower() == ".vrt":
            key = (*self._number, path, digest, sha256_json(rules))
            scene = _kept(key, lambda: _shared(opened(path)), files=lambda: _files_of(path))
            return scene if chunk is None else with_chunk(scene, self._chunks, chunk, key)
        fingerprint = sha256_json({"versions": self._versions, "file": digest, "rules": rules})
        stem = f"{path.stem[:_STEM]}-{fingerprint[:16]}"
        if (stem, fingerprint) in self._known:
            try:
                return self._mapped(self._folder, stem, fingerprint)
            except DataError:
                pass  # removed in the meantime
        with opened(path) as scene:
            layers = {}
            for name, source in scene.readers.items():
                decoded(self._folder, f"{stem}-{name}", source, fingerprint=fingerprint)
                layers[name] = (source.layer, source.shape)
            self._known[stem, fingerprint] = _Known(scene.name, scene.grid, layers)
        return self._mapped(self._folder, stem, fingerprint)

    def _mapped(self, folder: Path, stem: str, fingerprint: str) -> Scene:
        known = self._known[stem, fingerprint]

        def mapped() -> Scene:
            sources = {
                name: _mapped(folder, f"{stem}-{name}", layer, shape, fingerprint)
                for name, (layer, shape) in known.layers.items()
            }
            return Scene(known.name, known.grid, sources)

        # Values and mask of each layer.
        return _kept((*self._number, stem, fingerprint), mapped, files=lambda: 2 * len(known.layers))


def _shared(scene: Scene) -> Scene:
    return _KeptScene(scene.name, scene.grid, scene.readers)


def _files_of(path: Path) -> int:
    """Files that a scene holds open; those behind a VRT are few for all together, by a limit of GDAL."""
    return 1 if path.is_file() and path.suffix.lower() not in (".yaml", ".yml") else _PRODUCT_FILES


def _let_go(number: tuple[str, int]) -> None:
    """Close what a data set has kept open."""
    if _open_files.cache_info().currsize:
        _open_files().drop(lambda key: isinstance(key, tuple) and key[:2] == number)


def decoded(folder: Path, key: str, source: BandReader, *, fingerprint: str) -> ArrayReader:
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
    with patient_lock(real_folder(folder, ".locks", key)):
        found = _found(folder, key, layer, shape, fingerprint)
        if found is None:
            remove_leftovers(folder)
            _decode(folder, key, source, fingerprint)
            found = _mapped(folder, key, layer, shape, fingerprint)
    return found


def _found(folder: Path, key: str, layer: Layer, shape: tuple[int, int], fingerprint: str) -> ArrayReader | None:
    """The entry, where it is whole and made from this."""
    try:
        return _mapped(folder, key, layer, shape, fingerprint)
    except DataError:
        return None


def _decode(folder: Path, key: str, source: BandReader, fingerprint: str) -> None:
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


def _mapped(folder: Path, key: str, layer: Layer, shape: tuple[int, int], fingerprint: str) -> ArrayReader:
    values = read_cached(folder, key, _VALUES, fingerprint=fingerprint)
    valid = read_cached(folder, key, _VALID)
    if values.shape[-2:] != shape:
        raise DataError(f"{folder / key}: has another shape than its layer: prepare the data again")
    try:
        # As plain arrays, since cutting a window out of a map costs more than copying it.
        return ArrayReader(layer, np.asarray(values), np.asarray(valid))
    except ValueError as error:
        raise DataError(f"{folder / key}: does not fit its layer ({error}): prepare the data again") from error
