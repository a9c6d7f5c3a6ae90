"""What a mapped scene becomes: probability, instances and classes as rasters, and polygons with attributes.

Everything here needs the whole scene: objects are joined over tiles and regions, chosen by score and area, numbered,
and painted block by block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from affine import Affine

from geocore.errors import DataError
from geocore.inference.outputs import added, km2
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import PixelAreas, has_ground
from geocore.raster.npy_store import OutputBand, merge_chunks
from geocore.raster.scene import Scene
from geocore.raster.write import BLOCK_PX, RasterWriter
from geocore.vector.features import measures, polygonize, write_polygons
from slumps_detectron2.instances import Instance, paint

ENDINGS: Final = ("_prob.tif", "_instances.tif", "_pred.tif", ".gpkg", ".parquet")
PROBABILITY: Final = OutputBand("probability", "uint8")
PERCENT_NODATA: Final = 255
INSTANCE_NODATA: Final = 4294967295
CLASS_NODATA: Final = 255
_COLOURS = ((214, 39, 40), (31, 119, 180), (255, 127, 14), (44, 160, 44), (148, 103, 189), (140, 86, 75))
"""Red, green, blue, 0-255, of the classes in order; then from the start."""


def product_paths(folder: Path, name: str) -> list[Path]:
    """The files of a scene: probability, instances, classes, GeoPackage, GeoParquet."""
    return [folder / f"{name}{ending}" for ending in ENDINGS]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects are kept."""

    threshold: float
    """Lowest score."""
    min_area_m2: float = 0.0
    """Minimum mapping unit."""

    def of(self, instances: Sequence[Instance], grid: Grid) -> list[Instance]:
        """The objects that are kept, in their order.

        Raises:
            DataError: an area is asked for, but the scene has no georeference.
        """
        kept = [instance for instance in instances if instance.score >= self.threshold]
        if not self.min_area_m2:
            return kept
        if not has_ground(grid):
            raise DataError(
                f"min_area_m2 = {self.min_area_m2:g}: the scene has no georeference in m or degrees; give 0"
            )
        ground = PixelAreas(grid)
        least, most = ground.bounds_m2

        def is_large(instance: Instance) -> bool:
            # Few lie between what decides at once.
            if instance.pixels * most < self.min_area_m2 or instance.pixels * least >= self.min_area_m2:
                return instance.pixels * least >= self.min_area_m2
            return float(ground.within(instance.window)[instance.mask].sum()) >= self.min_area_m2

        return [instance for instance in kept if is_large(instance)]


def write_products(
    folder: Path,
    name: str,
    grid: Grid,
    parts: Sequence[tuple[Window, Path]],
    instances: Sequence[Instance],
    class_names: dict[int, str],
) -> dict[str, Any]:
    """Write all products of a scene; each file appears whole or not at all.

    Args:
        folder: where to.
        name: of the scene.
        grid: of the scene.
        parts: regions of the scene with the folders that hold their plane `probability`.
        instances: the kept objects; their ids are 1, 2, ... in this order.
        class_names: class value -> name.

    Returns:
        For the record: number of objects, of each kind too, and their area (None without a georeference).

    Raises:
        StorageError: the disk is full or closed.
    """
    prob, ids, pred, gpkg, parquet = product_paths(folder, name)
    band = ["slump probability, %"]
    with RasterWriter(prob, grid=grid, count=1, dtype="uint8", nodata=PERCENT_NODATA, band_names=band) as writer:
        merge_chunks(parts, PROBABILITY.name, writer.write)
    with open_raster(prob) as scene:
        _write_rasters(ids, pred, scene, grid, instances, class_names)
        attributes = _attributes(scene, grid, instances, class_names)
    transform = grid.transform or Affine.identity()
    shapes = [polygonize(instance.mask, transform, instance.window) for instance in instances]
    # Control points alone place no outline: it stays in pixels.
    crs = None if grid.transform is None else grid.crs
    ground = measures(shapes, crs)
    columns: dict[str, Any] = {
        "id": np.arange(1, len(instances) + 1, dtype=np.int64),
        **attributes,
        "area_m2": ground.area_m2,
        "perimeter_m": ground.perimeter_m,
        "centroid_lat": ground.lat,
        "centroid_lon": ground.lon,
        "scene": [name] * len(instances),
    }
    write_polygons(gpkg, parquet, shapes, columns, crs)
    known = np.isfinite(ground.area_m2).all()
    kinds = Counter(class_names[instance.label] for instance in instances)
    return {
        "objects": len(instances),
        "kinds": {name: kinds[name] for name in class_names.values()},
        "area_m2": float(ground.area_m2.sum()) if known else None,
    }


def told(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """What was found in scenes, from what `write_products` says of each: `12 slumps on 0.034 km2`."""
    kinds = added(summaries, "kinds") or {}
    total = sum(kinds.values())
    counts = f"{total:.0f} {next(iter(kinds)) if len(kinds) == 1 else 'object'}{'' if total == 1 else 's'}"
    if len(kinds) > 1:
        counts += f" ({', '.join(f'{count:.0f} {name}' for name, count in kinds.items())})"
    areas = [summary["area_m2"] for summary in summaries.values()]
    return counts if None in areas else f"{counts} on {km2(sum(areas))}"


def _write_rasters(
    ids: Path, pred: Path, probability: Scene, grid: Grid, instances: Sequence[Instance], class_names: dict[int, str]
) -> None:
    """Instances and classes, a row of blocks at a time."""
    labels = np.array([0, *(instance.label for instance in instances)], np.uint8)
    names = {0: "background", **class_names}
    colours = {label: _COLOURS[index % len(_COLOURS)] for index, label in enumerate(sorted(class_names))}
    with (
        RasterWriter(
            ids,
            grid=grid,
            count=1,
            dtype="uint32",
            nodata=INSTANCE_NODATA,
            band_names=["instance"],
            overviews="nearest",
        ) as of_ids,
        RasterWriter(
            pred,
            grid=grid,
            count=1,
            dtype="uint8",
            nodata=CLASS_NODATA,
            band_names=["class"],
            colours={0: (0, 0, 0), **colours},
            class_names=names,
            transparent=(0,),
        ) as of_classes,
    ):
        for row in range(0, grid.height, BLOCK_PX):
            window = Window(row, 0, min(BLOCK_PX, grid.height - row), grid.width)
            painted = paint(instances, window)
            valid = next(iter(probability.read_layers(window).values())).valid[0]
            of_ids.write(np.where(valid, painted, np.uint32(INSTANCE_NODATA))[np.newaxis], row)
            of_classes.write(np.where(valid, labels[painted], np.uint8(CLASS_NODATA))[np.newaxis], row)


def _attributes(
    probability: Scene, grid: Grid, instances: Sequence[Instance], class_names: dict[int, str]
) -> dict[str, Any]:
    """Class, score, probability under the object, and whether the object reaches what is not known."""
    count = len(instances)
    mean, highest = np.zeros(count), np.zeros(count)
    touches = np.zeros(count, bool)
    for index, instance in enumerate(instances):
        window = instance.window
        # One pixel more on each side; what lies outside the scene is invalid.
        wide = Window(window.row - 1, window.col - 1, window.height + 2, window.width + 2)
        patch = next(iter(probability.read_layers(wide).values()))
        under = patch.values[0, 1:-1, 1:-1][instance.mask].astype(np.float64) / 100
        mean[index], highest[index] = under.mean(), under.max()
        touches[index] = bool((_grown(instance.mask) & ~patch.valid[0]).any())
    return {
        "class": [class_names[instance.label] for instance in instances],
        "score": np.array([instance.score for instance in instances], np.float64),
        "mean_probability": mean,
        "max_probability": highest,
        "touches_nodata": touches,
    }


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask with its eight neighbours, one pixel larger on each side."""
    rows, cols = mask.shape
    grown = np.zeros((rows + 2, cols + 2), bool)
    for down in range(3):
        for right in range(3):
            grown[down : down + rows, right : right + cols] |= mask
    return grown
