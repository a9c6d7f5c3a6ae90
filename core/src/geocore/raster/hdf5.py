"""HDF5 files and their variables: opened so that they reach no other file, and read within what they can hold.

HDF5 inflates by zlib, under a lock that all threads of a process share, and into as much memory as the stream asks for.
Here chunks come as they lie in the file, are inflated outside that lock, and never to more than their values take; by
isal, which takes a quarter of zlib's time, where it is installed. What is packed in another way is left to HDF5.

What a variable claims is compared with the file and with the memory before anything is allocated. A part that was never
written takes no place in a file, so a small one may hold a large variable: up to as many values as the tightest packing
brings into its bytes.
"""

from __future__ import annotations

import mmap
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from geocore.errors import SceneError
from geocore.storage.memory import most_at_once
from geocore.storage.special_files import check_regular

_DEFLATE, _SHUFFLE, _FLETCHER, _SZIP, _NBIT, _SCALE_OFFSET, _LZF = 1, 2, 3, 4, 5, 6, 32000
_PIPELINES: Final = ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE))
"""Filters, by HDF5's numbers and in the order of writing, that are undone here."""
_CHECKSUM_BYTES: Final = 4
_REMEDY: Final = ": only what a file holds itself, and a scene's worth of it, is read; write it anew (nccopy IN OUT)"
_REFERENCES: Final = ("DIMENSION_LIST", "REFERENCE_LIST")
"""Attributes by which netCDF ties dimensions to variables."""

_MOST_OBJECTS: Final = 2000
_MOST_LEVELS: Final = 10
_MOST_ATTRIBUTES: Final = 5000
"""Of all objects together: each takes half a millisecond to read."""
_MOST_VALUES_PER_BYTE: Final = 300_000
"""As of `geocore.raster.headers`, for rasters."""
_LARGEST_CHUNK_BYTES: Final = 1 << 30
_MOST_CHUNKS: Final = 1 << 20
"""That one read looks up, each in some microseconds."""
_FREE_BYTES: Final = 1 << 28
"""That may always be read at once; a window of less asks nobody for limits."""
_TEXT_BYTES: Final = 64
"""That a text takes at least, once it is Python's."""
_HEAP: Final = b"GCOL\1\0\0\0"
"""How a collection of a global heap begins: what attributes of variable length point to."""
_HEAP_FIELD_BYTES: Final = 16
"""Of the head of a collection, and of the head of each object in it."""

new_inflater: Callable[[], Any]
"""A decompressor of one zlib stream, as of `zlib.decompressobj`."""
_REFUSALS: list[type[Exception]] = [zlib.error, EOFError]
try:
    from isal import isal_zlib

    new_inflater = isal_zlib.decompressobj
    _REFUSALS.append(isal_zlib.error)  # type: ignore[arg-type]  # its stub takes the class for an exception
except ImportError:
    new_inflater = zlib.decompressobj

Selection = tuple[slice, ...]
"""Part of a data set: first and last value, steps of 1, of each axis."""


class DecodedChunks:
    """Decoded chunks that were used last, for windows that share them."""

    def __init__(self, most_bytes: int = 1 << 25) -> None:
        self._most_bytes = most_bytes
        self._chunks: OrderedDict[tuple[Any, ...], NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[Any, ...]) -> NDArray[Any] | None:
        """The chunk under a key; None: it has to be decoded."""
        if (found := self._chunks.get(key)) is not None:
            self._chunks.move_to_end(key)
        return found

    def put(self, key: tuple[Any, ...], chunk: NDArray[Any]) -> None:
        """Keep a chunk, and let go of those that were not used for longest."""
        self._chunks[key] = chunk
        self._bytes += chunk.nbytes
        while self._bytes > self._most_bytes and len(self._chunks) > 1:
            self._bytes -= self._chunks.popitem(last=False)[1].nbytes


def open_hdf5(path: Path) -> Any:
    """Open a file that holds all that it shows.

    Args:
        path: the file.

    Returns:
        An `h5py.File`.

    Raises:
        SceneError: a link or a variable leads to another file or place, or the file holds more objects, or deeper ones,
            than any scene.
        OSError: it cannot be opened, or is damaged.
    """
    import h5py

    check_regular(path)
    file = h5py.File(path, "r")
    try:
        found = path.stat()
        if not _heaps_end(path, found.st_ino, found.st_size, found.st_mtime_ns):
            raise OSError("a global heap is damaged")
        if (reason := _leads_out(file)) is not None:
            raise SceneError(f"{path}: {reason}{_REMEDY}")
    except BaseException:
        file.close()
        raise
    return file


def read_dataset(dataset: Any) -> NDArray[Any]:
    """All values of a data set; see `StoredArray.read`."""
    return StoredArray(dataset).read()


class StoredArray:
    """A data set of a file opened for reading, with what has to be known of it before its values are read."""

    def __init__(self, dataset: Any) -> None:
        """Look at it; no value is read.

        Args:
            dataset: an open `h5py.Dataset`.

        Raises:
            SceneError: it promises more values than its file can hold, or is packed in a way that is not read.
        """
        self._dataset = dataset
        self._path = Path(dataset.file.filename)
        self._name: str = dataset.name
        self._shown = f"{self._path}: {self._name.rpartition('/')[2]}"
        self._size = self._path.stat().st_size
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype
        self._chunks: tuple[int, ...] | None = dataset.chunks
        self._check_promise()
        self._filters = () if self._chunks is None else _known_filters(dataset, self._shown)
        self._is_plain = self._chunks is not None and self._filters in _PIPELINES and _holds_numbers(dataset)
        # A chunk that was never written is not there, and stands for fill values.
        self._is_whole = self._chunks is not None and dataset.id.get_num_chunks() == prod(
            ceil(length / step) for length, step in zip(self.shape, self._chunks, strict=True)
        )

    def read(self, place: Selection | None = None, *, cache: DecodedChunks | None = None) -> NDArray[Any]:
        """Values equal to `dataset[place]`, for any type, layout and filters.

        Args:
            place: a part, fully inside; None: all.
            cache: keeps chunks for further windows of the same file; one thread at a time.

        Returns:
            Type of the data set, in memory of its own.

        Raises:
            SceneError: neither the file nor the memory can hold what is asked for.
            OSError, RuntimeError: HDF5 cannot read it, or a chunk holds fewer or more bytes than its values have, which
                HDF5 itself would not notice.
        """
        place = tuple(slice(0, length) for length in self.shape) if place is None else place
        self._check_claim(place)
        if self._is_plain:
            try:
                return self._unpacked(place, cache)
            except tuple(_REFUSALS):
                pass  # HDF5 says what is wrong
        else:
            self._check_streams(place)
        return np.asarray(self._dataset[place])

    def check(self, place: Selection) -> None:
        """Refuse what `read` would, for another reader.

        Raises:
            SceneError, OSError: as of `read`.
        """
        self._check_claim(place)
        # What has grown since the data set was written is filled up by that reader.
        self._check_streams(
            tuple(slice(part.start, min(part.stop, length)) for part, length in zip(place, self.shape, strict=True))
        )

    def _check_claim(self, place: Selection) -> None:
        wanted = self._itemsize * prod(part.stop - part.start for part in place)
        if wanted > _FREE_BYTES and wanted > (most := most_at_once(self._size)):
            raise SceneError(
                f"{self._shown} ({_times(self.shape)}) would take {wanted / 2**30:.3g} GiB at once: a file of "
                f"{self._size} bytes may take {most / 2**30:.3g} here; cut it into smaller ones"
            )
        if self._chunks is not None and prod(_counts(place, self._chunks)) > _MOST_CHUNKS:
            raise SceneError(
                f"{self._shown} is stored in chunks of {_times(self._chunks)} values, of which a million can be read "
                "at once; write it in larger ones: nccopy -c DIMENSION/SIZE,... IN OUT"
            )

    @property
    def _itemsize(self) -> int:
        return max(self.dtype.itemsize, _TEXT_BYTES if self.dtype.kind == "O" else 1)

    def _check_promise(self) -> None:
        if prod(self.shape) > self._size * _MOST_VALUES_PER_BYTE:
            raise SceneError(
                f"{self._shown} promises {_times(self.shape)} values, which {self._size} bytes cannot hold: the file "
                "is damaged: copy it or get it again"
            )
        if self._chunks is not None and self._itemsize * prod(self._chunks) > _LARGEST_CHUNK_BYTES:
            raise SceneError(
                f"{self._shown} is stored in chunks of {_times(self._chunks)} values, and at most 1 GiB can be read at "
                "once; write it in smaller ones: nccopy -c DIMENSION/SIZE,... IN OUT"
            )

    def _parts(self, place: Selection) -> Iterator[tuple[tuple[int, ...], Selection, Selection]]:
        """First value of each chunk of a place, the part of it that lies there, and where in the place that is."""
        assert self._chunks is not None
        firsts = (
            range(part.start // step * step, part.stop, step) for part, step in zip(place, self._chunks, strict=True)
        )
        for start in product(*firsts):
            axes = [
                (first, max(first, part.start), min(first + step, part.stop), part.start)
                for first, step, part in zip(start, self._chunks, place, strict=True)
            ]
            within = tuple(slice(low - first, high - first) for first, low, high, _ in axes)
            yield start, within, tuple(slice(low - begin, high - begin) for _, low, high, begin in axes)

    def _packed(self, start: tuple[int, ...]) -> tuple[bytes, list[int]] | None:
        """A chunk as it lies in the file, with the filters that were applied to it; None: it was never written."""
        if not self._is_whole and self._dataset.id.get_chunk_info_by_coord(start).byte_offset is None:
            return None
        skipped, packed = self._dataset.id.read_direct_chunk(start)
        return packed, [code for bit, code in enumerate(self._filters) if not skipped >> bit & 1]

    def _unpacked(self, place: Selection, cache: DecodedChunks | None) -> NDArray[Any]:
        values = np.empty([part.stop - part.start for part in place], self.dtype)
        if not values.size:
            return values
        assert self._chunks is not None
        cut: NDArray[Any] | None = None
        for start, within, target in self._parts(place):
            goal, key = values[target], (self._name, *start)
            if cache is not None and (kept := cache.get(key)) is not None:
                goal[...] = kept[within]
            elif (chunk := self._packed(start)) is None:
                goal[...] = self._dataset.fillvalue
            # One that crosses the border is whole in the file; one of whole images is unpacked where it belongs.
            elif cache is None and goal.shape == self._chunks and goal.flags.c_contiguous:
                _unpack(*chunk, goal.reshape(-1))
            else:
                if cut is None or cache is not None:
                    cut = np.empty(self._chunks, self.dtype)
                _unpack(*chunk, cut.reshape(-1))
                goal[...] = cut[within]
                if cache is not None:
                    cache.put(key, cut)
        return values

    def _check_streams(self, place: Selection) -> None:
        """Refuse chunks that would be inflated to more than their values take, which HDF5 would do."""
        if self._chunks is None or _DEFLATE not in self._filters:
            return
        own = self.dtype.itemsize * prod(self._chunks)
        # What another filter made of a chunk may be a little longer than it was.
        most = own + own // 4 + (1 << 16)
        for start, _, _ in self._parts(place):
            packed, filters = self._packed(start) or (b"", [])
            if _DEFLATE not in filters:
                continue
            try:
                content = _inflated(packed[:-_CHECKSUM_BYTES] if _FLETCHER in filters else packed, most)
            except tuple(_REFUSALS):
                continue  # HDF5 says what is wrong
            if len(content) > most:
                raise OSError(f"a chunk of {own} bytes holds more")


def read_attributes(dataset: Any) -> dict[str, Any]:
    """Attributes of a data set as netCDF means them: text as `str`, and a list of one as its value.

    Args:
        dataset: an open `h5py.Dataset`.

    Raises:
        OSError, RuntimeError: HDF5 cannot read them.
    """
    found = {}
    for name in dataset.attrs:
        if name not in _REFERENCES:
            value = dataset.attrs[name]
            value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
            found[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return found


@lru_cache(maxsize=1024)
def _heaps_end(path: Path, inode: int, size: int, mtime_ns: int) -> bool:
    """Whether a walk through each global heap comes to its end: HDF5's own goes on for ever from an object of no size.

    HDF5 File Format Specification 3.0, III.E. The file is searched once, at the speed at which it is read; the words
    looked for are too long to stand in packed values by chance.

    Args:
        path: the file.
        inode: with the next two, what tells that it is the same one as before.
        size: bytes.
        mtime_ns: time of its last change.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_HEAP)
        while at >= 0:
            place = at + _HEAP_FIELD_BYTES
            # What is longer than the file is HDF5's to refuse.
            end = min(at + int.from_bytes(content[at + 8 : place], "little"), len(content))
            while place + _HEAP_FIELD_BYTES <= end:
                index = int.from_bytes(content[place : place + 2], "little")
                length = int.from_bytes(content[place + 8 : place + _HEAP_FIELD_BYTES], "little")
                # Object 0 is the free space, and counts its own head.
                step = length if index == 0 else _HEAP_FIELD_BYTES + (length + 7) // 8 * 8
                if step < _HEAP_FIELD_BYTES or step > end - place:
                    return False
                place += step
            at = content.find(_HEAP, at + len(_HEAP))
    return True


def _leads_out(file: Any) -> str | None:
    """What in a file leads out of it, or is too much to be looked at; None: nothing."""
    import h5py

    seen, attributes = 0, h5py.h5a.get_num_attrs(file.id)
    damage: list[Exception] = []

    def visit(name: bytes, link: Any) -> str | None:
        # What a visitor raises comes out of HDF5 as a SystemError without its reason.
        try:
            return look(name, link)
        except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
            damage.append(error)
            return "damaged"

    def look(name: bytes, link: Any) -> str | None:
        nonlocal seen, attributes
        seen += 1
        shown = name.decode("utf-8", "replace")[:80]
        if seen > _MOST_OBJECTS or name.count(b"/") > _MOST_LEVELS:
            return f"holds more than {_MOST_OBJECTS} variables and groups, or more than {_MOST_LEVELS} levels of them"
        if link.type != h5py.h5l.TYPE_HARD:
            return f"{shown} is a link to another place or file"
        found = h5py.h5o.open(file.id, name)
        attributes += h5py.h5a.get_num_attrs(found)
        if attributes > _MOST_ATTRIBUTES:
            return f"holds more than {_MOST_ATTRIBUTES} attributes"
        if isinstance(found, h5py.h5d.DatasetID):
            made = found.get_create_plist()
            if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
                return f"{shown} has its values in other files"
        return None

    reason: str | None = file.id.links.visit(visit, info=True)
    if damage:
        raise OSError(f"its objects cannot be read ({' '.join(map(str, damage[0].args))})") from damage[0]
    return reason


def _known_filters(dataset: Any, name: str) -> tuple[int, ...]:
    """Filters of a data set, none of which makes more of a chunk than its values take but deflate.

    Those of numbers in few bits make as much as their parameters say, whatever the chunk.
    """
    properties = dataset.id.get_create_plist()
    filters = []
    for place in range(properties.get_nfilters()):
        code, _, parameters, label = properties.get_filter(place)
        # Place of the number of values and of the bytes of one among the parameters.
        at = {_NBIT: 2, _SCALE_OFFSET: 2}.get(code)
        wrong = at is not None and tuple(parameters[at : at + 3 : 2]) != (prod(dataset.chunks), dataset.dtype.itemsize)
        if code not in (_DEFLATE, _SHUFFLE, _FLETCHER, _SZIP, _NBIT, _SCALE_OFFSET, _LZF) or wrong or code in filters:
            shown = label.decode("utf-8", "replace")[:40] or code
            raise SceneError(f"{name} is packed by a filter that is not read ({shown}); repack it: nccopy -d 1 IN OUT")
        filters.append(code)
    if _DEFLATE in filters and any(code != _FLETCHER for code in filters[filters.index(_DEFLATE) + 1 :]):
        raise SceneError(f"{name} is packed again after it was deflated; repack it: nccopy -d 1 IN OUT")
    return tuple(filters)


def _holds_numbers(dataset: Any) -> bool:
    """Whether its values lie in the file as numpy has them."""
    import h5py

    if dataset.dtype.kind not in "uif" or dataset.dtype.metadata is not None:
        return False
    # Numbers of fewer bits than they lie in are HDF5's to convert.
    return bool(dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype))


def _unpack(packed: bytes, filters: list[int], target: NDArray[Any]) -> None:
    """Undo the filters of a chunk.

    Args:
        packed: the chunk as it lies in the file.
        filters: applied to it.
        target: shape (value,), receives the values.
    """
    content = _inflated(packed, target.nbytes) if _DEFLATE in filters else packed
    if len(content) != target.nbytes:
        more = "more" if len(content) > target.nbytes else str(len(content))
        raise OSError(f"a chunk of {target.nbytes} bytes holds {more}")
    if _SHUFFLE not in filters:
        target[...] = np.frombuffer(content, target.dtype)
        return
    # All first bytes, then all second ones; arithmetic on whole rows is faster than strided copies. Bytes are put
    # together in the order of the file, whatever their numbers are.
    bits = target.view(f"<u{target.itemsize}")
    lanes = np.frombuffer(content, np.uint8).reshape(target.itemsize, -1)
    bits[...] = lanes[-1]
    for lane in lanes[-2::-1]:
        np.left_shift(bits, 8, out=bits)
        np.bitwise_or(bits, lane, out=bits)


def _inflated(packed: bytes, most: int) -> bytes:
    """What a zlib stream holds, or a byte more than the most that it may."""
    stream = new_inflater()
    content: bytes = stream.decompress(packed, most + 1)
    if len(content) <= most and not stream.eof:
        raise EOFError("the stream ends early")
    return content


def _counts(place: Selection, chunks: tuple[int, ...]) -> Iterator[int]:
    """Chunks along each axis that a place touches."""
    for part, step in zip(place, chunks, strict=True):
        yield (part.stop - 1) // step - part.start // step + 1 if part.stop > part.start else 0


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes)) or "a single"
