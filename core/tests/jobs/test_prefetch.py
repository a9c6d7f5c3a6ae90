"""Stages in threads: bounded, in order, and ended by errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from geocore.errors import SceneError
from geocore.jobs.prefetch import in_order, read_ahead


def test_reader_is_bounded_and_its_errors_reach_the_consumer() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for index in range(50):
            made.append(index)
            yield index
        raise SceneError("block 51 is damaged")

    before = threading.active_count()
    values = read_ahead(source(), 2)
    assert next(values) == 0
    wait_until = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < wait_until:
        time.sleep(0.01)
    time.sleep(0.1)
    # One with the consumer, two waiting, one in the making.
    assert len(made) == 4
    with pytest.raises(SceneError, match="block 51"):
        list(values)
    assert made == list(range(50)) and threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_whichever_is_done_first(workers: int) -> None:
    def slow_at_first(value: int) -> int:
        time.sleep(0.02 if value % 5 == 0 else 0)
        return value * value

    assert list(in_order(range(40), slow_at_first, workers)) == [value * value for value in range(40)]


def test_workers_work_at_the_same_time_and_take_no_more_than_they_may() -> None:
    both = threading.Barrier(2, timeout=10)
    taken: list[int] = []

    def source() -> Iterator[int]:
        for value in range(20):
            taken.append(value)
            yield value

    results = in_order(source(), lambda value: both.wait() * 0 + value, 2)
    assert next(results) == 0
    assert len(taken) == 4
    assert list(results) == list(range(1, 20))


@pytest.mark.parametrize("workers", [1, 3])
def test_errors_of_work_and_source_reach_the_consumer_and_end_the_threads(workers: int) -> None:
    def work(value: int) -> int:
        if value == 7:
            raise SceneError("tile 7")
        return value

    def source() -> Iterator[int]:
        yield from range(5)
        raise SceneError("block 5")

    before = threading.active_count()
    done: list[int] = []
    with pytest.raises(SceneError, match="tile 7"):
        done.extend(in_order(range(20), work, workers))
    with pytest.raises(SceneError, match="block 5"):
        list(in_order(source(), work, workers))
    assert threading.active_count() == before
