"""Twenty kills over the commands of the five tasks, and that no command is without trials."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from geocore_trials.cases import Session, in_turns
from geocore_trials.kills import kill_trials, undisturbed
from geocore_trials.stages import PACKAGES, Stage, console_scripts, make_stage, warm_up

SEED = 15


@pytest.fixture(scope="module", autouse=True)
def _imported() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        warm_up()
        yield


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    home = tmp_path_factory.mktemp("stages")
    return {task: make_stage(task, home / task) for task in PACKAGES}


def test_every_command_of_every_task_is_tried(stages: dict[str, Stage]) -> None:
    tried = {name for stage in stages.values() for name in stage.commands}
    assert tried == set(console_scripts())


@pytest.mark.parametrize("task", PACKAGES)
def test_kills_lose_nothing(stages: dict[str, Stage], task: str, tmp_path: Path) -> None:
    """Two of preparing and two of mapping: one before a change, one at a random time."""
    commands = stages[task].commands
    bases = [undisturbed(commands[f"{task}-{verb}"], tmp_path / "logs") for verb in ("prepare", "predict")]
    session = Session(tmp_path / "journal.jsonl", 5.0)
    session.run(islice(in_turns(kill_trials(base, tmp_path / "logs", SEED) for base in bases), 4))
    assert [(case.trial, case.verdict, case.detail) for case in session.cases if not case.good] == []
    assert len(session.cases) == 4
