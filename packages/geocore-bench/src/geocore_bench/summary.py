"""What the runs of a benchmark come to: medians and ranges, of results that agree."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from geocore_bench.harness import Case
from geocore_bench.rounds import Record


@dataclass(frozen=True, slots=True)
class Line:
    """One contender in one case."""

    contender: str
    environment: str
    values: tuple[float, ...]
    """Of the runs that count, in the order of the rounds."""
    details: Mapping[str, float] = field(default_factory=dict)
    """Median of each detail over these runs."""
    note: str = ""
    """Why it has no value, or fewer than the others."""

    @property
    def median(self) -> float:
        """Of the values; there has to be one."""
        return statistics.median(self.values)

    def figure(self, name: str) -> float | None:
        """The median of `value` or of a detail; None where there is none."""
        if not self.values:
            return None
        return self.median if name == "value" else self.details.get(name)


@dataclass(frozen=True, slots=True)
class Table:
    """One case."""

    benchmark: str
    case: str
    unit: str
    more_is_better: bool
    lines: tuple[Line, ...]
    """In the order of the contenders; geocore's first."""

    def line(self, contender: str) -> Line | None:
        """The line of a contender; None where it was not run."""
        return next((line for line in self.lines if line.contender == contender), None)


def summarise(benchmark: str, case: Case, records: Iterable[Record]) -> Table:
    """Make the table of a case.

    Args:
        benchmark: its name.
        case: which contenders it has, and in what their results must agree.
        records: of this case, as `rounds.take_turns` gives them.

    Returns:
        One line a contender. A run whose result differs from the first contender's by more than the case allows has no
        value, whatever its speed.
    """
    by_name: dict[str, list[Record]] = {contender.name: [] for contender in case.contenders}
    for record in records:
        by_name[record["contender"]].append(record)
    reference = _medians([record["details"] for record in by_name[case.contenders[0].name] if "value" in record])
    lines = []
    for contender in case.contenders:
        runs = by_name[contender.name]
        notes = [f"{word}: {run[word]}" for run in runs for word in ("skipped", "failed") if word in run]
        kept = []
        for run in runs:
            if "value" not in run:
                continue
            wrong = _disagreement(run["details"], reference, case.agree)
            if wrong:
                notes.append(wrong)
            else:
                kept.append(run)
        values = tuple(float(run["value"]) for run in kept)
        details = _medians([run["details"] for run in kept])
        note = notes[0] if notes else ""
        lines.append(Line(contender.name, contender.environment, values, details, note))
    return Table(benchmark, case.name, case.unit, case.more_is_better, tuple(lines))


def _disagreement(details: Mapping[str, float], reference: Mapping[str, float], agree: Mapping[str, float]) -> str:
    """What of a run's result differs from geocore's; empty where nothing does."""
    for name, tolerance in agree.items():
        if name in details and name in reference and abs(details[name] - reference[name]) > tolerance:
            return f"another result: {name} is {details[name]:.6g}, geocore's {reference[name]:.6g}"
    return ""


def _medians(details: list[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for one in details for name in one)
    return {name: statistics.median([one[name] for one in details if name in one]) for name in names}
