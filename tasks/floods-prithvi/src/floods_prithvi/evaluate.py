"""Score the best checkpoint beside a water or burn index, a U-Net, and the untrained network.

uv run floods-evaluate --run RUN
uv run floods-evaluate --run RUN --split bolivia
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from floods_prithvi.config import TASK, EvaluateSettings
from geocore.cli.checks import check_prepared, check_run
from geocore.cli.main import command

if TYPE_CHECKING:
    from floods_prithvi.config import TrainSettings
    from floods_prithvi.data import Chips
    from floods_prithvi.model import FloodNet
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.metrics.confusion import Confusion
    from geocore.report.report import Panel

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `floods-evaluate`."""
    command(evaluate, EvaluateSettings, prog="floods-evaluate")


def evaluate(settings: EvaluateSettings) -> None:
    """Write `evaluation-<split>.json` into the run folder, print it as a table, and rewrite the report with pictures.

    The U-Net is trained at the first call and kept in the folder `baseline` of the run; the index threshold is chosen
    on validation. Scores on another data set are kept apart, as `evaluation-<split>-<8 digits of its hash>.json`.

    Raises:
        CheckpointError: the run has no usable checkpoint.
        DataError: the data set is gone, has changed, lacks the split, or holds other bands or classes than the run.
    """
    check_run(settings.run, TASK)
    check_prepared(settings.data, TASK)
    import numpy as np

    from floods_prithvi.config import TrainSettings
    from floods_prithvi.data import Chips
    from floods_prithvi.mapping import chip_counts
    from floods_prithvi.model import build_model, restore_model
    from floods_prithvi.scores import meanings, named, per_class, primary, score_of_state, total
    from geocore.datasets.shift import warn_of_sizes
    from geocore.device import device_context, seed_everything
    from geocore.metrics.evaluation import Evaluation, baselines_in, bootstrap_interval, closing, evaluation_path
    from geocore.report.overview import noted
    from geocore.report.report import write_report
    from geocore.storage.records import installed_versions
    from geocore.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(settings.run / "checkpoints", settings.checkpoint)
    network = restore_model(checkpoint)
    trained = TrainSettings.model_validate(checkpoint.card["config"])
    home, dataset = _datasets(settings, trained, str(checkpoint.card["data_hash"]))
    _check_fit(network, dataset)
    warn_of_sizes(dataset, settings.split, network.layer)
    names = network.class_names
    chips = Chips(dataset, settings.split)
    with device_context(settings.device, batch_size=settings.batch_size) as context:
        counts = chip_counts(context.prepare(network), chips, tiling=trained.tiling, context=context)
        seed_everything(trained.training.seed)
        untrained: list[Confusion] = []
        baselines: dict[str, list[Confusion]] = {}
        if not settings.baselines:
            pass
        elif home is None or home.statistics is None:
            logger.warning("no baselines and no untrained scores: %s has nothing to train and to tune on", dataset.root)
        else:
            fresh = context.prepare(build_model(home, _from_scratch(trained))[0]).eval()
            untrained = chip_counts(fresh, chips, tiling=trained.tiling, context=context)
            baselines = _baselines(settings, trained, home, chips, context)
        panels = _panels(network, chips, counts, trained, context)
    groups = [sample.group for sample in chips.samples]
    leading = primary(names)
    evaluation = Evaluation(
        task=TASK,
        split=settings.split,
        protocol={
            **dataset.protocol,
            **_protocol(trained),
            **baselines_in(settings),
            "notes": "; ".join(dataset.notes),
        },
        samples=len(counts),
        primary=leading,
        meanings=meanings(names),
        model=named(total(counts), names),
        untrained=named(total(untrained), names) if untrained else None,
        baselines={name: named(total(parts), names) for name, parts in baselines.items()},
        per_class=per_class(total(counts), names),
        per_group={
            group: named(total([part for part, of in zip(counts, groups, strict=True) if of == group]), names)
            for group in sorted(set(groups))
        },
        intervals={
            leading: bootstrap_interval(
                np.stack([part.counts for part in counts]).astype(np.float64),
                lambda state: score_of_state(state, names),
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
    for line in noted([*_remarks(chips, counts, names), *dataset.notes], file.name):
        print(line)
    print(closing(settings.run, file, "floods-predict", "SCENES"))


def _datasets(settings: EvaluateSettings, trained: TrainSettings, trained_on: str) -> tuple[Dataset | None, Dataset]:
    """The data set that the run was trained on, which baselines are trained on too, and the one to score.

    A published checkpoint was trained elsewhere: its baselines are trained on the data that are scored.
    """
    from floods_prithvi.data import load_dataset
    from geocore.datasets.dataset import datasets_of_run
    from geocore.errors import DataError

    if not trained_on.startswith("published:"):
        return datasets_of_run(
            settings.run,
            trained_with=trained.data,
            trained_on=trained_on,
            given=settings.data,
            load=load_dataset,
            needs_own=settings.baselines,
        )
    if settings.data is None:
        raise DataError(f"{settings.run} was not trained here and has no data of its own: give --data DATASET")
    dataset = load_dataset(settings.data)
    return dataset, dataset


def _check_fit(network: FloodNet, dataset: Dataset) -> None:
    """Another data set must hold the bands and classes of the network.

    Raises:
        DataError: it does not.
    """
    from floods_prithvi.chip_reader import IMAGE
    from floods_prithvi.model import class_names
    from geocore.errors import DataError

    layer = dataset.layers[IMAGE]
    if layer.bands.names != network.layer.bands.names or len(layer.times) != len(network.layer.times):
        raise DataError(
            f"{dataset.root}: its chips have {max(1, len(layer.times))} dates of {', '.join(layer.bands.names)}, but "
            f"the run takes {network.frames} of {', '.join(network.layer.bands.names)}: prepare others"
        )
    if class_names(dataset) != network.class_names:
        found, wanted = class_names(dataset), network.class_names
        raise DataError(
            f"{dataset.root}: its classes are {', '.join(found.values())}, but the run tells "
            f"{', '.join(wanted.values())} apart: prepare it with the same --classes"
        )


def _from_scratch(trained: TrainSettings) -> TrainSettings:
    """The settings of the untrained network; weights that training began with may be gone by now."""
    return trained.model_copy(update={"model": trained.model.model_copy(update={"weights": "none"})})


def _protocol(trained: TrainSettings) -> dict[str, str | int]:
    """How chips are shown to the network: scores at another size are another number."""
    resized = trained.model.resize_px
    kind = "tiles" if resized is None else f"tiles resized to {resized} px"
    return {"shown_as": kind, "tile_px": trained.tiling.size, "overlap_px": trained.tiling.overlap}


def _baselines(
    settings: EvaluateSettings, trained: TrainSettings, home: Dataset, chips: Chips, context: DeviceContext
) -> dict[str, list[Confusion]]:
    """Counts of every chip by the index threshold, where there are two classes, and by the U-Net."""
    from floods_prithvi.baselines import index_counts, unet_counts

    found = index_counts(home, chips)
    if trained.baseline.steps:
        found |= unet_counts(trained, home, chips, settings.run / "baseline", context)
    return found


def _remarks(chips: Chips, counts: Sequence[Confusion], names: dict[int, str]) -> list[str]:
    """Chips that a score per chip would trip over."""
    unlabelled = [sample.id for sample, part in zip(chips.samples, counts, strict=True) if not part.counts.sum()]
    remarks = [f"{len(unlabelled)} chips have no labelled pixel: {', '.join(unlabelled[:5])}"] if unlabelled else []
    if len(names) == 2:
        without = [
            sample.id
            for sample, part in zip(chips.samples, counts, strict=True)
            if part.counts.sum() and not part.counts[1].sum()
        ]
        if without:
            remarks.append(f"{len(without)} chips have no {names[1]}: {', '.join(without[:5])}")
    return remarks


def _panels(
    network: FloodNet, chips: Chips, counts: Sequence[Confusion], trained: TrainSettings, context: DeviceContext
) -> list[Panel]:
    """The chips with the lowest, the highest and two middle scores."""
    from floods_prithvi.mapping import map_chip
    from floods_prithvi.overlay import COLOURS, draw_comparison
    from floods_prithvi.scores import named, primary
    from geocore.report.report import Panel

    leading = primary(network.class_names)
    scores = [named(part, network.class_names)[leading] for part in counts]
    # A chip without that class, true or found, has no score (NaN) and nothing to show.
    ranked = sorted((score, index) for index, score in enumerate(scores) if score == score)
    last = len(ranked) - 1
    panels = []
    for rank in sorted({0, last // 2, last // 2 + 1, last} & set(range(last + 1))):
        score, index = ranked[rank]
        found = map_chip(network, chips, index, tiling=trained.tiling, context=context)
        image = draw_comparison(chips.scene(index), chips.target(index), found)
        caption = f"{leading} {score:.3f}, rank {rank + 1} of {last + 1} from below; {COLOURS}"
        panels.append(Panel(chips.samples[index].id, caption, image))
    return panels
