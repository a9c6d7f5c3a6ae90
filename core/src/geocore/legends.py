"""What the values of a class map mean, as a GIS reads it: names and colours in an `.aux.xml` beside the raster.

The colour table inside a GeoTIFF knows neither names nor transparency. GDAL, QGIS (3.30 and later) and ArcGIS take both
from the raster attribute table in the file `<raster>.aux.xml` (GDAL's PAM); older QGIS takes the names from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from geocore.files import atomic_write_text, storage_errors
from geocore.specials import open_regular

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
