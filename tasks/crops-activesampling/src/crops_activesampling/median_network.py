"""Medians over images, a plane of pixels at a time.

Values are ordered by a network of comparisons, each of which is a minimum and a maximum of two whole planes. That takes
no branch and no index a pixel, so that a processor works on 16 to 32 pixels at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint16]
"""Shape (pixel,), uint16."""


class Comparison(NamedTuple):
    """Puts the lower one of two planes first, a pixel at a time."""

    first: int
    second: int
    keeps: tuple[bool, bool]
    """Whether the lower and the higher value are needed afterwards."""


class Middle(NamedTuple):
    """The one or two values in the middle of those that each pixel has; their mean is its median."""

    low: Plane
    """0 where a pixel has no value."""
    high: Plane
    """Equal to `low` where their number is odd."""
    seen: Plane
    """How many values the pixel has."""


def middle_of(images: Sequence[Plane], scratch: NDArray[np.uint16]) -> Middle:
    """Values in the middle, over the images that have data at a pixel.

    Args:
        images: each of shape (pixel,), 0 where there is no data; left as they are.
        scratch: shape (image + 1, pixel), uint16, is overwritten.

    Returns:
        The values, in memory of `scratch`: valid until it is used again.
    """
    planes: list[Plane] = []
    seen, odd = (np.zeros(scratch.shape[1], np.uint16) for _ in range(2))
    whole = 0
    for image in images:
        plane = scratch[len(planes)]
        np.copyto(plane, image)
        if plane.min():
            whole += 1
        elif plane.any():
            # Gaps become the highest and the lowest value in turn, beginning with the highest: then the values in the
            # middle of a pixel's data are in the middle of all, or next to it.
            data = np.minimum(plane, 1)
            np.add(seen, data, out=seen)
            gap = np.bitwise_xor(data, 1, out=data)
            np.bitwise_xor(odd, gap, out=odd)
            np.subtract(plane, np.bitwise_and(gap, odd, out=gap), out=plane)  # 0 - 1 is 65535
        else:
            continue
        planes.append(plane)
    number, half = len(planes), len(planes) // 2
    np.add(seen, whole, out=seen)
    if not planes:
        scratch[0] = 0
        return Middle(scratch[0], scratch[0], seen)
    if whole == number:
        return Middle(*_ordered(planes, scratch[number], ((number - 1) // 2, half)), seen)
    low, high = _ordered(planes, scratch[number], (max(half - 1, 0), half))
    # A pixel with an odd number of values has one in the middle: the higher of the two where the number of planes is
    # odd too, and that of its gaps is even, else the lower one. As arithmetic with 0 and 1 that takes no branch.
    difference = high - low
    if number % 2:
        low += difference * (1 - odd)
    else:
        high -= difference * odd
    data = np.minimum(seen, 1)
    low *= data
    if high is not low:
        high *= data
    return Middle(low, high, seen)


def _ordered(planes: list[Plane], spare: Plane, ranks: tuple[int, int]) -> tuple[Plane, Plane]:
    """The planes of two ranks from 0, as if all were sorted; all are overwritten, and one may be `spare`."""
    for first, second, (lower, higher) in comparisons(len(planes), ranks):
        a, b = planes[first], planes[second]
        if lower and higher:
            np.minimum(a, b, out=spare)
            np.maximum(a, b, out=b)
            planes[first], spare = spare, a
        elif lower:
            np.minimum(a, b, out=a)
        else:
            np.maximum(a, b, out=b)
    return planes[ranks[0]], planes[ranks[1]]


@cache
def comparisons(number: int, ranks: tuple[int, ...]) -> tuple[Comparison, ...]:
    """A network that puts the values of some ranks in their places.

    Odd-even merge sort (Batcher, Sorting networks and their applications, AFIPS 1968), without the comparisons, and
    the halves of comparisons, that those ranks do not depend on.

    Args:
        number: of values.
        ranks: from 0, the lowest.
    """
    needed, kept = set(ranks), list[Comparison]()
    # As if the highest of values made them up to a power of two: where those stand, no comparison moves anything.
    whole = [pair for pair in _sorted(0, 1 << (number - 1).bit_length()) if pair[1] < number]
    for first, second in reversed(whole):
        if {first, second} & needed:
            kept.append(Comparison(first, second, (first in needed, second in needed)))
            needed |= {first, second}
    return tuple(reversed(kept))


def _sorted(first: int, number: int) -> Iterator[tuple[int, int]]:
    """Pairs to compare so that `number` values, a power of two, from place `first` on are sorted."""
    if number > 1:
        yield from _sorted(first, number // 2)
        yield from _sorted(first + number // 2, number // 2)
        yield from _merged(first, number, 1)


def _merged(first: int, number: int, step: int) -> Iterator[tuple[int, int]]:
    """Pairs that merge the halves, sorted both, of every step-th of `number` places from `first` on."""
    if 2 * step == number:
        yield first, first + step
        return
    yield from _merged(first, number, 2 * step)
    yield from _merged(first + step, number, 2 * step)
    for place in range(first + step, first + number - step, 2 * step):
        yield place, place + step
