"""Prepared data sets are loaded only while their files are what they were."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from geocore.datasets.dataset import (
    Dataset,
    changed_files,
    check_out,
    datasets_of_run,
    load_prepared,
    preparation_of,
    save_prepared,
)
from geocore.datasets.schema import LabelSpec, Sample
from geocore.errors import DataError
from geocore.raster.bands import Band, Bands
from geocore.raster.scene import Layer
from geocore.settings import Settings, WorkerSettings, deciding, operational

LAYER = Layer("photo", Bands((Band("1"),)), "uint8")


def write(path: Path, value: int, shape: tuple[int, int] = (4, 5)) -> None:
    options = {"driver": "PNG", "height": shape[0], "width": shape[1], "count": 1, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **options) as file:
            file.write(np.full((1, *shape), value, np.uint8))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    samples = []
    for number in range(3):
        photo, mask = f"p{number}.png", f"m{number}.png"
        write(tmp_path / photo, number)
        write(tmp_path / mask, 7)
        sample = Sample(f"s{number}", f"g{number}", ("train", "val", "test")[number], {"photo": photo}, {"mask": mask})
        samples.append(sample.hashed(tmp_path))
    made = Dataset(
        root=tmp_path, task="walls", samples=samples, layers={"photo": LAYER}, labels={"mask": LabelSpec("mask")}
    )
    made.save()
    return made


def test_what_is_as_it_was_is_loaded(dataset):
    for path in (dataset.root, dataset.root / "dataset.yaml"):
        assert load_prepared(path, task="walls", layer="photo").hash == dataset.hash


def test_another_task_and_a_missing_layer_are_refused(dataset):
    for asked in ({"task": "floors", "layer": "photo"}, {"task": "walls", "layer": "image"}):
        rule = f"is a data set of 'walls': give one made by {asked['task']}-prepare"
        with pytest.raises(DataError, match=rule):
            load_prepared(dataset.root, **asked)


def test_the_first_change_is_named_and_the_others_counted(dataset):
    write(dataset.root / "p1.png", 9)
    with pytest.raises(DataError, match=r": p1\.png has changed since the data set was prepared: prepare the data aga"):
        load_prepared(dataset.root, task="walls", layer="photo")
    write(dataset.root / "m2.png", 9)
    with pytest.raises(DataError, match=r"p1\.png has changed .* \(and 1 more\): prepare the data again"):
        load_prepared(dataset.root, task="walls", layer="photo")


def test_a_missing_file_is_told_before_contents_are_compared(dataset):
    (dataset.root / "m0.png").unlink()
    with pytest.raises(DataError, match=r"sample 's0': m0\.png: is missing: prepare the data again"):
        load_prepared(dataset.root, task="walls", layer="photo", changes=lambda made: pytest.fail("not yet"))


def test_a_file_of_several_samples_is_read_once(dataset, monkeypatch):
    first = dataset.samples[0]
    twice = dataclasses.replace(dataset, samples=[first, dataclasses.replace(first, id="again")])
    read = []
    monkeypatch.setattr("geocore.datasets.dataset.scene_hash", lambda path: read.append(path.name))
    assert len(list(changed_files(twice))) == 2 and read == ["p0.png", "m0.png"]


def test_leaks_do_not_refuse_a_data_set(dataset):
    torn = dataclasses.replace(
        dataset, samples=[dataclasses.replace(sample, group="one") for sample in dataset.samples]
    )
    assert torn.leaks()
    torn.save()
    assert load_prepared(torn.root, task="walls", layer="photo").hash == torn.hash


def test_a_task_may_look_at_something_cheaper(dataset):
    write(dataset.root / "p1.png", 9)
    assert load_prepared(dataset.root, task="walls", layer="photo", changes=lambda made: ()).hash == dataset.hash
    with pytest.raises(DataError, match="entry 5 is older: prepare the data again"):
        load_prepared(dataset.root, task="walls", layer="photo", changes=lambda made: ["entry 5 is older"])


def of_run(dataset, given, *, trained_on=None, needs_own=True):
    return datasets_of_run(
        Path("runs/a"),
        trained_with=dataset.root,
        trained_on=trained_on or dataset.hash,
        given=given,
        load=lambda path: load_prepared(path, task="walls", layer="photo"),
        needs_own=needs_own,
    )


def test_a_run_finds_its_data_where_they_lay_or_where_they_lie_now(dataset, tmp_path_factory):
    own, scored = of_run(dataset, None)
    assert own is scored and scored.root == dataset.root
    moved = tmp_path_factory.mktemp("moved") / "walls"
    dataset.root.rename(moved)
    with pytest.raises(DataError, match=r"that runs/a was trained on is not there any more: give it with --data"):
        of_run(dataset, None)
    own, scored = of_run(dataset, moved)
    assert own is scored and scored.root == moved


def test_other_data_are_scored_beside_the_own_which_baselines_need(dataset, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for number in range(3):
        write(other / f"p{number}.png", 50 + number)
        write(other / f"m{number}.png", 7)
    samples = [dataclasses.replace(sample, hashes={}).hashed(other) for sample in dataset.samples]
    dataclasses.replace(dataset, root=other, samples=samples).save()
    own, scored = of_run(dataset, other)
    assert (own.root, scored.root) == (dataset.root, other)
    assert of_run(dataset, other, needs_own=False)[0] is None
    changed = "has changed since runs/a was trained on it: prepare it as it was, or"
    with pytest.raises(DataError, match=f"{changed} name the one to score with --data"):
        of_run(dataset, None, trained_on="another")
    with pytest.raises(DataError, match=f"{changed} leave baselines out with --no-baselines"):
        of_run(dataset, other, trained_on="another")
    dataset.root.rename(tmp_path_factory.mktemp("gone") / "walls")
    with pytest.raises(DataError, match="not there any more: baselines are trained on it; .* with --no-baselines"):
        of_run(dataset, other)
    assert of_run(dataset, other, needs_own=False)[1].root == other


class Split(Settings):
    seed: int = deciding(0, "seed")
    rules: Path | None = deciding(None, "file of rules")


class Prepare(WorkerSettings):
    data: Path = operational(..., "raw data")
    more: list[Path] = operational([], "more of them")
    out: Path = operational(..., "folder")
    ignore: int | None = deciding(255, "ignored value")
    limit: int | None = operational(None, "only so many")
    split: Split = Split()


def test_a_preparation_is_what_decides_the_data_set_and_what_was_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"data": "raw", "more": ["a", "/b"], "split": {"rules": "rules.yaml"}}
    kept = preparation_of(Prepare.model_validate(given | {"out": "sets/one", "workers": 4, "limit": 3}))
    up = Path("/".join([".."] * len((tmp_path / "sets/one").parts[1:])))
    assert kept == {
        "data": "../../raw",
        "more": ["../../a", (up / "b").as_posix()],
        "ignore": 255,
        "split": {"seed": 0, "rules": "../../rules.yaml"},
    }
    monkeypatch.chdir(tmp_path.parent)
    elsewhere = {"data": tmp_path / "raw", "more": [tmp_path / "a", "/b"], "split": {"rules": tmp_path / "rules.yaml"}}
    assert preparation_of(Prepare.model_validate(elsewhere | {"out": tmp_path / "sets/one"})) == kept


def test_another_data_set_is_never_prepared_over_one_that_is_there(dataset, tmp_path, caplog):
    out = tmp_path / "set"
    settings = Prepare(data=tmp_path / "raw", out=out)
    check_out(settings, "walls")
    path = save_prepared(dataset, settings)
    kept = path.read_bytes()
    check_out(settings, "walls")
    check_out(settings.model_copy(update={"limit": 1, "workers": 2}), "walls")
    for changes, words in (
        ({"split": Split(seed=1)}, "split.seed = 0 there, 1 now"),
        ({"data": tmp_path / "other"}, r'data = "../raw" there, "../other" now'),
        ({"ignore": None}, "ignore = 255 there, null now"),
    ):
        with pytest.raises(DataError, match=rf"holds another data set: {words}; .* another folder with --out, or rem"):
            check_out(settings.model_copy(update=changes), "walls")
    with pytest.raises(DataError, match='task = "walls" there, "floors" now'):
        check_out(settings, "floors")
    assert save_prepared(dataset, settings).read_bytes() == kept and caplog.records == []
    # The same command, after something was added to the raw data.
    save_prepared(dataclasses.replace(dataset, samples=dataset.samples[:2]), settings)
    assert "3 samples before, 2 now): runs that were trained on them as they were cannot be evaluated" in caplog.text
    dataset.save(out)
    with pytest.raises(DataError, match="holds another data set: it does not say how it was prepared"):
        check_out(settings, "walls")
    path.write_text("samples: [")
    check_out(settings, "walls")  # of no use to anybody
    path.write_bytes(kept.replace(b"seed: 0", b"seed: 1"))
    check_out(settings, "walls")  # what is damaged is made again
    assert save_prepared(dataset, settings).read_bytes() == kept


def test_what_killed_processes_left_is_removed_and_nothing_else(dataset, tmp_path, killed_writer):
    out = tmp_path / "set"
    settings = Prepare(data=tmp_path / "raw", out=out)
    kept = [save_prepared(dataset, settings), out / ".part-of-mine", out / ".older", out / ".old-book.yaml"]
    for path in kept[1:]:
        path.write_text("mine")
    (out / f".part-{killed_writer}.yaml").write_text("task: w")
    (out / f".part-{killed_writer}").mkdir()
    check_out(settings, "walls")
    assert set(out.iterdir()) == set(kept)


def test_how_it_was_prepared_is_no_part_of_the_data(dataset, tmp_path):
    save_prepared(dataset, Prepare(data=tmp_path / "raw", out=tmp_path / "a"))
    found = load_prepared(tmp_path / "a", task="walls", layer="photo")
    assert found.hash == dataset.hash and found.prepared_with["split"] == {"seed": 0, "rules": None}
