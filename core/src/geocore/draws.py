"""Random numbers that are a pure function of (seed, epoch, index of the sample): made by hashing, without a state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers of one augmentation for each sample of a batch; the same number for the same key."""

    state: Tensor
    """Shape (batch,), int64."""

    @classmethod
    def of(cls, keys: Tensor, seed: int, position: int) -> Draws:
        """Start from the keys.

        Args:
            keys: shape (batch, 2), int64: epoch and index.
            seed: of the run.
            position: place of the augmentation among the others, so that their draws are independent.
        """
        start = torch.full_like(keys[:, 0], seed)
        return cls(_mixed(_mixed(_mixed(_mixed(start) + position) + keys[:, 0]) + keys[:, 1]))

    def part(self, number: int) -> Draws:
        """Draws that are independent of these, and of those of any other number."""
        return Draws(_mixed(self.state + number))

    def uniform(self, number: int) -> Tensor:
        """Draw `number` of each sample, shape (batch,), float32, uniform in [0, 1)."""
        bits = _mixed(_mixed(self.state) + number)
        return _unit(bits, 40)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw independent normal numbers of mean 0 and standard deviation 1 (Box and Muller 1958).

        Args:
            shape: of one sample.

        Returns:
            Shape (batch, *shape), float32. The largest magnitude is 5.8, as uniform draws have 24 bits.
        """
        size = math.prod(shape)
        half = (size + 1) // 2
        counter = torch.arange(half, device=self.state.device)
        bits = _mixed(_mixed(self.state ^ 0x5DEECE66D)[:, None] + counter)
        # 1 - u lies in (0, 1], so that its logarithm is finite.
        radius = (-2.0 * torch.log(1.0 - _unit(bits, 40))).sqrt_()
        angle = _unit(bits, 16).mul_(2.0 * math.pi)
        pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return pairs.flatten(1)[:, :size].reshape(-1, *shape)


def _mixed(z: Tensor) -> Tensor:
    """Hash int64 numbers: a step of SplitMix64 (Steele, Lea and Flood 2014), on two's complement arithmetic."""
    z = z + -0x61C8864680B583EB
    z = (z ^ (z >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ (z >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ (z >> 31 & 0x1FFFFFFFF)


def _unit(bits: Tensor, shift: int) -> Tensor:
    """24 bits of hashed numbers as float32 in [0, 1)."""
    return (bits >> shift & 0xFFFFFF).float() * 2.0**-24
