"""Commands run in forked children, so that a trial costs what the command does and not its imports.

The process that forks has imported the packages once (`warm_up`) and done no work: a child is as good as a fresh
process. A few trials of each kind run as real processes all the same.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing.util
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended."""

    code: int
    """Exit code; of a child that a signal ended, minus the number of the signal, as `subprocess` has it."""
    seconds: float
    out: str
    err: str
    peak_kib: int
    """Largest resident memory, with what the forking process held already."""
    timed_out: bool = False
    seconds_after_blow: float | None = None
    """Time from the blow to the end, where there was one."""

    @property
    def traceback(self) -> bool:
        """Whether it ended as a bug does."""
        return "Traceback (most recent call last)" in self.err or "Exception ignored in" in self.err

    @property
    def last_line(self) -> str:
        """The end of what it said, for a table."""
        lines = self.err.strip().splitlines() or self.out.strip().splitlines() or [""]
        return lines[-1]

    @property
    def error(self) -> str:
        """Its one line of error; empty without one."""
        return next((line for line in self.err.splitlines() if line.startswith("error: ")), "")


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that happens to a child on the way, from outside."""

    after_s: float
    strike: Callable[[int], object]
    """Takes the process id."""


def kill_after(after_s: float, signum: int = signal.SIGKILL) -> Blow:
    """A signal."""
    return Blow(after_s, lambda pid: os.kill(pid, signum))


Work = Callable[[], None]
"""What a child does; `SystemExit` gives its exit code, any other exception is a traceback and exit code 1."""


@dataclass(slots=True)
class Child:
    """A process that was started and has not been waited for."""

    pid: int
    logs: Path
    begun: float = field(default_factory=time.monotonic)

    def wait(self, blow: Blow | None = None, timeout_s: float = 120.0) -> Ending:
        """Wait for its end; what it started and left is killed.

        Args:
            blow: what happens to it on the way, if it still runs then.
            timeout_s: time from its start after which it is killed.
        """
        timed_out, struck = False, None
        with _pidfd(self.pid) as ended:
            if blow is not None and not ended(self.begun + blow.after_s):
                struck = time.monotonic()
                blow.strike(self.pid)
            if not ended(self.begun + timeout_s):
                timed_out = True
                os.killpg(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        end = time.monotonic()
        # Workers outlive a killed parent for a moment and would write into the next trial.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in _log_paths(self.logs))
        return Ending(
            code=os.waitstatus_to_exitcode(status),
            seconds=end - self.begun,
            out=out,
            err=err,
            peak_kib=usage.ru_maxrss,
            timed_out=timed_out,
            seconds_after_blow=None if struck is None else end - struck,
        )


def entry_point(main: Callable[[], NoReturn], name: str, words: Sequence[str]) -> Work:
    """A console script, as if called with these words."""

    def work() -> None:
        sys.argv = [name, *words]
        main()

    return work


def fork(work: Work, logs: Path) -> Child:
    """Start work in a child with its own process group.

    Args:
        work: what the child does.
        logs: folder for what it prints; made when missing.
    """
    logs.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        _be_child(work, _log_paths(logs))
    return Child(pid, logs)


def forked(work: Work, logs: Path, *, blow: Blow | None = None, timeout_s: float = 120.0) -> Ending:
    """Do work in a child and wait for its end; arguments as for `fork` and `Child.wait`."""
    return fork(work, logs).wait(blow, timeout_s)


def started(
    command: Sequence[str],
    logs: Path,
    *,
    environment: dict[str, str] | None = None,
    blow: Blow | None = None,
    timeout_s: float = 300.0,
) -> Ending:
    """As `forked`, of a program."""
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(path.open("wb")) for path in _log_paths(logs))
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True)
    ending = Child(process.pid, logs).wait(blow, timeout_s)
    process.returncode = ending.code  # it has been waited for
    return ending


def _log_paths(logs: Path) -> tuple[Path, Path]:
    return logs / "stdout", logs / "stderr"


def _be_child(work: Work, paths: tuple[Path, Path]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        faulthandler.disable()  # pytest's writes into its own terminal
        for descriptor, path in enumerate(paths, 1):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(opened, descriptor)
            os.close(opened)
        # Streams of the parent may be those of pytest; these are those of a program.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = _code_of(work)
        threading._shutdown()  # type: ignore[attr-defined]  # as at the end of a program: it waits for threads
        multiprocessing.util._exit_function()  # type: ignore[attr-defined]
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _code_of(work: Work) -> int:
    try:
        work()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[Callable[[float], bool]]:
    """A function that waits for the end of a child until a moment on the monotonic clock."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)

        def ended(until: float) -> bool:
            return bool(poll.poll(max(0.0, until - time.monotonic()) * 1000))

        yield ended
    finally:
        os.close(descriptor)


def limit_memory(bytes_more: int) -> None:
    """Let this process take only so much more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    allowed = pages * resource.getpagesize() + bytes_more
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
