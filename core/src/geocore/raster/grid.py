"""Grid: the pixels of a raster and where they lie on the Earth, if that is known; windows cut from it.

Pixel coordinates are (row, col) from the upper left corner of the upper left pixel; pixel (0, 0) covers 0..1 in both.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from geocore.errors import DataError

if TYPE_CHECKING:
    import pyproj

LengthUnit = Literal["m", "degree", "cm", "px"]
Transform = tuple[float, float, float, float, float, float]

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
    transform: Transform | None = None
    """(a, b, c, d, e, f): x = a * col + b * row + c, y = d * col + e * row + f, of a pixel's upper left corner."""
    crs: str | None = None
    """Coordinate reference system as "EPSG:32652" or WKT."""
    gcps: tuple[ControlPoint, ...] = ()
    length_unit: LengthUnit = "px"
    """Unit of `pixel_size`: "m" for a projected CRS, "degree" for a geographic one, "px" where it is not known."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"grid of {self.height} x {self.width} pixels: both must be at least 1")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def window(self) -> Window:
        """The window of all pixels."""
        return Window(0, 0, self.height, self.width)

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
        a, b, _, d, e, _ = self.transform
        factor = metres_per_unit(self.crs) if self.length_unit == "m" and self.crs else 1.0
        return math.hypot(b, e) * factor, math.hypot(a, d) * factor

    def coarser(self, ratio: int) -> Grid:
        """The grid with pixels `ratio` times larger and the same upper left corner; its border is rounded outwards."""
        transform = self.transform
        if transform is not None:
            a, b, c, d, e, f = transform
            transform = (a * ratio, b * ratio, c, d * ratio, e * ratio, f)
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
        pixel = math.sqrt(abs(self.transform[0] * self.transform[4] - self.transform[1] * self.transform[3]))
        for row in (0, self.height):
            for col in (0, self.width):
                x, y = _position(other.transform, row, col)
                if way is not None:
                    x, y = way.transform(x, y)
                mine = _position(self.transform, row, col)
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


def _position(transform: Transform, row: float, col: float) -> tuple[float, float]:
    a, b, c, d, e, f = transform
    return a * col + b * row + c, d * col + e * row + f


def _close(first: ControlPoint, second: ControlPoint, tolerance_px: float) -> bool:
    near = math.dist((first.row, first.col), (second.row, second.col)) <= tolerance_px
    return near and (first.x, first.y, first.z) == (second.x, second.y, second.z)
