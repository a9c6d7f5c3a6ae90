"""Lines for a terminal and a log: what stands in them may come from anywhere, and must stay within its line.

Names of files and texts in files hold line ends and the sequences by which terminals are steered; shown as they are,
they would write lines of their own, or over others.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from typing import Final

_ALLOWED: Final = ("L", "M", "N", "P", "S", "Zs")
"""Of Unicode's general categories, those of what is seen; the others steer, separate lines, or are no characters."""


def one_line(text: str) -> str:
    r"""A text with line ends, escape sequences, marks of writing direction and lone bytes written as `\n`, `\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_seen(character) else _escaped(character) for character in text)


def shell_word(path: os.PathLike[str] | str) -> str:
    """A path as one word of a command that can be copied from a line into a shell."""
    text = os.fspath(path)
    if one_line(text) == text:
        return shlex.quote(text)
    # As bash, zsh and POSIX.1-2024 read it.
    kept = re.compile(rb"[\w@%+=:,./ -]", re.ASCII)
    encoded = os.fsencode(text)
    letters = (encoded[place : place + 1] for place in range(len(encoded)))
    return "$'" + "".join(each.decode() if kept.match(each) else f"\\{each[0]:03o}" for each in letters) + "'"


def _is_seen(character: str) -> bool:
    return unicodedata.category(character).startswith(_ALLOWED)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
