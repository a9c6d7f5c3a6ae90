"""AdamW: how it is made, and how its saved state is taken over."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from geocore.devices import Place
from geocore.errors import CheckpointError
from geocore.settings import OptimiserSettings


def make_optimiser(
    model: nn.Module, groups: list[dict[str, Any]] | None, settings: OptimiserSettings
) -> torch.optim.AdamW:
    """Make AdamW, fused where the device can; `initial_lr` of each group is its highest learning rate."""
    wanted = groups or [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def make(fused: bool) -> torch.optim.AdamW:
        return torch.optim.AdamW(
            [dict(group) for group in wanted],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=fused,
        )

    try:
        adamw = make(settings.fused)
    except RuntimeError:  # this device has no fused kernel
        adamw = make(False)
    for group in adamw.param_groups:
        group["initial_lr"] = group["lr"]
    return adamw


def load_optimiser(adamw: torch.optim.AdamW, state: dict[str, Any]) -> None:
    """Take over a saved state, but keeps the present choice of kernel and the memory format of the parameters."""
    for group in state["param_groups"]:
        group["fused"] = adamw.defaults["fused"]
    try:
        adamw.load_state_dict(state)
    except ValueError as error:
        raise CheckpointError(f"the optimiser's state does not fit the model ({error}); start a new run") from error
    for parameter, moments in adamw.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def skips_on_device(adamw: torch.optim.AdamW, place: Place) -> bool:
    """Tell whether the update kernel itself should look at `found_inf`, and then leave the weights alone.

    On a CPU reading a loss costs less than that.
    """
    return place.device.type != "cpu" and bool(adamw.defaults["fused"])
