"""Blocks in a cache are those of the source, and each is decoded once for tiles that come in order."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore.raster import block_cache
from geocore.raster.bands import Bands
from geocore.raster.block_cache import BlockCacheReader, cached_blocks
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Patch, Scene
from geocore.tiling.tiles import TileGrid


class BlockedSource(ArrayReader):
    """An array that counts how often each of its blocks would be decoded."""

    def __init__(self, values: np.ndarray, block: tuple[int, int], *, nodata: float | None = None, ratio: int = 1):
        bands = Bands.named(*(f"b{i}" for i in range(values.shape[-3])), nodata=nodata)
        times = tuple(f"2020-01-{day + 1:02d}" for day in range(len(values))) if values.ndim == 4 else ()
        super().__init__(Layer("image", bands, str(values.dtype), ratio, times), values)
        self.block = block
        self.decoded: Counter[tuple[int, int]] = Counter()
        self.read_before = False

    def read(self, window: Window) -> Patch:
        if self.read_before:
            for row in range(window.row // self.block[0], -(-window.row_stop // self.block[0])):
                for col in range(window.col // self.block[1], -(-window.col_stop // self.block[1])):
                    self.decoded[row, col] += 1
        self.read_before = True  # the first read is of one pixel, to learn the number of masks
        return super().read(window)


class DecodingBlocks(BlockedSource):
    """The same, which also decodes into arrays that are there."""

    def decode(self, window: Window, into: Patch) -> None:
        patch = self.read(window)
        assert (into.values.shape, into.valid.shape) == (patch.values.shape, patch.valid.shape)
        into.values[...], into.valid[...] = patch.values, patch.valid


def image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50, shape, np.uint16)


@given(
    shape=st.tuples(st.integers(1, 200), st.integers(1, 40)),
    block=st.tuples(st.integers(1, 90), st.integers(1, 45)),
    windows=st.lists(st.tuples(*(st.integers(0, 199) for _ in range(4))), min_size=1, max_size=12),
    columns=st.tuples(st.integers(-5, 20), st.integers(21, 60)),
    dated=st.booleans(),
    kind=st.sampled_from([BlockedSource, DecodingBlocks]),
)
@settings(max_examples=200, deadline=None)
def test_any_windows_in_any_order_equal_the_source(shape, block, windows, columns, dated, kind) -> None:
    source = kind(image((2, 3, *shape) if dated else (3, *shape)), block, nodata=7)
    cache = BlockCacheReader(source, block, columns)
    for row, col, height, width in windows:
        row, col = row % shape[0], col % shape[1]
        window = Window(row, col, min(max(height, 1), shape[0] - row), min(max(width, 1), shape[1] - col))
        found, expected = cache.read(window), source.read(window)
        assert found.values.dtype == expected.values.dtype and np.array_equal(found.values, expected.values)
        assert found.valid.shape == expected.valid.shape and np.array_equal(found.valid, expected.valid)
        # What was handed out belongs to the caller.
        found.values[...], found.valid[...] = 0, False


@given(
    shape=st.tuples(st.integers(1, 300), st.integers(1, 60)),
    block=st.tuples(st.integers(1, 80), st.integers(1, 70)),
    size=st.integers(1, 90),
    overlap=st.integers(0, 89),
    kind=st.sampled_from([BlockedSource, DecodingBlocks]),
)
@settings(max_examples=150, deadline=None)
def test_each_block_is_decoded_once_for_the_tiles_of_a_scene(shape, block, size, overlap, kind) -> None:
    tiling = TileGrid(size, overlap % size)
    source = kind(image((2, *shape)), block)
    scene = Scene("s", Grid(*shape), {"image": source})
    expected = Scene("s", Grid(*shape), {"image": ArrayReader(source.layer, image((2, *shape)))})
    with cached_blocks(scene, (0, shape[1])) as fed:
        for window in tiling.windows(shape):
            found = fed.read_layers(window)["image"]
            assert np.array_equal(found.values, expected.read_layers(window)["image"].values)
    grid = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    assert source.decoded == dict.fromkeys(np.ndindex(grid), 1)


def test_only_the_blocks_that_are_touched_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "PIECE_BYTES", 1)
    source = BlockedSource(image((1, 256, 256)), (64, 16))
    tiles = [Window(row, col, 64, 16) for row in (70, 120, 170) for col in (100, 112, 124)]
    with cached_blocks(Scene("s", Grid(256, 256), {"image": source}), (0, 256)) as fed:
        for window in tiles:
            fed.read_layers(window)
    touched = {
        (row // 64, col // 16)
        for window in tiles
        for row in range(window.row, window.row_stop)
        for col in range(window.col, window.col_stop)
    }
    assert source.decoded == dict.fromkeys(touched, 1)


def test_layers_without_blocks_and_coarser_layers() -> None:
    fine = ArrayReader(Layer("fine", Bands.named("a"), "uint16"), image((1, 40, 40)))
    coarse = BlockedSource(image((1, 8, 8)), (3, 8), ratio=5)
    scene = Scene("s", Grid(40, 40), {"fine": fine, "image": coarse})
    with cached_blocks(scene, (10, 30)) as fed:
        assert fed.readers["fine"] is fine and fed.readers["image"] is not coarse
        for row in range(0, 40, 10):
            found, expected = (each.read_layers(Window(row, 10, 20, 20)) for each in (fed, scene))
            for name in found:
                assert np.array_equal(found[name].values, expected[name].values)
                assert np.array_equal(found[name].valid, expected[name].valid)
    with cached_blocks(Scene("s", Grid(40, 40), {"fine": fine}), (0, 40)) as untouched:
        assert untouched.readers == {"fine": fine}


def test_errors_of_the_source_pass_and_the_next_read_goes_on() -> None:
    class Failing(BlockedSource):
        broken = True

        def read(self, window: Window) -> Patch:
            if self.broken and window.row_stop > 64:
                raise OSError("damaged")
            return super().read(window)

    source = Failing(image((1, 160, 32)), (64, 8))
    cache = BlockCacheReader(source, source.block, (0, 32))
    cache.read(Window(0, 0, 8, 32))
    with pytest.raises(OSError, match="damaged"):
        cache.read(Window(60, 0, 8, 32))
    source.broken = False
    assert np.array_equal(cache.read(Window(60, 0, 8, 32)).values, image((1, 160, 32))[:, 60:68])
