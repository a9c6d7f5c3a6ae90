"""What a training loop adds to a bare PyTorch step.

The same model, the same batches in memory, AdamW, cross entropy, no checkpoints within the steps that count. On an
empty model, three small convolutions on 8 x 8 pixels, next to nothing but the loop remains.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured
from geocore_bench.marks import Marks

if TYPE_CHECKING:
    from torch import Tensor, nn

GEOCORE = "geocore fit()"
FUSED = "bare PyTorch, fused AdamW"
LIGHTNING = "Lightning Trainer"
EMPTY, UNET = "empty model", "U-Net"

_RATE = 1e-4
_NEVER = 10**6
"""Steps between two events that are to stay out of the measurement."""

Batches = list[tuple["Tensor", "Tensor"]]
"""Images and labels of each step."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is trained."""

    model: Literal["empty", "unet"]
    size: int
    """Rows and columns of a sample."""
    batch: int
    warm: int
    """Steps before those that count."""
    steps: int
    """Steps that count."""
    threads: int
    channels_last: bool = False
    """Whether geocore and the bare fused loop lay images out with bands innermost; the others do as they do."""


def parts(setting: Setting) -> tuple[nn.Module, Batches]:
    """The model, and as many references to one batch as there are steps, and one more."""
    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    if setting.model == "empty":
        convolutions = [torch.nn.Conv2d(fan_in, fan_out, 3, padding=1) for fan_in, fan_out in ((6, 8), (8, 8), (8, 2))]
        layers = [convolutions[0], torch.nn.ReLU(), convolutions[1], torch.nn.ReLU(), convolutions[2]]
        model: nn.Module = torch.nn.Sequential(*layers)
    else:
        import segmentation_models_pytorch as smp

        model = smp.Unet("resnet18", encoder_weights=None, in_channels=6, classes=2)
    shape = (setting.batch, 6, setting.size, setting.size)
    batch = (torch.randn(shape), torch.randint(0, 2, (setting.batch, setting.size, setting.size)))
    return model, [batch] * (setting.warm + setting.steps + 1)


def geocore_fit(setting: Setting, data: Path) -> Measured:
    """fit() with its run folder, log lines and all; gradients are not clipped, as in the other loops."""
    model, batches = parts(setting)
    return fitted(model, batches, Marks(setting.warm, setting.steps), channels_last=setting.channels_last)


def fitted(model: nn.Module, batches: Batches, marks: Marks, *, channels_last: bool = False) -> Measured:
    """Train with `geocore.training.fit.fit`.

    Args:
        model: gives logits of shape (batch, class, row, col).
        batches: images and labels, one pair a step.
        marks: the clock.
        channels_last: lay images and weights out with bands innermost.
    """
    import torch

    from geocore.device import DeviceContext
    from geocore.settings import OptimizerSettings, ScheduleSettings, Settings, TrainingSettings
    from geocore.training.fit import fit
    from geocore.training.run import Run

    one = torch.tensor(1)  # the mean over the pixels of a batch, as in the other loops

    def step(model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, Tensor]]:
        marks()  # at the beginning, since fit() calls nobody at the end: the time between two is the same
        image, label = batch
        loss = torch.nn.functional.cross_entropy(model(image), label)
        marks.loss = loss.detach()
        return {"loss": (loss, one)}

    length = TrainingSettings(steps=len(batches), validate_every=_NEVER, checkpoint_every=_NEVER)
    with (
        tempfile.TemporaryDirectory() as folder,
        Run.open(Path(folder) / "run", settings=Settings(), data_hash="none", task="bench") as run,
    ):
        fit(
            model,
            _Ready(batches),
            step,
            lambda model: {"score": 0.0},
            training=length,
            optimizer=OptimizerSettings(learning_rate=_RATE, clip_norm=None),
            schedule=ScheduleSettings(kind="constant"),
            context=DeviceContext(torch.device("cpu"), channels_last=channels_last, dedicated=True),
            run=run,
            card={},
            primary="score",
        )
    return marks.measured()


class _Ready:
    """A batch source for fit(): batches that lie in memory."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


@dataclass(frozen=True, slots=True)
class BareLoop:
    """The loop that everybody writes first, around torch's DataLoader."""

    fused: bool

    def __call__(self, setting: Setting, data: Path) -> Measured:
        """Measure it."""
        import torch

        model, batches = parts(setting)
        marks = Marks(setting.warm, setting.steps)
        channels_last = setting.channels_last and self.fused
        if channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
        optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, fused=self.fused)
        model.train()
        for image, label in _loader(batches):
            marks()
            if channels_last:
                image = image.contiguous(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(image), label)
            marks.loss = loss.detach()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return marks.measured()


def lightning_trainer(setting: Setting, data: Path) -> Measured:
    """Lightning's Trainer with its defaults."""
    model, batches = parts(setting)
    return trained_by_lightning(model, batches, Marks(setting.warm, setting.steps))


def trained_by_lightning(model: nn.Module, batches: Batches, marks: Marks) -> Measured:
    """Train with Lightning's defaults, but no logger, checkpoints, bar or summary; arguments as of `fitted`."""
    import lightning
    import torch

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):  # type: ignore[misc]  # Lightning is not in the environment of the checks
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Any:
            marks()
            image, label = batch
            loss = torch.nn.functional.cross_entropy(self.model(image), label)
            marks.loss = loss.detach()
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=_RATE)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), _loader(batches))
    return marks.measured()


def accelerate_loop(setting: Setting, data: Path) -> Measured:
    """A bare loop with Hugging Face's accelerate."""
    import torch
    from accelerate import Accelerator

    model, batches = parts(setting)
    marks = Marks(setting.warm, setting.steps)
    accelerator = Accelerator(cpu=True)
    plain = torch.optim.AdamW(model.parameters(), lr=_RATE)
    model, optimizer, loader = accelerator.prepare(model, plain, _loader(batches))
    model.train()
    for image, label in loader:
        marks()
        loss = torch.nn.functional.cross_entropy(model(image), label)
        marks.loss = loss.detach()
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    return marks.measured()


def _loader(batches: Batches) -> Any:
    """A DataLoader that hands out batches that are ready, so that all loaders cost the same."""
    from torch.utils.data import DataLoader

    return DataLoader(batches, batch_size=1, collate_fn=_only)  # type: ignore[arg-type]


def _only(samples: list[Any]) -> Any:
    return samples[0]


def prepare(data: Path, quick: bool) -> None:
    """Nothing: batches are drawn in each run."""


def cases(quick: bool) -> list[Case]:
    """The empty model, and a U-Net on resnet18."""
    empty = Setting("empty", 8, 1, 20, 60, 1) if quick else Setting("empty", 8, 1, 100, 1500, 1)
    # One thread: two wait for each other wherever anything else runs.
    unet = Setting("unet", 64, 2, 2, 3, 1, True) if quick else Setting("unet", 256, 8, 1, 5, 1, True)
    bare = Contender(FUSED, "peers", BareLoop(fused=True))
    defaults = Contender("bare PyTorch, AdamW's defaults", "peers", BareLoop(fused=False))
    trainer = Contender(LIGHTNING, "peers", lightning_trainer)
    geocore = Contender(GEOCORE, OURS, geocore_fit)
    loops = (geocore, bare, defaults, Contender("accelerate", "peers", accelerate_loop), trainer)
    # A U-Net's losses part within a few steps, as memory formats round differently.
    return [
        Case(EMPTY, "us/step", empty, loops, more_is_better=False, threads=empty.threads, agree={"loss": 1e-3}),
        Case(
            UNET,
            "us/step",
            unet,
            (geocore, bare, trainer),
            more_is_better=False,
            threads=unet.threads,
            agree={"loss": 0.02},
        ),
    ]
