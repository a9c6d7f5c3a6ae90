"""Data sets of every layout are read as HDF5 reads them, and damage is HDF5's to tell."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from geocore.raster import hdf5
from geocore.raster.hdf5 import StoredArray, open_hdf5, read_attributes, read_dataset

SHAPE = (5, 14, 9)
VALUES = np.random.default_rng(0).integers(0, 65_536, SHAPE, np.uint16)
WHOLE = {"chunks": (1, 14, 9)}
PACKED = {"chunks": (2, 5, 4), "compression": "gzip", "shuffle": True}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[h5py.File]:
    with h5py.File(tmp_path / "test.h5", "w") as opened:
        yield opened


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Data sets that were read by HDF5."""
    names = []
    original = h5py.Dataset.__getitem__

    def spy(dataset: Any, key: Any) -> Any:
        names.append(dataset.name)
        return original(dataset, key)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    return names


@pytest.mark.parametrize("inflate", [hdf5.new_inflater, zlib.decompressobj])
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<u8", ">u2", "<i2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize(
    "options",
    [
        WHOLE,
        {**WHOLE, "compression": "gzip"},
        {**WHOLE, "compression": "gzip", "shuffle": True},
        {**WHOLE, "compression": "gzip", "shuffle": True, "maxshape": (None, 14, 9)},
        {"chunks": (5, 14, 9), "compression": "gzip", "shuffle": True},
        {"chunks": (1, 7, 9), "compression": "gzip", "shuffle": True},
        {"chunks": (2, 14, 9), "compression": "gzip", "shuffle": True},
        {"chunks": (2, 5, 4)},
        PACKED,
    ],
)
def test_chunks_are_unpacked_without_hdf5_to_the_same_values(
    file: h5py.File, asked: list[str], monkeypatch: pytest.MonkeyPatch, options: Any, dtype: str, inflate: Any
) -> None:
    monkeypatch.setattr(hdf5, "new_inflater", inflate)
    values = np.random.default_rng(1).integers(0, 255, (*SHAPE, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]
    read = read_dataset(file.create_dataset("values", data=values, **options))
    assert asked == []
    assert read.dtype == np.dtype(dtype) and read.flags.writeable and read.flags.c_contiguous
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    "values, options",
    [
        (VALUES, {}),
        (VALUES, {**PACKED, "fletcher32": True}),
        (VALUES, {**PACKED, "compression": "lzf"}),
        (VALUES, {**WHOLE, "scaleoffset": 0}),
        (VALUES, {**WHOLE, "shuffle": True}),
        (VALUES > 30_000, PACKED),
        (VALUES, {**PACKED, "compression": "gzip", "fletcher32": True}),
        (np.array(["a", "b"], dtype=object), {}),
    ],
)
def test_what_is_packed_in_another_way_is_left_to_hdf5(
    file: h5py.File, asked: list[str], values: np.ndarray, options: Any
) -> None:
    dataset = file.create_dataset("values", data=values, **options)
    read = read_dataset(dataset)
    assert asked == ["/values"]
    np.testing.assert_array_equal(read, dataset[...])
    assert read.dtype == dataset.dtype


def test_a_chunk_that_skipped_filters_is_taken_as_it_is(file: h5py.File, asked: list[str]) -> None:
    dataset = file.create_dataset("values", SHAPE, np.uint16, **WHOLE, compression="gzip", shuffle=True)
    lanes = VALUES.reshape(5, -1, 1).view(np.uint8).swapaxes(1, 2)
    # Bits say which filters were skipped: shuffle is the first, deflate the second.
    for image, skipped in enumerate((0b00, 0b01, 0b10, 0b11, 0b00)):
        content = VALUES[image].tobytes() if skipped & 1 else np.ascontiguousarray(lanes[image]).tobytes()
        dataset.id.write_direct_chunk((image, 0, 0), content if skipped & 2 else zlib.compress(content), skipped)
    np.testing.assert_array_equal(read_dataset(dataset), VALUES)
    assert asked == []
    np.testing.assert_array_equal(dataset[...], VALUES)


def test_chunks_that_were_never_written_hold_the_fill_value(file: h5py.File) -> None:
    dataset = file.create_dataset("values", SHAPE, np.uint16, **PACKED, fillvalue=7)
    dataset[2:4, 5:9] = VALUES[2:4, 5:9]
    read = read_dataset(dataset)
    assert (read == 7).any()
    np.testing.assert_array_equal(read, dataset[...])
    empty = file.create_dataset("empty", (0, 14, 9), np.uint16, **WHOLE, maxshape=(None, 14, 9))
    assert read_dataset(empty).shape == (0, 14, 9)


@pytest.mark.parametrize("inflate", [hdf5.new_inflater, zlib.decompressobj])
@pytest.mark.parametrize(
    "content, rule, readers",
    [
        # HDF5 says what is wrong, and does so again when asked itself.
        (b"no stream", "filter returned failure", 1),
        (zlib.compress(bytes(252))[:-6], "filter returned failure", 1),
        (zlib.compress(bytes(252))[:-1] + b"?", "filter returned failure", 1),
        # Here HDF5 would return whatever its memory holds.
        (zlib.compress(bytes(10)), "a chunk of 252 bytes holds 10", 0),
        (zlib.compress(bytes(300)), "a chunk of 252 bytes holds more", 0),
    ],
)
def test_a_damaged_chunk_is_an_error(
    file: h5py.File,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    rule: str,
    readers: int,
    inflate: Any,
) -> None:
    monkeypatch.setattr(hdf5, "new_inflater", inflate)
    dataset = file.create_dataset("values", data=VALUES, **WHOLE, compression="gzip")
    dataset.id.write_direct_chunk((3, 0, 0), content)
    with pytest.raises(OSError, match=rule):
        read_dataset(dataset)
    assert asked == ["/values"] * readers


@pytest.mark.parametrize("options", [{}, WHOLE, PACKED, {**PACKED, "fletcher32": True}, {**PACKED, "fillvalue": 9}])
def test_windows_are_what_hdf5_reads(file: h5py.File, options: Any) -> None:
    dataset = file.create_dataset("values", SHAPE, np.float32, **options)
    dataset[1:, 3:] = VALUES[1:, 3:]
    cache = hdf5.DecodedChunks(2 * 2 * 5 * 4 * 4)
    drawn = np.random.default_rng(3)
    for _ in range(60):
        lows = [int(drawn.integers(0, length)) for length in SHAPE]
        place = tuple(slice(low, int(drawn.integers(low, length + 1))) for low, length in zip(lows, SHAPE, strict=True))
        for kept in (None, cache):
            read = StoredArray(dataset).read(place, cache=kept)
            assert read.flags.writeable
            np.testing.assert_array_equal(read, dataset[place])
            read[...] = -1  # what is read is the caller's, and not the cache's


def test_numbers_of_fewer_bits_than_they_lie_in_are_hdf5s(file: h5py.File, asked: list[str]) -> None:
    kind = h5py.h5t.STD_U16LE.copy()
    kind.set_precision(10)
    kind.set_offset(3)
    space = h5py.h5s.create_simple((8,))
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((8,))
    dataset = h5py.Dataset(h5py.h5d.create(file.id, b"values", kind, space, made))
    dataset[...] = np.arange(8, dtype=np.uint16) * 100
    assert read_dataset(dataset).tolist() == [0, 100, 200, 300, 400, 500, 600, 700]
    assert asked == ["/values"]


def test_threads_read_what_one_thread_reads(file: h5py.File) -> None:
    datasets = [
        file.create_dataset(str(number), data=VALUES + np.uint16(number), **(PACKED if number % 2 else WHOLE))
        for number in range(16)
    ]
    with ThreadPoolExecutor(8) as pool:
        for number, read in enumerate(pool.map(read_dataset, datasets)):
            np.testing.assert_array_equal(read, VALUES + np.uint16(number))


def test_attributes_are_text_and_plain_values(file: h5py.File) -> None:
    dataset = file.create_dataset("values", data=VALUES)
    dataset.attrs["units"] = np.bytes_(b"days since 2019-01-01")
    dataset.attrs["crs"] = "EPSG:32631"
    dataset.attrs["title"] = np.bytes_(b"\xff?")
    dataset.attrs["_FillValue"] = np.array([7], np.uint16)
    dataset.attrs["transform"] = np.arange(6.0)
    dataset.attrs["one"] = np.array(["text"], h5py.string_dtype())
    dataset.dims[0].attach_scale(file.create_dataset("time", data=np.arange(5)))
    found = read_attributes(dataset)
    assert found.pop("transform").tolist() == [0, 1, 2, 3, 4, 5]
    assert found == {
        "units": "days since 2019-01-01", "crs": "EPSG:32631", "title": "\ufffd?", "_FillValue": 7, "one": "text",
    }  # fmt: skip


def test_a_damaged_object_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """What a visitor of HDF5's links raises comes out of it as a SystemError, which is a bug's traceback."""
    path = tmp_path / "damaged.nc"
    with h5py.File(path, "w", libver="latest") as written:
        written["group/values"] = np.arange(12)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"OHDR") + 6] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="its objects cannot be read .*checksum"):
        open_hdf5(path)


@pytest.mark.parametrize("at, content", [(0, bytes(16)), (8, (2**64 - 16).to_bytes(8, "little"))])
def test_a_heap_without_an_end_is_refused_and_not_walked_for_ever(tmp_path: Path, at: int, content: bytes) -> None:
    path = tmp_path / "scene.nc"
    with h5py.File(path, "w") as file:
        file["values"] = VALUES
        file["axis"] = np.arange(5)
        file["axis"].make_scale()
        file["values"].dims[0].attach_scale(file["axis"])
    with open_hdf5(path) as file:
        assert file["values"].dims[0][0].name == "/axis"
    whole = path.read_bytes()
    first = whole.index(b"GCOL") + 16
    path.write_bytes(whole[: first + at] + content + whole[first + at + len(content) :])
    with pytest.raises(OSError, match="global heap is damaged"):
        open_hdf5(path)
