"""The command itself: what it prints, and one line for bad input."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from floods_prithvi.data import Windows, load_dataset
from floods_prithvi.sample import write_frames_sample, write_sample

COUNTS = {"train": 1, "valid": 1, "test": 1, "bolivia": 2}


def run(*words: object) -> subprocess.CompletedProcess[str]:
    code = "from floods_prithvi.prepare import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("originals") / "chips", size=48, counts=COUNTS)


@pytest.fixture
def raw(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "raw")


def test_flood_chips_are_described_and_told(raw: Path) -> None:
    done = run("--data", raw, "--out", raw.parent / "out")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["chips", "groups", "labelled", "land", "water"]
    assert [line.split()[:3] for line in lines[1:5]] == [
        ["train", "5", "5"],
        ["val", "5", "5"],
        ["test", "5", "5"],
        ["bolivia", "2", "1"],
    ]
    for line in lines[1:5]:
        land, water = (float(word) for word in line.split()[-4::2])
        assert land + water == pytest.approx(100, abs=1)
    assert any(line.startswith("note: ") and "chips have no water" in line for line in lines)
    assert lines[-2:] == [
        f"written to {raw.parent / 'out'}: dataset.yaml, and preview.png: look at it before training",
        f"next: floods-train --data {raw.parent / 'out'}",
    ]
    assert (raw.parent / "out/preview.png").read_bytes()[:4] == b"\x89PNG"
    assert Windows(load_dataset(raw.parent / "out"), "train").shapes == [(48, 48)] * 5


def test_chips_of_several_dates_and_flags(tmp_path: Path) -> None:
    write_frames_sample(tmp_path / "raw", size=48)
    words = ["--data", tmp_path / "raw", "--out", tmp_path / "out", "--format", "frames", "--split.train", "0.5"]
    done = run(*words, "--bands", 1, 2, 3, 4, 5, 6, "--scale", 0.0001, "--nodata", 0)
    assert (done.returncode, done.stderr) == (0, "")
    dataset = load_dataset(tmp_path / "out")
    assert dataset.protocol["file_bands"] == "1, 2, 3, 4, 5, 6"
    assert [line.split() for line in done.stdout.splitlines()[:4]] == [
        ["chips", "groups"],
        ["train", "8", "2"],
        ["val", "4", "1"],
        ["test", "4", "1"],
    ]
    words[3] = tmp_path / "other"
    again = run(*words, "--frames", 2)
    assert again.returncode == 2
    assert "six are needed at 2 dates" in again.stderr


@pytest.mark.parametrize("harm", ["names", "label", "list", "unit", "folder", "split", "flag"])
def test_bad_input_is_one_line_and_exit_code_2(raw: Path, harm: str) -> None:
    words: list[object] = ["--data", raw, "--out", raw.parent / "out"]
    images = sorted(raw.rglob("*_S2Hand.tif"))
    match harm:
        case "names":
            with rasterio.open(images[0], "r+") as file:
                file.descriptions = [""] * 13
            expected = "--bands 2 3 4 9 12 13"
        case "label":
            with rasterio.open(sorted(raw.rglob("*_LabelHand.tif"))[-1], "r+") as file:
                file.write(np.full((1, 48, 48), 9, np.int16))
            expected = "holds 9: labels are 0, 1, and ignored -1"
        case "list":
            next(raw.rglob("flood_test_data.csv")).write_text("")
            expected = "flood_test_data.csv: is empty"
        case "unit":
            words += ["--scale", 1]
            expected = "give --scale"
        case "folder":
            words[1] = raw / "nowhere"
            expected = "no such folder"
        case "split":
            words += ["--split.train", 0.9, "--split.val", 0.2]
            expected = "leaves nothing for test"
        case _:
            words += ["--scal", 1]
            expected = "--scale"
    done = run(*words)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1 and expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (raw.parent / "out" / "dataset.yaml").exists()
