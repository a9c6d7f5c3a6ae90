"""How weights move: AdamW and SGD, the learning rate over a run, and the running mean of the weights.

The learning rate is a pure function of the step, so that a resumed run needs no state for it. The running mean often
scores better than the weights of any one step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from geocore.device import DeviceContext
from geocore.errors import CheckpointError, SettingsError
from geocore.settings import OptimizerSettings, ScheduleSettings


def make_optimizer(
    model: nn.Module, groups: list[dict[str, Any]] | None, settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Make the optimizer, fused where the device can; `initial_lr` of each group is its highest learning rate."""
    wanted = groups or [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def make(fused: bool) -> torch.optim.Optimizer:
        parameters = [dict(group) for group in wanted]
        rate, decay = settings.learning_rate, settings.weight_decay
        if settings.name == "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=fused)
        return torch.optim.AdamW(parameters, lr=rate, betas=settings.betas, weight_decay=decay, fused=fused)

    try:
        optimizer = make(settings.fused)
    except RuntimeError:  # this device has no fused kernel
        optimizer = make(False)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over a saved state, but keep the present choice of kernel and the memory format of the parameters."""
    for group in state["param_groups"]:
        group["fused"] = optimizer.defaults["fused"]
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise CheckpointError(f"the optimizer's state does not fit the model ({error}); start a new run") from error
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value is not None and value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def skips_on_device(optimizer: torch.optim.Optimizer, context: DeviceContext) -> bool:
    """Tell whether the update kernel itself should look at `found_inf`, and then leave the weights alone.

    On a CPU reading a loss costs less than that.
    """
    return context.device.type != "cpu" and bool(optimizer.defaults["fused"])


def learning_rate_factor(step: int, steps: int, schedule: ScheduleSettings) -> float:
    """Return the factor on the learning rate for one optimizer step.

    A linear warm-up to 1 over `warmup_steps`, then by `kind`: `cosine` falls to `final_fraction` along half a cosine,
    once or anew every `restart_every` steps (Loshchilov and Hutter 2017), `poly` along (1 - t)**power, and `constant`
    stays at 1.

    Args:
        step: 0 for the first step. At `steps` and beyond, the factor stays at its last value.
        steps: steps of the whole run.
        schedule: kind, warm-up, last share and power.

    Returns:
        A factor above 0 in the warm-up and between `final_fraction` and 1 after it.

    Raises:
        SettingsError: the warm-up does not end before the run does.
    """
    warmup = schedule.warmup_steps
    if warmup >= steps:
        raise SettingsError(f"schedule.warmup_steps = {warmup}: must be below the {steps} steps of the run; lower it")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    t = min(1.0, (step - warmup) / (steps - warmup))
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine":
        if schedule.restart_every is not None:
            t = (min(step, steps - 1) - warmup) % schedule.restart_every / schedule.restart_every
        remaining = 0.5 * (1.0 + math.cos(math.pi * t))
    elif schedule.kind == "poly":
        remaining = (1.0 - t) ** schedule.power
    else:
        raise ValueError(f"schedule.kind = {schedule.kind}: must be cosine, poly or constant")
    return schedule.final_fraction + (1.0 - schedule.final_fraction) * remaining


class EMA:
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
        """Take in the model's weights after optimizer step `step` (1 for the first)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._float_means, self._float_live, 1.0 - decay)
        for mean, value in self._others:
            mean.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
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
