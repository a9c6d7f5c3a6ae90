"""Named mask bands: classes or quality bits of a scene's own band that make its pixels invalid, as clouds do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geocore.errors import SceneError, SettingsError
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import BandReader, Patch, notes_of, resolved_bands


@dataclass(frozen=True, slots=True)
class MaskRule:
    """Which pixels a mask band makes invalid."""

    band: str
    """Name of the mask band, e.g. "SCL"."""
    values: tuple[int, ...] = ()
    """Values that are invalid."""
    bits: tuple[int, ...] = ()
    """Bits, counted from the lowest as 0, of which none may be set."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a rule as users write it: `SCL:3,8,9,10` for values, `Fmask:bit1,bit3` for bits.

        Raises:
            SettingsError: the text is something else.
        """
        band, _, rest = text.rpartition(":")
        items = [item.strip() for item in rest.split(",")]
        if not band or not all(re.fullmatch(r"(bit)?\d{1,5}", item) for item in items):
            raise SettingsError(
                f"mask {text!r}: must be a band with the values or bits that are invalid, such as SCL:3,8,9,10 or "
                "Fmask:bit1,bit3"
            )
        bits = tuple(int(item[3:]) for item in items if item.startswith("bit"))
        if bits and max(bits) > 31:
            raise SettingsError(f"mask {text!r}: bit {max(bits)}: bits run from 0 to 31; correct it")
        return cls(band.strip(), tuple(int(item) for item in items if not item.startswith("bit")), bits)

    def keeps(self, nodata: float | None) -> bool:
        """Whether the nodata value of a mask band is one that the rule calls clear: no bit is set in a 0."""
        return nodata == 0 and bool(self.bits) and not self.values

    def marks(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where values of the mask band are invalid.

        Args:
            values: any shape, any integer type.

        Returns:
            bool, the shape of `values`.
        """
        marked: NDArray[np.bool_] = np.isin(values, self.values)
        if self.bits:
            marked |= (values.astype(np.int64) & sum(1 << bit for bit in set(self.bits))) != 0
        return marked


class MaskedReader:
    """A layer whose pixels are invalid where a mask band says so, or where that itself is missing.

    Args:
        source: the layer.
        mask: one band of an integer type, on the grid of the layer.
        rule: which values count.
        grid: of both.

    Raises:
        SceneError: the mask band holds fractions.
    """

    def __init__(self, source: BandReader, mask: BandReader, rule: MaskRule, grid: Grid) -> None:
        if np.dtype(mask.layer.dtype).kind not in "bui":
            raise SceneError(
                f"mask band {rule.band} is {mask.layer.dtype}: classes and bits are whole numbers; name another band"
            )
        if mask.shape != source.shape:
            raise ValueError(f"mask of {mask.shape} pixels for a layer of {source.shape}")
        self.layer = source.layer
        self.resolved = resolved_bands(source)
        self.shape = source.shape
        self.grid = grid
        self.block: tuple[int, int] = getattr(source, "block", (1, source.shape[1]))
        self._source, self._mask, self._rule = source, mask, rule

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on how files were read."""
        return (*notes_of(self._source), *notes_of(self._mask))

    def read(self, window: Window) -> Patch:
        """Read a window that lies inside.

        Raises:
            SceneError: a file is damaged there.
        """
        patch, mask = self._source.read(window), self._mask.read(window)
        seen = mask.valid & ~self._rule.marks(mask.values)
        return Patch(patch.values, np.logical_and(patch.valid, seen[0], out=patch.valid))

    def close(self) -> None:
        """Close both."""
        self._source.close()
        self._mask.close()
