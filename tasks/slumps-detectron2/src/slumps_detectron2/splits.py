"""How ground is divided: scenes, or blocks of them, assigned to train, val and test.

Slumps are rare, so ground with slumps and ground without are dealt out one after the other: each by its shares, so that
every split gets some of both wherever there is enough of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from geocore.errors import DataError
from geocore.raster.grid import Window
from geocore.raster.scene import Scene
from geocore.tiling.overlaps import View, kept_together, refuse_leaks, shared_by_splits, view_of
from geocore.tiling.splits import blocks, split_by_group
from slumps_detectron2.config import SplitSettings
from slumps_detectron2.label_rasters import SceneLabels
from slumps_detectron2.labels import IGNORED
from slumps_detectron2.pairs import SPLITS, ScenePair

_LEAST_BLOCK_PX: Final = 16
"""As the setting has it."""


@dataclass(frozen=True, slots=True)
class Plot:
    """An area of a scene before it has a split."""

    name: str
    group: str
    """What stays in one split: a region, or the plot itself where it is a block."""
    window: Window
    """Pixels of the scene."""
    slumps: int
    """Objects in it, parts included."""
    split: str = ""
    """The split that the table of pairs gives it."""


def plots_of(pair: ScenePair, labels: SceneLabels, settings: SplitSettings) -> tuple[list[Plot], list[str]]:
    """The labelled part of a scene, whole, or its blocks where they decide the split.

    Blocks without a pixel that counts are left out.

    Returns:
        Plots and notes.
    """
    area = labels.window
    if settings.by == "region" or pair.split:
        return [Plot(pair.name, pair.region, area, labels.slumps, pair.split)], []
    plots = []
    found = blocks(area.shape, settings.block_px, settings.buffer_px)
    for block in found:
        ids = np.unique(labels.ids[block.slices])
        if ids[0] == IGNORED:
            continue
        window = block.shifted(area.row, area.col)
        name = f"{pair.name}-r{window.row:06d}-c{window.col:06d}"
        plots.append(Plot(name, name, window, int(np.count_nonzero((ids > 0) & (ids != IGNORED)))))
    without = len(found) - len(plots)
    return plots, [f"{pair.name}: {without} of {len(found)} blocks have no pixel that counts"] if without else []


def views_of(scene: Scene, plots: Sequence[Plot], labels: SceneLabels, *, samples: int) -> list[View]:
    """What the plots of a scene show; only pixels that are labelled count.

    Args:
        scene: opened.
        plots: of `plots_of`.
        labels: of the scene.
        samples: plots of all scenes, about.

    Raises:
        SceneError: the scene cannot be read.
    """
    layer, area = next(iter(scene.layers)), labels.window
    return [
        view_of(
            plot.name,
            scene,
            layer,
            plot.window,
            counts=labels.ids[plot.window.shifted(-area.row, -area.col).slices] != IGNORED,
            samples=samples,
        )
        for plot in plots
    ]


def assign(plots: Sequence[Plot], views: Sequence[View], settings: SplitSettings) -> tuple[list[Plot], list[str]]:
    """Deal the plots out; what shows the same ground or the same pixels stays in one split.

    Args:
        plots: of all scenes.
        views: what each of them shows.
        settings: of the split.

    Returns:
        The plots with their splits, and with the group that each belongs to now, and notes.

    Raises:
        DataError: there are fewer groups than splits, no plot to train or to validate on, or the splits that were given
            share ground or pixels.
    """
    plots = list(plots)
    notes: list[str] = []
    if not any(plot.split for plot in plots):
        if not settings.allow_leaks:
            groups, notes = kept_together(views, [plot.group for plot in plots])
            plots = [replace(plot, group=group) for plot, group in zip(plots, groups, strict=True)]
        drawn = _drawn(plots, settings, notes)
        plots = [replace(plot, split=split) for plot, split in zip(plots, drawn, strict=True)]
    splits = [plot.split for plot in plots]
    if missing := [split for split in ("train", "val") if split not in splits]:
        raise DataError(f"split {missing[0]!r} has no scene: training needs train and val; change the split column")
    leaks = shared_by_splits(views, splits)
    if not settings.allow_leaks:
        refuse_leaks(leaks, remedy="give scenes of one ground one split in the table")
    with_slumps = {plot.split for plot in plots if plot.slumps}
    bare = [split for split in SPLITS if split in splits and split not in with_slumps]
    notes += [f"split {split} has no slump, so that nothing can be found there" for split in bare]
    return plots, notes + [f"leak: {leak}" for leak in leaks]


def _blocks_that_fit(plots: Sequence[Plot]) -> str:
    """Flags that cut the labelled ground of these plots into nine blocks or more."""
    windows = [plot.window for plot in plots]
    height = max(window.row_stop for window in windows) - min(window.row for window in windows)
    width = max(window.col_stop for window in windows) - min(window.col for window in windows)
    # A third of the shorter side leaves three blocks at least along either; blocks have 16 pixels at least.
    block = max(_LEAST_BLOCK_PX, min(SplitSettings().block_px, min(height, width) // 3))
    return f"--split.by block --split.block-px {block} --split.buffer-px {min(SplitSettings().buffer_px, block // 8)}"


def _drawn(plots: Sequence[Plot], settings: SplitSettings, notes: Sequence[str]) -> list[str]:
    shares = {"train": settings.train, "val": settings.val, "test": 1 - settings.train - settings.val}
    groups = [plot.group for plot in plots]
    names = sorted(set(groups))
    if len(names) < len(SPLITS):
        what = "regions" if settings.by == "region" else "blocks with pixels that count"
        remedy = f"cut scenes into blocks: {_blocks_that_fit(plots)}"
        if notes:
            what = f"groups of {what}"
            remedy = f"{notes[0]}; {remedy}, add other ground, or accept it with --split.allow-leaks true"
        else:
            remedy = f"add scenes, fix splits in the column split of --data, or {remedy}"
        raise DataError(f"{len(names)} {what} ({', '.join(names)}): train, val and test need one each; {remedy}")
    rich = {plot.group for plot in plots if plot.slumps}
    poor = set(names) - rich
    if len(rich) < len(SPLITS):
        rich, poor = set(names), set()
    split_of: dict[str, str] = {}
    for part in (rich, poor):
        members = [group for group in groups if group in part]
        # One or two groups of mere background are of most use in training.
        enough = len(part) >= len(SPLITS)
        splits = split_by_group(members, shares, settings.seed) if enough else ["train"] * len(members)
        split_of.update(zip(members, splits, strict=True))
    return [split_of[group] for group in groups]
