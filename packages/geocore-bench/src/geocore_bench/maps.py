"""The map that contenders make of a scene: the same model, the same product, and a look at what was written.

Six bands of uint16 / 10,000 as float32, two classes, a tiled deflate GeoTIFF of uint8 with the georeference of the
scene. Timed from the open file to the closed file; imports and the model's construction are outside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from geocore_bench.harness import Measured, watch
from geocore_bench.scenes import BLOCK_PX, REFLECTANCE

if TYPE_CHECKING:
    from torch import Tensor, nn

CLASSES = 2

Details = dict[str, float]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is mapped."""

    scene: str
    """File below the folder of the data."""
    model: Literal["free", "unet", "prithvi", "floods"] = "free"
    """free: a 1 x 1 convolution, which leaves the cost of everything else; unet: U-Net on resnet18; prithvi: see
    `prithvi_network`. Weights are drawn. floods: that of a run, see `mapping_command`."""
    bands: int = 6
    tile_px: int = 512
    overlap_px: int = 64
    batch: int = 4
    """Tiles per forward of peers that batch."""
    threads: int = 2

    @property
    def stride_px(self) -> int:
        """From one tile to the next."""
        return self.tile_px - self.overlap_px


def build(setting: Setting, data: Path) -> nn.Module:
    """The model, ready to run: the first call, which sets up kernels, has been made.

    Returns:
        Takes shape (batch, band, row, col), float32, reflectance; gives shape (batch, CLASSES, row, col), logits. About
        half of the scene goes to either class.
    """
    import torch

    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    sample = torch.from_numpy(_piece(data / setting.scene, setting.tile_px)).float()[None] / REFLECTANCE
    if setting.model == "free":
        free = torch.nn.Conv2d(setting.bands, CLASSES, 1)
        with torch.no_grad():
            free.weight.zero_()
            free.weight[1, 0] = 1.0
            free.bias.copy_(torch.tensor([0.15, 0.0]))  # type: ignore[union-attr]  # the stub allows for no bias
            free(sample)
        return free.eval()
    if setting.model == "prithvi":
        from geocore_bench.prithvi_network import segmenter

        model = segmenter(CLASSES)
        model.eval()
        with torch.no_grad():
            logits = model(sample)
            model.favour_first((logits[0, 1] - logits[0, 0]).median())
        return model
    if setting.model == "floods":
        from geocore_bench.mapping_command import network

        return network(data)
    import segmentation_models_pytorch as smp

    unet = smp.Unet("resnet18", encoder_weights=None, in_channels=setting.bands, classes=CLASSES).eval()
    with torch.no_grad():
        logits = unet(sample)
        # Random weights favour one class.
        unet.segmentation_head[0].bias[0] += (logits[0, 1] - logits[0, 0]).median()
    return unet  # type: ignore[no-any-return]  # smp publishes no types


def mapped(predict: Callable[[Path], Details | None], data: Path) -> Measured:
    """Time a mapping and look at what it wrote.

    Args:
        predict: writes the product at the path; may return figures of its own.
        data: folder in which the product lies for a while.

    Returns:
        Million pixels a second, with the share of class 1, `class1`, in which contenders have to agree.
    """
    import rasterio

    with tempfile.TemporaryDirectory(dir=data) as folder:
        target = Path(folder) / "classes.tif"
        with watch() as seen:
            own = predict(target) or {}
        with rasterio.open(target) as product:
            if product.crs is None or product.dtypes != ("uint8",):
                raise ValueError(f"the product has CRS {product.crs} and types {product.dtypes}")
            pixels = product.width * product.height
            ones = sum(int((product.read(1, window=window) == 1).sum()) for _, window in product.block_windows(1))
    return Measured(pixels / 1e6 / seen.seconds, {**seen.details, "class1": ones / pixels, **own})


def profile_of(source: Any) -> dict[str, Any]:
    """How the product is stored, for peers that leave writing to the caller.

    Args:
        source: open rasterio dataset of the scene.
    """
    return {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "height": source.height,
        "width": source.width,
        "crs": source.crs,
        "transform": source.transform,
        "tiled": True,
        "blockxsize": BLOCK_PX,
        "blockysize": BLOCK_PX,
        "compress": "deflate",
    }


def read_whole(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """Read a scene in one go, as peers want it that take a tensor.

    Returns:
        Shape (1, band, row, col), float32, reflectance, and `profile_of` the scene.
    """
    import rasterio
    import torch

    with rasterio.open(path) as source:
        profile = profile_of(source)
        pixels = source.read()
    image = torch.from_numpy(pixels.astype(np.float32))
    del pixels
    return image.div_(REFLECTANCE)[None], profile


def write_whole(path: Path, logits: Tensor, profile: dict[str, Any]) -> None:
    """Write the classes of a whole scene.

    Args:
        path: the product.
        logits: shape (CLASSES, row, col).
        profile: of `profile_of`.
    """
    import rasterio
    import torch

    labels: NDArray[np.uint8] = logits.argmax(0).to(torch.uint8).numpy()
    with rasterio.open(path, "w", **profile) as target:
        target.write(labels, 1)


def _piece(path: Path, size: int) -> NDArray[np.uint16]:
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(path) as source:
        first = min(1024, source.height - size)
        piece: NDArray[np.uint16] = source.read(window=Window(first, first, size, size))
    return piece
