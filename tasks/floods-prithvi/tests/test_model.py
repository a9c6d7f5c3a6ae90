"""The network as a whole: sizes, frames, heads, cards, and which parameters learn how fast."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor

from floods_prithvi.chip_reader import IMAGE, image_layer, open_chip
from floods_prithvi.config import SIX_BANDS, ModelSettings, TrainSettings
from floods_prithvi.mapping import map_scene
from floods_prithvi.model import (
    AUXILIARY,
    CLASSES,
    FloodNet,
    Stored,
    coordinates_of,
    parameter_groups,
    restore_model,
)
from geocore.datasets.batch import VALID
from geocore.device import device_context
from geocore.errors import CheckpointError, DataError
from geocore.settings import DeviceSettings, TilingSettings
from geocore.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint
from geocore.transforms.normalize import BandNormalization, Normalize, normalization_to_plain

torch.set_num_threads(1)

NAMES = {0: "land", 1: "water"}


def network(frames: int = 1, *, classes: dict[int, str] = NAMES, **model: Any) -> FloodNet:
    torch.manual_seed(0)
    layer = image_layer([str(number + 1) for number in range(frames)] if frames > 1 else ())
    unbounded = ((-math.inf,) * 6, (math.inf,) * 6)
    normalization = BandNormalization(tuple(SIX_BANDS), (), (0.2,) * 6, (0.1,) * 6, *unbounded)
    card = {"mode": "dataset", "layers": {IMAGE: normalization_to_plain(normalization)}}
    settings = ModelSettings(variant="v2-tiny", **model)
    return FloodNet(Normalize.from_card(card, {IMAGE: layer.bands}), layer, classes, settings, Stored(1e-4, 0, 0))


def batch(rows: int, cols: int, *, frames: int = 1, count: int = 2, seed: int = 1) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(seed)
    dated = (frames,) if frames > 1 else ()
    values = torch.rand(count, *dated, 6, rows, cols)
    return {IMAGE: {"values": values, "valid": torch.ones(count, *dated, 1, rows, cols, dtype=torch.bool)}}


@pytest.mark.parametrize("head", ["fcn", "unet"])
@pytest.mark.parametrize(("rows", "cols"), [(32, 32), (37, 61), (16, 5)])
def test_every_pixel_of_a_tile_of_any_size_has_probabilities(head: str, rows: int, cols: int) -> None:
    net = network(head=head).eval()
    with torch.no_grad():
        found = net.predict(batch(rows, cols))
    assert found[CLASSES].shape == (2, 2, rows, cols)
    assert found[VALID].shape == (2, 1, rows, cols) and bool(found[VALID].all())
    torch.testing.assert_close(found[CLASSES].sum(1), torch.ones(2, rows, cols))


def test_padding_is_cut_below_and_on_the_right() -> None:
    """A tile of whole patches, and the same tile with a row and a column less: no pixel moves."""
    net = network().eval()
    whole = batch(48, 48)
    part = {IMAGE: {name: value[..., :47, :47] for name, value in whole[IMAGE].items()}}
    with torch.no_grad():
        a, b = net.predict(whole)[CLASSES], net.predict(part)[CLASSES]
    # What lies beyond the border reaches every pixel through attention, so that they are near and not equal.
    near = (a[..., :32, :32] - b[..., :32, :32]).abs().mean()
    moved = (a[..., 1:33, 1:33] - b[..., :32, :32]).abs().mean()
    assert float(near) < 0.2 * float(moved)


def test_invalid_pixels_count_as_the_mean_whatever_they_hold() -> None:
    net = network().eval()
    inputs = batch(32, 32)
    inputs[IMAGE]["valid"][:, :, :9, :9] = False
    other = {IMAGE: {**inputs[IMAGE], "values": inputs[IMAGE]["values"].clone()}}
    other[IMAGE]["values"][:, :, :9, :9] = math.nan
    with torch.no_grad():
        a, b = net.predict(inputs), net.predict(other)
    assert torch.equal(a[CLASSES], b[CLASSES])
    assert not bool(a[VALID][:, 0, :9, :9].any()) and bool(a[VALID][:, 0, 9:].all())


def test_dates_reach_the_backbone_in_their_order() -> None:
    """Bands of the first date stand first; a pixel is valid when it is at every date."""
    net = network(frames=3, classes={0: "a", 1: "b", 2: "c"}).eval()
    inputs = batch(32, 32, frames=3)
    images = net.images(inputs)
    assert images.shape == (2, 18, 32, 32)
    torch.testing.assert_close(images[:, 6:12], (inputs[IMAGE]["values"][:, 1] - 0.2) / 0.1)
    inputs[IMAGE]["valid"][:, 1, :, 5] = False
    with torch.no_grad():
        found = net.predict(inputs)
        turned = {IMAGE: {name: value.flip(1) for name, value in inputs[IMAGE].items()}}
        back = net.predict(turned)
    assert not bool(found[VALID][:, 0, 5].any()) and int(found[VALID].sum()) == 2 * 31 * 32
    assert not torch.allclose(found[CLASSES], back[CLASSES])


def test_auxiliary_head_speaks_in_training_only() -> None:
    net = network(auxiliary=0.4)
    images = net.images(batch(32, 32))
    assert set(net.train()(images)) == {CLASSES, AUXILIARY}
    assert set(net.eval()(images)) == {CLASSES}


def test_resized_tiles_come_back_at_their_own_size() -> None:
    net = network(resize_px=64).eval()
    with torch.no_grad():
        assert net.predict(batch(32, 40))[CLASSES].shape == (2, 2, 32, 40)
        plain = network().eval().predict(batch(32, 40))[CLASSES]
        assert not torch.allclose(net.predict(batch(32, 40))[CLASSES], plain)


def test_unknown_dates_and_places_add_nothing() -> None:
    net = network(coordinates=True).eval()
    images = net.images(batch(32, 32))
    dates, places = (torch.stack([part, part]) for part in coordinates_of("2019-09-18", (37.9, -0.7), 1))
    nothing = torch.full_like(dates, math.nan), torch.full_like(places, math.nan)
    with torch.no_grad():
        unknown = net(images)[CLASSES]
        assert torch.equal(net(images, *nothing)[CLASSES], unknown)
        known = net(images, dates, places)[CLASSES]
    assert not torch.allclose(known, unknown)


def test_dates_count_days_from_zero() -> None:
    dates, places = coordinates_of("2020-01-01 2020-12-31", (37.5, -1.0), 2)
    assert dates.tolist() == [[2020, 0], [2020, 365]] and places.tolist() == [37.5, -1.0]
    for wrong in ("2020-13-01", "yesterday", "2020-01-01 2020-01-02"):
        with pytest.raises(DataError, match="YYYY-MM-DD"):
            coordinates_of(wrong, None, 1)


def test_frozen_backbone_stays_and_the_head_learns() -> None:
    net = network(freeze=True)
    net(net.images(batch(32, 32)))[CLASSES].square().sum().backward()
    learning = {name.split(".")[0] for name, value in net.named_parameters() if value.grad is not None}
    assert learning == {"neck", "decode_head"}


def test_every_parameter_learns() -> None:
    net = network(auxiliary=1.0)
    outputs = net(net.images(batch(32, 32)))
    sum(value.square().sum() for value in outputs.values()).backward()
    assert all(value.grad is not None for value in net.parameters())


def test_learning_rates_shrink_towards_the_patches() -> None:
    settings = TrainSettings.model_validate(
        {"model": {"variant": "v2-tiny", "layer_decay": 0.5}, "optimizer": {"learning_rate": 0.8}}
    )
    net = network(layer_decay=0.5)
    groups = parameter_groups(net, settings)
    assert groups is not None
    rates = {id(value): group["lr"] for group in groups for value in group["params"]}
    found = {name: rates[id(value)] for name, value in net.named_parameters()}
    assert found["decode_head.conv_seg.weight"] == found["neck.fpn1.0.weight"] == 0.8
    assert found["backbone.norm.weight"] == found["backbone.blocks.11.mlp.fc1.weight"] == 0.4
    assert found["backbone.blocks.10.mlp.fc1.weight"] == 0.2
    assert found["backbone.cls_token"] == found["backbone.patch_embed.proj.weight"] == pytest.approx(0.8 * 0.5**13)
    assert parameter_groups(network(), TrainSettings()) is None


def checkpoint(folder: Path, net: FloodNet, **changes: Any) -> Path:
    card = {"task": "floods", **net.card(), **changes}
    contents = CheckpointState(1, net.state_dict(), None, {}, {}, [], {"scores": {}}, card)
    save_checkpoint(folder, contents, best=True, keep=1)
    return folder


@pytest.mark.parametrize(
    "model",
    [{}, {"head": "unet"}, {"auxiliary": 1.0}, {"coordinates": True, "positions": "regenerated"}, {"resize_px": 48}],
)
def test_checkpoint_restores_equal_outputs(tmp_path: Path, model: dict[str, Any]) -> None:
    net = network(**model).eval()
    again = restore_model(load_checkpoint(checkpoint(tmp_path, net), "best"))
    with torch.no_grad():
        assert torch.equal(again.predict(batch(40, 40))[CLASSES], net.predict(batch(40, 40))[CLASSES])
    assert again.stored == net.stored and again.class_names == net.class_names and str(again.layer) == str(net.layer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "seaice"}, "belongs to the task 'seaice'"),
        ({"model": {"variant": "v9"}}, "does not describe a network"),
        ({"classes": {"0": "a", "1": "b", "2": "c"}}, "do not fit the model"),
        ({"stored": {"scale": 1.0}}, "does not describe a network"),
    ],
)
def test_checkpoint_of_something_else_is_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        restore_model(load_checkpoint(checkpoint(tmp_path, network(), **changes), "best"))
    assert "\n" not in str(caught.value)


def test_one_scene_in_all_its_dresses_is_one_map(tmp_path: Path) -> None:
    """Bit for bit, on a CPU with one thread: numbers, scales and missing values differ, reflectance does not."""
    numbers = np.random.default_rng(0).integers(300, 5000, (6, 40, 48))
    hole = np.zeros(numbers.shape, bool)
    hole[:, 5:9, 7:30] = True
    dresses = {
        "bare": ("int16", 0, 0, {}),
        "tagged": ("int16", -9999, 0, {"scales": 1e-4}),
        "hls": ("int16", -9999, 0, {"scales": 1e-4, "offsets": 0.0, "units": "reflectance"}),
        "shifted": ("uint16", 0, 1000, {"scales": 1e-4, "offsets": -0.1}),
        "wide": ("uint16", 65535, 0, {}),
        "float": ("float32", math.nan, 0, {"scales": 1e-4}),
    }
    net, maps = network(head="unet").eval(), {}
    for name, (dtype, missing, add, tags) in dresses.items():
        stored = (numbers + add).astype(dtype)
        stored[hole] = missing
        profile = {"count": 6, "dtype": dtype, "height": 40, "width": 48, "nodata": missing, "crs": "EPSG:32633"}
        with rasterio.open(tmp_path / f"{name}.tif", "w", transform=from_origin(5e5, 6e6, 30, 30), **profile) as file:
            file.write(stored)
            for tag, value in tags.items():
                setattr(file, tag, (value,) * 6)
        with (
            open_chip(tmp_path / f"{name}.tif", net.layer, usual=net.stored.declaration) as scene,
            device_context(DeviceSettings(device="cpu", threads=1)) as context,
        ):
            maps[name] = map_scene(net, scene, tiling=TilingSettings(size=32, overlap=16), context=context)
    for name, found in maps.items():
        assert all(np.array_equal(found[plane], maps["bare"][plane]) for plane in found), name
    # A network of random weights sees both classes, so that a pixel that moved would show.
    assert np.array_equal(maps["bare"]["class"] == 255, hole[0])
    assert min(np.bincount(maps["bare"]["class"][~hole[0]])) > 100
