"""Samplers: which window of which sample is drawn when.

The draws of an epoch are a pure function of (seed, epoch, index): whoever asks again gets the same.

A rare class is met more often when windows that show it are drawn more often. The pixels of each class are counted
once, exactly, in cells of a coarse lattice; from the counts follows a density of window positions that is constant
within a cell.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geocore.errors import DataError, SettingsError
from geocore.raster.block_cache import POOL_BYTES, chunk_for
from geocore.raster.grid import Window
from geocore.raster.scene import BandReader, Scene
from geocore.settings import SamplingSettings
from geocore.tiling.tiles import TileGrid

logger = logging.getLogger(__name__)

_CHUNK_PX = 1 << 22
"""Read at once; labels made of images need some hundred bytes for each."""


@dataclass(frozen=True, slots=True)
class Density:
    """How likely the windows of one sample are to be drawn, by the cell that holds their first row and column."""

    values: NDArray[np.float64]
    """Shape (rows, cols) of the lattice: relative chance of each single position within a cell, 0 or more; comparable
    between the samples of a sampler."""
    cell_px: int
    """Edge of a cell of the lattice, reference pixels."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.cell_px < 1 or not (np.isfinite(self.values) & (self.values >= 0)).all():
            raise ValueError(f"density of shape {self.values.shape}, cells of {self.cell_px}: needs finite values >= 0")


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Pixels of each class of one sample, in cells of a lattice that starts at its first pixel."""

    counts: Mapping[int, NDArray[np.int64]]
    """Class -> pixels in each cell, shape (rows, cols) of the lattice; exact."""
    cell_px: int
    """Edge of a cell, label pixels; the last row and column of cells may reach outside."""
    shape: tuple[int, int]
    """(rows, cols) of the sample, label pixels."""


def count_classes(labels: BandReader, classes: Sequence[int], *, cell_px: int = 64) -> ClassCounts:
    """Count the valid pixels of some classes in every cell, in one pass over a label layer.

    Args:
        labels: one band of integers, without times.
        classes: values to count; all others, such as an ignored one, count for nothing.
        cell_px: edge of a cell, label pixels.

    Raises:
        DataError: the layer has several bands or is not of integers.
        SceneError: the file cannot be read.
    """
    layer, (rows, cols) = labels.layer, labels.shape
    if layer.axes != (1,) or np.dtype(layer.dtype).kind not in "bui":
        raise DataError(
            f"layer {layer.name!r} has {layer.axes} planes of {layer.dtype}: class labels are one band of integers; "
            "name the band that holds the classes"
        )
    known = np.unique(np.array(classes, np.int64))
    lattice = (-(-rows // cell_px), -(-cols // cell_px))
    counts = np.zeros((*lattice, len(known) + 1), np.int64)
    # Whole rows of cells, so that each cell is finished by one chunk.
    step = max(1, _CHUNK_PX // (cols * cell_px)) * cell_px
    cell_of_col = np.arange(cols) // cell_px
    for row in range(0, rows, step):
        patch = labels.read(Window(row, 0, min(step, rows - row), cols))
        values = patch.values[0].astype(np.int64)
        place = np.minimum(np.searchsorted(known, values), len(known) - 1)
        place[(known[place] != values) | ~patch.valid[0]] = len(known)
        for first in range(0, values.shape[0], cell_px):
            codes = place[first : first + cell_px] + cell_of_col * (len(known) + 1)
            found = np.bincount(codes.ravel(), minlength=lattice[1] * (len(known) + 1))
            counts[(row + first) // cell_px] = found.reshape(lattice[1], -1)
    return ClassCounts({int(value): counts[..., at] for at, value in enumerate(known)}, cell_px, (rows, cols))


def class_densities(
    samples: Sequence[ClassCounts], size: int, weights: Mapping[int, float], *, align: int = 1
) -> list[Density]:
    """Densities under which a window is drawn for class c with probability weights[c] / sum(weights).

    Drawn for a class, the windows of all samples are as likely as they hold pixels of it. Their number is taken from
    the counts as if a class were spread evenly within a cell, so it is exact where cells are of one class. A window
    from a cell whose windows see no pixel of a weighted class is never drawn.

    Args:
        samples: counts of each sample of the sampler, in order.
        size: edge of the windows, label pixels.
        weights: class -> relative share of the draws, 0 or more. Equal shares balance the classes; {0: 1, 1: 3} draws
            three windows of four for the positive class 1.
        align: as given to the sampler.

    Raises:
        DataError: a class with a share has no pixel.
    """
    total = float(sum(weights.values()))
    if not samples or total <= 0 or min(weights.values()) < 0:
        raise ValueError(f"{len(samples)} samples, weights {dict(weights)}: needs a sample and shares >= 0, not all 0")
    if any(sample.cell_px % align for sample in samples):
        raise ValueError(f"cells of {[sample.cell_px for sample in samples]} pixels: must be multiples of {align}")
    values = [np.zeros(_lattice(sample, size)) for sample in samples]
    for label, weight in weights.items():
        if weight == 0:
            continue
        seen = [_seen(sample, label, size) for sample in samples]
        # Sum over positions, not over cells: those at the lower and right border hold fewer.
        mass = sum(
            float((pixels * _positions(sample, size, align)).sum())
            for pixels, sample in zip(seen, samples, strict=True)
        )
        if mass <= 0:
            raise DataError(
                f"class {label} has no labelled pixel in the {len(samples)} samples, but a share of {weight:g} of the "
                "draws: give it 0 or add samples that show it"
            )
        for density, pixels in zip(values, seen, strict=True):
            density += weight / total / mass * pixels
    return [Density(value, sample.cell_px) for value, sample in zip(values, samples, strict=True)]


def _positions(sample: ClassCounts, size: int, align: int) -> NDArray[np.int64]:
    """Legal positions of a window in each cell of the lattice of its first pixels."""
    axes = []
    for edge in sample.shape:
        count, per_cell = max(0, edge - size) // align + 1, sample.cell_px // align
        axes.append(np.minimum(per_cell, count - np.arange(0, count, per_cell)))
    return np.outer(axes[0], axes[1])


def _lattice(sample: ClassCounts, size: int) -> tuple[int, ...]:
    return tuple(max(0, edge - size) // sample.cell_px + 1 for edge in sample.shape)


def _seen(sample: ClassCounts, label: int, size: int) -> NDArray[np.float64]:
    """Mean pixels of a class that the windows see which start in each cell, shape (rows, cols) of their lattice."""
    pixels = sample.counts[label].astype(np.float64)
    for axis, starts in enumerate(_lattice(sample, size)):
        pixels = np.moveaxis(pixels, axis, 0)
        shares = _overlaps(size, sample.cell_px)
        padded = np.concatenate([pixels, np.zeros((len(shares), *pixels.shape[1:]))])
        windows = [share * padded[ahead : ahead + starts] for ahead, share in enumerate(shares)]
        pixels = np.moveaxis(np.sum(windows, axis=0), 0, axis)
    return pixels


def _overlaps(size: int, cell_px: int) -> NDArray[np.float64]:
    """Mean share of the cell 0, 1, 2, ... ahead that a window covers along an axis, over its starts in one cell."""
    starts = np.arange(cell_px)[:, np.newaxis]
    cells = np.arange(-(-(size + cell_px - 1) // cell_px)) * cell_px
    covered = np.minimum(starts + size, cells + cell_px) - np.maximum(starts, cells)
    shares: NDArray[np.float64] = np.maximum(covered, 0).mean(axis=0) / cell_px
    return shares


_OPEN_BYTES = POOL_BYTES // 3
"""Of the images of the chunks that are open at once; labels, and what batches read ahead still need, take as much."""
_CELLS_PER_WINDOW = 8
"""Along an axis, of the lattice in which classes are counted."""


@dataclass(frozen=True, slots=True)
class PatchIndex:
    """One sample of one epoch, as a reader is asked for it."""

    sample: int
    """Index of the sample (scene, chip) in the list that the sampler was made for."""
    window: Window | None
    """The part to read, reference pixels; None for all of it. May reach outside the sample."""
    epoch: int
    index: int
    """Global position within the epoch, counted over all processes. (seed, epoch, index) keys every random choice."""
    chunk: Window | None = None
    """A part around the window that draws near this one share, reference pixels, worth decoding once; None: nobody
    shares it. May reach outside the sample."""


class Sampler(Protocol):
    """Lists the draws of an epoch."""

    def epoch(self, epoch: int) -> Sequence[PatchIndex]:
        """Return the draws of an epoch, in order; the same for the same epoch, however often it is asked."""
        ...


class GridSampler:
    """Draws each of a fixed set of windows once an epoch."""

    def __init__(self, windows: Sequence[Sequence[Window | None]], *, seed: int, shuffle: bool = True) -> None:
        """Keep the windows.

        Args:
            windows: for each sample its windows; `[None]` for a sample that is read whole.
            seed: 0 or more.
            shuffle: False keeps the order given.
        """
        self._windows = [(sample, window) for sample, its in enumerate(windows) for window in its]
        self._seed = seed
        self._shuffle = shuffle

    def epoch(self, epoch: int) -> list[PatchIndex]:
        """Return every window once, shuffled by (seed, epoch)."""
        order: Sequence[int] = range(len(self._windows))
        if self._shuffle:
            # Sorting random numbers, since numpy promises the stream of `random` and not that of `permutation`.
            order = np.argsort(np.random.default_rng((self._seed, epoch)).random(len(order)), kind="stable").tolist()
        return [PatchIndex(*self._windows[position], epoch, index) for index, position in enumerate(order)]


class RandomWindowSampler:
    """Draws windows at random places; a sample's chance is its share of the area unless `weights` says otherwise."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        size: int,
        patches_per_epoch: int,
        *,
        seed: int,
        align: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Keep what is needed to draw.

        Args:
            shapes: (rows, cols) of each sample, reference pixels.
            size: edge of the windows, pixels. A smaller sample gives windows that reach outside it.
            patches_per_epoch: length of an epoch. The first draws of an epoch do not depend on it.
            seed: 0 or more.
            align: rows and columns of the windows are multiples of it, as scenes with coarser layers need.
            weights: relative chance of each sample, 0 or more.
        """
        if patches_per_epoch < 1:
            raise ValueError(f"patches_per_epoch = {patches_per_epoch}: must be at least 1")
        self._positions = np.array([[max(0, edge - size) // align + 1 for edge in shape] for shape in shapes])
        chances = np.array([rows * cols for rows, cols in shapes] if weights is None else weights, np.float64)
        if len(shapes) == 0 or len(chances) != len(shapes) or chances.min() < 0 or chances.sum() <= 0:
            raise ValueError(f"{len(shapes)} samples and weights {weights}: needs one weight >= 0 a sample, not all 0")
        self._shares = np.cumsum(chances / chances.sum())
        self._size, self._align, self._draws, self._seed = size, align, patches_per_epoch, seed

    def epoch(self, epoch: int) -> list[PatchIndex]:
        """Return the draws of an epoch; each is a pure function of (seed, epoch, index)."""
        # One row of three numbers a draw, so that a row does not depend on how many follow.
        chance = np.random.default_rng((self._seed, epoch)).random((self._draws, 3))
        # The shares may sum to a hair less than 1.
        samples = np.minimum(np.searchsorted(self._shares, chance[:, 0], side="right"), len(self._shares) - 1)
        corners = (chance[:, 1:] * self._positions[samples]).astype(np.int64) * self._align
        return [
            PatchIndex(sample, Window(row, col, self._size, self._size), epoch, index)
            for index, (sample, (row, col)) in enumerate(zip(samples.tolist(), corners.tolist(), strict=True))
        ]


class ChunkedSampler:
    """Draws several windows from each of a few chunks at a time, so that pixels decoded once serve several.

    The positions where a window may start are cut into cells; what the windows of one cell see is a chunk, of
    cell + size - 1 pixels along an axis: the `chunk` of its draws, which `geocore.raster.block_cache` keeps in memory.
    Each gives `each` windows. A few are open at a time. Every place of a batch has its own, which take turns from batch
    to batch: a batch mixes as many as it has places, and processes that share it out do not decode the same ones. Where
    fewer are open than a batch has places, neighbouring places share one.

    A single draw, looked at alone, has exactly the density asked for: without `densities` every legal position of a
    sample is equally likely, borders and the seams between cells included, and a sample's chance is its share of the
    area. Draws of one chunk depend on each other. Those that are open together come from equal shares of the
    density, so that they are spread evenly over samples and cells.

    With `each` = 1 draws are single: a random block with jitter, or windows by class.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        size: int,
        patches_per_epoch: int,
        *,
        seed: int,
        batch_size: int,
        cells_px: Sequence[tuple[int, int]],
        each: int = 8,
        open_at_once: int | None = None,
        align: int = 1,
        densities: Sequence[Density] | None = None,
    ) -> None:
        """Keep what is needed to draw.

        Args:
            shapes: (rows, cols) of each sample, reference pixels.
            size: edge of the windows, pixels. A smaller sample gives windows that reach outside it.
            patches_per_epoch: length of an epoch. Chunks that are open at its end go on in the next one.
            seed: 0 or more.
            batch_size: as given to `Batches`: samples in a batch, all processes together.
            cells_px: (rows, cols) of the cells of each sample, pixels: see `geocore.raster.block_cache.chunk_for`.
            each: windows of a chunk.
            open_at_once: chunks; a multiple or a divisor of batch_size. None: twice the batch.
            align: rows and columns of the windows are multiples of it, as scenes with coarser layers need.
            densities: one for each sample; None: uniform.

        Raises:
            SettingsError: the open chunks cannot be shared out among the places of a batch.
        """
        opened = 2 * batch_size if open_at_once is None else open_at_once
        if min(patches_per_epoch, batch_size, each, opened) < 1:
            raise ValueError(
                f"{patches_per_epoch} draws, {batch_size} a batch, {each} each, {opened} open: must be >= 1"
            )
        if opened % batch_size and batch_size % opened:
            raise SettingsError(
                f"open_at_once = {opened}: must be a multiple or a divisor of batch_size = {batch_size}; take "
                f"{-(-opened // batch_size) * batch_size}"
            )
        if densities is None:
            densities = [_uniform(shape, size, align) for shape in shapes]
        if len(shapes) == 0 or len(densities) != len(shapes) or len(cells_px) != len(shapes):
            raise ValueError(
                f"{len(shapes)} samples, {len(densities)} densities and {len(cells_px)} cells: needs one a sample"
            )
        self._cells = [(-(-rows // align) * align, -(-cols // align) * align) for rows, cols in cells_px]
        parts = [
            _parts(sample, shape, size, align, cell, density)
            for sample, (shape, cell, density) in enumerate(zip(shapes, self._cells, densities, strict=True))
        ]
        self._parts = np.concatenate(parts)
        if not self._parts.size:
            raise ValueError("the densities are 0 everywhere")
        # Parts of one chunk follow each other, so that its draws fall between two values of this sum.
        self._sum = np.cumsum(self._parts["mass"])
        first = np.ones(len(self._parts), np.bool_)
        keys = self._parts[["sample", "cell_row", "cell_col"]]
        first[1:] = keys[1:] != keys[:-1]
        self._first = np.append(np.flatnonzero(first), len(self._parts))
        self._group = np.cumsum(first) - 1
        self._size, self._align, self._draws, self._seed = size, align, patches_per_epoch, seed
        self._batch_size, self._each, self._open = batch_size, each, opened

    def epoch(self, epoch: int) -> list[PatchIndex]:
        """Return the draws of an epoch; each is a pure function of (seed, epoch, index)."""
        batch, place = np.divmod(np.arange(self._draws), self._batch_size)
        batch += epoch * -(-self._draws // self._batch_size)
        # Slots hold one chunk after the other: several take turns at a place, or several places share one.
        turns, sharing = max(1, self._open // self._batch_size), max(1, self._batch_size // self._open)
        slot = place // sharing * turns + batch % turns
        # Slots are ahead of each other, so that they do not all need another chunk at the same time.
        step = batch // turns * sharing + place % sharing + slot * self._each // self._open
        number, turn = np.divmod(step, self._each)
        rounds = {int(n): self._round(int(n)) for n in np.unique(number)}
        draws = []
        for index, (n, s, t) in enumerate(zip(number.tolist(), slot.tolist(), turn.tolist(), strict=True)):
            samples, corners = rounds[n]
            row, col = corners[s][t]
            window = Window(row, col, self._size, self._size)
            draws.append(PatchIndex(samples[s], window, epoch, index, self._chunk(samples[s], window)))
        return draws

    def _chunk(self, sample: int, window: Window) -> Window | None:
        """All that the windows see which start in the same cell."""
        if self._each == 1:
            return None
        rows, cols = self._cells[sample]
        reach = self._size - self._align
        return Window(window.row // rows * rows, window.col // cols * cols, rows + reach, cols + reach)

    def _round(self, number: int) -> tuple[list[int], list[list[list[int]]]]:
        """The chunks that the slots hold as their first, second, ...

        Returns:
            For each slot the sample, and (row, col) of each of its windows.
        """
        random = np.random.default_rng((self._seed, number))
        # One chunk from each of as many equal shares of the density, in random order.
        order, jitter = random.random((2, self._open))
        share = (np.argsort(np.argsort(order, kind="stable"), kind="stable") + jitter) / self._open
        groups = self._group[self._part_at(share * self._sum[-1])]
        begin, stop = self._first[groups, np.newaxis], self._first[groups + 1, np.newaxis]
        low, high = self._sum[begin] - self._parts["mass"][begin], self._sum[stop - 1]
        chance = random.random((self._open, self._each, 3))
        # Rounding may lead to the part beside the chunk.
        parts = self._parts[np.clip(self._part_at(low + chance[..., 0] * (high - low)), begin, stop - 1)]
        rows = parts["row"] + (chance[..., 1] * parts["rows"]).astype(np.int64)
        cols = parts["col"] + (chance[..., 2] * parts["cols"]).astype(np.int64)
        return parts["sample"][:, 0].tolist(), (np.stack([rows, cols], axis=-1) * self._align).tolist()

    def _part_at(self, mass: NDArray[np.float64]) -> NDArray[np.intp]:
        return np.minimum(np.searchsorted(self._sum, mass, side="right"), len(self._sum) - 1)


_PART = np.dtype(
    [
        ("sample", np.int64),
        ("cell_row", np.int64),
        ("cell_col", np.int64),
        ("row", np.int64),
        ("col", np.int64),
        ("rows", np.int64),
        ("cols", np.int64),
        ("mass", np.float64),
    ]
)
"""A rectangle of positions of equal density within one cell; rows and columns count positions, not pixels."""


def _uniform(shape: tuple[int, int], size: int, align: int) -> Density:
    """Every position alike, all together as likely as the sample is large."""
    positions = math.prod(max(0, edge - size) // align + 1 for edge in shape)
    return Density(np.array([[math.prod(shape) / positions]]), max(shape) * align)


def _parts(
    sample: int, shape: tuple[int, int], size: int, align: int, cell_px: tuple[int, int], density: Density
) -> NDArray[np.void]:
    """Rectangles of one sample where the density is above 0, cell by cell."""
    if density.cell_px % align:
        raise ValueError(f"density in cells of {density.cell_px} pixels: must be a multiple of {align}")
    axes = []
    for edge, cell in zip(shape, cell_px, strict=True):
        count = max(0, edge - size) // align + 1
        steps = [np.arange(0, count, step // align) for step in (cell, density.cell_px)]
        starts = np.unique(np.concatenate(steps))
        axes.append((starts, np.diff(starts, append=count), starts * align // cell, starts * align // density.cell_px))
    (row, rows, cell_row, i), (col, cols, cell_col, j) = axes
    if density.values.shape != (i[-1] + 1, j[-1] + 1):
        raise ValueError(f"density of shape {density.values.shape} where {i[-1] + 1} x {j[-1] + 1} cells are needed")
    parts = np.empty((len(row), len(col)), _PART)
    parts["sample"], parts["mass"] = sample, density.values[np.ix_(i, j)] * np.outer(rows, cols)
    for name, values in (("row", row), ("rows", rows), ("cell_row", cell_row)):
        parts[name] = values[:, np.newaxis]
    for name, values in (("col", col), ("cols", cols), ("cell_col", cell_col)):
        parts[name] = values
    flat = parts[parts["mass"] > 0]
    return flat[np.lexsort((flat["cell_col"], flat["cell_row"]))]


def window_sampler(
    settings: SamplingSettings,
    shapes: Sequence[tuple[int, int]],
    size: int,
    patches_per_epoch: int,
    *,
    seed: int,
    batch_size: int,
    overlap: int = 0,
    stored: Callable[[int], Scene],
    counts: Callable[[int], Sequence[ClassCounts]] | None = None,
) -> Sampler:
    """The sampler that a command's settings ask for.

    Args:
        settings: of the command.
        shapes: (rows, cols) of each sample, reference pixels.
        size: edge of the windows, pixels.
        patches_per_epoch: length of an epoch, but for a grid.
        seed: 0 or more.
        batch_size: as given to `Batches`.
        overlap: of neighbouring windows of a grid, pixels.
        stored: opens a sample as its file stores it, for what is drawn in chunks: these lie along its blocks.
        counts: counts the classes of each sample in cells of so many pixels: those that are there are met equally
            often. None: every place alike.

    Raises:
        DataError: a label cannot be counted.
        SceneError: a file cannot be opened.
        SettingsError: a chunk of a scene is too large to be kept.
    """
    if settings.kind == "grid":
        if counts is not None:
            raise ValueError("a grid cannot be balanced")
        tiles = TileGrid(size=size, overlap=overlap)
        return GridSampler([tiles.windows(shape) for shape in shapes], seed=seed)
    if settings.kind == "random" and counts is None:
        return RandomWindowSampler(shapes, size, patches_per_epoch, seed=seed)
    densities = None
    if counts is not None:
        # A density is even within a cell, which must be small beside a window to lie where the class is.
        counted = counts(max(1, size // _CELLS_PER_WINDOW))
        present = sorted({label for sample in counted for label, pixels in sample.counts.items() if pixels.any()})
        densities = class_densities(counted, size, dict.fromkeys(present, 1.0))
    if settings.kind == "random":
        cells, opened, each = [(2 * size, 2 * size)] * len(shapes), None, 1
    else:
        cells = [_cell(stored(index), size) for index in range(len(shapes))]
        opened, each = _opened_at_once(cells, shapes, size, batch_size, stored), settings.windows_per_chunk
    return ChunkedSampler(
        shapes,
        size,
        patches_per_epoch,
        seed=seed,
        batch_size=batch_size,
        cells_px=cells,
        each=each,
        open_at_once=opened,
        densities=densities,
    )


def _cell(scene: Scene, size: int) -> tuple[int, int]:
    """A cell that suits every layer of a scene, reference pixels."""
    cells = []
    for source in scene.readers.values():
        ratio = source.layer.ratio
        rows, cols = chunk_for(source, -(-size // ratio))
        cells.append((rows * ratio, cols * ratio))
    return max(rows for rows, _ in cells), max(cols for _, cols in cells)


def _opened_at_once(
    cells: Sequence[tuple[int, int]],
    shapes: Sequence[tuple[int, int]],
    size: int,
    batch_size: int,
    stored: Callable[[int], Scene],
) -> int:
    """Chunks that are open at a time: two for each place of a batch, as far as they fit into memory."""
    scene = stored(0)
    one = scene.read_layers(Window(0, 0, scene.alignment, scene.alignment))
    pixel = sum(patch.values.nbytes + patch.valid.nbytes for patch in one.values()) / scene.alignment**2
    extents = [
        math.prod(min(edge + size - 1, whole) for edge, whole in zip(cell, shape, strict=True))
        for cell, shape in zip(cells, shapes, strict=True)
    ]
    largest = int(np.argmax(extents))
    chunk = int(extents[largest] * pixel)
    fitting = [2 * batch_size, *(count for count in range(batch_size, 0, -1) if batch_size % count == 0)]
    for opened in fitting:
        if opened * chunk <= _OPEN_BYTES:
            logger.info(
                "windows come from chunks of up to %d x %d pixels, %d of them at a time, %.0f MB each",
                *(min(edge + size - 1, whole) for edge, whole in zip(cells[largest], shapes[largest], strict=True)),
                opened,
                chunk / 1e6,
            )
            return opened
    raise SettingsError(
        f"sampling.kind = chunked: a chunk of {stored(largest).name}, stored in blocks of that size, takes "
        f"{chunk / 1e9:.1f} GB, more than {_OPEN_BYTES / 1e9:.1f}: store it in tiles (gdal_translate -co TILED=YES IN "
        "OUT), or take --sampling.kind random"
    )
