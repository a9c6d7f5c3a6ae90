"""Data sets of one's own images and masks: found, checked, read, divided."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from scipy import ndimage
from torch.utils.data import DataLoader

from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import LabelSpec, Sample
from geocore.errors import DataError, SettingsError, UserError
from geocore.raster.bands import Bands
from geocore.raster.grid import Window
from geocore.raster.scene import Layer
from geocore.segmentation import dataset as module
from geocore.segmentation.dataset import SegmentationDataset
from geocore.tiling.overlaps import shared_by_splits
from geocore.tiling.samplers import PatchIndex
from geocore.tiling.splits import blocks, split_by_group

CLASSES = ["land", "disc", "square"]


def opened(folder: Path, **given: Any) -> SegmentationDataset:
    return SegmentationDataset.from_folder(folder, **({"classes": CLASSES} | given))


def test_a_folder_of_images_and_masks(toys: SimpleNamespace, chips: Path) -> None:
    data = opened(chips, group=r"^(\w+?)_")
    assert len(data) == 12
    assert data.channels == 3
    assert data.classes == tuple(CLASSES)
    assert data.groups[:3] == ["place0", "place0", "place1"]
    assert repr(data) == (
        "SegmentationDataset(12 samples in 6 groups; 3 bands of uint16: 1, 2, 3; classes: land, disc, square)"
    )
    image, mask = toys.chip(0)
    item = data[0]
    assert item["image"].dtype == torch.float32 and item["mask"].dtype == torch.int64
    assert np.array_equal(item["image"][:, :, :-3].numpy(), image[:, :, :-3].astype(np.float32))
    assert item["image"][:, :, -3:].isnan().all()
    assert np.array_equal(item["mask"][4:, :-3].numpy(), mask[4:, :-3])
    assert (item["mask"][:4] == 255).all() and (item["mask"][:, -3:] == 255).all()
    assert item["valid"][:, :-3].all() and not item["valid"][:, -3:].any()
    with pytest.raises(IndexError):
        data[12]
    assert len(list(data)) == 12


def test_bands_by_number_name_and_order(chips: Path) -> None:
    both = opened(chips, bands=[3, 1])
    one = opened(chips, bands="2")
    whole = opened(chips)[0]["image"]
    assert both.channels == 2 and one.channels == 1
    assert torch.equal(both[0]["image"].nan_to_num(), whole[[2, 0]].nan_to_num())
    assert torch.equal(one[0]["image"].nan_to_num(), whole[[1]].nan_to_num())


def test_values_of_classes_become_their_place(toys: SimpleNamespace, tmp_path: Path) -> None:
    image, mask = toys.chip(0)
    toys.write(tmp_path / "a.tif", image)
    toys.write(tmp_path / "a_mask.tif", np.array([20, 10, 7], np.uint8)[mask])
    data = opened(tmp_path, classes={10: "disc", 20: "land"}, ignore=7)
    assert data.classes == ("disc", "land")
    assert np.array_equal(data[0]["mask"].numpy(), np.array([1, 0, 255])[mask])


def test_windows_for_training_reach_outside_a_sample(toys: SimpleNamespace, chips: Path) -> None:
    item = opened(chips).read(PatchIndex(2, Window(-8, -8, 32, 32), 1, 5))
    assert not item["inputs"]["image"].valid[:, :8].any()
    assert (item["targets"]["mask"][:8] == 255).all()
    assert item["targets"]["mask"][12:, 8:].tolist() == toys.chip(2)[1][4:24, :24].tolist()
    assert item["keys"].tolist() == [1, 5]


def test_files_are_opened_once(chips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = opened(chips)
    calls = []
    for name in ("open_scene", "open_label"):
        kept = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, kept=kept, **given: [calls.append(path), kept(path, **given)][1])
    for _ in range(3):
        for index in range(len(data)):
            data[index]
    assert len(calls) == 24


def test_torch_loads_it(chips: Path) -> None:
    batch = next(iter(DataLoader(opened(chips), batch_size=4)))
    assert batch["image"].shape == (4, 3, 96, 96)
    assert batch["mask"].shape == batch["valid"].shape == (4, 96, 96)


def test_statistics_leave_missing_pixels_out(chips: Path) -> None:
    data = opened(chips)
    held = torch.stack([data[index]["image"] for index in range(12)])
    figures = data.statistics().layers["image"]
    for band, figure in enumerate(figures):
        values = held[:, band][~held[:, band].isnan()].double()
        assert figure.count == len(values)
        assert figure.mean == pytest.approx(values.mean().item())
        assert figure.std == pytest.approx(values.std(correction=0).item())


def test_the_hash_is_that_of_contents(toys: SimpleNamespace, chips: Path, tmp_path: Path) -> None:
    before = opened(chips).hash
    moved = shutil.copytree(chips, tmp_path / "moved")
    assert opened(moved).hash == before
    image, _ = toys.chip(0)
    toys.write(moved / "place0_0.tif", image + 1, nodata=0)
    assert opened(moved).hash != before
    assert opened(chips, classes=["land", "disc", "hut"]).hash != before


def mistakes(toys: SimpleNamespace, folder: Path) -> dict[str, tuple[Any, str]]:
    """What is done to a folder of one good pair, and what is said."""
    image, mask = toys.chip(0)
    return {
        "partner": (lambda: toys.write(folder / "b.tif", image), r"b\.tif \(no partner\)"),
        "size": (lambda: toys.write(folder / "a_mask.tif", mask[1:]), r"95 x 96 px, but a has 96 x 96"),
        "place": (lambda: toys.write(folder / "a_mask.tif", mask, x=500_300), r"a_mask\.tif: .*same pixels"),
        "value": (lambda: toys.write(folder / "a_mask.tif", mask + 1), r"holds 3: labels are 0, 1, 2, and ignored"),
        "one class": (lambda: toys.write(folder / "a_mask.tif", 0 * mask), "one value"),
        "mask bands": (lambda: toys.write(folder / "a_mask.tif", image), "3 bands of uint16"),
        "bands": (
            lambda: [toys.write(folder / "b.tif", image[:2]), toys.write(folder / "b_mask.tif", mask)],
            r"bands 1, 2, but .*a\.tif has 1, 2, 3",
        ),
    }


@pytest.mark.parametrize("kind", ["partner", "size", "place", "value", "one class", "mask bands", "bands"])
def test_what_does_not_fit_is_one_line(toys: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    image, mask = toys.chip(0)
    toys.write(tmp_path / "a.tif", image)
    toys.write(tmp_path / "a_mask.tif", mask)
    change, said = mistakes(toys, tmp_path)[kind]
    opened(tmp_path)
    change()
    with pytest.raises(DataError, match=said) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"classes": "land"}, "several names"),
        ({"classes": ["land"]}, "2 to 254 names"),
        ({"ignore": 1}, "value of class 'disc' as well"),
        ({"group": "place"}, "one pair of parentheses"),
        ({"group": "(x"}, "no regular expression"),
        ({"group": "(site)"}, "finds nothing"),
        ({"bands": [4]}, "4"),
        ({"mask_suffix": "_label"}, "unmatched"),
    ],
)
def test_what_cannot_be_used_is_one_line(chips: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        opened(chips, **given)
    assert "\n" not in str(caught.value)


# --- splits ---


def names_of(data: SegmentationDataset) -> set[str]:
    return {sample.name for sample in data.samples}


def leaks(*parts: SegmentationDataset) -> list[str]:
    views = [view for part in parts for view in part.views()]
    return shared_by_splits(views, [str(number) for number, part in enumerate(parts) for _ in part.samples])


def test_groups_stay_together(chips: Path) -> None:
    data = opened(chips, group=r"^(\w+?)_")
    parts = data.split(train=0.5, val=0.25)
    assert set.union(*map(names_of, parts)) == names_of(data)
    groups = [set(part.groups) for part in parts]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert [names_of(part) for part in parts] == [names_of(part) for part in data.split(train=0.5, val=0.25)]
    assert [names_of(part) for part in parts] != [names_of(part) for part in data.split(train=0.5, val=0.25, seed=3)]


def test_copies_and_common_ground_stay_together(toys: SimpleNamespace, tmp_path: Path) -> None:
    for index in range(4):
        image, mask = toys.chip(index)
        toys.write(tmp_path / f"{index}.tif", image, x=500_000 + 50_000 * index)
        toys.write(tmp_path / f"{index}_mask.tif", mask, x=500_000 + 50_000 * index)
    image, mask = toys.chip(0)
    place = {"x": 900_000}
    toys.write(tmp_path / "copy.tif", image, **place)
    toys.write(tmp_path / "copy_mask.tif", mask, **place)
    image, mask = toys.chip(9)
    toys.write(tmp_path / "beside.tif", image, x=550_400)
    toys.write(tmp_path / "beside_mask.tif", mask, x=550_400)
    data = opened(tmp_path)
    for seed in range(4):
        parts = data.split(train=0.4, val=0.3, seed=seed)
        assert not leaks(*parts)
        for first, second in (("0", "copy"), ("1", "beside")):
            assert any({first, second} <= names_of(part) for part in parts)


def test_splits_that_cannot_be_are_one_line(chips: Path, tmp_path: Path) -> None:
    data = opened(chips)
    few = data.subset(data.samples[:2])
    for part, given, said in (
        (few, {"train": 0.6, "val": 0.2}, "2 groups .*3 splits"),
        (data, {"train": 0.8, "val": 0.2}, "leave some for the test"),
        (data, {"train": 0.8}, "val = None"),
        (data, {"train": 0.6, "val": 0.2, "by": "block"}, "block_m=2000"),
        (data, {"train": 0.6, "val": 0.2, "by": "block", "block_m": 100, "buffer_m": 100}, "buffer_m < block_m"),
        (data, {"train": 0.6, "val": 0.2, "by": "scene"}, "group, block or list"),
        (data, {"by": "list"}, r"train\.txt: .*one name a line"),
    ):
        with pytest.raises((DataError, SettingsError), match=said) as caught:
            part.split(**given)
        assert "\n" not in str(caught.value)


def test_lists_beside_the_images(chips: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(chips, tmp_path / "chips")
    for split, names in (("train", "place0_0\nplace1_2\n"), ("val", "place0_1\n"), ("test", "place2_5\n\n")):
        (folder / f"{split}.txt").write_text(names)
    train, val, test = opened(folder).split(by="list")
    assert (names_of(train), names_of(val), names_of(test)) == ({"place0_0", "place1_2"}, {"place0_1"}, {"place2_5"})
    (folder / "val.txt").write_text("place9\n")
    with pytest.raises(DataError, match=r"val\.txt: 'place9' is no sample"):
        opened(folder).split(by="list")
    (folder / "val.txt").write_text("place0_0\n")
    with pytest.raises(DataError, match=r"val\.txt: 'place0_0' is in train\.txt too"):
        opened(folder).split(by="list")


def two_overlapping_scenes(toys: SimpleNamespace, folder: Path) -> SegmentationDataset:
    """Two dates of one place, the second half a scene further and of other pixels; they differ in every number."""
    for name, seed, size, pixel, x, y in (("first", 0, 240, 10, 0, 0), ("second", 1, 160, 15, 1_130, -1_210)):
        image, mask = toys.chip(seed, size)
        place = {"transform": Affine(pixel, 0, 500_000 + x, 0, -pixel, 5_000_000 + y)}
        toys.write(folder / f"{name}.tif", image, **place)
        toys.write(folder / f"{name}_mask.tif", mask, **place)
    return opened(folder)


def ground(data: SegmentationDataset) -> np.ndarray:
    """Squares of 5 m that the samples show, of the ground under both scenes."""
    shown = np.zeros((800, 800), bool)
    for sample in data.samples:
        assert sample.window is not None and sample.grid.transform is not None
        step, _, x, _, _, y = sample.grid.transform[:6]
        w, times = sample.window, round(step) // 5
        top, left = round((5_000_000 - y) / 5) + w.row * times, round((x - 500_000) / 5) + w.col * times
        shown[top : top + w.height * times, left : left + w.width * times] = True
    return shown


def test_blocks_of_overlapping_scenes_do_not_leak_and_naive_ones_do(toys: SimpleNamespace, tmp_path: Path) -> None:
    data = two_overlapping_scenes(toys, tmp_path)
    for seed in range(3):
        parts = data.split(train=0.5, val=0.25, by="block", block_m=600, buffer_m=60, seed=seed)
        assert all(len(part) for part in parts)
        assert not leaks(*parts)
        for first, second in ((0, 1), (0, 2), (1, 2)):
            # Squares between the two, along an axis.
            apart = ndimage.distance_transform_cdt(~ground(parts[first]), "chessboard")[ground(parts[second])].min() - 1
            assert apart * 5 >= 60
    # Blocks of each scene for itself, which is what splits by scene do.
    samples = [
        dataclasses.replace(sample, name=f"{sample.name}{index}", group=f"{sample.name}{index}", window=window)
        for sample in data.samples
        for index, window in enumerate(blocks(sample.grid.shape, 60, 6))
    ]
    splits = split_by_group([sample.group for sample in samples], {"train": 0.5, "val": 0.25, "test": 0.25}, 0)
    naive = [
        data.subset([sample for sample, given in zip(samples, splits, strict=True) if given == split])
        for split in ("train", "val", "test")
    ]
    assert any("the same ground" in line for line in leaks(*naive))


def test_a_block_is_read_where_it_lies(toys: SimpleNamespace, tmp_path: Path) -> None:
    data = two_overlapping_scenes(toys, tmp_path)
    whole = {sample.name: data[index] for index, sample in enumerate(data.samples)}
    train, _, _ = data.split(train=0.5, val=0.25, by="block", block_m=600, buffer_m=60)
    for index, sample in enumerate(train.samples):
        assert sample.window is not None
        rows, cols = sample.window.slices
        item, scene = train[index], whole[sample.image.stem]
        assert torch.equal(item["image"], scene["image"][:, rows, cols])
        assert torch.equal(item["mask"], scene["mask"][rows, cols])
    again, _, _ = train.split(train=0.5, val=0.25, by="block", block_m=300)
    for index, sample in enumerate(again.samples):
        assert sample.window is not None
        rows, cols = sample.window.slices
        assert torch.equal(again[index]["mask"], whole[sample.image.stem]["mask"][rows, cols])


# --- manifests ---


def manifest(toys: SimpleNamespace, folder: Path, **changes: Any) -> Path:
    samples = []
    for index, split in enumerate(("train", "train", "val", "test")):
        image, mask = toys.chip(index)
        toys.write(folder / f"{index}.tif", image)
        toys.write(folder / f"{index}_l.tif", mask)
        files = {"inputs": {"photo": f"{index}.tif"}, "labels": {"ice": f"{index}_l.tif"}}
        attributes = {"row": 8, "col": 16, "height": 64, "width": 48} if index == 3 else {}
        samples.append(Sample(f"s{index}", f"g{index}", split, **files, attributes=attributes))
    given: dict[str, Any] = {
        "layers": {"photo": Layer("photo", Bands.named("1", "2", "3"), "uint16")},
        "labels": {"ice": LabelSpec("ice", dict(enumerate(CLASSES)), 255)},
    }
    return Dataset(root=folder, task="ice", samples=samples, **(given | changes)).save()


def test_a_manifest_of_one_image_and_one_mask(toys: SimpleNamespace, tmp_path: Path) -> None:
    data = SegmentationDataset.from_manifest(manifest(toys, tmp_path))
    assert data.classes == tuple(CLASSES)
    assert data.groups == ["g0", "g1", "g2", "g3"]
    assert data[3]["mask"].tolist() == toys.chip(3)[1][8:72, 16:64].tolist()
    train, val, test = data.split(by="list")
    assert (names_of(train), names_of(val), names_of(test)) == ({"s0", "s1"}, {"s2"}, {"s3"})


def test_another_manifest_is_one_clear_line(toys: SimpleNamespace, tmp_path: Path) -> None:
    times = {"photo": Layer("photo", Bands.named("1", "2", "3"), "uint16", times=("2020", "2021"))}
    for changes in (
        {"labels": {"ice": LabelSpec("ice")}},
        {"labels": {"ice": LabelSpec("ice", {1: "floe"})}},
        {"layers": times},
    ):
        with pytest.raises(DataError, match="of ice: only one image of one date and one mask of classes") as caught:
            SegmentationDataset.from_manifest(manifest(toys, tmp_path, **changes))
        assert "\n" not in str(caught.value)
