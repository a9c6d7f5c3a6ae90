"""The record of a folder of maps, `run.json`: one entry for each call that mapped into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from geocore.documents import read_json
from geocore.errors import RunError
from geocore.files import atomic_write_text

RECORD: Final = "run.json"


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
        if isinstance(group, dict) and key not in ("context", "versions", "failed")
        for name, summary in group.items()
    }
