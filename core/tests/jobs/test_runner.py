"""Jobs survive killed workers and restarts: what is done stays, what changed is done anew, what fails says why."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import geocore.jobs.job
from geocore.errors import DataError, DiskError, RunError, StorageError
from geocore.jobs.job import Incomplete, Job, JobResult, attempt_dir, part_path
from geocore.jobs.runner import run_jobs
from geocore.settings import WorkerSettings
from geocore.storage.files import FolderLock, signature

# The work lies in a file of its own, because a worker imports it by name.
WORK = '''
import os
import signal
import time
from pathlib import Path

from geocore.errors import DataError


class Awkward(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first}{second}")


def write(arguments, part, log):
    with open(Path(log) / "calls.txt", "a") as calls:
        calls.write(f"{arguments['value']}\\n")
    kind = arguments.get("kind", "file")
    if kind == "fails":
        raise DataError("value 3: must be even; use 4")
    if kind == "bug":
        raise ZeroDivisionError("a bug")
    if kind == "awkward":
        raise Awkward("a", "b")
    if kind == "nothing":
        return
    if kind == "hungry":
        import numpy
        numpy.empty(1 << 60, "uint8")
    if kind == "dies":
        part.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "dies once":
        part.write_text("half")
        mark = Path(log) / f"died-{arguments['value']}"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if kind == "sleeps":
        part.write_text("half")
        (Path(log) / f"pid-{os.getpid()}").touch()
        time.sleep(60)
    if kind == "folder":
        part.mkdir()
        (part / "a.txt").write_text(str(arguments["value"]))
    else:
        part.write_text(str(arguments["value"]))
'''


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "jobs_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"), prepend=os.pathsep)
    monkeypatch.delitem(sys.modules, "jobs_work", raising=False)
    import jobs_work

    return partial(jobs_work.write, log=str(tmp_path))


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls.txt"
    return sorted(path.read_text().split()) if path.exists() else []


def jobs_of(count: int, **kinds: str) -> list[Job]:
    return [
        Job(f"t{i}.txt", {"value": i} | ({"kind": kinds[f"t{i}"]} if f"t{i}" in kinds else {})) for i in range(count)
    ]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".attempts").iterdir())


@pytest.mark.parametrize("workers", [0, 2])
def test_parts_appear_and_a_second_run_skips_them(tmp_path: Path, work: Any, workers: int) -> None:
    folder, seen = tmp_path / "parts", []
    jobs = jobs_of(4, t1="folder")
    outcomes = run_jobs(jobs, work, folder, identity={"a": 1}, workers=workers, on_done=seen.append)
    assert [outcome.key for outcome in outcomes] == [job.key for job in jobs]
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert sorted(outcome.key for outcome in seen) == [job.key for job in jobs]
    assert part_path(folder, "t2.txt").read_text() == "2"
    assert (part_path(folder, "t1.txt") / "a.txt").read_text() == "1"
    marker = json.loads((folder / ".done" / "t2.txt.json").read_text())
    assert marker["fingerprint"] == jobs[2].fingerprint({"a": 1})
    assert left_over(folder) == []
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("t*")}

    again = run_jobs(jobs, work, folder, identity={"a": 1}, workers=workers)
    assert {outcome.status for outcome in again} == {"skipped"}
    assert again[2].seconds == marker["seconds"]
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("t*")} == times
    assert calls(tmp_path) == ["0", "1", "2", "3"]


def test_only_what_changed_is_done_anew(tmp_path: Path, work: Any) -> None:
    folder = tmp_path / "parts"
    run_jobs(jobs_of(3, t1="folder"), work, folder, identity={"threshold": 0.5})
    part_path(folder, "t0.txt").unlink()
    (folder / ".done" / "t2.txt.json").write_text("{not json")
    outcomes = run_jobs(jobs_of(3, t1="folder"), work, folder, identity={"threshold": 0.5})
    assert [outcome.status for outcome in outcomes] == ["done", "skipped", "done"]
    # A folder is replaced by a file, which no rename does by itself.
    changed = [Job("t0.txt", {"value": 7}), Job("t1.txt", {"value": 1}), Job("t2.txt", {"value": 2})]
    outcomes = run_jobs(changed, work, folder, identity={"threshold": 0.5})
    assert [outcome.status for outcome in outcomes] == ["done", "done", "skipped"]
    assert part_path(folder, "t0.txt").read_text() == "7"
    assert part_path(folder, "t1.txt").read_text() == "1"
    outcomes = run_jobs(changed, work, folder, identity={"threshold": 0.6})
    assert {outcome.status for outcome in outcomes} == {"done"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_error_fails_its_task_only(tmp_path: Path, work: Any, workers: int) -> None:
    folder = tmp_path / "parts"
    outcomes = run_jobs(jobs_of(3, t1="fails"), work, folder, identity=None, workers=workers)
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]
    assert outcomes[1].message == "value 3: must be even; use 4"
    assert not part_path(folder, "t1.txt").exists()
    assert left_over(folder) == []


@pytest.mark.parametrize(("workers", "kind", "error"), [
    (0, "bug", ZeroDivisionError),
    (2, "bug", RuntimeError),
    (0, "nothing", FileNotFoundError),
    (1, "awkward", RuntimeError),
])  # fmt: skip
def test_a_bug_is_raised_and_what_is_done_stays(
    tmp_path: Path, work: Any, workers: int, kind: str, error: type[Exception]
) -> None:
    folder = tmp_path / "parts"
    seen = []
    with pytest.raises(error, match=None if workers == 0 else "(?s)job t1.txt:.*Traceback"):
        run_jobs(jobs_of(4, t1=kind), work, folder, identity=None, workers=workers, on_done=seen.append)
    assert left_over(folder) == []
    # Those behind it were done all the same.
    assert {outcome.key: outcome.status for outcome in seen} == {
        "t0.txt": "done",
        "t1.txt": "failed",
        "t2.txt": "done",
        "t3.txt": "done",
    }
    assert [outcome.status for outcome in run_jobs(jobs_of(4), work, folder, identity=None)] == [
        "skipped",
        "done",
        "skipped",
        "skipped",
    ]


def test_a_task_that_takes_more_memory_than_there_is_fails_alone(tmp_path: Path, work: Any) -> None:
    outcomes = run_jobs(jobs_of(2, t0="hungry"), work, tmp_path / "parts", identity=None)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert outcomes[0].message.startswith("takes more memory than there is (Unable to allocate")


def test_a_killed_worker_costs_one_attempt(tmp_path: Path, work: Any) -> None:
    folder = tmp_path / "parts"
    outcomes = run_jobs(jobs_of(6, t2="dies once"), work, folder, identity=None, workers=2)
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert [part_path(folder, f"t{i}.txt").read_text() for i in range(6)] == list("012345")
    assert calls(tmp_path).count("2") == 2
    assert left_over(folder) == []


def test_a_task_that_always_kills_its_worker_fails_and_spares_the_others(tmp_path: Path, work: Any) -> None:
    folder = tmp_path / "parts"
    outcomes = run_jobs(jobs_of(5, t0="dies"), work, folder, identity=None, workers=2)
    assert [outcome.status for outcome in outcomes] == ["failed", *["done"] * 4]
    assert "killed twice" in outcomes[0].message
    assert "\n" not in outcomes[0].message
    assert calls(tmp_path).count("0") == 2
    assert not part_path(folder, "t0.txt").exists()
    assert left_over(folder) == []


def wait_for(pattern: str, folder: Path, count: int = 1) -> list[Path]:
    for _ in range(300):
        found = list(folder.glob(pattern))
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} within 15 s")


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_and_a_rerun_goes_on(tmp_path: Path, work: Any, how: signal.Signals) -> None:
    folder = tmp_path / "parts"
    script = tmp_path / "run.py"
    script.write_text(
        "from functools import partial\nfrom pathlib import Path\nimport jobs_work\n"
        "from geocore.jobs.job import Job\nfrom geocore.jobs.runner import run_jobs\n"
        "if __name__ == '__main__':\n"
        f"    work = partial(jobs_work.write, log={str(tmp_path)!r})\n"
        "    jobs = [Job('t0.txt', {'value': 0}), Job('t1.txt', {'value': 1, 'kind': 'sleeps'})]\n"
        f"    run_jobs(jobs, work, Path({str(folder)!r}), identity=None, workers=2)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, start_new_session=True)
    (mark,) = wait_for("pid-*", tmp_path)
    worker = int(mark.name.removeprefix("pid-"))
    wait_for("t0.txt.json", folder / ".done")
    if how == signal.SIGINT:
        # A terminal sends Ctrl-C to all its processes.
        os.killpg(parent.pid, how)
    else:
        os.kill(parent.pid, how)
    _, messages = parent.communicate(timeout=20)
    assert b"Process Spawn" not in messages
    deadline = time.monotonic() + 10
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(worker)
    assert len(left_over(folder)) == (1 if how == signal.SIGKILL else 0)

    outcomes = run_jobs([Job("t0.txt", {"value": 0}), Job("t1.txt", {"value": 1})], work, folder, identity=None)
    assert [outcome.status for outcome in outcomes] == ["skipped", "done"]
    assert left_over(folder) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_and_its_workers_at_once(tmp_path: Path, work: Any, how: signal.Signals) -> None:
    """SLURM kills 30 seconds after SIGTERM; what runs is not waited for, and what waits is not begun."""
    folder = tmp_path / "parts"
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom functools import partial\nfrom pathlib import Path\nimport jobs_work\n"
        "from geocore.cli.main import command\nfrom geocore.jobs.job import Job\n"
        "from geocore.jobs.runner import run_jobs\n"
        "from geocore.settings import Settings\n"
        "def main(settings):\n"
        f"    work = partial(jobs_work.write, log={str(tmp_path)!r})\n"
        "    jobs = [Job(f't{i}.txt', {'value': i, 'kind': 'sleeps'}) for i in range(6)]\n"
        f"    run_jobs(jobs, work, Path({str(folder)!r}), identity=None, workers=2)\n"
        "if __name__ == '__main__':\n    command(main, Settings, prog='run', resumes=True, argv=[])\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, start_new_session=True)
    marks = wait_for("pid-*", tmp_path, 2)
    begun = time.monotonic()
    parent.send_signal(how)
    _, messages = parent.communicate(timeout=10)
    assert parent.returncode == 128 + how and time.monotonic() - begun < 5
    assert messages.decode() == f"stopped by {how.name}; the same command goes on from here\n"
    assert not any(is_alive(int(mark.name.removeprefix("pid-"))) for mark in marks)
    assert len(calls(tmp_path)) == 2 and left_over(folder) == []


def test_attempts_of_a_living_process_are_left_alone(tmp_path: Path, work: Any) -> None:
    folder = tmp_path / "parts"
    with attempt_dir(folder) as own:
        name = own.name[:-12]
    other = folder / ".attempts" / f"{name}{'0' * 12}"
    with FolderLock(other):
        (other / "t9").mkdir()
        run_jobs(jobs_of(1), work, folder, identity=None)
        assert (other / "t9").exists()
        # What it makes are not to be mixed with those of other settings.
        with pytest.raises(RunError, match="in use by a process with other settings"):
            run_jobs(jobs_of(1), work, folder, identity="new")
        assert left_over(folder) == [other.name] and calls(tmp_path) == ["0"]
    run_jobs(jobs_of(1), work, folder, identity="new")
    assert left_over(folder) == []


def test_attempts_of_a_run_that_was_killed_after_its_last_task_go_too(
    tmp_path: Path, work: Any, killed_writer: str
) -> None:
    folder = tmp_path / "parts"
    run_jobs(jobs_of(1), work, folder, identity=None)
    (folder / ".attempts" / f"{'a' * 16}.{killed_writer}").mkdir()
    assert [outcome.status for outcome in run_jobs(jobs_of(1), work, folder, identity=None)] == ["skipped"]
    assert left_over(folder) == []
    (folder / ".attempts").rmdir()
    mine = tmp_path / "mine"
    (mine / f"{'a' * 16}.{killed_writer}").mkdir(parents=True)
    (folder / ".attempts").symlink_to(mine)
    run_jobs(jobs_of(1), work, folder, identity=None)
    assert len(list(mine.iterdir())) == 1


def test_only_what_bears_the_name_and_marks_of_attempts_is_removed(
    tmp_path: Path, work: Any, killed_writer: str
) -> None:
    folder, mine = tmp_path / "parts", tmp_path / "mine"
    (folder / ".attempts").mkdir(parents=True)
    stale, starting = f"{'a' * 16}.{killed_writer}", f"{'a' * 16}.{signature()}"
    for path in (mine / "run", *(folder / ".attempts" / name for name in ("notes", stale, starting))):
        path.mkdir(parents=True)
        (path / "kept").write_text("mine")
    (mine / "run" / ".lock").write_text("123")
    (folder / ".attempts" / "notes" / ".lock").write_text("123")
    (folder / ".attempts" / f"{'b' * 16}.{killed_writer}").symlink_to(mine / "run")
    run_jobs(jobs_of(1), work, folder, identity="new")
    assert (mine / "run" / "kept").exists() and (mine / "run" / ".lock").read_text() == "123"
    # One that was killed before it had its lock is gone, one that is about to take it is not.
    assert left_over(folder) == sorted(["notes", starting, f"{'b' * 16}.{killed_writer}"])
    # Nor does anybody work in a place that a link leads to.
    other = tmp_path / "other"
    other.mkdir()
    (other / ".attempts").symlink_to(mine)
    with pytest.raises(StorageError, match="symbolic link"):
        run_jobs(jobs_of(1), work, other, identity="new")
    assert sorted(path.name for path in mine.iterdir()) == ["run"]
    (other / ".done").rmdir()
    (mine / "t0.txt.json").write_text("mine")
    (other / ".done").symlink_to(mine)
    with pytest.raises(StorageError, match="symbolic link"):
        run_jobs(jobs_of(1), work, other, identity="new")
    assert (mine / "t0.txt.json").read_text() == "mine"


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damaged", ["t0.txt", "t1.txt/a.txt", ".done/t0.txt.json", ".done/t1.txt.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "empty", "folder", "gone"])
def test_a_part_or_marker_that_is_not_what_was_written_is_made_again(
    tmp_path: Path, work: Any, damaged: str, how: str
) -> None:
    folder, jobs = tmp_path / "parts", jobs_of(3, t1="folder")
    run_jobs(jobs, work, folder, identity=None)
    file = folder / damaged
    content = file.read_bytes()
    if how == "changed":
        damage(file)
    elif how in ("cut", "empty"):
        file.write_bytes(content[: len(content) // 2 if how == "cut" else 0])
    else:
        file.unlink()
        if how == "folder":
            (file / "deep").mkdir(parents=True)
    if file.is_file() and file.read_bytes() == content:
        pytest.skip("half of nothing")
    outcomes = run_jobs(jobs, work, folder, identity=None)
    changed = 0 if "t0" in damaged else 1
    if how == "folder" and damaged.startswith(".done"):
        assert outcomes[changed].status == "failed" and "is in the way" in outcomes[changed].message
        return
    assert [outcome.status for outcome in outcomes] == ["done" if i == changed else "skipped" for i in range(3)]
    assert file.is_file()
    assert [part_path(folder, "t0.txt").read_text(), (folder / "t1.txt" / "a.txt").read_text()] == ["0", "1"]
    assert {outcome.status for outcome in run_jobs(jobs, work, folder, identity=None)} == {"skipped"}


@pytest.mark.parametrize("error", [FileNotFoundError("parts"), DataError("1 of 2 chunks failed")])
def test_a_task_that_fails_since_another_process_has_done_it_is_done(tmp_path: Path, error: Exception) -> None:
    """As of a scene whose chunks were joined and removed while this process still worked at them."""

    def theirs(arguments: dict[str, Any], part: Path) -> None:
        part.write_text("theirs")

    def overtaken(arguments: dict[str, Any], part: Path) -> None:
        run_jobs(jobs_of(1), theirs, tmp_path, identity=None)
        raise error

    (outcome,) = run_jobs(jobs_of(1), overtaken, tmp_path, identity=None)
    assert outcome.status == "done" and part_path(tmp_path, "t0.txt").read_text() == "theirs"


def test_the_shard_that_uses_the_parts_makes_damaged_ones_of_others_again(tmp_path: Path, work: Any) -> None:
    folder, jobs = tmp_path / "parts", jobs_of(4)

    def shard(number: int) -> list[JobResult]:
        return run_jobs(jobs, work, folder, identity=None, workers=WorkerSettings(shard=f"{number}/2"))

    with pytest.raises(Incomplete):
        shard(1)
    before = (folder / "t0.txt").stat()
    (folder / "t0.txt").write_text("9")
    os.utime(folder / "t0.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [outcome.status for outcome in shard(2)] == ["done", "done", "skipped", "done"]
    assert [part_path(folder, job.key).read_text() for job in jobs] == list("0123")


def test_parts_of_other_shards_are_not_read_by_those_that_do_not_use_them(
    tmp_path: Path, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, jobs = tmp_path / "parts", jobs_of(6)
    read, sha256 = list[str](), geocore.jobs.job.sha256_file
    monkeypatch.setattr("geocore.jobs.job.sha256_file", lambda path: [read.append(path.name), sha256(path)][1])
    for number in (1, 2):
        with pytest.raises(Incomplete):
            run_jobs(jobs, work, folder, identity=None, workers=WorkerSettings(shard=f"{number}/3"))
    assert sorted(read) == ["t0.txt", "t1.txt", "t3.txt", "t4.txt"]  # each once, when it was written


def test_a_full_disk_ends_the_run_and_is_no_fault_of_a_task(tmp_path: Path) -> None:
    seen = []

    def fills(arguments: dict[str, Any], part: Path) -> None:
        seen.append(arguments["value"])
        if arguments["value"] == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(part))
        part.write_text("whole")

    with pytest.raises(DiskError, match="no space left"):
        run_jobs(jobs_of(3), fills, tmp_path / "parts", identity=None)
    assert seen == [0, 1] and left_over(tmp_path / "parts") == []
    assert run_jobs(jobs_of(1), fills, tmp_path / "parts", identity=None)[0].status == "skipped"


def test_attempts_of_another_machine_are_left_until_they_are_a_week_old(tmp_path: Path, work: Any) -> None:
    folder = tmp_path / "parts"
    other = folder / ".attempts" / f"{'a' * 16}.00000000.1-{'0' * 12}"
    with FolderLock(other):
        (other / "t9~1").mkdir()
    run_jobs(jobs_of(1), work, folder, identity=None)
    assert left_over(folder) == [other.name]
    old = time.time() - 8 * 24 * 3600
    os.utime(other, (old, old))
    run_jobs(jobs_of(1), work, folder, identity="new")
    assert left_over(folder) == []


def test_a_part_that_another_process_made_meanwhile_fails_the_task_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "parts"

    def overtaken(arguments: dict[str, Any], part: Path) -> None:
        part.mkdir()

    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        (folder / "a").mkdir()
        (folder / "a" / "theirs").touch()
        return rename(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", late)
        (outcome,) = run_jobs([Job("a", {})], overtaken, folder, identity=1)
    assert outcome.status == "failed" and "another process" in outcome.message
    assert (folder / "a" / "theirs").exists() and left_over(folder) == []


def test_a_closed_folder_is_a_clear_error(tmp_path: Path, work: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        run_jobs(jobs_of(1), work, tmp_path / "file" / "parts", identity=None)


def test_fingerprints_cover_key_arguments_and_context() -> None:
    job = Job("a", {"x": 1, "y": [2, 3]})
    assert job.fingerprint({"s": 1}) == Job("a", {"y": [2, 3], "x": 1}).fingerprint({"s": 1})
    others = [Job("b", job.arguments), Job("a", {"x": 1, "y": [3, 2]})]
    prints = {other.fingerprint({"s": 1}) for other in others} | {job.fingerprint({"s": 2})}
    assert len(prints | {job.fingerprint({"s": 1})}) == 4


def test_no_text_is_no_key() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        Job("", {})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_key_is_any_text(tmp_path: Path, work: Any, workers: int) -> None:
    keys = [".hidden", "a/b", "..", "a b", "a\n", "<i>", "\udcff", "ü" * 200]
    jobs = [Job(key, {"value": number}) for number, key in enumerate(keys)]
    # Of two jobs whose worker was killed, the one that had begun is tried alone.
    jobs[3] = Job(keys[3], {"value": 3, "kind": "dies once"}) if workers else jobs[3]
    folder = tmp_path / "parts"
    outcomes = run_jobs(jobs, work, folder, identity=None, workers=workers)
    assert [(outcome.key, outcome.status) for outcome in outcomes] == [(key, "done") for key in keys]
    assert [part_path(folder, key).read_text() for key in keys] == [str(number) for number in range(len(keys))]
    assert {path.parent for path in (part_path(folder, key) for key in keys)} == {folder}
    assert {outcome.status for outcome in run_jobs(jobs, work, folder, identity=None)} == {"skipped"}


def test_repeated_keys_are_a_bug(tmp_path: Path, work: Any) -> None:
    with pytest.raises(ValueError, match=r"more than once: t0\.txt"):
        run_jobs(jobs_of(1) * 2, work, tmp_path, identity=None)
