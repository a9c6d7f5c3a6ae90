"""What a mapped patch becomes: crop and probability as rasters and a table of parcels; patches joined to one map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from affine import Affine

from crops_activesampling.mapping import UNSEEN, MappedPatch
from crops_activesampling.parcels import parcel_table, write_table
from geocore.errors import DataError
from geocore.inference.outputs import PERCENT_NODATA, Tally, added, by_area
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window, same_crs
from geocore.raster.write import BLOCK_PX, Colour, RasterWriter

RASTERS: Final = ("_pred.tif", "_prob.tif")
TABLES: Final = ("_parcels.csv", "_parcels.parquet")

_NODATA: Final[Mapping[str, int]] = {"_pred.tif": UNSEEN, "_prob.tif": PERCENT_NODATA}
_BANDS: Final[Mapping[str, str]] = {"_pred.tif": "crop", "_prob.tif": "probability of the crop, %"}
_LAYER: Final = "map"
_TOLERANCE_PX: Final = 1e-3
_KNOWN: Final[Mapping[str, Colour]] = {
    "wheat": (214, 168, 62),
    "maize": (255, 212, 0),
    "sorghum": (255, 138, 46),
    "barley": (150, 104, 40),
    "rye": (120, 120, 30),
    "oats": (196, 148, 140),
    "grapes": (112, 48, 160),
    "rapeseed": (190, 232, 80),
    "sunflower": (255, 92, 0),
    "potatoes": (112, 38, 0),
    "peas": (64, 150, 80),
    "grassland": (178, 223, 138),
    "no crop": (170, 178, 188),
    "crop": (84, 160, 60),
}
_OTHERS: Final[Sequence[Colour]] = (
    (31, 120, 180),
    (227, 26, 28),
    (0, 170, 170),
    (246, 132, 190),
    (60, 60, 150),
    (130, 200, 240),
    (150, 20, 70),
    (70, 90, 40),
)
"""In turn for the crops without a colour of their own."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A mapped patch within a larger map."""

    name: str
    window: Window
    """Where it lies, pixels of the larger map."""


def product_paths(folder: Path, name: str) -> list[Path]:
    """The files of a patch: crop, probability, parcels as CSV and as Parquet."""
    return [folder / f"{name}{ending}" for ending in (*RASTERS, *TABLES)]


def mosaic_paths(folder: Path, name: str) -> list[Path]:
    """The files of joined patches: crop, probability."""
    return [folder / f"{name}{ending}" for ending in RASTERS]


def class_colours(class_names: Mapping[int, str]) -> dict[int, Colour]:
    """Number of each crop -> red, green, blue, 0-255."""
    colours, others = {}, 0
    for number, name in sorted(class_names.items()):
        known = _KNOWN.get(name.strip().lower())
        colours[number] = known or _OTHERS[others % len(_OTHERS)]
        others += known is None
    return colours


def write_products(
    folder: Path,
    name: str,
    grid: Grid,
    found: MappedPatch,
    parcels: npt.NDArray[np.uint32],
    class_names: Mapping[int, str],
) -> dict[str, Any]:
    """Write all products of a patch; each file appears whole or not at all.

    Args:
        folder: where to.
        name: of the patch.
        grid: of the patch.
        found: its map.
        parcels: shape (row, col), uint32, number of the parcel, 0 outside.
        class_names: number, from 1, and name of each crop.

    Returns:
        For the record: pixels that are seen, percent of these and area of each crop, and number of parcels.

    Raises:
        StorageError: the disk is full or closed.
    """
    pred, prob, csv, parquet = product_paths(folder, name)
    for path, values in ((pred, found.classes), (prob, found.probability)):
        with _writer(path, grid, class_names) as writer:
            writer.write(values[np.newaxis])
    table = parcel_table(found, parcels)
    write_table(csv, parquet, table, class_names)
    tally = Tally(grid)
    tally.add(0, found.classes)
    counts, areas = tally.pixels, tally.areas_m2
    seen = int(found.classes.size - counts[UNSEEN])
    return {
        "seen_px": seen,
        "percent": {label: round(100 * int(counts[key]) / max(seen, 1), 2) for key, label in class_names.items()},
        "class_m2": None if areas is None else {label: float(areas[key]) for key, label in class_names.items()},
        "parcels": len(table.numbers),
    }


def told(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """What was found in patches, from the summaries of `write_products`: `wheat 12.3 km2, maize 4 km2; 310 parcels`."""
    areas = added(summaries, "class_m2")
    parcels = sum(summary["parcels"] for summary in summaries.values())
    crops = [] if areas is None else [by_area(areas) or "nothing was seen"]
    return "; ".join([*crops, *([f"{parcels:,} parcels"] if parcels else [])])


def write_mosaic(folder: Path, name: str, members: Sequence[str], class_names: Mapping[int, str]) -> dict[str, Any]:
    """Join the rasters of patches that lie beside each other; what lies between them is no data.

    Args:
        folder: of the products.
        name: of the joined map.
        members: names of the patches; at least one.
        class_names: number, from 1, and name of each crop.

    Returns:
        For the record of the run: the patches, and rows and columns of the map.

    Raises:
        DataError: the patches are not parts of one grid, or two lie on the same ground.
        SceneError: a raster cannot be read.
        StorageError: the disk is full or closed.
    """
    for ending, path in zip(RASTERS, mosaic_paths(folder, name), strict=True):
        grid, placed = _placed(folder, members, ending)
        with _writer(path, grid, class_names) as writer:
            for row, strip in _strips(folder, grid, placed, ending):
                writer.write(strip[np.newaxis], row)
    return {"patches": list(members), "rows": grid.height, "cols": grid.width}


def _writer(path: Path, grid: Grid, class_names: Mapping[int, str]) -> RasterWriter:
    """A product to be written, by the end of its name."""
    ending = next(each for each in RASTERS if path.name.endswith(each))
    classes = ending == "_pred.tif"
    return RasterWriter(
        path,
        grid=grid,
        count=1,
        dtype="uint8",
        nodata=_NODATA[ending],
        band_names=[_BANDS[ending]],
        colours=class_colours(class_names) if classes else None,
        class_names=class_names if classes else None,
        overviews="nearest" if classes else "average",
    )


def _placed(folder: Path, members: Sequence[str], ending: str) -> tuple[Grid, list[_Member]]:
    """The smallest grid that holds all patches, and where each lies in it."""
    grids = {}
    for name in members:
        with open_raster(folder / f"{name}{ending}", layer=_LAYER, codes=True) as scene:
            grids[name] = scene.grid
    first_name, first = next(iter(grids.items()))
    corners = {}
    for name, grid in grids.items():
        corner = _offset(first, grid)
        if corner is None:
            raise DataError(
                f"{name} and {first_name} are not parts of one grid: their CRS or pixels differ; leave one of them out "
                "of the input, or map without --mosaic"
            )
        corners[name] = corner
    top, left = (min(corner[axis] for corner in corners.values()) for axis in (0, 1))
    placed = [
        _Member(name, Window(row - top, col - left, grids[name].height, grids[name].width))
        for name, (row, col) in corners.items()
    ]
    moved = (first.transform or Affine.identity()) @ Affine.translation(left, top)
    height, width = max(each.window.row_stop for each in placed), max(each.window.col_stop for each in placed)
    return Grid(height, width, moved, first.crs, length_unit=first.length_unit), placed


def _offset(first: Grid, other: Grid) -> tuple[int, int] | None:
    """Rows and columns from the corner of a grid to that of another; None where their pixels do not coincide."""
    if first.transform is None or other.transform is None or not same_crs(first.crs or "", other.crs or ""):
        return None
    steps, others = (np.array([[its.a, its.b], [its.d, its.e]]) for its in (first.transform, other.transform))
    apart = np.array([other.transform.c - first.transform.c, other.transform.f - first.transform.f])
    col, row = np.linalg.solve(steps, apart)
    # How far pixels have drifted apart at the opposite corner.
    drift = np.abs(np.linalg.solve(steps, others) - np.eye(2)).max() * max(other.shape)
    if max(abs(col - round(col)), abs(row - round(row)), drift) > _TOLERANCE_PX:
        return None
    return round(row), round(col)


def _strips(
    folder: Path, grid: Grid, placed: Sequence[_Member], ending: str
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Rows of blocks of the joined map, shape (row, col), uint8, with the first row of each."""
    for row in range(0, grid.height, BLOCK_PX):
        strip = Window(row, 0, min(BLOCK_PX, grid.height - row), grid.width)
        values, owners = np.full(strip.shape, _NODATA[ending], np.uint8), np.full(strip.shape, -1, np.int32)
        for number, member in enumerate(placed):
            part = strip.intersection(member.window)
            if part is None:
                continue
            place = part.shifted(-row, 0).slices
            taken = int(owners[place].max())
            if taken >= 0:
                raise DataError(
                    f"{member.name} and {placed[taken].name} lie on the same ground: a map has one class a pixel; "
                    "leave one of them out of the input, or map without --mosaic"
                )
            owners[place] = number
            with open_raster(folder / f"{member.name}{ending}", layer=_LAYER, codes=True) as scene:
                inside = part.shifted(-member.window.row, -member.window.col)
                values[place] = scene.read_layers(inside)[_LAYER].values[0]
        yield row, values
