"""The file dataset.yaml: what preparation hands over to training and evaluation.

It names every sample with its group, split, files and content hashes, the layers and labels that the files hold, and
the statistics that models are normalised with. Paths are relative to the folder of the file, so that a data set can
be moved as a whole, and do not count for its identity: `Dataset.hash` covers contents only.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from geocore.aliases import is_text
from geocore.contents import content_hash
from geocore.errors import DataError, SceneError
from geocore.files import atomic_write_text, sha256_json
from geocore.granules import granule_of
from geocore.grid import Window
from geocore.manifests import (
    FILE_NAME,
    LabelSpec,
    Sample,
    Scalar,
    document_text,
    plain,
    read_document,
    sample_entry,
)
from geocore.normalisation import Statistics
from geocore.pairs import RASTER_EXTENSIONS, Pair, pair_by_suffix
from geocore.rasters import open_raster
from geocore.scenes import Layer, Scene
from geocore.splits import leak_report

__all__ = ["FILE_NAME", "RASTER_EXTENSIONS", "Dataset", "LabelSpec", "Pair", "Sample", "pair_by_suffix", "validate"]


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
    """Settings of the command that made it, as `prepared.preparation_of` keeps them: not part of the hash."""

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
        if expected is not None and content_hash(path) != expected:
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
        patch = scene.read(Window(row, 0, height, scene.grid.width))[name]
        found.update(np.unique(patch.values[np.broadcast_to(patch.valid, patch.values.shape)]).tolist())
    unknown = sorted(found - label.classes.keys() - {label.ignore})
    if unknown:
        rule = f"must be one of {sorted(label.classes)} or the ignored value"
        yield f"label {label.name!r} holds {_listed(map(str, unknown))}: {rule}"


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "") or "none"
