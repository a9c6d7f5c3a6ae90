"""Pictures for people: brightness stretched, outlines, sizes that fit a page, and figures that belong to no window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from geocore.files import atomic_path
from geocore.legends import Colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = npt.NDArray[np.uint8]
"""Shape (row, col, 3), uint8, sRGB."""

OUTSIDE: Final[Colour] = (72, 76, 84)
"""Pixels without data."""
_REACH: Final = 2.5
"""Interquartile ranges; of a normal distribution, none of its percentiles 0.1 to 99.9 lies as far out."""
DPI: Final = 100
"""Pixels of a figure per inch."""


def stretched(
    values: npt.NDArray[Any], valid: npt.NDArray[np.bool_], *, percentiles: tuple[float, float] = (2, 98)
) -> Picture:
    """Colours of an image, each channel stretched to its own percentiles.

    Values further from the median than 2.5 times the interquartile range stretch nothing: a scene with a few per cent
    of clouds would else be black.

    Args:
        values: shape (3, row, col), any real dtype: red, green, blue; or (1, row, col): grey.
        valid: shape (row, col), bool; other pixels get the colour `OUTSIDE` and count for nothing.
        percentiles: of a channel that become 0 and 255.
    """
    picture = np.empty((*valid.shape, 3), np.uint8)
    for channel, band in enumerate(values):
        counted = valid & np.isfinite(band) if band.dtype.kind == "f" else valid
        low, high = _limits(band[counted], percentiles) if counted.any() else (0.0, 1.0)
        share = (np.where(counted, band, low) - low) / max(high - low, 1e-9)
        # Of a grey image all three.
        picture[..., channel : channel + 1 if len(values) == 3 else 3] = np.rint(255 * np.clip(share, 0, 1))[..., None]
    picture[~valid] = OUTSIDE
    return picture


def _limits(pixels: npt.NDArray[Any], percentiles: tuple[float, float]) -> tuple[float, float]:
    low, first, middle, third, high = map(float, np.percentile(pixels, (percentiles[0], 25, 50, 75, percentiles[1])))
    reach = _REACH * (third - first)
    return (max(low, middle - reach), min(high, middle + reach)) if reach > 0 else (low, high)


def edges(regions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Pixels that have one of another region above, below, left or right.

    Args:
        regions: shape (row, col), integer: number of the region.

    Returns:
        Shape (row, col), bool; an edge is two pixels wide, one on either side.
    """
    found = np.zeros(regions.shape, bool)
    down, right = regions[1:] != regions[:-1], regions[:, 1:] != regions[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def new_figure(width_in: float, height_in: float) -> Figure:
    """A white figure that belongs to no window and to no list of open figures; inches of `DPI` pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def rendered(figure: Figure) -> Picture:
    """The pixels of a figure of `new_figure`."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_picture(path: Path, picture: Picture) -> None:
    """Write a PNG at once or not at all.

    Raises:
        StorageError: the disk is full or closed.
    """
    from matplotlib.image import imsave

    with atomic_path(path) as temporary:
        imsave(temporary, picture, format="png")
