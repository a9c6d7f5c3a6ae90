"""The gallery: each task's built-in sample trained as its README says, and one test scene of it mapped and drawn.

    geocore-bench gallery [TASK ...] [--work FOLDER] [--out FOLDER]

Writes `TASK.png`: the scene, its label and the map. The commands are run as a user runs them, by their console scripts;
the scene and its label are read and coloured as `X-prepare` draws them. A kept folder of work goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.datasets.dataset import Dataset
from geocore.datasets.labels import open_label
from geocore.raster.geotiff import open_raster
from geocore.report.overview import Overview
from geocore.report.preview import UNLABELLED, Marks, Preview, draw_previews
from geocore.storage.files import atomic_path
from geocore_bench.golden import command, sample_of

_MARGIN_PX: Final = 14
_COLOURS: Final = 96
"""Of the palette; it takes a third of the bytes."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Which product of a task is drawn, and beside which label."""

    module: str
    """Package of the task; its module `overview` draws samples."""
    product: str
    """Name of the map behind the scene's."""
    label: str
    """The label of a sample that the map is to be like."""
    scenes: str
    """Pattern of the scenes below the sample's folder."""


SHOWN: Final = {
    "snowpack": Shown("snowpack_sam2", "_pred.tif", "layers", "photographs/*.tif"),
    "slumps": Shown("slumps_detectron2", "_instances.tif", "instances", "scenes/*.tif"),
    "seaice": Shown("seaice_multitask", "_pred.tif", "SOD", "**/*_prep.nc"),
    "floods": Shown("floods_prithvi", "_pred.tif", "mask", "**/*_S2Hand.tif"),
    "crops": Shown("crops_activesampling", "_pred.tif", "crops", "**/*.nc"),
}
"""Task -> what is drawn of it."""


def main(words: Sequence[str]) -> None:
    """Train, map and draw.

    Args:
        words: of the command line, behind `gallery`.
    """
    parser = argparse.ArgumentParser(prog="geocore-bench gallery", description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(SHOWN)}; none: all of them")
    parser.add_argument("--work", type=Path, default=None, help="folder to work in, kept; none: a temporary one")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the pictures")
    given = parser.parse_args(words)
    unknown = [task for task in given.tasks if task not in SHOWN]
    if unknown:
        parser.error(f"no task {', '.join(unknown)}: there are {', '.join(SHOWN)}")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="geocore-gallery-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        for task in given.tasks or SHOWN:
            save(given.out / f"{task}.png", picture(task, work))
            print(f"{given.out / task}.png")


def picture(task: str, work: Path) -> npt.NDArray[np.uint8]:
    """A test scene of a task's sample: as it is, its label, and the map.

    Args:
        task: its name.
        work: folder of the samples, runs and maps; what it holds already is not made again.

    Returns:
        Shape (row, col, 3), uint8, sRGB.
    """
    shown, cache, run, maps = SHOWN[task], work / "cache", work / task / "run", work / task / "maps"
    command(f"{task}-train", ["--run", str(run)], cache)
    sample = sample_of(task, cache)
    dataset = Dataset.load(sample / "dataset.yaml")
    overview: Overview = importlib.import_module(f"{shown.module}.overview").overview_of(dataset)
    tested = [its for its in dataset.samples if its.split == "test"]
    # The one in the middle by what there is to see.
    ranked = sorted(tested, key=lambda its: (overview.contents[its.id].content, its.id))
    chosen = ranked[len(ranked) // 2]
    scenes = [path for path in sorted(sample.glob(shown.scenes)) if path.name.startswith(chosen.id)]
    command(f"{task}-predict", ["--run", str(run), "--input", str(scenes[0]), "--output", str(maps)], cache)
    preview = overview.preview(chosen)
    label = preview.marks[shown.label]
    key = overview.keys[shown.label]
    result = mapped(next(maps.glob(f"*{shown.product}")), shown, list(dataset.labels), preview.valid.shape, max(key))
    marks = {"label": label, "map": result}
    drawn = Preview(f"{task}: a test scene of the sample", preview.values, preview.valid, marks)
    unlisted = {value: replace(its, name="") for value, its in key.items()}
    return trimmed(draw_previews([[drawn]], {"label": key, "map": unlisted}))


def mapped(path: Path, shown: Shown, labels: Sequence[str], shape: tuple[int, ...], most: int) -> Marks:
    """The map of a scene at the size of its picture, in the classes of the label.

    Args:
        path: of the map.
        shown: what is drawn.
        labels: of the data set, in the order of the map's bands where it has one for each.
        shape: (rows, columns) of the picture.
        most: the last class that has a colour of its own.
    """
    # A map of one band has colours of its own, which the reader of images would take for the image.
    with open_label(path, layer="image") if len(labels) == 1 else open_raster(path) as scene:
        values: npt.NDArray[Any] = scene.read_layers(scene.grid.whole)["image"].values
    band = values[labels.index(shown.label)]
    rows, cols = (
        (np.arange(count) * 2 + 1) * length // (2 * count) for count, length in zip(shape, band.shape, strict=True)
    )
    thin = band[rows][:, cols]
    if shown.product == "_instances.tif":
        return Marks((thin > 0).astype(np.uint8), thin.astype(np.int64))
    # Layers beyond the last colour begin again with the first one.
    classes = np.where((thin > most) & (thin != UNLABELLED), (thin.astype(np.int64) - 1) % most + 1, thin)
    return Marks(classes.astype(np.uint8))


def trimmed(drawn: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture without the white to its right, but for a margin.

    Args:
        drawn: shape (row, col, 3), uint8.
    """
    inked = np.flatnonzero((drawn < 255).any(axis=(0, 2)))
    return drawn[:, : int(inked[-1]) + _MARGIN_PX] if len(inked) else drawn


def save(path: Path, drawn: npt.NDArray[np.uint8]) -> None:
    """Write a picture as a small PNG with a palette, at once or not at all.

    Args:
        path: of the PNG.
        drawn: shape (row, col, 3), uint8, sRGB.
    """
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(drawn).quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            temporary, "PNG", optimize=True
        )
