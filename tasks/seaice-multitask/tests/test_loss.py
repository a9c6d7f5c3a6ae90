"""The training losses against plain torch, and what masked pixels must not do to them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from seaice_multitask.config import AUTOICE_OUTPUTS, OutputSettings
from seaice_multitask.loss import masked_mse, output_losses

_SIC = OutputSettings(kind="regression", classes=11, loss="mean-square")
_SOD = OutputSettings(classes=6)


def _random(classes: int, *, seed: int = 0, ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    """Logits of shape (2, classes, 7, 9) and a chart whose share `ignored` is masked."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 7, 9, generator=generator, requires_grad=True)
    target = torch.randint(classes, (2, 7, 9), generator=generator).to(torch.uint8)
    target[torch.rand(2, 7, 9, generator=generator) < ignored] = 255
    return logits, target


def _values(seed: int = 0, ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    """Values of shape (2, 1, 7, 9), tenths, and a chart of concentrations."""
    _, target = _random(11, seed=seed, ignored=ignored)
    generator = torch.Generator().manual_seed(seed + 1)
    return (10 * torch.rand(2, 1, 7, 9, generator=generator)).requires_grad_(), target


def _mean(raw: Tensor, target: Tensor, chosen: OutputSettings) -> Tensor:
    total, count = output_losses({"X": raw}, {"X": target}, {"X": chosen})["X"]
    return total / count


def test_without_masked_pixels_losses_are_those_of_torch() -> None:
    values, concentration = _values()
    logits, stage = _random(6)
    assert torch.equal(
        _mean(logits, stage, _SOD), functional.cross_entropy(logits, stage.long(), reduction="sum") / 126
    )
    # A mean in one go rounds differently from a sum that is divided: 2 units in the last place of float32.
    torch.testing.assert_close(
        _mean(logits, stage, _SOD), functional.cross_entropy(logits, stage.long()), rtol=3e-7, atol=0
    )
    expected = functional.mse_loss(values[:, 0], concentration.float())
    torch.testing.assert_close(_mean(values, concentration, _SIC), expected, rtol=3e-7, atol=0)


def test_masked_pixels_are_left_out_of_sum_and_count() -> None:
    logits, stage = _random(6, ignored=0.4)
    total, count = output_losses({"SOD": logits}, {"SOD": stage}, {"SOD": _SOD})["SOD"]
    assert count.item() == (stage != 255).sum().item() < 126
    expected = functional.cross_entropy(logits, stage.long(), ignore_index=255)
    torch.testing.assert_close(total / count, expected, rtol=3e-7, atol=0)
    values, concentration = _values(ignored=0.4)
    kept = concentration != 255
    expected = functional.mse_loss(values[:, 0][kept], concentration[kept].float())
    torch.testing.assert_close(_mean(values, concentration, _SIC), expected, rtol=3e-7, atol=0)


@pytest.mark.parametrize("output", ["SIC", "SOD"])
def test_scale_does_not_depend_on_the_share_of_masked_pixels(output: str) -> None:
    """D9: the labelled pixels of a batch cost the same, whatever masked area lies beside them."""
    raw, target = _values() if output == "SIC" else _random(6)
    chosen = AUTOICE_OUTPUTS[output]
    wider_raw = torch.cat([raw, torch.full_like(raw, 3.0)], dim=-1)
    wider = torch.cat([target, torch.full_like(target, 255)], dim=-1)
    # The sum runs over twice as many addends, half of them 0: 1 unit in the last place of float32.
    torch.testing.assert_close(_mean(wider_raw, wider, chosen), _mean(raw, target, chosen), rtol=2e-7, atol=0)
    (gradient,) = torch.autograd.grad(_mean(wider_raw, wider, chosen), raw)
    (alone,) = torch.autograd.grad(_mean(raw, target, chosen), raw)
    torch.testing.assert_close(gradient, alone, rtol=1e-6, atol=0)


def test_batch_without_a_label_costs_nothing_and_has_finite_gradients() -> None:
    """D8: sum, count and gradients are 0, not NaN."""
    raw = {"SIC": _values()[0], "SOD": _random(6)[0], "FLOE": _random(7)[0]}
    nothing = torch.full((2, 7, 9), 255, dtype=torch.uint8)
    losses = output_losses(raw, dict.fromkeys(raw, nothing), AUTOICE_OUTPUTS)
    assert [count.item() for _, count in losses.values()] == [0, 0, 0]
    assert [total.item() for total, _ in losses.values()] == [0, 0, 0]
    torch.stack([total for total, _ in losses.values()]).sum().backward()
    for values in raw.values():
        assert values.grad is not None
        assert torch.equal(values.grad, torch.zeros_like(values))


def test_one_output_without_labels_leaves_the_others_as_they_are() -> None:
    logits, stage = _random(6)
    values, _ = _values()
    nothing = torch.full((2, 7, 9), 255, dtype=torch.uint8)
    both = output_losses({"SIC": values, "SOD": logits}, {"SIC": nothing, "SOD": stage}, {"SIC": _SIC, "SOD": _SOD})
    alone = output_losses({"SOD": logits}, {"SOD": stage}, {"SOD": _SOD})
    assert both["SIC"][1].item() == 0
    assert torch.equal(both["SOD"][0], alone["SOD"][0])


def test_value_that_is_not_finite_under_the_mask_does_not_reach_the_gradient() -> None:
    prediction = torch.tensor([2.0, float("inf"), float("nan")], requires_grad=True)
    total, count = masked_mse(prediction, torch.tensor([5.0, 0.0, 0.0]), torch.tensor([True, False, False]))
    total.backward()  # type: ignore[no-untyped-call]
    assert (total.item(), count.item()) == (9, 1)
    assert prediction.grad is not None
    assert prediction.grad.tolist() == [-6, 0, 0]


def test_targets_below_the_prediction_do_not_wrap_around() -> None:
    """Charts are unsigned: 2 - 5 must not become 253."""
    target = torch.tensor([[[5, 0]]], dtype=torch.uint8)
    assert _mean(torch.tensor([[[[2.0, 1.0]]]]), target, _SIC).item() == (9 + 1) / 2


def test_weights_multiply_sums_and_not_counts() -> None:
    logits, stage = _random(6, ignored=0.4)
    plain = output_losses({"SOD": logits}, {"SOD": stage}, {"SOD": _SOD})["SOD"]
    threefold = output_losses({"SOD": logits}, {"SOD": stage}, {"SOD": _SOD.model_copy(update={"weight": 3.0})})["SOD"]
    assert threefold[0].item() == pytest.approx(3 * plain[0].item())
    assert threefold[1] == plain[1]


@pytest.mark.parametrize("output", ["SIC", "SOD"])
def test_masked_pixels_never_count_even_where_another_class_is_ignored(output: str) -> None:
    """With `ignore: 0`, 255 is still no class: neither an index out of range nor a concentration of 255 tenths."""
    raw, target = _values(ignored=0.4) if output == "SIC" else _random(6, ignored=0.4)
    chosen = AUTOICE_OUTPUTS[output].model_copy(update={"ignore": 0})
    total, count = output_losses({output: raw}, {output: target}, {output: chosen})[output]
    assert count.item() == ((target != 255) & (target != 0)).sum().item()
    assert total.isfinite()
    assert total / count < 100 * chosen.weight


def test_losses_are_one_for_each_output_and_nothing_else() -> None:
    """D10: no accuracy by arg-max over the one channel of a regression."""
    raw = {"SIC": _values()[0], "SOD": _random(6)[0], "FLOE": _random(7)[0]}
    targets = {"SIC": _values()[1], "SOD": _random(6)[1], "FLOE": _random(7)[1]}
    assert list(output_losses(raw, targets, AUTOICE_OUTPUTS)) == ["SIC", "SOD", "FLOE"]


def test_half_precision_outputs_are_summed_in_float32() -> None:
    values, concentration = _values()
    half = values.detach().bfloat16()
    expected = (half[:, 0].float() - concentration).square().sum()
    total, _ = output_losses({"SIC": half}, {"SIC": concentration}, {"SIC": _SIC})["SIC"]
    assert total.dtype == torch.float32
    assert torch.equal(total, expected)
