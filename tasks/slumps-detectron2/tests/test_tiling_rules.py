"""Where tiles lie, which are taken, and what is read of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geocore.raster.grid import Window
from slumps_detectron2.areas import Truth
from slumps_detectron2.tiling_rules import CutRule, choose, collate, cut, objects_of


def _rule(**changes: object) -> CutRule:
    values = {"tile_px": 32, "stride_px": 16, "negatives": 1.0, "least_slump_px": 10, "least_valid": 0.5}
    return CutRule(**values | changes)  # type: ignore[arg-type]


def _everywhere(shape: tuple[int, int]) -> np.ndarray:
    return np.ones(shape, bool)


@pytest.mark.parametrize(
    ("area", "stride", "rows", "cols"),
    [
        (Window(100, 200, 64, 64), 16, [100, 116, 132], [200, 216, 232]),
        (Window(0, 0, 70, 32), 16, [0, 16, 32, 38], [0]),
        (Window(5, 7, 20, 33), 16, [5], [7, 8]),
        (Window(0, 0, 100, 32), 50, [0, 50, 68], [0]),
    ],
)
def test_tiles_lie_on_a_grid_whose_last_one_is_moved_back(
    area: Window, stride: int, rows: list[int], cols: list[int]
) -> None:
    grid = _rule(stride_px=stride).grid(area)
    assert [tiles[0].row for tiles in grid] == rows
    assert all([tile.col for tile in tiles] == cols for tiles in grid)
    assert all(tile.shape == (32, 32) for tiles in grid for tile in tiles)


def test_every_pixel_lies_in_a_tile() -> None:
    area = Window(3, 4, 75, 50)
    seen = np.zeros((200, 200), bool)
    for tile in (tile for tiles in _rule().grid(area) for tile in tiles):
        seen[tile.slices] = True
    expected = np.zeros_like(seen)
    expected[area.slices] = True
    assert np.array_equal(seen, expected)


def test_tile_is_positive_negative_or_left_out() -> None:
    area = Window(10, 20, 32, 96)
    ids = np.zeros(area.shape, np.uint32)
    ids[4:8, 4:7] = 70_000  # 12 px
    ids[0, 40:49] = 1  # two objects of 9 px: no tile is positive for both together
    ids[5, 40:49] = 2
    positive, negative = cut(ids, _everywhere(area.shape), area, _rule(stride_px=32))
    assert positive == [Window(10, 20, 32, 32)]
    assert negative == [Window(10, 84, 32, 32)]


def test_part_of_a_slump_counts_by_its_pixels_in_the_tile() -> None:
    area = Window(0, 0, 32, 64)
    ids = np.zeros(area.shape, np.uint32)
    ids[3:6, 29:40] = 1  # 9 px in the left tile, 24 in the right one
    positive, negative = cut(ids, _everywhere(area.shape), area, _rule(stride_px=32))
    assert positive == [Window(0, 32, 32, 32)] and negative == []
    positive, _ = cut(ids, _everywhere(area.shape), area, _rule(stride_px=32, least_slump_px=9))
    assert positive == [Window(0, 0, 32, 32), Window(0, 32, 32, 32)]


def test_tile_of_too_few_labelled_pixels_is_left_out() -> None:
    area = Window(0, 0, 32, 64)
    ids = np.ones(area.shape, np.uint32)
    labelled = _everywhere(area.shape)
    labelled[:17, :32] = False
    labelled[:16, 32:] = False
    assert cut(ids, labelled, area, _rule(stride_px=32))[0] == [Window(0, 32, 32, 32)]


def test_area_smaller_than_a_tile_gives_one_that_reaches_outside() -> None:
    area = Window(7, 9, 20, 12)
    ids = np.zeros(area.shape, np.uint32)
    ids[2:6, 2:6] = 1
    assert cut(ids, _everywhere(area.shape), area, _rule()) == ([Window(7, 9, 32, 32)], [])


def test_rows_of_tiles_one_by_one_are_the_tiles_of_the_area() -> None:
    rng = np.random.default_rng(0)
    area = Window(3, 5, 90, 77)
    ids = (rng.random(area.shape) > 0.97).astype(np.uint32) * rng.integers(1, 3, area.shape, dtype=np.uint32)
    labelled = rng.random(area.shape) > 0.4
    rule = _rule(least_slump_px=12)
    parts = []
    for tiles in rule.grid(area):
        strip = Window(tiles[0].row, area.col, 32, area.width)
        place = strip.shifted(-area.row, -area.col).slices
        parts.append(cut(ids[place], labelled[place], strip, rule))
    whole = cut(ids, labelled, area, rule)
    assert whole[0] and [tile for part in parts for tile in part[0]] == whole[0]
    assert [tile for part in parts for tile in part[1]] == whole[1]


def _tiles(count: int, row: int) -> list[Window]:
    return [Window(row, col, 32, 32) for col in range(count)]


def test_negative_tiles_are_a_share_of_all_positive_ones_drawn_over_all_areas() -> None:
    positive, negative = [_tiles(3, 0), [], _tiles(1, 2)], [_tiles(50, 10), _tiles(50, 11), []]
    chosen = choose(positive, negative, 2.5, seed=0)
    assert chosen[0][:3] == positive[0] and chosen[2] == positive[2]
    drawn = [*chosen[0][3:], *chosen[1]]
    assert len(drawn) == 10 and len(set(drawn)) == 10
    assert all(tiles == sorted(tiles, key=lambda tile: tile.col) for tiles in (chosen[0][3:], chosen[1]))
    assert 1 <= len(chosen[1]) <= 9
    assert choose(positive, negative, 2.5, seed=0) == chosen != choose(positive, negative, 2.5, seed=1)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1000.0, 20)])
def test_no_negative_tiles_and_all_of_them(share: float, expected: int) -> None:
    assert len(choose([_tiles(3, 0)], [_tiles(20, 9)], share, seed=0)[0]) == 3 + expected


def test_objects_carry_boxes_classes_and_masks() -> None:
    ids = np.zeros((20, 30), np.uint32)
    ids[2:5, 3:9] = 4_000_000
    ids[2:5, 9:11] = 17  # touches the former
    ids[10, 10] = ids[12, 14] = 9  # two parts
    classes = np.where(ids > 0, np.uint8(1), np.uint8(0))
    classes[2:5, 4:9] = 3
    found = objects_of(Truth(ids, classes, _everywhere(ids.shape)))
    assert found["boxes"].tolist() == [[10, 10, 15, 13], [9, 2, 11, 5], [3, 2, 9, 5]]
    assert found["labels"].tolist() == [1, 1, 3]
    assert (found["boxes"].dtype, found["labels"].dtype, found["masks"].dtype) == (np.float32, np.int64, np.uint8)
    assert [int(mask.sum()) for mask in found["masks"]] == [2, 6, 18]
    assert np.array_equal(found["masks"].sum(axis=0) > 0, ids > 0)
    assert objects_of(Truth(ids, None, _everywhere(ids.shape)), least_px=3)["labels"].tolist() == [1, 1]


def test_tile_full_of_one_object_and_empty_tile() -> None:
    full = objects_of(Truth(np.full((4, 5), 3, np.uint32), None, _everywhere((4, 5))))
    assert full["boxes"].tolist() == [[0, 0, 5, 4]]
    none = objects_of(Truth(np.zeros((4, 5), np.uint32), None, _everywhere((4, 5))))
    assert [none[name].shape for name in ("boxes", "labels", "masks")] == [(0, 4), (0,), (0, 4, 5)]


def test_batch_holds_ragged_objects() -> None:
    def item(objects: int) -> dict[str, object]:
        ids = np.zeros((8, 8), np.uint32)
        for number in range(objects):
            ids[2 * number, 1:4] = number + 1
        truth = Truth(ids, None, _everywhere((8, 8)))
        return {
            "inputs": {"image": {"values": np.ones((2, 8, 8), np.uint16), "valid": np.ones((2, 8, 8), bool)}},
            "objects": objects_of(truth),
            "mask": (ids > 0).astype(np.uint8)[np.newaxis],
            "keys": np.array([0, objects], np.int64),
        }

    batch = collate([item(2), item(0), item(3)])
    assert batch["inputs"]["image"]["values"].shape == (3, 2, 8, 8)
    assert batch["inputs"]["image"]["values"].dtype == torch.uint16
    assert [len(objects["boxes"]) for objects in batch["targets"]["objects"]] == [2, 0, 3]
    assert batch["targets"]["objects"][1]["masks"].shape == (0, 8, 8)
    assert batch["targets"]["mask"].shape == (3, 1, 8, 8) and batch["targets"]["mask"].dtype == torch.uint8
    assert batch["keys"].tolist() == [[0, 2], [0, 0], [0, 3]]
