"""Attempts at tasks: each writes under a name of its own, and what a killed one left behind is cleared away."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geocore.errors import RunError
from geocore.files import FolderLock
from geocore.keys import key_file_name

_ABANDONED_S = 7 * 24 * 3600.0
"""Longer than any task takes, and than clocks of two machines differ."""


@contextmanager
def attempts_folder(folder: Path) -> Iterator[Path]:
    """A locked folder for all attempts of one run, removed at the end; those of killed runs go as well.

    Args:
        folder: that of the parts.

    Yields:
        Where `attempt` puts its folders.
    """
    host = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())
    own = folder / ".attempts" / f"{host}.{uuid.uuid4().hex[:12]}"
    with FolderLock(own):
        for other in own.parent.iterdir():
            _remove_stale(other, host)
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


@contextmanager
def attempt(attempts: Path, key: str) -> Iterator[Path]:
    """A new folder for one attempt at a task, removed at the end.

    It also tells whoever looks for `begun` tasks that this one had begun, should the worker be killed.
    """
    # A task that runs again elsewhere must not meet what its first attempt left, or is still writing.
    own = attempts / f"{key_file_name(key)}~{uuid.uuid4().hex[:12]}"
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def begun(attempts: Path) -> set[str]:
    """Tasks that are running, or were when their worker was killed: their keys as `geocore.keys` spells them."""
    return {path.name.partition("~")[0] for path in attempts.iterdir() if path.is_dir()}


def take_begun(attempts: Path) -> set[str]:
    """As `begun`, where no worker lives any more; what the tasks left is removed."""
    keys = begun(attempts)
    for path in attempts.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    return keys


def _remove_stale(attempts: Path, host: str) -> None:
    try:
        lock = attempts / ".lock"
        # Locks of some cluster file systems hold on one machine only: others' attempts may live though theirs is free.
        if attempts.name.rpartition(".")[0] != host and time.time() - os.stat(attempts).st_mtime < _ABANDONED_S:
            return
        # A lock file is empty for the moment in which its owner takes the lock.
        if lock.stat().st_size:
            with FolderLock(attempts):
                shutil.rmtree(attempts, ignore_errors=True)
    except (RunError, OSError):
        pass
