"""Train a crop map, on every sample or on those worth training on.

uv run crops-train                                                  # built-in sample, CPU, minutes
uv run crops-train --recipe holdout --data DATASET --run HOLDOUT
uv run crops-train --recipe rho-loss --data DATASET --selection.holdout HOLDOUT
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

from crops_activesampling.config import TASK, SelectionSettings, TrainSettings
from geocore.cli.checks import check_prepared
from geocore.cli.main import command

if TYPE_CHECKING:
    import numpy.typing as npt

    from crops_activesampling.data import Patches
    from crops_activesampling.holdout import HoldoutLosses
    from crops_activesampling.model import CropNet
    from crops_activesampling.selection import Selecting
    from geocore.datasets.dataset import Dataset
    from geocore.datasets.loader import Batches
    from geocore.device import DeviceContext
    from geocore.settings import TilingSettings
    from geocore.training.run import Run

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `crops-train`."""
    command(
        train, TrainSettings, prog="crops-train", recipes="crops_activesampling", sample_recipe="sample", resumes=True
    )


def train(settings: TrainSettings) -> None:
    """Train or resume, then print how to evaluate.

    Raises:
        CheckpointError: the hold-out model cannot be read.
        DataError: the data set is missing or lacks a split, or the hold-out model does not belong to it.
        RunError: the run folder belongs to other settings or other data, or the hold-out model is not finished.
        SettingsError: the parts of the network do not fit together.
    """
    check_prepared(settings.data, TASK)
    from crops_activesampling.data import Windows, load_dataset, no_choice, pixels_of_split
    from crops_activesampling.holdout import holdout_losses
    from crops_activesampling.model import training_split, validation_split
    from crops_activesampling.scoring import needs_holdout
    from geocore.device import device_context
    from geocore.report.report import write_report
    from geocore.training.run import Run, default_run_name
    from geocore.training.validation import require_choice, unseen

    with device_context(settings.device, batch_size=settings.training.validation_batch_size) as context:
        if settings.data is None:
            logger.info("no --data: training on the built-in sample")
        if context.is_main:
            load_dataset(settings.data)  # makes the sample once, for all processes
        context.barrier()
        dataset = load_dataset(settings.data)
        chooses = validation_split(settings)
        problem = no_choice(dataset, chooses, by_loss=settings.choose_by == "loss")
        require_choice(problem, root=dataset.root, primary=settings.choose_by, training=settings.training)
        blind = unseen(chooses, pixels_of_split(dataset, chooses), pixels_of_split(dataset, training_split(settings)))
        if problem is None and blind is not None:
            logger.info("%s", blind)
        holdout = None
        if needs_holdout(settings.selection.scores) and settings.selection.holdout is not None:
            holdout = holdout_losses(
                settings.selection.holdout,
                dataset,
                settings,
                windows=lambda periods: Windows(
                    dataset, training_split(settings), periods=periods, skip_empty=settings.skip_empty
                ),
                context=context,
            )
        # The folder of the hold-out model decides nothing, but what it says does: another one is another run.
        trained_on = dataset.hash if holdout is None else f"{dataset.hash} {holdout.identity}"
        folder = settings.run or default_run_name(TASK, settings.recipe or "custom", settings, trained_on)
        with Run.open(
            folder,
            settings=settings,
            data_hash=dataset.hash,
            task=TASK,
            main=context.is_main,
            tensorboard=settings.tracking.tensorboard,
        ) as run:
            if run.finished:
                logger.info("%s is finished", folder)
            else:
                _fit(settings, dataset, holdout, context, run)
            if context.is_main:
                write_report(run.folder)  # of a finished run too: a kill may have come before its report
                print(run.closing("crops-evaluate"))


def _fit(
    settings: TrainSettings, dataset: Dataset, holdout: HoldoutLosses | None, context: DeviceContext, run: Run
) -> None:
    from torch import Tensor, nn

    from crops_activesampling.cost_meter import Metered
    from crops_activesampling.data import Patches, Windows
    from crops_activesampling.loss import CROPS, class_pixels, class_weights, crop_loss
    from crops_activesampling.model import build_model, training_split, validation_split
    from geocore.datasets.loader import Batches
    from geocore.device import seed_everything
    from geocore.tiling.samplers import GridSampler
    from geocore.training.fit import fit
    from geocore.transforms.augment import Flip, Rot90, compose

    seed = settings.training.seed
    seed_everything(seed)
    network = build_model(dataset, settings)
    split = training_split(settings)
    windows = Windows(dataset, split, periods=network.periods, skip_empty=settings.skip_empty)
    held_out = Patches(dataset, validation_split(settings))
    weights = class_weights(class_pixels(dataset, split), settings.loss.class_weighting)
    # A mirror image half of the time and a quarter turn make all eight positions equally frequent.
    moves = [Flip(0.5, 0.0), Rot90()] if settings.augmentation.turn else []
    augment = compose(moves, seed=seed)

    def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        moved = augment(batch)
        return {CROPS: crop_loss(model(network.images(moved["inputs"])), moved["targets"][CROPS], weights)}

    def validate(model: nn.Module) -> dict[str, float]:
        with batches.paused():
            scores = _validation_scores(network, held_out, tiling=settings.tiling, context=context)
            # Beside the scores, so that they can be drawn over what they cost.
            step_done = batches.handed // settings.training.accumulate
            run.log(step_done, {"forwards": batches.forwards, "seconds": batches.seconds})
        return scores

    plain = Batches(
        GridSampler(windows.windows, seed=seed),
        windows.read,
        batch_size=settings.training.batch_size,
        rank=context.rank,
        world_size=context.world_size,
        threads=settings.loader.threads,
        pin_memory=context.device.type == "cuda",
    )
    batches = Metered(
        selecting(plain, settings, network, holdout, context, run) if settings.selection.scores else plain,
        batch_size=settings.training.batch_size,
        forwards=0 if holdout is None else holdout.forwards,
        seconds=0.0 if holdout is None else holdout.seconds,
    )
    if holdout is not None:
        cost = {"forwards": holdout.training_forwards, "seconds": holdout.training_seconds}
        run.log(0, {f"holdout_{name}": value for name, value in cost.items()})
    fit(
        network,
        batches,
        step,
        validate,
        training=settings.training,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        context=context,
        run=run,
        card=network.card(),
        primary="f1_weighted" if settings.choose_by == "f1_weighted" else "minus_loss",
    )


def selecting(
    batches: Batches[dict[str, Any]],
    settings: TrainSettings,
    network: CropNet,
    holdout: HoldoutLosses | None,
    context: DeviceContext,
    run: Run,
) -> Selecting:
    """Batches of the samples that are worth training on."""
    from collections.abc import Mapping

    from torch import Tensor

    from crops_activesampling.loss import CROPS
    from crops_activesampling.scoring import Scorer, needs_forward
    from crops_activesampling.selection import Chooser, Selecting

    chosen, accumulate = settings.selection, settings.training.accumulate

    def amounts(batch: dict[str, Any]) -> dict[str, Tensor]:
        target = batch["targets"][CROPS].flatten(1)
        held = {name: (target == index).sum(1) for index, name in network.class_names.items()}
        if "noisy" in batch:
            held["noisy"] = batch["noisy"].reshape(len(target), -1).sum(1)
        return held

    def log(handed: int, shares: Mapping[str, float]) -> None:
        # Under the step that is going to use them, which a run that is resumed before it writes again.
        run.log(handed // accumulate + 1, shares)

    chooser = Chooser(
        Scorer(network, chosen, context, None if holdout is None else holdout.losses),
        block=chosen.block,
        batches_per_block=chosen.batches_per_block,
        pick=chosen.pick,
        temperature=chosen.temperature,
        seed=settings.training.seed,
        warmup_score=Scorer(network, SelectionSettings(scores={"random": 1.0}), context),
        warmup_batches=chosen.warmup_steps * accumulate,
        forwards=needs_forward(chosen.scores),
        amounts=amounts,
        identity="" if holdout is None else holdout.identity,
    )
    every = max(1, settings.training.log_every * accumulate // chosen.batches_per_block)
    return Selecting(batches, chooser, context=context, log=log, log_every_blocks=every)


def _validation_scores(
    network: CropNet, patches: Patches, *, tiling: TilingSettings, context: DeviceContext
) -> dict[str, float]:
    """Scores over the labelled pixels of whole patches, where anything was observed.

    Returns:
        Those of `scores.scores_of`, and `minus_loss`, the mean logarithm of the probability of the true crop, nats,
        higher is better.
    """
    import numpy as np
    from torch import Tensor

    from crops_activesampling.model import CLASSES, read_window
    from crops_activesampling.scores import confusion, scores_of
    from geocore.datasets.batch import VALID
    from geocore.inference.blend import OverlapBlender
    from geocore.inference.outputs import argmax_labels
    from geocore.inference.tiled import predict_tiles
    from geocore.raster.grid import Window
    from geocore.tiling.tiles import Chunk, TileGrid

    classes = network.head.channels
    matrix, logarithms = np.zeros((classes, classes), np.int64), 0.0
    tiles = TileGrid(size=tiling.size, overlap=tiling.overlap)
    for index in range(len(patches.samples)):
        scene, truth = patches.scene(index), patches.labels(index)

        def count_rows(row: int, rows: dict[str, Tensor], truth: npt.NDArray[np.uint8] = truth) -> None:
            nonlocal matrix, logarithms
            probability, valid = rows[CLASSES].cpu().numpy(), rows[VALID][0].cpu().numpy()
            labels = np.where(valid, truth[row : row + len(valid)], 0)
            matrix = matrix + confusion(labels, argmax_labels(rows[CLASSES]).cpu().numpy() + 1, classes)
            right = np.take_along_axis(probability, np.maximum(labels, 1)[None].astype(np.int64) - 1, 0)[0][labels > 0]
            # A probability that is rounded to 0 must not make the mean infinite.
            logarithms += float(np.log(np.maximum(right.astype(np.float64), 1e-12)).sum())

        chunk = Chunk("all", Window(0, 0, *scene.grid.shape))
        blend = OverlapBlender(chunk, tiles, scene.grid.shape, {CLASSES: classes}, on_rows=count_rows)
        predict_tiles(network.predict, scene, chunk, tiles, blend, read=read_window, context=context)
    return scores_of(matrix) | {"minus_loss": logarithms / max(1, int(matrix.sum()))}
