"""Chips whose classes a small network can tell apart, and that network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from affine import Affine
from torch import nn


def write(path: Path, values: npt.NDArray[Any], *, x: float = 500_000, y: float = 5_000_000, **given: Any) -> Path:
    """A GeoTIFF of 10 m pixels whose upper left corner lies at (x, y); (row, col) or (band, row, col)."""
    planes = values if values.ndim == 3 else values[np.newaxis]
    profile = {"crs": "EPSG:32632", "transform": Affine(10, 0, x, 0, -10, y)} | given
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(planes),
        height=planes.shape[1],
        width=planes.shape[2],
        dtype=planes.dtype,
        **profile,
    ) as file:
        file.write(planes)
    return path


def chip(seed: int, size: int = 96) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Three bands and the classes in them: 0 is land, 1 a bright disc in band 1, 2 a bright square in band 2 alone."""
    random = np.random.default_rng(seed)
    row, col = np.mgrid[:size, :size]
    mask = np.zeros((size, size), np.uint8)
    for _ in range(2):
        at = random.integers(15, size - 15, 2)
        mask[(row - at[0]) ** 2 + (col - at[1]) ** 2 < 14**2] = 1
        at = random.integers(0, size - 24, 2)
        mask[at[0] : at[0] + 24, at[1] : at[1] + 24] = 2
    image = random.normal(1000, 150, (3, size, size))
    image[0] += 700 * (mask == 1)
    image[1] += 700 * (mask == 2)
    return image.astype(np.uint16), mask


@pytest.fixture(scope="session")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 chips of 96 pixels with their masks; some pixels are ignored, or missing in the image."""
    folder = tmp_path_factory.mktemp("chips")
    for index in range(12):
        image, mask = chip(index)
        mask[:4] = 255
        image[..., -3:] = 0
        # Far from each other.
        place = {"x": 500_000 + 50_000 * index}
        write(folder / f"place{index // 2}_{index}.tif", image, nodata=0, **place)
        write(folder / f"place{index // 2}_{index}_mask.tif", mask, **place)
    return folder


def net(bands: int = 3, classes: int = 3, seed: int = 0) -> nn.Module:
    """Two convolutions; the first weights are the same for a seed, and the caller's generator is as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(bands, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, classes, 5, padding=2))
    torch.set_rng_state(state)
    return net


@pytest.fixture(scope="session")
def toys() -> SimpleNamespace:
    """What the tests build their data and networks with."""
    return SimpleNamespace(write=write, chip=chip, net=net)
