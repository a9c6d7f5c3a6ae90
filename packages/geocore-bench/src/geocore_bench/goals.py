"""The goals that geocore is held to, and what was measured against each.

All compare runs of one pass on one machine: ratios of medians, but for limits on memory and start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from geocore_bench import cold_start, confusion, mapping, medians, polygons, prithvi, sampling, training
from geocore_bench.summary import Table

Kind = Literal["ratio", "difference", "limit"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure of geocore's, beside those of peers or a limit."""

    text: str
    benchmark: str
    case: str
    ours: str
    """The contender that is geocore's."""
    bound: float
    """ratio: at least so many times better; difference, limit: at most so much."""
    peers: tuple[str, ...] = ()
    """What it is compared with: the best of them counts."""
    figure: str = "value"
    """`value`, or the name of a detail."""
    kind: Kind = "ratio"
    more_is_better: bool | None = None
    """Of the figure; None: as the case says of its values."""
    unit: str = ""
    """Of a difference or limit."""
    because: tuple[tuple[str, str], ...] = ()
    """Contender and figure that explain what was measured."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was measured against a goal."""

    goal: Goal
    measured: float | None
    """Ratio, difference or figure, whichever the goal bounds; None: not measured."""
    against: str = ""
    """The peer that it is a ratio or difference to."""
    reason: str = ""
    """Figures that explain it, or why there is none."""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None: not measured."""
        if self.measured is None:
            return None
        if self.goal.kind == "ratio":
            return self.measured >= self.goal.bound
        return self.measured <= self.goal.bound

    @property
    def share(self) -> float | None:
        """How far the goal is reached: 1 and above where it is; None: not measured, or a difference at 0 or below."""
        if self.measured is None or self.measured <= 0:
            return None
        return self.measured / self.goal.bound if self.goal.kind == "ratio" else self.goal.bound / self.measured


def _parts() -> tuple[tuple[str, str], ...]:
    names = ("decode_cpu_s", "cast_cpu_s", "model_cpu_s", "encode_cpu_s")
    return ((mapping.GEOCORE, "seconds"), (mapping.GEOCORE, "cpu_s"), *((mapping.PARTS, name) for name in names))


def _windows(text: str, case: str, ours: str, bound: float) -> Goal:
    peers = (sampling.TORCHGEO, sampling.TORCHGEO_NEW)
    because = (*_each("value", ours), *_each("cpu_s", ours))
    return Goal(f"windows, {text}", "sampling", case, ours, bound, peers, because=because)


def _each(figure: str, *contenders: str) -> tuple[tuple[str, str], ...]:
    return tuple((contender, figure) for contender in contenders)


def _confusion(classes: int) -> list[Goal]:
    case, text = f"{classes} classes", f"confusion matrix and mIoU, {classes} classes"
    bounds = ((confusion.TORCHMETRICS, 20.0), (confusion.UNVALIDATED, 5.0), (confusion.NUMPY, 2.0))
    return [Goal(text, "confusion", case, confusion.GEOCORE, bound, (peer,)) for peer, bound in bounds]


_UNET_PEERS = (mapping.TERRATORCH_WINDOWS, mapping.MONAI)
_MAPPED = "mapping, free model"

GOALS: tuple[Goal, ...] = (
    Goal(f"{_MAPPED}: rate", "mapping", mapping.FREE, mapping.GEOCORE, 8.0, mapping.BLENDING, because=_parts()),
    Goal(
        f"{_MAPPED}: of the rate of its parts alone",
        "mapping",
        mapping.FREE,
        mapping.GEOCORE,
        0.85,
        (mapping.PARTS,),
        because=_parts(),
    ),
    Goal(
        f"{_MAPPED}: growth of memory",
        "mapping",
        mapping.FREE,
        mapping.GEOCORE,
        8.0,
        mapping.BLENDING,
        figure="growth_mb",
        more_is_better=False,
        because=((mapping.GEOCORE, "growth_mb"),),
    ),
    Goal(
        "mapping, 20,000 x 20,000: memory above the imports",
        "mapping",
        mapping.LARGE,
        mapping.GEOCORE,
        1000.0,
        figure="growth_mb",
        kind="limit",
        unit="MiB",
    ),
    Goal(
        "mapping, sparse 100,000 x 100,000: memory above the imports",
        "mapping",
        mapping.SPARSE,
        mapping.GEOCORE,
        2000.0,
        figure="growth_mb",
        kind="limit",
        unit="MiB",
    ),
    Goal(
        "mapping, U-Net, float32",
        "mapping",
        mapping.UNET,
        mapping.GEOCORE,
        1.6,
        _UNET_PEERS,
        because=_each("cpu_s", mapping.GEOCORE, *_UNET_PEERS),
    ),
    Goal(
        "mapping, U-Net, bfloat16",
        "mapping",
        mapping.UNET,
        mapping.GEOCORE_BF16,
        3.0,
        _UNET_PEERS,
        because=_each("cpu_s", mapping.GEOCORE_BF16, *_UNET_PEERS),
    ),
    Goal(
        "mapping, U-Net: tiles of the model's own rate",
        "mapping",
        mapping.UNET,
        mapping.GEOCORE,
        0.95,
        (mapping.FORWARD,),
        figure="tile_mpx_s",
        because=((mapping.GEOCORE, "tile_mpx_s"), (mapping.FORWARD, "value")),
    ),
    _windows("deflate COG, 8 a chunk", sampling.COG, sampling.each_of(8), 3.0),
    _windows("deflate COG, 16 a chunk", sampling.COG, sampling.each_of(16), 5.0),
    _windows("deflate COG, decoded before", sampling.COG, sampling.CACHED, 30.0),
    _windows("LZW strips", sampling.STRIPS, sampling.each_of(32), 4.0),
    *(goal for classes in (2, 7, 20) for goal in _confusion(classes)),
    Goal(
        "training, empty model: more a step than the bare fused loop",
        "training",
        training.EMPTY,
        training.GEOCORE,
        50.0,
        (training.FUSED,),
        kind="difference",
        unit="us",
        because=_each("cpu_us", training.GEOCORE, training.FUSED),
    ),
    Goal(
        "training, U-Net: of the bare fused loop's rate",
        "training",
        training.UNET,
        training.GEOCORE,
        0.99,
        (training.FUSED,),
        because=_each("cpu_us", training.GEOCORE, training.FUSED),
    ),
    Goal("training, U-Net", "training", training.UNET, training.GEOCORE, 1.25, (training.LIGHTNING,)),
    Goal("polygons", "polygons", polygons.CASE, polygons.GEOCORE, 2.0, (polygons.RASTERIO,)),
    *(
        Goal(
            "monthly medians",
            "medians",
            medians.CASE,
            medians.GEOCORE,
            bound,
            (peer,),
            because=_each("cpu_s", medians.GEOCORE, peer),
        )
        for peer, bound in ((medians.XARRAY, 3.5), (medians.BOTTLENECK, 2.0))
    ),
    Goal(
        "Prithvi, training step",
        "prithvi",
        prithvi.TRAINING,
        prithvi.GEOCORE,
        1.0,
        (prithvi.TERRATORCH,),
        because=_each("cpu_us", prithvi.GEOCORE, prithvi.TERRATORCH),
    ),
    Goal(
        "Prithvi, whole scene, float32",
        "prithvi",
        prithvi.MAPPING,
        prithvi.GEOCORE,
        1.5,
        (prithvi.TERRATORCH_WINDOWS, prithvi.TERRATORCH_TENSOR),
        because=_each("cpu_s", prithvi.GEOCORE, prithvi.TERRATORCH_WINDOWS),
    ),
    Goal(
        "Prithvi, whole scene, bfloat16",
        "prithvi",
        prithvi.MAPPING,
        prithvi.GEOCORE_BF16,
        1.5,
        (prithvi.TERRATORCH_ROUNDED,),
        because=_each("cpu_s", prithvi.GEOCORE_BF16, prithvi.TERRATORCH_ROUNDED),
    ),
    *(
        Goal(
            cold_start.help_of(task),
            "cold_start",
            cold_start.CASE,
            cold_start.help_of(task),
            0.5,
            kind="limit",
            unit="s",
        )
        for task in cold_start.TASKS
    ),
)


def judge(goal: Goal, tables: Sequence[Table]) -> Verdict:
    """Compare what was measured with a goal."""
    table = next((table for table in tables if (table.benchmark, table.case) == (goal.benchmark, goal.case)), None)
    if table is None:
        return Verdict(goal, None, reason="not run")
    line = table.line(goal.ours)
    ours = None if line is None else line.figure(goal.figure)
    if line is None or ours is None:
        return Verdict(goal, None, reason="" if line is None else line.note)
    reason = _explained(table, goal.because)
    if goal.kind == "limit":
        return Verdict(goal, ours, reason=reason)
    more = table.more_is_better if goal.more_is_better is None else goal.more_is_better
    found = {}
    for peer in goal.peers:
        its = table.line(peer)
        # A peer may have the value of a case where geocore reports the same quantity under a name of its own.
        figure = None if its is None else its.figure(goal.figure)
        if figure is None and its is not None:
            figure = its.figure("value")
        if figure is not None:
            found[peer] = figure
    if not found:
        return Verdict(goal, None, reason="no peer was measured")
    best = (max if more else min)(found, key=lambda peer: found[peer])
    if goal.kind == "difference":
        return Verdict(goal, ours - found[best], best, reason)
    ratio = ours / found[best] if more else found[best] / max(ours, 1e-9)
    return Verdict(goal, ratio, best, reason)


def _explained(table: Table, because: Sequence[tuple[str, str]]) -> str:
    """The figures by contender: `name: figure 1.2, figure 3; name: ...`."""
    found: dict[str, list[str]] = {}
    for contender, figure in because:
        line = table.line(contender)
        value = None if line is None else line.figure(figure)
        found.setdefault(contender, []).append(f"{figure} {'-' if value is None else format(value, '.4g')}")
    return "; ".join(f"{contender}: {', '.join(figures)}" for contender, figures in found.items())
