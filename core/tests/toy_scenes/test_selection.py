"""Batches chosen by a selector that asks the model: of each batch read, it shows the samples with the highest loss.

The selector wraps `Batches`, holds the model itself and keeps a state of its own, and a run that was cut off goes on to
the very weights of one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocore.datasets.dataset import Dataset
from geocore.datasets.loader import Batches
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import compute_statistics
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import Scene
from geocore.raster.write import write_raster
from geocore.tiling.samplers import PatchIndex, RandomWindowSampler
from geocore.tiling.tiles import TileGrid
from geocore.training.losses import masked_cross_entropy
from geocore.transforms.normalize import Normalize

SPLITS = ("train", "train", "val", "test", "test")
CHIP, READ, SHOWN = 16, 16, 4


def make_scene(folder: Path, index: int) -> None:
    """A rare class in a corner of each scene: few chips teach anything."""
    rng = np.random.default_rng(index)
    rare = np.zeros((96, 80), bool)
    top, left = rng.integers(0, 70), rng.integers(0, 55)
    rare[top : top + 22, left : left + 22] = True
    image = np.stack([100 + 30 * rare, 120 - 30 * rare]) + 18 * rng.standard_normal((2, 96, 80))
    grid = Grid(96, 80, (10.0, 0.0, 5e5, 0.0, -10.0, 7e6), "EPSG:32652", length_unit="m")
    write_raster(
        folder / f"s{index}.tif", image.clip(1, 255).astype(np.uint8), grid=grid, nodata=0, band_names=["a", "b"]
    )
    write_raster(folder / f"s{index}_rare.tif", rare.astype(np.uint8), grid=grid)


def prepare(folder: Path) -> Path:
    folder.mkdir()
    samples = []
    for index, split in enumerate(SPLITS):
        make_scene(folder, index)
        sample = Sample(f"s{index}", f"area-{index}", split, {"image": f"s{index}.tif"}, {"rare": f"s{index}_rare.tif"})
        samples.append(sample.hashed(folder))
    with ExitStack() as files:
        train = [files.enter_context(open_raster(folder / f"s{index}.tif")) for index in (0, 1)]
        return Dataset(
            root=folder,
            task="selection",
            samples=samples,
            layers=train[0].layers,
            labels={"rare": LabelSpec("rare", {0: "common", 1: "rare"}, ignore=255)},
            statistics=compute_statistics(train, ["image"]),
        ).save()


class Net(nn.Module):
    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize
        self.layers = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        return self.layers(self.normalize(inputs)["image"])


class HardestFirst:
    """Batch source: the `keep` samples of each batch that the model gets most wrong as it is now."""

    def __init__(self, inner: Batches[Any], model: nn.Module, keep: int) -> None:
        self._inner, self._model, self._keep = inner, model, keep
        self.rare_share = [0.0, 0.0]
        """Sums over batches of the rare class's share: of all samples read, of those shown."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._inner:
            chosen = self._losses(batch).topk(self._keep).indices.sort().values
            rare = (batch["targets"]["rare"] == 1).float().mean((1, 2))
            self.rare_share[0] += float(rare.mean())
            self.rare_share[1] += float(rare[chosen].mean())
            yield taken(batch, chosen)

    def _losses(self, batch: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            logits = self._model(batch["inputs"])
        return functional.cross_entropy(
            logits, batch["targets"]["rare"].long(), ignore_index=255, reduction="none"
        ).mean((1, 2))

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self._inner.state_dict(), "rare_share": list(self.rare_share)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._inner.load_state_dict(state["inner"])
        self.rare_share = list(state["rare_share"])


def taken(batch: Any, chosen: Tensor) -> Any:
    return {key: taken(value, chosen) for key, value in batch.items()} if isinstance(batch, dict) else batch[chosen]


def read_tile(scene: Scene, window: Window) -> dict[str, Any]:
    patches = scene.read_layers(window)
    return {"inputs": patches, "valid": patches["image"].valid.all(axis=0)}


def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    assert len(batch["keys"]) == SHOWN
    return {"cross_entropy": masked_cross_entropy(model(batch["inputs"]), batch["targets"]["rare"], 255)}


class PowerCut(Exception):
    """Stands for a process that is killed."""


def test_selection(bench: Any, toys: Any) -> None:
    dataset = Dataset.load(prepare(bench.folder / "data"))
    assert dataset.statistics is not None
    statistics, bands = dataset.statistics, {"image": dataset.layers["image"].bands}
    dense = toys.DenseMap(TileGrid(32, 8), read_tile, classes=2)

    with ExitStack() as files:
        scenes, truth = {}, {}
        for sample in dataset.samples:
            scenes[sample.id] = files.enter_context(open_raster(dataset.path(sample.inputs["image"])))
            with open_raster(dataset.path(sample.labels["rare"])) as label:
                truth[sample.id] = label.read_layers(label.grid.whole)["image"].values[0]
        train = dataset.split("train")

        def read(draw: PatchIndex) -> dict[str, Any]:
            name, window = train[draw.sample].id, draw.window
            assert window is not None
            return {
                **read_tile(scenes[name], window),
                "targets": {"rare": truth[name][window.slices]},
                "keys": np.array([draw.epoch, draw.index]),
            }

        def counts(model: nn.Module, split: str) -> list[np.ndarray]:
            names = [sample.id for sample in dataset.split(split)]
            return [toys.confusion(truth[name], bench.predict(model, scenes[name], dense), 2) for name in names]

        def score(counts: np.ndarray) -> float:
            return float(counts[1, 1] / max(counts[1].sum() + counts[0, 1], 1))

        def run(run_folder: str, cut: bool = False) -> tuple[Net, HardestFirst, Any]:
            torch.manual_seed(0)
            model = Net(Normalize(statistics, bands))
            sampler = RandomWindowSampler([scenes[sample.id].grid.shape for sample in train], CHIP, 80, seed=0)
            source = HardestFirst(Batches(sampler, read, batch_size=READ, threads=2), model, SHOWN)

            def validate(model: nn.Module) -> dict[str, float]:
                if cut:
                    raise PowerCut
                return {"iou": score(np.asarray(sum(counts(model, "val"))))}

            result = bench.train(
                model,
                source,
                step,
                validate,
                dataset=dataset,
                primary="iou",
                steps=30,
                batch_size=SHOWN,
                card={"normalize": model.normalize.card()},
                checkpoint_every=4,
                run_folder=run_folder,
            )
            return model, source, result

        torch.manual_seed(0)
        untrained = counts(Net(Normalize(statistics, bands)), "test")
        model, source, result = run("run")

        with pytest.raises(PowerCut):
            run("cut", cut=True)
        again, again_source, _ = run("cut")
        assert again_source.state_dict() == source.state_dict()
        for name, weights in model.state_dict().items():
            assert torch.equal(weights, again.state_dict()[name]), name

        # The selector shows the rare class more often than it is met.
        assert source.rare_share[1] > 1.5 * source.rare_share[0]
        test = dataset.split("test")
        evaluation = bench.evaluate(
            dataset,
            counts(model, "test"),
            untrained,
            groups=[sample.group for sample in test],
            result=result,
            score=score,
            primary="iou",
        )
    assert evaluation.untrained is not None
    assert evaluation.model["iou"] > max(0.7, evaluation.untrained["iou"] + 0.3)
