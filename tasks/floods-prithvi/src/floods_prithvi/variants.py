"""The Prithvi networks that NASA and IBM released: sizes that their files do not say, and those that they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from floods_prithvi.config import Variant

BANDS: Final = 6
"""Bands of every variant: config.SIX_BANDS."""


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """What makes one variant."""

    name: str
    dim: int
    """Numbers in a token."""
    depth: int
    """Blocks."""
    heads: int
    """Attention heads of a block; no file of weights says how many."""
    patch_px: int
    """Edge of the square that becomes a token, pixels."""
    frames: int
    """Dates of the images in pre-training."""
    takes_coordinates: bool
    """Whether there are weights that know time and location."""
    taps: tuple[int, ...]
    """Blocks, from 0, whose tokens make a pyramid."""
    mean: tuple[float, ...]
    """Of the six bands in pre-training, reflectance."""
    std: tuple[float, ...]
    files: tuple[str, ...]
    """Names of the released files."""

    @property
    def official_file(self) -> str:
        """The released files, for messages."""
        return " or ".join(self.files)

    @property
    def size(self) -> str:
        """What a file of weights shows, in words."""
        return f"dim {self.dim}, {self.depth} blocks, patch {self.patch_px} px"


# hls-foundation-os and terratorch 1.2.13 hold these for stored numbers, 10,000 times as large.
_V1_MEAN = (0.0775229, 0.1080993, 0.1228586, 0.2497202, 0.2204214, 0.1610832)
_V1_STD = (0.1281526, 0.1270030, 0.1399480, 0.1368345, 0.1291676, 0.1154505)
_V2_MEAN = (0.1087, 0.1342, 0.1433, 0.2734, 0.1958, 0.1363)
_V2_STD = (0.2248, 0.2179, 0.2178, 0.1850, 0.1242, 0.1049)

_V1_100M = VariantSpec(
    name="v1-100m",
    dim=768,
    depth=12,
    heads=12,
    patch_px=16,
    frames=3,
    takes_coordinates=False,
    taps=(2, 5, 8, 11),
    mean=_V1_MEAN,
    std=_V1_STD,
    files=("Prithvi_100M.pt", "Prithvi_EO_V1_100M.pt"),
)
_V2_100M = replace(
    _V1_100M,
    name="v2-100m",
    frames=4,
    takes_coordinates=True,
    mean=_V2_MEAN,
    std=_V2_STD,
    files=("Prithvi_EO_V2_100M_TL.pt",),
)

VARIANTS: Final[Mapping[Variant, VariantSpec]] = {
    "v1-100m": _V1_100M,
    "v2-tiny": replace(_V2_100M, name="v2-tiny", dim=192, heads=3, frames=1, files=("Prithvi_EO_V2_tiny_TL.pt",)),
    "v2-100m": _V2_100M,
    "v2-300m": replace(
        _V2_100M,
        name="v2-300m",
        dim=1024,
        depth=24,
        heads=16,
        taps=(5, 11, 17, 23),
        files=("Prithvi_EO_V2_300M.pt", "Prithvi_EO_V2_300M_TL.pt"),
    ),
    "v2-600m": replace(
        _V2_100M,
        name="v2-600m",
        dim=1280,
        depth=32,
        heads=16,
        patch_px=14,
        taps=(7, 15, 23, 31),
        files=("Prithvi_EO_V2_600M.pt", "Prithvi_EO_V2_600M_TL.pt"),
    ),
    # Its authors halved depth and heads in the configuration; the weights were fine-tuned that way.
    "crop-6": replace(
        _V1_100M,
        name="crop-6",
        depth=6,
        heads=8,
        taps=(1, 2, 3, 5),
        files=("multi_temporal_crop_classification_Prithvi_100M.pth",),
    ),
}
"""By the name in the settings."""
