"""A scene of the sample: what `plans`, `ice` and `sensors` draw, put together, and its speckle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from geocore_synthetic.noise import speckle
from seaice_multitask.sample import sensors
from seaice_multitask.sample.file_format import ZONE_EDGES_KM
from seaice_multitask.sample.ice import Ice, draw_ice
from seaice_multitask.sample.plans import ScenePlan, control_points, draw_plan
from seaice_multitask.sample.sensors import Float32, Float64, Radar

_PIXEL_KM = 0.08
_LEAST_PX = 100
_STRIP = 256
"""Lines of 80 m that are seen at once; a multiple of the files' blocks."""
_SPECKLE = 0.58
"""Of a 40 m pixel, relative: the mean of four has the 1.3 dB of the 10.7 looks of extra wide swath mode."""
_LEAST_DB = -45.0
_GAP_SHARE = 0.3
"""Share of scenes that the radiometer did not see whole."""


@dataclass(frozen=True, slots=True)
class SampleScene:
    """One synthetic scene before speckle."""

    plan: ScenePlan
    ice: Ice
    """Chart and ice on the 80 m grid."""
    outside: npt.NDArray[np.bool_]
    """Shape (row, col), bool, 80 m: no radar here."""
    zones: npt.NDArray[np.uint8]
    """Shape (row, col), uint8, 80 m: zone of the distance to land, 0-41."""
    incidence: Float64
    """Shape (21, 21), degrees: incidence angle at the ground control points."""
    points: tuple[Float64, Float64]
    """Latitude and longitude of the ground control points, each of shape (21, 21), degrees."""
    radar: Radar
    coarse: dict[str, Float64]
    """Brightness temperatures and weather on the 2 km grid, in the units of the raw files; NaN where there is none."""
    delay_s: int
    """Seconds from the radar's to the radiometer's overpass."""
    seeds: tuple[int, ...]
    """Where the speckle comes from."""


def draw_scene(number: int, *, seed: int, shape: tuple[int, int], test: bool = False) -> SampleScene:
    """Draw a scene.

    Args:
        number: Of the scene, 0, 1, ...; test scenes count for themselves.
        seed: Of the sample.
        shape: (row, col), 80 m pixels.
        test: Whether it is a test scene.

    Raises:
        ValueError: The shape is too small.
    """
    if min(shape) < _LEAST_PX:
        raise ValueError(f"shape {shape}: at least {_LEAST_PX} x {_LEAST_PX} pixels")
    seeds = (seed, int(test), number)
    # One stream for each part, so that a change to one leaves the others as they are.
    rngs = [np.random.default_rng([*seeds, part]) for part in range(7)]
    # Test scenes come from the other end of the plans, so that a few of them differ from the few first scenes.
    plan = draw_plan(number if not test else 5 + 7 * number, rngs[0])
    ice = draw_ice(plan, shape, rngs[1])
    surface = sensors.draw_surface(ice, rngs[2])
    stage, fraction = surface
    composition = [sensors.coarse_means((1 - fraction) * ~ice.land)]
    composition += [sensors.coarse_means(fraction * (stage == kind)) for kind in range(1, 6)]
    composition += [sensors.coarse_means(ice.land)]
    weather = sensors.draw_weather(plan, composition[0].astype(np.float32), rngs[3])
    incidence = sensors.incidence_points(shape)
    row = sensors.incidence_row(incidence, shape[1])
    radar = sensors.draw_radar(plan, ice, surface, row, weather, rngs[4])
    coarse = sensors.draw_brightness(plan, np.stack(composition), weather, rngs[5])
    coarse = _with_gap(coarse, rngs[6]) | weather
    return SampleScene(
        plan=plan,
        ice=ice,
        outside=ice.charted < 0,
        zones=_distance_zones(ice.land, rngs[6]),
        incidence=incidence,
        points=control_points(plan, shape),
        radar=radar,
        coarse=coarse,
        delay_s=int(rngs[6].integers(-7200, 7200)),
        seeds=seeds,
    )


def _with_gap(coarse: dict[str, Float64], rng: np.random.Generator) -> dict[str, Float64]:
    """Leave out what lies beyond the radiometer's swath, in some scenes."""
    cut = rng.uniform(0.05, 0.15)
    if rng.uniform() < _GAP_SHARE:
        cols = next(iter(coarse.values())).shape[1]
        for values in coarse.values():
            values[:, : max(1, round(cut * cols))] = np.nan
    return coarse


def _distance_zones(land: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Zones of the distance to the land in the scene, or, where there is none, to a coast beyond it."""
    if land.any():
        distance = ndimage.distance_transform_edt(~land).astype(np.float32) * _PIXEL_KM
    else:
        slope = rng.uniform(-0.7, 0.7, 2) * _PIXEL_KM
        rows, cols = (np.arange(length, dtype=np.float32) for length in land.shape)
        distance = rng.uniform(200, 320) + slope[0] * rows[:, None] + slope[1] * cols[None, :]
    zones = 1 + np.searchsorted(ZONE_EDGES_KM, distance.ravel()).reshape(land.shape)
    return np.where(land, 0, zones).astype(np.uint8)


def seen_by_radar(scene: SampleScene) -> Iterator[tuple[int, Float32, Float32]]:
    """What the radar measures, from top to bottom.

    Yields:
        (first, hh, hv): first line of the strip, 80 m pixels, and backscatter at 40 m, each of shape
        (2 rows, 2 cols), float32, dB, NaN where there is none. Strips leave no trace in the values.
    """
    rngs = [np.random.default_rng([*scene.seeds, band]) for band in (10, 11)]
    rows, cols = scene.outside.shape
    for first in range(0, rows, _STRIP):
        part = slice(first, min(first + _STRIP, rows))
        size = (2 * (part.stop - first), 2 * cols)
        outside = fine(scene.outside[part])
        hh = fine(scene.radar.hh_db[part]) + 10 * np.log10(speckle(size, _SPECKLE, rngs[0]))
        # The speckle is that of signal and noise together; the denoising takes off the mean of the noise alone.
        noise = scene.radar.noise[part]
        power = fine(scene.radar.hv[part] + noise) * speckle(size, _SPECKLE, rngs[1])
        power += fine(scene.radar.residue[part] - noise)
        hv = 10 * np.log10(np.maximum(power, 10 ** (_LEAST_DB / 10), dtype=np.float32))
        hh[outside], hv[outside] = np.nan, np.nan
        yield first, hh.astype(np.float32), hv.astype(np.float32)


def fine(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """80 m pixels as four of 40 m each."""
    return np.repeat(np.repeat(values, 2, axis=0), 2, axis=1)
