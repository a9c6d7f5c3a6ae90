"""Train a boundary network on photographs with layer masks.

uv run snowpack-train                                     # built-in sample, CPU, minutes
uv run snowpack-train --data DATASET --recipe photos --model.weights official
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from geocore.cli.checks import check_prepared
from geocore.cli.main import command
from geocore.settings import check_weights
from snowpack_sam2.config import TASK, TrainSettings

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.training.run import Run

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `snowpack-train`."""
    command(train, TrainSettings, prog="snowpack-train", recipes="snowpack_sam2", sample_recipe="sample", resumes=True)


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
    from snowpack_sam2.data import load_dataset, no_choice
    from snowpack_sam2.scores import PRIMARY

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
                print(run.closing("snowpack-evaluate"))


def _fit(settings: TrainSettings, dataset: Dataset, context: DeviceContext, run: Run) -> None:
    from torch import Tensor, nn

    from geocore.datasets.loader import Batches
    from geocore.device import seed_everything
    from geocore.tiling.samplers import window_sampler
    from geocore.training.fit import fit
    from geocore.transforms.augment import Bias, Flip, Gain, Noise, compose
    from snowpack_sam2.data import PHOTO, Photos
    from snowpack_sam2.loss import boundary_loss
    from snowpack_sam2.model import build_model
    from snowpack_sam2.predict import map_photos
    from snowpack_sam2.scores import PRIMARY, choose_threshold

    seed_everything(settings.training.seed)
    network = build_model(dataset, settings.model)
    photos, held_out = Photos(dataset, "train", cache=settings.cache), Photos(dataset, "val", cache=settings.cache)
    chosen = settings.augmentation
    augment = compose(
        [Flip(chosen.mirror, 0.0), Gain(1 - chosen.gain, 1 + chosen.gain), Bias(chosen.bias), Noise(chosen.noise)],
        seed=settings.training.seed,
    )

    def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        inputs = batch["inputs"]
        tiles = {"inputs": network.normalize(inputs), "valid": network.normalize.masks(inputs)}
        tiles = augment(tiles | {"targets": batch["targets"], "keys": batch["keys"]})
        return boundary_loss(model(tiles["inputs"][PHOTO]), tiles["targets"]["boundary"], settings.loss)

    def validate(model: nn.Module) -> dict[str, float]:
        mapped = list(map_photos(network, held_out, tiling=settings.tiling, context=context))
        threshold, scores = choose_threshold(mapped)
        return scores | {"threshold": threshold}

    sampler = window_sampler(
        settings.sampling,
        photos.shapes,
        settings.tiling.size,
        settings.patches_per_epoch,
        seed=settings.training.seed,
        batch_size=settings.training.batch_size,
        overlap=settings.tiling.overlap,
        stored=partial(photos.scene, stored=True),
    )
    batches = Batches(
        sampler,
        photos.read,
        batch_size=settings.training.batch_size,
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
    )
