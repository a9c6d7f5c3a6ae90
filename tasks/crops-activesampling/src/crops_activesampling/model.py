"""The network: a U-Net on stacked dates or ConvSTAR, with the normalization that belongs to it.

Class 0, "nothing to be learnt here", is never predicted: channel 0 of the logits is class 1.

Shape letters: B batch, T period, C band, H and W rows and columns of the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as functional
from pydantic import ValidationError
from torch import Tensor, nn

from crops_activesampling.config import TASK, ModelSettings, periods_of
from crops_activesampling.convstar import ConvStar
from crops_activesampling.loss import CROPS, UNLABELLED, class_pixels
from crops_activesampling.unet import unet
from geocore.datasets.batch import VALID
from geocore.errors import CheckpointError, DataError, SettingsError, WeightsError
from geocore.inference.blend import OutputHead
from geocore.raster.scene import Layer, Patch
from geocore.training.pretrained import load_strictly
from geocore.transforms.normalize import Normalize

if TYPE_CHECKING:
    from crops_activesampling.config import TrainSettings
    from geocore.datasets.dataset import Dataset
    from geocore.raster.grid import Window
    from geocore.raster.scene import Scene
    from geocore.training.checkpoint import Checkpoint

MEDIANS: Final = "medians"
CLASSES: Final = "classes"


class CropNet(nn.Module):
    """Composites of several periods in, logits of every crop out."""

    scale: Tensor

    def __init__(
        self,
        normalize: Normalize,
        layer: Layer,
        class_names: Mapping[int, str],
        model: ModelSettings,
        protocol: Mapping[str, Any],
    ) -> None:
        """Build it with random weights.

        Args:
            normalize: normalizes the layer `medians`, in stored units.
            layer: bands and periods as they are stored, all of them.
            class_names: index, from 1, and name of each crop.
            model: kind and size, and the periods that are seen.
            protocol: of the data set: how the composites were made.

        Raises:
            SettingsError: a period does not exist, the encoder is unknown, or there are less than two crops.
        """
        super().__init__()
        if len(class_names) < 2:
            raise SettingsError(f"{len(class_names)} crops: a map needs two or more; take another label encoder")
        periods = periods_of(model.months)
        if max(periods) > len(layer.times):
            raise SettingsError(
                f"model.months {model.months}: the composites have the periods 1 to {len(layer.times)}; give some of "
                "these"
            )
        self.normalize = normalize
        self.layer, self.class_names, self.model = layer, dict(class_names), model
        self.protocol = dict(protocol)
        self.periods = tuple(periods)
        """Periods that are seen, from 1, in the order in which they are."""
        scales = torch.tensor([band.scale for band in layer.bands.bands])
        self.register_buffer("scale", scales[:, None, None], persistent=False)
        bands, classes = normalize.channels(MEDIANS), len(class_names)
        self.body: nn.Module
        if model.kind == "convstar":
            self.body = ConvStar(bands, classes, hidden=model.hidden, layers=model.layers)
            self._multiple = 1
        else:
            self.body = unet(model, bands * len(periods), classes)
            self._multiple = 2**model.depth

    @property
    def head(self) -> OutputHead:
        """Channels and kind of the output, as blending wants to know them; channel 0 is class 1."""
        return OutputHead(len(self.class_names), "classes")

    def card(self) -> dict[str, Any]:
        """What a checkpoint says about the network, so that `restore_model` can build it again."""
        return {
            "model": self.model.model_dump(mode="json"),
            "classes": {str(index): name for index, name in self.class_names.items()},
            "ignore": UNLABELLED,
            "layer": self.layer.to_dict(),
            "units": "DN",
            "protocol": self.protocol,
            "normalize": self.normalize.card(),
        }

    def images(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """What `forward` takes; training augments between the two.

        Args:
            inputs: layer `medians` with `values`, shape (B, T, C, H, W), of all periods of the layer or of those that
                are seen: DN as floating point, or integers as they are stored (2 x DN), anything where invalid. And
                `valid`, bool, of the same shape or with a band axis of 1.

        Returns:
            Shape (B, T * C, H, W), float32, normalized, all bands of the first period first, 0 where a period lacks
            any band.
        """
        values, valid = self._seen(inputs)
        if values.is_floating_point():
            # Statistics are those of stored numbers; the scale is 0.5, so nothing is rounded.
            values = values.float() / self.scale
        images: Tensor = self.normalize({MEDIANS: {"values": values, "valid": valid}})[MEDIANS]
        return images

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of any size.

        Args:
            images: of `images`.

        Returns:
            Shape (B, n, H, W); channel 0 is class 1.

        Raises:
            SettingsError: one pixel is left at the deepest level in training, and the batch has only one window.
        """
        rows, cols = images.shape[-2:]
        # Zeros, as where nothing is observed; only below and to the right, so that no pixel moves.
        padded = functional.pad(images, (0, -cols % self._multiple, 0, -rows % self._multiple))
        try:
            logits: Tensor = self.body(padded)[..., :rows, :cols]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise SettingsError(
                "training.batch_size 1: batch normalization needs 2 or more where one pixel is left; take 2, or larger "
                "windows"
            ) from error
        return logits

    def predict(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Crop probabilities of windows as they are read.

        Args:
            inputs: as for `images`.

        Returns:
            `classes`: shape (B, n, H, W), float32, probability 0-1, channel 0 is class 1. `valid`: shape (B, 1, H, W),
            bool, where all bands of any period that is seen are.
        """
        _, valid = self._seen(inputs)
        return {CLASSES: self.head.activate(self(self.images(inputs))), VALID: valid.any(dim=1)}

    def _seen(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
        """Values of the periods that are seen, and where all bands of each are valid, shape (B, T, 1, H, W)."""
        values, valid = inputs[MEDIANS]["values"], inputs[MEDIANS]["valid"].all(dim=-3, keepdim=True)
        given, stored = values.shape[1], len(self.layer.times)
        if given not in (stored, len(self.periods)):
            raise ValueError(f"composites of {given} periods: must be all {stored}, or the {len(self.periods)} seen")
        if given == stored and self.periods != tuple(range(1, stored + 1)):
            chosen = [period - 1 for period in self.periods]
            values, valid = values[:, chosen], valid[:, chosen]
        return values, valid


def build_model(dataset: Dataset, settings: TrainSettings) -> CropNet:
    """A network for a data set; it says at first what the shares of the crops are.

    Args:
        dataset: prepared; its statistics normalize the composites.
        settings: model, and the split that is trained on.

    Raises:
        DataError: the data set has no composites with statistics, or nothing to train on.
        SettingsError: a period does not exist, the encoder is unknown, or there are less than two crops.
    """
    layer = dataset.layers.get(MEDIANS)
    if layer is None or not layer.times or dataset.statistics is None or CROPS not in dataset.labels:
        raise DataError(f"{dataset.root}: has no labelled composites with statistics: prepare it with crops-prepare")
    network = CropNet(
        # Clouds that no mask took out lie many standard deviations off and would rule the batch statistics.
        Normalize(dataset.statistics, {MEDIANS: layer.bands}, clip=(1.0, 99.0)),
        layer,
        class_names(dataset),
        settings.model,
        dataset.protocol,
    )
    start_at_shares(network, class_pixels(dataset, training_split(settings)))
    return network


def training_split(settings: TrainSettings) -> str:
    """The split that is trained on."""
    return "val" if settings.swap else "train"


def validation_split(settings: TrainSettings) -> str:
    """The split that the best checkpoint is chosen on."""
    return "train" if settings.swap else "val"


def class_names(dataset: Dataset) -> dict[int, str]:
    """Index, from 1, and name of the crops of a data set."""
    return {index: name for index, name in sorted(dataset.labels[CROPS].classes.items()) if index != UNLABELLED}


def read_window(scene: Scene, window: Window) -> dict[str, Patch]:
    """Read a tile as the network takes it.

    Args:
        scene: with the layer `medians`, as stored.
        window: may reach outside.

    Returns:
        `medians`: values of shape (T, C, H, W), float32, DN, and where they are valid.

    Raises:
        SceneError: the scene cannot be read.
    """
    stored = scene.read_layers(window, [MEDIANS])[MEDIANS]
    scales = np.array([band.scale for band in scene.layers[MEDIANS].bands], np.float32)[:, None, None]
    return {MEDIANS: Patch(stored.values.astype(np.float32) * scales, stored.valid)}


def start_at_shares(network: CropNet, pixels: Tensor) -> None:
    """Set the biases of the last layer to log f / (1 - f), so that the first steps need not learn what is frequent.

    Args:
        network: is changed.
        pixels: shape (n,), labelled pixels of each class.
    """
    # A class that is not there, or alone, counts as one pixel off: its odds would be infinite.
    total = max(2, int(pixels.sum()))
    shares = pixels.clamp(1, total - 1).double() / total
    body: Any = network.body
    last: Any = body.last if isinstance(body, ConvStar) else body.segmentation_head[0]
    with torch.no_grad():
        last.bias.copy_(torch.log(shares / (1 - shares)))


def restore_model(checkpoint: Checkpoint) -> CropNet:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the checkpoint is not one of this task, or does not fit the network that its card describes.
    """
    card = checkpoint.card
    if card.get("task") != TASK:
        raise CheckpointError(f"{checkpoint.path} belongs to the task {card.get('task')!r}: give a run of {TASK}-train")
    try:
        layer = Layer.from_dict(MEDIANS, card["layer"])
        network = CropNet(
            Normalize.from_card(card["normalize"], {MEDIANS: layer.bands}),
            layer,
            {int(index): str(name) for index, name in card["classes"].items()},
            ModelSettings.model_validate(card["model"]),
            card["protocol"],
        )
        load_strictly(network, checkpoint.model(), checkpoint.path)
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError, DataError, SettingsError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{checkpoint.path}: its card does not describe a network ({reason}); train again"
        ) from error
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    return network.eval()
