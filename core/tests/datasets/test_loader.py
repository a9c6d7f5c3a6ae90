import itertools
import threading
import time

import numpy as np
import pytest
import torch

from geocore.datasets.loader import Batches, stack
from geocore.errors import DataError, SettingsError
from geocore.raster.grid import Window
from geocore.raster.scene import Patch
from geocore.tiling.samplers import ChunkedSampler, GridSampler

WINDOWS = [[Window(0, col, 4, 4) for col in range(3)], [None], [Window(8, col, 4, 4) for col in range(6)]]


def keys(draws):
    return [(draw.epoch, draw.index) for draw in draws]


def identity(items):
    return items


def batches(**options):
    options = {"batch_size": 4, "collate": identity, "threads": 0} | options
    return Batches(GridSampler(WINDOWS, seed=3), lambda draw: draw, **options)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_follow_the_epochs_and_leave_out_the_rest(threads):
    given = list(itertools.islice(batches(threads=threads), 5))
    assert [keys(batch) for batch in given] == [
        [(epoch, index) for index in range(start, start + 4)]
        for epoch, start in [(0, 0), (0, 4), (1, 0), (1, 4), (2, 0)]
    ]


def test_a_last_batch_that_is_kept_is_filled_from_the_start_of_its_epoch():
    given = list(itertools.islice(batches(drop_last=False), 4))
    assert keys(given[2]) == [(0, 8), (0, 9), (0, 0), (0, 1)]
    assert keys(given[3])[0] == (1, 0)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_read_the_sequence_of_one(world_size):
    one = itertools.islice(batches(), 4)
    ranks = [itertools.islice(batches(rank=rank, world_size=world_size), 4) for rank in range(world_size)]
    for whole, *parts in zip(one, *ranks, strict=True):
        assert [draw for part in parts for draw in part] == whole


@pytest.mark.parametrize("threads", [0, 2])
def test_the_state_counts_batches_handed_out_not_those_read_ahead(threads):
    expected = list(itertools.islice(batches(), 7))
    source = batches(threads=threads)
    iterator = iter(source)
    for _ in range(3):
        next(iterator)
    time.sleep(0.02)
    state = source.state_dict()
    resumed = batches(threads=threads)
    resumed.load_state_dict(state)
    assert list(itertools.islice(resumed, 4)) == expected[3:]


def test_reading_ahead_is_bounded_and_parallel():
    lock = threading.Lock()
    read, active, most = [], [0], [0]

    def slow(draw):
        with lock:
            read.append(draw)
            active[0] += 1
            most[0] = max(most[0], active[0])
        time.sleep(0.005)
        with lock:
            active[0] -= 1
        return draw

    iterator = iter(Batches(GridSampler(WINDOWS, seed=0), slow, batch_size=2, collate=identity, threads=3))
    next(iterator)
    time.sleep(0.15)
    assert len(read) == 6, "one batch handed out and two ahead"
    assert most[0] == 3
    before = threading.active_count()
    iterator.close()
    assert threading.active_count() < before, "closing must end the threads"


@pytest.mark.parametrize("threads", [0, 2])
def test_errors_of_a_reader_surface_where_the_batch_is_used(threads):
    def read(draw):
        if draw.index == 5:
            raise DataError("chip 5 is broken")
        return draw

    iterator = iter(Batches(GridSampler(WINDOWS, seed=0), read, batch_size=4, collate=identity, threads=threads))
    next(iterator)
    with pytest.raises(DataError, match="chip 5 is broken"):
        next(iterator)


def test_too_few_samples_and_uneven_shares_are_one_clear_line():
    with pytest.raises(DataError, match="an epoch has 10 samples, less than a batch of 16"):
        next(iter(batches(batch_size=16)))
    assert len(next(iter(batches(batch_size=16, drop_last=False)))) == 16
    with pytest.raises(SettingsError, match="batch_size = 4: must be a multiple of the 3 processes"):
        batches(world_size=3)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_made_in_place_are_the_items_stacked(threads):
    def read(draw):
        # Some items come with a mask for each band, so that places alone do not do.
        values = np.full((2, 3, 3), draw.index, np.uint16)
        return {
            "image": Patch(values, np.ones((1 + draw.index % 2, 3, 3), bool)),
            "keys": np.array([draw.epoch, draw.index]),
            "name": f"n{draw.index}",
        }

    def ours(collate):
        source = Batches(GridSampler(WINDOWS, seed=3), read, batch_size=4, collate=collate, threads=threads)
        return itertools.islice(source, 5)

    for batch, expected in zip(ours(None), ours(stack), strict=True):
        assert torch.equal(batch["image"]["values"], expected["image"]["values"])
        assert torch.equal(batch["image"]["valid"], expected["image"]["valid"])
        assert torch.equal(batch["keys"], expected["keys"])
        assert batch["name"] == expected["name"] and batch.keys() == expected.keys()


def test_processes_that_share_neighbourhoods_out_decode_none_twice():
    sampler = ChunkedSampler([(4000, 4000)], 32, 320, seed=0, batch_size=8, cells_px=[(64, 64)], each=8)
    met = []
    for rank in range(4):
        source = Batches(sampler, lambda draw: draw, batch_size=8, collate=identity, rank=rank, world_size=4, threads=0)
        draws = itertools.chain.from_iterable(itertools.islice(source, 80))
        met.append({(draw.window.row // 64, draw.window.col // 64) for draw in draws})
    assert sum(map(len, met)) <= 1.05 * len(set.union(*met)), "cells drawn twice by chance aside"
