"""The baselines: thresholds on a water or burn index, and a U-Net without pre-training.

Otsu's threshold is fitted to the training images alone, the tuned one to the labels of validation. The U-Net of
segmentation-models-pytorch sees the same windows with the same changes under the same loss as Prithvi, and is trained
by the same loop, once, in the folder `baseline` of the run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import torch.nn.functional as functional
from torch import Tensor, nn

from floods_prithvi.chip_reader import IMAGE
from floods_prithvi.indices import IndexName, IndexThreshold
from floods_prithvi.loss import pixel_loss
from floods_prithvi.mapping import chip_counts
from floods_prithvi.model import CLASSES, class_names
from floods_prithvi.scores import named, primary, total
from geocore.datasets.batch import VALID
from geocore.inference.blend import OutputHead
from geocore.metrics.confusion import Confusion
from geocore.transforms.normalize import Normalize

if TYPE_CHECKING:
    from floods_prithvi.config import TrainSettings
    from floods_prithvi.data import Chips
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.raster.scene import Layer

INDICES: Final[Mapping[str, tuple[IndexName, ...]]] = MappingProxyType(
    {"sen1floods11": ("mndwi", "ndwi"), "burn-scars": ("nbr",)}
)
"""Format of a data set -> what its class 1 can be told by."""

_MULTIPLE_PX = 32
"""The encoder halves a tile five times."""

logger = logging.getLogger(__name__)


class UNet(nn.Module):
    """U-Net with its normalization; the dates of an image are further channels."""

    def __init__(self, normalize: Normalize, layer: Layer, encoder: str, classes: int) -> None:
        """Build it with random weights.

        Args:
            normalize: normalizes the layer `image`.
            layer: bands, and dates where there are several.
            encoder: name of an encoder of segmentation-models-pytorch.
            classes: number of classes.
        """
        import segmentation_models_pytorch

        super().__init__()
        self.normalize = normalize
        self.head = OutputHead(classes, "classes")
        channels = normalize.channels(IMAGE) * max(1, len(layer.times))
        self.unet = segmentation_models_pytorch.Unet(
            encoder, encoder_weights=None, in_channels=channels, classes=classes
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalized tiles of any size.

        Args:
            images: shape (batch, date * band, row, col), float32.

        Returns:
            Shape (batch, class, row, col), float32.
        """
        rows, cols = images.shape[-2:]
        padded = functional.pad(images, (0, -cols % _MULTIPLE_PX, 0, -rows % _MULTIPLE_PX))
        logits: Tensor = self.unet(padded)
        return logits[..., :rows, :cols]

    def predict(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        dates: Tensor | None = None,
        places: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Class probabilities of tiles as they are read; dates and places are not looked at."""
        valid = inputs[IMAGE]["valid"]
        probability = self.head.activate(self(self.normalize(inputs)[IMAGE]))
        return {CLASSES: probability, VALID: valid.flatten(1, -3).all(dim=1, keepdim=True)}


def index_counts(home: Dataset, chips: Chips) -> dict[str, list[Confusion]]:
    """Counts of every chip by each index that suits the data set, with Otsu's and with the tuned threshold.

    Args:
        home: that the run was trained on; gives the thresholds.
        chips: to be scored, of two classes; their image has the bands of `home`.

    Returns:
        Name of the baseline -> counts; nothing where there are not two classes, several dates, or no index is known.

    Raises:
        DataError: `home` lacks a split.
        SceneError: a chip cannot be read.
    """
    from floods_prithvi.data import Chips

    if len(class_names(home)) != 2 or home.layers[IMAGE].times:
        return {}
    found = {}
    for index in INDICES.get(str(home.protocol.get("format")), ()):
        fitted = {
            "Otsu": IndexThreshold.by_otsu(index, Chips(home, "train")),
            "tuned": IndexThreshold.tuned(index, Chips(home, "val")),
        }
        for way, threshold in fitted.items():
            logger.info("%s %s: threshold %.3f", index.upper(), way, threshold.value)
            found[f"{index.upper()} {way}"] = threshold.counts(chips)
    return found


def unet_counts(
    settings: TrainSettings, home: Dataset, chips: Chips, folder: Path, context: DeviceContext
) -> dict[str, list[Confusion]]:
    """Counts of every chip by the U-Net, trained where it is not yet.

    Args:
        settings: of the run.
        home: that the run was trained on.
        chips: to be scored.
        folder: run folder of the U-Net.
        context: device and precision.

    Raises:
        DataError: `home` lacks a split.
        RunError: another process is training it.
    """
    network = train_unet(settings, home, folder, context)
    return {"U-Net": chip_counts(network, chips, tiling=settings.tiling, context=context)}


def train_unet(settings: TrainSettings, dataset: Dataset, folder: Path, context: DeviceContext) -> UNet:
    """Train the U-Net, or go on, or read it where it is finished; in evaluation mode, on the context's device.

    Args:
        settings: of the run, with `baseline.steps` above 0.
        dataset: that the run was trained on.
        folder: run folder of the U-Net.
        context: device and precision.

    Raises:
        DataError: the data set lacks a split.
        RunError: another process is training it.
    """
    from floods_prithvi.data import Chips, Windows
    from geocore.datasets.loader import Batches
    from geocore.device import seed_everything
    from geocore.settings import OptimizerSettings, ScheduleSettings, TrainingSettings
    from geocore.training.checkpoint import load_checkpoint
    from geocore.training.fit import fit
    from geocore.training.pretrained import load_strictly
    from geocore.training.run import baseline_run
    from geocore.transforms.augment import Augmentation, Flip, Rot90, compose

    seed, chosen = settings.training.seed, settings.baseline
    seed_everything(seed)
    assert dataset.statistics is not None
    assert chosen.steps > 0
    names, layer = class_names(dataset), dataset.layers[IMAGE]
    leading = primary(names)
    normalize = Normalize(dataset.statistics, {IMAGE: layer.bands})
    network = UNet(normalize, layer, chosen.encoder, len(names))
    windows, held_out = Windows(dataset, "train"), Chips(dataset, "val")
    turns: list[Augmentation] = [Rot90()] if settings.augmentation.turn else []
    augment = compose([Flip(settings.augmentation.flip, settings.augmentation.flip), *turns], seed=seed)

    def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        moved = augment({name: batch[name] for name in ("inputs", "targets", "keys")})
        logits = model(normalize(moved["inputs"])[IMAGE])
        return {"loss": pixel_loss(logits, moved["targets"]["mask"], settings.loss)}

    def validate(model: nn.Module) -> dict[str, float]:
        scores = named(total(chip_counts(network, held_out, tiling=settings.tiling, context=context)), names)
        # NaN, where class 1 is neither there nor found, would leave no best checkpoint.
        return scores | {leading: 0.0 if math.isnan(scores[leading]) else scores[leading]}

    rhythm = -(-chosen.steps // 4)
    training = TrainingSettings(
        steps=chosen.steps,
        batch_size=chosen.batch_size,
        validate_every=rhythm,
        checkpoint_every=rhythm,
        seed=seed,
    )
    # An epoch of fewer draws than a batch would be empty.
    draws = max(settings.patches_per_epoch, chosen.batch_size)
    batches = Batches(
        windows.sampler(settings, draws=draws, batch_size=chosen.batch_size),
        windows.read,
        batch_size=chosen.batch_size,
        threads=settings.loader.threads,
        pin_memory=context.device.type == "cuda",
    )
    with baseline_run(folder, settings=settings, data_hash=dataset.hash, task="floods-baseline") as run:
        if not run.finished:
            logger.info("training the baseline, a U-Net, for %d steps, once", chosen.steps)
            fit(
                network,
                batches,
                step,
                validate,
                training=training,
                optimizer=OptimizerSettings(learning_rate=chosen.learning_rate),
                schedule=ScheduleSettings(warmup_steps=min(10, chosen.steps // 10)),
                context=context,
                run=run,
                card={},
                primary=leading,
                label="training the U-Net",
            )
        checkpoint = load_checkpoint(run.checkpoints, "best")
        load_strictly(network, checkpoint.model(), checkpoint.path)
    return context.prepare(network).eval()
