"""Winds turn with the image, in metres per second (a mirrored image with unturned winds was defect D25)."""

from __future__ import annotations

import torch

from geocore.raster.bands import Band, Bands
from geocore.transforms.augment import Flip, Rot90, compose
from seaice_multitask.vectors import Winds

U, V = "u10m_rotated", "v10m_rotated"
BANDS = Bands(
    (Band("nersc_sar_primary", "dB", 5.66, -14.5), Band(V, "m/s", 5.2, 0.61), Band(U, "m/s", 4.75, 0.67)), ((U, V),)
)
# 32-bit numbers of about 10, scaled back and forth.
TOLERANCE = 2e-6


def standard(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def physical(planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both components in m/s, computed here by hand."""
    return planes[:, 2] * 4.75 + 0.67, planes[:, 1] * 5.2 + 0.61


def test_other_planes_stay_standardised() -> None:
    planes, winds = standard(), Winds(BANDS)
    assert torch.equal(winds.physical(planes)[:, 0], planes[:, 0])
    u, v = physical(planes)
    assert torch.allclose(winds.physical(planes)[:, 2], u) and torch.allclose(winds.physical(planes)[:, 1], v)
    assert torch.allclose(winds.standardised(winds.physical(planes)), planes, atol=TOLERANCE)


def test_mirror_image_has_mirrored_winds() -> None:
    planes, winds = standard(), Winds(BANDS)
    u, v = physical(planes)
    for rows, cols in ((False, False), (True, False), (False, True), (True, True)):
        axes = [axis for axis, flipped in ((-2, rows), (-1, cols)) if flipped]
        mirrored = winds.mirrored(planes, rows=rows, cols=cols)
        found_u, found_v = physical(mirrored)
        assert torch.allclose(found_u, (-u if cols else u).flip(axes), atol=1e-5)
        assert torch.allclose(found_v, (-v if rows else v).flip(axes), atol=1e-5)
        assert torch.equal(mirrored[:, 0], planes[:, 0].flip(axes))
        assert torch.allclose(winds.mirrored(mirrored, rows=rows, cols=cols), planes, atol=TOLERANCE)


def test_wind_speed_survives_any_turn_of_training_windows() -> None:
    """A quarter turn exchanges the components, whose standard deviations differ."""
    planes, winds = standard(), Winds(BANDS)
    batch = {
        "inputs": {"planes": {"values": winds.physical(planes), "valid": torch.ones(2, 3, 8, 8, dtype=torch.bool)}},
        "targets": {},
        "keys": torch.tensor([[0, 5], [0, 6]]),
    }
    turned = compose([Flip(0.5, 0.0), Rot90()], seed=1, bands={"planes": BANDS})(batch)["inputs"]["planes"]["values"]
    assert not torch.equal(turned, batch["inputs"]["planes"]["values"])
    speed = [component.square() for component in physical(planes)]
    found = [component.square() for component in physical(winds.standardised(turned))]
    before, after = sum(speed).flatten(1).sort().values, sum(found).flatten(1).sort().values
    assert torch.allclose(before, after, rtol=1e-5)


def test_planes_without_winds_are_left_alone() -> None:
    winds, planes = Winds(Bands.named("a", "b", "c")), standard()
    assert winds.physical(planes) is planes
    assert torch.equal(winds.mirrored(planes, rows=True, cols=False), planes.flip(-2))
