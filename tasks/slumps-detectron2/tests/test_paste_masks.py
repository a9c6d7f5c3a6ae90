"""Pasting against the formula written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from geocore.raster.grid import Window
from slumps_detectron2.interface import Effort, Found
from slumps_detectron2.paste_masks import detections, paste

SHAPE = (40, 50)


def _mask(side: int = 28, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((side, side)).astype(np.float32)


def _box(*edges: float) -> np.ndarray:
    return np.array(edges, np.float32)


def _slow(mask: np.ndarray, box: np.ndarray, row: int, col: int) -> float:
    """Bilinear interpolation between four cells, with zeros around the mask."""
    left, top, right, bottom = map(float, box)
    side = len(mask)
    v = (row + 0.5 - top) / (bottom - top) * side - 0.5
    u = (col + 0.5 - left) / (right - left) * side - 0.5
    i, j = math.floor(v), math.floor(u)
    padded = np.pad(mask.astype(float), 1)

    def cell(at_row: int, at_col: int) -> float:
        inside = -1 <= at_row <= side and -1 <= at_col <= side
        return float(padded[at_row + 1, at_col + 1]) if inside else 0.0

    upper = (1 - (u - j)) * cell(i, j) + (u - j) * cell(i, j + 1)
    lower = (1 - (u - j)) * cell(i + 1, j) + (u - j) * cell(i + 1, j + 1)
    return (1 - (v - i)) * upper + (v - i) * lower


@pytest.mark.parametrize(
    "box",
    [
        _box(3, 5, 31, 33),  # a pixel for each cell
        _box(4.3, 2.7, 44.1, 39.2),  # larger than the mask
        _box(10.6, 8.2, 17.9, 30.4),  # smaller
        _box(-12.5, -3.2, 20.1, 25.0),  # reaches out of the tile, up and left
        _box(30.2, 20.4, 70.9, 61.3),  # down and right
        _box(0, 0, 50, 40),
    ],
    ids=str,
)
def test_every_pixel_is_interpolated_between_cells(box: np.ndarray) -> None:
    mask = _mask()
    pasted = paste(mask, box, SHAPE)
    assert pasted is not None
    window, pixels = pasted
    whole = Window(0, 0, *SHAPE)
    touched = Window(
        math.floor(box[1]),
        math.floor(box[0]),
        math.ceil(box[3]) - math.floor(box[1]),
        math.ceil(box[2]) - math.floor(box[0]),
    )
    assert window == touched.intersection(whole)
    assert pixels.shape == window.shape and pixels.dtype == np.uint8
    expected = [
        [_slow(mask, box, row, col) * 255 for col in range(window.col, window.col_stop)]
        for row in range(window.row, window.row_stop)
    ]
    # Rounding to whole numbers is half; float32 weights add less than 1e-3 of 255.
    assert np.abs(pixels - np.array(expected)).max() < 0.501


def test_a_pixel_for_each_cell_copies_the_mask() -> None:
    mask = _mask()
    pasted = paste(mask, _box(3, 5, 31, 33), SHAPE)
    assert pasted is not None
    assert np.array_equal(pasted[1], np.rint(mask * 255))


def test_full_mask_is_an_object_up_to_the_edges_of_its_box() -> None:
    pasted = paste(np.ones((28, 28), np.float32), _box(7, 4, 40, 36), SHAPE)
    assert pasted is not None
    window, pixels = pasted
    assert window == Window(4, 7, 32, 33)
    # Beyond the outermost cell centres values fall towards the zeros around, but not below one half on one side.
    assert pixels[1:-1].min() >= 128 and pixels[:, 1:-1].min() >= 128


def test_object_of_one_pixel() -> None:
    pasted = paste(np.ones((28, 28), np.float32), _box(49, 39, 50, 40), SHAPE)
    assert pasted is not None
    assert pasted[0] == Window(39, 49, 1, 1)
    assert pasted[1].tolist() == [[255]]


@pytest.mark.parametrize(
    "box",
    [
        _box(60, 5, 70, 9),  # outside
        _box(-9, 5, -2, 9),
        _box(50, 0, 60, 40),  # touches the border from outside
        _box(8, 5, 8, 9),  # no width
        _box(9, 5, 8, 9),
        _box(3.6, 5, 3.9, 9),  # holds no pixel's centre
        _box(math.nan, 5, 8, 9),
        _box(0, 0, math.inf, 9),
    ],
    ids=str,
)
def test_box_without_pixels_is_no_object(box: np.ndarray) -> None:
    assert paste(np.ones((28, 28), np.float32), box, SHAPE) is None


def test_detections_carry_class_values_and_scores_in_order() -> None:
    found = Found(
        boxes=np.stack([_box(1, 2, 9, 12), _box(60, 0, 70, 9), _box(5, 5, 30, 20)]),
        scores=np.array([0.9, 0.8, 0.25], np.float32),
        classes=np.array([1, 0, 0]),
        masks=np.ones((3, 28, 28), np.float32),
    )
    objects = detections(found, (3, 7), SHAPE)
    assert [(each.label, each.score, each.window) for each in objects] == [
        (7, pytest.approx(0.9), Window(2, 1, 10, 8)),
        (3, 0.25, Window(5, 5, 15, 25)),
    ]
    assert all(each.mask.shape == each.window.shape for each in objects)


@pytest.mark.parametrize(
    ("edge_px", "detections", "expected"),
    [
        (64, 100, (100, 64)),
        (256, 100, (250, 128)),
        (512, 100, (1000, 512)),
        (2048, 100, (1000, 512)),
        (64, 300, (300, 64)),
    ],
)
def test_effort_follows_the_area_of_a_tile(edge_px: int, detections: int, expected: tuple[int, int]) -> None:
    effort = Effort.of(edge_px**2, detections)
    assert (effort.proposals, effort.samples) == expected
