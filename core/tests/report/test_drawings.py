"""Pictures: brightness stretched channel by channel, outlines on both sides of a border."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from geocore.report.preview import OUTSIDE, edges, new_figure, rendered, save_picture, stretched


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_each_channel_is_stretched_to_its_percentiles(dtype: type) -> None:
    ramp = np.arange(100, dtype=dtype).reshape(10, 10)
    picture = stretched(np.stack([ramp, ramp[::-1], ramp + 100]), np.ones((10, 10), bool), percentiles=(10, 90))
    # Percentiles 10 and 90 of 0, 1, ..., 99 are 9.9 and 89.1.
    expected = np.rint(255 * np.clip((ramp.astype(float) - 9.9) / 79.2, 0, 1))
    assert (picture[..., 0] == expected).all()
    assert (picture[..., 1] == expected[::-1]).all()
    assert (picture[..., 2] == expected).all()


def test_grey_is_three_equal_channels_and_what_is_invalid_counts_for_nothing() -> None:
    values = np.array([[0.0, 1.0, np.nan, 1e9]])
    valid = np.array([[True, True, False, False]])
    picture = stretched(values[np.newaxis], valid, percentiles=(0, 100))
    assert picture[0].tolist() == [[0, 0, 0], [255, 255, 255], [*OUTSIDE], [*OUTSIDE]]
    assert (stretched(values[np.newaxis], ~np.ones((1, 4), bool)) == OUTSIDE).all()
    # A number that is none where the mask says valid is drawn as the darkest.
    assert stretched(values[np.newaxis], np.array([[True, True, True, False]]))[0, 2].tolist() == [0, 0, 0]


def test_a_few_clouds_do_not_make_the_rest_black() -> None:
    values = np.random.default_rng(0).normal(1000, 50, (1, 100, 100))
    values[:, :6] = 9000
    picture = stretched(values, np.ones((100, 100), bool))
    assert (picture[:6] == 255).all()
    assert 85 < np.median(picture[6:]) < 130
    assert np.ptp(np.percentile(picture[6:], (5, 95))) > 80


def test_edges_are_two_pixels_wide() -> None:
    regions = np.zeros((6, 6), np.uint32)
    regions[2:, 3:] = 7
    expected = np.zeros((6, 6), bool)
    expected[1:3, 3:] = expected[2:, 2:4] = True
    assert (edges(regions) == expected).all()


def test_a_figure_has_the_size_that_was_asked_for_and_is_written_whole(tmp_path: Path) -> None:
    figure = new_figure(1.2, 0.7)
    figure.subplots().set_axis_off()
    picture = rendered(figure)
    assert picture.shape == (70, 120, 3) and (picture == 255).all()
    picture[3, 5] = 10, 20, 30
    save_picture(tmp_path / "a.png", picture)
    assert (np.rint(255 * matplotlib.image.imread(tmp_path / "a.png"))[..., :3] == picture).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
