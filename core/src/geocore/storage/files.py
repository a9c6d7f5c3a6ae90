"""Files that are either whole or not there: atomic writes, content hashes, and a lock that dies with its owner.

What is being written bears a hidden name that says which process writes it:

    .part-<place>.<process>-<token><suffix>         becomes a file or a folder when it is whole
    .old-<place>.<process>-<token>-<name>           a folder that steps aside until a new one is in its place

so that whoever starts next can tell what a killed process left behind from what another one is about to finish.
"""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import itertools
import json
import logging
import os
import platform
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from geocore.errors import DiskError, RunError, StorageError
from geocore.storage.documents import read_json
from geocore.storage.special_files import open_regular

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
    errno.ELOOP: "a symbolic link stands where none is followed, or leads in a circle; remove it",
    errno.ENAMETOOLONG: "the name is longer than the file system takes; give a shorter one",
    errno.ENOTEMPTY: "a folder is in the way, most likely of another process at the same work; let that one end first",
    errno.EIO: "the disk, or the connection to it, fails; check it, then run the same command again",
    errno.ESTALE: "the file system has lost it; mount it anew, then run the same command again",
    errno.ENOLCK: "the file system has no locks; write elsewhere or have it mounted with them",
    errno.ENOSYS: "the file system lacks a function, most likely locks; write elsewhere or have it mounted with them",
}

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Whatever is written next to the same place fails as well."""

SIGNATURE = r"(?P<place>[0-9a-f]{8})\.(?P<process>[0-9]{1,10})-[0-9a-f]{12}"
"""As a pattern; groups that tell who signed."""
_UNFINISHED = (
    # Libraries put more behind the name while they write.
    re.compile(rf"\.part-{SIGNATURE}(?P<name>)(?:[^-].*)?", re.DOTALL),
    re.compile(rf"\.old-{SIGNATURE}-(?P<name>.+)", re.DOTALL),
)
ABANDONED_S = 7 * 24 * 3600.0
"""Longer than any task takes, and than clocks of two machines differ."""
_LOCK_OWNER_BYTES = 32
_LOOK_EVERY_S = 0.2
_LOOKS_UNTOLD = 5

logger = logging.getLogger(__name__)


@contextmanager
def storage_errors(path: Path | str | None = None) -> Iterator[None]:
    """Turn an `OSError` that a full, read-only or closed disk causes into one clear line.

    Args:
        path: what is being written. The message names it, unless the error is about a file in another place, such as
            an input that cannot be read.

    Raises:
        DiskError: in place of such an `OSError`, where nothing can be written any more.
        StorageError: in place of others of these; the rest pass through.
    """
    try:
        yield
    except OSError as error:
        rule = _STORAGE_RULES.get(error.errno or 0)
        if rule is None:
            raise
        kind = DiskError if error.errno in _NO_ROOM else StorageError
        raise kind(f"{_culprit(error, path)}: {rule}") from error


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
    # Whatever derives a format from the suffix sees the final one. The rest of the name may be too long to have more
    # in front of it.
    temporary = target.with_name(f".part-{signature()}{target.suffix}")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            if temporary.is_dir() and target.is_dir() and not target.is_symlink():
                _replace_folder(temporary, target)
            else:
                os.replace(temporary, target)
            _sync_entry(target.parent)
        except BaseException:
            # Libraries leave journals and the like beside what they could not finish, under longer names.
            for left in (temporary, *target.parent.glob(f"{glob.escape(temporary.name)}?*")):
                _remove(left)
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


def signature() -> str:
    """What tells that this process made something, and nothing else with the same name."""
    return f"{_place()}.{os.getpid()}-{uuid.uuid4().hex[:12]}"


def is_abandoned(path: Path, signed: re.Match[str]) -> bool:
    """Whether the process that signed something is no more; of another machine's that is told by age alone.

    Args:
        path: of what was signed.
        signed: match of a pattern with `SIGNATURE`.
    """
    # On Windows no signal asks whether a process lives.
    if signed["place"] != _place() or sys.platform == "win32":
        with suppress(OSError):
            return time.time() - path.lstat().st_mtime > ABANDONED_S
        return False
    try:
        os.kill(int(signed["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def remove_leftovers(folder: Path | str) -> None:
    """Remove what processes that are no more left unfinished in a folder; nothing else in it is touched.

    Folders within are not looked into. Of another machine nothing is known: what it left goes after a week. A folder
    that had stepped aside for one that never came is put back.

    Args:
        folder: may be missing.

    Raises:
        StorageError: something cannot be removed.
    """
    with storage_errors(folder):
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            found = next(filter(None, (pattern.fullmatch(entry.name) for pattern in _UNFINISHED)), None)
            if found is None or not is_abandoned(Path(entry.path), found):
                continue
            path = Path(entry.path)
            if found["name"] and not os.path.lexists(path.with_name(found["name"])):
                path.rename(path.with_name(found["name"]))
            else:
                _remove(path)


def discard(path: Path) -> None:
    """Remove a file, or a folder of which no part bears the name any more while it is being removed.

    Raises:
        OSError: it cannot be renamed.
    """
    hidden = path.with_name(f".part-{signature()}")
    os.rename(path, hidden)
    _remove(hidden)


def real_folder(base: Path, *names: str) -> Path:
    """A folder below another one, made when missing, on a way that leads over no symbolic link.

    What is kept and removed there lies in `base` then, and is not somebody else's.

    Args:
        base: may itself be reached over links.
        names: of the folders below it, one in the other.

    Raises:
        StorageError: a link or a file is in the way, or the folder cannot be made.
    """
    path = base
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = path / name
        with storage_errors(path):
            path.mkdir(exist_ok=True)
            if path.is_symlink():
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return path


def write_sealed(path: Path | str, values: Mapping[str, Any]) -> None:
    """Write a JSON object with its own hash beside its values, by which a reader knows that it is whole.

    Args:
        path: the file.
        values: JSON values; `sha256` is not among the names.

    Raises:
        StorageError: the disk is full, read-only or closed to the user.
    """
    plain = json.loads(json.dumps(values))
    atomic_write_text(path, json.dumps({**plain, "sha256": sha256_json(plain)}, indent=1) + "\n")


def read_sealed(path: Path | str) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what was written.
    """
    try:
        values = read_json(Path(path), finite=False)
        seal = values.pop("sha256")
        whole = seal == sha256_json(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not what was written ({type(error).__name__})") from error
    if not whole:
        raise ValueError(f"{path} is not what was written")
    return dict(values)


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is no file of data.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(path: Path) -> Iterator[Path]:
    """The file itself, or each file in a folder and below it.

    Raises:
        OSError: something is not there, or is neither file nor folder.
    """
    if stat.S_ISREG(path.lstat().st_mode):
        yield path
    else:
        for entry in sorted(path.iterdir()):
            yield from files_of(entry)


def sha256_files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder and below it, by its place there.

    Raises:
        OSError: something cannot be read, or is neither file nor folder.
    """
    return {file.relative_to(folder).as_posix(): sha256_file(file) for file in files_of(folder)}


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
    the file `.lock` stays behind and means nothing by itself. A link in its place is not followed, and a file that no
    lock wrote is left as it is.
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
            descriptor = _open_lock(self.path / ".lock", os.O_CREAT)
            try:
                held = not _try_lock(descriptor)
                owner = os.read(descriptor, _LOCK_OWNER_BYTES).strip()
                if owner and not owner.isdigit():
                    raise StorageError(f"{self.path / '.lock'}: is no lock but holds other content; move it away")
                if held:
                    raise RunError(
                        f"{self.path} is in use by {f'process {owner.decode()}' if owner else 'another process'}: only "
                        "one may write there at a time; wait for it or choose another folder"
                    )
                os.lseek(descriptor, 0, os.SEEK_SET)
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

    @classmethod
    def is_held(cls, path: Path | str) -> bool:
        """Whether some holder has the lock of a folder; False where there is none."""
        try:
            descriptor = _open_lock(Path(path) / ".lock", 0)
        except OSError:
            return False
        try:
            return not _try_lock(descriptor)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextmanager
def patient_lock(folder: Path | str) -> Iterator[None]:
    """Hold the lock of a folder within the block; wait for whoever has it, and say so when that takes long.

    Args:
        folder: made when it is missing.

    Raises:
        StorageError: the folder cannot be written, or its file system has no locks.
    """
    lock = FolderLock(folder)
    for looks in itertools.count():
        try:
            lock.acquire()
            break
        except RunError as busy:
            if looks == _LOOKS_UNTOLD:
                logger.info("waiting: %s", busy)
            time.sleep(_LOOK_EVERY_S)
    try:
        yield
    finally:
        lock.release()


def _culprit(error: OSError, path: Path | str | None) -> Path | str:
    if path is None or not isinstance(error.filename, str):
        return path or error.filename or "output"
    named, written = Path(error.filename), Path(path)
    # Temporary files lie beside what is written, and the folders above it may be missing or closed.
    return written if named.is_relative_to(written.parent) or written.is_relative_to(named) else named


def _open_lock(path: Path, flags: int) -> int:
    """Open a lock file, which is no link, device or pipe."""
    flags |= os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return descriptor


@functools.cache
def _place() -> str:
    """Where process numbers mean the same: this machine, or a container on it; 8 hexadecimal digits."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


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
    aside = target.with_name(f".old-{signature()}-{target.name}")
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
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
