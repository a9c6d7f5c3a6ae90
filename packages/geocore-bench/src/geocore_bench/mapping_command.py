"""The map of a whole command, `floods-predict`: class, probability and confidence with overviews, polygons, records.

The run behind it is one of `floods-train` on its built-in sample, two steps long: what a map costs does not depend on
what the network has learnt. Commands are started as a user starts them; geocore's environment alone has them.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocore_bench.harness import Measured, watch
from geocore_bench.maps import Setting
from geocore_bench.scenes import BANDS, REFLECTANCE

if TYPE_CHECKING:
    from torch import Tensor, nn

TILE_PX, OVERLAP_PX = 96, 32

_RUN = "floods_run"
_LEAST_M2 = 400
"""Smallest polygon, four pixels, which leaves a thousand in a million pixels: a network that has learnt little finds
single pixels everywhere."""


def train(data: Path) -> None:
    """Make the run, where it is missing and floods-prithvi is installed.

    Args:
        data: folder of the data; receives the run, and the sample that it is trained on.
    """
    if (data / _RUN / "finished.json").exists() or not _script("floods-train").exists():
        return
    tiling = ["--tiling.size", str(TILE_PX), "--tiling.overlap", str(OVERLAP_PX)]
    steps = ["--training.steps", "2", "--training.validate-every", "2", "--schedule.warmup-steps", "0"]
    _run(data, "floods-train", "--run", str(data / _RUN), *tiling, *steps, "--device", "cpu")


def network(data: Path) -> nn.Module:
    """The run's network, for the map that `floods-predict` is compared with.

    Returns:
        Takes shape (batch, BANDS, row, col), float32, reflectance, valid everywhere; gives class probabilities, shape
        (batch, class, row, col).

    Raises:
        ImportError: floods-prithvi is not installed.
    """
    import torch

    from geocore.training.run import chosen_network

    # By name, as no library depends on a task.
    task: Any = importlib.import_module("floods_prithvi.model")
    restored: Any = chosen_network(data / _RUN, "best", task.restore_model).network

    class Classes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = restored

        def forward(self, images: Tensor) -> Tensor:
            valid = torch.ones_like(images[:, :1], dtype=torch.bool)
            probability: Tensor = self.network.predict({"image": {"values": images, "valid": valid}})["classes"]
            return probability

    return Classes().eval()


def command_map(setting: Setting, data: Path) -> Measured:
    """Map the scene with `floods-predict`, without what the same command takes for a scene of one tile.

    That is imports and the network, which other contenders have outside of what is measured.

    Returns:
        Million pixels a second, with the share of class 1, `class1`, the number of `polygons`, and what was taken off:
        `start_s`, `start_cpu_s`, `start_mb`.

    Raises:
        ImportError: floods-prithvi is not installed.
    """
    import rasterio
    from rasterio.windows import Window

    if not _script("floods-predict").exists():
        raise ImportError("floods-predict is not installed")
    with tempfile.TemporaryDirectory(dir=data) as folder:
        output, small = Path(folder), Path(folder) / "small.tif"
        with rasterio.open(data / setting.scene) as source:
            profile = {**source.profile, "height": TILE_PX, "width": TILE_PX, "tiled": False}
            for name in ("blockxsize", "blockysize"):
                profile.pop(name)
            with rasterio.open(small, "w", **profile) as target:
                target.write(source.read(window=Window(0, 0, TILE_PX, TILE_PX)))
            pixels = source.width * source.height
        with watch() as start:
            _map(small, output / "start", setting, data)
        with watch() as seen:
            _map(data / setting.scene, output / "maps", setting, data)
        made = output / "maps" / Path(setting.scene).stem
        with rasterio.open(f"{made}_pred.tif") as product:
            ones = sum(int((product.read(1, window=window) == 1).sum()) for _, window in product.block_windows(1))
        import pyarrow.parquet

        polygons = pyarrow.parquet.ParquetFile(f"{made}.parquet").metadata.num_rows
    details = {
        "seconds": seen.seconds - start.seconds,
        "cpu_s": seen.cpu_seconds - start.cpu_seconds,
        "growth_mb": max(0.0, seen.growth_mb - start.growth_mb),
        "start_s": start.seconds,
        "start_cpu_s": start.cpu_seconds,
        "start_mb": start.growth_mb,
        "class1": ones / pixels,
        "polygons": polygons,
    }
    return Measured(pixels / 1e6 / details["seconds"], details)


def _map(scene: Path, output: Path, setting: Setting, data: Path) -> None:
    numbers = ["--bands", *map(str, range(1, BANDS + 1)), "--scale", str(1 / REFLECTANCE), "--offset", "0"]
    how = ["--min-area-m2", str(_LEAST_M2), "--device", "cpu", "--device.threads", str(setting.threads)]
    given = ["--run", str(data / _RUN), "--input", str(scene), "--output", str(output)]
    _run(data, "floods-predict", *given, *numbers, *how)


def _script(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def _run(data: Path, script: str, *words: str) -> None:
    """Run a command beside this interpreter.

    Raises:
        RuntimeError: it failed; its last line.
    """
    samples = {"GEOCORE_CACHE": str(data / "samples")}
    done = subprocess.run(
        [str(_script(script)), *words], env=os.environ | samples, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"{script} failed"])[-1])
