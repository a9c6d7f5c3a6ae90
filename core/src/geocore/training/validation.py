"""Whether the scores of a split can choose a checkpoint, judged before any work by what the data set counted.

A leading score is 0 or undefined at every validation where the split lacks what it scores, and is won by saying one
thing everywhere where the split holds nothing else. Which checkpoint is then called the best has nothing to do with how
good it is, so `prepare` tells of it and `train` refuses it: a map from such a choice would be hard to defend. Who has
no other ground to validate on takes the last checkpoint, in so many words, with `training.choose`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from geocore.errors import DataError
from geocore.settings import TrainingSettings

logger = logging.getLogger(__name__)


def cannot_choose(split: str, counts: Mapping[str, int], *, needed: Sequence[str] = ()) -> str | None:
    """Why a leading score over classes says nothing on a split.

    Args:
        split: its name.
        counts: name of each class -> its labelled pixels or objects.
        needed: classes without which the score is not defined.

    Returns:
        A clause such as `val has no water`; None where the score can choose.
    """
    if len(counts) > 1 and not any(counts.values()):
        return f"{split} has no labelled pixel"
    for name in needed:
        if not counts[name]:
            return f"{split} has no {name}"
    present = [name for name, count in counts.items() if count]
    if len(counts) > 1 and len(present) == 1:
        return f"{split} holds nothing but {present[0]}"
    return None


def unseen(split: str, counts: Mapping[str, int], trained: Mapping[str, int]) -> str | None:
    """Which classes are trained but missing from the split that chooses, as a clause; None where there is none.

    Args:
        split: that chooses.
        counts: its classes with their pixels.
        trained: those of the split that is trained on.
    """
    missing = [name for name, count in counts.items() if not count and trained[name]]
    return (
        f"{split} has no {', '.join(missing)}: how well they are found has no part in the choice" if missing else None
    )


def told_by_prepare(reason: str | None, command: str) -> list[str]:
    """What a prepare command warns of about a data set that cannot be validated on.

    Args:
        reason: from `cannot_choose`.
        command: the train command that will refuse it.
    """
    if reason is None:
        return []
    return [
        f"{reason}, so that no score there can choose a checkpoint: divide otherwise, such as with another "
        f"--split.seed, or have {command} take the last one (training.choose = last)"
    ]


def require_choice(reason: str | None, *, root: Path, primary: str, training: TrainingSettings) -> None:
    """Refuse to train where nothing can choose a checkpoint, unless the last one is asked for.

    Args:
        reason: from `cannot_choose`.
        root: folder of the data set.
        primary: name of the leading score.
        training: of the run.

    Raises:
        DataError: the score cannot choose, and has to.
    """
    if reason is None:
        return
    if training.choose == "last":
        logger.info("%s, so that %s says nothing there: the last checkpoint is the best one", reason, primary)
        return
    raise DataError(
        f"{root}: {reason}, so that {primary} cannot choose a checkpoint there: prepare the data with another split, "
        "or take the last checkpoint with --training.choose last"
    )
