"""From stored pixel values to what a model sees: bands selected by name, clipped, scaled, invalid pixels set to 0.

`Normalize` is part of the saved and exported model, so that training and prediction cannot differ. It runs on the
model's device and takes every stored type; uint16 is turned into float32, never into int16, so that radar and thermal
counts above 32767 keep their contrast. Work is done in float32: contrast below 2**-24 of the values themselves is lost.
How the bands of a layer are scaled comes from measured statistics or from a checkpoint's card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocore.datasets.statistics import Statistics
from geocore.errors import CheckpointError, DataError, SettingsError
from geocore.raster.bands import Bands


@dataclass(frozen=True, slots=True)
class BandNormalization:
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


def normalization_from_statistics(
    statistics: Statistics, layer: str, held: Bands, clip: tuple[float, float] | None
) -> BandNormalization:
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
    return BandNormalization(names, pairs, tuple(mean), tuple(std), tuple(low), tuple(high))


def normalization_to_plain(normalization: BandNormalization) -> dict[str, Any]:
    """Plain JSON values; JSON has no infinity, so limits that do not clip are None."""
    return {
        "bands": list(normalization.bands),
        "vector_pairs": [list(pair) for pair in normalization.pairs],
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "low": [value if math.isfinite(value) else None for value in normalization.low],
        "high": [value if math.isfinite(value) else None for value in normalization.high],
    }


def normalization_from_plain(values: Mapping[str, Any]) -> BandNormalization:
    """Read what `normalization_to_plain` wrote.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a figure is missing or not a number.
    """
    normalization = BandNormalization(
        bands=tuple(str(name) for name in values["bands"]),
        pairs=tuple((int(first), int(second)) for first, second in values["vector_pairs"]),
        mean=tuple(float(value) for value in values["mean"]),
        std=tuple(float(value) for value in values["std"]),
        low=tuple(-math.inf if value is None else float(value) for value in values["low"]),
        high=tuple(math.inf if value is None else float(value) for value in values["high"]),
    )
    lengths = {
        len(part)
        for part in (normalization.bands, normalization.mean, normalization.std, normalization.low, normalization.high)
    }
    if len(lengths) != 1:
        raise ValueError("bands and figures differ in number")
    return normalization


Mode = Literal["dataset", "tile"]


class Normalize(nn.Module):
    """Selects the bands that the model takes and normalizes them.

    In mode `dataset` a band is scaled by the mean and standard deviation of the data set; in mode `tile` by those of
    the valid pixels of each sample (over its dates too), which suits photographs and uncalibrated scenes. A standard
    deviation of 0 counts as 1, so a band or tile of one value becomes zeros. The two components of a vector pair are
    not clipped, keep their physical zero and share one scale, their root mean square: only so do flips and rotations
    of the vector stay exact.

    Its figures are buffers, so they travel in the state dict; `card` gives them as plain values.
    """

    def __init__(
        self,
        statistics: Statistics,
        bands: Mapping[str, Bands],
        *,
        mode: Mode = "dataset",
        clip: tuple[float, float] | None = None,
    ) -> None:
        """Build it from the statistics of a data set.

        Args:
            statistics: one entry per band for every layer in `bands`, in stored units.
            bands: layer name to the bands of its arrays, in their order.
            mode: where mean and standard deviation come from.
            clip: lower and upper percentile (of those in the statistics) at which values are cut before normalization.

        Raises:
            DataError: a layer has no statistics, or a band no valid pixel.
            SettingsError: the statistics do not hold the percentiles of `clip`.
        """
        super().__init__()
        normalizations = {
            name: normalization_from_statistics(statistics, name, held, clip) for name, held in bands.items()
        }
        self._build(mode, normalizations, bands)

    @classmethod
    def from_card(cls, card: Mapping[str, Any], bands: Mapping[str, Bands]) -> Normalize:
        """Build it from a checkpoint's card.

        Args:
            card: what `card()` returned.
            bands: layer name to the bands of the arrays to come. They may hold more bands than the model takes, in any
                order.

        Raises:
            CheckpointError: the card is incomplete.
            DataError: a layer or band that the model takes is not in `bands`.
        """
        try:
            mode = card["mode"]
            normalizations = {name: normalization_from_plain(values) for name, values in card["layers"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint's card does not describe the normalization ({error!r}); train again"
            ) from error
        missing = [name for name in normalizations if name not in bands]
        if missing:
            raise DataError(f"layer {missing[0]} is what the model takes, the data have {', '.join(bands)}; add it")
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._build(mode, normalizations, bands)
        return module

    def _build(self, mode: Mode, normalizations: Mapping[str, BandNormalization], bands: Mapping[str, Bands]) -> None:
        if mode not in ("dataset", "tile"):
            raise ValueError(f"mode = {mode}: must be dataset or tile")
        self.mode: Mode = mode
        self.layers = tuple(normalizations)
        self._scalings = dict(normalizations)
        # A list, as layer names may hold dots or equal a method of ModuleDict.
        self.scalers = nn.ModuleList(
            _LayerScaler(normalization, tuple(bands[name].indices(normalization.bands)), len(bands[name]), mode)
            for name, normalization in normalizations.items()
        )

    def forward(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Normalize a batch.

        Args:
            inputs: layer name to `values`, shape (batch, band, row, col) or (batch, time, band, row, col), any real
                dtype, stored units, and `valid`, bool, of the same shape or with a band axis of 1. Values where `valid`
                is False may be anything, NaN included. A NaN that is marked valid stays NaN.

        Returns:
            Layer name to float32 of shape (batch, channel, row, col), dimensionless, 0 where not valid. With a time
            axis the channels are time * band, all bands of the first date first.
        """
        return {
            name: scaler(inputs[name]["values"], inputs[name]["valid"])
            for name, scaler in zip(self.layers, self.scalers, strict=True)
        }

    def masks(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the valid masks that belong to the arrays `forward` returns, for augmentation after it.

        Args:
            inputs: as for `forward`.

        Returns:
            Layer name to bool of shape (batch, channel, row, col).
        """
        masks = {}
        for name, scaler in zip(self.layers, self.scalers, strict=True):
            assert isinstance(scaler, _LayerScaler)
            masks[name] = scaler.mask(inputs[name]["valid"]).flatten(1, -3)
        return masks

    def card(self) -> dict[str, Any]:
        """Return mode, bands and figures as plain JSON values, for a checkpoint's card."""
        return {
            "mode": self.mode,
            "layers": {name: normalization_to_plain(normalization) for name, normalization in self._scalings.items()},
        }

    def channels(self, layer: str) -> int:
        """Return the number of channels of a layer for one date."""
        return len(self._scalings[layer].bands)


class _LayerScaler(nn.Module):
    """Selection and normalization of one layer."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self, normalization: BandNormalization, indices: tuple[int, ...], stored_bands: int, mode: Mode
    ) -> None:
        super().__init__()
        self.stored_bands = stored_bands
        # Taking all bands in order is the common case, and indexing would copy the batch.
        self.indices = None if indices == tuple(range(stored_bands)) else list(indices)
        self.per_tile = mode == "tile"
        self.clipped = any(map(math.isfinite, normalization.low + normalization.high))
        self.pairs = normalization.pairs
        for name in ("mean", "std", "low", "high"):
            values = torch.tensor(getattr(normalization, name), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        if values.shape[-3] != self.stored_bands:
            raise ValueError(f"array of shape {tuple(values.shape)}: must have {self.stored_bands} bands on axis -3")
        if self.indices is not None and values.dtype == torch.uint16:
            # Torch indexes uint16 on some devices only; its bits are copied just as well under another name.
            values = values.view(torch.int16)[..., self.indices, :, :].view(torch.uint16)
        elif self.indices is not None:
            values = values[..., self.indices, :, :]
        mask = self.mask(valid)
        x = values.float()
        if self.clipped:
            x = torch.minimum(torch.maximum(x, self.low), self.high)
        x = self._by_tile(x, mask) if self.per_tile else (x - self.mean) / self.std
        # Selected, not multiplied by the mask: 0 * NaN is NaN.
        return torch.where(mask, x, 0.0).flatten(1, -3)

    def mask(self, valid: Tensor) -> Tensor:
        """Return the mask of the selected bands, shape (batch, (time,) band, row, col)."""
        if valid.shape[-3] == 1:
            return valid.expand(*valid.shape[:-3], self.mean.shape[0], *valid.shape[-2:])
        return valid if self.indices is None else valid[..., self.indices, :, :]

    def _by_tile(self, x: Tensor, mask: Tensor) -> Tensor:
        """Scale each sample and band by its own valid pixels; the time axis, if any, counts as pixels."""
        axes = (-2, -1) if x.ndim == 4 else (1, -2, -1)
        count = mask.sum(axes, keepdim=True).clamp_min(1)
        # Counting from the smallest value makes a single-valued tile exactly 0 and keeps large offsets out of the sums.
        lowest = torch.where(mask, x, torch.inf).amin(axes, keepdim=True)
        shifted = torch.where(mask, x - lowest, 0.0)
        mean = shifted.sum(axes, keepdim=True) / count
        centred = torch.where(mask, shifted - mean, 0.0)
        std = (centred.square().sum(axes, keepdim=True) / count).sqrt()
        scaled = centred / torch.where(std > 0, std, 1.0)
        if not self.pairs:
            return scaled
        vectors = torch.where(mask, (x - self.mean) / self.std, 0.0)
        for first, second in self.pairs:
            pair, held = vectors[..., [first, second], :, :], mask[..., [first, second], :, :]
            both = (*axes, -3)
            square = pair.square().sum(both, keepdim=True) / held.sum(both, keepdim=True).clamp_min(1)
            scaled[..., [first, second], :, :] = pair / torch.where(square > 0, square, 1.0).sqrt()
        return scaled
