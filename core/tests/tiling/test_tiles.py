"""Tiles cover a scene exactly and their weights sum to one, for any length, size, overlap and alignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore.errors import SettingsError
from geocore.raster.grid import Window
from geocore.tiling.tiles import Chunk, TileGrid, chunks, tiles_in


@st.composite
def tilings(draw: st.DrawFn) -> TileGrid:
    align = draw(st.sampled_from([1, 1, 2, 3, 6]))
    units = draw(st.integers(1, 24))
    return TileGrid(units * align, draw(st.integers(0, units - 1)) * align, align)


lengths = st.one_of(st.integers(1, 12), st.integers(1, 400))


@given(tilings(), lengths)
@settings(deadline=None)
def test_starts_are_aligned_and_leave_no_gap(tiling: TileGrid, length: int) -> None:
    starts = tiling.starts(length)
    assert starts[0] == 0
    assert all(0 < b - a <= tiling.stride for a, b in zip(starts, starts[1:], strict=False))
    assert all(start % tiling.align == 0 for start in starts)
    assert all(b - a == tiling.stride for a, b in zip(starts, starts[1:-1], strict=False))
    end = starts[-1] + tiling.size
    if length > tiling.size:
        assert length <= end < length + tiling.align
    else:
        assert starts == (0,)
    # No tile more than needed: without the last one the border is not reached.
    assert len(starts) == 1 or starts[-2] + tiling.size < length


@given(tilings(), lengths, lengths)
@settings(max_examples=50, deadline=None)
def test_windows_cover_every_pixel_of_thin_and_small_scenes(tiling: TileGrid, height: int, width: int) -> None:
    shape = (height, min(width, 60))
    positions = tiling.grid_positions(shape)
    assert [window for _, _, window in positions] == tiling.windows(shape)
    assert [(i, j) for i, j, _ in positions] == sorted({(i, j) for i, j, _ in positions})
    seen = np.zeros((height + tiling.size, shape[1] + tiling.size), int)
    for window in tiling.windows(shape):
        assert window.shape == (tiling.size, tiling.size)
        seen[window.slices] += 1
    assert seen[:height, : shape[1]].min() >= 1


@given(tilings(), lengths)
@settings(deadline=None)
def test_weights_sum_to_one_and_are_never_zero(tiling: TileGrid, length: int) -> None:
    starts, weights = tiling.starts(length), tiling.weights(length)
    total = np.zeros(starts[-1] + tiling.size)
    for start, weight in zip(starts, weights, strict=True):
        assert weight.shape == (tiling.size,)
        assert weight.dtype == np.float32
        assert weight.min() > 0
        total[start : start + tiling.size] += weight
    assert np.abs(total - 1).max() <= 1e-6


@given(tilings(), lengths)
@settings(deadline=None)
def test_weights_change_gradually_where_tiles_overlap(tiling: TileGrid, length: int) -> None:
    # A Hann ramp of n pixels is nowhere steeper than pi / 2 / n a pixel, and the steepest ramp spans the overlap.
    # Dividing by the sum steepens it where many tiles meet: by up to 1.77 in 6,000 random tilings of these sizes.
    if tiling.overlap == 0:
        return
    starts = tiling.starts(length)
    end = starts[-1] + tiling.size
    for start, weight in zip(starts, tiling.weights(length), strict=True):
        full = np.zeros(end)
        full[start : start + tiling.size] = weight
        assert np.abs(np.diff(full)).max(initial=0) <= 2 * np.pi / 2 / tiling.overlap


def test_weights_of_regular_tiles_are_plain_hann_ramps() -> None:
    first, second, third = TileGrid(8, 4).weights(16)
    rise = np.sin(np.pi / 2 * np.array([0.125, 0.375, 0.625, 0.875])) ** 2
    np.testing.assert_allclose(first, [1, 1, 1, 1, *rise[::-1]], rtol=1e-6)
    np.testing.assert_allclose(second, [*rise, *rise[::-1]], rtol=1e-6)
    np.testing.assert_allclose(third, [*rise, 1, 1, 1, 1], rtol=1e-6)


def test_the_border_of_the_scene_does_not_fade() -> None:
    for length in (5, 64, 65, 100, 1000):
        weights = TileGrid(64, 16).weights(length)
        assert weights[0][0] == 1
        assert weights[-1][-1] == 1


def test_a_shared_last_tile_blends_over_all_that_it_shares() -> None:
    # Stride 8 without overlap; the last tile is moved back by 5 pixels and must not meet its neighbour in a hard edge.
    weights = TileGrid(8).weights(19)
    np.testing.assert_array_equal(weights[0], np.ones(8))
    assert (np.diff(weights[1][3:]) < 0).all()
    assert (np.diff(weights[2][:5]) > 0).all()


@pytest.mark.parametrize(
    ("size", "overlap", "align", "words"),
    [
        (0, 0, 1, "tiling.size = 0"),
        (64, 64, 1, "tiling.overlap = 64: must be from 0 to 63"),
        (64, -1, 1, "tiling.overlap = -1"),
        (64, 0, 0, "tiling.align = 0"),
        (64, 0, 6, "size = 64: must be a multiple of 6, the coarsest layer's pixel; 66 fits"),
        (60, 10, 6, "stride (size - overlap) = 50: must be a multiple of 6"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(size: int, overlap: int, align: int, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TileGrid(size, overlap, align)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_axis_without_pixels_is_a_bug() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        TileGrid(8).starts(0)


@given(lengths, lengths, st.integers(1, 120), st.sampled_from([1, 2, 3, 25]))
@settings(max_examples=40, deadline=None)
def test_chunks_own_every_pixel_once(height: int, width: int, size: int, align: int) -> None:
    size = max(size, align)
    plan = chunks((height, width), size, align)
    owned = np.zeros((height, width), int)
    for chunk in plan:
        window = chunk.window
        assert window.row_stop <= height
        assert window.col_stop <= width
        assert window.height <= size
        assert window.width <= size
        assert window.row % align == window.col % align == 0
        owned[window.slices] += 1
    assert (owned == 1).all()
    assert [chunk.key for chunk in plan] == sorted({chunk.key for chunk in plan})


def test_chunks_share_the_scene_equally() -> None:
    assert [chunk.window.height for chunk in chunks((1030, 100), 1024)] == [515, 515]
    assert chunks((300, 200), 1024) == [Chunk("r000000-c000000", Window(0, 0, 300, 200))]
    with pytest.raises(SettingsError, match="chunk size = 10: must be at least 25"):
        chunks((300, 200), 10, 25)


@given(tilings(), lengths, lengths, st.integers(20, 100))
@settings(max_examples=40, deadline=None)
def test_tiles_of_a_chunk_are_those_that_touch_it(tiling: TileGrid, height: int, width: int, size: int) -> None:
    shape = (height, width % 40 + 1)
    everything = tiling.grid_positions(shape)
    for chunk in chunks(shape, size, tiling.align):
        expected = [tile for tile in everything if tile[2].intersection(chunk.window) is not None]
        assert tiles_in(chunk, tiling, shape) == expected
