"""Full and read-only disks: a small file system of its own below the output, in seven sizes.

Mounting needs the rights of root, or a user namespace (`unshare -rm`); without either these trials are skipped.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from geocore_trials.cases import Trial
from geocore_trials.children import forked
from geocore_trials.equality import content_of, leftovers
from geocore_trials.kills import Undisturbed, finished
from geocore_trials.stages import Command, remove

_LEVELS: Final = (0.02, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""Sizes, as shares of what the command leaves."""
_GROWING: Final = ("run.json", "metrics.jsonl")
_BLOCK: Final = 4096


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a file system."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _mounted(folder, "size=64k"):
            return True
    except OSError:
        return False


def disk_trials(base: Undisturbed, logs: Path) -> Iterator[Trial]:
    """A disk full at seven levels, and one that is read-only."""
    command = base.command
    if not can_mount(logs / "mount"):
        label = "file systems cannot be mounted here"
        yield Trial("disk", command.name, label, lambda: ("skipped", "needs root or unshare -rm"))
        return
    command.reset()
    forked(command.work, logs)
    size = sum(-(-path.stat().st_size // _BLOCK) * _BLOCK for path in command.output.rglob("*") if path.is_file())
    for share in _LEVELS:
        yield _full(base, int(size * share) // _BLOCK * _BLOCK + _BLOCK, size, logs)
    yield _read_only(base, logs)


def _full(base: Undisturbed, size: int, needed: int, logs: Path) -> Trial:
    command = base.command

    def run() -> tuple[str, str]:
        with _empty(command), _mounted(command.output, f"size={size}"):
            ending = forked(command.work, logs)
            if ending.timed_out:
                return "hangs", ending.last_line
            if ending.traceback or ending.code not in (0, 2) or (ending.code == 2 and not ending.error):
                return "traceback", f"exit code {ending.code}: {ending.last_line}"
            if ending.code == 2 and "space" not in ending.error:
                return "not told", ending.error
            said = ending.error
            smaller = _smaller(command, base.content)
            if smaller:
                return "smaller under the final name", f"{', '.join(smaller[:3])}; said: {said}"
            _mount("-o", "remount,size=1g", str(command.output))
            verdict, detail = finished(command, forked(command.work, logs), base.content)
            return verdict, detail or said

    return Trial("disk", command.name, f"full after {size // 1024} of {needed // 1024} KiB", run)


def _read_only(base: Undisturbed, logs: Path) -> Trial:
    command = base.command

    def run() -> tuple[str, str]:
        with _empty(command), _mounted(command.output, "size=1g"):
            _mount("-o", "remount,ro", str(command.output))
            ending = forked(command.work, logs)
            if ending.traceback or ending.code != 2 or not ending.error:
                return "traceback", f"exit code {ending.code}: {ending.last_line}"
            said = ending.error
            if "read-only" not in said:
                return "not told", said
            _mount("-o", "remount,rw", str(command.output))
            verdict, detail = finished(command, forked(command.work, logs), base.content)
            return verdict, detail or said

    return Trial("disk", command.name, "read-only", run)


def _smaller(command: Command, expected: dict[str, str]) -> list[str]:
    """Files under their final names that an undisturbed run would have left otherwise."""
    held, left = content_of(command.output), leftovers(command.output)
    return [
        name
        for name, digest in held.items()
        if name not in left and not name.endswith(_GROWING) and "checkpoints/" not in name
        # What an intermediate state holds besides (parts, pointers) goes on to be used and is judged in the end.
        if name in expected and not any(part.startswith(".") for part in Path(name).parts) and digest != expected[name]
    ]


@contextlib.contextmanager
def _empty(command: Command) -> Iterator[None]:
    command.reset()
    command.output.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        remove(command.output)


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    _mount("-t", "tmpfs", "-o", options, "geocore-trials", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())
