"""Products as cloud-optimized GeoTIFF, whole or not there at all, with the meaning of their values beside them.

The colour table inside a GeoTIFF knows neither names nor transparency. GDAL, QGIS (3.30 and later) and ArcGIS take both
from the raster attribute table in the file `<raster>.aux.xml` (GDAL's PAM); older QGIS takes the names from there.
"""

from __future__ import annotations

import glob
import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import rasterio
import rasterio.shutil
import rasterio.windows
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from geocore.errors import DiskError
from geocore.raster.gdal import creation_options, is_gdals, threads, unreferenced_allowed
from geocore.raster.grid import Grid
from geocore.storage.files import atomic_path, atomic_write_text, storage_errors
from geocore.storage.names import is_text, plain_path
from geocore.storage.special_files import open_regular

Colour = tuple[int, int, int]
"""Red, green, blue, 0-255."""

_INTEGER, _STRING = 0, 2
_FIELDS = (
    ("Value", _INTEGER, 5),
    ("Class", _STRING, 2),
    ("Red", _INTEGER, 6),
    ("Green", _INTEGER, 7),
    ("Blue", _INTEGER, 8),
    ("Alpha", _INTEGER, 9),
)
"""Name, type and usage of the columns, by GDAL's numbers."""
_MOST_CATEGORIES = 256


@dataclass(frozen=True, slots=True)
class Legend:
    """Names and colours of the values of a raster."""

    colours: Mapping[int, Colour]
    names: Mapping[int, str]
    transparent: frozenset[int] = frozenset()
    """Values that are not drawn, such as background, so that what lies below the map is seen."""

    def alpha(self, value: int) -> int:
        """0 for what is not drawn, else 255."""
        return 0 if value in self.transparent else 255


def write_legend(raster: Path, legend: Legend | None) -> None:
    """Write the file beside a raster; one that is there is replaced, as it spoke of the raster before.

    Args:
        raster: the class map.
        legend: its values; None only removes.

    Raises:
        StorageError: the disk is full or closed.
    """
    path = _beside(raster)
    if legend is None or not (legend.names or legend.colours):
        with storage_errors(path):
            path.unlink(missing_ok=True)
        return
    root = Element("PAMDataset")
    root.append(band := Element("PAMRasterBand", band="1"))
    values = sorted({*legend.colours, *legend.names})
    if values[-1] < _MOST_CATEGORIES:
        band.append(category_names(legend))
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_FIELDS):
        column = SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            SubElement(column, tag).text = str(text)
    for index, value in enumerate(values):
        row = SubElement(table, "Row", index=str(index))
        colour = legend.colours.get(value, (0, 0, 0))
        for cell in (value, legend.names.get(value, ""), *colour, legend.alpha(value)):
            SubElement(row, "F").text = str(cell)
    ElementTree.indent(root)
    atomic_write_text(path, ElementTree.tostring(root, encoding="unicode") + "\n")


def category_names(legend: Legend) -> Element:
    """Names of the values from 0 on, as PAM and VRT files hold them."""
    names = Element("CategoryNames")
    for value in range(max(*legend.colours, *legend.names, 0) + 1):
        SubElement(names, "Category").text = legend.names.get(value, "")
    return names


def read_legend(raster: Path) -> Legend | None:
    """What `write_legend` wrote beside a raster; None where nothing is there, or something else."""
    try:
        with open_regular(_beside(raster)) as file:
            rows = ElementTree.parse(file).getroot().findall(".//GDALRasterAttributeTable/Row")
        cells = [[cell.text or "" for cell in row.findall("F")] for row in rows]
        found = {int(value): (name, (int(r), int(g), int(b)), int(alpha)) for value, name, r, g, b, alpha in cells}
    except (OSError, ValueError, ElementTree.ParseError):
        return None
    if not found:
        return None
    return Legend(
        {value: colour for value, (_, colour, _) in found.items()},
        {value: name for value, (name, _, _) in found.items() if name},
        frozenset(value for value, (_, _, alpha) in found.items() if not alpha),
    )


def _beside(raster: Path) -> Path:
    return raster.with_name(f"{raster.name}.aux.xml")


BLOCK_PX = 512
"""Side of a block; windows written should start and end at its multiples, or blocks are compressed several times."""

Overviews = Literal["nearest", "average"]

_DIRECTORY_BYTES = 1 << 16
"""At least as much as the directories of a small TIFF and its overviews take."""


class RasterWriter:
    """Writes a raster window by window in bounded memory; the file appears, complete, when the writer is closed.

    Windows go to a hidden file beside the final one. Pixels never written are nodata, or 0 without a nodata value.
    As a context manager it leaves nothing behind when its block raises.

    Args:
        path: the final file, ending in .tif.
        grid: shape and georeference.
        count: number of bands.
        dtype: numpy name of the type.
        nodata: value that marks invalid pixels.
        band_names: one description per band.
        colours: class value -> (red, green, blue), each 0-255; for one band of uint8 or uint16.
        class_names: class value -> name, stored as the tags CLASS_<value> and in the legend (`geocore.raster.write`).
        transparent: classes that a GIS does not draw, such as background.
        overviews: "nearest" for classes, "average" for quantities; None: nearest when there are colours or class
            names.
        cog: False leaves out overviews, for small files that only programs read.

    Raises:
        ValueError: the options contradict each other.
        StorageError: the disk is full, read-only or closed to the user.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        grid: Grid,
        count: int,
        dtype: str,
        nodata: float | None = None,
        band_names: Sequence[str] | None = None,
        colours: Mapping[int, Colour] | None = None,
        class_names: Mapping[int, str] | None = None,
        transparent: Collection[int] = (),
        overviews: Overviews | None = None,
        cog: bool = True,
    ) -> None:
        if band_names is not None and len(band_names) != count:
            raise ValueError(f"{len(band_names)} band names for {count} bands")
        if colours and (count != 1 or dtype not in ("uint8", "uint16")):
            raise ValueError(f"a colour table needs one band of uint8 or uint16, not {count} of {dtype}")
        self.path = Path(path)
        self.grid = grid
        self._shape = (count, *grid.shape)
        self._dtype = np.dtype(dtype)
        self._cog = cog
        self._legend = Legend(colours or {}, class_names or {}, frozenset(transparent)) if cog else None
        self._overviews = overviews or ("nearest" if colours or class_names else "average")
        options: dict[str, Any] = {"dtype": dtype, "count": count, "nodata": nodata} | creation_options(grid)
        with ExitStack() as stack:
            final = stack.enter_context(atomic_path(self.path))
            self._final = final if is_text(final) else stack.enter_context(plain_path(final))
            stack.callback(_remove_working_files, self._final)
            self._working = self._final.with_name(f"{self._final.name}.working.tif") if cog else self._final
            with _gdal_errors(self.path):
                if not cog:
                    _check_room(self.path, count * grid.height * grid.width * self._dtype.itemsize)
                self._dataset = _create(self._working, options, passing=cog)
                stack.callback(self._dataset.close)
                self._describe(band_names, colours, class_names)
            self._stack = stack.pop_all()

    def _describe(
        self,
        band_names: Sequence[str] | None,
        colours: Mapping[int, Colour] | None,
        class_names: Mapping[int, str] | None,
    ) -> None:
        if band_names is not None:
            self._dataset.descriptions = tuple(band_names)
        if colours:
            self._dataset.write_colormap(1, {value: (*colour, 255) for value, colour in colours.items()})
        if class_names:
            self._dataset.update_tags(**{f"CLASS_{value}": name for value, name in class_names.items()})

    def write(self, values: NDArray[Any], row: int = 0, col: int = 0) -> None:
        """Write a window, from one thread at a time.

        Args:
            values: shape (band, row, col), of the writer's dtype.
            row: first row of the window.
            col: first column; windows best start and end at multiples of `BLOCK_PX`.

        Raises:
            ValueError: the values have another type or band count, or reach outside the grid.
            DiskError: the disk is full.
        """
        if values.dtype != self._dtype or values.ndim != 3 or values.shape[0] != self._shape[0]:
            raise ValueError(
                f"values of shape {values.shape} and type {values.dtype}: the writer takes {self._shape[0]} bands of "
                f"{self._dtype} as (band, row, col)"
            )
        _, height, width = values.shape
        if row < 0 or col < 0 or row + height > self.grid.height or col + width > self.grid.width:
            raise ValueError(f"{height} x {width} pixels at ({row}, {col}) reach outside the grid {self.grid.shape}")
        with _gdal_errors(self.path):
            self._dataset.write(values, window=rasterio.windows.Window(col, row, width, height))

    def close(self) -> None:
        """Finish the file and put it in its place; does nothing when already closed.

        Raises:
            DiskError: the disk is full.
        """
        with self._stack.pop_all(), _gdal_errors(self.path):
            if self._dataset.closed:
                return
            with rasterio.Env():  # GDAL would tell the terminal of each block that it could not write
                self._dataset.close()
            _check_whole(self._working, self.path)
            if self._cog:
                # Packed tighter, but with overviews, which lie beside it until it is whole.
                _check_room(self.path, 2 * self._working.stat().st_size)
                _translate(self._working, self._final, self._overviews)
                _check_whole(self._final, self.path)
            write_legend(self.path, self._legend)  # a map that is there has the one that belongs to it

    def discard(self) -> None:
        """Give up: remove what was written and leave a file at `path` as it was."""
        with suppress(_Discarded), self._stack.pop_all():
            raise _Discarded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def write_raster(
    path: Path | str,
    values: NDArray[Any],
    *,
    grid: Grid,
    nodata: float | None = None,
    band_names: Sequence[str] | None = None,
    colours: Mapping[int, Colour] | None = None,
    class_names: Mapping[int, str] | None = None,
    transparent: Collection[int] = (),
    overviews: Overviews | None = None,
    cog: bool = True,
) -> None:
    """Write a raster that is in memory.

    Args:
        path: the file, ending in .tif; replaced when it exists.
        values: shape (band, row, col) or (row, col), of the grid's size; bool is stored as uint8.
        grid: shape and georeference.
        nodata: value that marks invalid pixels.
        band_names: one description per band.
        colours: class value -> (red, green, blue), as for `RasterWriter`.
        class_names: class value -> name.
        transparent: as for `RasterWriter`.
        overviews: "nearest" or "average"; None: nearest when there are colours or class names.
        cog: False leaves out overviews, for small files that only programs read.

    Raises:
        ValueError: the values do not have the grid's size, or the options contradict each other.
        StorageError: the disk is full, read-only or closed to the user.
    """
    planes = values[np.newaxis] if values.ndim == 2 else values
    if planes.ndim != 3 or planes.shape[1:] != grid.shape:
        raise ValueError(f"values of shape {values.shape} for a grid of {grid.shape}")
    if planes.dtype == np.bool_:
        planes = planes.astype(np.uint8)
    planes = planes.astype(planes.dtype.newbyteorder("="), copy=False)
    with RasterWriter(
        path,
        grid=grid,
        count=planes.shape[0],
        dtype=planes.dtype.name,
        nodata=nodata,
        band_names=band_names,
        colours=colours,
        class_names=class_names,
        transparent=transparent,
        overviews=overviews,
        cog=cog,
    ) as writer:
        writer.write(planes)


class _Discarded(Exception):
    """Makes `atomic_path` take its way out for errors."""


@contextmanager
def _gdal_errors(path: Path) -> Iterator[None]:
    """GDAL reports a full disk as a failed write without an error number; say what is likely."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, RasterioError) and not is_gdals(error):
            raise
        reason = str(error).splitlines()[0]
        raise DiskError(
            f"{path}: cannot be written ({reason}); is the disk full? free some space or write elsewhere"
        ) from error


def _check_room(path: Path, needed: int) -> None:
    """Refuse to begin what may not fit.

    Where a disk fills up while libtiff writes a file of the classic kind, it may end up in an endless loop: it looks
    for a directory, reads zeros, and takes the header for one, then its link for the next.
    """
    needed += _DIRECTORY_BYTES
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise DiskError(
            f"{path}: no space left on the disk: {free / 1e6:.3g} MB are free and up to {needed / 1e6:.3g} MB may be "
            "needed; free some or write elsewhere"
        )


def _create(path: Path, options: Mapping[str, Any], *, passing: bool) -> Any:
    """Open a new file.

    Args:
        path: the file.
        options: of `rasterio.open`.
        passing: whether it will be read once, to be compressed again.
    """
    with unreferenced_allowed():
        return rasterio.open(
            path,
            "w",
            driver="GTiff",
            tiled=True,
            blockxsize=_block_side(options["width"]),
            blockysize=_block_side(options["height"]),
            interleave="pixel",
            # GDAL takes three or four bands of bytes for a photograph, and the fourth for its alpha.
            photometric="MINISBLACK",
            compress="deflate",
            zlevel=1 if passing else 6,
            # Blocks are compressed by GDAL's threads while the caller makes the next ones.
            num_threads=threads(),
            # Of the big kind a full disk makes no endless loop, see `_check_room`.
            bigtiff="YES" if passing else "IF_SAFER",
            **options,
        )


def _translate(source: Path, target: Path, overviews: Overviews) -> None:
    rasterio.shutil.copy(
        source,
        target,
        driver="COG",
        compress="deflate",
        predictor="YES",
        blocksize=BLOCK_PX,
        overview_resampling=overviews.upper(),
        bigtiff="IF_SAFER",
        num_threads=threads(),
    )


def _check_whole(file: Path, path: Path) -> None:
    """Look up every block: GDAL writes blocks still in its cache when it closes a file, and swallows their errors."""
    size = file.stat().st_size
    with _open(file) as dataset:
        levels = [None, *range(len(dataset.overviews(1)))]
    for level in levels:
        with _open(file, level) as dataset:
            rows, cols = dataset.block_shapes[0]
            for row, col in np.ndindex(math.ceil(dataset.height / rows), math.ceil(dataset.width / cols)):
                offset = dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1)
                length = dataset.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=1)
                if offset is None or length is None or int(offset) + int(length) > size:
                    raise DiskError(f"{path}: cannot be written whole; is the disk full? free some or write elsewhere")


def _open(file: Path, overview_level: int | None = None) -> Any:
    options = {} if overview_level is None else {"overview_level": overview_level}
    with unreferenced_allowed():
        return rasterio.open(file, **options)


def _remove_working_files(final: Path) -> None:
    # The COG driver leaves its own temporary files, named after the target, when it fails.
    for file in final.parent.glob(f"{glob.escape(final.name)}?*"):
        file.unlink(missing_ok=True)


def _block_side(length: int) -> int:
    """At most `BLOCK_PX`; a TIFF block is a multiple of 16."""
    return min(BLOCK_PX, -(-length // 16) * 16)
