"""Checks: the cause is named before anything heavy is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geocore.cli.checks import check_inputs, check_prepared, check_run
from geocore.errors import DataError, RunError, StorageError, UserError
from geocore.storage.records import read_calls, scenes_of, write_calls


def a_run(folder: Path, task: str = "floods", steps: int = 1) -> Path:
    (folder / "checkpoints" / f"step-{steps:06d}").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"task": task, "data_hash": "d", "settings": {}}))
    return folder


def maps(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    endings = ["_pred.tif", ".gpkg"]
    for name in names:
        for ending in (*endings, "_pred.tif.aux.xml"):
            (folder / f"{name}{ending}").touch()
    (folder / ".geocore").mkdir(exist_ok=True)
    (folder / "all_pred.vrt").touch()
    write_calls(folder, [{"products": endings, "scenes": {name: {} for name in names}, "failed": {}}])
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: path, "no such folder: --run takes the folder of a run of floods-train; check the path"),
        (lambda path: a_run(path, "crops"), "is a run of crops, not of floods: "),
        (lambda path: a_run(path, "floods-baseline"), "is a run of floods-baseline, not of floods: "),
        (lambda path: maps(path, "a"), "holds maps: "),
        (empty, "holds nothing: "),
    ],
)
def test_what_is_no_run_of_the_task_is_named(tmp_path: Path, make: Callable[[Path], Path], cause: str) -> None:
    with pytest.raises(RunError) as error:
        check_run(make(tmp_path / "x"), "floods")
    assert str(error.value).startswith(f"{tmp_path}/x: {cause}") and "--run takes" in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"task": "flo', b'{"task": "fmoods"}', b"[" * 10_000, None])
def test_a_run_can_be_used_when_its_record_is_damaged(tmp_path: Path, content: bytes | None) -> None:
    run = a_run(tmp_path / "run")
    for step in (1, 2):
        (run / f"checkpoints/step-{step:06d}").mkdir(exist_ok=True)
        (run / f"checkpoints/step-{step:06d}/card.json").write_text('{"task": "floods"}' if step == 1 else "{")
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_bytes(content)
    check_run(run, "floods")
    with pytest.raises(RunError, match="is a run of floods, not of crops"):
        check_run(run, "crops")


def test_a_run_needs_something_trained(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    check_run(run, "floods")
    (run / "checkpoints/step-000001").rmdir()
    with pytest.raises(RunError, match=f"train first with floods-train --run {run}$"):
        check_run(run, "floods")


def test_a_data_set_and_other_folders_are_told_apart(tmp_path: Path) -> None:
    check_prepared(None, "floods")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/dataset.yaml").touch()
    for path in (tmp_path / "dataset", tmp_path / "dataset/dataset.yaml"):
        check_prepared(path, "floods")
    with pytest.raises(RunError, match="holds a prepared data set: "):
        check_run(tmp_path / "dataset", "floods")
    with pytest.raises(DataError, match="nowhere: no such folder: --data takes a data set that floods-prepare made"):
        check_prepared(tmp_path / "nowhere", "floods")
    with pytest.raises(DataError, match="run: holds a training run: "):
        check_prepared(a_run(tmp_path / "run"), "floods")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.tif").touch()
    with pytest.raises(
        DataError, match=f"raw: holds something else: .*floods-prepare --data {tmp_path}/raw --out DATASET"
    ):
        check_prepared(tmp_path / "raw", "floods")


def refusal(*inputs: Path | str, output: Path, **options: Any) -> str:
    try:
        check_inputs(inputs, output, **options)
    except UserError as error:
        return str(error)
    return ""


def test_inputs_are_there_and_no_maps(tmp_path: Path) -> None:
    made, raw = maps(tmp_path / "maps", "a", "b_c"), empty(tmp_path / "raw")
    output = tmp_path / "new"
    (raw / "a.tif").touch()
    assert refusal(raw, raw / "a.tif", "https://there.org/a.tif", output=output) == ""
    assert refusal(raw / "b.tif", output=output).startswith(f"{raw}/b.tif: no such scene or folder: ")
    (made / "a_pred.tif.changed").touch()  # a user's, put aside when the map was made again
    assert refusal(made, output=output).startswith(f"{made}: holds maps that were made before, no scene: ")
    for name, source in (("a_pred.tif", "a"), ("b_c.gpkg", "b_c"), ("all_pred.vrt", "several scenes")):
        said = f"{made}/{name}: is a map made of {source}, no photograph: give the photograph itself"
        assert refusal(made / name, output=output, kind="photograph") == said
    # What lies among maps but was made of nothing is a scene.
    (made / "a_north.tif").touch()
    assert refusal(made / "a_north.tif", made, output=made) == ""


def test_an_output_that_cannot_take_maps(tmp_path: Path) -> None:
    scene = tmp_path / "a.tif"
    scene.touch()
    assert refusal(scene, output=maps(tmp_path / "maps", "b")) == ""
    run = a_run(tmp_path / "run")
    assert refusal(scene, output=run) == f"{run}: holds a training run, not maps: give another folder as --output"
    with pytest.raises(StorageError, match="a.tif: a file is in the way of a folder"):
        check_inputs([scene], scene)


def test_a_record_names_all_that_was_mapped(tmp_path: Path) -> None:
    assert read_calls(tmp_path) == read_calls(tmp_path / "nowhere") == []
    call = {
        "identity": {"c": 1},
        "versions": {"v": "1"},
        "failed": {"f": "why"},
        "patches": {"p": {}},
        "mosaics": {"m": []},
    }
    write_calls(tmp_path, [call])
    assert read_calls(tmp_path) == [call] and list(scenes_of(call)) == ["p", "m"]
