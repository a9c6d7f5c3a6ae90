"""Processes of this machine that run tasks, and what is done when one of them is killed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path

from geocore.attempts import take_begun
from geocore.errors import RunError
from geocore.keys import key_file_name
from geocore.tasks import Outcome, Performer, Task

_LOGGER = logging.getLogger(__name__)


def run_in_processes(
    tasks: Sequence[Task], performer: Performer, attempts: Path, workers: int, record: Callable[[Outcome], None]
) -> None:
    """Run tasks in processes of this machine.

    When a worker is killed (mostly for want of memory), each task it may have been running gets one more attempt in a
    worker of its own, with nothing beside it.

    Args:
        tasks: what to do.
        performer: can be pickled.
        attempts: folder of `geocore.attempts`.
        workers: processes, 1 or more.
        record: called here with each outcome, in the order in which they come.

    Raises:
        RunError: workers end before they begin a task.
        DiskError: nothing can be written any more; once the running tasks have ended.
    """
    waiting, suspects = list(tasks), list[Task]()
    fruitless = 0
    while waiting:
        left = _run_in_pool(waiting, performer, attempts, min(workers, len(waiting)), record)
        # Only tasks that had begun may have killed the worker; the others go on beside each other.
        begun = take_begun(attempts)
        fruitless = fruitless + 1 if len(left) == len(waiting) and not begun else 0
        if fruitless == 2:
            raise RunError(
                f"{workers} workers: they end before they begin a task, mostly for want of memory; use fewer, or 0 to"
                " see another cause"
            )
        suspects += [task for task in left if key_file_name(task.key) in begun]
        waiting = [task for task in left if key_file_name(task.key) not in begun]
    for task in suspects:
        _LOGGER.warning("the worker of task %s was killed; trying once more, alone", task.key)
        if _run_in_pool([task], performer, attempts, 1, record):
            take_begun(attempts)
            message = (
                f"task {task.key}: its worker was killed twice, the second time alone: most likely the memory ran out;"
                " use smaller regions or a machine with more memory, then run the same command again"
            )
            record(Outcome(task.key, "failed", 0.0, message))


def _run_in_pool(
    tasks: Sequence[Task], performer: Performer, attempts: Path, workers: int, record: Callable[[Outcome], None]
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
            futures.append(pool.submit(performer.perform_remotely, task, attempts))
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
        # Behind a full disk running tasks end as usual; when interrupted, not: one may take many minutes more.
        if not isinstance(error, Exception):
            our_end.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        our_end.close()
        parent_lives.close()
    return list(left.values())


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
