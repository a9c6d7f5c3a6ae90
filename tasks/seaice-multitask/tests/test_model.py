"""The network on the winner's U-Net: what goes in, what comes out, and what a checkpoint brings back."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import seaice_multitask
from geocore.datasets.batch import VALID
from geocore.datasets.dataset import Dataset
from geocore.datasets.schema import LabelSpec
from geocore.errors import CheckpointError, DataError, SettingsError
from geocore.raster.bands import Band, Bands
from geocore.raster.scene import Layer
from geocore.training.checkpoint import Checkpoint, CheckpointState, load_checkpoint, save_checkpoint
from seaice_multitask.config import AUTOICE_OUTPUTS, TASK, WINNER_CHANNELS, ModelSettings, OutputSettings, TrainSettings
from seaice_multitask.loss import output_losses
from seaice_multitask.model import SeaIceNet, build_model, restore_model
from seaice_multitask.unet import UNetEncoder

_CLASSES = {"SIC": 11, "SOD": 6, "FLOE": 7}


def _dataset(channels: list[str] = WINNER_CHANNELS) -> Dataset:
    winds = ("u10m_rotated", "v10m_rotated")
    bands = Bands(tuple(Band(name) for name in channels), (winds,) if set(winds) <= set(channels) else ())
    return Dataset(
        root=Path("prepared"),
        task=TASK,
        samples=[],
        layers={"planes": Layer("planes", bands, "float32")},
        labels={
            name: LabelSpec(name, {index: str(index) for index in range(count)}, 255)
            for name, count in _CLASSES.items()
        },
        protocol={"downscale": 10, "sar_reduction": "mean", "chart_reduction": "majority", "patch": 64},
    )


def _settings(
    outputs: dict[str, OutputSettings] = AUTOICE_OUTPUTS, widths: tuple[int, ...] = (8, 8, 16, 16)
) -> TrainSettings:
    return TrainSettings(outputs=outputs, model=ModelSettings(widths=list(widths)))


def _network(outputs: dict[str, OutputSettings] = AUTOICE_OUTPUTS) -> SeaIceNet:
    torch.manual_seed(0)
    return build_model(_dataset(), _settings(outputs))


def _own_decoders(*names: str) -> dict[str, OutputSettings]:
    return {
        name: chosen.model_copy(update={"decoder": "own" if name in names else "shared"})
        for name, chosen in AUTOICE_OUTPUTS.items()
    }


def _planes(rows: int = 64, cols: int = 64, *, batch: int = 2, channels: int = 16) -> Tensor:
    return torch.randn(batch, channels, rows, cols, generator=torch.Generator().manual_seed(3))


def _inputs(planes: Tensor) -> dict[str, dict[str, Tensor]]:
    return {"planes": {"values": planes, "valid": torch.ones_like(planes, dtype=torch.bool)}}


def _charts(rows: int, cols: int) -> dict[str, Tensor]:
    """Open water on the left, the highest class on the right, masked between."""
    charts = {}
    for name, count in _CLASSES.items():
        chart = torch.zeros(2, rows, cols, dtype=torch.uint8)
        chart[..., cols // 2 :] = count - 1
        chart[..., cols // 2 - 2 : cols // 2 + 2] = 255
        charts[name] = chart
    return charts


def _saved(network: SeaIceNet, folder: Path, **card: object) -> Checkpoint:
    contents = CheckpointState(
        step=1,
        model=network.state_dict(),
        ema=None,
        optimizer={},
        source={},
        random=[],
        progress={},
        card={"task": TASK, **network.card(), **card},
    )
    save_checkpoint(folder, contents, best=True, keep=1)
    return load_checkpoint(folder, "best")


@pytest.mark.parametrize(("rows", "cols"), [(64, 64), (37, 83), (16, 16), (5, 90)])
def test_outputs_have_the_size_of_the_input_whatever_it_is(rows: int, cols: int) -> None:
    network = _network().eval()
    with torch.inference_mode():
        outputs = network(_planes(rows, cols))
    assert {name: tuple(values.shape) for name, values in outputs.items()} == {
        "SIC": (2, 1, rows, cols),
        "SOD": (2, 6, rows, cols),
        "FLOE": (2, 7, rows, cols),
    }


def test_sizes_are_filled_up_below_and_to_the_right_so_that_pixels_stay_in_place() -> None:
    network = _network().eval()
    planes = _planes(37, 83)
    with torch.inference_mode():
        odd = network(planes)
        padded = network(torch.nn.functional.pad(planes, (0, 13, 0, 11)))
    for name, values in odd.items():
        assert torch.equal(values, padded[name][..., :37, :83])


def test_default_network_has_the_winners_widths_and_a_single_value_for_the_concentration() -> None:
    torch.manual_seed(0)
    network = build_model(_dataset(), TrainSettings())
    convs = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    encoder = [(16, 32), (32, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 64), (64, 64), (64, 64)]
    decoder = [(128, 64), (64, 64), (128, 64), (64, 64), (96, 32), (32, 32), (64, 32), (32, 32)]
    found = [(conv.in_channels, conv.out_channels) for conv in convs]
    assert found[:10] == encoder
    assert sorted(found[10:18]) == sorted(decoder)
    assert found[18:] == [(32, 1), (32, 6), (32, 7)]
    assert {conv.kernel_size for conv in convs[:18]} == {(3, 3)}
    assert network.encoder.multiple_px == 16


def test_levels_of_the_unet_read_the_largest_of_four_features() -> None:
    encoder = UNetEncoder(3, [4, 4])
    seen: list[Tensor] = []
    encoder.levels[1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    features = encoder(_planes(16, 16, channels=3))
    assert [tuple(level.shape) for level in features] == [(2, 4, 16, 16), (2, 4, 8, 8), (2, 4, 4, 4)]
    assert torch.equal(seen[0], torch.nn.functional.max_pool2d(features[0], 2))


def test_outputs_keep_the_order_and_names_that_were_asked_for() -> None:
    floe_first = {name: AUTOICE_OUTPUTS[name] for name in ("FLOE", "SIC", "SOD")}
    floe_first["SIC"] = floe_first["SIC"].model_copy(update={"decoder": "own"})
    network = _network(floe_first)
    assert list(network(_planes())) == ["FLOE", "SIC", "SOD"]
    assert list(network.heads) == ["FLOE", "SIC", "SOD"]


def test_every_output_has_logits_of_its_own() -> None:
    """D4: three names, three tensors; one output's last layer changes no other output."""
    network = _network().eval()
    with torch.no_grad():
        before = network(_planes())
        network.last["SOD"].bias.add_(1.0)
        after = network(_planes())
    assert torch.equal(after["SIC"], before["SIC"])
    assert torch.equal(after["FLOE"], before["FLOE"])
    assert not torch.equal(after["SOD"], before["SOD"])


def test_decoder_of_its_own_learns_from_its_output_alone() -> None:
    network = _network(_own_decoders("SIC"))
    shared, own = network.decoders
    network(_planes())["SOD"].square().sum().backward()
    assert all(parameter.grad is None for parameter in own.parameters())
    assert all(parameter.grad is not None for parameter in shared.parameters())
    assert all(parameter.grad is not None for parameter in network.encoder.parameters())


@pytest.mark.parametrize("own", [(), ("SIC",), ("SIC", "SOD", "FLOE")])
def test_every_parameter_learns(own: tuple[str, ...]) -> None:
    network = _network(_own_decoders(*own))
    torch.cat([values.flatten() for values in network(_planes()).values()]).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert len(network.decoders) == max(1, len(own) + (len(own) < 3))


@pytest.mark.parametrize("own", [(), ("SIC", "SOD", "FLOE")])
def test_a_few_steps_lower_every_loss(own: tuple[str, ...]) -> None:
    network = _network(_own_decoders(*own))
    planes, charts = _planes(32, 32), _charts(32, 32)
    planes[:, 0, :, 16:] += 3.0
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-2)
    history = []
    for _ in range(10):
        losses = {
            name: total / count
            for name, (total, count) in output_losses(network(planes), charts, network.outputs).items()
        }
        history.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    # Measured: 0.55 of the first loss at most.
    assert all(history[-1][name] < 0.7 * history[0][name] for name in _CLASSES), history


def test_invalid_pixels_are_zero_for_the_network_whatever_the_file_holds() -> None:
    """D1: neither NaN nor a fill such as 255 gets in."""
    network = _network().eval()
    inputs = _inputs(_planes())
    inputs["planes"]["valid"][:, 4, 10:20, 10:20] = False
    expected = inputs["planes"]["values"].clone()
    expected[:, 4, 10:20, 10:20] = 0.0
    with torch.inference_mode():
        reference = network(expected)
        for fill in (float("nan"), 255.0, float("-inf")):
            inputs["planes"]["values"][:, 4, 10:20, 10:20] = fill
            assert torch.equal(network.planes(inputs), expected)
            assert torch.equal(network.predict(inputs)["SIC"], reference["SIC"])


def test_prediction_is_valid_where_the_radar_is() -> None:
    network = _network().eval()
    inputs = _inputs(_planes())
    valid = inputs["planes"]["valid"]
    valid[0, WINNER_CHANNELS.index("nersc_sar_primary"), :5] = False
    valid[1, WINNER_CHANNELS.index("nersc_sar_secondary"), :, :7] = False
    # A gap of the 2 km planes is no reason to leave the map empty.
    valid[:, WINNER_CHANNELS.index("btemp_18_7h"), 30:] = False
    found = network.predict(inputs)[VALID]
    assert found.shape == (2, 1, 64, 64)
    expected = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    expected[0, :, :5] = False
    expected[1, :, :, :7] = False
    assert torch.equal(found, expected)


def test_one_mask_for_all_planes_is_taken_as_it_is() -> None:
    network = _network().eval()
    mask = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    mask[:, :, :, 50:] = False
    assert torch.equal(network.predict({"planes": {"values": _planes(), "valid": mask}})[VALID], mask)


def test_without_radar_every_plane_decides() -> None:
    network = build_model(_dataset(["t2m", "btemp_18_7h"]), _settings()).eval()
    inputs = _inputs(_planes(channels=2))
    inputs["planes"]["valid"][:, 1, :9] = False
    found = network.predict(inputs)[VALID]
    assert not found[:, :, :9].any()
    assert found[:, :, 9:].all()


def test_prediction_gives_probabilities_and_values_that_are_not_rounded() -> None:
    network = _network().eval()
    planes = _planes()
    with torch.inference_mode():
        predicted, raw = network.predict(_inputs(planes)), network(planes)
    assert {name: values.shape[1] for name, values in predicted.items()} == {
        "SIC": 1, "SOD": 6, "FLOE": 7, VALID: 1,
    }  # fmt: skip
    # Logits at 800 m are blended and brought to 80 m before anything is rounded or clamped.
    assert torch.equal(predicted["SIC"], raw["SIC"])
    assert (predicted["SIC"] < 0).any()
    assert torch.equal(predicted["SOD"], raw["SOD"].softmax(1))
    assert {name: head.channels for name, head in network.heads.items()} == {"SIC": 1, "SOD": 6, "FLOE": 7}


def test_prediction_is_deterministic_and_independent_of_the_batch() -> None:
    network = _network().eval()
    planes = _planes()
    with torch.inference_mode():
        first, again, alone = (network.predict(_inputs(x)) for x in (planes, planes, planes[:1]))
    for name in _CLASSES:
        assert torch.equal(first[name], again[name])
        # Convolutions of another batch size may sum in another order: a few units of the last place.
        torch.testing.assert_close(alone[name], first[name][:1], rtol=1e-5, atol=1e-6)


def test_half_precision_gives_float32_predictions_and_finite_losses() -> None:
    network = _network()
    planes = _planes(37, 83)
    with torch.autocast("cpu", torch.bfloat16):
        raw, predicted = network(planes), network.predict(_inputs(planes))
        losses = output_losses(raw, _charts(37, 83), network.outputs)
    assert {values.dtype for values in raw.values()} == {torch.bfloat16}
    assert {predicted[name].dtype for name in _CLASSES} == {torch.float32}
    assert all(total.dtype == torch.float32 and total.isfinite() for total, _ in losses.values())


@pytest.mark.parametrize("own", [(), ("SOD",)])
def test_checkpoint_restores_the_network_that_was_saved(tmp_path: Path, own: tuple[str, ...]) -> None:
    network = _network(_own_decoders(*own))
    network(_planes())  # moves the running means
    restored = restore_model(_saved(network.eval(), tmp_path))
    assert not restored.training
    with torch.inference_mode():
        ours, theirs = network.predict(_inputs(_planes())), restored.predict(_inputs(_planes()))
    assert list(theirs) == list(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert restored.card() == network.card()
    assert (restored.layer, restored.working) == (network.layer, network.working)


def test_card_says_what_the_network_needs_in_plain_values() -> None:
    card = json.loads(json.dumps(_network().card()))
    assert card["channels"] == WINNER_CHANNELS
    assert card["units"] == "standardised"
    assert card["working"] == {"downscale": 10, "sar_reduction": "mean", "chart_reduction": "majority"}
    assert {name: chosen["classes"] for name, chosen in card["outputs"].items()} == _CLASSES
    assert card["layer"]["vector_pairs"] == [["u10m_rotated", "v10m_rotated"]]
    assert "weights" not in card["model"]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"task": "snowpack"}, "belongs to the task 'snowpack'"),
        ({"outputs": {"SIC": {"kind": "guess"}}}, "does not describe a network"),
        ({"working": None}, "does not describe a network"),
        ({"layer": {}}, "does not describe a network"),
        ({"model": {"kind": "unet", "widths": [8, 8]}}, "do not fit the model"),
    ],
)
def test_checkpoint_of_something_else_is_refused_in_one_line(
    tmp_path: Path, card: dict[str, object], message: str
) -> None:
    checkpoint = _saved(_network(), tmp_path, **card)
    with pytest.raises(CheckpointError, match=message) as refused:
        restore_model(checkpoint)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"ICE": OutputSettings(classes=3)}, "charts of prepared are SIC, SOD, FLOE"),
        ({"SOD": OutputSettings(classes=5)}, r"the chart has classes 0 to 5; give 6"),
        ({"valid": OutputSettings(classes=3)}, "outputs.valid"),
    ],
)
def test_outputs_that_do_not_fit_the_charts_are_refused(outputs: dict[str, OutputSettings], message: str) -> None:
    dataset = _dataset()
    if "valid" in outputs:
        dataset = dataclasses.replace(dataset, labels={"valid": LabelSpec("valid", {}, 255)})
    with pytest.raises(SettingsError, match=message):
        build_model(dataset, _settings(outputs))


def test_weights_for_the_unet_are_refused() -> None:
    with pytest.raises(ValidationError, match="the U-Net takes none"):
        ModelSettings(weights="resnet.pth")


def test_data_set_without_its_working_grid_is_refused() -> None:
    with pytest.raises(DataError, match="prepare the data again"):
        build_model(dataclasses.replace(_dataset(), protocol={"downscale": 10}), _settings())
    with pytest.raises(DataError, match="seaice-prepare"):
        build_model(dataclasses.replace(_dataset(), layers={}), _settings())


def test_single_tile_that_shrinks_to_one_pixel_cannot_be_trained_on() -> None:
    network = _network()
    with pytest.raises(SettingsError, match=r"training\.batch_size 1"):
        network(_planes(16, 16, batch=1))


def test_settings_and_unet_do_without_slow_imports() -> None:
    script = """
import sys
import seaice_multitask.config
assert not {"torch", "mmseg"} & sys.modules.keys(), "config imports too much"
import seaice_multitask.model, seaice_multitask.loss
assert "mmseg" not in sys.modules, "model imports mmseg"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_heads_imports_mmsegmentation() -> None:
    sources = Path(seaice_multitask.__file__).parent.glob("*.py")
    importing = [
        path.name
        for path in sources
        if any(line.strip().startswith(("import mm", "from mm")) for line in path.read_text().splitlines())
    ]
    assert importing == ["heads.py"]
