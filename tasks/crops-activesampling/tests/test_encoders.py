"""Label encoders: those of the package, what they make of codes, and files that break a rule."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from crops_activesampling.definitions import packaged
from crops_activesampling.encoders import Encoder, read_encoder
from geocore.errors import SettingsError

BENCHMARK = [110, 120, 140, 150, 160, 170, 330, 435, 438, 510, 770]


def classes(encoder: Encoder, *codes: int) -> list[int]:
    return encoder.encode(np.array(codes, np.uint32)).tolist()


def written(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_benchmark_has_eleven_crops_in_the_order_of_their_codes() -> None:
    encoder = read_encoder("s4a-labels")
    assert classes(encoder, *BENCHMARK) == list(range(1, 12))
    assert classes(encoder, 0, 910, 998, 111, 65_535, 65_535 + 110, 65_536 + 110, 2**32 - 1) == [0] * 8
    assert [encoder.names[index] for index in classes(encoder, 110, 438)] == ["wheat", "sunflower"]


def test_codes_keep_their_shape_and_become_bytes() -> None:
    encoded = read_encoder("s4a-labels").encode(np.array([[110, 0, 7], [770, 5, 150]], np.uint32))
    assert encoded.dtype == np.uint8
    assert np.array_equal(encoded, [[1, 0, 0], [11, 0, 4]])


@pytest.mark.parametrize(
    ("name", "codes", "expected"),
    [
        ("no-wheat", (110, 120, 770), [0, 1, 10]),
        ("eight-class", (110, 438, 510, 120, 435, 770), [0, 0, 0, 1, 7, 8]),
        ("with-grassland", (110, 770, 910, 911, 912, 920), [1, 11, 12, 12, 12, 0]),
        # Land without a code is no crop there; what is unknown is ignored.
        ("crop-presence", (192, 977, 999, 110, 998, 0, 972), [0, 0, 0, 1, 1, 2, 2]),
        ("crop-interest", (192, 977, 999, 770, 130, 998, 0, 976), [0, 0, 0, 1, 2, 2, 3, 3]),
    ],
)
def test_packaged_encoders(name: str, codes: tuple[int, ...], expected: list[int]) -> None:
    assert classes(read_encoder(name), *codes) == expected


def test_packaged_encoders_cover_what_they_should() -> None:
    assert packaged("encoders") == [
        "crop-interest", "crop-presence", "eight-class", "no-wheat", "s4a-labels", "with-grassland",
    ]  # fmt: skip
    every = {name: read_encoder(name) for name in packaged("encoders")}
    assert {name: len(encoder.names) - 1 for name, encoder in every.items()} == {
        "crop-interest": 3, "crop-presence": 2, "eight-class": 8, "no-wheat": 10, "s4a-labels": 11,
        "with-grassland": 12,
    }  # fmt: skip
    # Two ways to divide the same codes: Sen4AgriNet has 168 beside 0.
    interest, presence = every["crop-interest"], every["crop-presence"]
    assert sorted(sum(interest.codes, ())) == sorted(sum(presence.codes, ()))
    assert len(sum(interest.codes, ())) == 169
    assert sorted(interest.codes[1]) == BENCHMARK


def test_an_own_encoder_is_read_from_its_file(tmp_path: Path) -> None:
    encoder = read_encoder(
        written(tmp_path, "labels:\n- {name: none, id: [0, 9]}\n- {name: a, id: 3}\n- {name: b, id: [7, 5]}\n")
    )
    assert (encoder.name, encoder.names) == ("own", ("none", "a", "b"))
    assert classes(encoder, 0, 9, 3, 5, 7, 4) == [0, 0, 1, 2, 2, 0]
    assert pickle.loads(pickle.dumps(encoder)) == encoder  # it travels to worker processes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: [{name: a, id: 0}, {name: b, id: 1}]\nclasses: 2", r"encoder own: unknown key classes"),
        ("labels: 3", r"labels is no list"),
        ("{}", r"labels is no list"),
        ("labels: [{name: a, id: 0}]", r"1 labels: give the ignored one and 1 to 255"),
        ("labels: [{name: a, id: 0}, {name: b, code: 1}]", r"labels\[1\] has name, code: a label has .* name and id"),
        ("labels: [{name: a, id: 0}, {name: b, id: 1, colour: red}]", r"labels\[1\] has name, id, colour"),
        ("labels: [{name: a, id: 0}, wheat]", r"labels\[1\] has 'wheat'"),
        ("labels: [{name: 0, id: 0}, {name: b, id: 1}]", r"labels\[0\].name 0: must be a text"),
        ("labels: [{name: a, id: 0}, {name: b, id: 1.5}]", r"labels\[1\].id 1.5: must be a whole number"),
        ("labels: [{name: a, id: 0}, {name: b, id: [1, yes]}]", r"labels\[1\].id True: must be a whole number"),
        ("labels: [{name: a, id: 0}, {name: b, id: -1}]", r"b: code -1: must be 0 to 65535"),
        ("labels: [{name: a, id: 0}, {name: b, id: 65536}]", r"b: code 65536: must be 0 to 65535"),
        ("labels: [{name: a, id: 0}, {name: b, id: [1, 0]}]", r"b: code 0 is that of a already"),
        ("labels: [{name: a, id: 0}, {name: b, id: [1, 1]}]", r"b: code 1 is that of b already"),
        ("labels: [{name: a, id: 0}, {name: a, id: 1}]", r"labels a: occur more than once"),
        ("labels: [{", r"own.yaml, line 1: not valid YAML"),
    ],
)
def test_files_that_break_a_rule_get_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        read_encoder(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_none_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"encoders 's4a': packaged are .*s4a-labels.* path of a .yaml file"):
        read_encoder("s4a")
    with pytest.raises(SettingsError, match=r"cannot read .*absent.yaml"):
        read_encoder(str(tmp_path / "absent.yaml"))
