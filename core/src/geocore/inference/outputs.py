"""What a map says: of a pixel its class, how probable that is and how sure the model was; of a class its area.

What is said of a pixel is made of the same blended shares, a few rows at a time and on the model's device, so that only
small integers leave it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geocore.raster.grid import Grid, Window
from geocore.raster.ground import PixelAreas, has_ground

PERCENT_NODATA = 255
"""Value of invalid pixels in a percentage raster."""


def argmax_labels(blended: Tensor) -> Tensor:
    """Class of the highest probability; the lower class where two are equal.

    Args:
        blended: shape (class, row, col), float; at least 2 and at most 256 classes.

    Returns:
        Shape (row, col), uint8, class index.
    """
    classes = blended.shape[0]
    if not 2 <= classes <= 256:
        raise ValueError(f"{classes} channels: labels need 2 to 256 classes; compare one probability with a threshold")
    if classes == 2:
        return (blended[1] > blended[0]).to(torch.uint8)
    # argmax over an outer dimension is 5 to 20 times slower than max on a CPU.
    return blended.max(0).indices.to(torch.uint8)


def to_percent(probability: Tensor, valid: Tensor) -> Tensor:
    """Probability as a whole percentage.

    Args:
        probability: shape (..., row, col), float, 0-1.
        valid: shape broadcastable to it, bool.

    Returns:
        Shape of `probability`, uint8, 0-100, and 255 where invalid.
    """
    return (probability * 100).round_().clamp_(0, 100).to(torch.uint8).masked_fill_(~valid, PERCENT_NODATA)


def margin(shares: Tensor) -> Tensor:
    """Probability of the chosen class less that of the runner-up.

    Args:
        shares: shape (class, row, col), float, 0-1; at least 2 classes.

    Returns:
        Shape (row, col), float, 0-1; 0 where two classes are equal.
    """
    if len(shares) == 2:
        return (shares[1] - shares[0]).abs_()
    # Each pixel's own class is taken out, so that of two equal ones the other is the runner-up.
    highest, chosen = shares.max(0)
    return highest - shares.scatter(0, chosen[None], -1.0).amax(0)


def normalized_entropy(shares: Tensor) -> Tensor:
    """Entropy of the shares as a part of its greatest value, that of equal shares.

    C. E. Shannon, A mathematical theory of communication, Bell Syst. Tech. J. 27, 1948.

    Args:
        shares: shape (class, row, col), float, 0-1; at least 2 classes.

    Returns:
        Shape (row, col), float, 0-1; sums of shares differ from 1 by rounding, and it may exceed 1 by as much.
    """
    entropy: Tensor = torch.special.entr(shares).sum(0)
    return entropy.div_(math.log(len(shares)))


_BLOCK_PX: Final = 512
_ALIKE: Final = 1e-4
"""Pixels of a block whose areas differ by a smaller share count with that of the middle one."""


class Tally:
    """Adds up the classes of a map, strip by strip."""

    def __init__(self, grid: Grid) -> None:
        """Begin with nothing.

        Args:
            grid: of the map.
        """
        self._areas = PixelAreas(grid) if has_ground(grid) else None
        self.pixels: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        """Shape (256,): pixels of each class."""
        self._m2 = np.zeros(256)

    @property
    def areas_m2(self) -> npt.NDArray[np.float64] | None:
        """Shape (256,): ground of each class, m2; None without a georeference."""
        return None if self._areas is None else self._m2

    def add(self, row: int, classes: npt.NDArray[np.uint8]) -> None:
        """Count rows of the map.

        Args:
            row: the first of them.
            classes: shape (row, col), uint8, as wide as the grid.
        """
        for col in range(0, classes.shape[1], _BLOCK_PX):
            block = np.ascontiguousarray(classes[:, col : col + _BLOCK_PX])
            counts = np.bincount(block.ravel(), minlength=256)
            self.pixels += counts
            if self._areas is not None:
                self._m2 += self._ground(Window(row, col, *block.shape), block, counts)

    def _ground(
        self, window: Window, block: npt.NDArray[np.uint8], counts: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.float64]:
        assert self._areas is not None
        low, middle, high = self._range(self._areas, window)
        weights = self._areas.within(window).ravel() if high - low > _ALIKE * low else None
        if weights is None:
            return counts.astype(np.float64) * middle
        return np.bincount(block.ravel(), weights=weights, minlength=256).astype(np.float64, copy=False)

    @staticmethod
    def _range(areas: PixelAreas, window: Window) -> tuple[float, float, float]:
        """Smallest area, that of the middle and the largest among the corners and the middle of a window."""
        rows = (window.row, window.row + window.height // 2, window.row_stop - 1)
        cols = (window.col, window.col + window.width // 2, window.col_stop - 1)
        found = [float(areas.within(Window(row, col, 1, 1))[0, 0]) for row in rows for col in cols]
        return min(found), found[len(found) // 2], max(found)


def km2(area_m2: float) -> str:
    """An area in words: `0.0345 km2`, `1,230 km2`."""
    area = area_m2 / 1e6
    return f"{area:,.0f} km2" if area >= 1000 else f"{area:.3g} km2"


def share_km2(part_m2: float, whole_m2: float) -> str:
    """A part of an area in words: `12.3 of 230 km2`."""
    return f"{km2(part_m2).removesuffix(' km2')} of {km2(whole_m2)}"


def by_area(areas_m2: Mapping[str, float], *, most: int = 6) -> str:
    """Names with their areas, the largest first: `maize 12 km2, wheat 3.4 km2`.

    Args:
        areas_m2: name -> area, m2.
        most: names that are shown; what comes behind is added up.
    """
    ordered = sorted(((area, name) for name, area in areas_m2.items() if area > 0), reverse=True)
    shown = [f"{name} {km2(area)}" for area, name in ordered[:most]]
    rest = sum(area for area, _ in ordered[most:])
    return ", ".join([*shown, *([f"others {km2(rest)}"] if rest else [])])


def added(summaries: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float] | None:
    """What the summaries of several scenes say of each name under `key`, added up; None when one does not know."""
    total: dict[str, float] = {}
    for summary in summaries.values():
        if summary[key] is None:
            return None
        for name, amount in summary[key].items():
            total[name] = total.get(name, 0) + amount
    return total
