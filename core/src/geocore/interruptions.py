"""Ctrl-C and SIGTERM: the first one unwinds the stack, so that temporary files go; none of them prints a traceback.

Not even while modules are imported: an entry point calls `run_command`, and this module imports next to nothing.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

REPEAT_S: Final = 1.0
"""Signals that follow each other within this time are one wish: `timeout`, launchers and terminals send it to a process
and to its group."""
_AGAIN_S: Final = 0.01


class Stopped(BaseException):
    """Work ended early because of a signal, after what was worth saving had been saved.

    Like `KeyboardInterrupt` no `Exception`, so that nothing takes it for a failure that it could go on from.
    """

    def __init__(self, signum: int):
        """Keep the signal.

        Args:
            signum: number of the signal, such as `signal.SIGTERM`; the exit code is 128 more.
        """
        self.signum = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")


class Interruption:
    """The signal that ends a command, once it has come."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.received: int | None = None
        self._at = 0.0
        self._lost = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Unwind the stack; at a second wish end at once.

        Raises:
            Stopped: SIGTERM came, the first of all.
            KeyboardInterrupt: SIGINT came, the first of all.
        """
        if self.received is None or self._lost:
            self.received, self._at, self._lost = signum, time.monotonic(), False
            sys.unraisablehook = self._raise_again
            raise KeyboardInterrupt if signum == signal.SIGINT else Stopped(signum)
        if time.monotonic() - self._at > REPEAT_S:
            os._exit(128 + signum)

    def _raise_again(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Python tells with a traceback of what was raised where it cannot be passed on, such as in a destructor."""
        if self.received is not None and isinstance(unraisable.exc_value, KeyboardInterrupt | Stopped):
            self._lost = True
            # Not from within: it would be lost again. To the process, whose main thread may be asleep.
            threading.Timer(_AGAIN_S, os.kill, [os.getpid(), self.received]).start()


@contextmanager
def unwinding() -> Iterator[Interruption]:
    """Have SIGINT and SIGTERM unwind the stack within the block; a SIGINT that is ignored stays so, as of `nohup`.

    Yields:
        What has come.
    """
    interruption, hook = Interruption(), sys.unraisablehook
    previous: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, interruption.handle)
    try:
        yield interruption
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        sys.unraisablehook = hook


def run_command(module: str) -> NoReturn:
    """Run `main` of a module as the whole of this process.

    Args:
        module: of a command; imported here, within which SIGINT and SIGTERM end the process without a word, as they do
            once the command is over.

    Raises:
        SystemExit: always, with the exit code.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, lambda signum, frame: os._exit(128 + signum))
    importlib.import_module(module).main()
    raise AssertionError(f"{module} came back")
