"""What was measured, as a page: the goals with their verdicts, a table a case, versions and machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from geocore_bench.goals import Goal, Verdict
from geocore_bench.summary import Line, Table

_UNMEASURED = "-"


def machine() -> str:
    """Processor, cores and memory of this machine, in words."""
    model = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    total = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return f"{model}, {os.cpu_count()} cores, {total / 2**20:.0f} GiB of memory, {platform.system()}"


def page(
    verdicts: Sequence[Verdict],
    tables: Sequence[Table],
    versions: Mapping[str, Mapping[str, str]],
    *,
    machine: str,
    date: str,
    minutes: float,
    quick: bool,
) -> str:
    """Write the page.

    Args:
        verdicts: one a goal.
        tables: one a case.
        versions: environment -> distribution -> version.
        machine: of `machine`.
        date: YYYY-MM-DD.
        minutes: of all runs.
        quick: whether inputs were small: then the figures say that everything runs, and nothing else.

    Returns:
        Markdown.
    """
    reached = [verdict.met for verdict in verdicts]
    lines = [
        "# Results",
        "",
        f"{date}; {machine}; {minutes:.0f} minutes.",
        "",
        "Each run is a fresh process, contenders take turns, files are in the page cache. Values are medians, with the",
        "smallest and the largest in brackets; CPU seconds and growth of the resident memory are medians of the same",
        "runs. Ratios are of medians of one pass, and only they should be compared with other machines.",
        "",
    ]
    if quick:
        lines += ["**A quick pass over small inputs: it shows that everything runs, and nothing of speed.**", ""]
    lines += [
        f"## Goals: {reached.count(True)} reached, {reached.count(False)} not, {reached.count(None)} not measured",
        "",
        "| goal | asked | measured | against | reached | figures behind it |",
        "|---|---|---|---|---|---|",
        *(_goal_row(verdict) for verdict in verdicts),
        "",
        "![goals](results.png)",
        "",
    ]
    for table in tables:
        lines += _section(table)
    lines += ["## Versions", "", "| environment | versions |", "|---|---|"]
    lines += [f"| {name} | {_listed(found)} |" for name, found in versions.items()]
    return "\n".join(lines) + "\n"


def _goal_row(verdict: Verdict) -> str:
    goal = verdict.goal
    met = {True: "yes", False: "**no**", None: _UNMEASURED}[verdict.met]
    cells = [goal.text, _asked(goal), _measured(verdict), verdict.against, met, verdict.reason]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _asked(goal: Goal) -> str:
    return f"{goal.bound:g}x" if goal.kind == "ratio" else f"at most {goal.bound:g} {goal.unit}"


def _measured(verdict: Verdict) -> str:
    if verdict.measured is None:
        return _UNMEASURED
    return f"{verdict.measured:.3g}x" if verdict.goal.kind == "ratio" else f"{verdict.measured:.4g} {verdict.goal.unit}"


def _section(table: Table) -> list[str]:
    reference = table.lines[0]
    rows = [_row(line, reference, table.more_is_better) for line in table.lines]
    return [
        f"## {table.benchmark.replace('_', ' ')}: {table.case}",
        "",
        f"| contender | {table.unit} | n | times {reference.contender} | CPU s | growth MiB | note |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _row(line: Line, reference: Line, more_is_better: bool) -> str:
    value, ratio = _UNMEASURED, _UNMEASURED
    if line.values:
        value = f"{line.median:.4g} ({min(line.values):.4g}-{max(line.values):.4g})"
        if reference.values:
            quotient = line.median / reference.median
            ratio = f"{quotient if more_is_better else 1 / quotient:.3g}"
    figures = [line.figure(name) for name in ("cpu_s", "growth_mb")]
    cells = ["" if figure is None else f"{figure:.4g}" for figure in figures]
    return f"| {line.contender} | {value} | {len(line.values)} | {ratio} | {' | '.join(cells)} | {_cell(line.note)} |"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # another system than Linux
        return []
