"""The sample is in the exact formats of the originals, and as hard as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio

from floods_prithvi.config import PrepareSettings
from floods_prithvi.data import Chips, describe
from floods_prithvi.indices import IndexThreshold, best_iou, histogram, nbr
from floods_prithvi.sample import COUNTS, write_burn_sample, write_frames_sample, write_sample
from floods_prithvi.sample.burn import draw_chip
from floods_prithvi.sample.flood import BANDS
from floods_prithvi.scores import named, total
from geocore.datasets.dataset import Dataset

Planes = npt.NDArray[Any]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in sample but for two thirds of its training chips."""
    return write_sample(tmp_path_factory.mktemp("sample"), counts={**COUNTS, "train": 2})


@pytest.fixture(scope="module")
def chips(sample: Path) -> dict[str, tuple[Planes, Planes]]:
    """Name -> image, shape (13, row, col), and label, shape (row, col)."""
    found = {}
    for path in sorted(sample.rglob("*_S2Hand.tif")):
        with rasterio.open(path) as image, rasterio.open(label_of(path)) as label:
            found[path.name.removesuffix("_S2Hand.tif")] = image.read(), label.read(1)
    return found


def label_of(path: Path) -> Path:
    return Path(str(path).replace("S2Hand", "LabelHand"))


def water_iou(dataset: Dataset, threshold: IndexThreshold, split: str) -> float:
    return named(total(threshold.counts(Chips(dataset, split))), {0: "land", 1: "water"})["iou_water"]


def pixels(chips: dict[str, tuple[Planes, Planes]], value: int) -> Planes:
    """Shape (13, pixel): those with a label, of chips of all events but Bolivia, that are not missing."""
    found = [v[:, (label == value) & v.any(axis=0)] for n, (v, label) in chips.items() if not n.startswith("Bolivia")]
    return np.concatenate(found, axis=1)


def test_files_are_those_of_the_original(sample: Path) -> None:
    folder = sample / "v1.1/data/flood_events/HandLabeled"
    images = sorted((folder / "S2Hand").iterdir())
    assert len(images) == len(list((folder / "LabelHand").iterdir())) == 5 * (2 + 2 + 2) + 8
    for path in images:
        with rasterio.open(path) as file:
            assert (file.dtypes[0], file.count, file.nodata, file.shape) == ("int16", 13, 0, (256, 256))
            assert file.descriptions == BANDS
            assert file.crs.to_epsg() == 4326
            assert (file.profile["compress"], file.profile["interleave"]) == ("deflate", "band")
            assert file.block_shapes[0] == (256, 256)
            place = file.transform
        assert place.a == -place.e == 8.983152841195215e-05
        with rasterio.open(label_of(path)) as file:
            assert (file.dtypes, file.nodata) == (("int16",), None)
            # Not to the last digit, as in the published files.
            assert file.transform != place
            assert file.transform.almost_equals(place, 1e-9)
            assert set(np.unique(file.read())) <= {-1, 0, 1}


def test_lists_and_metadata_are_those_of_the_original(sample: Path) -> None:
    lists = {path.name: path.read_text().splitlines() for path in (sample / "v1.1/splits/flood_handlabeled").iterdir()}
    assert {name: len(rows) for name, rows in lists.items()} == {
        "flood_train_data.csv": 10,
        "flood_valid_data.csv": 10,
        "flood_test_data.csv": 10,
        "flood_bolivia_data.csv": 8,
    }
    names = [row.split(",") for rows in lists.values() for row in rows]
    assert all(image.replace("S1Hand", "LabelHand") == label for image, label in names)
    there = {path.name for path in sample.rglob("*_LabelHand.tif")}
    assert {label for _, label in names} == there and len(names) == len(there)
    assert {name.rpartition("_")[0].rpartition("_")[0] for name, _ in names} == {
        "Ghana", "Mekong", "Spain", "Sri-Lanka", "USA", "Bolivia",
    }  # fmt: skip
    assert all(row.startswith("Bolivia_") for row in lists["flood_bolivia_data.csv"])
    metadata = json.loads((sample / "v1.1/Sen1Floods11_Metadata.geojson").read_text())
    places = {feature["properties"]["location"]: feature["properties"]["s2_date"] for feature in metadata["features"]}
    assert places["Cambodia"] == "2018/08/04"
    assert "Mekong" not in places


def test_coarse_bands_are_repeated(chips: dict[str, tuple[Planes, Planes]]) -> None:
    values, _ = next(iter(chips.values()))
    for ratio, names in ((1, "B2 B3 B4 B8"), (2, "B5 B6 B7 B8A B11 B12"), (6, "B1 B9 B10")):
        for name in names.split():
            plane = values[BANDS.index(name)][:252, :252]
            for step in (2, 6):
                cells = plane.reshape(252 // step, step, 252 // step, step)
                even = (cells == cells[:, :1, :, :1]).all()
                # 60 m pixels are even in cells of 2 as well.
                assert even == (ratio % step == 0), (name, step)


def test_chips_of_every_kind_are_there(chips: dict[str, tuple[Planes, Planes]]) -> None:
    shares = {name: float((label == 1).sum() / max(1, (label >= 0).sum())) for name, (_, label) in chips.items()}
    unlabelled = [name for name, (_, label) in chips.items() if (label == -1).all()]
    striped = [name for name, (values, _) in chips.items() if (values == 0).all(axis=0).any()]
    dry = [name for name, share in shares.items() if share == 0 and name not in unlabelled]
    drowned = [name for name, share in shares.items() if share > 0.9]
    for split, own in (("test", "_102"), ("bolivia", "_103")):
        assert any(own in name for name in dry), split
        assert any(own in name for name in drowned), split
        assert any(own in name for name in striped), split
    assert len(unlabelled) == 3
    for values, _ in chips.values():
        assert ((values == 0).any(axis=0) == (values == 0).all(axis=0)).all()
    # The median of published chips is lower; theirs have many without a flood.
    assert 0.1 < np.median(list(shares.values())) < 0.3


def test_clouds_are_white_in_the_band_of_cirrus_and_not_labelled(chips: dict[str, tuple[Planes, Planes]]) -> None:
    clear = np.concatenate([pixels(chips, 0), pixels(chips, 1)], axis=1)
    hidden = pixels(chips, -1)
    blue, cirrus = BANDS.index("B2"), BANDS.index("B10")
    # The cirrus band has pixels of 60 m, so that some beside a cloud hold a part of it.
    assert np.median(clear[cirrus]) < 15 and np.percentile(clear[cirrus], 95) < 100
    assert np.median(hidden[cirrus]) > 200 and np.median(hidden[blue]) > 2 * np.percentile(clear[blue], 95)


def test_water_and_land_look_like_those_of_a_published_chip(chips: dict[str, tuple[Planes, Planes]]) -> None:
    """Means x 10,000 of Spain_7370579: blue, green, red, narrow near infrared, both short-wave infrared bands."""
    six = [BANDS.index(name) for name in ("B2", "B3", "B4", "B8A", "B11", "B12")]
    for value, expected in ((1, (1093, 1055, 1040, 948, 449, 258)), (0, (1334, 1347, 1339, 2560, 1838, 1138))):
        ratios = pixels(chips, value)[six].mean(axis=1) / np.array(expected)
        # Within a quarter in the visible and near infrared; water of five events holds more silt and plants than that
        # of one chip, and is 1.5 times as bright in the short-wave infrared.
        assert (np.abs(ratios[:4] - 1) < 0.25).all(), ratios
        assert ((ratios[4:] > 0.75) & (ratios[4:] < 1.7)).all(), ratios


def test_index_is_as_good_as_in_published_chips_and_no_better(sample: Path, tmp_path: Path) -> None:
    dataset = describe(PrepareSettings(data=sample, out=tmp_path))
    otsu = IndexThreshold.by_otsu("mndwi", Chips(dataset, "train"))
    for split in ("test", "bolivia"):
        assert 0.6 < water_iou(dataset, otsu, split) < 0.75  # 0.70 and 0.64 measured


def test_easy_sample_is_solved_by_the_index(tmp_path: Path) -> None:
    counts = {"train": 1, "valid": 1, "test": 1, "bolivia": 2}
    write_sample(tmp_path / "chips", size=160, counts=counts, difficulty="easy")
    dataset = describe(PrepareSettings(data=tmp_path / "chips", out=tmp_path))
    otsu = IndexThreshold.by_otsu("mndwi", Chips(dataset, "train"))
    for split in ("test", "bolivia"):
        assert water_iou(dataset, otsu, split) > 0.95


def test_same_seed_gives_the_same_chips_however_many_there_are(tmp_path: Path) -> None:
    few = write_sample(tmp_path / "few", size=48, counts={"train": 1, "bolivia": 1})
    more = write_sample(tmp_path / "more", size=48, counts={"test": 1, "train": 2, "bolivia": 2})
    other = write_sample(tmp_path / "other", size=48, counts={"train": 1, "bolivia": 1}, seed=1)
    paths = [path.relative_to(few) for path in few.rglob("*.tif")]
    assert len(paths) == 12
    for path in paths:
        with rasterio.open(few / path) as one, rasterio.open(more / path) as two:
            assert np.array_equal(one.read(), two.read())
            assert one.transform == two.transform
    assert {path.relative_to(other) for path in other.rglob("*.tif")} != set(paths)


# --- burn scars ---


@pytest.fixture(scope="module")
def burnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_burn_sample(tmp_path_factory.mktemp("burn"), size=160, training=4, validation=2)


def test_burn_files_are_those_of_the_original(burnt: Path) -> None:
    images = sorted(burnt.rglob("*_merged.tif"))
    assert [path.parent.name for path in images] == ["training"] * 4 + ["validation"] * 2
    wedges = 0
    for path in images:
        assert path.name.startswith("subsetted_160x160_HLS.S30.T1")
        with rasterio.open(path) as file:
            assert (file.dtypes, file.nodata, file.crs.to_epsg()) == (("float32",) * 6, -9999, None)
            assert file.crs.is_projected and file.transform.a == 30
            assert "compress" not in file.profile
            values, place = file.read(), file.transform
        assert abs(path.stat().st_size - 6 * 160 * 160 * 4) < 5000
        with rasterio.open(str(path).replace("_merged.tif", ".mask.tif")) as file:
            assert (file.dtypes, file.nodata, file.transform) == (("int16",), -1, place)
            mask = file.read(1)
        missing = (values == -9999).all(axis=0)
        assert np.array_equal(missing, (values == -9999).any(axis=0))
        assert np.array_equal(missing, mask == -1)
        assert set(np.unique(mask)) <= {-1, 0, 1} and (mask == 1).any()
        # Centred, and not all of it.
        rows, cols = np.nonzero(mask == 1)
        assert np.hypot(rows.mean() - 80, cols.mean() - 80) < 40
        assert ((values > 0) & (values < 1))[:, ~missing].all()
        wedges += int(missing.any())
    assert wedges == 2


def test_burnt_ground_is_dark_in_the_near_and_bright_in_the_short_wave_infrared(burnt: Path) -> None:
    every, scars = [], []
    for path in burnt.rglob("*_merged.tif"):
        with rasterio.open(path) as file, rasterio.open(str(path).replace("_merged.tif", ".mask.tif")) as mask:
            values, label = file.read(), mask.read(1)
        every.append(values[:, label >= 0])
        scars.append(values[:, label == 1])
    whole, scar = np.concatenate(every, axis=1).mean(axis=1), np.concatenate(scars, axis=1).mean(axis=1)
    published = np.array([0.0333, 0.0570, 0.0589, 0.2323, 0.1973, 0.1194])
    # Six chips, of which each has its own share of forest.
    assert (np.abs(whole / published - 1) < 0.25).all(), whole
    assert scar[3] < 0.7 * whole[3]
    assert scar[5] > 1.1 * whole[5]


def test_rock_and_water_have_a_burn_ratio_as_low_as_scars() -> None:
    scores = []
    for easy in (False, True):
        counts = np.zeros((2, 256), np.int64)
        for seed in range(8):
            values, mask = draw_chip(96, np.random.default_rng(seed), wedge=False, easy=easy)
            ratio = nbr(values[3], values[5])
            counts += np.stack([histogram(ratio[mask == value]) for value in (0, 1)])
        below = round((best_iou(counts, above=False) + 1) * 128)
        scores.append(counts[1, :below].sum() / (counts[1].sum() + counts[0, :below].sum()))
    # 0.66 and 0.997 measured.
    assert 0.5 < scores[0] < 0.85
    assert scores[1] > 0.95


# --- several dates ---


def test_frames_files_are_those_of_the_original(tmp_path: Path) -> None:
    write_frames_sample(tmp_path, size=96, training=5, validation=2)
    for part, count in (("training", 5), ("validation", 2)):
        images = sorted((tmp_path / f"{part}_chips").glob("chip_*_merged.tif"))
        assert len(images) == count
        assert [path.name.removesuffix("_merged.tif") for path in images] == (
            (tmp_path / f"{part}_data.txt").read_text().split()
        )
    for path in tmp_path.rglob("*_merged.tif"):
        with rasterio.open(path) as file, rasterio.open(str(path).replace("_merged.tif", ".mask.tif")) as mask:
            assert (file.count, file.dtypes[0], file.crs.to_epsg()) == (18, "int16", 5070)
            assert mask.transform == file.transform
            values, label = file.read().reshape(3, 6, 96, 96).astype(float), mask.read(1)
        assert set(np.unique(label)) <= set(range(14)) and (label == 0).any()
        green = (values[:, 3] - values[:, 2]) / (values[:, 3] + values[:, 2])
        # Winter wheat is ripe when soybeans are green.
        for crop, first, last in ((8, 0.5, 0.4), (4, 0.4, 0.7)):
            if (label == crop).any():
                assert (green[0][label == crop].mean() > first) == (crop == 8)
                assert (green[2][label == crop].mean() > last) == (crop == 4)
