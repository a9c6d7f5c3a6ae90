"""What prepare tells and draws of scenes: how much of each is charted, and as what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.datasets.statistics import compute_statistics
from geocore.raster.npy_store import map_array
from geocore.raster.scene import Scene
from geocore.report.overview import Contents, Overview, splits_of
from geocore.report.preview import ClassKey, Keys, Marks, Preview, colours_shown, read_reduced, thinned
from geocore.terminal import progress
from seaice_multitask.channels import RADAR
from seaice_multitask.charts import CLASS_NAMES, MASKED
from seaice_multitask.colours import class_colours
from seaice_multitask.config import OutputSettings
from seaice_multitask.resampling import PLANES
from seaice_multitask.windows import Scenes


def overview_of(dataset: Dataset) -> Overview:
    """Count the charts and measure the planes in the cache.

    Planes of the scenes to train on are measured, or of all where there are none; the data set does not keep these
    figures, as channels are standardised by published ones.

    Raises:
        DataError: the cache lacks a scene.
    """
    measured = [sample for sample in dataset.samples if sample.split == "train"] or list(dataset.samples)
    return Overview(
        dataset=dataset,
        samples="scenes",
        groups="days",
        contents={sample.id: _contents(dataset, sample) for sample in progress(dataset.samples, "measuring charts")},
        statistics=compute_statistics(_scenes(dataset, measured), [PLANES]),
        measured=measured,
        keys=_keys(),
        shown=colours_shown([_shown(dataset.layers[PLANES].bands.names)]),
        preview=lambda sample: preview_of(dataset, sample),
    )


def preview_of(dataset: Dataset, sample: Sample) -> Preview:
    """A scene as the working grid has it, with its charts; the first line above.

    Raises:
        DataError: the cache lacks it.
    """
    scenes = Scenes(dataset, sample.split, ())
    with scenes.scene(scenes.samples.index(sample)) as scene:
        names = scene.layers[PLANES].bands.names
        values, valid = read_reduced(scene, PLANES, [names.index(_shown(names))])
    marks = {name: Marks(thinned(_chart(dataset, sample, name))) for name in CLASS_NAMES}
    return Preview(sample.id, values, valid, marks)


def _contents(dataset: Dataset, sample: Sample) -> Contents:
    """Charted working pixels of each class; scenes with much of other than their most frequent class show most."""
    counts, pixels, content = {}, 0, 0
    for name, classes in CLASS_NAMES.items():
        chart = _chart(dataset, sample, name)
        found = np.bincount(chart.ravel(), minlength=MASKED + 1)[: len(classes)]
        counts[name] = dict(zip(classes, found.tolist(), strict=True))
        pixels, content = chart.size, content + int(found.sum() - found.max())
    return Contents(pixels, counts, content=content)


def _chart(dataset: Dataset, sample: Sample, name: str) -> npt.NDArray[np.uint8]:
    """A chart on the working grid, mapped and not read; shape (row, col), 255 where masked."""
    return map_array(dataset.path(sample.inputs[PLANES]).with_name(f"{name}.npy"))


def _scenes(dataset: Dataset, measured: Sequence[Sample]) -> Iterator[Scene]:
    """Scenes on the working grid, one after the other."""
    with progress(len(measured), "measuring planes") as bar:
        for split in splits_of(measured):
            scenes = Scenes(dataset, split, ())
            for index in range(len(scenes.samples)):
                with scenes.scene(index) as scene:
                    yield scene
                bar.advance()


def _shown(names: Sequence[str]) -> str:
    """The channel that pictures show: radar, where there is one."""
    return next((name for name in RADAR if name in names), names[0])


def _keys() -> Keys:
    keys = {}
    for chart, names in CLASS_NAMES.items():
        colours = class_colours(chart, OutputSettings(classes=len(names)))
        keys[chart] = {value: ClassKey(name, colours[value]) for value, name in enumerate(names)}
    return keys
