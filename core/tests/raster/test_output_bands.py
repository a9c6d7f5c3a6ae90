"""Planes: rows appended in order come back as (band, row, col) and join into a raster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geocore.raster.grid import Window
from geocore.raster.npy_store import OutputBand, StripWriter, merge_chunks, read_output_band


def test_rows_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geocore.raster.npy_store._BLOCK_ROWS", 5)
    rng = np.random.default_rng(0)
    whole = {"classes": rng.integers(0, 9, (1, 20, 11)).astype(np.uint8), "prob": rng.random((3, 20, 11), np.float32)}
    joined = {name: np.zeros_like(values) for name, values in whole.items()}
    parts = []
    for window in (Window(0, 0, 13, 6), Window(0, 6, 13, 5), Window(13, 0, 7, 6), Window(13, 6, 7, 5)):
        folder = tmp_path / f"{window.row}-{window.col}"
        with StripWriter(folder, window, [OutputBand("classes", "uint8"), OutputBand("prob", "float32", 3)]) as writer:
            for row in range(window.row, window.row_stop, 4):
                place = (slice(None), slice(row, min(row + 4, window.row_stop)), slice(window.col, window.col_stop))
                writer.write(row, {"classes": whole["classes"][place][0], "prob": whole["prob"][place]})
        assert np.array_equal(read_output_band(folder, "prob"), whole["prob"][(slice(None), *window.slices)])
        parts.append((window, folder))
    for name, target in joined.items():

        def write(values: np.ndarray, row: int, col: int, target: np.ndarray = target) -> None:
            assert values.shape[1] <= 5 and values.flags.c_contiguous
            target[:, row : row + values.shape[1], col : col + values.shape[2]] = values

        merge_chunks(parts, name, write)
        assert np.array_equal(target, whole[name])


def test_planes_of_different_lengths_are_refused_before_one_is_written(tmp_path: Path) -> None:
    planes = [OutputBand("a", "uint8"), OutputBand("b", "uint8")]
    with StripWriter(tmp_path / "part", Window(0, 0, 4, 3), planes) as writer:
        with pytest.raises(ValueError, match=r"'b' is uint8 \(1, 1, 3\), not uint8 \(1, 2, 3\)"):
            writer.write(0, {"a": np.ones((2, 3), np.uint8), "b": np.ones((1, 3), np.uint8)})
        writer.write(0, {"a": np.ones((4, 3), np.uint8), "b": np.full((4, 3), 2, np.uint8)})
    assert (read_output_band(tmp_path / "part", "a") == 1).all() and (
        read_output_band(tmp_path / "part", "b") == 2
    ).all()


def test_gaps_and_wrong_types_are_refused(tmp_path: Path) -> None:
    rows, window, planes = np.zeros((2, 3), np.uint8), Window(0, 0, 4, 3), [OutputBand("x", "uint8")]
    with StripWriter(tmp_path / "a", Window(10, 0, 4, 3), [OutputBand("x", "uint8")]) as writer:
        with pytest.raises(ValueError, match="rows from 12"):
            writer.write(12, {"x": rows})
        with pytest.raises(ValueError, match="not uint8"):
            writer.write(10, {"x": rows.astype(np.int64)})
        writer.write(10, {"x": rows})
        writer.write(12, {"x": rows})
    with pytest.raises(ValueError, match="rows up to 2"), StripWriter(tmp_path / "b", window, planes) as writer:
        writer.write(0, {"x": rows})
