"""Ragged instances: boxes and masks in, objects out, each once although tiles and chunks cut through it.

Ownership rule of the collector: tiles overlap by more than the largest object, so each object is seen whole by a tile,
and detections cut by a tile's border are dropped. Of detections that overlap the one furthest from its tile's border
stays (the first tile where equal). An object belongs to the chunk that holds the centre of its box.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from geocore.datasets.dataset import Dataset
from geocore.datasets.loader import Batches, stack
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import compute_statistics
from geocore.inference.tiled import predict_tiles, run_chunks
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import Scene
from geocore.raster.write import write_raster
from geocore.tiling.samplers import PatchIndex, RandomWindowSampler
from geocore.tiling.tiles import Chunk, TileGrid, chunks
from geocore.training.losses import masked_bce_with_logits
from geocore.transforms.normalize import Normalize

SPLITS = ("train", "train", "val", "test", "test")
TILE, LARGEST, SMALLEST = 48, 17, 20
TILING = TileGrid(TILE, LARGEST + 3)
ROWS, COLS = 110, 128


def make_scene(folder: Path, index: int) -> None:
    """Bright discs of radius 4 to 7 that do not touch, in noise."""
    rng = np.random.default_rng(index)
    ids, centres = np.zeros((ROWS, COLS), np.uint16), []
    rows, cols = np.ogrid[:ROWS, :COLS]
    while len(centres) < 14:
        row, col, radius = rng.integers(0, ROWS), rng.integers(0, COLS), rng.integers(4, 8)
        if all((row - r) ** 2 + (col - c) ** 2 > 21**2 for r, c in centres):
            centres.append((row, col))
            ids[(rows - row) ** 2 + (cols - col) ** 2 <= radius**2] = len(centres)
    image = 90 + 70 * (ids > 0) + 25 * rng.standard_normal(ids.shape)
    grid = Grid(ROWS, COLS, (0.5, 0.0, 5e5, 0.0, -0.5, 7e6), "EPSG:32652", length_unit="m")
    write_raster(folder / f"s{index}.tif", image.clip(0, 255).astype(np.uint8)[np.newaxis], grid=grid)
    write_raster(folder / f"s{index}_objects.tif", ids, grid=grid)


def prepare(folder: Path) -> Path:
    folder.mkdir()
    samples = []
    for index, split in enumerate(SPLITS):
        make_scene(folder, index)
        sample = Sample(
            f"s{index}", f"coast-{index}", split, {"image": f"s{index}.tif"}, {"objects": f"s{index}_objects.tif"}
        )
        samples.append(sample.hashed(folder))
    with ExitStack() as files:
        train = [files.enter_context(open_raster(folder / f"s{index}.tif")) for index in (0, 1)]
        return Dataset(
            root=folder,
            task="instances",
            samples=samples,
            layers=train[0].layers,
            labels={"objects": LabelSpec("objects")},
            statistics=compute_statistics(train, ["image"]),
        ).save()


class Net(nn.Module):
    """Two logits per pixel: object, and centre of an object's box."""

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.normalize = normalize
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 2, 3, padding=1),
        )

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        return self.layers(self.normalize(inputs)["image"])


@dataclass(frozen=True)
class Found:
    """An object in scene pixels."""

    box: Window
    mask: np.ndarray
    """Shape of the box, bool."""
    score: float
    margin: int
    """Pixels between the box and the nearest border of the tile that saw it."""

    def overlap(self, other: Found) -> float:
        """Intersection over union of the masks."""
        shared = self.box.intersection(other.box)
        if shared is None:
            return 0.0
        mine, theirs = (found.mask[shared.shifted(-found.box.row, -found.box.col).slices] for found in (self, other))
        both = int((mine & theirs).sum())
        return both / (int(self.mask.sum()) + int(other.mask.sum()) - both)


class ObjectCollector:
    """Reducer with the ownership rule of the module's head."""

    def __init__(self, chunk: Chunk, shape: tuple[int, int]) -> None:
        self._chunk, self._scene = chunk.window, Window(0, 0, *shape)
        self._seen: list[Found] = []

    def add(self, row_index: int, col_index: int, window: Window, output: list[Found]) -> None:
        for found in output:
            box = found.box.shifted(window.row, window.col)
            gaps = [
                (box.row - window.row, box.row == self._scene.row),
                (box.col - window.col, box.col == self._scene.col),
                (window.row_stop - box.row_stop, box.row_stop == self._scene.row_stop),
                (window.col_stop - box.col_stop, box.col_stop == self._scene.col_stop),
            ]
            margin = min((gap for gap, at_scene_border in gaps if not at_scene_border), default=TILE)
            if margin > 0:
                self._seen.append(Found(box, found.mask, found.score, margin))

    def finish(self) -> list[Found]:
        kept: list[Found] = []
        for found in sorted(self._seen, key=lambda found: -found.margin):
            if all(found.overlap(other) < 0.3 for other in kept):
                kept.append(found)
        return [
            found
            for found in kept
            if self._chunk.intersection(
                Window(found.box.row + found.box.height // 2, found.box.col + found.box.width // 2, 1, 1)
            )
        ]


def objects_of(logits: np.ndarray) -> list[Found]:
    """Connected objects of one tile, logits of shape (2, row, col)."""
    parts, _ = ndimage.label(logits[0] > 0)
    objects = []
    for index, place in enumerate(ndimage.find_objects(parts), start=1):
        mask = parts[place] == index
        if mask.sum() >= SMALLEST:
            rows, cols = place
            box = Window(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
            objects.append(Found(box, mask, float(logits[1][place][mask].max()), 0))
    return objects


def read_tile(scene: Scene, window: Window) -> dict[str, Any]:
    return {"inputs": scene.read_layers(window)}


def find(model: Net, scene: Scene, chunk: Chunk, context: Any) -> list[Found]:
    def forward(batch: dict[str, Any]) -> list[list[Found]]:
        return [objects_of(logits) for logits in model(batch["inputs"]).cpu().numpy()]

    collector = ObjectCollector(chunk, scene.grid.shape)
    return predict_tiles(forward, scene, chunk, TILING, collector, read=read_tile, context=context, batch_size=4)


def match(truth: np.ndarray, objects: list[Found]) -> np.ndarray:
    """Hits, false alarms and misses at an overlap of half the union; an object is matched once."""
    matched: set[int] = set()
    alarms = 0
    for found in sorted(objects, key=lambda found: -found.score):
        under = truth[found.box.slices][found.mask]
        best = int(np.bincount(under).argmax())
        union = int((truth == best).sum()) + int(found.mask.sum()) - int((under == best).sum())
        if best and best not in matched and (under == best).sum() / union >= 0.5:
            matched.add(best)
        else:
            alarms += 1
    return np.array([len(matched), alarms, len(np.unique(truth)) - 1 - len(matched)])


def f1(counts: np.ndarray) -> float:
    return float(2 * counts[0] / max(2 * counts[0] + counts[1] + counts[2], 1))


def instances_of(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Boxes (n, 4) as row, col, row_stop, col_stop and masks (n, row, col) of the objects in a tile."""
    present = [value for value in np.unique(ids) if value]
    masks = np.stack([ids == value for value in present]) if present else np.zeros((0, *ids.shape), bool)
    boxes = [[rows.min(), cols.min(), rows.max() + 1, cols.max() + 1] for rows, cols in map(np.nonzero, masks)]
    return {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "masks": masks}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Inputs as one tensor, targets as a list: tiles hold different numbers of objects."""
    return {
        "inputs": stack([item["inputs"] for item in items]),
        "targets": [{name: torch.from_numpy(values) for name, values in item["targets"].items()} for item in items],
        "keys": stack([item["keys"] for item in items]),
    }


def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    logits = model(batch["inputs"])
    mask, centre = torch.zeros_like(logits[:, 0]), torch.zeros_like(logits[:, 0])
    near = torch.zeros_like(mask, dtype=torch.bool)
    for index, target in enumerate(batch["targets"]):
        mask[index] = target["masks"].any(0)
        for top, left, bottom, right in target["boxes"].long().tolist():
            centre[index, (top + bottom) // 2, (left + right) // 2] = 1
            near[index, top:bottom, left:right] = True
    return {
        "mask": masked_bce_with_logits(logits[:, 0], mask),
        # Only inside boxes: tiles without objects add nothing to this loss's count.
        "centre": masked_bce_with_logits(logits[:, 1], centre, near, pos_weight=20.0),
    }


def write_part(path: Path, objects: list[Found]) -> None:
    plain = [
        {
            "box": [found.box.row, found.box.col, found.box.height, found.box.width],
            "mask": ["".join(map(str, row)) for row in found.mask.astype(int).tolist()],
            "score": found.score,
            "margin": found.margin,
        }
        for found in objects
    ]
    path.write_text(json.dumps(plain))


def read_part(path: Path) -> list[Found]:
    return [
        Found(
            Window(*plain["box"]),
            np.array([[mark == "1" for mark in row] for row in plain["mask"]]),
            plain["score"],
            plain["margin"],
        )
        for plain in json.loads(path.read_text())
    ]


def test_instances(bench: Any, toys: Any) -> None:
    dataset = Dataset.load(prepare(bench.folder / "data"))
    assert dataset.statistics is not None
    torch.manual_seed(0)
    model = Net(Normalize(dataset.statistics, {"image": dataset.layers["image"].bands}))

    with ExitStack() as files:
        scenes, ids = {}, {}
        for sample in dataset.samples:
            scenes[sample.id] = files.enter_context(open_raster(dataset.path(sample.inputs["image"])))
            ids[sample.id] = files.enter_context(open_raster(dataset.path(sample.labels["objects"])))
        truth = {name: scene.read_layers(scene.grid.whole)["image"].values[0] for name, scene in ids.items()}
        train = dataset.split("train")

        def read(draw: PatchIndex) -> dict[str, Any]:
            name, window = train[draw.sample].id, draw.window
            assert window is not None
            return {
                **read_tile(scenes[name], window),
                "targets": instances_of(ids[name].read(window).values[0]),
                "keys": np.array([draw.epoch, draw.index]),
            }

        def counts(split: str) -> list[np.ndarray]:
            model.eval()
            names = [sample.id for sample in dataset.split(split)]
            whole = chunks((ROWS, COLS), 10**6)[0]
            return [match(truth[name], find(model, scenes[name], whole, bench.context)) for name in names]

        untrained = counts("test")
        sampler = RandomWindowSampler([(ROWS, COLS)] * len(train), TILE, 32, seed=0)
        result = bench.train(
            model,
            Batches(sampler, read, batch_size=2, collate=collate),
            step,
            lambda model: {"f1": f1(np.asarray(sum(counts("val"))))},
            dataset=dataset,
            primary="f1",
            steps=40,
            batch_size=2,
            accumulate=2,
            card={"normalize": model.normalize.card()},
        )

        model.eval()
        test = dataset.split("test")
        for sample in test:
            scene = scenes[sample.id]

            def map_one(chunk: Chunk, part: Path, scene: Scene = scene) -> None:
                write_part(part, find(model, scene, chunk, bench.context))

            folder = bench.folder / f"{sample.id}.parts"
            parts = run_chunks(map_one, (ROWS, COLS), folder, chunk_px=40, align=1, identity={})
            assert len(parts) == 12
            objects = [found for _, part in parts for found in read_part(part)]
            # Seams between chunks neither double nor lose an object, and one chunk finds the same ones.
            whole = find(model, scene, chunks((ROWS, COLS), 10**6)[0], bench.context)
            assert sorted(str(found.box) for found in objects) == sorted(str(found.box) for found in whole)
            assert all(a.overlap(b) < 0.3 for a in objects for b in objects if a is not b)
            labels = np.zeros((ROWS, COLS), np.uint16)
            for number, found in enumerate(objects, start=1):
                labels[found.box.slices][found.mask] = number
            write_raster(bench.folder / f"{sample.id}_objects.tif", labels, grid=scene.grid, nodata=0)
            assert f1(match(truth[sample.id], objects)) > 0.75

        evaluation = bench.evaluate(
            dataset,
            counts("test"),
            untrained,
            groups=[sample.group for sample in test],
            result=result,
            score=f1,
            primary="f1",
        )
    assert evaluation.untrained is not None
    assert evaluation.model["f1"] > max(0.75, evaluation.untrained["f1"] + 0.4)
