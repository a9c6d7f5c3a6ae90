"""How much ground a pixel shows: what a data set was made of, and whether a scene is like it.

A network knows things by their size in pixels. What is 30 of them long at 10 m is 300 at 1 m, and the numbers in both
scenes look alike: nothing but the ground size of a pixel tells.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Sequence
from typing import Final

from geocore.datasets import Dataset
from geocore.grid import Grid
from geocore.ground import pixel_side_m
from geocore.manifests import Sample
from geocore.scenes import Layer

_LOGGER = logging.getLogger(__name__)

FACTOR: Final = 1.45
"""Between sizes that count as one. Those of one sensor differ by 1.41 at most (PlanetScope: 3.0 to 4.2 m; a
pixel in degrees has half the ground at 60 degrees north), those of two by 1.5 or more (10, 15, 20, 30 m)."""
PIXEL_M: Final = "pixel_m"
"""Attribute of a sample: side of a square with the ground of its middle pixel, m."""


def pixel_attribute(grid: Grid) -> dict[str, float]:
    """The attribute `pixel_m` of a sample; empty where no ground is known, as of a photograph."""
    side = pixel_side_m(grid)
    # Three digits: PROJ's last ones differ between versions, and they would change the hash of the data set.
    return {} if side is None else {PIXEL_M: float(f"{side:.3g}")}


def with_pixel_sizes(dataset: Dataset, layer: str) -> Dataset:
    """A data set whose layer knows the smallest and the largest pixel of the training samples.

    Args:
        dataset: its samples have the attribute `pixel_m` where that is known.
        layer: name of the layer.

    Returns:
        With a remark where samples of all splits differ by more than `FACTOR`.
    """
    sizes = _sizes(dataset.samples)
    trained = _sizes(sample for sample in dataset.samples if sample.split == "train")
    if not sizes:
        return dataset
    layers, notes = dict(dataset.layers), list(dataset.notes)
    if trained:
        layers[layer] = dataclasses.replace(layers[layer], pixel_m=(min(trained.values()), max(trained.values())))
    least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[most] > FACTOR * sizes[least]:
        notes.append(
            f"pixels are of {_metres((sizes[least], sizes[most]))} on the ground ({least}: {sizes[least]:g} m, {most}: "
            f"{sizes[most]:g} m): a network knows things by their size in pixels; resample the scenes to one size"
        )
    return dataclasses.replace(dataset, layers=layers, notes=notes)


def warn_if_resized(scene: str, grid: Grid, layer: Layer) -> None:
    """Log a warning when a pixel of a scene shows more or less ground than those that a network was trained on.

    Args:
        scene: its name.
        grid: of what the network sees.
        layer: of the network.
    """
    side = pixel_side_m(grid)
    if layer.pixel_m is not None and side is not None and _is_off(side, layer.pixel_m):
        _LOGGER.warning(
            "%s: a pixel is %.3g m on the ground, %s in the training scenes: the map may be wrong; resample the scene",
            scene,
            side,
            _metres(layer.pixel_m),
        )


def warn_of_sizes(dataset: Dataset, split: str, layer: Layer) -> None:
    """Log a warning for the samples of a split whose pixels show more or less ground than a network was trained on.

    Args:
        dataset: what is scored on.
        split: of it.
        layer: of the network.
    """
    if layer.pixel_m is None:
        return
    samples = dataset.split(split)
    off = {name: side for name, side in _sizes(samples).items() if _is_off(side, layer.pixel_m)}
    if off:
        more = f" and {len(off) - 3} more" if len(off) > 3 else ""
        _LOGGER.warning(
            "%d of %d samples have pixels of another ground size (%s%s) than the %s that the network was trained on: "
            "their scores may be low for that alone",
            len(off),
            len(samples),
            ", ".join(f"{name}: {side:g} m" for name, side in list(off.items())[:3]),
            more,
            _metres(layer.pixel_m),
        )


def _sizes(samples: Iterable[Sample] | Sequence[Sample]) -> dict[str, float]:
    """Id -> side of a pixel, m, of those that know it."""
    found = {sample.id: sample.attributes.get(PIXEL_M) for sample in samples}
    return {
        name: float(side)
        for name, side in found.items()
        if isinstance(side, int | float) and math.isfinite(side) and side > 0
    }


def _is_off(side: float, known: tuple[float, float]) -> bool:
    return not known[0] / FACTOR <= side <= known[1] * FACTOR


def _metres(sizes: tuple[float, float]) -> str:
    least, most = (f"{size:g}" for size in sizes)
    return f"{least} m" if least == most else f"{least} to {most} m"
