"""Layers decoded to mapped files: equal to the source, made once, safe for several processes."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore.bands import Band, Bands
from geocore.cache import read_entry
from geocore.decoded import decoded
from geocore.errors import SceneError
from geocore.grid import Window
from geocore.scenes import ArraySource, Layer


class Counting:
    """A source that counts its reads and may fail at one of them."""

    def __init__(self, source, *, block=None, fails_at=None, delay_s=0.0):
        self.source, self.layer, self.shape = source, source.layer, source.shape
        self.reads, self._fails_at, self._delay = [], fails_at, delay_s
        if block:
            self.block = block

    def read(self, window):
        if len(self.reads) == self._fails_at:
            raise SceneError("the file is damaged")
        time.sleep(self._delay)
        self.reads.append(window)
        return self.source.read(window)

    def close(self):
        raise AssertionError("the source is the caller's to close")


def source(shape=(50, 40), times=(), nodata=3.0, bands=2):
    layer = Layer("image", Bands(tuple(Band(f"b{k}") for k in range(bands))), "uint16", times=times, nodata=nodata)
    values = np.random.default_rng(0).integers(0, 9, (*layer.axes, *shape)).astype(np.uint16)
    return ArraySource(layer, values, None if nodata is not None else np.ones((1, *shape), bool))


def same(first, second, window):
    one, two = first.read(window), second.read(window)
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.valid, two.valid)
    assert one.values.dtype == two.values.dtype and one.valid.shape == two.valid.shape
    assert one.values.flags.writeable


@pytest.mark.parametrize("times", [(), ("2020-01-01", "2020-02-01", "2020-03-01")])
@pytest.mark.parametrize("nodata", [None, 3.0])
@pytest.mark.parametrize("block", [None, (7, 9)])
def test_reads_are_those_of_the_source(tmp_path, monkeypatch, times, nodata, block):
    monkeypatch.setattr("geocore.decoded._CHUNK_BYTES", 4000)
    inner = source(times=times, nodata=nodata)
    mapped = decoded(tmp_path, "a", Counting(inner, block=block), fingerprint="f")
    assert mapped.layer == inner.layer and mapped.shape == inner.shape

    @settings(max_examples=30)
    @given(st.integers(0, 39), st.integers(0, 29), st.integers(1, 11), st.integers(1, 11))
    def check(row, col, height, width):
        same(mapped, inner, Window(row, col, height, width))

    check()


def test_a_layer_is_decoded_once_by_whole_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("geocore.decoded._CHUNK_BYTES", 40 * 2 * 3 * 20)
    counting = Counting(source(), block=(8, 16))
    decoded(tmp_path, "a", counting, fingerprint="f")
    assert [(window.row, window.height) for window in counting.reads] == [(0, 16), (16, 16), (32, 16), (48, 2)]
    decoded(tmp_path, "a", counting, fingerprint="f")
    assert len(counting.reads) == 4


def test_another_fingerprint_or_a_damaged_entry_is_decoded_anew(tmp_path):
    inner = source()
    decoded(tmp_path, "a", inner, fingerprint="old")
    counting = Counting(source(nodata=5.0))
    same(decoded(tmp_path, "a", counting, fingerprint="new"), counting.source, Window(0, 0, 50, 40))
    assert counting.reads and read_entry(tmp_path, "a").fingerprint == "new"
    (tmp_path / "a" / "valid.npy").write_bytes(b"")
    same(decoded(tmp_path, "a", inner, fingerprint="new"), inner, Window(0, 0, 50, 40))
    wider = source((50, 41))
    same(decoded(tmp_path, "a", wider, fingerprint="new"), wider, Window(0, 0, 50, 41))


def test_what_was_cut_off_leaves_nothing_and_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("geocore.decoded._CHUNK_BYTES", 4000)
    with pytest.raises(SceneError, match="damaged"):
        decoded(tmp_path, "a", Counting(source(), fails_at=2), fingerprint="f")
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob(".part-*"))
    # A process that was killed could not clean up.
    for key in ("a", "b-a"):
        (tmp_path / f".part-0123456789ab-{key}").mkdir()
    same(decoded(tmp_path, "a", source(), fingerprint="f"), source(), Window(0, 0, 50, 40))
    assert [path.name for path in tmp_path.glob(".part-*")] == [".part-0123456789ab-b-a"]


def test_a_finished_cache_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    decoded(tmp_path, "a", source(), fingerprint="f")
    monkeypatch.setattr("geocore.decoded.FolderLock", lambda path: pytest.fail("no lock is needed to read"))
    same(decoded(tmp_path, "a", source(), fingerprint="f"), source(), Window(0, 0, 50, 40))


def decode_in_process(folder: Path, results) -> None:
    counting = Counting(source(), delay_s=0.2)
    mapped = decoded(folder, "a", counting, fingerprint="f")
    results.put((len(counting.reads), int(mapped.read(Window(0, 0, 50, 40)).values.sum())))


def test_processes_at_once_decode_one_time_between_them(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=decode_in_process, args=(tmp_path, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    expected = int(source().read(Window(0, 0, 50, 40)).values.sum())
    assert sorted(found) == [(0, expected), (0, expected), (1, expected)]
