"""What prepare tells of patches and their parcels, by value, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest

from crops_activesampling.config import CompositeSettings, PrepareSettings, SplitSettings
from crops_activesampling.data import describe
from crops_activesampling.overview import overview_of, parcels_of, preview_of
from crops_activesampling.patch_writer import NewPatch, write_patch
from crops_activesampling.s4a_format import PatchName
from geocore.datasets.dataset import Dataset
from geocore.report.overview import lines, number
from geocore.report.preview import UNLABELLED

SIZE = 12
# A patch of each split of the rules `sample`.
NAMES = [PatchName(2019, "31TCG", x, 0) for x in (8, 10, 20)]
WHEAT, MAIZE = 110, 120


def labels_of() -> tuple[np.ndarray, np.ndarray]:
    """Codes and parcels: wheat in the parcels 7 and 8, maize in 9, the last rows without a crop."""
    codes, parcels = np.zeros((SIZE, SIZE), np.uint32), np.zeros((SIZE, SIZE), np.uint32)
    codes[:4], codes[4:8] = WHEAT, MAIZE
    parcels[:4, :6], parcels[:4, 6:], parcels[4:8], parcels[8:10] = 7, 8, 9, 10
    return codes, parcels


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("crops")
    days = np.array(["2019-01-05", "2019-02-05"], "datetime64[D]")
    values = np.stack([np.full((SIZE, SIZE), 300), 1000 + np.arange(SIZE * SIZE).reshape(SIZE, SIZE)]).astype(np.uint16)
    values[0, :6] = 0
    bands = {name: (values + 10 * place, days) for place, name in enumerate(("B03", "B04", "B08"))}
    for name in NAMES:
        corner = (10.0 * SIZE * name.x + 500_000, 5_000_000.0)
        write_patch(folder / "raw", NewPatch(name, corner, "EPSG:32631", bands, *labels_of(), {}))
    composites = CompositeSettings(bands=["B03", "B04", "B08"], start="2019-01-01", end="2019-02-28")
    split = SplitSettings(rules="sample")
    return describe(
        PrepareSettings(data=folder / "raw", out=folder / "out", composites=composites, split=split, subpatch=8)
    )


def test_crops_parcels_and_values_are_told(dataset: Dataset) -> None:
    said = list(lines(overview_of(dataset)))
    assert said[:4] == [
        "       patches  tiles  parcels  labelled  wheat  maize",
        "train        1      1        3      67 %   50 %   50 %",
        "val          1      1        3      67 %   50 %   50 %",
        "test         1      1        3      67 %   50 %   50 %",
    ]
    assert "parcels by crop: wheat 6, maize 3" in said
    # A parcel without a labelled pixel counts for nothing.
    assert "labelled pixels of a parcel: 24 to 48, median 24" in said
    table = next(number for number, line in enumerate(said) if line.startswith("values of train (DN)"))
    # In the first of two periods half of the 144 pixels of B03 have no value, and 20 in B08.
    values = np.array([20.0] * 72 + [320.0] * 72 + [1020.0 + step for step in range(144)])
    figures = [number(float(np.percentile(values, share))) for share in (0, 1, 50, 99, 100)]
    assert said[table + 3].split() == ["B08", *figures, "100", "%"]
    assert said[table + 1].split()[-2:] == ["75", "%"]


def test_the_crop_of_a_parcel_is_that_of_most_of_its_labelled_pixels() -> None:
    parcels = np.array([[1, 1, 1, 2, 2, 0], [1, 3, 3, 4, 4, 4]], np.uint32)
    labels = np.array([[5, 5, 2, 3, 1, 9], [0, 0, 0, 6, 6, 6]], np.uint8)
    assert parcels_of(parcels, labels) == [(5, 3), (1, 2), (6, 3)]
    assert parcels_of(parcels, np.zeros_like(labels)) == []


def test_the_period_with_most_data_is_drawn_with_crops_and_parcels(dataset: Dataset) -> None:
    preview = preview_of(dataset, dataset.samples[0])
    assert preview.title == f"{dataset.samples[0].id}, period 2"
    assert preview.valid.all() and preview.values.shape == (3, SIZE, SIZE)
    # Twice the number is stored; near infrared comes first.
    expected = 1000 + np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    assert (preview.values[0] == 2 * (expected + 20)).all() and (preview.values[2] == 2 * expected).all()
    marks = preview.marks["crops"]
    assert (
        (marks.classes[:4] == 1).all() and (marks.classes[4:8] == 2).all() and (marks.classes[8:] == UNLABELLED).all()
    )
    assert marks.regions is not None and (marks.regions == labels_of()[1]).all()
