"""Training tiles: windows cut from areas on a regular grid, chosen by what they hold, read with their objects.

A tile is positive when it shows at least `least_slump_px` pixels of one slump, negative when it shows no slump at all;
one with less than that of a slump is neither, and is left out. All positive tiles are taken, and of the negative ones a
share drawn from a seed. All of it is one pass over the grid: there is no search for tiles that fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from geocore.datasets.dataset import Dataset
from geocore.errors import DataError
from geocore.raster.grid import Window
from slumps_detectron2.areas import IMAGE, Areas, Truth
from slumps_detectron2.labels import UNLABELLED

if TYPE_CHECKING:
    from geocore.tiling.samplers import PatchIndex

Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class CutRule:
    """Where tiles lie and which are taken; as `CutSettings`."""

    tile_px: int
    stride_px: int
    negatives: float
    least_slump_px: int
    least_valid: float
    seed: int = 0
    """Of the draw of negative tiles."""

    @classmethod
    def of(cls, dataset: Dataset) -> CutRule:
        """The rule that a data set was prepared with.

        Raises:
            DataError: its protocol lacks a part.
        """
        protocol = dataset.protocol
        try:
            return cls(
                tile_px=int(protocol["tile_px"] or 0),
                stride_px=int(protocol["stride_px"] or 0),
                negatives=float(protocol["negatives"] or 0),
                least_slump_px=int(protocol["least_slump_px"] or 0),
                least_valid=float(protocol["least_valid"] or 0),
                seed=int(protocol["split_seed"] or 0),
            )
        except (KeyError, ValueError) as error:
            raise DataError(f"{dataset.root}: protocol without a usable {error}: prepare the data again") from error

    def grid(self, area: Window) -> list[list[Window]]:
        """All tiles of an area, a list a row: on a regular grid whose last tile is moved back inside.

        An area smaller than a tile gives one tile that reaches outside.
        """
        size = self.tile_px
        return [
            [Window(row, col, size, size) for col in _starts(area.col, area.width, size, self.stride_px)]
            for row in _starts(area.row, area.height, size, self.stride_px)
        ]

    def enough_labelled(self, labelled: npt.NDArray[np.bool_]) -> bool:
        """Whether enough of a tile's pixels count, of those that lie in its area."""
        return int(np.count_nonzero(labelled)) >= self.least_valid * labelled.size

    def shows(self, ids: Ids) -> bool | None:
        """Whether a tile is positive (True), negative (False) or neither (None)."""
        pixels = ids[ids > 0]
        if not pixels.size:
            return False
        most = int(np.unique(pixels, return_counts=True)[1].max())
        return True if most >= self.least_slump_px else None


def cut(ids: Ids, labelled: npt.NDArray[np.bool_], window: Window, rule: CutRule) -> tuple[list[Window], list[Window]]:
    """Tiles of an area, or of rows of it.

    Args:
        ids: shape of `window`, uint32: 0 background or unknown, else objects.
        labelled: shape of `window`, bool: pixels that count.
        window: pixels of the scene.
        rule: see `CutRule`.

    Returns:
        Positive and negative tiles, pixels of the scene, row by row.
    """
    positive: list[Window] = []
    negative: list[Window] = []
    for tile in (tile for tiles in rule.grid(window) for tile in tiles):
        inside = tile.intersection(window)
        assert inside is not None
        place = inside.shifted(-window.row, -window.col).slices
        if rule.enough_labelled(labelled[place]):
            shown = rule.shows(ids[place])
            if shown is not None:
                (positive if shown else negative).append(tile)
    return positive, negative


def choose(
    positive: Sequence[Sequence[Window]], negative: Sequence[Sequence[Window]], share: float, seed: int
) -> list[list[Window]]:
    """All positive tiles and a drawn share of the negative ones.

    Args:
        positive: positive tiles of each area.
        negative: negative tiles of each area.
        share: negative tiles wanted, over all areas, as a multiple of the positive ones; all where there are fewer.
        seed: of the draw.

    Returns:
        Tiles of each area: the positive ones, then the drawn ones in their order.
    """
    count = sum(len(tiles) for tiles in negative)
    wanted = min(round(share * sum(len(tiles) for tiles in positive)), count)
    drawn = np.zeros(count, bool)
    # Sorting random numbers, since numpy promises the stream of `random` and not that of `choice`.
    drawn[np.argsort(np.random.default_rng(seed).random(count), kind="stable")[:wanted]] = True
    taken = iter(drawn.tolist())
    return [
        [*with_slump, *(tile for tile in without if next(taken))]
        for with_slump, without in zip(positive, negative, strict=True)
    ]


class Tiles:
    """Training tiles of the areas of a split."""

    def __init__(self, dataset: Dataset, split: str, *, cache: Path | None = None) -> None:
        """Cut and choose the tiles, reading a row of them at a time; arguments as of `Areas`.

        Raises:
            DataError: the split is empty, shows no slump, or no tile is left.
        """
        self.areas = Areas(dataset, split, cache=cache)
        self.rule = CutRule.of(dataset)
        positive, negative = [], []
        for index in range(len(self.areas.samples)):
            its_positive, its_negative = [], []
            for strip in self._strips(index):
                truth = self.areas.truth(index, strip)
                with_slump, without = cut(truth.ids, truth.labelled, strip, self.rule)
                its_positive += with_slump
                its_negative += without
            positive.append(its_positive)
            negative.append(its_negative)
        self.windows = choose(positive, negative, self.rule.negatives, self.rule.seed)
        """Tiles of each area, pixels of its scene."""
        if not any(positive):
            raise DataError(self._why_none(split, sum(map(len, negative))))

    def read(self, draw: PatchIndex) -> dict[str, Any]:
        """One training item.

        Pixels beyond the area are neither valid nor labelled: they may belong to another split.

        Returns:
            `inputs`: layer `image` with `values`, shape (band, row, col), native dtype, and `valid`, same shape, bool.
            `objects`: see `objects_of`.
            `mask`: shape (1, row, col), uint8: class value, 0 background, 255 where nothing is known.
            `keys`: shape (2,), int64: epoch and index of the draw.
        """
        assert draw.window is not None
        patch = self.areas.scene(draw.sample).read_layers(draw.window)[IMAGE]
        truth = self.areas.truth(draw.sample, draw.window)
        inside = np.zeros(draw.window.shape, bool)
        shared = draw.window.intersection(self.areas.window(draw.sample))
        assert shared is not None
        inside[shared.shifted(-draw.window.row, -draw.window.col).slices] = True
        mask = (truth.ids > 0).astype(np.uint8) if truth.classes is None else truth.classes
        return {
            "inputs": {
                IMAGE: {"values": patch.values, "valid": np.broadcast_to(patch.valid & inside, patch.values.shape)}
            },
            "objects": objects_of(truth, self.rule.least_slump_px),
            "mask": np.where(truth.labelled, mask, np.uint8(UNLABELLED))[np.newaxis],
            "keys": np.array([draw.epoch, draw.index], np.int64),
        }

    def _strips(self, index: int) -> Iterator[Window]:
        """The part of the area under each row of tiles."""
        area = self.areas.window(index)
        for tiles in self.rule.grid(area):
            shared = Window(tiles[0].row, area.col, self.rule.tile_px, area.width).intersection(area)
            assert shared is not None
            yield shared

    def _why_none(self, split: str, negatives: int) -> str:
        rule, slumps = self.rule, sum(int(sample.attributes["slumps"]) for sample in self.areas.samples)
        where = f"{self.areas.dataset.root}: split {split!r} of {len(self.areas.samples)} areas"
        if not slumps:
            return (
                f"{where} has no slump: a model cannot be trained on background alone; add labelled scenes, try "
                "another --split.seed, or set the split column"
            )
        return (
            f"{where} and {slumps} slumps gives no tile with one ({negatives} without): a tile of {rule.tile_px} px "
            f"needs {rule.least_slump_px} px of a slump and {rule.least_valid:.0%} of its pixels valid and not "
            "ignored; lower --cut.least-slump-px, --cut.least-valid or --cut.size"
        )


def objects_of(truth: Truth, least_px: int = 1) -> dict[str, npt.NDArray[Any]]:
    """The objects of a window as a detector is trained on them, by ascending id.

    Args:
        truth: of the window.
        least_px: objects of fewer pixels are left out.

    Returns:
        `boxes`, shape (n, 4), float32: left, top, right, bottom, pixel edges, right and bottom exclusive.
        `labels`, shape (n,), int64: class value, the most frequent one of the object's pixels.
        `masks`, shape (n, row, col), uint8: 1 on the object.
    """
    present, position = np.unique(truth.ids, return_inverse=True)
    # Counted from 1 in order, with background kept at 0 whether or not there is any.
    numbers = position.reshape(truth.ids.shape) + int(present[0] > 0)
    boxes, labels, masks = [], [], []
    for number, place in enumerate(ndimage.find_objects(numbers), start=1):
        mask = numbers == number
        if np.count_nonzero(mask) < least_px:
            continue
        rows, cols = place
        boxes.append((cols.start, rows.start, cols.stop, rows.stop))
        labels.append(1 if truth.classes is None else int(np.bincount(truth.classes[mask]).argmax()))
        masks.append(mask)
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array(labels, np.int64),
        "masks": np.array(masks, np.uint8).reshape(-1, *truth.ids.shape),
    }


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of the items of `Tiles.read`, as `geocore.transforms.augment` takes it.

    Returns:
        `inputs`: as in the items, each tensor with a batch axis in front. `keys`: shape (batch, 2), int64.
        `targets`: `objects`, a list with the `boxes`, `labels` and `masks` of each item as tensors, and `mask`, shape
        (batch, 1, row, col), uint8.
    """
    import torch

    from geocore.datasets.loader import stack

    return {
        "inputs": stack([item["inputs"] for item in items]),
        "targets": {
            "objects": [{name: torch.from_numpy(array) for name, array in item["objects"].items()} for item in items],
            "mask": stack([item["mask"] for item in items]),
        },
        "keys": stack([item["keys"] for item in items]),
    }


def _starts(first: int, length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    return [first + start for start in (*range(0, last, stride), last)]
