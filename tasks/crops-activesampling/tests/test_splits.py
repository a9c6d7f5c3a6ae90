"""Splits by rules or lists, what they leak, their counts, and the command that writes them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from crops_activesampling import splits
from crops_activesampling.config import SplitCommandSettings, SplitSettings
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.s4a_format import PatchName
from crops_activesampling.split import split
from crops_activesampling.splits import (
    assign_splits,
    leaks,
    missing_classes,
    read_lists,
    subset,
    summary_lines,
    swapped,
    write_lists,
)
from geocore.errors import DataError

NAMES = [PatchName(year, "31TCJ", x, y) for year in (2019, 2020) for x in range(10) for y in range(10)]


def named(*places: tuple[int, int], year: int = 2019, tile: str = "31TCJ") -> list[PatchName]:
    return [PatchName(year, tile, x, y) for x, y in places]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_lists_of_two_splits_never_lie_beside_each_other(
    tmp_path: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: ("train", "val", "test")[index % 3] for index, name in enumerate(NAMES)}
    after = {name: ("test", "train", "val")[index % 3] for index, name in enumerate(NAMES)}
    write_lists(tmp_path, before)
    write, calls = splits.atomic_write_text, []

    def stopped(path: Path, text: str) -> None:
        if len(calls) == written:
            raise KeyboardInterrupt
        calls.append(write(path, text))

    monkeypatch.setattr(splits, "atomic_write_text", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_lists(tmp_path, after)
    assert not (tmp_path / "train.txt").exists()
    if written:
        assert read_lists(tmp_path, NAMES)[0].items() <= after.items()
    monkeypatch.undo()
    write_lists(tmp_path, after)
    assert read_lists(tmp_path, NAMES) == (after, [])


def test_rules_then_fractions_then_the_exchange() -> None:
    plain, notes = assign_splits(NAMES, SplitSettings(rules="s4a-temporal2"))
    assert notes == []
    few = SplitSettings(rules="s4a-temporal2", fractions={"train": 0.2}, swap=True)
    splits, _ = assign_splits(NAMES, few)
    assert sum(its == "val" for its in splits.values()) == 20  # what was train, a fifth of it
    assert {name for name, its in splits.items() if its == "train"} == {
        name for name, its in plain.items() if its == "val"
    }
    assert {name for name, its in splits.items() if its == "test"} == {
        name for name, its in plain.items() if its == "test"
    }


def test_patches_that_no_rule_takes_are_told() -> None:
    splits, notes = assign_splits(NAMES, SplitSettings(rules="s4a-tiny"))
    assert len(splits) == 7
    assert notes == ["193 of 200 patches are for no split and left out"]
    with pytest.raises(DataError, match="s4a-tiny: none of the 1 patches is used"):
        assign_splits(named((0, 0), tile="31TCG"), SplitSettings(rules="s4a-tiny"))


def test_fractions_grow_by_adding_patches_and_keep_one_at_least() -> None:
    splits = dict.fromkeys(NAMES, "train")
    kept = [set(subset(splits, {"train": share}, 0)) for share in (0.001, 0.1, 0.5, 1.0)]
    assert [len(each) for each in kept] == [1, 20, 100, 200]
    assert kept[0] < kept[1] < kept[2] < kept[3]
    assert set(subset(splits, {"train": 0.5}, 1)) != kept[2]
    assert subset(splits, {"val": 0.5}, 0) == splits
    # Drawn by the names, not by their order.
    assert set(subset(dict.fromkeys(NAMES[::-1], "train"), {"train": 0.5}, 0)) == kept[2]


def test_the_exchange_leaves_test_alone() -> None:
    first, second, third = named((0, 0), (1, 0), (2, 0))
    exchanged = swapped({first: "train", second: "val", third: "test"})
    assert exchanged == {first: "val", second: "train", third: "test"}


def test_lists_come_back_as_they_were_written(tmp_path: Path) -> None:
    splits, _ = assign_splits(NAMES, SplitSettings(rules="s4a-naive", seed=4))
    write_lists(tmp_path / "lists", splits)
    assert (tmp_path / "lists" / "val.txt").read_text().splitlines()[0].startswith("2019/31TCJ/2019_31TCJ_patch_")
    assert read_lists(tmp_path / "lists", NAMES) == (splits, [])
    by_list, _ = assign_splits(NAMES, SplitSettings(rules="no such rules"), tmp_path / "lists")
    assert by_list == splits


def test_lists_of_other_writers_are_read(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("netcdf/2019_31TCJ_patch_0_1.nc\r\n\n 2019_31TCJ_patch_00_02 \n")
    splits, notes = read_lists(tmp_path, NAMES)
    assert splits == dict.fromkeys(named((0, 1), (0, 2)), "train")
    assert notes == [f"no {tmp_path / f'{name}.txt'}: no patch is for {name}" for name in ("val", "test")]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({}, "has neither train.txt nor val.txt nor test.txt"),
        (
            {"val": "2019_31TCJ_patch_00_00\n2019_31TCX_patch_00_00\n2018_31TCJ_patch_00_00"},
            r"val.txt: 2 of its 3 patches are not there: 2019_31TCX_patch_00_00, 2018_31TCJ_patch_00_00; get them",
        ),
        (
            {"train": "2019_31TCJ_patch_00_00", "test": "a/2019_31TCJ_patch_00_00.nc"},
            "2019_31TCJ_patch_00_00 is on train and test.txt: a patch is once for one split",
        ),
        ({"test": "2019_31TCJ_patch_00_00\n2019_31TCJ_patch_00_00"}, "is on test and test.txt"),
        ({"train": "patch 1"}, "patch 1: a patch is called such as"),
    ],
)
def test_lists_that_cannot_be_used_get_one_line(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_lists(tmp_path, NAMES)
    assert "\n" not in str(caught.value)


def test_neighbours_and_other_years_of_a_place_are_told() -> None:
    first, beside, corner, far = named((4, 4), (5, 4), (3, 3), (6, 4))
    (later,) = named((4, 4), year=2020)
    (elsewhere,) = named((5, 4), tile="31TCK")
    # `elsewhere` has the numbers of a neighbour, but in another tile; `far` is two away from the others of train.
    splits = {first: "train", beside: "test", corner: "val", far: "test", later: "val", elsewhere: "val"}
    assert leaks(splits) == [
        "1 pairs of patches of train and val touch, such as 2019_31TCJ_patch_03_03 and 2019_31TCJ_patch_04_04",
        "1 pairs of patches of train and test touch, such as 2019_31TCJ_patch_04_04 and 2019_31TCJ_patch_05_04",
        "1 pairs of patches of val and test touch, such as 2019_31TCJ_patch_05_04 and 2020_31TCJ_patch_04_04",
        "1 pairs of patches of train and val are of the same place, such as 2019_31TCJ_patch_04_04 and "
        "2020_31TCJ_patch_04_04",
    ]
    assert leaks(dict.fromkeys(splits, "train")) == []


def test_pairs_are_counted_once_whatever_their_order() -> None:
    splits = {name: ("train", "test")[name.x % 2] for name in NAMES if name.year == 2019}
    # Columns of ten alternate: 9 borders with 10 side by side and 18 corner to corner.
    for given in (splits, dict(reversed(splits.items()))):
        (line,) = leaks(given)
        assert line.startswith("252 pairs of patches of train and test touch, such as 2019_31TCJ_patch_00_00 and")


def test_a_split_without_a_class_is_told() -> None:
    counts = {"train": [9, 5, 0, 0], "val": [9, 5, 2, 0], "test": [9, 0, 0, 0]}
    assert list(missing_classes(counts, ["none", "a", "b", "c"])) == [
        "train has no pixel of b",
        "test has no pixel of a, b",
    ]


def test_a_split_is_summed_up_in_a_line() -> None:
    first, second = named((0, 0), (1, 1))
    lines = summary_lines({first: "train", second: "test"}, {first: [4, 3, 1], second: [9, 0, 0]}, ["none", "a", "b"])
    assert list(lines) == [
        "train: 1 patches, 4 labelled pixels: a 75.0 %, b 25.0 %",
        "val: no patch",
        "test: 1 patches, 0 labelled pixels: none of any class",
    ]


def write_labels(folder: Path, name: PatchName, codes: Sequence[int]) -> None:
    """A patch of 6 x 6 pixels, a column for each code."""
    labels = np.broadcast_to(np.array(codes, np.uint32), (6, 6)).copy()
    image = np.ones((1, 6, 6), np.uint16), np.array(["2019-01-01"], "datetime64[D]")
    write_patch(folder, NewPatch(name, (0.0, 0.0), "EPSG:32631", {"B02": image}, labels, labels, {}))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number, x in enumerate((0, 1, 12, 25, 26)):
        write_labels(
            tmp_path / "raw", PatchName(2019, "31TCJ", x, 0), [110, 150, 150, 0, 910, 120][number:] + [0] * number
        )
    return tmp_path / "raw"


def test_the_command_writes_lists_and_tables(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split(SplitCommandSettings(data=raw, out=tmp_path / "out", split=SplitSettings(rules="sample")))
    assert capsys.readouterr().out.splitlines() == [
        "note: val has no pixel of wheat",
        "note: test has no pixel of wheat, barley",
        "train: 2 patches, 42 labelled pixels: wheat 14.3 %, maize 28.6 %, barley 57.1 %",
        "val: 1 patches, 12 labelled pixels: maize 50.0 %, barley 50.0 %",
        "test: 2 patches, 12 labelled pixels: maize 100.0 %",
        f"{tmp_path}/out: train.txt, val.txt, test.txt and tables of 5 patches",
        f"next: crops-prepare --data {raw} --out DATASET --lists {tmp_path}/out",
    ]
    assert (tmp_path / "out" / "test.txt").read_text() == (
        "2019/31TCJ/2019_31TCJ_patch_25_00.nc\n2019/31TCJ/2019_31TCJ_patch_26_00.nc\n"
    )
    with (tmp_path / "out" / "patches.csv").open(newline="") as file:
        patches = list(csv.DictReader(file))
    assert [row["split"] for row in patches] == ["train", "train", "val", "test", "test"]
    assert [row["barley [px]"] for row in patches] == ["12", "12", "6", "0", "0"]
    with (tmp_path / "out" / "pixel_counts.csv").open(newline="") as file:
        pixels = {(row["split"], row["name"]): row for row in csv.DictReader(file)}
    assert len(pixels) == 3 * 12
    assert pixels["train", "barley"]["pixels"] == "24" and pixels["train", "barley"]["class"] == "4"
    assert float(pixels["train", "barley"]["share of labelled"]) == pytest.approx(24 / 42, abs=1e-6)
    assert pixels["train", "unlabelled"]["pixels"] == "30"
    assert pixels["train", "unlabelled"]["share of labelled"] == ""


def test_the_command_takes_another_encoder_and_tells_leaks(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "own.yaml"
    rules.write_text("rules: [{patch_x: {in: [0, 25]}, target: train}, {target: test}]")
    split(
        SplitCommandSettings(
            data=raw, out=tmp_path / "out", split=SplitSettings(rules=str(rules)), encoder="with-grassland"
        )
    )
    lines = capsys.readouterr().out.splitlines()
    assert (
        "warning: 2 pairs of patches of train and test touch, such as 2019_31TCJ_patch_00_00 and 2019_31TCJ_patch_01_00"
        in lines
    )
    assert any(line.startswith("train:") and "grassland" in line for line in lines)
