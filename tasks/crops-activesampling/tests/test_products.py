"""Rasters and joined maps, read back by another library, and the pictures of the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import rasterio

from crops_activesampling.mapping import MappedPatch
from crops_activesampling.overlay import differences, draw_confusion, draw_patch, false_colour
from crops_activesampling.products import (
    class_colours,
    mosaic_paths,
    product_paths,
    told,
    write_mosaic,
    write_products,
)
from geocore.errors import DataError
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.raster.write import Legend, read_legend

SIZE = 300
CROPS = {1: "wheat", 2: "maize", 3: "a crop without a colour of its own", 4: "another one"}
CORNER = (300_000.0, 4_700_040.0)


def grid_at(row: int, col: int, *, size: int = SIZE, crs: str = "EPSG:32631", pixel: float = 10.0) -> Grid:
    """The grid of a patch, by the place of its corner in pixels of 10 m."""
    transform = (pixel, 0.0, CORNER[0] + 10 * col, 0.0, -pixel, CORNER[1] - 10 * row)
    return Grid(size, size, transform, crs, length_unit="m")


def drawn(seed: int, size: int = SIZE) -> MappedPatch:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 5, (size, size)).astype(np.uint8)
    probability = np.where(classes, rng.integers(25, 101, (size, size)), 255).astype(np.uint8)
    shares = np.zeros((4, size, size), np.float32)
    np.put_along_axis(shares, np.maximum(classes, 1)[None].astype(np.intp) - 1, probability[None] / 100, 0)
    shares[:, classes == 0] = 0
    return MappedPatch(classes, probability, shares)


def write(folder: Path, name: str, grid: Grid, seed: int) -> MappedPatch:
    found = drawn(seed, grid.height)
    write_products(folder, name, grid, found, np.ones(grid.shape, np.uint32), CROPS)
    return found


def test_rasters_are_cogs_with_names_and_colours(tmp_path: Path) -> None:
    found, grid = drawn(0), grid_at(30, 70)
    parcels = np.repeat(np.arange(SIZE, dtype=np.uint32)[:, None], SIZE, axis=1)
    summary = write_products(tmp_path, "p", grid, found, parcels, CROPS)
    pred, prob, *tables = product_paths(tmp_path, "p")
    for path, nodata, values in ((pred, 0, found.classes), (prob, 255, found.probability)):
        with rasterio.open(path) as source:
            assert (source.dtypes, source.nodata, source.crs.to_epsg()) == (("uint8",), nodata, 32631)
            assert source.transform.to_gdal() == (300_700.0, 10.0, 0.0, 4_699_740.0, 0.0, -10.0)
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert np.array_equal(source.read(1), values)
            assert np.array_equal(source.read_masks(1) == 0, found.classes == 0)
    with rasterio.open(pred) as source:
        tags, colours = source.tags(), source.colormap(1)
        assert {number: tags[f"CLASS_{number}"] for number in CROPS} == CROPS
        assert {number: colours[number][:3] for number in CROPS} == class_colours(CROPS)
    with rasterio.open(prob) as source:
        assert source.descriptions == ("probability of the crop, %",)
    seen = int((found.classes != 0).sum())
    assert (summary["seen_px"], summary["parcels"]) == (seen, SIZE - 1)
    assert summary["percent"]["maize"] == pytest.approx(100 * (found.classes == 2).sum() / seen, abs=0.005)
    assert all(path.exists() for path in tables) and len(list(tmp_path.iterdir())) == 5
    assert read_legend(pred) == Legend(class_colours(CROPS), CROPS)
    # Pixels of 10 m in UTM, 0.05 % smaller or larger on the ground.
    assert summary["class_m2"]["maize"] == pytest.approx(100 * (found.classes == 2).sum(), rel=1e-3)
    areas = {"wheat": 2.5e6, "maize": 12e6, "rye": 0.0}
    summaries = {"a": {"class_m2": areas, "parcels": 3}, "b": {"class_m2": areas, "parcels": 1200}}
    assert told(summaries) == "maize 24 km2, wheat 5 km2; 1,203 parcels"
    assert told({"a": {"class_m2": dict.fromkeys(areas, 0.0), "parcels": 0}}) == "nothing was seen"


def test_every_crop_has_a_colour_of_its_own() -> None:
    names = ["wheat", "maize", "sorghum", "barley", "rye", "oats", "grapes", "rapeseed", "sunflower", "potatoes",
             "peas", "grassland", "crop", "no crop", "x", "Y", "z"]  # fmt: skip
    colours = class_colours(dict(enumerate(names, start=1)))
    assert len(set(colours.values())) == len(names)
    assert class_colours({1: " Wheat "})[1] == colours[1]
    assert len(class_colours({number: str(number) for number in range(1, 256)})) == 255


def test_patches_are_joined_pixel_by_pixel(tmp_path: Path) -> None:
    """Blocks of 512 rows cut patches of 300; one place is empty, and a patch is of another size."""
    corners = {"b": (0, 300, 300), "a": (300, 0, 300), "c": (300, 300, 300), "d": (600, 450, 150)}
    found = {
        name: write(tmp_path, name, grid_at(1000 + row, 50 + col, size=size), seed)
        for seed, (name, (row, col, size)) in enumerate(corners.items())
    }
    summary = write_mosaic(tmp_path, "2020_31TCG", list(corners), CROPS)
    assert summary == {"patches": ["b", "a", "c", "d"], "rows": 750, "cols": 600}
    for path, layer, nodata in zip(
        mosaic_paths(tmp_path, "2020_31TCG"), ("classes", "probability"), (0, 255), strict=True
    ):
        expected = np.full((750, 600), nodata, np.uint8)
        for name, (row, col, size) in corners.items():
            expected[row : row + size, col : col + size] = getattr(found[name], layer)
        with rasterio.open(path) as source:
            assert np.array_equal(source.read(1), expected)
            assert source.nodata == nodata and source.crs.to_epsg() == 32631
            assert source.transform.to_gdal() == (300_500.0, 10.0, 0.0, 4_690_040.0, 0.0, -10.0)
            assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and source.overviews(1)
            assert ("CLASS_1" in source.tags()) == (layer == "classes")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (grid_at(0, 300, crs="EPSG:32632"), "not parts of one grid"),
        (grid_at(0, 300, pixel=20.0), "not parts of one grid"),
        (dataclasses.replace(grid_at(0, 300), transform=(10.0, 0.0, 303_004.0, 0.0, -10.0, CORNER[1])), "of one grid"),
        (grid_at(0, 299), "lie on the same ground"),
        (grid_at(-299, 200), "lie on the same ground"),
    ],
)
def test_patches_that_do_not_fit_together_are_refused(tmp_path: Path, other: Grid, reason: str) -> None:
    write(tmp_path, "a", grid_at(0, 0), 0)
    write(tmp_path, "b", other, 1)
    with pytest.raises(DataError, match=reason) as caught:
        write_mosaic(tmp_path, "m", ["a", "b"], CROPS)
    assert "a" in str(caught.value) and "b" in str(caught.value)
    # Nothing that is incomplete is left.
    assert not [path.name for path in tmp_path.iterdir() if not path.name.startswith(("a_", "b_"))]


def scene_of(values: np.ndarray, bands: tuple[str, ...]) -> Scene:
    times = tuple(f"2019-0{month}-01" for month in range(1, len(values) + 1))
    layer = Layer("medians", Bands.named(*bands, nodata=0), "uint16", times=times)
    return Scene("p", Grid(*values.shape[-2:]), {"medians": ArrayReader(layer, values)})


def test_the_picture_shows_the_composite_with_the_most_data() -> None:
    values = np.random.default_rng(0).integers(1, 4000, (5, 4, 40, 50)).astype(np.uint16)
    values[1, 2, :30] = values[2, 0, 0, 0] = 0
    scene = scene_of(values, ("B02", "B03", "B04", "B08"))
    assert [false_colour(scene, periods)[1] for periods in ([1, 2, 3], [2, 3], [2], [4, 1, 5])] == [
        "2019-01-01", "2019-03-01", "2019-02-01", "2019-04-01"
    ]  # fmt: skip
    picture = false_colour(scene, [4])[0]
    for channel, band in enumerate((3, 2, 1)):
        # Stretched, not bent: the order of the values is kept.
        order = np.argsort(values[3, band].ravel(), kind="stable")
        assert (np.diff(picture[..., channel].ravel()[order].astype(int)) >= 0).all()
        assert picture[..., channel].max() == 255 and picture[..., channel].min() == 0


def test_sheets_show_crops_in_their_colours_and_errors_in_red() -> None:
    truth, found = np.zeros((40, 50), np.uint8), np.ones((40, 50), np.uint8)
    truth[:20], truth[:20, 25:], found[30:] = 1, 2, 0
    parts = differences(truth, found)
    kinds = {"right": parts[0, 0], "wrong": parts[0, 49], "nothing": parts[25, 0]}
    assert (parts[:20, :25] == kinds["right"]).all() and (parts[:20, 25:] == kinds["wrong"]).all()
    assert (parts[20:] == kinds["nothing"]).all() and kinds["wrong"][0] > 150 > kinds["wrong"][1]
    values = np.random.default_rng(0).integers(1, 4000, (2, 2, 40, 50)).astype(np.uint16)
    picture = draw_patch(scene_of(values, ("B05", "B11")), [1, 2], truth, found, CROPS)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and picture.shape[1] > 1000

    def share(colour: tuple[int, int, int] | np.ndarray) -> float:
        return float((picture == np.asarray(colour)).all(axis=-1).mean())

    colours = class_colours(CROPS)
    # A quarter of the labels and three quarters of the map, of a quarter each of some three fifths of the sheet.
    assert share(colours[1]) > 0.08 and share(colours[2]) > 0.02 and share(kinds["wrong"]) > 0.02
    assert share(colours[3]) == 0  # not there, not in the legend


def test_confusion_is_drawn_for_any_number_of_crops_also_without_pixels() -> None:
    empty = draw_confusion(np.zeros((4, 4), np.int64), CROPS)
    full = draw_confusion(np.diag([5, 3, 0, 2]) + 1, CROPS)
    assert empty.shape == full.shape and not np.array_equal(empty, full)
