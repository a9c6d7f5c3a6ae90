"""The mean over mirror images: exact for what mirroring does not change, and each image is seen once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geocore.datasets.batch import VALID
from geocore.inference.tta import Inputs, flip_average, flipped


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.uint32, torch.float32, torch.bool])
def test_any_type_is_flipped(dtype: torch.dtype) -> None:
    values = torch.arange(12).reshape(1, 3, 4).to(dtype)
    assert torch.equal(flipped(values, rows=True, cols=False).long(), values.long().flip(-2))
    assert torch.equal(flipped(values, rows=True, cols=True).long(), values.long().flip(-2, -1))
    assert torch.equal(flipped(values, rows=False, cols=False), values)


def inputs() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 60000, (2, 3, 6, 7), generator=generator).to(torch.uint16)
    return {"image": {"values": values, "valid": torch.rand(2, 1, 6, 7, generator=generator) < 0.8}}


def pointwise(batch: Inputs) -> dict[str, Tensor]:
    return {"out": batch["image"]["values"].float() / 7, VALID: batch["image"]["valid"]}


def test_a_pointwise_model_gives_the_same_and_valid_is_that_of_the_image() -> None:
    given = inputs()
    found = flip_average(pointwise)(given)
    # Four quarters of one number.
    assert torch.equal(found["out"], pointwise(given)["out"])
    assert torch.equal(found[VALID], given["image"]["valid"])


def test_the_mean_does_not_depend_on_the_orientation() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3, padding=1)

    def forward(batch: Inputs) -> dict[str, Tensor]:
        return {"out": network(batch["image"]["values"].float() / 60000).softmax(1), VALID: batch["image"]["valid"]}

    given = inputs()
    with torch.inference_mode():
        plain = flip_average(forward)(given)["out"]
        mirrored = {"image": {name: flipped(tensor, rows=True, cols=False) for name, tensor in given["image"].items()}}
        turned = flip_average(forward)(mirrored)["out"]
        assert (forward(given)["out"] - plain).abs().max() > 1e-3
    # Sums of the same four numbers in another order.
    torch.testing.assert_close(flipped(turned, rows=True, cols=False), plain, rtol=0, atol=1e-6)


def test_components_of_vectors_change_their_sign() -> None:
    def turned(values: Tensor, *, rows: bool, cols: bool) -> Tensor:
        sign = torch.tensor([-1.0 if cols else 1.0, -1.0 if rows else 1.0])[:, None, None]
        return flipped(values, rows=rows, cols=cols) * sign

    def east(batch: Inputs) -> dict[str, Tensor]:
        return {"out": batch["wind"]["values"][:, :1], VALID: batch["wind"]["valid"]}

    wind = {"wind": {"values": torch.ones(1, 2, 4, 4), "valid": torch.ones(1, 1, 4, 4, dtype=torch.bool)}}
    assert torch.equal(flip_average(east)(wind)["out"], torch.ones(1, 1, 4, 4))
    # Two of the four images have the wind from the other side.
    assert torch.equal(flip_average(east, {"wind": turned})(wind)["out"], torch.zeros(1, 1, 4, 4))
