"""The data set: which scenes train, choose and test, and what is read of them.

Scenes stay where they are; `dataset.yaml` names them with their hashes, and the cache beside it holds their planes and
charts on the working grid. Training reads the cache alone. Scoring reads planes from the cache and charts at 80 m from
the scenes, untouched.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from geocore.datasets.dataset import Dataset, load_prepared
from geocore.datasets.labels import check_varied
from geocore.datasets.sample_data import built_in_sample
from geocore.datasets.schema import LabelSpec, Sample, Scalar
from geocore.datasets.shift import PIXEL_M, with_pixel_sizes
from geocore.errors import DataError
from geocore.jobs.job import JobResult
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid
from geocore.raster.npy_store import Entry, map_array, read_entry
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.storage.files import sha256_file
from geocore.tiling.overlaps import View, refuse_leaks, shared_by_splits, view_of
from geocore.tiling.splits import split_by_group
from seaice_multitask import caching, channels, charts, gcp_grid, labels, names, resampling, scenes
from seaice_multitask.caching import FOLDER, cache_scenes
from seaice_multitask.channels import RADAR
from seaice_multitask.charts import CLASS_NAMES, MASKED
from seaice_multitask.config import TASK, OutputSettings, PrepareSettings, WorkingSettings
from seaice_multitask.labels import read_charts
from seaice_multitask.names import find_scenes, read_list, scene_group, scene_id, scene_time
from seaice_multitask.resampling import PLANES, planes_layer, reduce_chart, working_scene
from seaice_multitask.scenes import COARSE, SAR, open_scene
from seaice_multitask.windows import Scenes, Windows

__all__ = [
    "COARSE",
    "PLANES",
    "RADAR",
    "SAR",
    "Scenes",
    "Windows",
    "cache_scenes",
    "describe",
    "find_scenes",
    "load_dataset",
    "no_choice",
    "assign_splits",
    "open_scene",
    "planes_layer",
    "read_charts",
    "reduce_chart",
    "scene_id",
    "scene_time",
    "working_scene",
]

_CODE: Final = (caching, channels, charts, gcp_grid, names, scenes, labels, resampling)
_SAMPLE_DOWNSCALE: Final = 5
_SAMPLE_PATCH: Final = 64


def describe(settings: PrepareSettings, outcomes: Sequence[JobResult] | None = None) -> Dataset:
    """The data set of the scenes that are in the cache.

    Args:
        settings: as for `cache_scenes`.
        outcomes: what that returned: scenes that failed are left out. None: fill the cache now; all must succeed.

    Returns:
        A sample for each scene: `planes` and the file of its charts, with the numbers of charted working pixels. Its
        group is day and ice service, so that neighbouring frames of a pass stay together.

    Raises:
        DataError: no scene is left, every chart holds one class, a list cannot be used, or there are too few days for
            three splits.
    """
    found = find_scenes([settings.data])
    if outcomes is None:
        outcomes = cache_scenes(settings, found)
        for outcome in outcomes:
            if outcome.status == "failed":
                raise DataError(outcome.message)
    # Of all scenes, so that one that is repaired later moves no other to another split.
    splits, notes = assign_splits(found, settings)
    done = {outcome.key for outcome in outcomes if outcome.status != "failed"}
    taken = [path for path in found if scene_id(path) in done and scene_id(path) in splits]
    if not taken:
        raise DataError(f"{settings.data}: no scene could be read, or none is on the lists; check the folder")
    samples = []
    packed: dict[str, list[str]] = {}
    for path in taken:
        entry = read_entry(settings.out / FOLDER, scene_id(path))
        samples.append(_sample(settings.out, scene_id(path), splits[scene_id(path)], entry))
        packed |= {scene_id(path): entry.facts["packed"]} if entry.facts["packed"] else {}
        empty = [name for name in CLASS_NAMES if entry.facts[f"{name}_px"] == 0]
        if empty:
            notes.append(f"{scene_id(path)}: nothing is charted in {', '.join(empty)}: it does not train them")
    _check_charts(settings.data, samples)
    if packed:
        variables = _listed(sorted({name for names in packed.values() for name in names}))
        notes.append(f"{len(packed)} of {len(taken)} scenes hold packed variables, which were unpacked: {variables}")
    dataset = Dataset(
        root=settings.out,
        task=TASK,
        samples=samples,
        layers={PLANES: planes_layer(settings.channels)},
        labels={
            name: LabelSpec(name, dict(enumerate(classes)), ignore=MASKED) for name, classes in CLASS_NAMES.items()
        },
        protocol={
            **settings.working.model_dump(mode="json"),
            "channels": " ".join(settings.channels),
            "patch": settings.patch,
            "split": "by list" if _lists(settings) else "by day and ice service",
            "split_seed": settings.split.seed,
        },
        notes=notes,
    )
    dataset = with_pixel_sizes(dataset, PLANES)
    leaks = shared_by_splits([_view(dataset, sample) for sample in samples], [sample.split for sample in samples])
    if not settings.split.allow_leaks:
        refuse_leaks(leaks, remedy="remove the copies")
    leaks += [line for line in dataset.leaks() if line.startswith("group ")]
    return dataclasses.replace(dataset, notes=[*dataset.notes, *(f"leak: {leak}" for leak in leaks)])


def _check_charts(folder: Path, samples: Sequence[Sample]) -> None:
    """Refuse scenes whose charts hold one class each, or none.

    Raises:
        DataError: so it is.
    """
    for name, classes in CLASS_NAMES.items():
        held = {sample.id: str(sample.attributes[f"{name}_classes"]).split() for sample in samples}
        called = {scene: [classes[int(value)] for value in values] for scene, values in held.items()}
        if len(set().union(*called.values())) > 1:
            return
    # Of the last chart, as none has more.
    check_varied(str(folder), called, names=False, called=f"charts of {', '.join(CLASS_NAMES)}")


def assign_splits(found: Sequence[Path], settings: PrepareSettings) -> tuple[dict[str, str], list[str]]:
    """Which scene is for what.

    A scene on a list goes where the list says. Where the list to train on is there, what it names is also validated on
    as far as no other list says so, and scenes on no list are left out; else they are drawn for the splits that have no
    list.

    Returns:
        Scene -> split, of the scenes that are used, and remarks.

    Raises:
        DataError: a scene is on two lists that exclude each other, no scene of a list is there, or there are too few
            days.
    """
    present = [scene_id(path) for path in found]
    lists = {name: read_list(path) for name, path in _lists(settings).items()}
    notes = []
    for name, listed in lists.items():
        missing = sorted(set(listed) - set(present))
        if len(missing) == len(set(listed)):
            raise DataError(
                f"{name}: none of its {len(set(listed))} scenes is in {settings.data}; check list and folder"
            )
        if missing:
            notes.append(f"{len(missing)} scenes of {name} are not there: {_listed(missing)}")
    for name in ("train_list", "val_list"):
        both = sorted(set(lists.get(name, ())) & set(lists.get("test_list", ())))
        if both:
            raise DataError(f"{_listed(both)}: on {name} and on test_list: what is tested on must stay unseen")
    splits = dict.fromkeys(lists.get("test_list", ()), "test") | dict.fromkeys(lists.get("val_list", ()), "val")
    share = settings.split
    shares = {"train": share.train, "val": share.val, "test": 1 - share.train - share.val}
    open_splits = [name for name in shares if f"{name}_list" not in lists]
    rest = [name for name in present if name not in splits]
    if "train_list" in lists:
        unlisted = [name for name in rest if name not in lists["train_list"]]
        if unlisted:
            notes.append(f"{len(unlisted)} scenes are on no list and left out: {_listed(unlisted)}")
        rest = [name for name in rest if name in lists["train_list"]]
        open_splits = ["train", *(name for name in open_splits if name == "val")]
    if rest:
        wanted = {name: shares[name] for name in open_splits}
        remedy = (
            "add scenes of other days, or say which scene is for what with --train-list, --val-list and --test-list "
            "(the last one alone makes a data set to score on)"
        )
        drawn = split_by_group([scene_group(name) for name in rest], wanted, share.seed, remedy=remedy)
        splits |= dict(zip(rest, drawn, strict=True))
    return {name: splits[name] for name in present if name in splits}, notes


def no_choice(dataset: Dataset, outputs: Mapping[str, OutputSettings]) -> str | None:
    """Why the combined score cannot choose a checkpoint on validation; None where it can.

    It is undefined where one of its charts is, and a chart of one class everywhere tells nothing.

    Args:
        dataset: prepared.
        outputs: the charts that are scored.

    Raises:
        DataError: there is nothing to validate on.
    """
    samples = dataset.split("val")
    for name in [name for name in outputs if name in dataset.labels]:
        names = dataset.labels[name].classes
        listed = [sample.attributes.get(f"{name}_classes") for sample in samples]
        if None in listed:  # an earlier version has not listed them
            return None
        found = {int(number) for numbers in listed for number in str(numbers).split()}
        found.discard(outputs[name].ignore)
        if len(found) < 2:
            alike = f"nothing but {names.get(min(found), min(found))}" if found else "no charted pixel"
            return f"val holds {alike} in {name}"
    return None


def load_dataset(path: Path | None) -> Dataset:
    """A prepared data set whose files are there and of the size that they had, or the built-in sample.

    Args:
        path: made by `seaice-prepare`; None: the sample.

    Raises:
        DataError: the folder holds no data set of this task, or a file is missing or has changed.
    """
    if path is None:
        return sample_dataset()
    return load_prepared(path, task=TASK, layer=PLANES, changes=_changes)


def sample_dataset() -> Dataset:
    """The data set of the built-in sample, made on first use and kept in the user's cache."""
    # What draws scenes is of no use to those who have some.
    from seaice_multitask.sample import CODE, write_sample

    def build(folder: Path) -> None:
        write_sample(folder / "scenes", seed=0)
        describe(_sample_settings(folder)).save(folder)

    code = [sha256_file(path) for path in (*CODE, Path(__file__), *(Path(str(module.__file__)) for module in _CODE))]
    return Dataset.load(built_in_sample(TASK, code, build))


def _sample_settings(folder: Path) -> PrepareSettings:
    working = WorkingSettings(downscale=_SAMPLE_DOWNSCALE)
    return PrepareSettings(data=folder / "scenes", out=folder, working=working, patch=_SAMPLE_PATCH)


def _sample(root: Path, name: str, split: str, entry: Entry) -> Sample:
    def relative(path: str) -> str:
        return Path(os.path.relpath(path, root.resolve())).as_posix()

    facts = entry.facts
    counts: dict[str, Scalar] = {f"{chart}_px": facts[f"{chart}_px"] for chart in CLASS_NAMES}
    counts |= {f"{chart}_classes": " ".join(map(str, facts[f"{chart}_classes"])) for chart in CLASS_NAMES}
    hashes = {f"{FOLDER}/{name}/{array}.npy": entry.hashes[array] for array in (PLANES, *CLASS_NAMES)}
    hashes |= {relative(path): digest for path, digest in facts["hashes"].items()}
    return Sample(
        id=name,
        group=scene_group(name),
        split=split,
        inputs={PLANES: f"{FOLDER}/{name}/{PLANES}.npy"},
        labels=dict.fromkeys(CLASS_NAMES, relative(facts["charts"])),
        attributes={
            "lines": facts["lines"],
            "samples": facts["samples"],
            **counts,
            "chart_file_bytes": facts["bytes"],
            "made_from": entry.fingerprint,
            **{key: facts[key] for key in (PIXEL_M,) if key in facts},
        },
        hashes=hashes,
    )


def _view(dataset: Dataset, sample: Sample) -> View:
    """The first plane of a scene. Where it lies does not count: ice moves, and scenes of a day stay together."""
    plane = map_array(dataset.path(sample.inputs[PLANES]))[0]
    source = ArrayReader(Layer(PLANES, Bands.named("1"), plane.dtype.name), plane)
    scene = Scene(sample.id, Grid(*plane.shape), {PLANES: source})
    return view_of(sample.id, scene, PLANES, samples=len(dataset.samples))


def _changes(dataset: Dataset) -> Iterator[str]:
    """What is no longer as it was, as far as a glance can tell: hashing hundreds of gigabytes would take minutes."""
    for sample in dataset.samples:
        planes = dataset.path(sample.inputs[PLANES])
        read_entry(planes.parents[1], planes.parent.name, fingerprint=str(sample.attributes["made_from"]))
        source = next(iter(sample.labels.values()))
        if dataset.path(source).stat().st_size != sample.attributes["chart_file_bytes"]:
            yield f"sample {sample.id!r}: {source}: has changed since the data set was prepared"


def _lists(settings: PrepareSettings) -> dict[str, Path]:
    given = {"train_list": settings.train_list, "val_list": settings.val_list, "test_list": settings.test_list}
    return {name: path for name, path in given.items() if path is not None}


def _listed(names: Sequence[str], limit: int = 5) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
