"""The command that fills a data set: what it says, what it leaves behind, and scenes that cannot be used."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import h5netcdf
import pytest

from geocore.datasets.dataset import Dataset
from geocore.errors import DataError, DiskError, SettingsError
from geocore.raster.npy_store import CachedArray
from seaice_multitask.config import PrepareSettings, SplitSettings, WorkingSettings
from seaice_multitask.data import load_dataset, scene_id
from seaice_multitask.prepare import prepare
from seaice_multitask.sample import write_raw_sample, write_sample
from seaice_multitask.sample.file_format import text_variable

SHAPE = (110, 130)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "scenes"
    write_sample(path, scenes=7, shape=SHAPE, seed=3)
    return path


def _settings(folder: Path, out: Path, **changes: object) -> PrepareSettings:
    return PrepareSettings(
        **{"data": folder, "out": out, "working": WorkingSettings(downscale=5), "patch": 16} | changes
    )


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_data_set_is_written_and_summed_up(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(_settings(folder, tmp_path / "out"))
    said, out = _lines(capsys), tmp_path / "out"
    assert [line.split() for line in said[:4]] == [
        ["scenes", "days"],
        ["train", "5", "5"],
        ["val", "1", "1"],
        ["test", "1", "1"],
    ]
    assert said[-2:] == [
        f"written to {out}: dataset.yaml, cache/ (planes and charts of 7 scenes), and preview.png: look at it before "
        "training",
        f"next: seaice-train --data {out}",
    ]
    assert (out / "preview.png").read_bytes()[:4] == b"\x89PNG"
    assert len(load_dataset(tmp_path / "out").samples) == 7


def test_the_result_does_not_depend_on_the_number_of_workers(folder: Path, tmp_path: Path) -> None:
    prepare(_settings(folder, tmp_path / "one"))
    prepare(_settings(folder, tmp_path / "two", workers=2))
    assert Dataset.load(tmp_path / "one").hash == Dataset.load(tmp_path / "two").hash


def test_the_same_command_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path) -> None:
    settings = _settings(folder, tmp_path / "out")
    prepare(settings)
    entries = sorted((tmp_path / "out" / "cache").glob("2*"))
    shutil.rmtree(entries[0])
    before = {path: path.stat().st_ino for path in entries[1:]}
    prepare(settings)
    assert {path: path.stat().st_ino for path in entries[1:]} == before
    assert (entries[0] / "planes.npy").is_file()


def _content(folder: Path) -> dict[str, bytes]:
    """All files but locks and the markers of tasks, which hold times."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(at): path.read_bytes() for at, path in files.items() if path.name != ".lock" and ".done" not in at.parts
    }


def _stopped_at(monkeypatch: pytest.MonkeyPatch, entry: int, error: BaseException) -> None:
    """Have the writing of the arrays of an entry fail, entries being counted from 0."""
    write, begun = CachedArray.write, []

    def failing(array: CachedArray, values: Any) -> None:
        begun.append(array)
        if len(begun) > entry * 4:  # planes and three charts
            raise error
        write(array, values)

    monkeypatch.setattr(CachedArray, "write", failing)


@pytest.mark.parametrize("entry", [0, 6])
def test_a_full_disk_ends_in_no_smaller_data_set_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entry: int
) -> None:
    prepare(_settings(folder, tmp_path / "undisturbed"))
    capsys.readouterr()
    settings = _settings(folder, tmp_path / "out")
    with monkeypatch.context() as patched:
        _stopped_at(patched, entry, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(DiskError, match="no space left"):
            prepare(settings)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out/dataset.yaml").exists()
    assert len(list((tmp_path / "out/cache").glob("2*"))) == entry
    prepare(settings)
    assert _content(tmp_path / "out") == _content(tmp_path / "undisturbed")


@pytest.mark.parametrize("entry", [4, 9])
def test_nothing_of_a_stopped_preparation_with_other_settings_is_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: int
) -> None:
    prepare(_settings(folder, tmp_path / "undisturbed"))
    nearest = WorkingSettings(downscale=5, sar_reduction="nearest", chart_reduction="nearest")
    with monkeypatch.context() as patched:
        _stopped_at(patched, entry, KeyboardInterrupt())
        patched.setattr("geocore.datasets.dataset.save_prepared", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(_settings(folder, tmp_path / "out", working=nearest))
    prepare(_settings(folder, tmp_path / "out"))
    assert _content(tmp_path / "out") == _content(tmp_path / "undisturbed")


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def _without(path: Path, name: str) -> None:
    with h5netcdf.File(path, "a") as file:
        del file._h5group[name]


def test_scenes_that_cannot_be_used_are_listed_after_the_others_are_done(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = tmp_path / "scenes"
    shutil.copytree(folder, scenes)
    files = sorted(scenes.iterdir())
    truncated, missing, polygons = files[0], files[3], files[5]
    truncated.write_bytes(truncated.read_bytes()[:20000])
    _without(missing, "t2m")
    with h5netcdf.File(scenes / "foreign file.nc", "w") as file:
        file.dimensions = {"time": 3}
        file.create_variable("temperature", ("time",), "f4")
    # The raw form of another scene, one of whose polygons has a code that does not exist.
    write_raw_sample(tmp_path / "raw", scenes=7, shape=SHAPE, seed=3)
    raw = next(path for path in (tmp_path / "raw").iterdir() if scene_id(path) == scene_id(polygons))
    polygons.unlink()
    shutil.copy(raw, scenes)
    with h5netcdf.File(scenes / raw.name, "a") as file:
        records = [record.decode() for record in file.variables["polygon_codes"][...]]
        fields = records[1].split(";")
        records[1] = ";".join([*fields[:3], "12", *fields[4:]])
        file.variables["polygon_codes"][...] = text_variable(records, {}, "polygon_codes")[1]

    with pytest.raises(DataError, match="4 of 8 scenes cannot be used") as error:
        prepare(_settings(scenes, tmp_path / "out"))
    assert "\n" not in str(error.value)
    lines = _lines(capsys)
    failed = [line for line in lines if line.startswith("failed: ")]
    assert len(failed) == 4
    for path, reason in (
        (truncated, "the file is incomplete"),
        (missing, "lacks t2m"),
        (scenes / raw.name, "SA = 12 is no code"),
        (scenes / "foreign file.nc", "is no AI4Arctic scene"),
    ):
        assert sum(str(path) in line and reason in line for line in failed) == 1, lines
    done = {sample.id for sample in load_dataset(tmp_path / "out").samples}
    assert done == {scene_id(path) for path in files} - {scene_id(path) for path in (truncated, missing, polygons)}
    # A scene that is mended later moves no other to another split.
    splits = {sample.id: sample.split for sample in load_dataset(tmp_path / "out").samples}
    for path in (truncated, missing, polygons):
        shutil.copy(folder / path.name, scenes)
    with pytest.raises(DataError, match="1 of 8 scenes cannot be used"):
        prepare(_settings(scenes, tmp_path / "out"))
    mended = {sample.id: sample.split for sample in load_dataset(tmp_path / "out").samples}
    assert len(mended) == 7
    assert {name: mended[name] for name in splits} == splits


def test_notes_and_leaks_are_printed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = tmp_path / "scenes"
    shutil.copytree(folder, scenes)
    first, second = sorted(scenes.iterdir())[:2]
    # Two frames of one day and service, which lists put into two splits.
    twin = second.with_name(f"{first.name[:9]}235959{first.name[15:]}")
    second.rename(twin)
    names = [path.name for path in sorted(scenes.iterdir())]
    (tmp_path / "train.json").write_text(
        json.dumps([*(name for name in names if name != twin.name), "20150101T000000_cis"])
    )
    (tmp_path / "test.json").write_text(json.dumps([twin.name]))
    prepare(_settings(scenes, tmp_path / "out", train_list=tmp_path / "train.json", test_list=tmp_path / "test.json"))
    lines = _lines(capsys)
    assert lines[-4].startswith("note: leak: group ") and first.name[:8] in lines[-4]
    assert lines[-3] == "note: 1 scenes of train_list are not there: 20150101T000000_cis"
    # Told once, not refused for ever.
    assert load_dataset(tmp_path / "out").leaks()


def test_a_copy_under_another_name_is_refused_in_another_split(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = tmp_path / "scenes"
    shutil.copytree(folder, scenes)
    first = sorted(scenes.iterdir())[0]
    copy = first.with_name(f"20300101{first.name[8:]}")
    shutil.copyfile(first, copy)
    (tmp_path / "test.json").write_text(json.dumps([copy.name]))
    with pytest.raises(DataError, match="show the same pixels: .*2030.*--split.allow-leaks true"):
        prepare(_settings(scenes, tmp_path / "out", test_list=tmp_path / "test.json"))
    capsys.readouterr()
    split = SplitSettings(allow_leaks=True)
    prepare(_settings(scenes, tmp_path / "out", test_list=tmp_path / "test.json", split=split))
    assert any(line.startswith("note: leak: 1 pair of samples") for line in _lines(capsys))


def test_an_unknown_channel_is_refused_before_any_scene_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="channel 'hh' is unknown"):
        prepare(_settings(folder, tmp_path / "out", channels=["hh"]))
    assert not (tmp_path / "out").exists()


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for day in range(3):
        (scenes / f"2020010{day + 1}T000000_dmi_prep.nc").write_bytes(b"no netCDF")
    with pytest.raises(DataError, match="no scene could be read"):
        prepare(_settings(scenes, tmp_path / "out"))
