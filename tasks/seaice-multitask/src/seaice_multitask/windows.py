"""What training and scoring read of a prepared data set: windows of the cache, and whole scenes with their charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geocore.datasets.cache import kept_array
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.errors import DataError
from geocore.raster.grid import Grid, Window
from geocore.raster.npy_store import is_whole, map_array
from geocore.raster.scene import ArrayReader, Scene
from seaice_multitask.charts import MASKED
from seaice_multitask.labels import read_charts
from seaice_multitask.resampling import PLANES

if TYPE_CHECKING:
    from geocore.tiling.samplers import PatchIndex

Chart = npt.NDArray[np.uint8]


class Windows:
    """Training windows of a split, read from the cache; safe for several threads."""

    def __init__(self, dataset: Dataset, split: str, outputs: Sequence[str]) -> None:
        """Take the scenes in which one of the outputs at least is charted somewhere.

        Args:
            dataset: prepared.
            split: its name.
            outputs: names of the charts wanted.

        Raises:
            DataError: the split is empty, nothing in it is charted, or a chart does not exist.
        """
        _check_outputs(dataset, outputs)
        samples = dataset.split(split)
        self.samples = [s for s in samples if any(s.attributes[f"{name}_px"] for name in outputs)]
        if not self.samples:
            raise DataError(
                f"{dataset.root}: {', '.join(outputs)}: nothing is charted in the {len(samples)} scenes of split "
                f"{split}; prepare scenes with charts"
            )
        self._dataset, self._outputs = dataset, tuple(outputs)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(row, col) of each scene, working pixels."""
        return [self._array(sample, PLANES).shape[1:] for sample in self.samples]

    def read(self, draw: PatchIndex) -> dict[str, Any]:
        """One training item.

        Args:
            draw: its window may reach outside the scene.

        Returns:
            `inputs`: layer `planes` with `values`, shape (band, row, col), float32, standardised, NaN where invalid,
            and `valid`, bool, of the same shape.
            `targets`: for each output its chart, shape (row, col), uint8, 255 where masked.
            `keys`: shape (2,), int64: epoch and index of the draw.
        """
        assert draw.window is not None
        sample = self.samples[draw.sample]
        values = _cut(self._array(sample, PLANES), draw.window, np.nan)
        return {
            "inputs": {PLANES: {"values": values, "valid": np.isfinite(values)}},
            "targets": {name: _cut(self._array(sample, name), draw.window, MASKED) for name in self._outputs},
            "keys": np.array([draw.epoch, draw.index], np.int64),
        }

    def _array(self, sample: Sample, name: str) -> np.memmap[Any, Any]:
        file = array_file(sample, name)
        return kept_array(self._dataset.path(file), sample.hashes.get(file))


class Scenes:
    """Whole scenes of a split for scoring: planes from the cache, charts at 80 m from the scenes' own files."""

    def __init__(self, dataset: Dataset, split: str, outputs: Sequence[str]) -> None:
        """Take the samples of a split.

        Args:
            dataset: prepared.
            split: its name.
            outputs: names of the charts wanted.

        Raises:
            DataError: the split is empty, or a chart does not exist.
        """
        _check_outputs(dataset, outputs)
        self.samples = dataset.split(split)
        self.downscale = int(dataset.protocol["downscale"] or 0)
        """80 m pixels per working pixel along an axis."""
        self._dataset, self._outputs = dataset, tuple(outputs)

    def scene(self, index: int) -> Scene:
        """A scene on the working grid with the one layer `planes`, mapped and not read.

        Raises:
            DataError: the cache lacks it, or it is not what the data set was prepared with.
        """
        sample = self.samples[index]
        file = sample.inputs[PLANES]
        mapped = map_array(self._dataset.path(file), sample.hashes.get(file))
        layer = self._dataset.layers[PLANES]
        if mapped.ndim != 3 or mapped.shape[0] != len(layer.bands) or mapped.dtype != layer.dtype:
            raise DataError(f"sample {sample.id!r}: its planes do not fit the data set: prepare the data again")
        return Scene(sample.id, Grid(*mapped.shape[1:]), {PLANES: ArrayReader(layer, mapped)})

    def charts(self, index: int) -> dict[str, Chart]:
        """Charts of a scene at 80 m, as its file has them, by output; each of shape (row, col), uint8.

        Raises:
            DataError: the file cannot be read, lacks a chart, or is not what the data set was prepared with.
        """
        sample = self.samples[index]
        files = {sample.labels[name] for name in self._outputs}
        charts = {file: read_charts(self._checked(file, sample.hashes.get(file))) for file in files}
        return {name: charts[sample.labels[name]][name] for name in self._outputs}

    def _checked(self, file: str, digest: str | None) -> Path:
        """Where a scene's file lies, once it is known to be what it was; read as a whole by the first that asks."""
        path = self._dataset.path(file)
        try:
            if digest is None or is_whole(path, digest):
                return path
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}: get the scene again") from error
        raise DataError(
            f"{path}: is not what the data set was prepared with: get the scene again, or prepare the data again in "
            "another folder"
        )


def array_file(sample: Sample, name: str) -> str:
    """File of an array in the cache, `planes` or a chart, relative to the folder of the data set."""
    return PurePosixPath(sample.inputs[PLANES]).with_name(f"{name}.npy").as_posix()


def _check_outputs(dataset: Dataset, outputs: Sequence[str]) -> None:
    missing = [name for name in outputs if name not in dataset.labels]
    if missing:
        raise DataError(
            f"{dataset.root}: has no chart {', '.join(missing)}: its charts are {', '.join(dataset.labels)}; "
            "name outputs after these"
        )


def _cut(array: npt.NDArray[Any], window: Window, outside: float) -> npt.NDArray[Any]:
    """Copy a window out of the last two axes; what lies beyond them is `outside`."""
    inside = window.intersection(Window(0, 0, array.shape[-2], array.shape[-1]))
    if inside == window:
        return np.array(array[(..., *window.slices)])
    part = np.full((*array.shape[:-2], *window.shape), outside, array.dtype)
    if inside is not None:
        part[(..., *inside.shifted(-window.row, -window.col).slices)] = array[(..., *inside.slices)]
    return part
