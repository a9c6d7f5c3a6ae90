"""Majorities and confidence of parcels against a plain loop, and the tables read back."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pandas
import pytest

from crops_activesampling.mapping import MappedPatch
from crops_activesampling.parcels import ParcelTable, parcel_table, write_table

SHAPE = (30, 41)
CROPS = {1: "wheat", 2: "maize", 3: "rye", 4: "peas"}


def drawn() -> tuple[MappedPatch, np.ndarray]:
    """Ten parcels in no order, one of them never seen, with numbers as large as there are."""
    rng = np.random.default_rng(0)
    shares = np.moveaxis(rng.dirichlet(np.full(4, 0.5), size=SHAPE), -1, 0).astype(np.float32)
    numbers = np.array([0, 7, 3, 2**32 - 1, 900, 12, 5, 4, 1, 70_000, 66], np.uint32)
    parcels = rng.choice(numbers, SHAPE)
    seen = (rng.uniform(size=SHAPE) < 0.7) & (parcels != 900)
    shares[:, ~seen] = 0
    classes = np.where(seen, shares.argmax(axis=0) + 1, 0).astype(np.uint8)
    probability = np.where(seen, np.rint(100 * shares.max(axis=0)), 255).astype(np.uint8)
    return MappedPatch(classes, probability, shares), parcels


def test_equal_to_a_loop_over_parcels() -> None:
    found, parcels = drawn()
    table = parcel_table(found, parcels)
    assert table.numbers.tolist() == sorted(set(np.unique(parcels).tolist()) - {0})
    for row, number in enumerate(table.numbers):
        inside = parcels == number
        seen = inside & (found.classes != 0)
        assert (table.pixels[row], table.mapped[row]) == (inside.sum(), seen.sum())
        if not seen.any():
            assert number == 900 and table.classes[row] == 0 and math.isnan(table.confidence[row])
            continue
        votes = [(found.classes[seen] == crop).sum() for crop in CROPS]
        assert table.classes[row] == 1 + int(np.argmax(votes))
        # All seen pixels count, also those that are mapped as another crop: that is what makes it less sure.
        expected = found.shares[table.classes[row] - 1][seen].astype(float).mean()
        assert table.confidence[row] == pytest.approx(expected, rel=1e-12)


def test_of_two_as_frequent_the_lower_one() -> None:
    shares = np.zeros((3, 1, 4), np.float32)
    shares[2, 0, :2] = shares[1, 0, 2:] = 0.75
    classes = np.array([[3, 3, 2, 2]], np.uint8)
    table = parcel_table(MappedPatch(classes, np.full((1, 4), 75, np.uint8), shares), np.full((1, 4), 8, np.uint32))
    assert table.classes.tolist() == [2] and table.confidence.tolist() == [0.375]


def test_tables_are_read_back(tmp_path: Path) -> None:
    found, parcels = drawn()
    table = parcel_table(found, parcels)
    write_table(tmp_path / "p.csv", tmp_path / "p.parquet", table, CROPS)
    frame = pandas.read_parquet(tmp_path / "p.parquet")
    assert list(frame.columns) == ["parcel", "class", "crop", "confidence", "pixels", "mapped_pixels"]
    assert frame["parcel"].tolist() == table.numbers.tolist() and frame["parcel"].dtype == np.uint32
    assert frame["crop"].tolist() == [CROPS.get(number, "") for number in table.classes.tolist()]
    assert np.array_equal(frame["confidence"], table.confidence, equal_nan=True)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["parcel"]) for row in rows] == table.numbers.tolist()
    unseen = rows[table.numbers.tolist().index(900)]
    assert (unseen["class"], unseen["crop"], unseen["confidence"], unseen["mapped_pixels"]) == ("0", "", "", "0")
    assert float(rows[0]["confidence"]) == pytest.approx(table.confidence[0], abs=5e-7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.parquet"]


def test_a_patch_without_parcels_gives_empty_tables(tmp_path: Path) -> None:
    found, parcels = drawn()
    table = parcel_table(found, np.zeros_like(parcels))
    assert isinstance(table, ParcelTable) and len(table.numbers) == len(table.confidence) == len(table.pixels) == 0
    write_table(tmp_path / "p.csv", tmp_path / "p.parquet", table, CROPS)
    assert (tmp_path / "p.csv").read_text() == "parcel,class,crop,confidence,pixels,mapped_pixels\n"
    assert len(pandas.read_parquet(tmp_path / "p.parquet")) == 0
