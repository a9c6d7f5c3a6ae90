"""Data sets and their file dataset.yaml: what preparation hands over to training and evaluation.

It names every sample with its group, split, files and content hashes, the layers and labels that the files hold, and
the statistics that models are normalized with. Paths are relative to the folder of the file, so that a data set can
be moved as a whole, and do not count for its identity: `Dataset.hash` covers contents only.

A prepared data set is saved with how it was made, never over another one, and loaded only while it is what it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from pydantic import JsonValue

from geocore.datasets.pairing import RASTER_EXTENSIONS
from geocore.datasets.schema import (
    FILE_NAME,
    Document,
    LabelSpec,
    Sample,
    Scalar,
    document_text,
    plain,
    read_document,
    sample_entry,
)
from geocore.datasets.statistics import Statistics
from geocore.errors import DataError, SceneError
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Window
from geocore.raster.products import granule_of, scene_hash
from geocore.raster.scene import Layer, Scene
from geocore.settings import Settings, deciding_values, differences
from geocore.storage.files import atomic_write_text, remove_leftovers, sha256_json
from geocore.storage.names import is_text
from geocore.terminal import progress
from geocore.tiling.splits import leak_report

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples, what they hold and how they were made.

    Raises:
        DataError: two samples share an id, or a sample or the statistics do not fit the layers and labels.
    """

    root: Path
    """Folder that the paths are relative to."""
    task: str
    samples: Sequence[Sample]
    layers: Mapping[str, Layer]
    labels: Mapping[str, LabelSpec] = field(default_factory=dict)
    statistics: Statistics | None = None
    protocol: Mapping[str, Scalar | None] = field(default_factory=dict)
    """How the data were made, as far as it changes results: part of the hash."""
    notes: Sequence[str] = ()
    """Remarks for people: not part of the hash."""
    prepared_with: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the command that made it, as `preparation_of` keeps them: not part of the hash."""

    def __post_init__(self) -> None:
        for problem in self._inconsistencies():
            raise DataError(problem)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a data set.

        Args:
            path: the file, or the folder that holds it under the name dataset.yaml.

        Raises:
            DataError: the file is missing, is not YAML or breaks a rule, or names a file outside its folder without the
                hash of that.
        """
        file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
        document = read_document(file)
        for sample in document.samples:
            for path in sample.paths:
                # prepare leaves raw data where they lie, so that files elsewhere are named, relative to the folder. Who
                # knows the hash of a file has read it: a data set of somebody else cannot name files of mine by guess.
                if os.path.normpath(path).startswith(os.pardir) and path not in sample.hashes:
                    raise DataError(
                        f"{file}: sample {sample.id!r} names {path}, outside of the data set's folder and without a "
                        "hash: prepare the data again"
                    )
        try:
            return cls(
                root=file.parent,
                task=document.task,
                samples=document.samples,
                layers={name: Layer.from_dict(name, entry.model_dump()) for name, entry in document.layers.items()},
                labels={name: LabelSpec(name, entry.classes, entry.ignore) for name, entry in document.labels.items()},
                statistics=None if document.statistics is None else Statistics.from_dict(document.statistics),
                protocol=document.protocol,
                notes=document.notes,
                prepared_with=document.prepared_with,
            )
        except DataError as error:
            raise DataError(f"{file}: {error}") from error

    def save(self, folder: Path | str | None = None) -> Path:
        """Write dataset.yaml, replacing an older one at once or not at all.

        Args:
            folder: where to; paths are rewritten to be relative to it. None: the root.

        Returns:
            The file.

        Raises:
            StorageError: the disk is full or closed to the user.
        """
        target = self.root if folder is None else Path(folder)
        moved = [_moved(sample, self.root, target) for sample in self.samples]
        content = self._described() | {
            "prepared_with": dict(self.prepared_with),
            "notes": list(self.notes),
            "samples": [sample_entry(s) for s in moved],
        }
        atomic_write_text(target / FILE_NAME, document_text(content))
        return target / FILE_NAME

    @property
    def hash(self) -> str:
        """SHA-256 of what the data set holds and means, wherever it lies.

        It covers the contents of files instead of their paths, the order of the samples, layers, labels, statistics
        and protocol. A file without a recorded hash counts by its path.
        """
        samples = [
            {
                "id": sample.id,
                "group": sample.group,
                "split": sample.split,
                "inputs": {name: sample.hashes.get(path, path) for name, path in sample.inputs.items()},
                "labels": {name: sample.hashes.get(path, path) for name, path in sample.labels.items()},
                "attributes": plain(sample.attributes),
            }
            for sample in self.samples
        ]
        return sha256_json(self._described() | {"samples": samples})

    def path(self, relative: str) -> Path:
        """Where a file of a sample lies."""
        return self.root / relative

    def split(self, name: str) -> list[Sample]:
        """Samples of one split, in order.

        Raises:
            DataError: there is none.
        """
        found = [sample for sample in self.samples if sample.split == name]
        if not found:
            splits = Counter(sample.split or "(none)" for sample in self.samples)
            known = ", ".join(f"{split} ({count})" for split, count in splits.items()) or "nothing"
            raise DataError(f"split {name!r} has no sample: {self.root} holds {known}; choose one of these")
        return found

    def read_as(self, name: str, layer: Layer) -> Self:
        """The same samples, a layer of which is to be read in the numbers of another one, such as a network's.

        What the layer of this data set says of missing pixels still counts where files say nothing. Its statistics, of
        other numbers, are left out where the two differ.

        Args:
            name: of the layer.
            layer: as the network takes it; with the same bands.

        Raises:
            DataError: the bands differ.
        """
        own = self.layers[name]
        if own.bands.names != layer.bands.names:
            raise DataError(
                f"{self.root}: holds the bands {', '.join(own.bands.names)}, but the network takes "
                f"{', '.join(layer.bands.names)}: prepare it with these bands"
            )
        numbers = [(band.scale, band.offset, band.unit) for band in own.bands]
        if numbers == [(band.scale, band.offset, band.unit) for band in layer.bands] and own.dtype == layer.dtype:
            return self
        bands = tuple(
            dataclasses.replace(theirs, nodata=mine.nodata) for mine, theirs in zip(own.bands, layer.bands, strict=True)
        )
        held = dataclasses.replace(layer, bands=dataclasses.replace(layer.bands, bands=bands), times=own.times)
        return dataclasses.replace(self, layers={**self.layers, name: held}, statistics=None)

    def leaks(self) -> list[str]:
        """What two splits share, one line each: groups, and inputs that are identical where they overlap.

        Samples without a split are left out.
        """
        assigned = [sample for sample in self.samples if sample.split]
        return leak_report(
            names=[sample.id for sample in assigned],
            splits=[sample.split for sample in assigned],
            groups=[sample.group for sample in assigned],
            hashes=[[sample.hashes.get(path, path) for path in sample.inputs.values()] for sample in assigned],
            windows=[sample.window for sample in assigned],
        )

    def _described(self) -> dict[str, Any]:
        """Everything but samples and notes, as plain values."""
        return {
            "format": 1,
            "task": self.task,
            "protocol": plain(self.protocol),
            "layers": {name: layer.to_dict() for name, layer in self.layers.items()},
            "labels": {
                name: {"classes": dict(label.classes), "ignore": label.ignore} for name, label in self.labels.items()
            },
            "statistics": None if self.statistics is None else self.statistics.to_dict(),
        }

    def _inconsistencies(self) -> Iterator[str]:
        for sample_id, count in Counter(sample.id for sample in self.samples).items():
            if count > 1:
                yield f"sample id {sample_id!r} occurs {count} times: ids must be unique; rename the samples"
        for sample in self.samples:
            if not all(is_text(Path(text)) for text in (sample.id, sample.group, sample.split, *sample.paths)):
                yield (
                    f"sample {sample.id!r} or one of its files is called by bytes that are no UTF-8, which {FILE_NAME} "
                    "cannot hold: rename it"
                )
            for kind, names, known in (
                ("layer", sample.inputs, self.layers),
                ("label", sample.labels, self.labels),
            ):
                for name in names:
                    if name not in known:
                        yield (
                            f"sample {sample.id!r} has {kind} {name!r}: the data set defines {_listed(known)};"
                            " correct the name or define it"
                        )
        for name, bands in (self.statistics.layers if self.statistics else {}).items():
            if name not in self.layers:
                yield f"statistics of layer {name!r}: the data set defines {_listed(self.layers)}; measure them again"
            elif len(bands) != len(self.layers[name].bands):
                yield (
                    f"statistics of layer {name!r} cover {len(bands)} bands: the layer has"
                    f" {len(self.layers[name].bands)}; measure them again"
                )


def validate(dataset: Dataset, *, contents: bool = True) -> list[str]:
    """Compare a data set with the files it names.

    Args:
        dataset: the data set.
        contents: also read every file: its hash, and the values of class labels.

    Returns:
        One line per problem: files missing, unreadable or changed, sizes of inputs and labels that differ, values of a
        label that are no class, leaks between splits. Empty when all is well. Only GeoTIFF, PNG and JPEG files are
        looked into.
    """
    problems = dataset.leaks()
    seen: dict[str, str | None] = {}
    for sample in dataset.samples:
        for path in sample.paths:
            if path not in seen:
                seen[path] = _file_problem(dataset.path(path), sample.hashes.get(path) if contents else None)
            if seen[path] is not None:
                problems.append(f"sample {sample.id!r}: {path}: {seen[path]}")
        if all(seen[path] is None for path in sample.paths):
            problems += [f"sample {sample.id!r}: {line}" for line in _raster_problems(dataset, sample, contents)]
    return problems


def _moved(sample: Sample, root: Path, target: Path) -> Sample:
    if target.resolve() == root.resolve():
        return sample

    def move(path: str) -> str:
        return Path(os.path.relpath(os.path.realpath(root / path), os.path.realpath(target))).as_posix()

    return dataclasses.replace(
        sample,
        inputs={name: move(path) for name, path in sample.inputs.items()},
        labels={name: move(path) for name, path in sample.labels.items()},
        hashes={move(path): digest for path, digest in sample.hashes.items()},
    )


def _file_problem(path: Path, expected: str | None) -> str | None:
    if not path.is_file() and granule_of(path) is None:
        return "is missing"
    try:
        if expected is not None and scene_hash(path) != expected:
            return "has changed since the data set was prepared"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _raster_problems(dataset: Dataset, sample: Sample, contents: bool) -> Iterator[str]:
    shapes: dict[tuple[int, int], str] = {}
    for kind, paths in (("layer", sample.inputs), ("label", sample.labels)):
        for name, path in paths.items():
            if not path.lower().endswith(RASTER_EXTENSIONS):
                continue
            ratio = dataset.layers[name].ratio if kind == "layer" else 1
            try:
                with open_raster(dataset.path(path), codes=kind == "label") as scene:
                    if ratio == 1:
                        shapes.setdefault(scene.grid.shape, f"{kind} {name!r}")
                    if kind == "label" and contents:
                        yield from _label_problems(dataset.labels[name], scene)
            except SceneError as error:
                yield str(error)
    if len(shapes) > 1:
        sizes = ", ".join(f"{owner} {rows} x {cols}" for (rows, cols), owner in shapes.items())
        yield f"sizes differ: {sizes} (rows x columns); inputs and labels must cover the same pixels"


def _label_problems(label: LabelSpec, scene: Scene) -> Iterator[str]:
    if not label.classes:
        return
    name, layer = next(iter(scene.layers.items()))
    if np.dtype(layer.dtype).kind not in "bui":
        yield f"label {label.name!r} is {layer.dtype}: classes must be integers"
        return
    found: set[int] = set()
    for row in range(0, scene.grid.height, 1024):
        height = min(1024, scene.grid.height - row)
        patch = scene.read_layers(Window(row, 0, height, scene.grid.width))[name]
        found.update(np.unique(patch.values[np.broadcast_to(patch.valid, patch.values.shape)]).tolist())
    unknown = sorted(found - label.classes.keys() - {label.ignore})
    if unknown:
        rule = f"must be one of {sorted(label.classes)} or the ignored value"
        yield f"label {label.name!r} holds {_listed(map(str, unknown))}: {rule}"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "") or "none"


def changed_files(dataset: Dataset) -> Iterator[str]:
    """A line for each file whose content, or that of a file it names, is not what it was; each is read, once."""
    hashes = {path: digest for sample in dataset.samples for path, digest in sample.hashes.items()}
    for path, digest in progress(list(hashes.items()), "checking files", delay=1.0):
        if scene_hash(dataset.path(path)) != digest:
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
    for name, declared in type(settings).model_fields.items():
        if name != "out" and (name in kept or Path in _types(declared.annotation)):
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
