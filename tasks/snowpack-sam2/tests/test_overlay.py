"""Overlays: lines lie where the boundaries are, and can be seen at any size."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest

from snowpack_sam2.overlay import draw_comparison, draw_overlay
from snowpack_sam2.ridges import Boundary

BLUE, ORANGE = (86, 180, 233), (255, 120, 20)


def _where(image: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    return np.asarray((image == colour).all(axis=2))


def _line(shape: tuple[int, int], row: int) -> npt.NDArray[np.bool_]:
    lines = np.zeros(shape, bool)
    lines[row] = True
    return lines


# Sizes that are drawn as they are, enlarged and reduced; the last one is no multiple of its reduction.
@pytest.mark.parametrize("shape", [(600, 640), (100, 160), (1921, 1201)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_both_lines_are_visible_at_any_size(shape: tuple[int, int], dtype: npt.DTypeLike) -> None:
    photo = np.linspace(10, 200, shape[1])[None].repeat(shape[0], axis=0).astype(dtype)
    rows = shape[0] // 4, shape[0] // 2
    image = draw_comparison(photo, np.ones(shape, bool), _line(shape, rows[0]), _line(shape, rows[1]))
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert 400 <= max(image.shape) <= 960
    for colour, row, least in ((BLUE, rows[0], 7), (ORANGE, rows[1], 3)):
        found = np.flatnonzero(_where(image, colour).all(axis=1))
        assert least <= len(found) <= least + 6
        # The middle of the drawn line lies within a pixel of the line, in pixels of the larger of the two images.
        scale = image.shape[0] / shape[0]
        assert abs(found.mean() + 0.5 - (row + 0.5) * scale) <= max(scale, 1)


def test_true_line_shows_on_both_sides_of_a_predicted_one_that_agrees() -> None:
    line = _line((300, 400), 100)
    image = draw_comparison(np.zeros((300, 400)), np.ones((300, 400), bool), line, line)
    column = ["b" if blue else "o" if orange else "." for blue, orange in
              zip(_where(image, BLUE)[:, 0], _where(image, ORANGE)[:, 0], strict=True)]  # fmt: skip
    drawn = "".join(column).strip(".")
    assert drawn.startswith("bb") and drawn.endswith("bb") and "ooo" in drawn and "." not in drawn


def test_photograph_is_stretched_and_pixels_that_do_not_count_are_dark() -> None:
    photo = np.full((640, 640), 60000, np.uint16)
    photo[:, 300:] = 60100
    photo[:, :20] = 0
    valid = photo > 0
    line = _line(photo.shape, 300)
    image = draw_comparison(photo, valid, line, ~valid)
    assert image[0, 100].tolist() == [0, 0, 0] and image[0, 500].tolist() == [255, 255, 255]
    outside = image[:, :10].reshape(-1, 3)
    assert len(np.unique(outside, axis=0)) == 1 and outside[0].max() < 100
    assert not _where(image, ORANGE).any()


def test_photograph_without_anything_valid_is_drawn() -> None:
    nothing = np.zeros((50, 60), bool)
    image = draw_comparison(np.full((50, 60), np.nan), nothing, ~nothing, ~nothing)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 1


def test_overlay_shows_layers_boundaries_and_the_photograph(tmp_path: Path) -> None:
    shape = (70, 140)
    photo = np.full(shape, 41343, np.uint16)
    photo[35:] = 65471
    valid = np.ones(shape, bool)
    valid[:, :14] = False
    layers = np.where(np.arange(shape[0])[:, None] > 34, 2, 1) * valid
    boundary = Boundary(np.arange(14, 140), np.full(126, 34.0), 0.9)
    path = tmp_path / "overlay.png"
    draw_overlay(path, photo, valid, layers, [boundary])
    image = np.rint(matplotlib.image.imread(path)[..., :3] * 255).astype(int)
    assert image.shape == (350, 700, 3)
    red = (image[..., 0] > 150) & (image[..., 1] < 90) & (image[..., 2] < 90)
    # Five pixels of the overlay are one of the photograph; the line lies in row 34, from column 14 on.
    rows, cols = np.nonzero(red)
    assert abs(np.median(rows) - (34.5 * 5 - 0.5)) <= 1
    assert np.unique(cols).size > 620 and cols.min() >= 70 - 5
    upper, lower, outside = image[60, 500], image[290, 500], image[60, 20]
    assert lower.mean() > upper.mean() + 100  # the stretch uses the photograph's own range
    assert np.ptp(outside) == 0 and np.ptp(upper) > 5 and np.ptp(lower) > 5  # layers are tinted, the rest is not
    assert not np.array_equal(upper - upper.min(), lower - lower.min())


def test_overlay_of_nothing_is_the_photograph(tmp_path: Path) -> None:
    draw_overlay(tmp_path / "o.png", np.zeros((30, 40)), np.zeros((30, 40), bool), np.zeros((30, 40), int), [])
    assert matplotlib.image.imread(tmp_path / "o.png").shape[:2] == (525, 700)
