"""Score the best checkpoint beside a classifier of single pixels and the untrained network.

uv run crops-evaluate --run RUN
uv run crops-evaluate --run RUN --data OTHER --split test
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from crops_activesampling.config import TASK, EvaluateSettings
from geocore.cli.checks import check_prepared, check_run
from geocore.cli.main import command

if TYPE_CHECKING:
    from crops_activesampling.config import TrainSettings
    from crops_activesampling.data import Patches
    from crops_activesampling.model import CropNet
    from crops_activesampling.scores import Counts
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.report.report import Panel

    PatchCounts = Sequence[Mapping[str, Counts]]


def main() -> NoReturn:
    """Entry point of `crops-evaluate`."""
    command(evaluate, EvaluateSettings, prog="crops-evaluate")


def evaluate(settings: EvaluateSettings) -> None:
    """Write `evaluation-<split>.json` into the run folder, print it as a table, and rewrite the report with pictures.

    `evaluation-<split>-patches.csv` beside it has a row for each patch. Scores on another data set are kept apart, as
    `evaluation-<split>-<8 digits of its hash>.json`. The classifier is trained on the run's own data.

    Raises:
        CheckpointError: the run has no usable checkpoint.
        DataError: the data set is gone, has changed, lacks the split, or was prepared otherwise than the run's own.
    """
    check_run(settings.run, TASK)
    check_prepared(settings.data, TASK)
    import numpy as np

    from crops_activesampling.config import TrainSettings
    from crops_activesampling.data import Patches, load_dataset
    from crops_activesampling.mapping import counts_of_maps, map_split
    from crops_activesampling.model import build_model, restore_model, training_split, validation_split
    from crops_activesampling.scores import MEANINGS, PRIMARY, VIEWS, named, per_class, total, weighted_f1
    from geocore.datasets.dataset import datasets_of_run
    from geocore.datasets.shift import warn_of_sizes
    from geocore.device import device_context, seed_everything
    from geocore.metrics.evaluation import Evaluation, baselines_in, bootstrap_interval, closing, evaluation_path
    from geocore.report.overview import noted
    from geocore.report.report import write_report
    from geocore.storage.files import atomic_write_text
    from geocore.storage.records import installed_versions
    from geocore.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(settings.run / "checkpoints", settings.checkpoint)
    network = restore_model(checkpoint)
    trained = TrainSettings.model_validate(checkpoint.card["config"])
    home, dataset = datasets_of_run(
        settings.run,
        trained_with=trained.data,
        trained_on=str(checkpoint.card["data_hash"]),
        given=settings.data,
        load=load_dataset,
        needs_own=settings.baselines,
    )
    _check_fit(network, dataset)
    warn_of_sizes(dataset, settings.split, network.layer)
    patches, classes = Patches(dataset, settings.split), network.head.channels
    with device_context(settings.device, batch_size=settings.batch_size) as context:

        def counted(net: CropNet) -> PatchCounts:
            maps = map_split(context.prepare(net), patches, tiling=trained.tiling, context=context)
            return counts_of_maps(patches, maps, classes=classes, border_px=settings.border_px)

        counts = counted(network)
        untrained, baselines = None, {}
        if home is not None and settings.baselines:
            seed_everything(trained.training.seed)
            untrained = named(total(counted(build_model(home, trained).eval())))
        panels = _panels(network, patches, counts, trained, context)
    if home is not None and settings.baselines:
        pixelwise = _pixel_counts(network, home, patches, trained, settings.border_px)
        baselines["pixel classifier"] = named(total(pixelwise))
    groups = [f"{sample.attributes['tile']} {sample.attributes['year']}" for sample in patches.samples]
    evaluation = Evaluation(
        task=TASK,
        split=settings.split,
        protocol={
            **dataset.protocol,
            **baselines_in(settings),
            "months": network.model.months,
            "tile_px": trained.tiling.size,
            "overlap_px": trained.tiling.overlap,
            "border_px": settings.border_px,
            "notes": "; ".join(dataset.notes),
        },
        samples=len(counts),
        primary=PRIMARY,
        meanings=MEANINGS,
        model=named(total(counts)),
        untrained=untrained,
        baselines=baselines,
        per_class=per_class(total(counts)["pixels"], [name for _, name in sorted(network.class_names.items())]),
        per_group={
            group: _short(total([part for part, of in zip(counts, groups, strict=True) if of == group]))
            for group in sorted(set(groups))
        },
        intervals={
            f"{prefix}{PRIMARY}": bootstrap_interval(
                np.stack([part[view] for part in counts]), weighted_f1, resamples=settings.resamples
            )
            for view, prefix in VIEWS.items()
        },
        checkpoint=checkpoint.path.name,
        data_hash=dataset.hash,
        versions=installed_versions(),
    )
    file = evaluation_path(
        settings.run, settings.split, which=settings.checkpoint, checkpoint=checkpoint, data_hash=dataset.hash
    )
    evaluation.save(file)
    atomic_write_text(file.with_name(f"{file.stem}-patches.csv"), patch_table(patches, counts))
    write_report(settings.run, panels=panels)
    print(evaluation.table())
    for line in noted([*remarks(patches, counts), *dataset.notes], file.name):
        print(line)
    own = dataset.hash == checkpoint.card["data_hash"]
    if own and settings.split == training_split(trained):
        print(f"note: the network was trained on {settings.split}: these are no scores on new patches")
    if own and settings.split == validation_split(trained):
        print(f"note: {settings.split} chose the checkpoint and the trees: its scores are too good")
    print(closing(settings.run, file, "crops-predict", "PATCHES"))


def patch_table(patches: Patches, counts: PatchCounts) -> str:
    """A row for each patch as CSV: its pixels, how many are labelled and counted, and its scores.

    Args:
        patches: a split.
        counts: of each patch.
    """
    import csv
    import io
    import math

    from crops_activesampling.scores import named

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for index, (sample, part) in enumerate(zip(patches.samples, counts, strict=True)):
        scores = named(part)
        if not index:
            writer.writerow(["patch", "year", "tile", "pixels", "labelled_px", "counted_px", *scores])
        size = int(sample.attributes["rows"]) * int(sample.attributes["cols"])
        pixels = [size, size - int(sample.attributes["class_0_px"]), int(part["pixels"].sum())]
        values = ["" if math.isnan(score) else f"{score:.6f}" for score in scores.values()]
        writer.writerow([sample.id, sample.attributes["year"], sample.attributes["tile"], *pixels, *values])
    return text.getvalue()


def remarks(patches: Patches, counts: PatchCounts) -> list[str]:
    """What the scores do not speak of: pixels without label, data or parcel, and empty patches.

    Args:
        patches: a split.
        counts: of each patch.
    """
    sizes = [int(sample.attributes["rows"]) * int(sample.attributes["cols"]) for sample in patches.samples]
    empty = [int(sample.attributes["class_0_px"]) for sample in patches.samples]
    labelled, counted = sum(sizes) - sum(empty), sum(int(part["pixels"].sum()) for part in counts)
    lines = []
    if any(empty):
        lines.append(
            f"{100 * sum(empty) / sum(sizes):.1f} % of the pixels have no label of these crops: whatever is mapped "
            "there, no score knows of it"
        )
    if counted < labelled:
        lines.append(f"{labelled - counted} of {labelled} labelled pixels are never seen and do not count")
    inside = sum(int(part["parcel_pixels"].sum()) for part in counts)
    if inside < counted:
        lines.append(
            f"{100 * (counted - inside) / counted:.1f} % of the labelled pixels lie in no parcel: the scores of "
            "parcels leave them out"
        )
    without = [sample.id for sample, part in zip(patches.samples, counts, strict=True) if not part["pixels"].any()]
    if without:
        more = " ..." if len(without) > 3 else ""
        lines.append(f"{len(without)} patches have no pixel that counts: {', '.join(without[:3])}{more}")
    return lines


def _check_fit(network: CropNet, dataset: Dataset) -> None:
    """Another data set must hold composites and crops as the network's own.

    Raises:
        DataError: other bands, periods or crops.
    """
    from crops_activesampling.mapping import composite_settings
    from crops_activesampling.model import MEDIANS, class_names
    from geocore.errors import DataError

    layer = dataset.layers[MEDIANS]
    if layer.bands.names != network.layer.bands.names or len(layer.times) != len(network.layer.times):
        raise DataError(
            f"{dataset.root}: it has {len(layer.times)} periods of {', '.join(layer.bands.names)}, but the run takes "
            f"{len(network.layer.times)} of {', '.join(network.layer.bands.names)}: prepare it as the run's data"
        )
    made = composite_settings(network)
    for name in ("frequency", "fill"):
        if dataset.protocol.get(name) != getattr(made, name):
            raise DataError(
                f"{dataset.root}: composites.{name} is {dataset.protocol.get(name)}, but the run was trained with "
                f"{getattr(made, name)}: prepare it as the run's data"
            )
    begins, wanted = layer.times[0][5:], network.layer.times[0][5:]
    if begins != wanted:
        raise DataError(
            f"{dataset.root}: its periods begin on {begins} of a year, but those of the run on {wanted}: prepare it "
            "with another composites.start"
        )
    if class_names(dataset) != network.class_names:
        raise DataError(
            f"{dataset.root}: its crops are {', '.join(class_names(dataset).values())}, but the run tells "
            f"{', '.join(network.class_names.values())} apart: prepare it with the same --encoder"
        )


def _pixel_counts(
    network: CropNet, home: Dataset, patches: Patches, trained: TrainSettings, border_px: int
) -> PatchCounts:
    """Counts of the classifier of single pixels, trained and tuned on the splits that the network had."""
    from crops_activesampling.baselines import train_classifier
    from crops_activesampling.data import Patches
    from crops_activesampling.mapping import counts_of_maps
    from crops_activesampling.model import training_split, validation_split
    from geocore.terminal import progress

    classifier = train_classifier(
        Patches(home, training_split(trained)),
        Patches(home, validation_split(trained)),
        classes=network.head.channels,
        periods=network.periods,
        seed=trained.training.seed,
    )
    indices = progress(len(patches.samples), "mapping by the pixel classifier")
    maps = (classifier.map_scene(patches.scene(index)) for index in indices)
    return counts_of_maps(patches, maps, classes=network.head.channels, border_px=border_px)


def _short(counts: Mapping[str, Counts]) -> dict[str, float]:
    """The leading score of each way to count, and the overall accuracy: the rest is too much for a table of groups."""
    from crops_activesampling.scores import PRIMARY, VIEWS, named

    scores = named(counts)
    return {name: scores[name] for name in [*(f"{prefix}{PRIMARY}" for prefix in VIEWS.values()), "oa"]}


def _panels(
    network: CropNet, patches: Patches, counts: PatchCounts, trained: TrainSettings, context: DeviceContext
) -> list[Panel]:
    """The confusion matrix, and the patches with the lowest, the highest and two middle scores."""
    from crops_activesampling.mapping import map_patch
    from crops_activesampling.overlay import draw_confusion, draw_patch
    from crops_activesampling.scores import PRIMARY, named, total
    from geocore.report.report import Panel

    names = network.class_names
    caption = "Percent of the labelled pixels of each crop, all patches together"
    panels = [Panel("Confusion", caption, draw_confusion(total(counts)["pixels"], names))]
    # A patch without a labelled pixel has no score (NaN) and nothing to show.
    scores = [named(part)[PRIMARY] for part in counts]
    ranked = sorted((score, index) for index, score in enumerate(scores) if score == score)
    last = len(ranked) - 1
    for rank in sorted({0, last // 2, last // 2 + 1, last} & set(range(last + 1))):
        score, index = ranked[rank]
        scene = patches.scene(index)
        found = map_patch(network, scene, tiling=trained.tiling, context=context).classes
        caption = f"{PRIMARY} {score:.3f}, rank {rank + 1} of {last + 1} from below"
        image = draw_patch(scene, network.periods, patches.labels(index), found, names)
        panels.append(Panel(patches.samples[index].id, caption, image))
    return panels
