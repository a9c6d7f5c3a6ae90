"""Photographs, masks and the data set they make: the only module that knows file names and label codes."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from geocore.datasets.cache import SceneCache
from geocore.datasets.dataset import Dataset, load_prepared
from geocore.datasets.labels import Census, check_mask, check_varied, missing_note, open_label
from geocore.datasets.pairing import RASTER_EXTENSIONS, Pair, pair_by_suffix
from geocore.datasets.sample_data import built_in_sample
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import RunningStatistics, Statistics
from geocore.errors import DataError, SceneError, SettingsError
from geocore.raster.declarations import Declaration, Readings
from geocore.raster.formats import unread_among
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Window
from geocore.raster.rescale import common_layer, match_scale
from geocore.raster.scene import Layer, Patch, Scene, resolved_bands
from geocore.storage.files import sha256_file
from geocore.storage.memory import memory_limit
from geocore.terminal import progress
from geocore.tiling.overlaps import View, kept_together, shared_by_splits, view_of
from geocore.tiling.samplers import PatchIndex
from geocore.tiling.splits import split_by_group
from geocore.training.validation import cannot_choose
from snowpack_sam2.config import TASK, PrepareSettings
from snowpack_sam2.layers import boundaries_of
from snowpack_sam2.sample import __file__ as sample_code
from snowpack_sam2.sample import write_sample

PHOTO: Final = "photo"
"""Layer that holds the photograph."""
MASK: Final = "layers"
"""Label that holds the layer ids."""
BOUNDARY_PX: Final = "boundary_px"
"""Attribute of a sample: labelled pixels on a boundary between layers."""
IGNORED: Final = 255
"""Value of pixels of the boundary target that count for nothing."""
_READ_BYTES: Final = 8
"""Of a pixel that is read with its mask and looked at, at the least."""
NOT_INDEPENDENT: Final = (
    "pits unknown, every photograph counts as its own: photographs of one pit may lie in several splits, "
    "so scores are not independent"
)

Array = npt.NDArray[Any]


def find_pairs(settings: PrepareSettings) -> list[Pair]:
    """Photographs with their masks, from one folder or from its subfolders `images` and `masks`.

    Raises:
        DataError: a photograph or a mask has no partner; all such files are named.
    """
    images, masks = settings.data / "images", settings.data / "masks"
    split = images.is_dir() and masks.is_dir()
    return pair_by_suffix(
        images if split else settings.data,
        settings.mask_suffix,
        image_suffix=settings.image_suffix,
        label_folder=masks if split else None,
    )


def find_photos(inputs: Sequence[Path], *, mask_suffix: str = "_mask") -> list[Path]:
    """Photographs among files and folders; masks that lie beside them do not count.

    Raises:
        DataError: a path does not exist, or two photographs would write to the same products.
    """
    found: dict[str, Path] = {}
    for path in inputs:
        if not path.exists():
            raise DataError(f"{path}: not found: --input takes photographs or folders of them; check the path")
        # Whoever opens what is neither file nor folder says what it is.
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in RASTER_EXTENSIONS) if path.is_dir() else [path]
        photos = [file for file in files if not path.is_dir() or not file.stem.endswith(mask_suffix)]
        if not photos:
            raise DataError(
                f"{path}: no photograph ({', '.join(RASTER_EXTENSIONS)}): check the path"
                f"{unread_among(sorted(path.iterdir()))}"
            )
        for photo in photos:
            if photo.stem in found and found[photo.stem] != photo:
                raise DataError(f"{photo} and {found[photo.stem]} share a name and so their products: rename one")
            found[photo.stem] = photo
    return list(found.values())


def check_memory(name: str, shape: tuple[int, int], pixel_bytes: int) -> None:
    """Refuse a photograph that does not fit into memory, before any is taken: most of what is done needs all of it.

    Args:
        name: of the file.
        shape: its rows and columns.
        pixel_bytes: what a pixel takes at the least.

    Raises:
        SceneError: so it is.
    """
    rows, cols = shape
    taken, limit = rows * cols * pixel_bytes, memory_limit()
    if taken > limit:
        raise SceneError(
            f"{name}: {rows} x {cols} pixels take {taken / 1e9:.3g} GB at once, of {limit / 1e9:.3g} GB of memory: cut "
            "it into walls (gdal_translate -srcwin COL ROW COLS ROWS IN OUT), or take a machine with more"
        )


def open_photo(path: Path, *, layer: Layer | None = None, nodata: float | None = None) -> Scene:
    """Open a photograph as a scene of the one layer `photo`.

    Args:
        path: a TIFF, PNG or JPEG file.
        layer: what a model or a data set expects: its bands are read by name, and its nodata value counts where the
            file states none.
        nodata: value of pixels that show no wall; takes the place of the file's.

    Raises:
        SceneError: the file cannot be read, lacks a band, or does not fit into memory.
    """
    if layer is None:
        return _fitting(path, open_raster(path, layer=PHOTO, nodata=nodata))
    usual = [Declaration.of(band, "training photographs") for band in layer.bands]
    scene = _fitting(path, open_raster(path, layer=PHOTO, bands=layer.bands.names, nodata=nodata, usual=usual))
    with open_raster(path, layer=PHOTO) as whole:
        found = whole.layers[PHOTO].bands
    # A file without band names has numbers instead, and any file has a band 1: it has to have no others.
    if layer.bands.names[0] == "1" and len(found) != len(layer.bands):
        scene.close()
        raise SceneError(
            f"{path}: {len(found)} bands ({', '.join(found.names)}), but {len(layer.bands)} without a name are needed: "
            "save the near-infrared band as a grey photograph"
        )
    try:
        return Scene(scene.name, scene.grid, {PHOTO: match_scale(scene.readers[PHOTO], layer, scene.grid, scene.name)})
    except SceneError:
        scene.close()
        raise


def _fitting(path: Path, scene: Scene) -> Scene:
    try:
        check_memory(str(path), scene.grid.shape, _READ_BYTES)
    except SceneError:
        scene.close()
        raise
    return scene


def describe(settings: PrepareSettings) -> Dataset:
    """The data set in the folder of the photographs: pairs, splits by pit, content hashes, brightness statistics.

    Statistics cover the labelled pixels of the training photographs.

    Raises:
        DataError: unmatched files, a mask of another size or of ignored pixels alone, one that is no mask (a
            photograph, interpolated, in a lossy format), only masks of one layer, bands that differ, or too few pits
            for three splits.
    """
    pairs = find_pairs(settings)
    pits = [_pit_of(pair.stem, settings.pit) for pair in pairs]
    views: list[View] = []
    readings = Readings()
    layers: dict[str, Layer] = {}
    for pair in progress(pairs, "looking at photographs"):
        with open_photo(pair.image, nodata=settings.nodata) as scene:
            layers[pair.image.name] = scene.layers[PHOTO]
            readings.add(pair.image.name, resolved_bands(scene.readers[PHOTO]), scene.notes)
            views.append(view_of(pair.stem, scene, PHOTO, samples=len(pairs)))
    share = settings.split
    shares = {"train": share.train, "val": share.val, "test": 1 - share.train - share.val}
    pits, copies = (pits, []) if share.allow_leaks else kept_together(views, pits)
    own = ", or leave out --pit, which lets photographs of one pit lie in several splits" if settings.pit else ""
    remedy = f"add photographs of other pits, three pits at least{own if len(pairs) >= len(shares) else ''}"
    remedy = f"{copies[0]}; {remedy}" if copies else remedy
    splits = split_by_group(pits, shares, share.seed, remedy=remedy)
    copies += [f"leak: {leak}" for leak in shared_by_splits(views, splits)]
    layer = common_layer(layers, remedy="save all as grey, or all in colour")
    counts: RunningStatistics | None = None
    samples = []
    censuses: dict[str, Census] = {}
    for pair, pit, split in progress(list(zip(pairs, pits, splits, strict=True)), "reading photographs"):
        with open_photo(pair.image, layer=layer, nodata=settings.nodata) as scene:
            census, ids = _checked_mask(pair, scene, settings.ignore)
            censuses[pair.label.name] = census
            labelled = ids.valid if settings.ignore is None else ids.valid & (ids.values != settings.ignore)
            boundaries = boundaries_of(ids.values[0], ignore=settings.ignore, valid=ids.valid[0]) & labelled[0]
            if split == "train":
                counts = counts or RunningStatistics(layer)
                patch = scene.read_layers(scene.grid.whole)[PHOTO]
                counts.update(patch.values, patch.valid & labelled)
        relative = {path: path.relative_to(settings.data).as_posix() for path in (pair.image, pair.label)}
        sample = Sample(
            id=pair.stem,
            group=pit,
            split=split,
            inputs={PHOTO: relative[pair.image]},
            labels={MASK: relative[pair.label]},
            attributes={BOUNDARY_PX: int(boundaries.sum())},
        )
        samples.append(sample.hashed(settings.data))
    assert counts is not None
    ids_of = {name: set(census.pixels) - {settings.ignore} for name, census in censuses.items()}
    mask_notes = check_varied(str(settings.data), ids_of, names=True) + missing_note(censuses)
    return Dataset(
        root=settings.data,
        task=TASK,
        samples=samples,
        layers={PHOTO: layer},
        labels={MASK: LabelSpec(MASK, ignore=settings.ignore)},
        statistics=Statistics({PHOTO: counts.finish()}),
        protocol={
            "split": "by pit" if settings.pit else "by photograph",
            "split_seed": share.seed,
            **({} if settings.nodata is None else {"nodata": settings.nodata}),
        },
        notes=[*readings.lines("photographs"), *mask_notes, *copies, *([] if settings.pit else [NOT_INDEPENDENT])],
    )


def _checked_mask(pair: Pair, photo: Scene, ignore: int | None) -> tuple[Census, Patch]:
    """The ids of a mask, counted and whole."""
    with open_label(pair.label, layer=MASK) as mask:
        if mask.grid.shape != photo.grid.shape:
            raise DataError(
                f"{pair.label}: {mask.grid.height} x {mask.grid.width} px, but {pair.image.name} has "
                f"{photo.grid.height} x {photo.grid.width}: photograph and mask must match pixel by pixel"
            )
        census = check_mask(pair.label, mask, str(pair.image), photo)
        if not set(census.pixels) - {ignore}:
            raise DataError(f"{pair.label}: every pixel is {ignore} (ignore) or nodata: remove the pair or label it")
        return census, mask.read_layers(mask.grid.whole)[MASK]


def _pit_of(stem: str, pattern: str | None) -> str:
    if pattern is None:
        return stem
    try:
        match = re.search(pattern, stem)
    except re.error as error:
        raise SettingsError(f"pit = {pattern!r}: {error}: give a regular expression such as '^(.+)_'") from None
    if match is None or not match.groups():
        raise DataError(f"pit = {pattern!r} finds no group in the name {stem!r}: give a pattern with one group '(...)'")
    return match.group(1)


def no_choice(dataset: Dataset) -> str | None:
    """Why the leading score cannot choose a checkpoint on validation; None where it can.

    Raises:
        DataError: there is nothing to validate on.
    """
    counts = [sample.attributes.get(BOUNDARY_PX) for sample in dataset.split("val")]
    if None in counts:  # an earlier version has not counted them
        return None
    return cannot_choose("val", {"boundary": sum(map(int, counts))}, needed=["boundary"])  # type: ignore[arg-type]


def load_dataset(folder: Path | None) -> Dataset:
    """A prepared data set whose files are what they were, or the built-in sample.

    Args:
        folder: made by `snowpack-prepare`; None: the sample.

    Raises:
        DataError: the folder holds no data set of this task, or a file is missing, has changed or does not fit its
            partner.
    """
    if folder is None:
        return sample_dataset()
    return load_prepared(folder, task=TASK, layer=PHOTO)


def sample_dataset() -> Dataset:
    """The data set of the built-in sample, made on first use and kept in the user's cache.

    Thirty pits of two photographs, prepared by the same functions as real ones: scores need many pits more than many
    photographs of a pit.
    """

    def build(folder: Path) -> None:
        write_sample(folder / "photographs", seed=0, pits=30, photos_per_pit=2, shape=(384, 448))
        describe(PrepareSettings(data=folder / "photographs", out=folder, nodata=0, pit="^(.+)_")).save(folder)

    code = [sha256_file(path) for path in (sample_code, __file__)]
    return Dataset.load(built_in_sample(TASK, code, build))


class Photos:
    """The photographs and masks of one split, read window by window; safe for several threads."""

    def __init__(self, dataset: Dataset, split: str, *, cache: Path | None = None) -> None:
        """Take the samples of a split.

        Args:
            dataset: prepared, its files as they were.
            split: its name.
            cache: folder in which photographs and masks are kept decoded; None: windows are decoded as they are read.

        Raises:
            DataError: the split is empty.
        """
        self.dataset = dataset
        self.samples = dataset.split(split)
        self.layer = dataset.layers[PHOTO]
        self.ignore = dataset.labels[MASK].ignore
        self._scenes = SceneCache(cache, reader="snowpack-sam2")

    def scene(self, index: int, *, chunk: Window | None = None, stored: bool = False) -> Scene:
        """The photograph of a sample, open; arguments as of `SceneCache.open`."""
        sample = self.samples[index]
        file = sample.inputs[PHOTO]
        path, digest = self.dataset.path(file), sample.hashes.get(file)
        nodata: Any = self.dataset.protocol.get("nodata")
        opened = functools.partial(open_photo, layer=self.layer, nodata=nodata)
        rules: dict[str, JsonValue] = {"layer": self.layer.to_dict(), "nodata": nodata}
        return self._scenes.open(path, digest, opened, rules=rules, chunk=chunk, stored=stored)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(row, col) of each photograph, pixels."""
        return [self.scene(index).grid.shape for index in range(len(self.samples))]

    def truth(self, index: int, window: Window | None = None, *, chunk: Window | None = None) -> tuple[Array, Array]:
        """Boundary lines of a photograph or a window of it; `chunk` as of `scene`.

        Returns:
            Lines and labelled pixels, both of shape (row, col), bool. Outside the photograph nothing is labelled.
        """
        file, hashes = self.samples[index].labels[MASK], self.samples[index].hashes
        opened = functools.partial(open_label, layer=MASK)
        scene = self._scenes.open(self.dataset.path(file), hashes.get(file), opened, rules=MASK, chunk=chunk)
        patch = scene.read_layers(window or scene.grid.whole)[MASK]
        ids = patch.values[0]
        labelled = patch.valid[0] if self.ignore is None else patch.valid[0] & (ids != self.ignore)
        lines = boundaries_of(ids, ignore=self.ignore, valid=patch.valid[0])
        return lines & labelled, labelled

    def read(self, draw: PatchIndex) -> dict[str, Any]:
        """One training item.

        Returns:
            `inputs`: layer `photo` with `values`, shape (band, row, col), native dtype, and `valid`, bool.
            `targets`: `boundary`, shape (1, row, col), uint8: 1 boundary line, 0 none, 255 ignored.
            `keys`: shape (2,), int64: epoch and index of the draw.
        """
        assert draw.window is not None
        patch = self.scene(draw.sample, chunk=draw.chunk).read_layers(draw.window)[PHOTO]
        lines, labelled = self.truth(draw.sample, draw.window, chunk=draw.chunk)
        target = np.where(labelled, lines.astype(np.uint8), np.uint8(IGNORED))
        return {
            "inputs": {PHOTO: {"values": patch.values, "valid": patch.valid}},
            "targets": {"boundary": target[np.newaxis]},
            "keys": np.array([draw.epoch, draw.index], np.int64),
        }

    def arrays(self) -> tuple[list[Array], list[Array], list[Array]]:
        """Whole photographs for methods that see one at a time.

        Returns:
            First bands, shape (row, col), native dtype; boundary lines and labelled valid pixels, each of shape
            (row, col), bool.
        """
        values, lines, labelled = [], [], []
        for index in range(len(self.samples)):
            scene = self.scene(index)
            patch = scene.read_layers(scene.grid.whole)[PHOTO]
            true, known = self.truth(index)
            known = known & patch.valid.all(axis=0)
            values.append(patch.values[0])
            lines.append(true & known)
            labelled.append(known)
        return values, lines, labelled
