"""Prepared data sets: saved with how they were made, never over others, loaded only while they are what they were."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import JsonValue

from geocore.contents import content_hash
from geocore.datasets import Dataset, validate
from geocore.errors import DataError
from geocore.files import remove_leftovers
from geocore.manifests import FILE_NAME, Document, read_document
from geocore.progress import progress
from geocore.settings import Settings, deciding_values, differences

logger = logging.getLogger(__name__)


def changed_files(dataset: Dataset) -> Iterator[str]:
    """A line for each file whose content, or that of a file it names, is not what it was; each is read, once."""
    hashes = {path: digest for sample in dataset.samples for path, digest in sample.hashes.items()}
    for path, digest in progress(list(hashes.items()), "checking files", delay=1.0):
        if content_hash(dataset.path(path)) != digest:
            yield f"{path} has changed since the data set was prepared"


def load_prepared(
    path: Path, *, task: str, layer: str, changes: Callable[[Dataset], Iterable[str]] = changed_files
) -> Dataset:
    """Load what the command `<task>-prepare` made, and compare it with its files.

    Leaks between splits are no reason to refuse it: they were told when the splits were made, and may be as published.

    Args:
        path: of dataset.yaml, or its folder.
        task: the data set must be of.
        layer: that it must have.
        changes: one line for each thing that is not as it was, asked when all files are there and fit together. Tasks
            with more data than can be hashed at each start look at something cheaper. It may also raise a `DataError`.

    Raises:
        DataError: there is no data set of this task, or a file is missing, unreadable or changed, or does not fit.
    """
    dataset = Dataset.load(path)
    if dataset.task != task or layer not in dataset.layers:
        raise DataError(f"{path}: is a data set of {dataset.task!r}: give one made by {task}-prepare")
    leaks = set(dataset.leaks())
    problems = [line for line in validate(dataset, contents=False) if line not in leaks] or list(changes(dataset))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{path}: {problems[0]}{more}: prepare the data again")
    return dataset


def preparation_of(settings: Settings) -> dict[str, JsonValue]:
    """What decides the data set that a prepare command makes: its deciding settings, and what it reads.

    Args:
        settings: of the command, with the folder it writes to as `out`.

    Returns:
        Plain values; paths relative to that folder, so that data set and raw data may be moved together.
    """
    out: Path = settings.out  # type: ignore[attr-defined]
    kept = deciding_values(settings)
    for name, field in type(settings).model_fields.items():
        if name != "out" and (name in kept or Path in _types(field.annotation)):
            kept[name] = _plain(getattr(settings, name), out.resolve())
    return kept


def check_out(settings: Settings, task: str) -> None:
    """Refuse to prepare a data set where another one lies, and remove what killed processes left half written there.

    To be called before anything is written.

    Runs were trained on that one, and none of them could be evaluated any more. The same command is welcome again: it
    goes on where it was stopped, and takes in what was added to the raw data.

    Args:
        settings: of the prepare command, with `out`.
        task: name of the task.

    Raises:
        DataError: `out` holds a data set of other settings or other data, or of another task.
        StorageError: something cannot be removed.
    """
    out: Path = settings.out  # type: ignore[attr-defined]
    try:
        held = read_document(out / FILE_NAME)
    except DataError:
        held = None  # there is none, or none that could be used
    if held is not None:
        _refuse_another(held, settings, task)
    remove_leftovers(out)


def _refuse_another(held: Document, settings: Settings, task: str) -> None:
    out: Path = settings.out  # type: ignore[attr-defined]
    wanted = preparation_of(settings)
    found = list(differences({"task": held.task, **held.prepared_with}, {"task": task, **wanted}))
    if found and not held.prepared_with:
        found = ["it does not say how it was prepared"]
    if found:
        raise DataError(
            f"{out} holds another data set: {'; '.join(found)}; runs may have been trained on it: choose another "
            "folder with --out, or remove that one"
        )


def save_prepared(dataset: Dataset, settings: Settings) -> Path:
    """Write dataset.yaml with how it was prepared, and tell when it takes the place of other contents.

    Args:
        dataset: prepared.
        settings: of the prepare command, with `out`.

    Returns:
        The file.

    Raises:
        StorageError: the disk is full or closed.
    """
    out: Path = settings.out  # type: ignore[attr-defined]
    before: Dataset | None = None
    with contextlib.suppress(DataError):
        before = Dataset.load(out)
    path = dataclasses.replace(dataset, prepared_with=preparation_of(settings)).save(out)
    if before is not None and before.hash != dataset.hash:
        logger.warning(
            "%s: the raw data are not what they were (%d samples before, %d now): runs that were trained on them as "
            "they were cannot be evaluated on them any more",
            path,
            len(before.samples),
            len(dataset.samples),
        )
    return path


def _types(annotation: Any) -> Iterator[Any]:
    """The types in an annotation, opened."""
    yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


def _plain(value: Any, out: Path) -> Any:
    """A setting as YAML holds it, with paths relative to a folder."""
    if isinstance(value, Path):
        return Path(os.path.relpath(os.path.realpath(value), out)).as_posix()
    if isinstance(value, Settings):
        return {name: _plain(getattr(value, name), out) for name in deciding_values(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(entry, out) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, out) for entry in value]
    return value


def datasets_of_run(
    run: Path,
    *,
    trained_with: Path | None,
    trained_on: str,
    given: Path | None,
    load: Callable[[Path | None], Dataset],
    needs_own: bool,
) -> tuple[Dataset | None, Dataset]:
    """The data set that a run was trained on, and the one to score.

    Args:
        run: its folder.
        trained_with: where its data lay; None: the built-in sample.
        trained_on: `Dataset.hash` of its data.
        given: the data set to score, which may be the run's own in another place; None: the run's own.
        load: loads a data set of the task; None: the built-in sample.
        needs_own: whether something is trained on the run's own data even where another data set is scored.

    Returns:
        The run's own data set, None where it is not needed, and the one to score.

    Raises:
        DataError: a data set is not there, or the run's own is not what it was.
    """
    scored = None if given is None else load(given)
    if scored is not None and scored.hash == trained_on:
        return scored, scored
    if scored is not None and not needs_own:
        return None, scored
    remedy = (
        "give it with --data where it lies now"
        if scored is None
        else "baselines are trained on it; put it back, or leave them out with --no-baselines"
    )
    if trained_with is not None and not trained_with.exists():
        raise DataError(f"{trained_with}: the data set that {run} was trained on is not there any more: {remedy}")
    own = load(trained_with)
    if own.hash != trained_on:
        other = "name the one to score with --data" if scored is None else "leave baselines out with --no-baselines"
        raise DataError(f"{own.root} has changed since {run} was trained on it: prepare it as it was, or {other}")
    return own, own if scored is None else scored
