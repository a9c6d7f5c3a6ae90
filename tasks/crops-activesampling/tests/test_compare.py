"""`crops-compare` on runs written by hand, with costs that can be checked in the head."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t

from crops_activesampling import compare
from crops_activesampling.comparison import interval, read_run, strategies_of, table
from crops_activesampling.config import TASK, TrainSettings
from geocore.errors import DataError, RunError
from geocore.settings import deciding_values
from geocore.storage.files import sha256_file, write_sealed

RHO = {"scores": {"rho-loss": 1.0}, "holdout": "holdout", "block": 4}

Command = Callable[..., int]


def write_run(
    folder: Path,
    f1: Sequence[float],
    *,
    seed: int = 0,
    selection: dict[str, Any] | None = None,
    learning_rate: float = 1e-3,
    forwards: int = 3,
    seconds: float = 1.0,
    holdout: tuple[int, float] | None = None,
    task: str = TASK,
    data_hash: str = "d",
    finished: bool = True,
) -> Path:
    """A run with a validation every 10 steps, with so many forwards and seconds a step."""
    settings = TrainSettings(
        training={"seed": seed, "steps": 10 * len(f1) or 1},  # type: ignore[arg-type]
        selection=selection or {},  # type: ignore[arg-type]
        optimizer={"learning_rate": learning_rate},  # type: ignore[arg-type]
    )
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps({"task": task, "data_hash": data_hash, "settings": deciding_values(settings)})
    )
    lines: list[dict[str, Any]] = []
    if holdout is not None:
        lines.append({"step": 0, "holdout_forwards": holdout[0], "holdout_seconds": holdout[1]})
    for number, score in enumerate(f1, 1):
        step = 10 * number
        lines.append({"step": step, "loss": 0.5, "steps_per_second": 3.0})
        # Two lines, the costs first, as training writes them.
        lines.append({"step": step, "forwards": step * forwards, "seconds": step * seconds})
        lines.append({"step": step, "validation_f1_weighted": score, "validation_oa": score})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        write_sealed(folder / "finished.json", {})
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Uniform sampling ends at a mean of 0.70; rho-loss gets there after 20 of 40 steps."""
    rho: dict[str, Any] = {"selection": RHO, "forwards": 7, "seconds": 2.0, "holdout": (60, 12.0)}
    return [
        write_run(tmp_path / "none-0", [0.4, 0.5, 0.6, 0.68]),
        write_run(tmp_path / "none-1", [0.4, 0.55, 0.71, 0.72], seed=1),
        write_run(tmp_path / "rho-0", [0.5, 0.7, 0.69, 0.8], **rho),
        write_run(tmp_path / "rho-1", [0.71, 0.72, 0.75, 0.84], seed=1, **rho),
        write_run(tmp_path / "random-0", [0.3, 0.3, 0.3, 0.3], selection={"scores": {"random": 1.0}, "block": 4}),
    ]


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `crops-compare` in this process, as the console script would, and gives its exit code."""

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["crops-compare", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            compare.main()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code

    return run


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "comparison.csv").open(newline="") as file:
        return {row["strategy"]: row for row in csv.DictReader(file)}


def test_costs_to_reach_the_reference_and_their_shares(
    runs: list[Path], tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("--runs", *runs, "--out", tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    assert list(rows) == ["none", "rho-loss", "random"]
    rho = {name: float(value) for name, value in rows["rho-loss"].items() if name != "strategy"}
    assert (rho["runs"], rho["f1"]) == pytest.approx((2, 0.82))
    # Means over seeds are 0.605 and 0.71: there after 20 of the 40 steps, 120 forwards and 40 seconds of the reference.
    assert (rho["steps_needed"], rho["forwards_needed"], rho["seconds_needed"]) == (20, 140, 40)
    assert (rho["steps_ratio"], rho["forwards_ratio"], rho["seconds_ratio"]) == (20 / 40, 140 / 120, 40 / 40)
    assert rho["forwards_ratio_with_holdout"] == (140 + 60) / 120
    assert rho["seconds_ratio_with_holdout"] == (40 + 12) / 40
    # By themselves seeds need 20 and 10 steps.
    half = t.ppf(0.975, 1) * (50**0.5) / 2**0.5
    assert (rho["reached"], rho["steps_each"], rho["forwards_each"]) == (2, 15, 105)
    assert (rho["steps_each_low"], rho["steps_each_high"]) == pytest.approx((15 - half, 15 + half))
    # Seed 0 of the reference ends below the mean of both, so that by itself it does not get there.
    assert (rows["none"]["steps_needed"], rows["none"]["reached"], rows["none"]["steps_each"]) == ("40.0", "1", "")
    assert (rows["random"]["steps_needed"], rows["random"]["seconds_ratio"], rows["random"]["reached"]) == ("", "", "0")
    assert rows["random"]["f1_low"] == ""
    printed = capsys.readouterr().out
    last = f"written to {tmp_path / 'out'}: comparison.csv, comparison.md, and comparison.png: look at it\n"
    assert printed == (tmp_path / "out" / "comparison.md").read_text() + last
    assert "| rho-loss | 2 | 0.8200 (" in printed and "weighted F1 of 0.7000" in printed and " 0.50 |" in printed


def test_a_reference_that_is_there_early_needs_less_than_it_spent(tmp_path: Path) -> None:
    early = strategies_of([read_run(write_run(tmp_path / "a", [0.4, 0.7, 0.6, 0.65]))])
    (row,) = table(early, early[0])
    assert (row["steps_needed"], row["steps_ratio"]) == (20, 0.5)


def test_runs_that_patience_ended_are_averaged_as_far_as_all_go(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a", [0.4, 0.6]), write_run(tmp_path / "b", [0.5, 0.6, 0.7, 0.8], seed=1)]
    (strategy,) = strategies_of(
        [dataclasses.replace(read_run(folder), settings=read_run(folders[0]).settings) for folder in folders]
    )
    assert [(point["steps"], point["f1"]) for point in strategy.curve] == [(10, 0.45), (30, pytest.approx(0.7))]


def test_the_reference_can_be_named_and_the_picture_is_drawn(
    runs: list[Path], tmp_path: Path, run_command: Command
) -> None:
    assert run_command("--runs", *runs, "--out", tmp_path / "out", "--reference", "random") == 0
    assert {row["steps_ratio"] for row in rows_of(tmp_path / "out").values()} == {"0.25"}
    picture = (tmp_path / "out" / "comparison.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 10_000
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.csv", "comparison.md", "comparison.png",
    ]  # fmt: skip


def test_only_the_seed_joins_runs_and_what_differs_is_named(tmp_path: Path) -> None:
    given = [
        read_run(write_run(tmp_path / "a", [0.5])),
        read_run(write_run(tmp_path / "b", [0.5], seed=3)),
        read_run(write_run(tmp_path / "c", [0.5], learning_rate=0.01)),
        read_run(write_run(tmp_path / "d", [0.5], selection={**RHO, "holdout": "one"})),
        read_run(write_run(tmp_path / "e", [0.5], seed=1, selection={**RHO, "holdout": "another"})),
        read_run(
            write_run(tmp_path / "f", [0.5], selection={"scores": {"loss": 1.0, "irreducible": 0.5}, "holdout": "x"})
        ),
    ]
    assert [(strategy.name, len(strategy.runs)) for strategy in strategies_of(given)] == [
        ("none (optimizer.learning_rate 0.001)", 2),
        ("none (optimizer.learning_rate 0.01)", 1),
        ("rho-loss", 2),
        ("loss + 0.5 irreducible", 1),
    ]


def test_a_resumed_run_counts_each_validation_once_and_those_without_costs_never(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [0.5, 0.6])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 20, "validation_f1_weighted": 0.65}) + "\n")
        file.write(json.dumps({"step": 30, "validation_f1_weighted": 0.9}) + "\n")
        file.write(json.dumps({"step": 40, "validation_f1_weighted": None, "forwards": 1, "seconds": 1.0}) + "\n")
    assert [(point["steps"], point["f1"]) for point in read_run(folder).points] == [(10, 0.5), (20, 0.65)]


@pytest.mark.parametrize("harm", ["another score", "cut", "no number", "folder", "missing"])
def test_metrics_that_are_not_what_the_run_wrote_are_not_compared(tmp_path: Path, harm: str) -> None:
    folder = write_run(tmp_path / "a", [0.5, 0.6])
    path = folder / "metrics.jsonl"
    whole = path.read_text()
    write_sealed(folder / "finished.json", {"metrics_sha256": sha256_file(path)})
    assert [point["f1"] for point in read_run(folder).points] == [0.5, 0.6]
    path.unlink()
    match harm:
        case "another score":
            path.write_text(whole.replace("0.6", "0.7"))
        case "cut":
            path.write_text(whole[:-9])
        case "no number":
            path.write_text(whole.replace('"step": 10', '"step": []', 1))
        case "folder":
            path.mkdir()
    with pytest.raises(
        RunError, match=r"metrics\.jsonl: is not what the run wrote \(.*\): leave the run out, or train"
    ):
        read_run(folder)


def test_intervals_are_those_of_student() -> None:
    low, high = interval([1.0, 2.0, 4.0])
    expected = t.interval(0.95, 2, loc=7 / 3, scale=(7 / 3) ** 0.5 / 3**0.5)
    assert (low, high) == pytest.approx(expected)
    assert interval([1.0]) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "floods"}, "is a run of the task 'floods': give run folders of crops-train"),
        ({"finished": False}, "has not reached its end: go on with crops-train --run"),
        ({"data_hash": "other"}, "was trained on other data than"),
        ({"seed": 1}, "are the same run with seed 1: leave one out"),
        ({"f1": []}, "no validation has an F1 and its costs: train it again"),
        ({"learning_rate": 0.5}, "2 strategies have no selection, among none (optimizer.learning_rate"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_clear_line(
    change: dict[str, Any],
    message: str,
    runs: list[Path],
    tmp_path: Path,
    run_command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extra = write_run(tmp_path / "extra", **{"f1": [0.5, 0.5, 0.5, 0.5], "seed": 7} | change)
    assert run_command("--runs", *runs, extra, "--out", tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_run_and_an_unknown_reference_are_one_clear_line(
    runs: list[Path], tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("--runs", *runs, tmp_path / "missing", "--out", tmp_path / "out") == 2
    assert "missing: is no run that was begun" in capsys.readouterr().err
    assert run_command("--runs", *runs, "--out", tmp_path / "out", "--reference", "margin") == 2
    assert "reference 'margin': the runs give none; rho-loss; random; name one of these" in capsys.readouterr().err


def test_help_needs_neither_torch_nor_pictures() -> None:
    code = (
        "import sys; from crops_activesampling import compare, train\n"
        "assert not {'torch', 'matplotlib', 'scipy', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_runs_of_other_data_are_refused_before_they_are_grouped(tmp_path: Path) -> None:
    given = [read_run(write_run(tmp_path / name, [0.5], data_hash=name)) for name in ("a", "b")]
    with pytest.raises(DataError, match="compare runs on the same"):
        strategies_of(given)
