"""Networks put values in their places, and the middle of what a pixel has is numpy's, whatever is missing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crops_activesampling.median_network import comparisons, middle_of


def medians(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(twice the median, count) of each pixel, of images of shape (image, pixel)."""
    scratch = np.full((len(images) + 1, images.shape[1]), 4711, np.uint16)
    before = images.copy()
    low, high, count = middle_of(list(images), scratch)
    np.testing.assert_array_equal(images, before)
    return low.astype(np.int64) + high, count


def by_numpy(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = [pixel[pixel != 0] for pixel in images.T]
    doubled = [2 * np.median(pixel) if pixel.size else 0 for pixel in pixels]
    return np.array(doubled), np.array([pixel.size for pixel in pixels])


@st.composite
def stacks(draw: st.DrawFn) -> np.ndarray:
    """Images of a few pixels, with whole images, single pixels or nothing missing, and many equal values."""
    number, pixels = draw(st.integers(1, 40)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = rng.integers(1, draw(st.sampled_from([2, 9, 10_000, 65_535])), (number, pixels), np.uint16, endpoint=True)
    images[rng.uniform(size=images.shape) < draw(st.sampled_from([0, 0.01, 0.3, 0.9]))] = 0
    images[rng.uniform(size=number) < draw(st.sampled_from([0, 0.3, 1]))] = 0
    return images


@given(stacks())
def test_the_middle_is_numpys_median_of_what_each_pixel_has(images: np.ndarray) -> None:
    doubled, count = medians(images)
    expected, seen = by_numpy(images)
    np.testing.assert_array_equal(doubled, expected)
    np.testing.assert_array_equal(count, seen)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_every_pattern_of_gaps_gives_the_median_of_the_rest(number: int) -> None:
    values = np.random.default_rng(number).permutation(np.arange(10, 10 + number)).astype(np.uint16)
    present = np.array(list(itertools.product([False, True], repeat=number))).T
    images = np.where(present, values[:, None], 0).astype(np.uint16)
    np.testing.assert_array_equal(medians(images)[0], by_numpy(images)[0])


def test_more_images_than_a_byte_counts() -> None:
    images = np.random.default_rng(0).integers(0, 65_535, (301, 40), np.uint16, endpoint=True)
    images[:, 0] = 0
    for result, expected in zip(medians(images), by_numpy(images), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("number", range(1, 14))
def test_a_network_sorts_every_sequence_of_zeros_and_ones(number: int) -> None:
    # Then it sorts all sequences (the 0-1 principle of sorting networks).
    columns = np.array(list(itertools.product([0, 1], repeat=number)), np.uint8).T
    expected = np.sort(columns, axis=0)
    for ranks in [tuple(range(number)), ((number - 1) // 2, number // 2), (0,)]:
        values = columns.copy()
        for first, second, (lower, higher) in comparisons(number, ranks):
            a, b = values[first].copy(), values[second].copy()
            # What is said not to be needed is spoilt.
            values[first] = np.minimum(a, b) if lower else 7
            values[second] = np.maximum(a, b) if higher else 7
        np.testing.assert_array_equal(values[list(ranks)], expected[list(ranks)])


def test_a_network_for_the_middle_leaves_comparisons_out() -> None:
    assert len(comparisons(3, (1,))) == 3
    for number in (8, 16, 31, 64):
        assert len(comparisons(number, (number // 2,))) < len(comparisons(number, tuple(range(number))))
    for number in (2, 8, 16):
        # The lowest and the highest need one comparison less than there are values, and one half of each.
        for rank, keeps in ((0, (True, False)), (number - 1, (False, True))):
            assert [pair.keeps for pair in comparisons(number, (rank,))] == [keeps] * (number - 1)
