"""Fitting a pretrained model to data of other bands."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


def adapt_first_conv(conv: nn.Conv2d, in_channels: int, *, source: Literal["mean", "first"] = "mean") -> nn.Conv2d:
    """Make a first convolution take another number of bands, keeping what its filters have learnt.

    All filters are scaled so that an image whose bands are all equal gives the same output as before: one band gets the
    sum of the old filters, N bands get filters of 1/N of that sum on average.

    Args:
        conv: convolution on K bands (3 for RGB weights), one group.
        in_channels: number of bands to take.
        source: `mean` gives every band the mean of the old filters; `first` keeps the old filters on the first K bands,
            in their order, and gives the mean to the others. With fewer than K bands both are `mean`.

    Returns:
        A new convolution on the same device and of the same dtype, or `conv` itself if it already takes
        `in_channels` bands.
    """
    if conv.groups != 1:
        raise ValueError(f"a convolution of {conv.groups} groups: only one group can be adapted")
    if in_channels < 1:
        raise ValueError(f"in_channels = {in_channels}: must be at least 1")
    if source not in ("mean", "first"):
        raise ValueError(f"source = {source}: must be mean or first")
    held = conv.in_channels
    if in_channels == held:
        return conv
    old = conv.weight.detach()
    weight = old.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)
    if source == "first" and in_channels > held:
        weight[:, :held] = old
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
