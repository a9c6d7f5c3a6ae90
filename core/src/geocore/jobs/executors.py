"""Who runs jobs: processes of this machine, also when one of them is killed, or a Dask cluster.

A cluster's scheduler is asked by address, its workers are started by whoever runs it. Only jobs, paths and settings go
through the scheduler, and only outcomes come back; scenes and parts go over the disk, which all workers must see under
the same path. Dask sends Python objects as pickles in both directions: scheduler and workers must be trusted like one's
own processes, and hold the same packages.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from geocore.errors import RunError
from geocore.jobs.job import Job, JobResult, Worker, begun, take_begun
from geocore.storage.names import key_file_name

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as DaskFuture

logger = logging.getLogger(__name__)


def run_in_processes(
    jobs: Sequence[Job], worker: Worker, attempts: Path, workers: int, record: Callable[[JobResult], None]
) -> None:
    """Run jobs in processes of this machine.

    When a worker is killed (mostly for want of memory), each job it may have been running gets one more attempt in a
    worker of its own, with nothing beside it.

    Args:
        jobs: what to do.
        worker: can be pickled.
        attempts: folder of `geocore.jobs.job`.
        workers: processes, 1 or more.
        record: called here with each outcome, in the order in which they come.

    Raises:
        RunError: workers end before they begin a job.
        DiskError: nothing can be written any more; once the running jobs have ended.
    """
    waiting, suspects = list(jobs), list[Job]()
    fruitless = 0
    while waiting:
        left = _run_in_pool(waiting, worker, attempts, min(workers, len(waiting)), record)
        # Only jobs that had begun may have killed the worker; the others go on beside each other.
        begun = take_begun(attempts)
        fruitless = fruitless + 1 if len(left) == len(waiting) and not begun else 0
        if fruitless == 2:
            raise RunError(
                f"{workers} workers: they end before they begin a job, mostly for want of memory; use fewer, or 0 to"
                " see another cause"
            )
        suspects += [job for job in left if key_file_name(job.key) in begun]
        waiting = [job for job in left if key_file_name(job.key) not in begun]
    for job in suspects:
        logger.warning("the worker of job %s was killed; trying once more, alone", job.key)
        if _run_in_pool([job], worker, attempts, 1, record):
            take_begun(attempts)
            message = (
                f"job {job.key}: its worker was killed twice, the second time alone: most likely the memory ran out;"
                " use smaller chunks or a machine with more memory, then run the same command again"
            )
            record(JobResult(job.key, "failed", 0.0, message))


def _run_in_pool(
    jobs: Sequence[Job], worker: Worker, attempts: Path, workers: int, record: Callable[[JobResult], None]
) -> list[Job]:
    """Run jobs in processes and return those left over because a process was killed."""
    left = {job.key: job for job in jobs}
    futures: list[Future[JobResult]] = []
    # Spawned, because a forked copy of a process with threads (GDAL, torch) may hang.
    spawning = multiprocessing.get_context("spawn")
    parent_lives, our_end = spawning.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, spawning, initializer=_end_with_parent, initargs=(parent_lives,))
    try:
        for job in jobs:
            futures.append(pool.submit(worker.run_remotely, job, attempts))
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
        # Behind a full disk running jobs end as usual; when interrupted, not: one may take many minutes more.
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


CONNECT_S = 10.0
"""Time to reach the scheduler, seconds."""

_ONE_AT_A_TIME = threading.Lock()
"""Of a worker with several threads: number formats and thread counts that a job sets hold for its whole process."""


def run_on_cluster(
    jobs: Sequence[Job], worker: Worker, attempts: Path, scheduler: str, record: Callable[[JobResult], None]
) -> None:
    """Run jobs on the workers of a Dask scheduler.

    A job whose worker is killed runs again on another one, at most as often as the scheduler allows failures
    (`distributed.scheduler.allowed-failures`, 3 unless configured), then it fails.

    Args:
        jobs: what to do.
        worker: can be pickled; its paths are absolute.
        attempts: folder of `geocore.jobs.job`, seen by the workers.
        scheduler: address.
        record: called here with each outcome, in the order in which they come.

    Raises:
        RunError: distributed is not installed, the scheduler cannot be reached or is lost, or its side lacks packages.
        DiskError: nothing can be written any more; once the running jobs have ended.
    """
    client = _connect(scheduler)
    try:
        if not client.scheduler_info()["workers"]:
            logger.info("scheduler %s has no workers yet; waiting for them", scheduler)
        # Names of their own, because a scheduler remembers results by name.
        run = uuid4().hex[:12]
        named = {f"{key_file_name(job.key)}-{run}": job for job in jobs}
        futures = client.map(
            _perform, list(named.values()), worker=worker, attempts=attempts, key=list(named), pure=False
        )
        _collect(client, futures, named, attempts, scheduler, record)
    finally:
        # The scheduler forgets what waits; what runs finds its folder gone, and fails unseen.
        client.close(timeout=CONNECT_S)


def _perform(job: Job, worker: Worker, attempts: Path) -> JobResult:
    with _ONE_AT_A_TIME:
        return worker.run_remotely(job, attempts)


def _connect(scheduler: str) -> Client:
    try:
        from distributed import Client
    except ImportError:
        raise RunError(
            f"scheduler {scheduler}: Dask is not installed: add the extra dask, `uv run --package PACKAGE --extra dask "
            "COMMAND ...` or `pip install geocore[dask]`"
        ) from None
    # What it logs of a lost connection are tracebacks; the command says it in one line.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        return Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"scheduler {scheduler}: cannot be reached ({reason}); check its address and that it runs"
        ) from error


def _collect(
    client: Client,
    futures: list[DaskFuture[JobResult]],
    named: Mapping[str, Job],
    attempts: Path,
    scheduler: str,
    record: Callable[[JobResult], None],
) -> None:
    from distributed import KilledWorker, as_completed

    bug: BaseException | None = None
    for future in as_completed(futures, loop=client.loop):
        job = named[str(future.key)]
        if future.status == "finished":
            record(future.result())
        elif future.status == "error":
            error = future.exception()
            if isinstance(error, KilledWorker):
                message = (
                    f"job {job.key}: too many workers were killed under it: most likely the memory ran out; use"
                    " smaller chunks or workers with more memory, then run the same command again"
                )
                record(JobResult(job.key, "failed", 0.0, message))
            elif bug is None:
                bug = error
                # Running jobs end as usual, and are recorded.
                running = begun(attempts)
                client.cancel([other for other in futures if key_file_name(named[str(other.key)].key) not in running])
        elif bug is None:
            raise RunError(
                f"scheduler {scheduler}: it ended, or forgot job {job.key}; what is done is kept: once it runs again,"
                " the same command goes on"
            )
    if bug is None:
        return
    if isinstance(bug.__cause__ or bug, ModuleNotFoundError):
        raise RunError(
            f"scheduler {scheduler}: {bug.__cause__ or bug} there; start scheduler and workers in an environment with"
            " the same packages as here"
        )
    raise bug
