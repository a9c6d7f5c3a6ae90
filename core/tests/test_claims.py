"""What a hostile file claims is refused in one line, before it costs memory or time: a child process is watched.

Each maker writes a file of some kilobytes, and its docstring says what its reader did with it before.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

Maker = Callable[[Path], object]

CHILD = """
import json, resource, sys, time
from pathlib import Path
from geocore.errors import DataError
from geocore.grid import Window
{imports}
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
def read(path):
    {body}
for name in sys.argv[1:]:
    path, before, begun = Path(name), peak(), time.perf_counter()
    try:
        said = ["read", repr(read(path))[:200]]
    except DataError as error:
        said = ["refused", str(error)]
    except BaseException as error:
        said = [type(error).__name__, str(error)[:200]]
    print(json.dumps([*said, peak() - before, time.perf_counter() - begun]), flush=True)
"""


def attack(folder: Path, makers: dict[str, Maker], suffix: str, imports: str, body: str) -> dict[str, list[Any]]:
    """What a reader makes of each file: how it ended, what it said, MiB and seconds that it took."""
    for name, make in makers.items():
        make(folder / f"{name}{suffix}")
    child = CHILD.format(imports=imports, body=body)
    paths = [str(folder / f"{name}{suffix}") for name in makers]
    done = subprocess.run([sys.executable, "-c", child, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(makers, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


# ---- netCDF and HDF5


def variable(*shape: int, dtype: Any = "f4", **options: Any) -> Maker:
    """A file whose variable x was never written."""

    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", shape, dtype, **options)

    return make


def written(change: Callable[[h5py.File], object]) -> Maker:
    """A file with a good variable x, but for what is done to it."""

    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["x"] = np.ones((30, 30), np.float32)
            change(file)

    return make


def replaced(make_x: Callable[[h5py.File], object]) -> Maker:
    def change(file: h5py.File) -> None:
        del file["x"]
        make_x(file)

    return written(change)


def bomb(dtype: Any = "f4", checksum: bytes = b"", **options: Any) -> Maker:
    """Half a gigabyte of zeros in a chunk of 900 values: HDF5 inflates whatever the stream holds."""

    def make_x(file: h5py.File) -> None:
        dataset = file.create_dataset("x", (30, 30), dtype, chunks=(30, 30), compression="gzip", **options)
        dataset.id.write_direct_chunk((0, 0), zeros() + checksum)

    return replaced(make_x)


@functools.cache
def zeros() -> bytes:
    """Half a gigabyte of them as a zlib stream."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 24)) for _ in range(32)) + packer.flush()


def filtered(*codes: int) -> Maker:
    def make_x(file: h5py.File) -> None:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((30, 30))
        for code in codes:
            made.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (6,))
        space = h5py.h5s.create_simple((30, 30))
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, made)

    return replaced(make_x)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((30, 30), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (30, 30))
    file.create_virtual_dataset("v", layout)


def nested(file: h5py.File) -> None:
    group = file
    for _ in range(500):
        group = group.create_group("g")


def wide_text(path: Path) -> None:
    with h5py.File(path, "w") as file:
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(1 << 30)
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((100,)))


def few_bits(path: Path) -> None:
    """The parameters of a packing that unpacks as many values as they say: two thousand million here."""
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(900).reshape(30, 30), dtype="i4", chunks=(30, 30), scaleoffset=0)
    content = bytearray(path.read_bytes())
    at = content.index((900).to_bytes(4, "little") + bytes(4))
    content[at : at + 4] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(content)


HDF5: dict[str, tuple[Maker, str]] = {
    "plane": (variable(100_000, 100_000, chunks=(1000, 1000)), "promises 100000 x 100000 values, which"),
    "contiguous": (variable(100_000, 100_000), "promises 100000 x 100000 values, which"),
    "series": (variable(3000, 3000, 3000), "promises 3000 x 3000 x 3000 values, which"),
    "axes": (variable(*(2,) * 32), "promises 2 x 2 x 2"),
    "large": (variable(20_000, 20_000, chunks=(1000, 1000)), "would take 1.49 GiB at once"),
    "wide_text": (wide_text, "would take 100 GiB at once"),
    "texts": (variable(200_000_000, dtype=h5py.string_dtype(), chunks=(10**6,)), "would take 11.9 GiB at once"),
    "large_chunk": (variable(20_000, 20_000, chunks=(20_000, 20_000)), "in chunks of 20000 x 20000 values, and"),
    "small_chunks": (variable(20_000, 2000, chunks=(1, 1)), "in chunks of 1 x 1 values, of which a million"),
    "bomb": (bomb(), "a chunk of 3600 bytes holds more"),
    "bomb_shuffled": (bomb(shuffle=True), "a chunk of 3600 bytes holds more"),
    "bomb_summed": (bomb(checksum=b"1234", fletcher32=True), "a chunk of 3600 bytes holds more"),
    "bomb_of_texts": (bomb(h5py.string_dtype()), "a chunk of 7200 bytes holds more"),
    "bomb_of_truth": (bomb("?"), "a chunk of 900 bytes holds more"),
    "deflated_twice": (filtered(1, 1), "packed by a filter that is not read (deflate)"),
    "shuffled_after": (filtered(1, 2), "packed again after it was deflated"),
    "few_bits": (few_bits, "packed by a filter that is not read (scaleoffset)"),
    "external_link": (written(lambda file: file.update({"e": h5py.ExternalLink("/etc/passwd", "/x")})), "e is a link"),
    "deep_link": (written(lambda file: file.update({"g/e": h5py.ExternalLink("b.nc", "/x")})), "g/e is a link to"),
    "soft_link": (written(lambda file: file.update({"s": h5py.SoftLink("/x")})), "s is a link to another place"),
    "raw_file": (
        written(lambda file: file.create_dataset("r", (9,), "u1", external=[("/etc/passwd", 0, 9)])),
        "r has its values in other files",
    ),
    "virtual": (written(virtual), "v has its values in other files"),
    "nested": (written(nested), "more than 10 levels"),
    "groups": (written(lambda file: [file.create_group(str(n)) for n in range(2500)]), "more than 2000 variables"),
    "attributes": (
        written(lambda file: [file["x"].attrs.create(str(n), n) for n in range(5100)]),
        "more than 5000 attributes",
    ),
    "nothing": (replaced(lambda file: file.update({"x": h5py.Empty("f4")})), "cannot be read"),
}  # fmt: skip


def test_hdf5_files_are_one_line(folder: Path) -> None:
    found = attack(
        folder,
        {name: make for name, (make, _) in HDF5.items()},
        ".nc",
        "from geocore.netcdf import open_netcdf",
        "with open_netcdf(path) as file: return file.read('x').shape",
    )
    check(found, {name: said for name, (_, said) in HDF5.items()})


def test_a_variable_that_was_hardly_written_is_read_window_by_window(tmp_path: Path) -> None:
    """A small file may honestly hold a large variable, of which a window costs no more than of any other."""
    from geocore.grid import Window
    from geocore.netcdf import NetcdfSource

    with h5py.File(tmp_path / "a.nc", "w") as file:
        file.create_dataset("x", (20_000, 20_000), "f4", chunks=(500, 500), compression="gzip", fillvalue=3)
        file["x"][100, 100] = 5
    source = NetcdfSource(tmp_path / "a.nc", ["x"], layer="x")
    values = source.read(Window(90, 90, 20, 20)).values[0]
    assert values[10, 10] == 5 and np.count_nonzero(values == 3) == 399
    assert (source.read(Window(19_990, 19_990, 10, 10)).values == 3).all()
    source.close()


def check(found: dict[str, list[Any]], expected: dict[str, str]) -> None:
    wrong = {
        name: (end, said, mib, seconds)
        for name, (end, said, mib, seconds) in found.items()
        if end != "refused" or expected[name] not in said or "\n" in said or mib > 150 or seconds > 2
    }
    assert not wrong
