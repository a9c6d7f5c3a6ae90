"""Work cut into tasks that survive crashes: what is done stays done, and the same command goes on with the rest.

Each task writes one part, a file or a folder, under a temporary name; it is renamed to its key, and then a marker
`.done/KEY.json` says by which arguments and settings it was made. A task whose marker matches is skipped. Only paths,
numbers and settings travel to a worker and only an `Outcome` comes back, so tasks may run in any process or machine
that sees the folder.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from geocore.errors import RunError, UserError
from geocore.files import FolderLock, atomic_path, atomic_write_text, sha256_json, storage_errors

_LOGGER = logging.getLogger(__name__)

Work = Callable[[dict[str, Any], Path], None]
"""Makes the part of a task: takes its arguments and the path to write a file or a folder at, which does not exist."""


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work."""

    key: str
    """Name of the part in the folder; letters, digits, `.`, `_` and `-`, not beginning with a dot."""
    arguments: dict[str, Any]
    """JSON values."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", self.key):
            raise ValueError(f"task key {self.key!r}: must be a plain file name of letters, digits, '.', '_' and '-'")

    def fingerprint(self, context: Any) -> str:
        """SHA-256 over what decides the part.

        Args:
            context: JSON value: settings that decide the result, hash of the weights.
        """
        return sha256_json({"key": self.key, "arguments": self.arguments, "context": context})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended."""

    key: str
    status: Literal["done", "skipped", "failed"]
    seconds: float
    """Time that the work took, when it was done."""
    message: str = ""
    """Why it failed, one line."""


def part_path(folder: Path, key: str) -> Path:
    """Where the part of a task lies once it is done."""
    return folder / key


def run_tasks(
    tasks: Sequence[Task],
    work: Work,
    folder: Path,
    *,
    context: Any,
    workers: int = 0,
    on_done: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Run all tasks that are not done yet.

    A `UserError` fails its task and the others go on; any other exception is a bug and is raised once the running
    tasks have ended, with all that is done kept. When a worker is killed (mostly for want of memory), each task it may
    have been running gets one more attempt in a worker of its own, with nothing beside it.

    Args:
        tasks: keys must differ.
        work: a function of a module, or a partial of one, so that it can be sent to a worker. Called with the
            arguments and a temporary path.
        folder: holds parts and markers; only one run at a time may work on a task.
        context: JSON value that decides the results: settings, hash of the weights. Another context does all anew.
        workers: processes; 0 runs in this one.
        on_done: called in this process after each task, in the order in which they end.

    Returns:
        Outcomes in the order of the tasks.

    Raises:
        StorageError: the folder cannot be written.
    """
    repeated = [key for key, count in Counter(task.key for task in tasks).items() if count > 1]
    if repeated:
        raise ValueError(f"task keys occur more than once: {', '.join(repeated[:5])}")
    outcomes: dict[str, Outcome] = {}

    def record(outcome: Outcome) -> None:
        outcomes[outcome.key] = outcome
        if on_done is not None:
            on_done(outcome)

    open_tasks = []
    for task in tasks:
        earlier = _earlier(task, folder, context)
        if earlier is None:
            open_tasks.append(task)
        else:
            record(earlier)
    if open_tasks:
        with _attempts(folder) as attempts:
            if workers == 0:
                for task in open_tasks:
                    record(_attempt(task, work, folder, context, attempts))
            else:
                run = partial(_attempt_remotely, work=work, folder=folder, context=context, attempts=attempts)
                _run_in_processes(open_tasks, run, attempts, workers, record)
    return [outcomes[task.key] for task in tasks]


def _earlier(task: Task, folder: Path, context: Any) -> Outcome | None:
    try:
        marker = json.loads(_marker_path(folder, task.key).read_text(encoding="utf-8"))
        if marker["fingerprint"] == task.fingerprint(context) and part_path(folder, task.key).exists():
            return Outcome(task.key, "skipped", float(marker["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _marker_path(folder: Path, key: str) -> Path:
    return folder / ".done" / f"{key}.json"


def _attempt(task: Task, work: Work, folder: Path, context: Any, attempts: Path) -> Outcome:
    marker, part, own = _marker_path(folder, task.key), part_path(folder, task.key), attempts / task.key
    started = time.perf_counter()
    try:
        with storage_errors():
            # The folder also tells the parent, should this process be killed, that the task had begun.
            own.mkdir()
            with atomic_path(own / task.key) as temporary:
                work(task.arguments, temporary)
            # An old part must not be taken for the new one, nor may a folder be renamed onto it.
            marker.unlink(missing_ok=True)
            if part.exists():
                part.rename(own / ".replaced")
            (own / task.key).rename(part)
            seconds = time.perf_counter() - started
            content = {"fingerprint": task.fingerprint(context), "seconds": round(seconds, 3)}
            atomic_write_text(marker, json.dumps(content) + "\n")
        return Outcome(task.key, "done", seconds)
    except UserError as error:
        return Outcome(task.key, "failed", time.perf_counter() - started, str(error))
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def _attempts(folder: Path) -> Iterator[Path]:
    """A locked folder for the temporary parts of this process, removed at the end; those of killed ones go as well."""
    own = folder / ".attempts" / uuid.uuid4().hex[:12]
    with FolderLock(own):
        for other in own.parent.iterdir():
            _remove_stale(other)
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _remove_stale(attempts: Path) -> None:
    try:
        # A lock file is empty for the moment in which its owner takes the lock.
        if (attempts / ".lock").stat().st_size:
            with FolderLock(attempts):
                shutil.rmtree(attempts, ignore_errors=True)
    except (RunError, OSError):
        pass


def _run_in_processes(
    tasks: Sequence[Task],
    run: Callable[[Task], Outcome],
    attempts: Path,
    workers: int,
    record: Callable[[Outcome], None],
) -> None:
    waiting, suspects = list(tasks), list[Task]()
    fruitless = 0
    while waiting:
        left = _run_in_pool(waiting, run, min(workers, len(waiting)), record)
        # Only tasks that had begun may have killed the worker; the others go on beside each other.
        begun = _take_begun(attempts)
        fruitless = fruitless + 1 if len(left) == len(waiting) and not begun else 0
        if fruitless == 2:
            raise RunError(
                f"{workers} workers: they end before they begin a task, mostly for want of memory; use fewer, or 0 to"
                " see another cause"
            )
        suspects += [task for task in left if task.key in begun]
        waiting = [task for task in left if task.key not in begun]
    for task in suspects:
        _LOGGER.warning("the worker of task %s was killed; trying once more, alone", task.key)
        if _run_in_pool([task], run, 1, record):
            _take_begun(attempts)
            message = (
                f"task {task.key}: its worker was killed twice, the second time alone: most likely the memory ran out;"
                " use smaller regions or a machine with more memory, then run the same command again"
            )
            record(Outcome(task.key, "failed", 0.0, message))


def _run_in_pool(
    tasks: Sequence[Task], run: Callable[[Task], Outcome], workers: int, record: Callable[[Outcome], None]
) -> list[Task]:
    """Run tasks in processes and return those left over because a process was killed."""
    left = {task.key: task for task in tasks}
    futures: list[Future[Outcome]] = []
    # Spawned, because a forked copy of a process with threads (GDAL, torch) may hang.
    spawning = multiprocessing.get_context("spawn")
    parent_lives, our_end = spawning.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, spawning, initializer=_end_with_parent, initargs=(parent_lives,))
    try:
        for task in tasks:
            futures.append(pool.submit(run, task))
        for future in as_completed(futures):
            outcome = future.result()
            del left[outcome.key]
            record(outcome)
    except BrokenProcessPool:
        for future in futures:
            if future.done() and not future.cancelled() and future.exception() is None:
                outcome = future.result()
                if left.pop(outcome.key, None) is not None:
                    record(outcome)
    except BaseException as error:
        # Behind a bug running tasks end as usual; when interrupted, not: one may take many minutes more.
        if not isinstance(error, Exception):
            our_end.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        our_end.close()
        parent_lives.close()
    return list(left.values())


def _attempt_remotely(task: Task, *, work: Work, folder: Path, context: Any, attempts: Path) -> Outcome:
    try:
        return _attempt(task, work, folder, context, attempts)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            # An exception that cannot be rebuilt in the parent would look like a killed worker there.
            raise RuntimeError(f"task {task.key}:\n{traceback.format_exc()}") from None
        raise


def _end_with_parent(parent_lives: Connection) -> None:
    """Make this worker end when its parent closes its end of the pipe, and be it by dying."""
    # Ctrl-C reaches all processes of a terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait() -> None:
        try:
            parent_lives.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _take_begun(attempts: Path) -> set[str]:
    """Keys of tasks that a killed worker left behind, whose temporary parts are removed."""
    begun = {path.name for path in attempts.iterdir() if path.is_dir()}
    for key in begun:
        shutil.rmtree(attempts / key, ignore_errors=True)
    return begun
