"""Dense parts of a region on disk: planes written row by row as they become finished, joined block by block later.

A part is a folder with one `<name>.npy` per plane, of shape (row, band, col), so that finished rows are appended and a
reader maps the file without loading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import numpy as np

from geocore.files import storage_errors
from geocore.grid import Window

_BLOCK_ROWS: Final = 512
"""Rows that a product is written by: those of its blocks."""


@dataclass(frozen=True, slots=True)
class Plane:
    """What one plane holds."""

    name: str
    """Also the name of its file."""
    dtype: str
    bands: int = 1


class PlaneWriter:
    """Appends finished rows of one region; a context manager."""

    def __init__(self, folder: Path, window: Window, planes: Iterable[Plane]) -> None:
        """Create the files.

        Args:
            folder: the part; created.
            window: the region in output pixels.
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
            values: per plane shape (band, rows, region width), or (rows, region width) for one band, of its dtype;
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

    def __enter__(self) -> PlaneWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with storage_errors():
            for file in self._files.values():
                file.close()
        if kind is None and self._next != self._window.row_stop:
            raise ValueError(f"rows up to {self._next} were written of {self._window.row_stop}")


def read_plane(folder: Path, name: str) -> np.ndarray:
    """Map a plane of a part.

    Args:
        folder: the part.
        name: the plane.

    Returns:
        Shape (band, row, col), a read-only view of the file.
    """
    mapped: np.ndarray = np.load(folder / f"{name}.npy", mmap_mode="r")
    return mapped.transpose(1, 0, 2)


def join_planes(
    parts: Iterable[tuple[Window, Path]],
    name: str,
    write: Callable[[np.ndarray, int, int], None],
) -> None:
    """Hand a plane of all parts to a raster writer, a block of rows at a time.

    Args:
        parts: each region in output pixels with its part.
        name: the plane.
        write: called with values of shape (band, rows, region width), first row and first column, output pixels.
    """
    for window, folder in parts:
        plane = read_plane(folder, name)
        for first in range(0, window.height, _BLOCK_ROWS):
            rows = np.ascontiguousarray(plane[:, first : first + _BLOCK_ROWS])
            write(rows, window.row + first, window.col)
