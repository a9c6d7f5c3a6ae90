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
import numpy.typing as npt

from geocore.errors import DataError, SettingsError
from geocore.raster.grid import Grid, Window, length_unit_of, metres_per_unit, same_crs, transformer
from geocore.raster.ground import directions, has_ground, pixel_side_m
from geocore.tiling.overlaps import unwound

_ATTEMPTS = 32
_NARROWEST = 0.1
"""What is left of a block at the border of a scene counts if it has this share of the block's edge."""
_POINTS = 17
"""Along each edge of a window, by which it is looked whether it lies in a block."""
_FAR = 2**62

Float64 = npt.NDArray[np.float64]


def split_by_group(
    groups: Sequence[str],
    shares: Mapping[str, float],
    seed: int,
    *,
    sizes: Sequence[int] | None = None,
    remedy: str = "add data, ask for fewer splits or define smaller groups",
) -> list[str]:
    """Assign whole groups to splits so that the numbers of samples come close to the shares.

    Groups are taken in an order drawn from the seed, each goes to the split that lacks most samples, and every split
    gets at least one group. Of 32 such orders the one that comes closest to the shares wins.

    Args:
        groups: group of each sample.
        shares: split name to wanted share of the samples, above 0; shares are relative and need not sum to one.
        seed: chooses among assignments that are equally good.
        sizes: of each sample, such as its pixels, whose sums are to come close to the shares; None: all count alike.
        remedy: what a user can do where there are too few groups; ends the message.

    Returns:
        Split of each sample.

    Raises:
        DataError: there are fewer groups than splits.
    """
    if not shares or min(shares.values()) <= 0:
        raise ValueError(f"shares = {dict(shares)}: every split needs a share above 0")
    counts = [1] * len(groups) if sizes is None else sizes
    held: Counter[str] = Counter()
    for group, count in zip(groups, counts, strict=True):
        held[group] += count
    if len(held) < len(shares):
        raise DataError(
            f"{len(held)} group{'s' if len(held) > 1 else ''} ({_listed(sorted(held))}): {len(shares)} splits"
            f" ({', '.join(shares)}) need at least as many groups; {remedy}"
        )
    total_share = sum(shares.values())
    targets = {split: sum(counts) * share / total_share for split, share in shares.items()}
    best: dict[str, str] = {}
    best_miss = float("inf")
    for attempt in range(_ATTEMPTS):
        order = sorted(held, key=lambda group: _draw(seed, attempt, group))
        assigned = _assign(order, held, targets)
        filled = _sizes_of_splits(assigned, held)
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

    The lattice begins at the upper left corner of all scenes together: in their CRS, where they share one in which a
    metre is one on the ground, or else in an equal-area projection around them (Lambert, azimuthal). Pixels whose
    blocks differ are at least the buffer apart, in whichever scene they lie. Where a scene's rows are turned against
    the lattice, its part of a block is a rectangle of pixels within the block. Remainders at a scene's border narrower
    than a tenth of a block, or of the scene, are left out.

    Args:
        names: of the scenes, for messages.
        grids: of the scenes, with a transform and a CRS.
        block_m: edge of a block, m.
        buffer_m: width of the unused strip between two blocks, m.

    Returns:
        Blocks of the first scene row by row, then those of the next.

    Raises:
        DataError: a scene has no place on the Earth, or lies on another body than the first.
        SettingsError: the buffer leaves nothing of a block, or no scene has a block.
    """
    if not 0 <= buffer_m < block_m:
        raise SettingsError(f"block_m = {block_m:g}, buffer_m = {buffer_m:g}: must be 0 <= buffer_m < block_m")
    for name, grid in zip(names, grids, strict=True):
        if not has_ground(grid):
            raise DataError(
                f"{name}: has no place on the map: blocks in metres need a georeference (transform and CRS); split by "
                "group instead"
            )
    crs = _lattice_crs(grids)
    unit = metres_per_unit(crs)
    edge, margin = block_m / unit, buffer_m / unit / 2
    # How a scene lies: by its own numbers where its rows and columns are those of the map.
    outlines = [_to_map(grid, crs, _border(Window(0, 0, *grid.shape))) for grid in grids]
    for name, outline in zip(names, outlines, strict=True):
        if not np.isfinite(outline).all():
            raise DataError(f"{name}: reaches beyond what its CRS {grids[names.index(name)].crs} can place; crop it")
    low, high = np.min([each.min(0) for each in outlines], axis=0), np.max([each.max(0) for each in outlines], axis=0)
    left, top = float(low[0]), float(high[1])
    last = [max(1, math.ceil((length - 1e-6 * edge) / edge)) - 1 for length in (top - low[1], high[0] - left)]
    found = []
    for scene, (grid, outline) in enumerate(zip(grids, outlines, strict=True)):
        assert grid.transform is not None
        a, b, c, d, e, f = grid.transform[:6]
        if same_crs(str(grid.crs), crs) and not b and not d:
            rows = _cut((top - f, -e), grid.height, edge, margin, last[0])
            cols = _cut((c - left, a), grid.width, edge, margin, last[1])
            cells = {
                (i, j): Window(row, col, row_stop - row, col_stop - col)
                for i, (row, row_stop) in rows.items()
                for j, (col, col_stop) in cols.items()
            }
        else:
            places = np.stack([top - outline[:, 1], outline[:, 0] - left], 1) / edge
            firsts, stops = np.clip(places.min(0), 0, last).astype(int), np.clip(places.max(0), 0, last).astype(int)
            cells = {}
            for i in range(firsts[0], stops[0] + 1):
                for j in range(firsts[1], stops[1] + 1):
                    # The outermost blocks have no neighbour to keep away from.
                    up, down = (edge if i == 0 else -margin), (edge if i == last[0] else -margin)
                    west, east = (edge if j == 0 else -margin), (edge if j == last[1] else -margin)
                    box = (
                        left + j * edge - west,
                        top - (i + 1) * edge - down,
                        left + (j + 1) * edge + east,
                        top - i * edge + up,
                    )
                    if (window := _inscribed(grid, crs, box, edge)) is not None:
                        cells[i, j] = window
        found += [MapBlock(scene, window, f"r{i:04d}-c{j:04d}") for (i, j), window in cells.items()]
    if not found:
        raise SettingsError(
            f"block_m = {block_m:g}, buffer_m = {buffer_m:g}: no scene has a block of this size; take smaller blocks "
            "or a narrower buffer"
        )
    return found


def _lattice_crs(grids: Sequence[Grid]) -> str:
    """The CRS that all scenes share, if a metre of it is one on the ground to 1 %; else one around them."""
    first = str(grids[0].crs)
    shared = length_unit_of(first) == "m" and all(same_crs(first, str(grid.crs)) for grid in grids)
    if shared and all(abs(_pixel_map_m(grid) / (pixel_side_m(grid) or math.inf) - 1) < 0.01 for grid in grids):
        return first
    middles = [_middle(grid) for grid in grids]
    x, y, z = np.sum(middles, axis=0)
    lat, lon = math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))
    return f"+proj=laea +lat_0={lat:.4f} +lon_0={lon:.4f} +datum=WGS84 +units=m"


def _pixel_map_m(grid: Grid) -> float:
    assert grid.transform is not None
    return math.sqrt(abs(grid.transform.determinant)) * metres_per_unit(str(grid.crs))


def _middle(grid: Grid) -> Float64:
    """Unit vector towards the middle of a scene."""
    towards: Float64 = directions(str(grid.crs), *grid.xy([(grid.height - 1) / 2], [(grid.width - 1) / 2]))[0]
    return towards


def _border(window: Window) -> Float64:
    """Points on the border of a window, shape (point, 2), as row and column."""
    return _around(window.row, window.col, window.row_stop, window.col_stop)


def _around(row: float, col: float, row_stop: float, col_stop: float) -> Float64:
    rows, cols = np.linspace(row, row_stop, _POINTS), np.linspace(col, col_stop, _POINTS)
    sides = (
        (np.full(_POINTS, row), cols),
        (np.full(_POINTS, row_stop), cols),
        (rows, np.full(_POINTS, col)),
        (rows, np.full(_POINTS, col_stop)),
    )
    return np.concatenate([np.stack(side, 1) for side in sides])


def _to_map(grid: Grid, crs: str, points: Float64) -> Float64:
    """Where pixels lie on the map, shape (point, 2), as x and y."""
    row, col = points.T - 0.5  # of corners
    x, y = grid.xy(row, col)
    if not same_crs(str(grid.crs), crs):
        x, y = transformer(str(grid.crs), crs).transform(x, y)
    return np.stack([x, y], 1)


def _inscribed(grid: Grid, crs: str, box: tuple[float, float, float, float], edge: float) -> Window | None:
    """The pixels of a scene that lie in a box of the map, as a window that has the middle of the box in common with it.

    Args:
        grid: of the scene.
        crs: of the map.
        box: smallest x and y, largest x and y.
        edge: of a block.
    """
    # From the box to pixels by what is nearly a plane: the inverse of how a scene's middle and its axes lie.
    west, south, east, north = box
    x, y = _around(west, south, east, north).T
    if not same_crs(str(grid.crs), crs):
        x, y = transformer(crs, str(grid.crs)).transform(x, y)
        x = unwound(grid, np.asarray(x))
    row, col = grid.fractional_rowcol(x, y)
    if not (np.isfinite(row).all() and np.isfinite(col).all()):
        return None
    middle = np.array([row.min() + row.max(), col.min() + col.max()]) / 2
    half = np.array([row.max() - row.min(), col.max() - col.min()]) / 2
    for share in np.linspace(1.0, 0.4, 31):
        first, stop = np.ceil(middle - share * half - 1e-6), np.floor(middle + share * half + 1e-6)
        place = _to_map(grid, crs, _around(*first, *stop))
        slack = 1e-6 * edge
        if np.all((place >= np.array(box[:2]) - slack) & (place <= np.array(box[2:]) + slack)):
            break
    else:
        return None
    if np.any(stop <= first):
        return None
    window = Window(int(first[0]), int(first[1]), int(stop[0] - first[0]), int(stop[1] - first[1]))
    inside = window.intersection(Window(0, 0, *grid.shape))
    pixel = edge * metres_per_unit(crs) / (pixel_side_m(grid) or math.inf)
    if inside is None:
        return None
    pairs = zip(inside.shape, grid.shape, strict=True)
    return None if any(own < max(1.0, _NARROWEST * min(pixel, whole)) for own, whole in pairs) else inside


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
        if stop - first >= max(1.0, _NARROWEST * min(edge / abs(step), length)):
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
