"""Pictures for the report: outlines lie where the objects are, at any size."""

from __future__ import annotations

import numpy as np
import pytest

from geocore.raster.grid import Window
from slumps_detectron2.instances import Instance
from slumps_detectron2.overlay import draw_comparison, visible_bands

BLUE, ORANGE, WHITE, DARK = (86, 180, 233), (255, 120, 20), (255, 255, 255), (72, 76, 84)


@pytest.mark.parametrize("shape", [(600, 640), (100, 160), (1921, 1201)])
def test_outlines_are_visible_at_any_size(shape: tuple[int, int]) -> None:
    values = np.full((3, *shape), 700, np.uint16)
    valid = np.ones(shape, bool)
    valid[:20] = False
    rows, cols = shape
    ids = np.zeros(shape, np.uint32)
    ids[rows // 4 : rows // 2, cols // 4 : cols // 2] = 5
    window = Window(3 * rows // 5, cols // 4, rows // 5, cols // 4)
    image = draw_comparison(values, valid, ids, [Instance(window, np.ones(window.shape, bool), 0.9, 1)])
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert 400 <= max(image.shape) <= 960
    scale = image.shape[0] / rows
    for colour, top, bottom in ((BLUE, rows // 4, rows // 2), (ORANGE, window.row, window.row_stop)):
        drawn = np.flatnonzero((image == colour).all(axis=2).any(axis=1))
        assert abs(drawn.min() - top * scale) <= max(2, scale)
        assert abs(drawn.max() + 1 - bottom * scale) <= max(2, scale)
    assert (image[0] == DARK).all()
    assert not (image == WHITE).all(axis=2).any()


def test_agreeing_outlines_are_white() -> None:
    ids = np.zeros((100, 100), np.uint32)
    ids[10:40, 10:40] = 1
    found = Instance(Window(10, 10, 30, 30), np.ones((30, 30), bool), 0.9, 1)
    image = draw_comparison(np.zeros((3, 100, 100)), np.ones((100, 100), bool), ids, [found])
    assert (image == WHITE).all(axis=2).any()
    assert not (image == BLUE).all(axis=2).any()


@pytest.mark.parametrize(
    ("names", "bands"),
    [
        (["blue", "green", "red", "nir"], [2, 1, 0]),
        (["B11", "B2", "B3", "B4"], [3, 2, 1]),
        (["a", "b", "c"], [2, 1, 0]),
        (["1"], [0, 0, 0]),
        (["a", "b"], [0, 0, 0]),
    ],
)
def test_bands_that_are_shown(names: list[str], bands: list[int]) -> None:
    assert visible_bands(names) == bands
