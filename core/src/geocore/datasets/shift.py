"""Scenes unlike those that a network was trained on: in another unit, with another mean, or with larger pixels.

A network maps whatever it is given. A scene in another unit, of another season or with the bands in another order
mostly gives itself away by mean and spread of a band, of which a few windows say enough.

And a network knows things by their size in pixels. What is 30 of them long at 10 m is 300 at 1 m, and the numbers in
both scenes look alike: nothing but the ground size of a pixel tells.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.errors import SceneError
from geocore.raster.declarations import QuantityCheck
from geocore.raster.grid import Grid, Window
from geocore.raster.ground import pixel_side_m
from geocore.raster.scene import Layer, Scene, resolved_bands
from geocore.tiling.tiles import TileGrid

logger = logging.getLogger(__name__)

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
    def of(cls, normalization: Mapping[str, Any], layer: Layer, reference: str) -> TrainedOn:
        """What the card of a network says.

        Args:
            normalization: of the layer, as `geocore.transforms.normalize.normalization_to_plain` writes it.
            layer: that the network takes; with all bands of the normalization.
            reference: what the training data are called in messages.
        """
        names = [str(name) for name in normalization["bands"]]
        zero = [-layer.bands[name].offset / layer.bands[name].scale for name in names]
        return cls(names, normalization["mean"], normalization["std"], zero, layer.dtype, reference)


def probe(scene: Scene, layer: str, size_px: int) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """Values and valid pixels of some windows of a layer of a scene.

    Args:
        scene: its grid is that of the layer.
        layer: name.
        size_px: edge of a window.
    """
    for window in probe_windows(scene.grid.shape, size_px):
        patch = scene.read_layers(window, [layer])[layer]
        yield patch.values, patch.valid


def probe_windows(shape: tuple[int, int], size_px: int) -> list[Window]:
    """Nine windows spread over a scene, fewer where it has fewer tiles; they may reach outside.

    Args:
        shape: rows and columns of the scene.
        size_px: edge of a window.
    """
    rows, cols = (TileGrid(size=size_px).starts(length) for length in shape)
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
        logger.info("%s", note)
    resolved = resolved_bands(scene.readers[layer])
    quantities = QuantityCheck(scene.layers[layer].bands, resolved)
    windows = list(probe(scene, layer, size_px))
    for values, valid in windows:
        quantities.update(values, valid)
    quantities.raise_if_impossible(scene.name)
    dtype = resolved[0].dtype if resolved else None
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
        logger.warning("%s: no pixel of the windows looked at is valid: the map may be empty", scene)
        return
    seen = counts > 0
    own, spread = np.asarray(trained.mean, np.float64), np.asarray(trained.std, np.float64)
    zero = np.asarray(trained.zero, np.float64) if len(trained.zero) else np.zeros(len(own))
    _check_unit(scene, trained, (means - zero, stds, own - zero, spread), seen, dtype, scale)
    away = np.where(seen, (means - own) / np.where(spread > 0, spread, 1.0), 0.0)
    worst = int(np.abs(away).argmax())
    if abs(away[worst]) > far:
        logger.warning(
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


FACTOR: Final = 1.45
"""Between sizes that count as one. Those of one sensor differ by 1.41 at most (PlanetScope: 3.0 to 4.2 m; a
pixel in degrees has half the ground at 60 degrees north), those of two by 1.5 or more (10, 15, 20, 30 m)."""
PIXEL_M: Final = "pixel_m"
"""Attribute of a sample: side of a square with the ground of its middle pixel, m."""


def pixel_attribute(grid: Grid) -> dict[str, float]:
    """The attribute `pixel_m` of a sample; empty where no ground is known, as of a photograph."""
    side = pixel_side_m(grid)
    # Three digits: PROJ's last ones differ between versions, and they would change the hash of the data set.
    return {} if side is None else {PIXEL_M: float(f"{side:.3g}")}


def with_pixel_sizes(dataset: Dataset, layer: str) -> Dataset:
    """A data set whose layer knows the smallest and the largest pixel of the training samples.

    Args:
        dataset: its samples have the attribute `pixel_m` where that is known.
        layer: name of the layer.

    Returns:
        With a remark where samples of all splits differ by more than `FACTOR`.
    """
    sizes = _sizes(dataset.samples)
    trained = _sizes(sample for sample in dataset.samples if sample.split == "train")
    if not sizes:
        return dataset
    layers, notes = dict(dataset.layers), list(dataset.notes)
    if trained:
        layers[layer] = dataclasses.replace(layers[layer], pixel_m=(min(trained.values()), max(trained.values())))
    least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[most] > FACTOR * sizes[least]:
        notes.append(
            f"pixels are of {_metres((sizes[least], sizes[most]))} on the ground ({least}: {sizes[least]:g} m, {most}: "
            f"{sizes[most]:g} m): a network knows things by their size in pixels; resample the scenes to one size"
        )
    return dataclasses.replace(dataset, layers=layers, notes=notes)


def warn_if_resized(scene: str, grid: Grid, layer: Layer) -> None:
    """Log a warning when a pixel of a scene shows more or less ground than those that a network was trained on.

    Args:
        scene: its name.
        grid: of what the network sees.
        layer: of the network.
    """
    side = pixel_side_m(grid)
    if layer.pixel_m is not None and side is not None and _is_off(side, layer.pixel_m):
        logger.warning(
            "%s: a pixel is %.3g m on the ground, %s in the training scenes: the map may be wrong; resample the scene",
            scene,
            side,
            _metres(layer.pixel_m),
        )


def warn_of_sizes(dataset: Dataset, split: str, layer: Layer) -> None:
    """Log a warning for the samples of a split whose pixels show more or less ground than a network was trained on.

    Args:
        dataset: what is scored on.
        split: of it.
        layer: of the network.
    """
    if layer.pixel_m is None:
        return
    samples = dataset.split(split)
    off = {name: side for name, side in _sizes(samples).items() if _is_off(side, layer.pixel_m)}
    if off:
        more = f" and {len(off) - 3} more" if len(off) > 3 else ""
        logger.warning(
            "%d of %d samples have pixels of another ground size (%s%s) than the %s that the network was trained on: "
            "their scores may be low for that alone",
            len(off),
            len(samples),
            ", ".join(f"{name}: {side:g} m" for name, side in list(off.items())[:3]),
            more,
            _metres(layer.pixel_m),
        )


def _sizes(samples: Iterable[Sample] | Sequence[Sample]) -> dict[str, float]:
    """Id -> side of a pixel, m, of those that know it."""
    found = {sample.id: sample.attributes.get(PIXEL_M) for sample in samples}
    return {
        name: float(side)
        for name, side in found.items()
        if isinstance(side, int | float) and math.isfinite(side) and side > 0
    }


def _is_off(side: float, known: tuple[float, float]) -> bool:
    return not known[0] / FACTOR <= side <= known[1] * FACTOR


def _metres(sizes: tuple[float, float]) -> str:
    least, most = (f"{size:g}" for size in sizes)
    return f"{least} m" if least == most else f"{least} to {most} m"
