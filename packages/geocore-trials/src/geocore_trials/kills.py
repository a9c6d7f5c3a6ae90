"""Kills: a command is killed at a moment, started again, and has to leave what an undisturbed run leaves."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from geocore_trials.cases import Trial
from geocore_trials.children import Ending, Work, forked, kill_after
from geocore_trials.equality import content_of, leftovers, unequal
from geocore_trials.moments import Moments
from geocore_trials.stages import Command, StageError

_TWICE_EVERY = 4


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a command does and leaves when nothing disturbs it."""

    command: Command
    content: dict[str, str]
    seconds: float
    changes: int
    """Of files below its output."""


def undisturbed(command: Command, logs: Path) -> Undisturbed:
    """Run a command from the start.

    Raises:
        StageError: it fails.
    """
    command.reset()
    told = logs / "changes"
    ending = forked(counted(command, told), logs)
    if ending.code:
        raise StageError(f"{command.name} ends with {ending.code} undisturbed: {ending.err.strip()[-1000:]}")
    found = leftovers(command.output)
    if found:
        raise StageError(f"{command.name} leaves {found} undisturbed")
    changes = json.loads(told.read_text())
    return Undisturbed(command, content_of(command.output), ending.seconds, changes)


def kill_trials(base: Undisturbed, logs: Path, seed: int) -> Iterator[Trial]:
    """Kills at gaps between changes and at random times in turn, without end; every fourth time a second follows."""
    rng = random.Random(f"{seed} {base.command.name}")
    gaps = _spread(base.changes, rng)
    for number, change in enumerate(gaps):
        again = rng.random() if number % _TWICE_EVERY == _TWICE_EVERY - 1 else None
        yield _trial(base, logs, f"before change {change} of {base.changes}", change, None, again)
        share = rng.random()
        yield _trial(base, logs, f"after {share:.3f} of its time", None, share, None)


def finished(command: Command, ending: Ending, expected: dict[str, str]) -> tuple[str, str]:
    """The verdict on the last run of a trial, which should have made what an undisturbed one makes."""
    if ending.timed_out:
        return "hangs", ending.last_line
    if ending.traceback:
        return "traceback", ending.last_line
    if ending.code:
        return "refused", f"exit code {ending.code}: {ending.last_line}"
    found = unequal(content_of(command.output), expected)
    if found:
        return "lost or wrong", f"{len(found)} files: {', '.join(found[:4])}"
    left = leftovers(command.output)
    return ("left behind", ", ".join(left[:4])) if left else ("equal", "")


def _trial(
    base: Undisturbed, logs: Path, label: str, change: int | None, share: float | None, again: float | None
) -> Trial:
    command = base.command

    def run() -> tuple[str, str]:
        command.reset()
        if change is not None:
            ending = forked(killed(command, change), logs)
        else:
            assert share is not None
            ending = command.run(logs, blow=kill_after(share * base.seconds))
        if ending.code not in (0, -9):
            return "not killed", f"exit code {ending.code}: {ending.last_line}"
        if again is not None:
            command.run(logs, blow=kill_after(again * base.seconds))
        return finished(command, command.run(logs), base.content)

    more = "" if again is None else f", its second run after {again:.3f} of the time"
    return Trial("kill", command.name, f"killed {label}{more}", run)


def killed(command: Command, change: int) -> Work:
    """A command that ends before one of its changes, from 1."""

    def work() -> None:
        Moments((command.output,), change)
        command.work()

    return work


def counted(command: Command, told: Path) -> Work:
    """A command that writes the number of its changes into a file."""

    def work() -> None:
        moments = Moments((command.output,))
        try:
            command.work()
        finally:
            told.write_text(json.dumps(moments.count))

    return work


def _spread(count: int, rng: random.Random) -> Iterator[int]:
    """Numbers from 1 to `count`, each once, every beginning of them spread over all (van der Corput)."""
    seen: set[int] = set()
    shift, number = rng.random(), 0
    while len(seen) < count:
        share, scale, rest = shift, 0.5, number
        while rest:
            share += scale * (rest & 1)
            scale, rest = scale / 2, rest >> 1
        change = 1 + int(share % 1.0 * count)
        number += 1
        if change not in seen:
            seen.add(change)
            yield change
