"""Seconds from starting an interpreter to printed help, or to an imported library, with files in the page cache.

Byte code is found: one start that is not timed comes before each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured

TASKS = ("snowpack", "slumps", "seaice", "floods", "crops")
CASE = "warm start"


def help_of(task: str) -> str:
    """Name of the contender that prints the help of a task's training."""
    return f"{task}-train --help"


@dataclass(frozen=True, slots=True)
class Start:
    """A command, started twice, of which the second time counts."""

    words: tuple[str, ...]
    """The first names a script beside the interpreter; none, if it begins with a dash: then the interpreter runs."""

    def __call__(self, setting: None, data: Path) -> Measured:
        """Measure it."""
        first, *rest = self.words
        script = Path(sys.executable).with_name(first)
        words = [sys.executable, *self.words] if first.startswith("-") else [sys.executable, str(script), *rest]
        if not first.startswith("-") and not script.exists():
            raise ImportError(f"{first} is not installed")
        bytecode = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        for _ in range(2):
            start = time.perf_counter()
            done = subprocess.run(words, env=bytecode, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - start
            if done.returncode:
                raise RuntimeError((done.stderr.strip().splitlines() or ["failed"])[-1])
        return Measured(seconds)


def prepare(data: Path, quick: bool) -> None:
    """Nothing."""


def cases(quick: bool) -> list[Case]:
    """The help of every task, and what peers take to import or to print theirs."""

    def importing(module: str, environment: str) -> Contender:
        return Contender(f"import {module}", environment, Start(("-c", f"import {module}")))

    contenders = (
        *(Contender(help_of(task), OURS, Start((f"{task}-train", "--help"))) for task in TASKS),
        importing("torch", "peers"),
        importing("lightning", "peers"),
        Contender("terratorch --help", "terratorch", Start(("terratorch", "--help"))),
    )
    return [Case(CASE, "s", None, contenders, more_is_better=False)]
