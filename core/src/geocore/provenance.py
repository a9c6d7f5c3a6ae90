"""What is recorded of a start: when, by which command, with which versions, from which commit."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from typing import Any


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
