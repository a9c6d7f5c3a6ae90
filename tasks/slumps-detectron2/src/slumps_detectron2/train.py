"""Train a Mask R-CNN that finds slumps.

uv run slumps-train                                   # built-in sample, CPU, minutes
uv run slumps-train --data DATASET --recipe scenes
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

from geocore.cli.checks import check_prepared
from geocore.cli.main import command
from geocore.settings import check_weights
from slumps_detectron2.config import TASK, TrainSettings

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.training.run import Run

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `slumps-train`."""
    command(
        train, TrainSettings, prog="slumps-train", recipes="slumps_detectron2", sample_recipe="sample", resumes=True
    )


def train(settings: TrainSettings) -> None:
    """Train or resume, then print how to evaluate.

    Raises:
        DataError: the data set is missing or lacks a split.
        RunError: the run folder belongs to other settings or other data.
        WeightsError: the pretrained weights do not fit.
    """
    check_prepared(settings.data, TASK)
    check_weights(settings.model.weights)
    from geocore.device import device_context
    from geocore.report.report import write_report
    from geocore.training.run import Run, default_run_name
    from geocore.training.validation import require_choice
    from slumps_detectron2.data import load_dataset, no_choice
    from slumps_detectron2.scores import PRIMARY

    with device_context(settings.device, batch_size=settings.training.validation_batch_size) as context:
        if settings.data is None:
            logger.info("no --data: training on the built-in sample")
        if context.is_main:
            load_dataset(settings.data)  # makes the sample once, for all processes
        context.barrier()
        dataset = load_dataset(settings.data)
        require_choice(no_choice(dataset), root=dataset.root, primary=PRIMARY, training=settings.training)
        folder = settings.run or default_run_name(TASK, settings.recipe or "custom", settings, dataset.hash)
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
                _fit(settings, dataset, context, run)
            if context.is_main:
                write_report(run.folder)  # of a finished run too: a kill may have come before its report
                print(run.closing("slumps-evaluate"))


def _fit(settings: TrainSettings, dataset: Dataset, context: DeviceContext, run: Run) -> None:
    from torch import Tensor, nn

    from geocore.datasets.loader import Batches
    from geocore.device import seed_everything
    from geocore.tiling.samplers import GridSampler
    from geocore.training.fit import fit
    from geocore.transforms.augment import compose
    from slumps_detectron2.data import IMAGE, Areas, Tiles, class_values, collate
    from slumps_detectron2.loss import detection_losses
    from slumps_detectron2.mapping import map_areas
    from slumps_detectron2.model import build_model
    from slumps_detectron2.scores import PRIMARY, all_scores, choose_threshold
    from slumps_detectron2.tiling_rules import CutRule

    seed_everything(settings.training.seed)
    network = build_model(dataset, settings.model, tile_px=CutRule.of(dataset).tile_px)
    tiles, held_out = Tiles(dataset, "train", cache=settings.cache), Areas(dataset, "val", cache=settings.cache)
    augment = compose(augmentations(settings), seed=settings.training.seed)

    def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        inputs = batch["inputs"]
        tile = {"inputs": network.normalize(inputs), "valid": network.normalize.masks(inputs)}
        tile = augment(tile | {"targets": batch["targets"], "keys": batch["keys"]})
        objects = tile["targets"]["objects"]
        return detection_losses(model(tile["inputs"][IMAGE], objects), len(objects), settings.loss)

    def validate(model: nn.Module) -> dict[str, float]:
        mapped = list(map_areas(network, held_out, tiling=settings.tiling, context=context))
        threshold = settings.score_threshold or choose_threshold(mapped)
        return all_scores(mapped, threshold, class_values(dataset)) | {"threshold": threshold}

    batches = Batches(
        GridSampler(tiles.windows, seed=settings.training.seed),
        tiles.read,
        batch_size=settings.training.batch_size,
        collate=collate,
        rank=context.rank,
        world_size=context.world_size,
        threads=settings.loader.threads,
        pin_memory=context.device.type == "cuda",
    )
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
        primary=PRIMARY,
        drawn_apart=["the proposals that losses look at"],
    )


def augmentations(settings: TrainSettings) -> list[Any]:
    """The changes to training tiles, for the network and its baseline alike."""
    from geocore.transforms.augment import Augmentation, Bias, Flip, Gain, Noise, Rot90

    chosen = settings.augmentation
    # A mirror image half of the time and a quarter turn make all eight positions equally frequent.
    moves: list[Augmentation] = [Flip(0.5, 0.0), Rot90()] if chosen.turn else []
    return [*moves, Gain(1 - chosen.gain, 1 + chosen.gain), Bias(chosen.bias), Noise(chosen.noise)]
