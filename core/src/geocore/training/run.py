"""Runs: a folder that holds one training run, its settings, its metrics, its checkpoints and its baselines.

    config.yaml         the resolved settings of the latest start
    run.json            task, data hash and deciding settings: what may not change
    environment.json    one entry for each start: versions, platform, command, git commit
    metrics.jsonl       one line for each logged step
    checkpoints/        see `geocore.training.checkpoint`
    tensorboard/        the same metrics as event files
    finished.json       the summary of a run that reached its end

The same task, data and deciding settings may be started again in it; anything else is refused. A start that fails
before anything is trained leaves nothing behind, so that the corrected command may use the folder.

Commands take the network of a run from the checkpoint that was chosen, read once per process:

    trained = chosen_network(settings.run, settings.checkpoint, restore_model)      # in the command
    network = same_network(origin, restore_model).network                           # in each job, given trained.origin

Networks to compare with are trained once, in a run folder of their own within that of the run that they stand beside.
What is kept there can be made again at any time. So where it is damaged, or of another run that lay there before, it is
removed and trained anew, and nobody has to look into the folder.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from geocore.errors import CheckpointError, RunError
from geocore.settings import Settings, TilingSettings, deciding_values, differences
from geocore.storage.documents import DocumentError, parse_json, read_json
from geocore.storage.files import (
    FolderLock,
    atomic_write_text,
    discard,
    real_folder,
    remove_leftovers,
    sha256_file,
    sha256_json,
    storage_errors,
    write_sealed,
)
from geocore.storage.records import (
    FINISHED,
    METRICS,
    METRICS_HASH,
    RECORD,
    installed_versions,
    read_summary,
    start_record,
)
from geocore.storage.special_files import open_regular
from geocore.terminal import one_line, shell_word
from geocore.training.checkpoint import Checkpoint, has_checkpoints, load_checkpoint

logger = logging.getLogger(__name__)

_WRITTEN = ("run.json", "config.yaml", "environment.json", METRICS)


class Run:
    """An open run folder; a context manager that holds its lock.

    In a distributed run every process opens it, but only the main one locks, checks and writes.
    """

    def __init__(self, folder: Path, provenance: dict[str, Any], *, main: bool, tensorboard: bool) -> None:
        """Keep what is known; use `Run.open`."""
        self.folder = folder
        self.provenance = provenance
        """Task, configuration, data hash and versions: `fit` adds them to the card of each checkpoint."""
        self.is_main = main
        self._metrics = folder / METRICS
        self._tensorboard = tensorboard
        self._writer: SummaryWriter | None = None
        self._lock: FolderLock | None = None
        self._untrained = False
        """Whether the run began with this start, and nothing has been trained yet."""
        self._made_folder = False

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        settings: Settings,
        data_hash: str,
        task: str,
        main: bool = True,
        tensorboard: bool = False,
    ) -> Self:
        """Create a run folder or open it again.

        Args:
            folder: may exist, if it holds the same run or nothing.
            settings: those of this start. Deciding ones must be those of the first start.
            data_hash: `Dataset.hash` of the data trained on.
            task: name of the task.
            main: whether this process writes (`place.is_main`).
            tensorboard: write event files too.

        Raises:
            RunError: the folder holds a run of other settings, data or task (named), something else, or is in use.
            StorageError: it cannot be written.
        """
        config = settings.model_dump(mode="json")
        provenance = {"task": task, "config": config, "data_hash": data_hash, "versions": installed_versions()}
        run = cls(Path(folder), provenance, main=main, tensorboard=tensorboard)
        if main:
            run._made_folder = not run.folder.exists()
            run._lock = FolderLock(run.folder)
            run._lock.acquire()
            try:
                run._claim({"task": task, "data_hash": data_hash, "settings": deciding_values(settings)})
                run._record_start()
            except BaseException:
                run._leave_nothing()
                run.close()
                raise
        return run

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return read_summary(self.folder) is not None

    @property
    def summary(self) -> dict[str, Any]:
        """What `mark_finished` kept; empty before."""
        return read_summary(self.folder) or {}

    def closing(self, evaluate: str) -> str:
        """The last lines of a train command: what was reached, where it is shown, and how to score it.

        Args:
            evaluate: name of the command that scores a run.
        """
        summary, folder = self.summary, self.folder
        score, step = summary.get("best_score"), summary.get("best_step")
        early = ", stopped early" if summary.get("stopped_early") else ""
        reached = "none gave a score, in"
        if score is not None:  # some are per cent
            digits = 4 if abs(score) <= 1 else 2
            reached = f"{summary['primary']} {score:.{digits}f} at step {step} of"
        curves = one_line(str(folder / "report.html"))
        return (
            f"best on validation: {reached} {summary.get('steps')} steps{early}; curves: {curves}\n"
            f"evaluate it: {evaluate} --run {shell_word(folder)}"
        )

    def mark_finished(self, summary: Mapping[str, Any]) -> None:
        """Note that the run has reached its end.

        Args:
            summary: JSON values, such as the best score and its step; numbers that are not finite become null.

        Raises:
            StorageError: it cannot be written.
        """
        if self.is_main:
            # Scores and costs of runs are compared by their metrics.
            logged = {METRICS_HASH: sha256_file(self._metrics)} if self._metrics.exists() else {}
            write_sealed(self.folder / FINISHED, _finite(summary) | logged)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl, and to TensorBoard where wanted; does nothing in other processes.

        Args:
            step: optimizer steps done.
            values: name -> number; numbers that are not finite become null.

        Raises:
            StorageError: the line cannot be written.
        """
        if not self.is_main:
            return
        self._untrained = self._untrained and step == 0
        line = json.dumps({"step": step, **_finite(values)}) + "\n"
        with storage_errors(self._metrics):
            _append(self._metrics, line.encode())
            if self._tensorboard:
                writer = self._event_writer(step)
                for name, value in values.items():
                    writer.add_scalar(name, value, step)

    def rewind(self, step: int) -> None:
        """Drop the metrics beyond a step, which the process that goes on from there will write again."""
        if self.is_main and self._metrics.exists():
            with open_regular(self._metrics) as file:
                lines = file.read().decode(errors="replace").splitlines()
            atomic_write_text(self._metrics, "".join(line + "\n" for line in lines if _step_of(line) <= step))

    def close(self) -> None:
        """Write what is pending and give the lock back."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._leave_nothing()
        self.close()

    def _leave_nothing(self) -> None:
        """Remove what this start wrote, if it made the run and nothing was trained."""
        if not self._untrained or self.checkpoints.exists():
            return
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        with storage_errors(self.folder):
            for name in _WRITTEN:
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
            if self._made_folder and [entry.name for entry in self.folder.iterdir()] == [".lock"]:
                shutil.rmtree(self.folder)

    def _claim(self, identity: dict[str, Any]) -> None:
        """Check that the folder is free or holds the same run, and write its identity when it is free."""
        path = self.folder / "run.json"
        if path.exists():
            held = _read_json(path)
            found = list(differences(held, identity))
            if found:
                raise RunError(
                    f"{self.folder} holds another run: {'; '.join(found)}; give the values it was started with "
                    "or choose another folder with --run"
                )
            return
        others = sorted(entry.name for entry in self.folder.iterdir() if not entry.name.startswith("."))
        if others:
            raise RunError(
                f"{self.folder} is no run folder but holds {', '.join(others[:3])}: choose an empty or new folder "
                "with --run"
            )
        self._untrained = True
        atomic_write_text(path, json.dumps(identity, indent=1))

    def _record_start(self) -> None:
        """Write config.yaml anew and add this start to environment.json."""
        remove_leftovers(self.folder)
        remove_leftovers(self.checkpoints)
        atomic_write_text(self.folder / "config.yaml", yaml.safe_dump(self.provenance["config"], sort_keys=False))
        path = self.folder / "environment.json"
        starts = _earlier_starts(path)
        starts.append(
            start_record() | {"torch_build": {"cuda": torch.version.cuda, "threads": torch.get_num_threads()}}
        )
        atomic_write_text(path, json.dumps({"starts": starts}, indent=1))

    def _event_writer(self, step: int) -> SummaryWriter:
        if self._writer is None:
            # Viewers drop what an earlier process wrote for this step and beyond.
            self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        return self._writer


def default_run_name(task: str, recipe: str, settings: Settings, data_hash: str) -> str:
    """Name the folder of a run after what decides it: the same settings and data give the same folder.

    Args:
        task: name of the task.
        recipe: name of the recipe, or another short name of the configuration.
        settings: all settings; operational ones do not count.
        data_hash: `Dataset.hash`.

    Returns:
        `runs/<task>-<recipe>-<8 hexadecimal digits>`.
    """
    digest = sha256_json({"settings": deciding_values(settings), "data": data_hash})
    return f"runs/{task}-{recipe}-{digest[:8]}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, finite=False)
    except (OSError, DocumentError) as error:
        raise RunError(f"{path} cannot be read ({error}): choose another folder with --run") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object: choose another folder with --run")
    return content


def _earlier_starts(path: Path) -> list[Any]:
    """What is recorded of earlier starts; nothing is decided by it, so that damage keeps nobody from going on."""
    if not path.exists():
        return []
    try:
        starts = _read_json(path)["starts"]
    except (RunError, KeyError):
        starts = None
    if not isinstance(starts, list):
        logger.warning("%s: is damaged: what it said of earlier starts is lost", path)
        return []
    return starts


def _append(path: Path, data: bytes) -> None:
    """Hand bytes to the system at the end of a file: nothing is lost when the process is killed after that.

    Opened for each call, so that nobody has to close it and no forked process inherits it; without the layers of
    `open()`, which cost five times as much between two training steps.
    """
    # In a folder that somebody else made, a link would lead to any file of mine.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def _step_of(line: str) -> float:
    """Return the step of a line of metrics; infinity for a line that a killed process left unfinished."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


N = TypeVar("N")


@dataclass(frozen=True, slots=True)
class Origin:
    """Which weights: what a command hands to its jobs, wherever they run and however long their process has lived."""

    checkpoint: Path
    """Its folder, absolute."""
    weights_hash: str
    """SHA-256 of the weights, since a run may be trained again in the same folder."""


@dataclass(frozen=True, slots=True)
class Trained(Generic[N]):
    """A network with the checkpoint that it comes from."""

    checkpoint: Checkpoint
    network: N

    @property
    def origin(self) -> Origin:
        """What finds the same network again."""
        return _origin(self.checkpoint)

    @property
    def tiling(self) -> TilingSettings:
        """The tiles that it was trained and validated on."""
        return TilingSettings.model_validate(self.checkpoint.card["config"]["tiling"])


_latest: dict[tuple[Origin, Callable[[Checkpoint], Any]], Trained[Any]] = {}
"""The network that was read last, alone: a process maps many chunks with it."""


def chosen_network(run: Path, which: str, restore: Callable[[Checkpoint], N]) -> Trained[N]:
    """The network of a run as it is now.

    Args:
        run: its folder.
        which: `best`, `last`, or the name of a checkpoint.
        restore: makes the network of a checkpoint; a function of a module.

    Raises:
        CheckpointError: the run has no such checkpoint, or it is damaged or of another task.
    """
    return _restored(load_checkpoint(run / "checkpoints", which), restore)


def same_network(origin: Origin, restore: Callable[[Checkpoint], N]) -> Trained[N]:
    """The network that a command has chosen; all who ask for it get the same object.

    Args:
        origin: of the network.
        restore: as for `chosen_network`.

    Raises:
        CheckpointError: the checkpoint is gone or damaged, or holds other weights by now.
    """
    held: Trained[N] | None = _latest.get((origin, restore))
    if held is not None:
        return held
    checkpoint = load_checkpoint(origin.checkpoint.parent, origin.checkpoint.name)
    if checkpoint.weights_hash != origin.weights_hash:
        raise CheckpointError(
            f"{origin.checkpoint} has other weights than when this command began: the run was trained again "
            "meanwhile; start the command anew"
        )
    return _restored(checkpoint, restore)


def _restored(checkpoint: Checkpoint, restore: Callable[[Checkpoint], N]) -> Trained[N]:
    key = (_origin(checkpoint), restore)
    held: Trained[N] | None = _latest.get(key)
    if held is None:
        held = Trained(checkpoint, restore(checkpoint))
        _latest.clear()
        _latest[key] = held
    return held


def _origin(checkpoint: Checkpoint) -> Origin:
    return Origin(checkpoint.path.absolute(), checkpoint.weights_hash)


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
