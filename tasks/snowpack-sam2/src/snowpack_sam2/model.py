"""The boundary network: the image encoder of SAM 2.1 under a head that reads its high-resolution features.

The only module that imports `sam2`. The complete SAM 2.1 model is built so that an official checkpoint can be loaded
strictly, every key accounted for; the parts that segmenting one photograph without prompts needs (image encoder and
the two high-resolution projections of the mask decoder) then become part of `BoundaryNet`, and memory, prompts and
mask tokens are let go.

Shape letters: B batch, C channel, H and W rows and columns of the tile.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from geocore.datasets.batch import VALID
from geocore.datasets.shift import TrainedOn
from geocore.errors import CheckpointError, DataError, WeightsError
from geocore.raster.scene import Layer
from geocore.storage.files import atomic_path, atomic_write_text, sha256_file
from geocore.training.pretrained import adapt_first_conv, load_foreign, load_strictly
from geocore.transforms.normalize import Normalize
from snowpack_sam2.config import TASK
from snowpack_sam2.data import PHOTO

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

    from geocore.datasets.dataset import Dataset
    from geocore.training.checkpoint import Checkpoint
    from snowpack_sam2.config import ModelSettings

Variant = Literal["tiny", "small", "base-plus", "large"]

#: Rows and columns of a tile must be a multiple of this: stride 4 of the patch embedding times its 8-pixel windows.
TILE_MULTIPLE_PX = 32

_CONFIGS: dict[str, str] = {
    "tiny": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "small": "configs/sam2.1/sam2.1_hiera_s.yaml",
    "base-plus": "configs/sam2.1/sam2.1_hiera_b+.yaml",
    "large": "configs/sam2.1/sam2.1_hiera_l.yaml",
}
_OFFICIAL_FOLDER = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
_OFFICIAL_FILES: dict[str, str] = {
    "tiny": "sam2.1_hiera_tiny.pt",
    "small": "sam2.1_hiera_small.pt",
    "base-plus": "sam2.1_hiera_base_plus.pt",
    "large": "sam2.1_hiera_large.pt",
}

logger = logging.getLogger(__name__)


class BoundaryHead(nn.Module):
    """Top-down fusion of the three feature levels with a branch of fine detail, then context along the boundaries.

    Boundaries between snow layers are steps of a few per cent within a pixel or two: finer than the stride of 4 of SAM
    2's best features, and often weaker than the grain around them. The detail branch keeps their place; dilated
    convolutions at half resolution follow them over some 60 pixels to where they show better. GroupNorm, because
    photographs come in batches of one to four.
    """

    def __init__(self, in_channels: int, width: int = 64, detail_width: int = 16) -> None:
        """Build the head.

        Args:
            in_channels: bands of the normalized photograph that the detail branch reads.
            width: channels of the fused features.
            detail_width: channels at full resolution; half resolution has twice as many.
        """
        super().__init__()
        half_width = 2 * detail_width
        self.project_s2 = nn.Conv2d(256, width, kernel_size=1)
        self.project_s1 = nn.Conv2d(64, width, kernel_size=1)
        self.project_s0 = nn.Conv2d(32, width, kernel_size=1)
        self.fuse_s1 = _conv_block(width, width)
        self.fuse_s0 = _conv_block(width, width)
        self.reduce = nn.Conv2d(width, half_width, kernel_size=1)
        self.detail = _conv_block(in_channels, detail_width, kernel_size=5)
        self.halve = _conv_block(detail_width, half_width, stride=2)
        self.identity = nn.ModuleList(
            _conv_block(half_width, half_width, dilation=dilation) for dilation in (1, 2, 4, 8)
        )
        self.fuse_detail = _conv_block(half_width + detail_width, half_width)
        self.classify = nn.Conv2d(half_width, 1, kernel_size=1)
        # Boundaries cover about one pixel in twenty: starting from that share keeps the first steps calm.
        nn.init.constant_(self.classify.bias, -3.0)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor], photo: Tensor) -> Tensor:
        """Boundary logits.

        Args:
            features: shapes (B, 32, H/4, W/4), (B, 64, H/8, W/8), (B, 256, H/16, W/16), float32.
            photo: shape (B, band, H, W), float32, normalized.

        Returns:
            Shape (B, 1, H, W), float32, logits.
        """
        level_s0, level_s1, level_s2 = features
        x = self.fuse_s1(self.project_s1(level_s1) + _upsampled(self.project_s2(level_s2), level_s1))
        x = self.fuse_s0(self.project_s0(level_s0) + _upsampled(x, level_s0))
        detail = self.detail(photo)
        half = self.halve(detail)
        half = half + _upsampled(self.reduce(x), half)
        for block in self.identity:
            half = half + block(half)
        logits: Tensor = self.classify(self.fuse_detail(torch.cat([_upsampled(half, photo), detail], dim=1)))
        return logits


class BoundaryNet(nn.Module):
    """Photograph in, boundary logits out; normalization inside, so that it travels with the weights."""

    def __init__(self, sam: SAM2Base, normalize: Normalize, layer: Layer, variant: Variant) -> None:
        """Take over the parts of a complete SAM 2.1 that see one image.

        Args:
            sam: the complete model; its first convolution must already read the bands of `layer`.
            normalize: normalizes the layer `photo`.
            layer: bands and nodata rule of the photographs.
            variant: size of the Hiera encoder.
        """
        super().__init__()
        self.layer = layer
        self.variant = variant
        self.normalize = normalize
        self.image_encoder = sam.image_encoder
        self.high_resolution_s0 = sam.sam_mask_decoder.conv_s0
        self.high_resolution_s1 = sam.sam_mask_decoder.conv_s1
        self.head = BoundaryHead(len(layer.bands))

    @property
    def trained_on(self) -> TrainedOn:
        """How bright its training photographs were; their bands differ by colour, and are taken together."""
        normalization = self.normalize.card()["layers"][PHOTO]
        mean, std = np.array(normalization["mean"]), np.array(normalization["std"])
        together = float(np.sqrt(np.mean(std**2 + (mean - mean.mean()) ** 2)))
        return TrainedOn(["brightness"], [float(mean.mean())], [together], (), self.layer.dtype, "training photographs")

    def card(self) -> dict[str, Any]:
        """What a checkpoint says about the network, so that `restore_model` can build it again."""
        return {
            "model": {"variant": self.variant},
            "layer": self.layer.to_dict(),
            "normalize": self.normalize.card(),
        }

    def forward(self, photo: Tensor) -> Tensor:
        """Boundary logits of normalized photographs; training augments between `normalize` and this.

        Args:
            photo: shape (B, band, H, W), float32, as `normalize` returns it. H and W are multiples of 32.

        Returns:
            Shape (B, 1, H, W), float32, logits.

        Raises:
            ValueError: H or W is no multiple of 32.
        """
        rows, cols = photo.shape[-2:]
        if rows % TILE_MULTIPLE_PX or cols % TILE_MULTIPLE_PX:
            raise ValueError(f"tile of {rows} x {cols} px: SAM 2 needs multiples of {TILE_MULTIPLE_PX}")
        s0, s1, s2 = self.image_encoder(photo)["backbone_fpn"]
        logits: Tensor = self.head([self.high_resolution_s0(s0), self.high_resolution_s1(s1), s2], photo)
        return logits

    def predict(self, inputs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """Boundary probability of photographs as they are stored.

        Args:
            inputs: layer `photo` with `values`, shape (B, band, H, W), any dtype, and `valid`, shape
                (B, 1 or band, H, W), bool.

        Returns:
            `boundary`: shape (B, 1, H, W), float32, 0-1. `valid`: shape (B, 1, H, W), bool.
        """
        probability = self(self.normalize(inputs)["photo"]).float().sigmoid()
        return {"boundary": probability, VALID: inputs["photo"]["valid"].all(dim=1, keepdim=True)}


def build_sam(variant: Variant) -> SAM2Base:
    """A complete SAM 2.1 with random weights, in training mode on the CPU."""
    from sam2.build_sam import build_sam2

    return build_sam2(_CONFIGS[variant], ckpt_path=None, device="cpu", mode="train", apply_postprocessing=False)


def build_model(dataset: Dataset, settings: ModelSettings) -> BoundaryNet:
    """A boundary network for a data set, whose encoder starts from random, given or official SAM 2.1 weights.

    Args:
        dataset: its photographs' bands and statistics. The first convolution is adapted to the bands from three (one
            band: the sum over the RGB filters, so that a grey photograph gives the activations of its RGB replica).
        settings: variant, weights and normalization.

    Raises:
        DataError: the data set has no statistics.
        WeightsError: the weights cannot be read safely, do not fit the variant, or cannot be fetched.
    """
    layer = dataset.layers[PHOTO]
    if dataset.statistics is None:
        raise DataError(f"{dataset.root}: no statistics: prepare the data again")
    normalize = Normalize(dataset.statistics, {PHOTO: layer.bands}, mode=settings.normalization)
    sam = build_sam(settings.variant)
    if settings.weights != "none":
        path = official_weights(settings.variant) if settings.weights == "official" else Path(settings.weights)
        load_strictly(sam, load_foreign(path), path)
    return _network(sam, normalize, layer, settings.variant)


def restore_model(checkpoint: Checkpoint) -> BoundaryNet:
    """The network of a checkpoint, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: the checkpoint is not one of this task, or does not fit the network that its card describes.
    """
    card = checkpoint.card
    if card.get("task") != TASK:
        raise CheckpointError(f"{checkpoint.path} belongs to the task {card.get('task')!r}: give a run of {TASK}-train")
    layer = Layer.from_dict(PHOTO, card["layer"])
    normalize = Normalize.from_card(card["normalize"], {PHOTO: layer.bands})
    variant = card["model"]["variant"]
    network = _network(build_sam(variant), normalize, layer, variant)
    load_strictly(network, checkpoint.model(), checkpoint.path)
    return network.eval()


def _network(sam: SAM2Base, normalize: Normalize, layer: Layer, variant: Variant) -> BoundaryNet:
    patch_embed = sam.image_encoder.trunk.patch_embed
    patch_embed.proj = adapt_first_conv(patch_embed.proj, len(layer.bands))
    return BoundaryNet(sam, normalize, layer, variant)


def official_weights(variant: Variant, folder: Path | None = None) -> Path:
    """The official checkpoint of a variant, downloaded once into torch's cache folder.

    The publisher lists no checksum, so the first download records its SHA-256 beside the file and later uses are
    checked against that record; the strict load that follows accepts no file of another model.

    Raises:
        WeightsError: offline, or the cached file has changed since it was downloaded.
    """
    folder = folder or Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / _OFFICIAL_FILES[variant]
    record = path.with_suffix(".sha256")
    if not path.exists():
        url = _OFFICIAL_FOLDER + path.name
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("downloading %s", url)
        try:
            with atomic_path(path) as temporary:
                torch.hub.download_url_to_file(url, str(temporary), progress=False)
        except OSError as error:
            raise WeightsError(
                f"{url} cannot be downloaded ({error}): fetch it on a machine with internet access "
                f"and pass its path as --model.weights"
            ) from None
        atomic_write_text(record, sha256_file(path))
    elif record.exists() and record.read_text() != sha256_file(path):
        raise WeightsError(f"{path} has changed since it was downloaded: delete it and run again")
    return path


def _conv_block(
    in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    padding = kernel_size // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False),
        nn.GroupNorm(8, out_channels),
        nn.GELU(),
    )


def _upsampled(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
