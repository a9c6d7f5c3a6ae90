"""What became of one trial, how a session of many is run within its time, and the journal that it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

GOOD: Final = frozenset({"equal", "healed", "refused", "different", "told", "skipped"})
"""Verdicts that are as they should be; each trial says which of them it may have."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the journal."""

    section: str
    subject: str
    """The command or format on trial."""
    trial: str
    """What was done to it, so that it can be done again: `killed before change 17 of 64`."""
    verdict: str
    detail: str = ""
    seconds: float = 0.0
    good: bool = True


@dataclass(frozen=True, slots=True)
class Trial:
    """Something to try, not done yet."""

    section: str
    subject: str
    label: str
    run: Callable[[], tuple[str, str]]
    """Does it; a verdict and its detail."""
    allowed: frozenset[str] = frozenset({"equal"})
    """Verdicts that are as they should be."""


@dataclass(slots=True)
class Session:
    """Runs trials until the time is up, with a line on the terminal for what falls and one in the journal for each."""

    journal: Path
    minutes: float
    begun: float = field(default_factory=time.monotonic)
    cases: list[Case] = field(default_factory=list)
    cut_short: bool = False

    @property
    def left_s(self) -> float:
        """Seconds until the end."""
        return self.begun + 60 * self.minutes - time.monotonic()

    def add_from(self, journal: Path) -> None:
        """Take over the cases of another session."""
        lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
        self.cases += [Case(**json.loads(line)) for line in lines]
        with self.journal.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def run(self, trials: Iterable[Trial]) -> None:
        """Try one after the other while there is time."""
        for trial in trials:
            if self.left_s <= 0:
                self.cut_short = True
                return
            started = time.monotonic()
            verdict, detail = trial.run()
            good = verdict in trial.allowed or verdict == "skipped"
            case = Case(
                trial.section,
                trial.subject,
                trial.label,
                verdict,
                " ".join(detail.split())[:600],
                round(time.monotonic() - started, 2),
                good,
            )
            self.cases.append(case)
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(case)) + "\n")
            if not good:
                print(f"{case.section}: {case.subject}: {case.trial}: {case.verdict}: {case.detail}", flush=True)


def in_turns(sources: Iterable[Iterable[Trial]]) -> Iterator[Trial]:
    """The first trial of each source, then the second of each, and so on."""
    waiting = [iter(source) for source in sources]
    while waiting:
        left = []
        for source in waiting:
            trial = next(source, None)
            if trial is not None:
                left.append(source)
                yield trial
        waiting = left
