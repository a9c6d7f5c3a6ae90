"""The data set: chips with splits and statistics, and what training and scoring read of them.

Chips stay as they were published; `dataset.yaml` names them and says how their numbers are to be understood.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from floods_prithvi import bands, chip_reader, file_patterns, split_lists, windows
from floods_prithvi.chip_reader import IMAGE, MASK, centre_of, image_layer
from floods_prithvi.config import TASK, PrepareSettings
from floods_prithvi.file_patterns import (
    FORMATS,
    METADATA,
    ChipFiles,
    date_of_event,
    find_chips,
    listed,
    read_event_dates,
)
from floods_prithvi.split_lists import assign_splits
from floods_prithvi.windows import SEPARATOR, Chips, Reader, Windows, pixels_of
from geocore.datasets.dataset import Dataset, load_prepared
from geocore.datasets.labels import IGNORED, Census, check_label, check_varied, missing_note, read_target
from geocore.datasets.sample_data import built_in_sample
from geocore.datasets.schema import LabelSpec, Sample, Scalar
from geocore.datasets.shift import pixel_attribute, with_pixel_sizes
from geocore.datasets.statistics import compute_statistics
from geocore.errors import DataError
from geocore.raster.declarations import QuantityCheck, Readings
from geocore.raster.products import scene_hash
from geocore.raster.scene import Scene, resolved_bands
from geocore.storage.files import sha256_file, storage_errors
from geocore.terminal import progress
from geocore.tiling.overlaps import View, kept_together, refuse_leaks, shared_by_splits, view_of
from geocore.training.validation import cannot_choose

__all__ = ["Chips", "Windows", "class_pixels", "describe", "load_dataset", "no_choice"]


def describe(settings: PrepareSettings) -> Dataset:
    """Find chips and labels, check every one of them, divide them, and measure the bands over train.

    Raises:
        DataError: no chip, a label that does not fit or holds an unknown value, lists that cannot be used, or nothing
            labelled to train on.
        SceneError: a chip cannot be read, its bands are not known, or its numbers cannot be reflectance.
    """
    form = FORMATS[settings.format]
    frames = settings.frames if settings.format == "frames" else 1
    layer = image_layer([str(frame + 1) for frame in range(frames)] if frames > 1 else ())
    protocol = _protocol(settings, frames)
    reader = Reader(layer, protocol)
    found, notes = find_chips(settings.data, settings.format)
    views = _Views(reader, len(found))
    splits, split_notes = assign_splits(found, settings, views.together if not settings.split.allow_leaks else _apart)
    dates, date_notes = _dates(found, settings)
    used = [chip for chip in found if chip.id in splits]
    readings = Readings()
    censuses: dict[str, Census] = {}
    samples = [
        _sample(chip, splits[chip.id], dates.get(chip.id), reader, settings.out, readings, censuses)
        for chip in progress(used, "reading chips")
    ]
    leaks = shared_by_splits([views.of(chip) for chip in used], [splits[chip.id] for chip in used])
    if not settings.split.allow_leaks:
        refuse_leaks(leaks, remedy="put chips of one ground on one list")
    class_names = _classes(settings)
    called = list(class_names.values())
    present = {sample.id: {called[i] for i, count in enumerate(pixels_of(sample)) if count} for sample in samples}
    check_varied(str(settings.data), present, names=False)
    dataset = Dataset(
        root=settings.out,
        task=TASK,
        samples=samples,
        layers={IMAGE: layer},
        labels={MASK: LabelSpec(MASK, dict(enumerate(class_names.values())), IGNORED)},
        protocol=protocol,
        notes=[
            *notes,
            *split_notes,
            *date_notes,
            *readings.lines("chips"),
            *missing_note(censuses),
            *_remarks(samples, called),
        ],
    )
    dataset = with_pixel_sizes(dataset, IMAGE)
    remarks = [f"leak: {leak}" for leak in leaks]
    if torn := _torn_groups(dataset):
        remarks.insert(0, f"{torn} {form.groups} lie in several splits, so that these tell nothing of unseen ones")
    with storage_errors():
        settings.out.mkdir(parents=True, exist_ok=True)  # paths of the data set lead through it
    # A data set to score on alone is normalized as the network's own was.
    trains = any(sample.split == "train" for sample in samples)
    statistics = compute_statistics(_opened(Windows(dataset, "train")), [IMAGE]) if trains else None
    return dataclasses.replace(dataset, statistics=statistics, notes=[*dataset.notes, *remarks])


def load_dataset(path: Path | None) -> Dataset:
    """A prepared data set whose files are what they were, or the built-in sample.

    Args:
        path: made by `floods-prepare`; None: the sample, made on first use and kept in the user's cache.

    Raises:
        DataError: the folder holds no data set of this task, or a file is missing or has changed.
    """
    if path is None:
        return _sample_dataset()
    return load_prepared(path, task=TASK, layer=IMAGE)


def _protocol(settings: PrepareSettings, frames: int) -> dict[str, Scalar | None]:
    form, classes = FORMATS[settings.format], _classes(settings)
    ignored = form.ignored if settings.ignore is None else tuple(settings.ignore)
    if settings.classes is not None and settings.ignore is None:
        ignored = tuple(value for value in ignored if value not in classes)
    if both := [value for value in ignored if value in classes]:
        raise DataError(
            f"label value {both[0]}: is the class {classes[both[0]]!r} and ignored: it can be only one; change one"
        )
    return {
        "format": settings.format,
        "file_bands": None if settings.bands is None else SEPARATOR.join(settings.bands),
        "scale": settings.scale,
        "offset": settings.offset,
        "nodata": settings.nodata,
        "frames": frames,
        "classes": SEPARATOR.join(classes.values()),
        "label_values": " ".join(map(str, classes)),
        "ignored_values": " ".join(map(str, ignored)),
        "split_seed": settings.split.seed,
    }


def _classes(settings: PrepareSettings) -> dict[int, str]:
    """Label value and name, ascending: the place of a class is its index."""
    classes = FORMATS[settings.format].classes if settings.classes is None else settings.classes
    if not 2 <= len(classes) < IGNORED:
        raise DataError(f"{len(classes)} classes: a network tells 2 to {IGNORED - 1} apart; name them with --classes")
    return dict(sorted(classes.items()))


def _dates(found: Sequence[ChipFiles], settings: PrepareSettings) -> tuple[dict[str, str], list[str]]:
    """Id -> date of the chips that have one, and remarks."""
    dates = {chip.id: chip.date for chip in found if chip.date is not None}
    if settings.format != "sen1floods11":
        return dates, []
    path = settings.metadata or next(iter(sorted(settings.data.rglob(METADATA))), None)
    if path is None:
        return {}, [f"dates are not known: there is no {METADATA}"]
    of_events = read_event_dates(path)
    known = {group: date_of_event(group, of_events) for group in {chip.group for chip in found}}
    lacking = sorted(group for group, date in known.items() if date is None)
    notes = [f"{path.name} has no date for {listed(lacking)}"] if lacking else []
    return {chip.id: date for chip in found if (date := known[chip.group]) is not None}, notes


def _sample(
    chip: ChipFiles,
    split: str,
    date: str | None,
    reader: Reader,
    out: Path,
    readings: Readings,
    censuses: dict[str, Census],
) -> Sample:
    """A chip that was looked at: its grid, its unit, and the pixels of each class that count."""
    with reader.open(chip.image) as scene:
        censuses[chip.label.name] = check_label(chip.label, chip.image, scene, reader.codes)
        grid = scene.grid
        patch = scene.read_layers(grid.whole)[IMAGE]
        resolved = resolved_bands(scene.readers[IMAGE])
        readings.add(chip.image.name, resolved, scene.notes)
        quantities = QuantityCheck(reader.layer.bands, resolved)
        quantities.update(patch.values, patch.valid)
        quantities.raise_if_impossible(scene.name)
        valid = patch.valid.reshape(-1, *grid.shape).all(axis=0)
    target = read_target(chip.label, reader.codes)
    counts = np.bincount(target[valid], minlength=IGNORED + 1)
    attributes: dict[str, Scalar] = {"rows": grid.height, "cols": grid.width}
    attributes |= {f"class_{index}_px": int(counts[index]) for index in range(len(reader.codes.values))}
    place = centre_of(grid)
    if place is not None:
        # About a metre: files that differ in the last digits of their grid are the same data.
        attributes |= {"lat": round(place[0], 5), "lon": round(place[1], 5)}
    attributes |= pixel_attribute(grid)
    if date is not None:
        attributes["date"] = date

    def relative(path: Path) -> str:
        return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(out))).as_posix()

    image, label = relative(chip.image), relative(chip.label)
    hashes = {image: scene_hash(chip.image), label: scene_hash(chip.label)}
    return Sample(chip.id, chip.group, split, {IMAGE: image}, {MASK: label}, attributes, hashes)


def _opened(chips: Chips) -> Iterator[Scene]:
    """Chips one after the other."""
    for index in progress(len(chips.samples), "measuring bands"):
        with chips.scene(index) as scene:
            yield scene


def _remarks(samples: Sequence[Sample], class_names: Sequence[str]) -> list[str]:
    unlabelled = [sample.id for sample in samples if not any(pixels_of(sample))]
    notes = [f"{len(unlabelled)} chips have no labelled pixel: {listed(unlabelled)}"] if unlabelled else []
    if len(class_names) == 2:
        without = [s.id for s in samples if any(pixels_of(s)) and not s.attributes["class_1_px"]]
        if without:
            notes.append(f"{len(without)} chips have no {class_names[1]}: {listed(without)}")
    return notes


def _torn_groups(dataset: Dataset) -> int:
    """Number of groups that lie in several splits, which may be as published."""
    splits: dict[str, set[str]] = {}
    for sample in dataset.samples:
        splits.setdefault(sample.group, set()).add(sample.split)
    return sum(len(found) > 1 for found in splits.values())


class _Views:
    """What chips show, each looked at once."""

    def __init__(self, reader: Reader, chips: int) -> None:
        self._reader, self._chips = reader, chips
        self._views: dict[str, View] = {}

    def of(self, chip: ChipFiles) -> View:
        """What a chip shows; missing pixels do not count."""
        if chip.id not in self._views:
            with self._reader.open(chip.image) as scene:
                grid = scene.grid
                valid = np.asarray(scene.read_layers(grid.whole)[IMAGE].valid.reshape(-1, *grid.shape).all(axis=0))
                self._views[chip.id] = view_of(chip.id, scene, IMAGE, counts=valid, samples=self._chips)
        return self._views[chip.id]

    def together(self, chips: Sequence[ChipFiles]) -> tuple[list[str], list[str]]:
        """Groups by which no ground lies in two of them, and remarks."""
        return kept_together([self.of(chip) for chip in chips], [chip.group for chip in chips])


def _apart(chips: Sequence[ChipFiles]) -> tuple[list[str], list[str]]:
    return [chip.group for chip in chips], []


def class_pixels(dataset: Dataset, split: str) -> dict[str, int]:
    """Name of each class -> its labelled pixels in a split.

    Raises:
        DataError: the split is empty.
    """
    counted = [list(pixels_of(sample)) for sample in dataset.split(split)]
    return {name: sum(pixels[index] for pixels in counted) for index, name in dataset.labels[MASK].classes.items()}


def no_choice(dataset: Dataset) -> str | None:
    """Why the leading score cannot choose a checkpoint on validation; None where it can.

    Raises:
        DataError: there is nothing to validate on.
    """
    counts = class_pixels(dataset, "val")
    return cannot_choose("val", counts, needed=list(counts)[1:] if len(counts) == 2 else ())


def _sample_dataset() -> Dataset:
    # What draws chips is of no use to those who have some.
    from floods_prithvi.sample import CODE, write_sample

    def build(folder: Path) -> None:
        write_sample(folder / "chips", seed=0)
        describe(PrepareSettings(data=folder / "chips", out=folder)).save(folder)

    own = [__file__, *(str(module.__file__) for module in (bands, chip_reader, split_lists, file_patterns, windows))]
    code = [sha256_file(Path(path)) for path in (*CODE, *own)]
    return Dataset.load(built_in_sample(TASK, code, build))
