"""The built-in sample: synthetic Sentinel-1 scenes with ice charts, in the two file formats of AI4Arctic.

A scene, drawn from (seed, number), is made on the 80 m grid and seen by the radar at 40 m, strip by strip; the
ready-to-train form is reduced from those 40 m pixels by the published rule (means of two by two, charts by their
greatest class, z-scores), so that the raw form of a scene, reduced by the same rule, gives the same values. What makes
the scenes hard, and by which numbers, is said in `sensors`; what lies in them, in `ice`, `plans`.

Two things are simpler than in real files. A scene spans the incidence angles of a whole swath whatever its width. And
radar pixels that the ready-to-train form masks (land, beyond the chart, beyond the swath) are NaN in the raw form too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geocore.terminal import progress
from seaice_multitask.sample import file_format, ice, plans, scene, sensors
from seaice_multitask.sample.file_format import BRIGHTNESS, CHARTS, WEATHER, File, Variable, standardised
from seaice_multitask.sample.ice import HEADER, MASKED
from seaice_multitask.sample.plans import GCPS, control_pixels
from seaice_multitask.sample.scene import SampleScene, draw_scene, fine, seen_by_radar
from seaice_multitask.sample.sensors import RATIO, Float32, Float64

_MODULES = (file_format, ice, plans, scene, sensors)
CODE = tuple(Path(str(path)) for path in (__file__, *(module.__file__ for module in _MODULES)))
"""Files of the code that draws the sample: their content decides what it is."""


def write_sample(
    folder: Path, *, seed: int = 0, scenes: int = 36, shape: tuple[int, int] = (1000, 1050), test_scenes: int = 0
) -> None:
    """Write ready-to-train scenes, `<time>_<service>_prep.nc`.

    Args:
        folder: Where to write; made when missing.
        seed: Same seed, same content. A scene does not depend on how many others there are.
        scenes: Number of scenes with charts.
        shape: (row, col) of each, 80 m pixels; at least 100 by 100.
        test_scenes: Number of further scenes without charts, whose charts lie beside them in `..._prep_reference.nc`.

    Raises:
        ValueError: The shape is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, test in progress(_numbers(scenes, test_scenes), "drawing scenes"):
        _write_ready(folder, draw_scene(number, seed=seed, shape=shape, test=test), test)


def write_raw_sample(
    folder: Path, *, seed: int = 0, scenes: int = 36, shape: tuple[int, int] = (1000, 1050), test_scenes: int = 0
) -> None:
    """Write the raw form of the same scenes, `S1?_EW_GRDM_1SDH_..._icechart_<service>_<chart>.nc`; same arguments.

    `shape` still counts pixels of 80 m: the files have twice as many along each axis. The raw form of a test scene ends
    in `_testdata.nc` and holds no chart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, test in progress(_numbers(scenes, test_scenes), "drawing scenes"):
        _write_raw(folder, draw_scene(number, seed=seed, shape=shape, test=test), test)


def _numbers(scenes: int, test_scenes: int) -> list[tuple[int, bool]]:
    return [(number, False) for number in range(scenes)] + [(number, True) for number in range(test_scenes)]


def _quarters(ids: npt.NDArray[np.int16]) -> list[npt.NDArray[np.int16]]:
    """The polygons of the four 40 m pixels (upper left, right, lower left, right) of every 80 m pixel.

    Borders at 40 m lie half an 80 m pixel off those at 80 m, so that they cross the blocks of two by two.
    """
    padded = np.pad(ids, ((0, 1), (0, 1)), mode="edge")
    return [padded[i : i + ids.shape[0], j : j + ids.shape[1]] for i in (0, 1) for j in (0, 1)]


def _charts(scene: SampleScene) -> dict[str, npt.NDArray[np.uint8]]:
    """SIC, SOD and FLOE at 80 m: the greatest class of the four pixels, 255 above all."""
    charts = {}
    for name in CHARTS:
        # Index -1, outside all polygons, reads the last entry.
        classes = np.array([*(getattr(p, name.lower()) for p in scene.ice.polygons), MASKED], np.uint8)
        charts[name] = np.max([classes[ids] for ids in _quarters(scene.ice.charted)], axis=0)
    return charts


def _sizes(scene: SampleScene, zoom: int) -> dict[str, int]:
    rows, cols = scene.outside.shape
    return {
        "sar_lines": zoom * rows,
        "sar_samples": zoom * cols,
        "2km_grid_lines": rows // RATIO,
        "2km_grid_samples": cols // RATIO,
        "sar_sample_2dgrid_points": GCPS,
        "sar_line_2dgrid_points": GCPS,
        "sar_grid_points": GCPS * GCPS,
        "polygon_codes": len(scene.ice.polygons) + 1,
    }


def _write_ready(folder: Path, scene: SampleScene, test: bool) -> None:
    """Write the ready-to-train form, and for a test scene its reference."""
    name = f"{scene.plan.name}_prep.nc"
    about = {
        "scene_id": name,
        "original_id": f"{scene.plan.raw_stem}.nc",
        "ice_service": scene.plan.service,
        "flip": np.int64(scene.plan.flip),
        "pixel_spacing": np.int64(80),
    }
    charts, sizes = _charts(scene), _sizes(scene, 1)
    variables = file_format.ready_variables(not test, scene.plan.raw_stem[:67])
    with File(folder / name, variables, sizes) as file:
        file.describe(about)
        if not test:
            _put_all(file, charts)
        row = sensors.incidence_row(scene.incidence, sizes["sar_samples"])
        extremes = _Extremes()
        for first, *bands in seen_by_radar(scene):
            for band, values in zip(("primary", "secondary"), bands, strict=True):
                blocks = values.reshape(len(values) // 2, 2, -1, 2)
                file.put(f"nersc_sar_{band}", standardised(f"nersc_sar_{band}", blocks.mean(axis=(1, 3))), first)
                extremes.add(f"nersc_sar_{band}", values)
            outside = scene.outside[first : first + len(bands[0]) // 2]
            angles = np.where(outside, np.nan, row)
            file.put("sar_incidenceangle", standardised("sar_incidenceangle", angles), first)
        file.put("distance_map", standardised("distance_map", scene.zones))
        _put_all(file, dict(zip(("sar_grid2d_latitude", "sar_grid2d_longitude"), scene.points, strict=True)))
        for key, coarse in scene.coarse.items():
            file.put(key, standardised(key, _stored(key, coarse)))
        extremes.describe(file)
        _describe_coarse(file, scene)
    if test:
        with File(folder / f"{scene.plan.name}_prep_reference.nc", file_format.chart_variables(), sizes) as file:
            file.describe(about)
            _put_all(file, charts)


def _write_raw(folder: Path, scene: SampleScene, test: bool) -> None:
    """Write the raw form."""
    chart_id = scene.plan.raw_stem.split(f"_icechart_{scene.plan.service}_")[1]
    variables: dict[str, Variable] = file_format.raw_variables(not test, scene.plan.raw_stem[:67])
    records = [HEADER, *(polygon.record for polygon in scene.ice.polygons)]
    codes = file_format.text_variable(records, {"icechart_id": chart_id}, "polygon_codes")
    if not test:
        variables["polygon_codes"] = codes[0]
    with File(folder / f"{scene.plan.raw_stem}{'_testdata' if test else ''}.nc", variables, _sizes(scene, 2)) as file:
        extremes = _Extremes()
        for first, *bands in seen_by_radar(scene):
            for band, values in zip(("primary", "secondary"), bands, strict=True):
                file.put(f"nersc_sar_{band}", values, 2 * first)
                extremes.add(f"nersc_sar_{band}", values)
        if not test:
            file.put("polygon_codes", codes[1])
            numbers = np.array([*(int(record.split(";")[0]) for record in records[1:]), np.nan], np.float32)
            polygons = np.empty((2 * len(scene.outside), 2 * scene.outside.shape[1]), np.float32)
            for place, ids in enumerate(_quarters(scene.ice.charted)):
                polygons[place // 2 :: 2, place % 2 :: 2] = numbers[ids]
            file.put("polygon_icechart", polygons)
        file.put("distance_map", fine(scene.zones))
        lines, samples = (control_pixels(length) for length in scene.outside.shape)
        vectors: dict[str, npt.NDArray[Any]] = {
            "line": np.repeat(lines, GCPS),
            "sample": np.tile(samples, GCPS),
            "latitude": scene.points[0].ravel(),
            "longitude": scene.points[1].ravel(),
            "incidenceangle": scene.incidence.ravel(),
            "height": np.zeros(GCPS * GCPS),
        }
        _put_all(file, {f"sar_grid_{key}": values for key, values in vectors.items()})
        _put_all(file, {key: _stored(key, values) for key, values in scene.coarse.items()})
        unseen = np.isnan(scene.coarse[BRIGHTNESS[0]])
        _put_all(file, {"amsr2_swath_map": np.where(unseen, np.nan, 0), "swath_segmentation": ~unseen})
        extremes.describe(file)
        _describe_coarse(file, scene)


def _put_all(file: File, arrays: dict[str, npt.NDArray[Any]]) -> None:
    for name, values in arrays.items():
        file.put(name, values)


def _stored(name: str, values: Float64) -> npt.NDArray[np.floating]:
    """Values of the 2 km grid in the precision of the raw form."""
    return values if name in WEATHER else values.astype(np.float32)


def _describe_coarse(file: File, scene: SampleScene) -> None:
    for name in BRIGHTNESS:
        extremes = {"min": np.float32(np.nanmin(scene.coarse[name])), "max": np.float32(np.nanmax(scene.coarse[name]))}
        file.describe({"AMSR2_swaths": "1", "AMSR2_S1_delays": np.float64(scene.delay_s), **extremes}, name)


class _Extremes:
    """Least and greatest value of variables that are written in strips."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, float]] = {}

    def add(self, name: str, values: Float32) -> None:
        low, high = self._values.get(name, (np.inf, -np.inf))
        with np.errstate(all="ignore"):
            self._values[name] = (
                float(np.fmin.reduce(values, None, initial=low)),
                float(np.fmax.reduce(values, None, initial=high)),
            )

    def describe(self, file: File) -> None:
        for name, (low, high) in self._values.items():
            file.describe({"min": np.float32(low), "max": np.float32(high)}, name)
