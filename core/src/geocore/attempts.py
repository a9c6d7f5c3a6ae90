"""Attempts at tasks: each writes under a name of its own, and what a killed one left behind is cleared away.

A run that works on tasks has a folder `.attempts/<purpose>.<signature>`, locked while the run lives, and in it one
`<key>~<token>` for each attempt that is going on.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import JsonValue

from geocore.errors import RunError, StorageError
from geocore.files import SIGNATURE, FolderLock, is_abandoned, real_folder, sha256_json, signature
from geocore.keys import key_file_name

_RUN = re.compile(rf"(?P<purpose>[0-9a-f]{{16}})\.{SIGNATURE}")


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
    own = real_folder(folder, ".attempts", f"{_mark(purpose)}.{signature()}")
    with FolderLock(own):
        for other in own.parent.iterdir():
            _remove_stale(other)
        try:
            refuse_other_purposes(folder, purpose)
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the attempts of killed runs where nothing is left to do.

    Args:
        folder: as for `attempts_folder`; may be missing.
    """
    if not (folder / ".attempts").is_symlink():
        for path in (folder / ".attempts").glob("*"):
            _remove_stale(path)


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
        if run is not None and run["purpose"] != _mark(purpose) and FolderLock.is_held(path):
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


def _remove_stale(attempts: Path) -> None:
    """Remove the attempts of a run that was killed, and nothing else that may lie there."""
    run = _RUN.fullmatch(attempts.name)
    if run is None or attempts.is_symlink():
        return
    # Whether its process lives, or another one has the number by now, the lock tells: not before it was taken, and of
    # another machine not on every file system.
    with suppress(RunError, StorageError, OSError):
        here = run["place"] == signature().partition(".")[0]
        if is_abandoned(attempts, run) or (here and (attempts / ".lock").lstat().st_size):
            with FolderLock(attempts):
                shutil.rmtree(attempts, ignore_errors=True)
