"""Batch norms of several processes; equality of trained weights is tested with two real ones in test_distributed."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from geocore.device import DeviceContext
from geocore.training.batchnorm import SharedBatchNorm, share_batch_norms

ALONE = DeviceContext(torch.device("cpu"))
TWO = DeviceContext(torch.device("cpu"), rank=0, world_size=2)


@pytest.fixture
def alone(tmp_path):
    """A group of one process: what is shared is what a batch norm of torch computes."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()), nn.Conv2d(6, 2, 1))


def test_one_process_keeps_its_modules_and_several_keep_tensors_and_names():
    model = network()
    assert share_batch_norms(model, ALONE) is model and type(model[1][0]) is nn.BatchNorm2d
    before = {name: id(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
    assert share_batch_norms(model, TWO) is model and type(model[1][0]) is SharedBatchNorm
    assert {name: id(value) for name, value in (*model.named_parameters(), *model.named_buffers())} == before
    assert share_batch_norms(model, TWO)[1][0] is model[1][0]


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shared_batch_norm_of_one_process_is_that_of_torch(alone, options, dtype):
    """Against torch's own: outputs, gradients and running statistics over three steps."""
    own = nn.BatchNorm2d(3, **options).to(dtype)
    shared = share_batch_norms(nn.Sequential(nn.BatchNorm2d(3, **options).to(dtype)), TWO)
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype is torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        given = torch.randn(4, 3, 5, 7, generator=random, dtype=dtype) * 3 + 50
        first, second = given.clone().requires_grad_(), given.clone().requires_grad_()
        weight = torch.randn(given.shape, generator=random, dtype=dtype)
        (own(first) * weight).sum().backward()
        (shared(second) * weight).sum().backward()
        torch.testing.assert_close(shared(given), own(given), **tolerance)
        torch.testing.assert_close(second.grad, first.grad, **tolerance)
        for mine, theirs in zip(shared[0].parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4)
        for mine, theirs in zip(shared[0].buffers(), own.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, **tolerance)
    own.eval(), shared.eval()
    torch.testing.assert_close(shared(given), own(given), **tolerance)


def test_half_precision_is_normalized_in_float32(alone):
    shared = share_batch_norms(nn.Sequential(nn.BatchNorm2d(2)), TWO)
    given = (torch.randn(8, 2, 16, 16) + 200).bfloat16()
    result = shared(given)
    assert result.dtype is torch.bfloat16
    assert result.float().mean((0, 2, 3)).abs().max() < 0.02 and (result.float().std((0, 2, 3)) - 1).abs().max() < 0.02
