"""Batch normalization over the batch of all processes, so that several train what one trains."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from geocore.device import DeviceContext


def share_batch_norms(model: nn.Module, context: DeviceContext) -> nn.Module:
    """Have the batch norms of a model take mean and variance over the batches of all processes while they train.

    On CUDA they become torch's `SyncBatchNorm`; torch has none for a CPU, where they become `SharedBatchNorm`. Names
    and parameters stay, so that checkpoints and optimizers do not notice.

    Args:
        model: changed in place, unless it is a batch norm itself.
        context: with one process nothing happens.

    Returns:
        The model.
    """
    if context.world_size == 1:
        return model
    if context.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    return _shared(model)


class SharedBatchNorm(_BatchNorm):
    """A batch norm whose statistics in training are those of all processes; in evaluation it is torch's own."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two on: the one that was replaced has looked at them."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize.

        Args:
            input: shape (batch, channel, ...), of any floating type.
        """
        if not self.training:
            return super().forward(input)
        parts: tuple[Tensor, ...] = _Normalized.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps
        )
        normalized, mean, variance, count = parts
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (count / (count - 1).clamp_min(1)), share)
        return normalized


class _Normalized(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, and its gradient, with sums over all processes.

    Ioffe and Szegedy, Batch Normalization, 2015; the gradients are those of its section 3.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        counted = torch.cat([x.sum(dims), x.new_full((1,), x.numel() // x.shape[1])])
        dist.all_reduce(counted)
        mean, count = counted[:-1] / counted[-1], counted[-1]
        # A second pass instead of the mean of squares, which loses digits where the mean is large.
        centred = x - mean.view(shape)
        squares = (centred * centred).sum(dims)
        dist.all_reduce(squares)
        variance = squares / count
        scale = torch.rsqrt(variance + eps)
        hat = centred * scale.view(shape)
        ctx.save_for_backward(hat, scale, weight, count)
        ctx.mark_non_differentiable(mean, variance, count)
        result = hat if weight is None else hat * weight.view(shape)
        if bias is not None:
            result = result + bias.view(shape)
        return result.to(input.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hat, scale, weight, count = ctx.saved_tensors
        given = gradients[0]
        g = given.to(hat.dtype)
        dims = [0, *range(2, g.dim())]
        shape = [1, -1, *[1] * (g.dim() - 2)]
        of_bias, of_weight = g.sum(dims), (g * hat).sum(dims)
        # Every process's pixels have a part in every mean; DistributedDataParallel sums those of weight and bias.
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        mean_g, mean_g_hat = (sums / count).view(2, *shape)
        of_input = (g - mean_g - hat * mean_g_hat) * (scale if weight is None else scale * weight).view(shape)
        affine = weight is not None
        return of_input.to(given.dtype), of_weight if affine else None, of_bias if affine else None, None


def _shared(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm) and not isinstance(module, SharedBatchNorm | nn.SyncBatchNorm):
        made = SharedBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        # The very tensors, which optimizers hold.
        made._parameters, made._buffers = module._parameters, module._buffers
        made.train(module.training)
        return made
    for name, child in module.named_children():
        new = _shared(child)
        if new is not child:
            setattr(module, name, new)
    return module
