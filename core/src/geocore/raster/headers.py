"""What the headers of raster files promise and say, and GDAL does not tell.

Damage: headers that promise too much, PNG files that were cut off or changed. And what a picture says of itself: how it
is turned, kinds of numbers, further pages. Only some bytes at the front are read, and the directories of a TIFF: what
they claim is never trusted with memory.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from geocore.errors import SceneError
from geocore.storage.special_files import open_regular

# A block is decoded whole, so one of this size already takes as much memory for each read of a single pixel.
_LARGEST_BLOCK_BYTES = 1 << 30
# The tightest packings: 1032:1 by Deflate, which PNG always uses, and 128 KiB in 4 bytes by ZSTD in a TIFF; a pixel
# is at least one bit.
_MOST_PIXELS_PER_BYTE = {"PNG": 10_000, "JPEG": 10_000, "GTiff": 300_000}
# A TIFF holds offset and length of each block, of at least this many bytes together.
_LEAST_INDEX_BYTES_PER_BLOCK = 6
_PNG_SIGNATURE_BYTES = 8
_PIECE_BYTES = 1 << 20
# Of a tile only the part asked for is decoded, but all of its index is built first.
_LARGEST_JP2_TILE_PX = 1 << 31
# The size segment follows the start of the codestream, behind boxes that hold little more than the georeference.
_JP2_CODESTREAM = b"\xff\x4f\xff\x51"
_JP2_HEADER_BYTES = 1 << 20
_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_JP2_SUPERBOXES: Final = (b"asoc", b"jp2h", b"jplh", b"jpch", b"res ", b"uinf")
_MOST_JP2_BOXES, _MOST_JP2_LEVELS = 10_000, 10


def check_file(dataset: Any, path: Path) -> None:
    """Look at a rasterio dataset just opened, before anything is allocated for it.

    Raises:
        SceneError: the header promises more than the file can hold, blocks are too large to decode, or a PNG
            file ends early or has a chunk that is not what was written.
    """
    rows, cols = dataset.block_shapes[0]
    together = dataset.count if str(dataset.profile.get("interleave")) == "pixel" else 1
    dtype = dataset.dtypes[0]
    block_bytes = rows * cols * together * np.dtype("complex64" if dtype == "complex_int16" else dtype).itemsize
    if block_bytes > _LARGEST_BLOCK_BYTES:
        raise SceneError(
            f"{path}: is stored in blocks of {rows} x {cols} pixels ({block_bytes / 2**30:.1f} GiB), and at most 1 GiB "
            "can be read at once; rewrite it in tiles: gdal_translate -of COG IN OUT"
        )
    if not path.is_file():
        return
    size = path.stat().st_size
    blocks = math.ceil(dataset.height / rows) * math.ceil(dataset.width / cols)
    most_pixels = size * _MOST_PIXELS_PER_BYTE.get(dataset.driver, math.inf)
    # GDAL shows one long strip as blocks of a single row, which have no entry of their own.
    no_index = dataset.driver == "GTiff" and rows > 1 and size < blocks * _LEAST_INDEX_BYTES_PER_BLOCK
    if no_index or most_pixels < dataset.height * dataset.width:
        raise SceneError(
            f"{path}: its header promises {dataset.height} x {dataset.width} pixels, which {size} bytes cannot hold; "
            "the file is damaged: copy or make it again"
        )
    if dataset.driver.startswith("JP2") and (tile := _jp2_tile(path)) is not None:
        across, down = min(tile[0], dataset.width), min(tile[1], dataset.height)
        if across * down > _LARGEST_JP2_TILE_PX:
            raise SceneError(
                f"{path}: is stored in tiles of {down} x {across} pixels, and at most 2 Gpx can be handled; the file "
                "is damaged, or has to be rewritten in tiles: gdal_translate -of COG IN OUT"
            )
    if dataset.driver == "PNG" and (damage := _png_damage(path)) is not None:
        raise SceneError(f"{path}: {damage}; the file is damaged or incomplete: copy or make it again")


def _jp2_tile(path: Path) -> tuple[int, int] | None:
    """Width and height of a tile as the codestream states them (ISO 15444-1, A.5.1); None where they are not found."""
    with path.open("rb") as file:
        header = file.read(_JP2_HEADER_BYTES)
    start = header.find(_JP2_CODESTREAM)
    # Behind markers, length, capabilities, image size and its offset.
    place = start + len(_JP2_CODESTREAM) + 20
    return struct.unpack_from(">II", header, place) if start >= 0 and place + 8 <= len(header) else None


def _png_damage(path: Path) -> str | None:
    """Follow the chunks to the closing one, and compare the checksum of each but those of the image, which GDAL does.

    GDAL reads an image of which half is there as half black, and goes on without a damaged chunk that says which pixels
    are transparent (tRNS) or how the picture is turned (eXIf).

    Returns:
        What is wrong; None where nothing is.
    """
    with path.open("rb") as file:
        file.seek(_PNG_SIGNATURE_BYTES)
        while len(header := file.read(8)) == 8:
            length, kind = int.from_bytes(header[:4], "big"), header[4:]
            if kind == b"IEND":
                return None
            if kind == b"IDAT":
                file.seek(length + 4, os.SEEK_CUR)
                continue
            checksum = zlib.crc32(kind)
            while length and (piece := file.read(min(length, _PIECE_BYTES))):
                checksum, length = zlib.crc32(piece, checksum), length - len(piece)
            stated = file.read(4)
            if len(stated) == 4 and int.from_bytes(stated, "big") != checksum:
                return f"its {kind.decode('ascii', 'replace')} chunk is not what was written"
    return "ends early"


# TIFF 6.0 and its supplements; EXIF holds the first of them in a TIFF of its own.
_ORIENTATION: Final = 274
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SUB_PAGES, _EXTRA_SAMPLES = (
    254,
    256,
    257,
    259,
    262,
    330,
    338,
)
_DNG_VERSION: Final = 50706
_GDAL_METADATA: Final = 42112
_WANTED: Final = frozenset(
    (_ORIENTATION, _SUBFILE_TYPE, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SUB_PAGES, _EXTRA_SAMPLES, _DNG_VERSION)
)
_TYPES: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_PREVIEW_OR_MASK: Final = 0b101
_PREMULTIPLIED: Final = 1
_SENSOR_PHOTOMETRICS: Final = (32803, 34892)

_MOST_PAGES: Final = 1000
_MOST_ENTRIES: Final = 4096
_MOST_VALUES: Final = 4096
_MOST_SEGMENTS: Final = 10_000
_MOST_EXIF_BYTES: Final = 1 << 20
_MOST_METADATA_BYTES: Final = 1 << 19
_TEXTS_PER_PACKED: Final = 4
"""What a byte of a packed text counts."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the file of a picture says of itself; the defaults where it says nothing."""

    orientation: int = 1
    """1 to 8, as EXIF and TIFF number them: where the first row and the first column belong. 1: top and left."""
    photometric: int | None = None
    """Of a TIFF: what its numbers stand for, such as 0 for brightness counted from white."""
    compression: int | None = None
    """Of a TIFF."""
    premultiplied: bool = False
    """Of a TIFF: colours are multiplied by alpha."""
    pages: tuple[int, ...] = ()
    """Of a TIFF: numbers, from 2, of pages of more than half the width and height of the first, which are neither its
    previews nor its masks."""
    preview: bool = False
    """Of a TIFF: the first page is a small one of a picture that lies below it."""
    sensor: bool = False
    """Of a TIFF: what a camera's sensor counted, in the layout of DNG."""


def header_of(path: Path) -> Header:
    """Read the header of a local file; of any that is no JPEG, PNG, WebP or TIFF the default.

    Damage is for those to report who read the pixels.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            file.seek(0)
            if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                return _of_tiff(file)
            if start[:3] == b"\xff\xd8\xff":
                return Header(_orientation(_jpeg_exif(file)))
            if start[:8] == b"\x89PNG\r\n\x1a\n":
                return Header(_orientation(_png_exif(file)))
            if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
                return Header(_orientation(_webp_exif(file)))
    except OSError:
        pass
    return Header()


def check_texts(path: Path) -> None:
    """Refuse texts in a TIFF or PNG over which GDAL would spend minutes before it has opened the file, or complain.

    It looks each entry of its XML up among those before it, and inflates each text of a PNG, a thousandfold at most.
    What it cannot parse it quotes, and rasterio prints a traceback of a quotation that is no UTF-8. In a JPEG 2000 it
    walks from box to box, for ever where one within another has no length.

    Raises:
        SceneError: texts of a TIFF are longer than half a megabyte or no text, packed ones of a PNG longer than an
            eighth, or boxes of a JPEG 2000 do not end.
    """
    length, is_utf8, boxes_end = 0, True, True
    try:
        with open_regular(path) as file:
            start = file.read(8)
            if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                file.seek(0)
                for page in list(_directories(file)):
                    size, place = page.get(_GDAL_METADATA, (0, 0))
                    length = max(length, size)
                    if size <= _MOST_METADATA_BYTES and 0 < place < 1 << 62:
                        file.seek(place)
                        is_utf8 = is_utf8 and _is_utf8(file.read(size))
            elif start == _JP2_SIGNATURE:
                file.seek(0, os.SEEK_END)
                boxes_end = _jp2_boxes_end(file, 0, file.tell())
            elif start == b"\x89PNG\r\n\x1a\n":
                length = _TEXTS_PER_PACKED * sum(size for kind, size in _png_chunks(file) if _is_packed(file, kind))
    except OSError:
        return
    if length > _MOST_METADATA_BYTES:
        raise SceneError(
            f"{path}: holds more text about its pixels than can be read before them; write the pixels anew, without "
            "it: gdal_translate -nomd IN OUT.tif"
        )
    if not boxes_end:
        raise SceneError(
            f"{path}: one of its JPEG 2000 boxes is longer than what it lies in, or has no length; the file is "
            "damaged: copy or make it again"
        )
    if not is_utf8:
        raise SceneError(
            f"{path}: its GDAL_METADATA (TIFF tag 42112) is no text in UTF-8: the file is damaged, or was written in "
            "another encoding; write the pixels anew, without it: gdal_translate -nomd IN OUT.tif"
        )


def _jp2_boxes_end(file: BinaryIO, start: int, end: int, depth: int = 0) -> bool:
    """Whether boxes lie within each other (ISO 15444-1, I.4); one of length 0 goes to the end of the file, as the last.

    Args:
        file: open for reading.
        start: first byte of the first box.
        end: the byte after those that boxes may take.
        depth: of the boxes that these lie in.
    """
    at = start
    for _ in range(_MOST_JP2_BOXES):
        if at + 8 > end:
            return True
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        body = 8
        if length == 1:
            length, body = int.from_bytes(head[8:16], "big"), 16
        if length == 0:
            return depth == 0
        if length < body or (length > end - at and (depth or kind in _JP2_SUPERBOXES)):
            return False
        if kind in _JP2_SUPERBOXES and not (
            depth < _MOST_JP2_LEVELS and _jp2_boxes_end(file, at + body, at + length, depth + 1)
        ):
            return False
        at += length
    return False


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _of_tiff(file: BinaryIO) -> Header:
    pages = _directories(file)
    first = next(pages, {})
    rows, cols = _first(first, _HEIGHT, 0), _first(first, _WIDTH, 0)
    further = [
        number
        for number, page in enumerate(pages, start=2)
        if not _first(page, _SUBFILE_TYPE, 0) & _PREVIEW_OR_MASK
        and 2 * _first(page, _HEIGHT, 0) > rows
        and 2 * _first(page, _WIDTH, 0) > cols
    ]
    photometric = first.get(_PHOTOMETRIC, (None,))[0]
    return Header(
        orientation=_known_orientation(first),
        photometric=photometric,
        compression=first.get(_COMPRESSION, (None,))[0],
        premultiplied=_PREMULTIPLIED in first.get(_EXTRA_SAMPLES, ()),
        pages=tuple(further),
        preview=bool(_first(first, _SUBFILE_TYPE, 0) & 1) and _SUB_PAGES in first,
        sensor=_DNG_VERSION in first or photometric in _SENSOR_PHOTOMETRICS,
    )


def _orientation(exif: bytes) -> int:
    return _known_orientation(next(_directories(io.BytesIO(exif)), {}))


def _known_orientation(tags: dict[int, tuple[int, ...]]) -> int:
    """Viewers take what they do not know for 1, and so does this."""
    value = _first(tags, _ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _first(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    return tags.get(tag, (default,))[0]


def _directories(file: BinaryIO) -> Iterator[dict[int, tuple[int, ...]]]:
    """Wanted whole numbers of each page of a TIFF: tag -> values, never empty."""
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        return
    version = struct.unpack_from(f"{order}H", start, 2)[0]
    big = version == 43
    if version not in (42, 43) or (big and len(start) < 16):
        return
    count_form, entry_form, link_form = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    count_bytes, entry_bytes, link_bytes = (struct.calcsize(order + f) for f in (count_form, entry_form, link_form))
    at = struct.unpack_from(order + link_form, start, 8 if big else 4)[0]
    seen: set[int] = set()
    # Links may lead back to an earlier page, or to where no file reaches.
    while 0 < at < 1 << 62 and at not in seen and len(seen) < _MOST_PAGES:
        seen.add(at)
        file.seek(at)
        counted = file.read(count_bytes)
        if len(counted) < count_bytes:
            return
        count = min(struct.unpack(order + count_form, counted)[0], _MOST_ENTRIES)
        table = file.read(count * entry_bytes)
        link = file.read(link_bytes)
        entries = list(struct.iter_unpack(order + entry_form, table[: len(table) // entry_bytes * entry_bytes]))
        yield {
            tag: values
            for tag, form, length, inline in entries
            if tag in _WANTED and (values := _values(file, order, form, length, inline))
            # Of this text it is wanted how long it is and where it lies, and not the text.
        } | {
            tag: (length, struct.unpack(order + ("Q" if big else "I"), inline)[0])
            for tag, _, length, inline in entries
            if tag == _GDAL_METADATA
        }
        at = struct.unpack(order + link_form, link)[0] if len(link) == link_bytes else 0


def _values(file: BinaryIO, order: str, form: int, length: int, inline: bytes) -> tuple[int, ...]:
    """The whole numbers of an entry, which stand in it, or where it points to if they are more."""
    if form not in _TYPES or length > _MOST_VALUES:
        return ()
    code = f"{order}{length}{_TYPES[form]}"
    needed = struct.calcsize(code)
    if needed > len(inline):
        at = struct.unpack(f"{order}{'Q' if len(inline) == 8 else 'I'}", inline)[0]
        if at >= 1 << 62:
            return ()
        file.seek(at)
        inline = file.read(needed)
    return struct.unpack_from(code, inline) if len(inline) >= needed else ()


def _jpeg_exif(file: BinaryIO) -> bytes:
    """The segment of EXIF in front of the first scan (JFIF and EXIF 2.3, 4.5.4)."""
    file.seek(2)
    for _ in range(_MOST_SEGMENTS):
        marker = file.read(4)
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] in (0xD9, 0xDA):
            break
        if marker[1] == 0xFF:  # a filling byte
            file.seek(-3, os.SEEK_CUR)
            continue
        length = int.from_bytes(marker[2:], "big") - 2
        if marker[1] == 0xE1 and (data := file.read(max(length, 0))).startswith(b"Exif\0\0"):
            return data[6:]
        if marker[1] != 0xE1:
            file.seek(max(length, 0), os.SEEK_CUR)
    return b""


def _png_exif(file: BinaryIO) -> bytes:
    """The chunk eXIf, which may stand in front of the pixels or behind them (PNG 3.0, 11.3.4.5)."""
    file.seek(8)
    for kind, length in _png_chunks(file):
        if kind == b"eXIf":
            return file.read(min(length, _MOST_EXIF_BYTES))
    return b""


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk from where a file stands, which then stands at its data."""
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        at = file.tell()
        yield head[4:], length
        file.seek(at + length + 4)  # a checksum of 4 bytes stands behind the data


def _is_packed(file: BinaryIO, kind: bytes) -> bool:
    """Whether a chunk holds a text that has to be inflated (PNG 3.0, 11.3.3); the file stands at its data."""
    # A keyword of up to 79 bytes and its end stand in front of the flag.
    return kind == b"zTXt" or (kind == b"iTXt" and file.read(81).partition(b"\0")[2][:1] == b"\1")


def _webp_exif(file: BinaryIO) -> bytes:
    """The chunk EXIF, in which some writers repeat the mark of JPEG files."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            return file.read(min(length, _MOST_EXIF_BYTES)).removeprefix(b"Exif\0\0")
        file.seek(length + length % 2, os.SEEK_CUR)
    return b""
