"""Extents: where on a map something lies, in words, and why it may lie elsewhere than the scene that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from geocore.errors import DataError
from geocore.raster.grid import Grid, parse_crs, same_crs, transformer

_DEGREES: Final = "EPSG:4326"
_UNKNOWN: Final = "check the pair"


@dataclass(frozen=True, slots=True)
class Extent:
    """A rectangle on a map."""

    left: float
    """Least x: easting or longitude, in units of the CRS."""
    bottom: float
    """Least y."""
    right: float
    top: float
    crs: str | None = None
    """Coordinate reference system as "EPSG:32652" or WKT; None where it is not known."""

    @property
    def swapped(self) -> Extent:
        """The rectangle with x for y."""
        return Extent(self.bottom, self.left, self.top, self.right, self.crs)

    def read_in(self, crs: str | None) -> Extent:
        """The same numbers, said to be of another CRS."""
        return Extent(self.left, self.bottom, self.right, self.top, crs)

    def meets(self, other: Extent) -> bool:
        """Whether both share ground; never where one has no place in the other's CRS."""
        moved = self
        if self.crs is not None and other.crs is not None and not same_crs(self.crs, other.crs):
            moved = self._moved(other.crs)
        # Not written as its opposite: what has no place is infinite or NaN.
        return (
            math.isfinite(moved.left + moved.bottom + moved.right + moved.top)
            and moved.left < other.right
            and moved.right > other.left
            and moved.bottom < other.top
            and moved.top > other.bottom
        )

    def __str__(self) -> str:
        """Its numbers under the names of its axes, and its CRS."""
        x, y = ("longitude", "latitude") if _is_geographic(self.crs) else ("x", "y")
        digits = ".7g" if _is_geographic(self.crs) else ".9g"
        place = f"{x} {self.left:{digits}} to {self.right:{digits}}, {y} {self.bottom:{digits}} to {self.top:{digits}}"
        return f"{place}, {crs_name(self.crs)}"

    def _moved(self, crs: str) -> Extent:
        import pyproj

        assert self.crs is not None
        nowhere = Extent(math.inf, math.inf, math.inf, math.inf, crs)
        if _is_geographic(self.crs) and max(abs(self.left), abs(self.right)) > 360:
            return nowhere  # PROJ would wrap them around the Earth
        try:
            way = transformer(self.crs, crs)
            left, bottom, right, top = way.transform_bounds(self.left, self.bottom, self.right, self.top)
        except (DataError, pyproj.exceptions.ProjError):
            return nowhere
        return Extent(left, bottom, right, top, crs)


def extent_of(grid: Grid) -> Extent | None:
    """The extent of a raster; None where it has no transform."""
    if grid.transform is None:
        return None
    return Extent(*grid.bounds, grid.crs)


def crs_name(crs: str | None) -> str:
    """A CRS for messages: its code, or its name where it has none."""
    if crs is None:
        return "no CRS"
    if crs.upper().startswith("EPSG:"):
        return crs
    try:
        parsed = parse_crs(crs)
    except DataError:
        return crs[:60]
    authority = parsed.to_authority(min_confidence=70)
    return ":".join(authority) if authority else parsed.name[:60]


def likely_cause(found: Extent, scene: Extent) -> str:
    """Why something that belongs to a scene lies elsewhere: the first way to read its numbers that lands there.

    Tried are x for y, the scene's own CRS, degrees, the neighbouring UTM zones, and a scene whose zone is wrong.

    Args:
        found: of outlines or a label raster; it does not meet the scene.
        scene: of the scene.

    Returns:
        A cause with its remedy, without a full stop.
    """
    for crs, swapped, cause in _readings(found, scene):
        candidate = (found.swapped if swapped else found).read_in(crs)
        if candidate.meets(scene):
            return cause
    for zone in _zones_beside(scene):
        if found.meets(scene.read_in(zone)):
            return f"the scene fits when read as {zone}: the zone that it states is wrong; write the right one into it"
    if _is_geographic(found.crs) and max(abs(found.left), abs(found.right)) > 360:
        return "these numbers are no degrees: state the CRS that they are in"
    return _UNKNOWN


def misfit(label: Grid, scene: Grid, name: str) -> str:
    """How the pixels of a label raster lie to those of its scene, which are others.

    Args:
        label: of the raster; has a transform.
        scene: of the scene; has a transform.
        name: of the scene.

    Returns:
        Both extents and the likely cause, without a full stop.
    """
    found, area = extent_of(label), extent_of(scene)
    assert found is not None
    assert area is not None
    return f"it spans {found}, and {name} {area}: {_cause_of_misfit(label, found, scene, area)}"


def _cause_of_misfit(label: Grid, found: Extent, scene: Grid, area: Extent) -> str:
    if (label.crs is None) != (scene.crs is None):
        return "only one of them states a CRS: write it into the other (gdal_edit.py -a_srs EPSG:CODE)"
    other_crs = label.crs is not None and scene.crs is not None and not same_crs(label.crs, scene.crs)
    if not found.meets(area) and ((cause := likely_cause(found, area)) != _UNKNOWN or other_crs):
        return cause
    if other_crs:
        return f"warp the label onto the scene (gdalwarp -r near -t_srs {crs_name(scene.crs)})"
    assert label.transform is not None
    assert scene.transform is not None
    a, b, c, d, e, f = label.transform[:6]
    own_a, own_b, own_c, own_d, own_e, own_f = scene.transform[:6]
    if (a * own_a < 0) != (e * own_e < 0):
        return "its rows run from south to north, or its columns from east to west: warp it onto the scene"
    sizes = [(math.hypot(x, z), math.hypot(y, w)) for x, y, z, w in ((a, b, d, e), (own_a, own_b, own_d, own_e))]
    if not all(math.isclose(one, other, rel_tol=1e-3) for one, other in zip(*sizes, strict=True)):
        wide = [f"{width:.7g} x {height:.7g}" for width, height in sizes]
        return f"its pixels are {wide[0]} wide, those of the scene {wide[1]}: warp it onto the scene (gdalwarp -r near)"
    determinant = own_a * own_e - own_b * own_d
    right = (own_e * (c - own_c) - own_b * (f - own_f)) / determinant
    down = (own_a * (f - own_f) - own_d * (c - own_c)) / determinant
    below, beside = "below" if down > 0 else "above", "right" if right > 0 else "left"
    rows, cols = round(abs(down), 2), round(abs(right), 2)
    moved = f"its first pixel lies {rows:g} rows {below} and {cols:g} columns {beside} of the scene's"
    if rows == cols == 0.5:
        moved += ", as when centres of pixels are taken for their corners"
    return f"{moved}: correct its transform, or warp it onto the scene (gdalwarp -r near)"


def _readings(found: Extent, scene: Extent) -> Iterator[tuple[str | None, bool, str]]:
    """Ways to read the numbers: CRS, x for y, and what it means when the numbers land so."""
    axes = "latitude and longitude" if _is_geographic(found.crs) else "x and y"
    yield found.crs, True, f"{axes} are swapped: write x (longitude, easting) first"
    if scene.crs is None or found.crs is None:
        return
    here, stated = crs_name(scene.crs), f"not {crs_name(found.crs)}"
    yield scene.crs, False, f"its numbers are in {here}, the scene's CRS, {stated}: state that CRS in the file"
    yield scene.crs, True, f"its numbers are in {here}, {stated}, with x and y swapped: write x first, and that CRS"
    if max(abs(found.left), abs(found.right)) <= 360 and max(abs(found.bottom), abs(found.top)) <= 360:
        yield _DEGREES, False, f"its numbers are longitude and latitude, {stated}: state {_DEGREES} in the file"
        yield _DEGREES, True, f"its numbers are latitude and longitude, {stated}: write longitude first, and {_DEGREES}"
    for zone in _zones_beside(scene):
        yield zone, False, f"its numbers are of another UTM zone, {zone}, {stated}: state that zone in the file"


def _zones_beside(scene: Extent) -> list[str]:
    """UTM zones of the scene's middle and beside it, north and south of the equator, but for the scene's own."""
    if scene.crs is None:
        return []
    middle = scene._moved(_DEGREES)
    longitude, latitude = (middle.left + middle.right) / 2, (middle.bottom + middle.top) / 2
    if not math.isfinite(longitude + latitude):
        return []
    number = int((longitude + 180) // 6)
    first, second = (32600, 32700) if latitude >= 0 else (32700, 32600)
    zones = [f"EPSG:{base + (number + step) % 60 + 1}" for base in (first, second) for step in (0, -1, 1)]
    return [zone for zone in zones if not same_crs(zone, scene.crs)]


def _is_geographic(crs: str | None) -> bool:
    try:
        return crs is not None and parse_crs(crs).is_geographic
    except DataError:
        return False
