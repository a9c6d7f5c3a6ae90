"""Overlaps: samples that show the same ground or the same pixels, and so must not lie in two splits.

Scenes of one place at several dates, neighbouring products that overlap, copies under other names and crops of one
image all let a network be scored on what it has seen. Where a sample lies is known from its georeference: a lattice of
33 x 33 of its pixels is looked up in the others, with a pixel less on every side, so that what only touches, such as
blocks of one scene, is apart. Pixels that do not count (missing, ignored) show no ground. Which pixels it has is known
from its `geocore.signatures`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError
from geocore.grid import Grid, Window, length_unit_of, parse_crs, same_crs, transformer
from geocore.ground import directions, has_ground
from geocore.scenes import Scene
from geocore.signatures import Signature, alike, signature_of

Float64 = npt.NDArray[np.float64]

_NODES: Final = 33
_SMALL: Final = 0.005
"""Radii of the Earth, 32 km: as flat as a map."""
GROUND: Final = "the same ground"
"""What lines of `shared_by_splits` call it."""
PIXELS: Final = "the same pixels"
_EXAMPLES: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class Footprint:
    """Where a sample lies, as a lattice of its pixels."""

    grid: Grid
    rows: npt.NDArray[np.intp]
    """Shape (line,): rows of the scene, rising."""
    cols: npt.NDArray[np.intp]
    """Shape (column,)."""
    counts: npt.NDArray[np.bool_]
    """Shape (line, column): the pixel counts."""
    corners: Float64
    """Shape (4, 3): unit vectors towards the outermost of its pixels."""

    @classmethod
    def of(cls, grid: Grid, window: Window, counts: npt.NDArray[np.bool_] | None = None) -> Footprint | None:
        """The footprint of a window of a scene; None where its place is not known, or none of its pixels counts.

        Args:
            grid: of the scene.
            window: of the scene.
            counts: shape of the window, bool: pixels that count; None: all.
        """
        if not has_ground(grid):
            return None
        rows, cols = _nodes(window.row, window.height), _nodes(window.col, window.width)
        chosen = np.ones((len(rows), len(cols)), bool)
        if counts is not None:
            chosen = counts[np.ix_(rows - window.row, cols - window.col)]
        if not chosen.any():
            return None
        assert grid.crs is not None
        corners = directions(grid.crs, *_places(grid, rows[[0, 0, -1, -1]], cols[[0, -1, -1, 0]]))
        return cls(grid, rows, cols, chosen, corners) if np.isfinite(corners).all() else None

    def meets(self, other: Footprint) -> bool:
        """Whether a pixel of the lattice of either lies on ground that the other shows."""
        return self._shows(other) or other._shows(self)

    def _shows(self, other: Footprint) -> bool:
        """Whether a pixel of the other's lattice lies in this sample."""
        down, across = np.nonzero(other.counts)
        x, y = _places(other.grid, other.rows[down], other.cols[across])
        assert other.grid.crs is not None
        assert self.grid.crs is not None
        if not same_crs(other.grid.crs, self.grid.crs):
            try:
                x, y = transformer(other.grid.crs, self.grid.crs).transform(x, y)
            except DataError:
                return False  # of another body
        row, col = _pixels(self.grid, _unwound(self.grid, np.asarray(x)), np.asarray(y))
        inside = (row >= self.rows[0]) & (row < self.rows[-1] + 1) & (col >= self.cols[0]) & (col < self.cols[-1] + 1)
        line, column = _nearest(self.rows, row[inside]), _nearest(self.cols, col[inside])
        return bool(self.counts[line, column].any())


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a sample shows."""

    name: str
    """Of the sample."""
    footprint: Footprint | None
    """None: not known."""
    signature: Signature


def view_of(
    name: str,
    scene: Scene,
    layer: str,
    window: Window | None = None,
    *,
    counts: npt.NDArray[np.bool_] | None = None,
    samples: int = 1,
) -> View:
    """Look at a sample.

    Args:
        name: of the sample.
        scene: where it lies.
        layer: of the scene, of ratio 1, whose first band is looked at.
        window: of the scene; None: all of it.
        counts: shape of the window, bool: pixels that count, such as those that are labelled; None: all.
        samples: of the data set, as for `signature_of`.

    Raises:
        SceneError: the scene cannot be read.
    """
    window = window or scene.grid.window
    footprint = Footprint.of(scene.grid, window, counts)
    return View(name, footprint, signature_of(scene, layer, window, samples=samples))


def kept_together(views: Sequence[View], groups: Sequence[str]) -> tuple[list[str], list[str]]:
    """Join groups of samples that show the same ground or the same pixels.

    Args:
        views: of all samples.
        groups: group of each sample.

    Returns:
        Group of each sample, "a and 2 more" for one that was joined; and a remark where any was.
    """
    roots = {group: group for group in groups}

    def root(group: str) -> str:
        while roots[group] != group:
            group = roots[group]
        return group

    reasons: dict[str, set[str]] = defaultdict(set)
    kinds = np.unique(groups, return_inverse=True)[1]
    for what, first, second in _pairs(views, kinds):
        one, other = sorted((root(groups[first]), root(groups[second])))
        if one != other:
            roots[other] = one
            reasons[one] |= {what} | reasons.pop(other, set())
            # What is together need not be compared any more.
            kinds[kinds == kinds[second]] = kinds[first]
    members: dict[str, list[str]] = defaultdict(list)
    for group in sorted(roots):
        members[root(group)].append(group)
    names = {first: f"{first} and {len(own) - 1} more" if len(own) > 1 else first for first, own in members.items()}
    notes = []
    if reasons:
        example = _listed(members[min(reasons)], 3)
        what = " or ".join(sorted(set.union(*reasons.values())))
        notes = [
            f"{_listed(members[min(reasons)])} show {what}: they stay in one split"
            if len(reasons) == 1
            else f"{sum(len(members[key]) for key in reasons)} groups show {what} as others, such as "
            f"{example}: they are {len(reasons)} groups now, each in one split"
        ]
    return [names[root(group)] for group in groups], notes


def shared_by_splits(views: Sequence[View], splits: Sequence[str], *, places: Sequence[str] | None = None) -> list[str]:
    """What two splits share, one line for each two of them and each kind.

    Args:
        views: of all samples.
        splits: split of each sample.
        places: of each sample; which samples of one place share ground is known already, and not said again.
    """
    found: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    order = {split: place for place, split in enumerate(dict.fromkeys(["train", "val", "test", *splits]))}
    for what, first, second in _pairs(views, np.array([order[split] for split in splits], np.intp), places):
        one, other = sorted((first, second), key=lambda index: order[splits[index]])
        found[what, splits[one], splits[other]].append((views[one].name, views[other].name))
    return [
        f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'} of samples of {one} and {other} show {what}: "
        + _listed([f"{first} and {second}" for first, second in pairs], 3)
        for (what, one, other), pairs in found.items()
    ]


def refuse_leaks(leaks: Sequence[str], *, remedy: str) -> None:
    """Refuse splits that share something.

    Args:
        leaks: lines of `shared_by_splits`.
        remedy: what to do about it, beside accepting it.

    Raises:
        DataError: there is a line.
    """
    if leaks:
        more = f" (and {len(leaks) - 1} more such lines)" if len(leaks) > 1 else ""
        raise DataError(
            f"{leaks[0]}{more}: scores on what was trained on say nothing; {remedy}, or accept it with "
            "--split.allow-leaks true"
        )


def _pairs(
    views: Sequence[View], kinds: npt.NDArray[np.intp], places: Sequence[str] | None = None
) -> Iterator[tuple[str, int, int]]:
    """What is shared, and by which two samples of different kinds, which may be changed meanwhile."""
    for first, second in alike([view.signature for view in views]):
        if kinds[first] != kinds[second]:
            yield PIXELS, first, second
    placed = np.array([index for index, view in enumerate(views) if view.footprint is not None], np.intp)
    footprints = [footprint for view in views if (footprint := view.footprint) is not None]
    if not footprints:
        return
    corners = np.stack([footprint.corners for footprint in footprints])
    for index, (footprint, first) in enumerate(zip(footprints, placed.tolist(), strict=True)):
        others = index + 1 + np.flatnonzero(kinds[placed[index + 1 :]] != kinds[first])
        for other in others[_may_meet(footprint, corners[others])].tolist():
            second = int(placed[other])
            is_known = places is not None and places[first] == places[second]
            if not is_known and kinds[first] != kinds[second] and footprint.meets(footprints[other]):
                yield GROUND, first, second


def _may_meet(footprint: Footprint, corners: Float64) -> npt.NDArray[np.bool_]:
    """Which of many samples may lie on the ground of one: their corners in its pixels, as on a plane.

    Args:
        footprint: of the one.
        corners: shape (sample, 4, 3), of the others.
    """
    own = footprint.corners
    middle = own.mean(axis=0)
    # From directions to shares of the sample's height and width: 0 at its first, 1 at its last pixel.
    down, across = (own[3] + own[2] - own[0] - own[1]) / 2, (own[1] + own[2] - own[0] - own[3]) / 2
    shares = (corners - middle) @ np.linalg.pinv(np.stack([down, across])) + 0.5
    # The edges of large samples are bent, up to a tenth of their size where that is a thousand kilometres.
    size = np.linalg.norm(own[0] - own[2])
    larger = np.maximum(np.linalg.norm(corners[:, 0] - corners[:, 2], axis=1), size)
    slack = np.where(larger > _SMALL, 0.1 * larger / max(size, 1e-12), 1e-3)[:, None]
    meeting: npt.NDArray[np.bool_] = np.all((shares.min(axis=1) < 1 + slack) & (shares.max(axis=1) > -slack), axis=1)
    # The far side of the Earth falls onto the same plane.
    meeting &= np.linalg.norm(corners.mean(axis=1) - middle, axis=1) < 1
    return meeting


def _nodes(first: int, length: int) -> npt.NDArray[np.intp]:
    """Rows or columns of the lattice, a pixel less on each side where that leaves some."""
    inset = 1 if length > 2 else 0
    return np.unique(np.linspace(first + inset, first + length - 1 - inset, _NODES).round().astype(np.intp))


def _nearest(nodes: npt.NDArray[np.intp], wanted: Float64) -> npt.NDArray[np.intp]:
    if len(nodes) == 1:
        return np.zeros(len(wanted), np.intp)
    middles = (nodes[1:] + nodes[:-1] + 1) / 2
    return np.searchsorted(middles, wanted)


def _places(grid: Grid, rows: npt.NDArray[np.intp], cols: npt.NDArray[np.intp]) -> tuple[Float64, Float64]:
    """Coordinates of the middle of pixels."""
    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform
    return a * (cols + 0.5) + b * (rows + 0.5) + c, d * (cols + 0.5) + e * (rows + 0.5) + f


def _pixels(grid: Grid, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """Rows and columns of places."""
    assert grid.transform is not None
    a, b, c, d, e, f = grid.transform
    scale = a * e - b * d
    with np.errstate(invalid="ignore"):
        return (a * (y - f) - d * (x - c)) / scale, (e * (x - c) - b * (y - f)) / scale


def _unwound(grid: Grid, x: Float64) -> Float64:
    """Longitudes as the grid counts them, which may go on beyond 180 degrees; other coordinates as they are."""
    assert grid.transform is not None
    assert grid.crs is not None
    if length_unit_of(grid.crs) != "degree":
        return x
    turn = 2 * np.pi / parse_crs(grid.crs).axis_info[0].unit_conversion_factor
    a, b, c, *_ = grid.transform
    return x + turn * np.round((a * grid.width / 2 + b * grid.height / 2 + c - x) / turn)


def _listed(names: Sequence[str], limit: int = _EXAMPLES) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
