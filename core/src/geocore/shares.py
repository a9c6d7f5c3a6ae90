"""Work that several processes share: what one does when the parts of others are not there, and who joins the parts."""

from __future__ import annotations

import functools
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from geocore.errors import DataError, RunError
from geocore.files import FolderLock
from geocore.settings import WorkerSettings
from geocore.terminals import one_line

_LOGGER = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.2
_NAMED = 5
"""Keys that a message names before it says how many more there are."""

S = TypeVar("S", bound=WorkerSettings)


class Unfinished(Exception):
    """Parts that other shards make are not there yet, so nothing can be joined; what was ours to do is done."""

    def __init__(self, missing: Sequence[str], total: int, failures: Sequence[str] = ()):
        """Keep what is known of the parts.

        Args:
            missing: keys of those that are not there yet, with what they wait for where that is known.
            total: parts of all shards.
            failures: key and reason of those that failed here.
        """
        self.missing = list(missing)
        self.total = total
        self.failures = list(failures)
        super().__init__(f"{len(missing)} of {total} parts are not there yet")


def in_shares(main: Callable[[S], None]) -> Callable[[S], None]:
    """Have a command whose work is cut into shards end well when it is not the one to finish: it says so and returns.

    Args:
        main: the work of the command.

    Raises:
        DataError: tasks of this shard failed.
    """

    @functools.wraps(main)
    def run(settings: S) -> None:
        try:
            main(settings)
        except Unfinished as rest:
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
def joining(folder: Path, parts: Sequence[Path]) -> Iterator[None]:
    """Keep other processes from joining the same parts, and from removing them, within the block.

    Args:
        folder: of the parts. Its disk must have locks that hold on all machines which share the work.
        parts: all that are joined.

    Raises:
        Unfinished: another process has joined and removed them meanwhile.
        StorageError: the file system has no locks.
    """
    with patient_lock(folder):
        gone = [part.name for part in parts if not part.exists()]
        if gone:
            raise Unfinished(gone, len(parts))
        yield


def remove_joined(folder: Path) -> None:
    """Remove parts of which the product is there; no process is hindered that still reads them.

    Args:
        folder: as for `joining`; nothing happens when it is not there.
    """
    if folder.exists():
        with patient_lock(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def patient_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder within the block; wait for whoever has it, and say so.

    Args:
        folder: made when it is missing.

    Raises:
        StorageError: the folder cannot be written, or its file system has no locks.
    """
    lock, told = FolderLock(folder), False
    while True:
        try:
            lock.acquire()
            break
        except RunError as busy:
            if not told:
                _LOGGER.info("waiting: %s", busy)
                told = True
            time.sleep(_LOOK_EVERY_S)
    try:
        yield
    finally:
        lock.release()
