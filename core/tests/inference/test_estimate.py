"""Plans: what they promise is what mapping does."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from geocore.datasets.batch import VALID
from geocore.device import DeviceContext
from geocore.errors import SettingsError
from geocore.inference.blend import OverlapBlender
from geocore.inference.estimate import CostEstimate, estimate_scene, print_estimates, tell, time_tiles
from geocore.inference.tiled import predict_tiles
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.npy_store import OutputBand, StripWriter
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.settings import TilingSettings
from geocore.storage.memory import memory_limit
from geocore.tiling.tiles import Chunk, TileGrid, chunks, tiles_in

TILING = TileGrid(16, 4)
PLANES = [OutputBand("classes", "uint8"), OutputBand("shares", "float32", 3)]


def make_scene(rows: int = 75, cols: int = 60) -> Scene:
    image = np.random.default_rng(0).integers(0, 99, (4, rows, cols), np.uint16)
    layer = Layer("image", Bands.named("a", "b", "c", "d"), "uint16")
    return Scene("scene", Grid(rows, cols), {"image": ArrayReader(layer, image)})


@pytest.mark.parametrize("chunk_px", [1000, 32, 24])
def test_tiles_repeats_and_bytes_are_those_of_the_map(tmp_path: Path, chunk_px: int) -> None:
    scene, mapped, inside = make_scene(), Counter[Window](), 0

    def read(scene: Scene, window: Window) -> dict[str, np.ndarray]:
        mapped[window] += 1
        patches = scene.read_layers(window)
        return {"values": patches["image"].values, VALID: patches["image"].valid.all(axis=0)}

    for chunk in chunks(scene.grid.shape, chunk_px):
        with StripWriter(tmp_path / chunk.key, chunk.window, PLANES) as writer:
            blend = OverlapBlender(
                chunk, TILING, scene.grid.shape, {"out": 3},
                on_rows=lambda row, out, writer=writer: writer.write(row, {
                    "classes": out[VALID][0].numpy().astype(np.uint8), "shares": out["out"].numpy()
                }),
            )  # fmt: skip
            predict_tiles(
                lambda batch: {"out": batch["values"][:, :3].float(), VALID: batch[VALID]},
                scene, chunk, TILING, blend, read=read, context=DeviceContext(torch.device("cpu")),
            )  # fmt: skip
        inside += sum(file.stat().st_size - 128 for file in (tmp_path / chunk.key).iterdir())
    plan = estimate_scene(scene, TILING, chunk_px=chunk_px, align=1, channels=3, planes=PLANES)
    assert plan.chunks == len(chunks(scene.grid.shape, chunk_px))
    assert plan.tiles == mapped.total() and plan.repeated == mapped.total() - len(mapped)
    assert plan.part_bytes == inside == 75 * 60 * (1 + 12)
    assert plan.read_bytes >= 75 * 60 * 8 and (plan.chunks > 1 or plan.read_bytes == 75 * 60 * 8)
    assert (plan.repeated == 0) == (plan.chunks == 1)


def test_tiles_that_wait_for_an_accelerator_are_in_the_memory() -> None:
    scene = make_scene()
    few, many = (
        estimate_scene(scene, TILING, chunk_px=1000, align=1, channels=3, planes=PLANES, batch_size=size)
        for size in (4, 40)
    )
    # Two batches wait: 8 tiles, or 80, of 16 x 16 pixels with four bands of two bytes.
    assert many.memory_bytes - few.memory_bytes == 72 * 16 * 16 * 8


def test_impossible_jobs_are_explained() -> None:
    plan = CostEstimate(1, 10, 0, 10**9, 5 * 10**9, 3 * 10**9)
    assert plan.problems(free_bytes=10**10, memory_limit=10**10) == []
    (disk,) = plan.problems(free_bytes=10**9, memory_limit=10**10)
    assert disk.startswith("the parts take 5 GB and the disk of the output has 1 GB left")
    (memory,) = plan.problems(free_bytes=10**10, memory_limit=10**9)
    assert memory.startswith("the buffers of a chunk take 3 GB of 1 GB of memory")


def test_the_plan_is_one_line_with_units() -> None:
    text = str(CostEstimate(4, 1200, 36, 5_000_000_000, 123_000, 98_765_432, 7300.0))
    assert text == (
        "1200 tiles in 4 chunks (36 of them repeated at seams), 5 GB to decode, 123 kB of parts on disk, "
        "98.8 MB of buffers beside the model, about 2.0 h"
    )
    assert str(CostEstimate(1, 1, 0, 1, 1, 1, 80.0)).endswith("about 80 s")
    assert str(CostEstimate(1, 1, 0, 1, 1, 1, 600.0)).endswith("about 10 min")


@pytest.mark.parametrize("shape", [(75, 260), (400, 16), (5, 7)])
def test_a_trial_counts_what_a_tile_adds_and_not_what_a_chunk_costs(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    now = [0.0]
    monkeypatch.setattr("geocore.inference.estimate.time.perf_counter", lambda: now[0])
    tried: list[int] = []

    def map_one(chunk: Chunk, part: Path) -> None:
        assert chunk.window.intersection(Window(0, 0, *shape)) == chunk.window and not part.exists()
        part.mkdir()
        tried.append(len(tiles_in(chunk, TILING, shape)))
        now[0] += 100.0 * (len(tried) == 1) + 5.0 + 0.25 * tried[-1]

    assert time_tiles(map_one, shape, TILING) == pytest.approx(0.25 if max(shape) > 16 else 5.25)
    assert len(tried) == 3 and tried[0] == tried[1] <= tried[2]


def test_plans_are_told_and_an_impossible_job_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    possible = CostEstimate(1, 10, 0, 10**6, 10**6, 10**6)
    tell({"a": possible}, tmp_path / "not" / "there")
    assert capsys.readouterr().out == f"a: {possible}\n"
    with pytest.raises(SettingsError, match="b: the parts take 1e\\+06 TB and the disk of the output has"):
        tell({"a": possible, "b": dataclasses.replace(possible, part_bytes=10**18)}, tmp_path)


def test_plans_of_scenes_are_shown_with_the_time_of_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "geocore.inference.estimate.time_tiles", lambda map_one, shape, tiling: 10.0 * len(tiling.windows(shape))
    )
    scenes = {"small": make_scene(16, 16), "wide": make_scene(75, 60)}
    print_estimates(
        ((name, scene, lambda chunk, part: None) for name, scene in scenes.items()),
        TilingSettings(size=16, overlap=4), tmp_path / "maps", chunk_px=32, channels=3, planes=PLANES, batch_size=40,
    )  # fmt: skip
    expected = {
        name: estimate_scene(
            scene, TILING, chunk_px=32, align=1, channels=3, planes=PLANES, batch_size=40,
            seconds_per_tile=10.0 * len(TILING.windows(scene.grid.shape)),
        )
        for name, scene in scenes.items()
    }  # fmt: skip
    assert capsys.readouterr().out == "".join(f"{name}: {plan}\n" for name, plan in expected.items())
    assert not (tmp_path / "maps").exists()


def test_memory_of_this_machine_is_known() -> None:
    assert 2**28 < memory_limit() < 2**50
