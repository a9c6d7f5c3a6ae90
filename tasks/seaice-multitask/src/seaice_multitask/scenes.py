"""AI4Arctic files as scenes at 80 m: ready-to-train files as they are, raw files reduced by the rule that made those.

A scene has the layer `sar` on its 80 m grid and the layer `coarse` on the 2 km grid, 25 pixels to one. Both are
standardised (z-scores). What a file masks is invalid before anything is computed from it. Values outside a mask never
stand for something: the network, or whoever averages, has to look at the mask.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import SceneError
from geocore.raster.grid import ControlPoint, Grid, Window
from geocore.raster.netcdf import NetcdfFile, NetcdfReader, open_netcdf
from geocore.raster.rescale import physical
from geocore.raster.scene import BandReader, Layer, Patch, Scene, resolved_bands
from seaice_multitask.channels import COARSE_STANDARD, RADAR, SAR_STANDARD, bands_of
from seaice_multitask.gcp_grid import Lattice
from seaice_multitask.names import scene_id

SAR: Final = "sar"
"""Layer on the 80 m grid: backscatter, incidence angle and zone of the distance to land."""
COARSE: Final = "coarse"
"""Layer on the 2 km grid: AMSR2 and ERA5."""
COARSE_RATIO: Final = 25
"""80 m pixels to a pixel of the 2 km grid, along an axis."""

_FILL: Final = "variable_fill_value"
_INCIDENCE: Final = "sar_incidenceangle"
_MOST_POINTS: Final = 200
"""Control points along an axis; files have 21."""
RAW_RATIO: Final = 2
"""40 m pixels of a raw file to a pixel of 80 m, along an axis."""

Array = npt.NDArray[Any]


def open_scene(path: Path, channels: Collection[str] | None = None) -> Scene:
    """Open a scene; names and shapes are read, and the 441 control points, but no plane.

    Args:
        path: ready-to-train or raw file.
        channels: variables to have, besides the radar's two; names that no file has, such as `month`, do not count.
            None: all. A layer of which nothing is asked for is left out.

    Raises:
        SceneError: the file cannot be read, is no AI4Arctic scene, lacks a variable, or has grids that do not fit.
    """
    with open_netcdf(path) as file:
        raw = _is_raw(file)
        wanted = {*RADAR, *(_all() if channels is None else channels)}
        sar = [name for name in SAR_STANDARD if name in wanted]
        coarse = [name for name in COARSE_STANDARD if name in wanted]
        stored = [name for name in (*sar, *coarse) if not (raw and name == _INCIDENCE)]
        missing = [name for name in stored if name not in file.variables]
        if missing:
            raise SceneError(
                f"{path}: lacks {', '.join(missing)}: the channels asked for need them; get the file again, or "
                "leave these channels out"
            )
        grid = _grid(file, raw)
        with ExitStack() as opened:
            sources: dict[str, BandReader] = {SAR: _RawRadar(file, sar, grid) if raw else _ready_radar(file, sar, grid)}
            opened.callback(sources[SAR].close)
            if coarse:
                sources[COARSE] = _Coarse(path, coarse, grid, standardise=raw)
                opened.callback(sources[COARSE].close)
            scene = Scene(scene_id(path), grid, sources)
            opened.pop_all()
    return scene


def packed_variables(scene: Scene) -> list[str]:
    """Variables that the file of a scene holds packed into other numbers."""
    decided = (resolution for source in scene.readers.values() for resolution in resolved_bands(source))
    return [item.band.name for item in decided if item.band.scale != 1 or item.band.offset]


def _all() -> tuple[str, ...]:
    return (*SAR_STANDARD, *COARSE_STANDARD)


def _is_raw(file: NetcdfFile) -> bool:
    for raw, mark in ((False, "sar_grid2d_latitude"), (True, "sar_grid_latitude")):
        if mark in file.variables:
            return raw
    names = ", ".join(list(file.variables)[:6]) or "nothing"
    raise SceneError(
        f"{file.path}: is no AI4Arctic scene (it holds {names}): needs *_prep.nc or *_icechart_*.nc; take it out"
    )


def _grid(file: NetcdfFile, raw: bool) -> Grid:
    """The 80 m grid with its control points, whose file positions are indices of pixels, and so lie in their centre."""
    lines, samples = plane_shape(file, RADAR[0])
    spacing = file.attributes.get("pixel_spacing")
    if not raw and spacing is not None and np.ravel(spacing).tolist() not in ([80], ["80"]):
        raise SceneError(f"{file.path}: pixel_spacing {spacing}: ready-to-train scenes have 80 m; get the file again")
    if raw:
        # Pooling two by two leaves an odd last line or sample out.
        lines, samples = lines // RAW_RATIO, samples // RAW_RATIO
        latitude, longitude, rows, cols = (
            file.decoded(f"sar_grid_{name}").ravel() for name in ("latitude", "longitude", "line", "sample")
        )
        rows, cols = (rows + 0.5) / RAW_RATIO, (cols + 0.5) / RAW_RATIO
    else:
        latitude, longitude = (file.decoded(f"sar_grid2d_{name}") for name in ("latitude", "longitude"))
        if latitude.ndim != 2:
            raise SceneError(f"{file.path}: sar_grid2d_latitude must have two axes; get the file again")
        down, across = (np.linspace(0, n - 1, m) + 0.5 for n, m in zip((lines, samples), latitude.shape, strict=True))
        rows, cols = (position.ravel() for position in np.meshgrid(down, across, indexing="ij"))
    points = [array.ravel() for array in (rows, cols, longitude, latitude)]
    side = math.isqrt(points[0].size)
    if len({array.size for array in points}) != 1 or side * side != points[0].size or not 2 <= side <= _MOST_POINTS:
        raise SceneError(f"{file.path}: its control points are no square grid, as 21 x 21 are; get the file again")
    if not all(np.isfinite(array).all() for array in points):
        raise SceneError(f"{file.path}: a control point is not a number; get the file again")
    down, across = points[0].reshape(side, side).mean(axis=1), points[1].reshape(side, side).mean(axis=0)
    if not ((np.diff(down) > 0).all() and (np.diff(across) > 0).all()):
        raise SceneError(
            f"{file.path}: its control points do not follow each other line by line and sample by sample; get the file "
            "again"
        )
    points[2] = _going_on(points[2].reshape(side, side)).ravel()
    gcps = tuple(ControlPoint(*(float(value) for value in values)) for values in zip(*points, strict=True))
    return Grid(lines, samples, crs="EPSG:4326", gcps=gcps)


def _going_on(longitude: Array) -> Array:
    """Longitudes of control points, which go on beyond 180 degrees in a scene across the antimeridian.

    What draws a map by them in degrees, a GIS among them, would else draw it around the Earth. Around a pole there is
    no such way, and they stay as they are.
    """
    unwrapped = longitude
    for axis in (0, 1):
        unwrapped = np.unwrap(unwrapped, period=360, axis=axis)
    steps = [np.abs(np.diff(unwrapped, axis=axis)).max() for axis in (0, 1)]
    return unwrapped if max(steps) < 180 else longitude


def plane_shape(file: NetcdfFile, name: str) -> tuple[int, int]:
    """Lines and samples of a variable of the radar's grid.

    Raises:
        SceneError: it is missing, or too small for a pixel of the 2 km grid.
    """
    shape = file.variable(name).shape
    if len(shape) != 2 or min(shape) < COARSE_RATIO:
        raise SceneError(f"{file.path}: {name} is {shape}: must be lines x samples; get the file again")
    return shape[0], shape[1]


def _ready_radar(file: NetcdfFile, names: Sequence[str], grid: Grid) -> BandReader:
    """The radar's planes of a ready-to-train file; the attribute for its fill value is its own, not netCDF's.

    A file that was saved again may hold them packed into whole numbers.
    """
    fills: dict[str, float] = {}
    for name in names:
        if (stated := file.variable(name).attributes.get(_FILL)) is not None:
            try:
                fills[name] = float(np.ravel(stated).item())
            except (TypeError, ValueError) as error:
                raise SceneError(
                    f"{file.path}: {_FILL} of {name!r} is {str(stated)[:40]!r}: must be a number; get the file again"
                ) from error
    return _ReadyRadar(physical(NetcdfReader(file.path, names, layer=SAR, nodata=fills), grid))


class _ReadyRadar:
    """The radar's planes of a ready-to-train file, under the units that its z-scores stand for."""

    def __init__(self, source: BandReader) -> None:
        self.layer = Layer(SAR, bands_of(source.layer.bands.names), "float32")
        self.resolved = resolved_bands(source)
        self.shape = source.shape
        self._source = source

    def read(self, window: Window) -> Patch:
        patch = self._source.read(window)
        return Patch(patch.values.astype(np.float32, copy=False), patch.valid)

    def close(self) -> None:
        self._source.close()


class _Coarse:
    """Variables of the 2 km grid, whose file leaves the last, incomplete line and sample out: they repeat the last."""

    def __init__(self, path: Path, names: Sequence[str], grid: Grid, *, standardise: bool) -> None:
        self._source = physical(NetcdfReader(path, names, layer=COARSE, ratio=COARSE_RATIO), grid)
        self.layer = Layer(COARSE, bands_of(names), "float32", COARSE_RATIO)
        self.resolved = resolved_bands(self._source)
        self.shape = grid.coarser(COARSE_RATIO).shape
        self._standardise = standardise
        whole = (grid.height // COARSE_RATIO, grid.width // COARSE_RATIO)
        given = self._source.shape
        if any(n not in (low, high) for n, low, high in zip(given, whole, self.shape, strict=True)):
            self._source.close()
            raise SceneError(
                f"{path}: its 2 km grid has {given[0]} x {given[1]} pixels, but {grid.height} x {grid.width} pixels "
                f"of 80 m need {whole[0]} x {whole[1]}; get the file again"
            )

    def read(self, window: Window) -> Patch:
        rows, cols = self._source.shape
        top, left = min(window.row, rows - 1), min(window.col, cols - 1)
        patch = self._source.read(
            Window(top, left, min(window.row_stop, rows) - top, min(window.col_stop, cols) - left)
        )
        missing = [(0, length - given) for length, given in zip(window.shape, patch.values.shape[-2:], strict=True)]
        values, valid = (np.pad(array, ((0, 0), *missing), mode="edge") for array in (patch.values, patch.valid))
        if self._standardise:
            values = _standardised(values, self.layer.bands.names)
        return Patch(values.astype(np.float32, copy=False), valid)

    def close(self) -> None:
        self._source.close()


class _RawRadar:
    """The radar's planes of a raw file: means of the valid ones of two by two pixels, standardised.

    The incidence angle is bilinear between the control points, and masked like the backscatter.
    """

    def __init__(self, file: NetcdfFile, names: Sequence[str], grid: Grid) -> None:
        self._stored = [name for name in names if name != _INCIDENCE]
        self._source = physical(NetcdfReader(file.path, self._stored, layer=SAR), grid)
        self.layer = Layer(SAR, bands_of(names), "float32")
        self.resolved = resolved_bands(self._source)
        self.shape = grid.shape
        self._lattice: Lattice | None = None
        if _INCIDENCE in names:
            side = math.isqrt(len(grid.gcps))
            lines, samples, self._angles = (
                file.decoded(f"sar_grid_{name}").reshape(side, side) for name in ("line", "sample", "incidenceangle")
            )
            self._lattice = Lattice(lines.mean(axis=1), samples.mean(axis=0))

    def read(self, window: Window) -> Patch:
        fine = self._source.read(window.finer(RAW_RATIO))
        filled = np.where(fine.valid, fine.values, 0)
        every = [slice(start, None, RAW_RATIO) for start in range(RAW_RATIO)]
        count = np.add.reduce([fine.valid[:, down, across].astype(np.uint8) for down in every for across in every])
        total = np.add.reduce([filled[:, down, across] for down in every for across in every])
        stored = _standardised(total / np.maximum(count, 1), self._stored)
        if self._lattice is None:
            return Patch(stored, count > 0)
        place = self.layer.bands.names.index(_INCIDENCE)
        lines, samples = (
            np.arange(RAW_RATIO * start, RAW_RATIO * stop, dtype=np.float64)
            for start, stop in ((window.row, window.row_stop), (window.col, window.col_stop))
        )
        angles = self._lattice.at(self._angles, lines, samples)
        means = angles.reshape(window.height, RAW_RATIO, window.width, RAW_RATIO).mean(axis=(1, 3))
        angle = _standardised(means[np.newaxis], [_INCIDENCE])
        seen = count[self._stored.index(RADAR[0])] > 0
        return Patch(np.insert(stored, place, angle[0], axis=0), np.insert(count > 0, place, seen, axis=0))

    def close(self) -> None:
        self._source.close()


def _standardised(values: Array, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """z-scores of physical values, shape (band, row, col)."""
    bands = bands_of(names)
    mean, std = (
        np.array(numbers)[:, None, None] for numbers in zip(*((b.offset, b.scale) for b in bands), strict=True)
    )
    scores: npt.NDArray[np.float32] = ((values - mean) / std).astype(np.float32)
    return scores
