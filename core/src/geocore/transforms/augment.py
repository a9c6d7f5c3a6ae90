"""Random changes of training batches: flips and quarter turns of everything, gain, bias and noise on inputs.

Every draw is a pure function of (seed, epoch, index of the sample within the epoch), made by hashing and not by a
generator that has a state: a sample is changed in the same way wherever it lies in a batch, in any process, on any
device, and after a resume. CounterRNG are made where the keys are, so nothing waits for a GPU.

A batch is a dict with `inputs` (layer name to a tensor, or to a dict of `values` and `valid`), `targets`, optionally
`valid` (layer name to a mask, for inputs that are tensors), and `keys`, int64, shape (batch, 2): epoch and index.
Tensors of three or more axes have rows and columns last and share one geometry; smaller ones (a class a sample) stay.
Ragged targets are lists with a dict a sample, whose `boxes`, shape (n, 4), are (left, top, right, bottom) in pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geocore.raster.bands import Bands


@dataclass(frozen=True, slots=True)
class CounterRNG:
    """Random numbers of one augmentation for each sample of a batch; the same number for the same key."""

    state: Tensor
    """Shape (batch,), int64."""

    @classmethod
    def of(cls, keys: Tensor, seed: int, position: int) -> CounterRNG:
        """Start from the keys.

        Args:
            keys: shape (batch, 2), int64: epoch and index.
            seed: of the run.
            position: place of the augmentation among the others, so that their draws are independent.
        """
        start = torch.full_like(keys[:, 0], seed)
        return cls(_mixed(_mixed(_mixed(_mixed(start) + position) + keys[:, 0]) + keys[:, 1]))

    def part(self, number: int) -> CounterRNG:
        """Draws that are independent of these, and of those of any other number."""
        return CounterRNG(_mixed(self.state + number))

    def uniform(self, number: int) -> Tensor:
        """Draw `number` of each sample, shape (batch,), float32, uniform in [0, 1)."""
        bits = _mixed(_mixed(self.state) + number)
        return _unit(bits, 40)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw independent normal numbers of mean 0 and standard deviation 1 (Box and Muller 1958).

        Args:
            shape: of one sample.

        Returns:
            Shape (batch, *shape), float32. The largest magnitude is 5.8, as uniform draws have 24 bits.
        """
        size = math.prod(shape)
        half = (size + 1) // 2
        counter = torch.arange(half, device=self.state.device)
        bits = _mixed(_mixed(self.state ^ 0x5DEECE66D)[:, None] + counter)
        # 1 - u lies in (0, 1], so that its logarithm is finite.
        radius = (-2.0 * torch.log(1.0 - _unit(bits, 40))).sqrt_()
        angle = _unit(bits, 16).mul_(2.0 * math.pi)
        pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return pairs.flatten(1)[:, :size].reshape(-1, *shape)


def _mixed(z: Tensor) -> Tensor:
    """Hash int64 numbers: a step of SplitMix64 (Steele, Lea and Flood 2014), on two's complement arithmetic."""
    z = z + -0x61C8864680B583EB
    z = (z ^ (z >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ (z >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ (z >> 31 & 0x1FFFFFFFF)


def _unit(bits: Tensor, shift: int) -> Tensor:
    """24 bits of hashed numbers as float32 in [0, 1)."""
    return (bits >> shift & 0xFFFFFF).float() * 2.0**-24


Batch = dict[str, Any]


class Augmentation(ABC):
    """One random change of a batch."""

    @abstractmethod
    def apply(self, batch: Batch, draws: CounterRNG, bands: Mapping[str, Bands]) -> Batch:
        """Return a changed copy of a batch; tensors that do not change are shared with it.

        Args:
            batch: see the module.
            draws: the augmentation's random numbers.
            bands: layer name to the bands of its tensor; tells which channels form vectors.
        """


@dataclass(frozen=True, slots=True)
class Flip(Augmentation):
    """Mirror images, targets, boxes and vectors."""

    horizontal: float = 0.5
    """Probability that left and right change places."""
    vertical: float = 0.5
    """Probability that top and bottom change places."""

    def apply(self, batch: Batch, draws: CounterRNG, bands: Mapping[str, Bands]) -> Batch:
        """Mirror each sample by its own draws."""
        never = torch.zeros_like(draws.state, dtype=torch.bool)
        columns, rows = draws.uniform(0) < self.horizontal, draws.uniform(1) < self.vertical
        return _moved(batch, _Turn(never, rows, columns), bands)


@dataclass(frozen=True, slots=True)
class Rot90(Augmentation):
    """Turn images, targets, boxes and vectors by 0, 90, 180 or 270 degrees with equal probability.

    Images must be square.
    """

    def apply(self, batch: Batch, draws: CounterRNG, bands: Mapping[str, Bands]) -> Batch:
        """Turn each sample by its own draw."""
        quarters = (draws.uniform(0) * 4).long()
        # A turn is a transposition followed by flips.
        turn = _Turn(quarters % 2 == 1, (quarters == 1) | (quarters == 2), quarters >= 2)
        return _moved(batch, turn, bands)


@dataclass(frozen=True, slots=True)
class Gain(Augmentation):
    """Multiply the inputs of a sample by one factor, the same for its bands and dates."""

    low: float
    high: float
    """The factor is uniform in [low, high)."""
    layers: tuple[str, ...] = ()
    """Layers to change; empty for all that are floating point."""

    def apply(self, batch: Batch, draws: CounterRNG, bands: Mapping[str, Bands]) -> Batch:
        """Multiply each sample by its own factor."""
        factor = self.low + (self.high - self.low) * draws.uniform(0)
        return _toned(batch, self.layers, lambda x, _: x * _spread(factor, x))


@dataclass(frozen=True, slots=True)
class Bias(Augmentation):
    """Add one number to the inputs of a sample, the same for its bands and dates."""

    limit: float
    """The number is uniform in [-limit, limit), in units of the input."""
    layers: tuple[str, ...] = ()
    """Layers to change; empty for all that are floating point."""

    def apply(self, batch: Batch, draws: CounterRNG, bands: Mapping[str, Bands]) -> Batch:
        """Shift each sample by its own number."""
        shift = self.limit * (2.0 * draws.uniform(0) - 1.0)
        return _toned(batch, self.layers, lambda x, _: x + _spread(shift, x))


@dataclass(frozen=True, slots=True)
class Noise(Augmentation):
    """Add independent normal noise to every pixel and band."""

    std: float
    """Standard deviation, in units of the input."""
    layers: tuple[str, ...] = ()
    """Layers to change; empty for all that are floating point."""

    def apply(self, batch: Batch, draws: CounterRNG, bands: Mapping[str, Bands]) -> Batch:
        """Add each sample's own noise."""

        def noisy(x: Tensor, layer: int) -> Tensor:
            return x + self.std * draws.part(layer).normal(x.shape[1:]).to(x)

        return _toned(batch, self.layers, noisy)


def compose(
    augmentations: Sequence[Augmentation], *, seed: int, bands: Mapping[str, Bands] | None = None
) -> Callable[[Batch], Batch]:
    """Chain augmentations.

    Args:
        augmentations: applied in order. Inserting one changes the draws of those behind it.
        seed: of the run.
        bands: layer name to the bands of its tensor (of one date), after selection; needed for layers whose bands form
            vectors, which turn with the image.

    Returns:
        A pure function from a batch to an augmented batch.
    """
    chain = tuple(augmentations)
    known = dict(bands or {})

    def augment(batch: Batch) -> Batch:
        for position, augmentation in enumerate(chain):
            batch = augmentation.apply(batch, CounterRNG.of(batch["keys"], seed, position), known)
        return batch

    return augment


@dataclass(frozen=True, slots=True)
class _Turn:
    """A symmetry of the square for each sample: first transpose, then mirror rows, then columns; bool, (batch,)."""

    transpose: Tensor
    rows: Tensor
    columns: Tensor

    def of_maps(self, x: Tensor) -> Tensor:
        """Move pixels of x, shape (batch, ..., row, col)."""
        if x.dtype == torch.uint16:
            # Torch does not flip uint16; its bits move just as well under another name.
            return self.of_maps(x.view(torch.int16)).view(torch.uint16)
        if x.shape[-1] == x.shape[-2]:
            x = torch.where(_spread(self.transpose, x), x.transpose(-1, -2), x)
        elif bool(self.transpose.any()):
            raise ValueError(f"{x.shape[-2]} x {x.shape[-1]} pixels: quarter turns need square images; use Flip")
        x = torch.where(_spread(self.rows, x), x.flip(-2), x)
        return torch.where(_spread(self.columns, x), x.flip(-1), x)

    def of_vectors(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Turn eastward and northward components, shape (batch, ...), whose pixels have been moved."""
        transpose = _spread(self.transpose, u)
        # Transposing exchanges "to the right" and "down", that is u and -v.
        u, v = torch.where(transpose, -v, u), torch.where(transpose, -u, v)
        return torch.where(_spread(self.columns, u), -u, u), torch.where(_spread(self.rows, v), -v, v)

    def of_boxes(self, boxes: Tensor, sample: int, height: int, width: int) -> Tensor:
        """Move boxes of one sample, shape (n, 4): left, top, right, bottom, in pixels from the upper left corner."""
        left, top, right, bottom = boxes.unbind(-1)
        if self.transpose[sample]:
            left, top, right, bottom = top, left, bottom, right
        if self.rows[sample]:
            top, bottom = height - bottom, height - top
        if self.columns[sample]:
            left, right = width - right, width - left
        return torch.stack([left, top, right, bottom], dim=-1)

    def single(self, sample: int) -> _Turn:
        """The symmetry of one sample."""
        part = slice(sample, sample + 1)
        return _Turn(self.transpose[part], self.rows[part], self.columns[part])


def _moved(batch: Batch, turn: _Turn, bands: Mapping[str, Bands]) -> Batch:
    """Move the pixels of all maps of a batch."""
    moved = dict(batch)
    inputs: dict[str, Any] = {}
    moved["inputs"] = inputs
    size = (0, 0)
    for name, held in batch["inputs"].items():
        pairs = _pair_indices(bands.get(name))
        if isinstance(held, Tensor):
            inputs[name] = values = _turned(held, turn, pairs)
        else:
            values = _turned(held["values"], turn, pairs)
            inputs[name] = {**held, "values": values, "valid": turn.of_maps(held["valid"])}
        size = max(size, (values.shape[-2], values.shape[-1]))
    if "valid" in batch:
        moved["valid"] = {name: turn.of_maps(mask) for name, mask in batch["valid"].items()}
    moved["targets"] = {name: _moved_target(target, turn, size) for name, target in batch.get("targets", {}).items()}
    return moved


def _turned(x: Tensor, turn: _Turn, pairs: tuple[int, Sequence[tuple[int, int]]]) -> Tensor:
    """Move the pixels of a layer and turn its vectors."""
    x = turn.of_maps(x)
    held, indices = pairs
    if not indices:
        return x
    if not x.is_floating_point():
        raise ValueError("vector components must be floating point to change their sign: preprocess before augmenting")
    if x.shape[-3] % held:
        raise ValueError(f"{x.shape[-3]} channels are not whole dates of {held} bands")
    # `of_maps` has made a copy already.
    for first, second in indices:
        u, v = x[..., first::held, :, :], x[..., second::held, :, :]
        u, v = turn.of_vectors(u, v)
        x[..., first::held, :, :] = u
        x[..., second::held, :, :] = v
    return x


def _moved_target(target: Any, turn: _Turn, size: tuple[int, int]) -> Any:
    """Move one entry of the targets: maps, and ragged lists with a dict a sample."""
    if isinstance(target, Tensor):
        return turn.of_maps(target) if target.ndim >= 3 else target
    if not isinstance(target, list):
        return target
    moved = []
    for sample, entry in enumerate(target):
        if not isinstance(entry, dict):
            raise ValueError("ragged targets must be lists with a dict a sample")
        single, parts = turn.single(sample), dict(entry)
        for name, value in entry.items():
            if name == "boxes":
                parts[name] = turn.of_boxes(value, sample, *size)
            elif isinstance(value, Tensor) and value.ndim >= 3:
                parts[name] = single.of_maps(value[None])[0]
        moved.append(parts)
    return moved


def _toned(batch: Batch, layers: tuple[str, ...], change: Callable[[Tensor, int], Tensor]) -> Batch:
    """Change the valid pixels of floating-point inputs, given with their layer's number; invalid ones stay."""
    missing = [name for name in layers if name not in batch["inputs"]]
    if missing:
        raise ValueError(f"no layer {missing[0]} in the batch: it has {', '.join(batch['inputs'])}")
    inputs = dict(batch["inputs"])
    for name in layers or tuple(inputs):
        held = inputs[name]
        values = held if isinstance(held, Tensor) else held["values"]
        if not values.is_floating_point():
            if layers:
                raise ValueError(f"layer {name} is {values.dtype}: preprocess before augmenting")
            continue
        valid = batch.get("valid", {}).get(name) if isinstance(held, Tensor) else held["valid"]
        changed = change(values, tuple(inputs).index(name))
        if valid is not None:
            changed = torch.where(valid, changed, values)
        inputs[name] = changed if isinstance(held, Tensor) else {**held, "values": changed}
    return {**batch, "inputs": inputs}


def _pair_indices(bands: Bands | None) -> tuple[int, Sequence[tuple[int, int]]]:
    """Number of bands of a date, and the positions of the vector components among them."""
    if bands is None:
        return 1, ()
    return len(bands), [(bands.names.index(first), bands.names.index(second)) for first, second in bands.vector_pairs]


def _spread(each: Tensor, x: Tensor) -> Tensor:
    """Give one value a sample the axes of x."""
    return each.to(x.device).view(-1, *(1,) * (x.ndim - 1))
