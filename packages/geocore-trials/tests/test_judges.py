"""What judges a trial sees what was planted, and nothing where nothing was."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest

from geocore_trials.cases import Session, Trial, in_turns
from geocore_trials.children import Blow, forked, kill_after, started
from geocore_trials.damage import DAMAGES
from geocore_trials.equality import content_of, leftovers, unequal
from geocore_trials.kills import Undisturbed, _spread, finished, kill_trials
from geocore_trials.moments import Moments
from geocore_trials.stages import Command
from geocore_trials.tables import page


class Planted(Command):
    """A command of a few lines in place of a console script."""

    def __init__(self, output: Path, work) -> None:  # type: ignore[no-untyped-def]
        super().__init__("task-verb", (), output)
        object.__setattr__(self, "_work", work)

    __slots__ = ("_work",)

    @property
    def work(self):  # type: ignore[no-untyped-def]
        return lambda: self._work(self.output)


def atomic(folder: Path) -> None:
    """Two files, each whole or not there; what an earlier process left is removed."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob(".part-*"):
        old.unlink()
    for name in "ab":
        part = folder / f".part-{name}"
        part.write_text(name * 1000)
        part.rename(folder / name)


def hasty(folder: Path) -> None:
    """Takes a file that is there for one that is done."""
    folder.mkdir(exist_ok=True)
    for name in "ab":
        if not (folder / name).exists():
            with (folder / name).open("w") as file:
                os.mkdir(folder / f"{name}-seen") if not (folder / f"{name}-seen").exists() else None
                file.write(name * 1000)


def littering(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in "ab":
        part = folder / f".part-{os.getpid()}-{name}"
        part.write_text(name * 1000)
        part.rename(folder / name)


def falling(folder: Path) -> None:
    if folder.exists():
        raise KeyError("was here before")
    atomic(folder)


def verdicts(tmp_path: Path, work) -> set[str]:  # type: ignore[no-untyped-def]
    command = Planted(tmp_path / "out", work)
    told = tmp_path / "changes"

    def count() -> None:
        moments = Moments((command.output,))
        command.work()
        told.write_text(str(moments.count))

    assert forked(count, tmp_path / "logs").code == 0
    base = Undisturbed(command, content_of(command.output), 0.05, int(told.read_text()))
    assert base.changes >= 4
    session = Session(tmp_path / "journal.jsonl", 1.0)
    session.run(trial for trial in kill_trials(base, tmp_path / "logs", 1) if "before" in trial.label)
    assert len(session.cases) == base.changes
    return {case.verdict for case in session.cases}


@pytest.mark.parametrize(
    "work, expected", [(atomic, "equal"), (hasty, "lost or wrong"), (littering, "left behind"), (falling, "traceback")]
)
def test_kills_before_every_change_find_what_a_command_does_wrong(tmp_path: Path, work, expected) -> None:  # type: ignore[no-untyped-def]
    found = verdicts(tmp_path, work)
    assert expected in found
    assert found <= {"equal", expected}


def test_moments_count_what_changes_a_folder_and_nothing_else(tmp_path: Path) -> None:
    inside, told = tmp_path / "inside", tmp_path / "told"
    (tmp_path / "other").mkdir()

    def work() -> None:
        moments = Moments((inside,))
        counts = []
        inside.mkdir()
        counts.append(moments.count)
        with open(inside / "a", "w") as file:
            os.fsync(file.fileno())
        counts.append(moments.count)
        (inside / "a").rename(inside / "b")
        (tmp_path / "other" / "x").write_text("not counted")
        (tmp_path / "other" / "x").rename(inside / "x")
        counts.append(moments.count)
        (inside / "b").read_text()
        os.unlink(inside / "b")
        told.write_text(json.dumps([*counts, moments.count]))

    assert forked(work, tmp_path / "logs").code == 0
    assert json.loads(told.read_text()) == [1, 3, 5, 6]


def test_a_spread_reaches_every_change_once() -> None:
    for count in (1, 7, 64, 301):
        found = list(_spread(count, random.Random(count)))
        assert sorted(found) == list(range(1, count + 1))
    first = sorted(list(_spread(1000, random.Random(5)))[:8])
    assert max(second - one for one, second in zip(first, first[1:], strict=False)) < 2 * 1000 / 8


def test_an_ending_tells_exit_codes_signals_tracebacks_and_hangs(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    def refuse() -> None:
        print("error: a value", file=sys.stderr)
        sys.exit(2)

    ended = forked(fail, tmp_path)
    assert ended.code == 1 and ended.traceback and "a bug" in ended.last_line
    ended = forked(refuse, tmp_path)
    assert ended.code == 2 and not ended.traceback and ended.error == "error: a value"
    ended = forked(lambda: time.sleep(30), tmp_path, blow=kill_after(0.1))
    assert ended.code == -signal.SIGKILL and ended.seconds < 10
    ended = forked(lambda: time.sleep(30), tmp_path, timeout_s=0.2)
    assert ended.timed_out
    ended = started([sys.executable, "-c", "print('told')"], tmp_path)
    assert ended.code == 0 and ended.out == "told\n"
    struck: list[int] = []
    ended = forked(lambda: time.sleep(0.3), tmp_path, blow=Blow(0.05, struck.append))
    assert struck and ended.code == 0 and (ended.seconds_after_blow or 0) > 0.1


def test_content_leaves_out_times_and_nothing_else(tmp_path: Path) -> None:
    def write(folder: Path, seconds: float, score: float) -> None:
        (folder / ".done").mkdir(parents=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": seconds, "score": score}) + "\n")
        (folder / "run.json").write_text(json.dumps({"calls": [{"started": seconds, "score": score}]}))
        (folder / ".lock").write_text(str(seconds))
        with sqlite3.connect(folder / "a.gpkg") as table:
            table.execute("create table gpkg_contents (name text, last_change text)")
            table.execute("insert into gpkg_contents values (?, ?)", (str(score), str(seconds)))
        table.close()

    write(tmp_path / "a", 1.0, 0.5)
    write(tmp_path / "b", 2.0, 0.5)
    write(tmp_path / "c", 1.0, 0.6)
    first = content_of(tmp_path / "a")
    assert unequal(content_of(tmp_path / "b"), first) == []
    assert len(unequal(content_of(tmp_path / "c"), first)) == 3
    (tmp_path / "b" / "more").write_text("")
    (tmp_path / "b" / "a.gpkg").unlink()
    assert unequal(content_of(tmp_path / "b"), first) == ["lost a.gpkg", "more more"]


def test_leftovers_are_seen_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / ".attempts" / "host.1").mkdir(parents=True)
    (tmp_path / "labels").mkdir()
    for name in ("labels/.part-1-a.tif", "a.tif.working.tif", ".old-1-b"):
        (tmp_path / name).write_text("")
    (tmp_path / "kept.tif").write_text("")
    assert leftovers(tmp_path) == [".attempts/host.1", ".old-1-b", "a.tif.working.tif", "labels/.part-1-a.tif"]
    assert list(content_of(tmp_path)) == ["kept.tif"]


def test_every_damage_changes_every_file() -> None:
    for kind, damage in DAMAGES.items():
        for data in (b"\x01", bytes(range(1, 200))):
            assert damage(data, random.Random(1)) != data, kind


def test_a_session_ends_with_its_time_and_tells_what_fell(tmp_path: Path) -> None:
    session = Session(tmp_path / "journal.jsonl", 10.0)
    trials = [
        Trial("kill", "a|b", f"trial {number}", lambda number=number: ("equal" if number else "lost or wrong", "x"))
        for number in range(3)
    ]
    session.run(in_turns([trials[:2], trials[2:]]))
    assert [case.trial for case in session.cases] == ["trial 0", "trial 2", "trial 1"]
    text = page("faults", "faults --seed 1", session, date="2026-01-01")
    assert "3 trials" in text and "1 of them fell" in text and "| kill | a\\|b | trial 0 | lost or wrong | x |" in text
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 3
    both = Session(tmp_path / "both.jsonl", 1.0)
    both.add_from(tmp_path / "journal.jsonl")
    assert both.cases == session.cases and both.journal.read_text() == (tmp_path / "journal.jsonl").read_text()
    over = Session(tmp_path / "journal.jsonl", 0.0)
    over.run(trials)
    assert over.cases == [] and over.cut_short


def test_the_last_run_is_judged_by_its_end_and_by_what_it_left(tmp_path: Path) -> None:
    command = Planted(tmp_path / "out", atomic)
    ending = forked(command.work, tmp_path / "logs")
    expected = content_of(command.output)
    assert finished(command, ending, expected) == ("equal", "")
    (command.output / "a").write_text("other")
    assert finished(command, ending, expected) == ("lost or wrong", "1 files: other a")
