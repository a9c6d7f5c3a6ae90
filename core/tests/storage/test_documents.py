"""YAML and JSON within bounds: what a hostile document does, and that an honest one reads as it always did."""

import contextlib
import json
import random
import time

import pytest
import yaml

from geocore.storage.documents import DocumentError, _may_be_deep, parse_json, parse_yaml, read_json, read_yaml


def laughs(first: str, holds: str) -> str:
    """Nine levels, of which each names the one before ten times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {holds % ', '.join([f'*a{n - 1}'] * 10)}" for n in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # The reader in C composes by recursion, and these crashed the process.
        ("[" * 200_000, "line 1: more than 100 levels deep"),
        ("- " * 100_000 + "x", "line 1: more than 100 levels deep"),
        ("? " * 100_000 + "x", "line 1: more than 100 levels deep"),
        ("\n".join("  " * n + "a:" for n in range(120)), "line 101: more than 100 levels deep"),
        (laughs("[x, x, x, x, x, x, x, x, x, x]", "[%s]"), "line 6: aliases stand for more than a million values"),
        (laughs("{k: x}", "{<<: [%s]}"), "line 7: aliases stand for more than a million values"),
        ("a: &a " + "x" * 10_000 + "\nb: [" + "*a, " * 1000 + "]", "line 2: aliases stand for more than a million"),
        ("a: &a [*a]", "line 1: alias *a holds itself"),
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is given twice"),
        ("1: a\n0x1: b", "line 2: key 1 is given twice"),
        ("x: &b {p: 1}\ny: {<<: *b, p: 3, p: 4}", "line 2: key 'p' is given twice"),
        ("a: 1" + ":00" * 300_000, "line 1: '1:00:00:00:00:00:00:00:00:00:00:00:0... is a number of more than 64 bits"),
        ("a: 0x" + "f" * 17, "line 1: '0xfffffffffffffffff' is a number of more than 64 bits"),
        ("a: " + "1:" * 2000 + "1.5", "a value is not what its tag says"),
        ("!!bool perhaps", "a value is not what its tag says"),
        ("!!timestamp soon", "a value is not what its tag says"),
        ("!!int ''", "a value is not what its tag says"),
        ("!!binary aGk=", "could not determine a constructor for the tag 'tag:yaml.org,2002:binary'"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 2024-13-45", "month must be in 1..12"),
        ('a: "b\\0c"', r"'b\x00c' holds a NUL character"),
        ("a: [\nb: 1", "line 2: did not find expected"),
        ("a: 1\n---\nb: 1", "line 2, column 1: but found another document"),
    ],
)
def test_hostile_yaml_is_one_line_at_once(text, said):
    start = time.perf_counter()
    with pytest.raises(DocumentError) as caught:
        parse_yaml(text)
    assert time.perf_counter() - start < 1
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "more than 100 levels deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "more than 100 levels deep"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is given twice"),
        ("[1e999]", "'1e999' is no finite number"),
        ("[NaN]", "NaN is no finite number"),
        ("[-Infinity]", "-Infinity is no finite number"),
        ("[" + "9" * 4000 + "]", "is a number of more than 64 bits"),
        ('["a\\u0000"]', r"'a\x00' holds a NUL character"),
        ('{"a\\u0000": 1}', r"'a\x00' holds a NUL character"),
        ("{", "line 1, column 2: Expecting property name"),
        ("", "line 1, column 1: Expecting value"),
        (b"\xff", "not UTF-8 text"),
    ],
)
def test_hostile_json_is_one_line_at_once(text, said):
    with pytest.raises(DocumentError) as caught:
        parse_json(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_finite_is_the_callers_to_say():
    assert parse_json("[Infinity, 1e999, -Infinity]", finite=False) == [float("inf"), float("inf"), float("-inf")]
    assert parse_yaml("[.inf, 1.0e+999]") == [float("inf"), float("inf")]


def test_bounds_are_where_they_are_said_to_be():
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_yaml("[" * 100 + "]" * 100)
    assert parse_json("[18446744073709551615, -18446744073709551615]") == [2**64 - 1, 1 - 2**64]
    assert parse_yaml("[0xffffffffffffffff, -18446744073709551615, 010, 1_000, 1:30, +7]") == [
        2**64 - 1,
        1 - 2**64,
        8,
        1000,
        90,
        7,
    ]


def test_honest_yaml_reads_as_yaml_reads_it():
    text = (
        "base: &base {lr: 0.1, steps: 5}\nbelow: {inner: &inner {<<: *base, lr: 0.2}}\nmore: {<<: *inner, lr: 0.3}\n"
        "again: [*base, *base]\nnone: ~\ndate: 2020-02-01\nyes: on\ntext: 'a: b'\n1.5: x\n"
    )
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml(text)["more"] == {"lr": 0.3, "steps": 5}


def test_a_file_is_bounded_before_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no disk
    with pytest.raises(DocumentError, match="is longer than the 16 MiB that are read"):
        read_yaml(path)
    with pytest.raises(DocumentError, match="is longer than the 1 MiB that are read"):
        read_json(path, most_bytes=1 << 20)
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == read_yaml(path) == [1]
    path.write_bytes(b"[1,\n\0]")
    with pytest.raises(DocumentError, match="line 2: holds a NUL character, and is no text"):
        read_json(path)
    path.write_bytes(b"[1]\n\xff")
    with pytest.raises(DocumentError, match="line 2: not UTF-8 text"):
        read_json(path)


def test_levels_are_counted_wherever_there_could_be_many():
    """What the cheap look lets through is never deeper than the bound, whatever opens its levels."""

    def levels(text):
        depth = most = 0
        with contextlib.suppress(yaml.YAMLError):  # what came before counts: the reader had composed it
            for event in yaml.parse(text, Loader=yaml.CSafeLoader):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                most = max(most, depth)
        return most

    drawn = random.Random(0)
    words = ["- ", "? ", ": ", "a: ", "[", "{", "]", "}", "\n", "x", "'y'"]
    deepest = 0
    for _ in range(3000):
        lines = ["  " * n + "".join(drawn.choices(words, k=drawn.randrange(9))) for n in range(drawn.randrange(12))]
        text = "\n".join(lines) + "- " * drawn.randrange(9) + "[" * drawn.randrange(9)
        deepest = max(deepest, levels(text) if not _may_be_deep(text) else 0)
    assert 10 < deepest <= 100
    indented = "\n".join(" " * n + ("- " if n % 2 else "a:") for n in range(30))
    assert _may_be_deep(indented)
    assert not _may_be_deep("samples:\n" + "  - id: a\n    inputs:\n      image: b.tif\n" * 9)


def test_json_lines_of_our_own_are_read(tmp_path):
    line = json.dumps({"step": 3, "loss": 0.25, "name": "Ødegård"})
    assert parse_json(line) == {"step": 3, "loss": 0.25, "name": "Ødegård"}
