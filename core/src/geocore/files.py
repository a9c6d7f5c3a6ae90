"""Files that are either whole or not there: atomic writes, content hashes, and a lock that dies with its owner."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from geocore.errors import RunError, StorageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_STORAGE_RULES = {
    errno.ENOSPC: "no space left on the disk; free some or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere",
    errno.EFBIG: "the file is larger than this file system or process may write; write elsewhere or raise the limit",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.EACCES: "permission denied; change the permissions or write elsewhere",
    errno.EPERM: "operation not permitted; change the permissions or write elsewhere",
    errno.ENOTDIR: "a file is in the way of a folder; remove it or write elsewhere",
    errno.EEXIST: "a file is in the way of a folder; remove it or write elsewhere",
    errno.EISDIR: "a folder is in the way of a file; remove it or write elsewhere",
    errno.ENOTEMPTY: "a folder is in the way, most likely of another process at the same work; let that one end first",
    errno.ENOLCK: "the file system has no locks; write elsewhere or have it mounted with them",
    errno.ENOSYS: "the file system lacks a function, most likely locks; write elsewhere or have it mounted with them",
}


@contextmanager
def storage_errors(path: Path | str | None = None) -> Iterator[None]:
    """Turn an `OSError` that a full, read-only or closed disk causes into one clear line.

    Args:
        path: what is being written. The message names it, unless the error is about a file in another place, such as
            an input that cannot be read.

    Raises:
        StorageError: in place of such an `OSError`; others pass through.
    """
    try:
        yield
    except OSError as error:
        rule = _STORAGE_RULES.get(error.errno or 0)
        if rule is None:
            raise
        raise StorageError(f"{_culprit(error, path)}: {rule}") from error


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, to write a file or a folder at; renamed to `path` when the block succeeds.

    Whatever is there is replaced. When the block raises, the temporary file or folder is removed and `path` stays as
    it was. The folder that holds `path` is made when missing.

    Yields:
        A path that does not exist yet, hidden and with the same suffix as `path`.

    Raises:
        StorageError: the disk is full, read-only or closed to the user.
        FileNotFoundError: the block ends without having written anything.
    """
    target = Path(path)
    # The token goes in front, so that whatever derives a format from the suffix sees the final one.
    temporary = target.with_name(f".part-{uuid.uuid4().hex[:12]}-{target.name}")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            if temporary.is_dir() and target.is_dir():
                _replace_folder(temporary, target)
            else:
                os.replace(temporary, target)
            _sync_entry(target.parent)
        except BaseException:
            _remove(temporary)
            raise


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Raises:
        StorageError: the disk is full, read-only or closed to the user.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path | str, text: str) -> None:
    """As `atomic_write_bytes`, of UTF-8 text with the line ends as given."""
    atomic_write_bytes(path, text.encode())


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value, 64 hexadecimal digits; the order of an object's keys does not count.

    Raises:
        TypeError: the value is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Names of files may hold bytes that are no UTF-8, which Python reads as lone surrogates.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class FolderLock:
    """Keeps a second process from working in the same folder.

    The operating system holds the lock for the open file, so it is gone as soon as the owner ends, however it ends;
    the file `.lock` stays behind and means nothing by itself.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, making the folder when missing.

        Raises:
            RunError: another holder has it.
            StorageError: the folder cannot be written, or its file system has no locks.
        """
        if self._descriptor is not None:
            raise ValueError(f"{self.path} is locked already by this object")
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _try_lock(descriptor):
                    owner = os.read(descriptor, 32).decode(errors="replace").strip()
                    raise RunError(
                        f"{self.path} is in use by {f'process {owner}' if owner else 'another process'}: only one may "
                        "write there at a time; wait for it or choose another folder"
                    )
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
            except BaseException:
                os.close(descriptor)
                raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _culprit(error: OSError, path: Path | str | None) -> Path | str:
    if path is None or not isinstance(error.filename, str):
        return path or error.filename or "output"
    named, written = Path(error.filename), Path(path)
    # Temporary files lie beside what is written, and the folders above it may be missing or closed.
    return written if named.is_relative_to(written.parent) or written.is_relative_to(named) else named


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            # Far beyond the content: a locked byte could not be read by the process that wants to name the owner.
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _replace_folder(temporary: Path, target: Path) -> None:
    # A folder cannot be renamed onto one that is not empty, so the old one steps aside first.
    aside = target.with_name(f".old-{uuid.uuid4().hex[:12]}-{target.name}")
    os.rename(target, aside)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Force a file, or a folder and all that it holds, to the disk: a rename may otherwise overtake the content."""
    if path.is_dir():
        for entry in path.iterdir():
            _sync(entry)
    _sync_entry(path)


def _sync_entry(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
