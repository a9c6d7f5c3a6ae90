"""What training and scoring read of a prepared data set: windows of the cache, and whole patches with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from affine import Affine

from crops_activesampling.composites import SCALE
from geocore.datasets.cache import kept_array
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.errors import DataError
from geocore.raster.grid import Grid, Window, length_unit_of
from geocore.raster.npy_store import read_entry
from geocore.raster.scene import ArrayReader, Scene
from geocore.tiling.tiles import TileGrid

if TYPE_CHECKING:
    from geocore.tiling.samplers import PatchIndex

MEDIANS: Final = "medians"
"""Layer of the data set."""
CROPS: Final = "crops"
"""Label of the data set."""
NOISE: Final = "noise"
"""Folder of the maps of labels that are known to be wrong, and their name."""


class Windows:
    """Training windows of a split, read from the cache; safe for several threads."""

    def __init__(self, dataset: Dataset, split: str, *, periods: Sequence[int], skip_empty: bool) -> None:
        """Cut the patches of a split into windows, by the size and edge policy that the data set was prepared for.

        Args:
            dataset: prepared.
            split: its name.
            periods: that are read, from 1.
            skip_empty: leave out windows without a labelled pixel.

        Raises:
            DataError: the split is empty, a period does not exist, or no window is left.
        """
        self._dataset, self.samples = dataset, dataset.split(split)
        stored = len(dataset.layers[MEDIANS].times)
        wrong = [period for period in periods if not 1 <= period <= stored]
        if wrong or not periods:
            raise DataError(
                f"{dataset.root}: period {wrong or 'none'}: the data set has 1 to {stored}; give some of these"
            )
        # A model that is given all periods takes them in the order of time, and picks its own.
        self.periods = tuple(periods) if len(periods) < stored else tuple(range(1, stored + 1))
        """Periods that are read, in this order."""
        self._noisy = any("noisy_px" in sample.attributes for sample in self.samples)
        self._indices: list[dict[tuple[int, int], int]] = []
        self.windows: list[list[Window | None]] = []
        """Of each sample of the split, row by row; empty where nothing is labelled."""
        first = 0
        for sample in self.samples:
            places = windows_of(sample, dataset)
            # Numbers count windows that are left out, so that they do not depend on `skip_empty`.
            self._indices.append({(place.row, place.col): first + at for at, place in enumerate(places)})
            first += len(places)
            self.windows.append(list(self._labelled(sample, places) if skip_empty else places))
        if not any(self.windows):
            raise DataError(
                f"{dataset.root}: no window of split {split!r} has a labelled pixel: check the label encoder and the "
                "split"
            )

    def read(self, draw: PatchIndex) -> dict[str, Any]:
        """One training item.

        Args:
            draw: a window of `windows`.

        Returns:
            `inputs`: layer `medians` with `values`, shape (period, band, row, col), float32, DN, 0 where there is none,
            and `valid`, shape (period, 1, row, col), bool: all bands have data.
            `targets`: `crops`, shape (row, col), uint8, 0 where unlabelled.
            `keys`: shape (2,), int64: epoch and index of the draw.
            `index`: shape (), int64: number of the window within the split, the same in every epoch.
            `noisy`, where wrong labels are known: shape (row, col), bool: the label is wrong.
        """
        window = draw.window
        assert window is not None
        sample = self.samples[draw.sample]
        medians, place = mapped(self._dataset, sample, MEDIANS), (..., *window.slices)
        stored = np.stack([medians[period - 1][place] for period in self.periods])
        item = {
            "inputs": {
                MEDIANS: {
                    "values": np.multiply(stored, np.float32(SCALE), dtype=np.float32),
                    "valid": (stored != 0).all(axis=1, keepdims=True),
                }
            },
            "targets": {CROPS: np.array(mapped(self._dataset, sample, "labels")[place])},
            "keys": np.array([draw.epoch, draw.index], np.int64),
            "index": np.array(self._indices[draw.sample][window.row, window.col], np.int64),
        }
        if self._noisy:
            known = "noisy_px" in sample.attributes
            item["noisy"] = (
                np.array(mapped(self._dataset, sample, NOISE)[place]) if known else np.zeros(window.shape, np.bool_)
            )
        return item

    def _labelled(self, sample: Sample, places: Sequence[Window]) -> Iterator[Window]:
        labels = mapped(self._dataset, sample, "labels")
        return (place for place in places if labels[place.slices].any())


class Patches:
    """Whole patches of a split for scoring."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        """Take the samples of a split.

        Raises:
            DataError: there is none.
        """
        self._dataset = dataset
        self.samples = dataset.split(split)

    def scene(self, index: int) -> Scene:
        """A patch with the one layer `medians`, mapped and not read, on its grid of 10 m.

        Raises:
            DataError: the cache lacks it, or it does not fit the data set.
        """
        sample, layer = self.samples[index], self._dataset.layers[MEDIANS]
        path = self._dataset.path(sample.inputs[MEDIANS])
        medians: npt.NDArray[Any] = mapped(self._dataset, sample, MEDIANS)
        if medians.ndim != 4 or medians.shape[:2] != layer.axes:
            raise DataError(f"sample {sample.id!r}: its medians do not fit the data set: prepare the data again")
        grid = grid_of_entry(read_entry(path.parents[1], path.parent.name).facts, *medians.shape[2:])
        if medians.dtype != layer.dtype:
            # Another patch has a DN above 32767, so that all of them count as float32.
            medians = medians.astype(layer.dtype)
        return Scene(sample.id, grid, {MEDIANS: ArrayReader(layer, medians)})

    def labels(self, index: int) -> npt.NDArray[np.uint8]:
        """Classes of a patch, shape (row, col), uint8, 0 where unlabelled.

        Raises:
            DataError: the cache lacks them.
        """
        return np.array(mapped(self._dataset, self.samples[index], "labels"), np.uint8)

    def parcels(self, index: int) -> npt.NDArray[np.uint32]:
        """Numbers of parcels of a patch, shape (row, col), uint32, 0 where there is none.

        Raises:
            DataError: the cache lacks them.
        """
        return np.array(mapped(self._dataset, self.samples[index], "parcels"), np.uint32)


def array_file(sample: Sample, name: str) -> str:
    """File of an array of a patch, relative to the folder of the data set."""
    medians = PurePosixPath(sample.inputs[MEDIANS])
    path = medians if name != NOISE else medians.parents[2] / NOISE / sample.id / name
    return path.with_name(f"{name}.npy").as_posix()


def mapped(dataset: Dataset, sample: Sample, name: str) -> np.memmap[Any, Any]:
    """An array of a patch: `medians`, `counts`, `labels`, `parcels` or `noise`.

    It stays open for the next window as long as others do not need the room.

    Raises:
        DataError: the cache lacks it, or it is not what the data set was prepared with.
    """
    file = array_file(sample, name)
    return kept_array(dataset.path(file), sample.hashes.get(file))


def grid_of_entry(facts: Mapping[str, Any], rows: int, cols: int) -> Grid:
    """The grid of 10 m of a patch, by the facts of its entry in the cache."""
    return Grid(rows, cols, Affine(*facts["transform"]), facts["crs"], length_unit=length_unit_of(facts["crs"]))


def windows_of(sample: Sample, dataset: Dataset) -> list[Window]:
    """Windows that a patch is cut into, row by row; none reaches outside.

    Where the patch is no multiple of the window, the rest is dropped or the last window overlaps the one before, by the
    policy `edge` of the data set.

    Raises:
        DataError: a window is larger than the patch.
    """
    size, edge = int(dataset.protocol["subpatch"] or 0), dataset.protocol["edge"]
    rows, cols = int(sample.attributes["rows"]), int(sample.attributes["cols"])
    if size > min(rows, cols):
        raise DataError(f"subpatch {size}: patch {sample.id} has {rows} x {cols} pixels; lower it to {min(rows, cols)}")
    every = TileGrid(size=size).windows((rows, cols))
    return [place for place in every if edge == "overlap" or (place.row % size == 0 and place.col % size == 0)]
