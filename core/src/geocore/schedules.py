"""The learning rate over a run: a pure function of the step, so that a resumed run needs no state for it."""

from __future__ import annotations

import math

from geocore.errors import SettingsError
from geocore.settings import ScheduleSettings


def learning_rate_factor(step: int, steps: int, schedule: ScheduleSettings) -> float:
    """Return the factor on the learning rate for one optimiser step.

    A linear warm-up to 1 over `warmup_steps`, then by `kind`: `cosine` falls to `final_share` along half a cosine, once
    or anew every `restart_every` steps (Loshchilov and Hutter 2017), `poly` along (1 - t)**power, and `constant` stays
    at 1.

    Args:
        step: 0 for the first step. At `steps` and beyond, the factor stays at its last value.
        steps: steps of the whole run.
        schedule: kind, warm-up, last share and power.

    Returns:
        A factor above 0 in the warm-up and between `final_share` and 1 after it.

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
    return schedule.final_share + (1.0 - schedule.final_share) * remaining
