"""What a hostile file claims is refused in one line, before it costs memory or time: a child process is watched.

Each maker writes a file of some kilobytes, and its docstring says what its reader did with it before.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import torch

from geocore.raster.geotiff import open_raster
from geocore.storage.memory import read_arrays
from geocore.vector.features import is_nested

Maker = Callable[[Path], object]

CHILD = """
import json, resource, sys, time
from pathlib import Path
from geocore.errors import DataError
from geocore.raster.grid import Window
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
        "from geocore.raster.netcdf import open_netcdf",
        "with open_netcdf(path) as file: return file.read('x').shape",
    )
    check(found, {name: said for name, (_, said) in HDF5.items()})


def test_a_variable_that_was_hardly_written_is_read_window_by_window(tmp_path: Path) -> None:
    """A small file may honestly hold a large variable, of which a window costs no more than of any other."""
    from geocore.raster.grid import Window
    from geocore.raster.netcdf import NetcdfReader

    with h5py.File(tmp_path / "a.nc", "w") as file:
        file.create_dataset("x", (20_000, 20_000), "f4", chunks=(500, 500), compression="gzip", fillvalue=3)
        file["x"][100, 100] = 5
    source = NetcdfReader(tmp_path / "a.nc", ["x"], layer="x")
    values = source.read(Window(90, 90, 20, 20)).values[0]
    assert values[10, 10] == 5 and np.count_nonzero(values == 3) == 399
    assert (source.read(Window(19_990, 19_990, 10, 10)).values == 3).all()
    source.close()


# ---- rasters

PIXELS = bytes(range(256)) * 16
AT = 4000
"""Where the pixels of a TIFF, and whatever else, begin."""


def tiff(*extra: tuple[int, int, int, int], data: bytes = PIXELS, **changed: int) -> Maker:
    """A TIFF of 64 x 64 pixels, but for what is changed (`tag_256`) or added: (tag, type, count, value or place)."""
    tags = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, AT)}
    tags |= {277: (3, 1, 1), 278: (4, 1, 64), 279: (4, 1, min(len(data), 4096))}
    for name, value in changed.items():
        tags[int(name[4:])] = (*tags[int(name[4:])][:2], value)
    tags |= {tag: (kind, count, value) for tag, kind, count, value in extra}

    def make(path: Path) -> None:
        entries = [struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items())]
        head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
        path.write_bytes(head + bytes(AT - len(head)) + data)

    return make


def gdal_metadata() -> bytes:
    items = b"".join(b'<Item name="k%d">v</Item>' % number for number in range(40_000))
    return b"<GDALMetadata>" + items + b"</GDALMetadata>\0"


def png(*chunks: tuple[bytes, bytes], width: int = 64, height: int = 64) -> Maker:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def make(path: Path) -> None:
        parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *chunks]
        parts += [(b"IDAT", zlib.compress(bytes(65 * 64))), (b"IEND", b"")]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))

    return make


RASTERS: dict[str, tuple[Maker, str]] = {
    "plane.tif": (tiff(tag_256=100_000, tag_257=100_000, tag_278=1), "promises 100000 x 100000 pixels"),
    "largest.tif": (tiff(tag_256=2**31 - 1, tag_257=2**31 - 1), "and at most 1 GiB can be read at once"),
    "strip.tif": (tiff(tag_256=20_000, tag_257=20_000, tag_278=20_000, tag_259=8), "cannot be read"),
    "offsets.tif": (tiff((273, 4, 2**31, AT), (279, 4, 2**31, AT)), "cannot be read"),
    # Half an hour: rasterio lists all bands anew each time that one is asked about.
    "bands.tif": (tiff(tag_277=65_535), "has 65535 bands, and at most 10000"),
    "planes.tif": (tiff((284, 3, 1, 2), tag_277=65_535), "has 65535 bands, and at most 10000"),
    # Minutes: GDAL looks each entry up among all before it.
    "texts.tif": (
        tiff((42112, 2, len(gdal_metadata()), AT), data=gdal_metadata()),
        "holds more text about its pixels",
    ),
    # A traceback on the terminal: GDAL quotes what it cannot parse, and rasterio decodes the quotation.
    "encoding.tif": (tiff((42112, 2, 29, AT), data=b"<GDALMetad\xf4a></GDALMetadata>\0"), "is no text in UTF-8"),
    "plane.png": (png(width=100_000, height=100_000), "promises 100000 x 100000 pixels"),
    "texts.png": (
        png(*[(b"zTXt", b"k%d\0\0" % n + zlib.compress(bytes(10**6))) for n in range(200)]),
        "holds more text about its pixels",
    ),
    "text.png": (png((b"iTXt", b"k\0\1\0\0\0" + zeros())), "holds more text about its pixels"),
}


def test_rasters_are_one_line(folder: Path) -> None:
    found = attack(
        folder,
        {name: make for name, (make, _) in RASTERS.items()},
        "",
        "from geocore.raster.geotiff import open_raster",
        "with open_raster(path) as scene: return scene.read(Window(0, 0, 64, 64)).values.shape",
    )
    check(found, {name: said for name, (_, said) in RASTERS.items()})


def test_claims_that_cost_nothing_do_not_keep_a_raster_from_being_read(folder: Path) -> None:
    """libtiff drops what it cannot take, and the pixels are good."""
    makers = {
        "colours.tif": tiff((320, 3, 2**31, AT), tag_262=3),
        "keys.tif": tiff((34735, 3, 65_535, AT), (34736, 12, 2**30, AT), (34737, 2, 2**31 - 1, AT)),
        "points.tif": tiff((33922, 12, 2**30, AT)),
        "packet.tif": tiff((700, 1, 2**31 - 1, AT)),
        "pages.tif": tiff((330, 4, 2**31 - 1, AT)),
        "circle.tif": tiff((34665, 4, 1, 8)),
        "profile.png": png((b"iCCP", b"k\0\0" + zeros())),
        "text_as_it_is.png": png((b"iTXt", b"k\0\0\0\0\0" + b"x" * 10**6)),
    }
    body = "with open_raster(path) as scene: return scene.read(Window(0, 0, 64, 64)).values.shape"
    for name, (end, said, mib, seconds) in attack(
        folder, makers, "", "from geocore.raster.geotiff import open_raster", body
    ).items():
        assert (end, said) == ("read", "(1, 64, 64)"), name
        assert mib < 150 and seconds < 2, name


def test_a_thousand_bands_open_as_fast_as_one(tmp_path: Path) -> None:
    """Ten seconds before, as the flags of all bands were listed for each of them."""
    tiff(tag_277=1000, tag_256=4)(tmp_path / "a.tif")
    start = time.perf_counter()
    with open_raster(tmp_path / "a.tif") as scene:
        assert len(scene.layers["image"].bands) == 1000
    assert time.perf_counter() - start < 1


# ---- outlines

SQUARE = shapely.box(1, 1, 5, 5)
NESTED = b"".join(struct.pack("<BII", 1, 7, 1) for _ in range(100_000)) + shapely.to_wkb(SQUARE)


def parquet(columns: dict[str, Any]) -> Maker:
    def make(path: Path) -> None:
        table = geopandas.GeoDataFrame({"a": [1]}, geometry=[SQUARE], crs="EPSG:32633")
        table.to_parquet(path)
        metadata = pq.read_schema(path).metadata
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, compression="zstd")

    return make


def geopackage(script: str) -> Maker:
    def make(path: Path) -> None:
        geopandas.GeoDataFrame({"a": [1]}, geometry=[SQUARE], crs="EPSG:32633").to_file(path, driver="GPKG", layer="l")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(script)

    return make


def geojson(geometry: str) -> Maker:
    feature = '{"type": "Feature", "properties": {}, "geometry": %s}'
    text = '{"type": "FeatureCollection", "features": [' + feature + "]}"
    return lambda path: path.write_text(text % geometry)


def long_index(path: Path) -> None:
    geopandas.GeoDataFrame({"a": [1]}, geometry=[SQUARE], crs="EPSG:32633").to_file(path)
    with path.with_suffix(".shx").open("r+b") as file:
        file.seek(24)
        file.write(struct.pack(">i", 50 + 4 * 200_000_000))
        file.truncate(100 + 8 * 200_000_000)


ENDLESS = """
CREATE VIEW v AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)
    SELECT n AS fid, (SELECT geom FROM l) AS geom FROM c;
INSERT INTO gpkg_contents(table_name, data_type, identifier, srs_id) VALUES ('v', 'features', 'v', 32633);
INSERT INTO gpkg_geometry_columns VALUES ('v', 'geom', 'POLYGON', 32633, 0, 0);
DELETE FROM gpkg_contents WHERE table_name = 'l'; DELETE FROM gpkg_geometry_columns WHERE table_name = 'l';
"""
COMPUTED = "ALTER TABLE l ADD COLUMN big AS (hex(zeroblob(400000000)));"
RING = '{"type": "Polygon", "coordinates": [[[1, 1], [%s, 1], [5, 5], [1, 5], [1, 1]]]}'

OUTLINES: dict[str, tuple[Maker, str]] = {
    "view.gpkg": (geopackage(ENDLESS), "v is a view or a computed table"),
    "computed.gpkg": (geopackage(COMPUTED), "l is a view or a computed table"),
    "index.shp": (long_index, "lists 200000000 outlines, which"),
    # Twenty seconds and more, two gigabytes, and a segmentation fault.
    "rows.parquet": (
        parquet({"geometry": pa.array([shapely.to_wkb(SQUARE)] * 300_000).dictionary_encode()}),
        "promises 300000 outlines",
    ),
    "text.parquet": (
        parquet({"geometry": [shapely.to_wkb(SQUARE)], "s": ["x" * 300_000_000]}),
        "promises 0.28 GiB of values",
    ),
    "nested.parquet": (parquet({"geometry": [NESTED]}), "holds others more than 32 levels deep"),
    "points.parquet": (parquet({"geometry": [struct.pack("<BIII", 1, 3, 1, 2**31 - 1)]}), "cannot be read as outlines"),
    "nested.geojson": (
        geojson('{"type": "GeometryCollection", "geometries": [' * 9000 + RING % 5 + "]}" * 9000),
        "cannot be read as outlines",
    ),
    "brackets.geojson": (geojson('{"type": "Polygon", "coordinates": ' + "[" * 9000), "cannot be read as outlines"),
    "infinite.geojson": (geojson(RING % "1e999"), "cannot be read as outlines"),
    # A traceback of GEOS.
    "no_number.geojson": (geojson(RING % "NaN"), "coordinates that are no numbers"),
}  # fmt: skip


def test_outlines_are_one_line(folder: Path) -> None:
    found = attack(
        folder,
        {name: make for name, (make, _) in OUTLINES.items()},
        "",
        "import geopandas, pyarrow.parquet, shapely\n"
        "from geocore.raster.grid import Grid\n"
        "from geocore.vector.outlines import read_outlines",
        "crs = 'EPSG:4326' if path.suffix == '.geojson' else 'EPSG:32633'\n"
        "    return len(read_outlines(path, Grid(100, 100, (0.1, 0, 0, 0, -0.1, 10), crs)).geometries)",
    )
    check(found, {name: said for name, (_, said) in OUTLINES.items()})


def test_geometries_in_geometries_are_read_as_deep_as_gdal_does() -> None:
    parts = shapely.MultiPolygon([SQUARE, shapely.box(8, 8, 9, 9)])
    for shape in (
        parts,
        shapely.GeometryCollection([parts, shapely.Point(1, 2), shapely.LineString([(0, 0), (1, 1)])]),
    ):
        for flavor in ("extended", "iso"):
            three = shapely.force_3d(shape)
            assert not is_nested(shapely.to_wkb(shapely.set_srid(three, 4326), include_srid=flavor == "extended"))
    inner = shapely.to_wkb(parts)
    for levels, deep in ((30, False), (31, True)):
        assert is_nested(struct.pack("<BII", 1, 7, 1) * levels + inner) is deep
        assert is_nested(struct.pack(">BII", 0, 7, 1) * levels + inner) is deep


# ---- archives of arrays


def header_of(kind: str, shape: str) -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape})}}"


def entry(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def archive(content: bytes) -> Maker:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr("a.npy", content)

    return make


def packed_zeros(path: Path) -> None:
    content = entry(header_of("|u1", "300000000,"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("a.npy", content + bytes(3 * 10**8))


ARCHIVES: dict[str, tuple[Maker, str]] = {
    "shape": (archive(entry(header_of("<f8", "100000, 100000"))), "an array of 100000 x"),
    "overflow": (archive(entry(header_of("<f8", "4294967296, 4294967296"))), "array of"),
    "negative": (archive(entry(header_of("<f8", "-1, -8"), bytes(64))), "array of -1"),
    "objects": (archive(entry(header_of("|O", "1,"), bytes(8))), "Python's objects"),
    "header": (archive(entry("[" * 110)), ""),
    "wide": (archive(entry(header_of("|V1000000000", "9,"))), "array of 9 in"),
    "bomb": (packed_zeros, "claims 0.28 GiB in"),
    "other": (lambda path: path.write_bytes(b"no archive"), "not a zip file"),
}  # fmt: skip


def test_archives_are_one_line(folder: Path) -> None:
    found = attack(
        folder,
        {name: make for name, (make, _) in ARCHIVES.items()},
        ".npz",
        "from geocore.storage.memory import ArchiveError, read_arrays",
        "try: return list(read_arrays(path))\n    except ArchiveError as error: raise DataError(str(error))",
    )
    check(found, {name: said for name, (_, said) in ARCHIVES.items()})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_arrays_are_read_as_numpy_reads_them(tmp_path: Path, save: Any) -> None:
    arrays = {
        "planes": np.arange(24, dtype=np.uint16).reshape(2, 3, 4),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(5, dtype=">i4"),
        "none": np.zeros((0, 3)),
        "one": np.float32(7),
        "names": np.array(["a", "bc"]),
    }
    save(tmp_path / "a.npz", **arrays)
    read = read_arrays(tmp_path / "a.npz")
    assert list(read) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(read[name], values)
        assert read[name].dtype == values.dtype and read[name].flags.writeable


# ---- weights


def program(code: bytes) -> Maker:
    return lambda path: path.write_bytes(b"\x80\x02}X\x01\x00\x00\x00a" + code + b"s.")


def torch_file(code: bytes) -> Maker:
    def make(path: Path) -> None:
        torch.save({"a": torch.zeros(2)}, path)
        with zipfile.ZipFile(path) as file:
            entries = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, content in entries.items():
                file.writestr(
                    name, b"\x80\x02}X\x01\x00\x00\x00a" + code + b"s." if name.endswith("data.pkl") else content
                )

    return make


def swollen(path: Path) -> None:
    """A file of torch whose tensor is zeros, packed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("archive/data/0", bytes(300_000_000))


def tensors(header: Any, data: bytes = bytes(8)) -> Maker:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def claim(*shape: int, end: int = 8) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


SIX_GIGABYTES = b"\x8a\x08" + struct.pack("<q", 6 * 10**9)
WEIGHTS: dict[str, tuple[Maker, str]] = {
    # Six gigabytes from nine hundred bytes.
    "bytes.pt": (torch_file(b"cbuiltins\nbytearray\n" + SIX_GIGABYTES + b"\x85R"), "create builtins.bytearray"),
    "view.pt": (lambda path: torch.save({"a": torch.zeros(1).expand(10**5, 10**5)}, path), "a claims 37 GiB"),
    "swollen.pt": (swollen, "claims 0.28 GiB in"),
    "place.pkl": (lambda path: path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f."), "keeps a value at place 2147483647"),
    "array.pkl": (program(b"cnumpy\nndarray\n" + SIX_GIGABYTES + b"\x85\x85R"), "claims"),
    "codec.pkl": (program(b"c_codecs\nencode\nU\x01bX\x03\x00\x00\x00hex\x86R"), "must be latin1"),
    "plane.safetensors": (tensors(claim(10**5, 10**5, end=4 * 10**10)), "damaged or not a file of weights"),
    "overflow.safetensors": (tensors(claim(2**62, 8)), "damaged or not a file of weights"),
    "header.safetensors": (lambda path: path.write_bytes(struct.pack("<Q", 2**40) + b"{}"), "damaged or not a file"),
    "brackets.safetensors": (tensors(b"[" * 10**5), "damaged or not a file of weights"),
}  # fmt: skip


def test_weights_are_one_line(folder: Path) -> None:
    found = attack(
        folder,
        {name: make for name, (make, _) in WEIGHTS.items()},
        "",
        "from geocore.errors import WeightsError\nfrom geocore.training.pretrained import load_foreign",
        "try: return list(load_foreign(path))\n    except WeightsError as error: raise DataError(str(error))",
    )
    check(found, {name: said for name, (_, said) in WEIGHTS.items()})


def check(found: dict[str, list[Any]], expected: dict[str, str]) -> None:
    wrong = {
        name: (end, said, mib, seconds)
        for name, (end, said, mib, seconds) in found.items()
        if end != "refused" or expected[name] not in said or "\n" in said or mib > 150 or seconds > 2
    }
    assert not wrong
