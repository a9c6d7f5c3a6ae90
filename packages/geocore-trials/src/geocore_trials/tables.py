"""The page of a session: counts of verdicts for each section and subject, and every case that fell."""

from __future__ import annotations

from collections import Counter
from typing import Final

from geocore_trials.cases import Case, Session

_INTRODUCTIONS: Final = {
    "faults": (
        "Every trial ends with the same command run again undisturbed; `equal` means byte for byte what an undisturbed "
        "run leaves (times and records of who ran excepted, as the README says), with nothing left behind."
    ),
    "fuzz": (
        "Each mutated file is read whole by a child of its own, with limits of time and memory. `refused`: one line; "
        "`equal`: the same values; `different`: other values without a word, allowed only where the changed bytes have "
        "no checksum."
    ),
}


def page(name: str, words: str, session: Session, *, date: str) -> str:
    """Markdown.

    Args:
        name: of the session.
        words: behind `geocore-trials`, to make the same trials again.
        session: what was tried.
        date: of today.
    """
    cases = session.cases
    fallen = [case for case in cases if not case.good]
    minutes = session.minutes - session.left_s / 60
    lines = [
        f"# {name.capitalize()}",
        "",
        f"`geocore-trials {words}`; {date}; {len(cases)} trials in {minutes:.0f} minutes, {len(fallen)} of them fell.",
        "",
        _INTRODUCTIONS[name],
        "",
    ]
    for section in dict.fromkeys(case.section for case in cases):
        lines += [*_table(section, [case for case in cases if case.section == section]), ""]
    lines += ["## What fell", ""]
    if fallen:
        lines += ["| section | subject | trial | verdict | detail |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(_cell, _told(case)))} |" for case in fallen]
    else:
        lines.append("Nothing.")
    return "\n".join(lines) + "\n"


def _table(section: str, cases: list[Case]) -> list[str]:
    verdicts = list(dict.fromkeys(case.verdict for case in sorted(cases, key=lambda case: not case.good)))
    lines = [
        f"## {section.capitalize()}",
        "",
        f"| subject | trials | {' | '.join(verdicts)} |",
        f"|---|---:|{'---:|' * len(verdicts)}",
    ]
    subjects = sorted({case.subject for case in cases})
    counts = {subject: Counter(case.verdict for case in cases if case.subject == subject) for subject in subjects}
    for subject in subjects:
        found = counts[subject]
        lines.append(_row(subject, found, verdicts))
    lines.append(_row("all", Counter(case.verdict for case in cases), verdicts))
    return lines


def _row(name: str, found: Counter[str], verdicts: list[str]) -> str:
    cells = [str(found[verdict]) if found[verdict] else "" for verdict in verdicts]
    return f"| {name} | {sum(found.values())} | {' | '.join(cells)} |"


def _told(case: Case) -> tuple[str, ...]:
    return case.section, case.subject, case.trial, case.verdict, case.detail


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
