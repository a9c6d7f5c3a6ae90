"""Sine and cosine codes: where a token lies in the stack of images, and when and where an image was taken.

A code of D numbers for a position p is sin(p * w_k) for k = 0 ... D/2 - 1, then cos(p * w_k), with
w_k = 10000 ** (-k / (D/2)) (Vaswani et al. 2017, here with all sines in front). A token's code is that of its column in
6/16 of the numbers, of its row in 6/16 and of its date in 4/16, in this order.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int, int]
"""Dates, rows and columns of tokens."""

_SHARE = 16

#: Largest difference between a code in a file and the computed one; one of 16 bits is rounded more.
_TOLERANCE = 1e-4
#: More than those of ten dates of 1024 px; a damaged file can claim any shape.
_MOST_TOKENS = 2**16


def sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """Codes of positions along one axis.

    Args:
        dim: numbers in a code, even.
        positions: shape (position,), in any unit. float64 is computed in float64, all else in float32, also under
            autocast: a year has no place in 16 bits.

    Returns:
        Shape (position, dim), float64 or float32, sines in front of cosines.
    """
    if dim % 2:
        raise ValueError(f"dim = {dim}: must be even, half of it sines and half cosines")
    if positions.dtype != torch.float64:
        positions = positions.float()
    steps = torch.arange(dim // 2, dtype=positions.dtype, device=positions.device) / (dim / 2)
    angles = positions.reshape(-1, 1) * (1.0 / 10000**steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_3d(dim: int, grid: Grid, *, cls: bool, device: torch.device | None = None) -> Tensor:
    """Codes of the tokens of a stack of images.

    Args:
        dim: numbers in a code, a multiple of 16.
        grid: dates, rows and columns.
        cls: put the code of the class token, zeros, in front.
        device: where the result goes; None: the CPU.

    Returns:
        Shape (1, [1 +] dates * rows * columns, dim), float32, computed in float64; columns run fastest, dates slowest.
    """
    if dim % _SHARE or min(grid) < 1:
        raise ValueError(f"dim = {dim}, grid = {grid}: dim must be a multiple of {_SHARE}, the grid not empty")
    times, rows, cols = grid
    across, along = dim // _SHARE * 6, dim // _SHARE * 4
    # One axis at a time is small enough for float64 on the CPU, which not every device has.
    col_code, row_code, time_code = (
        sincos_1d(size, torch.arange(count, dtype=torch.float64)).to(torch.float32).to(device)
        for size, count in ((across, cols), (across, rows), (along, times))
    )
    code = torch.cat(
        [
            col_code.view(1, 1, cols, across).expand(times, rows, cols, across),
            row_code.view(1, rows, 1, across).expand(times, rows, cols, across),
            time_code.view(times, 1, 1, along).expand(times, rows, cols, along),
        ],
        dim=-1,
    ).reshape(1, -1, dim)
    return F.pad(code, (0, 0, 1, 0)) if cls else code


def resized(code: Tensor, from_grid: Grid, to_grid: Grid) -> Tensor:
    """Codes for another grid: stretched over rows and columns, as the released models do it.

    The corners keep their codes (bicubic, align_corners=True). For another number of dates the code is made anew on
    the old rows and columns before it is stretched.

    Args:
        code: shape (1, [1 +] tokens of `from_grid`, dim), float32, with or without a class token in front.
        from_grid: dates, rows and columns of `code`.
        to_grid: those of the result.

    Returns:
        Shape (1, [1 +] tokens of `to_grid`, dim), float32; `code` itself when the grids are equal.
    """
    times, rows, cols = from_grid
    first = code.shape[1] - times * rows * cols
    if first not in (0, 1):
        raise ValueError(f"{code.shape[1]} codes for a grid {from_grid}: must be one a token, and one for the class")
    if from_grid == to_grid:
        return code
    dim = code.shape[2]
    if to_grid[0] != times:
        times = to_grid[0]
        code = sincos_3d(dim, (times, rows, cols), cls=bool(first), device=code.device).to(code.dtype)
    if (rows, cols) == to_grid[1:]:
        return code
    planes = code[:, first:].reshape(times, rows, cols, dim).permute(0, 3, 1, 2)
    stretched = F.interpolate(planes, to_grid[1:], mode="bicubic", align_corners=True)
    return torch.cat([code[:, :first], stretched.permute(0, 2, 3, 1).reshape(1, -1, dim)], dim=1)


def dates_of(code: Tensor, dim: int) -> int | None:
    """The number of dates of a code that came with weights.

    Args:
        code: should be of shape (1, 1 + tokens, dim) and that of a stack of square images; may be anything.
        dim: numbers in a code.

    Returns:
        Dates; None when it is not the code of any such stack.
    """
    if code.ndim != 3 or code.shape[::2] != (1, dim) or code.layout != torch.strided or not code.is_floating_point():
        return None
    tokens = code.shape[1] - 1
    if not 0 < tokens <= _MOST_TOKENS:
        return None
    tolerance = max(_TOLERANCE, torch.finfo(code.dtype).eps)
    for edge in range(2, math.isqrt(tokens) + 1):
        dates = tokens // (edge * edge)
        if dates * edge * edge == tokens:
            own = sincos_3d(dim, (dates, edge, edge), cls=True)
            if bool(((code.float() - own).abs() <= tolerance).all()):
                return dates
    return None
