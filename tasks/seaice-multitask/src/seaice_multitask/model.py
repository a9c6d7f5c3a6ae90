"""The network: an encoder, one or more decoders, and one last layer for each output.

Planes come standardised by the data set's official statistics, so the network only sets invalid pixels to 0.

Shape letters: B batch, C channel, H and W rows and columns of the tile, in working pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from pydantic import ValidationError
from torch import Tensor, nn

from geocore.datasets.batch import VALID
from geocore.errors import CheckpointError, DataError, SettingsError
from geocore.inference.blend import OutputHead
from geocore.raster.scene import Layer
from geocore.training.pretrained import load_strictly
from seaice_multitask.config import TASK, ModelSettings, OutputSettings, WorkingSettings
from seaice_multitask.unet import UNetDecoder, UNetEncoder

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.training.checkpoint import Checkpoint
    from seaice_multitask.config import TrainSettings
    from seaice_multitask.heads import Backbone, DecodeHead

PLANES = "planes"

#: Without these there is no scene; a gap in another plane only takes some help away.
_RADAR = ("nersc_sar_primary", "nersc_sar_secondary")


class SeaIceNet(nn.Module):
    """Planes in, one map of logits or values for each output."""

    def __init__(
        self,
        layer: Layer,
        outputs: Mapping[str, OutputSettings],
        model: ModelSettings,
        working: WorkingSettings,
        *,
        weights: Path | None = None,
    ) -> None:
        """Build the network.

        Args:
            layer: the planes, their names and order.
            outputs: name -> what is said about every pixel.
            model: encoder and decoder.
            working: how the planes were made; the network keeps it for those who feed it.
            weights: file of the backbone's weights; None: random.

        Raises:
            SettingsError: an output's name is taken, or the parts do not fit together.
            WeightsError: the weights cannot be read safely or do not fit.
        """
        super().__init__()
        for name in outputs:
            if name == VALID or not name.isidentifier():
                raise SettingsError(f"outputs.{name}: must be a word other than {VALID}; rename it")
        self.layer = layer
        self.outputs = dict(outputs)
        self.model = model
        self.working = working
        own = [name for name, chosen in outputs.items() if chosen.decoder == "own"]
        shared = [name for name in outputs if name not in own]
        groups = [*([shared] if shared else []), *([name] for name in own)]
        self.encoder, decoders = _parts(model, len(layer.bands), len(groups), weights)
        self.decoders = nn.ModuleList(decoders)
        self._groups = groups
        self.last = nn.ModuleDict(
            {
                name: nn.Conv2d(decoder.width, self.heads[name].channels, kernel_size=1)
                for decoder, group in zip(decoders, groups, strict=True)
                for name in group
            }
        )

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the planes, in the order the network takes them."""
        return self.layer.bands.names

    @property
    def heads(self) -> dict[str, OutputHead]:
        """Channels and kind of each output, as blending wants to know them."""
        return {
            name: OutputHead(1, "values") if chosen.kind == "regression" else OutputHead(chosen.classes, "classes")
            for name, chosen in self.outputs.items()
        }

    def card(self) -> dict[str, Any]:
        """What a checkpoint says about the network, so that `restore_model` can build it again."""
        return {
            # Where the first weights came from is of no use to others.
            "model": self.model.model_dump(mode="json", exclude={"weights"}),
            "outputs": {name: chosen.model_dump(mode="json") for name, chosen in self.outputs.items()},
            "channels": list(self.channels),
            "units": "standardised",
            "layer": self.layer.to_dict(),
            "working": self.working.model_dump(mode="json"),
        }

    def planes(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """What `forward` takes; training augments between the two.

        Args:
            inputs: layer `planes` with `values`, shape (B, C, H, W), float32, standardised, anything where invalid,
                and `valid`, shape (B, 1 or C, H, W), bool.

        Returns:
            Shape (B, C, H, W), float32, 0 where invalid.
        """
        given = inputs[PLANES]
        # Selected, not multiplied by the mask: 0 * NaN is NaN.
        return torch.where(given["valid"], given["values"].float(), 0.0)

    def forward(self, planes: Tensor) -> dict[str, Tensor]:
        """Logits and values of a batch, of any size.

        Args:
            planes: shape (B, C, H, W), float32, standardised, 0 where invalid.

        Returns:
            Name -> shape (B, classes, H, W), logits, or (B, 1, H, W), values in classes.

        Raises:
            SettingsError: one pixel is left of a level in training, and the batch has only one tile.
        """
        rows, cols = planes.shape[-2:]
        multiple: Any = self.encoder.multiple_px
        # Zeros, as beyond the border of a scene; only below and to the right, so that no pixel moves.
        padded = functional.pad(planes, (0, -cols % multiple, 0, -rows % multiple))
        try:
            features = self.encoder(padded)
            decoded = [decoder(features) for decoder in self.decoders]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise SettingsError(
                "training.batch_size 1: batch normalization needs 2 or more where one pixel is left; "
                "take 2, or larger tiles, or norm_cfg GN"
            ) from error
        outputs: dict[str, Tensor] = {}
        for decoder, group, feature in zip(self.decoders, self._groups, decoded, strict=True):
            for name in group:
                raw = self.last[name](feature)
                if raw.shape[-2:] != padded.shape[-2:]:
                    corners: Any = decoder.align_corners
                    raw = functional.interpolate(raw, padded.shape[-2:], mode="bilinear", align_corners=corners)
                outputs[name] = raw[..., :rows, :cols]
        return {name: outputs[name] for name in self.outputs}

    def predict(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Probabilities and values of tiles as they are read.

        Args:
            inputs: as for `planes`.

        Returns:
            Name -> shape (B, classes, H, W), float32, probability 0-1, or (B, 1, H, W), float32, value in classes,
            neither rounded nor clamped. `valid`: shape (B, 1, H, W), bool, where all radar planes are valid (all
            planes where there is none of the radar).
        """
        raw = self(self.planes(inputs))
        given = inputs[PLANES]
        deciding = [index for index, name in enumerate(self.channels) if name in _RADAR]
        valid = given["valid"]
        if deciding and valid.shape[1] > 1:
            valid = valid[:, deciding]
        return {name: head.activate(raw[name]) for name, head in self.heads.items()} | {
            VALID: valid.all(dim=1, keepdim=True)
        }


def build_model(dataset: Dataset, settings: TrainSettings) -> SeaIceNet:
    """A network for a data set.

    Args:
        dataset: its planes, charts and working grid.
        settings: outputs and model.

    Raises:
        DataError: the data set does not say how its planes were made.
        SettingsError: an output has no chart in the data set or fewer classes than it, or the model's parts do not fit.
        WeightsError: the weights cannot be read safely or do not fit.
    """
    for name, chosen in settings.outputs.items():
        label = dataset.labels.get(name)
        if label is None:
            known = ", ".join(dataset.labels) or "none"
            raise SettingsError(f"outputs.{name}: the charts of {dataset.root} are {known}; name one of these")
        if label.classes and max(label.classes) >= chosen.classes:
            raise SettingsError(
                f"outputs.{name}.classes {chosen.classes}: the chart has classes 0 to {max(label.classes)}; "
                f"give {max(label.classes) + 1}"
            )
    if PLANES not in dataset.layers:
        raise DataError(f"{dataset.root}: no layer {PLANES!r}: prepare the data with {TASK}-prepare")
    try:
        working = WorkingSettings.model_validate(
            {name: dataset.protocol[name] for name in WorkingSettings.model_fields}
        )
    except (KeyError, ValidationError) as error:
        raise DataError(f"{dataset.root}: its protocol lacks the working grid: prepare the data again") from error
    chosen_weights = settings.model.weights
    weights = None if chosen_weights == "none" else Path(chosen_weights)
    return SeaIceNet(dataset.layers[PLANES], settings.outputs, settings.model, working, weights=weights)


def restore_model(checkpoint: Checkpoint) -> SeaIceNet:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the checkpoint is not one of this task, or does not fit the network that its card describes.
    """
    card = checkpoint.card
    if card.get("task") != TASK:
        raise CheckpointError(f"{checkpoint.path} belongs to the task {card.get('task')!r}: give a run of {TASK}-train")
    try:
        network = SeaIceNet(
            Layer.from_dict(PLANES, card["layer"]),
            {name: OutputSettings.model_validate(chosen) for name, chosen in card["outputs"].items()},
            ModelSettings.model_validate(card["model"]),
            WorkingSettings.model_validate(card["working"]),
        )
    except (KeyError, TypeError, AttributeError, ValidationError, DataError, SettingsError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{checkpoint.path}: its card does not describe a network ({reason}); train again"
        ) from error
    load_strictly(network, checkpoint.model(), checkpoint.path)
    return network.eval()


def _parts(
    model: ModelSettings, in_channels: int, decoders: int, weights: Path | None
) -> tuple[UNetEncoder | Backbone, list[UNetDecoder | DecodeHead]]:
    """An encoder and a number of decoders that read it."""
    if model.kind == "unet":
        return UNetEncoder(in_channels, model.widths), [UNetDecoder(model.widths) for _ in range(decoders)]
    # mmsegmentation takes seconds to import, and the U-Net does without it.
    from seaice_multitask.heads import build_backbone, build_decoder

    backbone = build_backbone(model.backbone, in_channels, weights)
    return backbone, [build_decoder(model.decode_head, backbone) for _ in range(decoders)]
