"""Prithvi against terratorch, its own toolkit: the same weights and batches, a training step and a mapped scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geocore_bench import mapping_ours, mapping_peers
from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender, Measured
from geocore_bench.maps import CLASSES
from geocore_bench.maps import Setting as MapSetting
from geocore_bench.marks import Marks
from geocore_bench.scenes import make_cog
from geocore_bench.training import Batches, fitted, trained_by_lightning

if TYPE_CHECKING:
    from torch import nn

TRAINING, MAPPING = "training step", "whole scene"
GEOCORE = "geocore and floods-prithvi"
TERRATORCH = "terratorch"
TERRATORCH_WINDOWS = "terratorch, windows"
TERRATORCH_TENSOR = "terratorch, tensor"
GEOCORE_BF16 = "geocore and floods-prithvi, bfloat16"
TERRATORCH_ROUNDED = "terratorch, windows, as imported: products in bfloat16"

_TILE_PX, _OVERLAP_PX = 224, 32


@dataclass(frozen=True, slots=True)
class Setting:
    """What is trained."""

    batch: int
    warm: int
    """Steps before those that count."""
    steps: int
    """Steps that count."""
    threads: int


def parts(setting: Setting) -> tuple[nn.Module, Batches]:
    """The network, and as many references to one batch as there are steps, and one more."""
    import torch

    from geocore_bench.prithvi_network import BANDS, segmenter

    torch.set_num_threads(setting.threads)
    network = segmenter(CLASSES)
    torch.manual_seed(0)
    shape = (setting.batch, BANDS, _TILE_PX, _TILE_PX)
    batch = (torch.randn(shape), torch.randint(0, CLASSES, (setting.batch, _TILE_PX, _TILE_PX)))
    return network, [batch] * (setting.warm + setting.steps + 1)


def geocore_step(setting: Setting, data: Path) -> Measured:
    """fit() around floods-prithvi's backbone."""
    network, batches = parts(setting)
    return fitted(network, batches, Marks(setting.warm, setting.steps))


def terratorch_step(setting: Setting, data: Path) -> Measured:
    """The backbone of terratorch under Lightning's Trainer, which is what terratorch trains with."""
    import torch

    network, batches = parts(setting)
    torch.set_float32_matmul_precision(mapping_peers.FLOAT32)
    return trained_by_lightning(network, batches, Marks(setting.warm, setting.steps))


def _size(quick: bool) -> int:
    return 600 if quick else 1500


def prepare(data: Path, quick: bool) -> None:
    """Make the scene."""
    make_cog(data, _size(quick))


def cases(quick: bool) -> list[Case]:
    """A training step, and a scene mapped with tiles of the size of pre-training."""
    # One thread: two wait for each other wherever anything else runs.
    setting = Setting(1, 1, 2, 1) if quick else Setting(2, 1, 4, 1)
    step = (Contender(GEOCORE, OURS, geocore_step), Contender(TERRATORCH, "terratorch", terratorch_step))
    scene = MapSetting(f"cog_{_size(quick)}.tif", "prithvi", tile_px=_TILE_PX, overlap_px=_OVERLAP_PX, batch=1)
    maps = (
        Contender(GEOCORE, OURS, mapping_ours.GeocoreMap()),
        Contender(GEOCORE_BF16, OURS, mapping_ours.GeocoreMap(precision="bfloat16")),
        Contender(TERRATORCH_WINDOWS, "terratorch", mapping_peers.terratorch_windows),
        Contender(TERRATORCH_TENSOR, "terratorch", mapping_peers.terratorch_tensor),
        Contender(TERRATORCH_ROUNDED, "terratorch", mapping_peers.terratorch_as_imported),
    )
    return [
        Case(TRAINING, "us/step", setting, step, more_is_better=False, agree={"loss": 0.01}),
        # Both fade tiles out towards their borders, by other weights.
        Case(MAPPING, "Mpx/s", scene, maps, threads=2, files=(scene.scene,), agree={"class1": 0.05}),
    ]
