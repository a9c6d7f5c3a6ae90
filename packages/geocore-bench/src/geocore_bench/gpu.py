"""On a machine with a GPU: how busy geocore keeps it in training and mapping, and what bfloat16 brings.

    python -m geocore_bench.gpu [--out FOLDER]

A U-Net on resnet34 and a ViT-L on tiles of 512, six bands. GPU-busy is the share of the wall clock in which a kernel
runs, from torch's profiler. The scene lies in memory, so that neither disk nor codec is measured. Prints a line of JSON
for each run; without a GPU it says so and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geocore_bench.maps import CLASSES
from geocore_bench.scenes import BANDS, REFLECTANCE, texture

if TYPE_CHECKING:
    from torch import Tensor, nn

    from geocore.device import DeviceContext
    from geocore.raster.scene import Scene

Model = Literal["unet-resnet34", "vit-large"]
TILE_PX, OVERLAP_PX = 512, 64
SCENE_PX = 8192

_BATCH = {"unet-resnet34": 32, "vit-large": 8}
_STEPS, _WARM = 40, 10


@dataclass(frozen=True, slots=True)
class Busy:
    """One run."""

    work: Literal["training", "mapping"]
    model: str
    precision: str
    mpx_s: float
    """Million pixels a second: of tiles in training, of the scene in mapping."""
    busy: float
    """Share of the wall clock in which the GPU worked, 0-1."""
    peak_mib: float
    """Largest memory that torch had allocated on the GPU."""


def network(model: Model) -> nn.Module:
    """The model with random weights; gives shape (batch, CLASSES, row, col)."""
    import segmentation_models_pytorch as smp
    import timm
    import torch

    if model == "unet-resnet34":
        unet: nn.Module = smp.Unet("resnet34", encoder_weights=None, in_channels=BANDS, classes=CLASSES)
        return unet
    patch = 16

    class Transformer(torch.nn.Module):
        body: Any

        def __init__(self) -> None:
            super().__init__()
            body: Any = timm.create_model("vit_large_patch16_224", img_size=TILE_PX, in_chans=BANDS, num_classes=0)
            self.body = body
            self.head = torch.nn.Conv2d(body.embed_dim, CLASSES * patch**2, 1)
            self.first = body.num_prefix_tokens

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.body.forward_features(images)[:, self.first :]
            side = TILE_PX // patch
            grid = tokens.transpose(1, 2).reshape(len(images), -1, side, side)
            return torch.nn.functional.pixel_shuffle(self.head(grid), patch)

    return Transformer()


def scene() -> Scene:
    """The scene, in memory."""
    from geocore.raster.bands import Band, Bands
    from geocore.raster.grid import Grid
    from geocore.raster.scene import ArrayReader, Layer, Scene

    bands = Bands(tuple(Band(str(number + 1)) for number in range(BANDS)))
    source = ArrayReader(Layer("image", bands, "uint16"), texture(SCENE_PX, 1))
    return Scene("memory", Grid(SCENE_PX, SCENE_PX), {"image": source})


def training(model: Model, context: DeviceContext, source: Scene) -> Busy:
    """fit() on random windows."""
    import torch

    from geocore.datasets.loader import Batches
    from geocore.settings import OptimizerSettings, ScheduleSettings, Settings, TrainingSettings
    from geocore.tiling.samplers import PatchIndex, RandomWindowSampler
    from geocore.training.fit import fit
    from geocore.training.run import Run

    batch = _BATCH[model]

    def read(draw: PatchIndex) -> dict[str, Any]:
        assert draw.window is not None
        values = source.read_layers(draw.window)["image"].values
        return {"image": values, "label": (values[0] > 1500).astype(np.uint8)}

    def step(network: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        images = batch["image"].float().mul_(1 / REFLECTANCE)
        total = torch.nn.functional.cross_entropy(network(images).float(), batch["label"].long(), reduction="sum")
        return {"loss": (total, torch.tensor(batch["label"].numel()))}

    def run(steps: int, folder: Path) -> Callable[[], None]:
        sampler = RandomWindowSampler([source.grid.shape], TILE_PX, steps * batch, seed=0)
        batches = Batches(sampler, read, batch_size=batch, threads=8, pin_memory=True)
        length = TrainingSettings(steps=steps, batch_size=batch, validate_every=10**6, checkpoint_every=10**6)

        def work() -> None:
            with Run.open(folder, settings=Settings(), data_hash="none", task="bench") as opened:
                fit(
                    network(model),
                    batches,
                    step,
                    lambda network: {"score": 0.0},
                    training=length,
                    optimizer=OptimizerSettings(),
                    schedule=ScheduleSettings(kind="constant"),
                    context=context,
                    run=opened,
                    card={},
                    primary="score",
                )

        return work

    with tempfile.TemporaryDirectory() as folder:
        run(_WARM, Path(folder) / "warm")()
        seconds, busy, peak = _watched(run(_STEPS, Path(folder) / "run"))
    pixels = _STEPS * batch * TILE_PX**2
    return Busy("training", model, context.precision, pixels / 1e6 / seconds, busy, peak)


def mapping(model: Model, context: DeviceContext, source: Scene) -> Busy:
    """map_chunk() over the scene, labels copied to the host."""
    from geocore.datasets.batch import VALID
    from geocore.inference.blend import OverlapBlender
    from geocore.inference.outputs import argmax_labels
    from geocore.inference.tiled import predict_tiles
    from geocore.raster.grid import Window
    from geocore.tiling.tiles import Chunk, TileGrid

    tiling = TileGrid(size=TILE_PX, overlap=OVERLAP_PX)
    prepared = context.prepare(network(model)).eval()
    labels = np.empty(source.grid.shape, np.uint8)

    def forward(batch: Any) -> dict[str, Any]:
        images = batch["image"]["values"].float().mul_(1 / REFLECTANCE)
        return {"classes": prepared(images), VALID: batch["image"]["valid"]}

    def on_rows(row: int, rows: dict[str, Tensor]) -> None:
        found = argmax_labels(rows["classes"]).cpu().numpy()
        labels[row : row + len(found)] = found

    def work(rows: int) -> None:
        chunk = Chunk("all", Window(0, 0, rows, SCENE_PX))
        predict_tiles(
            forward,
            source,
            chunk,
            tiling,
            OverlapBlender(chunk, tiling, source.grid.shape, {"classes": CLASSES}, on_rows=on_rows),
            read=lambda scene, window: scene.read_layers(window),
            context=context,
        )

    work(TILE_PX)
    seconds, busy, peak = _watched(lambda: work(SCENE_PX))
    return Busy("mapping", model, context.precision, labels.size / 1e6 / seconds, busy, peak)


def _watched(work: Callable[[], None]) -> tuple[float, float, float]:
    """Seconds, share of them in which a kernel ran, and peak of torch's memory, MiB."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type.name == "CUDA"
    )
    return seconds, covered(spans) / 1e6 / seconds, torch.cuda.max_memory_allocated() / 2**20


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals, which are sorted by their start."""
    total, reached = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def runs() -> Iterator[Busy]:
    """Both models, training and mapping, float32 and bfloat16."""
    from geocore.device import device_context
    from geocore.settings import DeviceSettings

    source = scene()
    models: tuple[Model, ...] = ("unet-resnet34", "vit-large")
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    for model in models:
        for precision in precisions:
            settings = DeviceSettings(device="cuda", precision=precision, channels_last=model == "unet-resnet34")
            with device_context(settings, batch_size=_BATCH[model]) as context:
                yield training(model, context, source)
                yield mapping(model, context, source)


def main() -> int:
    """Print the runs; the exit code."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m geocore_bench.gpu", description="How busy geocore keeps a GPU.")
    parser.add_argument("--out", type=Path, help="folder for gpu.jsonl; none: print only")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: torch sees none, so there is nothing to measure", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    lines = []
    for run in runs():
        lines.append(json.dumps(asdict(run)))
        print(lines[-1], flush=True)
    if given.out is not None:
        (given.out / "gpu.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
