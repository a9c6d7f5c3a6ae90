"""Pictures for the report: a chip in false colour, with what is true and what was found."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from floods_prithvi.chip_reader import IMAGE
from geocore.raster.scene import Scene
from geocore.report.preview import Picture, stretched

_SIDE_PX = 512
"""Longer side of one of the two pictures, about."""
SHOWN: Final = ("swir_2", "nir_narrow", "red")
"""As red, green and blue: water is dark, scars are red, clouds white."""
_AGREED, _MISSED, _WRONG = (0, 114, 178), (230, 159, 0), (204, 51, 17)
COLOURS: Final = "found and true blue, missed orange, wrong red, not labelled as it is"
"""What the colours of a comparison mean."""
_IGNORED = 255


def draw_comparison(scene: Scene, target: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8]) -> Picture:
    """Draw a chip beside itself with the classes above 0 laid over it.

    Args:
        scene: the chip; of several dates the last is shown.
        target: shape (row, col), uint8: true class, 255 where not labelled.
        found: shape (row, col), uint8: class, 255 where invalid.

    Returns:
        Shape (row, col, 3), uint8; the two pictures stand side by side, each about 512 pixels long.
    """
    layer = scene.layers[IMAGE]
    patch = scene.read_layers(scene.grid.whole)[IMAGE]
    values, valid = (patch.values[-1], patch.valid[-1]) if layer.times else (patch.values, patch.valid)
    mask: npt.NDArray[np.bool_] = np.logical_and.reduce(valid, axis=0)
    image = stretched(values[list(layer.bands.indices(SHOWN))], mask, percentiles=(1, 99))
    marked = image.copy()
    labelled = (target != _IGNORED) & (found != _IGNORED)
    right = labelled & (target == found) & (target > 0)
    missed = labelled & (target != found) & (target > 0)
    wrong = labelled & (target != found) & (target == 0)
    for chosen, colour in ((right, _AGREED), (missed, _MISSED), (wrong, _WRONG)):
        marked[chosen] = np.rint(0.35 * marked[chosen] + 0.65 * np.asarray(colour, np.float64))
    both = np.concatenate([image, np.full((len(image), 4, 3), 255, np.uint8), marked], axis=1)
    side = max(mask.shape)
    shrink, grow = -(-side // _SIDE_PX), max(1, round(_SIDE_PX / side))
    return both[::shrink, ::shrink].repeat(grow, 0).repeat(grow, 1)
