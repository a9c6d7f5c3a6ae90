"""Cached arrays: whole or not there, found again by what made them, never pickled."""

from __future__ import annotations

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geocore.errors import DataError, StorageError
from geocore.raster.npy_store import is_whole, map_array, new_entry, read_cached, read_entry, write_cached
from geocore.storage.files import sha256_file


def _planes() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((3, 20, 30)).astype(np.float32)


def test_arrays_come_back_mapped_and_read_only(tmp_path: Path) -> None:
    planes, chart = _planes(), np.arange(600, dtype=np.uint8).reshape(20, 30)
    write_cached(tmp_path, "a", {"planes": planes, "SIC": chart}, fingerprint="f")
    mapped = read_cached(tmp_path, "a", "planes", fingerprint="f")
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, planes)
    np.testing.assert_array_equal(read_cached(tmp_path, "a", "SIC"), chart)
    assert read_entry(tmp_path, "a").hashes["planes"] == sha256_file(tmp_path / "a" / "planes.npy")


def test_rows_written_piece_by_piece_make_the_same_file(tmp_path: Path) -> None:
    planes = _planes()
    write_cached(tmp_path, "whole", {"planes": planes}, fingerprint="f")
    with new_entry(tmp_path, "pieces", fingerprint="f") as entry:
        array = entry.create("planes", planes.shape, "float32")
        for start, stop in ((0, 7), (7, 8), (8, 20)):
            array.write(planes[:, start:stop])
        entry.facts["lines"] = 5000
    assert (tmp_path / "pieces" / "planes.npy").read_bytes() == (tmp_path / "whole" / "planes.npy").read_bytes()
    assert read_entry(tmp_path, "pieces").facts == {"lines": 5000}


def test_what_was_made_from_something_else_is_refused(tmp_path: Path) -> None:
    write_cached(tmp_path, "a", {"planes": _planes()}, fingerprint="downscale 10")
    with pytest.raises(DataError, match="made from other data or settings"):
        read_cached(tmp_path, "a", "planes", fingerprint="downscale 5")


def test_an_entry_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    write_cached(tmp_path, "a", {"planes": _planes()}, fingerprint="old")
    with pytest.raises(RuntimeError), new_entry(tmp_path, "a", fingerprint="new") as entry:
        entry.create("planes", (3, 20, 30), "float32").write(_planes()[:, :4])
        raise RuntimeError("stopped")
    assert read_entry(tmp_path, "a").fingerprint == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    write_cached(tmp_path, "a", {"planes": _planes() + 1}, fingerprint="new")
    assert read_cached(tmp_path, "a", "planes", fingerprint="new")[0, 0, 0] == _planes()[0, 0, 0] + 1


def test_rows_must_all_come_and_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 rows of 20"), new_entry(tmp_path, "a", fingerprint="f") as entry:
        entry.create("planes", (3, 20, 30), "float32").write(_planes()[:, :4])
    with new_entry(tmp_path, "b", fingerprint="f") as entry:
        array = entry.create("planes", (3, 20, 30), "float32")
        with pytest.raises(ValueError, match="does not continue"):
            array.write(_planes().astype(np.float64))
        with pytest.raises(ValueError, match="does not continue"):
            array.write(_planes()[:2])
        array.write(_planes())
        with pytest.raises(ValueError, match="more than 20"):
            array.write(_planes()[:, :1])
    assert not (tmp_path / "a").exists()


def test_nothing_pickled_is_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Python objects"):
        write_cached(tmp_path, "a", {"planes": np.array([[{}]], dtype=object)}, fingerprint="f")

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    for content in (pickle.dumps(Harm()), b"", b"PK\x03\x04"):
        (tmp_path / "planes.npy").write_bytes(content)
        with pytest.raises(DataError, match="cannot be mapped"):
            map_array(tmp_path / "planes.npy")
    np.save(tmp_path / "planes.npy", np.array([[Harm()]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be mapped"):
        map_array(tmp_path / "planes.npy")
    assert not (tmp_path / "harm").exists()


def test_missing_and_damaged_entries_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not in the cache"):
        read_entry(tmp_path, "none")
    with pytest.raises(DataError, match="not in the cache"):
        read_cached(tmp_path, "none", "planes")
    write_cached(tmp_path, "a", {"planes": _planes()}, fingerprint="f")
    path = tmp_path / "a" / "planes.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be mapped"):
        read_cached(tmp_path, "a", "planes")
    for text in ("{", "[]", '{"format": 2, "fingerprint": "f", "hashes": {}, "facts": {}}'):
        (tmp_path / "a" / "entry.json").write_text(text)
        with pytest.raises(DataError, match="cannot be understood"):
            read_entry(tmp_path, "a")


def test_an_array_is_compared_with_the_hash_that_is_given(tmp_path: Path) -> None:
    write_cached(tmp_path, "a", {"planes": _planes()}, fingerprint="f")
    path, digest = tmp_path / "a" / "planes.npy", read_entry(tmp_path, "a").hashes["planes"]
    assert is_whole(path, digest) and not is_whole(path, "0" * 64)
    assert np.array_equal(map_array(path, digest), _planes())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    map_array(path)
    with pytest.raises(DataError, match=r"planes\.npy: is not what was written; .*: prepare the data again"):
        map_array(path, digest)
    path.write_bytes(whole)
    assert np.array_equal(map_array(path, digest), _planes())


def test_headers_are_parsed_by_one_thread_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cached(tmp_path, "a", {"x": np.arange(6).reshape(2, 3)}, fingerprint="f")
    full, inside, most = np.lib.format.open_memmap, [0], [0]

    def slow(*given: Any, **named: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        mapped = full(*given, **named)
        inside[0] -= 1
        return mapped

    monkeypatch.setattr(np.lib.format, "open_memmap", slow)
    with ThreadPoolExecutor(4) as pool:
        assert {int(array.sum()) for array in pool.map(map_array, [tmp_path / "a" / "x.npy"] * 8)} == {15}
    assert most == [1]


def test_a_closed_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        write_cached(tmp_path / "file", "a", {"planes": _planes()}, fingerprint="f")


def test_names_are_no_paths(tmp_path: Path) -> None:
    for name in ("../planes", "a/b", "planes"):
        with pytest.raises(ValueError, match="needs a name of its own"), new_entry(tmp_path, "a", fingerprint="f") as e:
            e.create("planes", (2, 2), "uint8").write(np.zeros((2, 2), np.uint8))
            e.create(name, (2, 2), "uint8")


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f4',\n ((", b"  {'a'", b"{'descr': '<f4', 'shape': (2,), 'fortran_order': 0 0}"]
)
def test_an_array_whose_header_is_no_literal_is_one_line(tmp_path, header):
    """NumPy takes it apart as Python, and tells what is wrong with it in Python's words."""
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n" + bytes(64))
    with pytest.raises(DataError, match="cannot be mapped"):
        map_array(path)
