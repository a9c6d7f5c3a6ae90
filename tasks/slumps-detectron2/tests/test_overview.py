"""What prepare tells of areas and their slumps, by value, and the part of them that is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest

from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from geocore.report.overview import area, lines
from geocore.report.preview import UNLABELLED
from slumps_detectron2.config import CutSettings, PrepareSettings
from slumps_detectron2.data import describe
from slumps_detectron2.overview import VIEW_PX, overview_of, preview_of

CUT = CutSettings(size=32, stride=16, least_slump_px=1)
PLACE = (500_000.0, 7_900_000.0)


def grid(shape: tuple[int, int], *, place: int = 0, crs: str | None = "EPSG:32652") -> Grid:
    """One of several places north of each other."""
    transform = (10.0, 0.0, PLACE[0], 0.0, -10.0, PLACE[1] + 20_000 * place)
    return Grid(*shape, transform, crs, length_unit="m") if crs else Grid(*shape)


def describe_scenes(folder: Path, ids: dict[str, np.ndarray], **options: str | None) -> PrepareSettings:
    """Settings for scenes of three bands and their instance rasters, one for each split."""
    rows = []
    for place, (split, its) in enumerate(ids.items()):
        values = np.random.default_rng(place).integers(1, 2000, (3, *its.shape), np.uint16)
        values[:, :2] = 0
        where = grid((its.shape[0], its.shape[1]), place=place, **options)
        write_raster(
            folder / f"{split}.tif", values, grid=where, nodata=0, band_names=["blue", "green", "red"], cog=False
        )
        write_raster(folder / f"{split}_ids.tif", its, grid=where, cog=False)
        rows.append(f"{split}.tif,{split}_ids.tif,{split},{split}\n")
    (folder / "pairs.csv").write_text("image,label,region,split\n" + "".join(rows))
    return PrepareSettings(data=folder / "pairs.csv", out=folder / "out", label_kind="instances", cut=CUT)


def squares(shape: tuple[int, int], *sizes: int) -> np.ndarray:
    """Squares of such sides along a row, each a slump."""
    ids = np.zeros(shape, np.uint16)
    for number, size in enumerate(sizes):
        ids[10 : 10 + size, 5 + 20 * number : 5 + 20 * number + size] = number + 1
    return ids


def test_slumps_are_counted_and_measured_on_the_ground(tmp_path: Path) -> None:
    shape = (60, 100)
    ids = {"train": squares(shape, 4, 10), "val": squares(shape, 6), "test": squares(shape)}
    said = list(lines(overview_of(describe(describe_scenes(tmp_path, ids)))))
    assert said[:4] == [
        "       areas  regions  slumps  labelled  background   slump",
        # Two of sixty rows have no data; 116 of 5800 pixels are slumps, and 36.
        "train      1        1       2      97 %        98 %   2.0 %",
        "val        1        1       1      97 %      99.4 %  0.62 %",
        "test       1        1       0      97 %       100 %     0 %",
    ]
    size = next(line for line in said if line.startswith("size of a slump: "))
    corners = [(PLACE[0] + 50 + x, PLACE[1] - 100 - y) for x, y in ((0, 0), (40, 0), (40, 40), (0, 40))]
    lon, lat = pyproj.Transformer.from_crs("EPSG:32652", "EPSG:4326", always_xy=True).transform(*np.transpose(corners))
    smallest = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])
    # In the middle of the zone the ground is larger than on the map.
    assert smallest == pytest.approx(1600 / 0.9996**2, rel=1e-4)
    assert size.startswith(f"size of a slump: 16 px to 100 px, median 36 px, on the ground {area(smallest)} to ")
    assert "note: split test has no slump, so that nothing can be found there" in said


def test_without_georeference_pixels_are_told_alone(tmp_path: Path) -> None:
    ids = {split: squares((60, 100), 4) for split in ("train", "val", "test")}
    said = list(lines(overview_of(describe(describe_scenes(tmp_path, ids, crs=None)))))
    assert "size of a slump: 16 px" in said


def test_of_a_large_area_the_surroundings_of_the_largest_slump_are_drawn(tmp_path: Path) -> None:
    ids = np.zeros((900, 1500), np.uint16)
    ids[5:9, 5:9] = 1
    ids[700:740, 1460:1490] = 2
    small = {split: squares((60, 100), 4) for split in ("val", "test")}
    dataset = describe(describe_scenes(tmp_path, {"train": ids, **small}))
    preview = preview_of(dataset, dataset.split("train")[0])
    assert preview.title == f"train ({VIEW_PX} x {VIEW_PX} px of it)"
    # The window ends at the border of the scene: columns 780 to 1499, rows 180 to 899; 720 px become 480.
    rows, cols = np.nonzero(preview.marks["instances"].classes == 1)
    assert preview.valid.shape == (480, 480) and preview.valid.all()
    assert rows.min() == pytest.approx((700 - 180) / 1.5, abs=1) and rows.max() == pytest.approx(
        (740 - 180) / 1.5 - 1, abs=1
    )
    assert cols.min() == pytest.approx((1460 - 780) / 1.5, abs=1) and cols.max() == pytest.approx(
        (1490 - 780) / 1.5 - 1, abs=1
    )


def test_colours_are_those_of_the_bands_and_pixels_without_data_are_marked(tmp_path: Path) -> None:
    ids = {split: squares((60, 100), 4, 10) for split in ("train", "val", "test")}
    dataset = describe(describe_scenes(tmp_path, ids))
    overview = overview_of(dataset)
    assert overview.shown == "true colour"
    preview = preview_of(dataset, dataset.samples[0])
    stored = np.random.default_rng(0).integers(1, 2000, (3, 60, 100), np.uint16)
    assert (preview.values[:, 2:] == stored[::-1, 2:]).all()
    assert not preview.valid[:2].any() and preview.valid[2:].all()
    marks = preview.marks["instances"]
    assert (marks.classes[:2] == UNLABELLED).all()
    assert marks.regions is not None and len(np.unique(marks.regions)) == 3
    assert (marks.classes[2:] == (ids["train"][2:] > 0)).all()
