"""Position codes against their formula, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from floods_prithvi.positional_encoding import Grid, dates_of, resized, sincos_1d, sincos_3d

#: Rounding of float64 to float32 for numbers up to 1.
FLOAT32 = 6e-8


def _code(position: float, dim: int) -> list[float]:
    rates = [10000 ** (-k / (dim / 2)) for k in range(dim // 2)]
    return [math.sin(position * rate) for rate in rates] + [math.cos(position * rate) for rate in rates]


def test_code_of_a_token_is_that_of_its_column_row_and_date() -> None:
    times, rows, cols = grid = (2, 3, 4)
    code = sincos_3d(32, grid, cls=True)
    assert code.shape == (1, 1 + 24, 32) and code.dtype == torch.float32
    assert not code[0, 0].any()
    for time in range(times):
        for row in range(rows):
            for col in range(cols):
                token = code[0, 1 + (time * rows + row) * cols + col]
                expected = torch.tensor(_code(col, 12) + _code(row, 12) + _code(time, 8))
                assert float((token - expected).abs().max()) <= FLOAT32
    assert torch.equal(sincos_3d(32, grid, cls=False), code[:, 1:])


def test_one_axis_keeps_the_precision_it_is_given() -> None:
    exact = torch.tensor([_code(2019.0, 192)], dtype=torch.float64)
    found = sincos_1d(192, torch.tensor([2019.0], dtype=torch.float64))
    assert found.dtype == torch.float64 and float((found - exact).abs().max()) < 1e-12
    # A year times a rate is rounded to 24 bits, 2019 * 6e-8 = 1.2e-4: the precision of pre-training. Measured 1.02e-4.
    single = sincos_1d(192, torch.tensor([2019.0]))
    assert single.dtype == torch.float32 and float((single - exact).abs().max()) < 2e-4
    # 16 bits would hold 2016 or 2024.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sincos_1d(192, torch.tensor([2019.0])), single)
    assert torch.equal(sincos_1d(192, torch.tensor([2019])), single)


@pytest.mark.parametrize("first", [0, 1])
def test_stretched_code_keeps_its_corners_and_class_token(first: int) -> None:
    old, new = (2, 5, 4), (2, 9, 13)
    code = torch.randn(1, first + 40, 32, generator=torch.Generator().manual_seed(0))
    found = resized(code, old, new)
    assert found.shape == (1, first + 2 * 9 * 13, 32)
    assert torch.equal(found[:, :first], code[:, :first])
    before, after = code[0, first:].view(*old, 32), found[0, first:].view(*new, 32)
    # Weights of the bicubic kernel on a grid point are 1 and 0. Measured: no difference.
    assert torch.allclose(after[:, ::8, ::12], before[:, ::4, ::3], atol=1e-6)
    # Rows 0, 2, 4 ... of nine fall on the five rows there were.
    assert torch.allclose(after[:, ::2, 0], before[:, :, 0], atol=1e-6)
    # Row 3 lies between rows 1 and 2: weights of the cubic kernel with -0.75 (Keys 1981) half way.
    middle = 0.59375 * (before[:, 1, 0] + before[:, 2, 0]) - 0.09375 * (before[:, 0, 0] + before[:, 3, 0])
    assert torch.allclose(after[:, 3, 0], middle, atol=1e-6)


def test_equal_grids_change_nothing() -> None:
    code = sincos_3d(32, (2, 5, 4), cls=True)
    assert resized(code, (2, 5, 4), (2, 5, 4)) is code


def test_other_dates_are_made_anew_before_stretching() -> None:
    code = sincos_3d(32, (1, 6, 6), cls=True)
    assert torch.equal(resized(code, (1, 6, 6), (3, 6, 6)), sincos_3d(32, (3, 6, 6), cls=True))
    wide = resized(code, (1, 6, 6), (3, 11, 6))
    assert torch.equal(wide, resized(sincos_3d(32, (3, 6, 6), cls=True), (3, 6, 6), (3, 11, 6)))


@pytest.mark.parametrize("call", [
    lambda: sincos_3d(24, (1, 2, 2), cls=True),
    lambda: sincos_3d(32, (1, 0, 2), cls=True),
    lambda: sincos_1d(5, torch.arange(3)),
    lambda: resized(torch.zeros(1, 7, 32), (1, 2, 2), (1, 4, 4)),
])  # fmt: skip
def test_mistakes_of_the_caller(call: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("grid", [(1, 14, 14), (3, 14, 14), (4, 16, 16), (1, 28, 28), (2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dates_of_a_code(grid: Grid, dtype: torch.dtype) -> None:
    # (1, 28, 28) has as many tokens as (4, 14, 14) and (16, 7, 7).
    assert dates_of(sincos_3d(64, grid, cls=True).to(dtype), 64) == grid[0]


def test_what_is_no_code_has_no_dates() -> None:
    code = sincos_3d(64, (3, 14, 14), cls=True)
    off = code.clone()
    off[0, 100, 7] += 2e-4
    swapped = code[..., torch.arange(64).roll(24)]
    for wrong in (off, swapped, code[:, 1:], code[0], code.repeat(2, 1, 1), code.int(), code * torch.nan):
        assert dates_of(wrong, 64) is None
    assert dates_of(torch.zeros(1).expand(1, 10**12, 64), 64) is None
    assert dates_of(torch.zeros(1, 0, 64), 64) is None
    assert dates_of(torch.zeros(1).expand(1, 5, 10**12), 64) is None
    assert dates_of(torch.zeros(()), 64) is None
    assert dates_of(code.to_sparse(), 64) is None
