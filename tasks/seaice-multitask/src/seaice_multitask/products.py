"""What a mapped scene becomes: rasters on its 80 m grid, maps in polar stereographic projection, a sheet, the upload.

The network works on a coarser grid; every raster here is brought to 80 m by repeating its pixels, a row of blocks at a
time, and is invalid where the radar is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError
from geocore.inference.outputs import by_area, share_km2
from geocore.raster.grid import Window
from geocore.raster.netcdf import new_netcdf
from geocore.raster.npy_store import read_output_band
from geocore.raster.scene import Scene
from geocore.raster.write import BLOCK_PX, RasterWriter
from geocore.report.preview import save_picture
from geocore.storage.memory import ArchiveError, read_arrays
from seaice_multitask.channels import RADAR
from seaice_multitask.colours import class_names
from seaice_multitask.config import OutputSettings
from seaice_multitask.data import SAR
from seaice_multitask.mapping import (
    INVALID,
    at_80m,
    class_plane,
    entropy_plane,
    probability_plane,
    submitted,
)
from seaice_multitask.polar import write_polar_map
from seaice_multitask.quicklook import Sheet, thinned, thinning

Chart = npt.NDArray[np.uint8]

UPLOAD_NAME: Final = "upload_package.nc"
PIXEL_M2: Final = 80.0 * 80.0
CLASSES_FILE: Final = "classes.npz"
"""Classes of a scene on the working grid, kept for the upload file."""


def product_paths(folder: Path, name: str, outputs: Mapping[str, OutputSettings]) -> list[Path]:
    """The files of a scene: classes, probability and entropy (where an output has them), maps, the sheet."""
    endings = ["_pred.tif"]
    if _with_probability(outputs):
        endings += ["_prob.tif", "_entropy.tif"]
    paths = [folder / f"{name}{ending}" for ending in endings]
    return [*paths, *map_paths(folder, name, outputs), folder / f"{name}_sheet.png"]


def map_paths(folder: Path, name: str, outputs: Mapping[str, OutputSettings]) -> list[Path]:
    """The polar stereographic map of each output."""
    return [folder / f"{name}_{output}_map.tif" for output in outputs]


@dataclass(frozen=True, slots=True)
class MappedScene:
    """The parts of a scene, put together on demand."""

    parts: Sequence[tuple[Window, Path]]
    """Chunks in working pixels, each with the folder of its planes."""
    downscale: int
    """80 m pixels per working pixel along an axis."""
    shape: tuple[int, int]
    """Lines and samples of the scene, 80 m pixels."""

    def working_rows(self, plane: str, first: int, stop: int) -> Chart:
        """Rows of a plane, shape (stop - first, col), uint8, working pixels."""
        rows = np.full((stop - first, -(-self.shape[1] // self.downscale)), INVALID, np.uint8)
        for window, folder in self.parts:
            top, bottom = max(first, window.row), min(stop, window.row_stop)
            if top < bottom:
                part = read_output_band(folder, plane)[0, top - window.row : bottom - window.row]
                rows[top - first : bottom - first, window.col : window.col_stop] = part
        return rows

    def lines(self, plane: str, first: int, count: int) -> Chart:
        """Lines of a plane, shape (count, sample), uint8, 80 m pixels."""
        top, stop = first // self.downscale, -(-(first + count) // self.downscale)
        return at_80m(self.working_rows(plane, top, stop), self.downscale, (count, self.shape[1]), first)

    def save_classes(self, path: Path, outputs: Mapping[str, OutputSettings]) -> None:
        """Keep the classes of all outputs for the upload file, compressed; 0 where there is none."""
        rows = -(-self.shape[0] // self.downscale)
        planes = {name: submitted(self.working_rows(class_plane(name), 0, rows)) for name in outputs}
        np.savez_compressed(path, allow_pickle=False, **planes)


def write_products(
    folder: Path,
    scene: Scene,
    mapped: MappedScene,
    outputs: Mapping[str, OutputSettings],
    *,
    resolution_m: float,
    truth: Mapping[str, Chart] | None = None,
) -> dict[str, Any]:
    """Write the products of a scene; each file appears whole or not at all.

    Args:
        folder: where to.
        scene: at 80 m, with the layer `sar`; its name begins the names of the files.
        mapped: what the network made of it.
        outputs: name -> what was said.
        resolution_m: pixel of the polar stereographic maps.
        truth: output -> chart at 80 m, shape (line, sample), uint8, for the sheet.

    Returns:
        For the record: shape of the scene, and of each class the share of the valid pixels, per cent, and the area as
        pixels of 80 m.

    Raises:
        SceneError: the radar cannot be read.
        StorageError: the disk is full or closed.
    """
    sheet, pixels = _write_rasters(folder, scene, mapped, outputs, truth or {})
    paths = map_paths(folder, scene.name, outputs)
    for position, (path, (name, chosen)) in enumerate(zip(paths, outputs.items(), strict=True)):
        write_polar_map(
            path,
            folder / f"{scene.name}_pred.tif",
            band=position + 1,
            grid=scene.grid,
            name=name,
            output=chosen,
            resolution_m=resolution_m,
        )
    save_picture(folder / f"{scene.name}_sheet.png", sheet.draw())
    return {
        "lines": scene.grid.height,
        "samples": scene.grid.width,
        "percent": {name: _shares(pixels[name]) for name in outputs},
        "class_m2": {name: (pixels[name] * PIXEL_M2).tolist() for name in outputs},
    }


def told(summaries: Mapping[str, Mapping[str, Any]], outputs: Mapping[str, OutputSettings]) -> str:
    """What was found in scenes, from what `write_products` says of each: where ice is, and of which stage."""
    areas = {name: np.sum([summary["class_m2"][name] for summary in summaries.values()], axis=0) for name in outputs}
    said = []
    for name, chosen in outputs.items():
        if name == "SIC":  # class 0 is water
            said.append(f"ice on {share_km2(areas[name][1:].sum(), areas[name].sum())}")
        elif name != "FLOE":  # of the floes' sizes the maps tell
            names = class_names(name, chosen)
            said.append(by_area({names[number]: float(area) for number, area in enumerate(areas[name])}))
    return "; ".join(text for text in said if text)


def write_upload(path: Path, scenes: Mapping[str, tuple[Path, int, tuple[int, int]]]) -> None:
    """Write the challenge's upload file at once or not at all.

    Each chart is a variable `<scene>_<chart>` of uint8 over the dimensions `<scene>_<chart>_dim0` and `_dim1`, of the
    full 80 m size, deflated at level 1. Pixels without a prediction hold 0, since the challenge masks by its references
    alone.

    Args:
        path: usually `upload_package.nc`.
        scenes: name -> file of `MappedScene.save_classes`, 80 m pixels per working pixel, lines and samples.

    Raises:
        StorageError: the disk is full or closed.
    """
    with new_netcdf(path) as file:
        for scene, (classes, downscale, shape) in sorted(scenes.items()):
            for name, plane in _classes(classes).items():
                key = f"{scene}_{name}"
                dimensions = (f"{key}_dim0", f"{key}_dim1")
                for dimension, length in zip(dimensions, shape, strict=True):
                    file.dimensions[dimension] = length
                chunks = (min(BLOCK_PX, shape[0]), min(BLOCK_PX, shape[1]))
                variable = file.create_variable(
                    key, dimensions, "uint8", compression="gzip", compression_opts=1, chunks=chunks
                )
                _fill(variable, plane, downscale, shape)


def _classes(path: Path) -> dict[str, Chart]:
    try:
        return read_arrays(path)
    except (OSError, ArchiveError) as error:
        raise DataError(f"{path}: cannot be read ({error}): remove it, and map the scene again") from error


def _fill(variable: Any, working: Chart, downscale: int, shape: tuple[int, int]) -> None:
    for line in range(0, shape[0], BLOCK_PX):
        count = min(BLOCK_PX, shape[0] - line)
        rows = working[line // downscale : -(-(line + count) // downscale)]
        variable[line : line + count] = at_80m(rows, downscale, (count, shape[1]), line)


def _with_probability(outputs: Mapping[str, OutputSettings]) -> list[str]:
    return [name for name, chosen in outputs.items() if chosen.kind == "classes"]


def _write_rasters(
    folder: Path, scene: Scene, mapped: MappedScene, outputs: Mapping[str, OutputSettings], truth: Mapping[str, Chart]
) -> tuple[Sheet, dict[str, npt.NDArray[np.int64]]]:
    """Classes, probability and entropy, a row of blocks at a time; what the sheet shows is kept from each.

    Returns:
        The sheet, and the pixels of each class of each output.
    """
    likely = _with_probability(outputs)
    groups = {
        "pred": ([class_plane(name) for name in outputs], list(outputs), "nearest"),
        "prob": ([probability_plane(name) for name in likely], [f"{name}, %" for name in likely], "average"),
        "entropy": (
            [entropy_plane(name) for name in likely],
            [f"{name}, % of the greatest" for name in likely],
            "average",
        ),
    }
    height, width = scene.grid.shape
    step = thinning(scene.grid.shape)
    radar: dict[str, list[Any]] = {name: [] for name in RADAR}
    found: dict[str, list[Any]] = {name: [] for name in outputs}
    counts = {name: np.zeros(256, np.int64) for name in outputs}
    with ExitStack() as stack:
        writers = {
            ending: stack.enter_context(
                RasterWriter(
                    folder / f"{scene.name}_{ending}.tif",
                    grid=scene.grid,
                    count=len(planes),
                    dtype="uint8",
                    nodata=INVALID,
                    band_names=names,
                    overviews="nearest" if overviews == "nearest" else "average",
                )
            )
            for ending, (planes, names, overviews) in groups.items()
            if planes
        }
        for line in range(0, height, BLOCK_PX):
            count = min(BLOCK_PX, height - line)
            window = Window(line, 0, count, width)
            values, valid = _radar(scene, window)
            usable = np.logical_and.reduce(list(valid.values()))
            # The first line of the block that the sheet shows.
            shown = (slice(-line % step, None, step), slice(None, None, step))
            for name in RADAR:
                radar[name].append(np.where(valid[name], values[name], np.nan)[shown])
            for ending, writer in writers.items():
                bands = np.stack([mapped.lines(plane, line, count) for plane in groups[ending][0]])
                bands[:, ~usable] = INVALID
                writer.write(bands, line)
                if ending == "pred":
                    for name, band in zip(outputs, bands, strict=True):
                        found[name].append(band[shown])
                        counts[name] += np.bincount(band.ravel(), minlength=256)
    sheet = Sheet(
        scene.name,
        {name: np.concatenate(rows) for name, rows in radar.items()},
        {name: np.concatenate(rows) for name, rows in found.items()},
        outputs,
        thinned({name: truth[name] for name in outputs if name in truth}, step),
    )
    return sheet, {name: counts[name][: chosen.classes] for name, chosen in outputs.items()}


def _radar(scene: Scene, window: Window) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, npt.NDArray[np.bool_]]]:
    """Values and masks of both polarisations, each of shape (line, sample)."""
    patch = scene.read_layers(window, [SAR])[SAR]
    masks = np.broadcast_to(patch.valid, patch.values.shape)
    positions = dict(zip(RADAR, scene.layers[SAR].bands.indices(RADAR), strict=True))
    return (
        {name: patch.values[index] for name, index in positions.items()},
        {name: masks[index] for name, index in positions.items()},
    )


def _shares(counts: npt.NDArray[np.int64]) -> list[float]:
    """Percent of each class, rounded to a tenth; all 0 without a valid pixel."""
    shares: list[float] = np.round(100 * counts / max(int(counts.sum()), 1), 1).tolist()
    return shares
