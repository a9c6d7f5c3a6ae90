"""The data set: what it says of patches, and what windows and whole patches hold, to the pixel."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crops_activesampling.config import CompositeSettings, PrepareSettings, SplitSettings
from crops_activesampling.data import Patches, Windows, describe, leaks_of, load_dataset
from crops_activesampling.loss import class_pixels
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.s4a_format import PatchName, true_labels, truth_path
from geocore.datasets.dataset import Dataset
from geocore.datasets.loader import Batches
from geocore.errors import DataError
from geocore.raster.grid import Window
from geocore.storage.files import read_sealed, write_sealed
from geocore.tiling.samplers import GridSampler, PatchIndex

SIZE = 36
SUBPATCH = 16
BANDS = ["B02", "B05"]
NAMES = [PatchName(2019, "31TCG", 0, 0), PatchName(2019, "31TCG", 1, 0), PatchName(2020, "31TCG", 11, 0),
         PatchName(2020, "31TCJ", 21, 0)]  # fmt: skip


def write(folder: Path, name: PatchName, *, size: int = SIZE, high: int = 0) -> Path:
    """A patch of counted DN: January has an image, February is empty, March has two, whose medians end in .5."""
    series = {}
    for number, (band, ratio) in enumerate((("B02", 1), ("B05", 2))):
        own = size // ratio
        image = 100 + 1000 * number + np.arange(own * own).reshape(own, own)
        values = np.stack([image, image + 200, image + 201 + high]).astype(np.uint16)
        values[0, :3] = 0  # rows without data in January
        days = np.array(["01-09", "03-03", "03-21"]).astype(object)
        series[band] = (values, np.array([f"{name.year}-{day}" for day in days], "datetime64[D]"))
    labels = np.zeros((size, size), np.uint32)
    labels[4:16, 2:10] = 110
    labels[4:16, 10:14] = 150
    labels[30:, 30:] = 910
    parcels = np.where(labels != 0, labels + 70_000, 0).astype(np.uint32)
    path = write_patch(
        folder, NewPatch(name, (300_000.0 + 10 * name.x, 4_700_040.0), "EPSG:32631", series, labels, parcels, {})
    )
    if name.x < 1:
        truth = labels.copy()
        truth[4:8, 2:10] = 150  # labelled 110
        truth[4:16, 10:12] = 910  # labelled 150, and of no class
        truth[30:, 30:] = 110  # not labelled with a class: nothing to be wrong
        np.savez_compressed(truth_path(path), codes=truth)
    return path


def settings(raw: Path, out: Path, **changes: Any) -> PrepareSettings:
    composites = CompositeSettings(bands=BANDS, frequency="1MS")
    given = {"data": raw, "out": out, "composites": composites, "split": SplitSettings(rules="sample")}
    return PrepareSettings(**(given | {"subpatch": SUBPATCH} | changes))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for name in NAMES:
        write(folder, name)
    return folder


@pytest.fixture(scope="module")
def dataset(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    made = describe(settings(raw, tmp_path_factory.mktemp("out") / "dataset"))
    made.save()
    return made


def draw(sample: int, window: Window, index: int = 0) -> PatchIndex:
    return PatchIndex(sample, window, epoch=2, index=index)


def places(windows: Windows, sample: int = 0) -> list[tuple[int, int]]:
    return [(place.row, place.col) for place in windows.windows[sample] if place is not None]


def test_samples_say_what_patches_are(dataset: Dataset) -> None:
    assert [sample.split for sample in dataset.samples] == ["train", "train", "val", "test"]
    first = dataset.samples[0]
    assert (first.id, first.group) == ("2019_31TCG_patch_00_00", "31TCG")
    attributes = dict(first.attributes)
    made_from = attributes.pop("made_from")
    assert re.fullmatch("[0-9a-f]{64}", str(made_from))
    counts = {f"class_{index}_px": 0 for index in range(12)}
    counts |= {"class_0_px": SIZE * SIZE - 144, "class_1_px": 96, "class_4_px": 48}
    assert attributes == {
        "year": 2019, "tile": "31TCG", "x": 0, "y": 0, "rows": SIZE, "cols": SIZE, "noisy_px": 32 + 24, "pixel_m": 10.0,
        **counts,
    }  # fmt: skip
    assert "noisy_px" not in dataset.samples[1].attributes
    assert class_pixels(dataset, "train").tolist() == [192, 0, 0, 96, 0, 0, 0, 0, 0, 0, 0]


def test_the_data_set_says_how_it_was_made(dataset: Dataset) -> None:
    layer = dataset.layers["medians"]
    assert layer.bands.names == tuple(BANDS)
    assert {(band.scale, band.unit) for band in layer.bands} == {(0.5, "DN")}
    assert (layer.dtype, {band.nodata for band in layer.bands}, layer.ratio) == ("uint16", {0}, 1)
    assert layer.times == tuple(f"2019-{month:02d}-01" for month in range(1, 13))
    assert dataset.labels["crops"].ignore == 0 and dataset.labels["crops"].classes[4] == "barley"
    assert {name: dataset.protocol[name] for name in ("frequency", "bands", "fill", "encoder", "subpatch", "edge")} == {
        "frequency": "1MS", "bands": "B02 B05", "fill": "none", "encoder": "s4a-labels", "subpatch": SUBPATCH,
        "edge": "overlap",
    }  # fmt: skip
    assert dataset.notes[0] == "period 2 has no image with data in 4 of 4 patches"
    assert dataset.notes[-1] == "patches are of 2019, 2020; each has the same periods of its own year"


def test_statistics_are_those_of_the_stored_numbers_of_train(dataset: Dataset) -> None:
    stored = np.concatenate(
        [np.load(dataset.path(sample.inputs["medians"])) for sample in dataset.split("train")]
    )  # a row of periods after the other
    assert dataset.statistics is not None
    for band, statistics in enumerate(dataset.statistics.layers["medians"]):
        values = stored[:, band][stored[:, band] != 0].astype(np.float64)
        assert statistics.count == values.size
        assert (statistics.mean, statistics.std) == pytest.approx((values.mean(), values.std()), rel=1e-12)


def test_windows_of_both_policies_cover_what_they_should(raw: Path, dataset: Dataset) -> None:
    # 36 = 2 * 16 + 4: the third window ends with the patch, or is not there.
    every = Windows(dataset, "train", periods=[1], skip_empty=False)
    assert places(every) == [(row, col) for row in (0, 16, 20) for col in (0, 16, 20)]
    dropped = describe(settings(raw, dataset.root, edge="drop"))
    windows = Windows(dropped, "train", periods=[1], skip_empty=False)
    assert places(windows) == [(row, col) for row in (0, 16) for col in (0, 16)]
    fitting = describe(settings(raw, dataset.root, edge="drop", subpatch=12))
    assert len(places(Windows(fitting, "train", periods=[1], skip_empty=False))) == 9


def test_windows_without_a_label_are_left_out_and_numbers_stay(dataset: Dataset) -> None:
    every = Windows(dataset, "train", periods=[1], skip_empty=False)
    labelled = Windows(dataset, "train", periods=[1], skip_empty=True)
    assert places(labelled, 0) == places(labelled, 1) == [(0, 0)]
    numbers = [
        int(windows.read(draw(sample, place))["index"])
        for windows in (every, labelled)
        for sample, its in enumerate(windows.windows)
        for place in its
        if place is not None
    ]
    assert numbers == [*range(18), 0, 9]


def test_a_window_holds_the_medians_of_its_pixels_in_dn(raw: Path, dataset: Dataset) -> None:
    windows = Windows(dataset, "train", periods=[3, 2, 1], skip_empty=False)
    item = windows.read(draw(1, Window(0, 16, 16, 16), index=7))
    values, valid = (item["inputs"]["medians"][name] for name in ("values", "valid"))
    assert (values.shape, values.dtype) == ((3, 2, 16, 16), np.float32)
    assert (valid.shape, valid.dtype) == ((3, 1, 16, 16), np.bool_)
    row, col = np.mgrid[0:16, 16:32]
    march_10m = 100 + SIZE * row + col + 200.5
    march_20m = 1100 + SIZE // 2 * (row // 2) + col // 2 + 200.5
    assert np.array_equal(values[0], np.stack([march_10m, march_20m]))
    assert not values[1].any() and not valid[1].any()
    # In January 10 m have no data in 3 rows, 20 m in 6: valid is what all bands have.
    assert np.array_equal(valid[2, 0], row >= 6)
    assert np.array_equal(values[2, 0], np.where(row >= 3, 100 + SIZE * row + col, 0))
    assert valid[0].all()
    assert item["keys"].tolist() == [2, 7]
    assert int(item["index"]) == 10


def test_all_periods_come_in_the_order_of_time(dataset: Dataset) -> None:
    # A model that is given all of them picks its own.
    turned = Windows(dataset, "train", periods=range(12, 0, -1), skip_empty=False)
    plain = Windows(dataset, "train", periods=range(1, 13), skip_empty=False)
    one = draw(0, Window(0, 0, 16, 16))
    first, second = (windows.read(one)["inputs"]["medians"]["values"] for windows in (turned, plain))
    assert np.array_equal(first, second)


def test_labels_and_known_errors_are_those_of_the_window(dataset: Dataset) -> None:
    windows = Windows(dataset, "train", periods=[1], skip_empty=True)
    item = windows.read(draw(0, Window(0, 0, 16, 16)))
    crops = np.zeros((16, 16), np.uint8)
    crops[4:, 2:10], crops[4:, 10:14] = 1, 4
    assert item["targets"]["crops"].dtype == np.uint8
    assert np.array_equal(item["targets"]["crops"], crops)
    noisy = np.zeros((16, 16), bool)
    noisy[4:8, 2:10] = noisy[4:, 10:12] = True
    assert np.array_equal(item["noisy"], noisy)
    # Of the other patch nothing is known, and of other splits neither.
    assert not windows.read(draw(1, Window(0, 0, 16, 16)))["noisy"].any()
    assert "noisy" not in Windows(dataset, "val", periods=[1], skip_empty=True).read(draw(0, Window(0, 0, 16, 16)))


def test_labels_of_a_later_window_are_its_own(raw: Path, dataset: Dataset) -> None:
    smaller = describe(settings(raw, dataset.root, subpatch=12))
    item = Windows(smaller, "train", periods=[1], skip_empty=True).read(draw(0, Window(12, 0, 12, 12)))
    crops, noisy = np.zeros((12, 12), np.uint8), np.zeros((12, 12), bool)
    crops[:4, 2:10], crops[:4, 10:], noisy[:4, 10:] = 1, 4, True
    assert np.array_equal(item["targets"]["crops"], crops)
    assert np.array_equal(item["noisy"], noisy)


def test_windows_make_batches_and_may_be_read_by_threads(dataset: Dataset) -> None:
    windows = Windows(dataset, "train", periods=[1, 3], skip_empty=False)
    sampler = GridSampler(windows.windows, seed=0)
    batch = next(iter(Batches(sampler, windows.read, batch_size=4, threads=2)))
    assert batch["inputs"]["medians"]["values"].shape == (4, 2, 2, 16, 16)
    assert batch["noisy"].shape == batch["targets"]["crops"].shape == (4, 16, 16)
    assert batch["index"].shape == (4,)
    draws = sampler.epoch(0) * 20
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(windows.read, draws))
    for one, its in zip(draws, together, strict=True):
        assert np.array_equal(windows.read(one)["inputs"]["medians"]["values"], its["inputs"]["medians"]["values"])


def test_windows_that_cannot_be_cut_are_refused(raw: Path, dataset: Dataset) -> None:
    with pytest.raises(DataError, match=r"period \[0, 13\]: the data set has 1 to 12"):
        Windows(dataset, "train", periods=[0, 3, 13], skip_empty=True)
    with pytest.raises(DataError, match="split 'holdout' has no sample"):
        Windows(dataset, "holdout", periods=[1], skip_empty=True)
    with pytest.raises(DataError, match="subpatch 37: patch 2019_31TCG_patch_00_00 has 36 x 36 pixels; lower it to 36"):
        describe(settings(raw, dataset.root, subpatch=37))


def test_patches_of_one_crop_or_none_are_refused(raw: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "rye.yaml"
    encoder.write_text("labels: [{name: none, id: 0}, {name: rye, id: 160}, {name: oats, id: 170}]")
    with pytest.raises(DataError, match=r"encoder rye: all 4 patches hold one value: 2019_31TCG_patch_00_00 \(none\)"):
        describe(settings(raw, tmp_path / "out", encoder=str(encoder)))
    with pytest.raises(DataError, match=r"all 4 patches hold one value: 2019_31TCG_patch_00_00 \(barley\)"):
        describe(settings(raw, tmp_path / "out", encoder="no-wheat"))


def test_a_patch_is_a_scene_with_its_place_labels_and_parcels(dataset: Dataset) -> None:
    patches = Patches(dataset, "val")
    assert [sample.id for sample in patches.samples] == ["2020_31TCG_patch_11_00"]
    scene = patches.scene(0)
    assert (scene.grid.shape, scene.grid.crs) == ((SIZE, SIZE), "EPSG:32631")
    assert scene.grid.transform[:6] == (10.0, 0.0, 300_110.0, 0.0, -10.0, 4_700_040.0)
    read = scene.read_layers(Window(20, 20, 32, 32))["medians"]
    assert read.values.shape == (12, 2, 32, 32) and read.values.dtype == np.uint16
    row, col = np.mgrid[20:36, 20:36]
    assert np.array_equal(read.values[2, 0, :16, :16], 2 * (100 + SIZE * row + col) + 401)
    assert read.valid[2, :, :16, :16].all() and not read.valid[2, :, 16:].any() and not read.valid[1].any()
    labels, parcels = patches.labels(0), patches.parcels(0)
    assert (labels.dtype, parcels.dtype) == (np.uint8, np.uint32)
    assert np.bincount(labels.ravel()).tolist() == [SIZE * SIZE - 144, 96, 0, 0, 48]
    assert sorted(set(parcels.ravel().tolist())) == [0, 70_110, 70_150, 70_910]


def test_large_dn_make_the_whole_layer_float(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    # Medians above 32767 in one of the patches; twice that does not fit uint16.
    write(tmp_path / "raw", NAMES[1], high=62_700)
    made = describe(settings(tmp_path / "raw", tmp_path / "out"))
    assert made.layers["medians"].dtype == "float32"
    patches = Patches(made, "train")
    low, high = (patches.scene(index).read_layers(Window(0, 0, 8, 8))["medians"] for index in (0, 1))
    assert low.values.dtype == high.values.dtype == np.float32
    # (300 + 301) of 10 m at the first pixel, then 62 700 more.
    assert (low.values[2, 0, 0, 0], high.values[2, 0, 0, 0]) == (601.0, 63_301.0)
    item = Windows(made, "train", periods=[3], skip_empty=True).read(draw(1, Window(0, 0, 16, 16)))
    assert item["inputs"]["medians"]["values"][0, 0, 0, 0] == 31_650.5


def test_a_data_set_comes_back_wherever_it_lies(raw: Path, dataset: Dataset, tmp_path: Path) -> None:
    moved = tmp_path / "somewhere" / "else"
    shutil.copytree(dataset.root, moved)
    loaded = load_dataset(moved)
    assert loaded.hash == dataset.hash == describe(settings(raw, tmp_path / "again")).hash
    # Wrong labels stay known without the files that they were found in.
    item = Windows(loaded, "train", periods=[1], skip_empty=True).read(draw(0, Window(0, 0, 16, 16)))
    assert item["noisy"].sum() == 56


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "with-grassland"},
        {"subpatch": 12},
        {"edge": "drop"},
        {"split": SplitSettings(rules="sample", swap=True)},
        {"split": SplitSettings(rules="sample", seed=1)},
        {"composites": CompositeSettings(bands=BANDS, fill="linear")},
        {"composites": CompositeSettings(bands=BANDS[::-1])},
    ],
)
def test_what_decides_the_data_set_changes_its_hash(
    raw: Path, dataset: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert describe(settings(raw, tmp_path, **changes)).hash != dataset.hash


def test_a_change_is_noticed(dataset: Dataset, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(dataset.root, tmp_path / name))

    missing = copy("missing")
    (missing / "medians" / NAMES[1].id / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"2019_31TCG_patch_01_00.*labels.npy: is missing: prepare the data again"):
        load_dataset(missing)
    other = copy("other")
    entry = other / "medians" / NAMES[2].id / "entry.json"
    write_sealed(entry, read_sealed(entry) | {"fingerprint": "0"})
    with pytest.raises(DataError, match="2020_31TCG_patch_11_00: was made from other data or settings"):
        load_dataset(other)
    foreign = copy("foreign")
    text = (foreign / "dataset.yaml").read_text()
    (foreign / "dataset.yaml").write_text(text.partition("\n")[2].replace("task: crops", "task: snow"))
    with pytest.raises(DataError, match="is a data set of 'snow': give one made by crops-prepare"):
        load_dataset(foreign)


@pytest.mark.parametrize("name", ["medians/{}/medians", "medians/{}/labels", "medians/{}/parcels", "noise/{}/noise"])
def test_a_changed_byte_of_the_cache_is_never_used_and_is_made_again(raw: Path, tmp_path: Path, name: str) -> None:
    given = settings(raw, tmp_path)
    describe(given).save()
    path = tmp_path / f"{name.format(NAMES[0].id)}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])

    def use() -> None:
        dataset = load_dataset(tmp_path)
        Windows(dataset, "train", periods=[3], skip_empty=True).read(draw(0, Window(0, 0, 16, 16)))
        Patches(dataset, "train").parcels(0)

    with pytest.raises(DataError, match=rf"{path.name}: is not what was written; .*: prepare the data again"):
        use()
    describe(given).save()
    assert path.read_bytes() == whole
    use()


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + 40 * b"\0", "cut", "flipped"])
def test_damaged_truth_beside_a_patch_is_one_line(raw: Path, tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / truth_path(raw / NAMES[0].relative).name
    whole = truth_path(raw / NAMES[0].relative).read_bytes()
    middle = len(whole) // 2
    damaged = {"cut": whole[:middle], "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]}
    path.write_bytes(damaged[content] if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"flipped\.npz: cannot be read .*: make the sample again"):
        true_labels(path.with_name(f"{NAMES[0].id}.nc"))


def test_years_that_are_cut_differently_are_refused(raw: Path, tmp_path: Path) -> None:
    # 73 stretches of five days, and one day more in a leap year.
    composites = CompositeSettings(bands=BANDS, frequency="5D")
    with pytest.raises(DataError, match=r"has 74 periods of 5D, 2019_31TCG_patch_00_00.nc has 73: years must be cut"):
        describe(settings(raw, tmp_path, composites=composites))


def test_a_data_set_to_test_on_needs_no_train(raw: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{target: test}]")
    made = describe(settings(raw, tmp_path / "out", split=SplitSettings(rules=str(rules))))
    assert made.statistics is None
    assert len(Patches(made, "test").samples) == 4
    made.save()
    assert load_dataset(tmp_path / "out").hash == made.hash


def test_a_patch_that_cannot_be_used_stops_a_description(raw: Path, tmp_path: Path) -> None:
    composites = CompositeSettings(bands=["B02", "B11"])
    with pytest.raises(DataError, match="no band B11: the file has B02, B05"):
        describe(settings(raw, tmp_path, composites=composites))


def test_leaks_are_those_of_the_ground(raw: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    for split, name in zip(("train", "test"), NAMES, strict=False):
        (lists / f"{split}.txt").write_text(name.relative)
    (lists / "val.txt").write_text(f"{NAMES[2].id}\n{NAMES[3].id}\n")
    made = describe(settings(raw, tmp_path / "out", lists=lists))
    lines = leaks_of(made)
    # Tiles lie in several splits, which says little; patches are also copies of one another here.
    assert lines[0].startswith("1 pairs of patches of train and test touch")
    assert all("show the same pixels" in line for line in lines[1:4])
    # One lies in another tile, on the ground of the others.
    assert len(lines) == 6
    assert all("2020_31TCJ_patch_21_00" in line and "the same ground" in line for line in lines[4:])


def test_patches_of_tiles_that_overlap_are_told(tmp_path: Path) -> None:
    """Tiles of Sentinel-2 share a strip of ten kilometres; a patch there has two names."""
    for name, seed in ((PatchName(2019, "31TCG", 0, 0), 0), (PatchName(2019, "31TDG", 20, 20), 1)):
        rng = np.random.default_rng(seed)
        days = np.array(["2019-01-09", "2019-03-03"], "datetime64[D]")
        series = {band: (rng.integers(1, 4000, (2, SIZE, SIZE)).astype(np.uint16), days) for band in ("B02", "B03")}
        labels = np.full((SIZE, SIZE), 110 + 40 * seed, np.uint32)
        corner = (300_000.0 + 200 * seed, 4_700_040.0)
        write_patch(tmp_path / "raw", NewPatch(name, corner, "EPSG:32631", series, labels, labels, {}))
    composites = CompositeSettings(bands=["B02", "B03"], frequency="1MS")
    made = describe(settings(tmp_path / "raw", tmp_path / "out", composites=composites))
    (line,) = leaks_of(made)
    assert line == (
        "1 pair of samples of train and test show the same ground: 2019_31TCG_patch_00_00 and 2019_31TDG_patch_20_20"
    )
