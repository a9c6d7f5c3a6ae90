"""The command that makes a data set: what it says, what it leaves behind, and patches that cannot be used."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pytest

from crops_activesampling.config import CompositeSettings, PrepareSettings, SplitSettings
from crops_activesampling.data import load_dataset
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.prepare import main, prepare
from crops_activesampling.s4a_format import PatchName
from geocore.datasets.dataset import Dataset
from geocore.errors import DataError, DiskError, SettingsError
from geocore.raster.npy_store import CachedArray

SIZE = 12
# A patch of each split of the rules `sample`, and the one to train on that touches another.
NAMES = [PatchName(2019, "31TCG", x, 0) for x in (8, 9, 10, 20)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for name in NAMES:
        days = np.array([f"2019-{month:02d}-{day:02d}" for month in (1, 3, 4) for day in (5, 20)], "datetime64[D]")
        values = rng.integers(1, 5000, (6, SIZE, SIZE)).astype(np.uint16)
        labels = rng.choice(np.array([0, 110, 120, 910], np.uint32), (SIZE, SIZE))
        corner = (10.0 * SIZE * name.x, 0.0)
        write_patch(folder, NewPatch(name, corner, "EPSG:32631", {"B02": (values, days)}, labels, labels, {}))
    return folder


def settings(raw: Path, out: Path, **changes: Any) -> PrepareSettings:
    composites = CompositeSettings(bands=["B02"], end="2019-04-30", start="2019-01-01")
    given = {"data": raw, "out": out, "composites": composites, "split": SplitSettings(rules="sample"), "subpatch": 8}
    return PrepareSettings(**(given | changes))


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def inodes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in sorted(folder.glob("medians/*"))}


def test_a_data_set_is_written_and_summed_up(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(settings(raw, tmp_path / "out"))
    said, out = lines(capsys), tmp_path / "out"
    assert said[0].split() == ["patches", "tiles", "parcels", "labelled", "wheat", "maize"]
    assert [line.split()[:4] for line in said[1:4]] == [
        ["train", "2", "1", "4"],
        ["val", "1", "1", "2"],
        ["test", "1", "1", "2"],
    ]
    assert said[-4:] == [
        "note: period 2 has no image with data in 4 of 4 patches",
        "warning: 1 pairs of patches of train and val touch, such as 2019_31TCG_patch_09_00 and 2019_31TCG_patch_10_00",
        f"written to {out}: dataset.yaml, medians/ (composites of 4 patches), and preview.png: look at it before "
        "training",
        f"next: crops-train --data {out}",
    ]
    assert (out / "preview.png").read_bytes()[:4] == b"\x89PNG"
    dataset = load_dataset(tmp_path / "out")
    assert [sample.split for sample in dataset.samples] == ["train", "train", "val", "test"]
    assert dataset.statistics is not None


def test_the_result_does_not_depend_on_the_number_of_workers(raw: Path, tmp_path: Path) -> None:
    prepare(settings(raw, tmp_path / "one"))
    prepare(settings(raw, tmp_path / "two", workers=2))
    assert Dataset.load(tmp_path / "one").hash == Dataset.load(tmp_path / "two").hash


def test_the_same_command_goes_on_where_it_was_stopped(raw: Path, tmp_path: Path) -> None:
    given = settings(raw, tmp_path)
    prepare(given)
    first = tmp_path / "medians" / NAMES[0].id
    shutil.rmtree(first)
    before = inodes(tmp_path)
    prepare(given)
    after = inodes(tmp_path)
    assert {path: after[path] for path in before} == before
    assert (first / "medians.npy").is_file()


def content(folder: Path) -> dict[str, bytes]:
    """All files but locks and the markers of tasks, which hold times."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(at): path.read_bytes() for at, path in files.items() if path.name != ".lock" and ".done" not in at.parts
    }


def stopped_at(monkeypatch: pytest.MonkeyPatch, entry: int, error: BaseException) -> None:
    """Have the writing of the arrays of an entry fail, entries being counted from 0."""
    write, begun = CachedArray.write, []

    def failing(array: CachedArray, values: Any) -> None:
        begun.append(array)
        if len(begun) > entry * 4:  # medians, counts, parcels, labels
            raise error
        write(array, values)

    monkeypatch.setattr(CachedArray, "write", failing)


@pytest.mark.parametrize("entry", [0, 2, 3])
def test_a_full_disk_ends_in_no_smaller_data_set_and_the_same_command_goes_on(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entry: int
) -> None:
    prepare(settings(raw, tmp_path / "undisturbed"))
    capsys.readouterr()
    given = settings(raw, tmp_path / "out")
    with monkeypatch.context() as patched:
        stopped_at(patched, entry, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(DiskError, match="no space left"):
            prepare(given)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out/dataset.yaml").exists()
    assert len(list((tmp_path / "out/medians").glob("2*"))) == entry
    prepare(given)
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "other", [{"encoder": "with-grassland"}, {"composites": CompositeSettings(bands=["B02"], fill="linear")}]
)
@pytest.mark.parametrize("entry", [1, 9])
def test_nothing_of_a_stopped_preparation_with_other_settings_is_taken(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], entry: int
) -> None:
    prepare(settings(raw, tmp_path / "undisturbed"))
    with monkeypatch.context() as patched:
        stopped_at(patched, entry, KeyboardInterrupt())
        patched.setattr("geocore.datasets.dataset.save_prepared", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings(raw, tmp_path / "out", **other))
    prepare(settings(raw, tmp_path / "out"))
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_another_split_leaves_the_cache_alone(raw: Path, tmp_path: Path) -> None:
    prepare(settings(raw, tmp_path))
    before, first = inodes(tmp_path), load_dataset(tmp_path).hash
    (tmp_path / "dataset.yaml").unlink()
    prepare(settings(raw, tmp_path, split=SplitSettings(rules="sample", swap=True), edge="drop"))
    assert inodes(tmp_path) == before
    dataset = load_dataset(tmp_path)
    assert [sample.split for sample in dataset.samples] == ["val", "val", "train", "test"]
    assert dataset.hash != first


def test_limit_takes_the_first_patches_without_moving_any(raw: Path, tmp_path: Path) -> None:
    naive = SplitSettings(rules="s4a-naive", seed=1)
    prepare(settings(raw, tmp_path / "all", split=naive))
    prepare(settings(raw, tmp_path / "few", split=naive, limit=2))
    splits = [{sample.id: sample.split for sample in load_dataset(tmp_path / name).samples} for name in ("all", "few")]
    assert list(splits[1]) == [name.id for name in NAMES[:2]]
    assert splits[1].items() <= splits[0].items()


def test_patches_that_cannot_be_used_are_listed_after_the_others_are_done(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(raw, tmp_path / "raw"))
    truncated, unlabelled = own / NAMES[0].relative, own / NAMES[2].relative
    truncated.write_bytes(truncated.read_bytes()[:3000])
    with h5netcdf.File(unlabelled, "a") as file:
        del file._h5group["labels"]
    given = settings(own, tmp_path / "out")
    with pytest.raises(DataError, match=r"2 of 4 patches cannot be used and are not in .*dataset.yaml: the lines"):
        prepare(given)
    failed = [line for line in lines(capsys) if line.startswith("failed: ")]
    assert len(failed) == 2
    assert sum(NAMES[0].id in line for line in failed) == 1
    assert sum(f"{NAMES[2].id}.nc: no labels" in line for line in failed) == 1
    assert [sample.id for sample in load_dataset(tmp_path / "out").samples] == [NAMES[1].id, NAMES[3].id]
    # Mended, they come in where they belong.
    for name in (NAMES[0], NAMES[2]):
        shutil.copy(raw / name.relative, own / name.relative)
    prepare(given)
    assert load_dataset(tmp_path / "out").hash == _hash(raw, tmp_path / "whole")


def _hash(raw: Path, out: Path) -> str:
    prepare(settings(raw, out))
    return load_dataset(out).hash


def test_nothing_is_left_when_no_patch_can_be_used(raw: Path, tmp_path: Path) -> None:
    composites = CompositeSettings(bands=["B02", "B8A"])
    with pytest.raises(DataError, match="no patch could be read"):
        prepare(settings(raw, tmp_path, composites=composites))
    assert not (tmp_path / "dataset.yaml").exists()


def test_what_would_fail_every_patch_is_said_before_any(raw: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"encoder": "s4a"}, "packaged are"),
        ({"split": SplitSettings(rules="s4a")}, "packaged are"),
        ({"composites": CompositeSettings(bands=["B2"])}, "give bands of Sentinel-2"),
        ({"composites": CompositeSettings(frequency="1XY")}, "give a pandas frequency"),
    ):
        with pytest.raises(SettingsError, match=message):
            prepare(settings(raw, tmp_path / "out", **changes))
    assert not (tmp_path / "out" / "medians").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split.rules", "rules.yaml"], "rules[0]: unknown key patchx"),
        (["--split.rules", "shares.yaml"], "rules[0].target: shares add up to 1.2"),
        (["--lists", "lists"], "test.txt: 1 of its 1 patches are not there: 2019_31TCG_patch_29_29"),
        (["--composites.bands", "B02", "B11"], "no patch could be read"),
    ],
)
def test_the_command_line_ends_with_a_line_and_code_2(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.yaml").write_text("rules: [{patchx: 3, target: train}]")
    Path("shares.yaml").write_text("rules: [{target: [{target: val, split: 0.6}, {target: test, split: 0.6}]}]")
    Path("lists").mkdir()
    Path("lists/test.txt").write_text("2019_31TCG_patch_29_29")
    flags = ["--data", str(raw), "--out", "out", "--composites.bands", "B02", "--split.rules", "sample"]
    for index in range(0, len(flags), 2):
        if flags[index] not in words:
            words = [*words, *flags[index : index + 2]]
    monkeypatch.setattr("sys.argv", ["crops-prepare", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error


def test_fractions_come_from_the_command_line(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data", str(raw), "--out", str(tmp_path), "--composites.bands", "B02", "--subpatch", "8"]
    words += ["--split.rules", "sample", "--split.fractions", "train", "0.5"]
    monkeypatch.setattr("sys.argv", ["crops-prepare", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert [sample.split for sample in load_dataset(tmp_path).samples] == ["train", "val", "test"]
