"""Layers decoded to mapped files: equal to the source, made once, safe for several processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geocore.datasets.cache
from geocore.datasets.cache import SceneCache, decoded, kept_array
from geocore.errors import DataError, SceneError
from geocore.raster.bands import Bands
from geocore.raster.block_cache import Pool
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.npy_store import read_entry
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.raster.write import write_raster
from geocore.storage.files import sha256_file


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
    layer = Layer("image", Bands.named(*(f"b{k}" for k in range(bands)), nodata=nodata), "uint16", times=times)
    values = np.random.default_rng(0).integers(0, 9, (*layer.axes, *shape)).astype(np.uint16)
    return ArrayReader(layer, values, None if nodata is not None else np.ones((1, *shape), bool))


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
    monkeypatch.setattr("geocore.datasets.cache._CHUNK_BYTES", 4000)
    inner = source(times=times, nodata=nodata)
    mapped = decoded(tmp_path, "a", Counting(inner, block=block), fingerprint="f")
    assert mapped.layer == inner.layer and mapped.shape == inner.shape

    @settings(max_examples=30)
    @given(st.integers(0, 39), st.integers(0, 29), st.integers(1, 11), st.integers(1, 11))
    def check(row, col, height, width):
        same(mapped, inner, Window(row, col, height, width))

    check()


def test_a_layer_is_decoded_once_by_whole_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("geocore.datasets.cache._CHUNK_BYTES", 40 * 2 * 3 * 20)
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


def test_what_was_cut_off_leaves_nothing_and_is_made_again(tmp_path, monkeypatch, killed_writer):
    monkeypatch.setattr("geocore.datasets.cache._CHUNK_BYTES", 4000)
    with pytest.raises(SceneError, match="damaged"):
        decoded(tmp_path, "a", Counting(source(), fails_at=2), fingerprint="f")
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob(".part-*"))
    # A process that was killed could not clean up.
    living = f".part-{killed_writer.partition('.')[0]}.{os.getpid()}-{'0' * 12}"
    for name in (f".part-{killed_writer}", living):
        (tmp_path / name).mkdir()
    same(decoded(tmp_path, "a", source(), fingerprint="f"), source(), Window(0, 0, 50, 40))
    assert [path.name for path in tmp_path.glob(".part-*")] == [living]


def test_a_changed_byte_is_noticed_and_the_layer_decoded_anew(tmp_path):
    """Once for each process: here in one that maps the entry for the first time."""
    decoded(tmp_path, "a", source(), fingerprint="f")
    file = tmp_path / "a" / "values.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    counting = Counting(source())
    same(decoded(tmp_path, "a", counting, fingerprint="f"), source(), Window(0, 0, 50, 40))
    assert counting.reads


def test_a_finished_cache_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    decoded(tmp_path, "a", source(), fingerprint="f")
    monkeypatch.setattr("geocore.datasets.cache.patient_lock", lambda path: pytest.fail("no lock is needed to read"))
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


# --- scenes ---

EVERYTHING = Window(-2, -3, 60, 50)


def scenes(folder):
    return SceneCache(folder, reader="geocore")


class Files:
    """Opens a scene whose numbers are those of a file's text, and counts how often."""

    def __init__(self):
        self.opened = 0

    def __call__(self, path):
        self.opened += 1
        start = int(path.read_text())
        values = np.arange(start, start + 2 * 50 * 40, dtype=np.uint16).reshape(2, 50, 40)
        layer = Layer("image", Bands.named("a", "b", nodata=float(start + 7)), "uint16")
        grid = Grid(50, 40, transform=(10, 0, 4e5, 0, -10, 5e6), crs="EPSG:32633")
        return Scene(path.stem, grid, {"image": ArrayReader(layer, values)})


def file_of(folder: Path, start: int) -> tuple[Path, str]:
    path = folder / "a.txt"
    path.write_text(str(start))
    return path, sha256_file(path)


def test_a_decoded_scene_is_the_one_of_its_file_which_is_opened_once(tmp_path):
    path, digest = file_of(tmp_path, 5)
    files, kept = Files(), scenes(tmp_path / "cache")
    plain = Files()(path)
    for _ in range(3):
        with kept.open(path, digest, files) as found:
            same(found.readers["image"], plain.readers["image"], Window(3, 4, 20, 10))
            one, two = found.read_layers(EVERYTHING)["image"], plain.read_layers(EVERYTHING)["image"]
            assert one.values.tobytes() == two.values.tobytes() and one.valid.tobytes() == two.valid.tobytes()
            assert (found.name, found.grid, found.layers) == (plain.name, plain.grid, plain.layers)
    assert files.opened == 1
    # Another process has to look at the grid, and decodes nothing.
    entry = next(tmp_path.glob("cache/*/entry.json"))
    written = entry.stat().st_mtime_ns
    scenes(tmp_path / "cache").open(path, digest, files)
    assert files.opened == 2 and entry.stat().st_mtime_ns == written


@pytest.mark.parametrize("change", ["content", "rules", "version"])
def test_another_content_is_never_served_from_an_old_entry(tmp_path, monkeypatch, change):
    path, digest = file_of(tmp_path, 5)
    files, cache = Files(), tmp_path / "cache"
    kept = scenes(cache)
    kept.open(path, digest, files, rules={"scale": 1})
    rules = {"scale": 1}
    if change == "content":
        path, digest = file_of(tmp_path, 6)
    elif change == "rules":
        rules = {"scale": 2}
    else:
        monkeypatch.setattr("geocore.datasets.cache.importlib.metadata.version", lambda name: "9")
        kept = scenes(cache)
    found = kept.open(path, digest, files, rules=rules)
    assert files.opened == 2 and len(list(cache.glob("*/entry.json"))) == 2
    assert found.read_layers(Window(0, 0, 1, 1))["image"].values[0, 0, 0] == (6 if change == "content" else 5)


def test_files_of_one_content_keep_their_names(tmp_path):
    path, digest = file_of(tmp_path, 5)
    other = tmp_path / "b.txt"
    other.write_bytes(path.read_bytes())
    kept = scenes(tmp_path / "cache")
    for _ in range(2):
        assert [kept.open(file, digest, Files()).name for file in (path, other)] == ["a", "b"]


def test_without_folder_or_hash_and_for_a_vrt_the_file_itself_is_opened_once(tmp_path):
    path, digest = file_of(tmp_path, 5)
    vrt = path.rename(tmp_path / "a.VRT")
    path, _ = file_of(tmp_path, 5)
    cache = tmp_path / "cache"
    for kept, file, content in (
        (scenes(None), path, digest),
        (scenes(cache), path, None),
        (scenes(cache), vrt, digest),
    ):
        files = Files()
        for _ in range(3):
            with kept.open(file, content, files) as scene:
                assert scene.read_layers(Window(0, 0, 1, 1))["image"].values[0, 0, 0] == 5
        assert files.opened == 1
    assert not cache.exists()


def test_other_rules_and_other_data_sets_open_a_file_for_themselves(tmp_path):
    path, digest = file_of(tmp_path, 5)
    kept, files = scenes(None), Files()
    first = kept.open(path, digest, files)
    assert kept.open(path, digest, files, rules={"scale": 2}) is not first
    path.write_text("6")
    assert scenes(None).open(path, digest, files).read_layers(Window(0, 0, 1, 1))["image"].values[0, 0, 0] == 6
    assert files.opened == 3


def test_the_stored_scene_is_that_of_the_file_also_beside_a_cache(tmp_path):
    path, digest = file_of(tmp_path, 5)
    kept, files = scenes(tmp_path / "cache"), Files()
    assert type(kept.open(path, digest, files).readers["image"].read(Window(0, 0, 1, 1)).values) is np.ndarray
    for _ in range(2):
        kept.open(path, digest, files, stored=True)
    assert files.opened == 2


def test_windows_of_a_chunk_are_read_once_and_are_equal(tmp_path):
    path, digest = file_of(tmp_path, 5)
    reads = []

    class Noted(ArrayReader):
        def read(self, window):
            reads.append(window)
            return super().read(window)

    def opened(path):
        plain = Files()(path)
        whole = plain.read_layers(plain.grid.whole)["image"]
        return Scene("a", plain.grid, {"image": Noted(plain.layers["image"], whole.values, whole.valid)})

    plain, kept, chunk = Files()(path), scenes(None), Window(10, 10, 30, 60)
    for row in (10, 14, 20):
        window = Window(row, 12, 20, 20)
        found = kept.open(path, digest, opened, chunk=chunk).read_layers(window)["image"]
        expected = plain.read_layers(window)["image"]
        assert found.values.tobytes() == expected.values.tobytes() and found.valid.tobytes() == expected.valid.tobytes()
    assert reads == [Window(10, 10, 30, 30)]


def at_most_open(monkeypatch, count):
    pool = Pool(count)
    monkeypatch.setattr("geocore.datasets.cache._open_files", functools.cache(lambda: pool))
    return pool


def test_a_folder_that_was_removed_is_filled_again(tmp_path, monkeypatch):
    at_most_open(monkeypatch, 0)
    path, digest = file_of(tmp_path, 5)
    files, kept = Files(), scenes(tmp_path / "cache")
    kept.open(path, digest, files)
    shutil.rmtree(tmp_path / "cache")
    assert kept.open(path, digest, files).read_layers(Window(0, 0, 1, 1))["image"].values[0, 0, 0] == 5
    assert files.opened == 2 and list(tmp_path.glob("cache/*/entry.json"))


def test_threads_that_ask_at_once_decode_one_time_between_them(tmp_path, monkeypatch):
    path, digest = file_of(tmp_path, 5)
    kept, decoding = scenes(tmp_path / "cache"), []
    full = geocore.datasets.cache._decode
    monkeypatch.setattr(
        "geocore.datasets.cache._decode", lambda *given: (decoding.append(1), time.sleep(0.2), full(*given))
    )
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: kept.open(path, digest, Files()).read_layers(EVERYTHING)["image"], range(8)))
    expected = Files()(path).read_layers(EVERYTHING)["image"]
    assert all(patch.values.tobytes() == expected.values.tobytes() for patch in found)
    assert len(decoding) == 1


def open_files():
    return len(os.listdir("/proc/self/fd"))


listed = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="counts the open files of a process as Linux lists them"
)


@listed
def test_few_files_are_held_open_however_many_scenes_are_decoded(tmp_path, monkeypatch):
    pool = at_most_open(monkeypatch, 6)
    kept = scenes(tmp_path / "cache")
    before = open_files()
    for number in range(10):
        path = tmp_path / f"{number}.txt"
        path.write_text(str(number))
        digest = sha256_file(path)
        assert kept.open(path, digest, Files()).read_layers(Window(0, 0, 1, 1))["image"].values[0, 0, 0] == number
    assert pool.kept == 6 and open_files() <= before + 6


def rasters(folder, count):
    paths = [folder / f"{number}.tif" for number in range(count)]
    for number, path in enumerate(paths):
        write_raster(path, np.full((1, 8, 8), number, np.uint8), grid=Grid(8, 8))
    return paths


class Rasters:
    """Opens rasters, and notes which."""

    def __init__(self):
        self.opened = []

    def __call__(self, path):
        self.opened.append(path)
        return open_raster(path)


def number_of(scene):
    return int(scene.read_layers(Window(0, 0, 8, 8))["image"].values.mean())


@listed
def test_the_least_recently_used_files_are_closed_first(tmp_path, monkeypatch):
    pool, paths, files = at_most_open(monkeypatch, 3), rasters(tmp_path, 6), Rasters()
    kept, before = scenes(None), open_files()
    for number in (0, 1, 2, 0, 3, 0, 2):
        assert number_of(kept.open(paths[number], None, files)) == number
        assert open_files() <= before + 3
    assert files.opened == [paths[number] for number in (0, 1, 2, 3)], "1 went for 3"
    assert number_of(kept.open(paths[1], None, files)) == 1
    assert files.opened[4:] == [paths[1]] and pool.kept == 3
    del kept
    assert pool.kept == 0 and open_files() == before, "what nobody can ask for any more is closed"


@listed
def test_a_scene_stays_open_as_long_as_somebody_has_it(tmp_path, monkeypatch):
    at_most_open(monkeypatch, 1)
    paths, kept, before = rasters(tmp_path, 3), scenes(None), open_files()
    with kept.open(paths[0], None, open_raster) as first:
        for path in paths:
            kept.open(path, None, open_raster)
        assert number_of(first) == 0
    assert number_of(first) == 0, "closing it leaves it to the others"
    del first
    assert open_files() == before + 1


def test_threads_share_few_files(tmp_path, monkeypatch):
    pool, paths, kept = at_most_open(monkeypatch, 2), rasters(tmp_path, 5), scenes(None)

    def read(number):
        return number_of(kept.open(paths[number % 5], None, open_raster))

    with ThreadPoolExecutor(4) as readers:
        assert list(readers.map(read, range(200))) == [number % 5 for number in range(200)]
    assert pool.kept == 2


def test_a_scene_of_several_files_counts_as_many(tmp_path, monkeypatch):
    pool, kept = at_most_open(monkeypatch, 100), scenes(None)
    folder, listing, (raster,) = tmp_path / "a.SAFE", tmp_path / "b.yaml", rasters(tmp_path, 1)
    folder.mkdir()
    listing.touch()
    for path, count in ((folder, 16), (listing, 32), (raster, 33), (tmp_path / "HLS.S30", 49)):
        kept.open(path, None, lambda _: open_raster(raster))
        assert pool.kept == count


@pytest.mark.parametrize("soft, limit", [(256, 128), (1024, 512), (1 << 20, 1024), (-1, 1024)])
def test_half_of_the_files_that_the_system_allows_are_kept_open(monkeypatch, soft, limit):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    assert geocore.datasets.cache._open_files.__wrapped__()._limit == limit


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_its_own_files(tmp_path, monkeypatch):
    paths, kept, files = rasters(tmp_path, 1), scenes(None), Rasters()
    kept.open(paths[0], None, files)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if number_of(kept.open(paths[0], None, files)) == 0 and len(files.opened) == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    kept.open(paths[0], None, files)
    assert len(files.opened) == 1


def test_kept_arrays_are_mapped_once_unless_their_file_changes(tmp_path, monkeypatch):
    at_most_open(monkeypatch, 2)
    path = tmp_path / "a.npy"
    np.save(path, np.arange(4))
    assert kept_array(path) is kept_array(path)
    np.save(path, np.arange(5))
    assert kept_array(path).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="is not what was written"):
        kept_array(path, "0" * 64)
    with pytest.raises(DataError, match="not in the cache"):
        kept_array(tmp_path / "none.npy")


def test_long_decoding_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("geocore.datasets.cache._LONG_BYTES", 50 * 40 * 2 * 3)
    path, digest = file_of(tmp_path, 5)
    with caplog.at_level("INFO", logger="geocore.datasets.cache"):
        scenes(tmp_path / "cache").open(path, digest, Files())
    (line,) = (record.message for record in caplog.records)
    assert line.startswith("decoding a-") and line.endswith("up to 0.0 GB")
