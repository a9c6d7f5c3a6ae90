"""Signatures: by which copies and crops of an image are known again, whatever their names, formats and georeference.

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from geocore.grid import Window
from geocore.scenes import Scene

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
        patch = scene.read(part, [layer])[layer]
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
