"""Rules of splits: who goes where, how shares are drawn, those of the package, and files that break the grammar."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from crops_activesampling.definitions import packaged
from crops_activesampling.rules import SplitRules, read_rules
from crops_activesampling.s4a_format import PatchName
from geocore.errors import DataError, SettingsError

TILE = [PatchName(2019, "31TCJ", x, y) for x in range(30) for y in range(30)]


def rules(folder: Path, text: str) -> SplitRules:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return read_rules(str(path))


def places(folder: Path, text: str, names: list[PatchName]) -> dict[str, str]:
    return {name.id: split for name, split in rules(folder, text).assign(names, 0).items()}


def test_the_first_rule_that_matches_decides(tmp_path: Path) -> None:
    names = [PatchName(2019, "31TCG", 1, 2), PatchName(2020, "31TCG", 1, 2), PatchName(2020, "31TCF", 1, 2)]
    text = "rules: [{year: 2019, target: train}, {tile: 31TCG, target: val}, {year: 2020, target: test}]"
    assert list(places(tmp_path, text, names).values()) == ["train", "test", "val"]
    text = "rules: [{year: 2020, target: test}, {target: train}, {tile: 31TCG, target: val}]"
    assert list(places(tmp_path, text, names).values()) == ["train", "test", "test"]


@pytest.mark.parametrize(
    ("text", "xs"),
    [
        ("patch_x: 3", [3]),
        ("patch_x: [3, 5]", [3, 5]),
        ("patch_x: {in: [3, 5]}", [3, 5]),
        ("patch_x: {in: 3}", [3]),
        ("patch_x: {min: 4}", [4, 5, 6]),
        ("patch_x: {max: 4}", [2, 3, 4]),
        ("patch_x: {min: 3, max: 5}", [3, 4, 5]),
        ("patch_x: {in: [2, 3, 6], min: 3}", [3, 6]),
        ("patch_x: {max: 5}, patch_y: 1", [5]),
        ("patch_y: {max: 0}, year: 2019, tile: 31TCJ", [2, 3, 4]),
        ("path: 2019/31TCJ/2019_31TCJ_patch_05_01.nc", [5]),
        ("tile: {min: 31TCK}", []),
        ("tile: {max: 31TCJ}", [2, 3, 4, 5, 6]),
        ("year: {max: 2018}", []),
    ],
)
def test_filters_take_values_lists_and_ranges_with_their_ends(tmp_path: Path, text: str, xs: list[int]) -> None:
    names = [PatchName(2019, "31TCJ", x, x // 5) for x in range(2, 7)]
    found = rules(tmp_path, f"rules: [{{{text}, target: test}}]").assign(names, 0)
    assert [name.x for name in found] == xs


def test_nested_rules_share_out_their_own_patches_and_keep_the_rest(tmp_path: Path) -> None:
    names = [PatchName(2019, "31TCJ", x, 0) for x in range(4)] + [PatchName(2020, "31TCJ", 0, 0)]
    text = """
    rules:
      - year: 2019
        rules:
          - {patch_x: 0, target: val}
          - patch_x: [1, 2]
            rules:
              - {patch_x: 2, target: test}
      - target: train
    """
    # 1 and 3 of 2019 came to a rule that does not take them, so that the last one never sees them.
    assert places(tmp_path, text, names) == {
        "2019_31TCJ_patch_00_00": "val", "2019_31TCJ_patch_02_00": "test", "2020_31TCJ_patch_00_00": "train",
    }  # fmt: skip


def test_shares_are_drawn_exactly_and_cover_all() -> None:
    splits = read_rules("s4a-naive").assign(TILE, 0)
    assert Counter(splits.values()) == {"train": 720, "val": 90, "test": 90}
    assert list(splits) == TILE
    # Drawn, not cut: a column of the tile has some of each.
    assert all(len({splits[name] for name in TILE if name.x == x}) > 1 for x in range(30))


def test_missing_shares_have_equal_parts_of_the_rest_and_the_rest_of_all_is_left_out(tmp_path: Path) -> None:
    text = "rules: [{target: [{target: train, split: 0.6}, {target: val}, {target: test}]}]"
    assert Counter(rules(tmp_path, text).assign(TILE, 3).values()) == {"train": 540, "val": 180, "test": 180}
    text = "rules: [{target: [{target: test, split: 0.1}, {target: val, split: 0.25}]}]"
    assert Counter(rules(tmp_path, text).assign(TILE, 3).values()) == {"test": 90, "val": 225}


@pytest.mark.parametrize("count", range(12))
def test_no_patch_gets_lost_between_shares(tmp_path: Path, count: int) -> None:
    text = "rules: [{target: [{target: train, split: 0.7}, {target: val, split: 0.2}, {target: test, split: 0.1}]}]"
    splits = rules(tmp_path, text).assign(TILE[:count], 1)
    assert len(splits) == count
    for split, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        assert abs(list(splits.values()).count(split) - share * count) < 1


def test_draws_depend_on_names_and_seed_alone() -> None:
    naive = read_rules("s4a-naive")
    assert naive.assign(TILE[::-1], 0) == naive.assign(TILE, 0)
    assert naive.assign(TILE, 1) != naive.assign(TILE, 0)


def test_draws_are_the_same_in_every_process() -> None:
    # Python's own hash of a text differs between processes.
    code = (
        "from crops_activesampling.s4a_format import PatchName\n"
        "from crops_activesampling.rules import read_rules\n"
        "names = [PatchName(2019, '31TCJ', x, 0) for x in range(30)]\n"
        "splits = read_rules('s4a-naive').assign(names, 5)\n"
        "print(*[name.x for name in names if splits[name] != 'train'])\n"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout == "1 15 19 21 24 25\n"


def test_no_patch_may_come_to_assert_none(tmp_path: Path) -> None:
    text = "rules: [{year: 2019, rules: [{tile: 31TCJ, target: train}, {assert_none: true}]}, {target: test}]"
    known = [PatchName(2019, "31TCJ", 1, 1), PatchName(2020, "31TXX", 1, 1)]
    assert list(places(tmp_path, text, known).values()) == ["train", "test"]
    stray = PatchName(2019, "31TXX", 1, 1)
    message = r"own: rules\[0\].rules\[1\].assert_none: 1 patches come here, such as 2019_31TXX_patch_01_01"
    with pytest.raises(DataError, match=message):
        places(tmp_path, text, [*known, stray])


def test_packaged_rules() -> None:
    assert packaged("splits") == ["s4a-naive", "s4a-temporal1", "s4a-temporal2", "s4a-tiny", "sample"]
    assert Counter(read_rules("s4a-tiny").assign(TILE, 0).values()) == {"train": 45, "val": 9, "test": 9}
    both = [*TILE, *(PatchName(2020, "31TCF", name.x, name.y) for name in TILE)]
    temporal = read_rules("s4a-temporal2").assign(both, 0)
    assert {split for name, split in temporal.items() if name.year == 2019} == {"train"}
    assert Counter(split for name, split in temporal.items() if name.year == 2020) == {"val": 450, "test": 450}
    sample = read_rules("sample").assign(TILE, 0)
    assert [sample[PatchName(2019, "31TCJ", x, 0)] for x in (9, 10, 19, 20)] == ["train", "val", "val", "test"]


@pytest.mark.parametrize(
    ("year", "tile", "x", "split"),
    [
        (2020, "31TBF", 3, "test"), (2020, "31TDF", 3, "test"), (2020, "31TDG", 3, "val"), (2020, "31TCG", 9, "test"),
        (2020, "31TCG", 15, "val"), (2020, "31TCF", 19, "val"), (2020, "31TCF", 20, "test"), (2019, "31UDR", 9, "test"),
        (2019, "31UDR", 15, "val"), (2019, "31TBF", 3, "train"), (2019, "31TCJ", 20, "train"),
    ],
)  # fmt: skip
def test_rules_by_geography(year: int, tile: str, x: int, split: str) -> None:
    name = PatchName(year, tile, x, 7)
    assert read_rules("s4a-temporal1").assign([name], 0) == {name: split}


def test_rules_by_geography_know_all_tiles_of_2020() -> None:
    with pytest.raises(DataError, match=r"s4a-temporal1: rules\[0\].rules\[4\].assert_none"):
        read_rules("s4a-temporal1").assign([PatchName(2020, "31UDR", 0, 0)], 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule: []", r"split rules own: unknown key rule"),
        ("{}", r"split rules own: rules is no list"),
        ("rules: []", r"rules is no list with a rule"),
        ("rules: [train]", r"rules\[0\] 'train': a rule is a mapping"),
        ("rules: [{yaer: 2019, target: train}]", r"rules\[0\]: unknown key yaer"),
        ("rules: [{target: train}, {year: 2019}]", r"rules\[1\] has none of them: a rule has exactly one of"),
        ("rules: [{target: train, assert_none: true}]", r"rules\[0\] has target and assert_none"),
        ("rules: [{rules: [{target: val}, {tile: 31TCJ}]}]", r"rules\[0\].rules\[1\] has none of them"),
        ("rules: [{rules: []}]", r"rules\[0\].rules is no list"),
        ("rules: [{assert_none: false}]", r"rules\[0\].assert_none False: must be true"),
        ("rules: [{target: trian}]", r"rules\[0\].target 'trian': splits are train, val, test"),
        ("rules: [{target: [{target: valid}]}]", r"rules\[0\].target\[0\] 'valid'"),
        ("rules: [{target: [{target: [val]}]}]", r"rules\[0\].target\[0\] \['val'\]: splits are"),
        ("rules: [{target: []}]", r"rules\[0\].target \[\]: give a split, or a list"),
        ("rules: [{target: [train, val]}]", r"rules\[0\].target\[0\] 'train': has the keys target and split"),
        ("rules: [{target: [{target: val, share: 1}]}]", r"target\[0\] .*: has the keys target and split"),
        ("rules: [{target: [{target: val, split: 0.6}, {target: test, split: 0.5}]}]", r"target: shares add up to 1.1"),
        ("rules: [{target: [{target: val, split: 1.5}]}]", r"target\[0\].split 1.5: a share is above 0, at most 1"),
        ("rules: [{target: [{target: val, split: 0}]}]", r"target\[0\].split 0: a share"),
        ("rules: [{target: [{target: val, split: true}]}]", r"target\[0\].split True: a share"),
        ("rules: [{target: [{target: val, split: 1}, {target: test}]}]", r"nothing is left for a split without one"),
        ("rules: [{target: [{target: val}, {target: val}]}]", r"target: a split occurs more than once"),
        ("rules: [{year: '2019', target: val}]", r"rules\[0\].year '2019': year is a whole number"),
        ("rules: [{year: true, target: val}]", r"rules\[0\].year True: year is a whole number"),
        ("rules: [{tile: 31, target: val}]", r"rules\[0\].tile 31: tile is text"),
        ("rules: [{patch_x: [1, a], target: val}]", r"rules\[0\].patch_x 'a': patch_x is a whole number"),
        ("rules: [{patch_x: {mni: 1}, target: val}]", r"rules\[0\].patch_x: unknown key mni: a filter has in, min"),
        ("rules: [{patch_x: {}, target: val}]", r"rules\[0\].patch_x: unknown key \(none\)"),
        ("rules: [{patch_y: {min: x}, target: val}]", r"rules\[0\].patch_y.min 'x'"),
        ("rules: [{target: val, stratify_on: [elevation]}]", r"rules\[0\].stratify_on: is not supported"),
    ],
)  # fmt: skip
def test_files_that_break_the_grammar_get_one_line_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        rules(tmp_path, text)
    assert "\n" not in str(caught.value)
