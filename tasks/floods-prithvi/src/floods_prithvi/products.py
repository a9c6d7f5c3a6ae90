"""What a mapped scene becomes: class, probability and confidence as rasters, and outlines of flooded or burnt areas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine

from floods_prithvi.mapping import CLASS, CONFIDENCE, INVALID, PROBABILITY
from geocore.errors import DataError
from geocore.inference.outputs import Tally, added, by_area, share_km2
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.npy_store import merge_chunks
from geocore.raster.write import BLOCK_PX, Colour, RasterWriter
from geocore.vector.features import measures, write_polygons
from geocore.vector.polygonize import Region, Strip, trace_regions

ENDINGS: Final = ("_pred.tif", "_prob.tif", "_confidence.tif", ".gpkg", ".parquet")
_KNOWN: Final[Mapping[str, Colour]] = {
    "land": (222, 214, 196),
    "unburnt land": (222, 214, 196),
    "water": (33, 102, 204),
    "open water": (33, 102, 204),
    "burn scar": (178, 44, 20),
}
_OTHERS: Final[Sequence[Colour]] = (
    (140, 190, 120),
    (0, 110, 60),
    (250, 205, 70),
    (60, 130, 20),
    (110, 180, 190),
    (130, 130, 130),
    (170, 110, 40),
    (240, 120, 170),
    (190, 180, 120),
    (210, 40, 80),
    (255, 150, 40),
    (120, 80, 160),
    (90, 60, 40),
)
"""In turn for the classes without a colour of their own."""


def product_paths(folder: Path, name: str) -> list[Path]:
    """The files of a scene: classes, probability, confidence, GeoPackage, GeoParquet."""
    return [folder / f"{name}{ending}" for ending in ENDINGS]


def outlined(class_names: Mapping[int, str]) -> tuple[int, ...]:
    """Classes that get outlines: of two the second, of more all."""
    return (1,) if len(class_names) == 2 else tuple(sorted(class_names))


def class_colours(class_names: Mapping[int, str]) -> dict[int, Colour]:
    """Class -> red, green, blue, 0-255."""
    colours, others = {}, 0
    for index, name in sorted(class_names.items()):
        known = _KNOWN.get(name.strip().lower())
        colours[index] = known or _OTHERS[others % len(_OTHERS)]
        others += known is None
    return colours


def write_products(
    folder: Path,
    name: str,
    grid: Grid,
    parts: Sequence[tuple[Window, Path]],
    class_names: Mapping[int, str],
    *,
    min_area_m2: float = 0.0,
) -> dict[str, Any]:
    """Write all products of a scene; each file appears whole or not at all.

    Outlines hold the pixels of one class that touch, at corners too. Their attributes: `id` from 1 in the order of the
    first pixel, row by row; `class`; `mean_probability` of that class, 0-1; `area_m2`, `perimeter_m`, `centroid_lat`,
    `centroid_lon` (EPSG:4326), all of the polygon and NaN without a georeference; `scene`.

    Args:
        folder: where to.
        name: of the scene.
        grid: of the scene.
        parts: chunks of the scene with the folders that hold the planes of `mapping.planes`.
        class_names: index and name of each class.
        min_area_m2: what has less ground under its pixels gets no outline; the classes stay as they are.

    Returns:
        For the record: number of polygons and their area (None without a georeference), valid pixels, and percent,
        pixels and area of each class.

    Raises:
        DataError: an area is asked for, but the scene has no georeference.
        StorageError: the disk is full or closed.
    """
    if min_area_m2 and (grid.transform is None or grid.length_unit == "px"):
        raise DataError(f"min_area_m2 = {min_area_m2:g}: the scene has no georeference in m or degrees; give 0")
    pred, prob, confidence, gpkg, parquet = product_paths(folder, name)
    two = len(class_names) == 2
    of = class_names[1] if two else "the class"
    rasters = (
        (CLASS, pred, "class"),
        (PROBABILITY, prob, f"probability of {of}, %"),
        (CONFIDENCE, confidence, "probability of the class less that of the runner-up, %"),
    )
    for plane, path, band in rasters:
        classes = plane == CLASS
        with RasterWriter(
            path,
            grid=grid,
            count=1,
            dtype="uint8",
            nodata=INVALID,
            band_names=[band],
            colours=class_colours(class_names) if classes else None,
            class_names=class_names if classes else None,
            # What is neither water nor burnt lets the map below be seen.
            transparent=(0,) if classes and two else (),
            overviews="nearest" if classes else "average",
        ) as writer:
            merge_chunks(parts, plane, writer.write)
    tally = Tally(grid)
    found = trace_regions(_strips(pred, prob, grid, tally), grid, outlined(class_names), min_area_m2)
    area = _write_outlines(gpkg, parquet, name, grid, found, class_names)
    pixels, areas = tally.pixels, tally.areas_m2
    valid = int(pixels[:INVALID].sum())
    return {
        "polygons": len(found),
        "area_m2": area,
        "valid_px": valid,
        "percent": {label: round(100 * int(pixels[key]) / max(valid, 1), 2) for key, label in class_names.items()},
        "class_px": {label: int(pixels[key]) for key, label in class_names.items()},
        "class_m2": None if areas is None else {label: float(areas[key]) for key, label in class_names.items()},
    }


def told(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """What was found in scenes, from what `write_products` says of each: `water on 12.3 of 230 km2`."""
    pixels, areas = added(summaries, "class_px") or {}, added(summaries, "class_m2")
    if areas is not None and len(areas) > 2:
        return by_area(areas)
    found = list(pixels)[1:2] if len(pixels) == 2 else list(pixels)
    seen = sum(pixels.values())
    if areas is None or not seen:
        shares = ", ".join(f"{name} on {100 * pixels[name] / max(seen, 1):.3g} %" for name in found)
        return f"{shares} of {seen:,.0f} pixels"
    return f"{found[0]} on {share_km2(areas[found[0]], sum(areas.values()))}"


def _strips(pred: Path, prob: Path, grid: Grid, tally: Tally) -> Iterator[Strip]:
    """Rows of blocks of the written rasters, which are counted."""
    with open_raster(pred, layer=CLASS, codes=True) as classes, open_raster(prob, layer=PROBABILITY) as percent:
        for row in range(0, grid.height, BLOCK_PX):
            window = Window(row, 0, min(BLOCK_PX, grid.height - row), grid.width)
            strip = classes.read_layers(window)[CLASS].values[0]
            tally.add(row, strip)
            yield row, strip, percent.read_layers(window)[PROBABILITY].values[0]


def _write_outlines(
    gpkg: Path, parquet: Path, name: str, grid: Grid, found: Sequence[Region], class_names: Mapping[int, str]
) -> float | None:
    """Write the polygons and return their area, m2; None where it is not known."""
    a, b, c, d, e, f = (grid.transform or Affine.identity())[:6]
    crs = None if grid.transform is None else grid.crs

    def placed(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        col, row = points.T
        return np.column_stack([a * col + b * row + c, d * col + e * row + f])

    shapes = [shapely.transform(region.shape, placed) for region in found]
    ground = measures(shapes, crs)
    columns: dict[str, Any] = {
        "id": np.arange(1, len(found) + 1, dtype=np.int64),
        "class": [class_names[region.label] for region in found],
        "mean_probability": np.array([region.mean / 100 for region in found], np.float64),
        "area_m2": ground.area_m2,
        "perimeter_m": ground.perimeter_m,
        "centroid_lat": ground.lat,
        "centroid_lon": ground.lon,
        "scene": [name] * len(found),
    }
    write_polygons(gpkg, parquet, shapes, columns, crs)
    return float(ground.area_m2.sum()) if np.isfinite(ground.area_m2).all() else None
