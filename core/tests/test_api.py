"""The front door: what a user writes, on values."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.windows
import torch
from torch import Tensor, nn

import geocore as geo
from geocore.datasets.batch import VALID
from geocore.device import DeviceContext
from geocore.errors import DataError, SceneError, SettingsError
from geocore.inference.blend import OutputHead, OverlapBlender
from geocore.inference.outputs import argmax_labels, to_percent
from geocore.inference.tiled import predict_tiles
from geocore.raster.grid import Grid, Window, transformer
from geocore.raster.scene import Layer, Patch, Scene
from geocore.tiling.tiles import Chunk, TileGrid

UTM = "EPSG:32652"
RNG = np.random.default_rng(7)


def grid_at(height: int, width: int, x: float = 5e5, y: float = 5e6, pixel: float = 10.0, crs: str = UTM) -> Grid:
    unit: Any = "degree" if crs == "EPSG:4326" else "m"
    return Grid(height, width, (pixel, 0.0, x, 0.0, -pixel, y), crs, length_unit=unit)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 x 400 pixels of 3 bands, of which a corner is missing."""
    path = tmp_path_factory.mktemp("scene") / "image.tif"
    values = RNG.integers(1, 4000, (3, 300, 400)).astype(np.uint16)
    values[:, :40, :60] = 0
    values[1, 100, 100] = 0
    geo.write(path, values, like=grid_at(300, 400), nodata=0)
    return path


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def message(kind: type[Exception], call: Any) -> str:
    with pytest.raises(kind) as raised:
        call()
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_importing_geocore_imports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import geocore; took = time.perf_counter() - began\n"
        "heavy = {'torch', 'rasterio', 'numpy', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "names = [name for name in dir(geocore) if name[0] != '_']\n"
        "print(f'{took * 1000:.1f}', len(names), sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    took, names, heavy = done.stdout.split(maxsplit=2)
    with capsys.disabled():
        print(f"\nimport geocore: {took} ms, {names} names")
    assert heavy.strip() == "[]"
    assert 20 <= int(names) <= 45


def test_every_public_name_is_there_and_has_a_docstring() -> None:
    assert sorted(dir(geo)) == sorted(geo.__all__)
    for name in dir(geo):
        assert getattr(geo, name).__doc__, name
    assert not hasattr(geo, "nothing")
    # `open` of Python stays what it is for modules of the package.
    assert "open" not in vars(sys.modules["geocore.storage.files"])


def test_imports_for_type_checkers_are_those_at_run_time() -> None:
    text = Path(str(geo.__file__)).read_text()
    stated = {}
    for line in text.splitlines():
        words = line.split()
        if line.startswith("    from ") and words[2] == "import":
            assert words[3] == words[5] and words[4] == "as"
            stated[words[3]] = words[1]
    assert stated == geo._MODULES


def test_open_takes_what_people_write(image: Path) -> None:
    stored = rasterio.open(image).read()
    for source, bands, expected in (
        (str(image), None, stored),
        (image, [2, 1], stored[[1, 0]]),
        (image, ("3",), stored[[2]]),
        (image, 3, stored[[2]]),
        (stored, None, stored),
        (stored[0], "red", stored[[0]]),
    ):
        with geo.open(source, bands=bands) as scene:
            np.testing.assert_array_equal(scene.read().values, expected)
    with geo.open(stored, nodata=0, grid=grid_at(300, 400)) as scene:
        assert scene.grid.crs == UTM
        assert not scene.read().valid[:, :40, :60].any()
    assert "B99" in message(SceneError, lambda: geo.open(image, bands=["B99"]))
    assert "must be numbers" in message(SceneError, lambda: geo.open(np.zeros(3)))


def test_several_files_are_bands_of_one_scene(tmp_path: Path) -> None:
    red, both = RNG.integers(1, 99, (40, 60)).astype("uint8"), RNG.integers(1, 99, (2, 20, 30)).astype("uint8")
    geo.write(tmp_path / "red.tif", red, like=grid_at(40, 60))
    geo.write(tmp_path / "both.tif", both, like=grid_at(20, 30, pixel=20.0))
    files = [tmp_path / "red.tif", str(tmp_path / "both.tif")]
    with geo.open(files) as scene:
        assert scene.bands.names == ("red", "both_1", "both_2") and scene.grid.bounds == (
            5e5,
            5e6 - 400,
            5e5 + 600,
            5e6,
        )
        np.testing.assert_array_equal(scene.read().values[0], red)
    with geo.open(files, bands=["both_2", "red"]) as scene:
        np.testing.assert_array_equal(scene.read().values[1], red)
    assert "a second band is called 'red'" in message(SceneError, lambda: geo.open([files[0], files[0]]))
    assert "no file is given" in message(SceneError, lambda: geo.open([]))


def test_class_maps_with_a_legend_are_read_as_classes(tmp_path: Path) -> None:
    labels = RNG.integers(0, 3, (40, 50)).astype(np.uint8)
    names, colors = ["land", "water", "ice"], {0: (9, 9, 9), 1: (0, 0, 255), 2: (255, 255, 255)}
    geo.write(tmp_path / "map.tif", labels, like=grid_at(40, 50), nodata=255, classes=names, colors=colors)
    with geo.open(tmp_path / "map.tif") as scene:
        patch = scene.read()
    np.testing.assert_array_equal(patch.values, labels[None])
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.colormap(1)[1] == (0, 0, 255, 255)
        assert file.tags()["CLASS_2"] == "ice"


def test_write_keeps_values_or_refuses(tmp_path: Path, image: Path) -> None:
    grid = grid_at(30, 20)
    for dtype in ("bool", "uint8", "int16", "uint16", "int32", "float32", "float64", "int64"):
        values = RNG.integers(0, 2, (2, 30, 20)).astype(dtype)
        geo.write(tmp_path / "a.tif", values, like=grid)
        with rasterio.open(tmp_path / "a.tif") as file:
            assert file.dtypes[0] == ("uint8" if dtype == "bool" else dtype)
            np.testing.assert_array_equal(file.read(), values)
            assert file.bounds == (5e5, 5e6 - 300, 5e5 + 200, 5e6)
    with geo.open(image) as scene:
        geo.write(tmp_path / "b.tif", np.zeros((300, 400), "uint8"), like=scene, nodata=7)
        patch = scene.read(rasterio.windows.Window(30, 50, 80, 60))
        geo.write(tmp_path / "d.tif", patch.values, like=patch, nodata=0)
    assert rasterio.open(tmp_path / "b.tif").nodata == 7
    with rasterio.open(tmp_path / "d.tif") as file, rasterio.open(image) as whole:
        assert file.bounds == (500_300, 5e6 - 1100, 501_100, 5e6 - 500)
        np.testing.assert_array_equal(file.read(), whole.read()[:, 50:110, 30:110])
    bare = Patch(patch.values, patch.valid)
    assert "does not know where it lies" in message(
        DataError, lambda: geo.write(tmp_path / "c.tif", bare.values, like=bare)
    )
    zeros = np.zeros((30, 20), np.uint8)
    for values, keywords, kind, part in (
        (zeros[1:], {}, DataError, "must be (row, col)"),
        (zeros.astype(np.float16), {}, DataError, "nothing is converted silently"),
        (zeros.astype(complex), {}, DataError, "GeoTIFF has no complex128"),
        (zeros, {"nodata": -1}, SettingsError, "uint8 cannot hold it"),
        (zeros, {"nodata": float("nan")}, SettingsError, "uint8 cannot hold it"),
        (zeros.astype(np.float32), {"colors": {0: (0, 0, 0)}}, SettingsError, "colors need one band"),
    ):
        assert part in message(kind, lambda: geo.write(tmp_path / "c.tif", values, like=grid, **keywords))
    assert "ends in .tif" in message(SettingsError, lambda: geo.write(tmp_path / "c.png", zeros, like=grid))
    assert not (tmp_path / "c.tif").exists()


def by_hand(path: Path, network: nn.Module, size: int, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """Label and probability of the chosen class, put together from the rooms."""
    tiling, head = TileGrid(size, overlap), OutputHead(4, "classes")
    label = np.empty((300, 400), np.uint8)
    probability = np.empty((300, 400), np.uint8)

    def forward(inputs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        values, valid = inputs["image"]["values"], inputs["image"]["valid"]
        raw = network(torch.where(valid, values.float() / 1e4, 0.0))
        return {"classes": head.activate(raw), VALID: valid.all(1, keepdim=True)}

    def on_rows(row: int, blended: dict[str, Tensor]) -> None:
        shares, valid = blended["classes"], blended[VALID]
        rows = slice(row, row + shares.shape[1])
        label[rows] = argmax_labels(shares).masked_fill(~valid[0], 255).numpy()
        probability[rows] = to_percent(shares.amax(0), valid[0]).numpy()

    chunk = Chunk("all", Window(0, 0, 300, 400))
    blender = OverlapBlender(chunk, tiling, (300, 400), {"classes": 4}, on_rows=on_rows)
    with geo.open(path) as scene:
        predict_tiles(
            forward,
            scene,
            chunk,
            tiling,
            blender,
            read=lambda scene, window: scene.read_layers(window),
            context=DeviceContext(torch.device("cpu")),
        )
    return label, probability


def test_a_map_is_that_of_the_parts_to_the_bit(image: Path, network: nn.Module, tmp_path: Path) -> None:
    """On a CPU, in float32, a tile at a time; as arrays and as files."""
    label, probability = by_hand(image, network.eval(), 64, 24)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    options: dict[str, Any] = {"tile": 64, "overlap": 24, "normalize": 10_000, "device": "cpu", "progress": False}
    held = geo.predict(image, network, outputs=("label", "probability"), **options)
    classes = ["water", "ice", "snow", "rock"]
    written = geo.predict(
        image, network, tmp_path / "a.tif", classes=classes, outputs=["probability", "label"], **options
    )
    for result in (held, written):
        np.testing.assert_array_equal(result.labels, label)
        np.testing.assert_array_equal(result["probability"], probability)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert written.paths == {"probability": tmp_path / "a_probability.tif", "label": tmp_path / "a.tif"}
    assert not written.arrays
    assert repr(held) == "Prediction(label, probability; 300 x 400 pixels)"
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.nodata == 255 and file.tags()["CLASS_1"] == "ice" and file.crs.to_epsg() == 32652
    # Missing in all bands, and in one.
    assert (label == 255).sum() == 40 * 60 + 1 == (probability == 255).sum()


def test_what_is_said_of_a_pixel(image: Path) -> None:
    """Of logits that are known at each pixel."""
    stored = rasterio.open(image).read().astype(np.float64)
    valid = (stored > 0).all(0)

    def index(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] - x[:, 1], x[:, 1] - x[:, 0]], 1) / 1000

    outputs = ("label", "probability", "margin", "entropy")
    result = geo.predict(image, index, outputs=outputs, tile=128, overlap=0, flips=True, progress=False)
    water = 1 / (1 + np.exp(2 * (stored[0] - stored[1]) / 1000))
    entropy = -(water * np.log2(water) + (1 - water) * np.log2(1 - water))
    for name, expected in (
        ("probability", 100 * water),
        ("margin", 100 * np.abs(2 * water - 1)),
        ("entropy", 100 * entropy),
    ):
        assert np.abs(result[name][valid] - expected[valid]).max() < 0.51, name
        assert (result[name][~valid] == 255).all()
    np.testing.assert_array_equal(result.labels[valid], (stored[1] > stored[0])[valid])
    options: dict[str, Any] = {"tile": 128, "overlap": 0}
    one = geo.predict(image, lambda x: (x[:, 1:2] - x[:, :1]) / 500, head="sigmoid", outputs=outputs, **options)
    for name in outputs:
        assert np.abs(one[name].astype(int) - result[name].astype(int)).max() <= 1
    three = geo.predict(image, lambda x: (x - 2000.5) * 50, head="sigmoid", tile=128, overlap=0)
    assert three["probability"].shape == (3, 300, 400)
    np.testing.assert_array_equal(three["probability"][2][valid], np.where(stored[2] > 2000, 100, 0)[valid])
    value = geo.predict(image, lambda x: x[:, :1] * 2, head="regression", tile=128, overlap=32)["value"]
    assert value.dtype == np.float32
    np.testing.assert_allclose(value[valid], 2 * stored[0][valid], rtol=1e-6)
    assert np.isnan(value[~valid]).all()


def test_statistics_and_modules_normalize(image: Path) -> None:
    from geocore.datasets.statistics import compute_statistics

    with geo.open(image) as scene:
        statistics = compute_statistics([scene], ["image"])
    first = statistics.layers["image"][0]
    stored = rasterio.open(image).read()
    valid = (stored > 0).all(0)
    options: dict[str, Any] = {"head": "regression", "tile": 128, "overlap": 0}
    scaled = geo.predict(image, lambda x: x[:, :1], normalize=statistics, **options)["value"]
    np.testing.assert_allclose(scaled[valid], (stored[0][valid] - first.mean) / first.std, atol=2e-6)
    module = nn.BatchNorm2d(3).train()
    halved = geo.predict(image, lambda x: x[:, :1], normalize=module, **options)["value"]
    np.testing.assert_allclose(halved[valid], stored[0][valid], rtol=1e-4)
    assert module.training and module.num_batches_tracked == 0


def test_mistakes_are_one_line(image: Path, network: nn.Module, tmp_path: Path) -> None:
    def told(kind: type[Exception], model: Any = network, out: Path | None = None, **options: Any) -> str:
        return message(kind, lambda: geo.predict(image, model, out, **({"tile": 64, "overlap": 16} | options)))

    assert "tells 4 apart" in told(SettingsError, classes=["land", "water"], out=tmp_path / "a.tif")
    assert "head = 'logits'" in told(SettingsError, head="logits")
    assert "outputs = 'value'" in told(SettingsError, outputs="value")
    assert "head softmax needs 2" in told(SettingsError, model=lambda x: x[:, :1])
    assert "normalize = 0" in told(SettingsError, normalize=0)
    assert "must be (batch, class, row, col)" in told(DataError, model=lambda x: x[..., ::2])
    assert "returns a dict" in told(DataError, model=lambda x: {"out": x})
    assert "must be from 0 to 63" in told(SettingsError, overlap=64)
    assert "ends in .tif" in told(SettingsError, out=tmp_path / "a.png")
    assert "is the scene that is mapped" in told(SettingsError, out=image)
    assert "not finite" in told(DataError, model=lambda x: x / 0)
    assert not list(tmp_path.iterdir())


class Tall:
    """A layer that is drawn where it is read, and notes what was asked for."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.block = shape, (64, shape[1])
        self.layer = Layer("image", geo.Bands.named("a", "b"), "uint8")
        self.asked: list[Window] = []

    def read(self, window: Window) -> Patch:
        self.asked.append(window)
        rows = np.arange(window.row, window.row_stop, dtype=np.int64)[:, None]
        cols = np.arange(window.col, window.col_stop, dtype=np.int64)
        plane = ((rows * 7 + cols * 3) % 251).astype(np.uint8)
        return Patch(np.stack([plane, 250 - plane]), np.ones((1, *window.shape), np.bool_))

    def close(self) -> None:
        pass


def test_a_tall_scene_is_never_asked_for_whole(tmp_path: Path) -> None:
    tall = Tall((9000, 96))
    scene = Scene("tall", Grid(9000, 96), {"image": tall})
    result = geo.predict(scene, lambda x: x, tmp_path / "a.tif", tile=64, overlap=16, progress=False)
    assert max(window.height for window in tall.asked) <= 128
    plane = ((np.arange(9000)[:, None] * 7 + np.arange(96) * 3) % 251).astype(np.uint8)
    np.testing.assert_array_equal(result.labels, plane < 125)
    assert result.paths == {"label": tmp_path / "a.tif"}


def test_nothing_is_printed_on_request(image: Path, network: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    geo.predict(image, network, tile=64, overlap=16, normalize=1e4, progress=False)
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == threads


def test_polygonize_by_value_name_and_area(tmp_path: Path) -> None:
    labels = np.full((1200, 90), 255, np.uint8)
    labels[10:40, 10:40] = 1
    labels[15:20, 15:20] = 0
    labels[500:530, 20:30] = 1
    labels[530:540, 30:40] = 1  # by a corner
    labels[1100:1102, 80:82] = 2
    chance = np.where(labels == 1, 90, 20).astype(np.uint8)
    chance[10:25, 10:40][labels[10:25, 10:40] == 1] = 60
    geo.write(tmp_path / "map.tif", labels, like=grid_at(1200, 90), nodata=255, classes=["land", "water", "ice"])
    geo.write(tmp_path / "chance.tif", chance, like=grid_at(1200, 90), nodata=255)
    every = geo.polygonize(tmp_path / "map.tif", probability=tmp_path / "chance.tif")
    assert every["class"].tolist() == ["water", "land", "water", "ice"]
    assert every["value"].tolist() == [1, 0, 1, 2]
    np.testing.assert_allclose(every.area_m2, [87_500, 2_500, 40_000, 400], rtol=1e-3)
    np.testing.assert_allclose(every.mean_probability, [(425 * 0.6 + 450 * 0.9) / 875, 0.2, 0.9, 0.2])
    assert every.crs.to_epsg() == 32652
    assert every.total_bounds.tolist() == [500_100, 5e6 - 11_020, 500_820, 5e6 - 100]
    apart = geo.polygonize(str(tmp_path / "map.tif"), values=1, connectivity=4)
    assert (apart.geometry.area / 100).tolist() == [875, 300, 100]
    large = geo.polygonize(tmp_path / "map.tif", min_area_m2=3000, out=tmp_path / "a.parquet")
    assert large["class"].tolist() == ["water", "water"]
    assert geopandas.read_parquet(tmp_path / "a.parquet").area_m2.tolist() == large.area_m2.tolist()
    assert len(geo.polygonize(tmp_path / "map.tif", values=[9], out=tmp_path / "none.gpkg")) == 0
    bare = geo.polygonize(labels, values=2)
    assert bare.geometry.iloc[0].bounds == (80, 1100, 82, 1102) and np.isnan(bare.area_m2).all()
    for call, kind, part in (
        (lambda: geo.polygonize(labels, min_area_m2=1), SettingsError, "no georeference"),
        (lambda: geo.polygonize(labels.astype(np.float32)), DataError, "one band of integers"),
        (lambda: geo.polygonize(labels, probability=chance[1:]), DataError, "must be of one grid"),
        (lambda: geo.polygonize(labels, out=tmp_path / "a.shp"), SettingsError, ".gpkg or .parquet"),
    ):
        assert part in message(kind, call)


def ground(grid: Grid, window: Window) -> np.ndarray:
    """Corners and the middle of the pixels of a window in UTM, shape (point, 2), m."""
    rows, cols = np.mgrid[window.row : window.row_stop + 1 : 4, window.col : window.col_stop + 1 : 4]
    a, _, c, _, e, f = (grid.transform or ())[:6]
    x, y = transformer(str(grid.crs), UTM).transform(a * cols.ravel() + c, e * rows.ravel() + f)
    return np.stack([x, y], 1)


def test_blocks_of_overlapping_scenes_of_three_crs_never_meet() -> None:
    """Every 16th pixel of every block against those of all other splits, on the ground."""
    from scipy.spatial import KDTree

    lon, lat = transformer(UTM, "EPSG:4326").transform(5.03e5, 4.998e6)
    x, y = transformer(UTM, "EPSG:3857").transform(5.02e5, 4.999e6)
    grids = [
        grid_at(400, 500),
        grid_at(380, 300, 5.02e5, 4.9987e6, 12.0),
        grid_at(400, 400, x, y, 14.0, "EPSG:3857"),
        grid_at(300, 400, lon, lat, 1e-4, "EPSG:4326"),
    ]
    scenes = [geo.open(np.zeros(grid.shape, np.uint8), grid=grid) for grid in grids]
    blocks = geo.split_blocks(scenes, block_m=900, buffer_m=150, fractions=(0.5, 0.25, 0.25), seed=2)
    assert {block.split for block in blocks} == {"train", "val", "test"}
    assert {scenes.index(block.scene) for block in blocks} == {0, 1, 2, 3}
    places = {
        split: np.concatenate([ground(b.scene.grid, b.window) for b in blocks if b.split == split])
        for split in ("train", "val", "test")
    }
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        nearest = KDTree(places[first]).query(places[second])[0].min()
        assert nearest > 150 * 0.999, (first, second, nearest)
    # Most of what the buffer leaves of the ground is kept: (750 / 900) ** 2 of it, but for turned borders.
    for scene in scenes:
        kept = sum(b.window.height * b.window.width for b in blocks if b.scene is scene)
        assert 0.5 < kept / (scene.grid.height * scene.grid.width) < 0.85
    pixels = [sum(b.window.height * b.window.width for b in blocks if b.split == s) for s in ("train", "val", "test")]
    assert 0.4 < pixels[0] / sum(pixels) < 0.6
    assert geo.split_blocks(scenes, block_m=900, buffer_m=150, fractions=(0.5, 0.25, 0.25), seed=2) == blocks


def test_blocks_that_cannot_be_are_told(image: Path) -> None:
    photo = geo.open(np.zeros((90, 90), np.uint8))
    for call, kind, part in (
        (lambda: geo.split_blocks([photo], block_m=100, buffer_m=0), DataError, "has no place on the map"),
        (lambda: geo.split_blocks(image, block_m=100, buffer_m=100), SettingsError, "buffer_m < block_m"),
        (lambda: geo.split_blocks(image, block_m=1e5, buffer_m=10), DataError, "take smaller blocks or add scenes"),
        (lambda: geo.split_blocks(image, block_m=500, buffer_m=10, fractions=(1, 0, 0)), SettingsError, "above 0"),
    ):
        assert part in message(kind, call)


def test_leaks_are_found_in_blocks_paths_and_arrays(tmp_path: Path) -> None:
    folder = geo.sample()
    scenes = [folder / "scene.tif", folder / "east.tif"]
    blocks = geo.split_blocks(scenes, block_m=2500, buffer_m=50)
    assert geo.find_leaks(blocks) == []
    (line,) = geo.find_leaks([scenes[0]], [str(scenes[1])])
    assert line.startswith("1 pair of samples of split 1 and split 2 show the same ground")
    # A place that stands in two splits.
    train = [block for block in blocks if block.split == "train"]
    others = [block for block in blocks if block.split != "train"]
    leaks = geo.find_leaks([*train, others[0]], [others[0]])
    assert leaks and all("the same ground" in line or "the same pixels" in line for line in leaks)
    assert all("split 1" in line for line in leaks)
    photo = RNG.integers(0, 255, (3, 200, 200)).astype(np.uint8)
    (line,) = geo.find_leaks([photo], [RNG.integers(0, 255, (200, 200)).astype(np.uint8), photo[:, 40:140, 30:180]])
    assert "show the same pixels" in line


def test_the_sample_is_what_it_says() -> None:
    began = time.monotonic()
    folder = geo.sample()
    assert folder == geo.sample("flood") and time.monotonic() - began < 30
    assert len(list((folder / "chips").glob("*_mask.tif"))) == 24
    with rasterio.open(folder / "scene.tif") as scene, rasterio.open(folder / "truth.tif") as truth:
        assert scene.descriptions == ("green", "red", "nir", "swir") and scene.nodata == 0
        water = truth.read(1) == 1
        assert 0.2 < water.mean() < 0.6
        assert scene.read(3)[water].mean() < 800 < 2000 < scene.read(3)[truth.read(1) == 0].mean()
    assert "there is one, flood" in message(SettingsError, lambda: geo.sample("snow"))


def test_a_map_in_memory_keeps_its_place_and_its_missing_pixels(
    image: Path, network: nn.Module, tmp_path: Path
) -> None:
    held = geo.predict(image, network, tile=128, overlap=32, progress=False)
    stored = geo.predict(image, network, tmp_path / "map.tif", tile=128, overlap=32, progress=False)
    one, other = geo.polygonize(held, min_area_m2=2000), geo.polygonize(stored, min_area_m2=2000)
    assert len(one) > 10 and one.crs == UTM and 255 not in set(one["value"])
    assert one.equals(other)
    classes = ["a", "b", "c", "d"]
    scores = geo.compare(held, tmp_path / "map.tif", classes=classes)
    assert scores["accuracy"] == 1 and int(scores.confusion.sum()) == int((held.labels != 255).sum())


def test_a_patch_is_written_with_what_is_missing_in_it(tmp_path: Path, image: Path) -> None:
    with geo.open(image) as scene:
        patch = scene.read(Window(0, 0, 50, 80))
    values = patch.values.astype(np.int16)
    geo.write(tmp_path / "a.tif", values, like=patch, nodata=-9999)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert np.array_equal(file.read() != -9999, np.broadcast_to(patch.valid, values.shape))
    assert "give a nodata value to mark it with" in message(
        SettingsError, lambda: geo.write(tmp_path / "b.tif", values, like=patch)
    )
    there = (
        int(values[patch.valid.nonzero()][0]) if len(patch.valid) == len(values) else int(values[0][patch.valid[0]][0])
    )
    assert "pixels that are there have this value" in message(
        SettingsError, lambda: geo.write(tmp_path / "b.tif", values, like=patch, nodata=there)
    )
    assert not (tmp_path / "b.tif").exists()


def test_what_would_be_no_comparison_or_no_division_is_refused(image: Path) -> None:
    for splits in ((), ([image],), ([image], []), (["a.tif", "b.tif"],)):
        assert "compares two or more, none of them empty" in message(
            DataError, lambda splits=splits: geo.find_leaks(*splits)
        )
    for fractions in ((0.7, 0.2, 0.2), (70, 15, 15), (0.7, 0.3), {"train": 1.0}, {"train": 0.9, "test": 0.3}):
        assert "add up to 1" in message(
            SettingsError,
            lambda fractions=fractions: geo.split_blocks([image], block_m=500, buffer_m=0, fractions=fractions),
        )
    assert "none to divide" in message(DataError, lambda: geo.split_blocks([], block_m=500, buffer_m=0))
    for wrong in ({"connectivity": 6}, {"min_area_m2": -4.0}):
        assert "must be" in message(SettingsError, lambda wrong=wrong: geo.polygonize(image, **wrong))


def test_a_network_of_other_bands_is_told_in_one_line(image: Path) -> None:
    said = message(DataError, lambda: geo.predict(image, nn.Conv2d(5, 2, 1), progress=False))
    assert "cannot take an image of (batch, band, row, col) = (1, 3, 512, 512)" in said
    assert "expected input[1, 3, 512, 512] to have 5 channels" in said
