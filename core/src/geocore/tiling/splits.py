"""Assign samples to train, validation and test without leaks.

Neighbouring tiles of a scene are near copies, so a split is made of whole groups (a scene, an event, a field season,
a block of ground), never of single tiles. Assignments depend only on the names and sizes of the groups and the seed:
not on the order of the samples, the platform or a random generator's version.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from geocore.errors import DataError, SettingsError
from geocore.raster.grid import Grid, Window, length_unit_of, metres_per_unit, same_crs

_ATTEMPTS = 32
_NARROWEST = 0.1
"""What is left of a block at the border of a scene counts if it has this share of the block's edge."""
_FAR = 2**62


def split_by_group(
    groups: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
    *,
    remedy: str = "add data, ask for fewer splits or define smaller groups",
) -> list[str]:
    """Assign whole groups to splits so that the numbers of samples come close to the shares.

    Groups are taken in an order drawn from the seed, each goes to the split that lacks most samples, and every split
    gets at least one group. Of 32 such orders the one that comes closest to the shares wins.

    Args:
        groups: group of each sample.
        shares: split name to wanted share of the samples, above 0; shares are relative and need not sum to one.
        seed: chooses among assignments that are equally good.
        remedy: what a user can do where there are too few groups; ends the message.

    Returns:
        Split of each sample.

    Raises:
        DataError: there are fewer groups than splits.
    """
    if not shares or min(shares.values()) <= 0:
        raise ValueError(f"shares = {dict(shares)}: every split needs a share above 0")
    sizes = Counter(groups)
    if len(sizes) < len(shares):
        raise DataError(
            f"{len(sizes)} group{'s' if len(sizes) > 1 else ''} ({_listed(sorted(sizes))}): {len(shares)} splits"
            f" ({', '.join(shares)}) need at least as many groups; {remedy}"
        )
    total_share = sum(shares.values())
    targets = {split: len(groups) * share / total_share for split, share in shares.items()}
    best: dict[str, str] = {}
    best_miss = float("inf")
    for attempt in range(_ATTEMPTS):
        order = sorted(sizes, key=lambda group: _draw(seed, attempt, group))
        assigned = _assign(order, sizes, targets)
        filled = _sizes_of_splits(assigned, sizes)
        miss = sum((filled[split] - target) ** 2 for split, target in targets.items())
        if miss < best_miss:
            best, best_miss = assigned, miss
    return [best[group] for group in groups]


def blocks(shape: tuple[int, int], block_px: int, buffer_px: int) -> list[Window]:
    """Cut a scene into blocks of near-equal size with an unused strip between neighbours.

    Args:
        shape: rows and columns of the scene in pixels.
        block_px: edge of a block in pixels, about: the scene is shared out evenly among as many as come closest.
        buffer_px: width of the strip between two blocks in pixels; it is taken from both, and never at the border.

    Returns:
        Windows row by row; one without a strip when the scene holds no second block.

    Raises:
        SettingsError: the strip leaves nothing of a block.
    """
    axes = [_stretches(length, block_px, buffer_px) for length in shape]
    return [Window(top, left, bottom - top, right - left) for top, bottom in axes[0] for left, right in axes[1]]


@dataclass(frozen=True, slots=True)
class MapBlock:
    """What a scene shows of one block of the map."""

    scene: int
    """Position of the scene among those that were given."""
    window: Window
    """Pixels of the scene."""
    key: str
    """Name of the block, `r0002-c0011`, the same in every scene that shows a part of it."""


def map_blocks(names: Sequence[str], grids: Sequence[Grid], *, block_m: float, buffer_m: float = 0.0) -> list[MapBlock]:
    """Cut scenes into the blocks of one lattice on the map, so that scenes which overlap agree on what lies together.

    The lattice begins at the upper left corner of all scenes together. Pixels whose blocks differ are at least the
    buffer apart, in whichever scene they lie. Remainders at a scene's border narrower than a tenth of a block are left
    out.

    Args:
        names: of the scenes, for messages.
        grids: of the scenes: north up, in one CRS whose unit is a length; pixels may differ in size.
        block_m: edge of a block on the map, m.
        buffer_m: width of the unused strip between two blocks on the map, m.

    Returns:
        Blocks of the first scene row by row, then those of the next.

    Raises:
        DataError: a scene has no such CRS or another one, or is turned.
        SettingsError: the buffer leaves nothing of a block, or no scene has a block.
    """
    if not 0 <= buffer_m < block_m:
        raise SettingsError(f"block_m = {block_m:g}, buffer_m = {buffer_m:g}: must be 0 <= buffer_m < block_m")
    crs = _common_crs(names, grids)
    unit = metres_per_unit(crs)
    edge, margin = block_m / unit, buffer_m / unit / 2
    corners = [_corners(grid) for grid in grids]
    left, top = min(corner[0] for corner in corners), max(corner[1] for corner in corners)
    right, bottom = max(corner[2] for corner in corners), min(corner[3] for corner in corners)
    last = [max(1, math.ceil((length - 1e-6 * edge) / edge)) - 1 for length in (top - bottom, right - left)]
    found = []
    for scene, grid in enumerate(grids):
        a, _, c, _, e, f = _transform(grid)
        rows = _cut((top - f, -e), grid.height, edge, margin, last[0])
        cols = _cut((c - left, a), grid.width, edge, margin, last[1])
        found += [
            MapBlock(scene, Window(row, col, row_stop - row, col_stop - col), f"r{i:04d}-c{j:04d}")
            for i, (row, row_stop) in rows.items()
            for j, (col, col_stop) in cols.items()
        ]
    if not found:
        raise SettingsError(
            f"block_m = {block_m:g}, buffer_m = {buffer_m:g}: no scene has a block of this size; take smaller "
            "blocks or a narrower buffer"
        )
    return found


def _common_crs(names: Sequence[str], grids: Sequence[Grid]) -> str:
    first = grids[0].crs
    for name, grid in zip(names, grids, strict=True):
        if grid.transform is None or grid.crs is None or length_unit_of(grid.crs) != "m":
            what = "in degrees" if grid.crs and length_unit_of(grid.crs) == "degree" else "nowhere on a map"
            raise DataError(
                f"{name}: lies {what}: blocks need scenes in one CRS of lengths, such as UTM; reproject it, or split "
                "by group"
            )
        if first is None or not same_crs(first, grid.crs):
            raise DataError(
                f"{name}: has another CRS than {names[0]}: blocks lie on one lattice of one map; reproject it, or "
                "split by group"
            )
        _, b, _, d, _, _ = _transform(grid)
        if b or d:
            raise DataError(f"{name}: is turned against its map: blocks need rows that run east; warp it to north up")
    assert first is not None
    return first


def _transform(grid: Grid) -> tuple[float, float, float, float, float, float]:
    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform[:6]
    return a, b, c, d, e, f


def _corners(grid: Grid) -> tuple[float, float, float, float]:
    """Smallest x, largest y, largest x, smallest y."""
    a, _, c, _, e, f = _transform(grid)
    xs, ys = (c, c + a * grid.width), (f, f + e * grid.height)
    return min(xs), max(ys), max(xs), min(ys)


def _cut(place: tuple[float, float], length: int, edge: float, margin: float, last: int) -> dict[int, tuple[int, int]]:
    """Number of each block along an axis -> first pixel and the one after the last that lie in it.

    Args:
        place: of the scene's first pixel, from the lattice's first line on, and the step from one pixel to the next.
        length: pixels.
        edge: of a block, in the unit of the place.
        margin: that is left out beside each inner line, likewise.
        last: number of the last block.
    """
    start, step = place
    ends = sorted((start, start + step * length))
    found = {}
    for number in range(max(0, int(ends[0] // edge)), min(last, int(ends[1] // edge)) + 1):
        low = -math.inf if number == 0 else number * edge + margin
        high = math.inf if number == last else (number + 1) * edge - margin
        bounds = sorted(min(max((bound - start) / step, 0.0), float(length)) for bound in (low, high))
        # A line that falls on the border of a pixel may miss it by rounding.
        first, stop = math.ceil(bounds[0] - 1e-6), math.floor(bounds[1] + 1e-6)
        if stop - first >= max(1.0, _NARROWEST * edge / abs(step)):
            found[number] = (first, stop)
    return found


def leak_report(
    names: Sequence[str],
    splits: Sequence[str],
    groups: Sequence[str],
    hashes: Sequence[Collection[str]],
    windows: Sequence[Window | None] | None = None,
) -> list[str]:
    """Find what two splits share.

    Args:
        names: name of each sample, for the report.
        splits: split of each sample.
        groups: group of each sample.
        hashes: content hashes of the inputs of each sample. Leave labels out: empty ones are rightly equal.
        windows: the part of its inputs that each sample is, pixels; None: all. Parts of one content leak only where
            they overlap, so that blocks of a scene with a buffer between them do not.

    Returns:
        One line per group that lies in several splits and per content that occurs in several splits; empty when the
        splits do not leak.
    """
    parts = [None] * len(names) if windows is None else windows
    splits_of_group: dict[str, set[str]] = defaultdict(set)
    samples_of_hash: dict[str, list[int]] = defaultdict(list)
    for i, (split, group, contents) in enumerate(zip(splits, groups, hashes, strict=True)):
        splits_of_group[group].add(split)
        for content in set(contents):
            samples_of_hash[content].append(i)
    lines = [
        f"group {group!r} lies in {len(found)} splits: {', '.join(sorted(found))}"
        for group, found in sorted(splits_of_group.items())
        if len(found) > 1
    ]
    for content, samples in sorted(samples_of_hash.items(), key=lambda item: item[1]):
        shared = _shared([splits[i] for i in samples], [parts[i] for i in samples])
        if shared:
            where = _listed([f"{names[samples[i]]} ({splits[samples[i]]})" for i in shared])
            lines.append(f"identical input {content[:12]} in several splits: {where}")
    return lines


def _shared(splits: Sequence[str], windows: Sequence[Window | None]) -> list[int]:
    """Positions of the samples of one content that meet one of another split."""
    if len(set(splits)) < 2:
        return []
    # A sample without a window covers all.
    bounds = [(0, 0, _FAR, _FAR) if w is None else (w.row, w.col, w.row_stop, w.col_stop) for w in windows]
    rows, cols, row_stops, col_stops = np.array(bounds, np.int64).T
    split = np.unique(splits, return_inverse=True)[1]
    return [
        i
        for i, (row, col, row_stop, col_stop) in enumerate(bounds)
        if np.any((split != split[i]) & (rows < row_stop) & (row < row_stops) & (cols < col_stop) & (col < col_stops))
    ]


def _stretches(length: int, block_px: int, buffer_px: int) -> list[tuple[int, int]]:
    """First and last pixel, exclusive, of each block along an axis."""
    count = max(1, round(length / block_px))
    edges = [length * i // count for i in range(count + 1)]
    stretches = [
        (first + (buffer_px - buffer_px // 2 if i else 0), stop - (buffer_px // 2 if i < count - 1 else 0))
        for i, (first, stop) in enumerate(pairwise(edges))
    ]
    if min(stop - first for first, stop in stretches) < 1:
        raise SettingsError(
            f"buffer_px = {buffer_px}: leaves nothing of blocks of {block_px} pixels; lower it or take larger blocks"
        )
    return stretches


def _draw(seed: int, attempt: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}/{attempt}/{group}".encode()).digest()


def _assign(order: Sequence[str], sizes: Mapping[str, int], targets: Mapping[str, float]) -> dict[str, str]:
    lacking = dict(targets)
    empty = set(targets)
    assigned = {}
    for i, group in enumerate(order):
        # The last groups are kept for the splits that would else stay empty.
        open_splits = empty if len(order) - i <= len(empty) else lacking.keys()
        split = max((name for name in targets if name in open_splits), key=lambda name: lacking[name])
        assigned[group] = split
        lacking[split] -= sizes[group]
        empty.discard(split)
    return assigned


def _sizes_of_splits(assigned: Mapping[str, str], sizes: Mapping[str, int]) -> Counter[str]:
    filled: Counter[str] = Counter()
    for group, split in assigned.items():
        filled[split] += sizes[group]
    return filled


def _listed(names: Sequence[str], limit: int = 5) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
