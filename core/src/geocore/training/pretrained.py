"""Weights made elsewhere: read without running any code they carry, loaded strictly, fitted to other bands."""

from __future__ import annotations

import codecs
import collections
import math
import mmap
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geocore.errors import WeightsError
from geocore.storage.memory import most_at_once
from geocore.storage.special_files import check_regular

_WRAPPERS = ("state_dict", "model", "model_state_dict", "module", "model_state")
"""Keys under which training frameworks keep the weights, tried in this order."""

_ANY_BYTES = b"bytearray"
"""Name by which a program makes any number of bytes; torch calls it when asked."""

_SHOWN = 3
"""Names that a message lists before it says how many more there are."""


class _Inert:
    """Takes the place of a class that some checkpoints carry and nobody here needs; keeps and does nothing."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _encoded(text: str, encoding: str) -> bytes:
    """Take the place of `codecs.encode` for bytes under protocol 2; other encodings double what they are given."""
    if encoding != "latin1":
        raise WeightsError(f"bytes in the encoding {encoding[:40]!r}: must be latin1, as pickle writes them")
    return codecs.encode(text, "latin1")


def _nothing(*arguments: object) -> None:
    """Take the place of a function; returns nothing."""


def load_foreign(path: Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, a torch file or a `.pkl` of numpy arrays (detectron2's model zoo).

    Torch files may hold tensors, numbers, texts, plain containers, numpy arrays and mmengine's log history (dropped);
    `.pkl` files numpy arrays and plain containers. No other class is ever created.

    Args:
        path: the file.

    Returns:
        Parameter names -> tensors on the CPU. A wrapping `state_dict`, `model` or alike is opened, and the prefix
        `module.` of distributed training is cut off.

    Raises:
        WeightsError: there is no such file, it is damaged, holds another class (named) or holds no tensors.
    """
    try:
        check_regular(path)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise WeightsError(f"weights {path}: no such file; check the path") from error
    except OSError as error:
        raise WeightsError(f"weights {path}: {error.strerror}: must be a readable file; check the path") from error
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif path.suffix == ".pkl":
            with path.open("rb") as file:
                _check_places(file, size)
                content = _ArrayUnpickler(file, encoding="latin1").load()
        else:
            _check_torch_file(path, size)
            with torch.serialization.safe_globals(_allowed_in_torch_files()):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError as error:
        raise WeightsError(f"weights {path}: {error}") from None
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(f"weights {path}: {_refusal(refused.group(1))}") from None
        # torch's own text tells to read the file without its protection.
        raise WeightsError(f"weights {path}: damaged or not a file of weights; get it again") from None
    except MemoryError as error:
        raise WeightsError(f"weights {path}: claims more than fits into memory; get it again, or free some") from error
    # Damaged files make the readers fail in many ways: EOFError, KeyError, RuntimeError...
    except Exception as error:
        raise WeightsError(f"weights {path}: damaged or not a file of weights ({_first_line(error)})") from error
    return _state_dict(content, path, size)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a module when every name and shape fits; otherwise the module stays as it is.

    Args:
        module: takes the weights, in its own memory format and on its own device.
        state: names -> tensors.
        path: where they come from, for the message.

    Raises:
        WeightsError: one line that counts and names what is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    faults = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {_shape(state[name])} for {_shape(own[name])}"
            for name in own
            if name in state and _shape(own[name]) != _shape(state[name])
        ],
    }
    if any(faults.values()):
        parts = (f"{len(names)} {what} ({_listed(names)})" for what, names in faults.items() if names)
        raise WeightsError(f"weights {path} do not fit the model: {'; '.join(parts)}; use weights of the same model")
    module.load_state_dict(dict(state))


def _check_torch_file(path: Path, size: int) -> None:
    """Refuse what torch's reader would give memory to without looking.

    Raises:
        WeightsError: the entries claim more than the file can hold, or a program in it asks for any number of bytes.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
            if claimed > most_at_once(size):
                raise WeightsError(f"claims {claimed / 2**30:.2g} GiB in {size} bytes; get it again")
            programs = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
            asks = any(_ANY_BYTES in program for program in programs)
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            asks = content.find(_ANY_BYTES) >= 0
    if asks:
        raise WeightsError(_refusal("builtins.bytearray"))


def _check_places(file: BinaryIO, size: int) -> None:
    """Refuse a pickle that keeps a value at a place beyond its own length: all places before it would be made.

    Raises:
        WeightsError: so it is.
    """
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > size:
                raise WeightsError(f"keeps a value at place {argument} of a file of {size} bytes; get it again")
    except ValueError:
        pass  # who loads it says what is wrong
    file.seek(0)


def _state_dict(content: Any, path: Path, size: int) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(f"weights {path}: holds a {type(content).__name__}, not names with tensors")
    arrays = {str(name): value for name, value in content.items() if isinstance(value, Tensor | np.ndarray)}
    if not arrays:
        raise WeightsError(f"weights {path}: no tensors in it; its keys are {_listed([str(key) for key in content])}")
    most = most_at_once(size)
    for name, value in arrays.items():
        # A view of one number can have any shape, and is filled when it is copied.
        claimed = math.prod(value.shape) * value.itemsize
        if claimed > most:
            raise WeightsError(
                f"weights {path}: {name[:60]} claims {claimed / 2**30:.2g} GiB, far more than the file can hold; "
                "get it again"
            )
    try:
        state = {name: torch.as_tensor(value) for name, value in arrays.items()}
    except (TypeError, ValueError) as error:
        raise WeightsError(f"weights {path}: an array that is no tensor ({_first_line(error)})") from error
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _allowed_in_torch_files() -> list[Any]:
    reconstruct = np.zeros(0).__reduce__()[0]
    scalar = np.float64(0).__reduce__()[0]
    return [
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
        *(
            (function, f"numpy.{core}.multiarray.{name}")
            for core in ("core", "_core")
            for function, name in ((reconstruct, "_reconstruct"), (scalar, "scalar"))
        ),
        (_encoded, "_codecs.encode"),
        # Under protocol 2 a method is pickled as getattr(class, name), so this name comes with the class.
        (_Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_nothing, "builtins.getattr"),
    ]


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers, numbers, texts and numpy arrays, and refuses the rest by name."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full == "numpy.core.multiarray._reconstruct":
            return np.zeros(0).__reduce__()[0]
        if full == "numpy.core.multiarray.scalar":
            return np.float64(0).__reduce__()[0]
        if full in ("numpy.ndarray", "numpy.dtype"):
            return getattr(np, name)
        if full == "collections.OrderedDict":
            return collections.OrderedDict
        if full == "_codecs.encode":
            return _encoded
        raise WeightsError(_refusal(f"{module}.{name}"))


def _refusal(name: str) -> str:
    return (
        f"it wants to create {name}, which may run code, so it is refused: have its maker save the state dict alone, "
        "best as .safetensors"
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def adapt_first_conv(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """Make a first convolution take another number of bands, keeping what its filters have learnt.

    Every band gets the mean of the old filters, scaled so that an image whose bands are all equal gives the same output
    as before: one band gets the sum of the old filters, N bands get 1/N of it each.

    Args:
        conv: convolution on K bands (3 for RGB weights), one group.
        in_channels: number of bands to take.

    Returns:
        A new convolution on the same device and of the same dtype, or `conv` itself if it already takes
        `in_channels` bands.
    """
    if conv.groups != 1:
        raise ValueError(f"a convolution of {conv.groups} groups: only one group can be adapted")
    if in_channels < 1:
        raise ValueError(f"in_channels = {in_channels}: must be at least 1")
    held = conv.in_channels
    if in_channels == held:
        return conv
    old = conv.weight.detach()
    weight = old.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)
    adapted = nn.Conv2d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device=old.device,
        dtype=old.dtype,
    )
    with torch.no_grad():
        adapted.weight.copy_(weight * (held / in_channels))
        if conv.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(conv.bias)
    adapted.weight.requires_grad_(conv.weight.requires_grad)
    return adapted


def layer_decay_groups(
    model: nn.Module,
    layers: Sequence[Sequence[str]],
    *,
    learning_rate: float,
    decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Parameter groups whose learning rate shrinks from the head down to the input.

    The last layer and everything that is not named get the full rate, the one before it `decay` times that, and so on
    (Clark et al. 2020, ELECTRA; Bao et al. 2022, BEiT). Biases, norms and other vectors get no weight decay.

    Args:
        model: the model; frozen parameters are left out.
        layers: names of modules or parameters, one group a layer, from the input to the output.
        learning_rate: rate of the last layer.
        decay: factor from a layer to the one before it, above 0, at most 1.
        weight_decay: weight decay of matrices and filters.

    Returns:
        Groups for a torch optimizer, with `params`, `lr` and `weight_decay`.
    """
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay = {decay}: must be above 0 and at most 1")
    parameters = dict(model.named_parameters())
    for name in (name for layer in layers for name in layer):
        if not any(_covers(name, key) for key in parameters):
            raise ValueError(f"no parameter below {name}: name modules of the model")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for key, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        depth = next((i for i, layer in enumerate(layers) if any(_covers(n, key) for n in layer)), len(layers) - 1)
        rate = learning_rate * decay ** max(0, len(layers) - 1 - depth)
        groups.setdefault((rate, weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": held, "lr": rate, "weight_decay": shrink} for (rate, shrink), held in groups.items()]


def _covers(name: str, key: str) -> bool:
    return key == name or key.startswith(name + ".")
