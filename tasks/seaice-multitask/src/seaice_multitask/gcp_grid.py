"""Lattice: the 21 x 21 control points of a scene, and what is interpolated between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geocore.errors import SceneError
from geocore.raster.grid import Grid

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lattice:
    """Positions of control points that form a grid of lines and columns."""

    rows: Float64
    """Shape (line,): rising positions along the rows, in pixels of whatever grid."""
    cols: Float64
    """Shape (column,): rising positions along the columns."""

    def at(self, values: Float64, rows: Float64, cols: Float64) -> Float64:
        """Interpolate bilinearly; beyond the outermost points the border goes on.

        Args:
            values: shape (line, column), at the points.
            rows: shape (row,), positions.
            cols: shape (col,), positions.

        Returns:
            Shape (row, col). A pixel does not depend on which others are asked for, to the last bit.
        """
        across, right = _between(self.cols, cols)
        by_line = values[:, across] * (1 - right) + values[:, across + 1] * right
        down, below = _between(self.rows, rows)
        interpolated: Float64 = by_line[down] * (1 - below)[:, None] + by_line[down + 1] * below[:, None]
        return interpolated


@dataclass(frozen=True, slots=True)
class Places:
    """Latitude and longitude all over a grid."""

    lattice: Lattice
    """In pixels of the grid."""
    latitude: Float64
    """Shape (line, column), degrees."""
    longitude: Float64
    """Shape (line, column), degrees, without a jump at the antimeridian."""

    @classmethod
    def of(cls, grid: Grid, name: str) -> Places:
        """The places of a grid with control points.

        Raises:
            SceneError: its control points form no square of lines and columns; `name` says which scene's.
        """
        side = math.isqrt(len(grid.gcps))
        if side < 2 or side * side != len(grid.gcps):
            raise SceneError(f"scene {name}: latitude and longitude need control points; leave these channels out")
        rows, cols, x, y = (
            np.array([getattr(point, axis) for point in grid.gcps]).reshape(side, side)
            for axis in ("row", "col", "x", "y")
        )
        # The mean of 179 and -179 degrees would be Greenwich.
        for axis in (0, 1):
            x = np.unwrap(x, period=360, axis=axis)
        return cls(Lattice(rows.mean(axis=1), cols.mean(axis=0)), y, x)

    def at(self, rows: Float64, cols: Float64, *, around: float) -> dict[str, Float64]:
        """`latitude` and `longitude` at positions of the grid, degrees, each of shape (row, col).

        Args:
            rows: positions, shape (row,).
            cols: positions, shape (col,).
            around: a longitude, from which that in the middle of the grid lies at most 180 degrees. The others go on
                from there: a network sees -179 degrees beside -181, never beside 179.
        """
        longitude = self.lattice.at(self.longitude, rows, cols)
        middle = float(self.longitude[len(self.longitude) // 2, self.longitude.shape[1] // 2])
        wrapped = (longitude + 180) % 360 - 180
        # Where nothing is to be undone, 0 is added, which changes no bit.
        turns = np.round((longitude - wrapped) / 360) - np.round((middle - around) / 360)
        return {"latitude": self.lattice.at(self.latitude, rows, cols), "longitude": wrapped + 360 * turns}


def _between(known: Float64, wanted: Float64) -> tuple[npt.NDArray[Any], Float64]:
    """Index of the point before each position, and how far it lies on the way to the next, 0-1."""
    index = np.clip(np.searchsorted(known, wanted, side="right") - 1, 0, len(known) - 2)
    share = (wanted - known[index]) / (known[index + 1] - known[index])
    return index, np.clip(share, 0.0, 1.0)
