"""What prepare tells and draws of photographs: how many layers each has, and how thick they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geocore.datasets.dataset import Dataset
from geocore.datasets.labels import open_label
from geocore.datasets.schema import Sample
from geocore.report.overview import Contents, Overview, number, spread
from geocore.report.preview import UNLABELLED, ClassKey, Marks, Preview, colours_shown, read_reduced, thinned
from geocore.terminal import progress
from snowpack_sam2.data import MASK, PHOTO, Photos
from snowpack_sam2.overlay import LAYER_COLOURS


def overview_of(dataset: Dataset) -> Overview:
    """Count the layers of all masks; each is read once.

    Raises:
        SceneError: a mask cannot be read.
    """
    contents, layers, thicknesses = {}, [], []
    for sample in progress(dataset.samples, "measuring layers"):
        ids, labelled = _ids_of(dataset, sample)
        found = thicknesses_px(ids, labelled)
        layers.append(len(found))
        thicknesses += found
        contents[sample.id] = Contents(
            ids.size, {MASK: {"layers": int(labelled.sum())}}, {"layers": len(found)}, content=len(found)
        )
    return Overview(
        dataset=dataset,
        samples="photographs",
        groups="pits",
        contents=contents,
        statistics=dataset.statistics,
        measured=[sample for sample in dataset.samples if sample.split == "train"],
        sizes=[
            f"layers in a photograph: {spread(layers, str)}; "
            f"their mean thickness: {spread(thicknesses, lambda px: f'{number(px)} px')}"
        ],
        keys={MASK: _keys()},
        shown=colours_shown([dataset.layers[PHOTO].bands.names[band] for band in _bands(dataset)]),
        preview=lambda sample: preview_of(dataset, sample),
    )


def thicknesses_px(ids: npt.NDArray[np.integer], labelled: npt.NDArray[np.bool_]) -> list[float]:
    """Mean thickness of each layer of a mask over the columns that show it, pixels, in the order of the ids.

    Args:
        ids: shape (row, col), integer.
        labelled: shape (row, col), bool: pixels that have a layer.
    """
    found = []
    for layer in np.unique(ids[labelled]):
        columns = np.count_nonzero((ids == layer) & labelled, axis=0)
        found.append(float(columns[columns > 0].mean()))
    return found


def preview_of(dataset: Dataset, sample: Sample) -> Preview:
    """A photograph with its layers, numbered from top to bottom for their colours alone.

    Raises:
        SceneError: a file cannot be read.
    """
    photos = Photos(dataset, sample.split)
    with photos.scene(photos.samples.index(sample)) as scene:
        values, valid = read_reduced(scene, PHOTO, _bands(dataset))
    ids, labelled = map(thinned, _ids_of(dataset, sample))
    classes = np.full(ids.shape, UNLABELLED, np.uint8)
    # By the height of their middles, so that neighbours get different colours.
    layers = sorted(np.unique(ids[labelled]), key=lambda layer: float(np.nonzero((ids == layer) & labelled)[0].mean()))
    for place, layer in enumerate(layers):
        classes[(ids == layer) & labelled] = 1 + place % len(LAYER_COLOURS)
    return Preview(sample.id, values, valid, {MASK: Marks(classes, ids)})


def _bands(dataset: Dataset) -> list[int]:
    """Bands of a photograph that are shown."""
    return [0, 1, 2] if len(dataset.layers[PHOTO].bands) == 3 else [0]


def _keys() -> dict[int, ClassKey]:
    keys = {place: ClassKey(f"layer {place}", colour) for place, colour in enumerate(LAYER_COLOURS, start=1)}
    last = len(LAYER_COLOURS)
    return keys | {last: ClassKey(f"layer {last}; {last + 1} as 1, and so on", LAYER_COLOURS[-1])}


def _ids_of(dataset: Dataset, sample: Sample) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.bool_]]:
    """Layer ids and which pixels have one, both of shape (row, col)."""
    with open_label(dataset.path(sample.labels[MASK]), layer=MASK) as scene:
        patch = scene.read_layers(scene.grid.whole)[MASK]
    ids, ignore = patch.values[0], dataset.labels[MASK].ignore
    return ids, patch.valid[0] if ignore is None else patch.valid[0] & (ids != ignore)
