"""Legends: names, colours and transparency of classes, as GDAL's PAM holds them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from geocore.raster.grid import Grid
from geocore.raster.write import Legend, RasterWriter, read_legend, write_legend, write_raster

GRID = Grid(40, 50, (10.0, 0.0, 500000.0, 0.0, -10.0, 7000000.0), "EPSG:32608", length_unit="m")
COLOURS = {0: (0, 0, 0), 1: (214, 39, 40), 3: (1, 2, 3)}
NAMES = {0: "background", 1: "slump & scar", 3: "gully"}


def test_a_class_map_has_its_legend_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a_pred.tif"
    values = np.zeros(GRID.shape, np.uint8)
    write_raster(path, values, grid=GRID, nodata=255, colours=COLOURS, class_names=NAMES, transparent=(0,))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a_pred.tif", "a_pred.tif.aux.xml"]
    assert read_legend(path) == Legend(COLOURS, NAMES, frozenset([0]))
    with rasterio.open(path) as file:  # which reads the file beside it
        assert sorted(file.files) == sorted(map(str, tmp_path.iterdir()))
        assert file.tags()["CLASS_1"] == "slump & scar" and file.colormap(1)[1] == (214, 39, 40, 255)
    root = ElementTree.parse(tmp_path / "a_pred.tif.aux.xml").getroot()
    band = root.find("PAMRasterBand[@band='1']")
    assert band is not None
    assert [each.text or "" for each in band.findall("CategoryNames/Category")] == [
        "background",
        "slump & scar",
        "",
        "gully",
    ]
    table = band.find("GDALRasterAttributeTable[@tableType='thematic']")
    assert table is not None
    # GDAL's numbers: MinMax 5, Name 2, Red to Alpha 6 to 9; integers are 0, texts 2.
    usages = [(each.findtext("Usage"), each.findtext("Type")) for each in table.findall("FieldDefn")]
    assert usages == [("5", "0"), ("2", "2"), ("6", "0"), ("7", "0"), ("8", "0"), ("9", "0")]
    rows = [[cell.text for cell in row.findall("F")] for row in table.findall("Row")]
    assert rows[0] == ["0", "background", "0", "0", "0", "0"]
    assert rows[1] == ["1", "slump & scar", "214", "39", "40", "255"]


def test_a_legend_goes_with_the_map_that_it_spoke_of(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_raster(path, np.zeros(GRID.shape, np.uint8), grid=GRID, colours=COLOURS, class_names=NAMES)
    write_raster(path, np.zeros(GRID.shape, np.float32), grid=GRID)
    assert read_legend(path) is None and not (tmp_path / "a.tif.aux.xml").exists()
    # A map that is given up leaves the one before it, with its legend.
    write_raster(path, np.zeros(GRID.shape, np.uint8), grid=GRID, class_names=NAMES)
    with pytest.raises(ZeroDivisionError), RasterWriter(path, grid=GRID, count=1, dtype="uint8", class_names={0: "x"}):
        raise ZeroDivisionError
    assert read_legend(path) == Legend({0: (0, 0, 0), 1: (0, 0, 0), 3: (0, 0, 0)}, NAMES)


def test_large_values_are_in_the_table_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_legend(path, Legend({}, {4000: "layer 4000"}))
    assert read_legend(path) == Legend({4000: (0, 0, 0)}, {4000: "layer 4000"})
    assert "Category" not in (tmp_path / "a.tif.aux.xml").read_text()


@pytest.mark.parametrize(
    "text", ["", "<PAMDataset", "<PAMDataset/>", "<a><GDALRasterAttributeTable><Row/></GDALRasterAttributeTable></a>"]
)
def test_another_program_may_have_written_there(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tif.aux.xml").write_text(text)
    assert read_legend(tmp_path / "a.tif") is None
