"""What windows drawn from one chunk cost a trained score, see `correlated`: the other side of their speed.

A contender is a way of drawing, and its value the IoU in held-out scenes after equal steps, a mean over seeds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured, watch


@dataclass(frozen=True, slots=True)
class Setting:
    """How long, and how often."""

    steps: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trained:
    """Train with one way of drawing."""

    way: str

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Measure it."""
        import torch

        from geocore_bench.correlated import HELD_OUT, TRAINING, WAYS, draw_scene, train

        torch.set_num_threads(1)
        way = next(way for way in WAYS if way.name == self.way)
        scenes = [draw_scene(number) for number in range(TRAINING + HELD_OUT)]
        with watch() as seen:
            scores = [
                train(way, scenes[:TRAINING], scenes[TRAINING:], seed=seed, steps=setting.steps)
                for seed in setting.seeds
            ]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        return Measured(statistics.fmean(scores), {**seen.details, "spread": spread})


def prepare(data: Path, quick: bool) -> None:
    """Nothing: the scenes are drawn in each run."""


def cases(quick: bool) -> list[Case]:
    """All ways of drawing, once each: the numbers are the same every time."""
    # Not above, since only geocore's environment can import it.
    from geocore_bench.correlated import SEEDS, WAYS

    setting = Setting(2, (0,)) if quick else Setting(150, SEEDS)
    contenders = tuple(Contender(way.name, OURS, Trained(way.name)) for way in WAYS)
    return [Case("trained score", "IoU", setting, contenders, 1)]
