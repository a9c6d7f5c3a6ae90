"""Features equal those of terratorch 1.2.13 for the same weights and images, on a CPU in float32.

Needs an environment with terratorch (Python 3.12 or newer). Both are built at 224 px with the dims of the released
variants; those with 24 and 32 blocks are cut to four for both, and 100M to two for three dates of 512 px, as the blocks
are all alike. The weights of both are drawn here, wide enough for attention to be uneven.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from floods_prithvi.backbone import Prithvi
from floods_prithvi.config import Variant
from floods_prithvi.variants import VARIANTS

pytestmark = pytest.mark.parity

#: Measured: exactly 0 in every case with torch 2.15 on one machine, as both call the same operations in the same order.
#: What is allowed is for machines on which the two take other kernels. Features reach 11 to 49; the smallest mistake
#: tried, an epsilon of 1e-6 in the norms, makes a difference of 4e-4.
TOLERANCE = 1e-4

DATES = [[2018.0, 45.0], [2019.0, 364.0], [2020.0, 0.0], [2024.0, 200.0]]
PLACES = [[-14.25, -66.0], [52.5, 179.9]]


def _draw(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sorted(module.named_parameters()):
        with torch.no_grad():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                parameter += 1.0
            elif name.endswith("scale"):
                parameter += 0.5


def _pair(variant: Variant, reference: str, *, frames: int, coordinates: bool, depth: int) -> tuple[Prithvi, Any]:
    """Our network and terratorch's, with the same weights."""
    pytest.importorskip("terratorch")
    from terratorch.models.backbones import prithvi_vit

    theirs: Any = prithvi_vit._create_prithvi(reference, num_frames=frames, depth=depth)
    ours = Prithvi(replace(VARIANTS[variant], depth=depth), frames=frames, coordinates=coordinates)
    _draw(ours)
    # Strict but for their position code, which their state dict holds.
    theirs.load_state_dict({**ours.state_dict(), "pos_embed": theirs.state_dict()["pos_embed"]})
    return ours.eval(), theirs.eval()


def _compare(ours: Prithvi, theirs: Any, px: int, frames: int, *, given: bool) -> tuple[float, float]:
    """Largest difference over the features of all blocks, and largest feature."""
    images = torch.randn(2, 6, frames, px, px, generator=torch.Generator().manual_seed(2))
    dates = torch.tensor([DATES[:frames], DATES[::-1][:frames]]) if given else None
    places = torch.tensor(PLACES) if given else None
    with torch.no_grad():
        expected: list[Tensor] = theirs(images, dates, places)
        found = ours(images, dates, places)
    assert [one.shape for one in found] == [one.shape for one in expected]
    assert len(found) == ours.spec.depth
    assert all(bool(one.isfinite().all()) for one in [*found, *expected])
    worst = max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))
    largest = max(float(one.abs().max()) for one in expected)
    print(
        f"{ours.spec.name}, {frames} dates, {px} px, {len(found)} blocks, time and place {given}: {worst} of {largest}"
    )
    return worst, largest


@pytest.mark.parametrize(
    ("variant", "reference", "px", "frames", "depth"),
    [
        ("v1-100m", "prithvi_eo_v1_100", 224, 1, 12),
        ("v1-100m", "prithvi_eo_v1_100", 224, 3, 12),
        ("v1-100m", "prithvi_eo_v1_100", 512, 1, 12),
        ("v1-100m", "prithvi_eo_v1_100", 512, 3, 2),
        ("v2-300m", "prithvi_eo_v2_300", 224, 4, 4),
        ("v2-300m", "prithvi_eo_v2_300", 512, 1, 4),
        ("v2-600m", "prithvi_eo_v2_600", 224, 1, 4),
        ("v2-600m", "prithvi_eo_v2_600", 448, 1, 4),
    ],
)
def test_features_of_variants_that_take_images_alone(
    variant: Variant, reference: str, px: int, frames: int, depth: int
) -> None:
    ours, theirs = _pair(variant, reference, frames=frames, coordinates=False, depth=depth)
    worst, largest = _compare(ours, theirs, px, frames, given=False)
    assert worst < TOLERANCE < 1.0 < largest


@pytest.mark.parametrize(
    ("variant", "reference", "px", "frames", "depth"),
    [
        ("v2-tiny", "prithvi_eo_v2_tiny_tl", 224, 1, 12),
        ("v2-tiny", "prithvi_eo_v2_tiny_tl", 512, 1, 12),
        ("v2-100m", "prithvi_eo_v2_100_tl", 224, 4, 12),
        ("v2-100m", "prithvi_eo_v2_100_tl", 512, 1, 12),
        ("v2-300m", "prithvi_eo_v2_300_tl", 224, 4, 4),
        ("v2-600m", "prithvi_eo_v2_600_tl", 224, 4, 4),
        ("v2-600m", "prithvi_eo_v2_600_tl", 448, 1, 4),
    ],
)
def test_features_of_variants_that_take_time_and_place(
    variant: Variant, reference: str, px: int, frames: int, depth: int
) -> None:
    ours, theirs = _pair(variant, reference, frames=frames, coordinates=True, depth=depth)
    for given in (True, False):
        worst, largest = _compare(ours, theirs, px, frames, given=given)
        assert worst < TOLERANCE < 1.0 < largest


def test_comparison_sees_what_a_file_of_weights_does_not_say() -> None:
    ours, theirs = _pair("v2-tiny", "prithvi_eo_v2_tiny_tl", frames=2, coordinates=True, depth=3)
    assert _compare(ours, theirs, 320, 2, given=True)[0] < TOLERANCE
    for block in ours.blocks:
        block.attn.heads *= 2  # type: ignore[operator, union-attr]
    assert _compare(ours, theirs, 320, 2, given=True)[0] > 100 * TOLERANCE
    _, theirs = _pair("v2-tiny", "prithvi_eo_v2_tiny_tl", frames=2, coordinates=True, depth=3)
    ours, _ = _pair("v2-tiny", "prithvi_eo_v2_tiny_tl", frames=2, coordinates=True, depth=3)
    ours.positions = "regenerated"
    assert _compare(ours, theirs, 320, 2, given=True)[0] > 100 * TOLERANCE
