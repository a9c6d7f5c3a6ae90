"""File names of the three formats, dates of flood events, split lists, and which files are scenes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from floods_prithvi.config import PrepareSettings
from floods_prithvi.file_patterns import (
    FORMATS,
    METADATA,
    ChipFiles,
    chip_id,
    date_of_event,
    find_chips,
    find_rasters,
    read_event_dates,
)
from floods_prithvi.published import PUBLISHED
from floods_prithvi.split_lists import assign_splits, find_lists, read_list
from geocore.errors import DataError

BURN = "subsetted_512x512_HLS.S30.T10SFE.2020267.v1.4"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def flood(folder: Path, *chips: str) -> Path:
    for chip in chips:
        touch(folder, f"v1.1/S2Hand/{chip}_S2Hand.tif", f"v1.1/LabelHand/{chip}_LabelHand.tif")
    return folder


def settings(folder: Path, **changes: Any) -> PrepareSettings:
    return PrepareSettings(**{"data": folder, "out": folder / "out"} | changes)


def by_name(chips: Sequence[ChipFiles]) -> tuple[list[str], list[str]]:
    """Groups as the names say, whatever the chips show."""
    return [chip.group for chip in chips], []


def divided(folder: Path, **changes: Any) -> tuple[dict[str, str], list[str]]:
    chosen = settings(folder, **changes)
    return assign_splits(find_chips(folder, chosen.format)[0], chosen, by_name)


# --- chips ---


def test_flood_chips_are_paired_in_any_folder_and_grouped_by_event(tmp_path: Path) -> None:
    flood(tmp_path, "Sri-Lanka_101973", "Bolivia_103757")
    touch(tmp_path, "a/._Ghana_1_S2Hand.tif", "a/Ghana_2_S1Hand.tif", "a/Ghana_2_JRCWaterHand.tif")
    chips, notes = find_chips(tmp_path, "sen1floods11")
    assert [(chip.id, chip.group, chip.date) for chip in chips] == [
        ("Bolivia_103757", "Bolivia", None),
        ("Sri-Lanka_101973", "Sri-Lanka", None),
    ]
    assert chips[1].label == tmp_path / "v1.1/LabelHand/Sri-Lanka_101973_LabelHand.tif"
    assert notes == []


def test_burn_chips_say_tile_and_date(tmp_path: Path) -> None:
    touch(tmp_path, f"training/{BURN}_merged.tif", f"training/{BURN}.mask.tif", "b/mine_merged.tif", "b/mine.mask.tif")
    chips, _ = find_chips(tmp_path, "burn-scars")
    assert [(chip.id, chip.group, chip.date) for chip in chips] == [
        ("mine", "mine", None),
        # Day 267 of a leap year.
        (BURN, "T10SFE", "2020-09-23"),
    ]


def test_chips_of_several_dates_are_grouped_by_their_first_number(tmp_path: Path) -> None:
    for name in ("chip_102_104", "chip_102_105", "chip_103_104"):
        touch(tmp_path, f"training_chips/{name}_merged.tif", f"training_chips/{name}.mask.tif")
    touch(tmp_path, "training_chips/._chip_102_104_merged.tif")
    assert [chip.group for chip in find_chips(tmp_path, "frames")[0]] == ["chip_102", "chip_102", "chip_103"]


def test_files_without_a_partner_are_told(tmp_path: Path) -> None:
    flood(tmp_path, "Ghana_1")
    touch(tmp_path, "Ghana_2_S2Hand.tif", "Ghana_3_LabelHand.tif", "Ghana_4_LabelHand.tif")
    chips, notes = find_chips(tmp_path, "sen1floods11")
    assert [chip.id for chip in chips] == ["Ghana_1"]
    assert notes == [
        "1 chips have no label and are left out: Ghana_2",
        "2 chips have no image and are left out: Ghana_3, Ghana_4",
    ]


def test_folders_without_chips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_chips(tmp_path / "none", "sen1floods11")
    touch(tmp_path, "Ghana_2_S2Hand.tif")
    with pytest.raises(DataError, match=r"takes \*_S2Hand.tif with \*_LabelHand.tif, and 1 and 0 .*--format"):
        find_chips(tmp_path, "sen1floods11")
    touch(tmp_path, "a/Ghana_1_S2Hand.tif", "b/Ghana_1_S2Hand.tif", "a/Ghana_1_LabelHand.tif")
    with pytest.raises(DataError, match="share a name"):
        find_chips(tmp_path, "sen1floods11")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("Ghana_103272_S1Hand.tif", "Ghana_103272"),
        ("x/Sri-Lanka_1_LabelHand.tif", "Sri-Lanka_1"),
        (" Ghana_103272 ", "Ghana_103272"),
        (BURN, BURN),
        (f"{BURN}_merged.tif", BURN),
        (f"{BURN}.mask.tif", BURN),
        ("training\\chip_1_2.tif", "chip_1_2"),
    ],
)
def test_any_form_of_a_name_is_the_same_chip(name: str, expected: str) -> None:
    assert chip_id(name) == expected


def test_classes_are_those_of_the_published_models() -> None:
    for kind, published in (("sen1floods11",) * 2, ("burn-scars",) * 2, ("frames", "multi-temporal-crop")):
        form, model = FORMATS[kind], PUBLISHED[published]  # type: ignore[index]
        assert tuple(name for _, name in sorted(form.classes.items())) == model.classes
        assert (form.scale, form.nodata) == (model.scale, model.nodata)
    assert sorted(FORMATS["frames"].classes) == list(range(1, 14))


# --- dates of events ---


def test_dates_of_events_by_the_names_that_files_give_them(tmp_path: Path) -> None:
    path = tmp_path / METADATA
    entries = [("Cambodia", "2018/08/04"), ("Sri Lanka", "2017/05/28"), ("Ghana", "2018/09/19"), ("USA", "unknown")]
    features = [{"properties": {"location": place, "s2_date": day}, "geometry": None} for place, day in entries]
    path.write_text(json.dumps({"features": features}))
    dates = read_event_dates(path)
    assert date_of_event("Mekong", dates) == "2018-08-04"
    assert date_of_event("Sri-Lanka", dates) == "2017-05-28"
    assert date_of_event("Ghana", dates) == "2018-09-19"
    assert date_of_event("USA", dates) is None
    assert date_of_event("Spain", dates) is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"features": [{"properties": {}}]}', '{"features": [1]}'])
def test_metadata_that_are_none_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / METADATA
    path.write_text(text)
    with pytest.raises(DataError, match=r"is not understood.*--metadata") as caught:
        read_event_dates(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"No such file.*--metadata"):
        read_event_dates(tmp_path / "none.geojson")


# --- lists ---


def test_published_lists_without_a_header_and_with_hyphens(tmp_path: Path) -> None:
    flood(tmp_path, "Ghana_1", "Ghana_2", "Sri-Lanka_3", "Bolivia_4", "Spain_5")
    lists = tmp_path / "v1.1/splits/flood_handlabeled"
    lists.mkdir(parents=True)
    for name, chip in (("train", "Ghana_1"), ("valid", "Sri-Lanka_3"), ("test", "Ghana_2"), ("bolivia", "Bolivia_4")):
        (lists / f"flood_{name}_data.csv").write_text(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n")
    splits, notes = divided(tmp_path)
    assert splits == {"Ghana_1": "train", "Sri-Lanka_3": "val", "Ghana_2": "test", "Bolivia_4": "bolivia"}
    assert notes == ["1 chips are on no list and left out: Spain_5"]


def test_names_on_lists_are_matched_whole(tmp_path: Path) -> None:
    """terratorch looks for the line within the name, so that Ghana_1 takes Ghana_10 along."""
    flood(tmp_path, "Ghana_1", "Ghana_10", "Ghana_112")
    for name, chips in (("train", "Ghana_10"), ("val", "Ghana_1\n\nGhana_11"), ("test", "Ghana_112")):
        (tmp_path / f"{name}.txt").write_text(f"{chips}\n\n")
    splits, notes = divided(tmp_path)
    assert splits == {"Ghana_10": "train", "Ghana_1": "val", "Ghana_112": "test"}
    assert notes == ["1 of 2 chips of val.txt are not there: Ghana_11"]


def test_lists_may_name_chips_that_are_not_there(tmp_path: Path) -> None:
    flood(tmp_path, "Ghana_1", "Ghana_2")
    (tmp_path / "train.txt").write_text("Ghana_1\nGhana_7\nGhana_8\n")
    (tmp_path / "val.txt").write_text("Ghana_2\n")
    splits, notes = divided(tmp_path)
    assert splits == {"Ghana_1": "train", "Ghana_2": "val"}
    assert notes == ["2 of 3 chips of train.txt are not there: Ghana_7, Ghana_8"]
    (tmp_path / "test.txt").write_text("Ghana_7\nGhana_8\n")
    with pytest.raises(DataError, match=r"test.txt: none of its 2 chips \(Ghana_7 and 1 more\) is among the 2 of the"):
        divided(tmp_path)


@pytest.mark.parametrize("content", ["", "\n \n", ",\n"])
def test_empty_list_is_refused(tmp_path: Path, content: str) -> None:
    flood(tmp_path, "Ghana_1")
    (tmp_path / "flood_train_data.csv").write_text(content)
    with pytest.raises(DataError, match=r"flood_train_data.csv: is empty: .*fill or remove it"):
        divided(tmp_path)


def test_lists_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    flood(tmp_path, "Ghana_1", "Ghana_2")
    (tmp_path / "train.txt").write_text("Ghana_1\n")
    with pytest.raises(DataError, match="no chip is in split val"):
        divided(tmp_path)
    (tmp_path / "val.txt").write_text("Ghana_1\nGhana_2\n")
    with pytest.raises(DataError, match=r"Ghana_1 is also on the list of"):
        divided(tmp_path)
    (tmp_path / "val.txt").write_text("Ghana_2\n")
    (tmp_path / "train.csv").write_text("Ghana_1\n")
    assert divided(tmp_path)[0]["Ghana_1"] == "train"
    (tmp_path / "train.csv").write_text("Ghana_2\n")
    with pytest.raises(DataError, match="name different chips for one split"):
        divided(tmp_path)
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="is no text"):
        read_list(tmp_path / "train.csv")


def test_lists_to_test_on_alone_make_a_data_set_to_score_on(tmp_path: Path) -> None:
    flood(tmp_path, "Ghana_1", "Bolivia_2")
    (tmp_path / "test.txt").write_text("Ghana_1\n")
    (tmp_path / "bolivia.txt").write_text("Bolivia_2\n")
    splits, notes = divided(tmp_path)
    assert splits == {"Ghana_1": "test", "Bolivia_2": "bolivia"}
    assert notes == ["no list to train and validate on: this data set can be scored on, not trained on"]


def test_lists_in_several_folders_need_a_choice(tmp_path: Path) -> None:
    flood(tmp_path, "Ghana_1", "Ghana_2")
    for folder, chips in (("a", ("Ghana_1", "Ghana_2")), ("b", ("Ghana_2", "Ghana_1"))):
        (tmp_path / folder).mkdir()
        for name, chip in zip(("train", "val"), chips, strict=True):
            (tmp_path / folder / f"{name}.txt").write_text(f"{chip}\n")
    with pytest.raises(DataError, match=r"only one folder.*--lists"):
        divided(tmp_path)
    assert divided(tmp_path, lists=tmp_path / "b")[0] == {"Ghana_2": "train", "Ghana_1": "val"}
    with pytest.raises(DataError, match=r"v1.1: holds no list.*--lists"):
        divided(tmp_path, lists=tmp_path / "v1.1")


def _burn(folder: Path, part: str, *tiles: str) -> None:
    for number, tile in enumerate(tiles):
        name = f"subsetted_512x512_HLS.S30.{tile}.2020{100 + number}.v1.4"
        touch(folder, f"{part}/{name}_merged.tif", f"{part}/{name}.mask.tif")


def test_burn_chips_of_two_folders_keep_tiles_whole(tmp_path: Path) -> None:
    tiles = ["T10SAA", "T10SBB", "T10SCC", "T10SDD", "T10SEE"]
    _burn(tmp_path, "training", *[tile for tile in tiles for _ in range(3)])
    _burn(tmp_path, "validation", "T11SAA", "T11SAA")
    splits, notes = divided(tmp_path, format="burn-scars")
    assert Counter(splits.values()) == {"train": 12, "val": 3, "test": 2}
    of_tile = {tile: {split for name, split in splits.items() if f".{tile}." in name} for tile in tiles}
    assert all(len(found) == 1 for found in of_tile.values())
    assert {split for name, split in splits.items() if ".T11SAA." in name} == {"test"}
    assert notes == ["validation is test, and training is divided into train and val by image tiles"]


def test_burn_chips_follow_lists_where_there_are_some(tmp_path: Path) -> None:
    _burn(tmp_path, "data", "T10SAA", "T10SBB", "T10SCC")
    chips = [chip.id for chip in find_chips(tmp_path, "burn-scars")[0]]
    (tmp_path / "splits").mkdir()
    for split, chip in zip(("train", "val", "test"), chips, strict=True):
        (tmp_path / "splits" / f"{split}.txt").write_text(f"{chip}\n")
    assert divided(tmp_path, format="burn-scars")[0] == dict(zip(chips, ("train", "val", "test"), strict=True))


def test_long_names_of_lists_mean_halves_only_among_themselves(tmp_path: Path) -> None:
    for number in range(6):
        touch(tmp_path, f"c/chip_{number}_1_merged.tif", f"c/chip_{number}_1.mask.tif")
    (tmp_path / "training_data.txt").write_text("".join(f"chip_{number}_1\n" for number in range(5)))
    (tmp_path / "validation_data.txt").write_text("chip_5_1\n")
    splits, _ = divided(tmp_path, format="frames")
    assert splits["chip_5_1"] == "test"
    assert Counter(splits.values()) == {"train": 4, "val": 1, "test": 1}
    (tmp_path / "test_data.txt").write_text("chip_0_1\n")
    (tmp_path / "training_data.txt").write_text("chip_1_1\n")
    assert divided(tmp_path, format="frames")[0] == {"chip_1_1": "train", "chip_5_1": "val", "chip_0_1": "test"}
    assert sorted(find_lists(tmp_path, chosen=False)) == ["test", "train", "val"]


def test_without_lists_events_are_dealt_out_whole(tmp_path: Path) -> None:
    flood(tmp_path, *(f"{event}_{n}" for event in ("Ghana", "India", "Spain", "USA", "Sri-Lanka") for n in range(4)))
    splits, notes = divided(tmp_path)
    assert {name: splits[f"{name}_0"] for name in ("Ghana", "India", "Spain", "USA", "Sri-Lanka")} == {
        name.rpartition("_")[0]: split for name, split in splits.items()
    }
    assert set(splits.values()) == {"train", "val", "test"}
    assert notes == ["no lists: flood events are dealt out whole"]
    assert divided(tmp_path)[0] == splits
    with pytest.raises(DataError, match="2 groups"):
        chips = [chip for chip in find_chips(tmp_path, "sen1floods11")[0] if chip.group in ("Ghana", "USA")]
        assign_splits(chips, settings(tmp_path), by_name)


# --- scenes ---


def test_scenes_are_found_and_labels_and_products_are_not(tmp_path: Path) -> None:
    names = ["a.tif", "a_pred.tif", "a_prob.tif", "a_confidence.tif", "b_pred.tif", "._a.tif"]
    folder = touch(tmp_path / "maps", *names, "Ghana_1_S2Hand.tif", "Ghana_1_LabelHand.tif", "x.mask.tif", "notes.txt")
    assert list(find_rasters([folder])) == ["Ghana_1_S2Hand", "a", "b_pred"]
    assert find_rasters([folder / "a_prob.tif", folder / "a_prob.tif"]) == {"a_prob": folder / "a_prob.tif"}
    with pytest.raises(DataError, match="not found"):
        find_rasters([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no scene"):
        find_rasters([touch(tmp_path / "empty", "notes.txt")])
    with pytest.raises(DataError, match="share a name"):
        find_rasters([folder, touch(tmp_path / "other", "a.tif")])
