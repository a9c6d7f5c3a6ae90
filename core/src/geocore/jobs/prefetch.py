"""Stages of work that run beside each other in threads and hand their results on in order.

Reading, computing and writing release Python's lock while they work, so threads of one process keep all cores busy
and share the network and the buffers.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(source: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Run an iterator in a thread, at most `depth` values ahead of the consumer.

    Args:
        source: what to iterate over; used by the thread alone.
        depth: values that may wait. One more is in the making and one with the consumer.

    Yields:
        The values in order.

    Raises:
        Exception: whatever the source raised, when the consumer gets there.
    """
    ready: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[list[T], BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for value in source:
                if not put(([value], None)):
                    return
            put(([], None))
        except BaseException as error:  # the consumer raises it
            put(([], error))

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            values, error = ready.get()
            if error is not None:
                raise error
            if not values:
                return
            # The list is emptied so that a value is not kept alive here while the consumer works on it.
            yield values.pop()
    finally:
        stopped.set()
        thread.join()


def in_order(source: Iterable[T], work: Callable[[T], R], workers: int) -> Generator[R, None, None]:
    """Work on the values of an iterator in several threads and yield the results in its order.

    Args:
        source: what to iterate over; used by the consumer's thread alone.
        work: called from `workers` threads at once.
        workers: threads; 1 works in the consumer's own, when a result is asked for.

    Yields:
        `work(value)` for each value. At most two more than there are workers are under way or wait.

    Raises:
        Exception: whatever source and work raised, when the consumer gets there.
    """
    if workers == 1:
        yield from map(work, source)
        return
    under_way: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, "work")
    try:
        for value in source:
            under_way.append(pool.submit(work, value))
            del value  # not kept alive here while the consumer works on another's result
            if len(under_way) > workers + 1:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
