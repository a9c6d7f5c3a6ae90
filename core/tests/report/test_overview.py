"""What prepare prints, line by line, and the picture and the commands at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import PERCENTILES, BandStatistics, Statistics
from geocore.raster.bands import Band, Bands
from geocore.raster.scene import Layer
from geocore.report.overview import Contents, Overview, area, chosen, lines, number, percent, present, spread
from geocore.report.preview import Marks, Preview, class_keys

BANDS = Bands((Band("red", "1", scale=0.0001), Band("dem", "1", scale=-0.001, offset=5.0)))
NAMES = {0: "land", 1: "water"}


def statistics(low: float, high: float, count: int) -> BandStatistics:
    """Values spread evenly."""
    shares = {percent: low + (high - low) * percent / 100 for percent in PERCENTILES}
    return BandStatistics(count, low, high, (low + high) / 2, 1.0, shares)


def overview(
    splits: Mapping[str, str],
    *,
    bands: Bands = BANDS,
    water: int = 10,
    notes: list[str] | None = None,
    **changes: Any,
) -> Overview:
    """Chips of 10 x 10 px by the splits of their names; the group is what stands before the dash."""
    samples = [Sample(name, name.partition("-")[0], split, {"image": f"{name}.tif"}) for name, split in splits.items()]
    dataset = Dataset(
        root=Path("data"),
        task="floods",
        samples=samples,
        layers={"image": Layer("image", bands, "int16", pixel_m=(10.0, 10.0))},
        labels={"mask": LabelSpec("mask", NAMES, 255)},
        notes=notes or [],
    )
    train = [sample for sample in samples if sample.split == "train"]
    measured = Statistics({"image": tuple(statistics(100, 3100, 98 * len(train)) for _ in bands)}) if train else None
    contents = {
        name: Contents(100, {"mask": {"land": 90 - water * place, "water": water * place}}, content=place)
        for place, name in enumerate(splits)
    }

    def read(sample: Sample) -> Preview:
        return Preview(
            sample.id, np.eye(20)[None], np.ones((20, 20), bool), {"mask": Marks(np.zeros((20, 20), np.uint8))}
        )

    given: dict[str, Any] = {
        "dataset": dataset,
        "samples": "chips",
        "groups": "events",
        "contents": contents,
        "statistics": measured,
        "measured": train,
        "keys": {"mask": class_keys(NAMES, background=0)},
        "shown": "red in grey",
        "preview": read,
    }
    return Overview(**(given | changes))


FEW = {"a-1": "train", "a-2": "train", "b-1": "train", "c-1": "val", "d-1": "test"}


def test_splits_classes_groups_and_values_in_their_unit() -> None:
    assert list(lines(overview(FEW))) == [
        "       chips  events  labelled  land  water",
        "train      3       2      90 %  89 %   11 %",
        "val        1       1      90 %  67 %   33 %",
        "test       1       1      90 %  56 %   44 %",
        "chips of train by events: a 2, b 1",
        "chips of val by events: c 1",
        "chips of test by events: d 1",
        "pixels on the ground: 10 m",
        "values of train (unit 1)  minimum     1 %  median   99 %  maximum  valid",
        "red                        0.0100  0.0130   0.160  0.307    0.310   98 %",
        "dem                          1.90    1.93    3.40   4.87     4.90   98 %",
    ]


def test_empty_splits_and_classes_are_said() -> None:
    said = list(lines(overview({"a-1": "train", "b-1": "extra"}, water=0)))
    assert said[:6] == [
        "       chips  events  labelled   land",
        "train      1       1      90 %  100 %",
        "val        0       0         -      -",
        "test       0       0         -      -",
        "extra      1       1      90 %  100 %",
        "no pixel is water",
    ]


def test_several_labels_have_tables_of_their_own_and_rare_classes_are_summed_up() -> None:
    names = [f"class number {number}" for number in range(12)]
    contents = {
        "a-1": Contents(
            1000,
            {
                "many": {name: 2**place for place, name in enumerate(names[:9])} | dict.fromkeys(names[9:], 0),
                "ice": {"x": 5, "y": 0},
            },
        )
    }
    said = list(lines(overview({"a-1": "train"}, contents=contents, statistics=None)))
    assert said[0] == "       chips  events" and said[1].split() == ["train", "1", "1"]
    assert said[4].split("  ")[0] == "many" and said[4].endswith("class number 8  4 more")
    assert "class number 3" not in said[4] and len(said[4]) <= 110
    shares = [float(word) for word in said[5].replace("%", "").split()[1:]]
    # Of 511 labelled pixels, the classes 4 to 8 have 16, 32, ..., 256, and the others 15.
    assert shares == [51, *(float(f"{100 * 2**place / 511:.2g}") for place in range(4, 9)), 2.9]
    assert said[8].split() == ["ice", "labelled", "x"]
    assert said[9].split() == ["train", "0.50", "%", "100", "%"]
    assert "no pixel is many class number 9, many class number 10, many class number 11, ice y" in said


def test_a_class_that_another_split_has_is_missed_once() -> None:
    counts = {"a-1": {"land": 5, "water": 1}, "b-1": {"land": 5, "water": 0}, "c-1": {"land": 0, "water": 3}}
    splits = {"a-1": "train", "b-1": "val", "c-1": "test"}
    contents = {name: Contents(10, {"mask": its}) for name, its in counts.items()}
    said = list(lines(overview(splits, contents=contents)))
    assert said[4:6] == ["val has no pixel of water", "test has no pixel of land"]
    told = list(lines(overview(splits, contents=contents, notes=["val has no pixel of water"])))
    assert [line for line in told if "no pixel of water" in line] == ["note: val has no pixel of water"]


def test_units_of_their_own_and_many_bands() -> None:
    bands = Bands(tuple(Band(f"b{number}", "K" if number else None) for number in range(15)))
    said = list(lines(overview({"a-1": "train"}, bands=bands)))
    table = said[said.index(next(line for line in said if line.startswith("values"))) :]
    assert table[0].split() == [
        "values",
        "of",
        "train",
        "unit",
        "minimum",
        "1",
        "%",
        "median",
        "99",
        "%",
        "maximum",
        "valid",
    ]
    assert [line.split()[:3] for line in table[1:3]] == [["b0", "-", "100"], ["b1", "K", "100"]]
    assert len(table) == 14 and table[-1] == "3 more bands: b12, b13, b14"
    # Where much is said before, fewer bands are.
    said = list(lines(overview({"a-1": "train"}, bands=bands, sizes=[f"size {number}" for number in range(12)])))
    assert said[-2].startswith("b6 ") and said[-1] == "8 more bands: b7, b8, b9, b10, b11, b12, b13, b14"


def test_remarks_are_cut_short() -> None:
    given = overview({"a-1": "train"}, notes=[f"remark {number}" for number in range(11)])
    said = list(lines(given, [f"leak {number}" for number in range(6)]))
    assert said[-14:] == [
        *(f"note: remark {number}" for number in range(8)),
        "note: 3 more notes are in dataset.yaml",
        *(f"warning: leak {number}" for number in range(4)),
        "warning: and 2 more of the kind",
    ]


def test_the_last_lines_name_files_and_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    present(overview(FEW), folder, written=["labels/ (2 label rasters)"])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"written to '{folder}': dataset.yaml, labels/ (2 label rasters), and preview.png: look at it before training",
        f"next: floods-train --data '{folder}'",
    ]
    image = matplotlib.image.imread(folder / "preview.png")
    # Three rows of at most three samples.
    assert image.shape[1] > 1200 and image.shape[0] > 800
    present(overview({"a-1": "test"}), folder)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "not to train on: training needs chips in train and val, and there are none in train",
        f"next: floods-evaluate --run RUN --data '{folder}' --split test",
    ]


def test_where_nothing_can_choose_the_next_command_takes_the_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    present(overview(FEW), tmp_path, unvalidated=["val has no water"], warnings=["a leak"])
    said = capsys.readouterr().out.splitlines()
    assert said[-4:-2] == ["warning: val has no water", "warning: a leak"]
    assert said[-1] == f"next: floods-train --data {tmp_path} --training.choose last"


def test_most_least_and_middle_are_chosen_the_same_in_any_order() -> None:
    samples = [Sample(name, "g", "train", {}) for name in "fbdace"]
    content = dict(zip("abcdef", (5.0, 5.0, 1.0, 9.0, 2.0, 0.0), strict=True))
    assert [sample.id for sample in chosen(samples, content, 3)] == ["d", "b", "f"]
    assert [sample.id for sample in chosen(samples[::-1], content, 3)] == ["d", "b", "f"]
    assert [sample.id for sample in chosen(samples[:2], content, 3)] == ["b", "f"]
    assert chosen([], content, 3) == []


def test_pictures_are_of_samples_of_each_split(tmp_path: Path) -> None:
    read: list[str] = []
    given = overview({f"a-{number}": "train" for number in range(20)} | {"b-1": "val"})

    def reading(sample: Sample) -> Preview:
        read.append(sample.id)
        return given.preview(sample)

    present(replace(given, preview=reading), tmp_path)
    # Content rises with the number; of twenty, the eleventh from above is in the middle.
    assert read == ["a-19", "a-9", "a-0", "b-1"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234567, "1,234,567"),
        (1234567.0, "1234567"),
        (41343.4, "41343"),
        (65471, "65471"),
        (0.123456, "0.123"),
        (-12.34, "-12.3"),
        (0.00001234, "0.0000123"),
        (1.234e-7, "1.23e-07"),
        (3e12, "3.00e+12"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.5, "50 %"),
        (0.0912, "9.1 %"),
        (0.00091, "0.091 %"),
        (0.000001, "<0.01 %"),
        (0.9901, "99.0 %"),
        (0.9996, "99.96 %"),
        (0.9999999, "99.99 %"),
    ],
)
def test_shares(share: float, text: str) -> None:
    assert percent(share) == text


def test_sizes() -> None:
    assert spread([3, 1, 2, 9], str) == "1 to 9, median 2"
    assert spread([4, 4], str) == "4"
    assert [area(m2) for m2 in (900.0, 12345.0, 2.5e6)] == ["900 m2", "1.23 ha", "2.50 km2"]
