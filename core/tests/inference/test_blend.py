"""Blending: exact at every pixel for any geometry, in order, and deaf to what invalid pixels hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore.datasets.batch import VALID
from geocore.errors import DataError
from geocore.inference.blend import OutputHead, OverlapBlender
from geocore.inference.outputs import PERCENT_NODATA, argmax_labels, to_percent
from geocore.raster.grid import Window
from geocore.tiling.tiles import TileGrid, chunks, tiles_in

ULP = np.finfo(np.float32).eps


def cut(plane: np.ndarray, window: Window, fill: float) -> np.ndarray:
    """The window of a (..., row, col) plane; `fill` outside."""
    out = np.full((*plane.shape[:-2], window.height, window.width), fill, plane.dtype)
    inside = window.intersection(Window(0, 0, *plane.shape[-2:]))
    if inside is not None:
        out[(..., *inside.shifted(-window.row, -window.col).slices)] = plane[(..., *inside.slices)]
    return out


class Canvas:
    """Collects emitted rows and checks that they come once and in order."""

    def __init__(self, shape: tuple[int, int], channels: int) -> None:
        self.values = np.full((channels, *shape), np.nan, np.float32)
        self.valid = np.zeros(shape, bool)
        self.seen = np.zeros(shape, int)

    def sink(self, blend_window: Window):
        following = blend_window.row

        def on_rows(row: int, blended: dict[str, torch.Tensor]) -> None:
            nonlocal following
            values = blended["out"]
            place = (..., slice(row, row + values.shape[1]), slice(blend_window.col, blend_window.col_stop))
            assert row == following
            assert blended[VALID].dtype == torch.bool and values.dtype == torch.float32
            following = row + values.shape[1]
            self.values[place], self.valid[place] = values.numpy(), blended[VALID].numpy()[0]
            self.seen[place] += 1

        return on_rows


def blend_identity(
    plane: np.ndarray,
    valid: np.ndarray,
    tiling: TileGrid,
    chunk_px: int,
    scale: int = 1,
    output_shape: tuple[int, int] | None = None,
) -> Canvas:
    """Blend tiles cut from a plane (channel, row, col) of the output grid, chunk by chunk, the last chunk first."""
    full = plane.shape[-2:]
    output_shape = output_shape or full
    shape = (full[0] // scale, full[1] // scale)
    canvas = Canvas(output_shape, len(plane))
    for chunk in reversed(chunks(shape, chunk_px, tiling.align)):
        window = chunk.window.finer(scale).intersection(Window(0, 0, *output_shape))
        assert window is not None
        blend = OverlapBlender(
            chunk,
            tiling,
            shape,
            {"out": len(plane)},
            scale=scale,
            output_shape=output_shape,
            on_rows=canvas.sink(window),
        )
        assert blend.window == window
        for row, col, tile in tiles_in(chunk, tiling, shape):
            fine = tile.finer(scale)
            blend.add(row, col, tile, {
                "out": torch.from_numpy(cut(plane, fine, np.nan)),
                VALID: torch.from_numpy(cut(valid, fine, False)),
            })  # fmt: skip
        blend.finish()
    assert (canvas.seen == 1).all()
    return canvas


@st.composite
def geometries(draw: st.DrawFn) -> tuple[tuple[int, int], TileGrid, int]:
    align = draw(st.sampled_from([1, 1, 2, 3]))
    size = draw(st.integers(1, 8)) * align
    overlap = draw(st.integers(0, size // align - 1)) * align
    shape = (draw(st.integers(1, 3 * size)), draw(st.integers(1, 3 * size)))
    return shape, TileGrid(size, overlap, align), draw(st.integers(align, 4 * size))


@given(geometries(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_identity_is_exact_for_any_geometry(geometry: tuple[tuple[int, int], TileGrid, int], seed: int) -> None:
    shape, tiling, chunk_px = geometry
    rng = np.random.default_rng(seed)
    plane = rng.standard_normal((2, *shape), np.float32) * 10.0 ** rng.integers(-3, 4)
    valid = rng.random(shape) < 0.9
    canvas = blend_identity(plane, valid, tiling, chunk_px)
    assert np.array_equal(canvas.valid, valid)
    # 8 ulp: up to four ramps meet along an axis, each weight and each product is rounded once.
    assert (np.abs(canvas.values - plane)[:, valid] <= 8 * ULP * np.abs(plane[:, valid])).all()
    assert (canvas.values[:, ~valid] == 0).all()


@given(geometries(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_classes_are_exact(geometry: tuple[tuple[int, int], TileGrid, int], seed: int) -> None:
    shape, tiling, chunk_px = geometry
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, shape)
    canvas = blend_identity(
        np.eye(3, dtype=np.float32)[truth].transpose(2, 0, 1), np.ones(shape, bool), tiling, chunk_px
    )
    assert np.array_equal(argmax_labels(torch.from_numpy(canvas.values)).numpy(), truth)


@pytest.mark.parametrize("scale", [2, 5])
@pytest.mark.parametrize("cropped", [0, 1])
def test_finer_output_is_exact(scale: int, cropped: int) -> None:
    shape = (23, 17)
    fine = (shape[0] * scale, shape[1] * scale)
    plane = np.random.default_rng(scale).standard_normal((1, *fine), np.float32)
    out = (fine[0] - cropped, fine[1] - cropped)
    canvas = blend_identity(plane, np.ones(fine, bool), TileGrid(8, 5), 9, scale, out)
    expected = plane[:, : out[0], : out[1]]
    assert (np.abs(canvas.values - expected) <= 8 * ULP * np.abs(expected)).all()


def test_neighbouring_tiles_fade_into_each_other() -> None:
    tiling, shape = TileGrid(8, 4), (8, 12)
    rows: list[np.ndarray] = []
    blend = OverlapBlender(
        chunks(shape, 99)[0], tiling, shape, {"out": 1}, on_rows=lambda row, out: rows.append(out["out"].numpy().copy())
    )
    for (row, col, tile), level in zip(tiles_in(chunks(shape, 99)[0], tiling, shape), (0.0, 1.0), strict=True):
        blend.add(row, col, tile, {"out": torch.full((1, 8, 8), level), VALID: torch.ones(1, 8, 8, dtype=torch.bool)})
    blend.finish()
    profile = rows[0][0, 0]
    assert (profile[:4] == 0).all() and np.allclose(profile[8:], 1)
    assert (np.diff(profile[3:9]) > 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_an_error_only_where_valid(bad: float) -> None:
    shape, tiling = (10, 10), TileGrid(6, 2)
    plane = np.ones((1, *shape), np.float32)
    plane[0, 7, 3] = bad
    hole = np.ones(shape, bool)
    hole[7, 3] = False
    canvas = blend_identity(plane, hole, tiling, 99)
    assert canvas.values[0, 7, 3] == 0 and np.allclose(canvas.values[0][hole], 1)
    with pytest.raises(DataError, match=r"'out' is not finite at 1 valid pixels of rows 4 to 9") as caught:
        blend_identity(plane, np.ones(shape, bool), tiling, 99)
    assert "\n" not in str(caught.value)


def test_large_finite_values_pass() -> None:
    plane = np.full((1, 40, 40), 3e38, np.float32)
    canvas = blend_identity(plane, np.ones((40, 40), bool), TileGrid(16, 4), 99)
    assert np.isfinite(canvas.values).all()


def test_a_pixel_is_valid_only_where_all_tiles_say_so() -> None:
    chunk, tiling, shape = chunks((4, 6), 99)[0], TileGrid(4, 2), (4, 6)
    masks: list[np.ndarray] = []
    blend = OverlapBlender(
        chunk, tiling, shape, {"out": 1}, on_rows=lambda row, out: masks.append(out[VALID].numpy().copy())
    )
    for row, col, tile in tiles_in(chunk, tiling, shape):
        valid = torch.ones(4, 4, dtype=torch.bool)
        valid[0, 2 if col == 0 else 1] = False
        blend.add(row, col, tile, {"out": torch.ones(1, 4, 4), VALID: valid})
    blend.finish()
    assert masks[0][0, 0].tolist() == [True, True, False, False, True, True]


def test_misuse_is_refused() -> None:
    chunk, tiling, shape = chunks((12, 4), 99)[0], TileGrid(4), (12, 4)
    tiles = tiles_in(chunk, tiling, shape)
    good = {"out": torch.ones(1, 4, 4), VALID: torch.ones(4, 4, dtype=torch.bool)}

    def fresh() -> OverlapBlender:
        return OverlapBlender(chunk, tiling, shape, {"out": 1}, on_rows=lambda row, out: None)

    with pytest.raises(ValueError, match="'valid' are due"):
        fresh().add(*tiles[0], {"out": good["out"]})
    with pytest.raises(ValueError, match=r"is \(2, 4, 4\)"):
        fresh().add(*tiles[0], good | {"out": torch.ones(2, 4, 4)})
    with pytest.raises(ValueError, match="no tile"):
        fresh().finish()
    blend = fresh()
    blend.add(*tiles[1], good)
    with pytest.raises(ValueError, match="tile row 0 after 1"):
        blend.add(*tiles[0], good)
    wide = chunks((4, 12), 99)[0]
    left, middle, right = tiles_in(wide, tiling, (4, 12))
    for found, words in (
        [(left, right), "columns 4 to 8"],
        [(middle,), "columns 0 to 4"],
        [(left,), "columns 4 to 12"],
    ):
        gaps = OverlapBlender(wide, tiling, (4, 12), {"out": 1}, on_rows=lambda row, out: None)
        with pytest.raises(ValueError, match=f"no tile covers {words}"):
            for tile in found:
                gaps.add(*tile, good)
            gaps.finish()
    with pytest.raises(ValueError, match="does not end in the last working pixel"):
        OverlapBlender(chunk, tiling, shape, {"out": 1}, on_rows=lambda row, out: None, output_shape=(11, 4))
    with pytest.raises(ValueError, match="none called"):
        OverlapBlender(chunk, tiling, shape, {VALID: 1}, on_rows=lambda row, out: None)


@pytest.fixture
def random_logits() -> torch.Tensor:
    return torch.randn(5, 33, 21, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [2, 5])
def test_labels_equal_argmax(random_logits: torch.Tensor, classes: int) -> None:
    logits = random_logits[:classes].round()  # rounding makes ties, which go to the lower class
    expected = np.argmax(logits.numpy(), axis=0)
    labels = argmax_labels(logits)
    assert labels.dtype == torch.uint8 and np.array_equal(labels.numpy(), expected)


def test_labels_need_classes(random_logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="1 channels"):
        argmax_labels(random_logits[:1])


def test_percent() -> None:
    percent = to_percent(torch.tensor([[0.0, 0.004, 0.5, 1.0, 0.3]]), torch.tensor([True, True, True, True, False]))
    assert percent.dtype == torch.uint8 and percent.tolist() == [[0, 0, 50, 100, PERCENT_NODATA]]


def test_heads_activate() -> None:
    raw = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    assert torch.allclose(OutputHead(3, "classes").activate(raw).sum(1), torch.ones(2, 4, 4))
    assert torch.equal(OutputHead(3, "sigmoid").activate(raw), raw.float().sigmoid())
    assert torch.equal(OutputHead(3, "values").activate(raw), raw.float())
    with pytest.raises(ValueError, match="3 channels where the head has 2"):
        OutputHead(2, "classes").activate(raw)
