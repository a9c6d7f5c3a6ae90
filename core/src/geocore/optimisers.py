"""AdamW and SGD: how they are made, and how their saved state is taken over."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from geocore.devices import Place
from geocore.errors import CheckpointError
from geocore.settings import OptimiserSettings


def make_optimiser(
    model: nn.Module, groups: list[dict[str, Any]] | None, settings: OptimiserSettings
) -> torch.optim.Optimizer:
    """Make the optimiser, fused where the device can; `initial_lr` of each group is its highest learning rate."""
    wanted = groups or [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def make(fused: bool) -> torch.optim.Optimizer:
        parameters = [dict(group) for group in wanted]
        rate, decay = settings.learning_rate, settings.weight_decay
        if settings.name == "sgd":
            return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=fused)
        return torch.optim.AdamW(parameters, lr=rate, betas=settings.betas, weight_decay=decay, fused=fused)

    try:
        optimiser = make(settings.fused)
    except RuntimeError:  # this device has no fused kernel
        optimiser = make(False)
    for group in optimiser.param_groups:
        group["initial_lr"] = group["lr"]
    return optimiser


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over a saved state, but keep the present choice of kernel and the memory format of the parameters."""
    for group in state["param_groups"]:
        group["fused"] = optimiser.defaults["fused"]
    try:
        optimiser.load_state_dict(state)
    except ValueError as error:
        raise CheckpointError(f"the optimiser's state does not fit the model ({error}); start a new run") from error
    for parameter, moments in optimiser.state.items():
        for name, value in moments.items():
            if value is not None and value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def skips_on_device(optimiser: torch.optim.Optimizer, place: Place) -> bool:
    """Tell whether the update kernel itself should look at `found_inf`, and then leave the weights alone.

    On a CPU reading a loss costs less than that.
    """
    return place.device.type != "cpu" and bool(optimiser.defaults["fused"])
