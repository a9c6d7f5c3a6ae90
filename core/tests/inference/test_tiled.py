"""Inference: exact, repeatable to the bit, bounded in memory, and invalid pixels stay where they are."""

from __future__ import annotations

import importlib
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geocore.datasets.batch import VALID
from geocore.device import DeviceContext
from geocore.errors import DataError, DeviceError, SceneError
from geocore.inference.blend import OverlapBlender
from geocore.inference.outputs import argmax_labels
from geocore.inference.tiled import TILES_AHEAD, predict_tiles, run_chunks
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Patch, Scene
from geocore.tiling.tiles import Chunk, TileGrid, chunks, tiles_in

CONTEXT = DeviceContext(torch.device("cpu"))
ULP = np.finfo(np.float32).eps


def make_scene(values: np.ndarray, ratio: int = 1, shape: tuple[int, int] | None = None) -> Scene:
    layer = Layer("image", Bands.named(*(f"b{i}" for i in range(len(values)))), str(values.dtype), ratio)
    rows, cols = shape or values.shape[-2:]
    return Scene("scene", Grid(rows, cols), {"image": ArrayReader(layer, values)})


def read_tile(scene: Scene, window: Window) -> dict[str, np.ndarray]:
    patches = scene.read_layers(window)
    return {"values": patches["image"].values, VALID: patches["image"].valid.all(axis=0)}


def identity(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"out": batch["values"].float(), VALID: batch[VALID]}


def dense(
    forward: Callable[[Any], dict[str, Tensor]],
    scene: Scene,
    tiling: TileGrid,
    *,
    channels: int,
    chunk_px: int = 9999,
    batch_size: int | None = 3,
    order: int = 1,
    read: Callable[[Scene, Window], Any] = read_tile,
    shape: tuple[int, int] | None = None,
    scale: int = 1,
    output_shape: tuple[int, int] | None = None,
    context: DeviceContext = CONTEXT,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict all chunks in the given order; returns values (channel, row, col) and valid (row, col)."""
    shape = shape or scene.grid.shape
    out_shape = output_shape or (shape[0] * scale, shape[1] * scale)
    values, valid = np.full((channels, *out_shape), np.nan, np.float32), np.zeros(out_shape, bool)
    for chunk in chunks(shape, chunk_px, tiling.align)[::order]:

        def on_rows(row: int, out: dict[str, Tensor]) -> None:
            place = (slice(row, row + out["out"].shape[1]), slice(blend.window.col, blend.window.col_stop))
            values[(slice(None), *place)] = out["out"].numpy()
            valid[place] = out[VALID][0].numpy()

        blend = OverlapBlender(
            chunk, tiling, shape, {"out": channels}, on_rows=on_rows, scale=scale, output_shape=output_shape
        )
        predict_tiles(
            forward, scene, chunk, tiling, blend,
            read=read, context=context, batch_size=batch_size, shape=shape,
        )  # fmt: skip
    return values, valid


@contextmanager
def cores(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Network(nn.Module):
    """Two convolutions, receptive field 5 x 5, 4 classes; invalid pixels are 0 in what it sees."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(bands, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        image = batch["values"].float().masked_fill(~batch[VALID][:, None], 0.0)
        return {"out": self.layers(image).softmax(1), VALID: batch[VALID]}


def test_tiles_are_counted_while_a_chunk_is_mapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("geocore.terminal.PLAIN_LINE_SECONDS", 0.0)
    dense(identity, make_scene(np.ones((1, 8, 12), np.float32)), TileGrid(4, 0), channels=1, batch_size=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines[:6]] == [f"tiles: {done}/6" for done in range(1, 7)]


def test_identity_over_random_scenes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(25):
        size = int(rng.integers(2, 12))
        tiling = TileGrid(size, int(rng.integers(0, size)))
        shape = tuple(int(n) for n in rng.integers(1, 3 * size + 1, 2))
        image = rng.standard_normal((2, *shape), np.float32)
        image[:, rng.random(shape) < 0.1] = np.nan
        expected = np.isfinite(image[0])
        values, valid = dense(
            identity, make_scene(image), tiling,
            channels=2, chunk_px=int(rng.integers(3, 3 * size + 3)), batch_size=int(rng.integers(1, 6)),
        )  # fmt: skip
        assert np.array_equal(valid, expected)
        error = np.abs(values - image)[:, expected]
        assert (error <= 8 * ULP * np.abs(image[:, expected])).all()


def test_finer_output_from_a_coarser_working_grid() -> None:
    # Working pixels of 5 reference pixels, output at the reference grid, which ends inside the last working pixel.
    ratio, reference = 5, (63, 41)
    coarse = np.random.default_rng(0).standard_normal((1, 13, 9), np.float32)
    scene = make_scene(coarse, ratio, reference)

    def read(scene: Scene, window: Window) -> dict[str, np.ndarray]:
        return read_tile(scene, window.finer(ratio))

    def nearest(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: batch[key].reshape(len(batch[key]), -1, 4, 4).repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)
            for name, key in (("out", "values"), (VALID, VALID))
        }

    values, valid = dense(
        nearest,
        scene,
        TileGrid(4, 1),
        channels=1,
        chunk_px=6,
        read=read,
        shape=(13, 9),
        scale=ratio,
        output_shape=reference,
    )
    expected = coarse.repeat(ratio, 1).repeat(ratio, 2)[:, :63, :41]
    assert valid.all() and (np.abs(values - expected) <= 8 * ULP * np.abs(expected)).all()


def test_bfloat16_is_blended_in_float32() -> None:
    image = np.random.default_rng(0).standard_normal((3, 24, 24), np.float32)
    exact, _ = dense(Network(3), make_scene(image), TileGrid(16, 8), channels=4)
    rounded, valid = dense(
        Network(3),
        make_scene(image),
        TileGrid(16, 8),
        channels=4,
        context=DeviceContext(torch.device("cpu"), precision="bfloat16"),
    )
    assert valid.all() and 1e-6 < np.abs(rounded - exact).max() < 0.02


def test_every_batch_is_full_and_every_tile_comes_once() -> None:
    sizes: list[int] = []
    added: list[tuple[int, int, Window, object]] = []

    class Collector:
        def add(self, row: int, col: int, window: Window, output: object) -> None:
            added.append((row, col, window, output))

        def finish(self) -> int:
            return len(added)

    def objects(batch: dict[str, Tensor]) -> list[dict[str, float]]:
        sizes.append(len(batch["values"]))
        return [{"first": float(values[0, 0, 0])} for values in batch["values"]]

    image = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    chunk, tiling = chunks((10, 10), 99)[0], TileGrid(4)
    count = predict_tiles(
        objects, make_scene(image), chunk, tiling, Collector(),
        read=read_tile, context=CONTEXT, batch_size=4,
    )  # fmt: skip
    assert sizes == [4, 4, 4] and count == 9
    assert [entry[:3] for entry in added] == tiles_in(chunk, tiling, (10, 10))
    assert [entry[3] for entry in added] == [{"first": image[0, w.row, w.col]} for _, _, w, _ in added]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bit_equal_for_any_number_of_cores(precision: str) -> None:
    """On the CPU, batches of one tile, one chunk."""
    image = np.random.default_rng(4).standard_normal((3, 90, 70), np.float32)
    context = DeviceContext(torch.device("cpu"), precision=precision, dedicated=True)
    results = []
    for count in (1, 2, 3, 8):
        with cores(count):
            values, valid = dense(
                Network(3), make_scene(image), TileGrid(16, 6), channels=4, batch_size=1, context=context
            )
            assert torch.get_num_threads() == count
        assert valid.all()
        results.append(values.tobytes())
    assert len(set(results)) == 1


def test_a_cpu_takes_tiles_one_by_one() -> None:
    sizes: list[int] = []

    def forward(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        sizes.append(len(batch["values"]))
        return identity(batch)

    image = np.ones((1, 20, 20), np.float32)
    dense(forward, make_scene(image), TileGrid(8), channels=1, batch_size=None)
    assert sizes == [1] * 9


def test_an_accelerator_takes_as_many_tiles_as_its_place_says() -> None:
    """On a device that computes nothing: what the model returns lies on the CPU."""
    context, sizes = DeviceContext(torch.device("meta"), batch_size=4), []

    def forward(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        assert batch["values"].device.type == "meta"
        sizes.append(len(batch["values"]))
        return {"out": torch.zeros(sizes[-1], 1, 8, 8), VALID: torch.ones(sizes[-1], 8, 8, dtype=torch.bool)}

    scene = make_scene(np.ones((1, 20, 20), np.float32))
    dense(forward, scene, TileGrid(8), channels=1, batch_size=None, context=context)
    assert sizes == [4, 4, 4], "nine tiles, the last batch filled up"
    dense(forward, scene, TileGrid(8), channels=1, batch_size=9, context=context)
    assert sizes[3:] == [9], "the argument goes before"


@pytest.mark.parametrize("batch_size", [1, 3])
def test_images_reach_the_model_in_the_memory_format_of_the_place(batch_size: int) -> None:
    image = np.random.default_rng(5).standard_normal((3, 40, 30), np.float32)
    maps = []
    for channels_last in (False, True):
        context = DeviceContext(torch.device("cpu"), channels_last=channels_last)
        network, seen = context.prepare(Network(3)), []
        network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]["values"]))  # type: ignore[misc]
        values, _ = dense(
            network, make_scene(image), TileGrid(16, 6), channels=4, batch_size=batch_size, context=context
        )
        maps.append(values)
        assert {given.is_contiguous(memory_format=torch.channels_last) for given in seen} == {channels_last}
        weight = network.layers[0].weight
        assert isinstance(weight, Tensor) and weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    # Other kernels, which round otherwise: measured 9e-8 of probabilities.
    assert np.abs(maps[0] - maps[1]).max() < 1e-6


MAPPER = '''
import numpy as np, torch
from geocore.inference.blend import VALID, OverlapBlender
from geocore.inference.outputs import argmax_labels
from geocore.device import DeviceContext
from geocore.inference.tiled import predict_tiles
from geocore.raster.npy_store import OutputBand, StripWriter
from geocore.tiling.tiles import TileGrid

TILING, SHAPE = TileGrid(16, 6), (70, 61)

class MapOne:
    """What a task's picklable map of one chunk looks like."""
    def __init__(self, helpers, seed):
        self.helpers, self.seed = helpers, seed

    def __call__(self, chunk, part):
        torch.set_num_threads(1)
        scene, forward, read = self.helpers.parts(self.seed)
        blend = OverlapBlender(chunk, TILING, SHAPE, {"out": 4}, on_rows=lambda row, out: writer.write(
            row, {"prob": out["out"].numpy(), "classes": argmax_labels(out["out"]).numpy()}))
        bands = [OutputBand("prob", "float32", 4), OutputBand("classes", "uint8")]
        with StripWriter(part, blend.window, bands) as writer:
            predict_tiles(forward, scene, chunk, TILING, blend, read=read,
                       context=DeviceContext(torch.device("cpu")), batch_size=3)

class Helpers:
    def parts(self, seed):
        from geocore.raster.bands import Bands
        from geocore.raster.grid import Grid
        from geocore.raster.scene import ArrayReader, Layer, Scene
        image = np.random.default_rng(seed).standard_normal((3, *SHAPE)).astype("float32")
        layer = Layer("image", Bands.named("r", "g", "b"), "float32")
        scene = Scene("s", Grid(*SHAPE), {"image": ArrayReader(layer, image)})
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3, padding=1))
        def read(scene, window):
            patches = scene.read_layers(window)
            return {"values": patches["image"].values, VALID: patches["image"].valid.all(axis=0)}
        def forward(batch):
            return {"out": net(batch["values"]).softmax(1), VALID: batch[VALID]}
        return scene, forward, read
'''


def test_bit_equal_for_any_workers_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A module of its own: the workers are new processes, which must be able to import what they run.
    (tmp_path / "chunk_mapper.py").write_text(MAPPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    mapper = importlib.import_module("chunk_mapper")
    try:
        work = mapper.MapOne(mapper.Helpers(), 5)

        def run(folder: str, workers: int) -> dict[str, bytes]:
            parts = run_chunks(
                work, mapper.SHAPE, tmp_path / folder, chunk_px=36, align=1, identity={"weights": "w"}, workers=workers
            )
            assert len(parts) == 4
            return {f"{chunk.key}/{f.name}": f.read_bytes() for chunk, part in parts for f in sorted(part.iterdir())}

        serial = run("serial", 0)
        assert len(serial) == 8 and run("processes", 2) == serial
        by_hand: dict[str, bytes] = {}
        for chunk in reversed(chunks(mapper.SHAPE, 36)):
            work(chunk, tmp_path / "reversed" / chunk.key)
            for file in (tmp_path / "reversed" / chunk.key).iterdir():
                by_hand[f"{chunk.key}/{file.name}"] = file.read_bytes()
        assert by_hand == serial
    finally:
        sys.modules.pop("chunk_mapper", None)


def test_failed_chunks_are_named_and_the_rest_kept(tmp_path: Path) -> None:
    broken = {"r000000-c000008"}
    done: list[str] = []

    def map_one(chunk: Chunk, part: Path) -> None:
        if chunk.key in broken:
            raise SceneError("tile unreadable")
        done.append(chunk.key)
        part.write_text(chunk.key)

    def run() -> list[tuple[Chunk, Path]]:
        return run_chunks(map_one, (8, 24), tmp_path, chunk_px=8, align=1, identity={})

    with pytest.raises(SceneError, match=r"1 of 3 chunks failed, the first r000000-c000008: tile unreadable"):
        run()
    assert done == ["r000000-c000000", "r000000-c000016"]
    broken.clear()
    parts = run()
    assert done[2:] == ["r000000-c000008"]
    assert [path.read_text() for _, path in parts] == [chunk.key for chunk, _ in parts]


class EndlessSource:
    """Pixels computed from their position, so that a scene of any height takes no memory."""

    def __init__(self, rows: int, cols: int) -> None:
        self.layer = Layer("image", Bands.named("a", "b"), "uint16")
        self.shape = (rows, cols)

    def read(self, window: Window) -> Patch:
        rows, cols = np.ogrid[window.row : window.row_stop, window.col : window.col_stop]
        plane = ((rows * 7 + cols) % 1000).astype(np.uint16)
        return Patch(np.stack([plane, plane]), np.ones((1, *window.shape), bool))

    def close(self) -> None:
        pass


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_height() -> None:
    channels = 8
    wide = torch.nn.Conv2d(2, channels, 1)

    def peak(rows: int) -> tuple[int, int]:
        """Peak of traced host arrays and of resident memory (torch's own are not traced), bytes."""
        cols, tiling = 256, TileGrid(64, 16)
        scene = Scene("tall", Grid(rows, cols), {"image": EndlessSource(rows, cols)})
        resident = [0]
        rows_seen = 0

        def on_rows(row: int, out: dict[str, Tensor]) -> None:
            nonlocal rows_seen
            rows_seen += len(argmax_labels(out["out"]))
            resident.append(resident_bytes())

        chunk = chunks((rows, cols), 10**6)[0]
        blend = OverlapBlender(chunk, tiling, (rows, cols), {"out": channels}, on_rows=on_rows)
        tracemalloc.start()
        predict_tiles(
            lambda batch: {"out": wide(batch["values"].float()), VALID: batch[VALID]}, scene, chunk, tiling, blend,
            read=read_tile, context=CONTEXT, batch_size=4,
        )  # fmt: skip
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows_seen == rows
        return traced, max(resident)

    peak(512)  # the first run also loads kernels
    low, high = peak(512), peak(6144)
    # The blended scene alone would take 5632 x 256 x 8 x 4 = 46 MB more, its inputs 6 MB.
    assert high[0] - low[0] < 1_000_000
    assert high[1] - low[1] < 12_000_000


def test_invalid_pixels_reach_no_valid_output() -> None:
    rng = np.random.default_rng(1)
    image = rng.standard_normal((3, 40, 33), np.float32)
    hole = np.zeros((40, 33), bool)
    hole[18:25, 10:17] = True
    hole[rng.random(hole.shape) < 0.02] = True
    poisoned = image.copy()
    poisoned[:, hole] = np.nan
    values, valid = dense(Network(3), make_scene(poisoned), TileGrid(16, 8), channels=4)
    assert np.array_equal(valid, ~hole) and np.isfinite(values).all() and (values[:, hole] == 0).all()
    # Nothing changes further from a hole than the receptive field reaches; the hole is 0 to the model either way.
    reach = np.zeros_like(hole)
    for row, col in np.argwhere(hole):
        reach[max(row - 2, 0) : row + 3, max(col - 2, 0) : col + 3] = True
    whole, _ = dense(Network(3), make_scene(image), TileGrid(16, 8), channels=4)
    assert np.array_equal(values[:, ~reach], whole[:, ~reach]) and not np.array_equal(values, whole)


def test_a_model_that_lets_nan_through_is_stopped() -> None:
    image = np.ones((1, 20, 20), np.float32)
    image[0, 9, 9] = np.nan
    blur = nn.Conv2d(1, 1, 3, padding=1)
    with pytest.raises(DataError, match="'out' is not finite at 8 valid pixels"):
        dense(lambda b: {"out": blur(b["values"]), VALID: b[VALID]}, make_scene(image), TileGrid(20), channels=1)


def test_reading_runs_no_further_than_promised_ahead_of_the_model() -> None:
    reads: list[Window] = []
    ahead: list[int] = []

    def read(scene: Scene, window: Window) -> dict[str, np.ndarray]:
        reads.append(window)
        return read_tile(scene, window)

    def slow(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        time.sleep(0.02)
        ahead.append(len(reads) - 2 * len(ahead))
        return identity(batch)

    with cores(2):
        dense(slow, make_scene(np.ones((1, 80, 80), np.float32)), TileGrid(8), channels=1, batch_size=2, read=read)
    # Waiting, in the making and with the two threads, which have two more in reserve.
    assert len(reads) == 100 and 2 < max(ahead) <= TILES_AHEAD + 2 * 6


@pytest.mark.parametrize("where", ["read", "forward", "emit"])
def test_errors_end_the_chunk_and_its_thread(where: str) -> None:
    before = threading.active_count()
    calls = {"read": 0, "forward": 0, "emit": 0}

    def count(name: str) -> None:
        calls[name] += 1
        if name == where and calls[name] == 3:
            raise SceneError(f"{name} broke")

    def read(scene: Scene, window: Window) -> dict[str, np.ndarray]:
        count("read")
        return read_tile(scene, window)

    def forward(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        count("forward")
        return identity(batch)

    scene, chunk, tiling = make_scene(np.ones((1, 80, 16), np.float32)), Chunk("r", Window(0, 0, 80, 16)), TileGrid(8)
    blend = OverlapBlender(chunk, tiling, (80, 16), {"out": 1}, on_rows=lambda row, out: count("emit"))
    with pytest.raises(SceneError, match=f"{where} broke"):
        predict_tiles(forward, scene, chunk, tiling, blend, read=read, context=CONTEXT, batch_size=2)
    assert threading.active_count() == before


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    sizes: list[int] = []

    def forward(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        sizes.append(len(batch["values"]))
        if sizes[-1] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return identity(batch)

    image = np.random.default_rng(0).standard_normal((1, 30, 30), np.float32)
    limit = 2
    values, valid = dense(forward, make_scene(image), TileGrid(10), channels=1, batch_size=5)
    assert np.array_equal(values, image) and valid.all()
    # Nine tiles: batches of 5 and 4, in pairs, the last pair of the first batch padded.
    assert sizes == [5, 2, 2, 2, 2, 2]
    limit = 0
    with pytest.raises(DeviceError, match="one tile of 10 pixels does not fit the memory of cpu"):
        dense(forward, make_scene(image), TileGrid(10), channels=1, batch_size=5)

    def broken(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        dense(broken, make_scene(image), TileGrid(10), channels=1)
