"""What a data set says of the ground under its pixels, and which scenes are told to be unlike it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import Sample
from geocore.datasets.shift import pixel_attribute, warn_if_resized, warn_of_sizes, with_pixel_sizes
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid
from geocore.raster.scene import Layer

IMAGE = Layer("image", Bands.named("1"), "uint8")


def utm(size_m: float) -> Grid:
    return Grid(100, 100, (size_m, 0.0, 500000.0, 0.0, -size_m, 7000000.0), "EPSG:32608")


def dataset(root: Path, sizes: dict[str, tuple[str, float | None]]) -> Dataset:
    samples = [
        Sample(name, name, split, {"image": f"{name}.tif"}, attributes={} if size is None else {"pixel_m": size})
        for name, (split, size) in sizes.items()
    ]
    return with_pixel_sizes(Dataset(root=root, task="toy", samples=samples, layers={"image": IMAGE}), "image")


def test_the_attribute_is_the_side_on_the_ground_to_three_digits() -> None:
    assert pixel_attribute(utm(10)) == {"pixel_m": 10.0}
    assert pixel_attribute(Grid(128, 128, (10.0, 0, 14404742, 0, -10.0, 11606030), "EPSG:3857")) == {"pixel_m": 3.17}
    assert pixel_attribute(Grid(100, 100)) == {}


def test_the_layer_knows_what_trains(tmp_path: Path) -> None:
    found = dataset(tmp_path, {"a": ("train", 10.0), "b": ("train", 9.4), "c": ("test", 8.0), "d": ("train", None)})
    assert found.layers["image"].pixel_m == (9.4, 10.0)
    assert found.notes == []
    found.save()
    assert Dataset.load(tmp_path).layers == found.layers
    assert Layer.from_dict("image", found.layers["image"].to_dict()) == found.layers["image"]
    # Nothing trains, or nothing is known.
    for sizes in ({"a": ("test", 10.0)}, {"a": ("train", None)}):
        assert dataset(tmp_path, sizes).layers["image"] == IMAGE
        assert "pixel_m" not in IMAGE.to_dict()


def test_sizes_of_two_sensors_are_told(tmp_path: Path) -> None:
    (note,) = dataset(tmp_path, {"a": ("train", 10.0), "b": ("val", 3.0), "c": ("test", 100.0)}).notes
    assert note.startswith("pixels are of 3 to 100 m on the ground (b: 3 m, c: 100 m)")
    # Those of one sensor are not.
    assert dataset(tmp_path, {"a": ("train", 3.0), "b": ("val", 4.2)}).notes == []


def test_a_scene_of_another_size_is_told(caplog: pytest.LogCaptureFixture) -> None:
    layer = dataclasses.replace(IMAGE, pixel_m=(9.0, 10.0))
    with caplog.at_level(logging.WARNING):
        for size in (7.0, 10.0, 14.0):
            warn_if_resized("near", utm(size), layer)
        warn_if_resized("photograph", Grid(100, 100), layer)
        warn_if_resized("older", utm(1.0), IMAGE)
        assert caplog.messages == []
        warn_if_resized("scene_1m", utm(1.0), layer)
        warn_if_resized("scene_100m", utm(100.0), dataclasses.replace(IMAGE, pixel_m=(10.0, 10.0)))
    assert caplog.messages == [
        "scene_1m: a pixel is 1 m on the ground, 9 to 10 m in the training scenes: the map may be wrong; resample the "
        "scene",
        "scene_100m: a pixel is 100 m on the ground, 10 m in the training scenes: the map may be wrong; resample the "
        "scene",
    ]


def test_samples_that_are_scored_on_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = dataset(tmp_path, {f"s{i}": ("test", 30.0) for i in range(5)} | {"a": ("test", 10.0), "b": ("test", None)})
    with caplog.at_level(logging.WARNING):
        warn_of_sizes(found, "test", IMAGE)
        warn_of_sizes(found, "test", dataclasses.replace(IMAGE, pixel_m=(10.0, 30.0)))
        assert caplog.messages == []
        warn_of_sizes(found, "test", dataclasses.replace(IMAGE, pixel_m=(10.0, 10.0)))
    (line,) = caplog.messages
    assert line.startswith(
        "5 of 7 samples have pixels of another ground size (s0: 30 m, s1: 30 m, s2: 30 m and 2 more)"
    )
    assert "than the 10 m that the network was trained on" in line
