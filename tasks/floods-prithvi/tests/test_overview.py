"""What prepare tells of chips, by value, and where their water is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from floods_prithvi.chip_reader import IMAGE, MASK
from floods_prithvi.config import PrepareSettings
from floods_prithvi.data import describe
from floods_prithvi.overview import overview_of, preview_of
from floods_prithvi.sample import write_sample
from geocore.datasets.dataset import Dataset
from geocore.report.overview import lines, percent
from geocore.report.preview import UNLABELLED

COUNTS = {"train": 1, "valid": 1, "test": 1, "bolivia": 2}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("raw") / "chips", size=48, counts=COUNTS)


@pytest.fixture(scope="module")
def dataset(raw: Path) -> Dataset:
    return describe(PrepareSettings(data=raw, out=raw.parent / "out"))


def label_of(dataset: Dataset, index: int) -> np.ndarray:
    with rasterio.open(dataset.path(dataset.samples[index].labels[MASK])) as file:
        return np.asarray(file.read(1))


def test_labelled_shares_and_water_are_those_of_the_files(dataset: Dataset) -> None:
    overview = overview_of(dataset)
    said = list(lines(overview))
    labels = [label_of(dataset, index) for index in range(len(dataset.samples))]
    # Chips have strips without data, which count for nothing.
    valid = [preview_of(dataset, sample).valid for sample in dataset.samples]
    bolivia = [index for index, sample in enumerate(dataset.samples) if sample.split == "bolivia"]
    counted = np.concatenate([labels[index][valid[index]] for index in bolivia])
    known = counted[counted >= 0]
    assert said[4].split() == [
        *("bolivia", "2", "1"),
        *percent(known.size / (2 * 48 * 48)).split(),
        *percent(float((known == 0).mean())).split(),
        *percent(float((known == 1).mean())).split(),
    ]
    assert overview.shown == "swir_2, nir_narrow, red as red, green, blue"
    # Of 10 m on the ground or, in degrees, of as much in one direction alone.
    sizes = dataset.layers[IMAGE].pixel_m
    assert sizes is not None and 8.5 < sizes[0] < 9 < 9.9 < sizes[1] < 10
    assert f"pixels on the ground: {sizes[0]:g} to {sizes[1]:g} m" in said
    shares = [
        (label[seen] == 1).sum() / (label[seen] >= 0).sum()
        for label, seen in zip(labels, valid, strict=True)
        if (label[seen] >= 0).any()
    ]
    line = next(line for line in said if line.startswith("water in a chip: "))
    assert line.startswith(f"water in a chip: {percent(min(shares))} to {percent(max(shares))}, median ")


def test_values_are_reflectance_of_the_six_bands(dataset: Dataset) -> None:
    said = list(lines(overview_of(dataset)))
    start = next(number for number, line in enumerate(said) if line.startswith("values of train (unit 1)"))
    assert [line.split()[0] for line in said[start + 1 : start + 7]] == [
        *("blue", "green", "red", "nir_narrow", "swir_1", "swir_2")
    ]
    assert dataset.statistics is not None
    red = dataset.statistics.layers[IMAGE][2]
    assert float(said[start + 3].split()[1]) == pytest.approx(red.minimum, rel=0.006)
    assert float(said[start + 3].split()[3]) == pytest.approx(red.percentiles[50], rel=0.006)


def test_chips_are_drawn_with_their_own_label(dataset: Dataset) -> None:
    for index, sample in enumerate(dataset.samples):
        preview = preview_of(dataset, sample)
        label = label_of(dataset, index)
        expected = np.where((label < 0) | ~preview.valid, UNLABELLED, label)
        assert (preview.marks[MASK].classes == expected).all()
        with rasterio.open(dataset.path(sample.inputs[IMAGE])) as file:
            swir = file.read(13) * 1e-4
        assert preview.values[0][preview.valid] == pytest.approx(swir[preview.valid], abs=1e-6)


def test_chips_to_score_on_alone_are_measured_too(raw: Path, tmp_path: Path) -> None:
    name = sorted(raw.rglob("*_S2Hand.tif"))[0].name
    (tmp_path / "flood_test_data.csv").write_text(f"{name},{name.replace('S2', 'Label')}\n")
    dataset = describe(PrepareSettings(data=raw, out=tmp_path / "out", lists=tmp_path))
    assert dataset.statistics is None
    said = list(lines(overview_of(dataset)))
    assert said[1].split() == ["train", "0", "0", "-", "-", "-"]
    with rasterio.open(next(raw.rglob(name))) as file:
        blue = file.read(2) * 1e-4
    table = next(number for number, line in enumerate(said) if line.startswith("values of chips (unit 1)"))
    assert float(said[table + 1].split()[5]) == pytest.approx(blue.max(), rel=0.006)
