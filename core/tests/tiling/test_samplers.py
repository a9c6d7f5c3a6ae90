"""Samplers of windows: pure functions of seed, epoch and index, with the densities they state."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocore.errors import SettingsError
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.settings import ClassSamplingSettings, SamplingSettings
from geocore.tiling.samplers import (
    ChunkedSampler,
    Density,
    GridSampler,
    PatchIndex,
    RandomWindowSampler,
    count_classes,
    window_sampler,
)
from geocore.tiling.tiles import TileGrid

WINDOWS = [[Window(0, col, 4, 4) for col in range(3)], [None], [Window(8, col, 4, 4) for col in range(6)]]


def cells(draws, cell):
    return [(draw.sample, draw.window.row // cell[0], draw.window.col // cell[1]) for draw in draws]


def test_grid_sampler_draws_each_window_once_in_an_order_of_seed_and_epoch():
    sampler = GridSampler(WINDOWS, seed=3)
    first, again, second = sampler.epoch(0), GridSampler(WINDOWS, seed=3).epoch(0), sampler.epoch(1)
    everything = {(sample, window) for sample, its in enumerate(WINDOWS) for window in its}
    assert {(draw.sample, draw.window) for draw in first} == everything
    assert first == again
    assert [(draw.epoch, draw.index) for draw in first] == [(0, index) for index in range(10)]
    assert [draw.window for draw in first] != [draw.window for draw in second]
    assert [draw.window for draw in first] != [draw.window for draw in GridSampler(WINDOWS, seed=4).epoch(0)]
    unshuffled = GridSampler(WINDOWS, seed=3, shuffle=False).epoch(5)
    assert unshuffled[3] == PatchIndex(1, None, 5, 3)


def test_random_windows_depend_on_seed_epoch_and_index_alone():
    shapes = [(100, 50), (40, 64)]
    long = RandomWindowSampler(shapes, 32, 200, seed=1).epoch(2)
    assert RandomWindowSampler(shapes, 32, 30, seed=1).epoch(2) == long[:30]
    assert RandomWindowSampler(shapes, 32, 200, seed=1).epoch(3)[:30] != long[:30]
    for draw in long:
        rows, cols = shapes[draw.sample]
        assert 0 <= draw.window.row <= rows - 32
        assert 0 <= draw.window.col <= cols - 32
    assert {draw.window.row for draw in long if draw.sample == 1} == set(range(9)), "every position must be reachable"


def test_random_windows_follow_area_or_weights_and_alignment():
    shapes = [(300, 100), (100, 100), (8, 8)]
    drawn = RandomWindowSampler(shapes, 16, 4000, seed=0, align=4).epoch(0)
    counts = np.bincount([draw.sample for draw in drawn], minlength=3)
    assert counts[0] / counts[1] == pytest.approx(3, rel=0.15)
    assert all(draw.window.row % 4 == 0 and draw.window.col % 4 == 0 for draw in drawn)
    small = RandomWindowSampler(shapes, 16, 50, seed=0, weights=[0, 0, 1]).epoch(0)
    assert {(draw.sample, draw.window) for draw in small} == {(2, Window(0, 0, 16, 16))}
    with pytest.raises(ValueError, match="not all 0"):
        RandomWindowSampler(shapes, 16, 50, seed=0, weights=[0, 0, 0])


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 5),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.integers(1, 9),
    st.sampled_from([(1, 1), (4, 1), (4, 2), (4, 4), (4, 12), (3, 6)]),
    st.integers(1, 80),
)
def test_neighbourhood_draws_are_legal_and_repeat(shapes, size, align, cell, each, places, draws):
    sampler = ChunkedSampler(
        shapes,
        size,
        draws,
        seed=3,
        batch_size=places[0],
        cells_px=[cell] * len(shapes),
        each=each,
        open_at_once=places[1],
        align=align,
    )
    drawn = sampler.epoch(1)
    assert drawn == sampler.epoch(1) and [draw.index for draw in drawn] == list(range(draws))
    for draw in drawn:
        rows, cols = shapes[draw.sample]
        assert draw.window.row % align == 0 and draw.window.col % align == 0
        assert 0 <= draw.window.row <= max(0, rows - size) and 0 <= draw.window.col <= max(0, cols - size)


@pytest.mark.parametrize("opened", [1, 2, 4, 8, 24])
def test_neighbourhoods_give_their_windows_to_places_of_their_own(opened):
    batch_size, each = 8, 6
    sampler = ChunkedSampler(
        [(40_000, 40_000)],
        64,
        160,
        seed=0,
        batch_size=batch_size,
        cells_px=[(128, 128)],
        each=each,
        open_at_once=opened,
    )
    draws = [draw for epoch in range(6) for draw in sampler.epoch(epoch)]
    places = {}
    # Cells are so many that none is drawn twice.
    for at, (draw, cell) in enumerate(zip(draws, cells(draws, (128, 128)), strict=True)):
        places.setdefault(cell, []).append((at // batch_size, draw.index % batch_size))
    whole = [its for its in places.values() if len(its) == each]
    # Of each slot, the first chunk and the last are cut short at most.
    assert len(places) - len(whole) <= 2 * opened and max(map(len, places.values())) == each
    sharing, turns = max(1, batch_size // opened), max(1, opened // batch_size)
    for its in places.values():
        assert len({place // sharing for _, place in its}) == 1, "a process with these places meets it alone"
        batches = [batch for batch, _ in its]
        assert (batches[-1] - batches[0]) <= turns * -(-each // sharing), "near enough in time to be kept"
    for start in range(0, len(draws), batch_size):
        assert len(set(cells(draws[start : start + batch_size], (128, 128)))) >= min(opened, batch_size)
    starts = Counter(its[0][0] for its in whole)
    if opened >= batch_size:
        assert max(starts.values()) <= batch_size / 2, "they do not all open in one batch"


def test_every_legal_position_is_equally_likely_with_borders_and_seams():
    sampler = ChunkedSampler([(21, 14)], 6, 40_000, seed=0, batch_size=8, cells_px=[(4, 5)], each=4)
    counts = np.zeros((16, 9))
    for draw in sampler.epoch(0):
        counts[draw.window.row, draw.window.col] += 1
    expected = counts.sum() / counts.size
    # 143 degrees of freedom: 0.1 % of samples of independent draws exceed 200. Even spreading lowers it.
    assert ((counts - expected) ** 2 / expected).sum() < 200


def test_a_samples_chance_is_its_share_of_the_area_unless_densities_say_otherwise():
    shapes = [(300, 100), (100, 100), (16, 16)]
    drawn = ChunkedSampler(shapes, 16, 8000, seed=0, batch_size=8, cells_px=[(32, 32)] * 3, each=4).epoch(0)
    counts = np.bincount([draw.sample for draw in drawn], minlength=3)
    # Chunks are spread evenly, so shares hold to a few of them.
    assert counts == pytest.approx(8000 * np.array([30000, 10000, 256]) / 40256, abs=2 * 4)
    densities = [Density(np.array([[weight]]), 1000) for weight in (0.0, 1.0, 0.0)]
    only = ChunkedSampler(shapes, 16, 50, seed=0, batch_size=8, cells_px=[(32, 32)] * 3, densities=densities).epoch(0)
    assert {draw.sample for draw in only} == {1}


def test_draws_follow_a_density_cell_by_cell_within_neighbourhoods():
    values = np.random.default_rng(1).random((5, 5)) ** 4
    values[2, 3] = 0
    sampler = ChunkedSampler(
        [(60, 60)], 12, 50_000, seed=0, batch_size=8, cells_px=[(20, 30)], each=3, densities=[Density(values, 10)]
    )
    counts = np.zeros((5, 5))
    for draw in sampler.epoch(0):
        counts[draw.window.row // 10, draw.window.col // 10] += 1
    edges = np.array([10, 10, 10, 10, 9])
    expected = values * np.outer(edges, edges)
    expected *= counts.sum() / expected.sum()
    assert counts[2, 3] == 0
    known = expected > 0
    assert ((counts - expected)[known] ** 2 / expected[known]).sum() < 3 * 52, "0.1 % of 23 degrees, groups of 3"


def test_seeds_and_epochs_differ():
    def epoch(seed, number):
        return ChunkedSampler([(500, 500)], 64, 64, seed=seed, batch_size=8, cells_px=[(128, 128)]).epoch(number)

    windows = [[draw.window for draw in epoch(*key)] for key in ((0, 0), (0, 1), (1, 0))]
    assert windows[0] != windows[1] != windows[2] != windows[0]


def test_neighbourhoods_that_cannot_be_are_refused():
    def sampler(**options):
        return ChunkedSampler([(50, 50)], 16, 10, seed=0, **({"batch_size": 8, "cells_px": [(16, 16)]} | options))

    with pytest.raises(ValueError, match="must be >= 1"):
        sampler(each=0)
    with pytest.raises(
        SettingsError, match="open_at_once = 20: must be a multiple or a divisor of batch_size = 8; take 24"
    ):
        sampler(open_at_once=20)
    with pytest.raises(ValueError, match="0 everywhere"):
        sampler(densities=[Density(np.zeros((1, 1)), 64)])
    with pytest.raises(ValueError, match="needs one a sample"):
        sampler(densities=[])
    with pytest.raises(ValueError, match="3 x 3 cells are needed"):
        sampler(densities=[Density(np.ones((1, 1)), 16)])
    with pytest.raises(ValueError, match="multiple of 3"):
        sampler(densities=[Density(np.ones((3, 3)), 16)], align=3)


# --- the sampler that settings ask for ---


def stored_of(shape, block, *, bands=6):
    class Blocks(ArrayReader):
        pass

    source = Blocks(
        Layer("image", Bands.named(*map(str, range(bands))), "uint16"), np.zeros((bands, *shape), np.uint16)
    )
    source.block = block
    return Scene("scene.tif", Grid(*shape), {"image": source})


def chosen(settings, shapes, blocks=None, **options):
    def stored(index):
        return stored_of(shapes[index], blocks[index])

    return window_sampler(settings, shapes, 16, 40, seed=3, batch_size=8, stored=stored, **options)


def test_random_windows_are_what_is_drawn_unless_settings_say_otherwise():
    shapes = [(60, 40), (20, 30)]
    assert chosen(SamplingSettings(), shapes).epoch(2) == RandomWindowSampler(shapes, 16, 40, seed=3).epoch(2)


def test_a_grid_holds_the_tiles_of_prediction_once():
    shapes = [(40, 16), (8, 8)]
    drawn = chosen(SamplingSettings(kind="grid"), shapes, overlap=4).epoch(0)
    tiles = [(i, window) for i, shape in enumerate(shapes) for window in TileGrid(16, 4).windows(shape)]
    assert len(tiles) == 4 and Counter((draw.sample, draw.window) for draw in drawn) == Counter(tiles)


def test_chunks_lie_along_the_blocks_of_each_file():
    shapes, blocks = [(100, 100), (100, 90)], [(32, 32), (8, 90)]
    settings = SamplingSettings(kind="chunked", windows_per_chunk=5)
    drawn = [draw for epoch in range(10) for draw in chosen(settings, shapes, blocks).epoch(epoch)]
    expected = ChunkedSampler(
        shapes, 16, 40, seed=3, batch_size=8, cells_px=[(32, 32), (16, 90)], each=5, open_at_once=16
    )
    assert drawn == [draw for epoch in range(10) for draw in expected.epoch(epoch)]
    for draw in drawn:
        rows, cols = ((32, 32), (16, 90))[draw.sample]
        assert draw.chunk.row % rows == draw.chunk.col % cols == 0
        assert (draw.chunk.height, draw.chunk.width) == (rows + 15, cols + 15)


def wide(width):
    """A scene of strips, of which one pixel is there to tell its bytes: 12 and 6 masks."""
    scene = stored_of((2, 2), (1, width))
    scene.readers["image"].shape = (1000, width)
    return scene


@pytest.mark.parametrize("width, opened", [(1000, 16), (100_000, 8), (200_000, 4), (900_000, 1)])
def test_fewer_chunks_are_open_where_they_are_large(monkeypatch, width, opened):
    given = []
    monkeypatch.setattr("geocore.tiling.samplers.ChunkedSampler", lambda *_, **options: given.append(options))
    settings, scene = SamplingSettings(kind="chunked"), wide(width)
    window_sampler(settings, [(1000, width)], 16, 40, seed=0, batch_size=8, stored=lambda _: scene)
    assert given[0]["cells_px"] == [(16, width)] and given[0]["open_at_once"] == opened
    assert opened * 31 * width * 18 <= 2**29, "512 MiB"


def test_a_chunk_that_does_not_fit_into_memory_is_refused():
    settings, scene = SamplingSettings(kind="chunked"), wide(1_000_000)
    with pytest.raises(
        SettingsError, match=r"sampling.kind = chunked: a chunk of scene.tif, .* takes 0.6 GB, more than 0.5: .*TILED"
    ):
        window_sampler(settings, [(1000, 1_000_000)], 16, 40, seed=0, batch_size=8, stored=lambda _: scene)


@pytest.mark.parametrize("kind", ["random", "chunked"])
def test_balanced_windows_meet_every_class_that_is_there_equally_often(kind):
    # Class 1 has one pixel of forty, in a corner; class 2 is nowhere.
    labels = np.zeros((1, 200, 200), np.uint8)
    labels[0, :32, :32] = 1
    source = ArrayReader(Layer("mask", Bands.named("1"), "uint8"), labels)
    asked = []

    def counts(cell_px):
        asked.append(cell_px)
        return [count_classes(source, [0, 1, 2], cell_px=cell_px)]

    settings = ClassSamplingSettings(kind=kind, balance="classes")
    scene = stored_of((200, 200), (32, 32))
    sampler = window_sampler(
        settings, [(200, 200)], 16, 2000, seed=0, batch_size=8, stored=lambda _: scene, counts=counts
    )
    drawn = sampler.epoch(0)
    assert all((draw.chunk is None) == (kind == "random") for draw in drawn)
    near = sum(draw.window.row < 32 and draw.window.col < 32 for draw in drawn) / len(drawn)
    assert near == pytest.approx(0.5, abs=0.05) and asked == [2], "eight cells along a window"


def test_settings_that_would_do_nothing_are_refused():
    with pytest.raises(ValueError, match="balance classes with kind grid: .* give --sampling.kind random or chunked"):
        ClassSamplingSettings(kind="grid", balance="classes")
    for kind in ("random", "grid"):
        with pytest.raises(ValueError, match=f"windows_per_chunk 16 with kind {kind}: .* --sampling.kind chunked"):
            SamplingSettings(kind=kind, windows_per_chunk=16)
