"""Each command end to end on a small sample, and what it says about bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
import yaml

from floods_prithvi import evaluate, predict, prepare, published, train
from floods_prithvi.config import TrainSettings
from floods_prithvi.products import product_paths
from floods_prithvi.sample import write_burn_sample, write_frames_sample, write_sample
from geocore.datasets.dataset import Dataset
from geocore.device import DeviceContext, to_device
from geocore.inference import tiled
from geocore.raster.gdal import grid_of
from geocore.raster.grid import Window
from geocore.raster.ground import PixelAreas
from geocore.raster.write import read_legend

CPU = ["--device.device", "cpu", "--device.threads", "1"]
SMALL = [
    *("--training.checkpoint-every", "1"),
    *("--model.variant", "v2-tiny", "--model.head", "unet", "--tiling.size", "48", "--tiling.overlap", "16"),
    *(
        "--patches-per-epoch",
        "4",
        "--training.steps",
        "2",
        "--training.batch-size",
        "2",
        "--training.validate-every",
        "2",
    ),
    *("--baseline.steps", "2", "--baseline.batch-size", "2", *CPU),
]

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
    """A folder with chips, a data set and a short run, made by the commands themselves."""
    folder = tmp_path_factory.mktemp("floods")
    write_sample(folder / "raw", seed=3, size=64, counts={"train": 1, "valid": 1, "test": 1, "bolivia": 2})
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)  # the run is used from other folders than the one in which its data were named
    words = {
        prepare: ["--data", folder / "raw", "--out", folder / "dataset"],
        train: ["--data", "dataset", "--run", folder / "run", *SMALL],
    }
    for module, given in words.items():
        patch.setattr(sys, "argv", [module.__name__, *map(str, given)])
        with pytest.raises(SystemExit) as stopped:
            module.main()
        assert stopped.value.code == 0
    patch.undo()
    return folder


def chips_of(folder: Path) -> list[Path]:
    return sorted((folder / "raw").rglob("*_S2Hand.tif"))


def errors_of(captured: str) -> list[str]:
    assert "Traceback" not in captured
    return [line for line in captured.splitlines() if line.startswith("error:")]


def stripped(source: Path, target: Path, *, dtype: str | None = None, scale: float = 1.0) -> Path:
    """A copy without names of bands, in another unit where asked for."""
    with rasterio.open(source) as file:
        profile, values = file.profile, file.read()
    profile.update(dtype=dtype or profile["dtype"], nodata=0)
    with rasterio.open(target, "w", **profile) as file:
        file.write((values * scale).astype(profile["dtype"]))
    return target


@pytest.mark.parametrize("split", ["test", "bolivia"])
def test_evaluate_writes_model_untrained_and_baselines(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    words = ["--run", trained / "run", "--split", split, "--resamples", "20", *CPU]
    assert run_command(evaluate, *words) == 0
    assert "iou_water *" in capsys.readouterr().out
    written = json.loads((trained / f"run/evaluation-{split}.json").read_text())
    assert written["primary"] == "iou_water" and written["protocol"]["tile_px"] == 48
    assert {"MNDWI Otsu", "MNDWI tuned", "U-Net"} <= set(written["baselines"])
    for scores in (written["model"], written["untrained"], *written["baselines"].values()):
        assert {"miou", "aacc", "macc", "kappa", "iou_water", "f1_water", "iou_land"} <= set(scores)
    assert (split == "bolivia") == (set(written["per_group"]) == {"Bolivia"})
    report = (trained / "run/report.html").read_text()
    assert f"Scores on {split}" in report and "data:image/png" in report
    # The baseline is trained once.
    before = (trained / "run/baseline/finished.json").stat().st_mtime_ns
    assert run_command(evaluate, *words) == 0
    assert (trained / "run/baseline/finished.json").stat().st_mtime_ns == before


def calls_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "run.json").read_text())["calls"]


def test_predict_writes_all_products(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = chips_of(trained)
    assert run_command(predict, "--run", trained / "run", "--input", *chips, "--output", tmp_path, *CPU) == 0
    for chip in chips:
        assert all(path.exists() for path in product_paths(tmp_path, chip.stem))
        with rasterio.open(chip) as source, rasterio.open(tmp_path / f"{chip.stem}_pred.tif") as found:
            missing = (source.read([2, 3, 4, 9, 12, 13]) == 0).all(axis=0)
            classes = found.read(1)
            assert found.crs == source.crs and found.transform == source.transform and found.nodata == 255
            assert np.array_equal(classes == 255, missing)
            assert found.profile["tiled"] and found.colormap(1)[1][:3] != found.colormap(1)[0][:3]
        with rasterio.open(tmp_path / f"{chip.stem}_prob.tif") as found:
            percent = found.read(1)
            assert np.array_equal(percent == 255, missing) and percent[~missing].max(initial=0) <= 100
        table = geopandas.read_file(tmp_path / f"{chip.stem}.gpkg", layer="polygons")
        assert len(table) == 0 or set(table["class"]) == {"water"}
    (record,) = calls_of(tmp_path)
    assert record["failed"] == {} and len(record["scenes"]) == len(chips)
    said = capsys.readouterr().out.splitlines()
    seen, water = 0.0, 0.0
    for chip in chips:
        with rasterio.open(tmp_path / f"{chip.stem}_pred.tif") as found:
            classes, ground = found.read(1), PixelAreas(grid_of(found))
        areas = ground.within(Window(0, 0, *classes.shape))
        seen, water = seen + areas[classes != 255].sum(), water + areas[classes == 1].sum()
    mapped, area = said[-2].rsplit(" on ", 1)
    assert mapped == f"{len(chips)} of {len(chips)} scenes mapped in {tmp_path}: water"
    assert area == f"{water / 1e6:.3g} of {seen / 1e6:.3g} km2"
    assert said[-1].startswith(f"open {tmp_path}/all_pred")
    assert read_legend(tmp_path / f"{chips[0].stem}_pred.tif").transparent == {0}
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
            laid_out.add(module.weight.is_contiguous(memory_format=CHANNELS_LAST))
        return convolve(module, image)

    convolve = torch.nn.Conv2d.forward
    monkeypatch.setattr(tiled, "to_device", moved)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", convolved)
    module, words = {
        "train": (train, ["--data", trained / "dataset", *SMALL, "--training.validation-batch-size", "3"]),
        "evaluate": (evaluate, ["--no-baselines", "--resamples", "0", "--batch-size", "3"]),
        "predict": (predict, ["--input", chips_of(trained)[0], "--output", tmp_path / "maps", "--batch-size", "3"]),
    }[name]
    run = tmp_path / "run" if name == "train" else shutil.copytree(trained / "run", tmp_path / "run")
    assert run_command(module, "--run", run, *words, *CPU, "--device.channels-last") == 0
    assert {context.batch_size for context in contexts} == {3} and laid_out == {True}


def test_prediction_is_the_same_for_any_number_of_workers_and_is_kept(
    trained: Path, tmp_path: Path, run_command: Command
) -> None:
    """On a CPU with one thread, in chunks of one size."""
    write_sample(tmp_path / "wide", seed=5, size=288, counts={"bolivia": 1})
    (scene,) = chips_of_folder(tmp_path / "wide")
    words = ["--run", trained / "run", "--input", scene, "--chunk-px", "256", *CPU, "--output"]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert run_command(predict, *words, tmp_path / "b", "--workers", "2") == 0
    rasters = [path for path in product_paths(tmp_path / "a", scene.stem) if path.suffix == ".tif"]
    for path in rasters:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    times = [path.stat().st_mtime_ns for path in rasters]
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert [path.stat().st_mtime_ns for path in rasters] == times
    content = rasters[0].read_bytes()
    rasters[0].unlink()
    assert run_command(predict, *words, tmp_path / "a") == 0
    assert rasters[0].read_bytes() == content


def test_a_plan_says_what_a_scene_takes_and_maps_none(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = chips_of(trained)[:2]
    words = ["--run", trained / "run", "--input", *scenes, "--output", tmp_path / "maps", *CPU]
    assert run_command(predict, *words, "--plan", "true") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    pattern = r": \d+ tiles in \d+ chunks \(\d+ of them .* to decode, .* of buffers .*, about \d+ s$"
    assert all(re.search(pattern, line) for line in lines), lines
    assert not (tmp_path / "maps").exists()


def test_shards_give_the_products_of_one_run(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU with one thread, in chunks of one size."""
    write_sample(tmp_path / "wide", seed=5, size=288, counts={"bolivia": 1})
    scenes = [*chips_of(trained)[:2], *chips_of_folder(tmp_path / "wide")]
    shutil.move(scenes[2], tmp_path / "wide.tif")  # a name that no chip has
    scenes[2] = tmp_path / "wide.tif"
    words = ["--run", trained / "run", "--input", *scenes, "--chunk-px", "256", *CPU, "--output"]
    assert run_command(predict, *words, tmp_path / "whole") == 0
    capsys.readouterr()
    out = tmp_path / "shards"
    assert run_command(predict, *words, out, "--shard", "2/2") == 0
    said = capsys.readouterr().out
    assert "shard 2/2 has done its share; 2 of 3 are not there yet" in said and "wide (2 of 4 parts are not" in said
    # Scenes of one chunk are dealt out as the chunks of a wide one are.
    there = [all(path.exists() for path in product_paths(out, scene.stem)) for scene in scenes]
    assert sum(there) == 1 and not there[2]
    assert run_command(predict, *words, out, "--shard", "1/2") == 0
    assert "3 of 3 scenes mapped" in capsys.readouterr().out
    for scene in scenes:
        pairs = zip(product_paths(out, scene.stem), product_paths(tmp_path / "whole", scene.stem), strict=True)
        for mine, theirs in pairs:
            if mine.suffix == ".gpkg":  # holds the time at which it was written
                assert geopandas.read_file(mine).equals(geopandas.read_file(theirs))
            else:
                assert mine.read_bytes() == theirs.read_bytes(), mine.name
    (waiting, mine), (theirs,) = (calls_of(tmp_path / name) for name in ("shards", "whole"))
    assert "scenes" not in waiting and waiting["identity"] == mine["identity"]
    assert all(mine[key] == theirs[key] for key in ("checkpoint", "data_hash", "identity", "scenes", "failed"))
    assert not (out / ".geocore/parts").exists()


def chips_of_folder(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*_S2Hand.tif"))


def test_any_checkpoint_is_scored_without_baselines_and_mapped_with(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", trained / "run", "--checkpoint", "step-1"]
    assert run_command(evaluate, *words, "--no-baselines", "--resamples", "5", *CPU) == 0
    assert "untrained" not in capsys.readouterr().out
    written = json.loads((trained / "run/evaluation-test-step-000001.json").read_text())
    assert written["checkpoint"] == "step-000001" and written["untrained"] is None
    assert written["baselines"] == {} and written["protocol"]["baselines"] == "left out (--no-baselines)"
    words += ["--input", chips_of(trained)[0], *CPU]
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
            sample, attributes={**sample.attributes, **({"class_1_px": 0} if sample.split == "val" else {})}
        )
        for sample in dataset.samples
    ]
    shutil.copytree(trained / "dataset", trained / "lacking", dirs_exist_ok=True)
    dataclasses.replace(dataset, root=trained / "lacking", samples=lacking).save()
    words = ["--data", trained / "lacking", "--run", tmp_path / "run", *SMALL]
    assert run_command(train, *words) == 2
    assert "val has no water, so that iou_water cannot choose" in capsys.readouterr().err
    assert run_command(train, "--run", tmp_path / "run", *SMALL, "--schedule.warmup-steps", "2") == 2
    assert "schedule.warmup_steps = 2: must be below the 2 steps" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_other_data_set_is_prepared_over_one_that_is_there(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def held() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (trained / "dataset").rglob("*") if path.is_file()}

    words, before = ["--data", trained / "raw", "--out", trained / "dataset"], held()
    assert run_command(prepare, *words, "--split.seed", "7") == 2
    error = capsys.readouterr().err
    assert "holds another data set: " in error and " there, " in error and "another folder with --out" in error
    assert held() == before
    assert run_command(prepare, *words) == 0
    after = held()
    assert after[trained / "dataset" / "dataset.yaml"] == before[trained / "dataset" / "dataset.yaml"]


def test_finished_run_says_so_and_another_setting_is_refused(
    trained: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", trained / "dataset", "--run", trained / "run", *SMALL]
    assert run_command(train, *words) == 0
    assert "floods-evaluate --run" in capsys.readouterr().out
    assert run_command(train, *words, "--optimizer.learning-rate", "0.1") == 2
    assert "learning_rate" in capsys.readouterr().err


def weights_of(run: Path) -> bytes:
    """Of the last checkpoint."""
    (file,) = (run / "checkpoints" / (run / "checkpoints/last").read_text().strip()).glob("*model*.safetensors")
    return file.read_bytes()


def test_a_run_goes_on_with_a_cache_and_other_threads_to_the_same_weights(
    trained: Path, tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from floods_prithvi import mapping

    words = [
        *("--data", trained / "dataset", *SMALL),
        *("--training.steps", "4", "--training.checkpoint-every", "1"),
        *("--sampling.kind", "chunked", "--sampling.windows-per-chunk", "2", "--sampling.balance", "classes"),
    ]
    assert run_command(train, *words, "--run", tmp_path / "whole", "--loader.threads", "0") == 0

    def interrupted(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mapping, "chip_counts", interrupted)
        assert run_command(train, *words, "--run", tmp_path / "run") == 130
    assert not (tmp_path / "cache").exists()
    words += ["--loader.threads", "3", "--cache", tmp_path / "cache"]
    assert run_command(train, *words, "--run", tmp_path / "run") == 0
    assert list(tmp_path.glob("cache/*/entry.json"))
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "whole")


def test_a_sentinel_2_product_is_mapped_as_the_file_with_its_bands(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """The product is of a baseline that adds 1000 to all numbers; half of it is cloud."""
    (chip,) = chips_of(trained)[:1]
    with rasterio.open(chip) as file:
        values, names = file.read(), file.descriptions
    product = tmp_path / "S2B_MSIL1C_20230702T101559_N0509_R065_T32TPT_20230702T131218.SAFE"
    images = product / "GRANULE/L1C_T32TPT_A033012_20230702T101846/IMG_DATA"
    images.mkdir(parents=True)
    size = {"height": values.shape[1], "width": values.shape[2], "crs": "EPSG:32632"}
    place = {"transform": rasterio.Affine(10, 0, 600000, 0, -10, 5300040)}
    clouds = np.full(values.shape[1:], 4, "uint8")
    clouds[:32] = 9
    missing = (values == 0).all(axis=0)
    planes = {"SCL": clouds}
    for name, band in zip(names, values, strict=True):
        label = f"B{name[1:].rjust(2, '0')}"
        planes[label] = np.where(missing, 0, band.astype("int32") + 1000).astype("uint16")
    for label, plane in planes.items():
        path, lossless = images / f"T32TPT_20230702T101559_{label}.jp2", {"REVERSIBLE": "YES", "QUALITY": "100"}
        with rasterio.open(
            path, "w", driver="JP2OpenJPEG", count=1, dtype=plane.dtype, **size, **place, **lossless
        ) as file:
            file.write(plane, 1)
    offsets = "".join(f'<RADIO_ADD_OFFSET band_id="{number}">-1000</RADIO_ADD_OFFSET>' for number in range(13))
    (product / "MTD_MSIL1C.xml").write_text(f"<a><QUANTIFICATION_VALUE>10000</QUANTIFICATION_VALUE>{offsets}</a>")
    words = ["--run", trained / "run", *CPU]
    assert run_command(predict, *words, "--input", chip, product, "--output", tmp_path / "a") == 0
    found = []
    for name in (chip.stem, product.stem):
        with rasterio.open(tmp_path / f"a/{name}_prob.tif") as file:
            found.append(file.read(1))
    np.testing.assert_array_equal(*found)

    folder = [*words, "--input", tmp_path, "--output", tmp_path / "b"]
    assert run_command(predict, *folder, "--mask", "SCL:8,9") == 0
    with rasterio.open(tmp_path / f"b/{product.stem}_prob.tif") as file:
        percent = file.read(1)
    assert (percent[:32] == 255).all()
    np.testing.assert_array_equal(percent[32:] == 255, missing[32:])
    capsys.readouterr()
    assert run_command(predict, *folder, "--mask", "SCL") == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "mask 'SCL'" in line and "SCL:3,8,9,10" in line


def test_bad_scenes_are_listed_and_the_others_are_mapped(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    good = chips_of(trained)[0]
    nameless = stripped(good, tmp_path / "nameless.tif")
    reflectance = tmp_path / "reflectance.tif"
    shutil.copy(good, reflectance)
    with rasterio.open(good) as file:
        profile, values, names = file.profile, file.read(), file.descriptions
    profile.update(dtype="float32")
    with rasterio.open(reflectance, "w", **profile) as file:
        file.write(values.astype("float32") / 10000)
        file.descriptions = names
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(good.read_bytes()[:500])
    words = ["--run", trained / "run", "--output", tmp_path / "m", *CPU]
    assert run_command(predict, *words, "--input", good, nameless, reflectance, damaged) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "3 of 4 scenes failed" in line and "--bands 2 3 4 9 12 13" in line and "--scale" in line
    assert all(path.exists() for path in product_paths(tmp_path / "m", good.stem))
    assert sorted(calls_of(tmp_path / "m")[-1]["failed"]) == [
        "damaged",
        "nameless",
        "reflectance",
    ]
    again = ["--bands", "2", "3", "4", "9", "12", "13"]
    assert run_command(predict, *words, "--input", nameless, *again) == 0
    assert run_command(predict, *words, "--input", reflectance, "--scale", "1") == 0
    with rasterio.open(tmp_path / f"m/{good.stem}_pred.tif") as a, rasterio.open(tmp_path / "m/nameless_pred.tif") as b:
        assert np.array_equal(a.read(), b.read())


def test_scene_in_stored_numbers_against_reflectance_is_refused(
    tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of burn scars takes reflectance as stored; a scene of 0-10000 is told apart by its numbers."""
    write_burn_sample(tmp_path / "raw", seed=1, size=64, training=6, validation=2)
    assert run_command(prepare, "--data", tmp_path / "raw", "--out", tmp_path / "d", "--format", "burn-scars") == 0
    assert run_command(train, "--data", tmp_path / "d", "--run", tmp_path / "run", *SMALL, "--loss.kind", "dice") == 0
    chip = sorted((tmp_path / "raw").rglob("*_merged.tif"))[0]
    with rasterio.open(chip) as file:
        profile, values, names = file.profile, file.read(), file.descriptions
    profile.update(dtype="int16", nodata=-9999)
    with rasterio.open(tmp_path / "dn.tif", "w", **profile) as file:
        file.write(np.where(values == -9999, -9999, values * 10000).astype("int16"))
        file.descriptions = names
    words = ["--run", tmp_path / "run", "--input", tmp_path / "dn.tif", "--output", tmp_path / "m", *CPU]
    assert run_command(predict, *words) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert "lie beyond reflectance (-0.2 to 2;" in line and "--scale" in line
    assert run_command(predict, *words, "--scale", "0.0001") == 0


def test_chips_of_several_dates_train_and_map(tmp_path: Path, run_command: Command) -> None:
    write_frames_sample(tmp_path / "raw", seed=1, size=48)
    words = ["--data", tmp_path / "raw", "--out", tmp_path / "d", "--format", "frames", "--frames", "3"]
    assert run_command(prepare, *words) == 0
    assert run_command(train, "--data", tmp_path / "d", "--run", tmp_path / "run", *SMALL) == 0
    assert run_command(evaluate, "--run", tmp_path / "run", "--resamples", "0", *CPU) == 0
    written = json.loads((tmp_path / "run/evaluation-test.json").read_text())
    assert written["primary"] == "miou" and set(written["baselines"]) == {"U-Net"}
    chip = sorted((tmp_path / "raw").rglob("*_merged.tif"))[0]
    assert run_command(predict, "--run", tmp_path / "run", "--input", chip, "--output", tmp_path / "m", *CPU) == 0


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--recipe", "nothing"], "nothing"),
        (["--model.weights", "absent.pt"], "absent.pt"),
        (["--model.weights", "official"], "Prithvi_EO_V2_tiny_TL.pt"),
        (["--tiling.overlap", "48"], "overlap"),
        (["--model.variant", "v3"], "variant"),
        (["--model.auxiliary", "1"], "auxiliary"),
        (["--loss.class-weights", "1", "2", "3"], "3 weights for 2 classes"),
        (["--loss.kind", "dice", "--loss.class-weights", "1", "2"], "class_weights"),
        (["--model.variant", "v1-100m", "--model.coordinates", "true"], "coordinates"),
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
    assert run_command(train, "--data", trained / "dataset", "--run", tmp_path / "run", *SMALL, *words) == 2
    (line,) = errors_of(capsys.readouterr().err)
    assert needle in line


def test_bad_data_gives_one_line(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(change: Callable[[Path], object], needle: str) -> None:
        raw = tmp_path / needle.replace(" ", "-")
        shutil.copytree(trained / "raw", raw)
        change(raw)
        assert run_command(prepare, "--data", raw, "--out", tmp_path / "d") == 2
        (line,) = errors_of(capsys.readouterr().err)
        assert needle in line

    def unknown_label(raw: Path) -> None:
        with rasterio.open(sorted(raw.rglob("*_LabelHand.tif"))[0], "r+") as file:
            values = file.read()
            values[0, 3, 4] = 7
            file.write(values)

    refused(lambda raw: next(raw.rglob("flood_valid_data.csv")).write_text(""), "is empty")
    refused(unknown_label, "holds 7")
    refused(lambda raw: [stripped(path, path) for path in raw.rglob("*_S2Hand.tif")], "--bands 2 3 4 9 12 13")
    refused(lambda raw: os.truncate(sorted(raw.rglob("*_S2Hand.tif"))[0], 4000), "S2Hand.tif")


def test_other_run_and_other_data_are_refused(
    trained: Path, tmp_path: Path, run_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    card_file = tmp_path / "run/checkpoints/step-000002/card.json"
    card = json.loads(card_file.read_text())
    card_file.write_text(json.dumps(card | {"task": "seaice"}))
    assert run_command(evaluate, "--run", tmp_path / "run", *CPU) == 2
    assert run_command(predict, "--run", tmp_path / "no", "--input", chips_of(trained)[0], "--output", tmp_path) == 2
    assert len(errors_of(capsys.readouterr().err)) == 2
    write_burn_sample(tmp_path / "raw", seed=1, size=64, training=6, validation=2)
    assert run_command(prepare, "--data", tmp_path / "raw", "--out", tmp_path / "d", "--format", "burn-scars") == 0
    assert run_command(evaluate, "--run", trained / "run", "--data", tmp_path / "d", *CPU) == 2
    assert "its classes are unburnt, burn scar" in errors_of(capsys.readouterr().err)[0]


@pytest.mark.parametrize("recipe", ["sample", "sen1floods11", "burn-scars"])
def test_recipes_are_complete_and_valid(recipe: str) -> None:
    text = (Path(train.__file__).parent / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    assert "floods-train" in "".join(text.splitlines()[:2])
    assert all(len(line) <= 126 for line in text.splitlines())
    assert TrainSettings.model_validate(yaml.safe_load(text)).training.steps > 100


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate", "predict", "import"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    module = published.__name__ if verb == "import" else f"floods_prithvi.{verb}"
    code = (
        "import sys\n"
        f"sys.argv = ['floods-{verb}', '--help']\n"
        f"from {module} import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert stopped.code == 0, stopped.code\n"
        "heavy = {'torch', 'rasterio', 'scipy', 'geopandas', 'segmentation_models_pytorch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout
