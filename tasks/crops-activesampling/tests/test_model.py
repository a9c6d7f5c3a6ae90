"""The network: what goes in, what comes out, how it starts, and what a checkpoint brings back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crops_activesampling.config import TASK, ModelSettings, TrainSettings
from crops_activesampling.loss import crop_loss
from crops_activesampling.model import CropNet, build_model, read_window, restore_model, start_at_shares
from geocore.datasets.batch import VALID
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import LabelSpec, Sample
from geocore.datasets.statistics import BandStatistics, Statistics
from geocore.errors import CheckpointError, DataError, SettingsError
from geocore.raster.bands import Band, Bands
from geocore.raster.grid import Grid, Window
from geocore.raster.scene import ArrayReader, Layer, Scene
from geocore.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint

PERIODS = 5
_CLASSES = {0: "unknown", 1: "wheat", 2: "maize", 3: "rye"}


def _dataset(**changes: Any) -> Dataset:
    def statistics(mean: float, std: float) -> BandStatistics:
        # Percentiles that clip nothing the tests put in.
        return BandStatistics(100, 1.0, 9000.0, mean, std, {1.0: 0.0, 50.0: mean, 99.0: 20000.0})

    bands = Bands((Band("B04", "DN", 0.5, nodata=0.0), Band("B08", "DN", 0.5, nodata=0.0)))
    times = tuple(f"2019-{month:02d}-01" for month in range(1, PERIODS + 1))
    sample = Sample(
        id="a",
        group="31TCG",
        split="train",
        inputs={},
        labels={},
        attributes={"class_0_px": 50, "class_1_px": 90, "class_2_px": 10, "class_3_px": 0},
    )
    given: dict[str, Any] = {
        "layers": {"medians": Layer("medians", bands, "uint16", times=times)},
        "labels": {"crops": LabelSpec("crops", _CLASSES, ignore=0)},
        "statistics": Statistics({"medians": (statistics(2000.0, 400.0), statistics(5000.0, 1000.0))}),
        "protocol": {"frequency": "1MS", "bands": "B04 B08"},
    }
    return Dataset(root=Path("prepared"), task=TASK, samples=[sample], **given | changes)


def _settings(kind: Any = "unet", months: str = "1..5", **changes: Any) -> TrainSettings:
    return TrainSettings(model=ModelSettings(kind=kind, depth=3, hidden=6, layers=2, months=months, **changes))


def _network(kind: str = "unet", months: str = "1..5", **changes: Any) -> CropNet:
    torch.manual_seed(0)
    return build_model(_dataset(), _settings(kind, months, **changes))


def _inputs(rows: int = 16, cols: int = 24, *, periods: int = PERIODS) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    values = 500 + 3000 * torch.rand(2, periods, 2, rows, cols, generator=generator)
    # Halves, as medians of an even number are.
    values = (2 * values).round() / 2
    return {"medians": {"values": values, "valid": torch.ones(2, periods, 1, rows, cols, dtype=torch.bool)}}


def test_images_are_normalized_dn_all_bands_of_the_first_period_first() -> None:
    network, inputs = _network(), _inputs()
    images = network.images(inputs).unflatten(1, (PERIODS, 2))
    values = inputs["medians"]["values"]
    # Statistics are those of stored numbers, 2 x DN: 1000 +- 200 DN and 2500 +- 500 DN.
    torch.testing.assert_close(images[:, :, 0], (values[:, :, 0] - 1000) / 200, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(images[:, :, 1], (values[:, :, 1] - 2500) / 500, rtol=1e-5, atol=1e-5)


def test_stored_integers_and_dn_are_the_same_to_the_bit() -> None:
    network, inputs = _network(), _inputs()
    stored = {"medians": inputs["medians"] | {"values": (2 * inputs["medians"]["values"]).to(torch.uint16)}}
    assert torch.equal(network.images(stored), network.images(inputs))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_tile_of_a_scene_is_read_as_windows_are(dtype: str) -> None:
    """Stored numbers are 2 x DN, also where DN above 32767 make them float32."""
    layer = dataclasses.replace(_dataset().layers["medians"], dtype=dtype)
    stored = np.random.default_rng(0).integers(0, 3, (PERIODS, 2, 8, 8)).astype(dtype) * np.dtype(dtype).type(1001)
    scene = Scene("a", Grid(8, 8), {"medians": ArrayReader(layer, stored)})
    patch = read_window(scene, Window(2, 4, 4, 8))["medians"]
    assert patch.values.dtype == np.float32
    inside = (..., slice(2, 6), slice(4, 8))
    assert np.array_equal(patch.values[..., :4], stored[inside] / 2)
    assert np.array_equal(patch.valid[..., :4], stored[inside] != 0) and not patch.valid[..., 4:].any()


def test_a_period_that_lacks_any_band_is_zero_whatever_it_holds() -> None:
    network, inputs = _network(), _inputs()
    valid = torch.ones(2, PERIODS, 2, 16, 24, dtype=torch.bool)
    valid[0, 3, 1, 4:8] = False
    inputs["medians"]["values"][0, 3, :, 4:8] = torch.nan
    images = network.images({"medians": {"values": inputs["medians"]["values"], "valid": valid}})
    assert images.isfinite().all()
    by_period = images.unflatten(1, (PERIODS, 2))
    assert not by_period[0, 3, :, 4:8].any() and by_period[0, 2, :, 4:8].all()


@pytest.mark.parametrize("kind", ["unet", "convstar"])
def test_only_the_periods_asked_for_are_seen_in_their_order(kind: str) -> None:
    network, inputs = _network(kind, "2,5,3").eval(), _inputs()
    chosen = {"medians": {key: value[:, [1, 4, 2]] for key, value in inputs["medians"].items()}}
    assert torch.equal(network.images(inputs), network.images(chosen))
    before = network.predict(inputs)["classes"]
    inputs["medians"]["values"][:, [0, 3]] += 1000
    assert torch.equal(network.predict(inputs)["classes"], before)
    with pytest.raises(ValueError, match="composites of 4 periods: must be all 5, or the 3 seen"):
        network.images(_inputs(periods=4))


@pytest.mark.parametrize("kind", ["unet", "convstar"])
@pytest.mark.parametrize("shape", [(16, 24), (13, 30)])
def test_any_size_gives_logits_of_that_size(kind: str, shape: tuple[int, int]) -> None:
    network = _network(kind)
    logits = network(network.images(_inputs(*shape)))
    assert logits.shape == (2, 3, *shape)


def test_prediction_is_valid_where_any_seen_period_is_and_sums_to_one() -> None:
    network, inputs = _network("convstar", "1,2").eval(), _inputs()
    valid = inputs["medians"]["valid"]
    valid[0, :2, :, :4] = False
    valid[1, 0] = False
    found = network.predict(inputs)
    assert found[VALID].shape == (2, 1, 16, 24) and found["classes"].shape == (2, 3, 16, 24)
    assert not found[VALID][0, 0, :4].any() and found[VALID][0, 0, 4:].all() and found[VALID][1].all()
    torch.testing.assert_close(found["classes"].sum(1), torch.ones(2, 16, 24))


@pytest.mark.parametrize("kind", ["unet", "convstar"])
def test_the_last_layer_starts_at_the_log_odds_of_the_shares(kind: str) -> None:
    network = _network(kind)
    body: Any = network.body
    last = body.last if kind == "convstar" else body.segmentation_head[0]
    odds = torch.tensor([90 / 10, 10 / 90, 1 / 99])  # the class without pixels counts as one pixel
    torch.testing.assert_close(last.bias.detach(), odds.log())
    start_at_shares(network, torch.tensor([0, 100, 0]))
    assert last.bias.isfinite().all()


@pytest.mark.parametrize("kind", ["unet", "convstar"])
def test_every_parameter_learns(kind: str) -> None:
    """Also those of stages below the depth asked for: a distributed run would wait for their gradients."""
    network, inputs = _network(kind), _inputs()
    total, _ = crop_loss(network(network.images(inputs)), torch.randint(1, 4, (2, 16, 24)))
    total.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_encoders_without_clean_stages_have_no_trainable_parameter_without_a_gradient() -> None:
    network, inputs = _network(encoder="mobilenet_v2"), _inputs(32, 32)
    network(network.images(inputs)).sum().backward()
    left = [
        name for name, parameter in network.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert left == []


def test_one_window_of_one_deepest_pixel_is_refused_with_a_clear_line() -> None:
    network = _network()
    with pytest.raises(SettingsError, match=r"training\.batch_size 1: batch normalization needs 2 or more"):
        network(network.images(_inputs(8, 8))[:1])


@pytest.mark.parametrize("kind", ["unet", "convstar"])
def test_a_checkpoint_brings_the_network_back(kind: str, tmp_path: Path) -> None:
    network = _network(kind, "2..4")
    card = {"task": TASK, **network.card()}
    assert json.loads(json.dumps(card)) == card
    contents = CheckpointState(
        step=1,
        model=network.state_dict(),
        ema=None,
        optimizer={},
        source={},
        random=[],
        progress={},
        card=card,
    )
    save_checkpoint(tmp_path, contents, best=True, keep=1)
    restored = restore_model(load_checkpoint(tmp_path, "best"))
    assert not restored.training and restored.periods == (2, 3, 4)
    assert restored.class_names == {1: "wheat", 2: "maize", 3: "rye"} and restored.protocol["frequency"] == "1MS"
    inputs = _inputs()
    assert torch.equal(restored.predict(inputs)["classes"], network.eval().predict(inputs)["classes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "floods"}, "belongs to the task 'floods'"),
        ({"model": {"kind": "transformer"}}, "its card does not describe a network"),
        ({"classes": {"1": "wheat", "2": "maize"}}, "size mismatch|shape"),
    ],
)
def test_a_foreign_or_damaged_card_is_one_clear_line(change: Any, message: str, tmp_path: Path) -> None:
    network = _network("convstar")
    contents = CheckpointState(
        step=1,
        model=network.state_dict(),
        ema=None,
        optimizer={},
        source={},
        random=[],
        progress={},
        card={"task": TASK, **network.card(), **change},
    )
    save_checkpoint(tmp_path, contents, best=True, keep=1)
    with pytest.raises(CheckpointError, match=message) as caught:
        restore_model(load_checkpoint(tmp_path, "best"))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_built_is_one_clear_line() -> None:
    with pytest.raises(SettingsError, match=r"model\.months 4\.\.9: the composites have the periods 1 to 5"):
        build_model(_dataset(), _settings(months="4..9"))
    with pytest.raises(SettingsError, match="model.encoder resnet7 with depth 3: .* take an encoder that it lists"):
        build_model(_dataset(), _settings(encoder="resnet7"))
    with pytest.raises(DataError, match="no labelled composites with statistics: prepare it with crops-prepare"):
        build_model(_dataset(statistics=None), _settings())
    one = {"crops": LabelSpec("crops", {0: "unknown", 1: "wheat"}, ignore=0)}
    with pytest.raises(SettingsError, match="1 crops: a map needs two or more"):
        build_model(_dataset(labels=one), _settings())


def test_building_is_decided_by_the_seed_alone() -> None:
    first, second = _network().state_dict(), _network().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(isinstance(module, nn.BatchNorm2d) for module in _network().modules())
