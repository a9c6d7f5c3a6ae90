"""What prepare tells and draws of areas: how many slumps each has, how large they are, what ground they cover."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.raster.grid import Window
from geocore.raster.ground import PixelAreas, has_ground
from geocore.report.overview import Contents, Overview, area, number, splits_of, spread
from geocore.report.preview import (
    UNLABELLED,
    ClassKey,
    Marks,
    Preview,
    class_keys,
    colours_shown,
    read_reduced,
    thinned,
)
from geocore.terminal import progress
from slumps_detectron2.areas import IMAGE, INSTANCES, Areas, Truth
from slumps_detectron2.label_rasters import parts_of
from slumps_detectron2.overlay import visible_bands

BACKGROUND: Final = "background"
VIEW_PX: Final = 720
"""Side of the part of an area that is drawn: a slump of twenty pixels is still an outline there."""


def overview_of(dataset: Dataset) -> Overview:
    """Measure the slumps of all areas; each label raster is read once.

    Raises:
        SceneError: a scene or its label cannot be read.
    """
    contents: dict[str, Contents] = {}
    sizes_px: list[int] = []
    sizes_m2: list[float] = []
    ground: dict[str, PixelAreas | None] = {}
    names, bands = dataset.labels[INSTANCES].classes, dataset.layers[IMAGE].bands.names
    with progress(len(dataset.samples), "measuring slumps") as bar:
        for split in splits_of(dataset.samples):
            areas = Areas(dataset, split)
            for index, sample in enumerate(areas.samples):
                file, grid = sample.inputs[IMAGE], areas.scene(index).grid
                if file not in ground:
                    ground[file] = PixelAreas(grid) if has_ground(grid) else None
                sizes, classes = _sizes_of(areas, index, ground[file])
                contents[sample.id] = Contents(
                    areas.window(index).height * areas.window(index).width,
                    {INSTANCES: {BACKGROUND: classes[0], **{name: classes[value] for value, name in names.items()}}},
                    {"slumps": len(sizes)},
                    content=sum(px for px, _ in sizes),
                )
                sizes_px += [px for px, _ in sizes]
                sizes_m2 += [m2 for _, m2 in sizes if m2 > 0]
                bar.advance()
    return Overview(
        dataset=dataset,
        samples="areas",
        groups="regions" if dataset.protocol["split_by"] == "region" else "blocks",
        contents=contents,
        statistics=dataset.statistics,
        measured=[sample for sample in dataset.samples if sample.split == "train"],
        sizes=_size_lines(sizes_px, sizes_m2, int(dataset.protocol["training_tiles"] or 0)),
        keys={INSTANCES: {0: ClassKey(BACKGROUND, None), **class_keys(names)}},
        shown=colours_shown([bands[band] for band in visible_bands(bands)]),
        preview=lambda sample: preview_of(dataset, sample),
    )


def preview_of(dataset: Dataset, sample: Sample) -> Preview:
    """An area with its slumps; of a large one the surroundings of its largest slump, pixel by pixel.

    Raises:
        SceneError: a file cannot be read.
    """
    areas = Areas(dataset, sample.split)
    index = areas.samples.index(sample)
    window = _view(areas, index)
    scene = areas.scene(index)
    bands = visible_bands(scene.layers[IMAGE].bands.names)
    values, valid = read_reduced(scene, IMAGE, bands if len(set(bands)) > 1 else bands[:1], window=window)
    truth = areas.truth(index, window)
    part = "" if window == areas.window(index) else f" ({window.height} x {window.width} px of it)"
    marks = Marks(thinned(_classes_of(truth)), thinned(truth.ids))
    return Preview(f"{sample.id}{part}", values, valid, {INSTANCES: marks})


def _classes_of(truth: Truth) -> npt.NDArray[np.uint8]:
    classes = (truth.ids > 0).astype(np.uint8) if truth.classes is None else truth.classes.copy()
    classes[~truth.labelled] = UNLABELLED
    return classes


def _sizes_of(areas: Areas, index: int, ground: PixelAreas | None) -> tuple[list[tuple[int, float]], Counter[int]]:
    """Pixels and m2 (0: unknown) of each slump of an area, and pixels of each class, background as 0."""
    sizes_px, classes = Counter[int](), Counter[int]()
    sizes_m2: dict[int, float] = defaultdict(float)
    for part in parts_of(areas.window(index)):
        truth = areas.truth(index, part)
        inside = truth.ids > 0
        found = np.bincount(truth.ids[inside])
        m2 = np.zeros(len(found)) if ground is None else np.bincount(truth.ids[inside], ground.within(part)[inside])
        for slump in np.flatnonzero(found).tolist():
            sizes_px[slump] += int(found[slump])
            sizes_m2[slump] += float(m2[slump])
        values = np.bincount(_classes_of(truth).ravel(), minlength=UNLABELLED + 1)
        classes.update({value: int(count) for value, count in enumerate(values[:UNLABELLED])})
    return [(px, sizes_m2[slump]) for slump, px in sizes_px.items()], classes


def _view(areas: Areas, index: int) -> Window:
    """The part of an area that is drawn."""
    window = areas.window(index)
    height, width = (min(length, VIEW_PX) for length in window.shape)
    if (height, width) == window.shape:
        return window
    largest, middle = 0, (window.row + window.height // 2, window.col + window.width // 2)
    for part in parts_of(window):
        ids = areas.truth(index, part).ids
        found = np.bincount(ids[ids > 0], minlength=1)
        if found.max() > largest:
            largest = int(found.max())
            rows, cols = np.nonzero(ids == found.argmax())
            middle = (part.row + int(rows.mean()), part.col + int(cols.mean()))
    row = min(max(middle[0] - height // 2, window.row), window.row_stop - height)
    col = min(max(middle[1] - width // 2, window.col), window.col_stop - width)
    return Window(row, col, height, width)


def _size_lines(sizes_px: Sequence[int], sizes_m2: Sequence[float], tiles: int) -> list[str]:
    if not sizes_px:
        return []
    ground = f", on the ground {spread(sizes_m2, area)}" if len(sizes_m2) == len(sizes_px) else ""
    return [f"size of a slump: {spread(sizes_px, lambda px: f'{number(px)} px')}{ground}", f"training tiles: {tiles:,}"]
