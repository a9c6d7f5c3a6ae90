"""Records that commands leave: of a start, of each call that mapped into a folder, of a training's metrics and end."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from geocore.errors import RunError
from geocore.storage.documents import MANY_BYTES, parse_json, read_json, read_text
from geocore.storage.files import atomic_write_text, read_sealed, sha256_file


def start_record() -> dict[str, Any]:
    """JSON values that say how this process was started."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": git_commit(),
        "versions": installed_versions(),
    }


@functools.cache
def installed_versions() -> dict[str, str]:
    """List the version of every installed distribution, by name."""
    # Each access to `metadata` parses the file again.
    found = (item.metadata for item in importlib.metadata.distributions())
    return dict(sorted((item["Name"], item["Version"]) for item in found if item["Name"] and item["Version"]))


def git_commit() -> str | None:
    """Return the commit of the working directory, with `+` behind it when files differ; None outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


RECORD: Final = "run.json"
FINISHED: Final = "finished.json"
METRICS: Final = "metrics.jsonl"
METRICS_HASH: Final = "metrics_sha256"
"""Of a summary: hash of the metrics as they were at the end of the run."""


def read_calls(output: Path) -> list[dict[str, Any]]:
    """What the record of a folder says of each call, the first one first; empty without a record.

    Raises:
        RunError: the folder holds a training run, or its record cannot be read.
    """
    path = output / RECORD
    try:
        content = read_json(path, finite=False)
        calls = content.get("calls") if isinstance(content, dict) else content["calls"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, TypeError):
        raise RunError(f"{path}: cannot be read as a record of maps: give another folder as --output") from None
    if not isinstance(calls, list):
        raise RunError(f"{output}: holds a training run, not maps: give another folder as --output")
    return calls


def write_calls(output: Path, calls: list[dict[str, Any]]) -> None:
    """Write the record anew.

    Raises:
        StorageError: the folder cannot be written.
    """
    atomic_write_text(output / RECORD, json.dumps({"calls": calls}, indent=2) + "\n")


def scenes_of(call: dict[str, Any]) -> dict[str, Any]:
    """Name of each scene that a call mapped, and of each map made of several -> what it says of it."""
    return {
        name: summary
        for key, group in call.items()
        if isinstance(group, dict) and key not in ("identity", "versions", "failed")
        for name, summary in group.items()
    }


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What a run kept at its end; None of one that has not reached it.

    A damaged summary is none: the command that trains goes on from the last checkpoint and writes it again.
    """
    try:
        return read_sealed(folder / FINISHED)
    except (OSError, ValueError):
        return None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged, a mapping with `step` for each line.

    Raises:
        RunError: there is none, or it is not what the run wrote.
    """
    path = folder / METRICS
    try:
        digest = (read_summary(folder) or {}).get(METRICS_HASH)
        if digest is not None and sha256_file(path) != digest:
            raise ValueError("its hash is another one")
        entries = [parse_json(line, finite=False) for line in read_text(path, most_bytes=MANY_BYTES).splitlines()]
        for entry in entries:
            int(entry["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
        raise RunError(
            f"{path}: is not what the run wrote ({reason}): leave the run out, or train it again in another folder"
        ) from error
    return entries
