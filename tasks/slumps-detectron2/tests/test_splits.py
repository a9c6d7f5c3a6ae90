"""One ground, one split: dates of a place, overlapping scenes and crops, dealt out or given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geocore.errors import DataError
from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from slumps_detectron2.config import PrepareSettings
from slumps_detectron2.data import describe

SHAPE = (96, 96)


def scene(folder: Path, name: str, seed: int, east_m: float = 0.0, *, grid: Grid | None = None) -> str:
    """A scene of 960 m with three slumps, and its label; a row of a table of pairs."""
    place = grid or Grid(*SHAPE, (10.0, 0.0, 5e5 + east_m, 0.0, -10.0, 7.9e6), "EPSG:32652", length_unit="m")
    label = np.zeros(SHAPE, np.uint8)
    for row, col in ((4, 4), (40, 40), (72, 12), (72, 72), (8, 72)):
        label[row : row + 12, col : col + 12] = 255
    image = np.random.default_rng(seed).normal(1000, 60, (2, *SHAPE)) + 900 * (label > 0)
    write_raster(folder / f"{name}.tif", image.astype(np.uint16), grid=place, cog=False)
    write_raster(folder / f"{name}_label.tif", label, grid=place, cog=False)
    return f"{name}.tif,{name}_label.tif"


def settings(folder: Path, rows: list[str], header: str = "image,label", **split: object) -> PrepareSettings:
    (folder / "pairs.csv").write_text("\n".join([header, *rows]) + "\n")
    return PrepareSettings(
        data=folder / "pairs.csv",
        out=folder / "out",
        cut={"size": 32, "stride": 16, "negatives": 0.0},  # type: ignore[arg-type]
        split=split,  # type: ignore[arg-type]
    )


def test_dates_of_one_place_and_scenes_that_overlap_stay_in_one_split(tmp_path: Path) -> None:
    rows = [scene(tmp_path, f"date{i}", i) for i in range(3)]
    # Half of it on the ground of the dates; two more that lie apart.
    rows += [scene(tmp_path, "next", 3, 500), scene(tmp_path, "far", 4, 5000), scene(tmp_path, "farther", 5, 9000)]
    dataset = describe(settings(tmp_path, rows))
    split_of = {sample.id: sample.split for sample in dataset.samples}
    assert len({split_of[name] for name in ("date0", "date1", "date2", "next")}) == 1
    assert {sample.group for sample in dataset.samples} == {"date0 and 3 more", "far", "farther"}
    assert set(split_of.values()) == {"train", "val", "test"}
    assert "date0, date1, date2, next show the same ground: they stay in one split" in dataset.notes
    assert not any(note.startswith("leak") for note in dataset.notes)


def test_blocks_of_one_ground_stay_in_one_split(tmp_path: Path) -> None:
    rows = [scene(tmp_path, f"date{i}", i) for i in range(3)]
    dataset = describe(settings(tmp_path, rows, by="block", block_px=32, buffer_px=2))
    assert len(dataset.samples) == 27
    for sample in dataset.samples:
        same = {other.split for other in dataset.samples if other.id[5:] == sample.id[5:]}
        assert same == {sample.split}
    (note,) = [note for note in dataset.notes if "same ground" in note]
    assert note.startswith(
        "27 groups show the same ground as others, such as date0-r000000-c000000, date1-r000000-c000000"
    )


def test_one_ground_alone_cannot_be_divided_into_scenes(tmp_path: Path) -> None:
    rows = [scene(tmp_path, f"date{i}", i) for i in range(4)]
    with pytest.raises(DataError, match=r"date0, date1, date2, date3 show the same ground.*--split.by block") as raised:
        describe(settings(tmp_path, rows))
    assert "\n" not in str(raised.value)
    dataset = describe(settings(tmp_path, rows, allow_leaks=True))
    assert {sample.split for sample in dataset.samples} == {"train", "val", "test"}
    assert sum(note.startswith("leak: ") for note in dataset.notes) == 3


def test_splits_that_were_given_must_not_share_ground(tmp_path: Path) -> None:
    splits = ["train", "val", "train", "test"]
    rows = [f"{scene(tmp_path, f's{i}', i, 3000 * i)},{split}" for i, split in enumerate(splits)]
    header = "image,label,split"
    assert not any("leak" in note for note in describe(settings(tmp_path, rows, header)).notes)
    scene(tmp_path, "s3", 9, 3000 * 2 + 900)
    with pytest.raises(DataError, match="1 pair of samples of train and test show the same ground: s2 and s3"):
        describe(settings(tmp_path, rows, header))
    dataset = describe(settings(tmp_path, rows, header, allow_leaks=True))
    assert [sample.split for sample in dataset.samples] == splits
    assert "leak: 1 pair of samples of train and test show the same ground: s2 and s3" in dataset.notes


def test_copies_under_other_names_are_known_by_their_pixels(tmp_path: Path) -> None:
    """The same picture twice, without georeference and in another file format's compression."""
    rows = [scene(tmp_path, f"s{i}", i, grid=Grid(*SHAPE)) for i in (0, 1, 2)]
    scene(tmp_path, "copy", 0, grid=Grid(*SHAPE))
    (tmp_path / "copy.tif").write_bytes((tmp_path / "copy.tif").read_bytes() + b" ")
    dataset = describe(settings(tmp_path, [*rows, "copy.tif,copy_label.tif"]))
    split_of = {sample.id: sample.split for sample in dataset.samples}
    assert split_of["copy"] == split_of["s0"]
    assert "copy, s0 show the same pixels: they stay in one split" in dataset.notes
