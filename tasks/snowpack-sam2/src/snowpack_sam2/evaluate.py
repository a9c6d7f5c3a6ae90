"""Score the best checkpoint beside the change-point baseline and the untrained network.

uv run snowpack-evaluate --run RUN
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

from geocore.cli.checks import check_prepared, check_run
from geocore.cli.main import command
from snowpack_sam2.config import TASK, EvaluateSettings

if TYPE_CHECKING:
    from geocore.device import DeviceContext
    from geocore.metrics.boundary import BoundaryCounts
    from geocore.report.report import Panel
    from geocore.settings import TilingSettings
    from snowpack_sam2.config import TrainSettings
    from snowpack_sam2.data import Photos
    from snowpack_sam2.model import BoundaryNet

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `snowpack-evaluate`."""
    command(evaluate, EvaluateSettings, prog="snowpack-evaluate")


def evaluate(settings: EvaluateSettings) -> None:
    """Write `evaluation-<split>.json` into the run folder, print it as a table, and rewrite the report with pictures.

    Thresholds and baseline settings are chosen on the validation split only. Scores on another data set are kept apart,
    as `evaluation-<split>-<8 digits of its hash>.json`.

    Raises:
        CheckpointError: the run has no usable checkpoint.
        DataError: the data set is gone, has changed, or lacks the split.
    """
    check_run(settings.run, TASK)
    check_prepared(settings.data, TASK)
    import numpy as np

    from geocore.datasets.dataset import datasets_of_run
    from geocore.device import device_context, seed_everything
    from geocore.errors import WeightsError
    from geocore.metrics.evaluation import Evaluation, baselines_in, bootstrap_interval, closing, evaluation_path
    from geocore.report.overview import noted
    from geocore.report.report import write_report
    from geocore.storage.records import installed_versions
    from geocore.training.checkpoint import load_checkpoint
    from snowpack_sam2.config import TrainSettings
    from snowpack_sam2.data import PHOTO, Photos, load_dataset
    from snowpack_sam2.model import build_model, restore_model
    from snowpack_sam2.predict import check_brightness
    from snowpack_sam2.scores import MEANINGS, PRIMARY, TOLERANCE_PX, f1_of_state, named, total

    checkpoint = load_checkpoint(settings.run / "checkpoints", settings.checkpoint)
    trained = TrainSettings.model_validate(checkpoint.card["config"])
    _, dataset = datasets_of_run(
        settings.run,
        trained_with=trained.data,
        trained_on=checkpoint.card["data_hash"],
        given=settings.data,
        load=load_dataset,
        needs_own=False,
    )
    network = restore_model(checkpoint)
    # Other data may hold their numbers in another way.
    seen = dataset.read_as(PHOTO, network.layer)
    held_out, photos = Photos(seen, "val"), Photos(seen, settings.split)
    if dataset.hash != checkpoint.card["data_hash"]:
        for index in range(len(photos.samples)):
            check_brightness(network, photos.scene(index))
    with device_context(settings.device, batch_size=settings.batch_size) as context:
        threshold, counts = _model_counts(network, trained, held_out, photos, context)
        panels = _panels(network, trained.tiling, photos, [part.f1() for part in counts], threshold, context)
        seed_everything(trained.training.seed)
        untrained, baselines = None, {}
        if settings.baselines:
            try:
                if seen is not dataset:
                    raise WeightsError("its own statistics are of other numbers than those of the run")
                fresh = build_model(dataset, trained.model).eval()
            except WeightsError as error:
                logger.warning("no untrained scores: %s", error)
            else:
                untrained = named(total(_model_counts(fresh, trained, held_out, photos, context)[1]))
            baselines["change_points"] = named(total(_baseline_counts(held_out, photos)))
    protocol = {
        **dataset.protocol,
        **baselines_in(settings),
        "tolerance_px": TOLERANCE_PX,
        "threshold": "best F1 on val",
        "notes": "; ".join(dataset.notes),
    }
    pits = [sample.group for sample in photos.samples]
    states = np.stack([part.state.numpy() for part in counts])
    evaluation = Evaluation(
        task=TASK,
        split=settings.split,
        protocol=protocol,
        samples=len(photos.samples),
        primary=PRIMARY,
        meanings=MEANINGS,
        model=named(total(counts)),
        untrained=untrained,
        baselines=baselines,
        per_group={
            pit: named(total(part for part, of in zip(counts, pits, strict=True) if of == pit))
            for pit in sorted(set(pits))
        },
        intervals={PRIMARY: bootstrap_interval(states, f1_of_state, groups=pits, resamples=settings.resamples)},
        checkpoint=checkpoint.path.name,
        data_hash=dataset.hash,
        versions=installed_versions(),
    )
    file = evaluation_path(
        settings.run, settings.split, which=settings.checkpoint, checkpoint=checkpoint, data_hash=dataset.hash
    )
    evaluation.save(file)
    write_report(settings.run, panels=panels)
    print(evaluation.table())
    for line in noted(dataset.notes, file.name):
        print(line)
    print(closing(settings.run, file, "snowpack-predict", "PHOTOGRAPHS"))


def _model_counts(
    network: BoundaryNet, trained: TrainSettings, held_out: Photos, photos: Photos, context: DeviceContext
) -> tuple[float, list[BoundaryCounts]]:
    """The threshold that is best on the validation photographs, and the counts of each photograph there."""
    from snowpack_sam2.predict import map_photos
    from snowpack_sam2.scores import choose_threshold

    context.prepare(network)
    threshold, _ = choose_threshold(list(map_photos(network, held_out, tiling=trained.tiling, context=context)))
    mapped = map_photos(network, photos, tiling=trained.tiling, context=context)
    return threshold, [photo.counts(threshold) for photo in mapped]


def _panels(
    network: BoundaryNet,
    tiling: TilingSettings,
    photos: Photos,
    f1: list[float],
    threshold: float,
    context: DeviceContext,
) -> list[Panel]:
    """The photographs with the lowest, the highest and two middle F1; mapped again, which spares keeping all maps."""
    from geocore.report.report import Panel
    from snowpack_sam2.data import PHOTO
    from snowpack_sam2.overlay import COLOURS, draw_comparison
    from snowpack_sam2.predict import boundary_probability
    from snowpack_sam2.ridges import boundary_mask

    # A photograph without any boundary, true or predicted, has no F1 (NaN) and nothing to show.
    ranked = sorted((score, index) for index, score in enumerate(f1) if score == score)
    last = len(ranked) - 1
    panels = []
    for rank in sorted({0, last // 2, last // 2 + 1, last} & set(range(last + 1))):
        score, index = ranked[rank]
        scene = photos.scene(index)
        probability, valid = boundary_probability(network, scene, tiling=tiling, context=context)
        lines, labelled = photos.truth(index)
        photo, valid = scene.read_layers(scene.grid.whole)[PHOTO].values[0], valid & labelled
        image = draw_comparison(photo, valid, lines, boundary_mask(probability, valid, threshold))
        sample = photos.samples[index]
        caption = f"{sample.split}: F1 {score:.3f}, rank {rank + 1} of {last + 1} from below; {COLOURS}"
        panels.append(Panel(sample.id, caption, image))
    return panels


def _baseline_counts(held_out: Photos, photos: Photos) -> list[BoundaryCounts]:
    """Counts of each photograph for the change-point baseline, tuned on the validation photographs."""
    from snowpack_sam2.profiles import change_points, tune
    from snowpack_sam2.scores import count, pooled_f1

    settings = tune(*held_out.arrays(), pooled_f1)
    return [
        count(lines, change_points(photo, labelled, settings), labelled)
        for photo, lines, labelled in zip(*photos.arrays(), strict=True)
    ]
