"""Winds among the planes, and how they turn with the image.

Planes are standardised, so their 0 is the mean wind and not calm, and the two components have different units. Turning
a wind therefore means: to metres per second by the scale and offset of its bands, turn, and back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geocore.raster.bands import Bands


class Winds:
    """The vector components of a layer."""

    def __init__(self, bands: Bands) -> None:
        """Find the vector pairs.

        Args:
            bands: of the planes; scale and offset of a component lead to its physical value.
        """
        self._count = len(bands)
        self._pairs = [bands.indices(pair) for pair in bands.vector_pairs]
        self._scale = torch.ones(self._count, 1, 1)
        self._offset = torch.zeros(self._count, 1, 1)
        for index, band in enumerate(bands):
            if any(index in pair for pair in self._pairs):
                self._scale[index], self._offset[index] = band.scale, band.offset

    def physical(self, planes: Tensor) -> Tensor:
        """Bring winds to their physical unit; other planes stay.

        Args:
            planes: shape (..., channel, row, col), float32, standardised.
        """
        return planes * self._scale.to(planes) + self._offset.to(planes) if self._pairs else planes

    def standardised(self, planes: Tensor) -> Tensor:
        """The inverse of `physical`."""
        return (planes - self._offset.to(planes)) / self._scale.to(planes) if self._pairs else planes

    def mirrored(self, planes: Tensor, *, rows: bool, cols: bool) -> Tensor:
        """Mirror planes and their winds.

        Args:
            planes: shape (..., channel, row, col), float32, standardised.
            rows: whether top and bottom change places; turns the second component of each pair.
            cols: whether left and right change places; turns the first one.

        Returns:
            The same shape; a copy.
        """
        sign = torch.ones(self._count, 1, 1, device=planes.device)
        for first, second in self._pairs:
            sign[first] = -1.0 if cols else 1.0
            sign[second] = -1.0 if rows else 1.0
        turned = torch.where(sign < 0, self.standardised(-self.physical(planes)), planes)
        return turned.flip([axis for axis, flipped in ((-2, rows), (-1, cols)) if flipped])
