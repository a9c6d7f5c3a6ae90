"""Grid: the pixels of a raster and where they lie on the Earth, if that is known; windows cut from it.

Pixel coordinates are (row, col) from the upper left corner of the upper left pixel; pixel (0, 0) covers 0..1 in both.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from affine import Affine

from geocore.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyproj
    import rasterio.windows
    from numpy.typing import ArrayLike, NDArray

LengthUnit = Literal["m", "degree", "cm", "px"]
Bounds = tuple[float, float, float, float]
"""(left, bottom, right, top) in units of a CRS, as rasterio has them."""

_DECIMALS_PX: Final = 1e-6
"""Pixels by which bounds may miss an edge between two pixels and still mean it: coordinates have few decimals."""

NAMES_FILES: Final = "names files of shifts by their path, which are not followed: give a code such as EPSG:32652"
"""What is wrong with a CRS of which `names_files` is true, and the remedy."""
_FILES: Final = re.compile(
    r"(?:grids|(?:^|[+\s\"'])(?:init|file))=[^\s\"'\]<]*[/\\]"  # +nadgrids=, +geoidgrids=, +grids=, +init=
    r"|(?:_GRIDS|PARAMETERFILE)\W[^\]<]{0,400}?[/\\]",  # WKT: EXTENSION["PROJ4_GRIDS", ...]
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of at least one pixel; it may lie partly or wholly outside a grid."""

    row: int
    """First row; may be negative."""
    col: int
    """First column; may be negative."""
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"window of {self.height} x {self.width} pixels: both must be at least 1")

    @property
    def row_stop(self) -> int:
        """The row after the last."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """The column after the last."""
        return self.col + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices of the row and column axes of an array.

        Raises:
            ValueError: the window starts before the array, where a slice would count from the end.
        """
        if self.row < 0 or self.col < 0:
            raise ValueError(f"{self} starts outside the array; intersect it with the grid first")
        return slice(self.row, self.row_stop), slice(self.col, self.col_stop)

    @classmethod
    def from_rasterio(cls, window: rasterio.windows.Window) -> Self:
        """The window of whole pixels that covers one of rasterio's, which may begin within a pixel."""
        row, col = math.floor(window.row_off + _DECIMALS_PX), math.floor(window.col_off + _DECIMALS_PX)
        stop = math.ceil(window.row_off + window.height - _DECIMALS_PX)
        col_stop = math.ceil(window.col_off + window.width - _DECIMALS_PX)
        return cls(row, col, stop - row, col_stop - col)

    def to_rasterio(self) -> rasterio.windows.Window:
        """This window as rasterio reads it."""
        from rasterio.windows import Window as RasterioWindow  # What has no raster to read need not wait for GDAL.

        return RasterioWindow(self.col, self.row, self.width, self.height)

    def intersection(self, other: Window) -> Window | None:
        """The pixels in both windows; None when there are none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row_stop, other.row_stop) - row
        width = min(self.col_stop, other.col_stop) - col
        return Window(row, col, height, width) if height > 0 and width > 0 else None

    def shifted(self, rows: int, cols: int) -> Window:
        """The window moved down by `rows` and right by `cols` pixels."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def coarser(self, ratio: int) -> Window:
        """The smallest window that covers this one in a grid whose pixels are `ratio` times larger."""
        row, col = self.row // ratio, self.col // ratio
        return Window(row, col, -(-self.row_stop // ratio) - row, -(-self.col_stop // ratio) - col)

    def finer(self, ratio: int) -> Window:
        """The window of the same area in a grid whose pixels are `ratio` times smaller."""
        return Window(self.row * ratio, self.col * ratio, self.height * ratio, self.width * ratio)


@dataclass(frozen=True, slots=True)
class ControlPoint:
    """A pixel position whose map coordinates are known."""

    row: float
    col: float
    x: float
    """Easting or longitude, in units of the grid's CRS."""
    y: float
    z: float = 0.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Shape and georeference of a raster: an affine transform, ground control points, or neither (a photograph)."""

    height: int
    width: int
    transform: Affine | None = None
    """(col, row) of a pixel's upper left corner to (x, y): x = a * col + b * row + c, y = d * col + e * row + f. The
    six numbers may be given as they are."""
    crs: str | None = None
    """Coordinate reference system as "EPSG:32652" or WKT."""
    gcps: tuple[ControlPoint, ...] = ()
    length_unit: LengthUnit = "px"
    """Unit of `pixel_size`: "m" for a projected CRS, "degree" for a geographic one, "px" where it is not known."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"grid of {self.height} x {self.width} pixels: both must be at least 1")
        given: Any = self.transform
        if given is not None and not isinstance(given, Affine):
            object.__setattr__(self, "transform", Affine(*given))

    def __repr__(self) -> str:
        """Shape, CRS and where the raster lies, in one line."""
        told = [f"{self.height} x {self.width} px"]
        if self.transform is not None:
            crs = self.crs or "no CRS"
            told.append(crs if len(crs) < 40 else f"{crs[:36]}...")
            told.append(f"transform={self.transform[:6]}")
        elif self.gcps:
            told.append(f"{len(self.gcps)} control points")
        return f"Grid({', '.join(told)})"

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def whole(self) -> Window:
        """The window of all pixels."""
        return Window(0, 0, self.height, self.width)

    @property
    def bounds(self) -> Bounds:
        """(left, bottom, right, top) of the smallest box around all pixels, left < right and bottom < top.

        Raises:
            DataError: the grid has no transform.
        """
        a, b, c, d, e, f = self._affine()[:6]
        corners = [(row, col) for row in (0, self.height) for col in (0, self.width)]
        xs, ys = [a * col + b * row + c for row, col in corners], [d * col + e * row + f for row, col in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def xy(self, row: ArrayLike, col: ArrayLike) -> tuple[Any, Any]:
        """Coordinates of the centres of pixels, as rasterio's `xy`.

        Args:
            row: number or array; fractions count from the centre too.
            col: likewise.

        Returns:
            (x, y) in units of the CRS: floats for numbers, float64 arrays for arrays.

        Raises:
            DataError: the grid has no transform.
        """
        import numpy as np  # Commands that only read settings must not wait for it.

        a, b, c, d, e, f = self._affine()[:6]
        rows, cols = np.asarray(row, np.float64) + 0.5, np.asarray(col, np.float64) + 0.5
        return _plain(a * cols + b * rows + c), _plain(d * cols + e * rows + f)

    def rowcol(self, x: ArrayLike, y: ArrayLike) -> tuple[Any, Any]:
        """The pixels that coordinates lie in, as rasterio's `rowcol`; they may lie outside the grid.

        Args:
            x: number or array, in units of the CRS.
            y: likewise.

        Returns:
            (row, col): ints for numbers, int64 arrays for arrays.

        Raises:
            DataError: the grid has no transform.
            ValueError: a coordinate is not finite.
        """
        import numpy as np

        rows, cols = self.fractional_rowcol(x, y)
        if not (np.isfinite(rows).all() and np.isfinite(cols).all()):
            raise ValueError("a coordinate is not finite: no pixel holds it")
        return _plain(np.floor(rows).astype(np.int64)), _plain(np.floor(cols).astype(np.int64))

    def fractional_rowcol(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions of coordinates in pixels from the upper left corner of the first one; NaN where these are.

        Args:
            x: number or array, in units of the CRS.
            y: likewise.

        Returns:
            (row, col), float64.

        Raises:
            DataError: the grid has no transform.
        """
        import numpy as np

        a, b, c, d, e, f = self._affine()[:6]
        right, up = np.asarray(x, np.float64) - c, np.asarray(y, np.float64) - f
        # Not by the inverse of the transform, whose offset would take digits from coordinates of millions of metres.
        determinant = a * e - b * d
        with np.errstate(invalid="ignore"):
            return (a * up - d * right) / determinant, (e * right - b * up) / determinant

    def window(self, bounds: Bounds) -> Window:
        """The window of whole pixels that covers a box, rounded outwards; it may reach outside the grid.

        Args:
            bounds: (left, bottom, right, top) in units of the grid's CRS.

        Raises:
            DataError: the grid has no transform, or these are no bounds.
        """
        numbers = len(bounds) == 4 and all(isinstance(value, int | float) and math.isfinite(value) for value in bounds)
        if not numbers or not (bounds[0] < bounds[2] and bounds[1] < bounds[3]):
            raise DataError(
                f"bounds {tuple(bounds)}: must be (left, bottom, right, top), left < right and bottom < top"
            )
        left, bottom, right, top = bounds
        rows, cols = self.fractional_rowcol([left, right, left, right], [bottom, bottom, top, top])
        row, col = (math.floor(float(axis.min()) + _DECIMALS_PX) for axis in (rows, cols))
        row_stop, col_stop = (math.ceil(float(axis.max()) - _DECIMALS_PX) for axis in (rows, cols))
        return Window(row, col, max(1, row_stop - row), max(1, col_stop - col))

    def crop(self, window: Window) -> Grid:
        """The grid of a window, which may reach outside: pixel (0, 0) is the window's first."""
        transform = self.transform
        if transform is not None:
            transform = transform @ Affine.translation(window.col, window.row)
        gcps = tuple(
            dataclasses.replace(point, row=point.row - window.row, col=point.col - window.col) for point in self.gcps
        )
        return dataclasses.replace(self, height=window.height, width=window.width, transform=transform, gcps=gcps)

    def _affine(self) -> Affine:
        if self.transform is None:
            raise DataError(
                f"{self} has no transform: no pixel of it has coordinates"
                + ("; warp the raster by its control points first (gdalwarp)" if self.gcps else "")
            )
        return self.transform

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Length of a pixel's side along (rows, columns) on the map, in `length_unit`; metres also of a CRS in feet.

        What it is on the ground `geocore.raster.ground` knows.

        Raises:
            ValueError: a unit is given but no transform.
        """
        if self.length_unit == "px":
            return 1.0, 1.0
        if self.transform is None:
            raise ValueError(f"a grid in {self.length_unit!r} has a pixel size only with a transform")
        a, b, _, d, e, _ = self.transform[:6]
        factor = metres_per_unit(self.crs) if self.length_unit == "m" and self.crs else 1.0
        return math.hypot(b, e) * factor, math.hypot(a, d) * factor

    def coarser(self, ratio: int) -> Grid:
        """The grid with pixels `ratio` times larger and the same upper left corner; its border is rounded outwards."""
        transform = self.transform
        if transform is not None:
            transform = transform @ Affine.scale(ratio)
        gcps = tuple(dataclasses.replace(point, row=point.row / ratio, col=point.col / ratio) for point in self.gcps)
        height, width = -(-self.height // ratio), -(-self.width // ratio)
        return dataclasses.replace(self, height=height, width=width, transform=transform, gcps=gcps)

    def same_georeference(self, other: Grid, tolerance_px: float = 1e-3) -> bool:
        """Whether each of this grid's corners has the same place on the Earth in both grids.

        Args:
            other: may differ in shape; that is for the caller to compare.
            tolerance_px: how far apart the corners may be, in this grid's pixels.
        """
        if (self.transform is None) != (other.transform is None):
            return False
        if self.transform is None or other.transform is None:
            same_points = len(self.gcps) == len(other.gcps) and all(
                _close(mine, theirs, tolerance_px) for mine, theirs in zip(self.gcps, other.gcps, strict=True)
            )
            return same_points and (self.crs == other.crs or not self.gcps)
        if (self.crs is None) != (other.crs is None):
            return False
        other_crs = self.crs and other.crs and not same_crs(self.crs, other.crs)
        try:
            way = transformer(str(other.crs), str(self.crs)) if other_crs else None
        except DataError:
            return False  # of another body
        pixel = math.sqrt(abs(self.transform.determinant))
        for row in (0, self.height):
            for col in (0, self.width):
                x, y = other.transform @ (col, row)
                if way is not None:
                    x, y = way.transform(x, y)
                mine = self.transform @ (col, row)
                # Not `> tolerance`: outside the area of a projection the distance may be nan.
                if not math.dist(mine, (x, y)) <= tolerance_px * pixel:
                    return False
        return True


def length_unit_of(crs: str | None) -> LengthUnit:
    """The length unit of a grid with a transform in this CRS; "px" without one.

    Raises:
        DataError: the CRS cannot be understood.
    """
    if crs is None:
        return "px"
    parsed = parse_crs(crs)
    if parsed.is_geographic:
        return "degree"
    return "m" if parsed.is_projected else "px"


def names_files(crs: str) -> bool:
    """Whether a CRS names files by their path, of shifts or heights, which PROJ would open wherever they lie.

    Names without a folder are those of PROJ's own files.

    Args:
        crs: WKT or PROJ's parameters, or a text that holds such.
    """
    return _FILES.search(crs) is not None


@lru_cache(maxsize=64)
def parse_crs(crs: str) -> pyproj.CRS:
    """A CRS from an authority string or WKT.

    Raises:
        DataError: it cannot be understood, or names files by their path.
    """
    if names_files(crs):
        raise DataError(f"coordinate reference system {crs[:60]!r} {NAMES_FILES}")
    import pyproj  # A tenth of a second; commands that only read settings must not pay for it.

    try:
        return pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise DataError(
            f"coordinate reference system {crs[:60]!r} is not understood: give a code such as EPSG:32652, or WKT"
        ) from error


@lru_cache(maxsize=64)
def metres_per_unit(crs: str) -> float:
    """Metres in one unit of a projected CRS: 1 for most, 0.3048... for those in feet."""
    axes = parse_crs(crs).axis_info
    return float(axes[0].unit_conversion_factor) if axes else 1.0


@lru_cache(maxsize=256)
def same_crs(first: str, second: str) -> bool:
    """Whether two CRS are the same, however they are written."""
    return first == second or parse_crs(first).equals(parse_crs(second), ignore_axis_order=True)


@lru_cache(maxsize=64)
def transformer(source: str, target: str) -> pyproj.Transformer:
    """The way from one CRS to another, x before y in both.

    Raises:
        DataError: a CRS cannot be understood, or there is no way, as from the Moon to the Earth, or from a CRS that is
            tied to no body.
    """
    import pyproj

    try:
        return pyproj.Transformer.from_crs(parse_crs(source), parse_crs(target), always_xy=True)
    except pyproj.exceptions.ProjError as error:
        names = " to ".join(f"{parse_crs(crs).name[:60]!r}" for crs in (source, target))
        raise DataError(f"no way leads from the CRS {names}: they must be of one body, and tied to it") from error


def _plain(values: NDArray[Any]) -> Any:
    """A number where there is one, else the array."""
    return values if values.ndim else values.item()


def _close(first: ControlPoint, second: ControlPoint, tolerance_px: float) -> bool:
    near = math.dist((first.row, first.col), (second.row, second.col)) <= tolerance_px
    return near and (first.x, first.y, first.z) == (second.x, second.y, second.z)
