"""The process of one run: makes the inputs of a benchmark, or measures one contender, and prints what it found.

    python -m geocore_bench.child run BENCHMARK CASE CONTENDER DATA [--quick]
    python -m geocore_bench.child prepare BENCHMARK DATA [--quick]
    python -m geocore_bench.child versions NAME...

What a run brings back is one line of JSON behind a mark, as libraries print what they like.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

from geocore_bench.harness import case_of, load

MARK = "@@bench "
"""Begins the line that is meant for the parent process."""

_PIECE = 1 << 24


def main(words: list[str]) -> None:
    """Do what the words say."""
    quick = "--quick" in words
    action, *rest = [word for word in words if word != "--quick"]
    if action == "versions":
        tell({"python": platform.python_version(), **versions(rest)})
    elif action == "prepare":
        benchmark, data = rest
        load(benchmark).prepare(Path(data), quick)
    else:
        benchmark, case, contender, data = rest
        tell(run(benchmark, case, contender, Path(data), quick))


def run(benchmark: str, case_name: str, contender: str, data: Path, quick: bool) -> dict[str, Any]:
    """Measure one contender once.

    Returns:
        `value` and `details`; or `skipped`, where a library is missing; or `failed`, with the reason.
    """
    case = case_of(benchmark, case_name, quick)
    for name in case.files:
        _warm(data / name)
    try:
        measured = case.contender(contender).measure(case.setting, data)
    except ImportError as error:
        return {"skipped": f"{type(error).__name__}: {error}"[:300]}
    except Exception as error:  # a peer may raise anything, and the other contenders go on
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    return {"value": measured.value, "details": dict(measured.details)}


def versions(names: list[str]) -> dict[str, str]:
    """Versions of those of the distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tell(message: dict[str, Any]) -> None:
    """Print a message for the parent process."""
    print(MARK + json.dumps(message), flush=True)


def _warm(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(_PIECE):
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
