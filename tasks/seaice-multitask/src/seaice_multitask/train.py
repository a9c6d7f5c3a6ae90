"""Train a network for ice concentration, stage of development and floe size.

uv run seaice-train                                             # built-in sample, CPU, minutes
uv run seaice-train --recipe autoice-winner --data DATASET
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

from geocore.cli.checks import check_prepared
from geocore.cli.main import command
from geocore.settings import check_weights
from seaice_multitask.config import TASK, TrainSettings

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.training.run import Run

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `seaice-train`."""
    command(train, TrainSettings, prog="seaice-train", recipes="seaice_multitask", sample_recipe="sample", resumes=True)


def train(settings: TrainSettings) -> None:
    """Train or resume, then print how to evaluate.

    Raises:
        DataError: the data set is missing, lacks a split or one of the charts asked for.
        RunError: the run folder belongs to other settings or other data.
        SettingsError: the parts of the network do not fit together.
    """
    check_prepared(settings.data, TASK)
    check_weights(settings.model.weights)
    from geocore.device import device_context
    from geocore.report.report import write_report
    from geocore.training.run import Run, default_run_name
    from geocore.training.validation import require_choice
    from seaice_multitask.data import load_dataset, no_choice
    from seaice_multitask.scores import PRIMARY

    with device_context(settings.device, batch_size=settings.training.validation_batch_size) as context:
        if settings.data is None:
            logger.info("no --data: training on the built-in sample")
        if context.is_main:
            load_dataset(settings.data)  # makes the sample once, for all processes
        context.barrier()
        dataset = load_dataset(settings.data)
        problem = no_choice(dataset, settings.outputs)
        require_choice(problem, root=dataset.root, primary=PRIMARY, training=settings.training)
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
                print(run.closing("seaice-evaluate"))


def _fit(settings: TrainSettings, dataset: Dataset, context: DeviceContext, run: Run) -> None:
    from torch import Tensor, nn

    from geocore.datasets.loader import Batches
    from geocore.device import seed_everything
    from geocore.tiling.samplers import RandomWindowSampler
    from geocore.training.fit import fit
    from geocore.transforms.augment import Flip, Rot90, compose
    from seaice_multitask.cutmix import CutMix
    from seaice_multitask.data import PLANES, Scenes, Windows
    from seaice_multitask.loss import output_losses
    from seaice_multitask.mapping import scene_counts
    from seaice_multitask.model import build_model
    from seaice_multitask.scores import PRIMARY, named, total
    from seaice_multitask.vectors import Winds

    seed_everything(settings.training.seed)
    network = build_model(dataset, settings)
    names = tuple(settings.outputs)
    windows, held_out = Windows(dataset, "train", names), Scenes(dataset, "val", names)
    chosen = settings.augmentation
    # A mirror image half of the time and a quarter turn make all eight positions equally frequent.
    moves = [Flip(0.5, 0.0), Rot90()] if chosen.turn else []
    bands = dataset.layers[PLANES].bands
    winds = Winds(bands)
    augment = compose([*moves, CutMix(chosen.cutmix)], seed=settings.training.seed, bands={PLANES: bands})

    def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        given = batch["inputs"][PLANES]
        # Winds turn in m/s: standardised ones are off by their mean.
        moved = augment(batch | {"inputs": {PLANES: given | {"values": winds.physical(given["values"])}}})
        planes = moved["inputs"][PLANES]
        planes = network.planes({PLANES: planes | {"values": winds.standardised(planes["values"])}})
        return output_losses(model(planes), moved["targets"], settings.outputs)

    def validate(model: nn.Module) -> dict[str, float]:
        return named(total(scene_counts(network, held_out, tiling=settings.tiling, context=context)))

    sampler = RandomWindowSampler(
        windows.shapes, int(dataset.protocol["patch"] or 0), settings.patches_per_epoch, seed=settings.training.seed
    )
    batches = Batches(
        sampler,
        windows.read,
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
        drawn_apart=["the partners of CutMix"] if settings.augmentation.cutmix else [],
    )
