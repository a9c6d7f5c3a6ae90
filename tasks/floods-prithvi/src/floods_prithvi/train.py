"""Fine-tune a Prithvi backbone with a small head.

uv run floods-train                                             # built-in sample, CPU, minutes
uv run floods-train --recipe sen1floods11 --data DATASET --model.weights Prithvi_100M.pt
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn

from floods_prithvi.config import TASK, TrainSettings
from geocore.cli.checks import check_prepared
from geocore.cli.main import command
from geocore.settings import check_weights

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.training.run import Run

logger = logging.getLogger(__name__)


def main() -> NoReturn:
    """Entry point of `floods-train`."""
    command(train, TrainSettings, prog="floods-train", recipes="floods_prithvi", sample_recipe="sample", resumes=True)


def train(settings: TrainSettings) -> None:
    """Train or resume, then print how to evaluate.

    Raises:
        DataError: the data set is missing or lacks a split.
        RunError: the run folder belongs to other settings or other data.
        SettingsError: the parts of the network do not fit the data.
        WeightsError: the weights cannot be read safely or do not fit.
    """
    check_prepared(settings.data, TASK)
    check_weights(settings.model.weights)
    from floods_prithvi.data import class_pixels, load_dataset, no_choice
    from floods_prithvi.model import class_names
    from floods_prithvi.scores import primary
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
        problem, leading = no_choice(dataset), primary(class_names(dataset))
        require_choice(problem, root=dataset.root, primary=leading, training=settings.training)
        blind = unseen("val", class_pixels(dataset, "val"), class_pixels(dataset, "train"))
        if problem is None and blind is not None:
            logger.info("%s", blind)
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
                print(run.closing("floods-evaluate"))


def _fit(settings: TrainSettings, dataset: Dataset, context: DeviceContext, run: Run) -> None:
    from torch import Tensor, nn

    from floods_prithvi.data import Chips, Windows
    from floods_prithvi.loss import pixel_loss
    from floods_prithvi.mapping import chip_counts
    from floods_prithvi.model import AUXILIARY, CLASSES, build_model, parameter_groups
    from floods_prithvi.scores import named, primary, total
    from geocore.datasets.loader import Batches
    from geocore.device import seed_everything
    from geocore.training.fit import fit
    from geocore.transforms.augment import Augmentation, Flip, Rot90, compose

    seed_everything(settings.training.seed)
    network, table = build_model(dataset, settings)
    if table is not None and context.is_main:
        print(table.text())
    windows, held_out = Windows(dataset, "train", cache=settings.cache), Chips(dataset, "val", cache=settings.cache)
    chosen = settings.augmentation
    moves: list[Augmentation] = [Flip(chosen.flip, chosen.flip), *([Rot90()] if chosen.turn else [])]
    augment = compose(moves, seed=settings.training.seed)

    def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        moved = augment({name: batch[name] for name in ("inputs", "targets", "keys")})
        outputs = model(network.images(moved["inputs"]), batch["dates"], batch["places"])
        target = moved["targets"]["mask"]
        losses = {"loss": pixel_loss(outputs[CLASSES], target, settings.loss)}
        if AUXILIARY in outputs:
            amount, count = pixel_loss(outputs[AUXILIARY], target, settings.loss)
            losses["auxiliary_loss"] = (settings.model.auxiliary * amount, count)
        return losses

    def validate(model: nn.Module) -> dict[str, float]:
        counts = chip_counts(network, held_out, tiling=settings.tiling, context=context)
        return named(total(counts), network.class_names)

    batches = Batches(
        windows.sampler(settings, draws=settings.patches_per_epoch, batch_size=settings.training.batch_size),
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
        primary=primary(network.class_names),
        parameter_groups=parameter_groups(network, settings),
    )
