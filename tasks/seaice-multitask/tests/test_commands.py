"""Each command end to end on a small sample, and what it says about bad input."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import rasterio
import torch

from geocore.datasets.dataset import Dataset
from geocore.device import DeviceContext, to_device
from geocore.errors import DataError
from geocore.inference import tiled
from seaice_multitask import baselines, evaluate, predict, prepare, train
from seaice_multitask.config import AUTOICE_OUTPUTS
from seaice_multitask.data import open_scene
from seaice_multitask.products import product_paths
from seaice_multitask.sample import write_raw_sample, write_sample

SHAPE, DOWNSCALE = (150, 165), 2
CPU = ["--device.device", "cpu", "--device.threads", "1"]
SMALL = [
    *("--training.checkpoint-every", "1"),
    *("--model.widths", "4", "8", "--tiling.size", "32", "--tiling.overlap", "8", "--patches-per-epoch", "8"),
    *("--training.steps", "2", "--training.batch-size", "2", "--training.validate-every", "2", *CPU),
]
PREPARED = ["--working.downscale", str(DOWNSCALE), "--patch", "32", "--split.train", "0.5", "--split.val", "0.25"]

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
    """A folder with scenes, a data set and a short run, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("seaice")
    write_sample(folder / "raw", seed=3, scenes=5, shape=SHAPE)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)  # the run is used from other folders than the one in which its data were named
    words = {
        prepare: ["--data", folder / "raw", "--out", folder / "dataset", *PREPARED],
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
    return sorted((folder / "raw").glob("*_prep.nc"))


def name_of(scene: Path) -> str:
    return scene.name[:19]


def products_of(folder: Path, scene: Path) -> list[Path]:
    return product_paths(folder, name_of(scene), AUTOICE_OUTPUTS)


def errors_of(captured: str) -> list[str]:
    assert "Traceback" not in captured
    return [line for line in captured.splitlines() if line.startswith("error:")]


def without(source: Path, target: Path, variable: str) -> Path:
    shutil.copy(source, target)
    with h5py.File(target, "r+") as file:
        del file[variable]
    return target


def foreign(target: Path) -> Path:
    with netCDF4.Dataset(target, "w") as file:
        file.createDimension("time", 3)
        file.createVariable("air_temperature", "f4", ("time",))[:] = 1.0
    return target


def cut(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    return target


def test_evaluate_writes_model_untrained_and_baselines(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "GROWTHS", baselines.GROWTHS[:1])
    assert run_command(evaluate, "--run", trained / "run", "--resamples", "20", *CPU) == 0
    assert "combined *" in capsys.readouterr().out
    written = json.loads((trained / "run/evaluation-test.json").read_text())
    assert written["primary"] == "combined"
    contenders = [written["model"], written["untrained"], *written["baselines"].values()]
    assert set(written["baselines"]) == {"all water", "pixel classifier"}
    for scores in contenders:
        assert {"combined", "SIC_r2", "SOD_f1", "FLOE_f1", "SOD_f1_macro", "FLOE_f1_6"} <= set(scores)
    assert {"SIC 10/10", "SOD old ice", "FLOE bergs"} <= set(written["per_class"])
    assert len(written["per_group"]) == written["samples"]
    assert written["protocol"]["downscale"] == DOWNSCALE
    report = (trained / "run/report.html").read_text()
    assert "Scores on test" in report and report.count("data:image/png") == 1 + min(4, written["samples"])


def test_predict_writes_all_products(trained: Path, tmp_path: Path, run_command: Command) -> None:
    words = ["--run", trained / "run", "--input", trained / "raw", "--output", tmp_path]
    assert run_command(predict, *words, *CPU) == 0
    for path in scenes_of(trained):
        assert all(product.exists() for product in products_of(tmp_path, path))
        with open_scene(path) as scene:
            valid = scene.read_layers(scene.grid.whole, ["sar"])["sar"].valid[:2].all(axis=0)
        with rasterio.open(tmp_path / f"{name_of(path)}_pred.tif") as source:
            classes = source.read()
            assert source.descriptions == ("SIC", "SOD", "FLOE")
        # Invalid in, invalid out, to the 80 m pixel; whatever the working pixel is, its valid part is mapped.
        assert np.array_equal(classes == 255, np.broadcast_to(~valid, classes.shape))
        with rasterio.open(tmp_path / f"{name_of(path)}_SOD_map.tif") as source:
            assert source.crs.to_epsg() == 3413 and source.res == (80.0 * DOWNSCALE, 80.0 * DOWNSCALE)
    record = json.loads((tmp_path / "run.json").read_text())["calls"][-1]
    assert record["failed"] == {} and len(record["scenes"]) == len(scenes_of(trained))
    assert not (tmp_path / ".geocore/parts").exists()
    with netCDF4.Dataset(tmp_path / "upload_package.nc") as file:
        assert len(file.variables) == 3 * len(scenes_of(trained))


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
            laid_out.update(tensor.is_contiguous(memory_format=CHANNELS_LAST) for tensor in (image, module.weight))
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
    assert run_command(module, "--run", run, *words, *CPU, "--device.channels-last") == 0
    assert {context.batch_size for context in contexts} == {3} and laid_out == {True}


def test_a_plan_says_what_a_scene_takes_and_maps_none(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = scenes_of(trained)[:2]
    words = ["--run", trained / "run", "--input", *scenes, "--output", tmp_path / "maps", *CPU]
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
    words = ["--run", trained / "run", "--input", scene, "--chunk-px", "64", *CPU, "--output"]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert run_command(predict, *words, tmp_path / "b", "--workers", "2") == 0
    paths, others = products_of(tmp_path / "a", scene), products_of(tmp_path / "b", scene)
    for path, other in zip(paths, others, strict=True):
        assert path.read_bytes() == other.read_bytes()
    times = [path.stat().st_mtime_ns for path in paths]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert [path.stat().st_mtime_ns for path in paths] == times
    content = paths[0].read_bytes()
    paths[0].unlink()
    assert run_command(predict, *words, tmp_path / "a", "--upload", "false") == 0
    assert paths[0].read_bytes() == content


def test_other_settings_map_anew_and_the_upload_holds_what_is_done(
    trained: Path, tmp_path: Path, run_command: Command
) -> None:
    first, second = scenes_of(trained)[:2]
    words = ["--run", trained / "run", "--output", tmp_path, *CPU]
    assert run_command(predict, *words, "--input", second, "--upload", "false") == 0
    assert not (tmp_path / "upload_package.nc").exists()
    before = products_of(tmp_path, second)[1].read_bytes()
    assert run_command(predict, *words, "--input", second, first, "--flips", "true") == 0
    assert products_of(tmp_path, second)[1].read_bytes() != before
    with netCDF4.Dataset(tmp_path / "upload_package.nc") as file:
        assert {name[:19] for name in file.variables} == {name_of(first), name_of(second)}


def test_any_checkpoint_is_scored_without_baselines_and_mapped_with(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", trained / "run", "--checkpoint", "step-1"]
    assert run_command(evaluate, *words, "--no-baselines", "--resamples", "5", *CPU) == 0
    assert "untrained" not in capsys.readouterr().out
    written = json.loads((trained / "run/evaluation-test-step-000001.json").read_text())
    assert written["checkpoint"] == "step-000001" and written["untrained"] is None
    assert (
        written["baselines"].keys() == {"all water"} and written["protocol"]["baselines"] == "left out (--no-baselines)"
    )
    words += ["--input", scenes_of(trained)[0], *CPU]
    assert run_command(predict, *words, "--output", tmp_path / "first") == 0
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
            sample, attributes={**sample.attributes, **({"FLOE_classes": ""} if sample.split == "val" else {})}
        )
        for sample in dataset.samples
    ]
    shutil.copytree(trained / "dataset", trained / "lacking", dirs_exist_ok=True)
    dataclasses.replace(dataset, root=trained / "lacking", samples=lacking).save()
    words = ["--data", trained / "lacking", "--run", tmp_path / "run", *SMALL]
    assert run_command(train, *words) == 2
    assert "val holds no charted pixel in FLOE, so that combined cannot choose" in capsys.readouterr().err
    assert run_command(train, "--run", tmp_path / "run", *SMALL, "--schedule.warmup-steps", "2") == 2
    assert "schedule.warmup_steps = 2: must be below the 2 steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_other_data_set_is_prepared_over_one_that_is_there(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (trained / "dataset").rglob("*") if path.is_file()}

    words, before = ["--data", trained / "raw", "--out", trained / "dataset", *PREPARED], held()
    assert run_command(prepare, *words, "--working.sar-reduction", "nearest") == 2
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
    assert "seaice-evaluate --run" in capsys.readouterr().out
    assert run_command(train, *words, "--optimizer.learning-rate", "0.1") == 2
    assert "learning_rate" in capsys.readouterr().err


def test_bad_scenes_are_listed_and_the_others_are_mapped(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = scenes_of(trained)[:2]
    bad = {
        "20990101T000000_dmi": (cut(other, tmp_path / "20990101T000000_dmi_prep.nc"), "incomplete"),
        "20990102T000000_dmi": (
            without(other, tmp_path / "20990102T000000_dmi_prep.nc", "btemp_18_7h"),
            "lacks btemp_18_7h",
        ),
        "20990103T000000_dmi": (foreign(tmp_path / "20990103T000000_dmi_prep.nc"), "no AI4Arctic scene"),
    }
    inputs = [good, *(path for path, _ in bad.values())]
    assert run_command(predict, "--run", trained / "run", "--input", *inputs, "--output", tmp_path / "m", *CPU) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "3 of 4 scenes failed" in line
    for name, (_, reason) in bad.items():
        assert name in line and reason in line
    assert all(path.exists() for path in products_of(tmp_path / "m", good))
    assert sorted(json.loads((tmp_path / "m/run.json").read_text())["calls"][-1]["failed"]) == sorted(bad)
    with netCDF4.Dataset(tmp_path / "m/upload_package.nc") as file:
        assert {name[:19] for name in file.variables} == {name_of(good)}


def test_scene_without_usable_charts_is_mapped_all_the_same(
    trained: Path, tmp_path: Path, run_command: Command
) -> None:
    """Test scenes have none, and a code that no table knows matters to those alone who need the chart."""
    write_raw_sample(tmp_path, seed=3, scenes=1, shape=SHAPE)
    (raw,) = tmp_path.glob("*.nc")
    with h5py.File(raw, "r+") as file:
        codes = file["polygon_codes"][:]
        codes[1] = codes[1].decode().replace(";", ";47;", 1).encode()
        file["polygon_codes"][:] = codes
    assert run_command(predict, "--run", trained / "run", "--input", raw, "--output", tmp_path / "m", *CPU) == 0
    assert len(list((tmp_path / "m").glob("*_pred.tif"))) == 1


def test_bad_scenes_are_listed_and_the_others_are_prepared(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(trained / "raw", raw)
    masked, other = scenes_of(tmp_path)[0], scenes_of(trained)[1]
    with h5py.File(masked, "r+") as file:
        for name in AUTOICE_OUTPUTS:
            file[name][:] = 255
    cut(other, raw / "20990101T000000_dmi_prep.nc")
    without(other, raw / "20990102T000000_dmi_prep.nc", "nersc_sar_primary")
    foreign(raw / "20990103T000000_dmi_prep.nc")
    shutil.copy(other, raw / "20990104T000000_dmi_prep.nc")
    with h5py.File(raw / "20990104T000000_dmi_prep.nc", "r+") as file:
        file["SOD"][5, 5] = 17
    words = ["--data", raw, "--out", tmp_path / "d", *PREPARED]
    assert run_command(prepare, *words) == 2
    captured = capsys.readouterr()
    (line,) = errors_of(captured.err)
    assert "4 of 9 scenes" in line
    for needle in ("20990101T000000_dmi", "nersc_sar_primary", "no AI4Arctic scene", "SOD holds 17"):
        assert needle in captured.out
    assert f"{name_of(masked)}: nothing is charted" in captured.out
    assert (tmp_path / "d/dataset.yaml").read_text().count("- id:") == 5


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--tiling.overlap", "32"], "overlap"),
        (["--model.kind", "mmseg"], "backbone"),
        (["--model.width", "8"], "widths"),
        (["--data", "nowhere"], "nowhere"),
        (["--recipe", "nothing"], "nothing"),
        (["--model.weights", "absent.pth"], "absent.pth"),
        (["--config", "outputs: {RIDGES: {classes: 3}}"], "RIDGES"),
        (["--config", "outputs: {SOD: {classes: 4}}"], "0 to 5"),
        (["--config", "outputs: {SIC: {kind: regression, classes: 11}}"], "mean-square"),
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
    if words[0] == "--config":
        (tmp_path / "own.yaml").write_text(words[1])
        words = ["--config", str(tmp_path / "own.yaml")]
    given = ["--data", trained / "dataset", "--run", tmp_path / "run", *SMALL, *words]
    assert run_command(train, *given) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert needle in line


def test_other_run_and_other_data_are_refused(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    folder = tmp_path / "run/checkpoints/step-000002"
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"task": "floods"}))
    assert run_command(evaluate, "--run", tmp_path / "run") == 2
    assert run_command(predict, "--run", tmp_path / "none", "--input", scenes_of(trained)[0], "--output", tmp_path) == 2
    assert len(errors_of(capsys.readouterr().err)) == 2
    coarse = [*PREPARED[2:], "--working.downscale", "5"]
    assert run_command(prepare, "--data", trained / "raw", "--out", tmp_path / "d", *coarse) == 0
    assert run_command(evaluate, "--run", trained / "run", "--data", tmp_path / "d", *CPU) == 2
    assert "downscale is 5" in errors_of(capsys.readouterr().err)[0]


@pytest.mark.parametrize("recipe", ["sample", "autoice-winner", "segformer-b2"])
def test_recipes_are_complete_and_valid(recipe: str) -> None:
    import yaml

    from seaice_multitask.config import TrainSettings

    text = (Path(train.__file__).parent / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    assert "seaice-train" in text.splitlines()[0] + text.splitlines()[1] + text.splitlines()[2]
    assert all(len(line) <= 126 for line in text.splitlines())
    settings = TrainSettings.model_validate(yaml.safe_load(text))
    assert settings.training.steps > 100 and set(settings.outputs) == {"SIC", "SOD", "FLOE"}


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate", "predict"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['seaice-{verb}', '--help']\n"
        f"from seaice_multitask.{verb} import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert stopped.code == 0, stopped.code\n"
        "heavy = {'torch', 'rasterio', 'scipy', 'sklearn', 'xarray', 'h5netcdf', 'mmseg'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout
