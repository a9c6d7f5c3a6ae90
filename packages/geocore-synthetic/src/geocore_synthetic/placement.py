"""Blobs put on free ground, alone or in groups whose members touch: objects whose masks are exactly known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from geocore_synthetic.shapes import blob, local_axes

Mask = npt.NDArray[np.bool_]

_EIGHT = np.ones((3, 3), bool)
_TRIES = 30
"""Places tried for one blob before it is left out."""
_LEAST_BORDER_PX = 6
"""Shortest border between a blob and the group that it was placed to touch, pixels."""


@dataclass(frozen=True, slots=True)
class PlacedBlob:
    """One blob in its place."""

    mask: Mask
    """Shape (row, col), bool: its pixels, one 8-connected part, disjoint from those of all others."""
    along: npt.NDArray[np.float64]
    """Shape (row, col), float64: about 1 at its head and -1 at its tail."""
    depth_px: npt.NDArray[np.float64]
    """Shape (row, col), float64: pixels below its own outline, about; negative outside."""
    direction_deg: float
    """Where its head lies: 0 = right, 90 = up, degrees."""
    group: int
    """Blobs of one group were placed so that each touches one of the others."""


def place_blobs(
    taken: Mask,
    lengths_px: Sequence[float],
    rng: np.random.Generator,
    *,
    touching: float,
    gap_px: int,
    least_px: int,
) -> list[PlacedBlob]:
    """Put blobs on free ground, each with its own outline, proportions and direction.

    A blob may reach beyond the image. Where two of a group overlap, a pixel belongs to the one in which it lies
    deeper, so that they share a border. A blob for which no place is found is left out.

    Args:
        taken: Shape (row, col), bool: ground that no blob may cover.
        lengths_px: Length of each blob, pixels, in the order in which they are placed.
        rng: Source of all randomness.
        touching: Chance of a blob to be placed beside the one before it, touching it, 0-1.
        gap_px: Least distance between blobs of different groups and to taken ground, pixels.
        least_px: Least size of what is seen of a blob, pixels.

    Returns:
        The blobs in the order in which they were placed.
    """
    shape = (taken.shape[0], taken.shape[1])
    placed: list[PlacedBlob] = []
    for length in lengths_px:
        beside = placed[-1] if placed and rng.uniform() < touching else None
        group = beside.group if beside else len(placed)
        direction = beside.direction_deg + rng.normal(0, 20) if beside else rng.uniform(0, 360)
        radii = (length / 2, length / 2 * rng.uniform(0.5, 1.0))
        roughness, taper = rng.uniform(0.04, 0.13), rng.uniform(0, 0.45)
        others = [other for other in placed if other.group != group]
        blocked = ndimage.binary_dilation(
            np.any([taken, *(other.mask for other in others)], axis=0), _EIGHT, iterations=gap_px
        )
        for _ in range(_TRIES):
            centre = _beside(beside, radii[1], rng) if beside else (rng.uniform(0, shape[0]), rng.uniform(0, shape[1]))
            along, across = local_axes(shape, centre, radii, direction)
            depth_px = radii[1] * blob(along, across, rng, roughness=roughness, taper=taper)
            new = PlacedBlob(depth_px > 0, along, depth_px, direction, group)
            if (new.mask & blocked).any():
                continue
            divided = _divide(new, [other for other in placed if other.group == group], least_px)
            if divided:
                placed = others + divided
                break
    return placed


def _beside(neighbour: PlacedBlob, radius_px: float, rng: np.random.Generator) -> tuple[float, float]:
    """A centre from which a blob of that radius reaches into the neighbour, mostly from one of its sides."""
    rows, cols = np.nonzero(neighbour.mask)
    angle = np.deg2rad(neighbour.direction_deg + rng.choice([-90, 90]) + rng.normal(0, 35))
    reach = np.sqrt(len(rows) / np.pi) + rng.uniform(0.5, 1.0) * radius_px
    return float(rows.mean() - reach * np.sin(angle)), float(cols.mean() + reach * np.cos(angle))


def _divide(new: PlacedBlob, members: Sequence[PlacedBlob], least_px: int) -> list[PlacedBlob] | None:
    """Share the ground of a group with a newcomer; None when it does not touch or someone is left with too little."""
    mask = new.mask.copy()
    shares = []
    for member in members:
        deeper = new.depth_px > member.depth_px
        shares.append(_largest_part(member.mask & ~(mask & deeper)))
        mask &= ~member.mask | deeper
        if shares[-1].sum() < max(least_px, member.mask.sum() / 2):
            return None
    mask = _largest_part(mask)
    border = sum(int((ndimage.binary_dilation(mask, _EIGHT) & share).sum()) for share in shares)
    if mask.sum() < least_px or (members and border < _LEAST_BORDER_PX):
        return None
    kept = [dataclasses.replace(member, mask=share) for member, share in zip(members, shares, strict=True)]
    return [*kept, dataclasses.replace(new, mask=mask)]


def _largest_part(mask: Mask) -> Mask:
    """The largest 8-connected part."""
    parts, count = ndimage.label(mask, _EIGHT)
    return mask if count < 2 else np.asarray(parts == 1 + np.bincount(parts.ravel())[1:].argmax())


def seen_parts(objects: npt.NDArray[np.int64], seen: Mask, least_px: int) -> tuple[npt.NDArray[np.int64], Mask]:
    """Number what is seen of objects: something in front may leave several parts of one, each an object by itself.

    Args:
        objects: Shape (row, col), int64: 0 background, 1, 2, ... objects.
        seen: Shape (row, col), bool: false where something lies in front.
        least_px: Smaller parts are scraps, pixels.

    Returns:
        (parts, scraps), each of shape (row, col): int64, 0 where there is none and 1, 2, ... for each 8-connected part
        in the order of the objects; bool.
    """
    parts, scraps = np.zeros(objects.shape, np.int64), np.zeros(objects.shape, bool)
    count = 0
    for number in range(1, int(objects.max()) + 1):
        pieces, found = ndimage.label((objects == number) & seen, _EIGHT)
        for piece in range(1, found + 1):
            here = pieces == piece
            if np.count_nonzero(here) < least_px:
                scraps |= here
            else:
                count += 1
                parts[here] = count
    return parts, scraps
