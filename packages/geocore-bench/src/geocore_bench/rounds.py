"""Contenders in turns: A B C, A B C, ..., so that a slow minute of the machine meets all of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from geocore_bench.child import MARK
from geocore_bench.harness import Case, Contender

Record = dict[str, Any]
"""One run: benchmark, case, contender, environment, round, and `value` with `details`, or `skipped`, or `failed`."""

TIMEOUT_S = 1800

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def take_turns(case: Case, run: Callable[[Contender], Record], *, repetitions: int | None = None) -> Iterator[Record]:
    """Run every contender in each round; one that failed or lacks a library sits out what follows.

    Args:
        case: what is run.
        run: runs a contender once, in a process of its own.
        repetitions: rounds; None: as the case says.

    Yields:
        What each run brought back, with contender, environment and round.
    """
    out: set[str] = set()
    for number in range(repetitions or case.repetitions):
        for contender in case.contenders:
            if contender.name in out:
                continue
            record = run(contender)
            if "value" not in record:
                out.add(contender.name)
            yield {
                "case": case.name,
                "contender": contender.name,
                "environment": contender.environment,
                "round": number,
                **record,
            }


def spawn(python: Path, code: Path, words: list[str], *, threads: int, timeout_s: float = TIMEOUT_S) -> Record:
    """Start `geocore_bench.child` with another interpreter and wait for what it tells.

    Args:
        python: the interpreter.
        code: folder that holds `geocore_bench` and nothing else, so that nothing of ours hides a peer's package.
        words: what the child does.
        threads: of numerical libraries.
        timeout_s: after which the child is killed.

    Returns:
        What it told; `failed` with the reason when it told nothing.
    """
    environment = child_environment(os.environ, code, threads)
    try:
        done = subprocess.run(
            [str(python), "-m", "geocore_bench.child", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {timeout_s:.0f} s"}
    except FileNotFoundError:
        return {"skipped": f"{python}: no such interpreter; build the environment"}
    told = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if told:
        record: Record = json.loads(told[-1].removeprefix(MARK))
        return record
    last = done.stderr.strip().splitlines()[-1:] or ["without a word"]
    return {} if done.returncode == 0 else {"failed": f"exit code {done.returncode}: {last[0][:300]}"}


def child_environment(outer: Mapping[str, str], code: Path, threads: int) -> dict[str, str]:
    """Environment variables of a run: those of the caller, but for Python's path, byte code and threads."""
    # Byte code is kept, whatever the machine's habit: else every run would compile its imports anew.
    dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    kept = {name: value for name, value in outer.items() if name not in dropped}
    return kept | {"PYTHONPATH": str(code), **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
