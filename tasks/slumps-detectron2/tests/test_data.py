"""Pairs, areas, splits, statistics and tiles of a data set, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from geocore.errors import DataError, SceneError, UserError
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import Layer
from geocore.raster.write import write_raster
from geocore.tiling.samplers import GridSampler, PatchIndex
from slumps_detectron2.config import PrepareSettings
from slumps_detectron2.data import (
    CLASSES,
    IGNORED,
    IMAGE,
    INSTANCES,
    UNLABELLED,
    Areas,
    Tiles,
    class_values,
    describe,
    find_inputs,
    load_dataset,
    open_area,
)

SHAPE = (64, 80)
CRS = "EPSG:3413"
BANDS = ["blue", "green", "red", "nir"]


def _grid(shape: tuple[int, int] = SHAPE, *, row: int = 0, col: int = 0, crs: str = CRS) -> Grid:
    transform = (3.0, 0.0, -1_880_000.0 + 3 * col, 0.0, -3.0, -505_000.0 - 3 * row)
    return Grid(*shape, transform, crs, length_unit="m")


def _scene(
    path: Path, seed: int = 0, *, bands: list[str] | None = BANDS, shape: tuple[int, int] = SHAPE, **options: Any
) -> Path:
    values = np.random.default_rng(seed).integers(1, 5000, (len(bands or BANDS), *shape), np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"grid": _grid(shape), "nodata": 0} | options
    write_raster(path, values, band_names=bands, cog=False, **options)
    return path


def _ids(slumps: int = 2, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Slumps of 8 x 10 pixels from the upper left, neighbours touching."""
    ids = np.zeros(shape, np.uint16)
    for number in range(slumps):
        ids[10:18, 5 + 10 * number : 15 + 10 * number] = 100 * (number + 1)
    return ids


def _label(path: Path, values: np.ndarray, grid: Grid | None = None) -> Path:
    write_raster(path, values, grid=grid or _grid((values.shape[0], values.shape[1])), cog=False)
    return path


def _table(folder: Path, rows: list[str], header: str = "image,label,region") -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes of four regions; the second one of each region is background."""
    folder = tmp_path_factory.mktemp("originals")
    for number in range(8):
        _scene(folder / f"s{number}.tif", number)
        _label(folder / f"s{number}_ids.tif", _ids(0 if number % 2 else 2))
    _table(folder, [f"s{n}.tif,s{n}_ids.tif,region{n // 2}" for n in range(8)])
    return folder


@pytest.fixture
def raw(originals: Path, tmp_path: Path) -> Path:
    """The scenes, to be changed at will."""
    return shutil.copytree(originals, tmp_path / "raw")


def _settings(raw: Path, **changes: Any) -> PrepareSettings:
    values = {
        "data": raw / "pairs.csv",
        "out": raw.parent / "dataset",
        "label_kind": "instances",
        "cut": {"size": 32, "stride": 16, "least_slump_px": 16},
    }
    # All scenes lie on one place, to make them easily.
    split = {"allow_leaks": True} | changes.pop("split", {})
    return PrepareSettings(**values | changes, split=split)


def _one(raw: Path, label: Path, **changes: Any) -> PrepareSettings:
    """A run of one scene, cut into blocks."""
    split = {"by": "block", "block_px": 16, "buffer_px": 2}
    values = {"data": None, "image": raw / "s0.tif", "label": [label], "split": split, "cut": {"size": 32, "stride": 8}}
    return _settings(raw, **values | changes)


def test_regions_stay_together_and_files_in_place(raw: Path) -> None:
    before = {path: path.read_bytes() for path in raw.iterdir()}
    dataset = describe(_settings(raw))
    splits_of = {region: {s.split for s in dataset.samples if s.group == region} for region in ("region0", "region3")}
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert {sample.split for sample in dataset.samples} == {"train", "val", "test"}
    assert {path: path.read_bytes() for path in raw.iterdir()} == before
    assert [sample.id for sample in dataset.samples] == [f"s{number}" for number in range(8)]
    assert dataset.samples[0].inputs[IMAGE] == "../raw/s0.tif"
    assert dataset.samples[0].labels == {INSTANCES: "labels/s0_instances.tif"}
    place = {"row": 0, "col": 0, "height": 64, "width": 80}
    assert dataset.samples[0].attributes == place | {"slumps": 2, "pixel_m": 3.02}
    told = [note for note in dataset.notes if not note.startswith("leak: ")]
    assert told == ["8 scenes: 0 is missing (file), numbers as stored"]
    assert class_values(dataset) == [1]


def test_data_set_is_the_same_wherever_it_is_written_and_found_again(raw: Path) -> None:
    first = describe(_settings(raw))
    other = raw.parent / "deep" / "other"
    describe(_settings(raw, out=other)).save()
    assert load_dataset(other).hash == first.hash


def test_data_set_of_another_task_is_refused(raw: Path) -> None:
    path = describe(_settings(raw)).save()
    path.write_text(path.read_text().partition("\n")[2].replace("task: slumps", "task: floods"))
    with pytest.raises(DataError, match="is a data set of 'floods': give one made by slumps-prepare"):
        load_dataset(path.parent)


@pytest.mark.parametrize("victim", ["raw/s3.tif", "dataset/labels/s2_instances.tif"])
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_data_set_whose_files_are_not_what_they_were_is_refused(raw: Path, victim: str, harm: str) -> None:
    dataset = describe(_settings(raw))
    dataset.save()
    path = raw.parent / victim
    if harm == "gone":
        path.unlink()
    else:
        _scene(path, 99)
    with pytest.raises(DataError, match=rf"{path.name}.*(changed|missing).*prepare the data again"):
        load_dataset(dataset.root)


@pytest.mark.parametrize("kind", ["list", "vrt"])
def test_a_scene_of_several_files_is_refused_when_one_of_them_has_changed(raw: Path, kind: str) -> None:
    dem = raw / "dem0.tif"
    write_raster(dem, np.full(SHAPE, 5.0, np.float32), grid=_grid(), cog=False)
    scene = raw / {"list": "s0.yaml", "vrt": "s0.vrt"}[kind]
    if kind == "list":
        bands = "".join(f"  {name}: {{file: s0.tif, band: {name}}}\n" for name in BANDS)
        scene.write_text(f"reference: blue\nbands:\n{bands}  height: dem0.tif\n")
    else:
        inner = raw / "dem0.vrt"
        for path, source in ((inner, dem), (scene, inner)):
            with rasterio.open(source) as opened:
                rasterio.shutil.copy(opened, path, driver="VRT")
    label = raw / "s0_ids.tif"
    changes = {"image": scene, "bands": ["blue", "height"] if kind == "list" else None}
    dataset = describe(_one(raw, label, **changes))
    dataset.save()
    assert load_dataset(dataset.root).hash == dataset.hash
    write_raster(dem, np.full(SHAPE, 6.0, np.float32), grid=_grid(), cog=False)
    with pytest.raises(DataError, match=rf"{scene.name} has changed since the data set was prepared.*prepare the data"):
        load_dataset(dataset.root)


def test_label_rasters_hold_ids_and_ignore_what_the_scene_lacks(raw: Path) -> None:
    values = np.random.default_rng(0).integers(1, 5000, (4, *SHAPE), np.uint16)
    values[:, :, 40:] = 0
    values[2, 12, 6] = 0  # one band of one pixel
    write_raster(raw / "s0.tif", values, grid=_grid(), nodata=0, band_names=BANDS, cog=False)
    ids = _ids(2)
    ids[30:40, 50:60] = 7  # all of it without data
    _label(raw / "s0_ids.tif", ids)
    dataset = describe(_settings(raw))
    assert any("s0: 1 of 3 slumps lie where the scene has no data" in note for note in dataset.notes)
    with open_raster(dataset.root / "labels/s0_instances.tif") as scene:
        assert scene.grid == _grid()
        layer = scene.layers["image"]
        assert (layer.dtype, layer.bands.bands[0].nodata) == ("uint32", IGNORED)
        written = scene.read_layers(scene.grid.whole)["image"].values[0]
    expected = np.zeros(SHAPE, np.uint32)
    expected[10:18, 5:15], expected[10:18, 15:25] = 1, 2
    expected[:, 40:] = expected[12, 6] = IGNORED
    assert np.array_equal(written, expected)
    sample = next(sample for sample in dataset.samples if sample.id == "s0")
    areas = Areas(dataset, sample.split)
    truth = areas.truth(areas.samples.index(sample))
    assert np.array_equal(truth.labelled, expected != IGNORED)
    assert np.array_equal(truth.ids, np.where(truth.labelled, expected, 0))
    assert truth.classes is None


def test_statistics_are_those_of_valid_training_pixels(raw: Path) -> None:
    dataset = describe(_settings(raw, bands=["nir", "2"]))
    assert dataset.layers[IMAGE].bands.names == ("nir", "green")
    train = [open_raster(dataset.path(sample.inputs[IMAGE])) for sample in dataset.split("train")]
    pixels = np.concatenate([scene.read_layers(scene.grid.whole)["image"].values[[3, 1]] for scene in train], axis=1)
    assert dataset.statistics is not None
    for band, values in zip(dataset.statistics.layers[IMAGE], pixels.astype(np.float64), strict=True):
        assert (band.count, band.mean) == (values.size, pytest.approx(values.mean(), rel=1e-12))


def test_blocks_lie_apart_and_slumps_are_spread(raw: Path) -> None:
    ids = np.zeros(SHAPE, np.uint16)
    for number, (row, col) in enumerate([(4, 4), (4, 36), (20, 68), (36, 4), (52, 20), (52, 52)], start=1):
        ids[row : row + 8, col : col + 8] = number
    dataset = describe(_one(raw, _label(raw / "a.tif", ids)))
    areas: dict[str, Window] = {}
    for split in ("train", "val", "test"):
        its = Areas(dataset, split)
        areas |= {sample.id: its.window(index) for index, sample in enumerate(its.samples)}
    assert len(areas) == 20
    assert "s0-r000000-c000000" in areas
    assert all(sample.group == sample.id for sample in dataset.samples)
    windows = list(areas.values())
    for number, one in enumerate(windows):
        for other in windows[:number]:
            gap = max(
                one.row - other.row_stop, other.row - one.row_stop, one.col - other.col_stop, other.col - one.col_stop
            )
            assert gap >= 2
    for split in ("train", "val", "test"):
        slumps = [sample.attributes["slumps"] for sample in dataset.split(split)]
        assert any(slumps) and not all(slumps)
    assert not any("leak" in note for note in dataset.notes)
    dataset.save()
    assert load_dataset(dataset.root).hash == dataset.hash


def test_block_knows_nothing_of_its_neighbours(raw: Path) -> None:
    dataset = describe(_one(raw, _label(raw / "a.tif", np.full(SHAPE, 7, np.uint16))))
    areas = Areas(dataset, "train")
    block = areas.window(0)
    wide = Window(block.row - 3, block.col - 3, block.height + 6, block.width + 6)
    truth = areas.truth(0, wide)
    expected = np.zeros(wide.shape, bool)
    expected[3:-3, 3:-3] = True
    assert np.array_equal(truth.labelled, expected) and np.array_equal(truth.ids > 0, expected)


def test_blocks_lie_where_the_label_does(raw: Path) -> None:
    ids = np.zeros((32, 48), np.uint16)
    ids[2:12, 2:12] = ids[2:12, 20:28] = ids[20:30, 36:46] = 1
    path = _label(raw / "a.tif", ids, _grid((32, 48), row=20, col=9))
    dataset = describe(_one(raw, path, like=True, label_kind="binary"))
    corners = {(sample.attributes["row"], sample.attributes["col"]) for sample in dataset.samples}
    assert corners == {(row, col) for row in (20, 37) for col in (9, 26, 42)}
    for sample in dataset.samples:
        areas = Areas(dataset, sample.split)
        window = areas.window(areas.samples.index(sample))
        place = window.shifted(-20, -9).slices
        assert np.array_equal(areas.truth(areas.samples.index(sample)).ids > 0, ids[place] > 0)


def test_blocks_without_a_pixel_that_counts_are_left_out(raw: Path) -> None:
    ids = np.zeros(SHAPE, np.uint8)
    ids[2:12, 2:12] = ids[2:12, 22:30] = ids[2:12, 40:46] = 1
    ids[32:] = 9
    settings = _one(raw, _label(raw / "a.tif", ids), label_kind="binary", ignore=9, cut={"size": 32, "stride": 8})
    dataset = describe(settings)
    assert all(int(sample.attributes["row"]) < 32 for sample in dataset.samples)
    assert any("blocks have no pixel that counts" in note for note in dataset.notes)


def test_split_column_decides(raw: Path) -> None:
    splits = ["val", "val", "test", "train", "train", "train", "train", "train"]
    _table(raw, [f"s{n}.tif,s{n}_ids.tif,{split}" for n, split in enumerate(splits)], "data,label,split")
    dataset = describe(_settings(raw, split={"by": "block", "block_px": 16, "buffer_px": 2}))
    assert [sample.split for sample in dataset.samples] == splits
    assert [sample.group for sample in dataset.samples] == [sample.id for sample in dataset.samples]


def test_regions_that_the_split_column_tears_apart_and_copies_are_told(raw: Path) -> None:
    (raw / "s7.tif").write_bytes((raw / "s0.tif").read_bytes())
    splits = ["val", "train", "test", "train", "train", "train", "train", "train"]
    rows = [f"s{n}.tif,s{n}_ids.tif,region{n // 2},{split}" for n, split in enumerate(splits)]
    _table(raw, rows, "image,label,region,split")
    dataset = describe(_settings(raw))
    leaks = [note for note in dataset.notes if note.startswith("leak")]
    assert any("group 'region0' lies in 2 splits" in leak for leak in leaks)
    assert any("identical input" in leak and "s0 (val)" in leak and "s7 (train)" in leak for leak in leaks)
    dataset.save()
    assert load_dataset(dataset.root).hash == dataset.hash  # told once, not refused for ever


def test_classes_are_kept_beside_the_ids(raw: Path) -> None:
    for number in range(8):
        values = np.zeros(SHAPE, np.uint8)
        values[10:18, 5:15], values[10:18, 15:25], values[0] = 2, 5, 77
        _label(raw / f"s{number}_ids.tif", values)
    dataset = describe(_settings(raw, label_kind="classes", class_names={2: "active", 5: "stable"}, ignore=77))
    assert class_values(dataset) == [2, 5]
    areas = Areas(dataset, "train")
    truth = areas.truth(0)
    assert truth.classes is not None
    assert (truth.classes[10, 5], truth.classes[10, 15], truth.classes[0, 0]) == (2, 5, 0)
    assert not truth.labelled[0].any()
    with open_raster(dataset.path(areas.samples[0].labels[CLASSES])) as scene:
        assert scene.read_layers(Window(0, 0, 1, 1))["image"].values[0, 0, 0] == UNLABELLED
    item = Tiles(dataset, "train").read(PatchIndex(0, Window(0, 0, 32, 32), 0, 0))
    assert item["objects"]["labels"].tolist() == [2, 5]
    assert np.unique(item["mask"]).tolist() == [0, 2, 5, UNLABELLED]
    dataset.save()
    load_dataset(dataset.root)


def test_single_class_of_another_value_keeps_it(raw: Path) -> None:
    for number in range(8):
        _label(raw / f"s{number}_ids.tif", (_ids(1) > 0).astype(np.uint8) * 7)
    dataset = describe(_settings(raw, label_kind="classes", class_names={7: "slump"}))
    item = Tiles(dataset, "train").read(PatchIndex(0, Window(0, 0, 32, 32), 0, 0))
    assert class_values(dataset) == [7] and item["objects"]["labels"].tolist() == [7]


def test_experts_are_kept_and_their_majority_is_true(raw: Path) -> None:
    for number in range(8):
        for expert, shift in (("anna", 0), ("ben", 2), ("cem", 40)):
            _label(raw / f"s{number}_{expert}.tif", (np.roll(_ids(1), shift, axis=1) > 0).astype(np.uint8) * 255)
    _table(raw, [f"s{n}.tif,s{n}_anna.tif; s{n}_ben.tif;s{n}_cem.tif,r{n}" for n in range(8)])
    dataset = describe(_settings(raw, label_kind=None))
    areas = Areas(dataset, "test")
    assert areas.experts == ["expert_anna", "expert_ben", "expert_cem"]
    assert (areas.expert(0, "expert_cem") > 0).sum() == 80
    assert np.array_equal(areas.truth(0).ids > 0, (np.roll(_ids(1), 2, axis=1) > 0) & (_ids(1) > 0))
    assert dataset.protocol["label_kind"] == "majority"


def test_like_makes_an_area_of_what_the_label_covers(raw: Path) -> None:
    _label(raw / "s0_ids.tif", _ids(2)[5:40, 3:60], _grid((35, 57), row=5, col=3))
    with pytest.raises(DataError, match=r"s0_ids.tif: 35 x 57 px .*--like"):
        describe(_settings(raw))
    dataset = describe(_settings(raw, like=True))
    sample = dataset.samples[0]
    assert sample.attributes == {"row": 5, "col": 3, "height": 35, "width": 57, "slumps": 2, "pixel_m": 3.02}
    areas = Areas(dataset, sample.split)
    index = [found.id for found in areas.samples].index("s0")
    assert areas.window(index) == Window(5, 3, 35, 57)
    truth = areas.truth(index, Window(0, 0, 20, 20))
    assert not truth.labelled[:5].any() and not truth.labelled[:, :3].any() and truth.labelled[5:, 3:].all()
    assert np.array_equal(truth.ids[5:, 3:] > 0, _ids(2)[5:20, 3:20] > 0)


def test_tiles_are_items_for_training(raw: Path) -> None:
    dataset = describe(_settings(raw))
    tiles = Tiles(dataset, "train")
    assert sum(map(len, tiles.windows)) == dataset.protocol["training_tiles"]
    index = next(number for number, sample in enumerate(tiles.areas.samples) if sample.attributes["slumps"])
    draw = PatchIndex(index, Window(8, 0, 32, 32), epoch=3, index=11)
    item = tiles.read(draw)
    image = tiles.areas.scene(index).read_layers(draw.window)[IMAGE]
    assert item["inputs"][IMAGE]["values"].dtype == np.uint16
    assert np.array_equal(item["inputs"][IMAGE]["values"], image.values)
    assert item["inputs"][IMAGE]["valid"].shape == image.values.shape and item["inputs"][IMAGE]["valid"].all()
    assert item["objects"]["boxes"].tolist() == [[5, 2, 15, 10], [15, 2, 25, 10]]
    assert item["objects"]["labels"].tolist() == [1, 1]
    assert np.array_equal(item["mask"][0] > 0, _ids(2)[8:40, :32] > 0)
    assert item["keys"].tolist() == [3, 11]
    # 6 x 2 pixels of the second slump are fewer than 16.
    assert len(tiles.read(PatchIndex(index, Window(12, -15, 32, 32), 0, 0))["objects"]["boxes"]) == 1


def test_tiles_are_bit_equal_with_a_cache(raw: Path, tmp_path: Path) -> None:
    for number in range(8):
        values = np.zeros(SHAPE, np.uint8)
        values[10:18, 5:15], values[10:18, 15:25], values[0] = 2, 5, 77
        _label(raw / f"s{number}_ids.tif", values)
    dataset = describe(_settings(raw, label_kind="classes", class_names={2: "active", 5: "stable"}, ignore=77))
    plain = Tiles(dataset, "train")
    for _ in range(2):  # filled, then found
        cached = Tiles(dataset, "train", cache=tmp_path / "cache")
        assert cached.windows == plain.windows
        draws = [
            *GridSampler(plain.windows, seed=0).epoch(0),
            *(PatchIndex(index, Window(40, -15, 32, 32), 0, 0) for index in range(len(plain.windows))),
        ]
        with ThreadPoolExecutor(4) as pool:
            for draw, other in zip(draws, pool.map(cached.read, draws), strict=True):
                one = plain.read(draw)
                pairs = [
                    *((one["inputs"][IMAGE][name], other["inputs"][IMAGE][name]) for name in ("values", "valid")),
                    *((one["objects"][name], other["objects"][name]) for name in ("boxes", "labels", "masks")),
                    *((one[name], other[name]) for name in ("mask", "keys")),
                ]
                assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
    one, other = (Areas(dataset, "val", cache=folder) for folder in (None, tmp_path / "cache"))
    assert one.scene(0).grid == other.scene(0).grid and one.scene(0).layers == other.scene(0).layers


def test_a_changed_scene_is_not_served_from_a_cache(raw: Path, tmp_path: Path) -> None:
    dataset = describe(_settings(raw))
    Tiles(dataset, "train", cache=tmp_path / "cache")
    for number in range(8):
        _scene(raw / f"s{number}.tif", 50 + number)
        _label(raw / f"s{number}_ids.tif", np.roll(_ids(), 5, axis=1))
    dataset = describe(_settings(raw))
    plain, cached = (Tiles(dataset, "train", cache=folder) for folder in (None, tmp_path / "cache"))
    assert cached.windows == plain.windows
    for draw in GridSampler(plain.windows, seed=0).epoch(0):
        one, other = plain.read(draw), cached.read(draw)
        assert np.array_equal(one["inputs"][IMAGE]["values"], other["inputs"][IMAGE]["values"])
        assert np.array_equal(one["mask"], other["mask"])


def test_tile_sees_nothing_beyond_its_area(raw: Path) -> None:
    _label(raw / "s0_ids.tif", _ids(3)[:20, :30], _grid((20, 30)))
    splits = ["train", "val", "test", "train", "train", "train", "train", "train"]
    _table(raw, [f"s{n}.tif,s{n}_ids.tif,{split}" for n, split in enumerate(splits)], "image,label,split")
    tiles = Tiles(describe(_settings(raw, like=True)), "train")
    index = [found.id for found in tiles.areas.samples].index("s0")
    assert tiles.windows[index] == [Window(0, 0, 32, 32)]
    item = tiles.read(PatchIndex(index, Window(0, 0, 32, 32), 0, 0))
    inside = np.zeros((32, 32), bool)
    inside[:20, :30] = True
    assert (item["inputs"][IMAGE]["valid"] == inside).all()
    assert np.array_equal(item["mask"][0] != UNLABELLED, inside)


def test_picture_without_a_georeference_is_a_scene(raw: Path) -> None:
    _scene(raw / "s0.tif", grid=Grid(*SHAPE))
    _label(raw / "s0_ids.tif", _ids(2), Grid(*SHAPE))
    assert describe(_settings(raw)).samples[0].attributes["slumps"] == 2


def _spoil(raw: Path, kind: str) -> PrepareSettings:
    """Make the data unfit in one way, and give the settings that meet it."""
    rows = [f"s{n}.tif,s{n}_ids.tif,region{n // 2}" for n in range(8)]
    table: Callable[..., Path] = lambda rows, header="image,label,region": _table(raw, rows, header)  # noqa: E731
    match kind:
        case "no table":
            (raw / "pairs.csv").unlink()
        case "empty table":
            (raw / "pairs.csv").write_text("\n\n")
        case "header only":
            table([])
        case "binary table":
            (raw / "pairs.csv").write_bytes((raw / "s0.tif").read_bytes())
        case "unknown column":
            table([f"{row},x" for row in rows], "image,label,region,ntiles_train")
        case "no label column":
            table(["s0.tif"], "image")
        case "two image columns":
            table(["s0.tif,s0.tif,s0_ids.tif"], "image,data,label")
        case "short row":
            table([*rows, "s1.tif,s1_ids.tif"])
        case "no label":
            table([*rows, "s9.tif,,region9"])
        case "no file":
            table([*rows, "s9.tif,s0_ids.tif,region9"])
        case "same label twice":
            table(["s0.tif,s0_ids.tif;s0_ids.tif,region0"])
        case "same name":
            _scene(raw / "b" / "s0.tif")
            table([*rows, "b/s0.tif,s0_ids.tif,region9"])
        case "some splits":
            table(["s0.tif,s0_ids.tif,train", "s1.tif,s1_ids.tif,"], "image,label,split")
        case "unknown split":
            table(["s0.tif,s0_ids.tif,holdout"], "image,label,split")
        case "no validation":
            table([f"s{n}.tif,s{n}_ids.tif,train" for n in range(3)], "image,label,split")
        case "two regions":
            table(rows[:4])
        case "few blocks":
            return _one(raw, raw / "s0_ids.tif", split={"by": "block", "block_px": 64, "buffer_px": 8})
        case "band":
            return _settings(raw, bands=["red", "swir"])
        case "other bands":
            _scene(raw / "s5.tif", bands=["blue", "green", "red"])
        case "other type":
            write_raster(raw / "s5.tif", np.ones((4, *SHAPE), np.float32), grid=_grid(), nodata=0, band_names=BANDS)
        case "background":
            for number in range(8):
                _label(raw / f"s{number}_ids.tif", _ids(0))
        case "slumps":
            for number in range(8):
                _label(raw / f"s{number}_ids.tif", np.full(SHAPE, 255, np.uint8))
            return _settings(raw, label_kind="binary")
        case "no tile":
            return _settings(raw, cut={"size": 32, "stride": 16, "least_slump_px": 5000})
        case "no data":
            values = np.zeros((4, *SHAPE), np.uint16)
            write_raster(raw / "s5.tif", values, grid=_grid(), nodata=0, band_names=BANDS, cog=False)
        case "class names":
            return _settings(raw, class_names={1: "active", 2: "stable"})
        case "ignored class":
            return _settings(raw, label_kind="classes", ignore=1)
        case "overwritten":
            labels = raw.parent / "dataset" / "labels"
            labels.mkdir(parents=True)
            _label(labels / "s0_instances.tif", _ids(2))
            return _one(raw, labels / "s0_instances.tif")
        case _:
            raise ValueError(kind)
    return _settings(raw)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no table", r"pairs.csv: No such file or directory"),
        ("empty table", r"pairs.csv: is empty: the columns are image \(or data\), label"),
        ("header only", r"no row below its header"),
        ("binary table", r"is no CSV text|column .* is unknown"),
        ("unknown column", r"column 'ntiles_train' is unknown: the columns are"),
        ("no label column", r"columns are image: the columns are"),
        ("two image columns", r"columns are image, data, label: the columns are"),
        ("short row", r"pairs.csv, line 10: 2 cells, but 3 columns"),
        ("no label", r"pairs.csv, line 10: label is empty"),
        ("no file", r"s9.tif: there is no such file"),
        ("same label twice", r"s0_ids.tif: given twice"),
        ("same name", r"share the name 's0'"),
        ("some splits", r"split is empty in 1 of 2 rows"),
        ("unknown split", r"split 'holdout': must be one of train, val, test"),
        ("no validation", r"split 'val' has no scene"),
        ("two regions", r"2 regions \(region0, region1\): .*--split.by block"),
        ("few blocks", r"1 blocks .* --split.by block --split.block-px 21 --split.buffer-px 2"),
        ("band", r"has no band 'swir': its bands are blue, green, red, nir"),
        ("other bands", r"s5.tif: bands blue, green, red, but s0.tif has blue, green, red, nir"),
        ("other type", r"s5.tif: float32, but s0.tif is uint16"),
        ("background", r"s0_ids.tif: has no slump, nor has a label of another scene"),
        ("slumps", r"s0_ids.tif: has no background, nor has a label of another scene"),
        (
            "no tile",
            r"4 slumps gives no tile with one \(\d+ without\): a tile of 32 px needs 5000 px.*--cut.least-slump-px",
        ),
        ("no data", r"s5_ids.tif: no pixel counts: .*s5.tif has no data"),
        ("class names", r"class_names lists 1, 2 with label_kind instances"),
        ("ignored class", r"ignore = 1: is the class 'slump'"),
        ("overwritten", r"s0_instances.tif: would be overwritten"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_one_line(raw: Path, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        describe(_spoil(raw, kind))
    assert "\n" not in str(refused.value)


def test_split_without_a_slump_is_told(raw: Path) -> None:
    splits = ["train", "val", "test", "train", "train", "train", "train", "train"]
    _table(raw, [f"s{n}.tif,s{n}_ids.tif,{split}" for n, split in enumerate(splits)], "image,label,split")
    assert any(note.startswith("split val has no slump") for note in describe(_settings(raw)).notes)


def test_bands_of_a_scene_are_found_by_name_or_given(raw: Path, tmp_path: Path) -> None:
    dataset = describe(_settings(raw, bands=["4", "red"]))
    layer = dataset.layers[IMAGE]
    assert layer.bands.names == ("nir", "red")
    turned = _scene(tmp_path / "turned.tif", bands=["x", "red", "nir"])
    with open_area(turned, layer) as scene, open_raster(turned) as whole:
        values = scene.read_layers(Window(0, 0, 4, 4))[IMAGE].values
        assert np.array_equal(values, whole.read_layers(Window(0, 0, 4, 4))["image"].values[[2, 1]])
    with open_area(turned, layer, bands=["x", "3"]) as scene:
        assert scene.layers[IMAGE].bands.names == ("nir", "red")
    with pytest.raises(SceneError, match="1 bands are given"):
        open_area(turned, layer, bands=["x"])
    with pytest.raises(SceneError, match="no band 'nir'"):
        open_area(_scene(tmp_path / "rgb.tif", bands=["blue", "green", "red"]), layer)


def test_a_scene_with_another_offset_gives_the_numbers_of_the_training_data(tmp_path: Path) -> None:
    plain, shifted = _scene(tmp_path / "plain.tif"), _scene(tmp_path / "shifted.tif")
    with rasterio.open(shifted, "r+") as file:
        file.write(file.read() + np.uint16(1000))
        file.scales, file.offsets = (1e-4,) * 4, (-0.1,) * 4

    def read(path: Path, layer: Layer, **options: Any) -> np.ndarray:
        with open_area(path, layer, **options) as scene:
            held = scene.layers[IMAGE].bands
            assert [(b.name, b.scale, b.offset) for b in held] == [(b.name, b.scale, b.offset) for b in layer.bands]
            return scene.read_layers(Window(3, 4, 20, 30))[IMAGE].values

    with open_area(plain) as scene:
        bare = scene.layers[IMAGE]
    numbers = read(plain, bare)
    assert numbers.dtype == np.uint16
    bands = tuple(dataclasses.replace(band, scale=1e-4) for band in bare.bands)
    told = dataclasses.replace(bare, bands=dataclasses.replace(bare.bands, bands=bands))
    assert read(plain, told).dtype == np.uint16
    assert np.array_equal(read(shifted, told), numbers)
    with pytest.raises(SceneError, match=r"--scale 1 --offset -1000 "):
        open_area(shifted, bare)
    assert np.array_equal(read(shifted, bare, scale=1.0, offset=-1000.0), numbers)


def test_numbers_of_bands_stand_for_nothing_in_another_file(tmp_path: Path) -> None:
    with open_area(_scene(tmp_path / "three.tif", bands=["a", "b", "c"])) as scene:
        named = scene.layers[IMAGE]
    values = np.ones((3, *SHAPE), np.uint16)
    write_raster(tmp_path / "bare.tif", values, grid=_grid(), nodata=0, cog=False)
    with open_area(tmp_path / "bare.tif") as scene:
        bare = scene.layers[IMAGE]
    assert bare.bands.names == ("1", "2", "3") and named.bands.names == ("a", "b", "c")
    wide = _scene(tmp_path / "wide.tif")
    with pytest.raises(SceneError, match="4 bands, but 3 without names are needed"):
        open_area(wide, bare)
    open_area(wide, bare, bands=["1", "2", "nir"]).close()
    open_area(tmp_path / "three.tif", bare).close()


def test_a_band_flagged_alpha_is_near_infrared_when_asked_for(raw: Path, tmp_path: Path) -> None:
    for path in sorted(raw.glob("s?.tif")):
        with rasterio.open(path) as file:
            values = np.clip(file.read() // 20, 1, 254).astype(np.uint8)
        values[3, :8] = 0
        with rasterio.open(
            path, "w", driver="GTiff", count=4, dtype="uint8", photometric="RGB", alpha="YES",
            height=SHAPE[0], width=SHAPE[1], crs=CRS, transform=rasterio.Affine(*_grid().transform),
        ) as file:  # fmt: skip
            file.write(values)
    three, four = (describe(_settings(raw, bands=bands)) for bands in (None, ["1", "2", "3", "4"]))
    for dataset, count, lost in ((three, 3, 8), (four, 4, 0)):
        layer = dataset.layers[IMAGE]
        assert layer.bands.names == ("1", "2", "3", "4")[:count]
        areas = Areas(dataset, "train")
        assert dataset.statistics.layers[IMAGE][0].count == len(areas.samples) * (SHAPE[0] - lost) * SHAPE[1]
        # A scene to be mapped has the same bands, and is read as the training scenes were.
        with open_area(raw / "s0.tif", layer) as scene:
            patch = scene.read_layers(scene.grid.whole)[IMAGE]
        assert patch.values.shape[0] == count
        assert patch.valid.all() == (lost == 0)


def test_scenes_are_found_and_products_are_not(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    for name in ("a.tif", "a_prob.tif", "a_instances.tif", "b_pred.tif", "._a.tif"):
        _scene(folder / name)
    (folder / "notes.txt").write_text("x")
    assert list(find_inputs([folder])) == ["a", "b_pred"]
    assert find_inputs([folder / "a_prob.tif", folder / "a_prob.tif"]) == {"a_prob": folder / "a_prob.tif"}
    with pytest.raises(DataError, match="not found"):
        find_inputs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no scene"):
        find_inputs([tmp_path / "empty"])
    with pytest.raises(DataError, match="share a name"):
        find_inputs([folder, _scene(tmp_path / "other" / "a.tif")])


def test_built_in_sample_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slumps_detectron2 import sample

    monkeypatch.setenv("GEOCORE_CACHE", str(tmp_path))
    small = sample.write_sample
    monkeypatch.setattr(sample, "write_sample", lambda folder: small(folder, scenes=8, shape=(96, 128)))
    dataset = load_dataset(None)
    assert {found.split for found in dataset.samples} == {"train", "val", "test"}
    assert Tiles(dataset, "train").windows
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")}
    monkeypatch.setattr(sample, "write_sample", None)
    assert load_dataset(None).hash == dataset.hash
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")} == written


def _real() -> Path:
    return Path(os.environ["GEOCORE_DATA"]) / "thaw-slump"


real = pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA is not set")
_BLOCKS = {"split": {"by": "block", "block_px": 64, "buffer_px": 8}, "cut": {"size": 64, "stride": 32}}


@pytest.mark.real
@real
@pytest.mark.parametrize("bands", [["7"], ["3", "2", "1"], ["1", "2", "3", "4", "7", "9", "10"], None])
def test_published_scene_of_any_number_of_bands(tmp_path: Path, bands: list[str] | None) -> None:
    scene = next(_real().glob("raster/S2_*.tif"))
    label = _real() / "masks/Bykovsky_S2_majority_binary255.tif"
    dataset = describe(PrepareSettings(image=scene, label=[label], out=tmp_path, bands=bands, **_BLOCKS))
    dataset.save()
    tiles = Tiles(load_dataset(tmp_path), "train")
    count = 10 if bands is None else len(bands)
    items = [tiles.read(PatchIndex(area, tile, 0, 0)) for area, its in enumerate(tiles.windows) for tile in its]
    assert {item["inputs"][IMAGE]["values"].shape for item in items} == {(count, 64, 64)}
    assert sum(len(item["objects"]["boxes"]) > 0 for item in items) == len(items) / 2
    assert dataset.statistics is not None and len(dataset.statistics.layers[IMAGE]) == count
    labelled = sum(int(Areas(dataset, split).truth(i).labelled.sum()) for split in ("train", "val", "test")
                   for i in range(len(dataset.split(split))))  # fmt: skip
    assert labelled > 0.7 * 251**2


@pytest.mark.real
@real
def test_published_landsat_scene_with_infinite_nodata_and_outlines(tmp_path: Path) -> None:
    scene = next(_real().glob("raster/L8_*.tif"))
    labels = sorted(_real().glob("labels/*/*.shp"))
    dataset = describe(PrepareSettings(image=scene, label=labels, out=tmp_path, **_BLOCKS))
    dataset.save()
    dataset = load_dataset(tmp_path)
    assert {band.nodata for band in dataset.layers[IMAGE].bands} == {-np.inf}
    assert dataset.statistics is not None
    assert all(np.isfinite([band.mean, band.std, band.minimum]).all() for band in dataset.statistics.layers[IMAGE])
    areas = Areas(dataset, "train")
    assert len(areas.experts) == 10
    for index in range(len(areas.samples)):
        valid = areas.scene(index).read_layers(areas.window(index))[IMAGE].valid.all(axis=0)
        assert not (areas.truth(index).labelled & ~valid).any()


def _statistics(dataset: Any) -> list[tuple[float, ...]]:
    return [(band.count, band.minimum, band.mean, band.std) for band in dataset.statistics.layers[IMAGE]]


def test_scenes_of_one_table_may_hold_their_numbers_in_other_ways(raw: Path, tmp_path: Path) -> None:
    """Other missing values, scales, offsets and types: each file by its own tags, all in the numbers of the first."""
    for number in range(8):
        with rasterio.open(raw / f"s{number}.tif", "r+") as file:
            values = file.read()
            values[:, :6] = 0
            file.write(values)
            file.scales = (1e-4,) * 4
    plain = describe(_settings(raw))
    assert plain.layers[IMAGE].dtype == "uint16"
    for number, (hole, add, dtype) in enumerate(((0, 0, "uint16"), (65535, 0, "uint16"), (0, 1000, "uint16"),
                                                 (-9999, 0, "int16"), (float("nan"), 0, "float32"))):  # fmt: skip
        with rasterio.open(raw / f"s{number}.tif") as file:
            values, profile, names = file.read(), file.profile, file.descriptions
        held = (values.astype("int32") + add).astype(dtype)
        held[values == 0] = hole
        with rasterio.open(raw / f"s{number}.tif", "w", **profile | {"dtype": dtype, "nodata": hole}) as file:
            file.write(held)
            file.descriptions, file.scales, file.offsets = names, (1e-4,) * 4, (-add / 1e4,) * 4
    mixed = describe(_settings(raw, out=tmp_path / "mixed"))
    layer = mixed.layers[IMAGE]
    assert (layer.dtype, layer.bands["red"].scale, layer.bands["red"].nodata) == ("float32", 1e-4, None)
    assert {s.id: s.attributes["slumps"] for s in mixed.samples} == {
        s.id: s.attributes["slumps"] for s in plain.samples
    }
    for found, expected in zip(_statistics(mixed), _statistics(plain), strict=True):
        # Counted value by value where numbers are whole, merged in float64 where they are not.
        assert found[:2] == expected[:2] and found[2:] == pytest.approx(expected[2:], rel=1e-12)
    for index, sample in enumerate(plain.split("train")):
        window = Window(2, 3, 20, 30)
        mine, theirs = (Areas(dataset, "train").scene(index).read_layers(window)[IMAGE] for dataset in (mixed, plain))
        assert np.array_equal(mine.valid, theirs.valid), sample.id
        assert np.array_equal(mine.values[mine.valid], theirs.values[theirs.valid].astype("float32")), sample.id


def test_scenes_whose_numbers_nobody_can_compare_are_refused(raw: Path) -> None:
    with rasterio.open(raw / "s5.tif", "r+") as file:
        file.scales, file.offsets = (1e-4,) * 4, (-0.1,) * 4
    with pytest.raises(DataError, match=r"^s5.tif: it says what .*scale 0.0001, offset -0.1.* but s0.tif does not"):
        describe(_settings(raw))
    # What the command line says is said of all.
    assert describe(_settings(raw, scale=1e-4, offset=0.0)).layers[IMAGE].bands["red"].scale == 1e-4


def test_the_missing_value_that_was_given_is_also_that_of_training(raw: Path) -> None:
    dataset = describe(_settings(raw, nodata=1234))
    dataset.save()
    areas = Areas(load_dataset(dataset.root), "train")
    patch = areas.scene(0).read_layers(areas.window(0))[IMAGE]
    assert np.array_equal(patch.valid, patch.values != 1234) and not patch.valid.all()


def test_a_data_set_is_read_in_the_numbers_of_a_network(raw: Path, tmp_path: Path) -> None:
    """Physical reflectance in one data set, ten thousand times as much in the other, both with tags."""
    for number in range(8):
        with rasterio.open(raw / f"s{number}.tif", "r+") as file:
            file.scales, file.units = (1e-4,) * 4, ("1",) * 4
    whole = describe(_settings(raw))
    shutil.copytree(raw, tmp_path / "other")
    for number in range(8):
        with rasterio.open(raw / f"s{number}.tif") as file:
            values, profile, names = file.read(), file.profile, file.descriptions
        path = tmp_path / f"other/s{number}.tif"
        with rasterio.open(path, "w", **profile | {"dtype": "float32", "nodata": -1}) as file:
            file.write(np.where(values == 0, -1, values / 1e4).astype("float32"))
            file.descriptions, file.units = names, ("1",) * 4
    shares = describe(_settings(tmp_path / "other", out=tmp_path / "shares"))
    assert whole.read_as(IMAGE, whole.layers[IMAGE]) is whole
    seen = shares.read_as(IMAGE, whole.layers[IMAGE])
    assert seen.statistics is None and seen.layers[IMAGE].bands["red"].nodata == -1
    mine, theirs = (
        Areas(dataset, "train").scene(0).read_layers(Window(0, 0, 40, 50))[IMAGE] for dataset in (seen, whole)
    )
    assert np.array_equal(mine.valid, theirs.valid)
    # Two roundings of float32.
    np.testing.assert_allclose(mine.values, theirs.values, rtol=2e-7)
    fewer = dataclasses.replace(whole.layers[IMAGE], bands=whole.layers[IMAGE].bands.select(["red", "nir"]))
    with pytest.raises(DataError, match="holds the bands blue, green, red, nir, but the network takes red, nir"):
        shares.read_as(IMAGE, fewer)
