"""Damage to raster files that GDAL does not report: headers that promise too much, PNG files cut off or changed."""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from geocore.errors import SceneError

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
