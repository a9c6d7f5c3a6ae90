"""Densities: how likely the windows of a sample are to be drawn, by where they start, and from which pixels they see.

A rare class is met more often when windows that show it are drawn more often. The pixels of each class are counted
once, exactly, in cells of a coarse lattice; from the counts follows a density of window positions that is constant
within a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geocore.errors import DataError
from geocore.grid import Window
from geocore.scenes import LayerSource

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


def count_classes(labels: LayerSource, classes: Sequence[int], *, cell_px: int = 64) -> ClassCounts:
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
