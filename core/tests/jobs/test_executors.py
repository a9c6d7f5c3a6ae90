"""Jobs on a Dask cluster: what fails, what is killed, what is missing, each in one line."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from geocore.errors import RunError
from geocore.jobs import executors
from geocore.jobs.job import Job, part_path
from geocore.jobs.runner import run_jobs
from geocore.settings import WorkerSettings

Start = Callable[..., tuple[str, list[subprocess.Popen[bytes]]]]

# The work lies in a file of its own, because a worker imports it by name.
WORK = '''
import os
import signal
import threading
import time
from pathlib import Path

from geocore.errors import DataError

running = 0


class Awkward(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first}{second}")


def write(arguments, part, log):
    global running
    (Path(log) / f"began-{arguments['value']}").touch()
    kind = arguments.get("kind", "file")
    if kind == "fails":
        raise DataError("value 3: must be even; use 4")
    if kind == "awkward":
        raise Awkward("a", "b")
    if kind == "dies":
        part.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "dies once":
        part.write_text("half")
        mark = Path(log) / f"died-{arguments['value']}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if kind == "lingers":
        time.sleep(1)
    if kind == "sleeps":
        time.sleep(60)
    if kind == "bug":
        raise ZeroDivisionError("a bug")
    running += 1
    time.sleep(0.05)
    part.write_text(f"{arguments['value']} {running}")
    running -= 1
'''


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "cluster_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    yield partial(importlib.import_module("cluster_work").write, log=str(tmp_path))
    sys.modules.pop("cluster_work", None)


def jobs_of(count: int, **kinds: str) -> list[Job]:
    return [Job(f"t{i}", {"value": i, "kind": kinds.get(f"t{i}", "file")}) for i in range(count)]


def test_tasks_run_on_the_cluster_and_end_as_anywhere_else(tmp_path: Path, work: Any, start_cluster: Start) -> None:
    # A worker of several threads does one at a time all the same.
    scheduler, _ = start_cluster(tmp_path / "code", workers=1, threads=4)
    where, folder = WorkerSettings(scheduler=scheduler), tmp_path / "parts"
    outcomes = run_jobs(jobs_of(6, t1="fails"), work, folder, identity=1, workers=where)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", *["done"] * 4]
    assert outcomes[1].message == "value 3: must be even; use 4"
    assert [part_path(folder, f"t{i}").read_text() for i in (0, 2, 3, 4, 5)] == [f"{i} 1" for i in (0, 2, 3, 4, 5)]
    again = run_jobs(jobs_of(6), work, folder, identity=1, workers=where)
    assert [outcome.status for outcome in again] == ["skipped", "done", *["skipped"] * 4]
    with pytest.raises(RuntimeError, match="job t1:\n(?s:.)*Awkward"):
        run_jobs(jobs_of(2, t1="awkward"), work, tmp_path / "b", identity=1, workers=where)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        run_jobs(jobs_of(20, t0="bug"), work, tmp_path / "c", identity=1, workers=where)
    # Those behind the bug were done all the same.
    assert len(list((tmp_path / "c").glob("t*"))) == 19
    assert not [path for name in ("parts", "b", "c") for path in (tmp_path / name / ".attempts").iterdir()]


def test_a_task_whose_worker_was_killed_runs_again_beside_what_it_left(
    tmp_path: Path, work: Any, start_cluster: Start
) -> None:
    scheduler, _ = start_cluster(tmp_path / "code", workers=2)
    where, folder = WorkerSettings(scheduler=scheduler), tmp_path / "parts"
    outcomes = run_jobs(jobs_of(3, t0="dies once"), work, folder, identity=1, workers=where)
    assert (tmp_path / "died-0").exists()
    assert [(outcome.status, outcome.message) for outcome in outcomes] == [("done", "")] * 3
    assert [part_path(folder, f"t{i}").read_text() for i in range(3)] == [f"{i} 1" for i in range(3)]
    assert not list((folder / ".attempts").iterdir())


def test_a_task_that_kills_its_workers_fails_and_a_lost_scheduler_is_one_line(
    tmp_path: Path, work: Any, start_cluster: Start
) -> None:
    scheduler, processes = start_cluster(
        tmp_path / "code", workers=2, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0"
    )
    where, folder = WorkerSettings(scheduler=scheduler), tmp_path / "parts"
    outcomes = run_jobs(jobs_of(4, t0="dies"), work, folder, identity=1, workers=where)
    assert outcomes[0].status == "failed" and "too many workers were killed" in outcomes[0].message
    # What lay with the killed worker had not begun, or runs again.
    assert all(part_path(folder, f"t{i}").exists() for i, outcome in enumerate(outcomes) if outcome.is_there)

    def end_the_scheduler() -> None:
        while not (tmp_path / "began-9").exists():
            time.sleep(0.01)
        processes[0].kill()

    threading.Thread(target=end_the_scheduler, daemon=True).start()
    job = Job("t9", {"value": 9, "kind": "sleeps"})
    with pytest.raises(RunError, match=f"scheduler {scheduler}: it ended, or forgot job t9; what is done is kept"):
        run_jobs([job], work, folder, identity=1, workers=where)
    assert not list((folder / ".attempts").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_cluster_outlives_a_command_that_is_stopped(
    tmp_path: Path, work: Any, start_cluster: Start, how: signal.Signals
) -> None:
    scheduler, _ = start_cluster(tmp_path / "code", workers=2)
    folder, where = tmp_path / "parts", WorkerSettings(scheduler=scheduler)
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path / 'code')!r})\n"
        "from functools import partial\nfrom pathlib import Path\nimport cluster_work\n"
        "from geocore.jobs.job import Job\nfrom geocore.jobs.runner import run_jobs\n"
        "from geocore.settings import WorkerSettings\n"
        f"work = partial(cluster_work.write, log={str(tmp_path)!r})\n"
        "jobs = [Job('t0', {'value': 0, 'kind': 'file'}), Job('t1', {'value': 1, 'kind': 'lingers'})]\n"
        f"where = WorkerSettings(scheduler={scheduler!r})\n"
        f"run_jobs(jobs, work, Path({str(folder)!r}), identity=1, workers=where)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "began-1").exists() and (folder / ".done" / "t0.json").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait(30) != 0
    assert not (folder / "t1").exists()
    # Another process does it while a worker is still at it: what that one writes late is not taken.
    (outcome,) = run_jobs([Job("t1", {"value": 1, "kind": "lingers"})], work, folder, identity=1, workers=where)
    assert outcome.status == "done" and part_path(folder, "t1").read_text() == "1 1"
    assert not list((folder / ".attempts").iterdir())


def test_packages_that_the_cluster_lacks_are_named(tmp_path: Path, work: Any, start_cluster: Start) -> None:
    scheduler, _ = start_cluster(tmp_path, workers=1)
    with pytest.raises(RunError, match="No module named 'cluster_work' there; start scheduler and workers in"):
        run_jobs(jobs_of(2), work, tmp_path / "parts", identity=1, workers=WorkerSettings(scheduler=scheduler))


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path, work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 0.3)
    for address in ("tcp://127.0.0.1:1", "nosuch://127.0.0.1:1"):
        with pytest.raises(RunError, match=f"scheduler {address}: cannot be reached") as error:
            run_jobs(jobs_of(1), work, tmp_path, identity=1, workers=WorkerSettings(scheduler=address))
        assert "\n" not in str(error.value)


def test_dask_that_is_not_installed_is_named(tmp_path: Path, work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunError, match=r"install geocore\[dask\]"):
        run_jobs(jobs_of(1), work, tmp_path, identity=1, workers=WorkerSettings(scheduler="tcp://node7:8786"))
