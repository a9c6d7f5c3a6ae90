"""State of the global random generators, which dropout and the like draw from, as text that goes into a checkpoint."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocore.devices import Place, seed_everything

_SLOT_BYTES = 32768
"""Room for one process's text when texts are exchanged; some 16 KiB are used."""


def captured(place: Place) -> list[str]:
    """Return the states of Python's, numpy's and torch's generators (CPU and device), one text for each process.

    Every process has to call it.
    """
    text = _capture(place)
    if place.world_size == 1:
        return [text]
    # A sum over processes in which each fills its own row, so that no process has to unpickle what another sent.
    if len(text) > _SLOT_BYTES:
        raise ValueError(f"the generators' state takes {len(text)} bytes, more than {_SLOT_BYTES}")
    rows = torch.zeros((place.world_size, _SLOT_BYTES), dtype=torch.int32)
    rows[place.rank] = torch.tensor(list(text.ljust(_SLOT_BYTES).encode()), dtype=torch.int32)
    return [bytes(row).decode().rstrip() for row in place.all_reduce_sum(rows).tolist()]


def restore(states: list[str], place: Place, *, seed: int) -> None:
    """Put the generators of this process into a captured state.

    Args:
        states: what `captured` returned.
        place: this process.
        seed: seeds a process that had no predecessor, after a start with more processes than before.
    """
    if place.rank >= len(states):
        seed_everything(seed)
        return
    state = json.loads(states[place.rank])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002 - it is saved
    torch.set_rng_state(_bytes(state["torch"]))
    # A run may go on on another kind of device, whose generator then keeps its seed.
    if state["device"] is not None and state["device"][0] == place.device.type:
        torch.get_device_module(place.device).set_rng_state(_bytes(state["device"][1]))


def _capture(place: Place) -> str:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - others may use it
    device: Any = None
    if place.device.type != "cpu":
        device = (place.device.type, _text(torch.get_device_module(place.device).get_rng_state()))
    state = {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), position, has_gauss, cached),
        "torch": _text(torch.get_rng_state()),
        "device": device,
    }
    return json.dumps(state, separators=(",", ":"))


def _text(state: Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
