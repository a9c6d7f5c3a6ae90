"""Special files are never opened: pipes, sockets, devices, and what the system shows of itself as files.

Opening a pipe waits for whoever writes, a device may have no end, and /proc holds nobody's data. Each of them can come
under any name, also through a link, in a folder that somebody else packed. Whoever opens a file that a user or another
file names opens it here, or asks here first:

    with open_regular(path) as file:
        text = file.read(limit)

What is refused is an `OSError` whose `strerror` says what the path is, as for a file that is missing or closed; so one
line for all that keeps a file from being read is enough: f"{path}: {error.strerror}: must be a readable file".
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

_SYSTEM: Final = ("/dev/", "/proc/", "/sys/")
_MEMORY: Final = "/dev/shm/"
"""A disk in memory, where clusters put data."""
_NON_BLOCKING: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def check_regular(path: Path | str) -> None:
    """Refuse what is no file of data, without opening it; links are followed.

    For libraries that open a file by its name.

    Raises:
        OSError: it is a pipe, a socket or a device, or lies in /dev, /proc or /sys; or it is missing, a folder, behind
            links that lead in a circle, or in a folder that cannot be entered.
    """
    _check(path, os.stat(path))


def open_regular(path: Path | str) -> BufferedReader:
    """Open a file of data for reading, at once or not at all; links are followed.

    Raises:
        OSError: as of `check_regular`, or the file cannot be read.
    """
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | _NON_BLOCKING)
    try:
        _check(path, os.fstat(descriptor))  # another one may lie there by now
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check(path: Path | str, found: os.stat_result) -> None:
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"is {kind}", str(path))
    real = os.path.realpath(path)
    if real.startswith(_SYSTEM) and not real.startswith(_MEMORY):
        raise OSError(errno.EINVAL, f"lies in /{real.split('/')[1]}, which holds no data", str(path))
