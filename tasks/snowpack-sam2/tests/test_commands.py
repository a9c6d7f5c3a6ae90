"""Each command end to end on a small sample, and what it says about bad input."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from geocore.datasets.dataset import Dataset
from geocore.device import DeviceContext, to_device
from geocore.errors import DataError
from geocore.inference import tiled
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Grid, Window
from geocore.raster.write import write_raster
from geocore.storage.files import sha256_file, sha256_json
from geocore.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint
from snowpack_sam2 import data, evaluate, predict, prepare, train
from snowpack_sam2.overlay import LAYER_COLOURS
from snowpack_sam2.sample import write_sample

SMALL = [
    *("--training.checkpoint-every", "1"),
    *("--tiling.size", "96", "--tiling.overlap", "32", "--training.steps", "2", "--training.batch-size", "2"),
    *("--training.validate-every", "2", "--device.device", "cpu", "--device.threads", "1"),
]

CPU = ["--device.device", "cpu", "--device.threads", "1"]

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
    """A folder with raw photographs, a data set and a short run, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("snowpack")
    write_sample(folder / "raw", seed=3, pits=3, photos_per_pit=1, shape=(160, 176))
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)  # the run is used from other folders than the one in which its data were named
    words = {
        prepare: ["--data", folder / "raw", "--out", folder / "dataset", "--pit", "^(.+)_", "--nodata", "0"],
        train: ["--data", "dataset", "--run", folder / "run", *SMALL],
    }
    for module, given in words.items():
        patch.setattr(sys, "argv", [module.__name__, *map(str, given)])
        with pytest.raises(SystemExit) as stopped:
            module.main()
        assert stopped.value.code == 0
    patch.undo()
    return folder


def test_evaluate_writes_model_untrained_and_baseline(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "<svg" in (trained / "run/report.html").read_text()
    assert run_command(evaluate, "--run", trained / "run", "--device.device", "cpu") == 0
    assert "boundary_f1_5px" in capsys.readouterr().out
    written = json.loads((trained / "run/evaluation-test.json").read_text())
    assert written["primary"] == "boundary_f1_5px"
    assert written["samples"] == 1
    for scores in (written["model"], written["untrained"], written["baselines"]["change_points"]):
        assert set(scores) == {"boundary_f1_5px", "boundary_precision_5px", "boundary_recall_5px"}
    assert written["data_hash"] == json.loads((trained / "run/run.json").read_text())["data_hash"]
    report = (trained / "run/report.html").read_text()
    assert "Scores on test" in report
    assert report.count("data:image/png") == 1 and "rank 1 of 1" in report


def test_scores_on_other_data_stand_beside_the_own_ones(trained: Path, tmp_path: Path, run_command: Command) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run/evaluation-test.json").write_text("kept")
    words = ["--data", trained / "raw", "--out", tmp_path / "other", "--pit", "^(.+)_", "--nodata", "0"]
    assert run_command(prepare, *words, "--split.seed", "1") == 0
    assert run_command(evaluate, "--run", tmp_path / "run", "--data", tmp_path / "other", "--device.device", "cpu") == 0
    assert (tmp_path / "run/evaluation-test.json").read_text() == "kept"
    (other,) = (tmp_path / "run").glob("evaluation-test-*.json")
    assert json.loads(other.read_text())["data_hash"].startswith(other.stem[-8:])


def test_pretrained_weights_that_are_gone_cost_only_the_untrained_scores(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    card = tmp_path / "run/checkpoints/step-000002/card.json"
    content = json.loads(card.read_text())
    content["config"]["model"]["weights"] = str(tmp_path / "gone.pt")
    card.write_text(json.dumps(content))
    state = tmp_path / "run/checkpoints/step-000002/state.json"
    written = json.loads(state.read_text())["content"]
    written["files"]["card.json"] = sha256_file(card)
    state.write_text(json.dumps({"content": written, "sha256": sha256_json(written)}))
    assert run_command(evaluate, "--run", tmp_path / "run", "--device.device", "cpu") == 0
    assert "gone.pt" in capsys.readouterr().err
    scores = json.loads((tmp_path / "run/evaluation-test.json").read_text())
    assert scores["untrained"] is None
    assert scores["model"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_predict_writes_maps_overlay_and_table(trained: Path, tmp_path: Path, run_command: Command) -> None:
    raw = trained / "raw"
    words = ["--run", trained / "run", "--input", raw, "--output", tmp_path, "--cm-per-px", "0.1"]
    assert run_command(predict, *words, "--threshold", "0.05", "--device.device", "cpu") == 0
    photos = [path for path in sorted(raw.glob("*.tif")) if not path.stem.endswith("_mask")]
    assert len(photos) == 3
    for photo in photos:
        with open_raster(photo) as scene, open_raster(tmp_path / f"{photo.stem}_prob.tif") as probability:
            assert probability.grid == scene.grid
            percent = probability.read_layers(probability.grid.whole)["image"]
            wall = scene.read_layers(scene.grid.whole)["image"].values[0] != 0
            assert np.array_equal(percent.valid[0], wall)
            assert percent.values[0][wall].max() <= 100
        with open_raster(tmp_path / f"{photo.stem}_pred.tif", codes=True) as layers:
            numbers = layers.read_layers(layers.grid.whole)["image"]
            assert np.array_equal(numbers.valid[0], wall)
        with rasterio.open(tmp_path / f"{photo.stem}_pred.tif") as written:
            assert written.colormap(1)[1][:3] == LAYER_COLOURS[0]
            assert written.tags()["CLASS_1"] == "layer 1"
        table = (tmp_path / f"{photo.stem}_layers.csv").read_text().splitlines()
        assert len(table) == 1 + len(np.unique(numbers.values[0][wall]))
        assert "cm" in table[0]
        assert (tmp_path / f"{photo.stem}_overlay.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "run.json").read_text())["calls"][-1]["failed"] == {}


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
            laid_out.add(module.weight.is_contiguous(memory_format=CHANNELS_LAST))
        return convolve(module, image)

    convolve = torch.nn.Conv2d.forward
    photo = next((trained / "raw").glob("*_00.tif"))
    monkeypatch.setattr(tiled, "to_device", moved)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", convolved)
    module, words = {
        "train": (train, ["--data", trained / "dataset", *SMALL, "--training.validation-batch-size", "3"]),
        "evaluate": (evaluate, ["--no-baselines", "--resamples", "0", "--batch-size", "3"]),
        "predict": (
            predict,
            ["--input", photo, "--output", tmp_path / "maps", "--batch-size", "3"],
        ),
    }[name]
    run = tmp_path / "run" if name == "train" else shutil.copytree(trained / "run", tmp_path / "run")
    assert run_command(module, "--run", run, *words, *CPU, "--device.channels-last") == 0
    assert {context.batch_size for context in contexts} == {3} and laid_out == {True}


def test_a_turned_photograph_has_the_products_of_the_upright_one(
    trained: Path, tmp_path: Path, run_command: Command
) -> None:
    with open_raster(
        next(path for path in sorted((trained / "raw").glob("*.tif")) if "_mask" not in path.stem)
    ) as scene:
        upright = scene.read_layers(Window(20, 30, 96, 128))["image"].values[0]
    undo = {"upright": None, "half": Image.Transpose.ROTATE_180, "quarter": Image.Transpose.ROTATE_90}
    (tmp_path / "photos").mkdir()
    for (name, turn), orientation in zip(undo.items(), (1, 3, 6), strict=True):
        exif = Image.Exif()
        exif[274] = orientation
        picture = Image.fromarray(upright)
        picture = picture if turn is None else picture.transpose(turn)
        picture.save(tmp_path / "photos" / f"{name}.png", exif=exif.tobytes())
    words = ["--run", trained / "run", "--input", tmp_path / "photos", "--output", tmp_path / "maps"]
    assert run_command(predict, *words, "--threshold", "0.05", "--device.device", "cpu") == 0
    for ending in ("_pred.tif", "_prob.tif", "_overlay.png", "_layers.csv"):
        expected = (tmp_path / f"maps/upright{ending}").read_bytes()
        assert (tmp_path / f"maps/half{ending}").read_bytes() == expected
        assert (tmp_path / f"maps/quarter{ending}").read_bytes() == expected


def test_prediction_is_deterministic_and_finished_photographs_are_kept(
    trained: Path, tmp_path: Path, run_command: Command
) -> None:
    photo = next(path for path in sorted((trained / "raw").glob("*.tif")) if not path.stem.endswith("_mask"))
    words = ["--run", trained / "run", "--input", photo, "--device.device", "cpu", "--output"]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert run_command(predict, *words, tmp_path / "b") == 0
    names = [f"{photo.stem}{ending}" for ending in ("_prob.tif", "_pred.tif", "_layers.csv", "_overlay.png")]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    times = {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in names}
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert {name: (tmp_path / "a" / name).stat().st_mtime_ns for name in names} == times
    (tmp_path / "a" / names[0]).unlink()
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert (tmp_path / "a" / names[0]).read_bytes() == (tmp_path / "b" / names[0]).read_bytes()


def test_any_checkpoint_is_scored_without_baselines_and_mapped_with(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", trained / "run", "--checkpoint", "step-1"]
    assert run_command(evaluate, *words, "--no-baselines", "--resamples", "5", "--device.device", "cpu") == 0
    assert "untrained" not in capsys.readouterr().out
    written = json.loads((trained / "run/evaluation-test-step-000001.json").read_text())
    assert written["checkpoint"] == "step-000001" and written["untrained"] is None
    assert written["baselines"] == {} and written["protocol"]["baselines"] == "left out (--no-baselines)"
    words += ["--input", min((trained / "raw").glob("*.tif")), "--device.device", "cpu"]
    assert run_command(predict, *words, "--output", tmp_path / "none") == 2
    line = capsys.readouterr().err
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
            sample, attributes={**sample.attributes, **({"boundary_px": 0} if sample.split == "val" else {})}
        )
        for sample in dataset.samples
    ]
    shutil.copytree(trained / "dataset", trained / "lacking", dirs_exist_ok=True)
    dataclasses.replace(dataset, root=trained / "lacking", samples=lacking).save()
    words = ["--data", trained / "lacking", "--run", tmp_path / "run", *SMALL]
    assert run_command(train, *words) == 2
    assert "val has no boundary, so that boundary_f1_5px cannot choose" in capsys.readouterr().err
    assert run_command(train, "--run", tmp_path / "run", *SMALL, "--schedule.warmup-steps", "2") == 2
    assert "schedule.warmup_steps = 2: must be below the 2 steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_other_data_set_is_prepared_over_one_that_is_there(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (trained / "dataset").rglob("*") if path.is_file()}

    words, before = (
        ["--data", trained / "raw", "--out", trained / "dataset", "--pit", "^(.+)_", "--nodata", "0"],
        held(),
    )
    assert run_command(prepare, *words, "--nodata", "1") == 2
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


def test_finished_run_says_so_and_a_longer_one_is_another_run(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", trained / "dataset", "--run", trained / "run", *SMALL]
    before = (trained / "run/checkpoints/step-000002/model.safetensors").read_bytes()
    assert run_command(train, *words) == 0
    assert "snowpack-evaluate --run" in capsys.readouterr().out
    assert run_command(train, *words, "--optimizer.learning-rate", "0.1") == 2
    error = capsys.readouterr().err
    assert "learning_rate" in error
    assert (trained / "run/checkpoints/step-000002/model.safetensors").read_bytes() == before


def test_bright_sixteen_bit_photograph_keeps_its_contrast(trained: Path) -> None:
    card = load_checkpoint(trained / "run/checkpoints", "best").card
    assert card["layer"]["dtype"] == "uint16"
    # Values 41343-65471 become several units of the network's input, not a constant.
    normalization = card["normalize"]["layers"]["photo"]
    assert (65471 - 41343) / normalization["std"][0] > 4


@pytest.mark.parametrize("fault", ["truncated", "text", "missing"])
def test_bad_photograph_is_named_and_the_others_are_mapped(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    shutil.copytree(trained / "raw", tmp_path / "raw", ignore=shutil.ignore_patterns("*_mask*"))
    good, bad = sorted((tmp_path / "raw").iterdir())[:2]
    match fault:
        case "truncated":
            bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
        case "text":
            bad.write_text("not a picture")
        case "missing":
            bad = tmp_path / "raw" / "absent.tif"
    words = ["--run", trained / "run", "--input", good, bad, "--output", tmp_path / "maps", "--device.device", "cpu"]
    assert run_command(predict, *words) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert bad.stem in lines[0]
    assert "Traceback" not in error
    if fault != "missing":
        assert (tmp_path / "maps" / f"{good.stem}_pred.tif").exists()
        assert list(json.loads((tmp_path / "maps/run.json").read_text())["calls"][-1]["failed"]) == [bad.stem]


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--tiling.size", "-64"], "tiling.size"),
        (["--tiling.size", "100"], "multiple of 32"),
        (["--tilling.size", "64"], "tiling.size"),
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
    error = capsys.readouterr().err
    assert needle in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1
    assert "Traceback" not in error


def test_unknown_key_in_a_configuration_file_is_named(
    tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("training: {step: 3}\n")
    assert run_command(train, "--config", tmp_path / "mine.yaml") == 2
    assert "unknown setting training.step (" in capsys.readouterr().err


def test_checkpoint_of_another_task_is_refused(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    folder = tmp_path / "run/checkpoints/step-000002"
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"task": "floods"}))
    assert run_command(evaluate, "--run", tmp_path / "run") == 2
    assert run_command(predict, "--run", tmp_path / "empty", "--input", trained / "raw", "--output", tmp_path) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 2


def test_predict_refuses_the_run_of_another_task(
    tmp_path: Path, trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"weight": torch.zeros(1)}
    contents = CheckpointState(
        step=1, model=model, ema=None, optimizer={}, source={}, random=[], progress={}, card={"task": "floods"}
    )
    save_checkpoint(tmp_path / "run/checkpoints", contents, best=True, keep=1)
    (tmp_path / "run/run.json").write_text('{"task": "floods"}')
    words = ["--run", tmp_path / "run", "--input", trained / "raw", "--output", tmp_path / "maps"]
    assert run_command(predict, *words, "--device.device", "cpu") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "is a run of floods, not of snowpack: --run takes" in line and not (tmp_path / "maps").exists()


def test_empty_folder_and_full_disk(tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    assert run_command(prepare, "--data", tmp_path / "raw", "--out", tmp_path / "dataset") == 2
    assert not (tmp_path / "dataset").exists()
    write_sample(tmp_path / "raw", seed=3, pits=3, photos_per_pit=1, shape=(160, 176))
    assert run_command(prepare, "--data", tmp_path / "raw", "--out", "/dev/full/dataset") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 2


def test_colour_photograph_does_not_fit_a_grey_network(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (3, 160, 160), dtype=np.uint8)
    write_raster(
        tmp_path / "colour.tif",
        colour,
        grid=Grid(height=160, width=160),
        nodata=None,
        band_names=["red", "green", "blue"],
        cog=False,
    )
    words = ["--run", trained / "run", "--input", tmp_path / "colour.tif", "--output", tmp_path / "maps"]
    assert run_command(predict, *words, "--device.device", "cpu") == 2
    assert "3 bands (red, green, blue), but 1 without a name" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate", "predict"])
def test_help_imports_neither_torch_nor_rasterio(verb: str) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['snowpack-{verb}', '--help']\n"
        f"from snowpack_sam2.{verb} import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert stopped.code == 0, stopped.code\n"
        "heavy = {'torch', 'rasterio', 'scipy', 'sam2', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def _tiff(path: Path, width: int, height: int, bands: int) -> None:
    """Eight kilobytes that claim what they are told to."""
    at = 4000
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: at, 277: bands, 278: 64, 279: 4096}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    path.parent.mkdir(parents=True)
    path.write_bytes(head + bytes(at - len(head) + 4096))


@pytest.mark.parametrize(
    ("claim", "said"),
    [((100_000, 100_000, 1), "promises 100000 x 100000 pixels"), ((64, 64, 65_535), "has 65535 bands")],
)
def test_a_photograph_that_claims_too_much_is_one_line(
    trained: Path,
    tmp_path: Path,
    run_command: Command,
    capsys: pytest.CaptureFixture[str],
    claim: tuple[int, int, int],
    said: str,
) -> None:
    _tiff(tmp_path / "raw/images/a.tif", *claim)
    (tmp_path / "raw/masks").mkdir()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "raw/masks/a.png")
    words = ["--run", trained / "run", "--input", tmp_path / "raw/images/a.tif", "--output", tmp_path / "maps"]
    for module, given in (
        (prepare, ["--data", tmp_path / "raw", "--out", tmp_path / "dataset"]),
        (predict, [*words, "--device.device", "cpu"]),
    ):
        begun = time.perf_counter()
        assert run_command(module, *given) == 2
        assert time.perf_counter() - begun < 20
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(told) == 1 and said in told[0]


def test_a_photograph_that_claims_more_than_the_memory_is_refused_before_any_is_taken(
    trained: Path,
    tmp_path: Path,
    run_command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sparse file of a few MB claims 10 gigapixels."""
    monkeypatch.setattr(data, "memory_limit", lambda: 16 * 10**9)
    raw = shutil.copytree(trained / "raw", tmp_path / "raw")
    good, *_ = sorted(path for path in raw.glob("*.tif") if not path.stem.endswith("_mask"))
    with rasterio.open(good) as file:
        profile = file.profile | {"width": 100_000, "height": 100_000, "tiled": True, "SPARSE_OK": True}
    profile |= {"blockxsize": 512, "blockysize": 512}
    for name in ("wide.tif", "wide_mask.tif"):
        with rasterio.open(raw / name, "w", **profile):
            pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = ["--run", trained / "run", "--input", raw / "wide.tif", good, "--output", tmp_path / "maps", *CPU]
    assert run_command(predict, *words) == 2
    said = capsys.readouterr().err
    assert "error: 1 of 2 photographs failed: wide: " in said and "Traceback" not in said
    assert "100000 x 100000 pixels take " in said and "gdal_translate -srcwin" in said
    assert (tmp_path / f"maps/{good.stem}_pred.tif").exists()
    assert run_command(prepare, "--data", raw, "--out", tmp_path / "dataset") == 2
    assert "wide.tif: 100000 x 100000 pixels take " in capsys.readouterr().err
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 1_500_000  # KiB; a band of the file has 20 GB
