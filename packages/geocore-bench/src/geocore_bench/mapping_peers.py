"""How peers map a scene: each by the way that its own documentation or task takes, around the same model.

terratorch is measured twice: with the whole tensor, as its own task calls it, and with its windows as `source`, which
is the best that it can do. Importing it lets matrix products of the whole process round to bfloat16, which
convolutions do not notice and transformers do: contenders in float32 take that back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geocore_bench.harness import Measured
from geocore_bench.maps import CLASSES, Setting, build, mapped, profile_of, read_whole, write_whole
from geocore_bench.scenes import REFLECTANCE

FLOAT32 = "highest"
"""Precision of matrix products, as torch calls it, that rounds nothing."""


def plain_loop(setting: Setting, data: Path) -> Measured:
    """Windows without overlap, one at a time: read, predict, write. Blends nothing."""
    import rasterio
    import torch
    from rasterio.windows import Window

    model, step = build(setting, data), setting.tile_px

    def predict(target: Path) -> None:
        with (
            rasterio.open(data / setting.scene) as source,
            torch.inference_mode(),
            rasterio.open(target, "w", **profile_of(source)) as product,
        ):
            for row in range(0, source.height, step):
                for col in range(0, source.width, step):
                    height, width = min(step, source.height - row), min(step, source.width - col)
                    window = Window(col, row, width, height)
                    image = torch.zeros(1, setting.bands, step, step)
                    pixels = source.read(window=window).astype(np.float32)
                    image[0, :, :height, :width] = torch.from_numpy(pixels) / REFLECTANCE
                    labels = model(image).argmax(1)[0, :height, :width].to(torch.uint8)
                    product.write(labels.numpy(), 1, window=window)

    return mapped(predict, data)


def terratorch_tensor(setting: Setting, data: Path) -> Measured:
    """`tiled_inference` as terratorch's own task calls it: whole tensor in, whole logits out, cosine weights."""
    import torch
    from terratorch.tasks.tiled_inference import tiled_inference

    model = build(setting, data)
    torch.set_float32_matmul_precision(FLOAT32)

    def predict(target: Path) -> None:
        image, profile = read_whole(data / setting.scene)
        logits = tiled_inference(model, image, crop=setting.tile_px, stride=setting.stride_px, batch_size=setting.batch)
        write_whole(target, logits[0], profile)

    return mapped(predict, data)


def terratorch_as_imported(setting: Setting, data: Path) -> Measured:
    """`terratorch_windows` with matrix products rounded to bfloat16, as importing terratorch sets it."""
    return terratorch_windows(setting, data, products="medium")


def terratorch_windows(setting: Setting, data: Path, *, products: str = FLOAT32) -> Measured:
    """`tiled_inference` with windows as `source`; the tensor that it asks for is an expanded zero, without memory."""
    import rasterio
    import torch
    from rasterio.windows import Window
    from terratorch.tasks.tiled_inference import tiled_inference

    model = build(setting, data)
    torch.set_float32_matmul_precision(products)

    def predict(target: Path) -> None:
        with rasterio.open(data / setting.scene) as source:
            profile = profile_of(source)
            stand_in = torch.zeros(1, 1, 1, 1).expand(1, setting.bands, source.height, source.width)

            def window(tile: Any) -> Any:
                rows, cols = tile.input_coords
                # Coordinates are those of what is kept of the tile, where something is cut off.
                top = rows.start - (tile.output_crop[0].start if tile.output_crop else 0)
                left = cols.start - (tile.output_crop[1].start if tile.output_crop else 0)
                pixels = source.read(window=Window(left, top, setting.tile_px, setting.tile_px)).astype(np.float32)
                return torch.from_numpy(pixels).div_(REFLECTANCE)

            logits = tiled_inference(
                model,
                stand_in,
                crop=setting.tile_px,
                stride=setting.stride_px,
                batch_size=setting.batch,
                padding=False,
                source=window,
            )
        write_whole(target, logits[0], profile)

    return mapped(predict, data)


def monai_gaussian(setting: Setting, data: Path) -> Measured:
    """MONAI's SlidingWindowInferer with Gaussian weights."""
    import torch
    from monai.inferers import SlidingWindowInferer

    model = build(setting, data)
    size = (setting.tile_px, setting.tile_px)
    inferer = SlidingWindowInferer(
        size, sw_batch_size=setting.batch, overlap=setting.overlap_px / setting.tile_px, mode="gaussian"
    )

    def predict(target: Path) -> None:
        image, profile = read_whole(data / setting.scene)
        with torch.no_grad():
            logits = inferer(image, model)
        write_whole(target, logits[0], profile)

    return mapped(predict, data)


def mmseg_slide(setting: Setting, data: Path) -> Measured:
    """The EncoderDecoder.slide_inference of mmsegmentation, unchanged; one tile at a time by design."""
    import torch
    from mmengine.config import ConfigDict
    from mmengine.model import BaseModule
    from mmseg.models import EncoderDecoder

    inner = build(setting, data)

    class Wrapped(EncoderDecoder):  # type: ignore[misc]  # mmseg publishes no types
        def __init__(self) -> None:
            BaseModule.__init__(self)
            self.inner = inner
            self.out_channels = CLASSES
            self.test_cfg = ConfigDict(
                mode="slide",
                crop_size=(setting.tile_px, setting.tile_px),
                stride=(setting.stride_px, setting.stride_px),
            )

        def encode_decode(self, inputs: Any, batch_img_metas: Any) -> Any:
            return self.inner(inputs)

    model = Wrapped()

    def predict(target: Path) -> None:
        image, profile = read_whole(data / setting.scene)
        with torch.no_grad():
            logits = model.slide_inference(image, [{"img_shape": image.shape[2:]}])
        write_whole(target, logits[0], profile)

    return mapped(predict, data)


def geoai_file(setting: Setting, data: Path) -> Measured:
    """The file-to-file function of geoai. It divides by 255 whatever the data, which the model's wrapper takes back."""
    import torch
    from geoai.train import semantic_inference_on_geotiff

    inner = build(setting, data)

    class Rescaled(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> Any:
            return inner(image * (255 / REFLECTANCE))

    def predict(target: Path) -> None:
        semantic_inference_on_geotiff(
            Rescaled(),
            str(data / setting.scene),
            str(target),
            window_size=setting.tile_px,
            overlap=setting.overlap_px,
            batch_size=setting.batch,
            num_channels=setting.bands,
            num_classes=CLASSES,
            device=torch.device("cpu"),
            quiet=True,
        )

    return mapped(predict, data)
