"""The data set: chips with splits, dates and statistics; what training and scoring read; and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch

from floods_prithvi.chip_reader import IMAGE
from floods_prithvi.config import PrepareSettings, TrainSettings
from floods_prithvi.data import Chips, Windows, describe, load_dataset
from floods_prithvi.sample import write_burn_sample, write_frames_sample, write_sample
from geocore.datasets.dataset import Dataset
from geocore.datasets.loader import Batches, stack
from geocore.errors import DataError, SceneError, UserError
from geocore.raster.geotiff import RasterReader
from geocore.raster.grid import Window
from geocore.tiling.samplers import PatchIndex, RandomWindowSampler

SIX = [2, 3, 4, 9, 12, 13]
SIZE = 64
COUNTS = {"train": 2, "valid": 1, "test": 1, "bolivia": 3}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("originals") / "chips", seed=1, size=SIZE, counts=COUNTS)


@pytest.fixture(scope="module")
def dataset(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("dataset")
    describe(PrepareSettings(data=originals, out=out)).save()
    return load_dataset(out)


@pytest.fixture
def raw(originals: Path, tmp_path: Path) -> Path:
    """The chips, to be changed at will."""
    return shutil.copytree(originals, tmp_path / "raw")


def settings(raw: Path, **changes: Any) -> PrepareSettings:
    return PrepareSettings(**{"data": raw, "out": raw.parent / "dataset"} | changes)


def file_of(folder: Path, part: str, number: int = 0) -> Path:
    return sorted(folder.rglob(f"*_{part}.tif"))[number]


def change(path: Path, edit: Callable[[npt.NDArray[Any]], None]) -> None:
    with rasterio.open(path, "r+") as file:
        values = file.read()
        edit(values)
        file.write(values)


def rewrite(path: Path, values: npt.NDArray[Any], **options: Any) -> None:
    with rasterio.open(path) as file:
        profile = file.profile | {"count": len(values), "dtype": values.dtype, "nodata": None} | options
    with rasterio.open(path, "w", **profile) as file:
        file.write(values)


def set_all(value: float) -> Callable[[npt.NDArray[Any]], None]:
    return lambda values: values.fill(value)


# --- Sen1Floods11 ---


def test_chips_stay_in_place_and_follow_the_lists(raw: Path) -> None:
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    dataset = describe(settings(raw))
    dataset.save()
    assert {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before
    assert [path.name for path in dataset.root.iterdir()] == ["dataset.yaml"]
    found = {split: len(dataset.split(split)) for split in ("train", "val", "test", "bolivia")}
    assert found == {"train": 10, "val": 5, "test": 5, "bolivia": 3}
    assert {sample.group for sample in dataset.split("train")} == {"Ghana", "Mekong", "Spain", "Sri-Lanka", "USA"}
    assert {sample.group for sample in dataset.split("bolivia")} == {"Bolivia"}
    assert dataset.labels["mask"].classes == {0: "land", 1: "water"}
    protocol = dict(dataset.protocol)
    assert protocol["format"] == "sen1floods11"
    # Nobody has said otherwise than files and format do.
    assert [protocol[key] for key in ("scale", "offset", "nodata")] == [None, None, None]
    assert "23 chips: 0 is missing (file), numbers x 0.0001 (format sen1floods11)" in dataset.notes
    assert (protocol["label_values"], protocol["ignored_values"], protocol["frames"]) == ("0 1", "-1", 1)


def test_dates_and_places_of_events(dataset: Dataset) -> None:
    dates = {sample.group: sample.attributes["date"] for sample in dataset.samples}
    # In the metadata Mekong is called Cambodia.
    assert dates["Mekong"] == "2018-08-04"
    assert dates["Bolivia"] == "2018-02-15"
    chips = Chips(dataset, "bolivia")
    when, where = chips.coordinates(0)
    assert when.dtype == where.dtype == np.float32
    assert when.tolist() == [[2018, 31 + 14]]
    with rasterio.open(dataset.path(chips.samples[0].inputs[IMAGE])) as file:
        longitude, latitude = file.xy(SIZE // 2, SIZE // 2, offset="ul")
    assert where == pytest.approx([latitude, longitude], abs=1e-4)


def test_pixels_of_each_class_are_those_that_image_and_label_have(dataset: Dataset) -> None:
    striped = 0
    for sample in dataset.samples:
        with rasterio.open(dataset.path(sample.inputs[IMAGE])) as file:
            valid = (file.read(SIX) != 0).any(axis=0)
        with rasterio.open(dataset.path(sample.labels["mask"])) as file:
            label = file.read(1)
        expected = [int(((label == value) & valid).sum()) for value in (0, 1)]
        assert [sample.attributes["class_0_px"], sample.attributes["class_1_px"]] == expected
        chips = Chips(dataset, sample.split)
        target = chips.target(chips.samples.index(sample))
        assert np.array_equal(target, np.where(valid & (label >= 0), label, 255))
        striped += not valid.all()
    assert striped >= 3


def test_statistics_are_those_of_training_reflectance(dataset: Dataset) -> None:
    pixels = []
    for sample in dataset.split("train"):
        if sample.attributes["class_0_px"] or sample.attributes["class_1_px"]:
            with rasterio.open(dataset.path(sample.inputs[IMAGE])) as file:
                values = file.read(SIX)
            pixels.append(values[:, (values != 0).any(axis=0)] * 1e-4)
    assert len(pixels) == 9
    together = np.concatenate(pixels, axis=1)
    assert dataset.statistics is not None
    for band, values in zip(dataset.statistics.layers[IMAGE], together, strict=True):
        # Reflectance is float32: relative error 6e-8, and means are taken in float64.
        assert (band.mean, band.std) == (pytest.approx(values.mean(), rel=1e-6), pytest.approx(values.std(), rel=1e-6))
        assert band.count == values.size


def test_remarks_name_chips_that_scores_trip_over(dataset: Dataset) -> None:
    notes = "\n".join(dataset.notes)
    assert "1 chips have no labelled pixel: Sri-Lanka_" in notes
    assert "chips have no water: Bolivia_" not in notes
    assert "4 chips have no water:" not in notes
    assert "3 chips have no water: Sri-Lanka_" in notes
    assert "5 flood events lie in several splits" in notes
    assert "leak" not in notes


def test_copies_in_several_splits_are_refused_and_told_where_accepted(raw: Path) -> None:
    train, other = (next(raw.rglob(f"{name}_1000*_S2Hand.tif")) for name in ("Ghana", "Spain"))
    for copy in (other, next(raw.rglob("Bolivia_*_S2Hand.tif"))):  # one within train
        for part in ("S2Hand", "LabelHand"):
            pair = [Path(str(path).replace("S2Hand", part)) for path in (train, copy)]
            shutil.copyfile(*pair)
    names = sorted(path.name.removesuffix("_S2Hand.tif") for path in (train, other))
    bolivia = next(raw.rglob("Bolivia_*_S2Hand.tif")).name.removesuffix("_S2Hand.tif")
    told = f"2 pairs of samples of train and bolivia show the same pixels: {names[0]} and {bolivia}, {names[1]} and"
    with pytest.raises(DataError, match=f"{told}.*--split.allow-leaks true"):
        describe(settings(raw))
    dataset = describe(settings(raw, split={"allow_leaks": True}))
    leaks = [note for note in dataset.notes if note.startswith("leak: ")]
    # The copy has the georeference of the other as well.
    assert [told in leak for leak in leaks] == [True, False]
    assert "show the same ground" in leaks[1]
    dataset.save()
    assert load_dataset(dataset.root).hash == dataset.hash  # told once, not refused for ever


def test_chips_of_one_ground_stay_in_one_split_where_they_are_dealt_out(tmp_path: Path) -> None:
    """Three dates of one place are three tiles by their names; a chip cut from another one is a tile of its own."""
    write_burn_sample(tmp_path / "raw", size=SIZE, training=6, validation=3)
    images = sorted((tmp_path / "raw").rglob("*_merged.tif"))
    for path in (tmp_path / "raw").rglob("*.tif"):
        path.rename(tmp_path / "raw" / path.name)
    images = sorted((tmp_path / "raw").glob("*_merged.tif"))
    with rasterio.open(images[0]) as first:
        place = {"crs": first.crs, "transform": first.transform}
    for path in images[1:3]:
        for file in (path, Path(str(path).replace("_merged.tif", ".mask.tif"))):
            with rasterio.open(file, "r+") as moved:
                moved.crs, moved.transform = place["crs"], place["transform"]
    dataset = describe(settings(tmp_path / "raw", format="burn-scars"))
    ids = [path.name.removesuffix("_merged.tif") for path in images]
    split_of = {sample.id: sample.split for sample in dataset.samples}
    assert len({split_of[name] for name in ids[:3]}) == 1
    assert any("show the same ground: they stay in one split" in note for note in dataset.notes)
    assert set(split_of.values()) == {"train", "val", "test"}


def test_data_set_is_the_same_wherever_it_is_written_and_found_again(raw: Path) -> None:
    first = describe(settings(raw))
    other = raw.parent / "deep" / "other"
    describe(settings(raw, out=other)).save()
    assert load_dataset(other).hash == first.hash
    assert describe(settings(raw, scale=2e-4)).hash != first.hash


@pytest.mark.parametrize("part", ["S2Hand", "LabelHand"])
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_data_set_whose_files_are_not_what_they_were_is_refused(raw: Path, part: str, harm: str) -> None:
    dataset = describe(settings(raw))
    dataset.save()
    path = file_of(raw, part, 3)
    if harm == "gone":
        path.unlink()
    else:
        change(path, set_all(1))
    with pytest.raises(DataError, match=rf"{path.name}.*(changed|missing).*prepare the data again"):
        load_dataset(dataset.root)


def test_dates_are_unknown_without_metadata_or_for_an_event_that_they_lack(raw: Path) -> None:
    path = next(raw.rglob("*.geojson"))
    path.write_text(path.read_text().replace('"Spain"', '"Elsewhere"'))
    assert "Sen1Floods11_Metadata.geojson has no date for Spain" in describe(settings(raw)).notes
    moved = shutil.move(path, raw.parent / "other.geojson")
    dataset = describe(settings(raw))
    assert any(note.startswith("dates are not known") for note in dataset.notes)
    assert np.isnan(Chips(dataset, "val").coordinates(0)[0]).all()
    assert "date" in describe(settings(raw, metadata=moved)).split("bolivia")[0].attributes
    with pytest.raises(DataError, match="--metadata"):
        describe(settings(raw, metadata=raw / "none.geojson"))


# --- what training reads ---


def test_windows_are_items_for_training(dataset: Dataset) -> None:
    windows = Windows(dataset, "train")
    assert windows.shapes == [(SIZE, SIZE)] * 9  # one of ten has no labelled pixel
    item = windows.read(PatchIndex(4, Window(8, 16, 32, 40), 2, 7))
    values, valid = item["inputs"][IMAGE]["values"], item["inputs"][IMAGE]["valid"]
    assert (values.shape, values.dtype, valid.shape) == ((6, 32, 40), np.float32, (1, 32, 40))
    chips = Chips(dataset, "train")
    place = [sample.id for sample in chips.samples].index(windows.samples[4].id)
    with chips.scene(place) as scene:
        whole = scene.read_layers(Window(8, 16, 32, 40))[IMAGE]
    assert np.array_equal(values, whole.values, equal_nan=True)
    assert np.array_equal(item["targets"]["mask"], chips.target(place)[8:40, 16:56])
    assert item["keys"].tolist() == [2, 7]
    assert (item["dates"].shape, item["places"].shape) == ((1, 2), (2,))
    batch = stack([item, windows.read(PatchIndex(1, Window(0, 0, 32, 40), 2, 8))])
    assert batch["inputs"][IMAGE]["values"].shape == (2, 6, 32, 40)
    assert batch["dates"].shape == (2, 1, 2)


def test_what_lies_outside_a_chip_does_not_count(dataset: Dataset) -> None:
    item = Windows(dataset, "train").read(PatchIndex(0, Window(-8, -8, 96, 96), 0, 0))
    inside = np.zeros((96, 96), bool)
    inside[8 : 8 + SIZE, 8 : 8 + SIZE] = True
    assert not item["inputs"][IMAGE]["valid"][0, ~inside].any()
    assert (item["targets"]["mask"][~inside] == 255).all()
    assert (item["targets"]["mask"][inside] != 255).any()


def test_threads_read_the_same(dataset: Dataset) -> None:
    windows = Windows(dataset, "train")
    draws = [PatchIndex(index % 9, Window(index, 3, 32, 32), 0, index) for index in range(24)]
    alone = [windows.read(draw) for draw in draws]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(windows.read, draws), strict=True):
            assert np.array_equal(one["targets"]["mask"], other["targets"]["mask"])
            assert np.array_equal(*(item["inputs"][IMAGE]["values"] for item in (one, other)), equal_nan=True)


def batches(windows: Windows, threads: int) -> Iterator[dict[str, Any]]:
    sampler = RandomWindowSampler(windows.shapes, 40, 48, seed=0)
    return islice(Batches(sampler, windows.read, batch_size=8, threads=threads), 9)  # an epoch and a half


@pytest.mark.parametrize("threads", [0, 4])
def test_batches_are_bit_equal_with_a_cache(dataset: Dataset, tmp_path: Path, threads: int) -> None:
    plain = batches(Windows(dataset, "train"), 0)
    for _ in range(2):  # filled, then found
        cached = list(batches(Windows(dataset, "train", cache=tmp_path), threads))
        for one, other in zip(plain, cached, strict=True):
            assert torch.equal(one["targets"]["mask"], other["targets"]["mask"])
            for name in ("values", "valid"):
                arrays = [batch["inputs"][IMAGE][name].numpy() for batch in (one, other)]
                assert arrays[0].dtype == arrays[1].dtype and arrays[0].tobytes() == arrays[1].tobytes()
            assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in ("dates", "places", "keys"))
        plain = batches(Windows(dataset, "train"), 0)
    outside = PatchIndex(0, Window(-8, -8, 96, 96), 0, 0)
    one, other = (Windows(dataset, "train", cache=folder).read(outside) for folder in (None, tmp_path))
    assert one["inputs"][IMAGE]["values"].tobytes() == other["inputs"][IMAGE]["values"].tobytes()
    assert np.array_equal(one["targets"]["mask"], other["targets"]["mask"])


def test_each_file_is_opened_once_for_all_windows(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    init = RasterReader.__init__

    def counted(self: RasterReader, path: Path, **options: Any) -> None:
        opened.append(Path(path).name)
        init(self, path, **options)

    monkeypatch.setattr(RasterReader, "__init__", counted)
    windows = Windows(dataset, "train")
    for _ in batches(windows, 4):
        pass
    held_out = Chips(dataset, "val")
    for index in [*range(len(held_out.samples))] * 2:
        held_out.target(index)
    assert len(opened) == len(set(opened)) == 2 * (len(windows.samples) + len(held_out.samples))


def sampled(**sampling: Any) -> TrainSettings:
    return TrainSettings.model_validate({"tiling": {"size": 32, "overlap": 0}, "sampling": sampling})


def test_windows_are_drawn_as_ever_where_nothing_is_said(dataset: Dataset) -> None:
    windows = Windows(dataset, "train")
    plain = RandomWindowSampler(windows.shapes, 32, 40, seed=0)
    assert windows.sampler(sampled(), draws=40, batch_size=8).epoch(1) == plain.epoch(1)


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("balance", ["none", "classes"])
def test_chunked_windows_hold_what_windows_hold_with_and_without_a_cache(
    dataset: Dataset, tmp_path: Path, threads: int, balance: str
) -> None:
    settings, plain = sampled(kind="chunked", windows_per_chunk=4, balance=balance), Windows(dataset, "train")
    epochs = []
    for folder in (None, tmp_path):
        windows = Windows(dataset, "train", cache=folder)
        sampler = windows.sampler(settings, draws=48, batch_size=8)
        draws = sampler.epoch(0)
        epochs.append(draws)
        assert len({draw.chunk for draw in draws}) < len({draw.window for draw in draws})
        read = islice(Batches(sampler, windows.read, batch_size=8, threads=threads), 6)
        for number, batch in enumerate(read):
            for place, draw in enumerate(draws[8 * number : 8 * number + 8]):
                expected = plain.read(replace(draw, chunk=None))
                assert batch["targets"]["mask"][place].numpy().tobytes() == expected["targets"]["mask"].tobytes()
                for name in ("values", "valid"):
                    one, other = batch["inputs"][IMAGE][name][place].numpy(), expected["inputs"][IMAGE][name]
                    assert one.tobytes() == other.tobytes()
    assert epochs[0] == epochs[1], "the cache decides nothing"


def test_image_and_label_of_a_chunk_are_decoded_once(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(dataset, "train")
    draws = windows.sampler(sampled(kind="chunked", windows_per_chunk=6), draws=96, batch_size=8).epoch(0)
    decoded: list[tuple[str, Window]] = []
    read = RasterReader.decode

    def noted(self: RasterReader, window: Window, into: Any) -> None:
        decoded.append((str(self.path), window))
        read(self, window, into)

    monkeypatch.setattr(RasterReader, "decode", noted)
    for draw in draws:
        windows.read(draw)
    assert len(decoded) == len(set(decoded)) == 2 * len({(draw.sample, draw.chunk) for draw in draws}) < 2 * 96


def test_balanced_windows_show_the_rare_class_more_often(raw: Path) -> None:
    def corner(values: npt.NDArray[Any]) -> None:
        values[...] = 0
        values[:, :8, :8] = 1

    for path in raw.rglob("*_LabelHand.tif"):
        change(path, corner)
    windows = Windows(describe(settings(raw)), "train")

    def water(**sampling: Any) -> float:
        drawn = windows.sampler(sampled(**sampling), draws=400, batch_size=8).epoch(0)
        return float(np.mean([(windows.read(draw)["targets"]["mask"] == 1).any() for draw in drawn]))

    plain, balanced, chunked = water(), water(balance="classes"), water(kind="chunked", balance="classes")
    assert plain < 0.25 and balanced > plain + 0.15 and chunked == pytest.approx(balanced, abs=0.1)


def test_a_grid_shows_every_pixel_of_training_once_an_epoch(dataset: Dataset) -> None:
    windows = Windows(dataset, "train")
    seen = [np.zeros(shape, int) for shape in windows.shapes]
    for draw in windows.sampler(sampled(kind="grid"), draws=3, batch_size=8).epoch(0):
        seen[draw.sample][draw.window.slices] += 1
    assert all((counts == 1).all() for counts in seen)


def test_whole_chips_are_equal_with_a_cache(dataset: Dataset, tmp_path: Path) -> None:
    plain, cached = Chips(dataset, "val"), Chips(dataset, "val", cache=tmp_path)
    for index in range(len(plain.samples)):
        assert np.array_equal(plain.target(index), cached.target(index))
        with plain.scene(index) as one, cached.scene(index) as other:
            assert (one.name, one.grid, one.layers[IMAGE].bands) == (other.name, other.grid, other.layers[IMAGE].bands)


def mirror(values: npt.NDArray[Any]) -> None:
    values[...] = values[..., ::-1].copy()


@pytest.mark.parametrize("part, harm", [("S2Hand", set_all(1000)), ("LabelHand", mirror)])
def test_a_changed_file_is_not_served_from_a_cache(
    raw: Path, tmp_path: Path, part: str, harm: Callable[[npt.NDArray[Any]], None]
) -> None:
    def seen(dataset: Dataset, folder: Path | None) -> list[bytes]:
        windows = Windows(dataset, "train", cache=folder)
        items = [
            windows.read(PatchIndex(index, Window(0, 0, SIZE, SIZE), 0, 0)) for index in range(len(windows.samples))
        ]
        return [item["inputs"][IMAGE]["values"].tobytes() + item["targets"]["mask"].tobytes() for item in items]

    cache = tmp_path / "cache"
    before = seen(describe(settings(raw)), cache)
    for path in raw.rglob(f"*_{part}.tif"):
        change(path, harm)
    after = describe(settings(raw))
    assert seen(after, cache) == seen(after, None) != before


def test_other_rules_are_not_served_from_a_cache(raw: Path, tmp_path: Path) -> None:
    draw = PatchIndex(0, Window(0, 0, SIZE, SIZE), 0, 0)
    for scale in (1e-4, 2e-4):
        dataset = describe(settings(raw, scale=scale))
        one, other = (Windows(dataset, "train", cache=folder).read(draw) for folder in (None, tmp_path / "cache"))
        assert one["inputs"][IMAGE]["values"].tobytes() == other["inputs"][IMAGE]["values"].tobytes()


def test_labels_of_one_class_alone_are_refused_by_its_name(raw: Path) -> None:
    for path in raw.rglob("*_LabelHand.tif"):
        change(path, set_all(1))
    with pytest.raises(DataError, match=r"raw: all \d+ masks hold one value: Bolivia_\d+ \(water\)"):
        describe(settings(raw))


def test_split_without_a_label_or_without_a_chip_is_refused(raw: Path, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="split 'elsewhere' has no sample"):
        Chips(dataset, "elsewhere")
    names = (raw / "v1.1/splits/flood_handlabeled/flood_train_data.csv").read_text().split()
    for line in names:
        change(next(raw.rglob(line.split(",")[1])), set_all(-1))
    with pytest.raises(DataError, match="no pixel is labelled in the 10 chips of split train"):
        describe(settings(raw))


def test_data_set_to_score_on_alone_has_no_statistics(raw: Path) -> None:
    for name in ("train", "valid"):
        (raw / f"v1.1/splits/flood_handlabeled/flood_{name}_data.csv").unlink()
    dataset = describe(settings(raw))
    dataset.save()
    assert {sample.split for sample in dataset.samples} == {"test", "bolivia"}
    assert load_dataset(dataset.root).statistics is None
    assert len(Chips(dataset, "bolivia").samples) == 3


# --- other formats ---


def test_burn_chips_keep_tiles_whole_and_gaps_out(tmp_path: Path) -> None:
    write_burn_sample(tmp_path / "raw", size=SIZE, training=4, validation=2)
    dataset = describe(settings(tmp_path / "raw", format="burn-scars"))
    splits = {
        group: {s.split for s in dataset.samples if s.group == group} for group in {s.group for s in dataset.samples}
    }
    assert all(len(found) == 1 for found in splits.values())
    assert {next(iter(found)) for found in splits.values()} == {"train", "val", "test"}
    assert dataset.labels["mask"].classes == {0: "unburnt", 1: "burn scar"}
    assert dataset.protocol["scale"] is None
    sample = dataset.samples[0]
    assert sample.attributes["date"] == f"{sample.id.split('.')[3][:4]}-" + str(sample.attributes["date"])[5:]
    gaps = 0
    for split in ("train", "val", "test"):
        chips = Chips(dataset, split)
        for index in range(len(chips.samples)):
            with chips.scene(index) as scene:
                patch = scene.read_layers(scene.grid.whole)[IMAGE]
            missing = ~patch.valid[0]
            gaps += int(missing.any())
            assert (chips.target(index)[missing] == 255).all()
            assert np.isnan(patch.values[:, missing]).all()
            assert 0 < patch.values[:, ~missing].min() < patch.values[:, ~missing].max() < 1
    assert gaps == 2
    assert dataset.statistics is not None
    assert all(0 < band.mean < 0.4 for band in dataset.statistics.layers[IMAGE])


def _tag(folder: Path) -> None:
    """Each pixel of each chip holds 100 * date + band + 1."""
    tags = (100 * np.arange(3)[:, None] + np.arange(6) + 1).reshape(18, 1, 1)
    for path in folder.rglob("*_merged.tif"):
        with rasterio.open(path) as file:
            shape = file.shape
        rewrite(path, np.broadcast_to(tags, (18, *shape)).astype(np.int16))


def test_dates_and_bands_of_prepared_chips_keep_their_places(tmp_path: Path) -> None:
    write_frames_sample(tmp_path / "raw", size=48)
    _tag(tmp_path / "raw")
    dataset = describe(settings(tmp_path / "raw", format="frames", scale=1e-3))
    assert dataset.layers[IMAGE].times == ("1", "2", "3")
    expected = 100 * np.arange(3)[:, None] + np.arange(6) + 1
    item = Windows(dataset, "train").read(PatchIndex(0, Window(4, 4, 16, 16), 0, 0))
    values = item["inputs"][IMAGE]["values"]
    assert (values.shape, item["inputs"][IMAGE]["valid"].shape) == ((3, 6, 16, 16), (3, 1, 16, 16))
    assert np.allclose(values, expected[..., None, None] * 1e-3, atol=1e-7)
    with Chips(dataset, "test").scene(1) as scene:
        assert np.allclose(scene.read_layers(Window(0, 0, 2, 2))[IMAGE].values[:, :, 1, 1], expected * 1e-3, atol=1e-7)
    # Taken for band by band, the same numbers stand elsewhere: this is what the test is there to notice.
    assert not np.allclose(expected, expected.reshape(6, 3).T)
    assert dataset.statistics is not None
    means = [band.mean for band in dataset.statistics.layers[IMAGE]]
    assert means == pytest.approx((expected.mean(axis=0) * 1e-3).tolist(), rel=1e-6)
    assert np.isnan(item["dates"]).all() and item["dates"].shape == (3, 2)


def test_crops_are_counted_from_zero_and_no_data_is_ignored(tmp_path: Path) -> None:
    write_frames_sample(tmp_path / "raw", size=48)
    label = file_of(tmp_path / "raw", "merged", 0).with_name("chip_100_200.mask.tif")
    with rasterio.open(label) as file:
        stored = file.read(1)
    dataset = describe(settings(tmp_path / "raw", format="frames"))
    assert len(dataset.labels["mask"].classes) == 13
    chips = Chips(dataset, next(s.split for s in dataset.samples if s.id == "chip_100_200"))
    target = chips.target([sample.id for sample in chips.samples].index("chip_100_200"))
    assert np.array_equal(target, np.where(stored == 0, 255, stored - 1))


def test_pixel_that_one_date_lacks_does_not_count(tmp_path: Path) -> None:
    write_frames_sample(tmp_path / "raw", size=48)

    def hide(values: npt.NDArray[Any]) -> None:
        values[6:12, :10] = 0

    for path in (tmp_path / "raw").rglob("*_merged.tif"):
        change(path, hide)
    dataset = describe(settings(tmp_path / "raw", format="frames", nodata=0))
    chips = Chips(dataset, "train")
    assert (chips.target(0)[:10] == 255).all()
    assert (chips.target(0)[10:] != 255).any()
    with chips.scene(0) as scene:
        valid = scene.read_layers(scene.grid.whole)[IMAGE].valid
    assert valid[[0, 2]].all() and not valid[1, 0, :10].any() and valid[1, 0, 10:].all()


def test_classes_and_ignored_values_can_be_others(raw: Path) -> None:
    for path in raw.rglob("*_LabelHand.tif"):
        change(path, lambda values: np.copyto(values, np.where(values == 1, 7, np.where(values == 0, 3, 5))))
    with pytest.raises(DataError, match=r"labels are 0, 1, and ignored -1"):
        describe(settings(raw))
    dataset = describe(settings(raw, classes={7: "wet", 3: "dry"}, ignore=[5]))
    assert dataset.labels["mask"].classes == {0: "dry", 1: "wet"}
    with rasterio.open(dataset.path(dataset.samples[0].labels["mask"])) as file:
        stored = file.read(1)
    chips = Chips(dataset, dataset.samples[0].split)
    target = chips.target(chips.samples.index(dataset.samples[0]))
    assert np.array_equal(target[target != 255], (stored[target != 255] == 7).astype(np.uint8))
    # What is named as a class is ignored no longer; ignoring it as well is a contradiction.
    three = describe(settings(raw, classes={7: "wet", 3: "dry", 5: "cloud"}))
    assert three.labels["mask"].classes == {0: "dry", 1: "cloud", 2: "wet"}
    with pytest.raises(DataError, match=r"label value 5: is the class 'cloud' and ignored"):
        describe(settings(raw, classes={7: "wet", 3: "dry", 5: "cloud"}, ignore=[5]))
    with pytest.raises(DataError, match="1 classes"):
        describe(settings(raw, classes={7: "wet"}))


# --- what is refused ---


def _without_names(raw: Path) -> None:
    path = file_of(raw, "S2Hand", 2)
    with rasterio.open(path) as file:
        values = file.read()
    rewrite(path, values)


def _cut_off(raw: Path) -> None:
    path = file_of(raw, "S2Hand", 2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _moved(raw: Path) -> None:
    path = file_of(raw, "LabelHand", 2)
    with rasterio.open(path, "r+") as file:
        file.transform = file.transform.translation(1e-3, 0) @ file.transform


def _smaller(raw: Path) -> None:
    path = file_of(raw, "LabelHand", 2)
    rewrite(path, np.zeros((1, SIZE - 1, SIZE), np.int16), height=SIZE - 1)


def _empty_list(raw: Path) -> None:
    (raw / "v1.1/splits/flood_handlabeled/flood_valid_data.csv").write_text("")


def _strange_list(raw: Path) -> None:
    (raw / "v1.1/splits/flood_handlabeled/flood_test_data.csv").write_text("Peru_1_S1Hand.tif,Peru_1_LabelHand.tif\n")


@pytest.mark.parametrize(
    "harm, changes, message",
    [
        (_without_names, {}, r"_S2Hand.tif: 13 bands without names.*--bands 2 3 4 9 12 13"),
        (_cut_off, {}, r"_S2Hand.tif: .*(damaged|cannot be opened)"),
        (lambda raw: change(file_of(raw, "LabelHand", 2), set_all(2)), {}, r"_LabelHand.tif: holds 2: labels are 0, 1"),
        (_moved, {}, r"_LabelHand.tif: .*first pixel lies 0 rows above and 11.13 columns right"),
        (_smaller, {}, r"_LabelHand.tif: 63 x 64 px, but .* has 64 x 64"),
        (_empty_list, {}, r"flood_valid_data.csv: is empty"),
        (_strange_list, {}, r"flood_test_data.csv: none of its 1 chips \(Peru_1\)"),
        (lambda raw: None, {"scale": 1.0}, r"_S2Hand: .* beyond reflectance .*--scale a smaller one"),
        (lambda raw: None, {"scale": 1e-9}, r"_S2Hand: no pixel of band blue lies above .*--scale a larger one"),
        (lambda raw: None, {"bands": ["2", "3"]}, r"--bands names 2"),
        (lambda raw: None, {"format": "burn-scars"}, r"no chip: burn-scars takes .*--format"),
    ],
)
def test_bad_input_is_one_line(raw: Path, harm: Callable[[Path], None], changes: dict[str, Any], message: str) -> None:
    harm(raw)
    with pytest.raises(UserError, match=message) as caught:
        describe(settings(raw, **changes))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (DataError, SceneError))


def test_bands_given_by_number_serve_where_names_are_missing(raw: Path, dataset: Dataset) -> None:
    for path in raw.rglob("*_S2Hand.tif"):
        with rasterio.open(path) as file:
            values = file.read()
        rewrite(path, values)
    bare = describe(settings(raw, bands=[str(number) for number in SIX]))
    bare.save()
    assert bare.statistics == dataset.statistics
    item = Windows(load_dataset(bare.root), "train").read(PatchIndex(0, Window(0, 0, 16, 16), 0, 0))
    named = Windows(dataset, "train").read(PatchIndex(0, Window(0, 0, 16, 16), 0, 0))
    assert np.array_equal(item["inputs"][IMAGE]["values"], named["inputs"][IMAGE]["values"], equal_nan=True)


def test_data_set_of_another_task_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    text = (dataset.root / "dataset.yaml").read_text()
    (tmp_path / "dataset.yaml").write_text(text.partition("\n")[2].replace("task: floods", "task: slumps"))
    with pytest.raises(DataError, match="is a data set of 'slumps': give one made by floods-prepare"):
        load_dataset(tmp_path)
    with pytest.raises(DataError, match="not found"):
        load_dataset(tmp_path / "none")


def test_built_in_sample_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from floods_prithvi import sample

    monkeypatch.setenv("GEOCORE_CACHE", str(tmp_path))
    full = sample.write_sample
    monkeypatch.setattr(sample, "write_sample", lambda folder, seed: full(folder, seed=seed, size=48, counts=COUNTS))
    dataset = load_dataset(None)
    assert {found.split for found in dataset.samples} == {"train", "val", "test", "bolivia"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")}
    monkeypatch.setattr(sample, "write_sample", None)
    again = load_dataset(None)
    assert again.hash == dataset.hash
    assert Chips(again, "test").target(0).shape == (48, 48)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tif")} == written


# --- real files ---


@pytest.mark.real
@pytest.mark.skipif("GEOCORE_DATA" not in os.environ, reason="GEOCORE_DATA is not set")
def test_published_chip_leaves_out_exactly_what_nobody_labelled(tmp_path: Path) -> None:
    chip = Path(os.environ["GEOCORE_DATA"]) / "flood-burn" / "flood"
    for split, number in (("train", 1), ("val", 2), ("test", 7370579)):
        for part in ("S2Hand", "LabelHand"):
            target = tmp_path / "raw" / f"Spain_{number}_{part}.tif"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(chip / f"Spain_7370579_{part}.tif", target)
        (tmp_path / "raw" / f"flood_{split}_data.csv").write_text(f"Spain_{number}_S1Hand.tif,x\n")
    dataset = describe(settings(tmp_path / "raw", split={"allow_leaks": True}))
    sample = dataset.split("test")[0]
    assert (sample.attributes["class_0_px"], sample.attributes["class_1_px"]) == (192_010, 70_035)
    target = Chips(dataset, "test").target(0)
    with rasterio.open(chip / "Spain_7370579_LabelHand.tif") as file:
        assert np.array_equal(target == 255, file.read(1) == -1)
    assert (target == 255).sum() == 99
    assert sum(note.startswith("leak: ") and "the same pixels" in note for note in dataset.notes) == 3
    assert dataset.statistics is not None
    # From the file itself: green and the first short-wave infrared band.
    green, swir = dataset.statistics.layers[IMAGE][1], dataset.statistics.layers[IMAGE][4]
    with rasterio.open(chip / "Spain_7370579_S2Hand.tif") as file:
        raw = file.read([3, 12]).astype(np.float64) * 1e-4
    assert (green.mean, swir.mean) == (pytest.approx(raw[0].mean(), rel=1e-6), pytest.approx(raw[1].mean(), rel=1e-6))
