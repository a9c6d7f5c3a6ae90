"""Prepared data sets are loaded only while their files are what they were."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from geocore.bands import Band, Bands
from geocore.datasets import Dataset, LabelSpec, Sample
from geocore.errors import DataError
from geocore.prepared import changed_files, load_prepared
from geocore.scenes import Layer

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
    monkeypatch.setattr("geocore.prepared.sha256_file", lambda path: read.append(path.name))
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
