"""Fitting a pretrained model to other data: more bands, smaller steps in early layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def adapt_first_conv(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """Make a first convolution take another number of bands, keeping what its filters have learnt.

    Every band gets the mean of the old filters, scaled so that an image whose bands are all equal gives the same output
    as before: one band gets the sum of the old filters, N bands get 1/N of it each.

    Args:
        conv: convolution on K bands (3 for RGB weights), one group.
        in_channels: number of bands to take.

    Returns:
        A new convolution on the same device and of the same dtype, or `conv` itself if it already takes
        `in_channels` bands.
    """
    if conv.groups != 1:
        raise ValueError(f"a convolution of {conv.groups} groups: only one group can be adapted")
    if in_channels < 1:
        raise ValueError(f"in_channels = {in_channels}: must be at least 1")
    held = conv.in_channels
    if in_channels == held:
        return conv
    old = conv.weight.detach()
    weight = old.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)
    adapted = nn.Conv2d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device=old.device,
        dtype=old.dtype,
    )
    with torch.no_grad():
        adapted.weight.copy_(weight * (held / in_channels))
        if conv.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(conv.bias)
    adapted.weight.requires_grad_(conv.weight.requires_grad)
    return adapted


def layer_decay_groups(
    model: nn.Module,
    layers: Sequence[Sequence[str]],
    *,
    learning_rate: float,
    decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Parameter groups whose learning rate shrinks from the head down to the input.

    The last layer and everything that is not named get the full rate, the one before it `decay` times that, and so on
    (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT). Biases, norms and other vectors get no weight decay.

    Args:
        model: the model; frozen parameters are left out.
        layers: names of modules or parameters, one group a layer, from the input to the output.
        learning_rate: rate of the last layer.
        decay: factor from a layer to the one before it, above 0, at most 1.
        weight_decay: weight decay of matrices and filters.

    Returns:
        Groups for a torch optimiser, with `params`, `lr` and `weight_decay`.
    """
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay = {decay}: must be above 0 and at most 1")
    parameters = dict(model.named_parameters())
    for name in (name for layer in layers for name in layer):
        if not any(_covers(name, key) for key in parameters):
            raise ValueError(f"no parameter below {name}: name modules of the model")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for key, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        depth = next((i for i, layer in enumerate(layers) if any(_covers(n, key) for n in layer)), len(layers) - 1)
        rate = learning_rate * decay ** max(0, len(layers) - 1 - depth)
        groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": held, "lr": rate, "weight_decay": shrink} for (rate, shrink), held in groups.items()]


def _covers(name: str, key: str) -> bool:
    return key == name or key.startswith(name + ".")
