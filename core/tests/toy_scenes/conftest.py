"""What the toy scenes share: a run to train in, a way from a model to a map on disk, the evaluation file.

Each toy is a task in miniature and uses the public interface only, so what stands here is what a task package would
write for itself.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geocore.datasets.batch import VALID
from geocore.datasets.dataset import Dataset
from geocore.device import DeviceContext, seed_everything
from geocore.inference.blend import OutputHead, OverlapBlender, output_window
from geocore.inference.outputs import PERCENT_NODATA, argmax_labels, to_percent
from geocore.inference.tiled import predict_tiles, run_chunks
from geocore.metrics.confusion import Confusion
from geocore.metrics.evaluation import Evaluation, bootstrap_interval
from geocore.raster.grid import Window
from geocore.raster.npy_store import OutputBand, StripWriter, merge_chunks
from geocore.raster.scene import Scene
from geocore.raster.write import RasterWriter
from geocore.settings import OptimizerSettings, ScheduleSettings, Settings, TrackingSettings, TrainingSettings
from geocore.tiling.tiles import Chunk, TileGrid, chunks
from geocore.training.checkpoint import load_checkpoint
from geocore.training.fit import FitResult, fit
from geocore.training.pretrained import load_strictly
from geocore.training.run import Run

NODATA = 255


class ToySettings(Settings):
    """What decides a toy's run."""

    training: TrainingSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings = ScheduleSettings()
    tracking: TrackingSettings = TrackingSettings(tensorboard=False)


@dataclass(frozen=True)
class DenseMap:
    """How a toy's scenes are mapped: everything but model and scene."""

    tiling: TileGrid
    read: Callable[[Scene, Window], Any]
    classes: int
    ratio: int = 1
    """Reference pixels per working pixel; the output is always on the reference grid."""
    batch_size: int = 4

    def working_shape(self, scene: Scene) -> tuple[int, int]:
        return scene.grid.coarser(self.ratio).shape

    def blend(self, chunk: Chunk, scene: Scene, on_rows: Callable[[int, dict[str, Tensor]], None]) -> OverlapBlender:
        return OverlapBlender(
            chunk,
            self.tiling,
            self.working_shape(scene),
            {"out": self.classes},
            on_rows=on_rows,
            scale=self.ratio,
            output_shape=scene.grid.shape,
        )

    def map_chunk(
        self, model: nn.Module, scene: Scene, chunk: Chunk, blend: OverlapBlender, context: DeviceContext
    ) -> None:
        head = OutputHead(self.classes, "classes")

        def forward(batch: dict[str, Any]) -> dict[str, Tensor]:
            return {"out": head.activate(model(batch["inputs"])), VALID: batch[VALID]}

        predict_tiles(
            forward,
            scene,
            chunk,
            self.tiling,
            blend,
            read=self.read,
            context=context,
            batch_size=self.batch_size,
            shape=self.working_shape(scene),
        )


@dataclass(frozen=True)
class Workbench:
    """A folder and a device for one toy."""

    folder: Path
    context: DeviceContext

    def train(
        self,
        model: nn.Module,
        batches: Any,
        step: Callable[..., dict[str, tuple[Tensor, Tensor]]],
        validate: Callable[[nn.Module], dict[str, float]],
        *,
        dataset: Dataset,
        primary: str,
        steps: int,
        batch_size: int,
        card: dict[str, Any],
        accumulate: int = 1,
        learning_rate: float = 0.02,
        checkpoint_every: int = 1000,
        run_folder: str = "run",
    ) -> FitResult:
        """Train and load the best checkpoint into the model."""
        settings = ToySettings(
            training=TrainingSettings(
                steps=steps,
                batch_size=batch_size,
                accumulate=accumulate,
                validate_every=max(1, steps // 2),
                checkpoint_every=checkpoint_every,
            ),
            optimizer=OptimizerSettings(learning_rate=learning_rate),
        )
        seed_everything(settings.training.seed)
        with Run.open(self.folder / run_folder, settings=settings, data_hash=dataset.hash, task=dataset.task) as run:
            result = fit(
                model,
                batches,
                step,
                validate,
                training=settings.training,
                optimizer=settings.optimizer,
                schedule=settings.schedule,
                context=self.context,
                run=run,
                card=card,
                primary=primary,
            )
            best = load_checkpoint(run.checkpoints, "best")
        assert best.card["data_hash"] == dataset.hash and best.step == result.best_step
        load_strictly(model, best.model(), best.path)
        return result

    def predict(self, model: nn.Module, scene: Scene, dense: DenseMap) -> np.ndarray:
        """Map in memory, as validation does; shape (row, col), uint8, 255 where invalid."""
        model.eval()
        labels = np.zeros(scene.grid.shape, np.uint8)

        def on_rows(row: int, out: dict[str, Tensor]) -> None:
            masked = argmax_labels(out["out"]).masked_fill(~out[VALID][0], NODATA)
            labels[row : row + len(masked)] = masked.numpy()

        chunk = chunks(dense.working_shape(scene), 10**6)[0]
        dense.map_chunk(model, scene, chunk, dense.blend(chunk, scene, on_rows), self.context)
        return labels

    def predict_to_file(self, model: nn.Module, scene: Scene, dense: DenseMap, path: Path, *, chunk_px: int) -> None:
        """Map chunk by chunk as jobs and write classes and percentages, as predict commands do."""
        model.eval()

        def map_one(chunk: Chunk, part: Path) -> None:
            def on_rows(row: int, out: dict[str, Tensor]) -> None:
                masked = argmax_labels(out["out"]).masked_fill(~out[VALID][0], NODATA)
                percent = to_percent(out["out"], out[VALID])
                writer.write(row, {"classes": masked.numpy(), "percent": percent.numpy()})

            blend = dense.blend(chunk, scene, on_rows)
            planes = [OutputBand("classes", "uint8"), OutputBand("percent", "uint8", dense.classes)]
            with StripWriter(part, blend.window, planes) as writer:
                dense.map_chunk(model, scene, chunk, blend, self.context)

        parts = run_chunks(
            map_one,
            dense.working_shape(scene),
            path.with_suffix(".parts"),
            chunk_px=chunk_px,
            align=dense.tiling.align,
            identity={"scene": scene.name},
        )
        windows = [(output_window(chunk, dense.ratio, scene.grid.shape), part) for chunk, part in parts]
        with RasterWriter(path, grid=scene.grid, count=1, dtype="uint8", nodata=NODATA, overviews="nearest") as product:
            merge_chunks(windows, "classes", product.write)
        percent = path.with_name(path.name.replace("_pred", "_prob"))
        with RasterWriter(
            percent, grid=scene.grid, count=dense.classes, dtype="uint8", nodata=PERCENT_NODATA
        ) as product:
            merge_chunks(windows, "percent", product.write)

    def evaluate(
        self,
        dataset: Dataset,
        counts: Sequence[np.ndarray],
        untrained: Sequence[np.ndarray],
        *,
        groups: Sequence[str],
        result: FitResult,
        score: Callable[[np.ndarray], float],
        primary: str,
        classes: Sequence[str] = (),
    ) -> Evaluation:
        """Write and read back the evaluation file; counts are one array per sample, confusion counts with `classes`."""
        total, stacked = sum(counts), np.stack(counts)
        evaluation = Evaluation(
            task=dataset.task,
            split="test",
            protocol=dict(dataset.protocol),
            samples=len(counts),
            primary=primary,
            model={primary: score(np.asarray(total))},
            untrained={primary: score(np.asarray(sum(untrained)))},
            per_class=Confusion.from_counts(total).per_class(classes) if classes else {},
            per_group={
                group: {primary: score(sum(c for c, g in zip(counts, groups, strict=True) if g == group))}
                for group in sorted(set(groups))
            },
            intervals={primary: bootstrap_interval(stacked, score, groups=groups, resamples=200)},
            checkpoint=f"step-{result.best_step:06d}",
            data_hash=dataset.hash,
            versions={name: importlib.metadata.version(name) for name in ("geocore", "torch")},
        )
        path = self.folder / "run" / "evaluation-test.json"
        evaluation.save(path)
        print(evaluation.table())
        return Evaluation.load(path)


def mean_iou(counts: np.ndarray) -> float:
    """Mean intersection over union of the classes in (class, class) confusion counts."""
    return Confusion.from_counts(counts).macro_iou()


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Confusion counts (class, class) over the pixels that are valid in both."""
    counter = Confusion(classes, ignore=NODATA)
    counter.update(
        np.where(predicted == NODATA, NODATA, truth).astype(np.uint8), np.where(predicted == NODATA, 0, predicted)
    )
    return counter.counts


class Toys:
    """Names that tests use without importing this file, which pytest alone can import."""

    DenseMap = DenseMap
    NODATA = NODATA
    mean_iou = staticmethod(mean_iou)
    confusion = staticmethod(confusion)

    @staticmethod
    def scenes(opened: Iterable[tuple[str, Scene]]) -> dict[str, Scene]:
        return dict(opened)


@pytest.fixture(scope="session")
def toys() -> type[Toys]:
    return Toys


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Workbench(tmp_path, DeviceContext(torch.device("cpu")))
    torch.set_num_threads(threads)
