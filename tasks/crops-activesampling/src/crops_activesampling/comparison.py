"""Finished runs as strategies: what F1 they reach, and what it costs them.

Steps are optimizer steps. Forwards are forward passes of one sample, a training step being 3 for each. Seconds are
those of reading, choosing and training, without validation. Looking up hold-out losses costs what making them once
cost; the training of the hold-out model is told apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from crops_activesampling.config import TASK
from geocore.errors import DataError, RunError, SettingsError
from geocore.storage.documents import read_json
from geocore.storage.records import read_metrics, read_summary

_SCORE: Final = "validation_f1_weighted"
COSTS: Final = ("steps", "forwards", "seconds")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished run says about itself."""

    folder: Path
    seed: int
    settings: Mapping[str, Any]
    """Deciding settings but for the seed, as `group.name` -> value; a setting that is a table is one value."""
    data_hash: str
    points: tuple[dict[str, float], ...]
    """Each validation: `f1` and all of `COSTS`."""
    holdout: dict[str, float]
    """Cost of training the hold-out model: `forwards` and `seconds`; 0 without one."""

    def to_reach(self, score: float) -> dict[str, float] | None:
        """Costs of the first validation with this F1 or more; None when there is none."""
        return next((point for point in self.points if point["f1"] >= score), None)


@dataclass(frozen=True, slots=True)
class Strategy:
    """Runs whose settings differ in the seed alone."""

    name: str
    runs: tuple[Trained, ...]

    @property
    def final(self) -> list[float]:
        """F1 of each run at its end."""
        return [run.points[-1]["f1"] for run in self.runs]

    @property
    def curve(self) -> list[dict[str, float]]:
        """Mean over the runs of each validation that all of them made, and as the last the mean of their ends."""
        common = min(len(run.points) for run in self.runs)
        ends = [run.points[-1] for run in self.runs]
        steps = [[run.points[index] for run in self.runs] for index in range(common - 1)] + [ends]
        return [{name: mean([point[name] for point in points]) for name in ("f1", *COSTS)} for points in steps]


def read_run(folder: Path) -> Trained:
    """What a run folder holds.

    Raises:
        DataError: no validation is there with what it cost.
        RunError: the folder is no run of this task, the run has not reached its end, or its metrics are damaged.
    """
    try:
        identity = read_json(folder / "run.json", finite=False)
        settings = {**identity["settings"], "training": dict(identity["settings"]["training"])}
        task, data_hash, seed = identity["task"], str(identity["data_hash"]), int(settings["training"].pop("seed"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: is no run that was begun ({error}): give run folders of {TASK}-train") from error
    if task != TASK:
        raise RunError(f"{folder}: is a run of the task {task!r}: give run folders of {TASK}-train")
    if read_summary(folder) is None:
        raise RunError(f"{folder}: has not reached its end: go on with {TASK}-train --run {folder}, or leave it out")
    merged: dict[int, dict[str, Any]] = {}
    for entry in read_metrics(folder):
        merged.setdefault(int(entry["step"]), {}).update(entry)
    points = tuple(
        {
            "f1": float(entry[_SCORE]),
            "steps": float(step),
            **{name: float(entry[name]) for name in COSTS if name != "steps"},
        }
        for step, entry in sorted(merged.items())
        if entry.get(_SCORE) is not None and all(entry.get(name) is not None for name in COSTS if name != "steps")
    )
    if not points:
        raise DataError(f"{folder}: no validation has an F1 and its costs: train it again")
    start = merged.get(0, {})
    holdout = {name: float(start.get(f"holdout_{name}") or 0) for name in COSTS if name != "steps"}
    return Trained(folder, seed, _flat(settings), data_hash, points, holdout)


def strategies_of(runs: Sequence[Trained]) -> list[Strategy]:
    """Group runs by their settings but for the seed, in the order of the first of each.

    A strategy is called after its scores. Where two have the same ones, the settings that differ are added.

    Raises:
        DataError: runs were trained on different data.
        RunError: a seed is there twice in one group.
    """
    if len({run.data_hash for run in runs}) > 1:
        other = next(run for run in runs if run.data_hash != runs[0].data_hash)
        raise DataError(f"{other.folder} was trained on other data than {runs[0].folder}: compare runs on the same")
    groups: dict[str, list[Trained]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.settings, sort_keys=True), []).append(run)
    for group in groups.values():
        seeds: dict[int, Path] = {}
        for run in group:
            if run.seed in seeds:
                raise RunError(
                    f"{run.folder} and {seeds[run.seed]} are the same run with seed {run.seed}: leave one out"
                )
            seeds[run.seed] = run.folder
    names = [_strategy_name(group[0].settings) for group in groups.values()]
    strategies = []
    for name, group in zip(names, groups.values(), strict=True):
        alike = [each[0].settings for each, other in zip(groups.values(), names, strict=True) if other == name]
        differing = [key for key in alike[0] if len({json.dumps(each.get(key)) for each in alike}) > 1]
        added = ", ".join(f"{key} {_plain(group[0].settings[key])}" for key in differing)
        strategies.append(Strategy(f"{name} ({added})" if added else name, tuple(group)))
    return strategies


def reference_of(strategies: Sequence[Strategy], name: str | None) -> Strategy:
    """The strategy to beat.

    Args:
        strategies: all of them.
        name: its name; None: the one without a selection.

    Raises:
        SettingsError: there is no such strategy, or not exactly one without a selection.
    """
    known = "; ".join(strategy.name for strategy in strategies)
    if name is not None:
        found = [strategy for strategy in strategies if strategy.name == name]
        if not found:
            raise SettingsError(f"reference {name!r}: the runs give {known}; name one of these")
        return found[0]
    found = [strategy for strategy in strategies if not strategy.runs[0].settings["selection.scores"]]
    if len(found) != 1:
        raise SettingsError(
            f"reference: {len(found)} strategies have no selection, among {known}; name the one to beat"
        )
    return found[0]


def table(strategies: Sequence[Strategy], reference: Strategy) -> list[dict[str, Any]]:
    """One row a strategy.

    What is to be reached is the F1 that the reference has at its end, mean over its seeds. A strategy has reached it
    with the first validation at which its mean over seeds is at or above. A ratio is the cost to get there over what
    the reference spent in all, so that 0.5 is half of it; the reference's own ratio says how much of its run it needed.
    Seeds are also looked at one by one: how many ever get there, and, if all do, what that cost them.

    Returns:
        Rows with `strategy`, `runs`, `f1`, `f1_low`, `f1_high`; for each cost `<cost>_needed` and `<cost>_ratio`, None
        where it is never reached; for forwards and seconds `<cost>_ratio_with_holdout`, which adds the hold-out model's
        own training; `reached`, the number of runs that get there by themselves, and for each cost `<cost>_each`, the
        mean of what they needed, None unless all do. `_low` and `_high` end 95 % intervals of means over seeds and are
        None for one seed.
    """
    goal = mean(reference.final)
    spent = reference.curve[-1]
    rows = []
    for strategy in strategies:
        there = next((point for point in strategy.curve if point["f1"] >= goal), None)
        singly = [point for run in strategy.runs if (point := run.to_reach(goal)) is not None]
        row: dict[str, Any] = {"strategy": strategy.name, "runs": len(strategy.runs)}
        row |= _with_interval("f1", strategy.final)
        for cost in COSTS:
            row[f"{cost}_needed"] = None if there is None else there[cost]
            row[f"{cost}_ratio"] = None if there is None else there[cost] / spent[cost]
            if cost != "steps":
                training = mean([run.holdout[cost] for run in strategy.runs])
                row[f"{cost}_ratio_with_holdout"] = None if there is None else (there[cost] + training) / spent[cost]
        row["reached"] = len(singly)
        for cost in COSTS:
            complete = len(singly) == len(strategy.runs)
            row |= _with_interval(f"{cost}_each", [point[cost] for point in singly] if complete else [])
        rows.append(row)
    return rows


def _with_interval(name: str, values: Sequence[float]) -> dict[str, float | None]:
    low, high = interval(values)
    return {name: mean(values) if values else None, f"{name}_low": low, f"{name}_high": high}


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of a mean, by Student's t; None for fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return None, None
    middle = mean(values)
    deviation = math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return middle - half, middle + half


def _strategy_name(settings: Mapping[str, Any]) -> str:
    scores: Mapping[str, float] = settings["selection.scores"]
    if not scores:
        return "none"
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in scores.items())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `group.name` -> value; only groups are opened, not tables such as selection.scores."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and f"{prefix}{name}" != "selection.scores":
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def mean(values: Sequence[float]) -> float:
    """Mean of one value or more."""
    return sum(values) / len(values)
