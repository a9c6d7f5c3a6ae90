"""Areas: the scenes of a data set, or blocks of them, with what is true there; read window by window."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from geocore.datasets.cache import SceneCache
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.errors import DataError, SceneError
from geocore.raster.declarations import COMMAND_LINE, Declaration
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Window
from geocore.raster.masks import MaskRule
from geocore.raster.paths import Location, redacted
from geocore.raster.products import open_scene, scene_bands, scene_name
from geocore.raster.rescale import match_scale
from geocore.raster.scene import Layer, Scene
from slumps_detectron2.labels import IGNORED, UNLABELLED

IMAGE: Final = "image"
"""Layer of a scene."""
INSTANCES: Final = "instances"
"""Label that holds ids."""
CLASSES: Final = "classes"
"""Label that holds class values, where there are several or the only one is not 1."""
EXPERT: Final = "expert_"
"""What labels with the ids of one expert begin with."""

logger = logging.getLogger(__name__)


def open_area(
    path: Location,
    layer: Layer | None = None,
    *,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    scale: float | None = None,
    offset: float | None = None,
    mask: MaskRule | None = None,
) -> Scene:
    """Open a GeoTIFF or a granule of Sentinel-2 or HLS as a scene of the one layer `image`.

    Args:
        path: the file, its address, or a granule as `geocore.raster.products.granule_of` knows it.
        layer: what a data set or a model expects: its bands are read by name, in its order, and brought to its numbers;
            its nodata values count where the file states none.
        bands: names or numbers, from 1, of the bands to read, in this order; with `layer`, those that stand for its
            bands. None: all, or the layer's by name.
        nodata: takes the place of the file's nodata value.
        scale: physical value of one stored unit; None: as the scene says, else as the layer.
        offset: physical value of a stored zero; None: as for `scale`.
        mask: with `layer`, pixels that a mask band of the scene makes invalid.

    Raises:
        SceneError: the file cannot be read or lacks a band, bands without names are not as many as the layer's, or the
            scene has an offset and the layer does not say what its numbers mean.
    """
    name = scene_name(path)
    if layer is None:
        given = Declaration(nodata, scale, offset, by=COMMAND_LINE)
        own = open_scene(path, layer=IMAGE, bands=_named(path, bands), given=given)
        return Scene(name, own.grid, {IMAGE: own})
    if bands is None:
        bands = layer.bands.names
        _check_numbered(path, layer)
    elif len(bands) != len(layer.bands):
        raise SceneError(
            f"{redacted(path)}: {len(bands)} bands are given ({', '.join(bands)}), but {len(layer.bands)} are needed "
            f"({', '.join(layer.bands.names)}): give one for each, in this order"
        )
    given = Declaration(nodata, by=COMMAND_LINE)
    usual = [Declaration.of(band, "training data") for band in layer.bands]
    source = open_scene(path, layer=IMAGE, bands=bands, given=given, usual=usual, mask=mask)
    # The bands of an explicit map stand for the layer's.
    image = match_scale(source, layer, source.grid, name, scale=scale, offset=offset)
    return Scene(name, source.grid, {IMAGE: image})


def _named(path: Location, bands: Sequence[str] | None) -> list[str] | None:
    """Numbers replaced by the names in the file, so that another file may hold the bands in another order."""
    if bands is None:
        return None
    names = scene_bands(path, alpha=True)
    return [
        names[int(band) - 1] if band not in names and band.isdecimal() and 1 <= int(band) <= len(names) else band
        for band in bands
    ]


def _check_numbered(path: Location, layer: Layer) -> None:
    """Numbers tell nothing of a band, and any file has a band 1: the file has to have no others, but for alpha."""
    if not all(name.isdecimal() for name in layer.bands.names):
        return
    found = len(scene_bands(path))
    if len(layer.bands) not in (found, len(scene_bands(path, alpha=True))):
        raise SceneError(
            f"{redacted(path)}: {found} bands, but {len(layer.bands)} without names are needed: say which ones with "
            "--bands"
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true in a window."""

    ids: npt.NDArray[np.uint32]
    """Shape (row, col), uint32: object, 0 where there is none or nothing is known."""
    classes: npt.NDArray[np.uint8] | None
    """Shape (row, col), uint8: class value, 0 as in `ids`; None where every object has class 1."""
    labelled: npt.NDArray[np.bool_]
    """Shape (row, col), bool: not ignored, within the area, and the scene valid in all of its bands."""


class Areas:
    """The areas of one split; files are kept open, reading is safe for several threads."""

    def __init__(self, dataset: Dataset, split: str, *, cache: Path | None = None) -> None:
        """Take the samples of a split.

        Args:
            dataset: prepared, its files as they were.
            split: its name.
            cache: folder in which scenes and labels are kept decoded; None: windows are decoded as they are read.

        Raises:
            DataError: the split is empty.
        """
        self.dataset = dataset
        self.samples: list[Sample] = dataset.split(split)
        self.layer = dataset.layers[IMAGE]
        self._given: dict[str, Any] = {key: dataset.protocol.get(key) for key in ("nodata", "scale", "offset")}
        self._scenes = SceneCache(cache, reader="slumps-detectron2")

    @property
    def experts(self) -> list[str]:
        """Names of the labels of experts that every area has."""
        common = set.intersection(*(set(sample.labels) for sample in self.samples))
        return sorted(name for name in common if name.startswith(EXPERT))

    def scene(self, index: int) -> Scene:
        """The scene that an area lies in."""

        def opened(path: Path) -> Scene:
            # Numbers of bands are those of the data set's own files.
            return open_area(path, self.layer, bands=self.layer.bands.names, **self._given)

        rules: dict[str, JsonValue] = {"layer": self.layer.to_dict(), "given": self._given}
        return self._open(index, self.samples[index].inputs[IMAGE], opened, rules=rules)

    def window(self, index: int) -> Window:
        """Pixels of the scene that belong to an area."""
        window = self.samples[index].window
        if window is None:
            raise DataError(
                f"sample {self.samples[index].id!r}: attributes lack whole numbers row, col, height and width; "
                "prepare the data again"
            )
        return window

    def truth(self, index: int, window: Window | None = None) -> Truth:
        """What is true in an area.

        Args:
            index: of the area.
            window: pixels of the scene; what lies outside the area is not labelled. None: the area.
        """
        ids: npt.NDArray[np.uint32] = self._read(index, INSTANCES, window)
        labelled = ids != IGNORED
        ids[~labelled] = 0
        classes = None
        if CLASSES in self.samples[index].labels:
            classes = self._read(index, CLASSES, window)
            classes[(ids == 0) | (classes == UNLABELLED)] = 0
        return Truth(ids, classes, labelled)

    def expert(self, index: int, name: str) -> npt.NDArray[np.uint32]:
        """Ids of the objects that one expert drew in an area, shape (row, col), uint32; 0 elsewhere."""
        ids: npt.NDArray[np.uint32] = self._read(index, name, None)
        ids[ids == IGNORED] = 0
        return ids

    def _open(self, index: int, file: str, opened: Callable[[Path], Scene], *, rules: JsonValue) -> Scene:
        """A file of a sample, open."""
        return self._scenes.open(self.dataset.path(file), self.samples[index].hashes.get(file), opened, rules=rules)

    def _read(self, index: int, label: str, window: Window | None) -> npt.NDArray[Any]:
        """Values of a label; ignored outside the area."""
        file = self.samples[index].labels[label]
        scene = self._open(index, file, lambda path: open_raster(path, layer=label, codes=True), rules=label)
        area = self.window(index)
        window = window or area
        inside = window.intersection(area)
        if inside == window:
            whole: npt.NDArray[Any] = scene.read_layers(window)[label].values[0]
            return whole
        values = np.full(window.shape, UNLABELLED if label == CLASSES else IGNORED, scene.layers[label].dtype)
        if inside is not None:
            place = inside.shifted(-window.row, -window.col)
            values[place.slices] = scene.read_layers(inside)[label].values[0]
        return values
