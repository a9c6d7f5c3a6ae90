"""Score the best checkpoint at 80 m beside open water, a classifier of single pixels, and the untrained network.

uv run seaice-evaluate --run RUN
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from geocore.cli.checks import check_prepared, check_run
from geocore.cli.main import command
from seaice_multitask.config import TASK, EvaluateSettings

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.report.report import Panel
    from seaice_multitask.config import TrainSettings
    from seaice_multitask.data import Scenes
    from seaice_multitask.model import SeaIceNet
    from seaice_multitask.scores import ChartCounts

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `seaice-evaluate`."""
    command(evaluate, EvaluateSettings, prog="seaice-evaluate")


def evaluate(settings: EvaluateSettings) -> None:
    """Write `evaluation-<split>.json` into the run folder, print it as a table, and rewrite the report with pictures.

    Scores on another data set are kept apart, as `evaluation-<split>-<8 digits of its hash>.json`.

    Raises:
        CheckpointError: the run has no usable checkpoint.
        DataError: the data set is gone, has changed, or lacks the split.
    """
    check_run(settings.run, TASK)
    check_prepared(settings.data, TASK)
    import numpy as np

    from geocore.datasets.dataset import datasets_of_run
    from geocore.datasets.shift import warn_of_sizes
    from geocore.device import device_context, seed_everything
    from geocore.metrics.evaluation import Evaluation, baselines_in, bootstrap_interval, closing, evaluation_path
    from geocore.report.overview import noted
    from geocore.report.report import write_report
    from geocore.storage.records import installed_versions
    from geocore.training.checkpoint import load_checkpoint
    from seaice_multitask.charts import CLASS_NAMES
    from seaice_multitask.config import TrainSettings
    from seaice_multitask.data import Scenes, load_dataset
    from seaice_multitask.mapping import scene_counts
    from seaice_multitask.model import build_model, restore_model
    from seaice_multitask.scores import PRIMARY, all_water, combined_of_state, meanings, named, per_class, total

    checkpoint = load_checkpoint(settings.run / "checkpoints", settings.checkpoint)
    network = restore_model(checkpoint)
    trained = TrainSettings.model_validate(checkpoint.card["config"])
    home, dataset = datasets_of_run(
        settings.run,
        trained_with=trained.data,
        trained_on=checkpoint.card["data_hash"],
        given=settings.data,
        load=load_dataset,
        needs_own=settings.baselines,
    )
    _check_fit(network, dataset)
    warn_of_sizes(dataset, settings.split, network.layer)
    outputs = network.outputs
    scenes = Scenes(dataset, settings.split, tuple(outputs))
    with device_context(settings.device, batch_size=settings.batch_size) as context:
        counts = scene_counts(context.prepare(network), scenes, tiling=trained.tiling, context=context)
        untrained = None
        if settings.baselines:
            seed_everything(trained.training.seed)
            fresh = context.prepare(build_model(dataset, _from_scratch(trained))).eval()
            untrained = named(total(scene_counts(fresh, scenes, tiling=trained.tiling, context=context)))
        panels = _panels(network, scenes, counts, trained, context)
    baselines = {"all water": named(all_water(total(counts)))}
    if home is not None and settings.baselines:
        baselines["pixel classifier"] = _pixel_scores(network, home, scenes, trained.training.seed)
    evaluation = Evaluation(
        task=TASK,
        split=settings.split,
        protocol={**dataset.protocol, **baselines_in(settings), "notes": "; ".join(dataset.notes)},
        samples=len(counts),
        primary=PRIMARY,
        meanings=meanings(outputs),
        model=named(total(counts)),
        untrained=untrained,
        baselines=baselines,
        per_class=per_class(total(counts), CLASS_NAMES),
        per_group={sample.id: _short(part) for sample, part in zip(scenes.samples, counts, strict=True)},
        intervals={
            PRIMARY: bootstrap_interval(
                np.stack([part.state for part in counts]),
                lambda state: combined_of_state(state, outputs),
                resamples=settings.resamples,
            )
        },
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
    print(closing(settings.run, file, "seaice-predict", "SCENES"))


def _check_fit(network: SeaIceNet, dataset: Dataset) -> None:
    """Another data set must have been prepared as the network's own: its planes are cached on a working grid.

    Raises:
        DataError: other channels, or another working grid.
    """
    from geocore.errors import DataError
    from seaice_multitask.model import PLANES

    layer = dataset.layers.get(PLANES)
    found = () if layer is None else layer.bands.names
    if found != network.channels:
        raise DataError(
            f"{dataset.root}: its planes are {', '.join(found)}, but the run takes {', '.join(network.channels)}: "
            "prepare it with these --channels"
        )
    for name, value in network.working.model_dump().items():
        if dataset.protocol.get(name) != value:
            raise DataError(
                f"{dataset.root}: {name} is {dataset.protocol.get(name)}, but the run was trained with {value}: "
                "prepare it as the run's data"
            )


def _from_scratch(trained: TrainSettings) -> TrainSettings:
    """The settings of the untrained network; weights that training began with may be gone by now."""
    return trained.model_copy(update={"model": trained.model.model_copy(update={"weights": "none"})})


def _pixel_scores(network: SeaIceNet, home: Dataset, scenes: Scenes, seed: int) -> dict[str, float]:
    """Scores of the classifier of single pixels, trained on the run's own data."""
    from seaice_multitask.baselines import train_classifier
    from seaice_multitask.data import Scenes
    from seaice_multitask.scores import named, total

    names = tuple(network.outputs)
    train, held_out = Scenes(home, "train", names), Scenes(home, "val", names)
    classifier = train_classifier(train, held_out, network.outputs, network.working, seed=seed)
    return named(total(classifier.counts(scenes)))


def _short(counts: ChartCounts) -> dict[str, float]:
    """The combined score and one for each chart: the rest is too much for a table of scenes."""
    from seaice_multitask.scores import PRIMARY, metric, named

    scores = named(counts)
    kept = [PRIMARY, *(f"{name}_{metric(counts.outputs, name)}" for name in counts.outputs)]
    return {name: scores[name] for name in kept}


def _panels(
    network: SeaIceNet, scenes: Scenes, counts: Sequence[ChartCounts], trained: TrainSettings, context: DeviceContext
) -> list[Panel]:
    """Confusion matrices, and the scenes with the lowest, the highest and two middle combined scores."""
    from geocore.report.report import Panel
    from seaice_multitask.mapping import map_scene
    from seaice_multitask.quicklook import Sheet, draw_confusion, radar_of, thinned, thinning
    from seaice_multitask.scores import PRIMARY, named, total

    caption = "Percent of the pixels of each true class, all scenes pooled at 80 m"
    panels = [Panel("Confusion", caption, draw_confusion(total(counts)))]
    # A scene without any charted pixel has no score (NaN) and nothing to show.
    ranked = sorted((score, index) for index, part in enumerate(counts) if (score := named(part)[PRIMARY]) == score)
    last = len(ranked) - 1
    for rank in sorted({0, last // 2, last // 2 + 1, last} & set(range(last + 1))):
        score, index = ranked[rank]
        sample, scene = scenes.samples[index], scenes.scene(index)
        step = thinning(scene.grid.shape)
        sheet = Sheet(
            sample.id,
            thinned(radar_of(scene), step),
            thinned(map_scene(network, scene, tiling=trained.tiling, context=context), step),
            network.outputs,
            thinned(scenes.charts(index), step * network.working.downscale),
        )
        caption = f"{sample.split}: combined score {score:.1f} %, rank {rank + 1} of {last + 1} from below"
        panels.append(Panel(sample.id, caption, sheet.draw()))
    return panels
