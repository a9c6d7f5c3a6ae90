"""The data set: pairs become areas with splits and statistics; the only module that knows names of files and labels."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from geocore.datasets.dataset import Dataset, load_prepared
from geocore.datasets.sample_data import built_in_sample
from geocore.datasets.schema import LabelSpec, Sample, Scalar
from geocore.datasets.shift import pixel_attribute, probe, with_pixel_sizes
from geocore.datasets.statistics import RunningStatistics, Statistics
from geocore.errors import DataError
from geocore.raster.bands import taken_for
from geocore.raster.declarations import QuantityCheck, Readings
from geocore.raster.paths import Location
from geocore.raster.products import find_scenes, scene_hash
from geocore.raster.rescale import common_layer
from geocore.raster.scene import Layer, Scene, resolved_bands
from geocore.storage.files import sha256_file
from geocore.terminal import progress
from geocore.tiling.overlaps import View
from geocore.training.validation import cannot_choose
from slumps_detectron2 import label_folder
from slumps_detectron2.areas import CLASSES, IMAGE, INSTANCES, Areas, Truth, open_area
from slumps_detectron2.config import TASK, CutSettings, PrepareSettings, SplitSettings
from slumps_detectron2.label_rasters import SceneLabels, parts_of, write_labels
from slumps_detectron2.labels import IGNORED, UNLABELLED
from slumps_detectron2.pairs import ScenePair, find_pairs
from slumps_detectron2.splits import Plot, assign, plots_of, views_of
from slumps_detectron2.tiling_rules import Tiles, collate, cut

__all__ = [
    "CLASSES",
    "IGNORED",
    "IMAGE",
    "INSTANCES",
    "UNLABELLED",
    "Areas",
    "Tiles",
    "Truth",
    "class_values",
    "collate",
    "cut",
    "describe",
    "find_inputs",
    "load_dataset",
    "no_choice",
    "open_area",
]

SCENE_EXTENSIONS: Final = (".tif", ".tiff", ".vrt")
_PRODUCTS: Final = ("_instances", "_classes", "_prob", "_pred")
"""What names of rasters made from a scene have behind its own."""
_PROBE_PX: Final = 256


def describe(settings: PrepareSettings) -> Dataset:
    """Write the label rasters of all scenes below `settings.out` and describe the data set that they make.

    Pixels that a scene has no data for are ignored in its label raster, so that training and scoring need not read the
    scene to know them. Statistics cover the valid pixels of the training areas.

    Raises:
        DataError: pairs, bands or labels do not fit together, there is too little to split, the training areas have no
            slump, or no tile can be cut from them.
        SceneError: a scene cannot be read or lacks a band.
    """
    pairs = find_pairs(settings)
    _check_classes(settings)
    readings = Readings()
    layers: dict[str, Layer] = {}
    for pair in pairs:
        with _opened(pair, settings) as scene:
            layers[pair.image.name] = scene.layers[IMAGE]
            names = scene.layers[IMAGE].bands.names
            remarks = [*scene.notes, *taken_for(pair.image.name, names, names)]
            readings.add(pair.image.name, resolved_bands(scene.readers[IMAGE]), remarks)
    layer = common_layer(layers, remedy="choose bands that all have with --bands")
    label_folder.begin(settings.out, pairs)
    samples: list[Sample] = []
    plots: list[Plot] = []
    views: list[View] = []
    notes: list[str] = []
    kinds: set[str] = set()
    slumps = background = False
    for pair in progress(pairs, "reading labels"):
        with _opened(pair, settings) as scene:
            _check_quantities(scene)
            labels = write_labels(pair, scene, settings)
            size = pixel_attribute(scene.grid)
            its_plots, its_notes = plots_of(pair, labels, settings.split)
            views += views_of(scene, its_plots, labels, samples=len(pairs) * len(its_plots))
        samples += _samples(pair, labels, its_plots, settings.out, size)
        plots += its_plots
        notes += labels.notes + its_notes
        kinds.add(labels.kind)
        slumps = slumps or labels.slumps > 0
        # Objects that leave nothing between them can be told from one another.
        background = background or labels.kind == "instances" or bool((labels.ids == 0).any())
        del labels
    for missing, found, other in (("slump", slumps, "background"), ("background", background, "slumps")):
        if not found:
            raise DataError(
                f"{pairs[0].labels[0]}: has no {missing}, nor has a label of another scene: a model cannot be trained "
                f"on {other} alone; check the labels{f' ({notes[0]})' if notes else ''}"
            )
    plots, split_notes = assign(plots, views, settings.split)
    samples = [
        dataclasses.replace(sample, group=plot.group, split=plot.split)
        for sample, plot in zip(samples, plots, strict=True)
    ]
    dataset = Dataset(
        root=settings.out,
        task=TASK,
        samples=samples,
        layers={IMAGE: layer},
        labels=_label_specs(samples, settings.class_names),
        protocol=_protocol(settings, kinds),
        notes=[*readings.lines("scenes"), *notes, *split_notes],
    )
    dataset = with_pixel_sizes(dataset, IMAGE)
    # Before the statistics, which take longer.
    tiles = sum(map(len, Tiles(dataset, "train").windows))
    return dataclasses.replace(
        dataset,
        statistics=_statistics(Areas(dataset, "train")),
        protocol={**dataset.protocol, "training_tiles": tiles},
        notes=[*dataset.notes, *(f"leak: {line}" for line in dataset.leaks())],
    )


def _opened(pair: ScenePair, settings: PrepareSettings) -> Scene:
    return open_area(
        pair.image, bands=settings.bands, nodata=settings.nodata, scale=settings.scale, offset=settings.offset
    )


def _check_quantities(scene: Scene) -> None:
    """Refuse numbers that cannot be what the scene says of them."""
    check = QuantityCheck(scene.layers[IMAGE].bands, resolved_bands(scene.readers[IMAGE]))
    for values, valid in probe(scene, IMAGE, _PROBE_PX):
        check.update(values, valid)
    check.raise_if_impossible(scene.name)


def _samples(
    pair: ScenePair, labels: SceneLabels, plots: Sequence[Plot], out: Path, size: Mapping[str, float]
) -> list[Sample]:
    """A sample for each area of a scene, with the ground size of its pixels; files are hashed once."""

    def relative(path: Path) -> str:
        return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(out))).as_posix()

    image = relative(pair.image)
    names = {label: relative(path) for label, path in labels.paths.items()}
    hashes = {path: scene_hash(out / path) for path in (image, *names.values())}
    samples = []
    for plot in plots:
        place: dict[str, Any] = dataclasses.asdict(plot.window) | {"slumps": plot.slumps, **size}
        samples.append(Sample(plot.name, plot.group, "", {IMAGE: image}, names, place, hashes))
    return samples


def _label_specs(samples: Sequence[Sample], class_names: Mapping[int, str]) -> dict[str, LabelSpec]:
    specs = {INSTANCES: LabelSpec(INSTANCES, dict(class_names), IGNORED)}
    for name in sorted({name for sample in samples for name in sample.labels} - {INSTANCES}):
        classes = {0: "background", **class_names} if name == CLASSES else {}
        specs[name] = LabelSpec(name, classes, UNLABELLED if name == CLASSES else IGNORED)
    return specs


def _protocol(settings: PrepareSettings, kinds: Iterable[str]) -> dict[str, Scalar | None]:
    split, cut = settings.split, settings.cut
    return {
        "tile_px": cut.size,
        "stride_px": cut.stride,
        "negatives": cut.negatives,
        "least_slump_px": cut.least_slump_px,
        "least_valid": cut.least_valid,
        "split_by": split.by,
        "split_seed": split.seed,
        "block_px": split.block_px if split.by == "block" else None,
        "buffer_px": split.buffer_px if split.by == "block" else None,
        "label_kind": ", ".join(sorted(kinds)),
        **settings.model_dump(include={"nodata", "scale", "offset"}, exclude_none=True),
    }


def _statistics(areas: Areas) -> Statistics:
    """Of the valid pixels of some areas, read part by part."""
    counts = RunningStatistics(areas.layer)
    for index in progress(len(areas.samples), "measuring bands"):
        for part in parts_of(areas.window(index)):
            patch = areas.scene(index).read_layers(part)[IMAGE]
            counts.update(patch.values, patch.valid)
    return Statistics({IMAGE: counts.finish()})


def load_dataset(folder: Path | None) -> Dataset:
    """A prepared data set whose files are what they were, or the built-in sample.

    Args:
        folder: made by `slumps-prepare`; None: the sample, made on first use and kept in the user's cache.

    Raises:
        DataError: the folder holds no data set of this task, or a file is missing or has changed.
    """
    if folder is None:
        return _sample_dataset()
    return load_prepared(folder, task=TASK, layer=IMAGE)


def _sample_dataset() -> Dataset:
    from slumps_detectron2 import areas, burn_in, experts, label_rasters, labels, pairs, sample, splits, tiling_rules

    def build(folder: Path) -> None:
        settings = PrepareSettings(
            data=sample.write_sample(folder / "scenes"),
            out=folder,
            label_kind="instances",
            ignore=IGNORED,
            split=SplitSettings(by="region", train=0.6, val=0.2),
            cut=CutSettings(size=192, stride=96, negatives=0.5, least_slump_px=20),
        )
        describe(settings).save(folder)

    modules = (areas, burn_in, tiling_rules, splits, experts, label_rasters, labels, pairs, sample)
    code = [sha256_file(path) for path in (__file__, *(str(module.__file__) for module in modules))]
    return Dataset.load(built_in_sample(TASK, code, build))


def no_choice(dataset: Dataset) -> str | None:
    """Why the leading score cannot choose a checkpoint on validation; None where it can.

    Raises:
        DataError: there is nothing to validate on.
    """
    slumps = sum(int(sample.attributes["slumps"]) for sample in dataset.split("val"))
    return cannot_choose("val", {"slump": slumps}, needed=["slump"])


def class_values(dataset: Dataset) -> list[int]:
    """Values of the kinds of objects, ascending."""
    return sorted(dataset.labels[INSTANCES].classes)


def find_inputs(inputs: Sequence[Location]) -> dict[str, Location]:
    """Scenes among files, addresses and folders; in a folder, rasters made from another one there do not count.

    Returns:
        Name of each scene -> where it lies.

    Raises:
        DataError: a path does not exist or holds no scene, or two scenes would write to the same products.
    """
    return find_scenes(inputs, extensions=SCENE_EXTENSIONS, made=_PRODUCTS)


def _check_classes(settings: PrepareSettings) -> None:
    names = settings.class_names
    if settings.label_kind != "classes" and settings.label_column is None and set(names) != {1}:
        raise DataError(
            f"class_names lists {', '.join(map(str, sorted(names)))} with label_kind {settings.label_kind}: only "
            "rasters of classes and outlines with a column of classes tell kinds of objects apart; give --label-kind "
            "classes or --label-column, or name 1 alone"
        )
    if settings.ignore in names:
        raise DataError(
            f"ignore = {settings.ignore}: is the class {names[settings.ignore]!r} in class_names; change one"
        )
