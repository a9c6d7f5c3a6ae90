"""Objects keep their pixels and their ids on the way from rasters and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geocore.raster.grid import Window
from geocore.vector.polygonize import components
from slumps_detectron2.instances import Instance, cut, disjoint, instances_of, paint

SHAPE = (12, 20)


def block(row: int, col: int, height: int, width: int, score: float = 1.0, label: int = 1) -> Instance:
    return Instance(Window(row, col, height, width), np.ones((height, width), bool), score, label)


def whole(ids: npt.NDArray[np.generic]) -> Window:
    return Window(0, 0, *ids.shape)


masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))


@settings(deadline=None)
@given(mask=masks)
def test_mask_to_objects_to_mask_is_the_identity(mask: npt.NDArray[np.bool_]) -> None:
    ids = components(mask)
    objects = instances_of(ids, ignored=None)
    painted = paint(objects, whole(ids))
    np.testing.assert_array_equal(painted, ids)
    np.testing.assert_array_equal(painted > 0, mask)
    assert sum(instance.pixels for instance in objects) == mask.sum()
    # Windows are tight, and numbers follow the first pixels.
    assert all(side.any() for i in objects for side in (i.mask[0], i.mask[-1], i.mask[:, 0], i.mask[:, -1]))
    assert [instance.first for instance in objects] == sorted(instance.first for instance in objects)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_ids_are_never_taken_for_ignored_pixels(dtype: type) -> None:
    last = min(int(np.iinfo(dtype).max), 4_294_967_295)
    ids = np.array([[1, 1, 0, 100], [0, 0, 0, 100], [last, last, 0, 0]], dtype)
    objects = instances_of(ids, ignored=None)
    assert paint(objects, whole(ids)).tolist() == [[1, 1, 0, 2], [0, 0, 0, 2], [3, 3, 0, 0]]
    assert len(instances_of(ids, ignored=last)) == 2
    assert paint(instances_of(ids, ignored=100), whole(ids)).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [2, 2, 0, 0]]


def test_an_ignored_value_outside_the_type_ignores_nothing() -> None:
    assert len(instances_of(np.array([[1, 255]], np.uint8), ignored=4_294_967_295)) == 2


def test_minus_one_may_be_ignored_but_is_no_id() -> None:
    ids = np.array([[-1, 2]], np.int16)
    assert len(instances_of(ids, ignored=-1)) == 1
    with pytest.raises(ValueError, match="id -1"):
        instances_of(ids, ignored=None)
    with pytest.raises(ValueError, match="whole numbers"):
        instances_of(ids.astype(float), ignored=None)


def test_one_id_is_one_object_although_its_pixels_lie_apart() -> None:
    objects = instances_of(np.array([[5, 0, 5, 9]], np.uint16), ignored=None)
    assert [instance.pixels for instance in objects] == [2, 1]
    assert objects[0].window == Window(0, 0, 1, 3)
    assert [instance.score for instance in objects] == [1.0, 1.0]


def test_the_class_is_the_most_frequent_one_under_the_object() -> None:
    ids = np.array([[1, 1, 1, 2, 2, 3, 3, 3]], np.uint8)
    classes = np.array([[7, 4, 7, 9, 2, 0, 0, 3]], np.uint8)
    assert [instance.label for instance in instances_of(ids, ignored=None, classes=classes)] == [7, 2, 3]
    nothing = np.zeros_like(classes)
    assert [instance.label for instance in instances_of(ids, ignored=None, classes=nothing)] == [1, 1, 1]
    assert [instance.label for instance in instances_of(ids, ignored=None)] == [1, 1, 1]


def test_an_empty_raster_has_no_objects() -> None:
    ids = np.zeros(SHAPE, np.uint32)
    assert instances_of(ids, ignored=None) == []
    assert not paint([], whole(ids)).any()


@settings(deadline=None)
@given(
    mask=masks,
    top=st.integers(-3, 10),
    left=st.integers(-3, 10),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_painting_and_cutting_a_window_agree_with_the_whole(
    mask: npt.NDArray[np.bool_], top: int, left: int, height: int, width: int
) -> None:
    ids = components(mask)
    window = Window(top, left, height, width)
    objects = instances_of(ids, ignored=None)
    wide = np.zeros((40, 40), np.uint32)
    wide[10 : 10 + ids.shape[0], 10 : 10 + ids.shape[1]] = ids
    expected = wide[window.shifted(10, 10).slices]
    np.testing.assert_array_equal(paint(objects, window), expected)

    parts = cut(objects, window)
    present = np.unique(expected[expected > 0])
    assert len(parts) == len(present)
    for number, part in zip(present, parts, strict=True):
        assert part.window.intersection(window) == part.window
        assert part.mask[0].any() and part.mask[-1].any() and part.mask[:, 0].any() and part.mask[:, -1].any()
        np.testing.assert_array_equal(paint([part], window) > 0, expected == number)


def test_paint_and_cut_follow_the_order_given() -> None:
    objects = [block(6, 6, 2, 2, 0.3), block(0, 0, 2, 2, 0.9, label=4)]
    assert paint(objects, Window(0, 0, 8, 8))[0, 0] == 2
    kept = cut(objects, Window(1, 1, 6, 6))
    assert [(part.window, part.score, part.label) for part in kept] == [
        (Window(6, 6, 1, 1), 0.3, 1),
        (Window(1, 1, 1, 1), 0.9, 4),
    ]


def test_the_better_object_keeps_what_two_claim() -> None:
    worse, better = block(0, 0, 4, 10, 0.6), block(0, 6, 4, 8, 0.7)
    kept = disjoint([worse, better], SHAPE)
    assert [(part.window, part.score) for part in kept] == [(Window(0, 0, 4, 6), 0.6), (Window(0, 6, 4, 8), 0.7)]


def test_an_object_of_which_more_than_half_lies_in_better_ones_is_dropped() -> None:
    better = [block(0, 0, 4, 3, 0.9), block(0, 7, 4, 3, 0.8, label=2)]
    # 6 of 12 columns are taken by two better ones together: exactly half stays, one more goes.
    assert len(disjoint([*better, block(0, 0, 4, 12, 0.5)], SHAPE)) == 3
    assert len(disjoint([*better, block(0, 0, 4, 11, 0.5)], SHAPE)) == 2
    # What was dropped takes nothing from others.
    kept = disjoint([block(4, 0, 2, 10, 0.9), block(3, 0, 3, 10, 0.8), block(0, 0, 4, 10, 0.7)], SHAPE)
    assert [part.window for part in kept] == [Window(0, 0, 4, 10), Window(4, 0, 2, 10)]


def test_of_equal_scores_the_larger_object_stays_whatever_the_order() -> None:
    part, all_of_it = block(1, 2, 3, 2, 0.5), block(2, 0, 6, 6, 0.5)
    for order in ([part, all_of_it], [all_of_it, part]):
        assert [kept.window for kept in disjoint(order, SHAPE)] == [all_of_it.window]


def test_mask_and_window_must_fit() -> None:
    with pytest.raises(ValueError, match="mask"):
        Instance(Window(0, 0, 2, 2), np.ones((2, 3), bool), 1.0, 1)
    with pytest.raises(ValueError, match="bool"):
        Instance(Window(0, 0, 2, 2), np.ones((2, 2), np.uint8), 1.0, 1)  # type: ignore[arg-type]
