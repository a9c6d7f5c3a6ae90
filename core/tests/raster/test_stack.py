from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from geocore.errors import SceneError
from geocore.raster.declarations import Declaration
from geocore.raster.grid import Grid, Window
from geocore.raster.stack import BandRef, BandStack, open_stack
from geocore.raster.write import write_raster

UTM = Grid(100, 130, (10.0, 0.0, 500000.0, 0.0, -10.0, 8000000.0), "EPSG:32652", length_unit="m")


def image(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def sentinel(folder: Path) -> dict[str, BandRef]:
    """Bands of 10, 20 and 60 m; 100 x 130 pixels are no multiple of 6."""
    files = {}
    for band, ratio in (("B01", 6), ("B02", 1), ("B8A", 2)):
        grid = UTM.coarser(ratio)
        write_raster(folder / f"{band}.tif", image(grid.shape, seed=ratio), grid=grid, nodata=0)
        files[band] = BandRef(folder / f"{band}.tif", given=Declaration(scale=1e-4, offset=-0.1))
    return files


def dem(folder: Path, name: str = "dem", size: float = 0.0005, **options: Any) -> Path:
    """Heights in degrees, with a hole, over the middle of `UTM`; 90 x 60 pixels."""
    x, y = Transformer.from_crs(32652, 4326, always_xy=True).transform(500000 + 650, 8000000 - 500)
    place = Affine(size, 0, x - 30 * size, 0, -size, y + 45 * size)
    heights = np.random.default_rng(3).normal(100, 5, (1, 90, 60)).astype("float32")
    heights[0, 40:46, 24:36] = -9999
    path = folder / f"{name}.tif"
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=90, width=60, dtype="float32", crs="EPSG:4326", transform=place,
        **{"nodata": -9999} | options,
    ) as file:  # fmt: skip
        file.write(heights)
    return path


def test_coarse_bands_are_repeated_on_the_finest_grid(tmp_path: Path) -> None:
    with open_stack("s2", sentinel(tmp_path)) as scene:
        assert scene.grid == UTM
        assert scene.layers["image"].bands.names == ("B01", "B02", "B8A")
        assert scene.layers["image"].dtype == "uint16"
        assert {band.nodata for band in scene.layers["image"].bands} == {0}
        assert scene.layers["image"].bands["B8A"].offset == -0.1
        patch = scene.read_layers(scene.grid.whole)["image"]
    for band, ratio in enumerate((6, 1, 2)):
        coarse = image(UTM.coarser(ratio).shape, seed=ratio)
        expected = coarse.repeat(ratio, 0).repeat(ratio, 1)[:100, :130]
        np.testing.assert_array_equal(patch.values[band], expected)
    assert patch.valid.all()


def test_bands_of_one_file_are_read_at_once_and_put_in_the_order_asked_for(tmp_path: Path) -> None:
    values = image((3, 100, 130))
    write_raster(tmp_path / "a.tif", values, grid=UTM, band_names=["red", "green", "blue"])
    other = image((100, 130), "float32", 5)
    write_raster(tmp_path / "b.tif", other, grid=UTM)
    files = {
        "green": BandRef(tmp_path / "a.tif", "green"),
        "height": BandRef(tmp_path / "b.tif"),
        "red": BandRef(tmp_path / "a.tif", "1"),
    }
    with closing(BandStack(files)) as source:
        assert len(source._members) == 2
        assert source.layer.dtype == "float32"
        patch = source.read(Window(3, 4, 50, 60))
    np.testing.assert_array_equal(patch.values, np.stack([values[1], other, values[0]])[:, 3:53, 4:64])


def positions(place: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    a, b, c, d, e, f = (~place)[:6]
    return a * x + b * y + c, d * x + e * y + f


@pytest.fixture(scope="module")
def warped(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, BandRef], Grid, Any]:
    """A stack of all three kinds, on a grid larger than a block that is warped, and all of it."""
    folder = tmp_path_factory.mktemp("warped")
    grid = dataclasses.replace(UTM, height=600, width=700)
    write_raster(folder / "B02.tif", image(grid.shape), grid=grid)
    write_raster(folder / "B8A.tif", image(grid.coarser(2).shape, seed=2), grid=grid.coarser(2))
    x, y = Transformer.from_crs(32652, 4326, always_xy=True).transform(503500, 7997000)
    place = Affine(2e-3, 2e-4, x - 0.05, -1e-4, -5e-4, y + 0.012)
    values = np.random.default_rng(1).normal(size=(1, 50, 60)).astype("float32")
    values[0, 20, 30] = np.nan
    with rasterio.open(
        folder / "turned.tif", "w", driver="GTiff", count=1, height=50, width=60, dtype="float32", crs="EPSG:4326",
        transform=place, nodata=np.nan,
    ) as file:  # fmt: skip
        file.write(values)
    east, north = Transformer.from_crs(32652, 32651, always_xy=True).transform(503500, 7997000)
    with rasterio.open(
        folder / "classes.tif", "w", driver="GTiff", count=1, height=900, width=900, dtype="uint8", crs="EPSG:32651",
        transform=Affine(7, 0, east - 3000, 0, -7, north + 3000), tiled=True,
    ) as file:  # fmt: skip
        file.write(image((1, 900, 900), "uint8", 4))
    files = {
        "B02": BandRef(folder / "B02.tif"),
        "B8A": BandRef(folder / "B8A.tif"),
        "turned": BandRef(folder / "turned.tif"),
        "mean": BandRef(folder / "classes.tif"),
        "classes": BandRef(folder / "classes.tif", interpolation="nearest"),
    }
    with open_stack("s", files, reference="B02") as scene:
        return files, grid, scene.read_layers(scene.grid.whole)["image"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 599), st.integers(0, 699), st.integers(1, 400), st.integers(1, 400))
def test_a_window_equals_the_crop_of_a_whole_read(
    warped: tuple[dict[str, BandRef], Grid, Any], row: int, col: int, height: int, width: int
) -> None:
    files, grid, whole = warped
    window = Window(row, col, height, width).intersection(grid.whole)
    assert window is not None
    with open_stack("s", files, reference="B02") as scene:
        patch = scene.read_layers(window)["image"]
    place = (slice(None), *window.slices)
    np.testing.assert_array_equal(patch.values, whole.values[place])
    np.testing.assert_array_equal(patch.valid, whole.valid[place])


def test_what_is_warped_lies_where_it_should(warped: tuple[dict[str, BandRef], Grid, Any]) -> None:
    """Compared with nearest and bilinear interpolation at the exact place of every pixel's centre."""
    files, grid, whole = warped
    assert grid.transform is not None
    a, _, c, _, e, f = grid.transform[:6]
    xs, ys = np.meshgrid(c + a * (np.arange(700) + 0.5), f + e * (np.arange(600) + 0.5))
    with rasterio.open(files["turned"].path) as file:
        heights, place = file.read(1), file.transform
    lon, lat = Transformer.from_crs(32652, 4326, always_xy=True).transform(xs, ys)
    col, row = positions(place, lon, lat)
    inside = (col > 1) & (col < 58) & (row > 1) & (row < 48)
    assert inside.sum() > 50_000
    left, top = np.floor(col - 0.5).astype(int), np.floor(row - 0.5).astype(int)
    right, below = col - 0.5 - left, row - 0.5 - top
    left, top = left.clip(0, 58), top.clip(0, 48)
    expected = (heights[top, left] * (1 - right) + heights[top, left + 1] * right) * (1 - below)
    expected += (heights[top + 1, left] * (1 - right) + heights[top + 1, left + 1] * right) * below
    sure = inside & np.isfinite(expected)
    # Places are exact to a hundredth of a pixel, and neighbours differ by less than 8.
    assert np.abs(whole.values[2] - expected)[sure].max() < 0.16
    assert np.abs(whole.values[2] - expected)[sure].mean() < 0.01
    assert whole.valid[2][sure].all()
    assert not whole.valid[2][(col < -0.6) | (col > 60.6) | (row < -0.6) | (row > 50.6)].any()

    with rasterio.open(files["classes"].path) as file:
        classes, place = file.read(1), file.transform
    east, north = Transformer.from_crs(32652, 32651, always_xy=True).transform(xs, ys)
    col, row = positions(place, east, north)
    edge = np.minimum(np.abs(col - np.round(col)), np.abs(row - np.round(row)))
    sure = (col > 0.02) & (col < 899.98) & (row > 0.02) & (row < 899.98) & (edge > 0.02)
    assert sure.sum() > 50_000
    np.testing.assert_array_equal(whole.values[4][sure], classes[row[sure].astype(int), col[sure].astype(int)])
    assert whole.valid[4][sure].all()
    assert not whole.valid[4][(col < -0.02) | (row < -0.02) | (col > 900.02) | (row > 900.02)].any()


def test_a_finer_file_is_averaged_and_not_sampled(tmp_path: Path) -> None:
    fine = np.indices((1000, 1300)).sum(0).astype("float32") % 2 * 100
    write_raster(tmp_path / "B02.tif", image((100, 130)), grid=UTM)
    finer = Grid(1000, 1300, (1.0, 0.0, 500000.5, 0.0, -1.0, 8000000.0), UTM.crs, length_unit="m")
    write_raster(tmp_path / "fine.tif", fine, grid=finer)
    files = {"B02": BandRef(tmp_path / "B02.tif"), "fine": BandRef(tmp_path / "fine.tif")}
    with open_stack("s", files, reference="B02") as scene:
        patch = scene.read_layers(scene.grid.whole)["image"]
    assert np.abs(patch.values[1][1:-1, 1:-1] - 50).max() < 1


def test_missing_overlap_and_holes_are_invalid(tmp_path: Path) -> None:
    write_raster(tmp_path / "B02.tif", image((100, 130)), grid=UTM)
    files: dict[str, Any] = {"B02": tmp_path / "B02.tif", "dem": dem(tmp_path, size=1e-4)}
    with open_stack("s", files, reference="B02") as scene:
        assert scene.grid == UTM
        patch = scene.read_layers(scene.grid.whole)["image"]
    assert patch.valid[0].all()
    assert 0.05 < patch.valid[1].mean() < 0.6
    assert patch.valid[1, 30, 65]
    assert not patch.valid[1, 0, 0]
    assert not patch.valid[1, 46:54, 63:67].all()
    assert ((patch.values[1] > 70) & (patch.values[1] < 130))[patch.valid[1]].all()


def test_a_file_without_nodata_is_invalid_where_it_does_not_reach(tmp_path: Path) -> None:
    write_raster(tmp_path / "B02.tif", image((100, 130)), grid=UTM)
    shifted = dataclasses.replace(UTM, transform=(10.0, 0.0, 500250.0, 0.0, -10.0, 8000000.0))
    write_raster(tmp_path / "b.tif", image((100, 130), seed=7), grid=shifted)
    with open_stack("s", {"B02": tmp_path / "B02.tif", "b": tmp_path / "b.tif"}, reference="B02") as scene:
        patch = scene.read_layers(scene.grid.whole)["image"]
    np.testing.assert_array_equal(patch.values[1, :, 25:], image((100, 130), seed=7)[:, :105])
    assert not patch.valid[1, :, :25].any()
    assert patch.valid[1, :, 25:].all()


def test_files_that_cannot_be_brought_together_are_one_line(tmp_path: Path) -> None:
    write_raster(tmp_path / "B02.tif", image((100, 130)), grid=UTM)
    write_raster(tmp_path / "photo.tif", image((70, 80)), grid=Grid(70, 80))
    files = {"B02": tmp_path / "B02.tif", "photo": tmp_path / "photo.tif"}
    with pytest.raises(SceneError, match="has no georeference, and its 70 x 80"):
        open_stack("s", files, reference="B02")
    with pytest.raises(SceneError, match="no transform and CRS"):
        open_stack("s", files, reference="photo")
    with pytest.raises(SceneError, match="must be one of B02, photo"):
        open_stack("s", files, reference="dem")
    with pytest.raises(SceneError, match="no such file"):
        open_stack("s", {**files, "dem": tmp_path / "dem.tif"})


def test_a_block_is_that_of_the_files_on_the_grid_itself(tmp_path: Path) -> None:
    files = {}
    for band, ratio, block in (("a", 1, 64), ("b", 2, 64), ("c", 1, 16)):
        grid = UTM.coarser(ratio)
        path = tmp_path / f"{band}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=grid.height, width=grid.width, dtype="uint8", crs=grid.crs,
            transform=grid.transform, tiled=True, blockxsize=block, blockysize=32,
        ) as file:  # fmt: skip
            file.write(image((1, *grid.shape), "uint8"))
        files[band] = BandRef(path)
    with closing(BandStack(files)) as source:
        assert source.block == (32, 64)
    with closing(BandStack({"b": files["b"]}, grid=UTM)) as source:
        assert source.block == (64, 128)
