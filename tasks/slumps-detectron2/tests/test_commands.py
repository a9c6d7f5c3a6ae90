"""Each command end to end on a small sample, and what it says about bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow
import pytest
import rasterio
import shapely
import torch
from pyarrow import parquet

from geocore.datasets.dataset import Dataset
from geocore.device import DeviceContext, to_device
from geocore.errors import DataError
from geocore.inference import tiled
from geocore.raster.geotiff import open_raster
from geocore.training.checkpoint import CheckpointState, save_checkpoint
from slumps_detectron2 import evaluate, predict, prepare, train
from slumps_detectron2.products import product_paths
from slumps_detectron2.sample import BANDS, write_sample

SMALL = [
    *("--training.checkpoint-every", "1"),
    *("--model.depth", "18", "--model.anchors-px", "8", "16", "32", "64", "96"),
    *("--tiling.size", "96", "--tiling.overlap", "32", "--training.steps", "2", "--training.batch-size", "2"),
    *("--training.validate-every", "2", "--baseline.steps", "2", "--baseline.batch-size", "2"),
    *("--device.device", "cpu", "--device.threads", "1"),
]
CUT = ["--cut.size", "96", "--cut.stride", "96", "--split.train", "0.4", "--split.val", "0.3"]

CHANNELS_LAST = torch.channels_last

Command = Callable[..., int]


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs an entry point in this process, as the console script would, and gives its exit code."""

    def run(module: object, *words: object) -> int:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])  # type: ignore[attr-defined]
        with pytest.raises(SystemExit) as stopped:
            module.main()  # type: ignore[attr-defined]
        assert isinstance(stopped.value.code, int)
        return stopped.value.code

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw scenes, a data set and a short run, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("slumps")
    write_sample(folder / "raw", seed=3, scenes=6, shape=(176, 192))
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)  # the run is used from other folders than the one in which its data were named
    words = {
        prepare: [
            *("--data", folder / "raw/pairs.csv", "--out", folder / "dataset"),
            *("--label-kind", "instances", "--ignore", "4294967295", *CUT),
        ],
        train: ["--data", "dataset", "--run", folder / "run", *SMALL],
    }
    for module, given in words.items():
        patch.setattr(sys, "argv", [module.__name__, *map(str, given)])
        with pytest.raises(SystemExit) as stopped:
            module.main()
        assert stopped.value.code == 0
    patch.undo()
    return folder


def scenes_of(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / "raw").glob("*.tif")) if not path.stem.endswith("_instances")]


def errors_of(captured: str) -> list[str]:
    assert "Traceback" not in captured
    return [line for line in captured.splitlines() if line.startswith("error:")]


def test_evaluate_writes_model_untrained_and_baseline(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(evaluate, "--run", trained / "run", "--resamples", "20", "--device.device", "cpu") == 0
    assert "ap50 *" in capsys.readouterr().out
    written = json.loads((trained / "run/evaluation-test.json").read_text())
    assert written["primary"] == "ap50"
    for scores in (written["model"], written["untrained"], written["baselines"]["u-net"]):
        assert {"ap50", "ap75", "map", "object_f1_10", "object_f1_30", "object_f1_50", "pixel_iou"} <= set(scores)
    report = (trained / "run/report.html").read_text()
    assert "Scores on test" in report and "data:image/png" in report
    # The baseline is trained once.
    before = (trained / "run/baseline/finished.json").stat().st_mtime_ns
    assert run_command(evaluate, "--run", trained / "run", "--resamples", "0", "--device.device", "cpu") == 0
    assert (trained / "run/baseline/finished.json").stat().st_mtime_ns == before


def test_predict_writes_all_products(trained: Path, tmp_path: Path, run_command: Command) -> None:
    words = ["--run", trained / "run", "--input", *scenes_of(trained), "--output", tmp_path, "--threshold", "0.05"]
    assert run_command(predict, *words, "--device.device", "cpu") == 0
    for scene in scenes_of(trained):
        assert all(path.exists() for path in product_paths(tmp_path, scene.stem))
        with open_raster(scene) as source, open_raster(tmp_path / f"{scene.stem}_prob.tif") as probability:
            assert probability.grid == source.grid
            valid = source.read_layers(source.grid.whole)["image"].valid.all(axis=0)
            percent = probability.read_layers(probability.grid.whole)["image"]
            assert np.array_equal(percent.valid[0], valid)
            assert percent.values[0][valid].max(initial=0) <= 100
        with rasterio.open(tmp_path / f"{scene.stem}_instances.tif") as source:
            ids = source.read(1)
            assert np.array_equal(ids == 4294967295, ~valid)
        table = geopandas.read_file(tmp_path / f"{scene.stem}.gpkg")
        assert table["id"].tolist() == np.unique(ids[valid & (ids > 0)]).tolist() == list(range(1, len(table) + 1))
    record = json.loads((tmp_path / "run.json").read_text())["calls"][-1]
    assert record["failed"] == {}
    assert not (tmp_path / ".geocore/parts").exists()


@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_batch_size_and_memory_format_reach_the_network(
    name: str, trained: Path, tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[DeviceContext] = []
    laid_out: set[bool] = set()

    def moved(batch: Any, context: DeviceContext) -> Any:
        contexts.append(context)
        return to_device(batch, context)

    def convolved(module: torch.nn.Conv2d, image: torch.Tensor) -> torch.Tensor:
        if contexts:  # tiles are being mapped
            # Behind the first one, objects are cut out of features.
            seen = (image, module.weight) if module.in_channels == len(BANDS) else (module.weight,)
            laid_out.update(tensor.is_contiguous(memory_format=CHANNELS_LAST) for tensor in seen)
        return convolve(module, image)

    convolve = torch.nn.Conv2d.forward
    monkeypatch.setattr(tiled, "to_device", moved)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", convolved)
    module, words = {
        "train": (train, ["--data", trained / "dataset", *SMALL, "--training.validation-batch-size", "3"]),
        "evaluate": (evaluate, ["--no-baselines", "--resamples", "0", "--batch-size", "3"]),
        "predict": (predict, ["--input", scenes_of(trained)[0], "--output", tmp_path / "maps", "--batch-size", "3"]),
    }[name]
    run = tmp_path / "run" if name == "train" else shutil.copytree(trained / "run", tmp_path / "run")
    assert run_command(module, "--run", run, *words, "--device", "cpu", "--device.channels-last") == 0
    assert {context.batch_size for context in contexts} == {3} and laid_out == {True}


def test_a_plan_says_what_a_scene_takes_and_maps_none(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = scenes_of(trained)[:2]
    words = ["--run", trained / "run", "--input", *scenes, "--output", tmp_path / "maps", "--device.device", "cpu"]
    assert run_command(predict, *words, "--plan", "true") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    pattern = r": \d+ tiles in \d+ chunks \(\d+ of them .* to decode, .* of buffers .*, about \d+ s$"
    assert all(re.search(pattern, line) for line in lines), lines
    assert not (tmp_path / "maps").exists()


def test_prediction_is_the_same_for_any_number_of_workers_and_is_kept(
    trained: Path, tmp_path: Path, run_command: Command
) -> None:
    """On a CPU with one thread, in chunks of one size."""
    scene = scenes_of(trained)[0]
    words = ["--run", trained / "run", "--input", scene, "--threshold", "0.05", "--chunk-px", "256"]
    words += ["--device.device", "cpu", "--device.threads", "1", "--output"]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert run_command(predict, *words, tmp_path / "b", "--workers", "2") == 0
    paths, others = product_paths(tmp_path / "a", scene.stem), product_paths(tmp_path / "b", scene.stem)
    for path, other in zip(paths, others, strict=True):
        if path.suffix == ".tif":
            assert path.read_bytes() == other.read_bytes()
    assert geopandas.read_parquet(paths[4]).equals(geopandas.read_parquet(others[4]))
    times = [path.stat().st_mtime_ns for path in paths]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert [path.stat().st_mtime_ns for path in paths] == times
    content = paths[1].read_bytes()
    paths[1].unlink()
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert paths[1].read_bytes() == content


def test_scenes_in_another_unit_are_neither_mapped_nor_scored(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reflectance for whole numbers: zero lies within four standard deviations of theirs."""
    shutil.copytree(trained / "raw", tmp_path / "raw")
    for scene in scenes_of(tmp_path):
        with rasterio.open(scene) as file:
            values, profile, names = file.read(), file.profile, file.descriptions
        with rasterio.open(scene, "w", **profile | {"dtype": "float32", "nodata": 0}) as file:
            file.write(values.astype("float32") / 10000)
            file.descriptions = names
    first = scenes_of(tmp_path)[0]
    words = ["--run", trained / "run", "--output", tmp_path / "maps", "--device.device", "cpu", "--input", first]
    assert run_command(predict, *words) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "its numbers are about 1/" in line and "reflectance 0-1" in line and "--scale 10000" in line
    # Brought to the unit of training it is the scene that it was, but for what float32 rounds.
    assert run_command(predict, *words, "--scale", "10000") == 0
    data = ["--data", tmp_path / "raw/pairs.csv", "--label-kind", "instances", "--ignore", "4294967295", *CUT]
    assert run_command(prepare, *data, "--out", tmp_path / "dataset") == 0
    assert run_command(evaluate, "--run", trained / "run", "--data", tmp_path / "dataset", "--no-baselines") == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "its numbers are about 1/" in line and "reflectance 0-1" in line


def test_any_checkpoint_is_scored_without_baselines_and_mapped_with(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", trained / "run", "--checkpoint", "step-1"]
    assert run_command(evaluate, *words, "--no-baselines", "--resamples", "5", "--device.device", "cpu") == 0
    assert "untrained" not in capsys.readouterr().out
    written = json.loads((trained / "run/evaluation-test-step-000001.json").read_text())
    assert written["checkpoint"] == "step-000001" and written["untrained"] is None
    assert written["baselines"] == {} and written["protocol"]["baselines"] == "left out (--no-baselines)"
    words += ["--input", scenes_of(trained)[0], "--device.device", "cpu"]
    assert run_command(predict, *words, "--output", tmp_path / "none") == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "was saved before the first validation, which chooses the threshold: give --threshold" in line
    assert run_command(predict, *words, "--output", tmp_path / "first", "--threshold", "0.5") == 0
    words[3] = "last"
    assert run_command(predict, *words, "--output", tmp_path / "last") == 0
    for name in ("first", "last"):
        record = json.loads((tmp_path / name / "run.json").read_text())["calls"][-1]
        assert Path(record["checkpoint"]).name == {"first": "step-000001", "last": "step-000002"}[name]


def test_a_validation_that_cannot_choose_is_refused_before_work_and_leaves_no_run(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset.load(trained / "dataset")
    lacking = [
        dataclasses.replace(
            sample, attributes={**sample.attributes, **({"slumps": 0} if sample.split == "val" else {})}
        )
        for sample in dataset.samples
    ]
    shutil.copytree(trained / "dataset", trained / "lacking", dirs_exist_ok=True)
    dataclasses.replace(dataset, root=trained / "lacking", samples=lacking).save()
    words = ["--data", trained / "lacking", "--run", tmp_path / "run", *SMALL]
    assert run_command(train, *words) == 2
    assert "val has no slump, so that ap50 cannot choose" in capsys.readouterr().err
    assert run_command(train, "--run", tmp_path / "run", *SMALL, "--schedule.warmup-steps", "2") == 2
    assert "schedule.warmup_steps = 2: must be below the 2 steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_other_data_set_is_prepared_over_one_that_is_there(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (trained / "dataset").rglob("*") if path.is_file()}

    words, before = (
        [
            "--data",
            trained / "raw/pairs.csv",
            "--out",
            trained / "dataset",
            "--label-kind",
            "instances",
            "--ignore",
            "4294967295",
            *CUT,
        ],
        held(),
    )
    assert run_command(prepare, *words, "--cut.stride", "64") == 2
    error = capsys.readouterr().err
    assert "holds another data set: " in error and " there, " in error and "another folder with --out" in error
    assert held() == before
    assert run_command(prepare, *words) == 0
    after = held()
    assert after[trained / "dataset" / "dataset.yaml"] == before[trained / "dataset" / "dataset.yaml"]


def test_windows_are_read_by_as_many_threads_as_were_asked_for(
    trained: Path, tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def noted(*_: object, threads: int, **__: object) -> None:
        given.append(threads)
        raise DataError("seen")

    monkeypatch.setattr("geocore.datasets.loader.Batches", noted)
    words = ["--data", trained / "dataset", "--run", tmp_path / "run", *SMALL]
    assert run_command(train, *words) == run_command(train, *words, "--loader.threads", "3") == 2
    assert given == [1, 3]


def test_finished_run_says_so_and_another_setting_is_refused(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", trained / "dataset", "--run", trained / "run", *SMALL]
    assert run_command(train, *words) == 0
    assert "slumps-evaluate --run" in capsys.readouterr().out
    assert run_command(train, *words, "--optimizer.learning-rate", "0.1") == 2
    assert "learning_rate" in capsys.readouterr().err


def test_bad_scene_is_named_and_the_others_are_mapped(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = scenes_of(trained)[:2]
    cut = tmp_path / "cut.tif"
    cut.write_bytes(other.read_bytes()[: other.stat().st_size // 2])
    few = tmp_path / "few.tif"
    with rasterio.open(other) as source:
        profile = source.profile | {"count": 2}
        with rasterio.open(few, "w", **profile) as target:
            target.write(source.read([1, 2]))
            target.descriptions = source.descriptions[:2]
    words = ["--run", trained / "run", "--input", good, cut, few, "--output", tmp_path / "maps"]
    assert run_command(predict, *words, "--device.device", "cpu") == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "cut" in line and "few" in line and "has no band" in line
    assert (tmp_path / "maps" / f"{good.stem}.gpkg").exists()
    assert sorted(json.loads((tmp_path / "maps/run.json").read_text())["calls"][-1]["failed"]) == ["cut", "few"]


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--tiling.overlap", "1"], "overlap"),
        (["--model.anchors-px", "8", "16"], "five"),
        (["--model.anchor-px", "8"], "anchors"),
        (["--data", "nowhere"], "nowhere"),
        (["--recipe", "nothing"], "nothing"),
        (["--model.weights", "absent.pt"], "absent.pt"),
    ],
)
def test_bad_setting_gives_one_line(
    trained: Path,
    tmp_path: Path,
    run_command: Command,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    needle: str,
) -> None:
    given = ["--data", trained / "dataset", "--run", tmp_path / "run", *SMALL, *words]
    assert run_command(train, *given) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert needle in line


def test_run_of_another_task_is_refused(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    folder = tmp_path / "run/checkpoints/step-000002"
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"task": "floods"}))
    assert run_command(evaluate, "--run", tmp_path / "run") == 2
    assert run_command(predict, "--run", tmp_path / "none", "--input", scenes_of(trained)[0], "--output", tmp_path) == 2
    assert len(errors_of(capsys.readouterr().err)) == 2


def test_predict_refuses_the_run_of_another_task(
    tmp_path: Path, trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"weight": torch.zeros(1)}
    contents = CheckpointState(
        step=1, model=model, ema=None, optimizer={}, source={}, random=[], progress={}, card={"task": "floods"}
    )
    save_checkpoint(tmp_path / "run/checkpoints", contents, best=True, keep=1)
    (tmp_path / "run/run.json").write_text('{"task": "floods"}')
    words = ["--run", tmp_path / "run", "--input", *scenes_of(trained), "--output", tmp_path / "maps"]
    assert run_command(predict, *words, "--device.device", "cpu") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "is a run of floods, not of slumps: --run takes" in line and not (tmp_path / "maps").exists()


def test_the_wheel_does_not_name_detectron2() -> None:
    """It is not on PyPI, so nobody could install a wheel that asks for it."""
    named = [requirement.split(">")[0].split(";")[0].strip() for requirement in requires("slumps-detectron2") or []]
    assert "torchvision" in named
    assert "detectron2" not in named


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate", "predict"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['slumps-{verb}', '--help']\n"
        f"from slumps_detectron2.{verb} import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert stopped.code == 0, stopped.code\n"
        "heavy = {'torch', 'torchvision', 'rasterio', 'scipy', 'geopandas', 'pycocotools'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_outlines_that_claim_too_much_are_one_line(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A view that never ends, and geometries that lie in each other, which ended in a segmentation fault."""
    scene = scenes_of(trained)[0]
    with rasterio.open(scene) as file:
        crs, square = file.crs, shapely.box(*file.bounds)
    table = geopandas.GeoDataFrame({"a": [1]}, geometry=[square], crs=crs)
    table.to_file(tmp_path / "view.gpkg", layer="l")
    with contextlib.closing(sqlite3.connect(tmp_path / "view.gpkg")) as database:
        database.execute(
            "CREATE VIEW v AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c"
        )
        database.commit()
    table.to_parquet(tmp_path / "nested.parquet")
    nested = struct.pack("<BII", 1, 7, 1) * 100_000 + shapely.to_wkb(square)
    metadata = parquet.read_schema(tmp_path / "nested.parquet").metadata
    content = pyarrow.table({"geometry": [nested]}).replace_schema_metadata(metadata)
    parquet.write_table(content, tmp_path / "nested.parquet")
    for name, said in (("view.gpkg", "v is a view"), ("nested.parquet", "holds others more than 32 levels deep")):
        assert run_command(prepare, "--image", scene, "--label", tmp_path / name, "--out", tmp_path / "data") == 2
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(told) == 1 and said in told[0]
