"""The charts of a scene as its files have them, on the 80 m grid: what scores are made against.

Ready-to-train files and references hold charts. Raw files hold polygons with codes, which become charts by the rule
that made those.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geocore.errors import DataError, SceneError
from geocore.raster.declarations import stated_by_cf, valid_codes
from geocore.raster.grid import Window
from geocore.raster.netcdf import NetcdfFile, open_netcdf
from seaice_multitask.charts import CLASS_NAMES, MASKED, polygons_to_charts
from seaice_multitask.scenes import RAW_RATIO, plane_shape

_POLYGONS: Final = "polygon_icechart"
_FILL: Final = "chart_fill_value"
"""What the ready-to-train data call the attribute of their fill value."""
# Lines of 80 m for which polygons are looked up at once.
_RAW_ROWS: Final = 256

Chart = npt.NDArray[np.uint8]


def read_charts(path: Path, reference: Path | None = None, window: Window | None = None) -> dict[str, Chart]:
    """Charts of a scene at 80 m, as its file or its reference has them; those of raw files are made from polygons.

    Args:
        path: ready-to-train, raw or reference file.
        reference: file to take the charts from instead.
        window: 80 m pixels, fully inside; None: all.

    Returns:
        `SIC`, `SOD` and `FLOE`, each of shape (row, col), uint8, 255 where masked.

    Raises:
        SceneError: the file cannot be read.
        DataError: it holds no charts, a class that does not exist, or a polygon that cannot be understood.
    """
    path = reference or path
    with open_netcdf(path) as file:
        if _POLYGONS in file.variables:
            return _charts_of_polygons(file, window)
        missing = [name for name in CLASS_NAMES if name not in file.variables]
        if missing:
            raise DataError(
                f"{path}: has no chart {', '.join(missing)}: training and scoring need charts; give the folder of "
                "its *_prep_reference.nc (--references), or take the scene out"
            )
        return {name: _checked(file, name, window) for name in CLASS_NAMES}


def has_charts(path: Path) -> bool:
    """Whether a scene holds charts, or the polygons they are made from, itself.

    Raises:
        SceneError: the file cannot be read.
    """
    with open_netcdf(path) as file:
        return _POLYGONS in file.variables or any(name in file.variables for name in CLASS_NAMES)


def _charts_of_polygons(file: NetcdfFile, window: Window | None) -> dict[str, Chart]:
    """Charts of a raw file: the greatest class of two by two pixels, so that a mask wins."""
    lines, samples = plane_shape(file, _POLYGONS)
    window = window or Window(0, 0, lines // RAW_RATIO, samples // RAW_RATIO)
    codes = file.text("polygon_codes")
    charts = {name: np.empty(window.shape, np.uint8) for name in CLASS_NAMES}
    for row in range(0, window.height, _RAW_ROWS):
        rows = min(_RAW_ROWS, window.height - row)
        part = Window(window.row + row, window.col, rows, window.width).finer(RAW_RATIO)
        try:
            fine = polygons_to_charts(_polygon_ids(file, part), codes)
        except SceneError:
            raise
        except DataError as error:
            raise DataError(f"{file.path}: {error}") from error
        for name, chart in fine.items():
            pooled = np.maximum(chart[::RAW_RATIO], chart[1::RAW_RATIO])
            np.maximum(pooled[:, ::RAW_RATIO], pooled[:, 1::RAW_RATIO], out=charts[name][row : row + rows])
    return charts


def _polygon_ids(file: NetcdfFile, window: Window) -> npt.NDArray[np.floating[Any]]:
    """Ids of polygons, NaN where the file calls them missing; shape (row, col)."""
    values = file.read(_POLYGONS, window)
    missing = ~stated_by_cf(file.variable(_POLYGONS).attributes, values.dtype).valid(values)
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    values[missing] = np.nan
    return values


def _checked(file: NetcdfFile, name: str, window: Window | None) -> Chart:
    plane_shape(file, name)
    values, last = file.read(name, window), len(CLASS_NAMES[name]) - 1
    if values.dtype.kind not in "uif":
        raise DataError(f"{file.path}: chart {name} is {values.dtype}: must be whole numbers; get the file again")
    # What a chart calls missing is masked, unless it is a class: some programs call any number so.
    attributes = file.variable(name).attributes
    if _FILL in attributes:
        attributes = {"missing_value": attributes[_FILL], **attributes}
    try:
        codes, valid = valid_codes(values, attributes, classes=range(last + 1))
    except DataError as error:
        raise DataError(f"{file.path}: chart {name} {error}") from None
    # Below 0 is no class, and is missing only where the file says so.
    strange = (codes > last) & (codes != MASKED) | ((values < 0) & stated_by_cf(attributes, values.dtype).valid(values))
    if strange.any():
        raise DataError(
            f"{file.path}: chart {name} holds {values[strange][0]}: classes are 0 to {last}, and {MASKED} for none; "
            "correct the chart"
        )
    chart = codes.astype(np.uint8, copy=False)
    chart[~valid] = MASKED
    return chart
