"""Statistics of each band over a data set, measured in one streaming pass and merged over workers.

Integers of up to 16 bits are counted value by value, so every figure is exact. For wider integers and floats the mean
and standard deviation are merged in float64 (Chan, Golub and LeVeque 1983), and percentiles come from a histogram over
the upper 16 bits of the float32 pattern (sign, exponent, 7 bits of fraction): 65,536 bins of constant relative width,
whatever the range of the data, and no second pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError
from geocore.raster.grid import Window
from geocore.raster.scene import Layer, Scene

PERCENTILES: Final = (0.1, 1.0, 2.0, 50.0, 98.0, 99.0, 99.9)
_BINS: Final = 1 << 16
_BLOCK_ROWS: Final = 512
_BLOCK_COLS: Final = 4096


@dataclass(frozen=True, slots=True)
class BandStatistics:
    """Figures of the valid pixels of one band, in the units of the stored values (scale and offset not applied)."""

    count: int
    """Valid pixels."""
    minimum: float
    maximum: float
    mean: float
    std: float
    """Population standard deviation (divided by the count)."""
    percentiles: dict[float, float]
    """Value at each of `PERCENTILES`, interpolated linearly between the two nearest pixels."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML or JSON; percentiles are keyed by text, as JSON has no other keys."""
        percentiles = {f"{percent:g}": value for percent, value in self.percentiles.items()}
        return dataclasses.asdict(self) | {"percentiles": percentiles}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BandStatistics:
        """Read what `to_dict` wrote.

        Raises:
            DataError: a figure is missing or not a finite number.
        """
        try:
            return cls(
                count=int(values["count"]),
                minimum=_finite(values["minimum"]),
                maximum=_finite(values["maximum"]),
                mean=_finite(values["mean"]),
                std=_finite(values["std"]),
                percentiles={float(percent): _finite(value) for percent, value in values["percentiles"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            rule = "a band needs count, minimum, maximum, mean, std and percentiles as finite numbers"
            raise DataError(f"band statistics: {error!r}: {rule}; measure them again") from error


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of every band of every layer of a data set."""

    layers: dict[str, tuple[BandStatistics, ...]]
    """Layer name to one entry per band, in the order of the layer's bands."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML or JSON."""
        return {name: [band.to_dict() for band in bands] for name, bands in self.layers.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Statistics:
        """Read what `to_dict` wrote.

        Raises:
            DataError: a figure is missing or not a finite number.
        """
        return cls({name: tuple(BandStatistics.from_dict(band) for band in bands) for name, bands in values.items()})


class RunningStatistics:
    """Running counts of the bands of one layer; feed it arrays in any order, then `finish`.

    The percentiles of bands of floats and of integers above 16 bits lie within a relative 2**-8 of the larger of the
    two pixels they are interpolated between, for magnitudes from 1.2e-38 to 3.4e38.
    """

    def __init__(self, layer: Layer) -> None:
        """Start with no pixel.

        Args:
            layer: gives the band names, for messages, and the dtype that every array must have.

        Raises:
            DataError: the dtype is not a real number.
        """
        dtype = np.dtype(layer.dtype)
        if dtype.kind not in "buif":
            raise DataError(f"layer {layer.name!r} has dtype {dtype}: must be real numbers; convert it")
        self.layer = layer
        self._exact = dtype.kind != "f" and dtype.itemsize <= 2
        bands = len(layer.bands)
        self._histogram = np.zeros((bands, _BINS), np.int64)
        # Moments of the inexact dtypes, (band,) float64; `_squares` is the sum of squared deviations from the mean.
        self._count = np.zeros(bands, np.int64)
        self._mean = np.zeros(bands)
        self._squares = np.zeros(bands)
        self._minimum = np.full(bands, np.inf)
        self._maximum = np.full(bands, -np.inf)

    def update(self, values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Count the valid pixels of an array.

        Args:
            values: shape (..., band, row, col), dtype of the layer. NaN and infinity are never counted.
            valid: shape (..., band or 1, row, col), bool; True where a pixel counts.
        """
        bands = len(self.layer.bands)
        if values.dtype != np.dtype(self.layer.dtype):
            raise ValueError(f"values are {values.dtype}, layer {self.layer.name!r} is {self.layer.dtype}")
        if values.shape[-3] != bands or valid.shape[-3] not in (1, bands):
            raise ValueError(f"values {values.shape} and valid {valid.shape} do not fit {bands} bands")
        valid = np.broadcast_to(valid, values.shape)
        for band in range(bands):
            band_values, band_valid = values[..., band, :, :], valid[..., band, :, :]
            if values.dtype.kind == "f":
                band_valid = band_valid & np.isfinite(band_values)
            # Most blocks of most scenes are fully valid, and reshaping is several times faster than picking.
            pixels = band_values.reshape(-1) if band_valid.all() else band_values[band_valid]
            if pixels.size:
                self._update_band(band, pixels)

    def merge(self, other: RunningStatistics) -> None:
        """Add the counts of another worker over the same layer."""
        if other.layer.bands.names != self.layer.bands.names or other.layer.dtype != self.layer.dtype:
            raise ValueError(f"counts of layers {self.layer.name!r} and {other.layer.name!r} do not merge")
        self._histogram += other._histogram
        for band in range(len(self.layer.bands)):
            self._merge_moments(band, int(other._count[band]), float(other._mean[band]), float(other._squares[band]))
        np.minimum(self._minimum, other._minimum, out=self._minimum)
        np.maximum(self._maximum, other._maximum, out=self._maximum)

    def finish(self) -> tuple[BandStatistics, ...]:
        """Statistics of each band, in the order of the layer's bands.

        Raises:
            DataError: a band has no valid pixel, or values beyond 1e154, whose squares are infinite.
        """
        return tuple(self._finish_band(band, name) for band, name in enumerate(self.layer.bands.names))

    def _update_band(self, band: int, pixels: npt.NDArray[Any]) -> None:
        if self._exact:
            offset = 1 << 15 if pixels.dtype.kind == "i" else 0
            # bincount works on int64 in any case, so the shift costs nothing.
            self._histogram[band] += np.bincount(pixels.astype(np.int64) + offset, minlength=_BINS)
            return
        self._histogram[band] += np.bincount(_bins_of(pixels), minlength=_BINS)
        mean = float(pixels.mean(dtype=np.float64))
        with np.errstate(over="ignore"):
            squares = float(np.square(pixels.astype(np.float64) - mean).sum())
        self._merge_moments(band, pixels.size, mean, squares)
        self._minimum[band] = min(self._minimum[band], float(pixels.min()))
        self._maximum[band] = max(self._maximum[band], float(pixels.max()))

    def _merge_moments(self, band: int, count: int, mean: float, squares: float) -> None:
        before = int(self._count[band])
        total = before + count
        if count == 0:
            return
        difference = mean - float(self._mean[band])
        self._mean[band] += difference * count / total
        if before:
            squares += difference * difference * before * count / total
        self._squares[band] += squares
        self._count[band] = total

    def _finish_band(self, band: int, name: str) -> BandStatistics:
        histogram = self._histogram[band]
        count = int(histogram.sum())
        if count == 0:
            raise DataError(
                f"layer {self.layer.name!r}, band {name!r}: 0 valid pixels; statistics need at least one, so check"
                " its nodata value or leave the band out"
            )
        bins = np.flatnonzero(histogram)
        cumulative = np.cumsum(histogram[bins])
        if self._exact:
            centres = (bins - (1 << 15 if np.dtype(self.layer.dtype).kind == "i" else 0)).astype(np.float64)
            minimum, maximum = float(centres[0]), float(centres[-1])
            # Python integers: the sum over 100 gigapixels of uint16 fits int64, that of a data set may not.
            mean = sum(int(v) * int(n) for v, n in zip(centres, histogram[bins], strict=True)) / count
            variance = float((np.square(centres - mean) * histogram[bins]).sum()) / count
        else:
            minimum, maximum = float(self._minimum[band]), float(self._maximum[band])
            centres = np.clip(_centres_of(bins), minimum, maximum)
            mean, variance = float(self._mean[band]), float(self._squares[band]) / count
            if not math.isfinite(variance):
                what = f"layer {self.layer.name!r}, band {name!r}: values from {minimum:g} to {maximum:g}"
                raise DataError(f"{what} are too large for a standard deviation; state the nodata value or rescale")

        def ranked(rank: int) -> float:
            return float(centres[np.searchsorted(cumulative, rank, side="right")])

        return BandStatistics(
            count=count,
            minimum=minimum,
            maximum=maximum,
            mean=mean,
            std=math.sqrt(variance),
            percentiles={percent: _percentile(ranked, count, percent) for percent in PERCENTILES},
        )


def compute_statistics(scenes: Iterable[Scene], layers: Sequence[str]) -> Statistics:
    """Statistics of some layers over all scenes, read block by block, in bounded memory.

    Args:
        scenes: scenes with the same bands and dtypes, opened one after another where the iterable opens them lazily.
        layers: names of the layers to measure.

    Raises:
        DataError: scenes disagree on bands or dtype, there is no scene, or a band has no valid pixel at all.
        SceneError: a scene cannot be read.
    """
    counts: dict[str, RunningStatistics] = {}
    first_scene = ""
    for scene in scenes:
        for name in layers:
            if name not in scene.layers:
                raise DataError(f"scene {scene.name!r} has no layer {name!r}: it has {', '.join(scene.layers)}")
            layer = scene.layers[name]
            count = counts.setdefault(name, RunningStatistics(layer))
            known = count.layer
            if (layer.bands.names, layer.dtype) != (known.bands.names, known.dtype):
                raise DataError(
                    f"scene {scene.name!r}, layer {name!r} is {layer.dtype} with bands {', '.join(layer.bands.names)}:"
                    f" must be {known.dtype} with bands {', '.join(known.bands.names)} as in scene {first_scene!r};"
                    " convert it or leave the scene out"
                )
        first_scene = first_scene or scene.name
        for window in _blocks(scene):
            for name, patch in scene.read_layers(window, layers).items():
                counts[name].update(patch.values, patch.valid)
    if not counts:
        raise DataError("no scene to measure: statistics need at least one")
    return Statistics({name: count.finish() for name, count in counts.items()})


def _blocks(scene: Scene) -> Iterable[Window]:
    """Windows that cover a scene, of whole pixels of its coarsest layer."""
    align = scene.alignment
    height, width = (-(-length // align) * align for length in (_BLOCK_ROWS, _BLOCK_COLS))
    for row in range(0, scene.grid.height, height):
        for col in range(0, scene.grid.width, width):
            # A block may end outside by less than `align` pixels, which the scene returns as invalid.
            rows = min(height, -(-(scene.grid.height - row) // align) * align)
            cols = min(width, -(-(scene.grid.width - col) // align) * align)
            yield Window(row, col, rows, cols)


def _bins_of(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Bin of each number, shape (n,): the upper 16 bits of its float32 pattern, turned so that bins sort as numbers."""
    limit = np.finfo(np.float32).max
    clipped = np.clip(pixels, -limit, limit) if pixels.dtype.itemsize > 4 else pixels
    upper = clipped.astype(np.float32).view(np.uint32) >> 16
    return np.where(upper & 0x8000, upper ^ 0xFFFF, upper | 0x8000)


def _centres_of(bins: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Number in the middle of each bin, shape (n,), float64."""
    upper = np.where(bins & 0x8000, bins ^ 0x8000, bins ^ 0xFFFF).astype(np.uint32)
    centres = ((upper << 16) | 0x7FFF).view(np.float32).astype(np.float64)
    # Zero is a frequent value and shares its bin only with subnormal numbers.
    return np.where(upper & 0x7FFF, centres, 0.0)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _percentile(ranked: Callable[[int], float], count: int, percent: float) -> float:
    """Linear interpolation at rank (count - 1) * percent / 100, rounded as numpy.percentile does."""
    rank = (count - 1) * (percent / 100)
    below = math.floor(rank)
    low, high = ranked(below), ranked(min(below + 1, count - 1))
    share = rank - below
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share
