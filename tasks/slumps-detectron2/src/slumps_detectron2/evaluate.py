"""Score the best checkpoint beside the U-Net baseline, the experts, and the untrained network.

uv run slumps-evaluate --run RUN
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from geocore.cli.checks import check_prepared, check_run
from geocore.cli.main import command
from slumps_detectron2.config import TASK, EvaluateSettings

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.report.report import Panel
    from slumps_detectron2.config import TrainSettings
    from slumps_detectron2.data import Areas
    from slumps_detectron2.model import SlumpNet
    from slumps_detectron2.scores import MappedArea

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `slumps-evaluate`."""
    command(evaluate, EvaluateSettings, prog="slumps-evaluate")


def evaluate(settings: EvaluateSettings) -> None:
    """Write `evaluation-<split>.json` into the run folder, print it as a table, and rewrite the report with pictures.

    The baseline is trained at the first call and kept in the folder `baseline` of the run. Thresholds are chosen on
    validation only. Scores on another data set are kept apart, as `evaluation-<split>-<8 digits of its hash>.json`.

    Raises:
        CheckpointError: the run has no usable checkpoint.
        DataError: the data set is gone, has changed, or lacks the split.
    """
    check_run(settings.run, TASK)
    check_prepared(settings.data, TASK)
    from geocore.datasets.dataset import datasets_of_run
    from geocore.datasets.shift import look_over, warn_of_sizes
    from geocore.device import device_context, seed_everything
    from geocore.errors import WeightsError
    from geocore.metrics.evaluation import Evaluation, baselines_in, bootstrap_interval, closing, evaluation_path
    from geocore.report.overview import noted
    from geocore.report.report import write_report
    from geocore.storage.records import installed_versions
    from geocore.training.checkpoint import load_checkpoint
    from slumps_detectron2.config import TrainSettings
    from slumps_detectron2.data import IMAGE, Areas, class_values, load_dataset
    from slumps_detectron2.model import build_model, restore_model
    from slumps_detectron2.predict import FAR
    from slumps_detectron2.scores import CHOOSING, MEANINGS, PRIMARY, all_scores, resampled
    from slumps_detectron2.tiling_rules import CutRule

    checkpoint = load_checkpoint(settings.run / "checkpoints", settings.checkpoint)
    trained = TrainSettings.model_validate(checkpoint.card["config"])
    home, dataset = datasets_of_run(
        settings.run,
        trained_with=trained.data,
        trained_on=checkpoint.card["data_hash"],
        given=settings.data,
        load=load_dataset,
        needs_own=settings.baselines,
    )
    labels = class_values(dataset)
    network = restore_model(checkpoint)
    # Other data may hold their numbers in another way.
    seen = dataset.read_as(IMAGE, network.layer)
    held_out, areas = Areas(seen, "val"), Areas(seen, settings.split)
    if dataset.hash != checkpoint.card["data_hash"]:
        for index in {sample.inputs[IMAGE]: index for index, sample in enumerate(areas.samples)}.values():
            look_over(areas.scene(index), IMAGE, network.trained_on, far=FAR, size_px=trained.tiling.size)
    with device_context(settings.device, batch_size=settings.batch_size) as context:
        warn_of_sizes(dataset, settings.split, network.layer)
        threshold, mapped = _mapped(network, trained, held_out, areas, context)
        untrained, baselines = None, {}
        if home is not None and settings.baselines:
            baseline_threshold, baseline = _baseline(settings, trained, home, held_out, areas, context)
            baselines["u-net"] = all_scores(baseline, baseline_threshold, labels)
            seed_everything(trained.training.seed)
            try:
                fresh = build_model(home, trained.model, tile_px=CutRule.of(home).tile_px).eval()
            except WeightsError as error:
                logger.warning("no untrained scores: %s", error)
            else:
                fresh_threshold, found = _mapped(fresh, trained, held_out, areas, context)
                untrained = all_scores(found, fresh_threshold, labels)
    regions = [sample.group for sample in areas.samples]
    counts, score = resampled(mapped, labels)
    experts = {name.replace("_", " "): _expert(areas, name, labels) for name in areas.experts}
    evaluation = Evaluation(
        task=TASK,
        split=settings.split,
        protocol={
            **dataset.protocol,
            **baselines_in(settings),
            "threshold": f"best object F1 at IoU {CHOOSING} on val" if trained.score_threshold is None else threshold,
            "notes": "; ".join(dataset.notes),
        },
        samples=len(areas.samples),
        primary=PRIMARY,
        meanings=MEANINGS,
        model=all_scores(mapped, threshold, labels),
        untrained=untrained,
        baselines=baselines | experts,
        per_class=_by_class(mapped, threshold, dataset),
        per_group={
            region: all_scores([mapped[i] for i, of in enumerate(regions) if of == region], threshold, labels)
            for region in sorted(set(regions))
        },
        intervals={PRIMARY: bootstrap_interval(counts, score, groups=regions, resamples=settings.resamples)},
        checkpoint=checkpoint.path.name,
        data_hash=dataset.hash,
        versions=installed_versions(),
    )
    file = evaluation_path(
        settings.run, settings.split, which=settings.checkpoint, checkpoint=checkpoint, data_hash=dataset.hash
    )
    evaluation.save(file)
    write_report(settings.run, panels=_panels(areas, mapped, threshold))
    print(evaluation.table())
    for line in noted(dataset.notes, file.name):
        print(line)
    print(closing(settings.run, file, "slumps-predict", "SCENES"))


def _mapped(
    network: SlumpNet, trained: TrainSettings, held_out: Areas, areas: Areas, context: DeviceContext
) -> tuple[float, list[MappedArea]]:
    """The threshold that is best on validation, or the one of the run, and the objects of the split."""
    from slumps_detectron2.mapping import map_areas
    from slumps_detectron2.scores import choose_threshold

    context.prepare(network)
    threshold = trained.score_threshold
    if threshold is None:
        threshold = choose_threshold(list(map_areas(network, held_out, tiling=trained.tiling, context=context)))
    return threshold, list(map_areas(network, areas, tiling=trained.tiling, context=context))


def _baseline(
    settings: EvaluateSettings,
    trained: TrainSettings,
    home: Dataset,
    held_out: Areas,
    areas: Areas,
    context: DeviceContext,
) -> tuple[float, list[MappedArea]]:
    """As `_mapped`, by the U-Net."""
    from slumps_detectron2.baseline import baseline_areas, train_baseline
    from slumps_detectron2.scores import choose_threshold

    network = train_baseline(trained, home, settings.run / "baseline", context)
    ours, theirs, chosen = baseline_areas(network, held_out, areas, trained.tiling, context)
    logger.info("u-net: %s", chosen)
    return choose_threshold(ours), theirs


def _expert(areas: Areas, name: str, labels: Sequence[int]) -> dict[str, float]:
    """How far the outlines of one expert agree with the truth; without scores there is no average precision."""
    import math

    from slumps_detectron2.instances import instances_of
    from slumps_detectron2.mapping import compared
    from slumps_detectron2.scores import all_scores

    drawn = [
        compared(areas, index, instances_of(areas.expert(index, name), ignored=None))
        for index in range(len(areas.samples))
    ]
    return all_scores(drawn, 0.5, labels) | dict.fromkeys(("ap50", "ap75", "map"), math.nan)


def _by_class(mapped: Sequence[MappedArea], threshold: float, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Scores of each class by itself, where there are several."""
    from slumps_detectron2.data import INSTANCES
    from slumps_detectron2.scores import all_scores

    classes = dataset.labels[INSTANCES].classes
    if len(classes) < 2:
        return {}
    return {
        name: all_scores([area.of_class(label) for area in mapped], threshold, [label])
        for label, name in classes.items()
    }


def _panels(areas: Areas, mapped: Sequence[MappedArea], threshold: float) -> list[Panel]:
    """The areas with the lowest, the highest and two middle F1."""
    import numpy as np

    from geocore.report.report import Panel
    from slumps_detectron2.data import IMAGE
    from slumps_detectron2.overlay import COLOURS, draw_comparison, visible_bands
    from slumps_detectron2.scores import named

    name = "object_f1_30"
    scores = [named(area.counts([threshold])[0])[name] for area in mapped]
    # An area without any object, true or found, has no F1 (NaN) and nothing to show.
    ranked = sorted((score, index) for index, score in enumerate(scores) if score == score)
    last = len(ranked) - 1
    panels = []
    for rank in sorted({0, last // 2, last // 2 + 1, last} & set(range(last + 1))):
        score, index = ranked[rank]
        patch = areas.scene(index).read_layers(areas.window(index))[IMAGE]
        found = [instance for instance in mapped[index].found if instance.score >= threshold]
        bands = visible_bands(areas.layer.bands.names)
        image = draw_comparison(patch.values[bands], np.asarray(patch.valid.all(axis=0)), mapped[index].ids, found)
        sample = areas.samples[index]
        caption = (
            f"{sample.split}: object F1 at IoU 0.3 {score:.3f}, rank {rank + 1} of {last + 1} from below; {COLOURS}"
        )
        panels.append(Panel(sample.id, caption, image))
    return panels
