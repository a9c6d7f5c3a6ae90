"""Work cut into jobs that survive crashes: what is done stays done, and the same command goes on with the rest.

Each job leaves a part and a marker in a folder (`geocore.jobs.job`); one whose marker matches is skipped. Only paths,
numbers and settings travel to a worker and only a `JobResult` comes back, so jobs run in this process, in others, on
a cluster, or in shards that know nothing of each other but the folder, and the parts are the same. Who of several
processes joins the parts, and what one does when those of others are not there, is decided here too.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from geocore.errors import DataError
from geocore.jobs.job import (
    DONE,
    Incomplete,
    Job,
    JobFunction,
    JobResult,
    Products,
    Worker,
    attempt_dir,
    remove_abandoned,
)
from geocore.settings import WorkerSettings
from geocore.storage.files import patient_lock, real_folder, remove_leftovers
from geocore.terminal import one_line

logger = logging.getLogger(__name__)
_NAMED = 5
"""Keys that a message names before it says how many more there are."""

S = TypeVar("S", bound=WorkerSettings)


def run_sharded(main: Callable[[S], None]) -> Callable[[S], None]:
    """Have a command whose work is cut into shards end well when it is not the one to finish: it says so and returns.

    Args:
        main: the work of the command.

    Raises:
        DataError: jobs of this shard failed.
    """

    @functools.wraps(main)
    def run(settings: S) -> None:
        try:
            main(settings)
        except Incomplete as rest:
            who = f"shard {settings.shard}" if settings.shard else "this process"
            named = one_line(", ".join(rest.missing[:_NAMED]))
            if len(rest.missing) > _NAMED:
                named += f" and {len(rest.missing) - _NAMED} more"
            if rest.failures:
                raise DataError(
                    f"{who}: {len(rest.failures)} of {rest.total} failed: {'; '.join(rest.failures)}; "
                    f"not there yet: {named}"
                ) from None
            print(
                f"{who} has done its share; {len(rest.missing)} of {rest.total} are not there yet: "
                f"{named}; the last shard to end finishes, or the same command without --shard"
            )

    return run


@contextmanager
def merging(folder: Path, parts: Sequence[Path]) -> Iterator[None]:
    """Keep other processes from joining the same parts, and from removing them, within the block.

    Args:
        folder: of the parts. Its disk must have locks that hold on all machines which share the work.
        parts: all that are joined.

    Raises:
        Incomplete: another process has joined and removed them meanwhile.
        StorageError: the file system has no locks.
    """
    with patient_lock(folder):
        gone = [part.name for part in parts if not part.exists()]
        if gone:
            raise Incomplete(gone, len(parts))
        yield


def remove_merged(folder: Path) -> None:
    """Remove parts of which the product is there; no process is hindered that still reads them.

    Args:
        folder: as for `merging`; nothing happens when it is not there.
    """
    if folder.exists():
        with patient_lock(folder):
            shutil.rmtree(folder, ignore_errors=True)


def run_jobs(
    jobs: Sequence[Job],
    work: JobFunction,
    folder: Path,
    *,
    identity: Any,
    products: Products | None = None,
    workers: int | WorkerSettings = 0,
    on_done: Callable[[JobResult], None] | None = None,
) -> list[JobResult]:
    """Run all jobs that are not done yet, or whose files are not what was written any more.

    What a job raises fails it, and the others go on: one bad scene ends no batch. What was no `UserError` is a bug
    and raised once all have ended. That nothing can be written any more is raised once the running jobs have ended.
    When a worker is killed, what it was doing is done again.

    Args:
        jobs: keys must differ. All shards have to be given the same ones in the same order.
        work: a function of a module, or a partial of one, so that it can be sent to a worker. Called with the
            arguments and a temporary path.
        folder: holds parts and markers; only one run at a time may work on a job.
        identity: JSON value that decides the results: settings, hash of the weights. Another one does all anew, and may
            not work in the folder at the same time.
        products: the files that the work of a job writes beside its part. A job is done while these are what it
            wrote; one that somebody has changed is kept under another name when it is made again.
        workers: who does the jobs, and which of them. A number is that of processes; 0 runs in this one.
        on_done: called in this process after each job, in the order in which they end.

    Returns:
        Outcomes in the order of the jobs.

    Raises:
        Incomplete: jobs of other shards, or of the work itself, are not done yet, so that a caller cannot join parts
            by mistake.
        RunError: workers or scheduler cannot do the work, or another identity is at work in the folder.
        StorageError: the folder cannot be written.
        DiskError: it takes no more.
    """
    repeated = [key for key, count in Counter(job.key for job in jobs).items() if count > 1]
    if repeated:
        raise ValueError(f"job keys occur more than once: {', '.join(repeated[:5])}")
    settings = workers if isinstance(workers, WorkerSettings) else WorkerSettings(workers=workers)
    worker = Worker(work, folder.absolute(), identity, products)
    outcomes: dict[str, JobResult] = {}

    def record(outcome: JobResult) -> None:
        outcomes[outcome.key] = outcome
        if on_done is not None:
            on_done(outcome)

    open_jobs, others = [], []
    for position, job in enumerate(jobs):
        if not settings.takes(position):
            others.append(job)
        elif (earlier := worker.earlier(job)) is not None:
            record(earlier)
        else:
            open_jobs.append(job)
    if open_jobs:
        _run(open_jobs, worker, settings, record)
    else:
        remove_abandoned(worker.folder)  # of a run that was killed after its last job
    # Looked at last, so that the last of the shards to end sees what the others have done meanwhile.
    there = {job.key: worker.earlier(job, thorough=False) for job in others}
    if all(there.values()) and all(outcome.is_there for outcome in outcomes.values()):
        # This process is the one to use the parts. What is damaged of them it makes again itself.
        there = {job.key: worker.earlier(job) for job in others}
        # What another one has used and removed meanwhile is not damaged.
        damaged = [job for job in others if not there[job.key] and worker.earlier(job, thorough=False)]
        if damaged:
            _run(damaged, worker, settings, record)
    for job in others:
        if job.key not in outcomes:
            record(there[job.key] or JobResult(job.key, "elsewhere", 0.0))
    ended = [outcomes[job.key] for job in jobs]
    for bug in (outcome.bug for outcome in ended if outcome.bug is not None):
        raise bug
    missing = [outcome for outcome in ended if outcome.status == "elsewhere"]
    if missing:
        raise Incomplete(
            [f"{outcome.key} ({outcome.message})" if outcome.message else outcome.key for outcome in missing],
            len(jobs),
            [f"{outcome.key}: {outcome.message}" for outcome in ended if outcome.status == "failed"],
        )
    return ended


def _run(jobs: Sequence[Job], worker: Worker, settings: WorkerSettings, record: Callable[[JobResult], None]) -> None:
    remove_leftovers(worker.folder)
    remove_leftovers(real_folder(worker.folder, DONE))
    with attempt_dir(worker.folder, worker.identity) as attempts:
        if settings.scheduler is not None:
            from geocore.jobs.executors import run_on_cluster

            run_on_cluster(jobs, worker, attempts, settings.scheduler, record)
        elif settings.workers:
            from geocore.jobs.executors import run_in_processes

            run_in_processes(jobs, worker, attempts, settings.workers, record)
        else:
            for job in jobs:
                record(worker.run(job, attempts))
