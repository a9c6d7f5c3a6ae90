"""Checkpoints: everything a run needs to go on, and everything a prediction needs to know about a model.

A checkpoint is a folder `step-000123` that is there whole or not at all:

    model.safetensors       the weights
    ema.safetensors         their running mean, when the run keeps one
    optimiser.safetensors   tensors of the optimiser and of the batch source
    state.json              step, progress, random generators, and the SHA-256 of the other files
    card.json               bands, units, normalisation, classes, configuration, hash of the data: what predict reads

Beside them the small text files `last` and `best` each name one. Nothing here is ever unpickled. Weights made
elsewhere are read by `geocore.weights`, whose functions can be imported from here too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from geocore.errors import CheckpointError
from geocore.files import atomic_path, atomic_write_text, sha256_file, sha256_json, storage_errors
from geocore.weights import load_foreign as load_foreign
from geocore.weights import load_strictly as load_strictly

logger = logging.getLogger(__name__)

_FORMAT = 1
_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a checkpoint."""

    step: int
    """Optimiser steps done."""
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    """Running mean of the weights, with the names of `model`."""
    optimiser: Mapping[str, Any]
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
    packed: dict[str, Any]
    """`optimiser` and `source` with names in place of tensors."""

    @property
    def averaged(self) -> bool:
        """Whether the run kept a running mean of the weights."""
        return (self.path / "ema.safetensors").exists()

    def model(self, *, ema: bool = True) -> dict[str, Tensor]:
        """Reads weights, on the CPU.

        Args:
            ema: prefer the running mean where there is one, as validation does; False gives the trained weights.
        """
        return load_file(self.path / ("ema.safetensors" if ema and self.averaged else "model.safetensors"))

    def training_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads the states of the optimiser and of the batch source."""
        tensors = load_file(self.path / "optimiser.safetensors")
        return _unpacked(self.packed["optimiser"], tensors), _unpacked(self.packed["source"], tensors)


def save_checkpoint(folder: Path, contents: Contents, *, best: bool, keep: int) -> Path:
    """Writes a checkpoint, points `last` (and `best`) at it and removes older ones.

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
    packed = {key: _packed(getattr(contents, key), key, tensors) for key in ("optimiser", "source")}
    with atomic_path(target) as part:
        part.mkdir()
        (part / "card.json").write_text(json.dumps(contents.card, indent=1))
        _save_tensors(part / "model.safetensors", contents.model)
        if contents.ema is not None:
            _save_tensors(part / "ema.safetensors", contents.ema)
        _save_tensors(part / "optimiser.safetensors", tensors)
        state = {
            "format": _FORMAT,
            "step": contents.step,
            "progress": dict(contents.progress),
            "random": contents.random,
            "packed": packed,
            "files": {path.name: sha256_file(path) for path in sorted(part.iterdir())},
        }
        (part / "state.json").write_text(json.dumps({"content": state, "sha256": sha256_json(state)}))
    atomic_write_text(folder / "last", target.name)
    if best:
        atomic_write_text(folder / "best", target.name)
    kept = {path.name for path in checkpoint_paths(folder)[-keep:]} | {target.name, _pointed(folder, "best")}
    with storage_errors(folder):
        _remove(path for path in checkpoint_paths(folder) if path.name not in kept)
    return target


def load_checkpoint(folder: Path, which: str = "last", *, for_training: bool = False) -> Checkpoint:
    """Finds a checkpoint and checks that its files are what was written.

    When the one that `last` names is damaged, the newest whole one is taken instead, with a warning.

    Args:
        folder: the checkpoints of one run.
        which: `last`, `best`, or the name of one, such as `step-000200`.
        for_training: check the optimiser's file too, the largest one, which only training needs.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    name = _pointed(folder, which) if which in ("last", "best") else which
    paths = checkpoint_paths(folder)
    if not name:
        remedy = "train first" if not paths else f"take one of {', '.join(path.name for path in paths)}"
        raise CheckpointError(f"{folder} has no {which!r} checkpoint: {remedy}")
    try:
        return _opened(folder / name, for_training=for_training)
    except CheckpointError as error:
        if which != "last":
            whole = [path.name for path in paths if path.name != name]
            remedy = f"take another one ({', '.join(whole)})" if whole else "train again"
            raise CheckpointError(f"{error}; {remedy}") from error
        for path in reversed([path for path in paths if path.name != name]):
            with contextlib.suppress(CheckpointError):
                checkpoint = _opened(path, for_training=for_training)
                logger.warning("%s; going on from %s", error, path.name)
                return checkpoint
        raise CheckpointError(f"{error}, and {folder} holds no whole one; train again in another folder") from error


def has_checkpoints(folder: Path) -> bool:
    """Tells whether a run has saved anything, whole or damaged."""
    return bool(_pointed(folder, "last")) or bool(checkpoint_paths(folder))


def checkpoint_paths(folder: Path) -> list[Path]:
    """Lists the checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _STEP.fullmatch(path.name)), key=_step)


def rewind(folder: Path, step: int, best_step: int | None) -> bool:
    """Makes a folder as it was when the checkpoint of `step` had just been saved.

    Removes later checkpoints and what a killed process left unfinished, and corrects `last` and `best`.

    Returns:
        Whether the best checkpoint of that time is still there; True when there was none.
    """
    if not folder.is_dir():
        return best_step is None
    with storage_errors(folder):
        _remove(path for path in checkpoint_paths(folder) if _step(path) > step)
        _remove(path for path in folder.iterdir() if path.name.startswith((".part-", ".old-")))
        if (folder / _name(step)).exists() and _pointed(folder, "last") != _name(step):
            atomic_write_text(folder / "last", _name(step))
        best = "" if best_step is None else _name(best_step)
        there = (folder / best).exists()
        if not best or not there:
            (folder / "best").unlink(missing_ok=True)
        elif _pointed(folder, "best") != best:
            atomic_write_text(folder / "best", best)
    return there


def _opened(path: Path, *, for_training: bool) -> Checkpoint:
    """Reads what is small and checks the rest."""
    damaged = f"checkpoint {path} is damaged"
    try:
        state = json.loads((path / "state.json").read_text())
        content = state["content"]
        if sha256_json(content) != state["sha256"]:
            raise CheckpointError(f"{damaged} (state.json is not what was written)")
        if content["format"] != _FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {content['format']}, this geocore reads {_FORMAT}: install the version "
                "that wrote it (environment.json of the run names it)"
            )
        for name, digest in content["files"].items():
            if (for_training or name != "optimiser.safetensors") and sha256_file(path / name) != digest:
                raise CheckpointError(f"{damaged} ({name} is not what was written)")
        weights = "ema.safetensors" if "ema.safetensors" in content["files"] else "model.safetensors"
        return Checkpoint(
            path=path,
            step=content["step"],
            progress=content["progress"],
            card=json.loads((path / "card.json").read_text()),
            random=content["random"],
            weights_hash=content["files"][weights],
            packed=content["packed"],
        )
    except FileNotFoundError as error:
        what = Path(error.filename).name if path.is_dir() else "the folder"
        raise CheckpointError(f"{damaged} ({what} is missing)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{damaged} ({reason})") from error


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _pointed(folder: Path, pointer: str) -> str:
    """Returns the name in `last` or `best`; empty when there is no such file or it holds something else."""
    try:
        name = (folder / pointer).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return name if _STEP.fullmatch(name) else ""


def _remove(paths: Iterator[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            # Renamed first: a process killed while it deletes must not leave half a checkpoint under a good name.
            hidden = path.with_name(f".old-{uuid.uuid4().hex[:12]}-{path.name}")
            aside = path if path.name.startswith(".") else path.rename(hidden)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file.

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
    try:
        save_file(whole, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number.group(1)), str(error), str(path)) from error
        raise
    # The library makes private files; readers of the run may be others than its owner.
    path.chmod((path.parent / "card.json").stat().st_mode)


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Turns a nested state into JSON; its tensors and arrays move to `tensors` under the name that stays behind."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value))
        return {"$array": name}
    if isinstance(value, Mapping):
        # A list of pairs, since JSON would turn the numbers that key an optimiser's state into strings.
        return {"$items": [[key, _packed(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}: a saved state holds dicts, lists, tensors, numbers and texts")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "$tensor":
        return tensors[content]
    if kind == "$array":
        return tensors[content].numpy()
    if kind == "$items":
        return {key: _unpacked(item, tensors) for key, item in content}
    return tuple(_unpacked(item, tensors) for item in content)
