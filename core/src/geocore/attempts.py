"""Attempts at tasks: each writes under a name of its own, and what a killed one left behind is cleared away.

A run that works on tasks has a folder `.attempts/<machine>.<purpose><token>`, locked while the run lives, and in it one
`<key>~<token>` for each attempt that is going on.
"""

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

from pydantic import JsonValue

from geocore.errors import RunError, StorageError
from geocore.files import ABANDONED_S, FolderLock, real_folder, sha256_json
from geocore.keys import key_file_name

_RUN = re.compile(r"[A-Za-z0-9-]*\.([0-9a-f]{16})[0-9a-f]{12}")


@contextmanager
def attempts_folder(folder: Path, purpose: JsonValue = None) -> Iterator[Path]:
    """A locked folder for all attempts of one run, removed at the end; those of killed runs go as well.

    Args:
        folder: that of the parts.
        purpose: what the tasks are made for, such as their settings. Runs with the same one may work side by side.

    Yields:
        Where `attempt` puts its folders.

    Raises:
        RunError: a run with another purpose is at work in the folder; each would replace what the other makes.
        StorageError: the folder cannot be written, or a link is in its place.
    """
    host = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())
    own = real_folder(folder, ".attempts", f"{host}.{_mark(purpose)}{uuid.uuid4().hex[:12]}")
    with FolderLock(own):
        for other in own.parent.iterdir():
            _remove_stale(other, host)
        try:
            refuse_other_purposes(folder, purpose)
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def refuse_other_purposes(folder: Path, purpose: JsonValue) -> None:
    """Refuse to work where a run with another purpose does.

    Args:
        folder: as for `attempts_folder`.
        purpose: likewise.

    Raises:
        RunError: there is one.
    """
    for path in (folder / ".attempts").glob("*"):
        run = _RUN.fullmatch(path.name)
        if run is not None and run[1] != _mark(purpose) and FolderLock.is_held(path):
            raise RunError(
                f"{folder} is in use by a process with other settings or weights: let that one end first, or write "
                "elsewhere"
            )


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


def _mark(purpose: JsonValue) -> str:
    return sha256_json(purpose)[:16]


def _remove_stale(attempts: Path, host: str) -> None:
    """Remove the attempts of a run that was killed, and nothing else that may lie there."""
    try:
        if not _RUN.fullmatch(attempts.name) or attempts.is_symlink():
            return
        # Locks of some cluster file systems hold on one machine only: others' attempts may live though theirs is free.
        if attempts.name.rpartition(".")[0] != host and time.time() - os.stat(attempts).st_mtime < ABANDONED_S:
            return
        # A lock file is empty for the moment in which its owner takes the lock.
        if (attempts / ".lock").lstat().st_size:
            with FolderLock(attempts):
                shutil.rmtree(attempts, ignore_errors=True)
    except (RunError, StorageError, OSError):
        pass
