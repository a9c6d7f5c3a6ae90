"""Water and burn indices of reflectance, and the maps that a threshold makes of them.

`mndwi` and `ndwi` are high over water, `nbr` is low over burnt ground. The differenced burn ratio (dNBR), which
authorities map severity with, needs an image from before the fire; chips and scenes here are of one date.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from floods_prithvi.chip_reader import IMAGE
from floods_prithvi.scores import count
from geocore.datasets.labels import IGNORED
from geocore.metrics.confusion import Confusion
from geocore.raster.grid import Window
from geocore.raster.scene import Scene

if TYPE_CHECKING:
    from floods_prithvi.data import Chips

FloatArray = npt.NDArray[np.float32]
IndexName = Literal["mndwi", "ndwi", "nbr"]

EDGES: Final = np.linspace(-1.0, 1.0, 257)
"""Edges of the 256 bins of an index; a pixel on an edge belongs to the bin above it."""
ROWS: Final = 1024
"""Rows of a scene that are looked at together."""


def mndwi(green: FloatArray, swir_1: FloatArray) -> FloatArray:
    """Modified water index, (green - swir 1) / (green + swir 1); H. Xu, Int. J. Remote Sensing 27, 2006.

    Args:
        green: any shape, float32, reflectance 0-1.
        swir_1: the same, at 1.6 micrometres.

    Returns:
        As `normalized_difference`; above 0 over most water.
    """
    return normalized_difference(green, swir_1)


def ndwi(green: FloatArray, nir: FloatArray) -> FloatArray:
    """Water index, (green - nir) / (green + nir); S. K. McFeeters, Int. J. Remote Sensing 17, 1996.

    Args:
        green: any shape, float32, reflectance 0-1.
        nir: the same, at 0.86 micrometres.

    Returns:
        As `normalized_difference`; above 0 over most water.
    """
    return normalized_difference(green, nir)


def nbr(nir: FloatArray, swir_2: FloatArray) -> FloatArray:
    """Burn ratio, (nir - swir 2) / (nir + swir 2); M. J. Lopez Garcia and V. Caselles, Geocarto International 6, 1991.

    Args:
        nir: any shape, float32, reflectance 0-1.
        swir_2: the same, at 2.2 micrometres.

    Returns:
        As `normalized_difference`; low, often below 0, over burnt ground.
    """
    return normalized_difference(nir, swir_2)


def normalized_difference(first: FloatArray, second: FloatArray) -> FloatArray:
    """(first - second) / (first + second).

    Reflectance below 0, as correction for the atmosphere leaves it in shadow and on water, counts as 0: its sums come
    near 0 and would turn the sign of the quotient.

    Args:
        first: any shape, float32, reflectance 0-1.
        second: the same shape.

    Returns:
        Shape of the bands, float32, -1 to 1; 0 where both bands are 0 or one is not finite.
    """
    a, b = np.maximum(first, np.float32(0)), np.maximum(second, np.float32(0))
    whole = a + b
    known = np.isfinite(whole) & (whole > 0)
    quotient = np.zeros(whole.shape, np.float32)
    np.subtract(a, b, out=quotient, where=known)
    np.divide(quotient, whole, out=quotient, where=known)
    return quotient


_BANDS: Final[Mapping[IndexName, tuple[Callable[[FloatArray, FloatArray], FloatArray], str, str]]] = MappingProxyType(
    {
        "mndwi": (mndwi, "green", "swir_1"),
        "ndwi": (ndwi, "green", "nir_narrow"),
        "nbr": (nbr, "nir_narrow", "swir_2"),
    }
)


@dataclass(frozen=True, slots=True)
class IndexThreshold:
    """Two classes told apart by one number."""

    index: IndexName
    value: float
    """The threshold; water has this index or a higher one, burnt ground a lower one."""

    @classmethod
    def by_otsu(cls, index: IndexName, chips: Chips) -> IndexThreshold:
        """Fit to the images alone: Otsu's threshold of all valid pixels of the chips together.

        Raises:
            SceneError: a chip cannot be read.
        """
        counts = np.zeros(len(EDGES) - 1, np.int64)
        for number in range(len(chips.samples)):
            with chips.scene(number) as scene:
                values, valid = index_of(index, scene)
            counts += histogram(values[valid])
        return cls(index, otsu(counts))

    @classmethod
    def tuned(cls, index: IndexName, chips: Chips) -> IndexThreshold:
        """Fit to labels: the threshold with the highest IoU of class 1 over all chips together.

        Args:
            index: its name.
            chips: validation.

        Raises:
            SceneError: a chip cannot be read.
        """
        counts = np.zeros((2, len(EDGES) - 1), np.int64)
        for number in range(len(chips.samples)):
            with chips.scene(number) as scene:
                values, valid = index_of(index, scene)
            target = chips.target(number)
            for label in (0, 1):
                counts[label] += histogram(values[valid & (target == label)])
        return cls(index, best_iou(counts, above=above(index)))

    def map_scene(self, scene: Scene) -> npt.NDArray[np.uint8]:
        """Classes of a scene.

        Returns:
            Shape (row, col), uint8: 1 water or burnt, 0 neither, 255 invalid.
        """
        values, valid = index_of(self.index, scene)
        # In float64, as the histogram compares: a float32 threshold may lie on the other side of a pixel.
        high = values.astype(np.float64) >= self.value
        return np.where(valid, high == above(self.index), IGNORED).astype(np.uint8)

    def counts(self, chips: Chips) -> list[Confusion]:
        """Counts of every chip; what is invalid in the image does not count."""
        found = []
        for number in range(len(chips.samples)):
            with chips.scene(number) as scene:
                classes = self.map_scene(scene)
            target = np.where(classes == IGNORED, np.uint8(IGNORED), chips.target(number))
            found.append(count(target, classes, 2))
        return found


def above(index: IndexName) -> bool:
    """Whether class 1 has the high values: water yes, burnt ground no."""
    return index != "nbr"


def index_of(index: IndexName, scene: Scene) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """An index of a whole scene of one date.

    Args:
        index: its name.
        scene: with the layer `image`, reflectance, bands named as `config.SIX_BANDS`.

    Returns:
        The index, float32, and where the image is valid, bool, each of shape (row, col).

    Raises:
        DataError: the layer lacks one of the two bands.
        SceneError: the scene cannot be read.
        ValueError: the layer has several dates.
    """
    layer = scene.layers[IMAGE]
    if layer.times:
        raise ValueError(f"{scene.name}: an index needs one date, and the image has {len(layer.times)}")
    function, *names = _BANDS[index]
    first, second = layer.bands.indices(names)
    values = np.zeros(scene.grid.shape, np.float32)
    valid = np.zeros(scene.grid.shape, np.bool_)
    for row in range(0, scene.grid.height, ROWS):
        window = Window(row, 0, min(ROWS, scene.grid.height - row), scene.grid.width)
        patch = scene.read_layers(window, [IMAGE])[IMAGE]
        values[window.slices] = function(patch.values[first], patch.values[second])
        valid[window.slices] = patch.valid.all(axis=0)
    return values, valid


def histogram(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Pixels in each of the 256 bins of `EDGES`, shape (256,), int64.

    Args:
        values: any shape, -1 to 1; 1 belongs to the last bin.
    """
    counts, _ = np.histogram(values, bins=len(EDGES) - 1, range=(-1.0, 1.0))
    return counts.astype(np.int64)


def otsu(counts: npt.NDArray[np.int64]) -> float:
    """Threshold that parts a histogram into two classes with the greatest variance between them.

    N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. Systems, Man, and Cybernetics 9, 1979.

    Args:
        counts: shape (256,), int64, pixels in the bins of `EDGES`.

    Returns:
        An edge; the middle of several that part the pixels equally well, as those of an empty gap do. The middle of
        the bin where all pixels lie in one, and 0 without a pixel.
    """
    centres = (EDGES[:-1] + EDGES[1:]) / 2
    occupied = np.flatnonzero(counts)
    if len(occupied) < 2:
        return float(centres[occupied[0]]) if len(occupied) else 0.0
    # Pixels and sums below each inner edge.
    below, sums = np.cumsum(counts)[:-1].astype(np.float64), np.cumsum(counts * centres)[:-1]
    pixels, whole = float(counts.sum()), float((counts * centres).sum())
    parts = below * (pixels - below)
    # below * rest * (difference of both means)^2, but for the constant factor 1 / pixels^2.
    between = np.zeros(len(parts))
    np.divide((whole * below - sums * pixels) ** 2, parts, out=between, where=parts > 0)
    return _middle(between)


def best_iou(counts: npt.NDArray[np.int64], *, above: bool) -> float:
    """Threshold with the highest IoU of class 1.

    Args:
        counts: shape (2, 256), int64: pixels of classes 0 and 1 in the bins of `EDGES`.
        above: whether class 1 is what lies above the threshold.

    Returns:
        An edge; the middle of several of the same IoU, and 0 where no pixel is of class 1.
    """
    if not counts[1].any():
        return 0.0
    totals = counts.sum(axis=1)
    low = np.cumsum(counts, axis=1)[:, :-1]
    false, hits = totals[:, None] - low if above else low
    return _middle(hits / (totals[1] + false))


def _middle(scores: npt.NDArray[np.float64]) -> float:
    """The inner edge with the highest score; the middle one where the first run of equal ones has several."""
    # Where nothing lies between two edges their scores are the same to the bit.
    same = scores == scores.max()
    first = int(same.argmax())
    rest = ~same[first:]
    length = int(rest.argmax()) if rest.any() else len(rest)
    return float((EDGES[first + 1] + EDGES[first + length]) / 2)
