"""Rasters, maps and the upload file of a mapped scene, read back by other programs' libraries."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.transform import GCPTransformer

from geocore.errors import SceneError
from geocore.raster.bands import Bands
from geocore.raster.grid import ControlPoint, Grid, Window
from geocore.raster.npy_store import StripWriter
from geocore.raster.scene import ArrayReader, Layer, Scene
from seaice_multitask.colours import class_colours
from seaice_multitask.config import AUTOICE_OUTPUTS, OutputSettings
from seaice_multitask.mapping import planes_of
from seaice_multitask.polar import POLAR, polar_grid, polar_points
from seaice_multitask.products import (
    CLASSES_FILE,
    MappedScene,
    map_paths,
    product_paths,
    told,
    write_products,
    write_upload,
)

SHAPE, DOWNSCALE = (530, 560), 7
WORKING = (76, 80)
NAME = "20180124T194759_dmi"
ORIGIN, PIXEL_M, TURN = (-310000.0, 1450000.0), 80.0, np.deg2rad(25.0)


def place_of(row: np.ndarray, col: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map coordinates of pixel coordinates, m: turned by 25 degrees and a little curved, as an orbit is."""
    bent = col + 4e-5 * row**2
    x = ORIGIN[0] + PIXEL_M * (np.cos(TURN) * bent + np.sin(TURN) * row)
    return x, ORIGIN[1] + PIXEL_M * (np.sin(TURN) * bent - np.cos(TURN) * row)


def grid_of(shape: tuple[int, int]) -> Grid:
    """441 control points from the middle of the first pixel to that of the last."""
    inverse = pyproj.Transformer.from_crs(POLAR, "EPSG:4326", always_xy=True)
    points = []
    for row in np.linspace(0.5, shape[0] - 0.5, 21):
        for col in np.linspace(0.5, shape[1] - 0.5, 21):
            lon, lat = inverse.transform(*place_of(row, col))
            points.append(ControlPoint(float(row), float(col), float(lon), float(lat)))
    return Grid(*shape, crs="EPSG:4326", gcps=tuple(points))


def scene_80m() -> Scene:
    """Invalid in one polarisation in the first columns, and in the other in a strip."""
    bands = Bands.named("nersc_sar_primary", "nersc_sar_secondary", "sar_incidenceangle")
    values = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    valid = np.ones((3, *SHAPE), bool)
    valid[0, :, :12] = valid[1, 300:304] = False
    valid[2] = False
    return Scene(NAME, grid_of(SHAPE), {"sar": ArrayReader(Layer("sar", bands, "float32"), values, valid)})


def seen() -> np.ndarray:
    mask = np.ones(SHAPE, bool)
    mask[:, :12] = mask[300:304] = False
    return mask


def working_planes(outputs: dict[str, OutputSettings]) -> dict[str, np.ndarray]:
    """Blocks of classes; percentages; two working pixels without an answer."""
    rng = np.random.default_rng(1)
    planes = {}
    for plane in planes_of(outputs):
        if plane.name.endswith("_class"):
            classes = outputs[plane.name.removesuffix("_class")].classes
            values = rng.integers(0, classes, (10, 10), np.uint8).repeat(8, 0).repeat(8, 1)[: WORKING[0]]
        else:
            values = rng.integers(0, 101, WORKING, np.uint8)
        values[40, 50:52] = 255
        planes[plane.name] = values
    return planes


def mapped(folder: Path, outputs: dict[str, OutputSettings]) -> MappedScene:
    """Four regions."""
    planes, parts = working_planes(outputs), []
    for window in (
        Window(0, 0, 30, 45), Window(0, 45, 30, 35), Window(30, 0, 46, 45), Window(30, 45, 46, 35)
    ):  # fmt: skip
        part = folder / f"part-{window.row}-{window.col}"
        with StripWriter(part, window, planes_of(outputs)) as writer:
            writer.write(window.row, {name: plane[window.slices] for name, plane in planes.items()})
        parts.append((window, part))
    return MappedScene(parts, DOWNSCALE, SHAPE)


def at_80m(plane: np.ndarray) -> np.ndarray:
    lines, samples = np.indices(SHAPE)
    return np.where(seen(), plane[lines // DOWNSCALE, samples // DOWNSCALE], np.uint8(255))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("products")
    with scene_80m() as scene:
        parts = mapped(folder / ".parts", AUTOICE_OUTPUTS)
        summary = write_products(folder, scene, parts, AUTOICE_OUTPUTS, resolution_m=160.0)
    assert (summary["lines"], summary["samples"]) == SHAPE
    assert sum(summary["percent"]["SOD"]) == pytest.approx(100, abs=0.4)
    valid = sum(summary["class_m2"]["SOD"])
    assert [100 * area / valid for area in summary["class_m2"]["SOD"]] == pytest.approx(
        summary["percent"]["SOD"], abs=0.05
    )
    return folder


def test_what_was_found_is_told_in_one_line() -> None:
    areas = {"SIC": [3e9, *[0.0] * 9, 1e9], "SOD": [3e9, 0.0, 0.0, 4e8, 0.0, 6e8], "FLOE": [4e9, *[0.0] * 6]}
    summary = {"class_m2": areas}
    said = "ice on 2,000 of 8,000 km2; open water 6,000 km2, old ice 1,200 km2, thin first-year ice 800 km2"
    assert told({"a": summary, "b": summary}, AUTOICE_OUTPUTS) == said
    assert told({"a": summary}, {"FLOE": AUTOICE_OUTPUTS["FLOE"]}) == ""


def test_rasters_lie_on_the_80m_grid_and_are_invalid_where_the_radar_is(written: Path) -> None:
    planes = working_planes(AUTOICE_OUTPUTS)
    expected = {
        "pred": {name: f"{name}_class" for name in ("SIC", "SOD", "FLOE")},
        "prob": {f"{name}, %": f"{name}_probability" for name in ("SOD", "FLOE")},
        "entropy": {f"{name}, % of the greatest": f"{name}_entropy" for name in ("SOD", "FLOE")},
    }
    for ending, bands in expected.items():
        with rasterio.open(written / f"{NAME}_{ending}.tif") as source:
            assert source.shape == SHAPE and set(source.dtypes) == {"uint8"} and source.nodata == 255
            assert source.descriptions == tuple(bands)
            values = source.read()
        for band, plane in zip(values, bands.values(), strict=True):
            assert np.array_equal(band, at_80m(planes[plane])), (ending, plane)


def test_rasters_carry_the_control_points(written: Path) -> None:
    grid = grid_of(SHAPE)
    with rasterio.open(written / f"{NAME}_pred.tif") as source:
        points, crs = source.gcps
        assert source.overviews(1)
    assert crs.to_epsg() == 4326
    found = sorted((point.row, point.col, point.x, point.y) for point in points)
    expected = sorted((point.row, point.col, point.x, point.y) for point in grid.gcps)
    assert np.allclose(found, expected, rtol=0, atol=1e-9)


def test_map_shows_every_place_its_class(written: Path) -> None:
    planes = working_planes(AUTOICE_OUTPUTS)
    for name in ("SIC", "SOD"):
        with rasterio.open(written / f"{NAME}_{name}_map.tif") as source:
            assert source.crs.to_epsg() == 3413 and source.res == (160.0, 160.0)
            assert source.nodata == 255 and source.tags()["CLASS_0"] in ("0/10", "open water")
            assert source.colormap(1)[1][:3] == class_colours(name, AUTOICE_OUTPUTS[name])[1]
            values, transform = source.read(1), source.transform
        rows, cols = np.nonzero(values != 255)
        xs, ys = transform.c + 160.0 * (cols + 0.5), transform.f - 160.0 * (rows + 0.5)
        # Undo `place_of`: first the turn, then the bend.
        dx, dy = (xs - ORIGIN[0]) / PIXEL_M, (ys - ORIGIN[1]) / PIXEL_M
        line = np.sin(TURN) * dx - np.cos(TURN) * dy
        sample = np.cos(TURN) * dx + np.sin(TURN) * dy - 4e-5 * line**2
        assert line.min() > -0.2 and line.max() < SHAPE[0] + 0.2
        expected = at_80m(planes[f"{name}_class"])
        line = np.clip(line, 0, SHAPE[0] - 1e-6)
        sample = np.clip(sample, 0, SHAPE[1] - 1e-6)
        right = values[rows, cols] == expected[line.astype(int), sample.astype(int)]
        # Wrong only where a class ends within 0.2 pixels: GDAL's own tolerance is an eighth of a pixel.
        near = np.zeros(right.shape, bool)
        for down, across in ((-0.2, 0), (0.2, 0), (0, -0.2), (0, 0.2)):
            moved = (
                np.clip(line + down, 0, SHAPE[0] - 1).astype(int),
                np.clip(sample + across, 0, SHAPE[1] - 1).astype(int),
            )
            near |= values[rows, cols] == expected[moved]
        assert (right | near).all()
        assert right.mean() > 0.98
        # Nothing is missing either: as many square metres as the scene has.
        assert len(rows) * 160.0**2 == pytest.approx((expected != 255).sum() * PIXEL_M**2, rel=0.01)


def test_spline_goes_through_the_control_points() -> None:
    """A polynomial of second order, which GDAL would take, is off by a tenth of a pixel even here."""
    points = polar_points(grid_of(SHAPE))
    rows, cols = np.array([point.row for point in points]), np.array([point.col for point in points])
    with GCPTransformer(points, tps=True) as transformer:
        xs, ys = transformer.xy(rows, cols, offset="ul")
    true = place_of(rows, cols)
    # A few nanometres were measured; coordinates are millions of metres.
    assert np.abs(np.subtract([xs, ys], true)).max() < 1e-4


def test_pole_and_date_line_are_nothing_special() -> None:
    inverse = pyproj.Transformer.from_crs(POLAR, "EPSG:4326", always_xy=True)
    points = []
    for row in np.linspace(0, 400, 21):
        for col in np.linspace(0, 400, 21):
            lon, lat = inverse.transform(80 * (col - 200), 80 * (200 - row))
            points.append(ControlPoint(float(row), float(col), float(lon), float(lat)))
    grid = Grid(400, 400, crs="EPSG:4326", gcps=tuple(points))
    target = polar_grid(grid, polar_points(grid), 800.0)
    assert target.shape == (40, 40) and target.transform[:6] == (800.0, 0.0, -16000.0, 0.0, -800.0, 16000.0)


def test_scene_without_control_points_has_no_map() -> None:
    with pytest.raises(SceneError, match="control points"):
        polar_points(Grid(10, 10))


def test_only_outputs_of_kind_classes_have_a_probability(tmp_path: Path) -> None:
    outputs = {"SIC": AUTOICE_OUTPUTS["SIC"]}
    with scene_80m() as scene:
        write_products(tmp_path, scene, mapped(tmp_path / ".parts", outputs), outputs, resolution_m=800.0)
    paths = product_paths(tmp_path, NAME, outputs)
    assert [path.name.removeprefix(NAME) for path in paths] == ["_pred.tif", "_SIC_map.tif", "_sheet.png"]
    assert all(path.exists() for path in paths)
    assert not (tmp_path / f"{NAME}_prob.tif").exists()


def test_product_paths_name_all_that_is_written(written: Path) -> None:
    there = {path for path in written.iterdir() if path.is_file()}
    legends = {path.with_name(f"{path.name}.aux.xml") for path in map_paths(written, NAME, AUTOICE_OUTPUTS)}
    assert there == set(product_paths(written, NAME, AUTOICE_OUTPUTS)) | legends


def test_upload_file_has_the_challenge_names_dimensions_and_size(tmp_path: Path) -> None:
    """Values are classes everywhere: a pixel without an answer is open water, never 255 (defect D3)."""
    parts = mapped(tmp_path / ".parts", AUTOICE_OUTPUTS)
    parts.save_classes(tmp_path / CLASSES_FILE, AUTOICE_OUTPUTS)
    entry = (tmp_path / CLASSES_FILE, DOWNSCALE, SHAPE)
    other = "20190406T102029_cis"
    write_upload(tmp_path / "upload_package.nc", {other: entry, NAME: entry})
    planes = working_planes(AUTOICE_OUTPUTS)
    lines, samples = np.indices(SHAPE)
    with netCDF4.Dataset(tmp_path / "upload_package.nc") as file:
        file.set_auto_mask(False)
        assert file.data_model == "NETCDF4"
        assert set(file.variables) == {f"{scene}_{name}" for scene in (NAME, other) for name in AUTOICE_OUTPUTS}
        for key, variable in file.variables.items():
            assert variable.dtype == np.uint8
            assert variable.dimensions == (f"{key}_dim0", f"{key}_dim1")
            assert variable.filters()["zlib"] and variable.filters()["complevel"] == 1
            classes = planes[f"{key.rsplit('_', 1)[1]}_class"]
            expected = np.where(classes == 255, 0, classes)[lines // DOWNSCALE, samples // DOWNSCALE]
            assert np.array_equal(variable[:], expected)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".part-")]
