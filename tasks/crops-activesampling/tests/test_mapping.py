"""From patches to maps: numbers of crops, masks, composites as in preparing, and what is counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from torch import Tensor

from crops_activesampling.caching import FOLDER, cache_patches
from crops_activesampling.config import CompositeSettings, ModelSettings
from crops_activesampling.mapping import (
    MappedPatch,
    check_numbers,
    composite_settings,
    counts_of_maps,
    map_patch,
    map_split,
    read_composites,
)
from crops_activesampling.model import CropNet
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.s4a_format import PatchName
from crops_activesampling.scores import named, total
from geocore.datasets.batch import VALID
from geocore.datasets.statistics import BandStatistics, Statistics
from geocore.device import DeviceContext, device_context
from geocore.errors import CheckpointError, DataError, SceneError
from geocore.inference.blend import OutputHead
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Grid
from geocore.raster.npy_store import map_array
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.settings import DeviceSettings, TilingSettings
from geocore.transforms.normalize import Normalize

SHAPE = (37, 45)
TILING = TilingSettings(size=16, overlap=6)
CROPS = {1: "wheat", 2: "maize", 3: "rye"}
NAME = PatchName(2019, "31TCG", 3, 4)
PROTOCOL = {"frequency": "1MS", "bands": "B05 B02", "start": None, "end": None, "fill": "none"}


def layer_of(periods: int = 2, bands: tuple[str, ...] = ("B02", "B04", "B08"), dtype: str = "uint16") -> Layer:
    times = tuple(f"2019-{month:02d}-01" for month in range(1, periods + 1))
    return Layer("medians", Bands(tuple(Band(name, "DN", 0.5, nodata=0.0) for name in bands)), dtype, times=times)


class Echo:
    """Stands for a network: the bands of the first period, in DN, are probabilities of the crops, in thousandths."""

    head = OutputHead(3, "classes")

    def predict(self, inputs: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        values, valid = inputs["medians"]["values"], inputs["medians"]["valid"]
        return {"classes": values[:, 0] / 1000, VALID: valid.all(dim=2, keepdim=True).any(dim=1)}


@pytest.fixture
def context() -> Any:
    with device_context(DeviceSettings(device="cpu", threads=1)) as opened:
        yield opened


def drawn(seed: int = 0) -> np.ndarray:
    """Stored numbers of two periods; the first three rows have no data in one band of each."""
    rng = np.random.default_rng(seed)
    shares = np.moveaxis(rng.dirichlet(np.ones(3), size=SHAPE), -1, 0)
    values = np.stack([np.rint(2000 * shares).clip(1), np.full((3, *SHAPE), 7)]).astype(np.uint16)
    values[0, 1, :3] = values[1, 2, :3] = 0
    values[1, 0, 3:6] = 0  # one period is enough
    return values


def scene_of(values: np.ndarray) -> Scene:
    return Scene("p", Grid(*values.shape[-2:]), {"medians": ArrayReader(layer_of(), values)})


def mapped(values: np.ndarray, context: DeviceContext) -> MappedPatch:
    return map_patch(Echo(), scene_of(values), tiling=TILING, context=context)  # type: ignore[arg-type]


def test_crops_are_numbered_from_1_and_what_is_unseen_is_marked(context: DeviceContext) -> None:
    values = drawn()
    found, shares = mapped(values, context), values[0].astype(np.float32) / 2000
    assert (found.classes[:3] == 0).all() and (found.probability[:3] == 255).all() and (found.shares[:, :3] == 0).all()
    assert np.array_equal(found.classes[3:], shares.argmax(axis=0)[3:] + 1)
    # Weights of tiles sum to 1 within float32 rounding.
    assert np.abs(found.shares - shares)[:, 3:].max() < 1e-6
    percent = 100 * shares.max(axis=0)[3:]
    assert np.abs(found.probability[3:] - percent).max() <= 0.5 + 1e-3
    assert (found.classes.dtype, found.probability.dtype, found.shares.dtype) == (np.uint8, np.uint8, np.float32)


def test_a_patch_smaller_than_a_tile_is_mapped(context: DeviceContext) -> None:
    values = drawn()[..., 10:15, 20:31]
    found = mapped(values, context)
    assert np.array_equal(found.classes, values[0].argmax(axis=0) + 1)


class ArrayPatches:
    """Stands for a split."""

    def __init__(self, seeds: list[int]) -> None:
        self.samples = [SimpleNamespace(id=str(seed)) for seed in seeds]

    def scene(self, index: int) -> Scene:
        return scene_of(drawn(int(self.samples[index].id)))

    def labels(self, index: int) -> np.ndarray:
        labels = (drawn(int(self.samples[index].id))[0].argmax(axis=0) + 1).astype(np.uint8)
        labels[5] = labels[5] % 3 + 1  # a row of wrong ones
        labels[:, :5] = 0
        return labels

    def parcels(self, index: int) -> np.ndarray:
        return np.full(SHAPE, 9, np.uint32)


def test_counts_of_a_split(context: DeviceContext) -> None:
    patches: Any = ArrayPatches([1, 2])
    maps = map_split(Echo(), patches, tiling=TILING, context=context)  # type: ignore[arg-type]
    counts = counts_of_maps(patches, maps, classes=3, border_px=6)
    assert [int(part["pixels"].sum()) for part in counts] == [34 * 40] * 2
    # The border takes the wrong row with it.
    scores = named(total(counts))
    assert scores["oa"] == pytest.approx(33 / 34) and scores["cropped_oa"] == 1.0
    assert int(total(counts)["cropped"].sum()) == 2 * 25 * 33 and int(total(counts)["parcels"].sum()) == 2


def write(folder: Path, *, high: int = 0, parcels: bool = True) -> Path:
    rng = np.random.default_rng(5)
    series = {}
    for band, size in (("B02", 12), ("B05", 6), ("B8A", 6)):
        days = np.array([f"2019-{month:02d}-{day:02d}" for month in (1, 3, 7) for day in (2, 19)], "datetime64[D]")
        values = rng.integers(1, 5000, (len(days), size, size)).astype(np.uint16)
        values[1, :2] = 0
        values[:2, 3, 3] += high
        series[band] = (values, days)
    numbers = rng.integers(0, 5, (12, 12)).astype(np.uint32)
    path = write_patch(folder, NewPatch(NAME, (4.0e5, 4.7e6), "EPSG:32631", series, numbers, numbers + 70_000, {}))
    if not parcels:
        import h5py

        with h5py.File(path, "r+") as file:
            del file["parcels"]
    return path


def told(periods: int = 12, **changes: Any) -> Any:
    """What of a network says how composites are made."""
    return SimpleNamespace(protocol=PROTOCOL | changes, layer=layer_of(periods, ("B05", "B02")))


@pytest.mark.parametrize(("high", "fill"), [(0, "none"), (60_000, "none"), (0, "linear")])
def test_composites_are_those_of_the_cache(tmp_path: Path, high: int, fill: Literal["none", "linear"]) -> None:
    path = write(tmp_path / "raw", high=high)
    settings = CompositeSettings(bands=["B05", "B02"], fill=fill)
    assert composite_settings(told(fill=fill)) == settings
    (outcome,) = cache_patches([path], tmp_path / "d", settings)
    scene, parcels = read_composites(path, told(fill=fill))
    stored = map_array(tmp_path / "d" / FOLDER / outcome.key / "medians.npy")
    assert stored.dtype == ("float32" if high else "uint16")
    read = scene.read_layers(scene.grid.whole)["medians"]
    assert read.values.dtype == stored.dtype and np.array_equal(read.values, stored)
    assert np.array_equal(read.valid, stored != 0)
    assert np.array_equal(parcels, map_array(tmp_path / "d" / FOLDER / outcome.key / "parcels.npy"))
    assert scene.name == NAME.id and scene.grid.crs == "EPSG:32631"
    assert scene.grid.transform[:6] == (10.0, 0.0, 4.0e5, 0.0, -10.0, 4.7e6)


def test_a_patch_without_parcels_has_none(tmp_path: Path) -> None:
    assert not read_composites(write(tmp_path, parcels=False), told())[1].any()


def test_what_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(DataError, match="no band B04: the file has B02, B05, B8A"):
        read_composites(path, told(bands="B04 B02"))
    with pytest.raises(DataError, match="its year has 12 periods of 1MS, the network takes 11"):
        read_composites(path, told(11))
    with pytest.raises(DataError, match="no image has data from 2018-01-01"):
        read_composites(path, told(start="2018-01-01", end="2018-12-31"))
    with pytest.raises(CheckpointError, match="how composites are made"):
        composite_settings(SimpleNamespace(protocol={"frequency": "1MS"}))  # type: ignore[arg-type]


def test_the_band_that_lies_farthest_from_training(caplog: pytest.LogCaptureFixture) -> None:
    """Over the periods that the network sees, and over their pixels with data alone."""
    layer = layer_of(4, ("B04", "B08"))
    statistics = tuple(
        BandStatistics(9, 1.0, 9000.0, mean, std, {1.0: 0.0, 50.0: mean, 99.0: 20000.0})
        for mean, std in ((2e3, 4e2), (5e3, 1e3))
    )
    model = ModelSettings(kind="convstar", hidden=4, layers=1, months="2..3")
    network = CropNet(Normalize(Statistics({"medians": statistics}), {"medians": layer.bands}), layer, CROPS, model, {})
    values = np.empty((4, 2, 8, 8), np.uint16)
    values[:, 0], values[:, 1] = 2100, 3500  # 0.25 and -1.5 standard deviations
    values[0] = values[3] = 60_000
    values[1, 0, :4] = 0
    values[1, 1, :4] = 60_000
    scene = Scene("p", Grid(8, 8), {"medians": ArrayReader(layer, values)})
    check_numbers(network, scene)
    assert len(caplog.messages) == 1 and "the mean of band B08 lies -1.5 standard deviations from" in caplog.messages[0]
    empty = Scene("p", Grid(8, 8), {"medians": ArrayReader(layer, np.zeros_like(values))})
    check_numbers(network, empty)
    assert "no pixel of the windows looked at is valid" in caplog.messages[1]
    # As shares of 1 and not as DN.
    values = (np.random.default_rng(0).random((4, 2, 8, 8)) * 0.5).astype(np.float32)
    shares = Scene("p", Grid(8, 8), {"medians": ArrayReader(dataclasses.replace(layer, dtype="float32"), values)})
    with pytest.raises(SceneError, match="reflectance 0-1 and whole numbers up to 10000"):
        check_numbers(network, shares)
