"""Does choosing samples pay? Validation F1 of several runs against steps, forward passes and seconds.

uv run crops-compare --runs RUN RUN RUN... --out FOLDER
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from crops_activesampling.comparison import COSTS, Strategy, mean, read_run, reference_of, strategies_of, table
from crops_activesampling.config import CompareSettings
from geocore.cli.main import command
from geocore.storage.files import atomic_path, atomic_write_text, remove_leftovers

_AXES: Final = ("optimizer steps", "forward passes of one sample", "seconds")


def main() -> NoReturn:
    """Entry point of `crops-compare`."""
    command(compare, CompareSettings, prog="crops-compare")


def compare(settings: CompareSettings) -> None:
    """Write `comparison.csv`, `comparison.md` and `comparison.png`, and print the table.

    Raises:
        DataError: runs were trained on different data, or one has no validation with its costs.
        RunError: a folder is no finished run of crops-train, or is there twice.
        SettingsError: the reference is not among the strategies.
        StorageError: the folder cannot be written.
    """
    strategies = strategies_of([read_run(folder) for folder in settings.runs])
    reference = reference_of(strategies, settings.reference)
    rows = table(strategies, reference)
    text = markdown(rows, reference)
    remove_leftovers(settings.out)
    with atomic_path(settings.out / "comparison.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    atomic_write_text(settings.out / "comparison.md", text)
    draw(settings.out / "comparison.png", strategies, reference)
    print(text, end="")
    print(f"written to {settings.out}: comparison.csv, comparison.md, and comparison.png: look at it")


def markdown(rows: Sequence[Mapping[str, Any]], reference: Strategy) -> str:
    """The table as Markdown, with the rules it was made by."""
    goal, spent = mean(reference.final), reference.curve[-1]["steps"]
    head = ["strategy", "runs", "F1 at the end", "steps", "x", "forwards", "x", "seconds", "x"]
    holdout = any(row["forwards_ratio_with_holdout"] != row["forwards_ratio"] for row in rows)
    head += ["x forwards, with hold-out", "x seconds, with hold-out"] if holdout else []
    head += ["seeds there", "steps of each"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        cells = [row["strategy"], str(row["runs"]), _ranged(row, "f1", "{:.4f}")]
        for cost in COSTS:
            cells += [_cell(row[f"{cost}_needed"], "{:.0f}"), _cell(row[f"{cost}_ratio"], "{:.2f}")]
        if holdout:
            cells += [_cell(row[f"{cost}_ratio_with_holdout"], "{:.2f}") for cost in COSTS[1:]]
        lines.append([*cells, f"{row['reached']}/{row['runs']}", _ranged(row, "steps_each", "{:.0f}")])
    rule = (
        f"Steps, forwards and seconds to a weighted F1 of {goal:.4f} on validation, which {reference.name} has at its "
        f"end after {spent:.0f} steps: of the first validation at which the mean over seeds is at or above. x: share "
        f"of what {reference.name} spent in all. Forwards: of one sample, a training step being 3 for each. Seconds: "
        "without validation. Hold-out losses are counted, the training of the hold-out model only where it says so. "
        "Last columns: seeds taken by themselves. In brackets 95 % intervals of means over seeds (Student's t)."
    )
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines) + f"\n{rule}\n"


def draw(path: Path, strategies: Sequence[Strategy], reference: Strategy) -> None:
    """F1 against each cost: means over seeds as lines, single runs as thin ones, what is to be reached dashed.

    Args:
        path: of the PNG.
        strategies: to draw.
        reference: gives what is to be reached.

    Raises:
        StorageError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axes, cost, label in zip(panels, COSTS, _AXES, strict=True):
        for number, strategy in enumerate(strategies):
            colour = f"C{number % 10}"
            for run in strategy.runs:
                given = [point[cost] for point in run.points], [point["f1"] for point in run.points]
                axes.plot(*given, color=colour, linewidth=0.5, alpha=0.5)
            means = [[point[name] for point in strategy.curve] for name in (cost, "f1")]
            axes.plot(*means, color=colour, linewidth=2, marker=".", label=strategy.name)
        axes.axhline(mean(reference.final), color="0.4", linestyle="--", linewidth=0.8)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("weighted F1 on validation")
    panels[0].legend(fontsize="small", loc="lower right")
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=120)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _ranged(row: Mapping[str, Any], name: str, form: str) -> str:
    if row[f"{name}_low"] is None:
        return _cell(row[name], form)
    return f"{_cell(row[name], form)} ({form.format(row[f'{name}_low'])} to {form.format(row[f'{name}_high'])})"
