"""Scores of a network on images with masks, and of one map against another: counted pixel by pixel, then computed.

Samples are mapped in tiles that overlap and are blended, as scenes are, and counted row by row as these become
finished, so that a sample may be of any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geocore.datasets.batch import VALID
from geocore.datasets.labels import IGNORED, check_same_grid, class_codes, class_indices, open_label
from geocore.device import DeviceContext
from geocore.errors import DataError
from geocore.inference.blend import OutputHead, OverlapBlender
from geocore.inference.outputs import argmax_labels
from geocore.inference.tiled import predict_tiles
from geocore.metrics.confusion import Confusion
from geocore.metrics.evaluation import aligned, bootstrap_interval, shown_parts, shown_score
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Patch, Scene
from geocore.segmentation.dataset import IMAGE, MASK, SegmentationDataset
from geocore.segmentation.model import AnyModel, DenseModel, as_trained, logits_of
from geocore.terminal import progress as shown
from geocore.terminal import quiet
from geocore.tiling.tiles import Chunk, TileGrid

Counts = npt.NDArray[np.int64]


class LabelMap(Protocol):
    """What `predict` gives."""

    grid: Grid
    """Where it lies."""

    @property
    def labels(self) -> npt.NDArray[Any]:
        """Shape (row, col), uint8: class of each pixel, 255 where there is none."""


RasterLike = Path | str | npt.NDArray[Any] | Scene | LabelMap

_HEAD: Final = "classes"
_STRIDE_PX: Final = 32
"""Networks that halve their input five times take multiples of it."""
_STRIP_PX: Final = 1 << 22


class Scores(Mapping[str, float]):
    """Scores by name, of counts of all samples together; NaN where there is no data.

    `miou`, `accuracy`, `mean_recall`, `kappa`; and of each class `iou_water`, `f1_water`, `precision_water` and
    `recall_water`. Of means of samples' scores there are none: they weigh ten pixels like a full image.
    """

    def __init__(self, counts: Counts, classes: Sequence[str], groups: Sequence[str]) -> None:
        """Compute the scores.

        Args:
            counts: shape (sample, class, class); rows are the truth.
            classes: their names.
            groups: group of each sample.
        """
        self.counts = counts
        """Pixels of each sample, shape (sample, class, class), int64; rows are the truth, columns the prediction."""
        self.classes = tuple(classes)
        self.groups = tuple(groups)
        self._total = Confusion.from_counts(counts.sum(axis=0))
        self._scores = self._total.scores(self.classes)

    @property
    def confusion(self) -> Counts:
        """Pixels of all samples, shape (class, class), int64; rows are the truth, columns the prediction."""
        return self._total.counts

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class: `class`, `iou`, `f1`, `precision`, `recall`, and true `pixels`."""
        return [{"class": name, **scores} for name, scores in self._total.per_class(self.classes).items()]

    def interval(
        self,
        name: str,
        *,
        by: Literal["group", "sample"] = "group",
        level: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> tuple[float, float]:
        """Bootstrap interval of a score: what it would be on other places, as far as those here tell.

        Args:
            name: of the score.
            by: what is drawn with replacement, whole groups or samples.
            level: probability inside the interval.
            resamples: draws.
            seed: of the draws.

        Returns:
            Lower and upper bound; both NaN with fewer than two groups.

        Raises:
            KeyError: there is no such score.
        """
        self[name]
        return bootstrap_interval(
            self.counts.astype(np.float64),
            lambda summed: Confusion.from_counts(summed.astype(np.int64)).scores(self.classes)[name],
            groups=self.groups if by == "group" else None,
            resamples=resamples,
            seed=seed,
            level=level,
        )

    def __getitem__(self, name: str) -> float:
        """A score by its name."""
        try:
            return self._scores[name]
        except KeyError:
            raise KeyError(f"no score {name!r}: there are {', '.join(self._scores)}") from None

    def __iter__(self) -> Iterator[str]:
        """Names of the scores."""
        return iter(self._scores)

    def __len__(self) -> int:
        """Number of scores."""
        return len(self._scores)

    def __repr__(self) -> str:
        """The scores over all classes in one line."""
        overall = ", ".join(f"{name} {shown_score(_known(self[name]))}" for name in ("miou", "accuracy", "kappa"))
        return f"Scores({overall}; {len(self.counts)} samples, {int(self.confusion.sum()):,} pixels)"

    def __str__(self) -> str:
        """A table of the scores over all classes, and one of the classes."""
        overall = [["score", "value"]]
        overall += [[name, shown_score(_known(self[name]))] for name in ("miou", "accuracy", "mean_recall", "kappa")]
        parts = {
            str(row["class"]): {name: _known(value) for name, value in row.items() if name != "class"}
            for row in self.per_class
        }
        columns = ["iou", "f1", "precision", "recall", "pixels"]
        return f"{aligned(overall)}\n\n{aligned(shown_parts('class', parts, columns))}"


def evaluate(
    model: AnyModel,
    data: SegmentationDataset,
    *,
    tile: int = 512,
    overlap: int = 128,
    device: str | torch.device = "auto",
    batch_size: int | None = None,
    progress: bool = True,
) -> Scores:
    """Map every sample with a network and score the map against its mask.

    Pixels whose mask says nothing, and those that are missing in a band, do not count.

    Args:
        model: of `fit`, or any network (batch, band, row, col) -> logits (batch, class, row, col), which is given the
            numbers as they are. A module is moved to the device, and in evaluation mode meanwhile.
        data: its classes are the model's channels.
        tile: edge of the tiles, pixels; less where samples are smaller.
        overlap: pixels that neighbouring tiles share.
        device: auto, cpu, cuda, mps, or one of torch.
        batch_size: tiles per forward; None: 1 on a CPU, 4 elsewhere.
        progress: show how far it is.

    Raises:
        DataError: the model's channels are not the classes, or it was trained on others.
        SceneError: a sample cannot be read.
        SettingsError: the overlap is not smaller than the tile.
    """
    context = DeviceContext.on(device)
    with quiet(not progress), evaluating(model):
        if isinstance(model, nn.Module):
            context.prepare(model)
        return score(model, data, tiles=TileGrid(size=tile, overlap=overlap), context=context, batch_size=batch_size)


def score(
    model: AnyModel,
    data: SegmentationDataset,
    *,
    tiles: TileGrid,
    context: DeviceContext,
    batch_size: int | None = None,
) -> Scores:
    """As `evaluate`, of a model that is in evaluation mode on the context's device."""
    if isinstance(model, DenseModel) and model.classes != data.classes:
        raise DataError(
            f"{data.root}: holds the classes {', '.join(data.classes)}, but the model was trained on "
            f"{', '.join(model.classes)}: give the data set the same ones, in this order"
        )
    counts = [
        _count(model, data, index, tiles=tiles, context=context, batch_size=batch_size)
        for index in shown(range(len(data)), "mapping samples", delay=1.0)
    ]
    return Scores(np.stack(counts), data.classes, data.groups)


def compare(
    prediction: RasterLike,
    truth: RasterLike,
    *,
    classes: Sequence[str] | Mapping[int, str],
    ignore: int | None = IGNORED,
) -> Scores:
    """Score one map of classes against another; pixels that either of them calls nodata or ignores do not count.

    Args:
        prediction: what `predict` made, file, array of shape (row, col), or scene of one band.
        truth: likewise, of the same pixels.
        classes: names, where rasters hold 0, 1, 2, ...; or value -> name.
        ignore: value that counts for nothing in both, beside their own nodata.

    Raises:
        DataError: the rasters do not cover the same pixels, or hold a value that is no class.
        SceneError: a file cannot be read.
        SettingsError: the classes cannot be used.
    """
    codes, names = class_codes(classes, ignore)
    confusion = Confusion(len(names), IGNORED)
    with _opened(prediction, "prediction", codes.values) as found, _opened(truth, "truth", codes.values) as true:
        check_same_grid(found.name, found.grid, true.name, true.grid)
        rows, cols = true.grid.shape
        step = max(1, _STRIP_PX // cols)
        for row in range(0, rows, step):
            window = Window(row, 0, min(step, rows - row), cols)
            predicted, target = (
                class_indices(patch.values[0], patch.valid[0], codes, scene.name)
                for scene in (found, true)
                for patch in scene.read_layers(window).values()
            )
            target[predicted == IGNORED] = IGNORED
            confusion.update(target, np.where(predicted == IGNORED, np.uint8(0), predicted))
    return Scores(confusion.counts[np.newaxis], names, ["all"])


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put a module into evaluation mode for a while."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


def _count(
    model: AnyModel,
    data: SegmentationDataset,
    index: int,
    *,
    tiles: TileGrid,
    context: DeviceContext,
    batch_size: int | None,
) -> Counts:
    """Pixels of a sample by true and predicted class."""
    classes = len(data.classes)
    scene, confusion = data.scene(index), Confusion(classes, IGNORED)
    image = as_trained(model, scene.readers[IMAGE], scene.grid, scene.name)
    scene = Scene(scene.name, scene.grid, {IMAGE: image})
    height, width = scene.grid.shape
    side = -(-max(height, width) // _STRIDE_PX) * _STRIDE_PX
    if side < tiles.size:
        # All of the sample is one tile.
        tiles = TileGrid(size=side, overlap=min(tiles.overlap, side // 2))
    head, chunk = OutputHead(classes, "classes"), Chunk("all", Window(0, 0, height, width))

    def forward(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits = logits_of(model, batch["values"], batch["valid"])
        if logits.ndim != 4 or logits.shape[1] != classes or logits.shape[2:] != batch["values"].shape[2:]:
            raise DataError(
                f"the model gives {tuple(logits.shape)} for {tuple(batch['values'].shape)}: it must give one channel "
                f"of logits for each of the {classes} classes {', '.join(data.classes)}, at each pixel"
            )
        return {_HEAD: head.activate(logits), VALID: batch["valid"].all(1, keepdim=True)}

    def on_rows(row: int, blended: Mapping[str, Tensor]) -> None:
        found = argmax_labels(blended[_HEAD]).cpu().numpy()
        target = data.target(index, Window(row, 0, len(found), width))
        target[~blended[VALID][0].cpu().numpy()] = IGNORED
        confusion.update(target, found)

    def read(opened: Scene, window: Window) -> Patch:
        return opened.read_layers(window, [IMAGE])[IMAGE]

    blender = OverlapBlender(chunk, tiles, scene.grid.shape, {_HEAD: classes}, on_rows=on_rows)
    predict_tiles(forward, scene, chunk, tiles, blender, read=read, context=context, batch_size=batch_size)
    return confusion.counts


@contextmanager
def _opened(raster: RasterLike, name: str, classes: Sequence[int]) -> Iterator[Scene]:
    """A map of classes as a scene of one band of whole numbers."""
    if isinstance(raster, Scene):
        layer = next(iter(raster.layers.values()))
        if len(raster.layers) != 1 or layer.axes != (1,) or np.dtype(layer.dtype).kind not in "bui":
            raise DataError(f"{raster.name}: is no scene of one band of whole numbers, as a map of classes is")
        yield raster
    elif isinstance(raster, np.ndarray):
        with closing(_array_scene(raster, name)) as scene:
            yield scene
    elif not isinstance(raster, Path | str):
        labels = ArrayReader(Layer(MASK, Bands.named("class", nodata=IGNORED), "uint8"), raster.labels)
        yield Scene(name, raster.grid, {MASK: labels})
    else:
        with open_label(Path(raster), layer=MASK, classes=classes) as scene:
            yield scene


def _array_scene(array: npt.NDArray[Any], name: str) -> Scene:
    values = array[0] if array.ndim == 3 and len(array) == 1 else array
    valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
    if values.ndim != 2 or values.dtype.kind not in "buif" or (values[valid] != np.rint(values[valid])).any():
        raise DataError(
            f"{name}: is {values.dtype} of shape {array.shape}: a map of classes is whole numbers of shape (row, col)"
        )
    whole = np.where(valid, values, 0).astype(np.int64)
    source = ArrayReader(Layer(MASK, Bands.named("class"), "int64"), whole, valid)
    return Scene(name, Grid(*values.shape), {MASK: source})


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
