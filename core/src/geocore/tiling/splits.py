"""Assign samples to train, validation and test without leaks.

Neighbouring tiles of a scene are near copies, so a split is made of whole groups (a scene, an event, a field season,
a block of ground), never of single tiles. Assignments depend only on the names and sizes of the groups and the seed:
not on the order of the samples, the platform or a random generator's version.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np

from geocore.errors import DataError, SettingsError
from geocore.raster.grid import Window

_ATTEMPTS = 32
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
