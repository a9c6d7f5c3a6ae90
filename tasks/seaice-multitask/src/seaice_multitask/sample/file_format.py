"""The two file formats of AI4Arctic that the sample is written in: variables, dimensions, types and attributes.

Ready-to-train files hold 29 variables on an 80 m grid, standardised by the published mean and standard deviation; raw
files hold 32 on a 40 m grid in their own units. Arrays arrive here in physical units and leave as the files hold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from geocore.raster.netcdf import new_netcdf
from seaice_multitask.sample.sensors import FREQUENCIES

STANDARD: Mapping[str, tuple[float, float]] = {
    "nersc_sar_primary": (-14.5082551552228, 5.6597459193818676),
    "nersc_sar_secondary": (-24.701205147144236, 4.746759305258515),
    "sar_incidenceangle": (33.99801788456536, 8.322267212079046),
    "distance_map": (23.627669500714102, 14.99018630794473),
    "btemp_6_9h": (148.8469796145295, 61.64846862537627),
    "btemp_6_9v": (203.51944545494723, 38.66643206594044),
    "btemp_7_3h": (149.89896504342093, 61.67544463178433),
    "btemp_7_3v": (204.20534015176978, 38.66622047733582),
    "btemp_10_7h": (153.89169240998876, 60.875249835766844),
    "btemp_10_7v": (208.90408657387925, 36.24495931413019),
    "btemp_18_7h": (165.6802621430742, 52.617873035841676),
    "btemp_18_7v": (218.5868342822609, 28.060389755926906),
    "btemp_23_8h": (182.20893715257156, 42.88716195392868),
    "btemp_23_8v": (226.39646658494573, 22.117582324875166),
    "btemp_36_5h": (185.19472368457747, 38.6444384529263),
    "btemp_36_5v": (228.20590185866286, 17.652645265307164),
    "btemp_89_0h": (212.53745842027274, 22.584971395547413),
    "btemp_89_0v": (241.25747874607808, 16.31096214404262),
    "u10m_rotated": (0.6747986162545088, 4.749646758314658),
    "v10m_rotated": (0.6075565949388854, 5.196104947581429),
    "t2m": (268.6265490976146, 9.469170769562306),
    "skt": (268.91015184833424, 10.305256438427369),
    "tcwv": (7.747741728107202, 5.268575011079001),
    "tclw": (0.041245511364735726, 0.07112806794202754),
}
"""Mean and standard deviation of the challenge's training scenes, in the units of the raw files."""

SAR_GRID = ("sar_lines", "sar_samples")
COARSE_GRID = ("2km_grid_lines", "2km_grid_samples")
POINT_GRID = ("sar_sample_2dgrid_points", "sar_line_2dgrid_points")
POINTS = ("sar_grid_points",)
BRIGHTNESS = tuple(f"btemp_{frequency}{polarisation}" for frequency in FREQUENCIES for polarisation in "hv")
WEATHER = {
    "u10m_rotated": ("m/s", "10 m wind along the image's columns (ERA5, turned to the flight direction)"),
    "v10m_rotated": ("m/s", "10 m wind along the image's lines (ERA5, turned to the flight direction)"),
    "t2m": ("K", "2 m temperature (ERA5)"),
    "skt": ("K", "Skin temperature (ERA5)"),
    "tcwv": ("kg/m2", "Total column water vapour (ERA5)"),
    "tclw": ("kg/m2", "Total column cloud liquid water (ERA5)"),
}
CHARTS = {"SIC": "Sea ice concentration", "SOD": "Stage of development", "FLOE": "Floe size"}

ZONE_EDGES_KM = np.concatenate(
    [[0.5], np.arange(1, 21), np.arange(25, 51, 5), np.arange(60, 101, 10), np.arange(125, 301, 25)]
)
"""Upper ends of the distance zones 1-40, km; zone 0 is land and zone 41 lies beyond."""

_CHUNK = 256
"""Edge of the compressed blocks of large variables, pixels."""


@dataclass(frozen=True, slots=True)
class Variable:
    """How a variable is stored."""

    dimensions: tuple[str, ...]
    dtype: Any
    """numpy's, or h5py's string type."""
    attributes: dict[str, Any]


def ready_variables(charts: bool, original: str) -> dict[str, Variable]:
    """The variables of a ready-to-train file.

    Args:
        charts: Whether it holds charts; test scenes do not.
        original: Name of the raw file's radar product.
    """
    variables = chart_variables() if charts else {}
    variables |= _radar_variables(SAR_GRID, original)
    for name in ("nersc_sar_primary", "nersc_sar_secondary"):
        variables[name].attributes["variable_fill_value"] = np.int64(0)
    variables["sar_incidenceangle"] = Variable(
        SAR_GRID, np.float32, {"description": "Incidence angle, degrees", "variable_fill_value": np.int64(0)}
    )
    variables["distance_map"] = _distance_variable()
    for name in ("latitude", "longitude"):
        text = {"description": f"{name.capitalize()} of the ground control points, degrees"}
        variables[f"sar_grid2d_{name}"] = Variable(POINT_GRID, np.float64, text)
    return variables | _coarse_variables(np.float32)


def chart_variables() -> dict[str, Variable]:
    """The variables of a reference file: the three charts."""
    return {
        name: Variable(SAR_GRID, np.uint8, {"polygon": title, "chart_fill_value": np.int64(255)})
        for name, title in CHARTS.items()
    }


def raw_variables(chart: bool, original: str) -> dict[str, Variable]:
    """The variables of a raw file, `polygon_codes` not counted.

    Args:
        chart: Whether it holds the polygons; test scenes do not.
        original: Name of the raw file's radar product.
    """
    variables = _radar_variables(SAR_GRID, original)
    if chart:
        text = {"long_name": "Number of the ice chart's polygon, as in polygon_codes"}
        variables["polygon_icechart"] = Variable(SAR_GRID, np.float32, text)
    variables["distance_map"] = _distance_variable()
    for name, dtype, meaning in (
        ("line", np.int32, "Line of a ground control point, 40 m pixels"),
        ("sample", np.int32, "Sample of a ground control point, 40 m pixels"),
        ("latitude", np.float64, "Latitude of a ground control point, degrees"),
        ("longitude", np.float64, "Longitude of a ground control point, degrees"),
        ("incidenceangle", np.float64, "Incidence angle at a ground control point, degrees"),
        ("height", np.float64, "Height of a ground control point, m"),
    ):
        variables[f"sar_grid_{name}"] = Variable(POINTS, dtype, {"description": meaning})
    variables |= _coarse_variables(np.float64)
    variables["amsr2_swath_map"] = Variable(COARSE_GRID, np.float32, {"long_name": "Number of the AMSR2 swath"})
    variables["swath_segmentation"] = Variable(COARSE_GRID, np.uint8, {"long_name": "Parts of one AMSR2 swath"})
    return variables


def _radar_variables(grid: tuple[str, ...], original: str) -> dict[str, Variable]:
    return {
        f"nersc_sar_{name}": Variable(
            grid,
            np.float32,
            {
                "polarisation": polarisation,
                "upstream_id": original,
                "description": f"Noise-corrected sigma0 in {polarisation}, dB",
            },
        )
        for name, polarisation in (("primary", "HH"), ("secondary", "HV"))
    }


def _distance_variable() -> Variable:
    lower = [0.0, *ZONE_EDGES_KM[:-1].tolist()]
    zones = [f"{zone}; {a:g} -> {b:g}" for zone, (a, b) in enumerate(zip(lower, ZONE_EDGES_KM, strict=True), start=1)]
    text = "\n".join(["dist_id; dist_range_km", "0; land", *zones, f"{len(zones) + 1}; > {ZONE_EDGES_KM[-1]:g}"])
    attributes = {"long_name": "Zone of the distance to land", "zonal_range_description": text}
    return Variable(SAR_GRID, np.float32, attributes)


def _coarse_variables(weather: Any) -> dict[str, Variable]:
    variables = {}
    for name in BRIGHTNESS:
        description = (
            f"Brightness temperature at {name[6:-1].replace('_', '.')} GHz, polarisation {name[-1].upper()}, K"
        )
        variables[name] = Variable(COARSE_GRID, np.float32, {"description": description})
    for name, (units, title) in WEATHER.items():
        variables[name] = Variable(COARSE_GRID, weather, {"units": units, "long_name": title})
    return variables


def standardised(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Values of a variable as ready-to-train files hold them: z-scores, float32, and 0 for NaN.

    Args:
        name: Of the variable.
        values: Any shape, in the unit of the raw files.
    """
    mean, deviation = STANDARD[name]
    return np.nan_to_num((values - np.float64(mean)) / deviation, nan=0.0).astype(np.float32)


class File:
    """A netCDF-4 file under construction; a context manager.

    Args:
        path: Where; replaced when it exists.
        variables: What it holds; the values follow by `put`.
        sizes: Length of every dimension.
    """

    def __init__(self, path: Path, variables: Mapping[str, Variable], sizes: Mapping[str, int]) -> None:
        self._writing = new_netcdf(path)
        self._file = self._writing.__enter__()
        self._file.dimensions = {name: sizes[name] for v in variables.values() for name in v.dimensions}
        for name, variable in variables.items():
            lengths = [sizes[dimension] for dimension in variable.dimensions]
            packing: dict[str, Any] = {}
            if np.prod(lengths) > _CHUNK:
                packing = {
                    "chunks": tuple(min(_CHUNK, length) for length in lengths),
                    "compression": "gzip",
                    "compression_opts": 1,
                    "shuffle": True,
                }
            made = self._file.create_variable(name, variable.dimensions, variable.dtype, **packing)
            for key, value in variable.attributes.items():
                made.attrs[key] = value

    def __enter__(self) -> File:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writing.__exit__(kind, error, trace)

    def put(self, name: str, values: npt.NDArray[Any], first: int = 0) -> None:
        """Write a variable, or the lines of it that begin at `first`; values are of its type already or fit it."""
        self._file.variables[name][first : first + len(values)] = values

    def describe(self, attributes: Mapping[str, Any], name: str | None = None) -> None:
        """Set attributes of a variable, or of the file."""
        target = self._file if name is None else self._file.variables[name]
        for key, value in attributes.items():
            target.attrs[key] = value


def text_variable(
    values: Iterable[str], attributes: dict[str, Any], dimension: str
) -> tuple[Variable, npt.NDArray[Any]]:
    """A one-dimensional variable of strings, and its values."""
    import h5py

    return Variable((dimension,), h5py.string_dtype(), attributes), np.array(list(values), dtype=object)
