"""What prepare tells of scenes and their charts, by value, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest

from geocore.datasets.dataset import Dataset
from geocore.report.overview import lines, number, percent
from seaice_multitask.channels import RADAR, SAR_STANDARD
from seaice_multitask.charts import CLASS_NAMES
from seaice_multitask.config import PrepareSettings, WorkingSettings
from seaice_multitask.data import describe
from seaice_multitask.overview import overview_of, preview_of
from seaice_multitask.sample import write_sample


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    write_sample(folder / "scenes", scenes=4, shape=(110, 130), seed=3)
    channels = [RADAR[1], RADAR[0], "t2m"]
    return describe(
        PrepareSettings(
            data=folder / "scenes",
            out=folder / "out",
            working=WorkingSettings(downscale=5),
            patch=16,
            channels=channels,
        )
    )


def cached(dataset: Dataset, split: str, name: str) -> np.ndarray:
    """An array of the cache, of all scenes of a split, the pixels along the last axis."""
    arrays = []
    for sample in dataset.split(split):
        array = np.load(dataset.path(sample.inputs["planes"]).with_name(f"{name}.npy"))
        arrays.append(array.reshape(*array.shape[:-2], -1))
    return np.concatenate(arrays, axis=-1)


def test_charted_shares_of_each_class_are_told(dataset: Dataset) -> None:
    said = list(lines(overview_of(dataset)))
    for name, classes in CLASS_NAMES.items():
        start = next(place for place, line in enumerate(said) if line.split()[:2] == [name, "labelled"])
        charts = {split: cached(dataset, split, name) for split in ("train", "val", "test")}
        there = [value for value in range(len(classes)) if any((chart == value).any() for chart in charts.values())]
        assert said[start].split()[2:] == " ".join(classes[value] for value in there).split()
        for line, (split, chart) in zip(said[start + 1 : start + 4], charts.items(), strict=True):
            known = chart[chart != 255]
            shares = [known.size / chart.size, *(float((known == value).mean()) for value in there)]
            assert line.split() == [split, *" ".join(map(percent, shares)).split()]


def test_values_are_told_in_their_unit_though_the_data_set_keeps_none(dataset: Dataset) -> None:
    assert dataset.statistics is None
    said = list(lines(overview_of(dataset)))
    line = next(line for line in said if line.startswith(RADAR[0])).split()
    planes = cached(dataset, "train", "planes")[1]
    standard = SAR_STANDARD[RADAR[0]]
    known = planes[np.isfinite(planes)] * standard.std + standard.mean
    assert line[1:3] == ["dB", number(float(known.min()))]
    assert line[6:] == [number(float(known.max())), *percent(known.size / planes.size).split()]
    assert float(line[4]) == pytest.approx(np.median(known), rel=0.02)


def test_radar_is_drawn_with_each_chart(dataset: Dataset) -> None:
    sample = dataset.split("test")[0]
    preview = preview_of(dataset, sample)
    planes = np.load(dataset.path(sample.inputs["planes"]))
    # The primary polarisation, wherever it stands among the channels.
    assert preview.values.shape == (1, *planes.shape[1:])
    assert (preview.values[0][preview.valid] == planes[1][np.isfinite(planes[1])]).all()
    for name in CLASS_NAMES:
        chart = np.load(dataset.path(sample.inputs["planes"]).with_name(f"{name}.npy"))
        assert (preview.marks[name].classes == chart).all()
    assert overview_of(dataset).shown == f"band {RADAR[0]} in grey"
