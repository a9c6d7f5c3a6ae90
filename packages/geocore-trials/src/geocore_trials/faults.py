"""The session of faults: which trials, in which order, for which commands."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from geocore_trials.cases import Session, Trial, in_turns
from geocore_trials.children import fork
from geocore_trials.damage import damage_trials, kept_folders
from geocore_trials.disks import disk_trials
from geocore_trials.disturbances import input_trials, real_trials, signal_trials, twice_trial
from geocore_trials.kills import Undisturbed, kill_trials, undisturbed
from geocore_trials.stages import PACKAGES, Stage, make_stage, remove, warm_up
from geocore_trials.switches import switch_trials

_SLOW: Final = ("slumps", "snowpack")
"""Tasks whose commands take about as long as those of all others."""
KILLS: Final = 10
"""Of each command, before anything else is tried."""
_WITH_WORKERS: Final = ("predict", "medians")
_WITH_WORKERS_TOO: Final = ("seaice-prepare", "crops-prepare")


def run_faults(session: Session, tasks: Sequence[str], home: Path, seed: int) -> None:
    """Try every command of the tasks, in two processes side by side where there are several.

    Args:
        session: takes the cases.
        tasks: names of tasks; none: all.
        home: folder to work in.
        seed: of all moments and damages.

    Raises:
        StageError: a command fails undisturbed, in a single process.
        SystemExit: so it was in one of two; what it said stands above.
    """
    chosen = tuple(tasks) or tuple(PACKAGES)
    lanes = [lane for lane in ([task for task in chosen if (task in _SLOW) is slow] for slow in (True, False)) if lane]
    if len(lanes) == 1:
        run_lane(session, chosen, home, seed)
        return
    sides = [
        Session(session.journal.with_name(f"{session.journal.stem}-{lane[0]}.jsonl"), session.minutes) for lane in lanes
    ]
    children = []
    for side, lane in zip(sides, lanes, strict=True):
        side.journal.write_text("")
        work = partial(run_lane, side, lane, home, seed)
        children.append(fork(work, home / f"lane-{lane[0]}"))
    for child, side in zip(children, sides, strict=True):
        ending = child.wait(timeout_s=60 * session.minutes + 3600)
        print(ending.out, end="")
        if ending.code:
            print(ending.err, end="", file=sys.stderr)
            raise SystemExit(f"a side of the session ended with {ending.code}")
        session.add_from(side.journal)
        side.journal.unlink()


def run_lane(session: Session, chosen: Sequence[str], home: Path, seed: int) -> None:
    """Try every command of some tasks: the round that is always made, then more of it until the time is up.

    Args:
        session: takes the cases.
        chosen: names of tasks.
        home: folder to work in.
        seed: of all moments and damages.
    """
    warm_up(tuple(chosen))
    logs = home / f"logs-{chosen[0]}"
    stages = {}
    for task in chosen:
        remove(home / task)
        stages[task] = make_stage(task, home / task)
    bases = {
        task: {name: undisturbed(command, logs) for name, command in stage.commands.items()}
        for task, stage in stages.items()
    }
    every = [base for of_task in bases.values() for base in of_task.values()]
    kills = [kill_trials(base, logs, seed) for base in every]
    session.run(in_turns(islice(source, KILLS) for source in kills))
    session.run(
        in_turns(switch_trials(stage, bases[task][f"{task}-predict"], logs, seed) for task, stage in stages.items())
    )
    others = list(_others(every, logs, seed))
    session.run(in_turns(islice(source, count) for source, count in others))
    kept = [source for stage in stages.values() for source in _damages(stage, bases[stage.task], logs, seed)]
    session.run(in_turns(islice(source, 5) for source in kept))
    session.run(in_turns([*kills, *kept, *(source for source, _ in others)]))


def _others(bases: Iterable[Undisturbed], logs: Path, seed: int) -> Iterator[tuple[Iterator[Trial], int]]:
    """Sources of trials, and how many of each are always made."""
    for base in bases:
        name, verb = base.command.name, base.command.verb
        if verb in ("prepare", "predict"):
            yield disk_trials(base, logs), 8
        yield signal_trials(base, logs, seed), 2
        if verb in _WITH_WORKERS or name in _WITH_WORKERS_TOO:
            yield signal_trials(base, logs, seed, workers=2), 2
        yield iter([twice_trial(base, logs, seed)]), 1
        yield input_trials(base, logs, seed), 3
        yield real_trials(base, logs, seed), 1


def _damages(stage: Stage, bases: dict[str, Undisturbed], logs: Path, seed: int) -> list[Iterator[Trial]]:
    return [damage_trials(kept, logs, seed) for kept in kept_folders(stage, bases, logs)]
