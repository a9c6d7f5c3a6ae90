"""Prepared data sets, loaded only while their files are what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from geocore.datasets import Dataset, validate
from geocore.errors import DataError
from geocore.files import sha256_file


def changed_files(dataset: Dataset) -> Iterator[str]:
    """A line for each file whose content is not what it was; every file is read, once."""
    hashes = {path: digest for sample in dataset.samples for path, digest in sample.hashes.items()}
    for path, digest in hashes.items():
        if sha256_file(dataset.path(path)) != digest:
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
