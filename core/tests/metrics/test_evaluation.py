"""Evaluation: the file keeps its contract, intervals cover, the table shows what was scored."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from geocore.errors import DataError
from geocore.metrics.evaluation import Evaluation, baselines_in, bootstrap_interval, closing, evaluation_path
from geocore.settings import EvaluationSettings
from geocore.storage.files import write_sealed
from geocore.training.checkpoint import Checkpoint


def an_evaluation(**changes: object) -> Evaluation:
    fields: dict[str, object] = {
        "task": "toy", "split": "test", "protocol": {"tile": 64, "labels": "drawn"}, "samples": 3, "primary": "iou",
        "model": {"iou": np.float64(0.75), "accuracy": 0.9}, "untrained": {"iou": 0.1, "accuracy": math.nan},
        "baselines": {"threshold": {"iou": 0.5}}, "per_class": {"snow": {"iou": 0.8}, "rock": {"iou": math.nan}},
        "per_group": {"site-a": {"iou": 0.7}}, "intervals": {"iou": (0.7, 0.8)}, "checkpoint": "step-000010",
        "data_hash": "ab12", "versions": {"geocore": "0.1.0"},
    }  # fmt: skip
    return Evaluation(**(fields | changes))


def test_file_keeps_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "evaluation-test.json"
    an_evaluation().save(path)
    plain = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert list(plain) == [
        "task", "split", "protocol", "samples", "primary", "meanings", "model", "untrained", "baselines", "per_class",
        "per_group", "intervals", "checkpoint", "data_hash", "versions", "sha256",
    ]  # fmt: skip
    assert plain["model"] == {"iou": 0.75, "accuracy": 0.9} and plain["untrained"]["accuracy"] is None
    assert plain["intervals"] == {"iou": [0.7, 0.8]}
    assert Evaluation.load(path) == an_evaluation()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_scores_of_other_checkpoints_and_other_data_stand_beside_those_of_the_run() -> None:
    checkpoint = Checkpoint(Path("run/checkpoints/step-000060"), 60, {}, {"data_hash": "own"}, [], "", {})

    def name(which: str, data_hash: str) -> str:
        path = evaluation_path(Path("run"), "val", which=which, checkpoint=checkpoint, data_hash=data_hash)
        assert path.parent == Path("run")
        return path.name

    assert name("best", "own") == "evaluation-val.json"
    assert name("last", "own") == name("step-000060", "own") == "evaluation-val-step-000060.json"
    assert name("best", "0123456789") == "evaluation-val-01234567.json"
    assert name("last", "0123456789") == "evaluation-val-step-000060-01234567.json"


def test_what_was_left_out_is_said() -> None:
    assert baselines_in(EvaluationSettings(run=Path("run"))) == {}
    left_out = baselines_in(EvaluationSettings(run=Path("run"), baselines=False))
    evaluation = an_evaluation(protocol=left_out, baselines={}, untrained=None)
    assert evaluation.protocol == {"baselines": "left out (--no-baselines)"}
    assert "untrained" not in evaluation.table()


def test_what_killed_processes_left_in_the_run_folder_is_removed(tmp_path: Path, killed_writer: str) -> None:
    for name in (f".part-{killed_writer}.json", f".part-{killed_writer}.html", ".part-of-mine", "notes.txt"):
        (tmp_path / name).touch()
    an_evaluation().save(tmp_path / "evaluation-test.json")
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation-test.json", ".part-of-mine", "notes.txt"}


def test_bad_fields_are_refused() -> None:
    with pytest.raises(ValidationError, match="'f1' is not among"):
        an_evaluation(primary="f1")
    with pytest.raises(ValidationError, match="finite"):
        an_evaluation(model={"iou": math.inf})
    with pytest.raises(ValidationError, match="extra"):
        an_evaluation(note="more")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"{", "is not what was written"),
        (b"\xff\xfe\x00", "is not what was written"),
        (b"[" * 100_000, "is not what was written"),
        (b"[1]", "is not what was written"),
        (b'{"task": "toy"}', "is not what was written"),
        ({"task": "toy"}, "split: Field required"),
    ],
)
def test_unreadable_files_give_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "evaluation-test.json"
    if isinstance(content, dict):
        write_sealed(path, content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        Evaluation.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_scores_that_are_not_what_was_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation-test.json"
    an_evaluation().save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        if whole[place : place + 1].strip():  # the space between values says nothing
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(DataError, match="write it again with the evaluate command"):
                Evaluation.load(path)
    path.write_bytes(whole.replace(b"0.75", b"0.85"))
    with pytest.raises(DataError, match="is not what was written, by damage or by hand"):
        Evaluation.load(path)


def test_table() -> None:
    lines = an_evaluation().table().splitlines()
    assert lines[0] == "toy, test: 3 samples, checkpoint step-000010 (* leading score)"
    assert lines[2].split() == ["score", "model", "95", "%", "interval", "untrained", "threshold"]
    assert lines[3].split() == ["iou", "*", "0.7500", "0.7000", "to", "0.8000", "0.1000", "0.5000"]
    assert lines[4].split() == ["accuracy", "0.9000", "-", "-"]
    assert ["rock", "-"] in [line.split() for line in lines] and ["site-a", "0.7000"] in [
        line.split() for line in lines
    ]


def test_table_says_what_scores_say_and_shows_those_to_look_at() -> None:
    meanings = {"accuracy": "share of right pixels", "iou": "overlap with the truth", "kappa": "beyond chance"}
    model = {"iou": 0.75, "accuracy": 0.9, "f1_of_seven": 0.1}
    lines = an_evaluation(model=model, meanings=meanings).table().splitlines()
    table = lines[2 : lines.index("", 2)]
    assert [line.split()[0] for line in table] == ["score", "iou", "accuracy", "kappa"]
    assert table[1].endswith("  overlap with the truth") and table[3].split()[1:4] == ["-", "-", "-"]
    # The sentences begin below each other.
    assert len({line.index(meanings[line.split()[0]]) for line in table[1:]}) == 1


def test_table_shows_counts_without_decimals_and_per_cent_with_two() -> None:
    classes = {"snow": {"iou": 0.8, "pixels": 1234567.0}, "rock": {"iou": 1.0, "pixels": 0.0}}
    lines = an_evaluation(per_class=classes, model={"iou": 86.312}).table().splitlines()
    assert ["snow", "0.8000", "1,234,567"] in [line.split() for line in lines]
    assert "86.31" in lines[3].split()


def test_table_shows_the_worst_of_many_groups_and_their_leading_score_alone() -> None:
    groups = {f"site-{number}": {"iou": 1 - number / 20, "accuracy": 0.5} for number in range(12)}
    shown = an_evaluation(per_group=groups | {"empty": {"iou": math.nan}}).table().split("\n\n")[-1].splitlines()
    assert shown[0].split() == ["group", "iou"] and shown[1].split() == ["site-11", "0.4500"]
    assert len(shown) == 10 and shown[-1] == "... and 5 more, better ones"


def test_closing_names_the_files_and_the_next_command() -> None:
    lines = closing(Path("my runs/a"), Path("my runs/a/evaluation-test.json"), "toy-predict", "SCENES").splitlines()
    assert lines == [
        "all scores: my runs/a/evaluation-test.json; with pictures: my runs/a/report.html",
        "map with it: toy-predict --run 'my runs/a' --input SCENES --output MAPS",
    ]


def accuracy(counts: np.ndarray) -> float:
    return float(counts[0] / counts[1]) if counts[1] else math.nan


def test_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(120):
        hits = rng.binomial(20, 0.7, 60)
        low, high = bootstrap_interval(np.stack([hits, np.full(60, 20)], 1), accuracy, resamples=300, seed=trial)
        inside += low <= 0.7 <= high
    assert 0.88 <= inside / 120 <= 0.99


def test_interval_equals_the_normal_one_for_a_mean_of_many() -> None:
    values = np.random.default_rng(0).standard_normal(2000)
    counts = np.stack([values, np.ones(2000)], 1)
    error = values.std() / np.sqrt(2000)
    for level, width in ((0.95, 1.960), (0.8, 1.282)):
        low, high = bootstrap_interval(counts, accuracy, resamples=3000, level=level)
        assert abs((values.mean() - low) / error - width) < 0.15
        assert abs((high - values.mean()) / error - width) < 0.15


def test_interval_draws_whole_groups() -> None:
    # 40 samples of 2 sites that agree within a site: as samples they look certain, as sites they are not.
    counts = np.repeat([[9, 10], [1, 10]], 20, axis=0)
    groups = ["a"] * 20 + ["b"] * 20
    low, high = bootstrap_interval(counts, accuracy, groups=groups)
    assert (low, high) == (0.1, 0.9)
    narrow = bootstrap_interval(counts, accuracy)
    assert narrow[1] - narrow[0] < 0.4


def test_interval_is_repeatable_and_works_on_matrices() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (12, 3, 3))
    first = bootstrap_interval(counts, lambda total: float(np.trace(total) / total.sum()), seed=4)
    assert first == bootstrap_interval(counts, lambda total: float(np.trace(total) / total.sum()), seed=4)
    assert first[0] < np.trace(counts.sum(0)) / counts.sum() < first[1]


def test_interval_is_unknown_with_too_little_data() -> None:
    assert all(map(math.isnan, bootstrap_interval(np.array([[1, 2]]), accuracy)))
    assert all(map(math.isnan, bootstrap_interval(np.zeros((5, 2)), accuracy)))
    with pytest.raises(ValueError, match="1 groups for 2 samples"):
        bootstrap_interval(np.ones((2, 2)), accuracy, groups=["a"])
