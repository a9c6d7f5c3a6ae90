"""Weights of Prithvi and of fine-tuned networks: loaded strictly, with an account of every one of them.

Files come in three dialects: flat names with a decoder (`Prithvi_100M.pt`), `encoder.` and `decoder.` (Prithvi-EO-2.0),
and the parts of mmsegmentation, `backbone.`, `neck.`, `decode_head.`, `auxiliary_head.` (the fine-tuned models of 2023,
and checkpoints of floods-train). Whatever is left out is left out for a reason known here; anything else is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from floods_prithvi.backbone import Prithvi
from floods_prithvi.positional_encoding import dates_of
from floods_prithvi.variants import BANDS, VARIANTS, VariantSpec
from geocore.errors import WeightsError
from geocore.training.pretrained import load_foreign, load_strictly

Outcome = Literal["loaded", "left out", "not in the file"]

_BACKBONE, _ENCODER = "backbone.", "encoder."
_HEADS = ("neck", "decode_head", "auxiliary_head")
_ANOTHER_HEAD = "the network has another head"

_DECODER = re.compile(r"decoder[._].+|mask_token")
_SCALE = re.compile(r"(temporal|location)_embed_enc\.scale")
_BLOCK = re.compile(r"blocks\.(\d{1,6})\..+")


@dataclass(frozen=True, slots=True)
class LoadRow:
    """What became of one weight."""

    name: str
    """In the file; in the network where the file has none."""
    outcome: Outcome
    reason: str = ""
    """Why it was not loaded."""


@dataclass(frozen=True, slots=True)
class LoadTable:
    """What became of the weights of a file."""

    path: Path
    rows: tuple[LoadRow, ...]

    def count(self, outcome: Outcome) -> int:
        """Number of weights with an outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def text(self) -> str:
        """A table of a few lines: weights of one part, with one outcome and reason, are one line."""
        counts = ", ".join(f"{count} {each}" for each in get_args(Outcome) if (count := self.count(each)))
        lines = [f"weights {self.path}: {counts}"]
        for (_, outcome, reason, part), rows in groupby(sorted(self.rows, key=_line_of), key=_line_of):
            lines.append(f"  {outcome:15} {len(list(rows)):4}  {part}" + (f": {reason}" if reason else ""))
        return "\n".join(lines)


def import_weights(path: Path, network: nn.Module) -> LoadTable:
    """Start a network from pre-trained weights, or from a fine-tuned network, whose head is taken where it is the same.

    Args:
        path: any of the files that this module knows.
        network: has `backbone`, `decode_head` and, where they are not None, `neck` and `auxiliary_head`. It stays as it
            is when the file is refused.

    Raises:
        WeightsError: the file cannot be read safely, or its backbone is not that of the network.
    """
    state = load_foreign(path)
    if any(name.startswith(_BACKBONE) for name in state):
        return _load_network(path, state, network, whole=False)
    table = _load_backbone(path, state, _backbone_of(network))
    heads = [name for name in network.state_dict() if name.split(".")[0] in _HEADS]
    return LoadTable(path, (*table.rows, *(_random(name) for name in heads)))


def import_backbone(path: Path, backbone: Prithvi) -> LoadTable:
    """Load Prithvi's weights into a backbone; the decoder of pre-training is left out.

    Args:
        path: any of the files that this module knows.
        backbone: takes the weights; it stays as it is when the file is refused.

    Raises:
        WeightsError: the file cannot be read safely, is of another variant, lacks weights, holds unknown or damaged
            ones, or a position code that is not Prithvi's.
    """
    return _load_backbone(path, load_foreign(path), backbone)


def import_published(path: Path, network: nn.Module) -> LoadTable:
    """Load a whole fine-tuned network; only an auxiliary head may be left out.

    Args:
        path: a file with `backbone.`, `neck.` and `decode_head.`.
        network: as for `import_weights`.

    Raises:
        WeightsError: the file cannot be read safely or is not of such a network.
    """
    state = load_foreign(path)
    if not any(name.startswith(_BACKBONE) for name in state):
        raise WeightsError(
            f"weights {path}: hold no fine-tuned network (first name: {next(iter(state))!r}); give a file with "
            "backbone., neck. and decode_head., and Prithvi's own weights to floods-train as --model.weights"
        )
    return _load_network(path, state, network, whole=True)


def _load_backbone(path: Path, state: dict[str, Tensor], backbone: Prithvi) -> LoadTable:
    prefix = next((p for p in (_BACKBONE, _ENCODER) if any(name.startswith(p) for name in state)), "")
    rows: list[LoadRow] = []
    inside: dict[str, Tensor] = {}
    unknown: dict[str, Tensor] = {}
    for name, value in state.items():
        if prefix != _BACKBONE and _DECODER.fullmatch(name):
            rows.append(LoadRow(name, "left out", "decoder of pre-training"))
        elif prefix == _BACKBONE and name.split(".")[0] in ("normalize", *_HEADS):
            rows.append(LoadRow(name, "left out", "not of the backbone"))
        elif name.startswith(prefix):
            inside[name.removeprefix(prefix)] = value
        else:
            unknown[name] = value
    taken, left = _checked_backbone(path, inside, backbone, prefix, pretraining=bool(rows) and prefix != _BACKBONE)
    _check_values(path, taken, backbone.state_dict())
    load_strictly(backbone, {**taken, **unknown}, path)
    return LoadTable(path, (*(LoadRow(prefix + name, "loaded") for name in taken), *rows, *left))


def _load_network(path: Path, state: dict[str, Tensor], network: nn.Module, *, whole: bool) -> LoadTable:
    """Load a file of mmsegmentation's parts; with `whole` the heads must fit, else they may stay random."""
    own = network.state_dict()
    inside = {name.removeprefix(_BACKBONE): value for name, value in state.items() if name.startswith(_BACKBONE)}
    others = {name: value for name, value in state.items() if not name.startswith(_BACKBONE)}
    taken, rows = _checked_backbone(path, inside, _backbone_of(network), _BACKBONE, pretraining=False)
    fitting = {f"{_BACKBONE}{name}": value for name, value in taken.items()}
    reasons = {head: _why_not(head, own, others) for head in _HEADS}
    # A neck is of no use to a head that was not trained on it, nor the other way round.
    reasons["neck"] = reasons["decode_head"] = reasons["decode_head"] or reasons["neck"]
    if whole and reasons["neck"] not in ("", _ANOTHER_HEAD):
        raise WeightsError(
            f"weights {path}: {reasons['neck']}: name classes, dates and variant of the network that the file is of"
        )
    for name, value in others.items():
        head = name.split(".")[0]
        if head == "normalize":
            rows.append(LoadRow(name, "left out", "statistics of its data set"))
        elif head == "auxiliary_head" and not _part(own, head):
            rows.append(LoadRow(name, "left out", "the network has none (model.auxiliary 0)"))
        elif not whole and reasons.get(head):
            rows.append(LoadRow(name, "left out", reasons[head]))
        else:
            fitting[name] = value
    if not whole:
        rows += [_random(name) for name in own if reasons.get(name.split(".")[0]) and name not in fitting]
    _check_values(path, fitting, own)
    random = {row.name for row in rows if row.outcome == "not in the file"}
    kept = {name: value for name, value in own.items() if name.startswith("normalize.") or name in random}
    load_strictly(network, {**kept, **fitting}, path)
    return LoadTable(path, (*(LoadRow(name, "loaded") for name in fitting), *rows))


def _checked_backbone(
    path: Path, inside: Mapping[str, Tensor], backbone: Prithvi, prefix: str, *, pretraining: bool
) -> tuple[dict[str, Tensor], list[LoadRow]]:
    """The weights of a backbone under its own names, and what is left out.

    Raises:
        WeightsError: the file is of another variant, or knows no time and place where they are asked for.
    """
    _check_variant(path, inside, backbone.spec, pretraining=pretraining)
    taken: dict[str, Tensor] = {}
    left: list[LoadRow] = []
    for name, value in inside.items():
        if name == "pos_embed":
            left.append(LoadRow(prefix + name, "left out", "computed, and the same"))
        elif _SCALE.fullmatch(name) and not backbone.coordinates:
            left.append(LoadRow(prefix + name, "left out", "time and place are off (model.coordinates false)"))
        else:
            taken[name] = value
    if backbone.coordinates and not any(_SCALE.fullmatch(name) for name in taken):
        raise WeightsError(
            f"weights {path}: know no time and place: take a file whose name ends in TL, or set "
            "model.coordinates to false"
        )
    return taken, left


def _check_variant(path: Path, inside: Mapping[str, Tensor], spec: VariantSpec, *, pretraining: bool) -> None:
    """Refuse weights of another variant, naming both.

    Raises:
        WeightsError: there is no backbone, it has another size or takes other images, its position code is not
            Prithvi's, or time and place or dates are those of another variant of the same size.
    """
    filters = inside.get("patch_embed.proj.weight")
    if filters is None or filters.ndim != 5:
        found = f"first name: {next(iter(inside), 'none')!r}" if filters is None else f"filters {tuple(filters.shape)}"
        raise WeightsError(
            f"weights {path}: hold no Prithvi backbone ({found}); give a file such as {spec.official_file}"
        )
    dim, bands, dates, patch, width = filters.shape
    if bands != BANDS or dates != 1 or patch != width:
        raise WeightsError(
            f"weights {path}: patches of {bands} bands, {dates} dates, {patch} x {width} px: must be {BANDS} bands "
            f"of one date, and square; give a file such as {spec.official_file}"
        )
    depth = len({block.group(1) for name in inside if (block := _BLOCK.fullmatch(name))})
    same = [one for one in VARIANTS.values() if (one.dim, one.depth, one.patch_px) == (dim, depth, patch)]
    if (dim, depth, patch) != (spec.dim, spec.depth, spec.patch_px):
        raise WeightsError(
            f"weights {path}: dim {dim}, {depth} blocks, patch {patch} px, but {spec.name} has {spec.size}: "
            + _remedy(same, spec)
        )
    if not spec.takes_coordinates and any(_SCALE.fullmatch(name) for name in inside):
        knowing = [one for one in same if one.takes_coordinates]
        raise WeightsError(f"weights {path}: know time and place, but {spec.name} does not: {_remedy(knowing, spec)}")
    if (code := inside.get("pos_embed")) is None:
        return
    count = dates_of(code, dim)
    if count is None:
        raise WeightsError(
            f"weights {path}: pos_embed {tuple(code.shape)} is not Prithvi's sine and cosine code for any number of "
            "dates; give the file as it was released"
        )
    meant = [one for one in same if one.frames == count]
    # A file with a decoder is as pre-training left it; a fine-tuned network may have any number of dates.
    if pretraining and count != spec.frames and meant:
        raise WeightsError(
            f"weights {path}: pre-trained on {count} dates, but {spec.name} on {spec.frames}: {_remedy(meant, spec)}"
        )


def _remedy(variants: list[VariantSpec], spec: VariantSpec) -> str:
    names = " or ".join(f"model.variant {one.name}" for one in variants)
    return f"take {names or f'a file such as {spec.official_file}'}"


def _check_values(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no numbers; those of another shape are refused in loading.

    Raises:
        WeightsError: one is of another kind of number than in the network, sparse, or holds NaN or infinity.
    """
    for name, value in state.items():
        if name not in own or value.shape != own[name].shape:
            continue
        if value.layout != torch.strided or value.is_floating_point() != own[name].is_floating_point():
            kind = value.dtype if value.layout == torch.strided else value.layout
            raise WeightsError(f"weights {path}: {name} is {kind}, must be like {own[name].dtype}; get the file again")
        if not bool(value.isfinite().all()):
            raise WeightsError(f"weights {path}: {name} holds NaN or infinity, so is damaged; get the file again")


def _why_not(head: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Why a head of a file cannot be taken; empty where it can, or where there is none on either side."""
    ours, theirs = _part(own, head), _part(state, head)
    if set(ours) != set(theirs):
        return _ANOTHER_HEAD
    for name, value in ours.items():
        if value.shape == theirs[name].shape:
            continue
        if name == "conv_seg.bias":
            return f"{theirs[name].numel()} classes in the file, {value.numel()} in the network"
        if not name.startswith("conv_seg."):
            return f"{head}.{name} {tuple(theirs[name].shape)} in the file, {tuple(value.shape)} in the network"
    return ""


def _part(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The weights of one part, without its name in front."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _backbone_of(network: nn.Module) -> Prithvi:
    backbone = network.get_submodule("backbone")
    assert isinstance(backbone, Prithvi)
    return backbone


def _random(name: str) -> LoadRow:
    return LoadRow(name, "not in the file", "starts from random numbers")


def _line_of(row: LoadRow) -> tuple[int, str, str, str]:
    """What weights of one line of the table have in common, in the order of the lines."""
    parts = row.name.split(".")
    part = ".".join(parts[:2]) if parts[0] in ("backbone", "encoder") else parts[0]
    return get_args(Outcome).index(row.outcome), row.outcome, row.reason, part
