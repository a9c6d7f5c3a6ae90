"""The command itself: what it prints, and one line for bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geocore.errors import DataError
from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from slumps_detectron2.data import load_dataset
from slumps_detectron2.pairs import read_table

SHAPE = (96, 96)


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    code = "from slumps_detectron2.prepare import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)


def _grid(shape: tuple[int, int] = SHAPE, crs: str = "EPSG:32652") -> Grid:
    return Grid(*shape, (10.0, 0.0, 508_920.0, 0.0, -10.0, 7_976_930.0), crs, length_unit="m")


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(1, 9000, (3, *SHAPE), np.uint16)
    mask = np.zeros(SHAPE, np.uint8)
    for row, col in ((4, 4), (4, 40), (40, 40), (70, 8), (70, 70)):
        mask[row : row + 12, col : col + 12] = 255
    write_raster(tmp_path / "scene.tif", values, grid=_grid(), nodata=0, band_names=["red", "green", "nir"], cog=False)
    write_raster(tmp_path / "mask.tif", mask, grid=_grid(), cog=False)
    return tmp_path


_CUT = [
    "--split.by",
    "block",
    "--split.block-px",
    "32",
    "--split.buffer-px",
    "4",
    "--cut.size",
    "32",
    "--cut.stride",
    "8",
]


def test_one_pair_by_short_flags(pair: Path) -> None:
    words = ["-i", pair / "scene.tif", "-l", pair / "mask.tif", "-o", pair / "out", "-b", "nir", "-b", "1", *_CUT]
    done = _run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    dataset = load_dataset(pair / "out")
    assert dataset.layers["image"].bands.names == ("nir", "red")
    lines = done.stdout.splitlines()
    assert lines[-2:] == [
        f"written to {pair / 'out'}: dataset.yaml, labels/ (1 label rasters), and preview.png: look at it before "
        "training",
        f"next: slumps-train --data {pair / 'out'}",
    ]
    count = {split: len(dataset.split(split)) for split in ("train", "val", "test")}
    assert sum(count.values()) == 9
    slumps = {split: sum(s.attributes["slumps"] for s in dataset.split(split)) for split in count}
    assert lines[0].split() == ["areas", "blocks", "slumps", "labelled", "background", "slump"]
    assert [line.split()[:4] for line in lines[1:4]] == [
        [split, str(count[split]), str(count[split]), str(slumps[split])] for split in count
    ]
    assert f"training tiles: {dataset.protocol['training_tiles']}" in lines


def test_notes_are_printed(pair: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:16, 4:16] = 255
    write_raster(pair / "mask.tif", mask, grid=_grid(), cog=False)
    table = pair / "pairs.csv"
    for number in range(3):
        (pair / f"s{number}.tif").write_bytes((pair / "scene.tif").read_bytes())
    table.write_text("image,label\n" + "".join(f"s{number}.tif,mask.tif\n" for number in range(3)))
    words = ["--data", table, "--out", pair / "out", "--cut.size", "32", "--cut.stride", "8"]
    done = _run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "1 groups of regions (s0 and 2 more)" in done.stderr
    assert "s0, s1, s2 show the same pixels: they stay in one split" in done.stderr
    done = _run(*words, "--split.allow-leaks", "true")
    assert done.returncode == 0
    assert "note: leak: identical input" in done.stdout
    assert "note: leak: 1 pair of samples of train and test show the same ground" in done.stdout


@pytest.mark.parametrize("harm", ["crs", "size", "float", "background", "no table", "both", "negative ignore"])
def test_bad_input_is_one_line_and_exit_code_2(pair: Path, harm: str) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:20, 4:20] = 255
    words = ["--image", pair / "scene.tif", "--label", pair / "mask.tif", "--out", pair / "out", *_CUT]
    match harm:
        case "crs":
            write_raster(pair / "mask.tif", mask, grid=_grid(crs="EPSG:3413"), cog=False)
            expected = "its numbers are in EPSG:32652, the scene's CRS, not EPSG:3413"
        case "size":
            write_raster(pair / "mask.tif", mask[:50], grid=_grid((50, 96)), cog=False)
            expected = "--like"
        case "float":
            write_raster(pair / "mask.tif", mask.astype(np.float32) / 2, grid=_grid(), cog=False)
            expected = "holds 127.5"
        case "background":
            write_raster(pair / "mask.tif", mask * 0, grid=_grid(), cog=False)
            expected = "has no slump"
        case "no table":
            words = ["--data", pair / "pairs.csv", "--out", pair / "out"]
            expected = "pairs.csv"
        case "both":
            words += ["--data", pair / "pairs.csv"]
            expected = "either --data CSV, or both"
        case _:
            mask[0] = 7
            write_raster(pair / "mask.tif", mask.astype(np.int16) - 7, grid=_grid(), cog=False)
            words += ["--label-kind", "binary", "--ignore", "-3"]
            expected = "give --ignore -7"
    done = _run(*words)
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1 and expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (pair / "out" / "dataset.yaml").exists()


def test_a_table_names_files_in_its_folder_or_below_a_stated_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "home").mkdir()
    for folder, name in (("given", "scene.tif"), ("given", "mask.tif"), ("home", "mask.tif")):
        (tmp_path / folder / name).touch()
    table = tmp_path / "given" / "pairs.csv"
    table.write_text("image,label\nscene.tif,../given/mask.tif\n")
    assert [pair.name for pair in read_table(table)] == ["scene"]
    for label in ("../home/mask.tif", str(tmp_path / "home" / "mask.tif"), "mask.tif;../home/mask.tif"):
        table.write_text(f"image,label\nscene.tif,{label}\n")
        with pytest.raises(
            DataError, match=rf"pairs.csv: names .*: if you trust it, set GEOCORE_ROOTS={tmp_path}/home"
        ):
            read_table(table)
    monkeypatch.setenv("GEOCORE_ROOTS", str(tmp_path / "home"))
    assert [label.name for label in read_table(table)[0].labels] == ["mask.tif", "mask.tif"]
