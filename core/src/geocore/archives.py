"""Arrays in a .npz archive: read when what they claim is what the archive holds, and what it holds fits into memory."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from geocore.memory import most_at_once
from geocore.specials import open_regular

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
