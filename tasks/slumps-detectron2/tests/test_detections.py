"""Probability rows and detections come out of a chunk exactly as the tiles showed them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore.errors import DataError, StorageError
from geocore.raster.grid import Window
from geocore.tiling.tiles import Chunk, TileGrid, chunks, tiles_in
from slumps_detectron2.detections import Detection, DetectionCollector, TileOutput, load_detections, save_detections

Outputs = dict[tuple[int, int], TileOutput]


def detected(tiling: TileGrid, shape: tuple[int, int], seed: int) -> Outputs:
    """Detections anywhere in each tile, also outside the scene; a tenth of the pixels of each tile is invalid."""
    rng = np.random.default_rng(seed)
    outputs = {}
    for i, j, _ in tiling.grid_positions(shape):
        detections = []
        for _ in range(rng.integers(0, 4)):
            row, col = rng.integers(0, tiling.size, 2).tolist()
            height, width = int(rng.integers(1, tiling.size - row + 1)), int(rng.integers(1, tiling.size - col + 1))
            mask = rng.integers(0, 256, (height, width), dtype=np.uint8) * (rng.random((height, width)) < 0.5)
            detections.append(
                Detection(Window(row, col, height, width), mask.astype(np.uint8), float(rng.random()), j % 3 + 1)
            )
        outputs[i, j] = TileOutput(detections, rng.random((tiling.size, tiling.size)) < 0.9)
    return outputs


def collect(
    chunk: Chunk, tiling: TileGrid, shape: tuple[int, int], outputs: Outputs
) -> tuple[npt.NDArray[np.uint8], list[Detection]]:
    rows: list[npt.NDArray[np.uint8]] = []

    def on_rows(first: int, values: npt.NDArray[np.uint8]) -> None:
        assert first == chunk.window.row + sum(map(len, rows))
        assert values.dtype == np.uint8 and values.shape[1] == chunk.window.width
        rows.append(values.copy())

    collector = DetectionCollector(chunk, tiling, shape, on_rows)
    for i, j, window in tiles_in(chunk, tiling, shape):
        collector.add(i, j, window, outputs[i, j])
    detections = collector.finish()
    return np.concatenate(rows), detections


def expected_percent(tiling: TileGrid, shape: tuple[int, int], outputs: Outputs) -> npt.NDArray[np.uint8]:
    """The largest product, pixel by pixel over the whole scene, rounded at the end."""
    extent = np.zeros((shape[0] + tiling.size, shape[1] + tiling.size))
    valid = np.ones(extent.shape, bool)
    for i, j, window in tiling.grid_positions(shape):
        valid[window.slices] &= outputs[i, j].valid
        for detection in outputs[i, j].detections:
            place = extent[detection.window.shifted(window.row, window.col).slices]
            np.maximum(place, detection.mask * detection.score * 100 / 255, out=place)
    inside = np.where(valid, np.rint(extent), 255).astype(np.uint8)
    return inside[: shape[0], : shape[1]]


def same(first: list[Detection], second: list[Detection]) -> bool:
    return len(first) == len(second) and all(
        (a.window, a.score, a.label, a.tile) == (b.window, b.score, b.label, b.tile) and np.array_equal(a.mask, b.mask)
        for a, b in zip(first, second, strict=True)
    )


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.integers(2, 24),
    share=st.floats(0, 0.75),
    chunk_px=st.integers(5, 60),
    seed=st.integers(0, 1000),
)
def test_probability_is_the_largest_score_times_mask_in_any_chunks(
    shape: tuple[int, int], size: int, share: float, chunk_px: int, seed: int
) -> None:
    tiling = TileGrid(size, int(share * size))
    outputs = detected(tiling, shape, seed)
    percent, detections = collect(chunks(shape, 1000)[0], tiling, shape, outputs)
    np.testing.assert_array_equal(percent, expected_percent(tiling, shape, outputs))

    joined = np.full(shape, 77, np.uint8)
    parts: list[Detection] = []
    for chunk in chunks(shape, chunk_px):
        joined[chunk.window.slices], kept = collect(chunk, tiling, shape, outputs)
        parts += kept
    np.testing.assert_array_equal(joined, percent)
    parts.sort(key=lambda detection: detection.tile)
    assert same(parts, detections)


def test_detections_are_moved_to_the_scene_and_cut_to_it_and_to_valid_pixels() -> None:
    tiling, shape = TileGrid(8, 2), (7, 20)
    window = tiling.grid_positions(shape)[1]
    assert window == (0, 1, Window(0, 6, 8, 8))
    outputs = {(i, j): TileOutput([], np.ones((8, 8), bool)) for i, j, _ in tiling.grid_positions(shape)}
    valid = np.ones((8, 8), bool)
    valid[:, 3] = False
    mask = np.full((4, 4), 200, np.uint8)
    mask[1, 1] = 40
    outputs[0, 1] = TileOutput(
        [
            Detection(Window(4, 3, 4, 4), mask, 0.5, 3),  # Its first column is invalid, its last row outside.
            Detection(Window(0, 0, 2, 2), np.full((2, 2), 127, np.uint8), 1.0, 1),  # Nowhere above one half.
            Detection(Window(7, 0, 1, 2), np.full((1, 2), 255, np.uint8), 1.0, 1),  # Outside the scene.
            Detection(Window(0, 3, 5, 1), np.full((5, 1), 255, np.uint8), 1.0, 1),  # Invalid.
        ],
        valid,
    )
    percent, detections = collect(chunks(shape, 100)[0], tiling, shape, outputs)
    assert len(detections) == 1
    found = detections[0]
    assert (found.window, found.score, found.label, found.tile) == (Window(4, 10, 3, 3), 0.5, 3, (0, 1))
    assert found.mask.tolist() == [[200, 200, 200], [40, 200, 200], [200, 200, 200]]
    # 200 / 255 x 0.5 is 39.2 %, 127 / 255 is 49.8 %.
    assert percent[4, 9:14].tolist() == [255, 39, 39, 39, 0]
    assert percent[0, 6:9].tolist() == [50, 50, 0]


def test_the_strip_does_not_grow_with_the_scene() -> None:
    tiling, width = TileGrid(64, 16), 512

    def peak(rows: int) -> int:
        shape = (rows, width)
        output = TileOutput([], np.ones((64, 64), bool))
        chunk = chunks(shape, 10**6)[0]
        tiles = tiles_in(chunk, tiling, shape)
        tracemalloc.start()
        collector = DetectionCollector(chunk, tiling, shape, lambda row, values: None)
        for i, j, window in tiles:
            collector.add(i, j, window, output)
        collector.finish()
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    # Two bytes a pixel of the strip, and one emitted block with its temporaries: 131 kB. A plane of 3000 rows: 1.5 MB.
    assert peak(3000) < 64 * width * 4 + 20_000


def test_tiles_out_of_order_or_of_another_size_are_refused() -> None:
    tiling, shape = TileGrid(8, 2), (20, 8)
    collector = DetectionCollector(chunks(shape, 100)[0], tiling, shape, lambda row, values: None)
    output = TileOutput([], np.ones((8, 8), bool))
    with pytest.raises(ValueError, match="no tile"):
        collector.finish()
    collector.add(1, 0, Window(6, 0, 8, 8), output)
    with pytest.raises(ValueError, match="row by row"):
        collector.add(0, 0, Window(0, 0, 8, 8), output)
    with pytest.raises(ValueError, match="tile of 8"):
        collector.add(2, 0, Window(12, 0, 8, 8), TileOutput([], np.ones((9, 8), bool)))
    outside = Detection(Window(6, 0, 3, 2), np.zeros((3, 2), np.uint8), 0.5, 1)
    with pytest.raises(ValueError, match="outside a tile"):
        collector.add(2, 0, Window(12, 0, 8, 8), TileOutput([outside], output.valid))


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_is_a_probability(score: float) -> None:
    with pytest.raises(ValueError, match="score"):
        Detection(Window(0, 0, 1, 1), np.zeros((1, 1), np.uint8), score, 1)


def test_mask_and_window_must_fit() -> None:
    for mask in (np.zeros((2, 3), np.uint8), np.zeros((3, 2), bool), np.zeros((3, 2), np.float32)):
        with pytest.raises(ValueError, match="mask"):
            Detection(Window(0, 0, 3, 2), mask, 0.5, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_detections_survive_the_file(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    detections = []
    for _ in range(count):
        height, width = rng.integers(1, 30, 2).tolist()
        mask = rng.integers(0, 256, (height, width), dtype=np.uint8)
        row, col = rng.integers(0, 40_000, 2).tolist()
        score, tile = float(rng.random()), (row // 100, col // 100)
        detections.append(Detection(Window(row, col, height, width), mask, score, int(rng.integers(1, 255)), tile))
    path = tmp_path / "detections.npz"
    save_detections(path, detections)
    assert [entry.name for entry in tmp_path.iterdir()] == ["detections.npz"]
    assert same(load_detections(path), detections)
    again = tmp_path / "again.npz"
    save_detections(again, iter(detections))
    assert again.read_bytes() == path.read_bytes()


def test_a_file_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "detections.npz"
    save_detections(path, [])
    with np.load(path) as arrays:
        content = dict(arrays)
    np.savez(path, **(content | {"masks": np.array([{}], dtype=object)}))
    with pytest.raises(DataError, match="not a readable file"):
        load_detections(path)


@pytest.mark.parametrize("damage", ["missing", "short", "other", "fewer"])
def test_an_unreadable_file_is_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "detections.npz"
    save_detections(path, [Detection(Window(0, 0, 30, 30), np.full((30, 30), 9, np.uint8), 0.5, 1)])
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:600])
    elif damage == "other":
        np.savez(path, values=np.zeros(3))
    else:
        with np.load(path) as arrays:
            content = dict(arrays)
        np.savez(path, **(content | {"masks": content["masks"][:-1]}))
    with pytest.raises(DataError, match=r"detections\.npz: not a readable file") as caught:
        load_detections(path)
    assert "\n" not in str(caught.value)


def test_a_closed_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="in the way"):
        save_detections(tmp_path / "file" / "detections.npz", [])
