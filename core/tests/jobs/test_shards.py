"""Shards do a share each, know what is there, and only one joins; the parts are those of an undivided run."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from geocore.cli.main import load_settings
from geocore.errors import DataError, SettingsError
from geocore.jobs.job import Incomplete, Job, JobResult, Worker, attempt_dir, part_path
from geocore.jobs.runner import merging, remove_merged, run_jobs, run_sharded
from geocore.settings import WorkerSettings, operational
from geocore.storage.files import FolderLock


def settings_of(**given: Any) -> WorkerSettings:
    return WorkerSettings(**given)


def write(arguments: dict[str, Any], part: Path) -> None:
    part.write_text(str(arguments["value"]))


def jobs_of(count: int) -> list[Job]:
    return [Job(f"t{i}", {"value": i}) for i in range(count)]


def test_a_shard_does_its_share_and_says_what_is_missing(tmp_path: Path) -> None:
    ended: list[JobResult] = []
    with pytest.raises(Incomplete, match="2 of 5 parts are not there yet") as rest:
        run_jobs(jobs_of(5), write, tmp_path, identity=1, workers=settings_of(shard="1/2"), on_done=ended.append)
    assert rest.value.missing == ["t1", "t3"] and rest.value.failures == []
    assert {outcome.key: outcome.status for outcome in ended} == {
        "t0": "done", "t1": "elsewhere", "t2": "done", "t3": "elsewhere", "t4": "done",
    }  # fmt: skip
    assert [outcome.is_there for outcome in ended] == [True, True, True, False, False]
    outcomes = run_jobs(jobs_of(5), write, tmp_path, identity=1, workers=settings_of(shard="2/2"))
    assert [outcome.status for outcome in outcomes] == ["skipped", "done", "skipped", "done", "skipped"]
    # The part of other settings is not taken for the one that is missing.
    with pytest.raises(Incomplete):
        run_jobs(jobs_of(5), write, tmp_path, identity=2, workers=settings_of(shard="2/2"))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("turn", [0, 1, 5])
def test_shards_divide_the_tasks_among_them(count: int, turn: int) -> None:
    shards = [settings_of(shard=f"{index}/{count}").turned(turn) for index in range(1, count + 1)]
    owners = [[shard.takes(position) for shard in shards].index(True) for position in range(12)]
    assert all(sum(shard.takes(position) for shard in shards) == 1 for position in range(12))
    # The first job of each of several lists goes to another shard.
    assert owners == [(position + turn) % count for position in range(12)]
    assert all(settings_of().turned(turn).takes(position) for position in range(12))


def test_a_failed_task_of_a_shard_is_an_error_and_not_a_share_done(tmp_path: Path) -> None:
    def fails(arguments: dict[str, Any], part: Path) -> None:
        raise DataError(f"value {arguments['value']}: must be even")

    @run_sharded
    def main(settings: WorkerSettings) -> None:
        run_jobs(jobs_of(3), fails, tmp_path, identity=1, workers=settings)

    with pytest.raises(DataError, match=r"shard 2/2: 1 of 3 failed: t1: value 1: must be even; not there yet: t0, t2"):
        main(settings_of(shard="2/2"))


def test_what_waits_for_other_shards_within_a_task_is_elsewhere_too(tmp_path: Path) -> None:
    def map_scene(arguments: dict[str, Any], part: Path) -> None:
        chunks = tmp_path / "chunks" / str(arguments["value"])
        shard = settings_of(shard="1/2").turned(arguments["value"])
        run_jobs(jobs_of(1), write, chunks, identity=1, workers=shard)
        part.write_text("joined")

    with pytest.raises(Incomplete) as rest:
        run_jobs(jobs_of(3), map_scene, tmp_path / "scenes", identity=1)
    assert rest.value.missing == ["t1 (1 of 1 parts are not there yet)"]
    assert part_path(tmp_path / "scenes", "t2").read_text() == "joined"


def test_what_another_shard_has_joined_meanwhile_is_done(tmp_path: Path) -> None:
    def overtaken(arguments: dict[str, Any], part: Path) -> None:
        run_jobs(jobs_of(1), write, tmp_path, identity=1)
        raise Incomplete(["r0"], 1)

    assert [outcome.status for outcome in run_jobs(jobs_of(1), overtaken, tmp_path, identity=1)] == ["done"]


def test_a_shard_looks_for_the_parts_of_others_last(tmp_path: Path) -> None:
    def meanwhile(arguments: dict[str, Any], part: Path) -> None:
        run_jobs(jobs_of(2)[1:], write, tmp_path, identity=1)
        write(arguments, part)

    outcomes = run_jobs(jobs_of(2), meanwhile, tmp_path, identity=1, workers=settings_of(shard="1/2"))
    assert [outcome.status for outcome in outcomes] == ["done", "skipped"]


def test_a_task_that_runs_again_after_its_end_does_nothing(tmp_path: Path) -> None:
    """As when Dask loses the worker before it hears of the end."""
    calls: list[int] = []

    def once(arguments: dict[str, Any], part: Path) -> None:
        calls.append(1)
        write(arguments, part)

    worker, (job,) = Worker(once, tmp_path, 1), jobs_of(1)
    with attempt_dir(tmp_path) as attempts:
        assert [worker.run(job, attempts).status for _ in range(2)] == ["done", "done"]
    assert calls == [1]


def test_a_task_done_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """As when Dask gave a worker up for dead that goes on."""

    def overtaken(arguments: dict[str, Any], part: Path) -> None:
        run_jobs(jobs_of(1), write, tmp_path, identity=1)
        part.write_text("late")

    assert [outcome.status for outcome in run_jobs(jobs_of(1), overtaken, tmp_path, identity=1)] == ["done"]
    assert part_path(tmp_path, "t0").read_text() == "0"


def test_only_one_joins_and_who_waited_learns_that_it_is_done(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "parts"
    run_jobs(jobs_of(2), write, folder, identity=1)
    parts = [part_path(folder, f"t{i}") for i in range(2)]
    found: list[BaseException] = []

    def second() -> None:
        try:
            with merging(folder, parts):
                raise AssertionError("joined twice")
        except Incomplete as rest:
            found.append(rest)

    caplog.set_level(logging.INFO, "geocore")
    first = FolderLock(folder)
    first.acquire()
    other = threading.Thread(target=second)
    other.start()
    deadline = time.monotonic() + 10
    while "waiting" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(part.exists() for part in parts) and not found
    for part in parts:
        part.unlink()
    first.release()
    other.join(10)
    assert len(found) == 1 and str(found[0]) == "2 of 2 parts are not there yet"
    remove_merged(folder)
    assert not folder.exists()
    remove_merged(folder)


@pytest.mark.parametrize(("words", "line"), [
    (["--shard", "0/4"], "shard = 0/4 (--shard): must be I/N with I from 1 to N"),
    (["--shard", "5/4"], "must be I/N with I from 1 to N"),
    (["--shard", "half"], "must be I/N with I from 1 to N"),
    (["--shard="], "must be I/N with I from 1 to N"),
    (["--scheduler", "node7"], "must be an address with protocol and port, such as tcp://node7:8786"),
    (["--scheduler", "tcp://node7:8786", "--workers", "2"], "jobs run here or there; leave one out"),
    (["--workers", "-1"], "workers = -1"),
])  # fmt: skip
def test_contradictions_are_one_clear_line(words: list[str], line: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(WorkerSettings, words)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_paths_are_absolute_as_workers_may_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class MapSettings(WorkerSettings):
        input: list[Path] = operational(..., "scenes")
        output: Path = operational(..., "folder")
        bands: list[str] = operational(["red"], "bands")

    monkeypatch.chdir(tmp_path)
    settings = MapSettings(input=[Path("a"), Path("/b")], output=Path("out"), bands=["nir"])
    assert settings.input == [tmp_path / "a", Path("/b")] and settings.output == tmp_path / "out"
    assert settings.bands == ["nir"]
