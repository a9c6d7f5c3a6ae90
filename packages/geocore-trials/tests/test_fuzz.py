"""Mutators change what they say, the judge sees every bad end, and the smallest corpus of every format is read."""

from __future__ import annotations

import importlib
import os
import random
import struct
import time
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from geocore.errors import SceneError
from geocore_trials import fuzz
from geocore_trials.cases import Session, in_turns
from geocore_trials.corpus import Format, formats
from geocore_trials.fuzz import judged, mutations, read_in_child, sound
from geocore_trials.mutators import BLIND, TEXTS, bit_flip, depth, png_chunk, png_chunks, tiff_field

SEED = 15
EACH = 3


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    for name in fuzz._IMPORTED:
        importlib.import_module(name)


@pytest.mark.parametrize(
    "mutator", [*BLIND, *dict.fromkeys(TEXTS), tiff_field, png_chunk], ids=lambda each: each.__name__
)
def test_a_mutator_changes_files_and_repeats_itself(mutator: Callable[..., bytes]) -> None:
    data, other = b"key: value\n" * 30, bytes(range(1, 200))
    changed = [mutator(data, other, random.Random(number)) for number in range(20)]
    assert changed == [mutator(data, other, random.Random(number)) for number in range(20)]
    assert sum(each != data for each in changed) >= 15
    assert mutator(b"x", b"y", random.Random(1)) is not None


def test_a_flipped_bit_is_one_bit() -> None:
    data = bytes(100)
    changed = bit_flip(data, data, random.Random(3))
    assert sum(byte.bit_count() for byte in changed) == 1 and len(changed) == 100


def test_fields_of_a_tiff_are_changed_in_its_directory() -> None:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tag) for tag in range(256, 266))
    data = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 10) + entries + bytes(4) + b"\x55" * 500
    places = set()
    for number in range(200):
        changed = tiff_field(data, data, random.Random(number))
        assert len(changed) == len(data)
        places |= {place for place, (one, two) in enumerate(zip(data, changed, strict=True)) if one != two}
    assert places and min(places) >= 10 and max(places) < 10 + 120


def test_chunks_of_a_png_keep_a_checksum_that_fits() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"IDAT", b"\x01" * 40) + chunk(b"IEND", b"")
    assert [length for _, length in png_chunks(data)] == [13, 40, 0]
    fitting = 0
    for number in range(60):
        changed = png_chunk(data, data, random.Random(number))
        for start, length in png_chunks(changed):
            kind_and_body = changed[start + 4 : start + 8 + length]
            checksum = changed[start + 8 + length : start + 12 + length]
            if len(changed) == len(data) and zlib.crc32(kind_and_body).to_bytes(4, "big") == checksum:
                fitting += kind_and_body not in data
    assert fitting


def test_depth_is_bounded() -> None:
    found = [len(depth(b"{}", b"", random.Random(number))) for number in range(50)]
    assert 10_000 < max(found) <= 1 << 22


def planted(read: Callable[[Path], bytes]) -> Format:
    return Format("planted", ".bin", _write, read, covered=lambda data: [(0, len(data))])


def _write(path: Path, number: int) -> None:
    path.write_bytes(bytes([16 + number]) * 64)


def unless_valid(then: Callable[[], bytes]) -> Callable[[Path], bytes]:
    return lambda path: b"valid" if path.read_bytes() == b"\x10" * 64 else then()


def fall() -> bytes:
    raise KeyError("a bug")


def refuse() -> bytes:
    raise SceneError("file.bin: holds nothing; make it again")


def gorge() -> bytes:
    return bytes(bytearray(b"\x01") * (fuzz.MEMORY + 1))


def swell() -> bytes:
    held = bytearray(1 << 30 | 1 << 29)
    for place in range(0, len(held), 4096):
        held[place] = 1
    return b"valid"


def stay() -> bytes:
    time.sleep(60)
    return b""


def crash() -> bytes:
    os.abort()


@pytest.mark.parametrize(
    "then, verdict",
    [
        (fall, "traceback"),
        (refuse, "refused"),
        (gorge, "bomb"),
        (swell, "bomb"),
        (stay, "hang"),
        (crash, "crash"),
        (lambda: b"other", "different"),
        (lambda: b"valid", "equal"),
    ],
    ids=["traceback", "refused", "address space", "memory", "hang", "crash", "different", "equal"],
)
def test_every_end_is_seen(tmp_path: Path, then: Callable[[], bytes], verdict: str) -> None:
    found = sound(planted(unless_valid(then)), tmp_path / "planted")
    found.path.write_bytes(b"\x11" * 64)
    told = tmp_path / "told"
    ending = read_in_child(found.format, found.path, told, tmp_path / "logs", 2.0 if verdict == "hang" else 60.0)
    assert judged(ending, told, found)[0] == verdict


def test_other_values_under_a_checksum_fall_and_are_kept(tmp_path: Path) -> None:
    found = sound(planted(unless_valid(lambda: b"other")), tmp_path / "planted")
    session = Session(tmp_path / "journal.jsonl", 5.0)
    session.run(islice((trial for trial in mutations(found, 1) if "bit_flip " in trial.label), 3))
    assert [(case.verdict, case.good) for case in session.cases] == [("different", False)] * 3
    assert len(list((tmp_path / "planted" / "fallen").iterdir())) == 3
    assert found.path.read_bytes() == b"\x10" * 64


def test_the_smallest_corpus_of_every_format_is_refused_or_read(tmp_path: Path) -> None:
    session = Session(tmp_path / "journal.jsonl", 5.0)
    sounds = [sound(each, tmp_path / name) for name, each in formats().items()]
    session.run(in_turns(islice(mutations(each, SEED), EACH) for each in sounds))
    assert [(case.subject, case.trial, case.verdict, case.detail) for case in session.cases if not case.good] == []
    assert len(session.cases) == EACH * len(sounds)
    verdicts = {case.verdict for case in session.cases}
    assert {"refused", "different"} <= verdicts
