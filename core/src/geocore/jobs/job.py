"""One job: what decides its part, whether that is there already, and how attempts make it.

Each job writes one part, a file or a folder, under a temporary name; it is renamed to its key, as
`geocore.storage.names` spells it, and then a marker `.done/KEY.json` says by which arguments and settings it was made,
and the hash of each file that it stands for: those of the part, and of the products that the work puts elsewhere. A
marker goes before anything that it stands for changes.

A run that works on jobs has a folder `.attempts/<purpose>.<signature>`, locked while the run lives, and in it one
`<key>~<token>` for each attempt that is going on; what a killed one left behind is cleared away.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import JsonValue

from geocore.errors import DiskError, RunError, SceneError, StorageError, UserError
from geocore.storage.files import (
    SIGNATURE,
    FolderLock,
    atomic_path,
    files_of,
    is_abandoned,
    read_sealed,
    real_folder,
    sha256_file,
    sha256_json,
    signature,
    storage_errors,
    write_sealed,
)
from geocore.storage.names import key_file_name

logger = logging.getLogger(__name__)

_RUN = re.compile(rf"(?P<purpose>[0-9a-f]{{16}})\.{SIGNATURE}")
DONE = ".done"
"""Folder of the markers."""
CHANGED = ".changed"
"""Behind the name of a product that somebody had changed when it was made again."""

JobFunction = Callable[[dict[str, Any], Path], None]
"""Makes the part of a job: takes its arguments and the path to write a file or a folder at, which does not exist."""

Products = Callable[[str], Iterable[Path]]
"""Key of a job -> the files that its work writes beside its part; can be pickled when the work can."""


class Incomplete(Exception):
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


@dataclass(frozen=True, slots=True)
class Source:
    """A file that work reads, as it was when the job was made: what decides the part was taken of it then."""

    path: Path
    inode: int
    size: int
    """Bytes."""
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file as it is now.

        Raises:
            OSError: it is not there.
        """
        found = path.stat()
        return cls(path, found.st_ino, found.st_size, found.st_mtime_ns)

    @property
    def is_same(self) -> bool:
        """Whether it is still that file, as far as can be told without reading it."""
        try:
            return self == Source.of(self.path)
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work."""

    key: str
    """What it is called: any text, such as the name that a user gave a scene."""
    arguments: dict[str, Any]
    """JSON values."""
    sources: tuple[Source, ...] = ()
    """What the work reads; where one has become another by its end, the part is of neither, and the job has failed."""

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("a job needs a key")

    def fingerprint(self, identity: Any) -> str:
        """SHA-256 over what decides the part.

        Args:
            identity: JSON value: settings that decide the result, hash of the weights.
        """
        return sha256_json({"key": self.key, "arguments": self.arguments, "identity": identity})


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended."""

    key: str
    status: Literal["done", "skipped", "failed", "elsewhere"]
    """`skipped`: was done before the run. `elsewhere`: is for other shards to do, or waits for what they do."""
    seconds: float
    """Time that the work took, when it was done."""
    message: str = ""
    """Why it failed, or what it waits for; one line."""
    bug: Exception | None = field(default=None, compare=False)
    """What was raised, where it is nothing that a user can mend."""

    @property
    def is_there(self) -> bool:
        """Whether the part can be read."""
        return self.status in ("done", "skipped")


@dataclass(frozen=True, slots=True)
class Worker:
    """Performs jobs in any process or machine that sees the folder; can be pickled when the work can."""

    work: JobFunction
    folder: Path
    """Of the parts."""
    identity: Any
    """As for `Job.fingerprint`."""

    products: Products | None = None
    """As for `jobs.runner.run_jobs`."""

    def earlier(self, job: Job, *, thorough: bool = True) -> JobResult | None:
        """The outcome of a job that was done with the same arguments and identity, and whose files are still those.

        Args:
            job: which.
            thorough: whether the part is read to be compared with its hash, as is due before anybody uses it. Products
                are read where their size or time of change is another one.

        Returns:
            None where it has to be done.
        """
        try:
            marker = self._marker(job.key)
            if marker["fingerprint"] == job.fingerprint(self.identity) and self._is_whole(job.key, marker, thorough):
                return JobResult(job.key, "skipped", float(marker["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def run(self, job: Job, attempts: Path) -> JobResult:
        """Make the part of a job, unless another process has done so.

        Args:
            job: what to do.
            attempts: folder of `geocore.jobs.job`.

        Raises:
            DiskError: nothing can be written any more, by other jobs either.
        """
        # A job whose worker was killed runs again, even one that had ended but could not say so any more.
        outcome = self._made_meanwhile(job) or self._tried(job, attempts)
        # Whoever found all parts may have joined them since; and the same command, run twice at once, takes the chunks
        # of a scene away from the slower one.
        return outcome if outcome.is_there else self._made_meanwhile(job) or outcome

    def run_remotely(self, job: Job, attempts: Path) -> JobResult:
        """As `perform`, for another process, where an exception might not be rebuilt and has no traceback.

        Raises:
            DiskError: as of `perform`.
        """
        outcome = self.run(job, attempts)
        if outcome.bug is None:
            return outcome
        told = "".join(traceback.format_exception(outcome.bug))
        return replace(outcome, bug=RuntimeError(f"job {job.key}:\n{told}"))

    def _tried(self, job: Job, attempts: Path) -> JobResult:
        started = time.perf_counter()

        def failed(message: str, bug: Exception | None = None) -> JobResult:
            return JobResult(job.key, "failed", time.perf_counter() - started, message, bug)

        try:
            return self._make(job, attempts, started)
        except Incomplete as rest:
            return (
                failed("; ".join(rest.failures)) if rest.failures else JobResult(job.key, "elsewhere", 0.0, str(rest))
            )
        except DiskError:
            raise
        except UserError as error:
            return failed(str(error))
        except MemoryError as error:
            return failed(f"takes more memory than there is ({error})".removesuffix(" ()"))
        except Exception as error:
            return failed(f"a bug, {type(error).__name__}: {' '.join(str(error).split())}", error)

    def _made_meanwhile(self, job: Job) -> JobResult | None:
        earlier = self.earlier(job)
        return None if earlier is None else replace(earlier, status="done")

    def _make(self, job: Job, attempts: Path, started: float) -> JobResult:
        part = part_path(self.folder, job.key)
        with storage_errors(), attempt(attempts, job.key) as own:
            # From here on products may be new ones.
            self._forget(job)
            with atomic_path(own / part.name) as temporary:
                self.work(job.arguments, temporary)
                if changed := next((source for source in job.sources if not source.is_same), None):
                    raise SceneError(
                        f"{changed.path}: became another file while it was read; leave it as it is and repeat the "
                        "command"
                    )
            seconds = time.perf_counter() - started
            # A worker that was given up for dead may end its job late: what is there may be in use by now.
            made = self._made_meanwhile(job)
            if made is not None:
                return made
            # An old part must not be taken for the new one, nor may a folder be renamed onto it.
            _marker_path(self.folder, job.key).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                part.rename(own / ".replaced")
            (own / part.name).rename(part)
            content = {
                "fingerprint": job.fingerprint(self.identity),
                "seconds": round(seconds, 3),
                "files": {place: _stamp(path) for place, path in self._files(job.key).items()},
            }
            write_sealed(_marker_path(self.folder, job.key), content)
        return JobResult(job.key, "done", seconds)

    def _marker(self, key: str) -> dict[str, Any]:
        return read_sealed(_marker_path(self.folder, key))

    def _files(self, key: str) -> dict[str, Path]:
        """Each file that a marker stands for, by its place as seen from the folder."""
        found = [part_path(self.folder, key), *self._products(key)]
        return {os.path.relpath(file, self.folder): file for path in found for file in files_of(path)}

    def _products(self, key: str) -> list[Path]:
        return [] if self.products is None else list(self.products(key))

    def _is_whole(self, key: str, marker: dict[str, Any], thorough: bool) -> bool:
        files, stamps, part = self._files(key), marker["files"], part_path(self.folder, key)
        return files.keys() == stamps.keys() and all(
            _holds(file, stamps[place], thorough=thorough and file.is_relative_to(part))
            for place, file in files.items()
        )

    def _forget(self, job: Job) -> None:
        """Take the marker away, and keep what somebody has done to the products: the work replaces them."""
        path = _marker_path(self.folder, job.key)
        try:
            stamps = self._marker(job.key)["files"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError):
            stamps = {}
        if self.earlier(job) is not None:  # another shard has written it at this very moment
            return
        for product in self._products(job.key):
            stamp = stamps.get(os.path.relpath(product, self.folder))
            if stamp is not None and product.is_file() and not _holds(product, stamp, thorough=False):
                kept = product.replace(product.with_name(product.name + CHANGED))
                logger.warning("%s was changed since it was made: made again, and the changed one is %s", product, kept)
        path.unlink(missing_ok=True)


def _stamp(file: Path) -> dict[str, Any]:
    """What a file holds, and by what it can be told in no time that it still does."""
    found = file.stat()
    return {"sha256": sha256_file(file), "bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _holds(file: Path, stamp: dict[str, Any], *, thorough: bool) -> bool:
    found = file.stat()
    if found.st_size != stamp["bytes"]:
        return False
    if not thorough and found.st_mtime_ns == stamp["mtime_ns"]:
        return True
    return bool(sha256_file(file) == stamp["sha256"])


def part_path(folder: Path, key: str) -> Path:
    """Where the part of a job lies once it is done."""
    return folder / key_file_name(key)


def _marker_path(folder: Path, key: str) -> Path:
    return folder / DONE / f"{key_file_name(key)}.json"


@contextmanager
def attempt_dir(folder: Path, purpose: JsonValue = None) -> Iterator[Path]:
    """A locked folder for all attempts of one run, removed at the end; those of killed runs go as well.

    Args:
        folder: that of the parts.
        purpose: what the jobs are made for, such as their settings. Runs with the same one may work side by side.

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
        folder: as for `attempt_dir`; may be missing.
    """
    if not (folder / ".attempts").is_symlink():
        for path in (folder / ".attempts").glob("*"):
            _remove_stale(path)


def refuse_other_purposes(folder: Path, purpose: JsonValue) -> None:
    """Refuse to work where a run with another purpose does.

    Args:
        folder: as for `attempt_dir`.
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
    """A new folder for one attempt at a job, removed at the end.

    It also tells whoever looks for `begun` jobs that this one had begun, should the worker be killed.
    """
    # A job that runs again elsewhere must not meet what its first attempt left, or is still writing.
    own = attempts / f"{key_file_name(key)}~{uuid.uuid4().hex[:12]}"
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def begun(attempts: Path) -> set[str]:
    """Jobs that are running, or were when their worker was killed: keys as `geocore.storage.names` spells them."""
    return {path.name.partition("~")[0] for path in attempts.iterdir() if path.is_dir()}


def take_begun(attempts: Path) -> set[str]:
    """As `begun`, where no worker lives any more; what the jobs left is removed."""
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
