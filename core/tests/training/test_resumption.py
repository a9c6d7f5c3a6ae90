"""Killed at any moment, cut into shards or spread over a cluster: what is made has the bytes of an undisturbed run."""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geocore.cli.main import command

# A command that maps a scene with a network; a module of its own, because workers import it by name.
MAPPER = '''
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geocore.cli.main import command
from geocore.datasets.batch import VALID
from geocore.inference.blend import OverlapBlender
from geocore.device import DeviceContext
from geocore.storage.files import atomic_write_bytes
from geocore.inference.tiled import predict_tiles, run_chunks
from geocore.settings import WorkerSettings, operational
from geocore.jobs.runner import run_sharded, merging
from geocore.tiling.tiles import TileGrid

SHAPE = (30, 40)


class MapSettings(WorkerSettings):
    """Map a scene."""

    output: Path = operational(..., "folder")
    pause: float = operational(0.0, "time that a chunk takes at least, s")


@dataclass(frozen=True)
class MapChunk:
    settings: MapSettings

    def __call__(self, chunk, part):
        from geocore.raster.bands import Bands
        from geocore.raster.grid import Grid
        from geocore.raster.scene import ArrayReader, Layer, Scene

        part.mkdir()
        with open(self.settings.output / "calls.txt", "a") as calls:
            calls.write(f"{chunk.key} {os.getpid()}\\n")
        time.sleep(self.settings.pause)
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 4, 3, padding=1)
        image = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype("float32")
        source = ArrayReader(Layer("image", Bands.named("r", "g", "b"), "float32"), image)
        scene = Scene("s", Grid(*SHAPE), {"image": source})
        tiles = TileGrid(16, 6)
        rows = {}

        def on_rows(row, values):
            rows[row] = values["out"].numpy().copy()

        def collate(items):
            return torch.from_numpy(np.stack(items))

        def forward(batch):
            return {"out": network(batch).softmax(1), VALID: torch.ones(len(batch), 1, 16, 16, dtype=torch.bool)}

        predict_tiles(
            forward, scene, chunk, tiles, OverlapBlender(chunk, tiles, SHAPE, {"out": 4}, on_rows=on_rows),
            read=lambda scene, window: scene.read_layers(window)["image"].values,
            context=DeviceContext(torch.device("cpu")), batch_size=2,
        )
        np.save(part / "out.npy", np.concatenate([rows[row] for row in sorted(rows)], axis=1))


@run_sharded
def map_scene(settings):
    settings.output.mkdir(parents=True, exist_ok=True)
    parts = run_chunks(
        MapChunk(settings), SHAPE, settings.output / "parts", chunk_px=16, align=1, identity={"weights": "w"},
        workers=settings,
    )
    with merging(settings.output / "parts", [path for _, path in parts]):
        joined = b"".join((path / "out.npy").read_bytes() for _, path in parts)
        atomic_write_bytes(settings.output / "product.bin", joined)


def main():
    torch.set_num_threads(1)
    command(map_scene, MapSettings, prog="map-scene")


if __name__ == "__main__":
    # Workers must be able to import what they are sent.
    import scene_mapper

    scene_mapper.main()
'''


@pytest.fixture
def mapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "scene_mapper.py").write_text(MAPPER)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield importlib.import_module("scene_mapper")
    sys.modules.pop("scene_mapper", None)


def start(tmp_path: Path, output: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "code" / "scene_mapper.py"), "--output", str(output), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def whole(mapper: Any, tmp_path: Path) -> bytes:
    """The product of an undisturbed run in one process."""
    mapper.map_scene(mapper.MapSettings(output=tmp_path / "whole"))
    return (tmp_path / "whole" / "product.bin").read_bytes()


def mapped(output: Path) -> list[str]:
    """Regions in the order in which work on them began."""
    calls = output / "calls.txt"
    return [line.split()[0] for line in calls.read_text().splitlines()] if calls.exists() else []


def test_shards_one_after_the_other_give_the_product_of_one_run(
    mapper: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU with one thread."""
    output = tmp_path / "out"
    for shard in ("2/3", "1/3", "3/3"):
        assert not (output / "product.bin").exists()
        with pytest.raises(SystemExit) as left:
            command(mapper.map_scene, mapper.MapSettings, prog="map", argv=["--output", str(output), "--shard", shard])
        assert left.value.code == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and said[0].startswith("shard 2/3 has done its share; 4 of 6 are not there yet: r000000")
    assert "the same command without --shard" in said[1]
    assert (output / "product.bin").read_bytes() == whole(mapper, tmp_path)
    assert sorted(mapped(output)) == sorted(set(mapped(tmp_path / "whole")))


def test_shards_side_by_side_give_the_product_of_one_run(mapper: Any, tmp_path: Path) -> None:
    """On a CPU with one thread."""
    output = tmp_path / "out"
    shards = [start(tmp_path, output, "--shard", f"{index}/2", "--pause", "0.05") for index in (1, 2)]
    said = [shard.communicate(timeout=60) for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], said
    # At least the last to end sees all parts.
    assert sum("has done its share" in out for out, _ in said) <= 1
    assert (output / "product.bin").read_bytes() == whole(mapper, tmp_path)
    assert len(mapped(output)) == 6


# Many small tasks that write in several steps, so that kills fall into all of them. A file of its own, as workers
# import it by name, and without torch, so that it starts at once.
WRITER = """
import os
import random
import sys
import time
from functools import partial
from pathlib import Path

from geocore.jobs.runner import Job, run_jobs

COUNT = 150


def write(arguments, part, log, pause):
    with open(log, "a") as calls:
        calls.write(f"{arguments['value']}\\n")
    content = random.Random(arguments["value"])
    part.mkdir()
    for name in ("a.bin", "b.bin"):
        time.sleep(pause)
        (part / name).write_bytes(content.randbytes(2000))


if __name__ == "__main__":
    import part_writer

    folder, workers, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    work = partial(part_writer.write, log=str(folder) + ".calls", pause=pause)
    tasks = [Job(f"t{i:03d}", {"value": i}) for i in range(COUNT)]
    run_jobs(tasks, work, folder, identity={"weights": "w"}, workers=workers)
"""


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Everything but the time that each task took."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != ".done"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
@pytest.mark.parametrize(("workers", "kills"), [(0, 20), (2, 4)])
def test_a_process_killed_at_random_moments_leaves_what_the_next_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, kills: int
) -> None:
    (tmp_path / "part_writer.py").write_text(WRITER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    moments = random.Random(workers)

    def run(folder: Path, pause: float) -> subprocess.Popen[bytes]:
        words = [str(tmp_path / "part_writer.py"), str(folder), str(workers), str(pause)]
        return subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE)

    folder, log = tmp_path / "killed", tmp_path / "killed.calls"
    for _ in range(kills):
        known = log.stat().st_size if log.exists() else 0
        process = run(folder, 0.004)
        deadline = time.monotonic() + 60
        while (log.stat().st_size if log.exists() else 0) == known and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.06))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    for name in ("killed", "whole"):
        _, errors = run(tmp_path / name, 0).communicate(timeout=120)
        assert errors == b""
    assert bytes_in(folder) == bytes_in(tmp_path / "whole") and len(bytes_in(folder)) == 300
    assert not list((folder / ".attempts").iterdir())
    began = log.read_text().split()
    assert len(set(began)) == 150
    # A kill costs what its process, or each of its workers, was at.
    assert 150 < len(began) <= 150 + kills * max(workers, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_a_map_killed_on_the_way_goes_on_to_the_same_product(mapper: Any, tmp_path: Path) -> None:
    """On a CPU with one thread."""
    output = tmp_path / "out"
    process = start(tmp_path, output, "--pause", "0.2", "--workers", "2")
    wait_for(lambda: len(mapped(output)) >= 3)
    process.kill()
    process.communicate()
    assert not (output / "product.bin").exists()
    mapper.map_scene(mapper.MapSettings(output=output))
    assert (output / "product.bin").read_bytes() == whole(mapper, tmp_path)
    assert len(mapped(output)) <= 6 + 2


@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
def test_a_dask_worker_killed_half_way_costs_its_region_and_no_byte(
    mapper: Any, tmp_path: Path, start_cluster: Callable[..., tuple[str, list[subprocess.Popen[bytes]]]]
) -> None:
    """On a CPU with one thread."""
    scheduler, _ = start_cluster(tmp_path / "code", workers=2)
    output = tmp_path / "out"
    process = start(tmp_path, output, "--scheduler", scheduler, "--pause", "0.5")
    wait_for(lambda: len(mapped(output)) >= 3)
    victim = int((output / "calls.txt").read_text().split()[-1])
    assert victim != process.pid
    os.kill(victim, signal.SIGKILL)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert (output / "product.bin").read_bytes() == whole(mapper, tmp_path)
    assert len(mapped(output)) == 7 and len(set(mapped(output))) == 6
    assert not list((output / "parts" / ".attempts").iterdir())


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.01)
