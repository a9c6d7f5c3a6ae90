"""The classical baseline: change points of the row median and the row interquartile range.

The photo is cut into vertical strips. In each, the median of every row follows the brightness of the layers and the
interquartile range shows thin sloping layers that a median misses; a boundary is where either changes between a
window above and a window below by more than the profile's own noise. Boundaries of neighbouring strips are joined, so
that the baseline follows slopes. Nothing here knows about neural networks; this module needs numpy and scipy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from geocore.terminal import progress

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

Score = Callable[[Sequence[BoolArray], Sequence[BoolArray], Sequence[BoolArray]], float]
"""score(truths, predictions, valids) -> one number for all photos together, higher is better."""


@dataclass(frozen=True, slots=True)
class ChangePointSettings:
    """What `change_points` needs to know; `tune` finds it on validation photos."""

    strips: int = 8
    """Vertical strips across the photo; 1 = the full width, which cannot follow a slope."""
    windows_px: tuple[int, ...] = (4, 12)
    """Heights of the windows above and below, pixels; the strongest change over these counts."""
    smoothing_px: int = 3
    """Length of the running median along the profile, odd, pixels; 1 = none."""
    spread_weight: float = 0.5
    """Weight of a change of the interquartile range against one of the median; 0 = median alone."""
    threshold: float = 6.0
    """Least prominence of a change, in standard deviations of the profile's noise over the window."""
    contrast: float = 0.04
    """Least change, share of the photo's range of brightness between its percentiles 1 and 99."""
    least_strips: int = 2
    """A boundary found in fewer neighbouring strips is dropped (never more than there are strips)."""


GRID: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "strips": (1, 4, 8, 16),
        "windows_px": ((4,), (8,), (16,), (32,), (3, 9), (6, 18), (12, 36)),
        "smoothing_px": (1, 3, 5),
        "spread_weight": (0.0, 0.5, 1.0),
        "threshold": (2.0, 3.0, 4.0, 6.0, 9.0, 13.0, 20.0),
        "contrast": (0.0, 0.02, 0.04, 0.07, 0.1, 0.14, 0.2, 0.3),
        "least_strips": (1, 2, 3, 4, 6),
    }
)
"""Values that `tune` tries."""

_STEEPEST = 0.4
"""Greatest slope, rows per column, at which boundaries of neighbouring strips are joined."""
_LEAST_VALID = 0.4
"""A row of a strip counts when at least this share of its pixels is valid."""


def change_points(photo: npt.NDArray[Any], valid: BoolArray, settings: ChangePointSettings) -> BoolArray:
    """Find layer boundaries as change points of row profiles.

    Args:
        photo: Shape (row, col), any real dtype: brightness, any unit.
        valid: Shape (row, col), bool: True where the photo shows the wall.
        settings: See the class.

    Returns:
        Shape (row, col), bool: one-pixel boundary lines, False at invalid pixels.
    """
    strips = min(settings.strips, photo.shape[1])
    edges = np.linspace(0, photo.shape[1], strips + 1).round().astype(int)
    medians, spreads, known = _profiles(photo, valid, edges)
    if not known.any():
        return np.zeros(photo.shape, bool)
    low, high = np.percentile(photo[valid], (1, 99))
    unit = max(float(high - low), 1e-12)
    peaks = [
        _peaks(medians[:, strip] / unit, spreads[:, strip] / unit, known[:, strip], settings) for strip in range(strips)
    ]
    centres = (edges[:-1] + edges[1:] - 1) / 2
    lines = np.zeros(photo.shape, bool)
    for chain in _chains(peaks, centres):
        if len(chain) >= min(settings.least_strips, strips):
            _draw(lines, chain, centres, edges)
    return lines & valid


def tune(
    photos: Sequence[npt.NDArray[Any]],
    truths: Sequence[BoolArray],
    valids: Sequence[BoolArray],
    score: Score,
    *,
    grid: Mapping[str, tuple[Any, ...]] = GRID,
    start: ChangePointSettings | None = None,
) -> ChangePointSettings:
    """Pick the settings that score best on validation photos.

    One setting after the other is set to its best value of the grid, the others held, until a whole round changes
    nothing (at most four rounds): some hundred trials instead of the 10^5 of the full grid. As such a search stays
    in the valley it began in, it makes one round for each number of strips and goes on from the best of them.

    Args:
        photos: Shape (row, col) each, any real dtype.
        truths: Shape (row, col) each, bool: true boundary lines.
        valids: Shape (row, col) each, bool.
        score: Score of all photos together; see `Score`.
        grid: Values to try for each field of `ChangePointSettings`.
        start: Where to begin; None for the defaults.

    Returns:
        The best settings met; of equals the first.

    Raises:
        ValueError: There is no photo, or the three lists differ in length.
    """
    if not photos or not len(photos) == len(truths) == len(valids):
        raise ValueError(f"{len(photos)} photos, {len(truths)} truths, {len(valids)} valid masks: need one of each")
    tried: dict[ChangePointSettings, float] = {}

    def trial(settings: ChangePointSettings) -> float:
        if settings not in tried:
            found = [change_points(photo, valid, settings) for photo, valid in zip(photos, valids, strict=True)]
            value = score(truths, found, valids)
            # No boundary anywhere has no score; it must not win.
            tried[settings] = value if np.isfinite(value) else -np.inf
            bar.advance()
        return tried[settings]

    def one_round(best: ChangePointSettings, held: str = "") -> ChangePointSettings:
        for name, values in grid.items():
            if name != held:
                best = max([best, *(replace(best, **{name: value}) for value in values)], key=trial)
        return best

    begin = start or ChangePointSettings()
    strips = grid.get("strips", (begin.strips,))
    with progress(None, "tuning the change-point baseline") as bar:
        best = max((one_round(replace(begin, strips=number), "strips") for number in strips), key=trial)
        for _ in range(4):
            before, best = best, one_round(best)
            if best == before:
                break
    return best


def _profiles(
    photo: npt.NDArray[Any], valid: BoolArray, edges: npt.NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Row median and interquartile range of each strip, shape (row, strip), and where enough pixels were valid.

    Rows that do not count take the value of the nearest row that does, so that no change appears at their border.
    """
    shape = (photo.shape[0], len(edges) - 1)
    medians, spreads, known = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    for strip, (first, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        inside = valid[:, first:stop]
        ordered = np.sort(np.where(inside, photo[:, first:stop].astype(np.float64), np.inf), axis=1)
        counts = inside.sum(axis=1)
        known[:, strip] = counts >= max(1.0, _LEAST_VALID * (stop - first))
        if not known[:, strip].any():
            continue
        quartiles = [_quantile(ordered, counts, share) for share in (0.25, 0.5, 0.75)]
        nearest = ndimage.distance_transform_edt(~known[:, strip], return_distances=False, return_indices=True)[0]
        medians[:, strip] = quartiles[1][nearest]
        spreads[:, strip] = (quartiles[2] - quartiles[0])[nearest]
    return medians, spreads, known


def _quantile(ordered: FloatArray, counts: npt.NDArray[np.int64], share: float) -> FloatArray:
    """Quantile of each row whose first `counts` entries are sorted, linear between neighbours; 0 where empty."""
    at = share * np.maximum(counts - 1, 0)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, np.maximum(counts - 1, 0))
    rows = np.arange(len(ordered))
    filled = np.where(np.isfinite(ordered), ordered, 0.0)
    return np.asarray(filled[rows, low] + (at - low) * (filled[rows, high] - filled[rows, low]), dtype=np.float64)


def _peaks(
    median: FloatArray, spread: FloatArray, known: BoolArray, settings: ChangePointSettings
) -> npt.NDArray[np.int64]:
    """Rows at which one strip's profile changes, ascending; the line runs just above the change, as truth lines do."""
    score = np.zeros(len(median))
    for profile, weight in ((median, 1.0), (spread, settings.spread_weight)):
        if weight == 0:
            continue
        noise = max(_noise(profile), 1e-4)
        smooth = ndimage.median_filter(profile, settings.smoothing_px, mode="nearest")
        for window in settings.windows_px:
            change = np.abs(_step(smooth, window))
            # Noise of the difference of two means of `window` rows, were the rows independent.
            significance = change / (noise * np.sqrt(2 / window))
            score = np.maximum(score, weight * np.where(change >= settings.contrast, significance, 0.0))
    distance = max(1, min(settings.windows_px))
    peaks, _ = signal.find_peaks(score, prominence=settings.threshold, distance=distance)
    return np.asarray(peaks[known[peaks]], dtype=np.int64)


def _step(profile: FloatArray, window: int) -> FloatArray:
    """Mean of the `window` rows below each row minus the mean of the `window` rows up to and with it."""
    padded = np.pad(profile, window, mode="edge")
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    rows = np.arange(len(profile)) + window + 1
    return np.asarray((sums[rows + window] - 2 * sums[rows] + sums[rows - window]) / window, dtype=np.float64)


def _noise(profile: FloatArray) -> float:
    """Standard deviation of a profile's row-to-row noise, from the median absolute difference: steps hardly count."""
    differences = np.diff(profile)
    return float(1.4826 * np.median(np.abs(differences)) / np.sqrt(2)) if differences.size else 0.0


def _chains(peaks: Sequence[npt.NDArray[np.int64]], centres: FloatArray) -> list[list[tuple[int, int]]]:
    """Join each strip's peaks to those of the next strip where both are each other's nearest; (strip, row) chains."""
    chains: list[list[tuple[int, int]]] = []
    open_chains: dict[int, list[tuple[int, int]]] = {}
    for strip, rows in enumerate(peaks):
        reach = _STEEPEST * (centres[strip] - centres[strip - 1]) if strip else 0.0
        following: dict[int, list[tuple[int, int]]] = {}
        previous = sorted(open_chains)
        # Extrapolating a chain's own slope tells boundaries that run close together apart.
        expected = np.asarray([_expected(open_chains[start]) for start in previous])
        for row in rows.tolist():
            chain: list[tuple[int, int]] = []
            if previous:
                nearest = int(np.argmin(np.abs(expected - row)))
                mutual = int(rows[np.argmin(np.abs(rows - expected[nearest]))]) == row
                if mutual and abs(previous[nearest] - row) <= max(reach, 3):
                    chain = open_chains[previous[nearest]]
            if not chain:
                chains.append(chain)
            chain.append((strip, row))
            following[row] = chain
        open_chains = following
    return chains


def _expected(chain: Sequence[tuple[int, int]]) -> float:
    """Row at which a chain should arrive in the next strip: half its last slope further."""
    if len(chain) < 2:
        return float(chain[-1][1])
    return chain[-1][1] + 0.5 * (chain[-1][1] - chain[-2][1])


def _draw(
    lines: BoolArray, chain: Sequence[tuple[int, int]], centres: FloatArray, edges: npt.NDArray[np.int64]
) -> None:
    """Draw one chain into `lines`: straight between strip centres, on with the same slope to the outer strip edges."""
    at = np.asarray([centres[strip] for strip, _ in chain])
    rows = np.asarray([row for _, row in chain], dtype=np.float64)
    cols = np.arange(edges[chain[0][0]], edges[chain[-1][0] + 1])
    curve = np.interp(cols, at, rows)
    if len(chain) > 1:
        before, after = cols < at[0], cols > at[-1]
        curve[before] = rows[0] + (cols[before] - at[0]) * (rows[1] - rows[0]) / (at[1] - at[0])
        curve[after] = rows[-1] + (cols[after] - at[-1]) * (rows[-1] - rows[-2]) / (at[-1] - at[-2])
    drawn = np.clip(np.rint(curve), 0, lines.shape[0] - 1).astype(int)
    lines[drawn, cols] = True
