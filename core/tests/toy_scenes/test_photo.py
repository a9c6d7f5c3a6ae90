"""A photograph without a CRS: pairs by file name, tile normalization, a map that has no CRS either."""

from __future__ import annotations

import json
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from geocore.datasets.dataset import Dataset
from geocore.datasets.loader import Batches
from geocore.datasets.pairing import pair_by_suffix
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import compute_statistics
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Window
from geocore.raster.scene import Scene
from geocore.tiling.samplers import PatchIndex, RandomWindowSampler
from geocore.tiling.tiles import TileGrid
from geocore.training.losses import masked_cross_entropy
from geocore.transforms.normalize import Normalize

SPLITS = ("train", "train", "train", "val", "test", "test")


def write_image(path: Path, values: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        height, width = values.shape[1:]
        with rasterio.open(
            path, "w", driver="PNG", height=height, width=width, count=len(values), dtype="uint8"
        ) as file:
            file.write(values)


def make_photos(folder: Path) -> None:
    """Snow (1) on rock (0), under light that differs from photo to photo and across each."""
    folder.mkdir()
    for index in range(len(SPLITS)):
        rng = np.random.default_rng(index)
        shape = (70 + 8 * index, 110 - 5 * index)
        snow = gaussian_filter(rng.standard_normal(shape), 5) > 0
        colours = np.where(
            snow, *np.array([[[150.0]], [[150.0]], [[175.0]], [[120.0]], [[125.0]], [[115.0]]]).reshape(2, 3, 1, 1)
        )
        light = rng.uniform(0.5, 1.0) * np.linspace(0.8, 1.2, shape[1])
        image = colours * light + 12 * rng.standard_normal((3, *shape))
        write_image(folder / f"p{index}.png", image.clip(0, 255).astype(np.uint8))
        write_image(folder / f"p{index}_mask.png", snow[np.newaxis].astype(np.uint8))


def prepare(folder: Path) -> Path:
    pairs = pair_by_suffix(folder)
    samples = [
        Sample(
            id=pair.stem,
            group=f"slope-{index}",
            split=split,
            inputs={"image": pair.image.name},
            labels={"snow": pair.label.name},
        ).hashed(folder)
        for index, (pair, split) in enumerate(zip(pairs, SPLITS, strict=True))
    ]
    train = [open_raster(pair.image) for pair, split in zip(pairs, SPLITS, strict=True) if split == "train"]
    return Dataset(
        root=folder,
        task="photo",
        samples=samples,
        layers=train[0].layers,
        labels={"snow": LabelSpec("snow", {0: "rock", 1: "snow"}, ignore=255)},
        statistics=compute_statistics(train, ["image"]),
        protocol={"normalization": "tile"},
    ).save()


class Net(nn.Module):
    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        return self.layers(self.normalize(inputs)["image"])


def read_tile(scene: Scene, window: Window) -> dict[str, Any]:
    patches = scene.read_layers(window)
    return {"inputs": patches, "valid": patches["image"].valid.all(axis=0)}


def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    return {"cross_entropy": masked_cross_entropy(model(batch["inputs"]), batch["targets"]["snow"], 255)}


def test_photo(bench: Any, toys: Any) -> None:
    make_photos(bench.folder / "data")
    dataset = Dataset.load(prepare(bench.folder / "data"))
    assert dataset.statistics is not None
    torch.manual_seed(0)
    bands = {name: layer.bands for name, layer in dataset.layers.items()}
    model = Net(Normalize(dataset.statistics, bands, mode="tile"))
    dense = toys.DenseMap(TileGrid(32, 8), read_tile, classes=2)

    with ExitStack() as stack:
        scenes = {
            sample.id: stack.enter_context(open_raster(dataset.path(sample.inputs["image"])))
            for sample in dataset.samples
        }
        labels = {sample.id: open_raster(dataset.path(sample.labels["snow"])) for sample in dataset.samples}
        truth = {name: scene.read_layers(scene.grid.whole)["image"].values[0] for name, scene in labels.items()}
        train = dataset.split("train")

        def read(draw: PatchIndex) -> dict[str, Any]:
            name, window = train[draw.sample].id, draw.window
            assert window is not None
            label = labels[name].read(window)
            return {
                **read_tile(scenes[name], window),
                "targets": {"snow": np.where(label.valid, label.values, 255)[0]},
                "keys": np.array([draw.epoch, draw.index]),
            }

        def counts(split: str) -> list[np.ndarray]:
            ids = [sample.id for sample in dataset.split(split)]
            return [toys.confusion(truth[name], bench.predict(model, scenes[name], dense), 2) for name in ids]

        shapes = [scenes[sample.id].grid.shape for sample in train]
        untrained = counts("test")
        result = bench.train(
            model,
            Batches(RandomWindowSampler(shapes, 32, 64, seed=0), read, batch_size=8),
            step,
            lambda model: {"iou": toys.mean_iou(sum(counts("val")))},
            dataset=dataset,
            primary="iou",
            steps=40,
            batch_size=8,
            card={"normalize": model.normalize.card()},
        )

        test = dataset.split("test")
        for sample in test:
            path = bench.folder / f"{sample.id}_pred.tif"
            bench.predict_to_file(model, scenes[sample.id], dense, path, chunk_px=50)
            with open_raster(path) as product:
                assert product.grid.crs is None and product.grid.transform is None
                mapped = product.read_layers(product.grid.whole)["image"].values[0]
            with open_raster(path.with_name(path.name.replace("_pred", "_prob"))) as product:
                percent = product.read_layers(product.grid.whole)["image"]
            assert percent.valid.all() and (np.abs(percent.values.sum(0, dtype=int) - 100) <= 1).all()
            rock, snow = percent.values
            assert (mapped[snow > rock] == 1).all() and (mapped[snow < rock] == 0).all()
            # Chunks and a whole scene need not batch alike: only rounding may differ.
            assert (mapped != bench.predict(model, scenes[sample.id], dense)).mean() < 0.001
            assert json.loads((bench.folder / f"{sample.id}_pred.parts/.done/r000000-c000000.json").read_text())

        evaluation = bench.evaluate(
            dataset,
            counts("test"),
            untrained,
            groups=[sample.group for sample in test],
            result=result,
            score=toys.mean_iou,
            primary="iou",
            classes=["rock", "snow"],
        )
    assert set(evaluation.per_class) == {"rock", "snow"} and evaluation.per_class["snow"]["pixels"] > 0
    assert evaluation.untrained is not None
    assert evaluation.model["iou"] > max(0.7, evaluation.untrained["iou"] + 0.2)
    low, high = evaluation.intervals["iou"]
    assert low <= evaluation.model["iou"] <= high
