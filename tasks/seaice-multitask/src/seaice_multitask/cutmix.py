"""CutMix: paste a rectangle of another window of the batch, its charts included (Yun et al. 2019, ICCV)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geocore.raster.bands import Bands
from geocore.transforms.augment import Augmentation, Batch, CounterRNG


@dataclass(frozen=True, slots=True)
class CutMix(Augmentation):
    """Replace a rectangle of each window by the same rectangle of the next window of the batch.

    The last window takes from the first. The rectangle has the shape of the window, its share of the area is uniform in
    0-1 (a Beta distribution with both parameters 1), its middle lies anywhere, and what reaches outside is cut off.
    Rectangles depend on the keys alone; which window is next depends on the batch, and on the part of it that a process
    holds. Values, masks and charts move together, so nothing is mixed and 255 stays 255.
    """

    probability: float = 0.5
    """Share of the windows that are changed."""

    def apply(self, batch: Batch, draws: CounterRNG, bands: Mapping[str, Bands]) -> Batch:
        """Cut each window by its own draws; inputs and targets of three or more axes are changed."""
        pasted = dict(batch)
        pasted["inputs"] = {name: _pasted(held, self, draws) for name, held in batch["inputs"].items()}
        for group in ("valid", "targets"):
            if group in batch:
                pasted[group] = {name: _pasted(held, self, draws) for name, held in batch[group].items()}
        return pasted

    def rectangles(self, draws: CounterRNG, shape: tuple[int, int]) -> Tensor:
        """Where each window is replaced.

        Args:
            draws: one row for each window.
            shape: rows and columns of a window.

        Returns:
            Shape (batch, row, col), bool.
        """
        chosen = draws.uniform(0) < self.probability
        side = draws.uniform(1).sqrt()
        inside = chosen[:, None, None]
        for axis, length in enumerate(shape):
            middle = draws.uniform(2 + axis) * length
            reach = side * length / 2
            pixels = torch.arange(length, device=side.device) + 0.5
            near = (pixels - middle[:, None]).abs() < reach[:, None]
            inside = inside & (near[:, :, None] if axis == 0 else near[:, None, :])
        return inside


def _pasted(held: Any, cutmix: CutMix, draws: CounterRNG) -> Any:
    if isinstance(held, dict):
        return {name: _pasted(part, cutmix, draws) for name, part in held.items()}
    if not isinstance(held, Tensor) or held.ndim < 3:
        return held
    inside = cutmix.rectangles(draws, (held.shape[-2], held.shape[-1])).to(held.device)
    inside = inside.reshape(len(held), *(1,) * (held.ndim - 3), *held.shape[-2:])
    return torch.where(inside, held.roll(-1, dims=0), held)
