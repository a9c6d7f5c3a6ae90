"""Names of files: what a library takes, and what stands for a key that may be any text.

pyogrio takes names for addresses, of which it drops what stands in front of `!`, and GDAL's Python layers take none of
bytes that are no UTF-8. Such a file is given to them under links in a temporary folder; any other under its own name.

A scene is called what its user called it. A plain key is its own file name; any other is written with percent signs,
and one that is long ends in its hash, so that what is put in front or behind still fits. Two keys never share a name.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_PLAIN_PATH: Final = re.compile(r"[\w./ ()+,=@~-]*")
"""Letters and digits of any script, and signs that no library gives a meaning."""


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """A path by which a library finds a file, and those that lie beside it under its name, such as a world file.

    Args:
        path: of a file that is there, or, with a plain name in a folder of any, one to be made.

    Yields:
        The path itself where it is plain, else one that leads there until the block ends.
    """
    if is_plain(path.absolute()):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        if is_plain(Path(path.name)):
            link = Path(folder, "folder")
            link.symlink_to(path.parent.absolute(), target_is_directory=True)
            yield link / path.name
            return
        for beside in path.parent.iterdir():
            if beside.name.startswith(path.stem):
                ending = beside.name[len(path.stem) :]
                if is_plain(Path(ending)):
                    Path(folder, f"file{ending}").symlink_to(beside.absolute())
        yield Path(folder, f"file{path.suffix}")


def is_plain(path: Path) -> bool:
    """Whether each library takes a path as it is."""
    return _PLAIN_PATH.fullmatch(str(path)) is not None


def is_text(path: Path) -> bool:
    """Whether a path is text, and no bytes of another encoding: GDAL takes any that is."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


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
