"""Score the best checkpoint beside the change-point baseline and the untrained network.

uv run snowpack-evaluate --run RUN
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from geocore.commands import command
from snowpack_sam2.config import TASK, EvaluateSettings

if TYPE_CHECKING:
    from geocore.boundaries import BoundaryCounts
    from geocore.datasets import Dataset
    from geocore.devices import Place
    from snowpack_sam2.config import TrainSettings
    from snowpack_sam2.data import Photos
    from snowpack_sam2.model import BoundaryNet


def main() -> NoReturn:
    """Entry point of `snowpack-evaluate`."""
    command(evaluate, EvaluateSettings, prog="snowpack-evaluate")


def evaluate(settings: EvaluateSettings) -> None:
    """Write `evaluation-<split>.json` into the run folder and print it as a table.

    Thresholds and baseline settings are chosen on the validation split only.

    Raises:
        CheckpointError: the run has no usable checkpoint.
        DataError: the data set is gone, has changed, or lacks the split.
    """
    import numpy as np

    from geocore.checkpoints import load_checkpoint
    from geocore.devices import open_place, seed_everything
    from geocore.evaluation import Evaluation, bootstrap_interval
    from geocore.runs import installed_versions
    from snowpack_sam2.config import TrainSettings
    from snowpack_sam2.data import Photos
    from snowpack_sam2.model import build_model, restore_model
    from snowpack_sam2.scores import PRIMARY, TOLERANCE_PX, f1_of_state, named, total

    checkpoint = load_checkpoint(settings.run / "checkpoints", "best")
    trained = TrainSettings.model_validate(checkpoint.card["config"])
    dataset = _dataset(settings, trained, checkpoint.card["data_hash"])
    held_out, photos = Photos(dataset, "val"), Photos(dataset, settings.split)
    with open_place(settings.device) as place:
        network = restore_model(checkpoint)
        counts = _model_counts(network, trained, held_out, photos, place)
        seed_everything(trained.training.seed)
        untrained = _model_counts(build_model(dataset, trained.model).eval(), trained, held_out, photos, place)
    baseline = _baseline_counts(held_out, photos)
    protocol = {
        **dataset.protocol,
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
        model=named(total(counts)),
        untrained=named(total(untrained)),
        baselines={"change_points": named(total(baseline))},
        per_group={
            pit: named(total(part for part, of in zip(counts, pits, strict=True) if of == pit))
            for pit in sorted(set(pits))
        },
        intervals={PRIMARY: bootstrap_interval(states, f1_of_state, groups=pits, resamples=settings.resamples)},
        checkpoint=checkpoint.path.name,
        data_hash=dataset.hash,
        versions=installed_versions(),
    )
    evaluation.save(settings.run / f"evaluation-{settings.split}.json")
    print(evaluation.table())
    for note in dataset.notes:
        print(f"note: {note}")


def _dataset(settings: EvaluateSettings, trained: TrainSettings, trained_on: str) -> Dataset:
    from geocore.errors import DataError
    from snowpack_sam2.data import load_dataset

    dataset = load_dataset(settings.data or trained.data)
    if settings.data is None and dataset.hash != trained_on:
        raise DataError(
            f"{dataset.root} has changed since {settings.run} was trained on it: "
            "train again, or name the data set to score on as --data"
        )
    return dataset


def _model_counts(
    network: BoundaryNet, trained: TrainSettings, held_out: Photos, photos: Photos, place: Place
) -> list[BoundaryCounts]:
    """Counts of each photograph, at the threshold that is best on the validation photographs."""
    from snowpack_sam2.predict import map_photos
    from snowpack_sam2.scores import choose_threshold

    network.to(place.device)
    threshold, _ = choose_threshold(list(map_photos(network, held_out, tiling=trained.tiling, place=place)))
    return [photo.counts(threshold) for photo in map_photos(network, photos, tiling=trained.tiling, place=place)]


def _baseline_counts(held_out: Photos, photos: Photos) -> list[BoundaryCounts]:
    """Counts of each photograph for the change-point baseline, tuned on the validation photographs."""
    from snowpack_sam2.profiles import change_points, tune
    from snowpack_sam2.scores import count, pooled_f1

    settings = tune(*held_out.arrays(), pooled_f1)
    return [
        count(lines, change_points(photo, labelled, settings), labelled)
        for photo, lines, labelled in zip(*photos.arrays(), strict=True)
    ]
