"""File names for keys of tasks, which may be any text: a scene is called what its user called it.

A plain key is its own file name. Any other is written with percent signs, and one that is long ends in its hash, so
that what is put in front or behind still fits. Two keys never share a file name.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_LONGEST: Final = 120
"""Bytes: half of what file systems take, 255."""
_KEPT: Final = 80


def key_file_name(key: str) -> str:
    """Name of letters, digits, `.`, `_`, `-` and `%`, of 120 at most, that does not begin with a dot.

    Args:
        key: any text but "", also one that stands for bytes which are no UTF-8, as Python reads names of files.
    """
    if not key:
        raise ValueError("a key of no letters names no file")
    encoded = "".join(
        chr(byte) if byte in _PLAIN and not (byte == ord(".") and place == 0) else f"%{byte:02X}"
        for place, byte in enumerate(os.fsencode(key))
    )
    if len(encoded) <= _LONGEST:
        return encoded
    # Two percent signs stand in no name that is written out.
    return f"{encoded[:_KEPT]}%%{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}"
