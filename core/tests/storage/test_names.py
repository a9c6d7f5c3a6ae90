"""Every text is the key of a task and has a file of its own, that any file system takes."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocore.storage.names import key_file_name

FITS = re.compile(r"[A-Za-z0-9_%-][A-Za-z0-9._%-]{0,119}")

ODD = [
    "my scene",
    "Fläche",
    unicodedata.normalize("NFD", "Fläche"),
    ".hidden",
    "-x",
    "a/b",
    "..",
    "50%",
    "50%25",
    "a%20b",
    "a b",
    "a\nb",
    "a\tb",
    "<b>&\"'",
    "\udcff\udcfe",
    "x" * 120,
    "x" * 121,
    "ü" * 120,
    "ü" * 119 + "u",
]


def test_plain_names_are_kept() -> None:
    for name in ("S2A_MSIL2A_20230812.v1", "r0-c512", "_", "a" * 120):
        assert key_file_name(name) == name


@pytest.mark.parametrize("key", ODD)
def test_any_text_names_a_file(tmp_path: Path, key: str) -> None:
    name = key_file_name(key)
    assert FITS.fullmatch(name)
    (tmp_path / name).write_text("")
    assert os.listdir(tmp_path) == [name]


def test_different_keys_have_different_names() -> None:
    assert len({key_file_name(key) for key in ODD}) == len(ODD)
    # What a long key is shortened to is itself a key.
    long = key_file_name("ü" * 120)
    assert key_file_name(long) != long


@given(st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=2, unique=True))
def test_no_two_texts_share_a_name(keys: list[str]) -> None:
    one, other = (os.fsdecode(key.encode(errors="replace")) for key in keys)
    assert (key_file_name(one) == key_file_name(other)) == (one == other)


def test_no_text_is_no_key() -> None:
    with pytest.raises(ValueError, match="no letters"):
        key_file_name("")
