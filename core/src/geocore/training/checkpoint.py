"""Checkpoints: everything a run needs to go on, and everything a prediction needs to know about a model.

A checkpoint is a folder `step-000123` that is there whole or not at all:

    model.safetensors       the weights
    ema.safetensors         their running mean, when the run keeps one
    optimizer.safetensors   tensors of the optimizer and of the batch source
    state.json              step, progress, random generators, and the SHA-256 of the other files
    card.json               bands, units, normalization, classes, configuration, hash of the data: what predict reads

Beside them the small text files `last` and `best` each name one. Nothing here is ever unpickled: nested states are JSON
beside a file of tensors, random generators are text. Weights made elsewhere are read by `geocore.training.pretrained`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from geocore.device import DeviceContext, seed_everything
from geocore.errors import CheckpointError
from geocore.storage.documents import DocumentError, read_json, read_text
from geocore.storage.files import (
    atomic_path,
    atomic_write_text,
    discard,
    remove_leftovers,
    sha256_file,
    sha256_json,
    storage_errors,
)
from geocore.storage.special_files import check_regular

logger = logging.getLogger(__name__)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with the permissions that other new files get.

    Args:
        path: the file.
        tensors: names -> tensors of any device, layout and sharing.

    Raises:
        OSError: as Python's own writing would; the library only has the number in its message.
    """
    whole: dict[str, Tensor] = {}
    owners: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().to("cpu").contiguous()
        storage = flat.untyped_storage()
        # The format has no views: tied weights and slices are written as tensors of their own.
        if storage.data_ptr() in owners or storage.nbytes() != flat.nbytes:
            flat = flat.clone()
        owners.add(flat.untyped_storage().data_ptr())
        whole[name] = flat
    # The library makes private files; readers of the run may be others than its owner.
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(whole, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number.group(1)), str(error), str(path)) from error
        raise
    path.chmod(mode)


def flatten_state(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a nested state into JSON; its tensors and arrays move to `tensors` under the name that stays behind.

    Args:
        value: nested dicts, lists and tuples of tensors, arrays and JSON values.
        name: begins the names of its tensors.
        tensors: receives them.

    Raises:
        TypeError: there is something else in it.
    """
    while name in tensors:  # {"a.b": x} beside {"a": {"b": y}}
        name += "'"
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.array(value, order="C"))
        return {"$array": name}
    if isinstance(value, Mapping):
        # A list of pairs, since JSON would turn the numbers that key an optimizer's state into strings.
        return {"$items": [[key, flatten_state(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [flatten_state(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}: a saved state holds dicts, lists, tensors, numbers and texts")


def unflatten_state(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put the tensors back: the inverse of `flatten_state`."""
    if isinstance(value, list):
        return [unflatten_state(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "$tensor":
        return tensors[content]
    if kind == "$array":
        return tensors[content].numpy()
    if kind == "$items":
        return {key: unflatten_state(item, tensors) for key, item in content}
    return tuple(unflatten_state(item, tensors) for item in content)


_SLOT_BYTES = 32768
"""Room for one process's text when texts are exchanged; some 16 KiB are used."""


def rng_state(context: DeviceContext) -> list[str]:
    """Return the states of Python's, numpy's and torch's generators (CPU and device), one text for each process.

    Every process has to call it.
    """
    text = _capture(context)
    if context.world_size == 1:
        return [text]
    # A sum over processes in which each fills its own row, so that no process has to unpickle what another sent.
    if len(text) > _SLOT_BYTES:
        raise ValueError(f"the generators' state takes {len(text)} bytes, more than {_SLOT_BYTES}")
    rows = torch.zeros((context.world_size, _SLOT_BYTES), dtype=torch.int32)
    rows[context.rank] = torch.tensor(list(text.ljust(_SLOT_BYTES).encode()), dtype=torch.int32)
    return [bytes(row).decode().rstrip() for row in context.all_reduce_sum(rows).tolist()]


def set_rng_state(states: list[str], context: DeviceContext, *, seed: int) -> None:
    """Put the generators of this process into a captured state.

    Args:
        states: what `rng_state` returned.
        context: this process.
        seed: seeds a process that had no predecessor, after a start with more processes than before.
    """
    if context.rank >= len(states):
        seed_everything(seed)
        return
    state = json.loads(states[context.rank])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002 - it is saved
    torch.set_rng_state(_bytes(state["torch"]))
    # A run may go on on another kind of device, whose generator then keeps its seed.
    if state["device"] is not None and state["device"][0] == context.device.type:
        torch.get_device_module(context.device).set_rng_state(_bytes(state["device"][1]))


def _capture(context: DeviceContext) -> str:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - others may use it
    device: Any = None
    if context.device.type != "cpu":
        device = (context.device.type, _text(torch.get_device_module(context.device).get_rng_state()))
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


_FORMAT = 1
_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """What goes into a checkpoint."""

    step: int
    """Optimizer steps done."""
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    """Running mean of the weights, with the names of `model`."""
    optimizer: Mapping[str, Any]
    """Nested dicts, lists and tuples of tensors and JSON values."""
    source: Mapping[str, Any]
    """State of the batch source, likewise."""
    random: list[str]
    """Random generators, one text for each process."""
    progress: Mapping[str, Any]
    """JSON values: best score so far, patience used up..."""
    card: Mapping[str, Any]
    """JSON values that describe the model to those who use it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk. Tensors are read when asked for."""

    path: Path
    step: int
    progress: dict[str, Any]
    card: dict[str, Any]
    random: list[str]
    weights_hash: str
    """SHA-256 of the file that `model()` reads."""
    extra: dict[str, Any]
    """`optimizer` and `source` with names in place of tensors."""
    averaged: bool = False
    """Whether the run kept a running mean of the weights; by what was written, not by what lies in the folder."""

    def model(self, *, ema: bool = True) -> dict[str, Tensor]:
        """Read weights, on the CPU.

        Args:
            ema: prefer the running mean where there is one, as validation does; False gives the trained weights.

        Raises:
            CheckpointError: the file has gone, or is no file any more.
        """
        return _tensors(self.path / ("ema.safetensors" if ema and self.averaged else "model.safetensors"))

    def training_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the states of the optimizer and of the batch source."""
        tensors = _tensors(self.path / "optimizer.safetensors")
        return unflatten_state(self.extra["optimizer"], tensors), unflatten_state(self.extra["source"], tensors)

    def validated(self, name: str) -> float:
        """A value that the validation at or before this checkpoint gave, such as the threshold that it chose.

        One before it is told: the weights have gone on since.

        Raises:
            CheckpointError: there had been none yet.
        """
        scores = self.progress.get("scores") or {}
        if name not in scores:
            raise CheckpointError(
                f"{self.path} was saved before the first validation, which chooses the {name}: give --{name}, or "
                "another --checkpoint"
            )
        step = self.progress.get("scored_step")
        if step not in (None, self.step):
            logger.warning(
                "the %s %g was chosen by the validation of step %d, before the weights of %s; --%s sets another",
                name,
                scores[name],
                step,
                self.path.name,
                name,
            )
        return float(scores[name])


def save_checkpoint(folder: Path, contents: CheckpointState, *, best: bool, keep: int) -> Path:
    """Write a checkpoint, point `last` (and `best`) at it and remove older ones.

    Args:
        folder: the checkpoints of one run.
        contents: what to save; tensors of any device, layout and sharing.
        best: whether it scored best so far.
        keep: number of most recent checkpoints that stay, besides the best.

    Raises:
        StorageError: the disk is full or closed; the earlier checkpoints are as they were.
    """
    target = folder / _name(contents.step)
    tensors: dict[str, Tensor] = {}
    nested = {key: flatten_state(getattr(contents, key), key, tensors) for key in ("optimizer", "source")}
    with atomic_path(target) as part:
        part.mkdir()
        (part / "card.json").write_text(json.dumps(contents.card, indent=1))
        save_tensors(part / "model.safetensors", contents.model)
        if contents.ema is not None:
            save_tensors(part / "ema.safetensors", contents.ema)
        save_tensors(part / "optimizer.safetensors", tensors)
        state = {
            "format": _FORMAT,
            "step": contents.step,
            "progress": dict(contents.progress),
            "random": contents.random,
            "flatten_state": nested,
            "files": {path.name: sha256_file(path) for path in sorted(part.iterdir())},
        }
        (part / "state.json").write_text(json.dumps({"content": state, "sha256": sha256_json(state)}))
    atomic_write_text(folder / "last", target.name)
    if best:
        atomic_write_text(folder / "best", target.name)
    kept = {path.name for path in checkpoint_paths(folder)[-keep:]} | {target.name, _pointed(folder, "best")}
    with storage_errors(folder):
        for path in checkpoint_paths(folder):
            if path.name not in kept:
                discard(path)
    return target


def load_checkpoint(folder: Path, which: str = "last", *, for_training: bool = False) -> Checkpoint:
    """Find a checkpoint and check that its files are what was written.

    When the one that `last` names is damaged, the newest whole one is taken instead, with a warning; when `last` names
    none, the newest whole one is meant.

    Args:
        folder: the checkpoints of one run.
        which: `last`, `best`, or the name of one, such as `step-000200`.
        for_training: check the optimizer's file too, the largest one, which only training needs.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    name = _pointed(folder, which) if which in ("last", "best") else which
    paths = checkpoint_paths(folder)
    if which == "last" and not name and paths:
        # A process killed between the renaming of its first checkpoint and the writing of `last` leaves it so.
        name = paths[-1].name
    if not name or (name == which and not (folder / name).exists()):
        there = ", ".join(path.name for path in paths)
        remedy = f"take one of {there} with --checkpoint" if paths else "train first"
        raise CheckpointError(f"{folder} has no {which!r} checkpoint: {remedy}")
    try:
        return _opened(folder / name, for_training=for_training)
    except CheckpointError as error:
        if which != "last":
            whole = [path.name for path in paths if path.name != name]
            remedy = f"take another one with --checkpoint ({', '.join(whole)})" if whole else "train again"
            raise CheckpointError(f"{error}; {remedy}") from error
        for path in reversed([path for path in paths if path.name != name]):
            with contextlib.suppress(CheckpointError):
                checkpoint = _opened(path, for_training=for_training)
                logger.warning("%s; going on from %s", error, path.name)
                return checkpoint
        raise CheckpointError(f"{error}, and {folder} holds no whole one; train again in another folder") from error


def has_checkpoints(folder: Path) -> bool:
    """Tell whether a run has saved anything, whole or damaged."""
    return bool(_pointed(folder, "last")) or bool(checkpoint_paths(folder))


def checkpoint_paths(folder: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    try:
        return sorted((path for path in folder.iterdir() if _STEP.fullmatch(path.name)), key=_step)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}: must be a readable folder; check the path") from error


def rewind(folder: Path, step: int, best_step: int | None) -> None:
    """Make a folder as it was when the checkpoint of `step` had just been saved.

    Removes later checkpoints and what a killed process left unfinished, and corrects `last` and `best`.

    Args:
        folder: the checkpoints of one run; may be missing.
        step: of the checkpoint; 0 for a run that starts anew.
        best_step: of the checkpoint that was the best one then; None when there was none.

    Raises:
        StorageError: the folder cannot be written.
    """
    if not folder.is_dir():
        return
    with storage_errors(folder):
        for path in checkpoint_paths(folder):
            if _step(path) > step:
                discard(path)
        remove_leftovers(folder)
        if (folder / _name(step)).exists() and _pointed(folder, "last") != _name(step):
            atomic_write_text(folder / "last", _name(step))
        best = "" if best_step is None else _name(best_step)
        if not best or not (folder / best).exists():
            (folder / "best").unlink(missing_ok=True)
        elif _pointed(folder, "best") != best:
            atomic_write_text(folder / "best", best)


def _opened(path: Path, *, for_training: bool) -> Checkpoint:
    """Read what is small and check the rest."""
    damaged = f"checkpoint {path} is damaged"
    try:
        state = read_json(path / "state.json", finite=False)
        content = state["content"]
        if sha256_json(content) != state["sha256"]:
            raise CheckpointError(f"{damaged} (state.json is not what was written)")
        if content["format"] != _FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {content['format']}, this geocore reads {_FORMAT}: install the version "
                "that wrote it (environment.json of the run names it)"
            )
        for name, digest in content["files"].items():
            if (for_training or name != "optimizer.safetensors") and sha256_file(path / name) != digest:
                raise CheckpointError(f"{damaged} ({name} is not what was written)")
        weights = "ema.safetensors" if "ema.safetensors" in content["files"] else "model.safetensors"
        return Checkpoint(
            path=path,
            step=content["step"],
            progress=content["progress"],
            card=read_json(path / "card.json", finite=False),
            random=content["random"],
            weights_hash=content["files"][weights],
            extra=content["flatten_state"],
            averaged="ema.safetensors" in content["files"],
        )
    except FileNotFoundError as error:
        what = Path(error.filename).name if path.is_dir() else "the folder"
        raise CheckpointError(f"{damaged} ({what} is missing)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{damaged} ({reason})") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        check_regular(path)
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}: must be the file that was written") from error


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _pointed(folder: Path, pointer: str) -> str:
    """Return the name in `last` or `best`; empty when there is no such file or it holds something else."""
    try:
        name = read_text(folder / pointer).strip()
    except (OSError, DocumentError):
        return ""
    return name if _STEP.fullmatch(name) else ""
