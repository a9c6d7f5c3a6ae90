"""Networks to compare with: trained once, in a run folder of their own within that of the run that they stand beside.

What is kept there can be made again at any time. So where it is damaged, or of another run that lay there before, it is
removed and trained anew, and nobody has to look into the folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from geocore.checkpoints import has_checkpoints, load_checkpoint
from geocore.documents import read_json
from geocore.errors import CheckpointError
from geocore.files import FolderLock, discard, real_folder, storage_errors
from geocore.records import FINISHED, METRICS, RECORD, read_summary
from geocore.runs import Run
from geocore.settings import Settings, deciding_values, differences

logger = logging.getLogger(__name__)

_KEPT: Final = (
    FINISHED, RECORD, "checkpoints", METRICS, "tensorboard", "config.yaml", "environment.json", "report.html"
)  # fmt: skip
"""What may be in the folder; the end is forgotten before the rest goes."""


@contextmanager
def baseline_run(folder: Path, *, settings: Settings, data_hash: str, task: str) -> Iterator[Run]:
    """The run of a baseline: finished, begun or new. One that can be neither used nor gone on with is removed first.

    Args:
        folder: of the baseline, within that of the run.
        settings: of the run that it stands beside.
        data_hash: `Dataset.hash` of the data that both are trained on.
        task: a name of its own.

    Raises:
        RunError: another process is at work there.
        StorageError: the folder cannot be written, or is a link.
    """
    identity = {"task": task, "data_hash": data_hash, "settings": deciding_values(settings)}
    # A link would lead to somebody's run, and that must not go.
    with storage_errors(folder), FolderLock(real_folder(folder.parent, folder.name)):
        reason = _of_no_use(folder, identity)
        if reason is not None:
            logger.warning("the baseline in %s is trained again: %s", folder, reason)
            for name in _KEPT:
                if (folder / name).exists():
                    discard(folder / name)
    with Run.open(folder, settings=settings, data_hash=data_hash, task=task, tensorboard=False) as run:
        yield run


def _of_no_use(folder: Path, identity: dict[str, Any]) -> str | None:
    """Why a baseline cannot be used or gone on with; None where it can, or there is none yet."""
    if not any((folder / name).exists() for name in _KEPT):
        return None
    try:
        held = read_json(folder / RECORD, finite=False)
        if not isinstance(held, dict):
            return f"{RECORD} is damaged"
    except (OSError, ValueError):
        return f"{RECORD} is missing or damaged"
    if found := list(differences(held, identity)):
        return f"it is of another run: {'; '.join(found)}"
    try:
        if read_summary(folder) is not None:
            load_checkpoint(folder / "checkpoints", "best")
        elif has_checkpoints(folder / "checkpoints"):
            load_checkpoint(folder / "checkpoints", for_training=True)
    except CheckpointError as error:
        return str(error)
    return None
