"""Label rasters of killed runs are no part of what comes after them, and what a user put beside them stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geocore.errors import DataError
from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from slumps_detectron2 import label_folder, label_rasters
from slumps_detectron2.config import PrepareSettings
from slumps_detectron2.data import load_dataset
from slumps_detectron2.pairs import find_pairs
from slumps_detectron2.prepare import prepare

SHAPE = (48, 64)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five scenes of five regions, each with two classes of objects."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(5):
        grid = Grid(*SHAPE, (10.0, 0.0, 500_000.0 + 10_000 * number, 0.0, -10.0, 7_000_000.0), "EPSG:32652")
        values = np.random.default_rng(number).integers(1, 5000, (2, *SHAPE), np.uint16)
        classes = np.zeros(SHAPE, np.uint8)
        classes[4:16, 4:16], classes[24:40, 24:44] = 1, 2
        write_raster(folder / f"s{number}.tif", values, grid=grid, nodata=0, band_names=["red", "nir"], cog=False)
        write_raster(folder / f"s{number}_label.tif", classes, grid=grid, cog=False)
    return folder


def table(raw: Path, *numbers: int) -> Path:
    path = raw / "pairs.csv"
    path.write_text("image,label\n" + "".join(f"s{n}.tif,s{n}_label.tif\n" for n in numbers))
    return path


def settings(raw: Path, out: Path, **changes: object) -> PrepareSettings:
    given = {"data": raw / "pairs.csv", "out": out, "label_kind": "binary", "cut": {"size": 32, "stride": 16}}
    return PrepareSettings.model_validate(given | changes)


KINDS = {"label_kind": "classes", "class_names": {1: "slump", 2: "gully"}}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed(monkeypatch: pytest.MonkeyPatch, given: PrepareSettings, after: int) -> None:
    """Prepare until so many rasters are written."""
    write, calls = label_rasters._write, []

    def stopped(path: Path, *words: object) -> None:
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(write(path, *words))

    with monkeypatch.context() as patched:
        patched.setattr(label_rasters, "_write", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare(given)


@pytest.mark.parametrize("after", [0, 4, 9])
def test_a_killed_preparation_with_other_settings_and_scenes_leaves_nothing(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    table(raw, 0, 2, 3, 4)
    prepare(settings(raw, tmp_path / "undisturbed"))
    out = tmp_path / "out"
    (out / "labels").mkdir(parents=True)
    # Not ours: one is called as a raster of the first preparation would be, had it a second class.
    (out / "labels/notes.txt").write_text("mine")
    table(raw, 0, 1, 2, 3, 4)
    killed(monkeypatch, settings(raw, out, **KINDS), after)
    (out / "labels/s0_instances_old.tif").write_text("mine")
    table(raw, 0, 2, 3, 4)
    killed(monkeypatch, settings(raw, out), min(after, 3))
    prepare(settings(raw, out))
    found = content(out)
    assert (found.pop("labels/notes.txt"), found.pop("labels/s0_instances_old.tif")) == (b"mine", b"mine")
    assert found == content(tmp_path / "undisturbed")
    assert load_dataset(out).hash == load_dataset(tmp_path / "undisturbed").hash


def test_rasters_of_scenes_that_have_gone_go_with_them(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    table(raw, 0, 1, 2, 3, 4)
    prepare(settings(raw, out))
    (out / "labels/.rasters.json").unlink()  # as of an earlier version: the data set tells what is ours
    (out / "labels/s1_classes.tif").write_text("mine")
    table(raw, 0, 2, 3, 4)
    prepare(settings(raw, out))
    kept = {f"s{number}_instances.tif" for number in (0, 2, 3, 4)}
    assert {path.name for path in (out / "labels").iterdir()} == {*kept, "s1_classes.tif", ".rasters.json"}


def test_a_damaged_note_is_written_anew(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    table(raw, 0, 1, 2, 3, 4)
    prepare(settings(raw, out))
    whole = content(out)
    for harm in (b"", b"{", whole["labels/.rasters.json"].replace(b"s1_", b"../")):
        (out / "labels/.rasters.json").write_bytes(harm)
        prepare(settings(raw, out))
        assert content(out) == whole


def test_what_killed_writers_left_is_removed(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    code = (
        "import os, sys; from geocore.storage.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as part: part.touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "labels/s0_instances.tif"], check=False)
    assert len(list((tmp_path / "labels").iterdir())) == 1
    table(raw, 0)
    label_folder.begin(tmp_path, find_pairs(settings(raw, tmp_path)))
    assert [path.name for path in (tmp_path / "labels").iterdir()] == [".rasters.json"]


@pytest.mark.parametrize("label", ["s1_instances.tif", "s0_classes.tif"])
def test_no_raster_takes_the_place_of_a_label_of_any_scene(raw: Path, label: str) -> None:
    (raw / "labels").mkdir()
    given = raw / "labels" / label
    given.write_bytes((raw / "s0_label.tif").read_bytes())
    (raw / "pairs.csv").write_text(f"image,label\ns1.tif,s1_label.tif\ns0.tif,labels/{label}\n")
    with pytest.raises(DataError, match=f"{label}: would be overwritten by the label raster of .* another --out"):
        prepare(settings(raw, raw))
    assert content(raw / "labels") == {label: (raw / "s0_label.tif").read_bytes()}


def test_two_scenes_whose_rasters_would_share_a_name_are_refused(raw: Path, tmp_path: Path) -> None:
    (raw / "s0_expert_b.tif").write_bytes((raw / "s1.tif").read_bytes())
    (raw / "b_instances.tif").write_bytes((raw / "s0_label.tif").read_bytes())
    (raw / "pairs.csv").write_text("image,label\ns0.tif,s0_label.tif;b_instances.tif\ns0_expert_b.tif,s1_label.tif\n")
    with pytest.raises(
        DataError, match=r"would be the label raster of s0 and of s0_expert_b: rename one of the scenes"
    ):
        label_folder.begin(tmp_path, find_pairs(settings(raw, tmp_path)))
