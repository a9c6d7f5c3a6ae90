"""Built-in samples: made once, kept in the cache of the user, found by what made them, and whole when they are used.

A sample's folder holds `sample.json` with the hash of every file. All are read at each start, which takes a third of a
second for the largest sample: damage would change what is trained on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from geocore.storage.files import (
    atomic_path,
    read_sealed,
    remove_leftovers,
    sha256_file,
    sha256_files,
    sha256_json,
    write_sealed,
)

logger = logging.getLogger(__name__)

_CONTENTS: Final = "sample.json"
_FILES: Final = "files"
_whole: set[Path] = set()
"""Samples that this process has looked through."""


def built_in_sample(name: str, identity: object, build: Callable[[Path], None]) -> Path:
    """The folder of a sample, built when it is not there yet, or is not what was built any more.

    The cache is `$GEOCORE_CACHE`, else `$XDG_CACHE_HOME/geocore`, else `~/.cache/geocore`. Processes that start
    together may build the same sample twice; the last one stays, and both are alike.

    Args:
        name: of the task; the folder is called `<name>-sample-<hash>`.
        identity: JSON value that decides the sample: its arguments and the hash of the code that draws it.
        build: writes the sample into the folder it is given, which does not exist yet.

    Returns:
        The folder.

    Raises:
        StorageError: the cache cannot be written.
    """
    folder = _cache() / f"{name}-sample-{sha256_json(identity)[:12]}"
    if folder in _whole and folder.is_dir():
        return folder
    damage = _damage(folder)
    if damage is not None:
        remove_leftovers(folder.parent)
        if folder.is_dir():
            logger.warning("%s: %s: drawing the built-in sample again", folder, damage)
        else:
            logger.info("drawing the built-in sample, once: %s", folder)
        with atomic_path(folder) as temporary:
            build(temporary)
            write_sealed(temporary / _CONTENTS, {_FILES: sha256_files(temporary)})
    _whole.add(folder)
    return folder


def _damage(folder: Path) -> str | None:
    """What is wrong with a sample; None: nothing."""
    try:
        files = read_sealed(folder / _CONTENTS)[_FILES]
    except (OSError, ValueError, KeyError):
        return f"{_CONTENTS} is not there, or not what was written"
    for place, digest in files.items():
        try:
            if sha256_file(folder / place) != digest:
                return f"{place} is not what was drawn"
        except OSError as error:
            return f"{place}: {error.strerror}"
    return None


def _cache() -> Path:
    if own := os.environ.get("GEOCORE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geocore"
