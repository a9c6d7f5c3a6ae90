"""Fitting a pretrained model to other data: more bands, frozen parts, smaller steps in early layers, LoRA."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocore.errors import SettingsError


def adapt_first_conv(conv: nn.Conv2d, in_channels: int, *, source: Literal["mean", "first"] = "mean") -> nn.Conv2d:
    """Make a first convolution take another number of bands, keeping what its filters have learnt.

    All filters are scaled so that an image whose bands are all equal gives the same output as before: one band gets the
    sum of the old filters, N bands get filters of 1/N of that sum on average.

    Args:
        conv: convolution on K bands (3 for RGB weights), one group.
        in_channels: number of bands to take.
        source: `mean` gives every band the mean of the old filters; `first` keeps the old filters on the first K bands,
            in their order, and gives the mean to the others. With fewer than K bands both are `mean`.

    Returns:
        A new convolution on the same device and of the same dtype, or `conv` itself if it already takes
        `in_channels` bands.
    """
    if conv.groups != 1:
        raise ValueError(f"a convolution of {conv.groups} groups: only one group can be adapted")
    if in_channels < 1:
        raise ValueError(f"in_channels = {in_channels}: must be at least 1")
    if source not in ("mean", "first"):
        raise ValueError(f"source = {source}: must be mean or first")
    held = conv.in_channels
    if in_channels == held:
        return conv
    old = conv.weight.detach()
    weight = old.mean(dim=1, keepdim=True).repeat(1, in_channels, 1, 1)
    if source == "first" and in_channels > held:
        weight[:, :held] = old
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


def freeze(model: nn.Module, names: Iterable[str]) -> int:
    """Keep the parameters of some modules as they are.

    Batch norms inside them still update their running means in train mode; call `eval` on them to stop that.

    Args:
        model: the model.
        names: modules or parameters by dotted name; a name covers all below it.

    Returns:
        The number of values frozen.

    Raises:
        SettingsError: a name matches nothing.
    """
    frozen = set()
    for name in names:
        matching = [key for key, _ in model.named_parameters() if _covers(name, key)]
        if not matching:
            known = ", ".join(child for child, _ in model.named_children())
            raise SettingsError(f"cannot freeze {name}: the model has no parameter of that name; its parts are {known}")
        frozen.update(matching)
    count = 0
    for key, parameter in model.named_parameters():
        if key in frozen:
            parameter.requires_grad_(False)
            count += parameter.numel()
    return count


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
        Groups for a torch optimiser, with `params`, `lr` and `weight_decay`.
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


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trained update of low rank: W x + (alpha / rank) B A x (Hu et al. 2022).

    B starts at 0, so that the model starts as it was.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        """Wrap a layer.

        Args:
            base: the layer; its parameters are frozen.
            rank: rank of the update, at least 1.
            alpha: strength of the update; it is scaled by alpha / rank.
        """
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank = {rank}: must be at least 1")
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; x has shape (..., in_features)."""
        update = nn.functional.linear(nn.functional.linear(x, self.down), self.up)
        result: Tensor = self.base(x) + self.scale * update
        return result

    def merged(self) -> nn.Linear:
        """Return a plain layer that computes the same."""
        base = self.base
        plain = nn.Linear(
            base.in_features, base.out_features, base.bias is not None, base.weight.device, base.weight.dtype
        )
        with torch.no_grad():
            plain.weight.copy_(base.weight + self.scale * self.up @ self.down)
            if base.bias is not None:
                plain.bias.copy_(base.bias)
        return plain


def add_lora(model: nn.Module, names: Iterable[str], *, rank: int = 8, alpha: float = 16.0) -> list[str]:
    """Replace linear layers by `LoraLinear`, in place; freeze the rest of the model yourself with `freeze`.

    Layers inside `nn.MultiheadAttention` are not called as layers and cannot be replaced.

    Args:
        model: the model.
        names: the last part of the names of layers, such as `qkv`, or longer endings such as `attn.proj`.
        rank: rank of the updates.
        alpha: strength of the updates.

    Returns:
        Dotted names of the replaced layers.

    Raises:
        SettingsError: a name matches no linear layer.
    """
    # Not isinstance: an attention's output layer is of a subclass, and its weight is read without calling the layer.
    linears = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    replaced: list[str] = []
    for ending in names:
        matching = [name for name in linears if name == ending or name.endswith("." + ending)]
        if not matching:
            raise SettingsError(f"no linear layer is called {ending}: there are {', '.join(linears[:5])}, ...")
        replaced += [name for name in matching if name not in replaced]
    for name in replaced:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        model.set_submodule(name, LoraLinear(layer, rank, alpha))
    return replaced


def merge_lora(model: nn.Module) -> int:
    """Replace every `LoraLinear` by the plain layer that computes the same, in place; return their number."""
    wrapped = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    for name, module in wrapped:
        model.set_submodule(name, module.merged())
    return len(wrapped)


def _covers(name: str, key: str) -> bool:
    return key == name or key.startswith(name + ".")
