"""What else happens to a command: signals, another of its kind, inputs that vanish or change, a real process."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from geocore_trials.cases import Trial
from geocore_trials.children import Blow, Ending, fork, forked, kill_after, started
from geocore_trials.kills import Undisturbed, finished
from geocore_trials.stages import Command

_SLURM_S: Final = 30.0
"""Time between SLURM's SIGTERM and its SIGKILL."""
_BEGUN_S: Final = 0.2
"""Before that a forked child may not have come to the command yet, and dies as any process does."""
_CODES: Final = {signal.SIGTERM: 143, signal.SIGINT: 130}
_UNSHRUNK: Final = frozenset({"crops-evaluate", "floods-import"})
"""Commands that a real process would do at full size, as it is not `warm_up` that starts it."""


def signal_trials(base: Undisturbed, logs: Path, seed: int, *, workers: int = 0) -> Iterator[Trial]:
    """SIGTERM and SIGINT at random times, in turn, without end."""
    rng = random.Random(f"{seed} {base.command.name} signals {workers}")
    command = base.command
    if workers:
        command = replace(command, words=(*command.words, "--workers", str(workers)))
    while True:
        for signum in _CODES:
            # Workers take seconds to start, whatever the work.
            share = rng.random()
            yield _signal(base, command, signum, share * (base.seconds + 8.0 * bool(workers)), logs)


def twice_trial(base: Undisturbed, logs: Path, seed: int) -> Trial:
    """Two of the same command at once in one folder."""
    command = base.command
    pause_s = random.Random(f"{seed} {command.name} twice").random() * base.seconds * 0.5

    def run() -> tuple[str, str]:
        command.reset()
        first = fork(command.work, logs / "first")
        time.sleep(pause_s)
        second = fork(command.work, logs / "second")
        endings = [first.wait(), second.wait()]
        for ending in endings:
            if ending.timed_out or ending.traceback or ending.code not in (0, 2):
                return "traceback", f"exit code {ending.code}: {ending.last_line}"
        if all(ending.code for ending in endings):
            return "refused", "; ".join(ending.error for ending in endings)
        return finished(command, forked(command.work, logs), base.content)

    return Trial("two at once", command.name, f"the second {pause_s:.2f} s after the first", run)


def input_trials(base: Undisturbed, logs: Path, seed: int) -> Iterator[Trial]:
    """An input file that vanishes, is cut, or becomes another one during the run, and is put back afterwards."""
    rng = random.Random(f"{seed} {base.command.name} inputs")
    inputs = base.command.inputs
    while inputs:
        for kind in ("vanishes", "is cut in half", "becomes another"):
            yield _input(base, rng.choice(inputs), kind, rng.random() * base.seconds, logs)


def real_trials(base: Undisturbed, logs: Path, seed: int) -> Iterator[Trial]:
    """Kills and signals of real processes, imports included, and the rerun in a real process too."""
    command = base.command
    if command.name in _UNSHRUNK:
        return
    script = str(Path(sys.executable).with_name(command.name))
    rng = random.Random(f"{seed} {command.name} real")
    while Path(script).exists():
        for signum in (signal.SIGKILL, *_CODES):
            yield _real(base, script, signum, rng.random() * (base.seconds + 4.0), logs)


def _signal(base: Undisturbed, command: Command, signum: signal.Signals, after_s: float, logs: Path) -> Trial:
    def run() -> tuple[str, str]:
        command.reset()
        # Ctrl-C goes to all processes of a terminal; SLURM and systemd send SIGTERM to the command, as `kill` does.
        to_all = signum == signal.SIGINT

        def strike(pid: int) -> None:
            try:
                (os.killpg if to_all else os.kill)(pid, signum)
            except ProcessLookupError:  # it is no group of its own yet
                os.kill(pid, signum)

        ending = forked(command.work, logs, blow=Blow(after_s, strike), timeout_s=180)
        wrong = _ended_badly(ending, signum, early=after_s < _BEGUN_S)
        if wrong:
            return wrong
        return finished(base.command, forked(base.command.work, logs), base.content)

    workers = " with --workers 2" if "--workers" in command.words else ""
    return Trial("signal", command.name, f"{signum.name} after {after_s:.2f} s{workers}", run)


def _ended_badly(ending: Ending, signum: signal.Signals, *, early: bool = False) -> tuple[str, str] | None:
    if ending.timed_out:
        return "hangs", ending.last_line
    if ending.traceback:
        return "traceback", ending.last_line
    if ending.code not in (0, _CODES[signum]) and not (early and ending.code == -signum):
        return "exit code", f"{ending.code}: {ending.last_line}"
    if ending.code == _CODES[signum] and f"stopped by {signum.name}" not in ending.err:
        return "not told", ending.last_line
    if (ending.seconds_after_blow or 0.0) > _SLURM_S:
        return "too slow", f"{ending.seconds_after_blow:.0f} s"
    return None


def _input(base: Undisturbed, path: Path, kind: str, after_s: float, logs: Path) -> Trial:
    command = base.command

    def run() -> tuple[str, str]:
        command.reset()
        aside = path.with_name(f"{path.name}.aside")
        stamp = path.stat()
        others = [other for other in command.inputs if other != path]

        def change(_: int) -> None:
            path.rename(aside)
            if kind == "is cut in half":
                path.write_bytes(aside.read_bytes()[: aside.stat().st_size // 2])
            elif kind == "becomes another" and others:
                shutil.copy(others[0], path)

        try:
            ending = forked(command.work, logs, blow=Blow(after_s, change))
        finally:
            if aside.exists():
                os.replace(aside, path)
                os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        if ending.timed_out or ending.traceback or ending.code not in (0, 2):
            return "traceback", f"exit code {ending.code}: {ending.last_line}"
        if ending.code == 2 and not ending.error:
            return "not told", ending.last_line
        return finished(command, forked(command.work, logs), base.content)

    return Trial("input", command.name, f"{path.name} {kind} after {after_s:.2f} s, and comes back", run)


def _real(base: Undisturbed, script: str, signum: signal.Signals, after_s: float, logs: Path) -> Trial:
    command = base.command

    def run() -> tuple[str, str]:
        command.reset()
        words = [script, *command.words]
        ending = started(words, logs, blow=kill_after(after_s, signum))
        if signum != signal.SIGKILL:
            wrong = _ended_badly(ending, signum, early=True)
            if wrong:
                return wrong
        return finished(command, started(words, logs), base.content)

    return Trial("real process", command.name, f"{signum.name} after {after_s:.2f} s", run)
