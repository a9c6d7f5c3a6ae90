import pytest
import torch
from torch import nn

from geocore.device import DeviceContext
from geocore.training.gradients import backward

torch.set_num_threads(1)
CPU = DeviceContext(torch.device("cpu"))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def image():
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(1))


def sums(model, batch):
    """Three losses on one trunk; counts of which the reciprocal is rounded, and one of 0."""
    out = model(batch)
    return {
        "a": (out[:, 0].square().sum(), torch.tensor(3)),
        "b": (out[:, 1].abs().sum(), torch.tensor(7.0)),
        "c": (0.0 * out.sum(), torch.tensor(0)),
    }


def test_one_micro_batch_gives_the_bits_of_the_sum_of_quotients():
    """CPU, float32, one thread, one process."""
    expected, given = network(), network()
    quotients = [summed / max(float(count), 1.0) for summed, count in sums(expected, image()).values()]
    sum(quotients).backward()
    losses = backward(given, sums, iter([image()]), accumulate=1, context=CPU)
    assert list(losses) == ["a", "b", "c"] and not any(loss.requires_grad for loss in losses.values())
    assert all(torch.equal(one, other) for one, other in zip(losses.values(), quotients, strict=True))
    for one, other in zip(given.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad) and bool(one.grad.any())


def test_a_loss_that_hangs_on_no_parameter_is_reported_and_has_no_gradient():
    def constant(model, batch):
        return {"constant": (torch.tensor(6.0), torch.tensor(4)), **sums(model, batch)}

    with_it, without = network(), network()
    losses = backward(with_it, constant, iter([image()]), accumulate=1, context=CPU)
    backward(without, sums, iter([image()]), accumulate=1, context=CPU)
    assert float(losses["constant"]) == 1.5
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(with_it.parameters(), without.parameters(), strict=True))


def test_losses_of_which_none_hangs_on_a_parameter_are_refused():
    frozen = network().requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"):
        backward(frozen, sums, iter([image()]), accumulate=1, context=CPU)
