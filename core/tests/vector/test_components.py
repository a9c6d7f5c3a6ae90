"""Parts of a mask touch at corners and are numbered by their first pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geocore.vector.polygonize import components, renumbered


def test_parts_that_touch_at_a_corner_are_one() -> None:
    mask = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    assert components(mask).tolist() == [[1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 0, 3]]


def test_components_are_numbered_by_their_first_pixel() -> None:
    # The right arm of the U comes second in its first row but joins the left one further down.
    mask = np.array([[0, 1, 0, 1, 0, 1], [1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 0, 1]], bool)
    assert components(mask).tolist() == [[0, 1, 0, 1, 0, 2], [1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 0, 3]]


@settings(deadline=None)
@given(ids=hnp.arrays(np.uint32, (5, 6), elements=st.sampled_from([0, 3, 7, 12, 4_000_000_000, 4_294_967_295])))
def test_renumbered_keeps_objects_and_orders_them(ids: npt.NDArray[np.uint32]) -> None:
    numbered = renumbered(ids)
    flat, names = numbered.ravel().tolist(), ids.ravel().tolist()
    order = list(dict.fromkeys(name for name in names if name))
    assert flat == [order.index(name) + 1 if name else 0 for name in names]


def test_nothing_has_no_parts() -> None:
    assert not components(np.zeros((3, 4), bool)).any()
    assert not renumbered(np.zeros((3, 4), np.uint8)).any()
    assert components(np.zeros((0, 4), bool)).shape == (0, 4)
