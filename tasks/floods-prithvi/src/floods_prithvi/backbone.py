"""The Prithvi encoder: a vision transformer over patches of several dates.

Parameters are called as in the released files. Sources: Jakubik et al. 2023 (arXiv 2310.18660), Szwarcman et al. 2024
(arXiv 2412.02732).

Shape letters: B batch, C band, T date, H and W rows and columns of the image in pixels, N tokens of all dates with the
class token in front, D numbers in a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from floods_prithvi.positional_encoding import Grid, resized, sincos_1d, sincos_3d
from floods_prithvi.variants import BANDS, VariantSpec
from geocore.errors import SettingsError

Positions = Literal["interpolated", "regenerated"]

_MLP_RATIO = 4


class Prithvi(nn.Module):
    """Images of any size and any number of dates in, tokens of every block out."""

    def __init__(
        self,
        spec: VariantSpec,
        *,
        frames: int,
        image_px: int = 224,
        coordinates: bool,
        positions: Positions = "interpolated",
        checkpointing: bool = False,
    ) -> None:
        """Build it with random weights, drawn as for pre-training.

        Args:
            spec: the variant.
            frames: dates for which the position code is kept.
            image_px: edge of the images of pre-training, pixels, a multiple of the patch; the position code of this
                size is the one that `interpolated` stretches.
            coordinates: time and location as inputs.
            positions: code of other sizes: stretched, or made anew for the larger grid.
            checkpointing: compute blocks again in the backward pass, to save memory in training.

        Raises:
            SettingsError: the variant takes no coordinates.
        """
        super().__init__()
        if coordinates and not spec.takes_coordinates:
            raise SettingsError(
                f"model.coordinates with {spec.name}: its weights know no time and location; set it to false"
            )
        if image_px % spec.patch_px or spec.dim % spec.heads:
            raise ValueError(f"image of {image_px} px, {spec.size}, {spec.heads} heads: must divide without rest")
        self.spec = spec
        self.patch_px = spec.patch_px
        self.coordinates = coordinates
        self.positions = positions
        self.checkpointing = checkpointing
        edge = image_px // spec.patch_px
        self._kept_grid: Grid = (frames, edge, edge)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.dim))
        self.patch_embed = _PatchEmbed(spec)
        self.blocks = nn.ModuleList(_Block(spec.dim, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.dim)
        if coordinates:
            self.temporal_embed_enc = _PairCode(spec.dim)
            self.location_embed_enc = _PairCode(spec.dim)
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", sincos_3d(spec.dim, self._kept_grid, cls=True), persistent=False)
        self._draw()

    def grid_of(self, rows: int, cols: int) -> Grid:
        """Tokens of an image of that many rows and columns of pixels: dates, rows, columns."""
        return self._kept_grid[0], -(-rows // self.patch_px), -(-cols // self.patch_px)

    def forward(
        self,
        images: Tensor,
        dates: Tensor | None = None,
        places: Tensor | None = None,
        *,
        taps: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Tokens after the blocks.

        An image that is not a whole number of patches is continued on the right and below by its mirror image, or by
        its last row or column where it is smaller than what is missing.

        Args:
            images: shape (B, C, T, H, W), float32, normalized, bands as in config.SIX_BANDS.
            dates: shape (B, T, 2), float32: year, and day of the year from 0. NaN or None: unknown, adds nothing.
            places: shape (B, 2), float32: latitude and longitude, degrees. NaN or None: unknown, adds nothing.
            taps: blocks, from 0, whose tokens are wanted; None: all.

        Returns:
            For each of the blocks, shape (B, 1 + T * h * w, D), float32, h and w as `grid_of` says; the last
            block's after the final norm.
        """
        if images.ndim != 5 or images.shape[1] != BANDS or not images.numel():
            raise ValueError(f"images of shape {tuple(images.shape)}: must be (batch, {BANDS}, date, row, col)")
        frames, rows, cols = images.shape[2:]
        grid = (frames, *self.grid_of(rows, cols)[1:])
        code = self._position_code(grid)
        tokens = self.patch_embed(padded(images, self.patch_px)) + code[:, 1:]
        if self.coordinates:
            if dates is not None:
                tokens = tokens + self.temporal_embed_enc(dates).repeat_interleave(grid[1] * grid[2], dim=1)
            if places is not None:
                tokens = tokens + self.location_embed_enc(places[:, None])
        cls = (self.cls_token + code[:, :1]).expand(len(tokens), -1, -1)
        tokens = torch.cat([cls.to(tokens.dtype), tokens], dim=1)
        wanted = range(len(self.blocks)) if taps is None else taps
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            if self.checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if index in wanted:
                kept[index] = tokens
        last = len(self.blocks) - 1
        if last in wanted:
            kept[last] = self.norm(tokens)
        return [kept[index] for index in wanted]

    def _position_code(self, grid: Grid) -> Tensor:
        if self.positions == "regenerated" and grid != self._kept_grid:
            return sincos_3d(self.spec.dim, grid, cls=True, device=self.pos_embed.device)
        return resized(self.pos_embed, self._kept_grid, grid)

    def _draw(self) -> None:
        """Xavier for matrices, with the filters of the patches taken as one matrix; biases 0, class token 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)


def padded(images: Tensor, multiple_px: int) -> Tensor:
    """Continue images on the right and below to whole patches.

    Args:
        images: shape (B, C, T, H, W).
        multiple_px: edge of a patch.

    Returns:
        Shape (B, C, T, H', W'), both a multiple; `images` itself where they are already.
    """
    rows, cols = images.shape[-2:]
    below, right = -rows % multiple_px, -cols % multiple_px
    if not below and not right:
        return images
    flat = images.flatten(1, 2)
    # A mirror image has one row less than the image, as it leaves out the last one.
    flat = F.pad(flat, (0, right, 0, 0), mode="reflect" if right < cols else "replicate")
    flat = F.pad(flat, (0, 0, 0, below), mode="reflect" if below < rows else "replicate")
    return flat.reshape(*images.shape[:3], *flat.shape[2:])


class _PatchEmbed(nn.Module):
    """One token for each square of each date."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        size = (1, spec.patch_px, spec.patch_px)
        self.proj = nn.Conv3d(BANDS, spec.dim, size, stride=size)

    def forward(self, images: Tensor) -> Tensor:
        """Shape (B, C, T, H, W) -> (B, T * h * w, D), columns fastest, dates slowest."""
        tokens: Tensor = self.proj(images)
        return tokens.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    """Attention, then two layers on each token; both see normalized tokens and add to those that came in."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        added: Tensor = self.mlp(self.norm2(tokens))
        return tokens + added


class _Attention(nn.Module):
    """Every token reads every other, of all dates."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        # (B, N, 3 * D) -> three of (B, head, N, D / head)
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        read = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.proj(read.transpose(1, 2).flatten(2))
        return mixed


class _Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, _MLP_RATIO * dim)
        self.fc2 = nn.Linear(_MLP_RATIO * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        changed: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return changed


class _PairCode(nn.Module):
    """The code of two numbers, half of the token for each, times a learnt factor.

    The numbers are year and day, or latitude and longitude. The released files hold nothing but the factor.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Parameter(torch.full((1,), 0.1))

    def forward(self, pairs: Tensor) -> Tensor:
        """Codes of pairs, shape (B, number, 2), as (B, number, D); zeros where a number of the pair is NaN."""
        known = pairs.isfinite().all(dim=-1, keepdim=True)
        numbers = torch.where(known, pairs, 0.0)
        half = self.dim // 2
        codes = [
            sincos_1d(size, numbers[..., index].flatten()).reshape(*pairs.shape[:2], size)
            for index, size in enumerate((half, self.dim - half))
        ]
        return torch.where(known, self.scale * torch.cat(codes, dim=-1), 0.0)
