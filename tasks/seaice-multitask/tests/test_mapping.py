"""From tiles to classes at 80 m: rounding, masks, mirror images, and counts on untouched charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from geocore.datasets.batch import VALID
from geocore.device import DeviceContext, device_context
from geocore.inference.tta import flip_average
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.settings import DeviceSettings, TilingSettings
from geocore.tiling.tiles import Chunk
from seaice_multitask.config import ModelSettings, OutputSettings, WorkingSettings
from seaice_multitask.mapping import (
    at_80m,
    chart_counts,
    map_rows,
    map_scene,
    planes_of,
    scene_counts,
    submitted,
    usable,
)
from seaice_multitask.model import PLANES, SeaIceNet
from seaice_multitask.scores import named, total
from seaice_multitask.vectors import Winds

OUTPUTS = {
    "SIC": OutputSettings(kind="regression", classes=11, loss="mean-square"),
    "SOD": OutputSettings(classes=3),
}
LAYER = Layer(PLANES, Bands.named("value", "a", "b", "c"), "float32")
TILING = TilingSettings(size=16, overlap=6)


class Echo:
    """Stands for a network: plane 0 is the value of SIC, planes 1 to 3 are the probabilities of SOD."""

    outputs = OUTPUTS
    layer = LAYER
    working = WorkingSettings(downscale=3)
    heads: Mapping[str, Any] = {"SIC": SimpleNamespace(channels=1), "SOD": SimpleNamespace(channels=3)}

    def predict(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        values, valid = inputs[PLANES]["values"], inputs[PLANES]["valid"]
        return {"SIC": values[:, :1], "SOD": values[:, 1:], VALID: valid.all(dim=1, keepdim=True)}


@pytest.fixture
def context() -> Any:
    with device_context(DeviceSettings(device="cpu", threads=1)) as opened:
        yield opened


def scene_of(values: np.ndarray, valid: np.ndarray | None = None, layer: Layer = LAYER) -> Scene:
    source = ArrayReader(layer, values.astype(np.float32), valid)
    return Scene("s", Grid(*values.shape[1:]), {PLANES: source})


def random_planes(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(3), size=shape)
    return np.concatenate([rng.uniform(-2, 13, size=(1, *shape)), np.moveaxis(shares, -1, 0)])


def rows_of(scene: Scene, chunk: Chunk, context: DeviceContext) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {plane.name: [] for plane in planes_of(OUTPUTS)}

    def on_rows(row: int, rows: dict[str, np.ndarray]) -> None:
        assert rows.keys() == found.keys()
        for name, part in rows.items():
            found[name].append(part.copy())

    map_rows(Echo(), scene, chunk, tiling=TILING, context=context, on_rows=on_rows)  # type: ignore[arg-type]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def test_values_become_the_nearest_class_and_halves_the_even_one(context: DeviceContext) -> None:
    values = [-3.0, -0.4, 0.5, 1.5, 2.5, 3.49, 9.5, 10.5, 14.0]
    planes = np.zeros((4, 1, len(values)))
    planes[0, 0], planes[1:] = values, 1 / 3
    chart = map_scene(Echo(), scene_of(planes), tiling=TILING, context=context)["SIC"]  # type: ignore[arg-type]
    # 10.5 is nearer to no class above 10, and 0.5 and 2.5 go to the even neighbour.
    assert chart[0].tolist() == [0, 0, 0, 2, 2, 3, 10, 10, 10]
    assert chart[0].tolist() == np.clip(np.rint(values), 0, 10).tolist()


def test_classes_probability_and_entropy_over_several_tiles(context: DeviceContext) -> None:
    planes = random_planes((37, 45))
    valid = np.ones((4, 37, 45), bool)
    valid[2, 5:9, 20:30] = False
    chunk = Chunk("r", Window(10, 8, 20, 30))
    found = rows_of(scene_of(planes, valid), chunk, context)
    inside, shares = (slice(None), *chunk.window.slices), planes[1:].astype(np.float32)
    seen = valid.all(axis=0)[chunk.window.slices]
    entropy = -(shares * np.log(shares)).sum(axis=0) / math.log(3)
    expected = {
        "SIC_class": np.clip(np.rint(planes[0].astype(np.float32)), 0, 10)[inside[1:]],
        "SOD_class": shares.argmax(axis=0)[inside[1:]],
        "SOD_probability": np.rint(100 * shares.max(axis=0))[inside[1:]],
        "SOD_entropy": np.rint(100 * entropy)[inside[1:]],
    }
    for name, plane in expected.items():
        assert found[name].dtype == np.uint8
        assert (found[name][~seen] == 255).all()
        # Blending rounds in the last bits; a percentage may fall to the other side of a half.
        wrong = np.abs(found[name][seen] - plane[seen])
        assert wrong.max() <= (1 if "class" not in name else 0), name
        assert (wrong > 0).mean() < 0.01


def test_equal_shares_have_full_entropy_and_the_lower_class(context: DeviceContext) -> None:
    planes = np.full((4, 5, 5), 1 / 3)
    found = rows_of(scene_of(planes), Chunk("r", Window(0, 0, 5, 5)), context)
    assert (found["SOD_entropy"] == 100).all() and (found["SOD_probability"] == 33).all()
    certain = np.zeros((4, 5, 5))
    certain[3] = 1.0
    found = rows_of(scene_of(certain), Chunk("r", Window(0, 0, 5, 5)), context)
    assert (found["SOD_entropy"] == 0).all() and (found["SOD_class"] == 2).all()


@pytest.mark.parametrize(("downscale", "shape"), [(1, (7, 9)), (3, (30, 31)), (10, (41, 55)), (25, (24, 26))])
def test_working_pixels_are_repeated_and_cut(downscale: int, shape: tuple[int, int]) -> None:
    rows, cols = (-(-length // downscale) for length in shape)
    working = np.random.default_rng(1).integers(0, 255, (rows, cols), np.uint8)
    whole = at_80m(working, downscale, shape)
    lines, samples = np.indices(shape)
    assert np.array_equal(whole, working[lines // downscale, samples // downscale])
    for first in range(0, shape[0], 4):
        count = min(4, shape[0] - first)
        block = working[first // downscale : -(-(first + count) // downscale)]
        assert np.array_equal(at_80m(block, downscale, (count, shape[1]), first), whole[first : first + count])


def test_rounding_before_or_after_the_nearest_pixel_is_the_same() -> None:
    """The challenge's winner brings values from 800 m to 80 m and rounds there."""
    values = np.random.default_rng(2).uniform(-1, 12, (6, 7))
    repeated = values.repeat(10, axis=0).repeat(10, axis=1)[:55, :63]
    late = np.clip(np.rint(repeated), 0, 10).astype(np.uint8)
    assert np.array_equal(at_80m(np.clip(np.rint(values), 0, 10).astype(np.uint8), 10, (55, 63)), late)


def test_charts_are_compared_at_80m_untouched() -> None:
    """Every charted pixel counts, also the minority of a working pixel, and pixels without an answer as open water."""
    rng = np.random.default_rng(3)
    truth = {"SIC": rng.integers(0, 11, (31, 44), np.uint8), "SOD": rng.integers(0, 3, (31, 44), np.uint8)}
    truth["SOD"][:7] = 255
    found = {"SIC": rng.integers(0, 11, (11, 15), np.uint8), "SOD": rng.integers(0, 3, (11, 15), np.uint8)}
    found["SIC"][2, 3] = found["SOD"][4, 4] = 255
    counts = chart_counts(found, truth, 3, OUTPUTS)
    for name, classes in (("SIC", 11), ("SOD", 3)):
        expected = np.zeros((classes, classes), int)
        for line, sample in np.ndindex(31, 44):
            guess = found[name][line // 3, sample // 3]
            if truth[name][line, sample] != 255:
                expected[truth[name][line, sample], 0 if guess == 255 else guess] += 1
        assert np.array_equal(counts.matrix(name), expected)
    assert submitted(found["SIC"])[2, 3] == 0


class ArrayScenes:
    """Stands for a split."""

    def __init__(self, planes: Sequence[np.ndarray], charts: Sequence[dict[str, np.ndarray]]) -> None:
        self.samples = [SimpleNamespace(id=str(index)) for index in range(len(planes))]
        self._planes, self._charts = planes, charts

    def scene(self, index: int) -> Scene:
        return scene_of(self._planes[index])

    def charts(self, index: int) -> dict[str, np.ndarray]:
        return self._charts[index]


def test_counts_of_a_split_and_a_scene_without_charted_pixels(context: DeviceContext) -> None:
    planes = [random_planes((20, 21), seed) for seed in (1, 2)]
    right = {
        "SIC": np.clip(np.rint(planes[0][0]), 0, 10).astype(np.uint8).repeat(3, 0).repeat(3, 1)[:59, :62],
        "SOD": planes[0][1:].argmax(axis=0).astype(np.uint8).repeat(3, 0).repeat(3, 1)[:59, :62],
    }
    masked = {name: np.full_like(chart, 255) for name, chart in right.items()}
    counts = scene_counts(
        Echo(),  # type: ignore[arg-type]
        ArrayScenes(planes, [right, masked]),  # type: ignore[arg-type]
        tiling=TILING,
        context=context,
    )
    assert [part.pixels("SIC") for part in counts] == [59 * 62, 0]
    assert math.isnan(named(counts[1])["combined"])
    assert named(total(counts))["combined"] == 100.0


def test_radar_decides_where_there_is_a_scene() -> None:
    names = ("t2m", "nersc_sar_primary", "nersc_sar_secondary")
    valid = np.array([[[False, True, True, True]], [[True, False, True, True]], [[True, True, False, True]]])
    assert usable(valid, names).tolist() == [[True, False, False, True]]
    assert usable(valid[:1], ("t2m",)).tolist() == [[False, True, True, True]]
    assert usable(valid[:1], names).tolist() == [[False, True, True, True]]


def wind_network() -> SeaIceNet:
    bands = Bands(
        (Band("nersc_sar_primary"), Band("u10m_rotated", "m/s", 4.75, 0.67), Band("v10m_rotated", "m/s", 5.2, 0.61)),
        (("u10m_rotated", "v10m_rotated"),),
    )
    torch.manual_seed(5)
    layer = Layer(PLANES, bands, "float32")
    return SeaIceNet(layer, OUTPUTS, ModelSettings(widths=[4, 8]), WorkingSettings(downscale=3)).eval()


def test_mirrored_scene_with_mirrored_winds_is_mapped_to_the_mirrored_map(context: DeviceContext) -> None:
    """Averaged over all four images, whatever the network learned; without turned winds it would not hold."""
    network = wind_network()
    winds = Winds(network.layer.bands)
    planes = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(1, 3, 16, 16, dtype=torch.bool)
    valid[:, 0, 2:4] = False
    forward = flip_average(network.predict, {PLANES: winds.mirrored})
    with torch.inference_mode():
        plain, single = (
            forward({PLANES: {"values": planes, "valid": valid}}),
            network.predict({PLANES: {"values": planes, "valid": valid}}),
        )
        for rows, cols in ((True, False), (False, True), (True, True)):
            axes = [axis for axis, flipped in ((-2, rows), (-1, cols)) if flipped]
            mirrored = winds.mirrored(planes, rows=rows, cols=cols)
            found = forward({PLANES: {"values": mirrored, "valid": valid.flip(axes)}})
            for name, output in plain.items():
                # Sums in another order; values of about 1.
                assert torch.allclose(found[name].float(), output.flip(axes).float(), atol=1e-5), name
            unturned = forward({PLANES: {"values": planes.flip(axes), "valid": valid.flip(axes)}})
            assert not torch.allclose(unturned["SIC"], plain["SIC"].flip(axes), atol=1e-3)
    assert torch.equal(plain[VALID], single[VALID])
    assert not torch.allclose(plain["SIC"], single["SIC"], atol=1e-3)
    assert torch.allclose(plain["SOD"].sum(1), torch.ones(1, 16, 16), atol=1e-5)


def test_flips_reach_the_map(context: DeviceContext) -> None:
    network = wind_network()
    planes = 3 * np.random.default_rng(0).standard_normal((3, 40, 40))
    with torch.no_grad():
        network.last["SIC"].weight.mul_(30)
        network.last["SIC"].bias.fill_(5)
    scene = scene_of(planes, layer=network.layer)
    plain = map_scene(network, scene, tiling=TILING, context=context)
    flipped = map_scene(network, scene, tiling=TILING, context=context, flips=True)
    assert not np.array_equal(plain["SIC"], flipped["SIC"])
    assert flipped["SIC"].max() <= 10
