"""Mutations of files: blind ones of bytes, and ones that know fields, chunks, tokens and depth."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Final

Mutator = Callable[[bytes, bytes, random.Random], bytes]
"""Takes a file, another of its format, and what is drawn from; gives a file that differs."""

INTERESTING: Final = tuple(
    value.to_bytes(size, order)
    for size, values in ((1, (0, 1, 127, 128, 255)), (2, (0, 1, 32767, 65535)), (4, (0, 1, 2**31 - 1, 2**32 - 1)))
    for value in values
    for order in ("little", "big")
) + tuple((2**63 - 1).to_bytes(8, order) for order in ("little", "big"))
"""Numbers at the edges of types."""
_TOKENS: Final = (
    *(b"null", b"true", b"-1", b"0", b"1e309", b".inf", b".nan", b"1e-320", b"9" * 400, b"''", b"[]", b"{}"),
    *(b"&a [*a]", b"!!python/object/apply:os.system [ls]", b"*b", b"<<: 1", b"- - - -", b"\x00", b"\xff\xfe"),
    *(b"../../../etc/passwd", b"/dev/zero", b"? ?", b"|-\n", b"\xe2\x80\xae", b"0x7fffffffffffffff", b"2001-02-30"),
)
_DEEP: Final = (b"[", b'{"a":', b"- ")
_LONGEST: Final = 1 << 22


def bit_flip(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One bit."""
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def bit_flips(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Several bits, as many as a thousandth of the bytes."""
    changed = bytearray(data)
    for _ in range(2 + len(data) // 1000):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def edge_number(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A number at the edge of a type in place of what stands there, most often near the beginning."""
    number = rng.choice(INTERESTING)
    place = rng.randrange(min(len(data), 512) if rng.random() < 0.6 else len(data))
    return data[:place] + number + data[place + len(number) :]


def cut(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def repeat(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A part stands twice."""
    start, end = _span(data, rng)
    return data[:end] + data[start:end] + data[end:]


def insert(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Drawn bytes in between."""
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randrange(1, 64)) + data[place:]


def drop(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A part is missing."""
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def zeros(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A part is zero, as what a crashed file system leaves."""
    start, end = _span(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


BLIND: Final[tuple[Mutator, ...]] = (bit_flip, bit_flips, edge_number, cut, repeat, insert, drop, splice, zeros)


def tiff_field(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Type, count or value of an entry of a directory of a classic TIFF or BigTIFF; the sort of file else."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
        first = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)[0]
        count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, first)[0]
    except struct.error:
        return edge_number(data, other, rng)
    size, head = (20, 8) if big else (12, 2)
    entry = first + head + size * rng.randrange(max(1, min(count, 64)))
    # Tag, type, number of values, values or where they lie.
    field, width = rng.choice(((0, 2), (2, 2), (4, 8 if big else 4), (12 if big else 8, 8 if big else 4)))
    number = rng.choice((0, 1, 2, 3, 12, 13, 16, 255, 65535, 2**31, 2**32 - 1, len(data), len(data) - 1, 2**63))
    number = number if rng.random() < 0.7 else rng.randrange(1 << 8 * width)
    place = entry + field
    return (
        data[:place]
        + (number % (1 << 8 * width)).to_bytes(width, "little" if order == "<" else "big")
        + data[place + width :]
    )


def png_chunk(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A chunk changed under a checksum that fits, given twice, left out, or of another length."""
    chunks = png_chunks(data)
    if not chunks:
        return bit_flip(data, other, rng)
    start, length = rng.choice(chunks)
    kind, body = data[start + 4 : start + 8], bytearray(data[start + 8 : start + 8 + length])
    action = rng.randrange(4)
    whole = data[start : start + 12 + length]
    if action == 0 and body:
        body[rng.randrange(len(body))] = rng.choice((0, 1, 127, 255))
        checksum = zlib.crc32(kind + body).to_bytes(4, "big")
        return data[:start] + whole[:8] + bytes(body) + checksum + data[start + 12 + length :]
    if action == 1:
        return data[:start] + whole + data[start:]
    if action == 2:
        return data[:start] + data[start + 12 + length :]
    return data[:start] + rng.choice(INTERESTING[-10:])[:4].ljust(4, b"\xff") + data[start + 4 :]


def png_chunks(data: bytes) -> list[tuple[int, int]]:
    """Start and length of the body of each chunk."""
    found, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        found.append((place, length))
        place += 12 + length
    return found


def token(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A word of a text becomes one that means something to a parser."""
    words = [match.span() for match in re.finditer(rb"[\w./+-]+", data)]
    start, end = rng.choice(words or [(0, 0)])
    return data[:start] + rng.choice(_TOKENS) + data[end:]


def line(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """A line is left out, given twice, put elsewhere or indented otherwise."""
    lines = data.splitlines(keepends=True) or [b"\n"]
    chosen = rng.randrange(len(lines))
    action = rng.randrange(4)
    if action == 0:
        del lines[chosen]
    elif action == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[chosen])
    elif action == 2:
        lines[chosen] = b"  " + lines[chosen]
    else:
        lines[chosen] = lines[chosen].strip(b" ")
    return b"".join(lines)


def depth(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Brackets or dashes to a great depth, in place of a value or of all."""
    deep = rng.choice(_DEEP) * rng.choice((50, 200, 5000, 100_000))
    if rng.random() < 0.3:
        return deep
    place = rng.randrange(len(data) + 1)
    return (data[:place] + deep + data[place:])[:_LONGEST]


TEXTS: Final[tuple[Mutator, ...]] = (token, token, token, line, depth)


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, 512, 4096)))
