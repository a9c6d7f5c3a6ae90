"""A Dask cluster that runs tasks: its scheduler is asked by address, its workers are started by whoever runs it.

Only tasks, paths and settings go through the scheduler, and only outcomes come back; scenes and parts go over the disk,
which all workers must see under the same path. Dask sends Python objects as pickles in both directions: scheduler and
workers must be trusted like one's own processes, and hold the same packages.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from geocore.attempts import begun
from geocore.errors import RunError
from geocore.keys import key_file_name
from geocore.tasks import Outcome, Performer, Task

if TYPE_CHECKING:
    from distributed import Client, Future

_LOGGER = logging.getLogger(__name__)

CONNECT_S = 10.0
"""Time to reach the scheduler, seconds."""

_ONE_AT_A_TIME = threading.Lock()
"""Of a worker with several threads: number formats and thread counts that a task sets hold for its whole process."""


def run_on_cluster(
    tasks: Sequence[Task], performer: Performer, attempts: Path, scheduler: str, record: Callable[[Outcome], None]
) -> None:
    """Run tasks on the workers of a Dask scheduler.

    A task whose worker is killed runs again on another one, at most as often as the scheduler allows failures
    (`distributed.scheduler.allowed-failures`, 3 unless configured), then it fails.

    Args:
        tasks: what to do.
        performer: can be pickled; its paths are absolute.
        attempts: folder of `geocore.attempts`, seen by the workers.
        scheduler: address.
        record: called here with each outcome, in the order in which they come.

    Raises:
        RunError: distributed is not installed, the scheduler cannot be reached or is lost, or its side lacks packages.
        DiskError: nothing can be written any more; once the running tasks have ended.
    """
    client = _connect(scheduler)
    try:
        if not client.scheduler_info()["workers"]:
            _LOGGER.info("scheduler %s has no workers yet; waiting for them", scheduler)
        # Names of their own, because a scheduler remembers results by name.
        run = uuid4().hex[:12]
        named = {f"{key_file_name(task.key)}-{run}": task for task in tasks}
        futures = client.map(
            _perform, list(named.values()), performer=performer, attempts=attempts, key=list(named), pure=False
        )
        _collect(client, futures, named, attempts, scheduler, record)
    finally:
        # The scheduler forgets what waits; what runs finds its folder gone, and fails unseen.
        client.close(timeout=CONNECT_S)


def _perform(task: Task, performer: Performer, attempts: Path) -> Outcome:
    with _ONE_AT_A_TIME:
        return performer.perform_remotely(task, attempts)


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
    futures: list[Future[Outcome]],
    named: Mapping[str, Task],
    attempts: Path,
    scheduler: str,
    record: Callable[[Outcome], None],
) -> None:
    from distributed import KilledWorker, as_completed

    bug: BaseException | None = None
    for future in as_completed(futures, loop=client.loop):
        task = named[str(future.key)]
        if future.status == "finished":
            record(future.result())
        elif future.status == "error":
            error = future.exception()
            if isinstance(error, KilledWorker):
                message = (
                    f"task {task.key}: too many workers were killed under it: most likely the memory ran out; use"
                    " smaller regions or workers with more memory, then run the same command again"
                )
                record(Outcome(task.key, "failed", 0.0, message))
            elif bug is None:
                bug = error
                # Running tasks end as usual, and are recorded.
                running = begun(attempts)
                client.cancel([other for other in futures if key_file_name(named[str(other.key)].key) not in running])
        elif bug is None:
            raise RunError(
                f"scheduler {scheduler}: it ended, or forgot task {task.key}; what is done is kept: once it runs again,"
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
