"""The baseline: a semantic U-Net whose connected components count as objects.

It sees the same tiles under the same augmentation as the Mask R-CNN and is trained by the same loop, in the folder
`baseline` of the run. An object is a component of pixels above a probability, its score their mean probability. That
probability and the smallest component are chosen on validation.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from geocore.datasets.batch import VALID
from geocore.inference.blend import OutputHead, OverlapBlender
from geocore.inference.tiled import predict_tiles
from geocore.raster.scene import Patch, Scene
from geocore.terminal import progress
from geocore.tiling.tiles import Chunk, TileGrid
from geocore.training.losses import masked_cross_entropy
from geocore.transforms.normalize import Normalize
from geocore.vector.polygonize import components
from slumps_detectron2.data import IMAGE, UNLABELLED, Areas, Tiles, class_values, collate
from slumps_detectron2.instances import Instance, instances_of
from slumps_detectron2.mapping import compared
from slumps_detectron2.scores import PRIMARY, AveragePrecision, MappedArea

if TYPE_CHECKING:
    from geocore.datasets.dataset import Dataset
    from geocore.device import DeviceContext
    from geocore.raster.grid import Window
    from geocore.settings import TilingSettings
    from slumps_detectron2.config import TrainSettings

logger = logging.getLogger(__name__)

PROBABILITIES: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEAST_PX: Final = (1, 20, 50, 100, 200)
_MULTIPLE_PX = 32
"""The encoder halves a tile five times."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Components:
    """How probabilities become objects."""

    probability: float = 0.5
    """Pixels from this class probability belong to objects."""
    least_px: int = 1
    """Smaller components are dropped."""

    def objects(self, probability: FloatArray, labels: Sequence[int]) -> list[Instance]:
        """Components of every class.

        Args:
            probability: shape (class, row, col), float32, 0-1.
            labels: value of each class.
        """
        found = []
        for label, plane in zip(labels, probability, strict=True):
            for part in instances_of(components(plane >= self.probability), ignored=None):
                if part.pixels >= self.least_px:
                    score = float(plane[part.window.slices][part.mask].mean())
                    found.append(dataclasses.replace(part, score=score, label=label))
        return found


class SemanticNet(nn.Module):
    """U-Net with its normalization; one channel for background and one for each class."""

    def __init__(self, normalize: Normalize, encoder: str, labels: Sequence[int]) -> None:
        """Build it with random weights.

        Args:
            normalize: normalizes the layer `image`.
            encoder: name of an encoder of segmentation-models-pytorch.
            labels: value of each class.
        """
        import segmentation_models_pytorch

        super().__init__()
        self.normalize = normalize
        self.head = OutputHead(1 + len(labels), "classes")
        self.unet = segmentation_models_pytorch.Unet(
            encoder, encoder_weights=None, in_channels=normalize.channels(IMAGE), classes=self.head.channels
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits, shape (batch, 1 + class, row, col), of normalized tiles, shape (batch, band, row, col), float32."""
        rows, cols = image.shape[-2:]
        padded = functional.pad(image, (0, -cols % _MULTIPLE_PX, 0, -rows % _MULTIPLE_PX))
        logits: Tensor = self.unet(padded)
        return logits[..., :rows, :cols]

    def predict(self, inputs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """Class probabilities of tiles as they are stored, and where they are valid."""
        probability = self.head.activate(self(self.normalize(inputs)[IMAGE]))
        return {"classes": probability, VALID: inputs[IMAGE]["valid"].all(dim=1, keepdim=True)}


def train_baseline(settings: TrainSettings, dataset: Dataset, folder: Path, context: DeviceContext) -> SemanticNet:
    """Train the U-Net, or go on, or read it where it is finished; in evaluation mode, on the context's device.

    Args:
        settings: of the Mask R-CNN's run.
        dataset: that the run was trained on.
        folder: run folder of the baseline.
        context: device and precision.
    """
    from geocore.datasets.loader import Batches
    from geocore.device import seed_everything
    from geocore.settings import OptimizerSettings, ScheduleSettings, TrainingSettings
    from geocore.tiling.samplers import GridSampler
    from geocore.training.checkpoint import load_checkpoint
    from geocore.training.fit import fit
    from geocore.training.pretrained import load_strictly
    from geocore.training.run import baseline_run
    from geocore.transforms.augment import compose
    from slumps_detectron2.train import augmentations

    seed = settings.training.seed
    seed_everything(seed)
    assert dataset.statistics is not None
    labels = class_values(dataset)
    mode: Literal["tile", "dataset"] = "tile" if settings.model.standardisation == "local" else "dataset"
    normalize = Normalize(dataset.statistics, {IMAGE: dataset.layers[IMAGE].bands}, mode=mode)
    network = SemanticNet(normalize, settings.baseline.encoder, labels)
    tiles, held_out = Tiles(dataset, "train"), Areas(dataset, "val")
    augment = compose(augmentations(settings), seed=seed)
    # Channel of each class value; 0 is background.
    channels = torch.zeros(256, dtype=torch.int64)
    for channel, label in enumerate(labels, start=1):
        channels[label] = channel

    def step(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        inputs = batch["inputs"]
        tile = {"inputs": normalize(inputs), "valid": normalize.masks(inputs)}
        tile = augment(tile | {"targets": batch["targets"], "keys": batch["keys"]})
        target = tile["targets"]["mask"][:, 0].long()
        wanted = torch.where(target == UNLABELLED, UNLABELLED, channels.to(target.device)[target])
        logits = model(tile["inputs"][IMAGE])
        return {"cross_entropy": masked_cross_entropy(logits, wanted, UNLABELLED)}

    def validate(model: nn.Module) -> dict[str, float]:
        mapped = _mapped(network, held_out, settings.tiling, context)
        return {PRIMARY: _score(held_out, mapped, Components(), labels)}

    steps = settings.baseline.steps
    training = TrainingSettings(
        steps=steps,
        batch_size=settings.baseline.batch_size,
        validate_every=-(-steps // 3),
        checkpoint_every=-(-steps // 3),
        seed=seed,
    )
    batches = Batches(
        GridSampler(tiles.windows, seed=seed),
        tiles.read,
        batch_size=training.batch_size,
        collate=collate,
        threads=settings.loader.threads,
        drop_last=False,
    )
    with baseline_run(folder, settings=settings, data_hash=dataset.hash, task="slumps-baseline") as run:
        if not run.finished:
            logger.info("training the baseline, a U-Net, for %d steps, once", steps)
            fit(
                network,
                batches,
                step,
                validate,
                training=training,
                optimizer=OptimizerSettings(learning_rate=settings.baseline.learning_rate),
                schedule=ScheduleSettings(warmup_steps=min(10, steps // 10)),
                context=context,
                run=run,
                card={},
                primary=PRIMARY,
                label="training the U-Net",
            )
        checkpoint = load_checkpoint(run.checkpoints, "best")
        load_strictly(network, checkpoint.model(), checkpoint.path)
    return context.prepare(network).eval()


def baseline_areas(
    network: SemanticNet, held_out: Areas, areas: Areas, tiling: TilingSettings, context: DeviceContext
) -> Any:
    """The areas of a split as the baseline maps them, with its settings tuned on validation.

    Returns:
        Mapped areas of validation and of the split, and the chosen `Components`.
    """
    labels = class_values(held_out.dataset)
    mapped = _mapped(network, held_out, tiling, context)
    choices = [Components(*values) for values in product(PROBABILITIES, LEAST_PX)]
    chosen = max(choices, key=lambda choice: _score(held_out, mapped, choice, labels))
    ours = [_compared(held_out, index, plane, chosen, labels) for index, plane in enumerate(mapped)]
    planes = _mapped(network, areas, tiling, context)
    theirs = [_compared(areas, index, plane, chosen, labels) for index, plane in enumerate(planes)]
    return ours, theirs, chosen


def _score(areas: Areas, mapped: Sequence[FloatArray], choice: Components, labels: Sequence[int]) -> float:
    compared = [_compared(areas, index, plane, choice, labels) for index, plane in enumerate(mapped)]
    return float(np.nan_to_num(AveragePrecision(compared, labels).scores()[PRIMARY]))


def _compared(
    areas: Areas, index: int, probability: FloatArray, choice: Components, labels: Sequence[int]
) -> MappedArea:
    return compared(areas, index, choice.objects(probability, labels))


def _mapped(network: SemanticNet, areas: Areas, tiling: TilingSettings, context: DeviceContext) -> list[FloatArray]:
    """Class probabilities of every area, shape (class, row, col), float32, 0 where invalid."""
    context.prepare(network)
    return [
        class_probability(network, areas.scene(index), areas.window(index), tiling, context)
        for index in progress(len(areas.samples), "mapping by the U-Net")
    ]


def class_probability(
    network: SemanticNet, scene: Scene, area: Window, tiling: TilingSettings, context: DeviceContext
) -> FloatArray:
    """Blended class probabilities of an area, shape (class, row, col), float32, 0-1, 0 where invalid."""
    classes = network.head.channels
    probability = np.zeros((classes - 1, *area.shape), np.float32)
    tiles = TileGrid(size=tiling.size, overlap=tiling.overlap)
    chunk = Chunk("all", type(area)(0, 0, *area.shape))

    def read(scene: Scene, window: Window) -> dict[str, Patch]:
        return scene.read_layers(window.shifted(area.row, area.col))

    def on_rows(row: int, rows: dict[str, Tensor]) -> None:
        finished = rows["classes"][1:].cpu().numpy()
        probability[:, row : row + finished.shape[1]] = finished

    reducer = OverlapBlender(chunk, tiles, area.shape, {"classes": classes}, on_rows=on_rows)
    predict_tiles(
        network.predict,
        scene,
        chunk,
        tiles,
        reducer,
        read=read,
        context=context,
        shape=area.shape,
    )
    return probability
