"""Draw the picture of the README from what its programs make: `python core/examples/picture.py`."""

from __future__ import annotations

import os
import runpy
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from PIL import Image

import geocore as geo

HERE = Path(__file__).parent
PICTURE = HERE.parent / "images" / "programs.png"
SPLITS = {"train": "#0072b2", "val": "#e69f00", "test": "#d55e00"}


def main() -> None:
    """Run the programs in a temporary folder and draw four of their results side by side."""
    mpl.use("agg")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        made = {name: runpy.run_path(str(HERE / name)) for name in ("02_predict.py", "05_polygonize.py", "06_split.py")}
        labels = made["02_predict.py"]["result"].labels
        os.chdir(HERE)
    figure, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained", width_ratios=[1, 1, 1, 1.25])
    with geo.open(geo.sample() / "scene.tif", bands=["nir", "red", "green"]) as scene:
        colors = shown(scene)
        extent = extent_of(scene)
    axes[0].imshow(colors, extent=extent)
    water = ListedColormap(["#ded6c4", "#2166cc"])
    axes[1].imshow(np.ma.masked_equal(labels, 255)[::2, ::2], cmap=water, extent=extent, interpolation="nearest")
    lakes = made["05_polygonize.py"]["lakes"]
    lakes.plot(ax=axes[2], column="area_m2", cmap="Blues", vmin=-4e6, edgecolor="#123", linewidth=0.5)
    axes[2].set(xlim=extent[:2], ylim=extent[2:])
    draw_blocks(axes[3], made["06_split.py"]["blocks"])
    titles = (
        "open: bands by name; a corner is missing",
        "predict: land and water",
        "polygonize: lakes, by area",
        "split_blocks: two scenes, one lattice",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[], xlabel="", ylabel="", aspect="equal")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=100)
    Image.open(PICTURE).convert("RGB").quantize(96).save(PICTURE, optimize=True)


def shown(scene: geo.Scene) -> Any:
    """Every second pixel as colours, white where missing, shape (row, col, 3), 0-1."""
    patch = scene.read()
    values = patch.values[:, ::2, ::2].transpose(1, 2, 0) / 3000
    return np.where(patch.valid.all(0)[::2, ::2, None], values.clip(0, 1), 1.0)


def extent_of(scene: geo.Scene) -> tuple[float, float, float, float]:
    """Left, right, bottom, top, as matplotlib takes them, m."""
    left, bottom, right, top = scene.grid.bounds
    return left, right, bottom, top


def draw_blocks(axis: Any, blocks: list[geo.Block]) -> None:
    """Draw blocks in the colours of their splits, over the outlines of their scenes."""
    for block in blocks:
        with geo.open(block.scene) as scene:
            left, bottom, right, top = scene.grid.crop(block.window).bounds
            outline = scene.grid.bounds
        axis.add_patch(
            Rectangle((left, bottom), right - left, top - bottom, color=SPLITS[block.split], alpha=0.6, lw=0)
        )
        axis.add_patch(
            Rectangle(outline[:2], outline[2] - outline[0], outline[3] - outline[1], fill=False, color="#333", lw=0.6)
        )
    for split, color in SPLITS.items():
        axis.plot([], [], "s", color=color, alpha=0.6, label=split)
    axis.legend(fontsize=7, loc="lower left", ncols=3, frameon=False, bbox_to_anchor=(0, -0.16))
    axis.autoscale_view()


if __name__ == "__main__":
    main()
