"""What prepare tells and draws of chips: how much of each is labelled, and how much of that is water."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from floods_prithvi.chip_reader import IMAGE, MASK
from floods_prithvi.overlay import SHOWN
from floods_prithvi.windows import Chips, pixels_of
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.datasets.statistics import compute_statistics
from geocore.raster.scene import Scene
from geocore.report.overview import Contents, Overview, percent, splits_of, spread
from geocore.report.preview import Marks, Preview, class_keys, colours_shown, read_reduced, thinned
from geocore.terminal import progress


def overview_of(dataset: Dataset) -> Overview:
    """Sum up what is known of the chips; the bands of those to score on alone are measured here.

    Raises:
        SceneError: a chip cannot be read.
    """
    names = dataset.labels[MASK].classes
    contents = {sample.id: _contents(sample, names) for sample in dataset.samples}
    measured = dataset.samples
    if dataset.statistics is not None:
        measured = [sample for sample in dataset.samples if sample.split == "train" and any(pixels_of(sample))]
    return Overview(
        dataset=dataset,
        samples="chips",
        groups="groups",
        contents=contents,
        statistics=dataset.statistics or compute_statistics(_scenes(dataset), [IMAGE]),
        measured=measured,
        sizes=list(_sizes(list(contents.values()), list(names.values()))),
        keys={MASK: class_keys(names, background=0)},
        shown=colours_shown(SHOWN),
        preview=lambda sample: preview_of(dataset, sample),
    )


def preview_of(dataset: Dataset, sample: Sample) -> Preview:
    """A chip with its classes; of several dates the last.

    Raises:
        SceneError: a file cannot be read.
    """
    chips = Chips(dataset, sample.split)
    index = chips.samples.index(sample)
    with chips.scene(index) as scene:
        layer = scene.layers[IMAGE]
        values, valid = read_reduced(scene, IMAGE, layer.bands.indices(SHOWN), period=len(layer.times) - 1)
    return Preview(sample.id, values, valid, {MASK: Marks(thinned(chips.target(index)))})


def _contents(sample: Sample, names: Mapping[int, str]) -> Contents:
    pixels = int(sample.attributes["rows"]) * int(sample.attributes["cols"])
    counts = dict(zip(names.values(), pixels_of(sample), strict=True))
    return Contents(pixels, {MASK: counts}, content=sum(list(counts.values())[1:]))


def _sizes(contents: Sequence[Contents], names: Sequence[str]) -> Iterator[str]:
    """How unevenly the second of two classes lies."""
    labelled = [its.class_px[MASK] for its in contents if any(its.class_px[MASK].values())]
    if len(names) == 2 and labelled:
        shares = [its[names[1]] / sum(its.values()) for its in labelled]
        yield f"{names[1]} in a chip: {spread(shares, percent)} of what is labelled"


def _scenes(dataset: Dataset) -> Iterator[Scene]:
    """All chips, one after the other."""
    with progress(len(dataset.samples), "measuring bands") as bar:
        for split in splits_of(dataset.samples):
            chips = Chips(dataset, split)
            for index in range(len(chips.samples)):
                with chips.scene(index) as scene:
                    yield scene
                bar.advance()
