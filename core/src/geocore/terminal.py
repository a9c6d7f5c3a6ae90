"""What people see while a command works: lines that stay within their line, and the progress of long work.

Names of files and texts in files hold line ends and the sequences by which terminals are steered; shown as they are,
they would write lines of their own, or over others. Progress is a bar on a terminal, a plain line every few seconds
elsewhere, and nothing in other processes or within `quiet()`.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import shlex
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

_ALLOWED: Final = ("L", "M", "N", "P", "S", "Zs")
"""Of Unicode's general categories, those of what is seen; the others steer, separate lines, or are no characters."""


def one_line(text: str) -> str:
    r"""A text with line ends, escape sequences, marks of writing direction and lone bytes written as `\n`, `\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_seen(character) else _escaped(character) for character in text)


def shell_word(path: os.PathLike[str] | str) -> str:
    """A path as one word of a command that can be copied from a line into a shell."""
    text = os.fspath(path)
    if one_line(text) == text:
        return shlex.quote(text)
    # As bash, zsh and POSIX.1-2024 read it.
    kept = re.compile(rb"[\w@%+=:,./ -]", re.ASCII)
    encoded = os.fsencode(text)
    letters = (encoded[place : place + 1] for place in range(len(encoded)))
    return "$'" + "".join(each.decode() if kept.match(each) else f"\\{each[0]:03o}" for each in letters) + "'"


def _is_seen(character: str) -> bool:
    return unicodedata.category(character).startswith(_ALLOWED)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


T = TypeVar("T")

PLAIN_LINE_SECONDS = 5.0
"""Seconds between two plain lines."""


@functools.cache
def console() -> Console:
    """The one rich console on standard error, shared by log lines and bars so that neither overwrites the other."""
    from rich.console import Console

    return Console(stderr=True)


def on_terminal() -> bool:
    """Whether standard error is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def is_main_rank() -> bool:
    """Whether this is the process that talks: the only one, or the first of a distributed start."""
    return os.environ.get("RANK", "0") == "0"


_quiet: Final = ContextVar("geocore_quiet", default=False)


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Show no progress of what is called within the block, however deep: by this thread, not by others beside it.

    A function with an option `progress` wraps its work: `with quiet(not progress): ...`. What is worth a warning is
    logged all the same, through `logging`.

    Args:
        wanted: False changes nothing, so that what lies in a quiet block stays quiet.
    """
    token = _quiet.set(wanted or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)


def _talks() -> bool:
    """Whether work is shown: workers would write over each other, and their command counts their tasks."""
    return not _quiet.get() and is_main_rank() and multiprocessing.parent_process() is None


@functools.cache
def _bars() -> Bars:
    from rich import progress as rich

    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.fields[note]}"),
        console=console(),
        transient=True,
    )


class Progress(Generic[T]):
    """Counts finished units of work and shows them.

    Iterate over it (`for tile in progress(tiles, "reading")`), or count by hand:
    `with progress(1000, "training") as bar: bar.advance(note="loss 0.31")`. Progress objects may be nested.
    """

    def __init__(
        self,
        work: Iterable[T] | int | None,
        label: str,
        *,
        delay: float = 0.0,
    ):
        """Describe the work.

        Args:
            work: what to iterate over, or the number of units (then it iterates like `range`), or None when unknown.
            label: what is being done, two or three words.
            delay: seconds before a bar is drawn, for work that is often short.
        """
        self.label = label
        self.total = work if work is None or isinstance(work, int) else len(work) if isinstance(work, Sized) else None
        self.done = 0
        self._work: Iterable[Any] = range(work or 0) if work is None or isinstance(work, int) else work
        self._started = self._last_line = time.monotonic()
        self._delay = delay
        self._task: int | None = None
        self._note = ""

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        if not self._delay:
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            bars = _bars()
            bars.remove_task(self._task)  # type: ignore[arg-type]  # rich's TaskID is a NewType of int
            self._task = None
            if not bars.tasks:
                bars.stop()
        if self._last_line > self._started or time.monotonic() - self._started >= PLAIN_LINE_SECONDS:
            self._line()

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._work:
                yield item
                self.advance()

    def advance(self, units: int = 1, *, note: str = "") -> None:
        """Count finished units.

        Args:
            units: how many more are done.
            note: a few words shown behind the count, such as the current loss; empty keeps the last ones.
        """
        self.done += units
        self._note = note or self._note
        if self._task is None and self._delay and time.monotonic() - self._started >= self._delay:
            self._draw()
        if self._task is not None:
            _bars().update(self._task, completed=self.done, note=self._note)  # type: ignore[arg-type]
        elif time.monotonic() - self._last_line >= PLAIN_LINE_SECONDS:
            self._line()

    def _draw(self) -> None:
        if _talks() and on_terminal():
            bars = _bars()
            if not bars.tasks:
                bars.start()
            self._task = bars.add_task(self.label, total=self.total, completed=self.done, note=self._note)

    def _line(self) -> None:
        if not _talks():
            return
        self._last_line = time.monotonic()
        count = f"{self.done}/{self.total}" if self.total is not None else f"{self.done}"
        seconds = self._last_line - self._started
        line = f"{self.label}: {count}, {seconds:.0f} s{', ' if self._note else ''}{self._note}"
        if on_terminal():
            console().print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


@overload
def progress(work: int | None, label: str, *, delay: float = 0.0) -> Progress[int]: ...
@overload
def progress(work: Iterable[T], label: str, *, delay: float = 0.0) -> Progress[T]: ...
def progress(work: Iterable[T] | int | None, label: str, *, delay: float = 0.0) -> Progress[T]:
    """Start counting; see `Progress`.

    Args:
        work: what to iterate over, or the number of units, or None when neither is known.
        label: what is being done, two or three words.
        delay: seconds before a bar is drawn, for work that is often short.
    """
    return Progress(work, label, delay=delay)
