"""Gradients of a step's loss, over micro-batches and processes.

A task's step gives (sum, count) for each named loss of a micro-batch. The loss of an optimizer step is

    sum over names of (sum over all micro-batches and processes) / (count over all micro-batches and processes)

so that a pixel weighs the same however the batch is cut. A name whose count is 0 everywhere contributes 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from geocore.device import DeviceContext, to_device

SumCount = tuple[Tensor, Tensor]
Step = Callable[[nn.Module, Any], Mapping[str, SumCount]]
"""step(model, batch on the device) -> loss name -> (sum, count), scalars; runs inside autocast. It calls the model
only as `model(...)`: in a distributed run that call is what keeps the processes in step."""


Losses = dict[str, Tensor]
"""The losses of one optimizer step over all processes: name -> float32 scalar on the device, without graph."""


def backward(model: nn.Module, step: Step, source: Iterator[Any], *, accumulate: int, context: DeviceContext) -> Losses:
    """Consume the micro-batches of one optimizer step and leave the gradient of its loss in the parameters.

    Args:
        model: plain, or wrapped for a distributed run. Its parameters have no gradient yet.
        step: computes the losses of a micro-batch.
        source: micro-batches, on the CPU.
        accumulate: micro-batches in this step.
        context: where it runs.

    Raises:
        ValueError: the micro-batches of a step give losses of different names.
    """
    if accumulate == 1:
        return _backward_one(model, step, source, context)
    return _backward_many(model, step, source, accumulate, context)


def _backward_one(model: nn.Module, step: Step, source: Iterator[Any], context: DeviceContext) -> Losses:
    """One micro-batch: the counts are known before the backward pass, which sums over processes as it goes."""
    names, sums, counts = _forward(model, step, source, context)
    if context.world_size == 1:
        divisors = [_divisor(count) for count in counts]
        _backpropagate(sums, divisors)
        return {name: summed.detach() / divisor for name, summed, divisor in zip(names, sums, divisors, strict=True)}
    everywhere = context.all_reduce_sum(torch.stack([*(summed.detach() for summed in sums), *counts]))
    all_sums, all_counts = everywhere.chunk(2)
    all_divisors = _divisor(all_counts)
    # DistributedDataParallel divides the sum over processes by their number.
    _backpropagate(sums, (all_divisors / context.world_size).unbind())
    return dict(zip(names, (all_sums / all_divisors).unbind(), strict=True))


def _backward_many(
    model: nn.Module, step: Step, source: Iterator[Any], accumulate: int, context: DeviceContext
) -> Losses:
    """Several micro-batches: counts are known after the last one, so each loss has its own gradient until then."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    names: tuple[str, ...] = ()
    gradients: list[list[Tensor | None]] = []
    totals = torch.zeros(0)
    for micro in range(accumulate):
        with _unsynchronised(model):
            given, sums, counts = _forward(model, step, source, context)
            if micro == 0:
                names, totals = given, torch.zeros(2 * len(given), device=context.device)
                gradients = [[None] * len(parameters) for _ in names]
            elif given != names:
                raise ValueError(f"the losses of a step's micro-batches differ: {names}, then {given}")
            for index, summed in enumerate(sums):
                for parameter, held in zip(parameters, gradients[index], strict=True):
                    parameter.grad = held
                summed.backward(retain_graph=index + 1 < len(names))  # type: ignore[no-untyped-call]
                gradients[index] = [parameter.grad for parameter in parameters]
            totals += torch.stack([*(summed.detach() for summed in sums), *counts])
    all_sums, all_counts = context.all_reduce_sum(totals).chunk(2)
    divisors = _divisor(all_counts)
    for divisor, held_by_loss in zip(divisors.unbind(), gradients, strict=True):
        torch._foreach_div_([gradient for gradient in held_by_loss if gradient is not None], divisor)
    for parameter, *held_by_parameter in zip(parameters, *gradients, strict=True):
        parts = [gradient for gradient in held_by_parameter if gradient is not None]
        for part in parts[1:]:
            parts[0].add_(part)
        parameter.grad = parts[0] if parts else None
    if context.world_size > 1:
        _sum_over_processes(parameters, context)
    return dict(zip(names, (all_sums / divisors).unbind(), strict=True))


def _forward(
    model: nn.Module, step: Step, source: Iterator[Any], context: DeviceContext
) -> tuple[tuple[str, ...], list[Tensor], list[Tensor]]:
    """Return loss names, their sums with their graphs, and their counts; all float32 scalars."""
    batch = to_device(next(source), context)
    with context.autocast():
        losses = step(model, batch)
    sums = [summed.float() for summed, _ in losses.values()]
    # float32 counts every pixel up to 2**24 and is off by less than 6e-8 of the count beyond.
    counts = [torch.as_tensor(count, device=context.device).detach().float() for _, count in losses.values()]
    return tuple(losses), sums, counts


def _divisor(counts: Tensor) -> Tensor:
    """Return the counts, with 1 in place of 0: the sum that belongs to it is 0."""
    # On a CPU looking at a number costs a tenth of the arithmetic; elsewhere it would wait for the device.
    if counts.is_cpu and counts.ndim == 0 and counts:
        return counts
    return counts + (counts == 0)


def _backpropagate(sums: Sequence[Tensor], divisors: Sequence[Tensor]) -> None:
    """Leave the gradient of the sum over losses of sum / divisor in the parameters.

    The backward pass starts at the sums with 1 / divisor, as it would arrive there from the quotients, which so need
    no graph. A loss that hangs on no parameter is left out, unless there is no other: then torch refuses.
    """
    pairs = list(zip(sums, divisors, strict=True))
    starts = [pair for pair in pairs if pair[0].requires_grad] or pairs
    torch.autograd.backward([summed for summed, _ in starts], [divisor.reciprocal() for _, divisor in starts])


def _unsynchronised(model: nn.Module) -> AbstractContextManager[object]:
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _sum_over_processes(parameters: list[nn.Parameter], context: DeviceContext) -> None:
    """Sum the gradients in the parameters over all processes; one that no process has stays None."""
    present = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=context.device)
    pieces = [torch.zeros_like(item) if item.grad is None else item.grad for item in parameters]
    flat = context.all_reduce_sum(torch.cat([present, *(piece.flatten().float() for piece in pieces)]))
    # Read back only where it matters, since reading waits for the device.
    somewhere = flat[: len(parameters)].tolist() if any(item.grad is None for item in parameters) else None
    start = len(parameters)
    for index, (parameter, piece) in enumerate(zip(parameters, pieces, strict=True)):
        summed = flat[start : start + piece.numel()].view(piece.shape)
        start += piece.numel()
        if somewhere is None or somewhere[index]:
            parameter.grad = piece.copy_(summed)
