"""What is called from a program or a notebook leaves the process as it was; a context of a command takes it."""

import logging
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from rasterio.env import get_gdal_config
from rasterio.transform import from_origin
from torch import nn

from geocore.datasets.loader import Batches, stack
from geocore.device import DeviceContext, device_context, keep_freed_memory, seeded
from geocore.errors import DeviceError
from geocore.inference.tiled import predict_tiles
from geocore.interruptions import Stopped
from geocore.raster.block_cache import CACHE_BYTES
from geocore.raster.geotiff import open_raster
from geocore.raster.grid import Window
from geocore.settings import DeviceSettings, Settings, TrainingSettings
from geocore.terminal import progress, quiet
from geocore.tiling.samplers import GridSampler
from geocore.tiling.tiles import Chunk, TileGrid
from geocore.training.checkpoint import load_checkpoint
from geocore.training.fit import fit
from geocore.training.run import Run

CPU = DeviceSettings(device="cpu")


def draws():
    """Numbers of the generators of this process, which stay where they are."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    numbers = [random.random(), float(np.random.random()), float(torch.rand(()))]  # noqa: NPY002
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    return numbers


def process():
    """What of the process belongs to all that runs in it."""
    return {
        "threads": torch.get_num_threads(),
        "threads of new threads": ThreadPoolExecutor(1).submit(torch.get_num_threads).result(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "cache": get_gdal_config("GDAL_CACHEMAX"),
    }


# --- training


def network():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 3, 1))


def read(draw):
    generator = torch.Generator().manual_seed(draw.sample)
    image = torch.randn(2, 6, 6, generator=generator)
    return {"image": image, "label": (image[0] > 0).to(torch.int64)}


def batches():
    return Batches(GridSampler([[None]] * 8, seed=1), read, batch_size=4, collate=stack)


def loss(model, batch):
    lost = nn.functional.cross_entropy(model(batch["image"]), batch["label"], reduction="sum")
    return {"classes": (lost, torch.tensor(float(batch["label"].numel())))}


SHORT = TrainingSettings(steps=6, batch_size=4, validate_every=2, log_every=3, seed=7)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return network()


def test_fit_needs_no_more_than_a_model_batches_and_a_loss(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fit(model, batches(), loss, training=SHORT)
    assert (result.steps, result.best_step, result.best_score, result.scores) == (6, 6, None, {})
    assert [line["step"] for line in result.history] == [3, 6] and result.history[1]["loss"] < result.history[0]["loss"]
    assert result.best_state.keys() == model.state_dict().keys()
    assert all(torch.equal(result.best_state[name], value) for name, value in model.state_dict().items())
    assert not list(tmp_path.iterdir())


def test_fit_changes_nothing_of_the_process(model):
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    before, numbers, within = process(), draws(), []

    def step(model, batch):
        within.append(process())
        return loss(model, batch)

    fit(model, batches(), step, lambda model: {"score": float(torch.rand(()))}, training=SHORT, progress=False)
    assert within == [before] * 6 and process() == before and draws() == numbers
    with pytest.raises(ZeroDivisionError):
        fit(model, batches(), lambda model, batch: 1 / 0, training=SHORT)
    assert process() == before and draws() == numbers


def test_fit_in_a_context_of_a_command_takes_the_process_and_trains_the_same(tmp_path):
    class Example(Settings):
        training: TrainingSettings = SHORT

    states, within = [], []

    def step(model, batch):
        within.append(signal.getsignal(signal.SIGTERM))
        return loss(model, batch)

    for dedicated in (True, False):
        torch.manual_seed(0)
        model = network()
        context = DeviceContext(torch.device("cpu"), dedicated=dedicated)
        with Run.open(tmp_path / str(dedicated), settings=Example(), data_hash="d", task="t") as run:
            result = fit(model, batches(), step, training=SHORT, context=context, run=run)
        assert result.best_state is None and result.history == []
        assert run.summary["best_step"] == 6 and run.summary["primary"] is None
        states.append(load_checkpoint(tmp_path / str(dedicated) / "checkpoints", "best").model())
        left = draws()
        states[-1]["numbers"] = torch.tensor(left)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0] if name != "numbers")
    assert not torch.equal(states[0]["numbers"], states[1]["numbers"])
    assert [handler != signal.getsignal(signal.SIGTERM) for handler in within] == [True] * 6 + [False] * 6


def test_the_best_weights_are_those_that_validation_saw(model):
    seen = []

    def validate(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"score": [0.1, 0.9, 0.2][len(seen) - 1], "other": 5.0}

    training = SHORT.model_copy(update={"ema_decay": 0.9})
    result = fit(model, batches(), loss, validate, training=training, progress=False)
    assert (result.best_step, result.best_score) == (4, 0.9)
    assert all(torch.equal(result.best_state[name], value) for name, value in seen[1].items())
    assert not torch.equal(result.best_state["0.weight"], model.state_dict()["0.weight"])
    assert [line["step"] for line in result.history] == [2, 3, 4, 6, 6]
    assert result.history[0] == {"step": 2, "validation_score": 0.1, "validation_other": 5.0}


def test_ctrl_c_ends_a_call_as_python_does_and_a_command_once_the_step_is_done(model, monkeypatch):
    monkeypatch.setattr("geocore.training.fit.REPEAT_S", 60.0)
    before, done = signal.getsignal(signal.SIGINT), []

    def step(model, batch):
        os.kill(os.getpid(), signal.SIGINT)
        done.append(batch)
        return loss(model, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(model, batches(), step, training=SHORT)
    assert done == []
    with pytest.raises(Stopped), device_context(CPU) as context:
        fit(model, batches(), step, training=SHORT, context=context)
    assert len(done) == 1 and signal.getsignal(signal.SIGINT) is before


def test_patience_asks_for_a_validation_and_validate_for_the_primary_score(model):
    with pytest.raises(ValueError, match=r"training\.patience = 2 without validate"):
        fit(model, batches(), loss, training=TrainingSettings(patience=2))
    for scores, primary in (({}, None), ({"a": 1.0}, "b")):
        with pytest.raises(ValueError, match=r"validate\(\) returned .*, without"):
            fit(model, batches(), loss, lambda model, s=scores: s, training=SHORT, primary=primary, progress=False)


def test_fit_is_silent_where_no_progress_is_wanted(model, capfd, caplog, monkeypatch):
    monkeypatch.setattr("geocore.terminal.PLAIN_LINE_SECONDS", 0.0)

    def validate(model):
        for _ in progress(2, "looking"):
            pass
        return {"score": float("nan")}

    with caplog.at_level(logging.INFO):
        fit(model, batches(), loss, validate, training=SHORT, progress=False)
        assert capfd.readouterr() == ("", "") and not caplog.records
        fit(model, batches(), loss, validate, training=SHORT)
        assert "training: 6/6" in (told := capfd.readouterr().err) and "looking: 2/2" in told
        assert ["score was no number" in record.getMessage() for record in caplog.records] == [True]


# --- mapping


class Counted:
    """A reducer that only counts its tiles."""

    def __init__(self):
        self.tiles = 0

    def add(self, row_index, col_index, window, output):
        self.tiles += 1

    def finish(self):
        return self.tiles


@pytest.fixture
def scene(tmp_path):
    """12 x 16 tiles of 32 pixels."""
    options = {"count": 2, "height": 384, "width": 512, "dtype": "uint16", "tiled": True, "blockxsize": 64}
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", blockysize=64, crs="EPSG:32633", **options,
        transform=from_origin(5e5, 6e6, 10, 10),
    ) as target:  # fmt: skip
        target.write(np.ones((2, 384, 512), np.uint16))
    with open_raster(tmp_path / "scene.tif") as opened:
        yield opened


def predict(scene, forward, context):
    return predict_tiles(
        forward, scene, Chunk("all", Window(0, 0, *scene.grid.shape)), TileGrid(32), Counted(),
        read=lambda scene, window: scene.read(window).values, context=context,
    )  # fmt: skip


@pytest.fixture
def told(monkeypatch):
    """Calls of the C library's mallopt."""
    calls = []
    keep_freed_memory.cache_clear()
    monkeypatch.setattr(
        "geocore.device.ctypes.CDLL",
        lambda name: SimpleNamespace(mallopt=lambda parameter, value: calls.append((parameter, value))),
    )
    yield calls
    keep_freed_memory.cache_clear()


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_a_map_by_hand_changes_nothing_of_the_process(scene, told, three_threads, capfd):
    before, numbers, within, threads = process(), draws(), [], set()

    def forward(batch):
        within.append(process())
        threads.add(threading.get_ident())
        return [None] * len(batch)

    assert predict(scene, forward, DeviceContext.on("cpu")) == len(within) == 192
    assert all(seen == before for seen in within) and threads == {threading.get_ident()}
    assert process() == before and draws() == numbers and told == []
    with pytest.raises(ZeroDivisionError):
        predict(scene, lambda batch: 1 / 0, DeviceContext.on("cpu"))
    assert process() == before


@pytest.mark.parametrize("outer", [{}, {"GDAL_CACHEMAX": 99_000_000}, {"GDAL_NUM_THREADS": 1}])
def test_a_map_in_a_context_of_a_command_takes_the_process_and_gives_it_back(scene, told, three_threads, outer):
    within, threads = [], set()

    def forward(batch):
        within.append((torch.get_num_threads(), get_gdal_config("GDAL_CACHEMAX")))
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return [None] * len(batch)

    with rasterio.Env(**outer):
        before = process()
        with device_context(CPU) as context:
            assert process() == before, "only mapping takes it"
            assert predict(scene, forward, context) == 192
            assert process() == before
            with pytest.raises(ZeroDivisionError):
                predict(scene, lambda batch: 1 / 0, context)
        assert process() == before
    assert set(within) == {(1, CACHE_BYTES)} and len(threads) == 3
    assert sorted(told) == [(-8, 1), (-4, 0), (-1, 2**30)]


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_two_maps_at_once_do_not_restore_each_others_values(scene, told, three_threads, first_ends_first):
    before, begun, ends = process(), [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]
    seen = [set(), set()]

    def forward(number, batch):
        begun[number].set()
        assert ends[number].wait(30)
        seen[number].add(get_gdal_config("GDAL_CACHEMAX"))
        return [None] * len(batch)

    with device_context(CPU) as context, ThreadPoolExecutor(2) as pool:
        maps = []
        for number in range(2):
            maps.append(pool.submit(predict, scene, partial(forward, number), context))
            assert begun[number].wait(30)
        for number in (0, 1) if first_ends_first else (1, 0):
            ends[number].set()
            assert maps[number].result(30) == 192
        assert process() == before
    assert process() == before and seen[0] == {CACHE_BYTES}


def test_a_map_is_the_same_in_both_but_for_the_rounding_of_kernels(scene, three_threads):
    torch.manual_seed(0)
    network, maps = nn.Conv2d(2, 3, 3), []
    for context in (DeviceContext.on("cpu"), DeviceContext(torch.device("cpu"), dedicated=True)):
        outputs = []
        predict(scene, lambda batch, kept=outputs: kept.append(network(batch.float()).sum()) or [None], context)
        maps.append(sorted(float(output) for output in outputs))
    assert maps[0] == pytest.approx(maps[1], rel=1e-6)


def test_what_makes_its_own_context_has_the_process_where_it_is_dedicated():
    with device_context(CPU):
        with device_context(CPU):
            assert DeviceContext.on("cpu").dedicated
        assert DeviceContext.on("cpu").dedicated
    assert not DeviceContext.on("cpu").dedicated


def test_a_context_by_hand_is_refused_what_is_not_there():
    assert DeviceContext.on(torch.device("meta"), batch_size=7) == DeviceContext(torch.device("meta"), batch_size=7)
    for device, precision in (("tpu", "float32"), ("cpu", "float16")):
        with pytest.raises(DeviceError, match="must be"):
            DeviceContext.on(device, precision=precision)


# --- telling


def test_a_quiet_block_within_a_loud_one_is_quiet_and_the_reverse_too(capfd, monkeypatch):
    monkeypatch.setattr("geocore.terminal.PLAIN_LINE_SECONDS", 0.0)
    with quiet():
        with quiet(False):
            list(progress(1, "one"))
        list(progress(1, "two"))
    with quiet(False):
        with quiet():
            list(progress(1, "three"))
        list(progress(1, "four"))
    assert {line.split(":")[0] for line in capfd.readouterr().err.splitlines()} == {"four"}


def test_seeds_that_are_none_are_refused():
    numbers = draws()
    for dedicated in (False, True):
        with pytest.raises(ValueError), seeded(-1, DeviceContext(torch.device("cpu"), dedicated=dedicated)):
            pass
        assert draws() == numbers
