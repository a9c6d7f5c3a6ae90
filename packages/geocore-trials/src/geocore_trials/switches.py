"""Other settings interrupted: A, then B killed, then A again has to leave what A alone leaves."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from geocore_trials.cases import Trial
from geocore_trials.children import forked
from geocore_trials.kills import Undisturbed, finished, killed, undisturbed
from geocore_trials.stages import OTHERWISE, Command, Stage, StageError, predict_command, remove


def switch_trials(stage: Stage, base: Undisturbed, logs: Path, seed: int) -> Iterator[Trial]:
    """B killed at moments spread over it, and once not at all; ten trials.

    Args:
        stage: of the task.
        base: its predict command with settings A.
        logs: folder for what commands print.
        seed: of the moments.

    Raises:
        StageError: A and B make the same, so that nothing could be seen.
    """
    done = stage.home / "kept" / "predict-a"
    base.command.reset()
    if forked(base.command.work, logs).code:
        raise StageError(f"{base.command.name} fails undisturbed")
    remove(done)
    done.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(base.command.output, done)
    a = replace(base.command, before=done)
    alone = undisturbed(predict_command(stage, base.command.output, *OTHERWISE[stage.task]), logs)
    if {name: digest for name, digest in alone.content.items() if name != "run.json"} == {
        name: digest for name, digest in base.content.items() if name != "run.json"
    }:
        raise StageError(f"{base.command.name}: {OTHERWISE[stage.task]} makes the same products")
    b = replace(alone.command, before=done)
    changes = undisturbed(b, logs).changes
    rng = random.Random(f"{seed} {stage.task} switch")
    moments = sorted({1 + int((number + rng.random()) / 9 * changes) for number in range(9)})
    for change in [*moments, None]:
        yield _trial(a, b, change, changes, base.content, logs)


def _trial(a: Command, b: Command, change: int | None, changes: int, expected: dict[str, str], logs: Path) -> Trial:
    def run() -> tuple[str, str]:
        a.reset()
        if change is None:
            ending = forked(b.work, logs)
            if ending.code:
                return "refused", f"B: {ending.last_line}"
        else:
            forked(killed(b, change), logs)
        return finished(a, forked(a.work, logs), expected)

    moment = "B to its end" if change is None else f"B killed before change {change} of {changes}"
    return Trial("other settings", a.name, f"A, {moment}, A", run)
