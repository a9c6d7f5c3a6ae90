"""Sen4AgriNet patches: their names, and the netCDF layout of one group a band with times of its own.

A file `2020/31TCG/2020_31TCG_patch_14_14.nc` holds the groups B01 ... B12, B8A (time, y, x), `labels` and `parcels`
(y, x): 366 x 366 pixels of 10 m, or 183 of 20 m, or 61 of 60 m. Other sizes are read as well, as long as a band of 20
or 60 m has a half or a sixth of the pixels. A digital number (DN) of 0 is no data, and one of 10000 a reflectance of 1;
files that say otherwise by `_FillValue`, `scale_factor` and `add_offset`, such as products since January 2022, are
brought to that.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from crops_activesampling.cf_times import decode_times
from geocore.errors import DataError
from geocore.raster.declarations import CfDeclaration, stated_by_cf, valid_codes
from geocore.raster.grid import Grid, length_unit_of
from geocore.raster.hdf5 import open_hdf5, read_attributes, read_dataset
from geocore.raster.netcdf import gdal_transform, netcdf_crs, netcdf_transform, open_netcdf
from geocore.storage.memory import read_arrays

RATIOS: Final[Mapping[str, int]] = {
    "B01": 6, "B02": 1, "B03": 1, "B04": 1, "B05": 2, "B06": 2, "B07": 2, "B08": 1, "B8A": 2, "B09": 6, "B10": 6,
    "B11": 2, "B12": 2,
}  # fmt: skip
"""Band -> pixels of 10 m along a side of one of its own."""
PIXEL_M: Final = 10.0

_DN_SCALE: Final = 1e-4
"""Reflectance of one DN."""

_LARGEST_OFFSET: Final = 6.5535
"""Reflectance, of all DN: what is added to them is a part of what they hold."""
_NAME: Final = re.compile(r"(\d{4})_(\d{2}[A-Z]{3})_patch_(\d{1,3})_(\d{1,3})")
_TRUTH: Final = "codes"
_LARGEST: Final = 4_294_967_294
_NONE_UNSIGNED: Final = (4_294_967_295, 18_446_744_073_709_551_615)
"""-1 as unsigned numbers of 32 and 64 bits."""
# What h5py raises on damaged content, beside OSError.
_DAMAGE: Final = (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True, order=True)
class PatchName:
    """Year, tile and place of a patch."""

    year: int
    tile: str
    """Of Sentinel-2's grid, such as 31TCG."""
    x: int
    """First number of the patch within its tile, 0-29 in Sen4AgriNet."""
    y: int
    """Second number."""

    @classmethod
    def of(cls, path: Path | str) -> Self:
        """The name that a path ends in.

        Raises:
            DataError: it is no name of a patch.
        """
        name = Path(path).name.removesuffix(".nc")
        match = _NAME.fullmatch(name)
        if match is None and Path(path).suffix not in (".nc", ""):
            raise DataError(f"{path}: is no patch: patches are netCDF files such as 2020_31TCG_patch_14_14.nc")
        if match is None:
            raise DataError(f"{path}: a patch is called such as 2020_31TCG_patch_14_14.nc; rename the file")
        return cls(int(match[1]), match[2], int(match[3]), int(match[4]))

    @property
    def id(self) -> str:
        """Name without folder and suffix."""
        return f"{self.year}_{self.tile}_patch_{self.x:02d}_{self.y:02d}"

    @property
    def relative(self) -> str:
        """Path within a folder of patches."""
        return f"{self.year}/{self.tile}/{self.id}.nc"


def find_patches(folder: Path) -> list[Path]:
    """Files of patches in a folder, in any depth, by year, tile and place; or the one file that the path names.

    Raises:
        DataError: there is none, or two have the same name.
    """
    if folder.exists() and not folder.is_dir():
        PatchName.of(folder)
        return [folder]
    found = [path for path in folder.rglob("*.nc") if _NAME.fullmatch(path.name.removesuffix(".nc"))]
    if not found:
        rule = "needs files such as 2020/31TCG/2020_31TCG_patch_14_14.nc" if folder.is_dir() else "is no folder"
        raise DataError(f"{folder}: {rule}; check the path")
    found.sort(key=PatchName.of)
    for name, count in Counter(PatchName.of(path).id for path in found).items():
        if count > 1:
            raise DataError(f"{folder}: holds {count} files of patch {name}: a patch is one file; remove the others")
    return found


class Patch:
    """An open patch; a context manager, safe for several threads.

    Opening reads names, shapes and the georeference; values come when asked for.

    Raises:
        DataError: the file is missing, no patch, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = PatchName.of(path)
        self.added: dict[str, int] = {}
        """Band that was read -> what the file adds to its DN; empty where no band has something added."""
        # Tells a missing file, another format and damage apart in one line each.
        with open_netcdf(path):
            pass
        # Not h5netcdf, which looks up all dimensions for every shape: 15 ms a patch, a fifth of what its medians take.
        import h5py

        with self._damage():
            self._file = open_hdf5(path)
        try:
            with self._damage():
                self.groups: tuple[str, ...] = tuple(
                    name for name in self._file if self._file.get(name, getclass=True) is h5py.Group
                )
                """Names of the groups that the file has: bands, `labels`, `parcels`."""
                self.bands: tuple[str, ...] = tuple(name for name in RATIOS if name in self.groups)
                """Bands that the file has, in the order of Sentinel-2's."""
                if not self.bands:
                    held = ", ".join(self.groups) or "no group"
                    raise DataError(f"{path}: holds {held}: a patch has groups such as B02; get the file again")
                self.grid: Grid = self._grid()
                """Pixels of 10 m."""
        except BaseException:
            self.close()
            raise

    def times(self, band: str) -> NDArray[np.datetime64]:
        """Dates of a band, sorted.

        Returns:
            Shape (time,), datetime64[D]. Two observations of one day, hours apart, are kept both.

        Raises:
            DataError: there is no such band, or its times are damaged or occur more than once.
        """
        return self._ordered_times(band)[0]

    def series(self, band: str) -> tuple[NDArray[np.uint16], NDArray[np.datetime64]]:
        """Values of a band at its own pixel size, and their dates.

        Returns:
            (values, times): shape (time, row, col), uint16, DN, 0 where there is none, and 1 for reflectances that are
            not above 0; shape (time,), datetime64[D], sorted.

        Raises:
            DataError: as of `times`, or the values are damaged or no DN.
        """
        times, order = self._ordered_times(band)
        with self._damage(band):
            variable = self._variable(band)
            if np.dtype(variable.dtype).newbyteorder("=") != np.uint16:
                raise DataError(f"{self.path}: {band} is {variable.dtype}: DN are uint16; write the file again")
            values = read_dataset(variable).astype(np.uint16, copy=False)
            declared = stated_by_cf(read_attributes(variable), values.dtype)
        values = self._as_dn(band, values, declared)
        return (values if (order[1:] > order[:-1]).all() else values[order]), times

    def _as_dn(self, band: str, values: NDArray[np.uint16], declared: CfDeclaration) -> NDArray[np.uint16]:
        """Numbers of a file as those that all patches are brought to; in place where nothing but fill differs."""
        if declared.said.nodata is not None:
            for value in declared.missing:
                if value != 0:
                    values[values == value] = 0
        if declared.said.scale is None or (declared.said.scale == 1 and not declared.said.offset):
            return values
        scale, offset = declared.said.scale, declared.said.offset or 0.0
        shift = round(offset / _DN_SCALE) if abs(offset) < _LARGEST_OFFSET else 0
        if not (math.isclose(scale, _DN_SCALE, rel_tol=1e-6) and math.isclose(offset, shift * _DN_SCALE, abs_tol=1e-9)):
            raise DataError(
                f"{self.path}: {band} has scale_factor {scale:g} and add_offset {offset:g}: DN have {_DN_SCALE:g} and "
                "a multiple of it; write the file again as uint16 with these"
            )
        if shift == 0:
            return values
        self.added[band] = -shift
        moved = np.clip(values.astype(np.int32) + shift, 1, np.iinfo(np.uint16).max)
        return np.where(values == 0, 0, moved).astype(np.uint16)

    def labels(self) -> NDArray[np.uint32]:
        """Codes of crops, shape (row, col), uint32; 0 where there is none.

        Raises:
            DataError: the file has no labels, or they do not fit.
        """
        return self._plane("labels")

    def parcels(self) -> NDArray[np.uint32]:
        """Numbers of parcels, shape (row, col), uint32; 0 where there is none.

        Raises:
            DataError: the file has no parcels, or they do not fit.
        """
        return self._plane("parcels")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _damage(self, group: str = "the file") -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            reason = (str(error).strip("'\" ").splitlines() or [type(error).__name__])[0]
            raise DataError(f"{self.path}: {group} cannot be read ({reason}): copy it or get it again") from error

    def _variable(self, group: str) -> Any:
        """The variable of a group that has its name."""
        if group not in self.groups or group not in self._file[group]:
            held = ", ".join(self.groups)
            raise DataError(f"{self.path}: no {group}: the file holds {held}; ask for these, or get a file that has it")
        return self._file[group][group]

    def _plane(self, group: str) -> NDArray[np.uint32]:
        """Whole numbers on the pixels of 10 m; 0 where there is none: a fill value, below 0, or -1 made unsigned."""
        with self._damage(group):
            variable = self._variable(group)
            values, attributes = read_dataset(variable), read_attributes(variable)
        if values.shape != self.grid.shape or values.dtype.kind not in "iuf":
            rows, cols = self.grid.shape
            raise DataError(
                f"{self.path}: {group} is {values.shape} of {values.dtype}: must be {rows} x {cols} whole numbers; "
                "write the file again"
            )
        try:
            codes, _ = valid_codes(values, attributes)
        except DataError as error:
            raise DataError(f"{self.path}: {group} {error}") from None
        codes = np.where(np.isin(codes, _NONE_UNSIGNED), 0, codes)
        if (largest := int(codes.max())) > _LARGEST:
            raise DataError(
                f"{self.path}: {group} holds {largest}: numbers up to {_LARGEST} are read; number them anew"
            )
        return codes.astype(np.uint32)

    def _ordered_times(self, band: str) -> tuple[NDArray[np.datetime64], NDArray[np.int64]]:
        """Sorted dates, and where each stands in the file."""
        with self._damage(band):
            images, variable = len(self._variable(band)), self._file[band]["time"]
            if variable.shape != (images,):
                raise DataError(f"{self.path}: {band} has {images} images, {len(variable)} times; get the file again")
            numbers, attributes = read_dataset(variable), read_attributes(variable)
        times = decode_times(numbers, attributes, f"{self.path}: {band}")
        order = np.argsort(times, kind="stable")
        times = times[order]
        if (repeated := times[1:][times[1:] == times[:-1]]).size:
            raise DataError(
                f"{self.path}: {band} has the time {repeated[0].astype('datetime64[s]')} more than once: images of a "
                "band must differ in time; remove one"
            )
        return times.astype("datetime64[D]"), order

    def _grid(self) -> Grid:
        """The grid of 10 m: that of the labels, else of the finest band."""
        planes = ("labels", "parcels", *sorted(self.bands, key=lambda band: RATIOS[band]))
        reference = next(name for name in planes if name in self.groups)
        shapes = {name: tuple(self._variable(name).shape[-2:]) for name in self.bands}
        shapes[reference] = tuple(self._variable(reference).shape[-2:])
        ratio = RATIOS.get(reference, 1)
        rows, cols = (length * ratio for length in shapes[reference])
        for band in self.bands:
            if tuple(length * RATIOS[band] for length in shapes[band]) != (rows, cols):
                raise DataError(
                    f"{self.path}: {band} has {' x '.join(map(str, shapes[band]))} pixels of "
                    f"{RATIOS[band] * PIXEL_M:g} m, but {reference} covers {rows} x {cols} of 10 m; write it again"
                )
        attributes = read_attributes(self._variable(reference))
        mapping = self._mapping(reference, attributes)
        crs = netcdf_crs(attributes, mapping)
        # The zone of a tile is that of its coordinates, north of the equator from letter N on.
        crs = crs or f"EPSG:{(32700 if self.name.tile[2] < 'N' else 32600) + int(self.name.tile[:2])}"
        try:
            unit = length_unit_of(crs)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error
        return Grid(rows, cols, self._transform(reference, ratio, mapping), crs, length_unit=unit)

    def _mapping(self, group: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes of the variable that holds the CRS, beside the group's or at the root; of Sen4AgriNet, none."""
        name = str(attributes.get("grid_mapping", "spatial_ref"))
        for place in (self._file[group], self._file):
            if name in place:
                return dict(read_attributes(place[name]))
        return {}

    def _transform(self, group: str, ratio: int, mapping: Mapping[str, Any]) -> Affine:
        given = np.ravel(read_attributes(self._variable(group)).get("transform", ())).astype(float)
        stated = given.tolist() if given.size >= 6 else gdal_transform(mapping)
        places = self._file[group]
        if "x" not in places or "y" not in places:
            if stated is None or not np.isfinite(stated).all():
                raise DataError(f"{self.path}: {group} has neither x and y nor a transform: write the file again")
            transform = Affine(*stated[:6])
        else:
            x, y = (read_dataset(places[axis]).astype(float) for axis in "xy")
            # Sen4AgriNet's coordinates are corners, others' the middle of pixels; which, Sentinel-2's grid tells.
            transform = netcdf_transform(str(self.path), x, y, stated=stated, from_zero=True)
        a, b, c, d, e, f = transform[:6]
        return Affine(a / ratio, b / ratio, c, d / ratio, e / ratio, f)


def open_patch(path: Path) -> Patch:
    """Open a patch, as a context manager.

    Raises:
        DataError: the file is missing, no patch, or damaged.
    """
    return Patch(path)


def truth_path(patch: Path) -> Path:
    """Where the true codes of a patch lie whose labels were made wrong on purpose, as in the built-in sample."""
    return patch.with_suffix(".flipped.npz")


def true_labels(patch: Path) -> NDArray[np.uint32] | None:
    """True codes of a patch whose labels were made wrong on purpose; to count errors, never to train on.

    Returns:
        Shape (row, col), uint32; None where nothing is known, as of every real patch.

    Raises:
        DataError: the file beside the patch is damaged.
    """
    path = truth_path(patch)
    if not path.exists():
        return None
    try:
        return np.asarray(read_arrays(path)[_TRUTH], np.uint32)
    except _DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}): make the sample again") from error
