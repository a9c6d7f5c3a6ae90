import math

import pytest
import torch
from torch.nn import functional

from geocore.training import losses

torch.set_num_threads(1)


def _logits(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def _labels(*shape, classes=3, seed=1, ignore=255):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.3] = ignore
    return labels


def _binary(*shape, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) < 0.4, torch.rand(shape, generator=generator) < 0.7


WEIGHTS = torch.tensor([0.5, 2.0, 3.0])
CASES = {
    "cross_entropy": lambda x, t, v: losses.masked_cross_entropy(x, torch.where(v, t.long(), 255)[:, 0], 255),
    "cross_entropy_weighted": lambda x, t, v: losses.masked_cross_entropy(
        x, torch.where(v, t.long(), 255)[:, 0], 255, class_weights=WEIGHTS
    ),
    "bce": lambda x, t, v: losses.masked_bce_with_logits(x[:, :1], t, v, pos_weight=3.0),
    "dice": lambda x, t, v: losses.masked_dice(x[:, :1], t, v),
}


@pytest.mark.parametrize("name", CASES)
def test_parts_of_a_batch_add_up_to_the_whole(name):
    x = _logits(6, 3, 5, 4)
    target, valid = _binary(6, 1, 5, 4)
    valid[4:] = False  # the last part has nothing to count
    total, count = CASES[name](x, target, valid)
    whole = torch.autograd.grad(total, x)[0]
    parts = [CASES[name](x[i:j], target[i:j], valid[i:j]) for i, j in ((0, 1), (1, 4), (4, 6))]
    assert sum(part[0] for part in parts).item() == pytest.approx(total.item(), rel=1e-5)
    assert sum(part[1] for part in parts).item() == pytest.approx(count.item(), rel=1e-6)
    assert count > 0 and total > 0
    torch.testing.assert_close(torch.autograd.grad(sum(part[0] for part in parts), x)[0], whole)


@pytest.mark.parametrize("name", CASES)
def test_nothing_valid_is_zero_with_zero_gradients(name):
    x = _logits(2, 3, 4, 4)
    total, count = CASES[name](x, torch.ones(2, 1, 4, 4, dtype=torch.bool), torch.zeros(2, 1, 4, 4, dtype=torch.bool))
    assert (total.item(), count.item()) == (0.0, 0.0)
    assert total.shape == count.shape == ()
    total.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_is_zero(name):
    x = _logits(0, 3, 4, 4)
    nothing = torch.zeros(0, 1, 4, 4, dtype=torch.bool)
    total, count = CASES[name](x, nothing, nothing)
    total.backward()
    assert (total.item(), count.item()) == (0.0, 0.0)


@pytest.mark.parametrize("name", CASES)
def test_gradients_match_finite_differences(name):
    x = _logits(2, 3, 3, 2, seed=5)
    target, valid = _binary(2, 1, 3, 2)
    gradient = torch.autograd.grad(CASES[name](x, target, valid)[0], x)[0].flatten()
    # Losses are float32, so that central differences are good to about 1e-3.
    for element in range(x.numel()):
        step = torch.zeros(x.numel())
        step[element] = 1e-2
        ahead, behind = (
            CASES[name]((x + sign * step.view_as(x)).detach(), target, valid)[0].double() for sign in (1, -1)
        )
        assert gradient[element].item() == pytest.approx(((ahead - behind) / 2e-2).item(), abs=3e-3)


@pytest.mark.parametrize("name", CASES)
def test_invalid_pixels_get_no_gradient(name):
    x = _logits(3, 3, 4, 4)
    target, valid = _binary(3, 1, 4, 4)
    CASES[name](x, target, valid)[0].backward()
    assert torch.equal(torch.where(valid, 0.0, x.grad), torch.zeros_like(x))
    assert (x.grad[:, :1][valid] != 0).all()


@pytest.mark.parametrize("name", ["bce", "dice"])
def test_nan_targets_do_not_matter_where_they_are_invalid(name):
    x = _logits(3, 3, 4, 4)
    target, valid = _binary(3, 1, 4, 4)
    clean = CASES[name](x, target.float(), valid)[0]
    dirty = CASES[name](x, torch.where(valid, target.float(), torch.nan), valid)[0]
    assert clean.item() == dirty.item()
    assert torch.equal(torch.autograd.grad(clean, x)[0], torch.autograd.grad(dirty, x)[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_divides_into_torchs_mean(dtype, weights):
    x, labels = _logits(4, 3, 5, 5), _labels(4, 5, 5)
    total, count = losses.masked_cross_entropy(x, labels.to(dtype), 255, class_weights=weights)
    expected = functional.cross_entropy(x, labels, weight=weights, ignore_index=255)
    assert (total / count).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cross_entropy_without_ignored_label_counts_every_pixel():
    total, count = losses.masked_cross_entropy(_logits(2, 3, 4), torch.zeros(2, 4, dtype=torch.uint8), None)
    assert count == 8 and total > 0


def test_half_precision_logits_are_summed_in_float32():
    x = torch.zeros(1, 2, 300, 300, dtype=torch.bfloat16)
    total, count = losses.masked_cross_entropy(x, torch.zeros(1, 300, 300, dtype=torch.uint8), 255)
    assert total.dtype == count.dtype == torch.float32
    assert total.item() == pytest.approx(90000 * math.log(2), rel=1e-5)


def test_bce_divides_into_torchs_mean():
    x, (target, _) = _logits(3, 1, 4, 4), _binary(3, 1, 4, 4)
    total, count = losses.masked_bce_with_logits(x, target)
    expected = functional.binary_cross_entropy_with_logits(x, target.float())
    assert (total / count).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_mask_of_one_band_serves_all_bands():
    x, (target, valid) = _logits(2, 3, 4, 4), _binary(2, 3, 4, 4)
    _, count = losses.masked_bce_with_logits(x, target, valid[:, :1])
    assert count.item() == 3 * valid[:, :1].sum().item()


def test_dice_is_zero_for_a_perfect_mask_and_counts_samples():
    target = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    target[0, :, :4] = True  # the second sample is empty, the third has no valid pixel
    valid = torch.ones_like(target)
    valid[2] = False
    total, count = losses.masked_dice(torch.where(target, 30.0, -30.0), target, valid)
    assert count == 2
    assert total.item() == pytest.approx(0.0, abs=1e-6)
    worst, _ = losses.masked_dice(torch.where(target, -30.0, 30.0)[:1], target[:1])
    assert worst.item() == pytest.approx(1 - 1 / 65, rel=1e-5)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="must be equal"):
        losses.masked_bce_with_logits(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))
