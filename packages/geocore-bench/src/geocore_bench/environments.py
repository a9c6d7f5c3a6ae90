"""Virtual environments: geocore's, built from wheels, and those of the peers, with the versions that are compared.

They are made once in one folder, with hard links into uv's cache, so that torch lies on the disk once for all of them;
the cache therefore has to be on the same file system. "peers" holds what agrees on one set of versions; terratorch and
the newest torchgeo need Python 3.12, and geoai brings versions of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from geocore_bench.rounds import spawn

OURS = "geocore"
"""Environment of geocore's own contenders. It is the caller's to build, from wheels: `nox -s bench` does."""

_TORCH = ("torch==2.13.0", "torchvision==0.28.0")


@dataclass(frozen=True, slots=True)
class Environment:
    """A set of packages that one interpreter runs with."""

    name: str
    python: str
    """Version of Python."""
    requirements: tuple[str, ...]
    """What is installed; what a benchmark names is pinned."""


PEERS = (
    Environment(
        "peers",
        "3.11",
        (
            *_TORCH,
            "accelerate==1.15.0",
            "bottleneck==1.6.0",
            "h5py",
            "lightning==2.6.6",
            "monai==1.6.1",
            "netcdf4==1.7.5.1.post1",
            "onedl-mmcv==2.3.6",
            "onedl-mmengine==0.10.12",
            "onedl-mmsegmentation==1.4.2",
            "opencv-python-headless",
            "rasterio==1.4.4",
            "rioxarray==0.19.0",
            "scikit-image",
            "scikit-learn",
            "segmentation-models-pytorch==0.6.0",
            "torchgeo==0.8.1",
            "torchmetrics==1.9.0",
            "xarray==2026.9.0",
            # What torchgeo and mmsegmentation import without saying so.
            "ftfy",
            "regex",
            "requests",
        ),
    ),
    Environment("terratorch", "3.12", (*_TORCH, "rasterio==1.5.2", "terratorch==1.2.13")),
    Environment("torchgeonew", "3.12", (*_TORCH, "rasterio==1.5.2", "requests", "torchgeo==0.10.1")),
    Environment("geoai", "3.11", (*_TORCH, "geoai-py==0.40.1", "rasterio==1.4.4")),
)

COMPARED = (
    "geocore",
    "torch",
    "numpy",
    "rasterio",
    "segmentation-models-pytorch",
    "accelerate",
    "bottleneck",
    "geoai-py",
    "lightning",
    "monai",
    "netCDF4",
    "onedl-mmengine",
    "onedl-mmsegmentation",
    "scikit-image",
    "scikit-learn",
    "terratorch",
    "torchgeo",
    "torchmetrics",
    "xarray",
)
"""Distributions whose versions stand beside the results."""


def interpreter(root: Path, name: str) -> Path:
    """The Python of an environment."""
    return root / name / "bin" / "python"


def build(root: Path, environment: Environment) -> None:
    """Make an environment, or leave one that holds the same packages as it is.

    Raises:
        subprocess.CalledProcessError: uv failed; its words are on the terminal.
    """
    folder, stated = root / environment.name, root / f"{environment.name}.json"
    content = json.dumps({"python": environment.python, "requirements": environment.requirements})
    if interpreter(root, environment.name).exists() and stated.exists() and stated.read_text() == content:
        return
    root.mkdir(parents=True, exist_ok=True)
    # The caller's environment would steer what is resolved; folders of wheels of one machine belong to nobody else.
    outer = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "UV_FIND_LINKS")}
    outer["UV_LINK_MODE"] = "hardlink"
    subprocess.run(["uv", "venv", "--clear", "--python", environment.python, str(folder)], env=outer, check=True)
    install = ["uv", "pip", "install", "--compile-bytecode", "--python", str(interpreter(root, environment.name))]
    subprocess.run([*install, *environment.requirements], env=outer, check=True)
    stated.write_text(content)


def code_folder(root: Path) -> Path:
    """Lay a copy of this package alone into a folder, for interpreters that do not have it installed.

    Returns:
        The folder to put on Python's path.
    """
    folder = root / "code"
    target = folder / "geocore_bench"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(Path(__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def versions(root: Path, code: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """Versions of Python and of what is compared, for those of the environments that are there."""
    there = [name for name in names if interpreter(root, name).exists()]
    return {name: spawn(interpreter(root, name), code, ["versions", *COMPARED], threads=1) for name in there}
