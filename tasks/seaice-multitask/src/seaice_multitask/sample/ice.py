"""The ice of a sample scene: coast, ice edge, polygons with their SIGRID-3 records, and what lies inside each polygon.

Within each quarter of the year the classes of polygons are drawn so that, in expectation, they cover the shares of area
that the published histograms of the challenge give for the ice of that quarter; so is the ice whose stage or floe size
the chart's 65 % rule leaves open (33 and 34 % of the ice over the year). Concentration, age and floe size all tend to
grow from the ice edge inwards, with enough scatter that none of them follows from another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from geocore_synthetic.fields import gaussian_field, wandering_curve
from geocore_synthetic.shapes import corner
from seaice_multitask.sample.plans import ScenePlan

HEADER = "poly_id;CT;CA;SA;FA;CB;SB;FB;CC;SC;FC;CN;CD;CF;POLY_TYPE"
"""First element of `polygon_codes`."""
MASKED = 255
"""Class of chart pixels without a class."""

# By quarter, of the ice alone: concentration 1-10, stage 1-5, floe size 1-6, and shares without stage or floe size.
_SIC = (
    (0.0011, 0.0137, 0.0300, 0.0049, 0.0228, 0.0120, 0.0249, 0.0538, 0.0942, 0.7425),
    (0.0083, 0.0366, 0.0402, 0.0350, 0.0406, 0.0352, 0.0585, 0.1163, 0.2243, 0.4049),
    (0.0329, 0.1621, 0.0533, 0.0611, 0.0998, 0.0538, 0.1056, 0.0631, 0.1386, 0.2297),
    (0.0020, 0.0123, 0.0356, 0.0150, 0.0243, 0.0138, 0.0279, 0.0697, 0.1446, 0.6549),
)
_SOD = (
    (0.0131, 0.1436, 0.1670, 0.3985, 0.2778),
    (0.0052, 0.0036, 0.0079, 0.7674, 0.2159),
    (0.0449, 0.0077, 0.0000, 0.3622, 0.5852),
    (0.2012, 0.1974, 0.1053, 0.0056, 0.4905),
)
_FLOE = (
    (0.0058, 0.0424, 0.1125, 0.1477, 0.6913, 0.0003),
    (0.0253, 0.0570, 0.0690, 0.2043, 0.6434, 0.0010),
    (0.0006, 0.0856, 0.1899, 0.2613, 0.4489, 0.0136),
    (0.0084, 0.1143, 0.1313, 0.0980, 0.6427, 0.0053),
)
_WITHOUT_STAGE = (0.391, 0.189, 0.278, 0.484)
_WITHOUT_FLOE = (0.333, 0.300, 0.275, 0.449)

_STAGE_CODES = (("81", "82"), ("83", "84", "85"), ("87", "88", "89"), ("86", "91", "93"), ("95", "96", "97"))
_FLOE_CODES = (("02",), ("03",), ("04",), ("05",), ("06", "07"), ("09", "10"))
_WATER_CODES = ("00", "01", "02", "55")
_UNFILLED = "-9"
_UNKNOWN = "99"
_FAST = "08"
_WATER_POLYGONS = 3


@dataclass(frozen=True, slots=True)
class Polygon:
    """What a chart says about a polygon and what is really in it."""

    record: str
    """Its SIGRID-3 codes as `polygon_codes` lists them."""
    sic: int
    """Class of its concentration, 0-10."""
    sod: int
    """Class of its stage of development, 0-5, or 255."""
    floe: int
    """Class of its floe size, 0-6, or 255."""
    concentration: float
    """Share of its area that is really ice, 0-1: the chart's tenths are an estimate."""
    stages: tuple[tuple[int, float], ...]
    """(stage 1-5, share of the ice), the shares adding up to 1; empty for water."""
    floe_size: int
    """Floe size 1-6 of its ice, known to the chart or not; 0 for water."""


@dataclass(frozen=True, slots=True)
class Ice:
    """The chart of a scene on its 80 m grid, and the ice itself."""

    polygons: tuple[Polygon, ...]
    charted: npt.NDArray[np.int16]
    """Shape (row, col), int16: index of the chart's polygon, -1 outside all."""
    actual: npt.NDArray[np.int16]
    """Shape (row, col), int16: the same before the analyst smoothed the borders; -1 on land alone."""
    land: npt.NDArray[np.bool_]
    """Shape (row, col), bool."""


def draw_ice(plan: ScenePlan, shape: tuple[int, int], rng: np.random.Generator) -> Ice:
    """Draw coast, ice edge and polygons.

    Args:
        plan: Shares of land, water and uncharted sea, and the season.
        shape: (row, col), pixels of 80 m.
        rng: Source of all randomness.
    """
    direction = rng.uniform(0, 2 * np.pi)
    land = np.zeros(shape, bool)
    if plan.land > 0:
        height = _terrain(shape, direction, (0.7, 0.25, 0.08), rng)
        land = height > np.quantile(height, 1 - plan.land)
    # Most ice of these waters lies along a coast; the rest has its edge anywhere.
    inwards = direction + rng.normal(0, 0.5) if rng.uniform() < 0.7 else rng.uniform(0, 2 * np.pi)
    depth = _terrain(shape, inwards, (0.5, 0.22, 0.07), rng)
    ice = depth > (np.quantile(depth[~land], plan.water) if plan.water < 1 else np.inf)
    count = int(rng.integers(16, 29))
    cells = _cells(shape, count, rng)
    actual = np.where(ice, cells, count + _cells(shape, _WATER_POLYGONS, rng)).astype(np.int16)
    actual[land] = -1
    charted = _displaced(actual, rng)
    charted[land | _uncharted(shape, plan.uncharted, rng)] = -1
    area = np.bincount(actual[actual >= 0], minlength=count + _WATER_POLYGONS)[:count]
    mean = np.bincount(actual[actual >= 0], depth[actual >= 0], count + _WATER_POLYGONS)[:count] / np.maximum(area, 1)
    coast = np.bincount(actual[ndimage.binary_dilation(land, iterations=2) & ~land], minlength=len(area))
    numbers = 2 + rng.permutation(count + _WATER_POLYGONS)
    polygons = _ice_polygons(plan.quarter, area, mean, coast[:count] > 0.03 * np.sqrt(area), numbers, rng)
    polygons += [_water_polygon(int(number), rng) for number in numbers[count:]]
    return Ice(tuple(polygons), charted, actual, land)


def _terrain(
    shape: tuple[int, int], direction: float, roughness: tuple[float, ...], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """A slope of about -1 to 1 with wanderings of a half, an eighth and a thirty-second of the scene."""
    rows, cols = (np.linspace(-1, 1, length, dtype=np.float32) for length in shape)
    terrain = np.sin(direction) * rows[:, None] + np.cos(direction) * cols[None, :]
    for amplitude, part in zip(roughness, (2, 8, 32), strict=True):
        terrain = terrain + amplitude * gaussian_field(shape, min(shape) / part, rng)
    return np.asarray(terrain, dtype=np.float32)


def _cells(shape: tuple[int, int], count: int, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """Cells of random centres whose borders wander: the number of the nearest centre to a displaced pixel."""
    scale = min(shape)
    rows, cols = (np.arange(length, dtype=np.float32) for length in shape)
    down, right = (
        0.05 * scale * gaussian_field(shape, scale / 4, rng) + 0.01 * scale * gaussian_field(shape, scale / 24, rng)
        for _ in range(2)
    )
    down, right = down + rows[:, None], right + cols[None, :]
    nearest = np.full(shape, np.inf, np.float32)
    cells = np.zeros(shape, np.int16)
    for cell, (row, col) in enumerate(rng.uniform(0, 1, (count, 2)) * shape):
        distance = (down - np.float32(row)) ** 2 + (right - np.float32(col)) ** 2
        closer = distance < nearest
        cells[closer] = cell
        nearest[closer] = distance[closer]
    return cells


def _displaced(ids: npt.NDArray[np.int16], rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """The same polygons as an analyst draws them: borders off by some 300 m, land closed over."""
    shape = (ids.shape[0], ids.shape[1])
    down, right = (np.rint(4 * gaussian_field(shape, 30, rng)).astype(np.int32) for _ in range(2))
    rows = np.clip(np.arange(shape[0], dtype=np.int32)[:, None] + down, 0, shape[0] - 1)
    cols = np.clip(np.arange(shape[1], dtype=np.int32)[None, :] + right, 0, shape[1] - 1)
    moved = ids[rows, cols]
    return np.where(moved < 0, ids, moved)


def _uncharted(shape: tuple[int, int], share: float, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """A corner beyond the chart's border, and the ragged sides of the radar's swath."""
    # A cut-off corner with legs a and b covers a b / 2; legs up to 1 reach a half of the scene.
    leg = rng.uniform(max(0.35, 2 * share), 1)
    outside = corner(shape, (leg, 2 * share / leg), int(rng.integers(0, 4))) if share > 0 else np.zeros(shape, bool)
    for side in (1, -1):
        width = 0.008 * shape[1] * (1 + rng.uniform(0, 1)) + wandering_curve(
            shape[0], rng, amplitude_px=0.002 * shape[1], correlation_px=shape[0] / 3, slope=0.004 * rng.normal()
        )
        outside |= np.arange(shape[1])[None, ::side] < width[:, None]
    return outside


def _ranks(
    score: npt.NDArray[np.float64], area: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A number in 0-1 for each polygon, rising with its score: uniform within the area that it takes in that order.

    Read off against cumulated shares, it gives every class its share of the area in expectation.
    """
    order = np.argsort(score)
    upper = np.cumsum(area[order])
    ranks = np.empty(len(area))
    ranks[order] = (upper - area[order] * rng.uniform(0, 1, len(area))) / max(upper[-1], 1)
    return ranks


def _ice_polygons(
    quarter: int,
    area: npt.NDArray[np.int64],
    depth: npt.NDArray[np.float64],
    coastal: npt.NDArray[np.bool_],
    numbers: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> list[Polygon]:
    """Draw the classes of the polygons of ice by their areas and their depths behind the ice edge, all (polygon,)."""
    count = len(area)
    inside = _ranks(depth, area, rng)
    classes = [
        1 + np.searchsorted(np.cumsum(shares[quarter])[:-1], _ranks(inside + rng.normal(0, 0.25, count), area, rng))
        for shares in (_SIC, _SOD, _FLOE)
    ]
    open_stage, open_floe = (
        _ranks(rng.uniform(0, 1, count), area, rng) < share[quarter] for share in (_WITHOUT_STAGE, _WITHOUT_FLOE)
    )
    polygons = []
    for i in range(count):
        truth = (int(classes[0][i]), int(classes[1][i]), int(classes[2][i]))
        fast = bool(coastal[i] and truth[0] == 10 and open_floe[i])
        polygons.append(_ice_polygon(int(numbers[i]), truth, bool(open_stage[i]), bool(open_floe[i]), fast, rng))
    return polygons


def _ice_polygon(
    number: int, truth: tuple[int, int, int], open_stage: bool, open_floe: bool, fast: bool, rng: np.random.Generator
) -> Polygon:
    """Write the record of a polygon whose classes the 65 % rule gives as `truth`, or leaves open."""
    sic, sod, floe = truth
    stage, size = None if open_stage else sod, None if open_floe else floe
    tenths = _partials(sic, stage is None, rng)
    others = [other for other in range(1, 6) if other != sod]
    # Neighbouring stages lie together: new beside young ice, first-year beside old.
    likely = np.exp(-np.abs(np.array(others) - sod, dtype=float))
    second, third = rng.choice(others, 2, replace=False, p=likely / likely.sum())
    stages = [sod, int(second), int(third)][: len(tenths)]
    codes = [str(rng.choice(_STAGE_CODES[number - 1])) for number in stages]
    if stage is None and len(tenths) == 1:
        codes = [_UNKNOWN]
    if fast:
        forms = [_FAST] * len(tenths)
    elif size is None:
        forms = [_UNKNOWN] * len(tenths)
        if stage is None and len(tenths) > 1 and rng.uniform() < 0.6:
            # No floe size in the majority: as many different ones as there are stages.
            forms = [str(rng.choice(_FLOE_CODES[(floe - 1 + i) % 6])) for i in range(len(tenths))]
    else:
        forms = [str(rng.choice(_FLOE_CODES[floe - 1])) for _ in tenths]
    partials = [_UNFILLED] if len(tenths) == 1 else [f"{10 * tenth}" for tenth in tenths]
    fields = [f"{10 * sic}" if sic < 10 else ("92" if fast else "91")]
    for i in range(3):
        fields += [partials[i], codes[i], forms[i]] if i < len(tenths) else [_UNFILLED] * 3
    record = ";".join([str(number), *fields, _UNFILLED, _UNFILLED, f"{forms[0]}{_UNFILLED}", "I"])
    share = rng.uniform(0.97, 1) if sic == 10 else np.clip(sic / 10 + rng.normal(0, 0.03), 0.04, 0.97)
    return Polygon(
        record=record,
        sic=sic,
        sod=MASKED if stage is None else stage,
        floe=MASKED if size is None else size,
        concentration=float(share),
        stages=tuple((kind, tenth / sum(tenths)) for kind, tenth in zip(stages, tenths, strict=True)),
        floe_size=5 if fast else floe,
    )


def _partials(sic: int, mixed: bool, rng: np.random.Generator) -> list[int]:
    """Tenths of the stages of a polygon: one stage, a majority of 65 % or more, or none where `mixed`."""
    if mixed:
        if sic == 10 and rng.uniform() < 0.4:
            return [4, 3, 3]
        if sic < 2:
            return [sic]
        most = (sic + 1) // 2
        return [most, sic - most] if most / sic < 0.65 else [sic]
    most = int(np.ceil(0.65 * sic - 1e-9))
    if most >= sic or rng.uniform() < 0.5:
        return [sic]
    first = int(rng.integers(most, sic))
    return [first, sic - first]


def _water_polygon(number: int, rng: np.random.Generator) -> Polygon:
    record = ";".join([str(number), str(rng.choice(_WATER_CODES)), *[_UNFILLED] * 12, "W"])
    return Polygon(record, 0, 0, 0, 0.0, (), 0)
