"""CutMix: inputs, masks and charts are cut alike, by the keys alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from geocore.transforms.augment import CounterRNG, compose
from seaice_multitask.cutmix import CutMix

SIZE, COUNT = 24, 6


def batch_of(count: int = COUNT, first: int = 0) -> dict[str, Any]:
    """Every value, mask and chart pixel of window i says i, and some charts are masked."""
    numbers = torch.arange(count).view(-1, 1, 1, 1)
    chart = numbers.expand(count, 1, SIZE, SIZE).to(torch.uint8).clone()[:, 0]
    chart[:, :3] = 255
    return {
        "inputs": {
            "planes": {
                "values": numbers.expand(count, 2, SIZE, SIZE).float().clone(),
                "valid": (numbers % 2 == 0).expand(count, 2, SIZE, SIZE).clone(),
            }
        },
        "targets": {"SIC": chart, "number": torch.arange(count)},
        "keys": torch.stack([torch.zeros(count, dtype=torch.int64), torch.arange(first, first + count)], dim=1),
    }


def test_everything_of_a_pixel_comes_from_one_window() -> None:
    cut = compose([CutMix(1.0)], seed=3)(batch_of())
    source = cut["inputs"]["planes"]["values"][:, 0].long()
    assert torch.equal(cut["inputs"]["planes"]["values"][:, 1].long(), source)
    assert torch.equal(cut["inputs"]["planes"]["valid"], (source % 2 == 0)[:, None].expand(-1, 2, -1, -1))
    known = cut["targets"]["SIC"] != 255
    assert torch.equal(cut["targets"]["SIC"][known].long(), source[known])
    assert torch.equal(cut["targets"]["number"], torch.arange(COUNT))
    own = torch.arange(COUNT).view(-1, 1, 1)
    assert ((source == own) | (source == (own + 1) % COUNT)).all()
    assert (source != own).any() and (source == own).any()


def test_masked_charts_stay_masked() -> None:
    cut = compose([CutMix(1.0)], seed=3)(batch_of())
    assert (cut["targets"]["SIC"][:, :3] == 255).all()
    assert (cut["targets"]["SIC"][:, 3:] != 255).all()


def test_batch_itself_is_not_changed() -> None:
    given = batch_of()
    compose([CutMix(1.0)], seed=3)(given)
    assert torch.equal(given["inputs"]["planes"]["values"], batch_of()["inputs"]["planes"]["values"])
    assert torch.equal(given["targets"]["SIC"], batch_of()["targets"]["SIC"])


def test_rectangle_depends_on_the_key_and_not_on_the_place_in_the_batch() -> None:
    cutmix, keys = CutMix(1.0), batch_of()["keys"]
    whole = cutmix.rectangles(CounterRNG.of(keys, 3, 0), (SIZE, SIZE))
    assert torch.equal(cutmix.rectangles(CounterRNG.of(keys[4:], 3, 0), (SIZE, SIZE)), whole[4:])
    assert not torch.equal(cutmix.rectangles(CounterRNG.of(keys, 4, 0), (SIZE, SIZE)), whole)


def test_rectangles_are_what_they_are_called() -> None:
    inside = CutMix(1.0).rectangles(CounterRNG.of(batch_of(400)["keys"], 0, 0), (SIZE, 2 * SIZE))
    rows, cols = inside.any(dim=2), inside.any(dim=1)
    assert torch.equal(inside, rows[:, :, None] & cols[:, None, :])
    for lines in (rows, cols):
        # In one piece: as many changes from inside to outside as there are pieces.
        padded = torch.nn.functional.pad(lines.long(), (1, 1))
        assert ((padded[:, 1:] - padded[:, :-1]).clamp_min(0).sum(dim=1) <= 1).all()


def test_share_of_windows_and_of_area() -> None:
    """Area before it is cut off is uniform: half of the windows would lose less than a half, a mean of 0.5."""
    keys = batch_of(4000)["keys"]
    chosen = CutMix(0.5).rectangles(CounterRNG.of(keys, 0, 0), (SIZE, SIZE)).flatten(1).any(dim=1)
    # 4 standard deviations of a share of 4000 draws; a few rectangles are too small to hold a pixel's middle.
    assert chosen.float().mean() == pytest.approx(0.5, abs=0.04)
    draws = CounterRNG.of(keys, 0, 0)
    area = CutMix(1.0).rectangles(draws, (256, 256)).float().mean(dim=(1, 2))
    # A side of length s, its middle anywhere, keeps s - s^2 / 4 of itself on average: the mean over a uniform s^2 is
    # the integral of (s - s^2 / 4)^2 2s ds from 0 to 1.
    assert float(area.mean()) == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)


def test_one_window_and_probability_zero_change_nothing() -> None:
    for batch, cutmix in ((batch_of(1), CutMix(1.0)), (batch_of(), CutMix(0.0))):
        cut = compose([cutmix], seed=3)(batch)
        assert torch.equal(cut["inputs"]["planes"]["values"], batch["inputs"]["planes"]["values"])
        assert torch.equal(cut["targets"]["SIC"], batch["targets"]["SIC"])
