"""A dated stack: layers of axes (time, band) at ratios 1 and 2, clouds that hide single dates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocore.datasets.dataset import Dataset
from geocore.datasets.loader import Batches
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import compute_statistics
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.storage.files import atomic_path
from geocore.tiling.samplers import GridSampler, PatchIndex
from geocore.tiling.tiles import TileGrid
from geocore.training.losses import masked_cross_entropy
from geocore.transforms.augment import Flip, Rot90, compose
from geocore.transforms.normalize import Normalize

DATES = ("2024-03-01", "2024-05-01", "2024-07-01", "2024-09-01")
CLASSES = {0: "grass", 1: "spring crop", 2: "summer crop", 3: "irrigated summer crop"}
LAYERS = {
    "s2_10m": Layer("s2_10m", Bands.named("B04", "B08", nodata=0), "uint16", 1, DATES),
    "s2_20m": Layer("s2_20m", Bands.named("B11", nodata=0), "uint16", 2, DATES),
}
SPLITS = ("train",) * 4 + ("val", "test", "test")
GRID = Grid(48, 40, (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0), "EPSG:32633", length_unit="m")


def make_patch(folder: Path, index: int) -> None:
    """Greenness peaks in May or July; irrigation shows in the 20 m band alone."""
    rng = np.random.default_rng(index)
    parcels = rng.integers(0, 4, (6, 5))
    crop = np.kron(parcels, np.ones((8, 8), np.int64))
    green = np.array([[1.0, 1, 1, 1], [1, 3, 1, 0.5], [0.5, 1, 3, 1], [0.5, 1, 3, 1]])[crop].transpose(2, 0, 1)
    fine = np.stack([1800 - 400 * green, 1500 + 900 * green], 1) + 250 * rng.standard_normal((4, 2, 48, 40))
    wet = np.where(crop[::2, ::2] == 3, 1200.0, 2200.0)
    coarse = wet + 250 * rng.standard_normal((4, 1, 24, 20))
    stack = {"s2_10m": fine.clip(1).astype(np.uint16), "s2_20m": coarse.clip(1).astype(np.uint16)}
    date, row = int(rng.integers(4)), int(rng.integers(0, 30))
    stack["s2_10m"][date, :, row : row + 16] = 0
    stack["s2_20m"][date, :, row // 2 : row // 2 + 8] = 0
    stack["s2_10m"][:, :, :3, :3] = 0  # never seen
    for name, values in stack.items():
        with atomic_path(folder / f"p{index}_{name}.npy") as path:
            np.save(path, values)
    np.save(folder / f"p{index}_crop.npy", crop.astype(np.uint8))


def open_patch(root: Path, sample: Sample) -> Scene:
    arrays = {name: np.load(root / path, mmap_mode="r") for name, path in sample.inputs.items()}
    return Scene(sample.id, GRID, {name: ArrayReader(LAYERS[name], values) for name, values in arrays.items()})


def prepare(folder: Path) -> Path:
    folder.mkdir()
    samples = []
    for index, split in enumerate(SPLITS):
        make_patch(folder, index)
        inputs = {name: f"p{index}_{name}.npy" for name in LAYERS}
        samples.append(
            Sample(f"p{index}", f"area-{index}", split, inputs, {"crop": f"p{index}_crop.npy"}).hashed(folder)
        )
    return Dataset(
        root=folder,
        task="dated-stack",
        samples=samples,
        layers=LAYERS,
        labels={"crop": LabelSpec("crop", CLASSES, ignore=255)},
        statistics=compute_statistics((open_patch(folder, sample) for sample in samples[:4]), list(LAYERS)),
    ).save()


class Net(nn.Module):
    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize
        self.layers = nn.Sequential(nn.Conv2d(12, 16, 1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        ready = self.normalize(inputs)
        fine = ready["s2_10m"]
        coarse = functional.interpolate(ready["s2_20m"], scale_factor=2)
        return self.layers(torch.cat([fine, coarse[..., : fine.shape[-2], : fine.shape[-1]]], 1))


def read_tile(scene: Scene, window: Window) -> dict[str, Any]:
    patches = scene.read_layers(window)
    return {"inputs": patches, "valid": patches["s2_10m"].valid.all(axis=1).any(axis=0)}


AUGMENT = compose([Flip(), Rot90()], seed=0)


def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    batch = AUGMENT({name: batch[name] for name in ("inputs", "targets", "keys")})
    return {"cross_entropy": masked_cross_entropy(model(batch["inputs"]), batch["targets"]["crop"], 255)}


def test_dated_stack(bench: Any, toys: Any) -> None:
    dataset = Dataset.load(prepare(bench.folder / "data"))
    assert dataset.statistics is not None and dataset.layers == LAYERS
    torch.manual_seed(0)
    bands = {name: layer.bands for name, layer in dataset.layers.items()}
    model = Net(Normalize(dataset.statistics, bands))
    tiling = TileGrid(16, 4, align=2)
    dense = toys.DenseMap(tiling, read_tile, classes=4)

    scenes = {sample.id: open_patch(dataset.root, sample) for sample in dataset.samples}
    truth = {sample.id: np.load(dataset.path(sample.labels["crop"])) for sample in dataset.samples}
    train = dataset.split("train")

    def read(draw: PatchIndex) -> dict[str, Any]:
        name, window = train[draw.sample].id, draw.window
        assert window is not None
        item = read_tile(scenes[name], window)
        return item | {
            "targets": {"crop": np.where(item["valid"], truth[name][window.slices], 255)},
            "keys": np.array([draw.epoch, draw.index]),
        }

    def counts(split: str) -> list[np.ndarray]:
        ids = [sample.id for sample in dataset.split(split)]
        return [toys.confusion(truth[name], bench.predict(model, scenes[name], dense), 4) for name in ids]

    untrained = counts("test")
    result = bench.train(
        model,
        Batches(GridSampler([tiling.windows(GRID.shape)] * len(train), seed=0), read, batch_size=8, threads=2),
        step,
        lambda model: {"iou": toys.mean_iou(sum(counts("val")))},
        dataset=dataset,
        primary="iou",
        steps=50,
        batch_size=8,
        card={"normalize": model.normalize.card(), "dates": list(DATES)},
    )

    test = dataset.split("test")
    for sample in test:
        path = bench.folder / f"{sample.id}_pred.tif"
        bench.predict_to_file(model, scenes[sample.id], dense, path, chunk_px=20)
        mapped = bench.predict(model, scenes[sample.id], dense)
        # A pixel without any valid date has no class; a cloud at one date takes nothing away.
        invalid = mapped == toys.NODATA
        assert invalid[:3, :3].all() and invalid.sum() == 9
    evaluation = bench.evaluate(
        dataset,
        counts("test"),
        untrained,
        groups=[sample.group for sample in test],
        result=result,
        score=toys.mean_iou,
        primary="iou",
    )
    assert evaluation.untrained is not None
    assert evaluation.model["iou"] > max(0.6, evaluation.untrained["iou"] + 0.3)
