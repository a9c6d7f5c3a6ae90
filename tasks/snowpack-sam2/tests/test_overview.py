"""What prepare tells of photographs and their layers, by value, and the picture of them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from geocore.raster.grid import Grid
from geocore.raster.write import write_raster
from geocore.report.overview import lines
from geocore.report.preview import UNLABELLED
from snowpack_sam2.config import PrepareSettings
from snowpack_sam2.data import MASK, describe
from snowpack_sam2.overlay import LAYER_COLOURS
from snowpack_sam2.overview import overview_of, preview_of, thicknesses_px
from snowpack_sam2.prepare import prepare

SHAPE = (48, 40)


def photo_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(1000, 60000, SHAPE, np.uint16)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three photographs of noise: 20 rows of layer 7 above 28 of layer 3, and a strip that nobody labelled."""
    folder = tmp_path / "raw"
    folder.mkdir()
    ids = np.full(SHAPE, 7, np.uint8)
    ids[20:] = 3
    ids[:, :4] = 255
    for number in range(3):
        for name, values in ((f"pit{number}_0", photo_of(number)), (f"pit{number}_0_mask", ids)):
            write_raster(folder / f"{name}.tif", values, grid=Grid(*SHAPE), nodata=None, cog=False)
    return folder


def test_layers_and_brightness_are_told(raw: Path) -> None:
    dataset = describe(PrepareSettings(data=raw, out=raw.parent / "out", pit="^(.+)_"))
    said = list(lines(overview_of(dataset)))
    train = next(int(sample.id[3]) for sample in dataset.samples if sample.split == "train")
    counted = photo_of(train)[:, 4:]
    assert said[:4] == [
        "       photographs  pits  layers  labelled",
        "train            1     1       2      90 %",
        "val              1     1       2      90 %",
        "test             1     1       2      90 %",
    ]
    assert said[4] == "layers in a photograph: 2; their mean thickness: 20.0 px to 28.0 px, median 20.0 px"
    assert said[5].split()[:7] == ["values", "of", "train", "(numbers", "as", "stored)", "minimum"]
    figures = [f"{np.percentile(counted, share):.0f}" for share in (0, 1, 50, 99, 100)]
    assert said[6].split() == ["1", *figures, "90", "%"]


def test_thickness_is_that_of_the_columns_that_show_a_layer() -> None:
    ids = np.zeros((30, 10), np.uint16)
    ids[10:16, :5] = 900
    ids[10:12, 5:8] = 900
    labelled = np.ones(ids.shape, bool)
    labelled[:, 9] = False
    # Layer 0 fills the rest: 24 rows in five columns, 28 in three, 30 in one that counts.
    assert thicknesses_px(ids, labelled) == [pytest.approx((5 * 24 + 3 * 28 + 30) / 9), (5 * 6 + 3 * 2) / 8]


def test_layers_are_coloured_from_top_to_bottom_whatever_their_ids(raw: Path) -> None:
    dataset = describe(PrepareSettings(data=raw, out=raw.parent / "out"))
    preview = preview_of(dataset, dataset.samples[0])
    classes = preview.marks[MASK].classes
    assert (classes[:20, 4:] == 1).all() and (classes[20:, 4:] == 2).all() and (classes[:, :4] == UNLABELLED).all()
    assert (preview.values[0] == photo_of(0)).all() and preview.valid.all()


def test_the_picture_has_each_boundary_where_the_mask_has_it(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(PrepareSettings(data=raw, out=raw.parent / "out"))
    image = np.rint(255 * matplotlib.image.imread(raw.parent / "out/preview.png"))[..., :3]
    upper, lower = ((image == colour).all(axis=2) for colour in LAYER_COLOURS[:2])
    # Ten pixels are one of the photograph: its columns 4 to 39 have a line of 360 on either side of the boundary.
    long = [np.flatnonzero(lines.sum(axis=1) == 360) for lines in (upper, lower)]
    assert len(long[0]) == len(long[1]) == 3
    assert (long[1] == long[0] + 1).all()
    assert capsys.readouterr().out.splitlines()[-1] == f"next: snowpack-train --data {raw.parent / 'out'}"
