"""Polygons of a label raster of 5000 x 5000 with some 10,000 objects, in map coordinates.

geocore's and rasterio's run along the edges of pixels, so count and area have to agree. Contours of OpenCV run through
the centres of pixels and lose what is small: they are measured, but are no polygons of the same thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured, watch

CASE = "label raster"
GEOCORE = "geocore"
RASTERIO = "rasterio.features.shapes + shapely"
OPENCV = "cv2.findContours + shapely (other outlines)"

_RADIUS_PX = 14
_PIXEL_M = 10.0
_LEFT_M, _TOP_M = 500_000.0, 4_500_000.0

Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is traced."""

    size: int = 5000
    blobs: int = 5000


def draw(setting: Setting) -> Labels:
    """Ragged blobs of four classes, shape (size, size), uint8, 0 where there is none."""
    rng = np.random.default_rng(0)
    labels = np.zeros((setting.size, setting.size), np.uint8)
    rows, cols = np.mgrid[-_RADIUS_PX : _RADIUS_PX + 1, -_RADIUS_PX : _RADIUS_PX + 1]
    for number in range(setting.blobs):
        height, width = rng.uniform(4, 13, 2)
        inside = (rows / height) ** 2 + (cols / width) ** 2 < rng.uniform(0.8, 1.2, rows.shape)
        row, col = rng.integers(_RADIUS_PX, setting.size - _RADIUS_PX - 1, 2)
        box = labels[row - _RADIUS_PX : row + _RADIUS_PX + 1, col - _RADIUS_PX : col + _RADIUS_PX + 1]
        box[inside] = number % 4 + 1
    return labels


def timed(setting: Setting, trace: Callable[[Labels], tuple[int, float]]) -> Measured:
    """Time the tracing of the whole raster.

    Args:
        setting: what is traced.
        trace: returns the number of polygons and their area, pixels.

    Returns:
        Seconds, with `polygons`, their `area_px` and the pixels that have a label, `labelled_px`.
    """
    labels = draw(setting)
    trace(labels[:256, :256].copy())  # sets up what is set up once
    with watch() as seen:
        count, area = trace(labels)
    figures = {"polygons": count, "area_px": round(area), "labelled_px": int(np.count_nonzero(labels))}
    return Measured(seen.seconds, {**seen.details, **figures})


def geocore_polygons(setting: Setting, data: Path) -> Measured:
    """Every object of the raster at once."""

    def trace(labels: Labels) -> tuple[int, float]:
        import shapely

        shapes = _traced(labels)
        return len(shapes), float(shapely.area(shapes).sum()) / _PIXEL_M**2

    return timed(setting, trace)


def _traced(labels: Labels) -> NDArray[Any]:
    """The call of geocore that is measured."""
    from rasterio.transform import from_origin

    from geocore.vector.polygonize import polygonize_labels

    shapes, _ = polygonize_labels(labels, from_origin(_LEFT_M, _TOP_M, _PIXEL_M, _PIXEL_M))
    return shapes


def rasterio_shapes(setting: Setting, data: Path) -> Measured:
    """As its documentation shows, with the background left out."""
    from rasterio.features import shapes
    from rasterio.transform import from_origin
    from shapely.geometry import shape

    transform = from_origin(_LEFT_M, _TOP_M, _PIXEL_M, _PIXEL_M)

    def trace(labels: Labels) -> tuple[int, float]:
        traced = shapes(labels, mask=labels > 0, connectivity=4, transform=transform)
        found = [(shape(outline), value) for outline, value in traced]
        return len(found), sum(outline.area for outline, _ in found) / _PIXEL_M**2

    return timed(setting, trace)


def opencv_contours(setting: Setting, data: Path) -> Measured:
    """Contours with their holes, class by class."""
    import cv2
    import shapely

    scale, offset = (_PIXEL_M, -_PIXEL_M), (_LEFT_M + _PIXEL_M / 2, _TOP_M - _PIXEL_M / 2)

    def trace(labels: Labels) -> tuple[int, float]:
        count, area = 0, 0.0
        for value in np.unique(labels[labels > 0]):
            plane = (labels == value).view(np.uint8)
            contours, tree = cv2.findContours(plane, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            rings = [np.concatenate([ring[:, 0], ring[:1, 0]]) * scale + offset for ring in contours]
            shells: list[int] = []
            holes: dict[int, list[Any]] = {}
            for place, (_, _, _, parent) in enumerate(tree[0] if len(rings) else ()):
                if len(rings[place]) < 4:
                    continue
                if parent < 0:
                    shells.append(place)
                else:
                    holes.setdefault(parent, []).append(rings[place])
            for place in shells:
                count += 1
                area += shapely.Polygon(rings[place], holes.get(place)).area / _PIXEL_M**2
        return count, area

    measured = timed(setting, trace)
    # Its count and area are not those of the others, and are reported under names of their own.
    others = {"polygons": "contours", "area_px": "contour_area_px"}
    return Measured(measured.value, {others.get(name, name): figure for name, figure in measured.details.items()})


def prepare(data: Path, quick: bool) -> None:
    """Nothing: the raster is drawn in each run."""


def cases(quick: bool) -> list[Case]:
    """The raster of the goal."""
    setting = Setting(600, 200) if quick else Setting()
    contenders = (
        Contender(GEOCORE, OURS, geocore_polygons),
        Contender(RASTERIO, "peers", rasterio_shapes),
        Contender(OPENCV, "peers", opencv_contours),
    )
    agree = {"polygons": 0.0, "area_px": 0.0}
    return [Case(CASE, "s", setting, contenders, more_is_better=False, agree=agree)]
