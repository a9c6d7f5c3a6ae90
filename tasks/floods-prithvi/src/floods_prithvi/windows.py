"""What training and scoring read of a prepared data set: windows of its chips, and whole chips with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from floods_prithvi.chip_reader import IMAGE, MASK, Chart, open_chip
from floods_prithvi.file_patterns import FORMATS
from geocore.datasets.cache import SceneCache
from geocore.datasets.dataset import Dataset
from geocore.datasets.labels import IGNORED, LabelCodes, open_label, target_of
from geocore.datasets.schema import Sample, Scalar
from geocore.errors import DataError
from geocore.raster.bands import Bands
from geocore.raster.declarations import COMMAND_LINE, Declaration
from geocore.raster.grid import Window
from geocore.raster.scene import Layer, Patch, Scene
from geocore.terminal import progress
from geocore.tiling.samplers import ClassCounts, count_classes, window_sampler

if TYPE_CHECKING:
    from floods_prithvi.config import TrainSettings
    from geocore.tiling.samplers import PatchIndex, Sampler

SEPARATOR: Final = ", "
"""Between the names of bands and classes where a data set lists them."""


_RULES: Final = ("format", "file_bands", "scale", "offset", "nodata", "frames")


class Reader:
    """How the files of a data set are to be understood."""

    def __init__(self, layer: Layer, protocol: Mapping[str, Scalar | None]) -> None:
        self.layer = layer
        self.rules: dict[str, JsonValue] = {key: protocol.get(key) for key in _RULES}
        """What decides which reflectance a file holds."""
        try:
            chosen = protocol["file_bands"]
            self._bands = None if chosen is None else str(chosen).split(SEPARATOR)
            self._given, self._usual = stored_of(protocol)
            self.codes = LabelCodes(_numbers(protocol["label_values"]), _numbers(protocol["ignored_values"]))
        except (KeyError, ValueError, StopIteration) as error:
            raise DataError(
                f"the data set does not say how its files are to be read ({error}): prepare the data again"
            ) from error

    def open(self, path: Path) -> Scene:
        """A chip as reflectance."""
        return open_chip(path, self.layer, bands=self._bands, given=self._given, usual=self._usual)


class Chips:
    """The chips of one split, whole: for scores and maps; safe for several threads."""

    def __init__(self, dataset: Dataset, split: str, *, cache: Path | None = None) -> None:
        """Take the samples of a split.

        Args:
            dataset: prepared, its files as they were.
            split: its name.
            cache: folder in which images and labels are kept decoded; None: their files are read each time.

        Raises:
            DataError: the split is empty.
        """
        self.samples: Sequence[Sample] = dataset.split(split)
        self._dataset = dataset
        self._reader = Reader(dataset.layers[IMAGE], dataset.protocol)
        self._scenes = SceneCache(cache, reader="floods-prithvi")

    def scene(self, index: int, *, chunk: Window | None = None, stored: bool = False) -> Scene:
        """A chip, open, as reflectance; arguments as of `SceneCache.open`."""
        sample, reader = self.samples[index], self._reader
        file = sample.inputs[IMAGE]
        path, digest = self._dataset.path(file), sample.hashes.get(file)
        return self._scenes.open(path, digest, reader.open, rules=reader.rules, chunk=chunk, stored=stored)

    def target(self, index: int, window: Window | None = None) -> Chart:
        """Class indices of a chip or a window of it, shape (row, col), uint8.

        They are 255 where not labelled, or invalid at a date.
        """
        scene = self.scene(index)
        window = window or scene.grid.whole
        return self._labelled(index, window, scene.read_layers(window)[IMAGE].valid)

    def coordinates(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Dates and place of a chip, NaN where unknown.

        Returns:
            Shape (date, 2), float32: year, and day of the year from 0; shape (2,), float32: latitude and longitude of
            the centre, degrees.
        """
        attributes, frames = self.samples[index].attributes, max(1, len(self._reader.layer.times))
        dates = np.full((frames, 2), np.nan, np.float32)
        words = str(attributes.get("date", "")).split()
        if len(words) == frames:
            days = np.array(words, "datetime64[D]")
            years = days.astype("datetime64[Y]")
            dates[:, 0], dates[:, 1] = years.astype(int) + 1970, (days - years).astype(int)
        place = [float(attributes.get(key, np.nan)) for key in ("lat", "lon")]
        return dates, np.array(place, np.float32)

    def _labelled(
        self, index: int, window: Window, valid: npt.NDArray[np.bool_], *, chunk: Window | None = None
    ) -> Chart:
        sample = self.samples[index]
        path, digest = self._dataset.path(sample.labels[MASK]), sample.hashes.get(sample.labels[MASK])
        codes = self._reader.codes
        opened = partial(open_label, layer=MASK, classes=codes.values)
        label = self._scenes.open(path, digest, opened, rules=[MASK, *codes.values], chunk=chunk)
        target = target_of(label, path, codes, window)
        target[~valid.reshape(-1, *window.shape).all(axis=0)] = IGNORED
        return target


class Windows(Chips):
    """Training windows of a split: of its chips that have a labelled pixel; safe for several threads."""

    def __init__(self, dataset: Dataset, split: str, *, cache: Path | None = None) -> None:
        """Take the samples that have something to learn from; arguments as of `Chips`.

        Raises:
            DataError: the split is empty, or nothing in it is labelled.
        """
        super().__init__(dataset, split, cache=cache)
        everything = self.samples
        self.samples = [sample for sample in everything if any(pixels_of(sample))]
        if not self.samples:
            raise DataError(
                f"{dataset.root}: no pixel is labelled in the {len(everything)} chips of split {split}: check the "
                "labels and --ignore, or prepare other chips"
            )

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(row, col) of each chip, pixels."""
        return [(int(s.attributes["rows"]), int(s.attributes["cols"])) for s in self.samples]

    def sampler(self, settings: TrainSettings, *, draws: int, batch_size: int) -> Sampler:
        """What a run draws of these windows.

        Args:
            settings: of the run.
            draws: in an epoch.
            batch_size: as given to `Batches`.
        """
        return window_sampler(
            settings.sampling,
            self.shapes,
            settings.tiling.size,
            draws,
            seed=settings.training.seed,
            batch_size=batch_size,
            overlap=settings.tiling.overlap,
            stored=partial(self.scene, stored=True),
            counts=self._class_counts if settings.sampling.balance == "classes" else None,
        )

    def read(self, draw: PatchIndex) -> dict[str, Any]:
        """One training item.

        Args:
            draw: its window may reach outside the chip.

        Returns:
            `inputs`: layer `image` with `values`, shape (band, row, col), or (date, band, row, col) with several dates,
            float32, reflectance, anything where invalid, and `valid`, bool, with one band.
            `targets`: `mask`, shape (row, col), uint8, 255 where it does not count.
            `dates` and `places`: as `coordinates`.
            `keys`: shape (2,), int64: epoch and index of the draw.
        """
        assert draw.window is not None
        patch = self.scene(draw.sample, chunk=draw.chunk).read_layers(draw.window)[IMAGE]
        dates, places = self.coordinates(draw.sample)
        return {
            "inputs": {IMAGE: {"values": patch.values, "valid": patch.valid}},
            "targets": {MASK: self._labelled(draw.sample, draw.window, patch.valid, chunk=draw.chunk)},
            "dates": dates,
            "places": places,
            "keys": np.array([draw.epoch, draw.index], np.int64),
        }

    def _class_counts(self, cell_px: int) -> list[ClassCounts]:
        """Pixels of each class index that train, in cells of each chip."""
        classes = range(len(self._reader.codes.values))
        counted = progress(range(len(self.samples)), "counting classes")
        return [count_classes(_Target(self, index), classes, cell_px=cell_px) for index in counted]


class _Target:
    """What is learnt of a chip, as a layer."""

    layer: Final = Layer(MASK, Bands.named("1"), "uint8")

    def __init__(self, chips: Windows, index: int) -> None:
        self.shape = chips.shapes[index]
        self._chips, self._index = chips, index

    def read(self, window: Window) -> Patch:
        target = self._chips.target(self._index, window)[np.newaxis]
        return Patch(target, target != IGNORED)

    def close(self) -> None:
        """Nothing to let go of."""


def stored_of(protocol: Mapping[str, Scalar | None]) -> tuple[Declaration, Declaration]:
    """How the files of a data set hold reflectance: what was given when it was prepared, and what its format says.

    Raises:
        KeyError, ValueError, StopIteration: the data set does not say.
    """
    nodata, scale, offset = (
        None if protocol[key] is None else float(protocol[key] or 0) for key in ("nodata", "scale", "offset")
    )
    name = str(protocol["format"])
    form = next(form for key, form in FORMATS.items() if key == name)
    usual = Declaration(form.nodata, form.scale, 0.0, by=f"format {name}")
    return Declaration(nodata, scale, offset, by=COMMAND_LINE), usual


def pixels_of(sample: Sample) -> Iterator[int]:
    """Pixels of each class that count."""
    return (int(value) for key, value in sample.attributes.items() if key.startswith("class_"))


def _numbers(text: Scalar | None) -> tuple[int, ...]:
    return tuple(map(int, str("" if text is None else text).split()))
