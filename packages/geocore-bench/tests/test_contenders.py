"""Geocore's contenders do the work at small size, and agree with what needs no peer to compare with."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geocore_bench import __main__ as command
from geocore_bench import confusion, mapping_command, mapping_ours, medians, polygons, sampling, scenes, training
from geocore_bench.environments import OURS
from geocore_bench.gpu import covered
from geocore_bench.gpu import main as gpu_main
from geocore_bench.harness import Measured
from geocore_bench.mapping_ours import GeocoreMap, forward_alone, parts_alone
from geocore_bench.mapping_peers import plain_loop
from geocore_bench.maps import Details, Setting
from geocore_bench.marks import Marks
from geocore_bench.sampling import GeocoreWindows, rasterio_kept_open

SIZE = 700


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    scenes.make_cog(folder, SIZE)
    scenes.make_strips(folder, SIZE)
    return folder


def scene(data: Path, name: str) -> np.ndarray:
    with rasterio.open(data / name) as source:
        values: np.ndarray = source.read()
    return values


def test_a_scene_is_stored_in_both_forms(data: Path) -> None:
    cog, strips = scene(data, f"cog_{SIZE}.tif"), scene(data, f"lzw_strip_{SIZE}.tif")
    assert cog.dtype == np.uint16
    assert cog.shape == (6, SIZE, SIZE)
    assert np.array_equal(cog, strips)
    with rasterio.open(data / f"cog_{SIZE}.tif") as source:
        assert source.block_shapes[0] == (512, 512)
        assert source.compression.name == "deflate"
    with rasterio.open(data / f"lzw_strip_{SIZE}.tif") as source:
        assert source.block_shapes[0][1] == SIZE
        assert source.compression.name == "lzw"


@pytest.mark.parametrize("size", [SIZE - 100, 2 * SIZE + 50])
def test_a_big_scene_repeats_a_small_one(size: int, data: Path) -> None:
    scenes.make_big(data, size, SIZE)
    times = -(-size // SIZE)
    expected = np.tile(scene(data, f"cog_{SIZE}.tif") // 32 * 32, (1, times, times))[:, :size, :size]
    assert np.array_equal(scene(data, f"big_{size}.tif"), expected)


def test_a_sparse_scene_takes_no_disk(data: Path) -> None:
    path = scenes.make_sparse(data, 5000)
    assert path.stat().st_size < 10_000
    assert not scene(data, path.name).any()


def test_what_is_there_is_not_made_again(data: Path) -> None:
    path = scenes.make_cog(data, SIZE)
    before = path.stat().st_mtime_ns
    assert scenes.make_cog(data, SIZE).stat().st_mtime_ns == before


@pytest.mark.parametrize("cog", [False, True])
def test_geocore_and_the_plain_loop_map_the_same_classes(cog: bool, data: Path) -> None:
    setting = Setting(f"cog_{SIZE}.tif", threads=1, tile_px=256)
    ours, plain = GeocoreMap(cog=cog)(setting, data), plain_loop(setting, data)
    assert ours.details["class1"] == pytest.approx(plain.details["class1"], abs=1e-6)
    assert 0.2 < ours.details["class1"] < 0.8
    assert ours.details["tiles"] == 16
    assert ours.value > 0


def test_the_product_holds_the_class_of_every_pixel(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.tif"

    def keep(predict: Callable[[Path], Details], folder: Path) -> Measured:
        return Measured(1.0, {"seconds": 1.0, **predict(kept)})

    monkeypatch.setattr(mapping_ours, "mapped", keep)
    mapping_ours.GeocoreMap()(Setting(f"cog_{SIZE}.tif", threads=1, tile_px=256), data)
    expected = scene(data, f"cog_{SIZE}.tif")[:1] > 1500
    found = scene(tmp_path, "kept.tif")
    assert found.dtype == np.uint8
    # Float32 may fall on either side of the threshold itself.
    assert (found != expected).mean() < 1e-3
    with rasterio.open(kept) as product, rasterio.open(data / f"cog_{SIZE}.tif") as source:
        assert product.transform == source.transform
        assert product.crs == source.crs


def test_rows_are_written_by_whole_blocks() -> None:
    written: list[tuple[int, int]] = []
    blocks = mapping_ours._BlockRows(lambda rows, row: written.append((row, rows.shape[1])), 1200, 10)
    for row in range(0, 1200, 40):
        blocks.write(row, np.zeros((40, 10), np.uint8))
    assert written == [(0, 512), (512, 512), (1024, 176)]


@pytest.mark.slow
def test_the_command_maps_the_classes_of_the_bare_map(
    tmp_path: Path,
) -> None:
    """In an environment that has floods-prithvi; the suite of this package alone has not."""
    pytest.importorskip("floods_prithvi")
    scenes.make_cog(tmp_path, 320)
    mapping_command.train(tmp_path)
    setting = Setting("cog_320.tif", "floods", tile_px=96, overlap_px=32, threads=1)
    bare, whole = GeocoreMap()(setting, tmp_path), mapping_command.command_map(setting, tmp_path)
    assert whole.details["class1"] == bare.details["class1"]
    assert whole.details["polygons"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cog_320.tif", "floods_run", "samples"]


def test_without_the_command_there_is_a_word_and_no_figure(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(data / "python"))
    mapping_command.train(data)
    assert not (data / "floods_run").exists()
    with pytest.raises(ImportError, match="floods-predict is not installed"):
        mapping_command.command_map(Setting(f"cog_{SIZE}.tif", "floods"), data)


def test_a_map_leaves_nothing_behind(data: Path) -> None:
    before = sorted(data.iterdir())
    GeocoreMap()(Setting(f"cog_{SIZE}.tif", threads=1, tile_px=256), data)
    assert sorted(data.iterdir()) == before


def test_the_parts_add_up(data: Path) -> None:
    measured = parts_alone(Setting(f"cog_{SIZE}.tif", threads=2, tile_px=256), data)
    parts = [measured.details[f"{part}_cpu_s"] for part in ("decode", "cast", "model", "encode")]
    assert all(part > 0 for part in parts)
    assert measured.value == pytest.approx(2 * SIZE**2 / 1e6 / sum(parts))


def test_the_model_alone_has_a_rate(data: Path) -> None:
    measured = forward_alone(Setting(f"cog_{SIZE}.tif", threads=1, tile_px=64), data)
    assert measured.value == max(measured.details["threads_inside_mpx_s"], measured.details["threads_beside_mpx_s"])


@pytest.mark.parametrize("name", [f"cog_{SIZE}.tif", f"lzw_strip_{SIZE}.tif"])
@pytest.mark.parametrize(
    "contender",
    [GeocoreWindows(longer=1), GeocoreWindows(each=4), GeocoreWindows(cached=True), rasterio_kept_open],
    ids=["independent", "chunks", "decoded", "rasterio"],
)
def test_windows_come_as_the_loop_wants_them(contender: GeocoreWindows, name: str, data: Path) -> None:
    assert contender(sampling.Setting(name, 2), data).value > 0


def test_batches_of_another_type_do_not_count() -> None:
    import torch

    with pytest.raises(ValueError, match="not float32"):
        sampling.timed(itertools.repeat(torch.ones(16, 6, 256, 256, dtype=torch.int32)), 1)


def test_confusion_agrees_with_counting_by_hand(tmp_path: Path) -> None:
    setting = confusion.Setting(7, (2, 64, 64))
    ours, by_hand = (
        contender(setting, tmp_path) for contender in (confusion.geocore_confusion, confusion.numpy_bincount)
    )
    assert ours.details["mean_iou"] == pytest.approx(by_hand.details["mean_iou"], abs=1e-12)


def test_polygons_agree_with_rasterio(tmp_path: Path) -> None:
    setting = polygons.Setting(400, 60)
    ours, theirs = (contender(setting, tmp_path) for contender in (polygons.geocore_polygons, polygons.rasterio_shapes))
    assert ours.details["polygons"] == theirs.details["polygons"] > 30
    assert ours.details["area_px"] == theirs.details["area_px"] == ours.details["labelled_px"]


@pytest.mark.parametrize("channels_last", [False, True])
def test_loops_come_to_the_same_loss(channels_last: bool, tmp_path: Path) -> None:
    setting = training.Setting("empty", 16, 2, 2, 20, 1, channels_last)
    losses = [
        contender(setting, tmp_path).details["loss"]
        for contender in (training.geocore_fit, training.BareLoop(fused=True), training.BareLoop(fused=False))
    ]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)
    assert 0.3 < losses[0] < 1.5


def test_a_clock_counts_the_steps_between_its_marks() -> None:
    marks = Marks(2, 3)
    for _ in range(7):
        marks()
    measured = marks.measured()
    assert measured.value > 0
    assert measured.details["loss"] == 0.0


def test_medians_by_definition_are_those_of_the_dates_of_a_month(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "2019_31TCG_patch_00_00.nc"
    medians.make(path, 0)
    found = medians.definition(path)
    with h5py.File(path) as file:
        days, values = file["B03"]["time"][...], file["B03"]["B03"][:, 5, 7]
    march = (days >= 59) & (days < 90)
    assert march.sum() > 1
    assert found[2, 1, 5, 7] == np.median(values[march])
    assert found.shape == (12, 4, 366, 366)


def test_intervals_that_overlap_count_once() -> None:
    assert covered([(0.0, 2.0), (1.0, 3.0), (1.5, 1.7), (5.0, 6.0)]) == 4.0
    assert covered([]) == 0.0


def test_without_a_gpu_the_script_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu_main() == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_the_command_measures_and_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "environments", tmp_path / "out"
    root.mkdir()
    (root / OURS).symlink_to(sys.prefix, target_is_directory=True)
    monkeypatch.setattr(command, "PEERS", ())  # that is, none is built
    command.measure(["polygons"], root, tmp_path / "data", out, quick=True)
    records = [json.loads(line) for line in (tmp_path / "data" / "records.jsonl").read_text().splitlines()]
    assert [record["contender"] for record in records][:2] == [polygons.GEOCORE, polygons.RASTERIO]
    assert records[0]["value"] > 0
    assert "build the environment" in records[1]["skipped"]
    text = (out / "results.md").read_text()
    assert "no peer was measured" in text
    assert "## polygons: label raster" in text
    assert (out / "results.png").exists()


def test_the_command_names_a_benchmark_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["geocore-bench", "speed"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert "no benchmark speed" in capsys.readouterr().err


def test_the_command_asks_for_geocores_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["geocore-bench", "--environments", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert "no environment" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (subprocess.CalledProcessError(1, ["uv"]), "peers: its environment cannot be built"),
        (FileNotFoundError(2, "no such file", "uv"), "uv is not installed"),
    ],
)
def test_an_environment_that_cannot_be_built_ends_with_one_line(
    error: Exception, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(root: Path, environment: object) -> None:
        raise error

    monkeypatch.setattr(command.environments, "build", build)
    with pytest.raises(SystemExit, match=line):
        command.measure(["polygons"], tmp_path, tmp_path / "data", tmp_path / "out", quick=True)
