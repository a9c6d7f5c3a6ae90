"""Variables of HDF5 files: their values faster than HDF5 reads them, in several threads at once, and their attributes.

HDF5 inflates by zlib and under a lock that all threads of a process share. Here chunks come as they lie in the file,
and are inflated outside that lock; by isal, which takes a quarter of zlib's time, where it is installed. What is packed
in another way, or cannot be inflated here, is left to HDF5, which then also says what is wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import product
from math import ceil, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SHUFFLE: Final = 2
_DEFLATE: Final = 1
_PIPELINES: Final = ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE))
"""Filters, by HDF5's numbers and in the order of writing, that are undone here."""
_WINDOW_BITS: Final = 15
_REFERENCES: Final = ("DIMENSION_LIST", "REFERENCE_LIST")
"""Attributes by which netCDF ties dimensions to variables."""

inflate: Callable[[bytes, int, int], bytes]
"""Bytes of a zlib stream, from the stream, the bits of its window and the expected number of bytes."""
_REFUSALS: list[type[Exception]] = [zlib.error, EOFError]
try:
    from isal import isal_zlib

    inflate = isal_zlib.decompress
    _REFUSALS.append(isal_zlib.error)  # type: ignore[arg-type]  # its stub takes the class for an exception
except ImportError:
    inflate = zlib.decompress


def read_dataset(dataset: Any) -> NDArray[Any]:
    """All values of a data set, equal to `dataset[...]` for any type, layout and filters.

    Args:
        dataset: an open `h5py.Dataset`.

    Returns:
        Shape and type of the data set, in memory of its own.

    Raises:
        OSError, RuntimeError: HDF5 cannot read it, or a chunk holds fewer or more bytes than its values have, which
            HDF5 itself would not notice.
    """
    pipeline = _pipeline(dataset)
    if pipeline is not None:
        try:
            return _unpacked(dataset, pipeline)
        except tuple(_REFUSALS):
            pass
    return np.asarray(dataset[...])


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


def _pipeline(dataset: Any) -> tuple[int, ...] | None:
    """Filters of a data set, all of whose chunks can be unpacked here; None: they cannot."""
    # A shuffled value is put together from its lowest byte on.
    if dataset.chunks is None or dataset.dtype.kind != "u" or dataset.dtype.str[0] == ">":
        return None
    properties = dataset.id.get_create_plist()
    filters = tuple(properties.get_filter(place)[0] for place in range(properties.get_nfilters()))
    chunks = prod(ceil(length / step) for length, step in zip(dataset.shape, dataset.chunks, strict=True))
    # A chunk that was never written is not there, and stands for fill values.
    return filters if filters in _PIPELINES and dataset.id.get_num_chunks() == chunks else None


def _unpacked(dataset: Any, pipeline: tuple[int, ...]) -> NDArray[Any]:
    values = np.empty(dataset.shape, dataset.dtype)
    cut = np.empty(dataset.chunks, dataset.dtype)
    steps = (range(0, length, step) for length, step in zip(dataset.shape, dataset.chunks, strict=True))
    for start in product(*steps):
        place = values[tuple(slice(first, first + step) for first, step in zip(start, cut.shape, strict=True))]
        # One that crosses the border is whole in the file; a whole one of whole images is unpacked where it belongs.
        target = place if place.shape == cut.shape and place.flags.c_contiguous else cut
        skipped, packed = dataset.id.read_direct_chunk(start)
        _unpack(packed, [code for bit, code in enumerate(pipeline) if not skipped >> bit & 1], target.reshape(-1))
        if target is cut:
            place[...] = cut[tuple(slice(length) for length in place.shape)]
    return values


def _unpack(packed: bytes, filters: list[int], target: NDArray[Any]) -> None:
    """Undo the filters of a chunk.

    Args:
        packed: the chunk as it lies in the file.
        filters: applied to it.
        target: shape (value,), receives the values.
    """
    content = inflate(packed, _WINDOW_BITS, target.nbytes) if _DEFLATE in filters else packed
    if len(content) != target.nbytes:
        raise OSError(f"a chunk of {target.nbytes} bytes holds {len(content)}")
    if _SHUFFLE not in filters:
        target[...] = np.frombuffer(content, target.dtype)
        return
    # All first bytes, then all second ones; arithmetic on whole rows is faster than strided copies.
    lanes = np.frombuffer(content, np.uint8).reshape(target.itemsize, -1)
    target[...] = lanes[-1]
    for lane in lanes[-2::-1]:
        np.left_shift(target, 8, out=target)
        np.bitwise_or(target, lane, out=target)
