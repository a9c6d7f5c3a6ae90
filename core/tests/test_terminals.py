"""What names of files hold stays within its line, and a command that is shown can be run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocore.terminal import one_line, shell_word

NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: not set(b"/\0") & set(name)).map(os.fsdecode)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("S2A_20230812 (1).tif", "S2A_20230812 (1).tif"),
        ("Fläche 雪 \u0628", "Fläche 雪 \u0628"),
        ("e\u0301", "e\u0301"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2Jx\x07\x9b1m", r"\x1b[2Jx\x07\x9b1m"),
        ("a\u2028b\u202egpj.tif", r"a\u2028b\u202egpj.tif"),
        ("\udcfc.tif", r"\udcfc.tif"),
        ("a\0b", r"a\x00b"),
        ("[red]$1$%s{x}\\n", "[red]$1$%s{x}\\n"),
    ],
)
def test_what_steers_a_terminal_is_shown(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(st.text())
def test_a_line_is_one_and_stays_as_it_is(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1 and not any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 for each in line)
    assert one_line(line) == line
    line.encode()


@pytest.mark.parametrize("name", ["runs/a", "my run", "-x", "a'b\"$c`d`", "a\nb", "a\tb\\", "\x1b[31m", "\udcff'", "é"])
def test_a_shell_reads_a_word_as_the_path(name: str) -> None:
    word = shell_word(Path(name))
    assert len(word.splitlines()) == 1
    read = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert read == os.fsencode(name)


@given(NAMES)
def test_a_word_is_one_line(name: str) -> None:
    assert one_line(shell_word(name)) == shell_word(name)
