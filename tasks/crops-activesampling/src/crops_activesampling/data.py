"""The data set: which patches train, choose and test, and what is read of them.

Patches stay where they are. The cache beside `dataset.yaml` holds their composites, classes and parcels, and training
and scoring read nothing else.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from crops_activesampling import (
    caching,
    cf_times,
    composites,
    definitions,
    encoders,
    rules,
    s4a_format,
    splits,
    windows,
)
from crops_activesampling.caching import FOLDER, cache_patches
from crops_activesampling.composites import SCALE
from crops_activesampling.config import TASK, PrepareSettings, SplitSettings
from crops_activesampling.encoders import Encoder, read_encoder
from crops_activesampling.s4a_format import PatchName, find_patches, true_labels
from crops_activesampling.splits import assign_splits, counts_of_splits, leaks, missing_classes
from crops_activesampling.windows import CROPS, MEDIANS, NOISE, Patches, Windows, grid_of_entry, windows_of
from geocore.datasets.dataset import Dataset, load_prepared
from geocore.datasets.labels import check_varied
from geocore.datasets.sample_data import built_in_sample
from geocore.datasets.schema import LabelSpec, Sample, Scalar
from geocore.datasets.shift import pixel_attribute, with_pixel_sizes
from geocore.datasets.statistics import compute_statistics
from geocore.errors import DataError
from geocore.jobs.job import JobResult
from geocore.raster.bands import Band, Bands
from geocore.raster.npy_store import Entry, map_array, read_entry, write_cached
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.storage.files import remove_leftovers, sha256_file, sha256_json
from geocore.terminal import progress
from geocore.tiling.overlaps import View, shared_by_splits, view_of
from geocore.training.validation import cannot_choose

__all__ = [
    "Patches",
    "Windows",
    "chosen_patches",
    "describe",
    "leaks_of",
    "load_dataset",
    "no_choice",
    "pixels_of_split",
]

_CODE: Final = (caching, cf_times, composites, definitions, encoders, s4a_format, rules, splits, windows)
_SAMPLE_SUBPATCH: Final = 32


def chosen_patches(settings: PrepareSettings) -> tuple[dict[Path, str], list[str]]:
    """Files of the patches that the data set is to have with their splits, and remarks.

    All patches there are take part in the draws, so that `limit` or one that is repaired later moves no other one.

    Raises:
        DataError: as of `assign_splits`.
        SettingsError: the rules cannot be understood.
    """
    paths = {PatchName.of(path): path for path in find_patches(settings.data)}
    assigned, notes = assign_splits(list(paths), settings.split, settings.lists)
    return {paths[name]: split for name, split in list(assigned.items())[: settings.limit]}, notes


def describe(settings: PrepareSettings, outcomes: Sequence[JobResult] | None = None) -> Dataset:
    """The data set of the patches that are in the cache.

    Args:
        settings: of the preparation.
        outcomes: what `cache_patches` returned: patches that failed are left out. None: fill the cache now; all must
            succeed.

    Returns:
        A sample for each patch, with the pixels of each class as attributes `class_0_px`... Its group is the tile.

    Raises:
        DataError: no patch is left, all are labelled with one crop or none, patches have different numbers of periods,
            or windows are larger than a patch.
        SettingsError: rules, encoder, bands or periods cannot be understood.
        StorageError: the disk is full or closed.
    """
    encoder = read_encoder(settings.encoder)
    chosen, notes = chosen_patches(settings)
    if outcomes is None:
        outcomes = cache_patches(list(chosen), settings.out, settings.composites, encoder=encoder, workers=settings)
        for outcome in outcomes:
            if outcome.status == "failed":
                raise DataError(outcome.message)
    done = {outcome.key for outcome in outcomes if outcome.status != "failed"}
    entries = {
        path: read_entry(settings.out / FOLDER, PatchName.of(path).id)
        for path in chosen
        if PatchName.of(path).id in done
    }
    remove_leftovers(settings.out / NOISE)
    if not entries:
        raise DataError(f"{settings.data}: no patch could be read; the lines above say why")
    samples = [_sample(path, chosen[path], entry, settings, encoder) for path, entry in entries.items()]
    crops = {
        sample.id: {name for i, name in enumerate(encoder.names) if i and sample.attributes[f"class_{i}_px"]}
        for sample in samples
    }
    check_varied(f"{settings.data} with encoder {encoder.name}", crops, names=False, called="patches")
    dataset = Dataset(
        root=settings.out,
        task=TASK,
        samples=samples,
        layers={MEDIANS: _layer(settings, entries)},
        labels={CROPS: LabelSpec(CROPS, dict(enumerate(encoder.names)), ignore=0)},
        protocol=_protocol(settings, encoder),
        notes=[*notes, *_remarks(entries, samples, encoder)],
    )
    dataset = with_pixel_sizes(dataset, MEDIANS)
    for sample in samples:
        windows_of(sample, dataset)  # windows that are too large would else fail in training
    if not any(sample.split == "train" for sample in samples):
        return dataset
    # Training needs statistics, scoring goes by those of the network.
    return dataclasses.replace(dataset, statistics=compute_statistics(_scenes(Patches(dataset, "train")), [MEDIANS]))


def pixels_of_split(dataset: Dataset, split: str) -> dict[str, int]:
    """Name of each crop -> its labelled pixels in a split.

    Raises:
        DataError: the split is empty.
    """
    samples = dataset.split(split)
    return {
        name: sum(int(sample.attributes[f"class_{index}_px"]) for sample in samples)
        for index, name in sorted(dataset.labels[CROPS].classes.items())
        if index
    }


def no_choice(dataset: Dataset, split: str = "val", *, by_loss: bool = False) -> str | None:
    """Why the leading score cannot choose a checkpoint on a split; None where it can.

    Args:
        dataset: prepared.
        split: that chooses.
        by_loss: whether the loss is the score, which one crop alone can tell.

    Raises:
        DataError: the split is empty.
    """
    counts = pixels_of_split(dataset, split)
    if by_loss and any(counts.values()):
        return None
    return cannot_choose(split, counts)


def leaks_of(dataset: Dataset) -> list[str]:
    """What splits share, one line each: ground, and the same pixels.

    Tiles are groups but are torn apart by most rules, the published ones among them: whoever chooses a rule asks for
    what it tears. What matters of it are patches that touch, by their names, and those of neighbouring tiles, which
    overlap by ten kilometres.
    """
    names = [PatchName.of(sample.id) for sample in dataset.samples]
    splits = [sample.split for sample in dataset.samples]
    shared = shared_by_splits(
        [_view(dataset, sample) for sample in dataset.samples], splits, places=[name.tile for name in names]
    )
    return [*leaks(dict(zip(names, splits, strict=True))), *shared]


def _view(dataset: Dataset, sample: Sample) -> View:
    """The sum of a patch's first band over the year: a period may be empty."""
    medians = dataset.path(sample.inputs[MEDIANS])
    plane = map_array(medians)[:, 0].sum(axis=0, dtype=np.float64)
    grid = grid_of_entry(read_entry(medians.parents[1], medians.parent.name).facts, *plane.shape)
    scene = Scene(sample.id, grid, {MEDIANS: ArrayReader(Layer(MEDIANS, Bands.named("1"), "float64"), plane)})
    return view_of(sample.id, scene, MEDIANS, samples=len(dataset.samples))


def load_dataset(path: Path | None) -> Dataset:
    """A prepared data set whose files are those that it was prepared with, or the built-in sample.

    Args:
        path: made by `crops-prepare`; None: the sample.

    Raises:
        DataError: the folder holds no data set of this task, or a file is missing or has changed.
    """
    if path is None:
        return sample_dataset()
    return load_prepared(path, task=TASK, layer=MEDIANS, changes=_changes)


def sample_dataset() -> Dataset:
    """The data set of the built-in sample, made on first use and kept in the user's cache."""
    # What draws patches is of no use to those who have some.
    from crops_activesampling.sample import CODE, write_sample

    def build(folder: Path) -> None:
        write_sample(folder / "patches", seed=0, bands=tuple(settings.composites.bands))
        describe(settings.model_copy(update={"data": folder / "patches", "out": folder})).save(folder)

    settings = PrepareSettings(
        data=Path("patches"), out=Path(), split=SplitSettings(rules="sample"), subpatch=_SAMPLE_SUBPATCH
    )
    modules = [Path(str(module.__file__)) for module in _CODE]
    recipes = [modules[0].parent / "recipes" / name for name in ("splits/sample.yaml", "encoders/s4a-labels.yaml")]
    code = [sha256_file(path) for path in (*CODE, Path(__file__), *modules, *recipes)]
    return Dataset.load(built_in_sample(TASK, code, build))


def _sample(path: Path, split: str, entry: Entry, settings: PrepareSettings, encoder: Encoder) -> Sample:
    name = PatchName.of(path)
    files = {array: f"{FOLDER}/{name.id}/{array}.npy" for array in (MEDIANS, "labels", "parcels")}
    hashes = {file: entry.hashes[array] for array, file in files.items()}
    labels = map_array(settings.out / files["labels"])
    rows, cols = labels.shape
    attributes: dict[str, Scalar] = {
        "year": name.year,
        "tile": name.tile,
        "x": name.x,
        "y": name.y,
        "rows": rows,
        "cols": cols,
        **{f"class_{index}_px": count for index, count in enumerate(entry.facts["class_px"])},
        "made_from": entry.fingerprint,
        **pixel_attribute(grid_of_entry(entry.facts, rows, cols)),
    }
    truth = true_labels(path)
    if truth is not None:
        given = np.array(labels)
        noisy = (given != 0) & (given != encoder.encode(truth))
        fingerprint = sha256_json({"made_from": entry.fingerprint, "wrong": sha256_file(s4a_format.truth_path(path))})
        write_cached(settings.out / NOISE, name.id, {NOISE: noisy}, fingerprint=fingerprint)
        hashes[f"{NOISE}/{name.id}/{NOISE}.npy"] = read_entry(settings.out / NOISE, name.id).hashes[NOISE]
        attributes["noisy_px"] = int(noisy.sum())
    return Sample(
        id=name.id,
        group=name.tile,
        split=split,
        inputs={MEDIANS: files[MEDIANS]},
        labels={CROPS: files["labels"]},
        attributes=attributes,
        hashes=hashes,
    )


def _layer(settings: PrepareSettings, entries: dict[Path, Entry]) -> Layer:
    """Bands and periods of all patches; the first days of the periods are those of the first patch."""
    name, first = next((path.name, entry) for path, entry in entries.items())
    for path, entry in entries.items():
        if len(entry.facts["edges"]) != len(first.facts["edges"]):
            raise DataError(
                f"{path}: has {len(entry.facts['edges']) - 1} periods of {settings.composites.frequency}, {name} has "
                f"{len(first.facts['edges']) - 1}: years must be cut alike; take months, or give composites.start and "
                ".end"
            )
    paths = (settings.out / FOLDER / PatchName.of(path).id / f"{MEDIANS}.npy" for path in entries)
    dtype: np.dtype[Any] = np.result_type(*{map_array(path).dtype for path in paths})
    bands = Bands(tuple(Band(name, "DN", scale=SCALE, nodata=0) for name in settings.composites.bands))
    return Layer(MEDIANS, bands, dtype.name, times=tuple(first.facts["edges"][:-1]))


def _protocol(settings: PrepareSettings, encoder: Encoder) -> dict[str, Scalar | None]:
    made = settings.composites
    return {
        "frequency": made.frequency,
        "bands": " ".join(made.bands),
        "start": made.start,
        "end": made.end,
        "fill": made.fill,
        "encoder": encoder.name,
        "codes": "; ".join(" ".join(map(str, codes)) for codes in encoder.codes),
        "subpatch": settings.subpatch,
        "edge": settings.edge,
        "split": settings.split.rules if settings.lists is None else "by list",
        "split_seed": settings.split.seed,
        "split_fractions": " ".join(f"{name} {share:g}" for name, share in settings.split.fractions.items()),
        "split_swap": settings.split.swap,
    }


def _remarks(entries: dict[Path, Entry], samples: Sequence[Sample], encoder: Encoder) -> Iterator[str]:
    empty = Counter(int(period) for entry in entries.values() for period in entry.facts["empty_periods"])
    for period, count in sorted(empty.items()):
        yield f"period {period} has no image with data in {count} of {len(entries)} patches"
    added = Counter(int(number) for entry in entries.values() for number in entry.facts["added"])
    for number, count in sorted(added.items()):
        yield f"{count} of {len(entries)} patches hold DN + {number} (add_offset): read without it"
    years = sorted({int(sample.attributes["year"]) for sample in samples})
    if len(years) > 1:
        yield f"patches are of {', '.join(map(str, years))}; each has the same periods of its own year"
    assigned = {PatchName.of(sample.id): sample.split for sample in samples}
    counts = {PatchName.of(path): entry.facts["class_px"] for path, entry in entries.items()}
    yield from missing_classes(counts_of_splits(assigned, counts), encoder.names)


def _changes(dataset: Dataset) -> Sequence[str]:
    """Go by what entries say they were made from: hashing hundreds of gigabytes would take minutes at each start."""
    for sample in dataset.samples:
        entry = dataset.path(sample.inputs[MEDIANS]).parent
        read_entry(entry.parent, entry.name, fingerprint=str(sample.attributes["made_from"]))
    return ()


def _scenes(patches: Patches) -> Iterator[Scene]:
    return (patches.scene(index) for index in progress(len(patches.samples), "measuring bands"))
