"""Files of another grid brought to a grid as they are read: a whole number of its pixels wide, or warped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform

from geocore.errors import SceneError
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import BandReader, Patch, notes_of, resolved_bands

_TOLERANCE_PX = 0.05


def integer_ratio(reference: Grid, grid: Grid, name: str) -> int | None:
    """Reference pixels per pixel of a grid, along an axis.

    Without a transform the control points decide, else the shape alone, which must then fit one ratio only.

    Args:
        reference: the finer grid.
        grid: to be compared with it; its border pixels may reach beyond.
        name: of the grid's file, for the message.

    Returns:
        1 for the same grid; None where the grid does not nest.

    Raises:
        SceneError: without a georeference, several ratios fit.
    """
    if reference.transform is None or grid.transform is None:
        ratios = _fitting_ratios(reference, grid)
        if len(ratios) > 1:
            raise SceneError(
                f"{name}: each of its {grid.height} x {grid.width} pixels may be {ratios[0]} to {ratios[-1]} of "
                f"the {reference.height} x {reference.width} reference pixels wide: without a georeference only one "
                "ratio may fit; write a transform or the same control points into both files"
            )
        return ratios[0] if ratios else None
    width = math.dist((0, 0), reference.transform[:2])
    ratio = max(1, round(math.dist((0, 0), grid.transform[:2]) / width)) if width else 1
    coarse = reference.coarser(ratio)
    nested = bool(width) and coarse.shape == grid.shape and coarse.same_georeference(grid, _TOLERANCE_PX)
    return ratio if nested else None


def _fitting_ratios(reference: Grid, grid: Grid) -> list[int]:
    """Ratios at which a grid nests in the reference, by shape and, where both have them, by control points.

    The border pixels of a coarse grid may reach outside, so several ratios can give one shape.
    """
    longest = max(-(-reference.height // grid.height), -(-reference.width // grid.width))
    placed = reference.gcps and grid.gcps
    coarser = {ratio: reference.coarser(ratio) for ratio in range(1, 2 * longest + 1)}
    return [
        ratio
        for ratio, coarse in coarser.items()
        if coarse.shape == grid.shape and (not placed or coarse.same_georeference(grid, _TOLERANCE_PX))
    ]


Interpolation = Literal["bilinear", "nearest"]

_WARP_TOLERANCE_PX = 0.01
"""How far the place of a pixel may be off, in pixels of the file: places between those transformed are interpolated."""


@dataclass(frozen=True, slots=True)
class Warp:
    """How a file is brought to a grid."""

    grid: Grid
    interpolation: Interpolation = "bilinear"
    """bilinear for quantities: where the file is finer, the mean of what a pixel covers, weighted by distance;
    nearest for classes."""

    def open(self, dataset: Any, name: str, nodata: float | None = None) -> Any:
        """A view of a dataset on the grid; what the dataset does not cover is invalid.

        Args:
            dataset: an open rasterio dataset, which must stay open.
            name: of the file, for messages.
            nodata: value of the bands' missing pixels; None: no value marks them.

        Raises:
            SceneError: the file or the grid has no georeference, or there is no way from one CRS to the other.
        """
        grid = self.grid
        points, points_crs = dataset.gcps
        crs = dataset.crs or (points_crs if points else None)
        if grid.transform is None or grid.crs is None:
            raise SceneError(f"{name}: does not nest in the reference, which has no transform and CRS to bring it to")
        if crs is None or (dataset.transform == Affine.identity() and not points):
            raise SceneError(
                f"{name}: has no georeference, and its {dataset.height} x {dataset.width} pixels do not nest in the "
                f"{grid.height} x {grid.width} of the reference; write a transform and a CRS into it"
            )
        stated = nodata is not None and _holds(dataset.dtypes[0], nodata)
        alpha = ColorInterp.alpha in dataset.colorinterp
        try:
            scale_x, scale_y = (1.0, 1.0) if points else _scales(dataset, crs, grid)
            return WarpedVRT(
                dataset,
                src_crs=crs,
                crs=CRS.from_user_input(grid.crs),
                transform=grid.transform,
                height=grid.height,
                width=grid.width,
                resampling=Resampling[self.interpolation],
                src_nodata=nodata if stated else None,
                nodata=nodata if stated else None,
                add_alpha=not stated and not alpha,
                tolerance=_WARP_TOLERANCE_PX,
                # Each band is missing for itself; else only a pixel that is missing in all of them would be.
                UNIFIED_SRC_NODATA="NO",
                # Otherwise GDAL measures them for each part that it warps, and the parts would not fit together.
                XSCALE=scale_x,
                YSCALE=scale_y,
            )
        except (RasterioError, ValueError) as error:
            raise SceneError(
                f"{name}: cannot be brought from its CRS to that of the reference ({' '.join(str(error).split())[:120]}"
                "); resample it to the reference's grid"
            ) from error


class WarpedReader:
    """Reads a layer in whole blocks that lie at fixed places, and cuts windows from these.

    So a pixel does not depend on the window that it is read in: where GDAL interpolates places and looks for
    neighbours depends on what is asked for at once.
    """

    def __init__(self, source: BandReader, block: tuple[int, int]) -> None:
        self.layer = source.layer
        self.resolved = resolved_bands(source)
        self.shape = source.shape
        self.block = block
        self._source = source

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how files were read."""
        return notes_of(self._source)

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside.

        Raises:
            SceneError: the file is damaged there.
        """
        values: NDArray[Any] | None = None
        valid = np.empty(0, np.bool_)
        for part in self._blocks(window):
            patch = self._source.read(part)
            shared = part.intersection(window)
            assert shared is not None
            if values is None:
                values = np.empty((*patch.values.shape[:-2], *window.shape), patch.values.dtype)
                valid = np.empty((*patch.valid.shape[:-2], *window.shape), np.bool_)
            source = (..., *shared.shifted(-part.row, -part.col).slices)
            target = (..., *shared.shifted(-window.row, -window.col).slices)
            values[target] = patch.values[source]
            valid[target] = patch.valid[source]
        assert values is not None
        return Patch(values, valid)

    def _blocks(self, window: Window) -> Iterator[Window]:
        rows, cols = self.block
        whole = Window(0, 0, *self.shape)
        for row in range(window.row // rows * rows, window.row_stop, rows):
            for col in range(window.col // cols * cols, window.col_stop, cols):
                part = Window(row, col, rows, cols).intersection(whole)
                assert part is not None
                yield part

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def _holds(dtype: str, value: float) -> bool:
    """Whether a type can hold a nodata value."""
    if dtype.startswith("complex"):
        return False
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return True
    limits = np.iinfo(kind)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def _scales(dataset: Any, crs: CRS, grid: Grid) -> tuple[float, float]:
    """Pixels of the grid per pixel of the dataset along columns and rows, at the grid's centre."""
    assert grid.transform is not None
    row, col = grid.height / 2, grid.width / 2
    points = [grid.transform @ point for point in ((col, row), (col + 1, row), (col, row + 1))]
    xs, ys = transform(CRS.from_user_input(grid.crs), crs, [x for x, _ in points], [y for _, y in points])
    inverse = ~dataset.transform
    centre, right, below = [inverse @ point for point in zip(xs, ys, strict=True)]
    # Steps along both axes of the grid, seen along each axis of the file, since the two may be turned.
    steps = [math.hypot(right[axis] - centre[axis], below[axis] - centre[axis]) for axis in (0, 1)]
    return (1 / steps[0], 1 / steps[1]) if all(0 < step < math.inf for step in steps) else (1.0, 1.0)
