"""Which scenes a data set holds, how they are divided, and what training and scoring read of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5netcdf
import numpy as np
import pytest

from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.errors import DataError, SceneError
from geocore.raster.grid import Window
from geocore.storage.files import read_sealed, write_sealed
from geocore.tiling.samplers import PatchIndex
from seaice_multitask import caching, data
from seaice_multitask.charts import CLASS_NAMES, MASKED
from seaice_multitask.config import PrepareSettings, WorkingSettings
from seaice_multitask.data import (
    PLANES,
    Scenes,
    Windows,
    cache_scenes,
    describe,
    find_scenes,
    load_dataset,
    open_scene,
    read_charts,
    reduce_chart,
    scene_id,
    scene_time,
    working_scene,
)
from seaice_multitask.names import read_list, scene_group
from seaice_multitask.sample import write_raw_sample, write_sample

READY = "20180124T194759_dmi_prep.nc"
RAW = "S1A_EW_GRDM_1SDH_20180124T194759_20180124T194859_020301_022AA4_1F75_icechart_dmi_201801241950_SouthEast_RIC.nc"
RAW_CIS = (
    "S1A_EW_GRDM_1SDH_20190430T101830_20190430T101930_027018_030AD3_9C47_icechart_cis_SGRDIEA_20190430T1020Z_pl_a.nc"
)
SHAPE = (110, 130)
WORKING = WorkingSettings(downscale=5)
CHARTS = tuple(CLASS_NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six ready-to-train scenes with charts, one more without, and its reference."""
    path = tmp_path_factory.mktemp("data") / "scenes"
    write_sample(path, scenes=6, test_scenes=1, shape=SHAPE, seed=3)
    return path


def _settings(folder: Path, out: Path, **changes: object) -> PrepareSettings:
    return PrepareSettings(**{"data": folder, "out": out, "working": WORKING, "patch": 16} | changes)


@pytest.fixture(scope="module")
def dataset(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("dataset")
    describe(_settings(folder, out)).save()
    return load_dataset(out)


def _empty(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


# --- names ---


@pytest.mark.parametrize("name", [READY, RAW, RAW.replace(".nc", "_testdata.nc"), "20180124T194759_dmi"])
def test_both_forms_of_a_name_are_one_scene(name: str) -> None:
    assert scene_id(Path("anywhere") / name) == "20180124T194759_dmi"
    assert scene_time(name).isoformat() == "2018-01-24T19:47:59"
    assert scene_group(name) == "20180124_dmi"
    assert scene_id(RAW_CIS) == "20190430T101830_cis"


def test_other_names_have_an_id_but_no_time() -> None:
    assert scene_id("my scene (1).nc") == "my_scene__1_"
    for name in ("my scene.nc", "20181324T194759_dmi_prep.nc"):
        with pytest.raises(SceneError, match="its name has no time"):
            scene_time(name)


def test_scenes_are_found_in_folders_and_files_without_references(tmp_path: Path) -> None:
    reference = READY.replace(".nc", "_reference.nc")
    folder = _empty(tmp_path / "a", READY, reference, RAW_CIS, "notes.txt", "other.nc", ".hidden.nc")
    found = [path.name for path in find_scenes([folder])]
    # Whether a file is a scene shows on opening it: the name alone must not stop the others.
    assert found == [READY, RAW_CIS, "other.nc"]
    assert find_scenes([folder / RAW_CIS, folder / RAW_CIS]) == [folder / RAW_CIS]


def test_of_two_forms_of_a_scene_the_ready_one_is_taken(tmp_path: Path) -> None:
    folder = _empty(tmp_path / "a", READY, RAW)
    assert find_scenes([folder]) == [folder / READY]
    assert find_scenes([folder / RAW, folder / READY]) == [folder / READY]
    other = _empty(tmp_path / "b", READY)
    with pytest.raises(DataError, match="are of one scene"):
        find_scenes([folder, other])


def test_paths_without_scenes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not found"):
        find_scenes([tmp_path / "none"])
    with pytest.raises(DataError, match="no scene"):
        find_scenes([_empty(tmp_path / "a", "notes.txt")])


@pytest.mark.parametrize(
    "text, rule",
    [
        ("[", "must be a JSON list"),
        ("{}", "at least one"),
        ("[]", "at least one"),
        ('["x.nc"]', "no name"),
        ("[1]", "no name"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path: Path, text: str, rule: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(DataError, match=rule):
        read_list(tmp_path / "list.json")


# --- splits ---


def _list(path: Path, *names: str) -> Path:
    path.write_text(json.dumps(names))
    return path


def _split(names: list[str], tmp_path: Path, **changes: object) -> tuple[dict[str, str], list[str]]:
    paths = [Path(f"{name}_prep.nc") for name in names]
    return data.assign_splits(paths, _settings(tmp_path, tmp_path, **changes))


def _names(days: int, frames: int = 1) -> list[str]:
    return [
        f"202001{day + 1:02d}T12{frame:02d}00_{service}"
        for day in range(days)
        for frame in range(frames)
        for service in ("dmi", "cis")
    ]


def test_frames_of_one_day_and_service_stay_together(tmp_path: Path) -> None:
    names = _names(10, frames=3)
    splits, _ = _split(names, tmp_path)
    assert {splits[name] for name in names} == {"train", "val", "test"}
    groups = {(name[:8], name[-3:], splits[name]) for name in names}
    assert len(groups) == 20
    assert splits == _split(names[::-1], tmp_path)[0]


def test_lists_of_the_challenge_say_what_a_scene_is_for(tmp_path: Path) -> None:
    names = [*_names(9), "20180124T194759_dmi", "20190430T101830_cis"]
    train = _list(
        tmp_path / "dataset.json", RAW_CIS, *(f"{name}_prep.nc" for name in names[:12]), "20150101T000000_cis"
    )
    test = _list(tmp_path / "testset.json", RAW)
    splits, notes = _split(names, tmp_path, train_list=train, test_list=test)
    assert [name for name in names if splits.get(name) == "test"] == ["20180124T194759_dmi"]
    assert {splits[name] for name in [*names[:12], "20190430T101830_cis"]} == {"train", "val"}
    assert set(names[12:18]).isdisjoint(splits)
    assert notes[0] == "1 scenes of train_list are not there: 20150101T000000_cis"
    assert notes[1].startswith("6 scenes are on no list and left out: 20200107T120000_dmi")


def test_a_list_to_validate_on_leaves_the_rest_to_train_on(tmp_path: Path) -> None:
    names = _names(4)
    train, val = _list(tmp_path / "t.json", *names[:6]), _list(tmp_path / "v.json", *names[4:6])
    splits, _ = _split(names, tmp_path, train_list=train, val_list=val)
    assert splits == dict.fromkeys(names[:4], "train") | dict.fromkeys(names[4:6], "val")
    splits, _ = _split(names, tmp_path, val_list=val)
    assert [splits[name] for name in names[4:6]] == ["val", "val"]
    assert {splits[name] for name in names if name not in names[4:6]} == {"train", "test"}


def test_lists_that_contradict_or_fit_nothing_are_refused(tmp_path: Path) -> None:
    names = _names(4)
    first, second = _list(tmp_path / "a.json", *names[:4]), _list(tmp_path / "b.json", *names[3:])
    with pytest.raises(DataError, match=f"{names[3]}: on train_list and on test_list"):
        _split(names, tmp_path, train_list=first, test_list=second)
    with pytest.raises(DataError, match="test_list: none of its 1 scenes"):
        _split(names, tmp_path, test_list=_list(tmp_path / "c.json", RAW))


# --- the data set ---


def test_a_sample_says_what_it_holds_and_where_from(dataset: Dataset, folder: Path) -> None:
    assert len(dataset.samples) == 7
    assert {sample.split for sample in dataset.samples} == {"train", "val", "test"}
    assert dataset.leaks() == []
    assert dataset.protocol["downscale"] == 5
    assert dataset.protocol["channels"].split()[:2] == ["nersc_sar_primary", "nersc_sar_secondary"]
    assert dataset.layers[PLANES].bands.vector_pairs == (("u10m_rotated", "v10m_rotated"),)
    assert {name: label.ignore for name, label in dataset.labels.items()} == dict.fromkeys(CHARTS, MASKED)
    without = [sample for sample in dataset.samples if sample.labels["SIC"].endswith("_reference.nc")]
    assert len(without) == 1
    for sample in dataset.samples:
        assert (sample.attributes["lines"], sample.attributes["samples"]) == SHAPE
        # Planes and charts of the cache, the file of the charts, and where that is another one, the scene.
        assert len(sample.hashes) == (6 if sample in without else 5)
        assert dataset.path(sample.labels["SOD"]).parent.resolve() == folder.resolve()


def test_the_cache_holds_what_the_files_give(dataset: Dataset) -> None:
    sample = dataset.samples[0]
    source = dataset.path(sample.labels["SIC"])
    names = dataset.layers[PLANES].bands.names
    with working_scene(open_scene(source, names), names, WORKING) as scene:
        expected = scene.read_layers(scene.grid.whole)[PLANES].values
    planes = dataset.path(sample.inputs[PLANES])
    np.testing.assert_array_equal(np.load(planes), expected)
    for name, chart in read_charts(source).items():
        cached = np.load(planes.with_name(f"{name}.npy"))
        np.testing.assert_array_equal(cached, reduce_chart(chart, WORKING))
        assert sample.attributes[f"{name}_px"] == np.count_nonzero(cached != MASKED)


def test_the_cache_holds_no_pickles(dataset: Dataset) -> None:
    """Defect D17: unpickling runs code."""
    entry = dataset.path(dataset.samples[0].inputs[PLANES]).parent
    assert sorted(path.name for path in entry.iterdir()) == [
        "FLOE.npy",
        "SIC.npy",
        "SOD.npy",
        "entry.json",
        "planes.npy",
    ]
    for path in entry.glob("*.npy"):
        assert not np.load(path, allow_pickle=False).dtype.hasobject


def test_raw_scenes_give_the_same_data_set(folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    write_raw_sample(tmp_path / "raw", scenes=3, shape=SHAPE, seed=3)
    made = describe(_settings(tmp_path / "raw", tmp_path / "out"))
    ready = {sample.id: sample for sample in dataset.samples}
    for sample in made.samples:
        other = ready[sample.id]
        for name in CHARTS:
            assert sample.attributes[f"{name}_px"] == other.attributes[f"{name}_px"]
        planes = np.load(made.path(sample.inputs[PLANES]))
        # The 2 km grid's gaps have a mask in raw files alone.
        gap = np.isnan(planes)
        differences = np.abs(np.where(gap, 0, planes - np.load(dataset.path(other.inputs[PLANES]))))
        # One rounding of float32 at values up to 8.
        assert differences[:-2].max() < 1e-6
        # Raw files have control points to a 40 m pixel, ready-to-train files shared out evenly: 20 m are 3e-5.
        assert differences[-2:].max() < 1e-4


def test_its_hash_is_of_contents_not_of_places(folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "scenes"
    shutil.copytree(folder, copy)
    assert describe(_settings(copy, tmp_path / "out")).hash == dataset.hash
    assert describe(_settings(copy, tmp_path / "out", working=WorkingSettings(downscale=4))).hash != dataset.hash


def test_preparing_again_takes_what_is_there(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.nc"):
        shutil.copy(path, tmp_path)
    settings = _settings(tmp_path, tmp_path / "out")
    found = find_scenes([tmp_path])
    assert {outcome.status for outcome in cache_scenes(settings, found)} == {"done"}
    assert {outcome.status for outcome in cache_scenes(settings, found)} == {"skipped"}
    # Changed files and other settings are made anew.
    os.utime(found[2], ns=(1, 1))
    assert [outcome.status for outcome in cache_scenes(settings, found)].count("done") == 1
    other = _settings(tmp_path, tmp_path / "out", channels=["nersc_sar_primary", "month"])
    assert {outcome.status for outcome in cache_scenes(other, found)} == {"done"}


def test_a_scene_that_becomes_another_while_it_is_read_is_read_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in folder.glob("*.nc"):
        shutil.copy(file, tmp_path)
    path = find_scenes([tmp_path])[0]
    read = caching.read_charts

    def read_and_replace(labelled: Path) -> object:
        os.utime(path, ns=(1, 1))
        return read(labelled)

    monkeypatch.setattr(caching, "read_charts", read_and_replace)
    (outcome,) = cache_scenes(_settings(tmp_path, tmp_path / "out"), [path])
    assert outcome.status == "failed" and "became another file while it was read" in outcome.message
    monkeypatch.undo()
    (outcome,) = cache_scenes(_settings(tmp_path, tmp_path / "out"), [path])
    assert outcome.status == "done"


def test_references_come_from_their_folder(folder: Path, tmp_path: Path) -> None:
    scenes, references = tmp_path / "scenes", tmp_path / "references"
    shutil.copytree(folder, scenes)
    references.mkdir()
    reference = next(scenes.glob("*_reference.nc"))
    reference.rename(references / reference.name)
    found = [path for path in find_scenes([scenes]) if reference.name.startswith(scene_id(path))]
    outcome = cache_scenes(_settings(scenes, tmp_path / "out"), found)[0]
    assert outcome.status == "failed"
    assert "--references" in outcome.message
    assert cache_scenes(_settings(scenes, tmp_path / "out", references=references), found)[0].status == "done"


def test_a_chart_of_another_size_fails_its_scene(folder: Path, tmp_path: Path) -> None:
    found = [path for path in find_scenes([folder]) if path.with_name(f"{path.stem}_reference.nc").exists()]
    other = tmp_path / f"{found[0].stem}_reference.nc"
    with h5netcdf.File(other, "w") as file:
        file.dimensions = {"a": 110, "b": 131}
        for name in CHARTS:
            file.create_variable(name, ("a", "b"), data=np.zeros((110, 131), np.uint8))
    outcome = cache_scenes(_settings(folder, tmp_path / "out", references=tmp_path), found)[0]
    assert "110 x 131 pixels, but the scene has 110 x 130" in outcome.message


def _changed(dataset: Dataset, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """A copy of a data set with its scenes, in which a sample's source and entry are changed."""
    root = tmp_path / "dataset"
    shutil.copytree(dataset.root, root)
    sources = dataset.path(dataset.samples[0].labels["SIC"]).parent
    shutil.copytree(sources, tmp_path / "scenes")
    text = (root / "dataset.yaml").read_text()
    relative = os.path.relpath(sources.resolve(), dataset.root.resolve())
    (root / "dataset.yaml").write_text(text.partition("\n")[2].replace(relative, "../scenes"))
    load_dataset(root)
    change(root)
    return root


@pytest.mark.parametrize(
    "change, rule",
    [
        (lambda root: next(root.glob("cache/*/planes.npy")).unlink(), "planes.npy: is missing"),
        (lambda root: next(root.glob("cache/*/entry.json")).unlink(), "not in the cache"),
        (lambda root: sorted(root.glob("../scenes/*_prep.nc"))[0].write_bytes(b"x"), "has changed since"),
        (lambda root: sorted(root.glob("../scenes/*_prep.nc"))[0].unlink(), "is missing"),
    ],
)
def test_files_that_are_gone_or_changed_are_noticed(dataset: Dataset, tmp_path: Path, change, rule: str) -> None:
    root = _changed(dataset, tmp_path, change)
    with pytest.raises(DataError, match=rule) as error:
        load_dataset(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [PLANES, "SIC", "FLOE"])
def test_a_changed_byte_of_the_cache_never_trains_and_is_made_again(folder: Path, tmp_path: Path, name: str) -> None:
    given = _settings(folder, tmp_path)
    describe(given).save()
    sample = load_dataset(tmp_path).split("train")[0]
    path = tmp_path / "cache" / sample.id / f"{name}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(DataError, match=rf"{name}.npy: is not what was written; .*: prepare the data again"):
        Windows(load_dataset(tmp_path), "train", CHARTS).read(PatchIndex(0, Window(0, 0, 16, 16), epoch=0, index=0))
    again = cache_scenes(given, find_scenes([folder]))
    assert {outcome.key: outcome.status for outcome in again} == {
        outcome.key: "done" if outcome.key == sample.id else "skipped" for outcome in again
    }
    assert path.read_bytes() == whole
    Windows(load_dataset(tmp_path), "train", CHARTS).read(PatchIndex(0, Window(0, 0, 16, 16), epoch=0, index=0))


def test_charts_that_are_not_those_of_the_preparation_are_not_scored(dataset: Dataset, tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for path in (root.parent / "scenes").glob("*.nc"):
            times = path.stat()
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    moved = load_dataset(_changed(dataset, tmp_path, change))
    rule = r"\.nc: is not what the data set was prepared with: get the scene again, or prepare .* in another folder"
    with pytest.raises(DataError, match=rule):
        Scenes(moved, "val", CHARTS).charts(0)
    assert set(Scenes(dataset, "val", CHARTS).charts(0)) == set(CHARTS)


def test_an_entry_made_with_other_settings_is_noticed(dataset: Dataset, tmp_path: Path) -> None:
    def change(root: Path) -> None:
        path = next(root.glob("cache/*/entry.json"))
        content = read_sealed(path)
        write_sealed(path, content | {"fingerprint": "other"})

    with pytest.raises(DataError, match="made from other data or settings"):
        load_dataset(_changed(dataset, tmp_path, change))


def test_a_data_set_of_another_task_is_refused(tmp_path: Path) -> None:
    Dataset(root=tmp_path, task="snowpack", samples=[], layers={PLANES: data.planes_layer(["month"])}).save()
    with pytest.raises(DataError, match="data set of 'snowpack'"):
        load_dataset(tmp_path)


# --- windows and scenes ---


def test_a_window_is_cut_from_the_cache(dataset: Dataset) -> None:
    windows = Windows(dataset, "train", ("SIC", "FLOE"))
    assert windows.shapes == [(22, 26)] * len(dataset.split("train"))
    item = windows.read(PatchIndex(1, Window(3, 4, 16, 16), epoch=2, index=7))
    planes = dataset.path(windows.samples[1].inputs[PLANES])
    values = item["inputs"][PLANES]["values"]
    np.testing.assert_array_equal(values, np.load(planes)[:, 3:19, 4:20])
    np.testing.assert_array_equal(item["inputs"][PLANES]["valid"], np.isfinite(values))
    assert item["inputs"][PLANES]["valid"].shape == (16, 16, 16)
    assert list(item["targets"]) == ["SIC", "FLOE"]
    np.testing.assert_array_equal(item["targets"]["FLOE"], np.load(planes.with_name("FLOE.npy"))[3:19, 4:20])
    assert item["keys"].tolist() == [2, 7]
    # Augmentations write into what they get.
    values[:] = 0


def test_beyond_a_scene_nothing_is_valid_and_nothing_is_charted(dataset: Dataset) -> None:
    windows = Windows(dataset, "train", CHARTS)
    item = windows.read(PatchIndex(0, Window(-4, 20, 32, 16), epoch=0, index=0))
    inside = windows.read(PatchIndex(0, Window(0, 20, 22, 6), epoch=0, index=0))
    valid, values = item["inputs"][PLANES]["valid"], item["inputs"][PLANES]["values"]
    np.testing.assert_array_equal(values[:, 4:26, :6], inside["inputs"][PLANES]["values"])
    assert valid[:, 4:26, :6].any()
    for outside in (np.s_[:, :4], np.s_[:, 26:], np.s_[:, :, 6:]):
        assert not valid[outside].any()
        assert np.isnan(values[outside]).all()
    assert (item["targets"]["SIC"][26:] == MASKED).all()
    np.testing.assert_array_equal(item["targets"]["SIC"][4:26, :6], inside["targets"]["SIC"])


def test_scenes_without_a_charted_pixel_do_not_train(folder: Path, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    shutil.copytree(folder, scenes)
    files = sorted(scenes.glob("*_prep.nc"))
    masked = next(path for path in files if not path.with_name(f"{path.stem}_reference.nc").exists())
    with h5netcdf.File(masked, "a") as file:
        for name in CHARTS:
            file.variables[name][...] = MASKED
    everything = _list(tmp_path / "all.json", *(path.name for path in files))
    only = _list(tmp_path / "masked.json", masked.name)
    made = describe(_settings(scenes, tmp_path / "out", train_list=everything))
    assert made.notes == [f"{scene_id(masked)}: nothing is charted in SIC, SOD, FLOE: it does not train them"]
    train = [sample.id for sample in made.split("train")]
    if scene_id(masked) in train:
        assert [sample.id for sample in Windows(made, "train", CHARTS).samples] == [
            n for n in train if n != scene_id(masked)
        ]
    alone = describe(_settings(scenes, tmp_path / "out", val_list=only))
    with pytest.raises(DataError, match="nothing is charted in the 1 scenes of split val"):
        Windows(alone, "val", CHARTS)
    # Scoring it is no error: it has no pixel to count.
    assert (Scenes(alone, "val", CHARTS).charts(0)["SOD"] == MASKED).all()


def test_scoring_reads_untouched_charts_at_80_m(dataset: Dataset) -> None:
    """Defect D3: scores against charts that were reduced and brought back."""
    for split in ("train", "val", "test"):
        scenes = Scenes(dataset, split, ("SOD", "SIC"))
        assert scenes.downscale == 5
        for index, sample in enumerate(scenes.samples):
            charts = scenes.charts(index)
            assert list(charts) == ["SOD", "SIC"]
            with h5netcdf.File(dataset.path(sample.labels["SIC"])) as file:
                np.testing.assert_array_equal(charts["SIC"], file.variables["SIC"][...])
            assert charts["SIC"].shape == SHAPE


def test_scenes_are_mapped_and_not_loaded(dataset: Dataset) -> None:
    scenes = Scenes(dataset, "val", CHARTS)
    scene = scenes.scene(0)
    assert scene.name == scenes.samples[0].id
    assert scene.grid.shape == (22, 26)
    assert isinstance(scene.readers[PLANES]._values, np.memmap)
    patch = scene.read_layers(Window(0, 0, 22, 26))[PLANES]
    assert patch.valid.shape == patch.values.shape
    np.testing.assert_array_equal(patch.values, np.load(dataset.path(scenes.samples[0].inputs[PLANES])))


@pytest.mark.parametrize("reader", [Windows, Scenes])
def test_an_output_without_a_chart_is_refused(dataset: Dataset, reader) -> None:
    with pytest.raises(DataError, match="has no chart THICKNESS: its charts are SIC, SOD, FLOE") as error:
        reader(dataset, "val", ("SIC", "THICKNESS"))
    assert "\n" not in str(error.value)


def test_planes_that_do_not_fit_the_data_set_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    def change(root: Path) -> None:
        for path in root.glob("cache/*/planes.npy"):
            np.save(path, np.load(path)[:3])

    made = Dataset.load(_changed(dataset, tmp_path, change))
    unhashed = [replace(sample, hashes={}) for sample in made.samples]
    with pytest.raises(DataError, match="do not fit the data set"):
        Scenes(replace(made, samples=unhashed), "val", CHARTS).scene(0)


def test_the_built_in_sample_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seaice_multitask import sample

    calls = []

    def small(folder: Path, *, seed: int = 0) -> None:
        calls.append(seed)
        write_sample(folder, seed=seed, scenes=4, shape=SHAPE)

    monkeypatch.setenv("GEOCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(sample, "write_sample", small)
    first, second = load_dataset(None), load_dataset(None)
    assert calls == [0]
    assert first.hash == second.hash
    assert first.protocol["patch"] == 64
    assert load_dataset(first.root).hash == first.hash
    assert Windows(first, "train", CHARTS).shapes[0] == (22, 26)


def test_charts_of_one_class_are_refused() -> None:
    def sample(name: str, **classes: str) -> Sample:
        return Sample(name, "day", "train", {}, {}, {f"{chart}_classes": held for chart, held in classes.items()})

    water = [sample("a", SIC="0", SOD="0", FLOE="0"), sample("b", SIC="0", SOD="", FLOE="0")]
    with pytest.raises(DataError, match=r"raw: all 2 charts .*: a \(open water\), b \(open water\): there is nothing"):
        data._check_charts(Path("raw"), water)
    data._check_charts(Path("raw"), [*water, sample("c", SIC="0 9", SOD="0", FLOE="0")])
