"""Chunks in memory: equal to direct reads, decoded once, bounded."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocore.errors import SceneError
from geocore.raster.bands import Bands
from geocore.raster.block_cache import ChunkReader, Pool, chunk_for, with_chunk
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Patch, Scene
from geocore.raster.write import write_raster
from geocore.tiling.samplers import ChunkedSampler


class Counting:
    """A source that notes what is read of it."""

    def __init__(self, source, *, delay_s=0.0, fails=0):
        self.source, self.layer, self.shape = source, source.layer, source.shape
        self.reads, self.closed = [], False
        self._delay, self._fails = delay_s, fails

    def read(self, window):
        self.reads.append(window)
        time.sleep(self._delay)
        if len(self.reads) <= self._fails:
            raise SceneError("the file is damaged")
        return self.source.read(window)

    def close(self):
        self.closed = True


def source(shape=(40, 30), *, name="image", ratio=1, seed=0):
    rng = np.random.default_rng(seed)
    layer = Layer(name, Bands.named("a", "b", nodata=3), "uint16", ratio)
    return ArrayReader(layer, rng.integers(0, 9, (2, *shape)).astype(np.uint16))


def scene(**options):
    sources = {"image": source(), "coarse": source((10, 8), name="coarse", ratio=4, seed=1)}
    return Scene("a", Grid(40, 30), {name: Counting(its, **options) for name, its in sources.items()})


def equal(first: Patch, second: Patch):
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.valid, second.valid)
    assert first.values.dtype == second.values.dtype and first.valid.shape == second.valid.shape


PLACE = st.tuples(*[st.integers(-4, 14)] * 2, *[st.integers(1, 12)] * 2)


@given(PLACE, st.sampled_from([0, 1500, 1 << 20]), st.lists(PLACE, min_size=1, max_size=12))
def test_pooled_reads_are_direct_reads_outside_included(chunk, limit, places):
    direct = scene()
    through = with_chunk(scene(), Pool(limit), Window(*(4 * edge for edge in chunk)), 0)
    assert through.layers == direct.layers and through.grid == direct.grid
    for place in places:
        window = Window(*(4 * edge for edge in place))
        expected, read = direct.read_layers(window), through.read_layers(window)
        for name in expected:
            equal(read[name], expected[name])
            read[name].values[...] = 0  # the caller may write, and the next reader must not see it
            read[name].valid[...] = False


def test_the_windows_of_a_chunk_are_decoded_once():
    counting, pool = Counting(source((200, 200))), Pool(1 << 24)
    through = Scene("a", Grid(200, 200), {"image": counting})
    draws = ChunkedSampler(
        [(200, 200)], 16, 80, seed=0, batch_size=4, cells_px=[(32, 32)], each=8, open_at_once=4
    ).epoch(0)
    for draw in draws:
        assert draw.chunk.intersection(draw.window) == draw.window
        with_chunk(through, pool, draw.chunk, 0).read_layers(draw.window)
    assert len(counting.reads) == len(set(counting.reads)) <= 80 / 8 + 4, (
        "some are cut short at the ends of the sequence"
    )
    assert all(window.height <= 47 and window.width <= 47 for window in counting.reads)


def test_chunks_of_layers_of_several_pixel_sizes_are_those_of_the_sampler():
    inner, pool = scene(), Pool(1 << 24)
    draws = ChunkedSampler([(40, 30)], 8, 60, seed=0, batch_size=4, cells_px=[(10, 10)], each=4, align=4).epoch(0)
    for draw in draws:
        with_chunk(inner, pool, draw.chunk, 0).read_layers(draw.window)
    for counting in inner.readers.values():
        assert len(counting.reads) <= 15, "as many as there are chunks"


def test_a_window_that_is_drawn_alone_has_no_chunk():
    drawn = ChunkedSampler([(40, 30)], 8, 20, seed=0, batch_size=4, cells_px=[(10, 10)], each=1).epoch(0)
    assert {draw.chunk for draw in drawn} == {None}


def test_scenes_share_a_pool_under_keys_of_their_own():
    pool = Pool(1 << 20)
    first, second = source(seed=0), source(seed=5)
    window, chunk = Window(3, 3, 8, 8), Window(0, 0, 20, 20)
    for key, inner in enumerate((first, second)):
        equal(ChunkReader(inner, pool, chunk, key).read(window), inner.read(window))
    again = Counting(first)
    equal(ChunkReader(again, pool, chunk, 0).read(window), first.read(window))
    assert not again.reads, "opened again under its key, a source finds what was decoded"


def test_a_pool_forgets_the_least_recently_used_beyond_its_bytes():
    counting = Counting(source((16, 64)))
    each = 8 * 8 * 2 * (2 + 1)  # two bands of uint16 with a mask for each
    pool = Pool(2 * each)

    def read(cell, pool=pool):
        ChunkReader(counting, pool, Window(0, 8 * cell, 8, 8), 0).read(Window(0, 8 * cell, 1, 1))

    for cell in (0, 1, 0, 2):
        read(cell)
        assert pool.kept <= 2 * each
    read(0)
    assert len(counting.reads) == 3, "0 was used after 1, so 1 had to go"
    read(1)
    assert len(counting.reads) == 4
    small = Pool(0)
    read(0, small)
    assert small.kept == 0


def test_a_pool_lets_go_of_what_is_chosen():
    pool = Pool(10)
    for key in ("a", "b"):
        pool.get(key, lambda: [1], len)
    pool.drop(lambda key: key == "a")
    assert pool.kept == 1
    made = []
    for key in ("a", "b"):
        pool.get(key, lambda key=key: made.append(key) or [1], len)
    assert made == ["a"]


def test_what_is_let_go_of_while_it_is_made_reaches_those_who_asked_and_is_not_kept():
    pool = Pool(10)
    assert pool.get("a", lambda: pool.drop(lambda _: True) or [1], len) == [1]
    assert pool.kept == 0
    assert pool.get("a", lambda: [2], len) == [2]


def test_threads_wait_for_what_another_one_decodes():
    counting = Counting(source(), delay_s=0.05)
    through = ChunkReader(counting, Pool(1 << 20), Window(0, 0, 16, 16), 0)
    found: list[Patch] = []
    threads = [threading.Thread(target=lambda: found.append(through.read(Window(0, 0, 8, 8)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counting.reads) == 1 and len(found) == 4
    for patch in found:
        equal(patch, found[0])


def test_a_failed_read_is_raised_and_tried_again():
    counting = Counting(source(), fails=1)
    through = ChunkReader(counting, Pool(1 << 20), Window(0, 0, 16, 16), 0)
    with pytest.raises(SceneError, match="damaged"):
        through.read(Window(0, 0, 8, 8))
    equal(through.read(Window(0, 0, 8, 8)), counting.source.read(Window(0, 0, 8, 8)))


def test_closing_closes_the_files():
    inner = scene()
    with with_chunk(inner, Pool(0), Window(0, 0, 8, 8), 0):
        pass
    assert all(counting.closed for counting in inner.readers.values())


class Blocks:
    def __init__(self, shape, block):
        self.shape = shape
        if block:
            self.block = block


@pytest.mark.parametrize(
    "shape, block, size, cell",
    [
        ((10000, 10000), (512, 512), 256, (512, 512)),
        ((10000, 10000), (512, 512), 300, (1024, 1024)),
        ((10000, 10000), (256, 256), 256, (512, 512)),
        ((10000, 10000), (1, 10000), 256, (256, 10000)),
        ((10000, 7000), (100, 7000), 256, (300, 7000)),
        ((300, 300), (300, 300), 256, (600, 600)),
        ((300, 300), None, 100, (200, 200)),
    ],
)
def test_cells_lie_along_blocks(shape, block, size, cell):
    assert chunk_for(Blocks(shape, block), size) == cell


def test_a_file_is_read_the_same_through_a_pool(tmp_path: Path):
    path = tmp_path / "a.tif"
    values = np.random.default_rng(0).integers(0, 1000, (2, 300, 280)).astype(np.uint16)
    write_raster(path, values, grid=Grid(300, 280))
    with open_raster(path) as direct, open_raster(path) as inner:
        cell, pool = chunk_for(inner.readers["image"], 32), Pool(1 << 22)
        for draw in ChunkedSampler([(300, 280)], 32, 40, seed=0, batch_size=4, cells_px=[cell], each=8).epoch(0):
            through = with_chunk(inner, pool, draw.chunk, 0)
            equal(through.read_layers(draw.window)["image"], direct.read_layers(draw.window)["image"])
