"""Each command end to end on a small sample, and what it says about bad input."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas
import pytest
import rasterio
import torch
import yaml

from crops_activesampling import baselines, compare, evaluate, medians, predict, prepare, split, train
from crops_activesampling.config import TrainSettings
from crops_activesampling.data import Patches, load_dataset
from crops_activesampling.products import mosaic_paths, product_paths
from crops_activesampling.s4a_format import open_patch
from crops_activesampling.sample import write_sample
from geocore.datasets.dataset import Dataset
from geocore.device import DeviceContext, to_device
from geocore.errors import DataError
from geocore.inference import tiled
from geocore.metrics.evaluation import Evaluation

BANDS = ("B03", "B04", "B08", "B11")
SIZE = 48
CPU = ["--device.device", "cpu", "--device.threads", "1"]
DIVIDED = ["--split.rules", "sample", "--subpatch", "24"]
PREPARED = [*DIVIDED, "--composites.bands", *BANDS]
SMALL = [
    *("--training.checkpoint-every", "1"),
    *("--model.kind", "convstar", "--model.hidden", "8", "--model.layers", "1", "--model.months", "4..9"),
    *("--tiling.size", "32", "--tiling.overlap", "8", "--training.steps", "4", "--training.batch-size", "4"),
    *("--training.validate-every", "4", "--optimizer.learning-rate", "0.02", *CPU),
]

CHANNELS_LAST = torch.channels_last

Command = Callable[..., int]


def run_module(module: object, words: list[object]) -> int:
    """Run an entry point in this process, as the console script would; its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", [module.__name__, *map(str, words)])  # type: ignore[attr-defined]
        module.main()  # type: ignore[attr-defined]
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.fixture
def run_command() -> Command:
    return lambda module, *words: run_module(module, list(words))


@pytest.fixture(scope="module", autouse=True)
def _small_trees() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "GROWTHS", ((4, 0.3, 3),))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with patches, a data set and a short run, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("crops")
    write_sample(folder / "raw", seed=3, size=SIZE, train=1, val=1, test=1, bands=BANDS)
    assert run_module(prepare, ["--data", folder / "raw", "--out", folder / "dataset", *PREPARED]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the run is used from other folders than the one in which its data were named
        assert run_module(train, ["--data", "dataset", "--run", folder / "run", *SMALL]) == 0
    return folder


def patches_of(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted((folder / "raw").rglob(f"{pattern}.nc"))


def errors_of(captured: str) -> list[str]:
    assert "Traceback" not in captured
    return [line for line in captured.splitlines() if line.startswith("error:")]


def copied(source: Path, folder: Path, change: Callable[[h5py.File], object] | None = None) -> Path:
    """A patch in a folder of its own, changed in place."""
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(shutil.copy(source, folder / source.name))
    if change is not None:
        with h5py.File(path, "r+") as file:
            change(file)
    return path


def reorder(file: h5py.File) -> None:
    """The images of a band in another order than that of time."""
    order = np.random.default_rng(0).permutation(len(file["B04/time"]))
    for name in ("B04/time", "B04/B04"):
        file[name][...] = file[name][...][order]


def repeat_time(file: h5py.File) -> None:
    file["B04/time"][1] = file["B04/time"][0]


def without_band(file: h5py.File) -> None:
    del file["B11"]


def without_data(file: h5py.File) -> None:
    for band in BANDS:
        file[f"{band}/{band}"][...] = 0


def empty_month(file: h5py.File, month: int = 6) -> None:
    """Nothing is seen in a month, as under clouds that are masked."""
    for band in BANDS:
        units = file[f"{band}/time"].attrs["units"]
        start = np.datetime64((units.decode() if isinstance(units, bytes) else str(units)).split()[2])
        days = start + np.asarray(file[f"{band}/time"][...], float).astype("timedelta64[D]")
        months = days.astype("datetime64[M]").astype(int) % 12 + 1
        assert (months == month).any()
        values = file[f"{band}/{band}"][...]
        values[months == month] = 0
        file[f"{band}/{band}"][...] = values


def raster(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        values: np.ndarray = source.read(1)
    return values


def test_medians_and_split_make_what_prepare_makes(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, bands = trained / "raw", ["--composites.bands", *BANDS]
    assert run_command(medians, "--data", raw, "--out", tmp_path / "m", *bands) == 0
    assert "12 patches, 12 of them made now" in capsys.readouterr().out
    for name in (path.stem for path in patches_of(trained)):
        made, known = (
            np.load(folder / "medians" / name / "medians.npy") for folder in (tmp_path / "m", trained / "dataset")
        )
        assert np.array_equal(made, known)
    assert run_command(split, "--data", raw, "--out", tmp_path / "s", "--split.rules", "sample") == 0
    assert "train: 4 patches" in capsys.readouterr().out
    assert len((tmp_path / "s/val.txt").read_text().split()) == 4
    words = ["--data", raw, "--out", tmp_path / "d", "--subpatch", "24", *bands, "--lists", tmp_path / "s"]
    assert run_command(prepare, *words) == 0
    splits = [
        {sample.id: sample.split for sample in load_dataset(folder).samples}
        for folder in (tmp_path / "d", trained / "dataset")
    ]
    assert splits[0] == splits[1]


def test_evaluate_writes_model_untrained_and_baseline(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(evaluate, "--run", trained / "run", "--resamples", "20", *CPU) == 0
    said = capsys.readouterr().out
    assert "f1_weighted *" in said and "chose the checkpoint" not in said
    patches = Patches(load_dataset(trained / "dataset"), "test")
    labels = np.stack([patches.labels(index) for index in range(4)])
    assert f"note: {100 * (labels == 0).mean():.1f} % of the pixels have no label" in said
    written = json.loads((trained / "run/evaluation-test.json").read_text())
    assert written["primary"] == "f1_weighted" and written["samples"] == 4
    for scores in (written["model"], written["untrained"], written["baselines"]["pixel classifier"]):
        for view in ("", "cropped_", "parcel_", "parcel_pixels_"):
            assert {f"{view}{name}" for name in ("f1_weighted", "f1_macro", "oa", "miou", "kappa")} <= set(scores)
    assert written["untrained"] != written["model"]
    assert set(written["per_group"]) == {"31TCG 2019", "31TCG 2020", "31TCJ 2019", "31TCJ 2020"}
    assert set(written["per_class"]["wheat"]) == {"f1", "iou", "precision", "recall", "pixels"}
    for name, (low, high) in written["intervals"].items():
        # Four patches, so that draws without the best or the worst one are frequent.
        assert 0 <= low < high <= 1 and low <= written["model"][name] <= high, name
    assert set(written["intervals"]) == {f"{view}f1_weighted" for view in ("", "cropped_", "parcel_", "parcel_pixels_")}
    assert written["protocol"]["months"] == "4..9" and written["protocol"]["border_px"] == 5
    with (trained / "run/evaluation-test-patches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for index, row in enumerate(rows):
        assert row["patch"] == patches.samples[index].id
        assert int(row["labelled_px"]) == (patches.labels(index) != 0).sum() <= int(row["pixels"]) == SIZE**2
        assert 0 <= float(row["f1_weighted"]) <= 1 and float(row["parcel_oa"]) >= 0
    report = (trained / "run/report.html").read_text()
    assert "Scores on test" in report and report.count("data:image/png") == 1 + 4


def test_scores_are_those_of_the_maps_that_predict_writes(trained: Path, tmp_path: Path, run_command: Command) -> None:
    """Composites made on the fly are those of the cache, to the bit: so are the maps, on a CPU with one thread."""
    evaluation = trained / "run/evaluation-test.json"
    if not evaluation.exists():
        assert run_command(evaluate, "--run", trained / "run", "--resamples", "0", *CPU) == 0
    patches = Patches(load_dataset(trained / "dataset"), "test")
    words = ["--run", trained / "run", "--output", tmp_path, *CPU]
    assert run_command(predict, *words, "--input", *patches_of(trained, "*_patch_2*")) == 0
    right = pixels = 0
    for index, sample in enumerate(patches.samples):
        labels, found = patches.labels(index), raster(tmp_path / f"{sample.id}_pred.tif")
        counted = (labels != 0) & (found != 0)
        right, pixels = right + int((labels == found)[counted].sum()), pixels + int(counted.sum())
    assert Evaluation.load(evaluation).model["oa"] == pytest.approx(right / pixels, abs=1e-12)


def test_predict_writes_all_products_and_joins_them(trained: Path, tmp_path: Path, run_command: Command) -> None:
    words = ["--run", trained / "run", "--input", trained / "raw", "--output", tmp_path, "--mosaic", "true", *CPU]
    assert run_command(predict, *words) == 0
    record = json.loads((tmp_path / "run.json").read_text())["calls"][-1]
    assert record["failed"] == {} and len(record["patches"]) == 12
    assert record["identity"]["composites"]["bands"] == list(BANDS)
    joined = {name: raster(tmp_path / f"{name}_pred.tif") for name in record["mosaics"]}
    assert set(joined) == {"2019_31TCG", "2019_31TCJ", "2020_31TCG", "2020_31TCJ"}
    for path in patches_of(trained):
        pred, prob, table, parquet = product_paths(tmp_path, path.stem)
        with open_patch(path) as patch, rasterio.open(pred) as source:
            parcels, name = patch.parcels(), patch.name
            assert source.crs.to_epsg() == 32631 and source.shape == patch.grid.shape
            assert source.transform == patch.grid.transform
        classes, percent = raster(pred), raster(prob)
        assert classes.any() and classes.max() <= 11 and np.array_equal(classes == 0, percent == 255)
        assert percent[classes != 0].max() <= 100
        frame = pandas.read_parquet(parquet)
        assert frame["parcel"].tolist() == sorted(set(np.unique(parcels)) - {0})
        assert frame["pixels"].sum() == (parcels != 0).sum()
        for row in frame.itertuples():
            votes = np.bincount(classes[parcels == row.parcel], minlength=12)[1:]
            assert row[2] == (votes.argmax() + 1 if votes.any() else 0)
        assert len(table.read_text().splitlines()) == len(frame) + 1
        # Patches of the sample lie beside each other by their numbers.
        left = SIZE * name.x
        assert np.array_equal(joined[f"{name.year}_{name.tile}"][:, left : left + SIZE], classes)


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
    monkeypatch.setattr(tiled, "to_device", moved)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", convolved)
    module, words = {
        "train": (train, ["--data", trained / "dataset", *SMALL, "--training.validation-batch-size", "3"]),
        "evaluate": (evaluate, ["--no-baselines", "--resamples", "0", "--batch-size", "3"]),
        "predict": (predict, ["--input", patches_of(trained)[0], "--output", tmp_path / "maps", "--batch-size", "3"]),
    }[name]
    run = tmp_path / "run" if name == "train" else shutil.copytree(trained / "run", tmp_path / "run")
    assert run_command(module, "--run", run, *words, *CPU, "--device.channels-last") == 0
    assert {context.batch_size for context in contexts} == {3} and laid_out == {True}


def test_maps_are_the_same_for_any_number_of_workers_and_are_kept(
    trained: Path, tmp_path: Path, run_command: Command
) -> None:
    """On a CPU with one thread."""
    inputs = patches_of(trained, "2019_31TCJ*")
    words = ["--run", trained / "run", "--input", *inputs, *CPU, "--mosaic", "true", "--output"]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert run_command(predict, *words, tmp_path / "b", "--workers", "2") == 0
    paths = [path for patch in inputs for path in product_paths(tmp_path / "a", patch.stem)]
    paths += mosaic_paths(tmp_path / "a", "2019_31TCJ")
    for path in paths:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    times = [path.stat().st_mtime_ns for path in paths]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert [path.stat().st_mtime_ns for path in paths] == times
    for lost in (paths[2], paths[-1]):
        content = lost.read_bytes()
        lost.unlink()
        assert run_command(predict, *words, tmp_path / "a") == 0
        assert lost.read_bytes() == content
    assert [path.stat().st_mtime_ns for path in paths[4:8]] == times[4:8]


def test_bad_patches_are_listed_and_the_others_are_mapped(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    good, *sources = patches_of(trained)
    own = tmp_path / "raw"
    changes: dict[str, Callable[[h5py.File], object] | None] = {
        "no band B11": without_band,
        "more than once": repeat_time,
        "no image has data": without_data,
        "damaged": None,
    }
    bad = {reason: copied(path, own, change) for path, (reason, change) in zip(sources, changes.items(), strict=False)}
    truncated = bad["damaged"]
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    words = ["--run", trained / "run", "--output", tmp_path / "m", "--mosaic", "true", *CPU]
    assert run_command(predict, *words, "--input", good, own) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "4 of 6 patches and joined maps failed" in line
    for reason in ("no band B11", "more than once", "no image has data"):
        assert f"{bad[reason].stem}: " in line and reason in line
    assert f"{truncated.stem}: " in line
    assert all(path.exists() for path in product_paths(tmp_path / "m", good.stem))
    record = json.loads((tmp_path / "m/run.json").read_text())["calls"][-1]
    assert sorted(record["failed"]) == sorted(path.stem for path in bad.values())
    assert [summary["patches"] for summary in record["mosaics"].values()] == [[good.stem]]
    # Mended, they are made, and nothing else is made again.
    before = product_paths(tmp_path / "m", good.stem)[0].stat().st_mtime_ns
    for source in sources[:4]:
        shutil.copy(source, own)
    assert run_command(predict, *words, "--input", good, own) == 0
    assert product_paths(tmp_path / "m", good.stem)[0].stat().st_mtime_ns == before


def test_order_of_images_does_not_matter_and_a_month_may_be_empty(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    source = patches_of(trained, "2019_31TCG_patch_2*")[0]
    inputs = {
        "plain": source,
        "mixed": copied(source, tmp_path / "x", reorder),
        "empty": copied(source, tmp_path / "y", empty_month),
    }
    maps = {}
    for name, path in inputs.items():
        assert run_command(predict, "--run", trained / "run", "--input", path, "--output", tmp_path / name, *CPU) == 0
        maps[name] = raster(tmp_path / name / f"{source.stem}_prob.tif")
    assert np.array_equal(maps["plain"], maps["mixed"])
    assert not np.array_equal(maps["plain"], maps["empty"]) and (maps["empty"] != 255).all()
    capsys.readouterr()
    assert run_command(medians, "--data", tmp_path / "y", "--out", tmp_path / "d", "--composites.bands", *BANDS) == 0
    assert "note: period 6" in capsys.readouterr().out


def test_two_files_of_one_patch_and_no_patch_are_refused(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    first = patches_of(trained)[0]
    other = copied(first, tmp_path / "x")
    words = ["--run", trained / "run", "--output", tmp_path / "m", *CPU, "--input"]
    assert run_command(predict, *words, first, other) == 2
    assert f"both patch {first.stem}" in errors_of(capsys.readouterr().err)[0]
    assert run_command(predict, *words, tmp_path / "nowhere") == 2
    assert "nowhere" in errors_of(capsys.readouterr().err)[0]
    # The same file, named twice, is one patch.
    assert run_command(predict, *words, first, first.parent / ".." / first.parent.name / first.name) == 0


def test_a_patch_unlike_those_of_training_is_warned_of(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def brighter(file: h5py.File) -> None:
        values = file["B08/B08"][...]
        file["B08/B08"][...] = np.where(values, np.minimum(values.astype(int) * 3, 30_000), 0).astype(np.uint16)

    source = patches_of(trained)[0]
    for name, path in (("plain", source), ("bright", copied(source, tmp_path / "x", brighter))):
        assert run_command(predict, "--run", trained / "run", "--input", path, "--output", tmp_path / name, *CPU) == 0
        assert ("the mean of band B08 lies" in capsys.readouterr().err) == (name == "bright")


def test_active_sampling_from_the_hold_out_model_to_the_comparison(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", trained / "dataset", *SMALL, "--schedule.warmup-steps", "0"]
    assert run_command(train, "--recipe", "holdout", *data, "--run", tmp_path / "holdout") == 0
    chosen = ["--recipe", "rho-loss", "--selection.holdout", tmp_path / "holdout", "--selection.block", "2"]
    assert run_command(train, *chosen, *data, "--run", tmp_path / "rho") == 0
    assert run_command(train, "--recipe", "sample", *data, "--run", tmp_path / "all") == 0
    capsys.readouterr()
    assert run_command(compare, "--runs", tmp_path / "all", tmp_path / "rho", "--out", tmp_path / "c") == 0
    assert "rho-loss" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"comparison.csv", "comparison.md", "comparison.png"}
    assert run_command(evaluate, "--run", tmp_path / "rho", "--split", "val", "--resamples", "0", *CPU) == 0
    assert "note: val chose the checkpoint" in capsys.readouterr().out
    assert json.loads((tmp_path / "rho/evaluation-val.json").read_text())["split"] == "val"
    maps = []
    for run in ("all", "rho", "all"):
        # Another network maps anew, whatever is there.
        words = ["--run", tmp_path / run, "--input", patches_of(trained)[0], "--output", tmp_path / "m", *CPU]
        assert run_command(predict, *words) == 0
        maps.append(raster(tmp_path / "m" / f"{patches_of(trained)[0].stem}_prob.tif"))
    assert not np.array_equal(maps[0], maps[1]) and np.array_equal(maps[0], maps[2])
    capsys.readouterr()
    assert run_command(train, "--recipe", "rho-loss", *data, "--run", tmp_path / "no") == 2
    assert "holdout" in errors_of(capsys.readouterr().err)[0]


def test_any_checkpoint_is_scored_without_baselines_and_mapped_with(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", trained / "run", "--checkpoint", "step-3"]
    assert run_command(evaluate, *words, "--no-baselines", "--resamples", "5", *CPU) == 0
    assert "untrained" not in capsys.readouterr().out
    written = json.loads((trained / "run/evaluation-test-step-000003.json").read_text())
    assert written["checkpoint"] == "step-000003" and written["untrained"] is None
    assert written["baselines"] == {} and written["protocol"]["baselines"] == "left out (--no-baselines)"
    words += ["--input", patches_of(trained)[0], *CPU]
    assert run_command(predict, *words, "--output", tmp_path / "first") == 0
    words[3] = "last"
    assert run_command(predict, *words, "--output", tmp_path / "last") == 0
    for name in ("first", "last"):
        record = json.loads((tmp_path / name / "run.json").read_text())["calls"][-1]
        assert Path(record["checkpoint"]).name == {"first": "step-000003", "last": "step-000004"}[name]


def test_a_validation_that_cannot_choose_is_refused_before_work_and_leaves_no_run(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset.load(trained / "dataset")
    lacking = [
        dataclasses.replace(
            sample,
            attributes={
                **sample.attributes,
                **(
                    dict.fromkeys(
                        [name for name in sample.attributes if re.fullmatch("class_(?!0_|1_)[0-9]+_px", name)], 0
                    )
                    if sample.split == "val"
                    else {}
                ),
            },
        )
        for sample in dataset.samples
    ]
    shutil.copytree(trained / "dataset", trained / "lacking", dirs_exist_ok=True)
    dataclasses.replace(dataset, root=trained / "lacking", samples=lacking).save()
    words = ["--data", trained / "lacking", "--run", tmp_path / "run", *SMALL]
    assert run_command(train, *words) == 2
    assert "val holds nothing but" in capsys.readouterr().err
    assert run_command(train, "--run", tmp_path / "run", *SMALL, "--schedule.warmup-steps", "4") == 2
    assert "schedule.warmup_steps = 4: must be below the 4 steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_other_data_set_is_prepared_over_one_that_is_there(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (trained / "dataset").rglob("*") if path.is_file()}

    words, before = ["--data", trained / "raw", "--out", trained / "dataset", *PREPARED], held()
    assert run_command(prepare, *words, "--composites.fill", "linear") == 2
    error = capsys.readouterr().err
    assert "holds another data set: " in error and " there, " in error and "another folder with --out" in error
    assert run_command(medians, "--data", trained / "raw", "--out", trained / "dataset") == 2
    assert "holds a data set, whose medians these would take the place of" in capsys.readouterr().err
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
    assert "crops-evaluate --run" in capsys.readouterr().out
    assert run_command(train, *words, "--optimizer.learning-rate", "0.1") == 2
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--recipe", "nothing"], "nothing"),
        (["--tiling.overlap", "32"], "overlap"),
        (["--model.months", "4..13"], "1 to 12"),
        (["--model.months", "9..4"], "months"),
        (["--model.kind", "unet", "--model.encoder", "resnet"], "resnet"),
        (["--selection.scores", "{surprise: 1}"], "surprise"),
        (["--selection.scores", "{rho-loss: 1}"], "hold-out model"),
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
    if words[0] == "--selection.scores":
        (tmp_path / "own.yaml").write_text(f"selection: {{scores: {words[1]}}}")
        words = ["--config", str(tmp_path / "own.yaml")]
    assert run_command(train, "--data", trained / "dataset", "--run", tmp_path / "run", *SMALL, *words) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert needle in line


@pytest.mark.parametrize(
    ("rules", "needle"),
    [
        ("rules: [{target: train, colour: red}]", "colour"),
        ("rules: [{target: [{target: train, split: 0.8}, {target: val, split: 0.4}]}]", "1.2"),
        ("rules: [{year: 2019}]", "rules[0]"),
        ("rules: [{assert_none: true}]", "none"),
    ],
)
@pytest.mark.parametrize("module", [prepare, split])
def test_bad_rules_give_one_line(
    trained: Path,
    tmp_path: Path,
    run_command: Command,
    capsys: pytest.CaptureFixture[str],
    module: object,
    rules: str,
    needle: str,
) -> None:
    (tmp_path / "own.yaml").write_text(rules)
    words = ["--data", trained / "raw", "--out", tmp_path / "d", "--split.rules", tmp_path / "own.yaml"]
    assert run_command(module, *words) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert needle in line
    assert not (tmp_path / "d").exists()


def test_bad_data_gives_one_line(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(module: object, *words: object) -> tuple[str, str]:
        capsys.readouterr()
        assert run_command(module, "--out", tmp_path / Path(str(words[1])).name / module.__name__, *words) == 2
        captured = capsys.readouterr()
        (line,) = errors_of(captured.err)
        return line, captured.out

    source = patches_of(trained)[0]
    bands = ["--composites.bands", *BANDS]
    for number, (change, needle) in enumerate(
        ((without_band, "no band B11"), (repeat_time, "more than once"), (without_data, "no image has data"))
    ):
        copied(patches_of(trained)[1], tmp_path / f"raw{number}")
        copied(source, tmp_path / f"raw{number}", change)
        line, said = refused(medians, "--data", tmp_path / f"raw{number}", *bands)
        assert "1 of 2 patches cannot be used" in line
        (failed,) = [each for each in said.splitlines() if each.startswith("failed: ")]
        assert source.stem in failed and needle in failed
        assert "1 of 2 patches cannot be used" in refused(prepare, "--data", tmp_path / f"raw{number}", *PREPARED)[0]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text(f"{source.name}\n2019/31TCG/2019_31TCG_patch_05_05.nc\n")
    line, _ = refused(prepare, "--data", trained / "raw", "--lists", lists, *PREPARED)
    assert "2019_31TCG_patch_05_05" in line and "1 of its 2 patches are not there" in line
    assert "B99" in refused(prepare, "--data", trained / "raw", "--composites.bands", "B99")[0]
    assert "1FORTNIGHT" in refused(medians, "--data", trained / "raw", "--composites.frequency", "1FORTNIGHT")[0]
    assert "s4a" in refused(prepare, "--data", trained / "raw", "--encoder", "s4a")[0]


def test_other_run_and_other_data_are_refused(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    card_file = tmp_path / "run/checkpoints/step-000004/card.json"
    card_file.write_text(card_file.read_text().replace("wheat", "wheats"))
    inputs = ["--input", patches_of(trained)[0], "--output", tmp_path / "m"]
    assert run_command(evaluate, "--run", tmp_path / "run", *CPU) == 2
    assert run_command(predict, "--run", tmp_path / "none", *inputs) == 2
    damaged, missing = errors_of(capsys.readouterr().err)
    assert "damaged" in damaged and str(tmp_path / "none") in missing

    def evaluated_on(name: str, *words: object) -> str:
        assert run_command(prepare, "--data", trained / "raw", "--out", tmp_path / name, *words) == 0
        assert run_command(evaluate, "--run", trained / "run", "--data", tmp_path / name, *CPU) == 2
        (line,) = errors_of(capsys.readouterr().err)
        return line

    assert "its crops are" in evaluated_on("classes", *PREPARED, "--encoder", "with-grassland")
    assert "6 periods of" in evaluated_on("periods", *PREPARED, "--composites.frequency", "2MS")
    assert "composites.fill is linear" in evaluated_on("fill", *PREPARED, "--composites.fill", "linear")
    later = ["--limit", "3", "--composites.start", "2019-02-01", "--composites.end", "2020-01-31"]
    assert "begin on 02-01 of a year" in evaluated_on("months", *PREPARED, *later)
    assert "periods of B08, but" in evaluated_on("bands", *DIVIDED, "--composites.bands", "B08")
    # The run's own data, divided anew, are not those that it was trained on.
    path = trained / "dataset/dataset.yaml"
    content = path.read_text()
    try:
        path.write_text(content.partition("\n")[2].replace("split: val", "split: test", 1))
        assert run_command(evaluate, "--run", trained / "run", *CPU) == 2
    finally:
        path.write_text(content)
    assert "has changed since" in errors_of(capsys.readouterr().err)[0]


def test_scores_on_other_data_stand_beside_the_others(trained: Path, tmp_path: Path, run_command: Command) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    words = ["--data", trained / "raw", "--out", tmp_path / "d", *PREPARED, "--split.swap", "true"]
    assert run_command(prepare, *words) == 0
    words = ["--run", tmp_path / "run", "--data", tmp_path / "d", "--split", "val", "--resamples", "0", *CPU]
    assert run_command(evaluate, *words) == 0
    name = f"evaluation-val-{load_dataset(tmp_path / 'd').hash[:8]}"
    assert Evaluation.load(tmp_path / "run" / f"{name}.json").samples == 4
    assert (tmp_path / "run" / f"{name}-patches.csv").read_text().count("\n") == 5
    assert not (tmp_path / "run/evaluation-val.json").exists()


@pytest.mark.parametrize("recipe", ["sample", "holdout", "rho-loss"])
def test_recipes_are_complete_and_valid(recipe: str) -> None:
    text = (Path(train.__file__).parent / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    assert "crops-train" in text.splitlines()[0]
    assert all(len(line) <= 126 for line in text.splitlines())
    values = yaml.safe_load(text)
    if recipe == "rho-loss":
        values["selection"]["holdout"] = "run"
    settings = TrainSettings.model_validate(values)
    assert settings.training.steps > 100 and settings.swap == (recipe == "holdout")


@pytest.mark.parametrize(
    "verb", ["medians", "split", "prepare", "train", "evaluate", "predict", "compare", "worldcereal"]
)
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['crops-{verb}', '--help']\n"
        f"from crops_activesampling.{verb} import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert stopped.code == 0, stopped.code\n"
        "heavy = {'torch', 'rasterio', 'scipy', 'sklearn', 'pandas', 'matplotlib', 'h5py', 'h5netcdf', 'xarray',\n"
        "         'segmentation_models_pytorch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_remarks_say_what_scores_do_not_speak_of() -> None:
    """Of 3 x 100 pixels: one patch without a label; 20 labelled ones without data, 30 of the others in no parcel."""
    unlabelled = (60, 50, 100)
    patches: Any = SimpleNamespace(
        samples=[
            SimpleNamespace(id=str(index), attributes={"rows": 10, "cols": 10, "class_0_px": count})
            for index, count in enumerate(unlabelled)
        ]
    )
    counts = [{"pixels": np.array([[a]]), "parcel_pixels": np.array([[b]])} for a, b in ((30, 20), (40, 20), (0, 0))]
    said = evaluate.remarks(patches, counts)
    assert [line.split(" of ")[0] for line in said[:2]] == ["70.0 %", "20"]
    assert said[2].startswith("42.9 % of the labelled pixels lie in no parcel")
    assert said[3] == "1 patches have no pixel that counts: 2" and len(said) == 4
    full: Any = SimpleNamespace(samples=[SimpleNamespace(id="a", attributes={"rows": 5, "cols": 5, "class_0_px": 0})])
    assert evaluate.remarks(full, [{"pixels": np.array([[25]]), "parcel_pixels": np.array([[25]])}]) == []


def bomb(file: h5py.File) -> None:
    """A chunk of a band that is inflated to hundreds of times what its values take."""
    shape = file["B04/B04"].shape
    del file["B04/B04"]
    dataset = file["B04"].create_dataset("B04", shape, np.uint16, chunks=shape, compression="gzip")
    dataset.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(1 << 28), 1))


def claim(file: h5py.File) -> None:
    shape = file["B04/B04"].shape
    del file["B04/B04"]
    file["B04"].create_dataset("B04", (shape[0], 100_000, 100_000), np.uint16)


def link(file: h5py.File) -> None:
    file["B04/other"] = h5py.ExternalLink("/etc/passwd", "x")


@pytest.mark.parametrize(
    ("change", "said"),
    [(bomb, "holds more"), (claim, "B04 has 100000 x 100000 pixels"), (link, "B04/other is a link to another place")],
)
def test_a_patch_that_claims_too_much_is_one_line(
    trained: Path,
    tmp_path: Path,
    run_command: Command,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[h5py.File], object],
    said: str,
) -> None:
    path = copied(patches_of(trained)[0], tmp_path / "x", change)
    words = ["--run", trained / "run", "--input", path, "--output", tmp_path / "maps", "--device.device", "cpu"]
    assert run_command(predict, *words) == 2
    (told,) = errors_of(capsys.readouterr().err)
    assert said in told
