"""ConvSTAR against its formula, written out with plain convolutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from crops_activesampling.convstar import ConvStar, StarCell


def _network(*, bands: int = 3, layers: int = 2) -> ConvStar:
    torch.manual_seed(0)
    return ConvStar(bands, 4, hidden=5, layers=layers)


def _images(dates: int = 3, bands: int = 3, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, dates * bands, 7, 6, generator=torch.Generator().manual_seed(seed))


def test_a_cell_is_its_formula() -> None:
    torch.manual_seed(0)
    cell = StarCell(2, 3)
    given, state = torch.randn(1, 2, 5, 5), torch.rand(1, 3, 5, 5)
    gate = functional.conv2d(torch.cat([given, state], 1), cell.gate.weight, cell.gate.bias, padding=1)
    k = 1 / (1 + torch.exp(-gate))
    new = torch.tanh(functional.conv2d(given, cell.update.weight, cell.update.bias, padding=1))
    # Sigmoid by its definition: 1 unit in the last place of float32 off.
    torch.testing.assert_close(cell(given, state), k * state + (1 - k) * new, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("layers", [1, 3])
def test_dates_are_read_in_turn_and_layers_above_one_another(layers: int) -> None:
    network, images = _network(layers=layers), _images()
    states = [torch.zeros(2, 5, 7, 6) for _ in range(layers)]
    for date in range(3):
        below = images[:, 3 * date : 3 * date + 3]
        for layer in range(layers):
            states[layer] = network.cells[layer](below, states[layer])
            below = states[layer]
    assert torch.equal(network(images), network.last(states[-1]))


def test_the_order_of_the_dates_matters_and_any_number_of_them_is_taken() -> None:
    network, images = _network(), _images()
    turned = torch.cat([images[:, 6:], images[:, 3:6], images[:, :3]], dim=1)
    assert not torch.allclose(network(images), network(turned), atol=1e-3)
    assert network(_images(dates=7)).shape == (2, 4, 7, 6)


def test_every_parameter_has_a_gradient_and_the_first_date_reaches_the_result() -> None:
    network, images = _network(), _images(dates=12).requires_grad_()
    network(images).square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in network.parameters())
    assert images.grad is not None
    early, late = images.grad[:, :3].abs().mean(), images.grad[:, -3:].abs().mean()
    # Gates at sigmoid(1) keep 0.73 of the state a date in each of two layers: measured 0.19.
    assert early / late > 0.05


def test_another_number_of_bands_is_refused() -> None:
    with pytest.raises(RuntimeError, match="unflatten"):
        _network(bands=4)(_images(bands=3))
