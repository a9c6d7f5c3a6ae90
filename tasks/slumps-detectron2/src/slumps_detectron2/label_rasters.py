"""The label rasters of a scene: read in whatever form they come, written on the scene's grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import Scene
from geocore.raster.write import RasterWriter
from slumps_detectron2.areas import CLASSES, IMAGE, INSTANCES
from slumps_detectron2.config import PrepareSettings
from slumps_detectron2.experts import expert_names, majority
from slumps_detectron2.label_folder import label_path
from slumps_detectron2.labels import IGNORED, UNLABELLED, Labels, read_labels, without_gaps
from slumps_detectron2.pairs import ScenePair

_PART_ROWS: Final = 512
_PART_COLS: Final = 4096


@dataclass(frozen=True, slots=True)
class SceneLabels:
    """What is true in a scene, once its rasters are written."""

    paths: dict[str, Path]
    """Label name to file."""
    ids: npt.NDArray[np.uint32]
    """Shape of `window`, uint32: 0 background, 1..slumps objects, 4294967295 ignored or without data."""
    window: Window
    """Pixels of the scene that its label covers."""
    slumps: int
    kind: str
    """Form of the label; see `Labels`."""
    notes: list[str]


def write_labels(pair: ScenePair, scene: Scene, settings: PrepareSettings) -> SceneLabels:
    """Read the labels of a scene and write its rasters: instances, classes where there are several, each expert's.

    Args:
        pair: names the labels.
        scene: opened with the bands that are used.
        settings: how labels are to be understood, and the folder of the data set.

    Raises:
        DataError: a label cannot be used or leaves no pixel that counts.
    """
    paths: dict[str, Path] = {}

    def write(name: str, values: npt.NDArray[Any], window: Window, nodata: int) -> None:
        paths[name] = label_path(settings.out, pair.name, name)
        _write(paths[name], values, window, scene.grid, nodata)

    if len(pair.labels) == 1:
        labels = read_labels(pair.labels[0], scene.grid, settings, scene=pair.image.name, image=scene)
    else:
        names = dict(zip(pair.labels, expert_names(pair), strict=True))

        def keep(path: Path, drawn: Labels) -> None:
            write(names[path], drawn.ids, drawn.window, IGNORED)

        labels = majority(pair.labels, scene.grid, settings, keep, scene=pair.image.name, image=scene)
    notes = [f"{pair.name}: {note}" for note in labels.notes]
    slumps = _hide_invalid(labels, scene)
    if slumps < labels.count:
        notes.append(f"{pair.name}: {labels.count - slumps} of {labels.count} slumps lie where the scene has no data")
    if (labels.ids == IGNORED).all():
        raise DataError(
            f"{pair.labels[0]}: no pixel counts: all are ignored, or {pair.image.name} has no data in a band; remove "
            "the pair or check --ignore, --bands and --nodata"
        )
    write(INSTANCES, labels.ids, labels.window, IGNORED)
    if labels.classes is not None:
        write(CLASSES, labels.classes, labels.window, UNLABELLED)
    return SceneLabels(paths, labels.ids, labels.window, slumps, labels.kind, notes)


def parts_of(window: Window) -> Iterator[Window]:
    """A window cut into parts that fit into memory whatever its size, row by row."""
    for row in range(window.row, window.row_stop, _PART_ROWS):
        for col in range(window.col, window.col_stop, _PART_COLS):
            height, width = min(_PART_ROWS, window.row_stop - row), min(_PART_COLS, window.col_stop - col)
            yield Window(row, col, height, width)


def _hide_invalid(labels: Labels, scene: Scene) -> int:
    """Ignore, in place, pixels that are invalid in a band, and number the objects that are left without gaps.

    Returns:
        Objects that are left.
    """
    for part in parts_of(labels.window):
        place = part.shifted(-labels.window.row, -labels.window.col).slices
        invalid = ~scene.read_layers(part)[IMAGE].valid.all(axis=0)
        labels.ids[place][invalid] = IGNORED
        if labels.classes is not None:
            labels.classes[place][invalid] = UNLABELLED
    return without_gaps(labels.ids, labels.count)


def _write(path: Path, values: npt.NDArray[Any], window: Window, grid: Grid, nodata: int) -> None:
    """Write the part of a scene that is known; the rest is nodata."""
    with RasterWriter(path, grid=grid, count=1, dtype=values.dtype.name, nodata=nodata, cog=False) as writer:
        for row in range(0, window.height, _PART_ROWS):
            writer.write(values[np.newaxis, row : row + _PART_ROWS], window.row + row, window.col)
