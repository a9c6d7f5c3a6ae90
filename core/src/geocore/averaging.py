"""Running mean of a model's weights, which often scores better than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential running mean of everything in a model's state, buffers included (Polyak averaging).

    The decay rises from 0.1 as (1 + step) / (10 + step), so that a short run is not an average of its random start.
    Integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the model's present weights.

        Args:
            model: its parameters and buffers must stay the same objects from here on.
            decay: share of the mean that stays at a step, 0-1, once the run is long.
        """
        self._decay = decay
        # state_dict() gives views of the live tensors; collected once, since making it at each step costs more than
        # the averaging.
        live = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        self._mean = {name: value.detach().clone() for name, value in live.items()}
        self._pairs = [(self._mean[name], value) for name, value in live.items()]
        floats = [(mean, value) for mean, value in self._pairs if value.is_floating_point()]
        self._float_means, self._float_live = [mean for mean, _ in floats], [value for _, value in floats]
        self._others = [(mean, value) for mean, value in self._pairs if not value.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's weights after optimiser step `step` (1 for the first)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._float_means, self._float_live, 1.0 - decay)
        for mean, value in self._others:
            mean.copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the mean into the model for the length of a `with` block, bit-exactly reversed at its end."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the mean under the names of the model's state."""
        return dict(self._mean)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a mean that was saved."""
        for name, mean in self._mean.items():
            mean.copy_(state[name])

    @torch.no_grad()
    def _exchange(self) -> None:
        for mean, value in self._pairs:
            kept = value.clone()
            value.copy_(mean)
            mean.copy_(kept)
