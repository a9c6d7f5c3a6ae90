"""The network: Prithvi, a head on its tokens, and the normalization that belongs to them.

Parts are called as in the published checkpoints (`backbone`, `neck`, `decode_head`, `auxiliary_head`), so that these
load as they are.

Shape letters: B batch, T date, C band, H and W rows and columns of the tile.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from pydantic import ValidationError
from torch import Tensor, nn

from floods_prithvi.backbone import Prithvi
from floods_prithvi.chip_reader import IMAGE
from floods_prithvi.config import TASK, ModelSettings
from floods_prithvi.heads import FcnHead, Neck, UnetHead, tokens_to_image
from floods_prithvi.variants import VARIANTS
from floods_prithvi.windows import stored_of
from geocore.datasets.batch import VALID
from geocore.datasets.shift import TrainedOn
from geocore.errors import CheckpointError, DataError, SettingsError, WeightsError
from geocore.inference.blend import OutputHead
from geocore.raster.declarations import Declaration
from geocore.raster.scene import Layer
from geocore.training.pretrained import load_strictly
from geocore.transforms.normalize import Normalize

if TYPE_CHECKING:
    from floods_prithvi.config import TrainSettings
    from floods_prithvi.pretrained import LoadTable
    from geocore.datasets.dataset import Dataset
    from geocore.training.checkpoint import Checkpoint

CLASSES = "classes"
AUXILIARY = "auxiliary"

#: Of the released models.
_HEAD_CHANNELS = 256


@dataclass(frozen=True, slots=True)
class Stored:
    """How files hold reflectance, stored number * scale + offset, that do not say so themselves."""

    scale: float
    offset: float
    nodata: float | None
    """Stored number of missing pixels; None: no number."""

    @classmethod
    def of(cls, dataset: Dataset) -> Stored:
        """As the chips of a data set do."""
        given, usual = stored_of(dataset.protocol)
        held = given.before(usual)
        return cls(held.scale or 1.0, held.offset or 0.0, held.nodata)

    @property
    def declaration(self) -> Declaration:
        """What counts where a scene says nothing."""
        return Declaration(self.nodata, self.scale, self.offset, by="training data")


class FloodNet(nn.Module):
    """Reflectance in, logits of every class out."""

    def __init__(
        self,
        normalize: Normalize,
        layer: Layer,
        class_names: Mapping[int, str],
        model: ModelSettings,
        stored: Stored,
    ) -> None:
        """Build it with random weights.

        Args:
            normalize: normalizes the layer `image`.
            layer: bands, and dates where there are several.
            class_names: index, from 0, and name of each class.
            model: backbone and head.
            stored: how the chips held reflectance; scenes to be mapped are taken to do the same.

        Raises:
            SettingsError: the variant takes no coordinates.
        """
        super().__init__()
        spec = VARIANTS[model.variant]
        self.normalize = normalize
        self.layer, self.class_names, self.model = layer, dict(class_names), model
        self.stored = stored
        self.frames = max(1, len(layer.times))
        self.backbone = Prithvi(spec, frames=self.frames, coordinates=model.coordinates, positions=model.positions)
        classes = len(class_names)
        self.neck: Neck | None = None
        self.auxiliary_head: FcnHead | None = None
        width = spec.dim * self.frames
        if model.head == "fcn":
            self.neck = Neck(width)
            self.decode_head: FcnHead | UnetHead = FcnHead(
                width, _HEAD_CHANNELS, convs=1, classes=classes, dropout=model.dropout
            )
            if model.auxiliary:
                self.auxiliary_head = FcnHead(width, _HEAD_CHANNELS, convs=2, classes=classes, dropout=model.dropout)
        else:
            self.decode_head = UnetHead(width, classes=classes, dropout=model.dropout)
        # Blocks whose tokens the head reads.
        self._taps = spec.taps if self.neck is None else (spec.depth - 1,)
        if model.freeze:
            self.backbone.requires_grad_(False)

    @property
    def head(self) -> OutputHead:
        """Channels and kind of the output, as blending wants to know them."""
        return OutputHead(len(self.class_names), "classes")

    @property
    def trained_on(self) -> TrainedOn:
        """What the numbers of its training data were."""
        return TrainedOn.of(self.normalize.card()["layers"][IMAGE], self.layer, "training chips")

    def card(self) -> dict[str, Any]:
        """What a checkpoint says about the network, so that `restore_model` can build it again."""
        return {
            # Where the first weights came from is of no use to others.
            "model": self.model.model_dump(mode="json", exclude={"weights"}),
            "classes": {str(index): name for index, name in self.class_names.items()},
            "layer": self.layer.to_dict(),
            "units": "reflectance",
            "stored": dataclasses.asdict(self.stored),
            "normalize": self.normalize.card(),
        }

    def images(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """What `forward` takes; training augments between the two.

        Args:
            inputs: layer `image` with `values`, shape (B, C, H, W), or (B, T, C, H, W) with several dates, float32,
                reflectance, anything where invalid, and `valid`, bool, with one band.

        Returns:
            Shape (B, T * C, H, W), float32, normalized, all bands of the first date first, 0 where invalid.
        """
        images: Tensor = self.normalize(inputs)[IMAGE]
        return images

    def forward(self, images: Tensor, dates: Tensor | None = None, places: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of a batch of any size.

        Args:
            images: of `images`.
            dates: shape (B, T, 2), float32: year, and day of the year from 0; None or NaN: unknown.
            places: shape (B, 2), float32: latitude and longitude, degrees; None or NaN: unknown.

        Returns:
            `classes`, shape (B, class, H, W), float32; in training also `auxiliary` where there is that head.
        """
        size = images.shape[-2:]
        resized = self.model.resize_px
        if resized is not None and tuple(size) != (resized, resized):
            images = functional.interpolate(images, (resized, resized), mode="bilinear", align_corners=False)
        rows, cols = images.shape[-2:]
        frames = images.reshape(len(images), self.frames, -1, rows, cols).transpose(1, 2)
        tokens = self.backbone(frames, dates, places, taps=self._taps)
        _, down, across = self.backbone.grid_of(rows, cols)
        patch = self.backbone.patch_px
        features = [tokens_to_image(part, self.frames, down, across) for part in tokens]
        heads: dict[str, nn.Module] = {CLASSES: self.decode_head}
        if self.auxiliary_head is not None and self.training:
            heads[AUXILIARY] = self.auxiliary_head
        given: Any = self.neck(features[0]) if self.neck is not None else features
        outputs = {}
        for name, head in heads.items():
            logits = head(given)
            # The network saw the tile padded to whole patches: at full size, cut to the tile.
            whole = (down * patch, across * patch)
            if logits.shape[-2:] != whole:
                logits = functional.interpolate(logits, whole, mode="bilinear", align_corners=False)
            logits = logits[..., :rows, :cols]
            if logits.shape[-2:] != size:
                logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
            outputs[name] = logits
        return outputs

    def predict(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        dates: Tensor | None = None,
        places: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Class probabilities of tiles as they are read.

        Args:
            inputs: as for `images`.
            dates: as for `forward`.
            places: as for `forward`.

        Returns:
            `classes`: shape (B, class, H, W), float32, 0-1. `valid`: shape (B, 1, H, W), bool, where all dates are.
        """
        logits = self(self.images(inputs), dates, places)[CLASSES]
        valid = inputs[IMAGE]["valid"]
        masked = valid.all(dim=-3, keepdim=True)
        return {CLASSES: self.head.activate(logits), VALID: masked.all(dim=1) if masked.ndim == 5 else masked}


def build_model(dataset: Dataset, settings: TrainSettings) -> tuple[FloodNet, LoadTable | None]:
    """A network for a data set, and what became of the weights it was given.

    Args:
        dataset: prepared; its statistics normalize the images.
        settings: model and weights.

    Raises:
        DataError: the data set has no statistics.
        SettingsError: the loss has weights for another number of classes, or the model's parts do not fit.
        WeightsError: the weights cannot be read safely or do not fit.
    """
    from floods_prithvi.pretrained import import_weights

    layer = dataset.layers.get(IMAGE)
    if layer is None or dataset.statistics is None:
        raise DataError(
            f"{dataset.root}: has no chips to train on, and so no statistics: prepare it with lists of them"
        )
    names = class_names(dataset)
    weights = settings.loss.class_weights
    if weights is not None and len(weights) != len(names):
        raise SettingsError(
            f"loss.class_weights: {len(weights)} weights for {len(names)} classes ({', '.join(names.values())}): "
            "give one for each"
        )
    normalize = Normalize(dataset.statistics, {IMAGE: layer.bands})
    network = FloodNet(normalize, layer, names, settings.model, Stored.of(dataset))
    if settings.model.weights == "none":
        return network, None
    return network, import_weights(Path(settings.model.weights), network)


def class_names(dataset: Dataset) -> dict[int, str]:
    """Index and name of the classes of a data set."""
    return dict(dataset.labels["mask"].classes)


def restore_model(checkpoint: Checkpoint) -> FloodNet:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the checkpoint is not one of this task, or does not fit the network that its card describes.
    """
    card = checkpoint.card
    if card.get("task") != TASK:
        raise CheckpointError(f"{checkpoint.path} belongs to the task {card.get('task')!r}: give a run of {TASK}-train")
    try:
        layer = Layer.from_dict(IMAGE, card["layer"])
        network = FloodNet(
            Normalize.from_card(card["normalize"], {IMAGE: layer.bands}),
            layer,
            {int(index): str(name) for index, name in card["classes"].items()},
            ModelSettings.model_validate(card["model"]),
            Stored(**card["stored"]),
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


def parameter_groups(network: FloodNet, settings: TrainSettings) -> list[dict[str, Any]] | None:
    """Groups with a learning rate that shrinks from the head down to the patch embedding; None: one rate for all."""
    from geocore.training.pretrained import layer_decay_groups

    if settings.model.layer_decay == 1.0:
        return None
    names = {name.split(".")[0] for name, _ in network.named_parameters()} - {"backbone"}
    blocks = [[f"backbone.blocks.{index}"] for index in range(len(network.backbone.blocks))]
    # The final norm comes after the last block, all else of the backbone before the first.
    blocks[-1].append("backbone.norm")
    known = {name for block in blocks for name in block}
    entry = [
        name
        for name, _ in network.named_parameters()
        if name.startswith("backbone.") and not any(name.startswith(f"{start}.") for start in known)
    ]
    return layer_decay_groups(
        network,
        [entry, *blocks, sorted(names)],
        learning_rate=settings.optimizer.learning_rate,
        decay=settings.model.layer_decay,
        weight_decay=settings.optimizer.weight_decay,
    )


def coordinates_of(date: str | None, place: tuple[float, float] | None, frames: int) -> tuple[Tensor, Tensor]:
    """Dates and place as the network takes them.

    Args:
        date: "YYYY-MM-DD", or one for each date joined by spaces; None: unknown.
        place: latitude and longitude, degrees; None: unknown.
        frames: dates of the images.

    Returns:
        Shapes (frames, 2) and (2,), float32, NaN where unknown.

    Raises:
        DataError: no such date, or not as many as there are frames.
    """
    from datetime import date as day

    dates = torch.full((frames, 2), math.nan)
    if date is not None:
        words = date.split()
        if len(words) != frames:
            raise DataError(f"date {date!r}: {frames} dates are needed (YYYY-MM-DD), separated by spaces")
        try:
            found = [day.fromisoformat(word) for word in words]
        except ValueError as error:
            raise DataError(f"date {date!r}: must be YYYY-MM-DD; correct it") from error
        dates = torch.tensor([[one.year, one.timetuple().tm_yday - 1] for one in found], dtype=torch.float32)
    latlon = (math.nan, math.nan) if place is None else place
    return dates, torch.tensor(latlon, dtype=torch.float32)
