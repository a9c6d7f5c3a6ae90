"""How the bands of a layer are scaled, from measured statistics or from a checkpoint's card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geocore.bands import Bands
from geocore.errors import DataError, SettingsError
from geocore.normalisation import Statistics


@dataclass(frozen=True, slots=True)
class Scaling:
    """How one layer is scaled; plain values, so that a checkpoint's card can hold them."""

    bands: tuple[str, ...]
    """Bands the model takes, in its order."""
    pairs: tuple[tuple[int, int], ...]
    """Positions in `bands` of the two components of each vector."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    """Smallest value kept, -inf without clipping."""
    high: tuple[float, ...]


def measured_scaling(statistics: Statistics, layer: str, held: Bands, clip: tuple[float, float] | None) -> Scaling:
    """Take the figures of the selected bands of one layer from the statistics.

    Args:
        statistics: of the data set, in stored units.
        layer: name of the layer.
        held: bands of the layer's arrays, in their order.
        clip: lower and upper percentile at which values are cut; None for no clipping.

    Raises:
        DataError: the layer has no statistics, or a band no valid pixel.
        SettingsError: the statistics do not hold the percentiles of `clip`.
    """
    if layer not in statistics.layers:
        raise DataError(f"layer {layer} has no statistics: they hold {', '.join(statistics.layers)}; prepare again")
    measured = statistics.layers[layer]
    if len(measured) != len(held):
        raise DataError(f"layer {layer} has {len(held)} bands, its statistics {len(measured)}: prepare the data again")
    names, figures = held.names, measured
    for name, figure in zip(names, figures, strict=True):
        if figure.count == 0 or not (math.isfinite(figure.mean) and math.isfinite(figure.std)):
            raise DataError(f"band {name} of layer {layer} has no valid pixel in the statistics: leave the band out")
    mean = [figure.mean for figure in figures]
    std = [figure.std if figure.std > 0 else 1.0 for figure in figures]
    low, high = [-math.inf] * len(names), [math.inf] * len(names)
    if clip is not None:
        for percent in clip:
            if any(percent not in figure.percentiles for figure in figures):
                known = ", ".join(f"{p:g}" for p in figures[0].percentiles)
                raise SettingsError(f"clip percentile {percent:g} was not measured: choose from {known}")
        low, high = ([figure.percentiles[percent] for figure in figures] for percent in clip)
        if clip[0] >= clip[1]:
            raise SettingsError(f"clip = {clip[0]:g}, {clip[1]:g}: the first percentile must be the lower one")
    pairs = tuple((names.index(first), names.index(second)) for first, second in held.vector_pairs)
    for pair in pairs:
        parts = [held[names[i]] for i in pair]
        zeros = [-part.offset / part.scale for part in parts]
        square = sum(
            part.scale**2 * ((figures[i].mean - zero) ** 2 + figures[i].std ** 2)
            for i, part, zero in zip(pair, parts, zeros, strict=True)
        )
        shared = math.sqrt(square / 2) or 1.0
        for i, part, zero in zip(pair, parts, zeros, strict=True):
            mean[i], std[i], low[i], high[i] = zero, shared / part.scale, -math.inf, math.inf
    return Scaling(names, pairs, tuple(mean), tuple(std), tuple(low), tuple(high))


def scaling_to_plain(scaling: Scaling) -> dict[str, Any]:
    """Plain JSON values; JSON has no infinity, so limits that do not clip are None."""
    return {
        "bands": list(scaling.bands),
        "vector_pairs": [list(pair) for pair in scaling.pairs],
        "mean": list(scaling.mean),
        "std": list(scaling.std),
        "low": [value if math.isfinite(value) else None for value in scaling.low],
        "high": [value if math.isfinite(value) else None for value in scaling.high],
    }


def scaling_from_plain(values: Mapping[str, Any]) -> Scaling:
    """Read what `scaling_to_plain` wrote.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a figure is missing or not a number.
    """
    scaling = Scaling(
        bands=tuple(str(name) for name in values["bands"]),
        pairs=tuple((int(first), int(second)) for first, second in values["vector_pairs"]),
        mean=tuple(float(value) for value in values["mean"]),
        std=tuple(float(value) for value in values["std"]),
        low=tuple(-math.inf if value is None else float(value) for value in values["low"]),
        high=tuple(math.inf if value is None else float(value) for value in values["high"]),
    )
    lengths = {len(part) for part in (scaling.bands, scaling.mean, scaling.std, scaling.low, scaling.high)}
    if len(lengths) != 1:
        raise ValueError("bands and figures differ in number")
    return scaling
