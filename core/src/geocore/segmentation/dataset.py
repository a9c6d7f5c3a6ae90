"""Images with masks of classes: found in a folder, checked, divided without leaks, and read.

A sample is an image with its mask, or a part of one. Whatever numbers mask files hold, what is read are class indices
in the order of the classes, and 255 where nothing is known: ignored by the mask, or missing in the image.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from geocore.datasets.cache import SceneCache
from geocore.datasets.dataset import Dataset
from geocore.datasets.labels import (
    IGNORED,
    Census,
    LabelCodes,
    check_label,
    check_varied,
    class_codes,
    class_indices,
    open_label,
    target_of,
)
from geocore.datasets.pairing import pair_by_suffix
from geocore.datasets.statistics import Statistics, compute_statistics
from geocore.errors import DataError, SettingsError
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.products import open_scene, scene_bands, scene_hash
from geocore.raster.rescale import common_layer, match_scale
from geocore.raster.scene import BandReader, Layer, Patch, Scene
from geocore.storage.documents import DocumentError, read_text
from geocore.storage.files import sha256_json
from geocore.terminal import progress
from geocore.tiling.overlaps import View, kept_together, view_of
from geocore.tiling.samplers import PatchIndex
from geocore.tiling.splits import map_blocks, split_by_group

logger = logging.getLogger(__name__)

IMAGE: Final = "image"
"""Layer of a sample's scene: the numbers that images hold."""
MASK: Final = "mask"
"""Layer of a sample's scene: class indices."""
SPLITS: Final = ("train", "val", "test")

_STRIP_PX: Final = 1 << 22


class Item(TypedDict):
    """A sample as tensors, under the keys of torchgeo."""

    image: Tensor
    """Shape (band, row, col), float32, numbers as files hold them; NaN where missing."""
    mask: Tensor
    """Shape (row, col), int64: class index; 255 where nothing is known."""
    valid: Tensor
    """Shape (row, col), bool: no band is missing."""


@dataclass(frozen=True, slots=True)
class SegmentationSample:
    """An image with its mask, or a part of one."""

    name: str
    image: Path
    mask: Path
    group: str
    """What must not be torn apart by a split: a scene, an event, a place, a block."""
    grid: Grid
    """Of the image, all of it."""
    window: Window | None = None
    """Pixels of the image that are the sample; None: all."""
    split: str = ""
    """Where a list or a manifest puts it; empty: nowhere."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols), pixels."""
        return self.grid.shape if self.window is None else self.window.shape


class SegmentationDataset(data.Dataset[Item]):
    """Images with masks of classes; made by `from_folder` or `from_manifest`. Any number of threads may read it.

    Files stay open as long as the process can spare them. It is a map-style data set of torch as well.
    """

    def __init__(
        self,
        samples: Sequence[SegmentationSample],
        *,
        root: Path,
        layer: Layer,
        classes: Sequence[str],
        codes: LabelCodes,
        bands: Sequence[str] | None = None,
    ) -> None:
        """Take samples that have been checked; nothing is opened.

        Args:
            samples: at least one.
            root: where they are from, for messages and lists.
            layer: what an image holds; those of another scale are brought to it.
            classes: names in the order of the class indices.
            codes: what the numbers in mask files mean.
            bands: names or numbers of the bands to read of a file; None: all.
        """
        self.samples = tuple(samples)
        self.root = root
        self.layer = layer
        self.classes = tuple(classes)
        self.codes = codes
        self._bands = None if bands is None else list(bands)
        self._scenes = SceneCache(None, reader="geocore")
        self._statistics: Statistics | None = None
        self._pixels: dict[str, int] | None = None
        self._views: list[View] | None = None

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        *,
        classes: Sequence[str] | Mapping[int, str],
        image_suffix: str = "",
        mask_suffix: str = "_mask",
        mask_folder: Path | str | None = None,
        ignore: int | None = IGNORED,
        bands: Sequence[str | int] | str | None = None,
        group: str | None = None,
    ) -> SegmentationDataset:
        r"""Pair images and masks by name: `a.tif` with `a_mask.png`. Every mask is read and checked once.

        Args:
            folder: holds the images, and the masks too unless `mask_folder` is given.
            classes: names, where masks hold 0, 1, 2, ...; or the value of each class in masks -> its name.
            image_suffix: what the name of an image has behind the name that it shares with its mask.
            mask_suffix: what the name of a mask has behind it.
            mask_folder: holds the masks and nothing else.
            ignore: value of pixels in masks that neither train nor score, as what mask files themselves call nodata.
            bands: names of the bands to read, or numbers from 1, in this order; None: all.
            group: regular expression with one group, found in the shared name, that tells which samples belong together
                (`^(\w+?)_`); None: each sample is its own.

        Raises:
            DataError: a file has no partner; a mask does not lie on its image, holds another value, or is no mask; all
                masks hold one class; images differ in their bands.
            SceneError: an image cannot be read.
            SettingsError: the classes or the expression cannot be used.
        """
        root = Path(folder)
        codes, names = class_codes(classes, ignore)
        group_of = _group_of(group)
        pairs = pair_by_suffix(
            root,
            mask_suffix,
            image_suffix=image_suffix,
            label_folder=None if mask_folder is None else Path(mask_folder),
        )
        listed = [_Listed(pair.stem, pair.image, pair.label, group_of(pair.stem)) for pair in pairs]
        return cls._checked(root, listed, names, codes, _band_names(bands))

    @classmethod
    def from_manifest(cls, path: Path | str) -> SegmentationDataset:
        """Take a data set as prepare commands describe it, of one image and one mask of classes a sample.

        Args:
            path: dataset.yaml, or the folder that holds it.

        Raises:
            DataError: it describes something else, or as `from_folder`.
            SceneError: an image cannot be read.
        """
        dataset = Dataset.load(path)
        layers, labels = list(dataset.layers.values()), list(dataset.labels.values())
        dense = len(layers) == len(labels) == 1 and not layers[0].times and len(labels[0].classes) > 1
        if not dense or any(len(sample.inputs) != 1 or len(sample.labels) != 1 for sample in dataset.samples):
            raise DataError(
                f"{path}: describes {len(layers)} layers and {len(labels)} labels of {dataset.task}: only one image of "
                "one date and one mask of classes a sample can be read here; take the commands of that task"
            )
        codes, names = class_codes(labels[0].classes, labels[0].ignore)
        listed = [
            _Listed(
                sample.id,
                dataset.path(next(iter(sample.inputs.values()))),
                dataset.path(next(iter(sample.labels.values()))),
                sample.group,
                sample.window,
                sample.split,
            )
            for sample in dataset.samples
        ]
        wanted = layers[0].bands.names
        held = scene_bands(listed[0].image)
        return cls._checked(dataset.root, listed, names, codes, wanted if set(wanted) <= set(held) else None)

    @classmethod
    def _checked(
        cls,
        root: Path,
        listed: Sequence[_Listed],
        classes: Sequence[str],
        codes: LabelCodes,
        bands: Sequence[str] | None,
    ) -> SegmentationDataset:
        layers: dict[str, Layer] = {}
        samples, present = [], {}
        grids: dict[Path, Grid] = {}
        censuses: dict[Path, Census] = {}
        for entry in progress(listed, "checking masks", delay=1.0):
            if entry.image not in grids or entry.mask not in censuses:
                source = open_scene(entry.image, layer=IMAGE, bands=bands)
                with Scene(entry.name, source.grid, {IMAGE: source}) as scene:
                    censuses[entry.mask] = check_label(entry.mask, entry.image, scene, codes)
                grids[entry.image], layers[str(entry.image)] = source.grid, source.layer
            held = list(censuses[entry.mask].pixels)
            # Refuses what is no class, in the words of every reader of masks.
            class_indices(np.array(held, np.int64), np.ones(len(held), bool), codes, entry.mask)
            present[entry.name] = {value for value in held if value in codes.values}
            grid = grids[entry.image]
            samples.append(
                SegmentationSample(
                    entry.name, entry.image, entry.mask, entry.group, grid, entry.window, split=entry.split
                )
            )
        check_varied(str(root), present, names=False)
        layer = common_layer(layers, remedy="name those to read with bands=")
        return cls(samples, root=root, layer=layer, classes=classes, codes=codes, bands=bands)

    def subset(self, samples: Sequence[SegmentationSample]) -> SegmentationDataset:
        """A data set of other samples, or parts of samples, of the same files."""
        chosen = SegmentationDataset(
            samples, root=self.root, layer=self.layer, classes=self.classes, codes=self.codes, bands=self._bands
        )
        chosen._scenes = self._scenes
        return chosen

    @property
    def bands(self) -> Bands:
        """Bands of an image, in the order in which they are read."""
        return self.layer.bands

    @property
    def channels(self) -> int:
        """Number of bands: the channels that a network takes."""
        return len(self.layer.bands)

    @property
    def groups(self) -> list[str]:
        """Group of each sample."""
        return [sample.group for sample in self.samples]

    @property
    def hash(self) -> str:
        """SHA-256 of what the samples hold and mean, wherever their files lie; reads all of them."""
        contents: dict[Path, str] = {}
        for path in dict.fromkeys(path for sample in self.samples for path in (sample.image, sample.mask)):
            try:
                contents[path] = scene_hash(path)
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}: files of a data set must stay where they are") from error
        return sha256_json(
            {
                "layer": self.layer.to_dict(),
                "bands": self._bands,
                "classes": list(self.classes),
                "codes": dataclasses.asdict(self.codes),
                "samples": [
                    {
                        "name": sample.name,
                        "group": sample.group,
                        "image": contents[sample.image],
                        "mask": contents[sample.mask],
                        "window": None if sample.window is None else dataclasses.astuple(sample.window),
                    }
                    for sample in self.samples
                ],
            }
        )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __repr__(self) -> str:
        """Samples, bands and classes in one line."""
        names = ", ".join(self.bands.names[:6]) + (", ..." if self.channels > 6 else "")
        return (
            f"SegmentationDataset({len(self)} samples in {len(set(self.groups))} groups; {self.channels} bands of "
            f"{self.layer.dtype}: {names}; classes: {', '.join(self.classes)})"
        )

    def __getitem__(self, index: int) -> Item:
        """A sample as tensors.

        Raises:
            IndexError: there is no such sample.
            SceneError: a file cannot be read.
        """
        scene = self.scene(index)
        window = scene.grid.whole
        image, target = self._read(scene, window)
        values = image.values.astype(np.float32)
        values[~np.broadcast_to(image.valid, values.shape)] = np.nan
        return {
            IMAGE: torch.from_numpy(values),
            MASK: torch.from_numpy(target.astype(np.int64)),
            "valid": torch.from_numpy(image.valid.all(axis=0)),
        }

    def scene(self, index: int) -> Scene:
        """A sample, open, as a scene of the layers `image` and `mask`, whose class indices are invalid where unknown.

        Ask for it at each window, and do not close it.

        Raises:
            IndexError: there is no such sample.
            SceneError: a file cannot be read.
        """
        sample, codes = self.samples[index], self.codes
        image = self._scenes.open(sample.image, None, self._open_image)
        label = self._scenes.open(sample.mask, None, partial(open_label, layer=MASK, classes=codes.values))
        sources: dict[str, BandReader] = {IMAGE: image.readers[IMAGE], MASK: _Target(label, sample.mask, codes)}
        grid = image.grid
        if sample.window is not None:
            sources = {name: _Part(source, sample.window) for name, source in sources.items()}
            grid = grid.crop(sample.window)
        return Scene(sample.name, grid, sources)

    def read(self, draw: PatchIndex) -> dict[str, Any]:
        """A window of a sample as an item for `datasets.loader.Batches` and `transforms.augment`.

        Args:
            draw: its window may reach outside the sample.

        Returns:
            `inputs`: layer `image` with `values`, shape (band, row, col), the layer's dtype, anything where missing,
            and `valid`, bool. `targets`: `mask`, shape (row, col), uint8, 255 where nothing is known. `keys`: shape
            (2,), int64: epoch and index of the draw.
        """
        scene = self.scene(draw.sample)
        image, target = self._read(scene, draw.window or scene.grid.whole)
        return {
            "inputs": {IMAGE: image},
            "targets": {MASK: target},
            "keys": np.array([draw.epoch, draw.index], np.int64),
        }

    def target(self, index: int, window: Window) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Class indices of a window of a sample as its mask has them, whatever the image holds there.

        Returns:
            Shape (row, col), uint8; 255 where nothing is known.
        """
        patch = self.scene(index).read_layers(window, [MASK])[MASK]
        return np.where(patch.valid[0], patch.values[0], np.uint8(IGNORED))

    def class_pixels(self) -> dict[str, int]:
        """Pixels of each class in all masks; counted once.

        Raises:
            SceneError: a mask cannot be read.
        """
        if self._pixels is None:
            counts = np.zeros(IGNORED + 1, np.int64)
            for index, sample in enumerate(self.samples):
                rows, cols = sample.shape
                step = max(1, _STRIP_PX // cols)
                for row in range(0, rows, step):
                    target = self.target(index, Window(row, 0, min(step, rows - row), cols))
                    counts += np.bincount(target.ravel(), minlength=IGNORED + 1)
            self._pixels = {name: int(count) for name, count in zip(self.classes, counts, strict=False)}
        return self._pixels

    def statistics(self) -> Statistics:
        """Mean, spread and percentiles of each band over all samples, in the numbers that are read; measured once.

        Raises:
            DataError: a band has no valid pixel.
            SceneError: an image cannot be read.
        """
        if self._statistics is None:
            scenes = (self.scene(index) for index in progress(range(len(self)), "measuring bands", delay=1.0))
            self._statistics = compute_statistics(scenes, [IMAGE])
        return self._statistics

    def views(self) -> list[View]:
        """What each sample shows, by which `tiling.overlaps` finds the same ground and the same pixels; looked at once.

        Raises:
            SceneError: an image cannot be read.
        """
        if self._views is None:
            self._views = [
                view_of(self.samples[index].name, self.scene(index), IMAGE, samples=len(self))
                for index in progress(range(len(self)), "looking for overlaps", delay=1.0)
            ]
        return self._views

    def split(
        self,
        *,
        train: float | None = None,
        val: float | None = None,
        by: Literal["group", "block", "list"] = "group",
        block_m: float | None = None,
        buffer_m: float | None = None,
        seed: int = 0,
    ) -> tuple[SegmentationDataset, SegmentationDataset, SegmentationDataset]:
        """Divide the samples into three data sets, for training, validation and test.

        Args:
            train: share of the samples, or of the pixels of blocks, to train on, 0-1.
            val: share to validate on; what is left is for the test.
            by: `group` keeps groups together, and joins those that show the same ground or the same pixels. `block`
                cuts images into blocks of one lattice on the map over all of them. `list` takes the splits of the
                manifest, or the sample names in train.txt, val.txt and test.txt beside the images, one a line.
            block_m: edge of a block on the map, m.
            buffer_m: unused strip between two blocks, m; None: none.
            seed: chooses among divisions that come equally close to the shares.

        Returns:
            Data sets of at least one sample each.

        Raises:
            DataError: there are too few groups or blocks; an image lies on no map; a list leaves a split empty or names
                what is not there.
            SettingsError: the shares cannot be used, or a block's size is missing.
        """
        if by == "list":
            samples, splits = list(self.samples), self._listed_splits()
        else:
            shares = _shares(train, val)
            if by == "block":
                samples = self._in_blocks(block_m, buffer_m)
                groups, remedy = [sample.group for sample in samples], "take smaller blocks or add scenes"
            elif by == "group":
                samples, remedy = list(self.samples), "add samples, define smaller groups, or split by block"
                groups, notes = kept_together(self.views(), self.groups)
                for note in notes:
                    logger.info("%s", note)
            else:
                raise SettingsError(f"by = {by!r}: must be group, block or list")
            sizes = [math.prod(sample.shape) for sample in samples] if by == "block" else None
            splits = split_by_group(groups, shares, seed, sizes=sizes, remedy=remedy)
        first, second, third = (
            self.subset([sample for sample, given in zip(samples, splits, strict=True) if given == split])
            for split in SPLITS
        )
        return first, second, third

    def _in_blocks(self, block_m: float | None, buffer_m: float | None) -> list[SegmentationSample]:
        if block_m is None:
            raise SettingsError("by = 'block': give the edge of a block on the map in metres, such as block_m=2000")
        parts = [sample.grid if sample.window is None else sample.grid.crop(sample.window) for sample in self.samples]
        blocks = map_blocks([sample.name for sample in self.samples], parts, block_m=block_m, buffer_m=buffer_m or 0.0)
        found = []
        for block in blocks:
            sample, window = self.samples[block.scene], block.window
            if sample.window is not None:
                window = window.shifted(sample.window.row, sample.window.col)
            found.append(dataclasses.replace(sample, name=f"{sample.name}-{block.key}", group=block.key, window=window))
        return found

    def _listed_splits(self) -> list[str]:
        splits = [sample.split for sample in self.samples]
        where = str(self.root)
        if not any(splits):
            names = [sample.name for sample in self.samples]
            listed: dict[str, str] = {}
            for split in SPLITS:
                for name in _lines(self.root / f"{split}.txt"):
                    if name not in names or listed.get(name, split) != split:
                        problem = f"is in {listed[name]}.txt too" if name in listed else "is no sample"
                        raise DataError(
                            f"{self.root / f'{split}.txt'}: {name!r} {problem}: lists name each sample once, such as "
                            f"{names[0]!r}; correct the list"
                        )
                    listed[name] = split
            splits = [listed.get(name, "") for name in names]
        empty = [split for split in SPLITS if split not in splits]
        if empty:
            raise DataError(f"{where}: no sample is listed for {', '.join(empty)}: three splits need a sample each")
        return splits

    def _open_image(self, path: Path) -> Scene:
        source = open_scene(path, layer=IMAGE, bands=self._bands)
        return Scene(path.stem, source.grid, {IMAGE: match_scale(source, self.layer, source.grid, path.name)})

    def _read(self, scene: Scene, window: Window) -> tuple[Patch, np.ndarray[Any, np.dtype[np.uint8]]]:
        patches = scene.read_layers(window, [IMAGE, MASK])
        image, mask = patches[IMAGE], patches[MASK]
        known = mask.valid[0] & image.valid.all(axis=0)
        return image, np.where(known, mask.values[0], np.uint8(IGNORED))


@dataclass(frozen=True, slots=True)
class _Listed:
    """A sample before it is looked at."""

    name: str
    image: Path
    mask: Path
    group: str
    window: Window | None = None
    split: str = ""


class _Target:
    """A mask as class indices, which are invalid where nothing is known."""

    layer: Final = Layer(MASK, Bands.named("class"), "uint8")

    def __init__(self, label: Scene, path: Path, codes: LabelCodes) -> None:
        self.shape = label.grid.shape
        self._label, self._path, self._codes = label, path, codes

    def read(self, window: Window) -> Patch:
        target = target_of(self._label, self._path, self._codes, window)[np.newaxis]
        return Patch(target, target != IGNORED)

    def close(self) -> None:
        """The label is kept by others too."""


class _Part:
    """A part of a layer as a layer of its own."""

    def __init__(self, source: BandReader, window: Window) -> None:
        self.layer = source.layer
        self.shape = window.shape
        self._source, self._window = source, window

    def read(self, window: Window) -> Patch:
        return self._source.read(window.shifted(self._window.row, self._window.col))

    def close(self) -> None:
        """The layer is kept by others too."""


def _band_names(bands: Sequence[str | int] | str | None) -> list[str] | None:
    return None if bands is None else [bands] if isinstance(bands, str) else [str(band) for band in bands]


def _group_of(expression: str | None) -> Callable[[str], str]:
    """The function from the name of a sample to its group."""
    if expression is None:
        return str
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise SettingsError(f"group = {expression!r}: is no regular expression ({error})") from error
    if compiled.groups != 1:
        raise SettingsError(f"group = {expression!r}: must have one pair of parentheses, around what names the group")

    def found(name: str) -> str:
        match = compiled.search(name)
        if match is None or match[1] is None:
            raise DataError(f"{name}: group = {expression!r} finds nothing in this name: every sample needs a group")
        return match[1]

    return found


def _shares(train: float | None, val: float | None) -> dict[str, float]:
    if train is None or val is None or min(train, val) <= 0 or train + val >= 1:
        raise SettingsError(
            f"train = {train}, val = {val}: must be shares above 0 that leave some for the test, such as 0.7 and 0.15"
        )
    return {"train": train, "val": val, "test": 1 - train - val}


def _lines(path: Path) -> list[str]:
    try:
        text = read_text(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: by = 'list' needs one name a line there") from error
    except DocumentError as error:
        raise DataError(f"{path}: {error}: by = 'list' needs one name a line there") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
