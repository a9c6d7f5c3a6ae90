"""Several experts for one scene: what they are called, and what half of them agree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from geocore.errors import DataError
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import Scene
from geocore.vector.polygonize import components
from slumps_detectron2.areas import EXPERT
from slumps_detectron2.config import PrepareSettings
from slumps_detectron2.labels import IGNORED, Labels, read_labels, strips_of
from slumps_detectron2.pairs import ScenePair


def expert_names(pair: ScenePair) -> list[str]:
    """Label name of each expert: `expert_` and the name of the file, or of its folder where files share a name.

    The scene's name in front is left out, so that `east_01.gpkg` and `west_01.gpkg` are of one expert.

    Raises:
        DataError: two experts would have the same name.
    """
    stems = [path.stem.removeprefix(f"{pair.name}_") for path in pair.labels]
    names = stems if len(set(stems)) == len(stems) else [path.resolve().parent.name for path in pair.labels]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"{pair.image.name}: two labels are called {twice[0]!r}: experts are told apart by the names of their "
            "files or folders; rename one"
        )
    return [EXPERT + name.removeprefix(EXPERT) for name in names]


def majority(
    paths: Sequence[Path],
    grid: Grid,
    settings: PrepareSettings,
    keep: Callable[[Path, Labels], None],
    *,
    scene: str = "the scene",
    image: Scene | None = None,
) -> Labels:
    """Components of the pixels that at least half of several experts marked.

    Where an expert ignored a pixel, the others decide; where all did, it is ignored.

    Args:
        paths: label of each expert.
        grid: of the scene.
        settings: as for `read_labels`, for each of them.
        keep: is given each expert's own labels, one after another.
        scene: its name, for messages.
        image: the scene, as for `read_labels`.

    Raises:
        DataError: a label cannot be used, the labels cover different pixels, or they tell several classes apart.
    """
    if set(settings.class_names) != {1}:
        raise DataError(
            f"{paths[0]}: one of {len(paths)} labels of a scene, but class_names lists {sorted(settings.class_names)}: "
            "experts are merged for one kind of object only; give one label a scene, or merge the classes"
        )
    notes: list[str] = []
    alone = len({path.name for path in paths}) == len(paths)
    window: Window | None = None
    for path in paths:
        labels = read_labels(path, grid, settings, scene=scene, image=image)
        if window is None:
            window = labels.window
            marks, votes = (np.zeros(window.shape, np.uint16) for _ in range(2))
        elif labels.window != window:
            raise DataError(
                f"{path} and {paths[0]} cover different pixels of one scene: labels of several experts must cover the "
                "same; clip them alike"
            )
        keep(path, labels)
        # Experts may have named their files alike.
        notes += [note if alone else f"{path.parent.name}/{note}" for note in labels.notes]
        for rows in strips_of(window.height):
            known = labels.ids[rows] != IGNORED
            votes[rows] += known
            marks[rows] += known & (labels.ids[rows] > 0)
        del labels
    assert window is not None
    ids = components((marks > 0) & (2 * marks >= votes))
    count = int(ids.max())
    ids[votes == 0] = IGNORED
    return Labels(ids, window, count, "majority", notes=tuple(notes))
