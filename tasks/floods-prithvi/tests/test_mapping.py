"""From tiles to class, probability and confidence: blending, masks, dates and places, and counts of chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from floods_prithvi.chip_reader import IMAGE
from floods_prithvi.mapping import chip_counts, map_chip, map_rows, map_scene, planes
from floods_prithvi.scores import count
from geocore.datasets.batch import VALID
from geocore.device import DeviceContext, device_context
from geocore.inference.blend import OutputHead
from geocore.raster.bands import Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.settings import DeviceSettings, TilingSettings
from geocore.tiling.tiles import Chunk

TILING = TilingSettings(size=16, overlap=6)


class Echo:
    """Stands for a network: bands are the probabilities of the classes."""

    def __init__(self, classes: int) -> None:
        self.head = OutputHead(classes, "classes")
        self.told: list[tuple[Tensor | None, Tensor | None]] = []

    def predict(
        self, inputs: Mapping[str, Mapping[str, Tensor]], dates: Tensor | None = None, places: Tensor | None = None
    ) -> dict[str, Tensor]:
        self.told.append((dates, places))
        return {"classes": inputs[IMAGE]["values"].nan_to_num(7.0), VALID: inputs[IMAGE]["valid"]}


@pytest.fixture
def context() -> Any:
    with device_context(DeviceSettings(device="cpu", threads=1)) as opened:
        yield opened


def shares_of(classes: int, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).dirichlet(np.ones(classes), size=shape)
    return np.moveaxis(drawn, -1, 0).astype(np.float32)


def scene_of(values: np.ndarray, valid: np.ndarray | None = None) -> Scene:
    layer = Layer(IMAGE, Bands.named(*(f"b{index}" for index in range(len(values)))), "float32")
    mask = np.ones((1, *values.shape[1:]), bool) if valid is None else valid[None]
    return Scene("s", Grid(*values.shape[1:]), {IMAGE: ArrayReader(layer, values.astype(np.float32), mask)})


def rows_of(network: Echo, scene: Scene, chunk: Chunk, context: DeviceContext) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {plane.name: [] for plane in planes()}
    due = chunk.window.row

    def on_rows(row: int, rows: dict[str, np.ndarray]) -> None:
        nonlocal due
        assert row == due
        due += len(rows["class"])
        for name, part in rows.items():
            found[name].append(part.copy())

    map_rows(network, scene, chunk, tiling=TILING, context=context, on_rows=on_rows)
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.mark.parametrize("classes", [2, 5])
def test_planes_over_several_tiles(classes: int, context: DeviceContext) -> None:
    """A network that looks at one pixel gives the same map through any tiles."""
    shares = shares_of(classes, (37, 45))
    valid = np.ones((37, 45), bool)
    valid[15:19, 20:30] = False
    values = np.where(valid, shares, np.nan)
    chunk = Chunk("r", Window(10, 8, 20, 30))
    found = rows_of(Echo(classes), scene_of(values, valid), chunk, context)
    assert sorted(found) == ["class", "confidence", "probability"]
    inside = chunk.window.slices
    ranked = np.sort(shares, axis=0)
    expected = {
        "class": shares.argmax(axis=0)[inside],
        "probability": 100 * (shares[1] if classes == 2 else ranked[-1])[inside],
        "confidence": 100 * (ranked[-1] - ranked[-2])[inside],
    }
    seen = valid[inside]
    for name, plane in expected.items():
        assert found[name].dtype == np.uint8
        assert (found[name][~seen] == 255).all()
        wrong = np.abs(found[name][seen] - plane[seen])
        # Half a percent by rounding, and blending rounds in the last bits.
        assert wrong.max() <= (0 if name == "class" else 0.5 + 1e-4), name


def test_equal_classes_have_no_confidence_and_sure_ones_all(context: DeviceContext) -> None:
    """Of two equal ones the lower class is taken, and the runner-up is the other one and not itself."""
    shares = np.zeros((3, 2, 4), np.float32)
    shares[1, 0] = shares[2, 0] = 0.5
    shares[2, 1] = 1.0
    found = map_scene(Echo(3), scene_of(shares), tiling=TILING, context=context)
    assert found["class"].tolist() == [[1] * 4, [2] * 4]
    assert found["probability"].tolist() == [[50] * 4, [100] * 4]
    assert found["confidence"].tolist() == [[0] * 4, [100] * 4]


def test_probability_of_two_classes_is_that_of_water_everywhere(context: DeviceContext) -> None:
    shares = np.array([0.9, 0.4, 0.5], np.float32).reshape(1, 1, 3)
    found = map_scene(Echo(2), scene_of(np.concatenate([shares, 1 - shares])), tiling=TILING, context=context)
    assert found["class"].tolist() == [[0, 1, 0]]
    assert found["probability"].tolist() == [[10, 60, 50]]
    assert found["confidence"].tolist() == [[80, 20, 0]]


def test_chunks_fit_together(context: DeviceContext) -> None:
    scene = scene_of(shares_of(2, (40, 45), seed=3))
    whole = map_scene(Echo(2), scene, tiling=TILING, context=context)
    for window in (Window(0, 0, 17, 45), Window(17, 0, 23, 20), Window(17, 20, 23, 25)):
        part = rows_of(Echo(2), scene, Chunk("r", window), context)
        for name, plane in whole.items():
            assert np.array_equal(part[name], plane[window.slices]), name


class Ramp(Echo):
    """A network that errs by where a pixel lies in its tile: water is the likelier the further right."""

    def predict(
        self, inputs: Mapping[str, Mapping[str, Tensor]], dates: Tensor | None = None, places: Tensor | None = None
    ) -> dict[str, Tensor]:
        values = inputs[IMAGE]["values"]
        water = torch.linspace(0.2, 0.6, values.shape[-1]).expand(len(values), 1, *values.shape[-2:])
        return {"classes": torch.cat([1 - water, water], 1), VALID: inputs[IMAGE]["valid"]}


def test_flips_average_what_hangs_on_the_orientation(context: DeviceContext) -> None:
    scene, chunk, found = scene_of(shares_of(2, (16, 16))), Chunk("r", Window(0, 0, 16, 16)), {}
    for flips in (False, True):
        map_rows(
            Ramp(2), scene, chunk,
            tiling=TILING, context=context, flips=flips,
            on_rows=lambda row, rows, flips=flips: found.update({flips: rows}),
        )  # fmt: skip
    assert found[False]["probability"][0, 0] == 20 and found[False]["probability"][0, -1] == 60
    assert (found[True]["probability"] == 40).all()


def test_date_and_place_reach_every_tile_of_a_batch(context: DeviceContext) -> None:
    network = Echo(2)
    dates, where = torch.tensor([[2018.0, 45.0], [2018.0, 60.0]]), torch.tensor([-16.0, -65.0])
    map_scene(network, scene_of(shares_of(2, (40, 45))), tiling=TILING, context=context, dates=dates, places=where)
    assert network.told
    for told_dates, told_places in network.told:
        assert told_dates is not None
        assert told_places is not None
        assert told_dates.shape == (1, 2, 2)
        assert told_places.shape == (1, 2)
        assert (told_dates == dates).all()
        assert (told_places == where).all()
    network = Echo(2)
    map_scene(network, scene_of(shares_of(2, (9, 9))), tiling=TILING, context=context)
    assert network.told == [(None, None)]


class ArrayChips:
    """Stands for a split."""

    def __init__(self, shares: Sequence[np.ndarray], targets: Sequence[np.ndarray], valid: np.ndarray) -> None:
        self.samples = [SimpleNamespace(id=str(index), group="x") for index in range(len(shares))]
        self._shares, self._targets, self._valid = shares, targets, valid

    def scene(self, index: int) -> Scene:
        return scene_of(np.where(self._valid, self._shares[index], np.nan), self._valid)

    def target(self, index: int) -> np.ndarray:
        return self._targets[index]

    def coordinates(self, index: int) -> tuple[Any, Any]:
        return np.array([[2019.0, float(index)]], np.float32), np.full(2, np.nan, np.float32)


def test_counts_of_chips_leave_out_what_is_not_labelled_or_not_seen(context: DeviceContext) -> None:
    rng = np.random.default_rng(5)
    shape = (29, 33)
    shares = [shares_of(3, shape, seed) for seed in (1, 2)]
    targets = [rng.choice([0, 1, 2, 255], shape).astype(np.uint8), np.full(shape, 255, np.uint8)]
    valid = np.ones(shape, bool)
    valid[:7] = False
    chips, network = ArrayChips(shares, targets, valid), Echo(3)
    counts = chip_counts(network, chips, tiling=TILING, context=context)  # type: ignore[arg-type]
    kept = valid & (targets[0] != 255)
    expected = count(targets[0][kept], shares[0].argmax(axis=0)[kept].astype(np.uint8), 3)
    assert np.array_equal(counts[0].counts, expected.counts)
    assert counts[0].counts.sum() == kept.sum() > 0
    assert counts[1].counts.sum() == 0
    # Each chip's own date was told.
    days = [float(dates[0, 0, 1]) for dates, _ in network.told if dates is not None]
    assert set(days) == {0.0, 1.0}
    chart = map_chip(network, chips, 0, tiling=TILING, context=context)  # type: ignore[arg-type]
    assert (chart[:7] == 255).all()
    assert np.array_equal(chart[7:], shares[0].argmax(axis=0)[7:])
