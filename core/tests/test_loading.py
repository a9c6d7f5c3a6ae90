import itertools
import threading
import time

import numpy as np
import pytest
import torch

from geocore.errors import DataError, SettingsError
from geocore.grid import Window
from geocore.loading import Batches, Draw, GridSampler, RandomWindowSampler, stack
from geocore.scenes import Patch

WINDOWS = [[Window(0, col, 4, 4) for col in range(3)], [None], [Window(8, col, 4, 4) for col in range(6)]]


def keys(draws):
    return [(draw.epoch, draw.index) for draw in draws]


def identity(items):
    return items


def batches(**options):
    options = {"batch_size": 4, "collate": identity, "threads": 0} | options
    return Batches(GridSampler(WINDOWS, seed=3), lambda draw: draw, **options)


def test_grid_sampler_draws_each_window_once_in_an_order_of_seed_and_epoch():
    sampler = GridSampler(WINDOWS, seed=3)
    first, again, second = sampler.epoch(0), GridSampler(WINDOWS, seed=3).epoch(0), sampler.epoch(1)
    everything = {(sample, window) for sample, its in enumerate(WINDOWS) for window in its}
    assert {(draw.sample, draw.window) for draw in first} == everything
    assert first == again
    assert keys(first) == [(0, index) for index in range(10)]
    assert [draw.window for draw in first] != [draw.window for draw in second]
    assert [draw.window for draw in first] != [draw.window for draw in GridSampler(WINDOWS, seed=4).epoch(0)]
    unshuffled = GridSampler(WINDOWS, seed=3, shuffle=False).epoch(5)
    assert unshuffled[3] == Draw(1, None, 5, 3)


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


def test_stack_keeps_types_and_structure():
    items = [
        {
            "inputs": {"image": Patch(np.full((2, 3, 3), k, np.uint16), np.ones((k, 3, 3), bool))},
            "keys": np.array([0, k]),
            "name": f"n{k}",
            "value": float(k),
            "big": np.array([k], ">u2"),
            "boxes": [k],
        }
        for k in (1, 2)
    ]
    batch = stack(items)
    image = batch["inputs"]["image"]
    assert image["values"].dtype == torch.uint16 and image["values"].shape == (2, 2, 3, 3)
    assert image["valid"].dtype == torch.bool and image["valid"].shape == (2, 2, 3, 3)
    assert batch["keys"].tolist() == [[0, 1], [0, 2]]
    assert batch["big"].tolist() == [[1], [2]]
    assert batch["value"].dtype == torch.float32
    assert batch["name"] == ["n1", "n2"] and batch["boxes"] == [[1], [2]]
