"""The folder of a data set's label rasters: which files in it are ours, and which of these nothing names any more.

Prepare writes rasters before it writes the data set that names them. It may be stopped, and begun again with other
scenes or settings: what it had written is then in no data set. So it first notes what it is about to write, and in the
end removes what it noted and the data set does not name. Whatever else lies in the folder is not ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from geocore.datasets.dataset import Dataset
from geocore.errors import DataError
from geocore.storage.files import read_sealed, remove_leftovers, storage_errors, write_sealed
from slumps_detectron2.areas import CLASSES, INSTANCES
from slumps_detectron2.experts import expert_names
from slumps_detectron2.pairs import ScenePair

FOLDER: Final = "labels"
"""Folder of the rasters within a data set."""

_NOTED: Final = ".rasters.json"
_NAMES: Final = "names"


def label_path(out: Path, scene: str, label: str) -> Path:
    """The raster of a label of a scene.

    Args:
        out: folder of the data set.
        scene: its name.
        label: its name.
    """
    return out / FOLDER / f"{scene}_{label}.tif"


def begin(out: Path, pairs: Sequence[ScenePair]) -> None:
    """Note the rasters that may be written, beside those noted before; to be called before the first one is.

    What killed processes left unfinished there is removed.

    Args:
        out: folder of the data set.
        pairs: all scenes with their labels.

    Raises:
        DataError: a raster would take the place of a scene, of a label, or of another raster.
        StorageError: the folder cannot be written.
    """
    owners: dict[Path, str] = {}
    given = {os.path.realpath(path) for pair in pairs for path in (pair.image, *pair.labels)}
    for pair in pairs:
        for path in _rasters_of(out, pair):
            if os.path.realpath(path) in given:
                raise DataError(
                    f"{path}: would be overwritten by the label raster of {pair.name}: choose another --out"
                )
            if path in owners:
                raise DataError(
                    f"{path}: would be the label raster of {owners[path]} and of {pair.name}: rename one of the scenes"
                )
            owners[path] = pair.name
    remove_leftovers(out / FOLDER)
    # What is there and was not noted is not ours, unless it is written now.
    _note(out, _noted(out) | {path.name for path in owners if not os.path.lexists(path)})


def end(dataset: Dataset) -> None:
    """Remove the rasters that were noted and that a data set does not name; to be called when it is saved.

    Raises:
        StorageError: one cannot be removed.
    """
    named = set(_named(dataset.root, (sample.labels for sample in dataset.samples)))
    for name in sorted(_noted(dataset.root) - named):
        path = dataset.root / FOLDER / name
        with storage_errors(path), suppress(FileNotFoundError):
            path.unlink()
    _note(dataset.root, named)


def _rasters_of(out: Path, pair: ScenePair) -> Iterator[Path]:
    """Where rasters of a scene may be written."""
    experts = expert_names(pair) if len(pair.labels) > 1 else []
    return (label_path(out, pair.name, label) for label in (INSTANCES, CLASSES, *experts))


def _noted(out: Path) -> set[str]:
    """Names of the rasters that are ours: noted, or named by the data set that is there."""
    names: set[str] = set()
    with suppress(DataError):
        names |= set(_named(out, (sample.labels for sample in Dataset.load(out).samples)))
    with suppress(OSError, ValueError, KeyError, TypeError):
        names |= {name for name in read_sealed(out / FOLDER / _NOTED)[_NAMES] if Path(name).name == name}
    return names


def _note(out: Path, names: Iterable[str]) -> None:
    write_sealed(out / FOLDER / _NOTED, {_NAMES: sorted(names)})


def _named(out: Path, labels: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Names of the rasters in the folder among labels of samples."""
    for paths in labels:
        for path in map(Path, paths.values()):
            if path.parent == Path(FOLDER):
                yield path.name
