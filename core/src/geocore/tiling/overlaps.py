"""Overlaps: samples that show the same ground or the same pixels, and so must not lie in two splits.

Scenes of one place at several dates, neighbouring products that overlap, copies under other names and crops of one
image all let a network be scored on what it has seen.

Where a sample lies is known from its georeference: a lattice of 33 x 33 of its pixels is looked up in the others, with
a pixel less on every side, so that what only touches, such as blocks of one scene, is apart. Pixels that do not count
(missing, ignored) show no ground.

Which pixels it has is known from its signature, whatever its name, format and georeference:

* **Marks** are hashes of squares of 16 x 16 pixels of the first band, at all positions, those that end with eight
  zero bits: one of 256, chosen by what is in it and not by where it lies. So a crop has marks of the image that
  it was cut from, as long as its numbers are the same (winnowing, as copied text is found: Schleimer et al., SIGMOD
  2003). From about 64 x 64 common pixels on it is found.
* **Thumbnails** of 16 x 16 means find whole images that were compressed anew with loss, resized, mirrored, turned by
  right angles, or brought to another scale.

Not found are parts of images that were compressed with loss, resized or turned after they were cut. A sample of more
than 16.8 million pixels is looked at in 64 windows of 512 x 512, where a small crop may be missed, without a thumbnail;
of many samples a thousand million are looked at in all. That takes about 40 ns a pixel, beside reading it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from geocore.errors import DataError
from geocore.raster.grid import Grid, Window, length_unit_of, parse_crs, same_crs, transformer
from geocore.raster.ground import directions, has_ground
from geocore.raster.scene import Scene

Hashes = npt.NDArray[np.uint64]

_SIDE: Final = 16
_EDGE_PX: Final = 512
_MOST_PX: Final = 64 * _EDGE_PX**2
_MOST_OF_ALL_PX: Final = 1 << 30
_THUMBNAIL: Final = 16
_LEAST_SHARED: Final = 3
"""Marks that two images must share: one may be an artefact of the format, such as the same filling in both."""
_ALIKE: Final = (0.9995, 0.975)
"""Least correlation of thumbnails, and of their ranks, in which what is filled in two images does not outweigh the
rest. Of 14 real photographs of snow pits, each has 0.9999 and 0.985 with itself as JPEG of quality 30, 0.9998 and
0.995 at half its size, 0.9995 and 0.991 at a third; two different ones have 0.9952 and 0.61 at most."""
_LEAST_CELLS: Final = 64
"""Parts of more than one value, for a thumbnail that tells one image from others."""
_MANY: Final = 64
_BASE: Final = np.uint64(0x9E3779B97F4A7C15)
_FINISH: Final = np.uint64(0xBF58476D1CE4E5B9)
_ZERO_BITS: Final = np.uint64(0xFF)


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What a sample is known by."""

    marks: Hashes
    """Shape (mark,), uint64, ascending, each once."""
    thumbnail: npt.NDArray[np.float32] | None
    """Shape (3, 256), float32: means of 16 x 16 parts and their ranks, each of mean 0 and variance 1; and 1 where a
    part is known, 0 where it is of one value. None where most are, or where the sample was not read whole."""
    shape: tuple[int, int]
    """Rows and columns of the sample, pixels."""


def signature_of(scene: Scene, layer: str, window: Window, *, samples: int = 1) -> Signature:
    """Read a sample, or parts of it that are spread over it.

    Args:
        scene: where it lies.
        layer: of which the first band, at the first time, counts; of ratio 1.
        window: of the scene.
        samples: of the data set, which share out what is looked at in all.

    Raises:
        SceneError: the scene cannot be read.
    """
    most = max(min(_MOST_PX, _MOST_OF_ALL_PX // samples), _EDGE_PX**2)
    marks, cells = [], _Cells(window.shape)
    is_whole = window.height * window.width <= most
    for part in _parts(window, most):
        patch = scene.read_layers(part, [layer])[layer]
        values = patch.values.reshape(-1, *part.shape)[0]
        valid = patch.valid.reshape(-1, *part.shape)[0]
        plane = np.where(valid, values, 0).astype(np.float64)
        marks.append(_marks(plane))
        if is_whole:
            cells.add(part.shifted(-window.row, -window.col), plane, valid)
    return Signature(np.unique(np.concatenate(marks)), cells.finish() if is_whole else None, window.shape)


def alike(signatures: Sequence[Signature]) -> Iterator[tuple[int, int]]:
    """Pairs of samples, the smaller index first, each once, that are copies or parts of one image.

    Of more than 64 samples that share a mark only neighbours in their order are pairs by it.
    """
    found = dict.fromkeys(_sharing([signature.marks for signature in signatures]))
    found |= dict.fromkeys(_resembling(signatures))
    yield from found


def _sharing(marks: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    every = np.concatenate([*marks, np.zeros(0, np.uint64)])
    owner = np.repeat(np.arange(len(marks)), [len(own) for own in marks])
    order = np.argsort(every, kind="stable")
    every, owner = every[order], owner[order]
    firsts, seconds = [], []
    # With those one, two, ... places on, as long as the mark is the same.
    for step in range(1, _MANY):
        same = every[step:] == every[:-step]
        if not same.any():
            break
        firsts.append(owner[:-step][same])
        seconds.append(owner[step:][same])
    if not firsts:
        return
    codes, counts = np.unique(np.concatenate(firsts) * len(marks) + np.concatenate(seconds), return_counts=True)
    for code in codes[counts >= _LEAST_SHARED].tolist():
        yield divmod(code, len(marks))


def _resembling(signatures: Sequence[Signature]) -> Iterator[tuple[int, int]]:
    known = [index for index, signature in enumerate(signatures) if signature.thumbnail is not None]
    if len(known) < 2:
        return
    thumbnails = np.stack([signatures[index].thumbnail for index in known])  # type: ignore[misc]
    aspects = np.array([np.divide(*signatures[index].shape) for index in known])
    step = max(1, (1 << 22) // len(known))
    for turned, own_aspects in _turned(thumbnails, aspects):
        for start in range(0, len(known), step):
            own = turned[start : start + step]
            close = np.abs(own_aspects[start : start + step, None] / aspects - 1) < 0.01
            for kind, least in enumerate(_ALIKE):
                close &= _correlations(own[:, kind], own[:, 2], thumbnails[:, kind], thumbnails[:, 2]) > least
            for row, col in zip(*np.nonzero(close), strict=True):
                if start + row < col:
                    yield known[start + int(row)], known[int(col)]


def _turned(
    thumbnails: npt.NDArray[np.float32], aspects: npt.NDArray[np.float64]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]]:
    """Thumbnails as they are, mirrored and turned by right angles, with the aspects that the images then have."""
    square = thumbnails.reshape(-1, 3, _THUMBNAIL, _THUMBNAIL)
    for swapped in (False, True):
        upright = square.swapaxes(2, 3) if swapped else square
        for down in (1, -1):
            for across in (1, -1):
                turned = upright[:, :, ::down, ::across]
                yield turned.reshape(thumbnails.shape), 1 / aspects if swapped else aspects


def _correlations(
    values: npt.NDArray[np.float32],
    known: npt.NDArray[np.float32],
    others: npt.NDArray[np.float32],
    others_known: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Correlations of rows with other rows, shape (row, other), over what is known of both; 0 where that is little."""
    count = known @ others_known.T
    sums, other_sums = values @ others_known.T, known @ others.T
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = values @ others.T - sums * other_sums / count
        own = values**2 @ others_known.T - sums**2 / count
        other = known @ (others**2).T - other_sums**2 / count
        found: npt.NDArray[np.float32] = shared / np.sqrt(own * other)
    return np.where(count >= _LEAST_CELLS, found, np.float32(0))


class _Cells:
    """Means of 16 x 16 parts of an image that comes in windows; parts without two values tell nothing."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        size = (_THUMBNAIL, _THUMBNAIL)
        self._sums, self._counts = np.zeros(size), np.zeros(size)
        self._low, self._high = np.full(size, np.inf), np.full(size, -np.inf)

    def add(self, window: Window, plane: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_]) -> None:
        rows, cols = (
            np.arange(first, first + length) * _THUMBNAIL // whole
            for first, length, whole in zip((window.row, window.col), window.shape, self._shape, strict=True)
        )
        down, across = (np.flatnonzero(np.diff(places, prepend=-1)) for places in (rows, cols))
        place = np.ix_(rows[down], cols[across])

        def folded(fold: np.ufunc, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.asarray(fold.reduceat(fold.reduceat(values, down, axis=0), across, axis=1))

        self._sums[place] += folded(np.add, np.where(valid, plane, 0))
        self._counts[place] += folded(np.add, valid.astype(np.float64))
        self._low[place] = np.minimum(self._low[place], folded(np.minimum, np.where(valid, plane, np.inf)))
        self._high[place] = np.maximum(self._high[place], folded(np.maximum, np.where(valid, plane, -np.inf)))

    def finish(self) -> npt.NDArray[np.float32] | None:
        known = self._high > self._low
        if np.count_nonzero(known) < _LEAST_CELLS:
            return None
        means = self._sums[known] / self._counts[known]
        thumbnail = np.zeros((3, known.size), np.float32)
        thumbnail[2] = known.ravel()
        for own, values in zip(thumbnail, (means, stats.rankdata(means)), strict=False):
            spread = values.std()
            if not np.isfinite(spread) or not spread:
                return None
            own[known.ravel()] = (values - values.mean()) / spread
        return thumbnail


def _parts(window: Window, most_px: int) -> list[Window]:
    """Squares that the window is cut into, or as many as may be read, spread over it."""
    rows, cols = (range(0, length, _EDGE_PX) for length in window.shape)
    every = [
        Window(row, col, min(_EDGE_PX, window.height - row), min(_EDGE_PX, window.width - col))
        for row in rows
        for col in cols
    ]
    if window.height * window.width > most_px:
        count = max(1, most_px // _EDGE_PX**2)
        # Nearly as many rows of squares as columns, since a row of blocks is decoded together.
        down = min(len(rows), max(1, round((count * len(rows) / len(cols)) ** 0.5)))
        across = min(len(cols), max(1, count // down))
        taken_rows, taken_cols = _spread(len(rows), down), _spread(len(cols), across)
        every = [every[row * len(cols) + col] for row in taken_rows for col in taken_cols]
    return [part.shifted(window.row, window.col) for part in every]


def _spread(length: int, count: int) -> list[int]:
    return [(2 * index + 1) * length // (2 * count) for index in range(count)]


def _marks(plane: npt.NDArray[np.float64]) -> Hashes:
    if min(plane.shape) < _SIDE:
        return np.zeros(0, np.uint64)
    # Any number type comes as the same bits; + 0.0 makes one zero of two.
    hashes = (plane + 0.0).view(np.uint64) * _BASE
    hashes ^= hashes >> np.uint64(32)
    for axis, factor in ((1, _BASE), (0, _FINISH)):
        step = 1
        # Twice as wide each time: the sum of 2n numbers is that of n, times the factor to the n, plus the next n.
        while step < _SIDE:
            power = np.uint64(pow(int(factor), step, 1 << 64))
            left, right = (hashes[:, :-step], hashes[:, step:]) if axis else (hashes[:-step], hashes[step:])
            hashes = left * power + right
            step *= 2
    hashes ^= hashes >> np.uint64(29)
    hashes *= _FINISH
    hashes ^= hashes >> np.uint64(32)
    places = np.flatnonzero((hashes & _ZERO_BITS) == 0)
    marks, first = np.unique(hashes.ravel()[places], return_index=True)
    rows, cols = np.divmod(places[first], hashes.shape[1])
    # What is nearly of one value, such as a filled border, is no mark.
    steps = np.arange(0, _SIDE, 5)
    seen = np.sort(
        plane[rows[:, None, None] + steps[:, None], cols[:, None, None] + steps].reshape(len(rows), len(steps) ** 2)
    )
    distinct = (np.diff(seen, axis=1) != 0).sum(axis=1)
    kept: Hashes = marks[distinct >= 4]
    return kept


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
        corners = directions(grid.crs, *grid.xy(rows[[0, 0, -1, -1]], cols[[0, -1, -1, 0]]))
        return cls(grid, rows, cols, chosen, corners) if np.isfinite(corners).all() else None

    def meets(self, other: Footprint) -> bool:
        """Whether a pixel of the lattice of either lies on ground that the other shows."""
        return self._shows(other) or other._shows(self)

    def _shows(self, other: Footprint) -> bool:
        """Whether a pixel of the other's lattice lies in this sample."""
        down, across = np.nonzero(other.counts)
        x, y = other.grid.xy(other.rows[down], other.cols[across])
        assert other.grid.crs is not None
        assert self.grid.crs is not None
        if not same_crs(other.grid.crs, self.grid.crs):
            try:
                x, y = transformer(other.grid.crs, self.grid.crs).transform(x, y)
            except DataError:
                return False  # of another body
        row, col = self.grid.fractional_rowcol(unwound(self.grid, np.asarray(x)), np.asarray(y))
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
    window = window or scene.grid.whole
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


def unwound(grid: Grid, x: Float64) -> Float64:
    """Longitudes as the grid counts them, which may go on beyond 180 degrees; other coordinates as they are."""
    assert grid.transform is not None
    assert grid.crs is not None
    if length_unit_of(grid.crs) != "degree":
        return x
    turn = 2 * np.pi / parse_crs(grid.crs).axis_info[0].unit_conversion_factor
    middle, _ = grid.transform @ (grid.width / 2, grid.height / 2)
    return x + turn * np.round((middle - x) / turn)


def _listed(names: Sequence[str], limit: int = _EXAMPLES) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
