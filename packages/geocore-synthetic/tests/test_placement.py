"""Placed blobs are disjoint, whole, where they may be, and touch when they are asked to."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from geocore_synthetic.placement import PlacedBlob, place_blobs, seen_parts

EIGHT = np.ones((3, 3))


def place(
    seed: int, touching: float, *, taken: np.ndarray | None = None, gap_px: int = 4, count: int = 8
) -> list[PlacedBlob]:
    taken = np.zeros((260, 300), bool) if taken is None else taken
    rng = np.random.default_rng(seed)
    return place_blobs(taken, [40.0] * count, rng, touching=touching, gap_px=gap_px, least_px=30)


@pytest.mark.parametrize("touching", [0.0, 0.6])
def test_blobs_are_disjoint_whole_and_within_the_ground_that_is_free(touching: float) -> None:
    taken = np.zeros((260, 300), bool)
    taken[100:160] = True
    for seed in range(6):
        blobs = place(seed, touching, taken=taken)
        assert len(blobs) >= 5
        assert np.sum([blob.mask for blob in blobs], axis=0).max() == 1
        free = ~ndimage.binary_dilation(taken, EIGHT, iterations=4)
        for blob in blobs:
            assert not (blob.mask & ~free).any()
            assert ndimage.label(blob.mask, EIGHT)[1] == 1
            assert blob.mask.sum() >= 30
            assert (blob.depth_px[blob.mask] > 0).all()


def test_a_small_blob_never_leaves_a_large_one_in_pieces_nor_the_other_way_round() -> None:
    taken = np.zeros((260, 300), bool)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        for blob in place_blobs(taken, [16.0, 90.0, 24.0, 70.0], rng, touching=1.0, gap_px=0, least_px=10):
            assert ndimage.label(blob.mask, EIGHT)[1] == 1


def test_groups_keep_their_distance_and_members_touch() -> None:
    members = 0
    for seed in range(6):
        blobs = place(seed, 0.6)
        for blob in blobs:
            near = ndimage.binary_dilation(blob.mask, EIGHT)
            far = ndimage.binary_dilation(blob.mask, EIGHT, iterations=4)
            group = [other for other in blobs if other.group == blob.group and other is not blob]
            members += len(group) > 0
            assert not group or any((near & other.mask).any() for other in group)
            assert not any((far & other.mask).any() for other in blobs if other.group != blob.group)
    assert members > 20
    assert len({blob.group for blob in place(0, 0.0)}) == 8


def test_a_pixel_of_two_blobs_belongs_to_the_one_in_which_it_lies_deeper() -> None:
    contested = 0
    for seed in range(6):
        blobs = place(seed, 1.0, count=2)
        for one, other in ((blobs[0], blobs[1]), (blobs[1], blobs[0])) if len(blobs) == 2 else ():
            both = (one.depth_px > 0) & (other.depth_px > 0)
            assert (one.depth_px >= other.depth_px)[both & one.mask].all()
            contested += int((both & one.mask).sum())
    assert contested > 100


def test_the_head_lies_in_the_direction() -> None:
    for blob in place(1, 0.0):
        rows, cols = np.nonzero(blob.mask & (blob.along > 0.3))
        tail_rows, tail_cols = np.nonzero(blob.mask & (blob.along < -0.3))
        if len(rows) > 30 and len(tail_rows) > 30:
            angle = np.rad2deg(np.arctan2(tail_rows.mean() - rows.mean(), cols.mean() - tail_cols.mean()))
            assert abs((angle - blob.direction_deg + 180) % 360 - 180) < 30


def test_no_room_no_blob() -> None:
    assert place(0, 0.5, taken=np.ones((260, 300), bool)) == []


def test_draws_are_repeatable() -> None:
    for one, again in zip(place(3, 0.5), place(3, 0.5), strict=True):
        np.testing.assert_array_equal(one.mask, again.mask)
    assert not np.array_equal(place(3, 0.5)[0].mask, place(4, 0.5)[0].mask)


def test_what_lies_in_front_divides_objects_and_leaves_scraps() -> None:
    objects = np.zeros((6, 12), np.int64)
    objects[1:5, 1:11], objects[5, 11] = 1, 2
    seen = np.ones(objects.shape, bool)
    seen[:, 4] = seen[:, 9] = False
    parts, scraps = seen_parts(objects, seen, least_px=8)
    assert parts[2].tolist() == [0, 1, 1, 1, 0, 2, 2, 2, 2, 0, 0, 0]
    assert scraps[2].tolist() == [False] * 10 + [True, False]
    assert scraps[5, 11]  # an object of a single pixel; diagonal neighbours of another number do not join it
    assert not parts[5, 11]
