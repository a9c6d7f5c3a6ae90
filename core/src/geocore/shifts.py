"""Scenes unlike those that a network was trained on: in another unit, or with a band whose mean lies far from theirs.

A network maps whatever it is given. A scene in another unit, of another season or with the bands in another order
mostly gives itself away by mean and spread of a band, of which a few windows say enough.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import SceneError
from geocore.grid import Window
from geocore.quantities import QuantityCheck
from geocore.scenes import Layer, Scene, decisions_of
from geocore.tiles import Tiling

_LOGGER = logging.getLogger(__name__)
_PROBES: Final = 9
_ALL_BANDS: Final = 30.0
"""Factor between two units, at least, where all bands differ by it. Seasons and light make a factor of ten."""
_ONE_BAND: Final = 100.0
"""The same where only some bands are larger by it, as when one variable of several was packed."""
_CENTRED: Final = 0.5
"""Standard deviations: training data whose mean lies nearer to 0 tell nothing by the ratio of two means."""
_FACTORS: Final = {
    1e4: "as between reflectance 0-1 and whole numbers up to 10000",
    255.0: "as between shares 0-1 and bytes",
    257.0: "as between 8-bit and 16-bit numbers",
    100.0: "as between shares and percent",
    65535.0: "as between shares 0-1 and 16-bit numbers",
    1e3: "as between packed and unpacked numbers",
}


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What the numbers of a network's training data were, band by band."""

    names: Sequence[str]
    """Of the bands."""
    mean: Sequence[float]
    std: Sequence[float]
    zero: Sequence[float] = ()
    """The number that stands for a physical zero, such as 1000 in newer Sentinel-2 products; none: 0."""
    dtype: str | None = None
    """In which they were stored."""
    reference: str = "training scenes"
    """What they are called in messages."""

    @classmethod
    def of(cls, scaling: Mapping[str, Any], layer: Layer, reference: str) -> TrainedOn:
        """What the card of a network says.

        Args:
            scaling: of the layer, as `geocore.scalings.scaling_to_plain` writes it.
            layer: that the network takes; with all bands of the scaling.
            reference: what the training data are called in messages.
        """
        names = [str(name) for name in scaling["bands"]]
        zero = [-layer.bands[name].offset / layer.bands[name].scale for name in names]
        return cls(names, scaling["mean"], scaling["std"], zero, layer.dtype, reference)


def probe(scene: Scene, layer: str, size_px: int) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """Values and valid pixels of some windows of a layer of a scene.

    Args:
        scene: its grid is that of the layer.
        layer: name.
        size_px: edge of a window.
    """
    for window in probes(scene.grid.shape, size_px):
        patch = scene.read(window, [layer])[layer]
        yield patch.values, patch.valid


def probes(shape: tuple[int, int], size_px: int) -> list[Window]:
    """Nine windows spread over a scene, fewer where it has fewer tiles; they may reach outside.

    Args:
        shape: rows and columns of the scene.
        size_px: edge of a window.
    """
    rows, cols = (Tiling(size=size_px).starts(length) for length in shape)
    last = len(rows) * len(cols) - 1
    chosen = sorted({round(k * last / (_PROBES - 1)) for k in range(_PROBES)})
    return [Window(rows[index // len(cols)], cols[index % len(cols)], size_px, size_px) for index in chosen]


def look_over(
    scene: Scene, layer: str, trained: TrainedOn, *, far: float, size_px: int, scale: float | None = None
) -> None:
    """What every command does with a scene before it maps it: say how its files were read, and look at its numbers.

    Args:
        scene: with the layer in the numbers of the training data; its grid is that of the layer.
        layer: name.
        trained: what the network knows.
        far: how far the mean of a band may lie off, standard deviations.
        size_px: edge of the windows that are looked at, pixels.
        scale: as for `compare_with_training`.

    Raises:
        SceneError: the numbers are impossible for what they measure, or of another unit than the training data.
    """
    for note in scene.notes:
        _LOGGER.info("%s", note)
    decisions = decisions_of(scene.sources[layer])
    quantities = QuantityCheck(scene.layers[layer].bands, decisions)
    windows = list(probe(scene, layer, size_px))
    for values, valid in windows:
        quantities.update(values, valid)
    quantities.raise_if_impossible(scene.name)
    dtype = decisions[0].dtype if decisions else None
    compare_with_training(scene.name, windows, trained, far=far, dtype=dtype, scale=scale)


def compare_with_training(
    scene: str,
    pixels: Iterable[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]],
    trained: TrainedOn,
    *,
    far: float,
    dtype: str | None = None,
    scale: float | None = None,
) -> None:
    """Refuse a scene in another unit, and log a warning where the mean of a band lies far off.

    Args:
        scene: its name.
        pixels: some windows: values, shape ((time,) band, row, col), in the numbers of the training data, anything
            where invalid; valid, bool, of the same shape or with one band.
        trained: what the network knows.
        far: how far the mean of a band may lie off, standard deviations.
        dtype: in which the scene is stored.
        scale: physical value of one unit of the numbers, for commands with `--scale`; None where there is no such flag.

    Raises:
        SceneError: mean and spread of all bands are 30 times smaller or larger, or of one band 100 times larger.
    """
    means, stds, counts = _moments(pixels, len(trained.names))
    if not counts.any():
        _LOGGER.warning("%s: no pixel of the windows looked at is valid: the map may be empty", scene)
        return
    seen = counts > 0
    own, spread = np.asarray(trained.mean, np.float64), np.asarray(trained.std, np.float64)
    zero = np.asarray(trained.zero, np.float64) if len(trained.zero) else np.zeros(len(own))
    _check_unit(scene, trained, (means - zero, stds, own - zero, spread), seen, dtype, scale)
    away = np.where(seen, (means - own) / np.where(spread > 0, spread, 1.0), 0.0)
    worst = int(np.abs(away).argmax())
    if abs(away[worst]) > far:
        _LOGGER.warning(
            "%s: the mean of band %s lies %.1f standard deviations from the %s; the map may be wrong",
            scene,
            trained.names[worst],
            away[worst],
            trained.reference,
        )


def _other_width(first: str, second: str) -> bool:
    """Whether two types of whole numbers have another number of bits."""
    kinds = [np.dtype(name) for name in (first, second)]
    return all(kind.kind in "iu" for kind in kinds) and kinds[0].itemsize != kinds[1].itemsize


def _moments(
    pixels: Iterable[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]], bands: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean, standard deviation and number of the valid pixels of each band."""
    mean, squares, counts = np.zeros(bands), np.zeros(bands), np.zeros(bands, np.int64)
    for values, valid in pixels:
        mask = np.broadcast_to(valid, values.shape)
        for band in range(bands):
            found = values[..., band, :, :][mask[..., band, :, :]].astype(np.float64)
            if not found.size:
                continue
            # Merged by Chan, Golub and LeVeque (1983), as the statistics of data sets.
            total = counts[band] + found.size
            step = found.mean() - mean[band]
            squares[band] += np.square(found - found.mean()).sum() + step**2 * counts[band] * found.size / total
            mean[band] += step * found.size / total
            counts[band] = total
    return mean, np.sqrt(squares / np.maximum(counts, 1)), counts


def _check_unit(
    scene: str,
    trained: TrainedOn,
    figures: tuple[npt.NDArray[np.float64], ...],
    seen: npt.NDArray[np.bool_],
    dtype: str | None,
    scale: float | None,
) -> None:
    mean, std, own_mean, own_std = figures
    known = seen & (own_std > 0)
    if not known.any():
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        spread, level = std / own_std, mean / own_mean
    centred = np.abs(own_mean) < _CENTRED * own_std
    level = np.where(centred, spread, level)
    both_large, both_small = np.minimum(spread, level), np.maximum(spread, level)
    # A negative ratio of means is no factor between units.
    small = known & (level >= 0) & (both_small < 1 / _ALL_BANDS)
    large = known & (both_large > _ALL_BANDS)
    huge = known & (both_large > _ONE_BAND)
    if not ((small == known).all() or (large == known).all() or huge.any()):
        return
    chosen = small if (small == known).all() else large if (large == known).all() else huge
    band = int(np.flatnonzero(chosen)[0])
    ratio = float(np.exp(np.median(np.log(np.maximum(level[chosen], 1e-12)))))
    nearest = min(_FACTORS, key=lambda factor: abs(math.log(factor) - abs(math.log(ratio))))
    if abs(math.log(nearest) - abs(math.log(ratio))) > math.log(3):
        nearest = 0.0
    times = float(f"{max(ratio, 1 / ratio):.2g}")
    told = f"{'1/' if ratio < 1 else ''}{times:.10g}"
    if dtype is not None and trained.dtype is not None and _other_width(dtype, trained.dtype):
        cause = f"trained on {trained.dtype}, this is {dtype}"
    else:
        cause = _FACTORS.get(nearest, "another unit, scale or type of number")
    factor = nearest or max(ratio, 1 / ratio)
    remedy = "bring it to the unit of the training data"
    if scale is not None:
        remedy = f"give --scale {scale * (factor if ratio < 1 else 1 / factor):.6g}, or {remedy}"
    raise SceneError(
        f"{scene}: its numbers are about {told} times those of the {trained.reference} (band {trained.names[band]}: "
        f"mean {mean[band]:.4g} against {own_mean[band]:.4g}), {cause}: {remedy}"
    )
