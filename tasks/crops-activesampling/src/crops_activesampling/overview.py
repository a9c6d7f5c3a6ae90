"""What prepare tells and draws of patches: how many parcels and pixels each crop has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from crops_activesampling.overlay import composite, false_colour_bands
from crops_activesampling.products import class_colours
from crops_activesampling.windows import CROPS, MEDIANS, Patches
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.datasets.statistics import compute_statistics
from geocore.raster.scene import Scene
from geocore.report.overview import Contents, Overview, number, splits_of, spread
from geocore.report.preview import UNLABELLED, ClassKey, Marks, Preview, colours_shown
from geocore.terminal import progress


def overview_of(dataset: Dataset) -> Overview:
    """Count the parcels of all patches; the bands of patches to score on alone are measured here.

    Raises:
        DataError: the cache lacks a patch.
    """
    names = {value: name for value, name in dataset.labels[CROPS].classes.items() if value}
    contents: dict[str, Contents] = {}
    sizes: dict[int, list[int]] = defaultdict(list)
    with progress(len(dataset.samples), "measuring parcels") as bar:
        for split in splits_of(dataset.samples):
            patches = Patches(dataset, split)
            for index, sample in enumerate(patches.samples):
                found = parcels_of(patches.parcels(index), patches.labels(index))
                for crop, pixels in found:
                    sizes[crop].append(pixels)
                contents[sample.id] = _contents(sample, names, len(found))
                bar.advance()
    measured = [sample for sample in dataset.samples if sample.split == "train"]
    bands = dataset.layers[MEDIANS].bands.names
    return Overview(
        dataset=dataset,
        samples="patches",
        groups="tiles",
        contents=contents,
        statistics=dataset.statistics or compute_statistics(_scenes(dataset), [MEDIANS]),
        measured=measured if dataset.statistics is not None else dataset.samples,
        sizes=list(_size_lines(sizes, names)),
        keys={CROPS: _keys(names)},
        shown=colours_shown([bands[band] for band in false_colour_bands(bands)]),
        preview=lambda sample: preview_of(dataset, sample),
    )


def parcels_of(parcels: npt.NDArray[np.uint32], labels: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Crop and pixels of each parcel of a patch that has a labelled pixel: the crop of most of those.

    Args:
        parcels: shape (row, col), uint32, number of the parcel, 0 outside.
        labels: shape (row, col), uint8, 0 where unlabelled.
    """
    inside = (parcels != 0) & (labels != 0)
    pairs, counts = np.unique(np.stack([parcels[inside], labels[inside].astype(np.uint32)]), axis=1, return_counts=True)
    crops: dict[int, Counter[int]] = defaultdict(Counter)
    for (parcel, crop), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        crops[parcel][crop] = count
    return [(max(its, key=lambda crop: (its[crop], -crop)), its.total()) for its in crops.values()]


def preview_of(dataset: Dataset, sample: Sample) -> Preview:
    """A patch in the period with most data, with the crops and parcels.

    Raises:
        DataError: the cache lacks it.
    """
    patches = Patches(dataset, sample.split)
    index = patches.samples.index(sample)
    with patches.scene(index) as scene:
        values, valid, period = composite(scene, range(1, len(scene.layers[MEDIANS].times) + 1))
    labels = patches.labels(index)
    marks = Marks(np.where(labels == 0, UNLABELLED, labels).astype(np.uint8), patches.parcels(index))
    return Preview(f"{sample.id}, period {period}", values, valid, {CROPS: marks})


def _contents(sample: Sample, names: Mapping[int, str], parcels: int) -> Contents:
    """Patches with much of other crops than their most frequent one show most."""
    counts = {name: int(sample.attributes[f"class_{value}_px"]) for value, name in names.items()}
    pixels = int(sample.attributes["rows"]) * int(sample.attributes["cols"])
    content = sum(counts.values()) - max(counts.values())
    return Contents(pixels, {CROPS: counts}, {"parcels": parcels}, content=content)


def _size_lines(sizes: Mapping[int, Sequence[int]], names: Mapping[int, str]) -> Iterator[str]:
    """Parcels of each crop, the most frequent one first, and how large they are."""
    if not sizes:
        return
    crops = sorted(sizes, key=lambda crop: (-len(sizes[crop]), crop))
    yield f"parcels by crop: {', '.join(f'{names[crop]} {len(sizes[crop]):,}' for crop in crops)}"
    pixels = [px for its in sizes.values() for px in its]
    yield f"labelled pixels of a parcel: {spread(pixels, number)}"


def _scenes(dataset: Dataset) -> Iterator[Scene]:
    """All patches, one after the other."""
    with progress(len(dataset.samples), "measuring bands") as bar:
        for split in splits_of(dataset.samples):
            patches = Patches(dataset, split)
            for index in range(len(patches.samples)):
                with patches.scene(index) as scene:
                    yield scene
                bar.advance()


def _keys(names: Mapping[int, str]) -> dict[int, ClassKey]:
    colours = class_colours(names)
    return {value: ClassKey(name, colours[value]) for value, name in names.items()}
