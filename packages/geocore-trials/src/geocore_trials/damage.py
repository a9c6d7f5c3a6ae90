"""Damage: a file that a command keeps is changed, and the command has to heal it, or to say so in one line.

A command is given its own finished or half-finished folder with one file damaged, or the folder of the command before
it. It may end with what an undisturbed run leaves, also with the damaged product kept beside the new one and told of,
or be refused with one line and exit code 2; another result without a word is a failure, however small.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from geocore_trials.cases import Trial
from geocore_trials.children import forked
from geocore_trials.equality import content_of, unequal
from geocore_trials.kills import Undisturbed, killed, undisturbed
from geocore_trials.stages import Command, Stage, StageError, remove


def _flipped(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


DAMAGES: Final[dict[str, Callable[[bytes, random.Random], bytes | None]]] = {
    "a bit flipped": _flipped,
    "cut in half": lambda data, _: data[: len(data) // 2],
    "zeroed": lambda data, _: bytes(len(data)),
    "emptied": lambda data, _: b"",
    "deleted": lambda data, _: None,
}
"""What is done to the bytes of a file; None: it is removed."""
_SHOWN: Final = (".html", ".png", ".jsonl", ".md", "environment.json", ".aux.xml")
"""Endings of files that only people look at, and of one that every GIS writes into, which no hash can cover."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A command, and a folder of which each file may be damaged before it runs."""

    label: str
    command: Command
    folder: Path
    """A folder that `Command.reset` makes: the output, or one that is placed."""
    expected: dict[str, str]
    """What the output holds after an undisturbed run from the same start."""

    @property
    def is_run(self) -> bool:
        """Whether the folder is a training run, of which a command reads a part: the rest may stay damaged."""
        return self.command.verb in ("train", "evaluate", "import")


def kept_folders(stage: Stage, bases: dict[str, Undisturbed], logs: Path) -> Iterator[Kept]:
    """What the commands of a task keep for later.

    Raises:
        StageError: a command fails undisturbed.
    """
    task = stage.task
    for name, base in bases.items():
        done = stage.home / "kept" / f"{name}-done"
        base.command.reset()
        if forked(base.command.work, logs).code:
            raise StageError(f"{name} fails undisturbed")
        _copy(base.command.output, done)
        yield Kept("its own folder", replace(base.command, before=done), base.command.output, base.content)
        half = stage.home / "kept" / f"{name}-half"
        base.command.reset()
        forked(killed(base.command, max(1, base.changes * 6 // 10)), logs)
        if base.command.output.exists():
            _copy(base.command.output, half)
            again = replace(base.command, before=half)
            yield Kept("its own half-done folder", again, again.output, base.content)
    for name, source, flag in (
        (f"{task}-train", stage.dataset, "--data"),
        (f"{task}-predict", stage.run, "--run"),
        (f"{task}-evaluate", stage.dataset, "--data"),
    ):
        command = bases[name].command
        # Beside the real one, since data sets name their files relative to themselves.
        place = source.with_name(f"{source.name}-reads")
        words = list(command.words)
        if flag in words:
            words[words.index(flag) + 1] = str(place)
        else:
            words += [flag, str(place)]
        moved = replace(command, words=tuple(words), placed=((place, source),))
        yield Kept(f"the {source.name} it reads", moved, place, undisturbed(moved, logs).content)


def damage_trials(kept: Kept, logs: Path, seed: int) -> Iterator[Trial]:
    """Every damage to every file, in an order drawn from the seed."""
    kept.command.reset()
    names = sorted(
        str(path.relative_to(kept.folder))
        for path in kept.folder.rglob("*")
        if path.is_file() and path.name != ".lock" and not path.name.startswith("events.out")
    )
    rng = random.Random(f"{seed} {kept.command.name} {kept.label}")
    order = [(name, kind) for name in names for kind in DAMAGES]
    rng.shuffle(order)
    for name, kind in order:
        yield _trial(kept, name, kind, logs, rng.randrange(1 << 30))


def _trial(kept: Kept, name: str, kind: str, logs: Path, seed: int) -> Trial:
    def run() -> tuple[str, str]:
        kept.command.reset()
        path = kept.folder / name
        data = path.read_bytes()
        changed = DAMAGES[kind](data, random.Random(seed)) if data else None
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(changed)
        ending = forked(kept.command.work, logs)
        if ending.timed_out:
            return "hangs", ending.last_line
        if ending.traceback or ending.code not in (0, 2):
            return "traceback", f"exit code {ending.code}: {ending.last_line}"
        if ending.code == 2:
            return ("refused", ending.error) if ending.error else ("traceback", ending.last_line)
        found = unequal(content_of(kept.command.output), kept.expected)
        if not found:
            return "equal", ""
        aside = path.with_name(f"{path.name}.changed")
        if found == [f"more {name}.changed"] and aside.read_bytes() == changed and aside.name in ending.err:
            return "made again", ""
        names = {line.partition(" ")[2] for line in found}
        if all(other.endswith(_SHOWN) or (other == name and kept.is_run) for other in names):
            return "unread", ", ".join(found)
        return "wrong in silence", f"{len(found)} files: {', '.join(found[:4])}"

    label = f"{kept.label}: {name} {kind} (drawn {seed})"
    return Trial("damage", kept.command.name, label, run, frozenset({"equal", "made again", "refused", "unread"}))


def _copy(folder: Path, place: Path) -> None:
    remove(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, place, symlinks=True)
