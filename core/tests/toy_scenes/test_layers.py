"""Layers at ratios 1 and 25 with control points, a working grid five times coarser than the reference, and a map on the
reference grid. The reference grid is no multiple of either."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

from geocore.datasets.dataset import Dataset
from geocore.datasets.loader import Batches
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import compute_statistics
from geocore.raster.geotiff import open_raster, open_rasters
from geocore.raster.grid import ControlPoint, Grid, Window
from geocore.raster.scene import Scene
from geocore.raster.write import write_raster
from geocore.tiling.samplers import PatchIndex, RandomWindowSampler
from geocore.tiling.tiles import TileGrid
from geocore.training.losses import masked_cross_entropy
from geocore.transforms.normalize import Normalize

COARSE, WORKING = 25, 5
SPLITS = ("train", "train", "train", "val", "test", "test")
CLASSES = {0: "water", 1: "thin ice", 2: "thick ice"}


def make_scene(folder: Path, index: int) -> None:
    """Microwaves tell ice from water, radar thin from thick ice: neither layer suffices."""
    rng = np.random.default_rng(index)
    rows, cols = 233 + index, 300 - index
    corners = [(0, 0), (0, cols), (rows, 0), (rows, cols)]
    grid = Grid(
        rows,
        cols,
        crs="EPSG:4326",
        gcps=tuple(ControlPoint(row, col, -60 + col * 1e-3, 70 - row * 1e-3) for row, col in corners),
    )
    coarse = gaussian_filter(rng.standard_normal((-(-rows // COARSE), -(-cols // COARSE))), 1.2)
    ice = np.repeat(np.repeat(coarse > 0, COARSE, 0), COARSE, 1)[:rows, :cols]
    bright = gaussian_filter(rng.standard_normal((rows, cols)), 12) > 0
    sar = np.where(bright, -9.0, -15.0) + 3 * rng.standard_normal((2, rows, cols))
    sar[:, : 20 + index, 200:] = np.nan
    write_raster(
        folder / f"s{index}_sar.tif", sar.astype(np.float32), grid=grid, nodata=np.nan, band_names=["HH", "HV"]
    )
    amsr = (np.where(coarse > 0, 230.0, 160.0) + 8 * rng.standard_normal(coarse.shape))[np.newaxis]
    write_raster(folder / f"s{index}_amsr.tif", amsr.astype(np.float32), grid=grid.coarser(COARSE), band_names=["19V"])
    label = np.where(ice, np.where(bright, 2, 1), 0).astype(np.uint8)
    write_raster(folder / f"s{index}_ice.tif", label, grid=grid, nodata=255, class_names=CLASSES)


def open_scene(dataset_root: Path, sample: Sample) -> Scene:
    return open_rasters(sample.id, {name: dataset_root / path for name, path in sample.inputs.items()}, "sar")


def prepare(folder: Path) -> Path:
    folder.mkdir()
    samples = []
    for index, split in enumerate(SPLITS):
        make_scene(folder, index)
        inputs = {"sar": f"s{index}_sar.tif", "amsr": f"s{index}_amsr.tif"}
        sample = Sample(f"s{index}", f"pass-{index}", split, inputs, {"ice": f"s{index}_ice.tif"})
        samples.append(sample.hashed(folder))
    with ExitStack() as stack:
        train = [stack.enter_context(open_scene(folder, sample)) for sample in samples if sample.split == "train"]
        return Dataset(
            root=folder,
            task="layers",
            samples=samples,
            layers=train[0].layers,
            labels={"ice": LabelSpec("ice", CLASSES, ignore=255)},
            statistics=compute_statistics(train, ["sar", "amsr"]),
            protocol={"working_ratio": WORKING},
        ).save()


class Net(nn.Module):
    """Works at 5 reference pixels per pixel and answers on the reference grid."""

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 3, 1))

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        ready = self.normalize(inputs)
        sar = functional.avg_pool2d(ready["sar"], WORKING)
        amsr = functional.interpolate(ready["amsr"], scale_factor=COARSE // WORKING)
        working = self.layers(torch.cat([sar, amsr[..., : sar.shape[-2], : sar.shape[-1]]], 1))
        return functional.interpolate(working, scale_factor=WORKING, mode="bilinear", align_corners=False)


def read_reference(scene: Scene, window: Window) -> dict[str, Any]:
    patches = scene.read_layers(window)
    return {"inputs": patches, "valid": patches["sar"].valid.all(axis=0)}


def read_working(scene: Scene, window: Window) -> dict[str, Any]:
    return read_reference(scene, window.finer(WORKING))


def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    return {"cross_entropy": masked_cross_entropy(model(batch["inputs"]), batch["targets"]["ice"], 255)}


def test_layers(bench: Any, toys: Any) -> None:
    dataset = Dataset.load(prepare(bench.folder / "data"))
    assert dataset.statistics is not None and dataset.layers["amsr"].ratio == COARSE
    torch.manual_seed(0)
    bands = {name: layer.bands for name, layer in dataset.layers.items()}
    model = Net(Normalize(dataset.statistics, bands))
    dense = toys.DenseMap(TileGrid(20, 10, align=COARSE // WORKING), read_working, classes=3, ratio=WORKING)

    with ExitStack() as stack:
        scenes = {sample.id: stack.enter_context(open_scene(dataset.root, sample)) for sample in dataset.samples}
        assert all(scene.alignment == COARSE for scene in scenes.values())
        labels = {sample.id: open_raster(dataset.path(sample.labels["ice"])) for sample in dataset.samples}
        truth = {name: scene.read_layers(scene.grid.whole)["image"].values[0] for name, scene in labels.items()}
        train = dataset.split("train")

        def read(draw: PatchIndex) -> dict[str, Any]:
            name, window = train[draw.sample].id, draw.window
            assert window is not None
            item = read_reference(scenes[name], window)
            label = labels[name].read(window)
            scored = label.valid[0] & item["valid"]
            return item | {
                "targets": {"ice": np.where(scored, label.values[0], 255)},
                "keys": np.array([draw.epoch, draw.index]),
            }

        def counts(split: str) -> list[np.ndarray]:
            ids = [sample.id for sample in dataset.split(split)]
            return [toys.confusion(truth[name], bench.predict(model, scenes[name], dense), 3) for name in ids]

        untrained = counts("test")
        result = bench.train(
            model,
            Batches(
                RandomWindowSampler([scenes[sample.id].grid.shape for sample in train], 100, 40, seed=0, align=COARSE),
                read,
                batch_size=4,
            ),
            step,
            lambda model: {"iou": toys.mean_iou(sum(counts("val")))},
            dataset=dataset,
            primary="iou",
            steps=40,
            batch_size=4,
            card={"normalize": model.normalize.card(), "ratio": WORKING},
        )

        test = dataset.split("test")
        for sample in test:
            scene, path = scenes[sample.id], bench.folder / f"{sample.id}_pred.tif"
            bench.predict_to_file(model, scene, dense, path, chunk_px=30)
            with open_raster(path) as product:
                assert product.grid.shape == scene.grid.shape and len(product.grid.gcps) == 4
                patch = product.read_layers(product.grid.whole)["image"]
            # Invalid in = invalid out, to the pixel.
            sar = scene.read_layers(Window(0, 0, 250, 300), ["sar"])["sar"]
            rows, cols = scene.grid.shape
            assert np.array_equal(patch.valid[0], sar.valid.all(0)[:rows, :cols])
            assert (patch.values[0] != bench.predict(model, scene, dense)).mean() < 0.001

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
    assert evaluation.model["iou"] > max(0.6, evaluation.untrained["iou"] + 0.2)
