"""The backbone: names and sizes of the released variants, sizes and dates of images, time and place."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor

from floods_prithvi.backbone import Prithvi, padded
from floods_prithvi.config import Variant
from floods_prithvi.positional_encoding import resized, sincos_1d, sincos_3d
from floods_prithvi.variants import VARIANTS
from geocore.errors import SettingsError

SMALL = replace(VARIANTS["v2-tiny"], dim=48, depth=3, heads=3, patch_px=8)
NAN = float("nan")


def _backbone(*, frames: int = 1, coordinates: bool = False, seed: int = 0, **changes: object) -> Prithvi:
    torch.manual_seed(seed)
    return Prithvi(SMALL, frames=frames, image_px=32, coordinates=coordinates, **changes).eval()  # type: ignore[arg-type]


def _images(frames: int, rows: int, cols: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 6, frames, rows, cols, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("variant", "millions"),
    # 12 D^2 + 13 D a block, 6 p^2 D + D for the patches, D for the class token, 2 D for the last norm.
    [("v1-100m", 86.2), ("v2-tiny", 5.6), ("v2-100m", 86.2), ("v2-300m", 303.9), ("v2-600m", 631.2), ("crop-6", 43.7)],
)
def test_variants_have_the_released_sizes(variant: Variant, millions: float) -> None:
    spec = VARIANTS[variant]
    with torch.device("meta"):
        backbone = Prithvi(spec, frames=spec.frames, coordinates=False)
    assert round(sum(one.numel() for one in backbone.parameters()) / 1e6, 1) == millions
    assert "pos_embed" not in backbone.state_dict()
    edge = 224 // spec.patch_px
    assert backbone.pos_embed.shape == (1, 1 + spec.frames * edge * edge, spec.dim)
    assert spec.dim % spec.heads == 0 and len(spec.mean) == len(spec.std) == 6
    assert all(0 <= tap < spec.depth for tap in spec.taps) and spec.taps[-1] == spec.depth - 1


def test_every_variant_of_the_settings_is_there() -> None:
    assert set(VARIANTS) == set(get_args(Variant))
    assert all(name == spec.name for name, spec in VARIANTS.items())


def test_a_block_is_that_of_timm() -> None:
    theirs = Block(48, 3, 4.0, qkv_bias=True).eval()  # timm's norms have 1e-6, Prithvi's 1e-5
    theirs.norm1.eps = theirs.norm2.eps = 1e-5
    block = _backbone().blocks[1]
    theirs.load_state_dict(block.state_dict())
    tokens = torch.randn(2, 17, 48)
    with torch.no_grad():
        # Measured 0; with timm's own 1e-6 in the norms, 1.4e-5.
        assert float((block(tokens) - theirs(tokens)).abs().max()) < 1e-6


def test_tokens_are_patches_in_order_of_date_row_column() -> None:
    backbone = _backbone(frames=2)
    images = torch.zeros(1, 6, 2, 16, 24)
    images[0, :, 1, 8:16, 16:24] = 1.0  # date 1, row 1, column 2 of 2 x 2 x 3 tokens
    with torch.no_grad():
        tokens = backbone.patch_embed(images)[0]
    differs = (tokens - backbone.patch_embed.proj.bias).abs().sum(dim=1) > 1e-6
    assert differs.nonzero().flatten().tolist() == [(1 * 2 + 1) * 3 + 2]


@pytest.mark.parametrize(("rows", "cols"), [(32, 32), (40, 24), (33, 47), (7, 3), (1, 1)])
def test_any_size_gives_the_tokens_that_grid_of_says(rows: int, cols: int) -> None:
    backbone = _backbone(frames=2)
    with torch.no_grad():
        found = backbone(_images(2, rows, cols))
    times, down, across = backbone.grid_of(rows, cols)
    assert (times, down, across) == (2, -(-rows // 8), -(-cols // 8))
    assert [one.shape for one in found] == [(2, 1 + times * down * across, 48)] * 3
    assert all(bool(one.isfinite().all()) for one in found)


def test_images_are_continued_by_their_mirror_image() -> None:
    images = _images(2, 13, 21)
    expected = F.pad(images, (0, 3, 0, 3, 0, 0), mode="reflect")
    assert torch.equal(padded(images, 8), expected)
    with torch.no_grad():
        backbone = _backbone(frames=2)
        for one, other in zip(backbone(images), backbone(expected), strict=True):
            assert torch.equal(one, other)


def test_small_images_are_continued_by_their_last_row_and_column() -> None:
    images = _images(1, 9, 3)
    found = padded(images, 8)
    assert found.shape == (2, 6, 1, 16, 8)
    assert torch.equal(found[..., :9, :3], images)
    assert torch.equal(found[..., :9, 3:], images[..., -1:].expand(-1, -1, -1, -1, 5))
    assert torch.equal(found[..., 9:, :3], images[..., 1:8, :].flip(-2))
    whole = _images(1, 8, 16)
    assert padded(whole, 8) is whole


def test_position_code_of_other_sizes_and_dates() -> None:
    stretched, anew = _backbone(frames=2), _backbone(frames=2, positions="regenerated")
    kept = sincos_3d(48, (2, 4, 4), cls=True)
    for grid in ((2, 4, 4), (2, 7, 5), (3, 4, 4)):
        assert torch.equal(stretched._position_code(grid), resized(kept, (2, 4, 4), grid))
        assert torch.equal(anew._position_code(grid), sincos_3d(48, grid, cls=True))
    with torch.no_grad():
        for size, same in ((32, True), (40, False)):
            found = [backbone(_images(2, size, size))[-1] for backbone in (stretched, anew)]
            assert torch.equal(*found) is same
        # Another number of dates than it was built for.
        assert stretched(_images(3, 32, 32))[-1].shape == (2, 1 + 3 * 16, 48)


def test_last_tokens_are_normed_and_taps_choose() -> None:
    backbone = _backbone()
    with torch.no_grad():
        backbone.norm.weight.fill_(2.0)
        images = _images(1, 32, 32)
        found = backbone(images)
        # Measured 1.1e-7 for the mean, rounding of sums of 48 numbers, and 1.2e-5 for the deviation, from eps.
        assert float(found[-1].mean(dim=-1).abs().max()) < 1e-6
        assert torch.allclose(found[-1].std(dim=-1, correction=0), torch.tensor(2.0), atol=1e-4)
        assert torch.equal(found[-1], backbone.norm(backbone.blocks[2](found[1])))
        chosen = backbone(images, taps=[2, 0])
    assert torch.equal(chosen[0], found[2]) and torch.equal(chosen[1], found[0])


def test_time_and_place_add_their_codes_to_the_tokens_of_their_date() -> None:
    backbone = _backbone(frames=2, coordinates=True)
    seen: list[Tensor] = []
    backbone.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = _images(2, 16, 16)
    dates = torch.tensor([[[2018.0, 45.0], [2019.0, 364.0]], [[2020.0, 0.0], [2024.0, 200.0]]])
    places = torch.tensor([[-14.25, -66.0], [52.5, 179.9]])
    with torch.no_grad():
        backbone.temporal_embed_enc.scale.fill_(0.3)
        backbone.location_embed_enc.scale.fill_(0.7)
        for given in ((None, None), (dates, None), (None, places), (dates, places)):
            backbone(images, *given)
    plain, dated, placed, both = seen
    # Codes of one axis are tested in test_positions; year and day, latitude and longitude take half each.
    for sample in range(2):
        for time in range(2):
            year, day = dates[sample, time]
            code = 0.3 * torch.cat([sincos_1d(24, year[None]), sincos_1d(24, day[None])], dim=1)
            tokens = slice(1 + 4 * time, 5 + 4 * time)
            assert torch.allclose(dated[sample, tokens] - plain[sample, tokens], code.expand(4, -1), atol=1e-6)
        latitude, longitude = places[sample]
        code = 0.7 * torch.cat([sincos_1d(24, latitude[None]), sincos_1d(24, longitude[None])], dim=1)
        assert torch.allclose(placed[sample, 1:] - plain[sample, 1:], code.expand(8, -1), atol=1e-6)
    for other in (dated, placed, both):
        assert torch.equal(other[:, 0], plain[:, 0])
    assert torch.allclose(both - plain, (dated - plain) + (placed - plain), atol=2e-6)


def test_unknown_time_and_place_add_nothing_and_no_gradient_is_lost() -> None:
    backbone = _backbone(frames=2, coordinates=True)
    images = _images(2, 16, 16)
    dates = torch.tensor([[[2018.0, 45.0], [2019.0, 364.0]], [[NAN, NAN], [2019.0, NAN]]])
    places = torch.tensor([[-14.25, -66.0], [NAN, 10.0]])
    found = backbone(images, dates, places)[-1]
    assert torch.equal(found[1], backbone(images, torch.full_like(dates, NAN), torch.full_like(places, NAN))[-1][1])
    assert torch.equal(found[1], backbone(images)[-1][1])
    assert not torch.equal(found[0], backbone(images)[-1][0])
    found.square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert float(backbone.temporal_embed_enc.scale.grad) != 0.0


def test_a_network_without_coordinates_ignores_them() -> None:
    backbone = _backbone()
    images = _images(1, 16, 16)
    given = backbone(images, torch.tensor([[[2018.0, 45.0]]] * 2), torch.tensor([[1.0, 2.0]] * 2))
    assert torch.equal(given[-1], backbone(images)[-1])


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = _backbone(frames=2, checkpointing=checkpointing).train()
        backbone(_images(2, 24, 24))[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))  # type: ignore[arg-type]


def test_the_number_of_heads_decides_the_features_though_no_weight_shows_it() -> None:
    backbone = _backbone()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(3.0)  # so that attention is uneven
        other = Prithvi(replace(SMALL, heads=6), frames=1, image_px=32, coordinates=False).eval()
        other.load_state_dict(backbone.state_dict())
        images = _images(1, 32, 32)
        assert float((other(images)[-1] - backbone(images)[-1]).abs().max()) > 1.0


def test_variants_without_time_and_place_refuse_them() -> None:
    with pytest.raises(SettingsError, match="model.coordinates with v1-100m: .* set it to false"):
        Prithvi(VARIANTS["v1-100m"], frames=1, coordinates=True)


@pytest.mark.parametrize("shape", [(2, 6, 16, 16), (2, 18, 1, 16, 16), (2, 6, 0, 16, 16), (2, 6, 1, 16, 0)])
def test_images_of_another_shape_are_a_mistake_of_the_caller(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        _backbone()(torch.zeros(shape))
