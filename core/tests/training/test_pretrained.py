import pytest
import torch
from torch import nn

from geocore.training import pretrained

torch.manual_seed(0)
torch.set_num_threads(1)


def _conv(**options):
    torch.manual_seed(1)
    return nn.Conv2d(3, 8, 3, **{"padding": 1, "stride": 2, **options})


@pytest.mark.parametrize("bands", [1, 2, 4, 6, 13])
def test_equal_bands_give_the_output_of_equal_rgb(bands):
    conv, grey = _conv(), torch.randn(2, 1, 9, 9)
    adapted = pretrained.adapt_first_conv(conv, bands)
    assert adapted.weight.shape == (8, bands, 3, 3)
    torch.testing.assert_close(adapted(grey.expand(-1, bands, -1, -1)), conv(grey.expand(-1, 3, -1, -1)))


def test_one_band_gets_the_sum_of_the_filters():
    conv = _conv()
    adapted = pretrained.adapt_first_conv(conv, 1)
    torch.testing.assert_close(adapted.weight, conv.weight.sum(1, keepdim=True))


def test_options_of_the_convolution_are_kept():
    conv = _conv(bias=False, dilation=2, padding_mode="reflect").double().requires_grad_(False)
    adapted = pretrained.adapt_first_conv(conv, 5)
    assert adapted.bias is None and adapted.weight.dtype == torch.float64 and not adapted.weight.requires_grad
    assert (adapted.stride, adapted.dilation, adapted.padding) == ((2, 2), (2, 2), (1, 1))
    assert adapted.padding_mode == "reflect"
    assert pretrained.adapt_first_conv(conv, 3) is conv


@pytest.mark.parametrize(("conv", "bands"), [(nn.Conv2d(4, 4, 1, groups=2), 6), (nn.Conv2d(3, 4, 1), 0)])
def test_what_cannot_be_adapted_is_refused(conv, bands):
    with pytest.raises(ValueError):
        pretrained.adapt_first_conv(conv, bands)


def _model():
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 4, 3),
            "blocks": nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2)),
            "head": nn.Linear(4, 2),
            "header": nn.Linear(4, 2),
        }
    )


def test_layer_decay_groups_hold_every_trained_parameter_once():
    model = _model()
    model["stem"].bias.requires_grad_(False)
    groups = pretrained.layer_decay_groups(
        model, [["stem"], ["blocks.0"], ["blocks.1"], ["head"]], learning_rate=0.8, decay=0.5, weight_decay=0.1
    )
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    trained = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(trained) == len(rates)
    assert trained["stem.weight"] == (0.1, 0.1)
    assert trained["blocks.0.0.weight"] == (0.2, 0.1)
    assert trained["blocks.0.1.weight"] == (0.2, 0.0)
    assert trained["blocks.1.0.bias"] == (0.4, 0.0)
    assert trained["head.weight"] == trained["header.weight"] == (0.8, 0.1)
    torch.optim.AdamW(groups)
    with pytest.raises(ValueError, match="no parameter below neck"):
        pretrained.layer_decay_groups(model, [["neck"]], learning_rate=1, decay=1, weight_decay=0)
