"""Built-in samples: made once, kept in the user's cache, found again by what made them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from geocore.files import atomic_path, sha256_json

logger = logging.getLogger(__name__)


def built_in_sample(name: str, identity: object, build: Callable[[Path], None]) -> Path:
    """The folder of a sample, built when it is not there yet.

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
    if not folder.is_dir():
        logger.info("drawing the built-in sample, once: %s", folder)
        with atomic_path(folder) as temporary:
            build(temporary)
    return folder


def _cache() -> Path:
    if own := os.environ.get("GEOCORE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geocore"
