"""Test-time augmentation: the mean of a model's outputs over an image and its mirror images.

Networks are not quite blind to orientation, and their errors at the four mirror images are in part independent. The
mean costs four forwards. Turns by a quarter circle are left out: they exchange rows and columns, and with them what is
along and across a sensor's track.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from geocore.datasets.batch import VALID

Inputs = Mapping[str, Mapping[str, Tensor]]
Forward = Callable[[Inputs], Mapping[str, Tensor]]

_SIGNED: Final = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_MIRRORS: Final = ((False, False), (True, False), (False, True), (True, True))


def flipped(values: Tensor, *, rows: bool, cols: bool) -> Tensor:
    """Mirror the last two axes.

    Args:
        values: shape (..., row, col).
        rows: whether top and bottom change places.
        cols: whether left and right change places.
    """
    axes = [axis for axis, wanted in ((-2, rows), (-1, cols)) if wanted]
    # torch cannot flip the wide unsigned types; their bits can be moved as those of signed ones.
    signed = _SIGNED.get(values.dtype)
    return values.flip(axes) if signed is None else values.view(signed).flip(axes).view(values.dtype)


def flip_average(forward: Forward, turned: Mapping[str, Callable[..., Tensor]] | None = None) -> Forward:
    """A forward that averages over an image and its three mirror images.

    Args:
        forward: called with layers of `values`, shape (batch, ..., row, col), and `valid`; returns outputs of shape
            (batch, channel, row, col), probabilities or quantities that mirroring does not change, and `VALID`.
        turned: layer -> how its values are mirrored, called as `flipped`; for layers that hold components of vectors,
            which change their sign. Others are flipped.

    Returns:
        A function as `forward`; outputs are means, float32, and valid is that of the image as it is.
    """

    def mean(inputs: Inputs) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for rows, cols in _MIRRORS:
            mirrored = {
                name: {
                    key: ((turned or {}).get(name, flipped) if key == "values" else flipped)(
                        tensor, rows=rows, cols=cols
                    )
                    for key, tensor in layer.items()
                }
                for name, layer in inputs.items()
            }
            for name, output in forward(mirrored).items():
                if name != VALID:
                    share = flipped(output, rows=rows, cols=cols).float() / len(_MIRRORS)
                    total[name] = total[name] + share if name in total else share
                elif not rows and not cols:
                    total[name] = output
        return total

    return mean
