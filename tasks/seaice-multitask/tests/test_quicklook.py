"""Sheets and colours: every class that is there is to be seen, in its colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from geocore.report.preview import save_picture
from seaice_multitask.colours import class_colours, class_names
from seaice_multitask.config import AUTOICE_OUTPUTS, OutputSettings
from seaice_multitask.quicklook import Sheet, draw_confusion, thinning
from seaice_multitask.scores import ChartCounts

SHAPE = (120, 130)


def charts(seed: int) -> dict[str, np.ndarray]:
    """Blocks of all classes, and a masked corner."""
    drawn = {}
    for name, chosen in AUTOICE_OUTPUTS.items():
        blocks = np.random.default_rng(seed).permutation(np.arange(144) % chosen.classes).reshape(12, 12)
        drawn[name] = blocks.astype(np.uint8).repeat(10, 0).repeat(11, 1)[:, : SHAPE[1]]
        drawn[name][:15, :15] = 255
    return drawn


def sheet(truth: bool) -> Sheet:
    radar = np.random.default_rng(0).normal(-20, 4, (2, *SHAPE)).astype(np.float32)
    radar[:, :15, :15] = np.nan
    planes = {"nersc_sar_primary": radar[0], "nersc_sar_secondary": radar[1]}
    return Sheet("20180124T194759_dmi", planes, charts(1), AUTOICE_OUTPUTS, charts(2) if truth else {})


def share(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((picture == colour).all(axis=-1).mean())


@pytest.mark.parametrize("truth", [False, True])
def test_sheet_shows_every_class_in_its_colour(truth: bool) -> None:
    picture = sheet(truth).draw()
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert 300 < picture.shape[0] < 1100 and 1000 < picture.shape[1] < 2200
    for name, chosen in AUTOICE_OUTPUTS.items():
        for colour in set(class_colours(name, chosen).values()):
            # A twelfth of a picture that is a tenth of the sheet, at the least; the legend alone has less.
            assert share(picture, colour) > 0.003, (name, colour)
    assert share(picture, (72, 76, 84)) > 0.0005
    assert share(picture, (255, 255, 255)) > 0.1


def test_sheet_is_the_same_again_and_can_be_read(tmp_path: Path) -> None:
    first, second = sheet(True).draw(), sheet(True).draw()
    assert np.array_equal(first, second)
    save_picture(tmp_path / "sheet.png", first)
    assert np.array_equal(np.rint(imread(tmp_path / "sheet.png")[..., :3] * 255), first)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_scene_without_a_valid_pixel_has_a_sheet() -> None:
    empty = Sheet(
        "s",
        {"nersc_sar_primary": np.full(SHAPE, np.nan, np.float32)},
        {"SOD": np.full(SHAPE, 255, np.uint8)},
        {"SOD": AUTOICE_OUTPUTS["SOD"]},
    )
    assert share(empty.draw(), (72, 76, 84)) > 0.2


def test_large_planes_are_thinned() -> None:
    assert [thinning(shape) for shape in ((100, 500), (521, 40), (4999, 5213))] == [1, 2, 11]


def test_confusion_has_a_matrix_for_each_chart() -> None:
    counts = ChartCounts(AUTOICE_OUTPUTS)
    truth, guess = charts(1), charts(2)
    guess = {name: np.where(chart == 255, np.uint8(0), chart) for name, chart in guess.items()}
    counts.update(truth, guess)
    worse = draw_confusion(counts)
    perfect = ChartCounts(AUTOICE_OUTPUTS)
    perfect.update(truth, {name: np.where(chart == 255, np.uint8(0), chart) for name, chart in truth.items()})
    assert worse.shape == draw_confusion(perfect).shape
    assert not np.array_equal(worse, draw_confusion(perfect))
    empty = draw_confusion(ChartCounts(AUTOICE_OUTPUTS))
    assert empty.dtype == np.uint8


def test_colours_and_names_of_known_and_unknown_charts() -> None:
    """The colours of the World Meteorological Organization, where it has the class."""
    sic, sod = (class_colours(name, AUTOICE_OUTPUTS[name]) for name in ("SIC", "SOD"))
    assert sic[0] == (0, 100, 255) and sic[5] == (255, 255, 0) and sic[10] == (255, 0, 0)
    assert sod[0] == (150, 200, 255) and sod[5] == (180, 100, 50)
    assert class_names("FLOE", AUTOICE_OUTPUTS["FLOE"])[5] == "vast floe"
    ridges = OutputSettings(classes=4)
    assert len(set(class_colours("RIDGES", ridges).values())) == 4
    assert class_names("RIDGES", ridges) == {0: "0", 1: "1", 2: "2", 3: "3"}
    # A chart of a known name with other classes has neither the code's names nor its colours.
    assert class_names("SOD", ridges)[1] == "1" and len(class_colours("SOD", ridges)) == 4
