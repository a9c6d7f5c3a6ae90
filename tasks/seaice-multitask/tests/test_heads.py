"""Backbones and decode heads of mmsegmentation: real parts, made narrow, on sixteen planes."""

from __future__ import annotations

import logging
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geocore.errors import CheckpointError, SettingsError, WeightsError
from geocore.raster.bands import Bands
from geocore.raster.scene import Layer
from geocore.training.checkpoint import CheckpointState, load_checkpoint, save_checkpoint
from seaice_multitask.config import (
    AUTOICE_OUTPUTS,
    TASK,
    WINNER_CHANNELS,
    ModelSettings,
    OutputSettings,
    WorkingSettings,
)
from seaice_multitask.heads import Backbone, DecodeHead, build_backbone
from seaice_multitask.loss import output_losses
from seaice_multitask.model import SeaIceNet, restore_model

_SYNC = {"type": "SyncBN", "requires_grad": True}

_RESNET: dict[str, Any] = {
    "type": "ResNetV1c",
    "depth": 18,
    "stem_channels": 8,
    "base_channels": 8,
    "out_indices": [0, 1, 2, 3],
    "norm_cfg": _SYNC,
}
_DILATED = {**_RESNET, "strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4]}
_MIT: dict[str, Any] = {
    "type": "MixVisionTransformer",
    "embed_dims": 8,
    "num_layers": [1, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "drop_path_rate": 0.1,
}
_SWIN: dict[str, Any] = {
    "type": "SwinTransformer",
    "embed_dims": 8,
    "depths": [2, 1, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
}
_UNET: dict[str, Any] = {"type": "UNet", "base_channels": 8, "norm_cfg": _SYNC}

_PYRAMID = {"in_channels": [8, 16, 32, 64], "in_index": [0, 1, 2, 3], "channels": 16, "num_classes": 19}
_UPER = {"type": "UPerHead", "pool_scales": [1, 2], "norm_cfg": _SYNC, **_PYRAMID}
_SEGFORMER = {"type": "SegformerHead", "norm_cfg": _SYNC, **_PYRAMID}
_FCN: dict[str, Any] = {"type": "FCNHead", "in_channels": 64, "in_index": 3, "channels": 16, "norm_cfg": _SYNC}
_ASPP = {**_FCN, "type": "ASPPHead", "dilations": [1, 2, 3]}
_SEPARABLE_ASPP = {**_ASPP, "type": "DepthwiseSeparableASPPHead", "c1_in_channels": 8, "c1_channels": 4}
_FCN_ON_UNET = {**_FCN, "in_channels": 8, "in_index": 4, "num_convs": 1, "concat_input": False}

_COMBINATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ResNet + FCN": (_RESNET, _FCN),
    "ResNet + UPer": (_RESNET, _UPER),
    "ResNet + ASPP": (_DILATED, _ASPP),
    "ResNet + separable ASPP": (_DILATED, _SEPARABLE_ASPP),
    "MiT + Segformer": (_MIT, _SEGFORMER),
    "Swin + UPer": (_SWIN, _UPER),
    "UNet + FCN": (_UNET, _FCN_ON_UNET),
}
_every_combination = pytest.mark.parametrize("parts", _COMBINATIONS.values(), ids=_COMBINATIONS)
_CLASSES = {"SIC": 11, "SOD": 6, "FLOE": 7}


def _network(
    backbone: dict[str, Any],
    head: dict[str, Any],
    *,
    outputs: dict[str, OutputSettings] = AUTOICE_OUTPUTS,
    weights: Path | None = None,
    channels: int = 16,
) -> SeaIceNet:
    torch.manual_seed(0)
    layer = Layer("planes", Bands.named(*WINNER_CHANNELS[:channels]), "float32")
    model = ModelSettings(kind="mmseg", backbone=backbone, decode_head=head)
    return SeaIceNet(layer, outputs, model, WorkingSettings(), weights=weights)


def _planes(rows: int = 64, cols: int = 64, channels: int = 16) -> Tensor:
    return torch.randn(2, channels, rows, cols, generator=torch.Generator().manual_seed(3))


def _charts(rows: int = 64, cols: int = 64) -> dict[str, Tensor]:
    """Open water on the left, the highest class on the right, masked between."""
    charts = {}
    for name, count in _CLASSES.items():
        chart = torch.zeros(2, rows, cols, dtype=torch.uint8)
        chart[..., cols // 2 :] = count - 1
        chart[..., cols // 2 - 2 : cols // 2 + 2] = 255
        charts[name] = chart
    return charts


@_every_combination
def test_parts_give_every_output_at_any_size(parts: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """D11: a regression's single channel passes through every head."""
    network = _network(*parts).eval()
    for rows, cols in ((64, 64), (61, 83)):
        with torch.inference_mode():
            outputs = network(_planes(rows, cols))
        assert {name: tuple(values.shape) for name, values in outputs.items()} == {
            "SIC": (2, 1, rows, cols),
            "SOD": (2, 6, rows, cols),
            "FLOE": (2, 7, rows, cols),
        }


@_every_combination
def test_a_few_steps_lower_every_loss_and_reach_every_parameter(parts: tuple[dict[str, Any], dict[str, Any]]) -> None:
    network = _network(*parts)
    planes, charts = _planes(), _charts()
    planes[:, 0, :, 32:] += 3.0
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
    # Measured: 0.58 of the first loss at most.
    assert all(history[-1][name] < 0.7 * history[0][name] for name in _CLASSES), history
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@_every_combination
def test_checkpoint_restores_equal_outputs(parts: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    outputs = AUTOICE_OUTPUTS | {"SIC": AUTOICE_OUTPUTS["SIC"].model_copy(update={"decoder": "own"})}
    network = _network(*parts, outputs=outputs)
    network(_planes())
    network.eval()
    card = {"task": TASK, **network.card()}
    contents = CheckpointState(
        step=1, model=network.state_dict(), ema=None, optimizer={}, source={}, random=[], progress={}, card=card
    )
    save_checkpoint(tmp_path, contents, best=True, keep=1)
    restored = restore_model(load_checkpoint(tmp_path, "best"))
    with torch.inference_mode():
        ours, again, theirs = network(_planes()), network(_planes()), restored(_planes())
    assert all(torch.equal(ours[name], again[name]) for name in _CLASSES)
    assert all(torch.equal(ours[name], theirs[name]) for name in _CLASSES)


@_every_combination
def test_no_synchronised_norm_is_left(
    parts: tuple[dict[str, Any], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        network = _network(*parts)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert any("SyncBN layers became BN" in record.getMessage() for record in caplog.records)


def test_group_norm_is_left_as_it_is() -> None:
    group = {"type": "GN", "num_groups": 4}
    # 8 / 2 channels in the stem: the narrowest layer must hold the groups.
    network = _network({**_RESNET, "norm_cfg": group}, {**_FCN, "norm_cfg": group})
    norms = {type(module) for module in network.modules() if "Norm" in type(module).__name__}
    assert norms == {nn.GroupNorm}
    network(_planes()[:1])["SIC"].sum().backward()


@pytest.mark.parametrize("head", [_FCN, _UPER, _SEGFORMER, _ASPP, _SEPARABLE_ASPP], ids=lambda head: head["type"])
def test_classes_are_those_of_mmsegmentations_own_head(head: dict[str, Any]) -> None:
    """Taking the classifier off and putting one on again changes nothing but who owns it."""
    from mmseg.models.utils import resize
    from mmseg.registry import MODELS

    network = _network(_RESNET, head, outputs={"SOD": OutputSettings(classes=6)}).eval()
    theirs = MODELS.build({**head, "num_classes": 6, "norm_cfg": {"type": "BN"}})
    (decoder,) = network.decoders
    assert isinstance(decoder, DecodeHead)
    classifier = {f"conv_seg.{key}": value for key, value in network.last["SOD"].state_dict().items()}
    theirs.load_state_dict(decoder.head.state_dict() | classifier)
    theirs.eval()
    with torch.inference_mode():
        expected = resize(theirs(network.encoder(_planes())), (64, 64), mode="bilinear", align_corners=False)
        assert torch.equal(network(_planes())["SOD"], expected)


@pytest.mark.parametrize("head", [_FCN, _UPER, _SEGFORMER, _ASPP, _SEPARABLE_ASPP], ids=lambda head: head["type"])
def test_dropout_in_front_of_a_regression_drops_channels_and_never_rows(head: dict[str, Any]) -> None:
    """D5: a dropped channel is dropped everywhere, a kept one is kept and scaled everywhere."""
    network = _network(_RESNET, {**head, "dropout_ratio": 0.5}, outputs={"SIC": AUTOICE_OUTPUTS["SIC"]})
    (decoder,) = network.decoders
    seen: list[tuple[Tensor, Tensor]] = []
    decoder.head.dropout.register_forward_hook(lambda module, given, result: seen.append((given[0], result)))
    network(_planes())
    ((before, after),) = seen
    assert before.shape[:2] == (2, 16)
    dropped = (after == 0).all(dim=(2, 3)) & (before != 0).any(dim=(2, 3))
    assert dropped.any()
    assert not dropped.all()
    kept = (~dropped)[:, :, None, None]
    assert torch.equal(after, torch.where(kept, 2 * before, 0.0))


def test_heads_of_mmsegmentation_stay_usable_on_their_own() -> None:
    """D12: building a sea-ice network leaves the framework's own single-task heads alone."""
    _network(_RESNET, _FCN)
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    head = MODELS.build({**_FCN, "norm_cfg": {"type": "BN"}, "num_classes": 4})
    features = [torch.randn(2, 64, 8, 8)] * 4
    assert head(features).shape == (2, 4, 8, 8)
    label = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(4, (1, 64, 64))))
    assert head.loss(features, [label, label], {})["loss_ce"] > 0


def test_settings_of_a_copied_configuration_that_outputs_decide_do_not_matter() -> None:
    copied = {
        **_FCN,
        "num_classes": 150,
        "out_channels": 150,
        "threshold": 0.3,
        "ignore_index": 0,
        "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "sampler": {"type": "OHEMPixelSampler", "thresh": 0.7},
    }
    given = deepcopy(copied)
    plain = _network(_RESNET, _FCN).state_dict()
    from_copy = _network({**_RESNET, "in_channels": 3}, copied).state_dict()
    assert copied == given
    assert plain.keys() == from_copy.keys()
    assert all(plain[name].shape == from_copy[name].shape for name in plain)


@pytest.mark.parametrize(
    ("backbone", "head", "message"),
    [
        ({"type": "ResNet19"}, _FCN, "model.backbone.type 'ResNet19'"),
        ({"type": "ResNet"}, _FCN, "missing 1 required positional argument: 'depth'"),
        ({**_RESNET, "depth": 19}, _FCN, "invalid depth 19"),
        ({**_RESNET, "strides": [1, 2]}, _FCN, "model.backbone ResNetV1c: its settings contradict each other"),
        ({**_RESNET, "norm_cfg": {"type": "BM"}}, _FCN, "model.backbone.norm_cfg.type 'BM'"),
        ({"type": "Conv2d", "out_channels": 3, "kernel_size": 3}, _FCN, "Conv2d"),
        (_RESNET, {**_FCN, "type": "FCN"}, "model.decode_head.type 'FCN'"),
        (_RESNET, {**_FCN, "in_channels": 512}, r"in_channels 512, in_index 3\) on ResNetV1c.* \[8, 16, 32, 64\]"),
        (_RESNET, {**_FCN, "in_index": 4}, "in_index 4"),
        (_RESNET, {**_UPER, "in_channels": [8, 16, 32, 32]}, r"\[8, 16, 32, 32\]"),
        (_RESNET, {"type": "FCNHead", "in_channels": 64}, "'channels'"),
        (_RESNET, {**_FCN, "chanels": 3}, "chanels"),
        (_RESNET, {**_FCN, "type": "ResNetV1c", "depth": 18}, "model.decode_head ResNetV1c"),
        (_RESNET, {**_FCN, "type": "PIDHead"}, "model.decode_head PIDHead"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(
    backbone: dict[str, Any], head: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        _network(backbone, head)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "subprocess.check_output", "args": ["true"]},
        {"type": "this"},
        {**_RESNET, "norm_cfg": {"type": "os.system"}},
        {**_RESNET, "init_cfg": {"type": "Pretrained", "checkpoint": "weights.pth"}},
        {**_RESNET, "init_cfg": [{"type": "Pretrained", "checkpoint": "https://example.org/weights.pth"}]},
        {**_RESNET, "pretrained": "open-mmlab://resnet18_v1c"},
        {**_RESNET, "_scope_": "mmdet"},
        {"type": "TIMMBackbone", "model_name": "convnext_tiny", "checkpoint_path": "weights.pth"},
        {"type": "TIMMBackbone", "model_name": "convnext_tiny", "pretrained": True},
    ],
)
def test_configuration_cannot_call_code_or_read_files(backbone: dict[str, Any], tmp_path: Path) -> None:
    """Checked for settings and for the card of somebody else's checkpoint alike."""
    with pytest.raises(SettingsError) as refused:
        _network(backbone, _FCN)
    assert "\n" not in str(refused.value)
    assert "this" not in sys.modules

    network = _network(_RESNET, _FCN)
    card = {"task": TASK, **network.card()}
    card["model"]["backbone"] = backbone
    contents = CheckpointState(
        step=1, model=network.state_dict(), ema=None, optimizer={}, source={}, random=[], progress={}, card=card
    )
    save_checkpoint(tmp_path, contents, best=True, keep=1)
    with pytest.raises(CheckpointError, match="does not describe a network"):
        restore_model(load_checkpoint(tmp_path, "best"))


def _three_band_file(config: dict[str, Any], path: Path, *, prefix: str = "", extra: tuple[str, ...] = ()) -> Backbone:
    torch.manual_seed(7)
    backbone = build_backbone(config, 3, None)
    state = {prefix + name: value for name, value in backbone.parts.state_dict().items()}
    torch.save({"state_dict": state | {name: torch.zeros(3) for name in extra}, "meta": {}}, path)
    return backbone


@pytest.mark.parametrize("config", [_RESNET, _MIT, _SWIN, _UNET], ids=lambda config: config["type"])
def test_weights_of_three_bands_see_the_same_in_sixteen_equal_planes(config: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    three = _three_band_file(config, path).eval()
    sixteen = build_backbone(config, 16, path).eval()
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = sixteen(grey.expand(-1, 16, -1, -1)), three(grey.expand(-1, 3, -1, -1))
    for level, expected in zip(ours, theirs, strict=True):
        # Sixteen small filters are summed in another order than three large ones; the norms of narrow layers lift
        # the rounding to 1.4e-5 of activations of order 1.
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(
    ("prefix", "extra"),
    [
        ("", ()),
        ("", ("fc.weight", "head.fc.bias")),
        ("backbone.", ("decode_head.conv_seg.weight", "auxiliary_head.conv_seg.bias")),
        ("module.backbone.", ()),
    ],
)
def test_weights_are_found_in_the_files_that_trainings_leave(
    tmp_path: Path, prefix: str, extra: tuple[str, ...]
) -> None:
    path = tmp_path / "weights.pth"
    saved = _three_band_file(_RESNET, path, prefix=prefix, extra=extra).parts.state_dict()
    loaded = _network(_RESNET, _FCN, weights=path, channels=3).encoder.state_dict()
    assert {name.removeprefix("parts."): value.shape for name, value in loaded.items()} == {
        name: value.shape for name, value in saved.items()
    }
    assert all(torch.equal(loaded[f"parts.{name}"], value) for name, value in saved.items())


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    _three_band_file(_RESNET, path)
    with pytest.raises(WeightsError, match="do not fit") as refused:
        _network({**_RESNET, "depth": 34}, _FCN, weights=path)
    assert "\n" not in str(refused.value)
    with pytest.raises(WeightsError, match="do not fit"):
        _network(_MIT, _SEGFORMER, weights=path)
    with pytest.raises(WeightsError, match="no such file"):
        _network(_RESNET, _FCN, weights=tmp_path / "missing.pth")


def test_building_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    _network(_SWIN, _UPER)
    _network(_RESNET, _FCN)
    assert capfd.readouterr().out == ""
    # mmengine would log every parameter that it initialises, to the standard output of its first use.
    from mmengine.logging import MMLogger

    assert not MMLogger.get_current_instance().isEnabledFor(logging.INFO)
