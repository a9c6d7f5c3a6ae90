"""One file to open for many maps: a virtual raster (GDAL's VRT) that names them and holds none of their pixels."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from affine import Affine
from rasterio.crs import CRS

from geocore.errors import SceneError
from geocore.raster.gdal import grid_of, open_dataset
from geocore.raster.grid import Grid
from geocore.raster.write import Legend, category_names, read_legend
from geocore.storage.files import atomic_write_text, storage_errors
from geocore.terminal import one_line

logger = logging.getLogger(__name__)

_TOLERANCE: Final = 1e-6
"""Of the north-up rule, as a share of a pixel."""


def write_mosaics(folder: Path, stem: str, rasters: Sequence[Path]) -> list[Path]:
    """Join maps of one kind: one virtual raster for each CRS, since a VRT cannot hold two.

    Where maps overlap the later one is seen; its pixels without data are not.

    Args:
        folder: where to; the maps are named relative to it.
        stem: name of the file; the code of the CRS comes behind where there are several.
        rasters: the maps, of one type, band count and nodata value. Those without an upright georeference, those that
            cannot be read, and those whose names XML cannot hold are left out.

    Returns:
        The files, empty where fewer than two maps can be joined.

    Raises:
        StorageError: the folder cannot be written.
    """
    groups: dict[str, list[_Map]] = {}
    for path in rasters:
        found = _read(path)
        if found is not None and not _can_be_named(path):
            if len(rasters) > 1:
                logger.info("%s: its name cannot stand in a virtual raster, so %s.vrt lacks it", path, stem)
        elif found is not None:
            groups.setdefault(str(found.grid.crs), []).append(found)
    if sum(map(len, groups.values())) < 2:
        return []
    written = []
    for number, (crs, maps) in enumerate(groups.items(), start=1):
        code = re.sub(r"\W", "", crs) if re.fullmatch(r"\w+:\w+", crs) else f"CRS{number}"
        path = folder / (f"{stem}.vrt" if len(groups) == 1 else f"{stem}_{code}.vrt")
        root = _virtual(folder, maps)
        ElementTree.indent(root)
        atomic_write_text(path, ElementTree.tostring(root, encoding="unicode") + "\n")
        written.append(path)
    with storage_errors(folder):  # those of a call before maps in another CRS came, and nothing a user put there
        named = re.compile(rf"{re.escape(stem)}(_[A-Z]+\d+)?\.vrt")
        for old in folder.glob("*.vrt"):
            if named.fullmatch(old.name) and old not in written:
                old.unlink(missing_ok=True)
    return written


def _can_be_named(path: Path) -> bool:
    """Whether XML keeps a name as it is: no control characters, no bytes that are no text, no space at its ends."""
    return one_line(path.name) == path.name == path.name.strip()


@dataclass(frozen=True, slots=True)
class _Map:
    path: Path
    grid: Grid
    dtypes: tuple[str, ...]
    nodata: float | None
    names: tuple[str | None, ...]
    legend: Legend | None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, pixel width, pixel height."""
        a, _, c, _, e, f = (self.grid.transform or Affine.scale(1.0, -1.0))[:6]
        return c, f, a, -e


def _read(path: Path) -> _Map | None:
    """What a VRT repeats of a map; None when it cannot hold the map."""
    try:
        with closing(open_dataset(path)) as dataset:
            grid = grid_of(dataset)
            found = _Map(path, grid, dataset.dtypes, dataset.nodata, dataset.descriptions, read_legend(path))
    except SceneError:  # the map of an earlier call, damaged since
        return None
    if grid.transform is None or grid.crs is None:
        return None
    a, b, _, d, e, _ = grid.transform[:6]
    return None if a <= 0 or e >= 0 or max(abs(b), abs(d)) > _TOLERANCE * a else found


_GDAL_TYPES: Final[Mapping[str, str]] = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}


def _virtual(folder: Path, maps: Sequence[_Map]) -> Element:
    first = maps[0]
    width, height = min(each.box[2] for each in maps), min(each.box[3] for each in maps)
    left, top = min(each.box[0] for each in maps), max(each.box[1] for each in maps)
    right = max(each.box[0] + each.grid.width * each.box[2] for each in maps)
    bottom = min(each.box[1] - each.grid.height * each.box[3] for each in maps)
    cols, rows = round((right - left) / width), round((top - bottom) / height)
    root = Element("VRTDataset", rasterXSize=str(max(cols, 1)), rasterYSize=str(max(rows, 1)))
    SubElement(root, "SRS").text = _wkt(str(first.grid.crs))
    SubElement(root, "GeoTransform").text = ", ".join(map(repr, (left, width, 0.0, top, 0.0, -height)))
    for band, (dtype, name) in enumerate(zip(first.dtypes, first.names, strict=True), start=1):
        raster = SubElement(root, "VRTRasterBand", dataType=_GDAL_TYPES[dtype], band=str(band))
        if name:
            SubElement(raster, "Description").text = name
        if first.nodata is not None:
            SubElement(raster, "NoDataValue").text = _plain(first.nodata)
        if band == 1 and first.legend is not None:
            raster.extend(_palette(first.legend))
        for each in maps:
            raster.append(_source(folder, each, band, (left, top, width, height)))
    return root


def _palette(legend: Legend) -> Iterator[Element]:
    kind = Element("ColorInterp")
    kind.text = "Palette"
    yield kind
    table = Element("ColorTable")
    for value in range(max(legend.colours) + 1):
        # What is no class is not drawn.
        red, green, blue = legend.colours.get(value, (0, 0, 0))
        alpha = legend.alpha(value) if value in legend.colours else 0
        SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4=str(alpha))
    yield table
    yield category_names(legend)


def _source(folder: Path, each: _Map, band: int, frame: tuple[float, float, float, float]) -> Element:
    left, top, width, height = frame
    c, f, a, e = each.box
    source = Element("ComplexSource" if each.nodata is not None else "SimpleSource")
    relative = os.path.relpath(each.path.absolute(), folder.absolute())
    SubElement(source, "SourceFilename", relativeToVRT="1").text = Path(relative).as_posix()
    SubElement(source, "SourceBand").text = str(band)
    whole = {"xOff": "0", "yOff": "0", "xSize": str(each.grid.width), "ySize": str(each.grid.height)}
    SubElement(source, "SrcRect", whole)
    place = {
        "xOff": (c - left) / width,
        "yOff": (top - f) / height,
        "xSize": each.grid.width * a / width,
        "ySize": each.grid.height * e / height,
    }
    SubElement(source, "DstRect", {name: repr(float(value)) for name, value in place.items()})
    if each.nodata is not None:
        SubElement(source, "NODATA").text = _plain(each.nodata)
    return source


def _wkt(crs: str) -> str:
    return str(CRS.from_user_input(crs).to_wkt())


def _plain(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else repr(value)
