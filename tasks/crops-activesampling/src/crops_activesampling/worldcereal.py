"""Patches made of WorldCereal training cubes: real pixels and declared crops in the layout of Sen4AgriNet.

uv run crops-worldcereal --data CUBES --out PATCHES

A site is a folder with `S2_L2A_10m_*.nc`, `S2_L2A_20m_*.nc` or both, and `OUTPUT_*.nc` with the crop types (CT); what a
site lacks, its patch lacks. Differences to Sen4AgriNet remain: level 2A instead of 1C, 64 x 64 pixels, no parcels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from crops_activesampling.cf_times import decode_times
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.s4a_format import PIXEL_M, RATIOS, PatchName
from geocore.cli.main import command
from geocore.errors import DataError
from geocore.raster.declarations import valid_codes
from geocore.raster.netcdf import NetcdfFile, netcdf_crs, netcdf_transform, open_netcdf
from geocore.settings import Settings, deciding, operational
from geocore.terminal import one_line, shell_word

_CUBES: Final[Mapping[str, int]] = {"S2_L2A_10m_*.nc": 1, "S2_L2A_20m_*.nc": 2}
_LABELS: Final = "OUTPUT_*.nc"
_CLASSES: Final = "SCL"
_CLOUDY: Final = (0, 1, 3, 8, 9, 10, 11)
"""Scene classes of level 2A without a view of the ground: no data, saturated, shadow, clouds, cirrus, snow."""
_SCALE: Final = 1e-4
"""Reflectance of one DN."""
_PITCH_M: Final = 3660
_TILE_M: Final = 100_000


class WorldcerealSettings(Settings):
    """Real patches from WorldCereal's training cubes."""

    data: Path = operational(..., "folder with a folder of cubes (netCDF) for each site")
    out: Path = operational(..., "folder for the patches")
    year: int | None = deciding(None, "calendar year to keep; none: the one with the most images of a site", ge=2015)
    mask_clouds: bool = deciding(
        True, "pixels that the scene classification (SCL) calls cloud, shadow or snow become no data, where it is there"
    )


@dataclass(frozen=True, slots=True)
class _Cube:
    """What is used of a cube."""

    file: NetcdfFile
    ratio: int
    """Pixels of 10 m along a side of one of its own."""
    times: NDArray[np.datetime64]
    """Shape (time,), datetime64."""

    @property
    def bands(self) -> list[str]:
        return [name for name, ratio in RATIOS.items() if name in self.file.variables and ratio == self.ratio]


def main() -> NoReturn:
    """Entry point of `crops-worldcereal`."""
    command(worldcereal, WorldcerealSettings, prog="crops-worldcereal")


def worldcereal(settings: WorldcerealSettings) -> None:
    """Write a patch for each site.

    Raises:
        DataError: there is no site, or a cube does not hold what it should.
    """
    sites = sorted({path.parent for path in settings.data.rglob(_LABELS)})
    if not sites:
        raise DataError(f"{settings.data}: no folder has {_LABELS} of WorldCereal; check the path")
    names: dict[str, Path] = {}
    for site in sites:
        patch = site_patch(site, year=settings.year, mask_clouds=settings.mask_clouds)
        if patch.name.id in names:
            raise DataError(f"{site}: lies where {names[patch.name.id]} does: a patch is one site; remove one of them")
        names[patch.name.id] = site
        path = write_patch(settings.out, patch)
        codes = [str(code) for code in np.unique(patch.labels[patch.labels > 0])]
        print(one_line(f"{path}: {', '.join(patch.bands)}; codes {', '.join(codes)}"))
    print(one_line(f"{len(names)} patches in {settings.out}"))
    print(f"next: crops-prepare --data {shell_word(settings.out)} --out DATASET")


def site_patch(site: Path, *, year: int | None, mask_clouds: bool) -> NewPatch:
    """A patch of the cubes of one site.

    Args:
        site: folder of the cubes.
        year: calendar year of the images; None: the one with the most.
        mask_clouds: whether what the scene classification calls cloud, shadow or snow becomes no data.

    Raises:
        DataError: a cube is missing or does not hold what it should, or no image is of that year.
    """
    with open_netcdf(_only(site, _LABELS)) as file:
        attributes = file.variable("CT").attributes
        types = valid_codes(file.read("CT"), attributes)[0].astype(np.uint32)
        corner, is_south_up = _corner(file)
        crs, tile = _crs(file), str(attributes["tile"])
        types = types[::-1] if is_south_up else types
    files = {ratio: path for pattern, ratio in _CUBES.items() for path in [_only(site, pattern, needed=False)] if path}
    if not files:
        raise DataError(f"{site}: has none of {', '.join(_CUBES)}; get the cubes of the site")
    cubes = [_open(path, ratio) for ratio, path in files.items()]
    try:
        year = _usual_year(cubes) if year is None else year
        bands = _bands(cubes, year, types.shape, mask_clouds)
    finally:
        for cube in cubes:
            cube.file.close()
    labels = s4a_codes(types)
    return NewPatch(
        _name(year, tile, corner),
        corner,
        crs,
        bands,
        labels,
        connected_parcels(labels),
        {
            "title": "WorldCereal training site in the layout of Sen4AgriNet",
            "authors": "WorldCereal consortium; Contains modified Copernicus Sentinel data",
            "patch_country_code": "BE" if "_BE_" in str(attributes.get("source", "")) else "",
            "references": str(attributes.get("source", "")),
            "institution": "ESA WorldCereal",
        },
    )


def s4a_codes(types: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Codes of Sen4AgriNet for crop types of WorldCereal.

    Both follow FAO's Indicative Crop Classification, whose groups Sen4AgriNet multiplies by ten (wheat, 11, is 110) and
    WorldCereal by a hundred (winter wheat is 1110): groups are kept, and kinds of grass (912 is permanent) as well.

    Args:
        types: any shape, uint32; 0: none.

    Returns:
        Same shape, uint32.
    """
    return np.where(types >= 9000, types // 10, types // 100 * 10).astype(np.uint32)


def connected_parcels(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Numbers of connected areas of one code, which stand for the parcels that the cubes do not name.

    Args:
        labels: shape (row, col), uint32; 0: none.

    Returns:
        Shape (row, col), uint32: 1, 2, ...; 0 where there is no label. Neighbours with one crop are one parcel.
    """
    from scipy import ndimage

    parcels = np.zeros(labels.shape, np.uint32)
    count = 0
    for code in np.unique(labels[labels > 0]):
        areas, found = ndimage.label(labels == code)
        parcels[areas > 0] = areas[areas > 0] + count
        count += found
    return parcels


def _corner(file: NetcdfFile) -> tuple[tuple[float, float], bool]:
    """X and y of the upper left corner, and whether rows run to the north; coordinates are the middle of pixels."""
    rows = file.read("y")
    a, _, left, _, e, first = netcdf_transform(str(file.path), file.read("x"), rows)[:6]
    if not np.allclose((a, abs(e)), PIXEL_M):
        raise DataError(f"{file.path}: pixels are of {a:g} x {abs(e):g} m: needs {PIXEL_M:g} m; get the site again")
    return (left, first + e * len(rows) if e > 0 else first), e > 0


def _crs(file: NetcdfFile) -> str:
    attributes = file.variable("CT").attributes
    name = str(attributes.get("grid_mapping", "spatial_ref"))
    mapping = file.variables[name].attributes if name in file.variables else None
    # Its code is shorter than the text that says the same.
    code = {key: attributes[key] for key in ("epsg",) if key in attributes}
    crs = netcdf_crs(code) or netcdf_crs(attributes, mapping)
    if crs is None:
        raise DataError(f"{file.path}: says no CRS: needs epsg, or a variable with crs_wkt; get the site again")
    return crs


def _only(site: Path, pattern: str, *, needed: bool = True) -> Any:
    found = sorted(site.glob(pattern))
    if len(found) > 1 or (needed and not found):
        raise DataError(f"{site}: {len(found)} files are called {pattern}: a site has one; check the folder")
    return found[0] if found else None


def _open(path: Path, ratio: int) -> _Cube:
    file = NetcdfFile(path)
    try:
        times = decode_times(file.read("timestamp"), file.variable("timestamp").attributes, str(path))
    except BaseException:
        file.close()
        raise
    return _Cube(file, ratio, times)


def _years(cube: _Cube) -> NDArray[np.int64]:
    return cube.times.astype("datetime64[Y]").astype(np.int64) + 1970


def _usual_year(cubes: list[_Cube]) -> int:
    years, counts = np.unique(np.concatenate([_years(cube) for cube in cubes]), return_counts=True)
    return int(years[counts.argmax()])


def _bands(
    cubes: list[_Cube], year: int, shape: tuple[int, ...], mask_clouds: bool
) -> dict[str, tuple[NDArray[np.uint16], NDArray[np.datetime64]]]:
    """Series of every band in one year, in the order of Sentinel-2's bands."""
    clouds = {
        time: np.isin(classes, _CLOUDY)
        for cube in cubes
        if mask_clouds and _CLASSES in cube.file.variables
        for time, classes in zip(cube.times.tolist(), _checked(cube, _CLASSES, shape), strict=True)
    }
    found = {}
    for cube in cubes:
        kept = np.flatnonzero(_years(cube) == year)
        if not len(kept):
            have = ", ".join(map(str, np.unique(_years(cube)).tolist()))
            raise DataError(f"{cube.file.path}: no image is of {year}: it has some of {have}; give one of these")
        hidden = [clouds.get(time) for time in cube.times[kept].tolist()]
        for band in cube.bands:
            found[band] = (_series(cube, band, kept, shape, hidden), cube.times[kept])
    return {band: found[band] for band in RATIOS if band in found}


def _series(
    cube: _Cube, band: str, kept: NDArray[np.int64], shape: tuple[int, ...], hidden: list[NDArray[np.bool_] | None]
) -> NDArray[np.uint16]:
    """DN of the images that are kept, 0 where clouds hide the ground."""
    values = _checked(cube, band, shape)[kept]
    scale = float(cube.file.variable(band).attributes.get("scale_factor", 1))
    if values.dtype != np.uint16 or not np.isclose(scale, _SCALE):
        raise DataError(
            f"{cube.file.path}: {band} is {values.dtype} with scale {scale:g}: needs uint16 with scale {_SCALE:g}; get "
            "the cube again"
        )
    # The attributes name 0 as their fill value, as the layout does.
    for image, cloud in zip(values, hidden, strict=True):
        if cloud is not None:
            image[_matched(cloud, image.shape)] = 0
    return values


def _checked(cube: _Cube, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """All images of a variable, whose pixels fit those of the labels."""
    values = cube.file.read(name)
    own = (len(cube.times), *(length // cube.ratio for length in shape))
    if values.shape != own:
        raise DataError(f"{cube.file.path}: {name} is {values.shape}, the labels need {own}; get the site again")
    y = cube.file.read("y") if "y" in cube.file.variables else np.zeros(0)
    is_south_up = len(y) > 1 and y[-1] > y[0]
    return np.ascontiguousarray(values[:, ::-1]) if is_south_up else values


def _matched(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask of 20 m at 10 m, where that is wanted."""
    ratio = shape[0] // mask.shape[0]
    return mask.repeat(ratio, axis=0).repeat(ratio, axis=1)


def _name(year: int, tile: str, corner: tuple[float, float]) -> PatchName:
    """The name of the patch of 3.66 km that the corner would lie in; tiles begin at whole 100 km, about."""
    return PatchName(year, tile, int(corner[0] % _TILE_M // _PITCH_M), int(-corner[1] % _TILE_M // _PITCH_M))
