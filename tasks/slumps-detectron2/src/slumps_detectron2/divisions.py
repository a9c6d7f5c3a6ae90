"""How ground is divided: scenes, or blocks of them, assigned to train, val and test.

Slumps are rare, so ground with slumps and ground without are dealt out one after the other: each by its shares, so that
every split gets some of both wherever there is enough of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geocore.errors import DataError
from geocore.grid import Window
from geocore.splits import blocks, split_by_group
from slumps_detectron2.config import SplitSettings
from slumps_detectron2.label_rasters import SceneLabels
from slumps_detectron2.labels import IGNORED
from slumps_detectron2.pairs import SPLITS, ScenePair


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


def assign(plots: Sequence[Plot], settings: SplitSettings) -> tuple[list[str], list[str]]:
    """Deal the plots out.

    Returns:
        Split of each plot, and notes.

    Raises:
        DataError: there are fewer groups than splits, or no plot to train or to validate on.
    """
    fixed = [plot.split for plot in plots if plot.split]
    splits = fixed or _drawn(plots, settings)
    if missing := [split for split in ("train", "val") if split not in splits]:
        raise DataError(f"split {missing[0]!r} has no scene: training needs train and val; change the split column")
    with_slumps = {split for split, plot in zip(splits, plots, strict=True) if plot.slumps}
    bare = [split for split in SPLITS if split in splits and split not in with_slumps]
    return splits, [f"split {split} has no slump, so that nothing can be found there" for split in bare]


def _drawn(plots: Sequence[Plot], settings: SplitSettings) -> list[str]:
    shares = {"train": settings.train, "val": settings.val, "test": 1 - settings.train - settings.val}
    groups = [plot.group for plot in plots]
    names = sorted(set(groups))
    if len(names) < len(SPLITS):
        what, remedy = (
            ("regions", "add scenes, cut these into blocks with --split.by block, or fix splits in the column split")
            if settings.by == "region"
            else ("blocks with pixels that count", f"lower --split.block-px {settings.block_px}")
        )
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
