"""Heads: order of channels, names of the released checkpoints, sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from floods_prithvi.heads import FcnHead, Neck, UnetHead, tokens_to_image


def test_tokens_become_an_image_whose_channels_are_dims_of_all_dates() -> None:
    times, rows, cols, dim = 3, 2, 5, 4
    tokens = torch.full((2, 1 + times * rows * cols, dim), -1.0)
    for sample in range(2):
        for time in range(times):
            for row in range(rows):
                for col in range(cols):
                    for d in range(dim):
                        tag = 10000 * sample + 1000 * time + 100 * row + 10 * col + d
                        tokens[sample, 1 + (time * rows + row) * cols + col, d] = tag
    image = tokens_to_image(tokens, times, rows, cols)
    assert image.shape == (2, dim * times, rows, cols)
    for sample in range(2):
        for time in range(times):
            for d in range(dim):
                plane = image[sample, d * times + time]
                row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
                assert torch.equal(plane, (10000 * sample + 1000 * time + 100 * row + 10 * col + d).float())


def test_released_names() -> None:
    assert set(Neck(8).state_dict()) == {
        f"fpn{number}.{layer}.{kind}"
        for number in (1, 2)
        for layer in ("0", "1.ln", "3")
        for kind in ("weight", "bias")
    }
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(FcnHead(8, 4, convs=2, classes=3, dropout=0.1).state_dict()) == {
        *(f"convs.{number}.conv.weight" for number in (0, 1)),
        *(f"convs.{number}.bn.{kind}" for number in (0, 1) for kind in norm),
        "conv_seg.weight",
        "conv_seg.bias",
    }


def test_neck_is_four_steps_of_two_with_a_norm_in_each_half() -> None:
    torch.manual_seed(0)
    neck = Neck(6)
    state = neck.state_dict()
    for name in state:
        if ".ln." in name:
            state[name].normal_()
    image = torch.randn(2, 6, 3, 2)
    expected = image
    for part in ("fpn1", "fpn2"):
        expected = F.conv_transpose2d(expected, state[f"{part}.0.weight"], state[f"{part}.0.bias"], stride=2)
        centred = expected - expected.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        normed = scaled * state[f"{part}.1.ln.weight"].view(1, -1, 1, 1) + state[f"{part}.1.ln.bias"].view(1, -1, 1, 1)
        expected = F.gelu(normed)
        expected = F.conv_transpose2d(expected, state[f"{part}.3.weight"], state[f"{part}.3.bias"], stride=2)
    with torch.no_grad():
        found = neck(image)
    assert found.shape == (2, 6, 48, 32)
    # Sums of six numbers in another order; measured 2.4e-7. An epsilon of 1e-5 makes 5e-4.
    assert float((found - expected).abs().max()) < 2e-6


@pytest.mark.parametrize("convs", [0, 1, 2])
def test_fcn_head_is_convolution_norm_relu_and_a_classifier(convs: int) -> None:
    torch.manual_seed(0)
    head = FcnHead(6, 5, convs=convs, classes=3, dropout=0.5).eval()
    state = head.state_dict()
    for name in state:
        if ".bn." in name and "num" not in name:
            state[name].uniform_(0.5, 1.5)
    expected = pixels = torch.randn(2, 6, 9, 7)
    for number in range(convs):
        bn = {kind: state[f"convs.{number}.bn.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias")}
        expected = F.conv2d(expected, state[f"convs.{number}.conv.weight"], padding=1)
        expected = F.relu(F.batch_norm(expected, **bn, eps=1e-5))
    expected = F.conv2d(expected, state["conv_seg.weight"], state["conv_seg.bias"])
    with torch.no_grad():
        assert torch.equal(head(pixels), expected)


def test_dropout_leaves_out_whole_channels_in_training() -> None:
    head = FcnHead(6, 40, convs=1, classes=2, dropout=0.5).train()
    seen: list[Tensor] = []
    head.conv_seg.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torch.manual_seed(0)
    head(torch.randn(2, 6, 8, 8))
    left_out = (seen[0] == 0).flatten(2).all(dim=2)
    assert 0.3 < float(left_out.float().mean()) < 0.7


@pytest.mark.parametrize(("rows", "cols"), [(2, 2), (3, 5)])
def test_unet_head_reads_all_four_blocks(rows: int, cols: int) -> None:
    torch.manual_seed(0)
    head = UnetHead(24, classes=3, dropout=0.0).train()
    features = [torch.randn(2, 24, rows, cols, requires_grad=True) for _ in range(4)]
    logits = head(features)
    assert logits.shape == (2, 3, 16 * rows, 16 * cols)
    logits.square().sum().backward()
    for feature in features:
        assert feature.grad is not None and float(feature.grad.abs().max()) > 0
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert head.conv_seg.weight.shape == (3, 16, 1, 1)


def test_first_block_makes_the_finest_level() -> None:
    head = UnetHead(24, classes=2, dropout=0.0).eval()
    feature = torch.randn(1, 24, 2, 3)
    with torch.no_grad():
        sizes = [tuple(level(feature).shape[-2:]) for level in head.levels]
    assert sizes == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_unet_head_wants_four_blocks() -> None:
    with pytest.raises(ValueError, match="must be those of 4 blocks"):
        UnetHead(24, classes=2, dropout=0.0)([torch.zeros(1, 24, 2, 2)] * 3)
