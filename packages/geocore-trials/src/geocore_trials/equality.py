"""What a folder holds, byte for byte but for what says when it was made, and what must not be left in it.

The rule: two folders are equal when they hold the same files with the same bytes, except that

- `.lock`, `environment.json` and TensorBoard's event files say who worked there and when: they are not compared;
- of JSON (lines of `metrics.jsonl` too) the keys in `_TIMES` are left out: times, who ran, and hashes of what holds
  such; and of `run.json` beside products all calls but the last one;
- of a done-marker the fingerprint counts, since the products that it stands for are compared themselves;
- a checkpoint's `state.json` holds the hash of itself, which changes with the seconds in it;
- a report says when and how often its run started, and a GeoPackage when its tables changed.

What is left behind (`leftovers`) is no part of the content.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_TIMES: Final = frozenset(
    {
        *("seconds", "started", "steps_per_second", "seconds_per_step", "holdout_seconds", "created", "date"),
        *("host", "pid", "git", "command", "token", "sha256", "metrics_sha256"),
    }
)
_UNCOMPARED: Final = frozenset({".lock", "environment.json"})
_LEFTOVER: Final = re.compile(r"^\.part-|^\.old-|\.working\.tif$|^\.replaced$|\.tmp$")
_STARTS: Final = re.compile(
    rb"<h3>Start \d+ of \d+</h3>.*?(?=<h3>Versions at the last start</h3>|</section>)", re.DOTALL
)


def content_of(folder: Path) -> dict[str, str]:
    """Relative path of each file that is compared -> hash of what is compared of it."""
    found = {}
    left = leftovers(folder)
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if any(name == each or name.startswith(f"{each}/") for each in left):
            continue
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file() and path.name not in _UNCOMPARED and not path.name.startswith("events.out.tfevents."):
            found[name] = hashlib.sha256(_compared(path)).hexdigest()
    return found


def unequal(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """How two contents differ, a few words for each file."""
    lost = [f"lost {name}" for name in expected if name not in found]
    other = [f"other {name}" for name in expected if name in found and found[name] != expected[name]]
    return lost + other + [f"more {name}" for name in found if name not in expected]


def leftovers(folder: Path) -> list[str]:
    """Relative paths of temporary files and folders, and of attempts, that nobody works on any more."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if _LEFTOVER.search(path.name) or path.parent.name == ".attempts":
            found.append(str(name))
    return found


def _compared(path: Path) -> bytes:
    try:
        if path.parent.name == ".done":
            return str(json.loads(path.read_bytes()).get("fingerprint")).encode()
        if path.name == "run.json":
            held = json.loads(path.read_bytes())
            return _timeless(held["calls"][-1] if "calls" in held else held)
        if path.name == "state.json":
            return _timeless(json.loads(path.read_bytes())["content"])
        if path.suffix == ".json":
            return _timeless(json.loads(path.read_bytes()))
        if path.suffix == ".jsonl":
            return b"\n".join(_timeless(json.loads(line)) for line in path.read_bytes().splitlines())
        if path.suffix == ".gpkg":
            return _tables(path)
    except (ValueError, KeyError, TypeError, AttributeError, sqlite3.Error):
        pass  # damaged: its bytes then
    if path.suffix == ".html":
        return _STARTS.sub(b"", path.read_bytes())
    return path.read_bytes()


def _timeless(value: Any) -> bytes:
    def without(held: Any) -> Any:
        if isinstance(held, dict):
            return {name: without(item) for name, item in held.items() if name not in _TIMES}
        if isinstance(held, list):
            # A checkpoint's mappings are lists of pairs.
            return [without(item) for item in held if not (isinstance(item, list) and item and _is_time(item[0]))]
        return held

    return json.dumps(without(value), sort_keys=True).encode()


def _is_time(name: Any) -> bool:
    return isinstance(name, str) and name in _TIMES


def _tables(path: Path) -> bytes:
    """Every row of every table of a GeoPackage, without the times of its changes."""
    lines = []
    # Immutable: nothing is written beside a product that is only looked at.
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        names = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        for name in sorted(names):
            columns = [row[1] for row in connection.execute(f'pragma table_info("{name}")')]
            kept = [column for column in columns if column != "last_change"]
            listed = ", ".join(f'"{column}"' for column in kept)
            lines.append(f"{name} {kept}")
            lines += sorted(map(repr, connection.execute(f'select {listed} from "{name}"')))
    finally:
        connection.close()
    return "\n".join(lines).encode()
