"""What windows drawn from one chunk cost a trained score: independent draws against 8 and 16 a chunk.

A small U-Net learns to outline blobs in synthetic scenes. They are brighter than their surroundings in some places and
darker in others, so that windows of one chunk are alike. All trainings take the same steps of the same batch
size; only the places and the order of the windows differ. Scores are the IoU of the blobs in scenes of their own.

    python -m geocore_bench.correlated

On one core it takes about three minutes, and gives the same numbers again on the same machine and torch. Seeds spread
by nearly a tenth, so three of them tell large losses from none, not small ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from geocore.datasets.loader import Batches
from geocore.device import seed_everything
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.settings import SamplingSettings
from geocore.tiling.samplers import ChunkedSampler, PatchIndex, Sampler, window_sampler
from geocore_synthetic.fields import gaussian_field

WINDOW = 64
BATCH = 16
SEEDS = (0, 1, 2)
SCENE = 768
TRAINING, HELD_OUT = 6, 3
"""Scenes."""


@dataclass(frozen=True, slots=True)
class Way:
    """How windows are drawn."""

    name: str
    each: int
    """Windows of a chunk; 0: independent windows."""
    alone: bool = False
    """Whether one chunk is open at a time, so that a batch sees one place, as no command draws."""

    def sampler(self, scenes: list[Scene], draws: int, seed: int) -> Sampler:
        """The sampler of one training, as a command has it made."""
        shapes = [scene.grid.shape for scene in scenes]
        if self.alone:
            cells = [(2 * WINDOW, 2 * WINDOW)] * len(scenes)
            return ChunkedSampler(
                shapes, WINDOW, draws, seed=seed, batch_size=BATCH, cells_px=cells, each=self.each, open_at_once=1
            )
        settings = SamplingSettings(kind="chunked", windows_per_chunk=self.each) if self.each else SamplingSettings()
        return window_sampler(settings, shapes, WINDOW, draws, seed=seed, batch_size=BATCH, stored=scenes.__getitem__)


WAYS = (
    Way("independent", 0),
    Way("8 a chunk", 8),
    Way("16 a chunk", 16),
    Way("16, all of one batch", 16, alone=True),
)
"""The last is what mixing avoids: a batch sees one place."""


def draw_scene(seed: int) -> Scene:
    """A scene with the layers `image`, two bands of float32, and `mask`, uint8: 1 in a blob.

    A blob is where a field is high. The first band shows it brighter or darker than its surroundings, by a drift of
    some hundreds of pixels that the second band shows; a window sees one of the two, a chunk as well.
    """
    rng = np.random.default_rng((7, seed))
    shape = (SCENE, SCENE)
    mask = gaussian_field(shape, 24.0, rng) > 0.8
    drift = gaussian_field(shape, 300.0, rng)
    signal = (np.tanh(3 * drift) * mask, drift)
    bands = [part + 0.3 * gaussian_field(shape, 8.0, rng) + 0.4 * gaussian_field(shape, 0.0, rng) for part in signal]
    image = np.stack(bands).astype(np.float32)
    layer = Layer("image", Bands((Band("1"), Band("2"))), "float32")
    labels = Layer("mask", Bands((Band("1"),)), "uint8")
    sources = {"image": ArrayReader(layer, image), "mask": ArrayReader(labels, mask.astype(np.uint8))}
    return Scene(f"scene {seed}", Grid(*shape), sources)


class SmallUNet(nn.Module):
    """Three resolutions, group norms, 2 bands to 1 logit."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = _block(2, width)
        self.down = nn.ModuleList([_block(width, 2 * width), _block(2 * width, 4 * width)])
        self.up = nn.ModuleList([_block(6 * width, 2 * width), _block(3 * width, width)])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:  # noqa: N803 - the legend of a shape
        """Logits of images, shape (batch, 1, row, col)."""
        levels = [self.stem(image_BCHW)]
        for block in self.down:
            levels.append(block(functional.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for block in self.up:
            x = block(torch.cat([functional.interpolate(x, scale_factor=2.0), levels.pop()], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.ReLU(),
    )  # fmt: skip


def train(way: Way, scenes: list[Scene], held_out: list[Scene], *, seed: int, steps: int) -> float:
    """IoU of the blobs in the held-out scenes after training."""
    seed_everything(seed)
    network = SmallUNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def read(draw: PatchIndex) -> dict[str, Any]:
        assert draw.window is not None
        patches = scenes[draw.sample].read_layers(draw.window)
        return {"image": patches["image"].values, "mask": patches["mask"].values}

    sampler = way.sampler(scenes, steps * BATCH, seed)
    batches = iter(Batches(sampler, read, batch_size=BATCH, threads=0))
    # About as many pixels as lie outside for one inside a blob: without it, some trainings find no blob at all.
    balance = torch.tensor(4.0)
    for _ in range(steps):
        batch = next(batches)
        logits, truth = network(batch["image"]), batch["mask"].float()
        loss = functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=balance)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return held_out_iou(network.eval(), held_out)


@torch.no_grad()
def held_out_iou(network: nn.Module, scenes: list[Scene]) -> float:
    """Intersection over union of the blobs, counted over all scenes."""
    both = either = 0
    for scene in scenes:
        patches = scene.read_layers(Window(0, 0, *scene.grid.shape))
        found: NDArray[np.bool_] = (network(torch.from_numpy(patches["image"].values[np.newaxis]))[0] > 0).numpy()
        true = patches["mask"].values == 1
        both += int((found & true).sum())
        either += int((found | true).sum())
    return both / either


def measure(*, steps: int = 150, seeds: tuple[int, ...] = SEEDS) -> Mapping[str, list[float]]:
    """IoU of each way of drawing, one for each seed."""
    threads = torch.get_num_threads()
    # Sums of another number of threads round otherwise.
    torch.set_num_threads(1)
    try:
        scenes = [draw_scene(number) for number in range(TRAINING + HELD_OUT)]
        training, held_out = scenes[:TRAINING], scenes[TRAINING:]
        return {way.name: [train(way, training, held_out, seed=seed, steps=steps) for seed in seeds] for way in WAYS}
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Print the scores of every way: each seed, mean, and the difference of the means to independent windows."""
    scores = measure()
    base = float(np.mean(scores[WAYS[0].name]))
    for name, values in scores.items():
        mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
        print(f"{name:20s} IoU {mean:.3f} +- {spread:.3f} over {len(values)} seeds, {mean - base:+.3f}")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
