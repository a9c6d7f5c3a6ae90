"""Moments at which a process ends: before the k-th change of a folder that Python makes.

Kills at random times hardly ever fall between two renames. Python tells its audit hooks of every file that is opened
to be written, renamed, removed or made, in whichever library; syncing is added here. A process that kills itself before
its k-th change leaves what one killed right after the change before leaves, so that k from 1 to the number of changes
reaches every gap between two of them. What GDAL and HDF5 write in C is not seen: that is left to random times.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES: Final = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


class Moments:
    """Counts the changes below folders in this process, from the construction on; there is no way to stop it.

    Args:
        folders: where changes count.
        kill_at: the change, from 1, before which the process kills itself with SIGKILL; None: never.
    """

    def __init__(self, folders: tuple[Path, ...], kill_at: int | None = None) -> None:
        self.count = 0
        self.last = ""
        """The latest change, in words."""
        self._roots = tuple(f"{folder}{os.sep}" for folder in folders)
        self._kill_at = kill_at
        self._fsync = os.fsync
        os.fsync = self._synced  # type: ignore[assignment]
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and flags & _WRITING:
                self._changed("open", path, None)
        elif event in _CHANGES:
            directory = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else None
            self._changed(event, arguments[0], directory)
            if event == "os.rename" and not self._is_ours(arguments[0], None):
                self._changed(event, arguments[1], None)

    def _synced(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        self._changed("os.fsync", f"/proc/self/fd/{number}", None, resolve=True)
        self._fsync(descriptor)

    def _changed(self, event: str, path: Any, directory: int | None, *, resolve: bool = False) -> None:
        named = os.readlink(path) if resolve else path
        if not self._is_ours(named, directory):
            return
        self.count += 1
        self.last = f"{event} {os.fsdecode(named)}"
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_ours(self, path: Any, directory: int | None) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        text = os.fsdecode(path)
        if directory is not None and directory >= 0 and not os.path.isabs(text):
            text = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), text)
        return os.path.abspath(text).startswith(self._roots) or f"{os.path.abspath(text)}{os.sep}" in self._roots
