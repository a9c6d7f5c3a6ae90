"""Connected components: pixels of a mask that touch, at corners too, under one number."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def components(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Connected parts of a mask; pixels that touch at a corner are connected.

    Args:
        mask: shape (row, col), bool.

    Returns:
        Same shape, uint32, 0 background, parts numbered by their first pixel, row by row.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3), bool))
    return renumbered(labels)


def renumbered(ids: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Number objects by their first pixel, row by row.

    Args:
        ids: shape (row, col), any integer type, 0 background, others positive.

    Returns:
        Same shape, uint32, 0 background, ids without gaps.
    """
    marked = ids != 0
    values = ids[marked]
    if len(values) and int(values.max()) > ids.size:  # Too large to index a table.
        values = np.searchsorted(np.unique(values), values) + 1
    firsts = np.full(int(values.max(initial=0)) + 1, -1, np.int64)
    # Of several values for one place the last stays: from behind, that is the first pixel.
    firsts[values[::-1]] = np.arange(len(values))[::-1]
    present = np.flatnonzero(firsts >= 0)
    ranks = np.zeros(len(firsts), np.uint32)
    ranks[present[np.argsort(firsts[present])]] = np.arange(1, len(present) + 1, dtype=np.uint32)
    numbered = np.zeros(ids.shape, np.uint32)
    numbered[marked] = ranks[values]
    return numbered
