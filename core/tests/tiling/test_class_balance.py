"""Class counts in cells and the densities made from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocore.errors import DataError
from geocore.raster.bands import Band, Bands
from geocore.raster.scene import ArrayReader, Layer
from geocore.tiling.samplers import ChunkedSampler, ClassCounts, Density, class_densities, count_classes


def labels(values, valid=None, dtype="uint8"):
    layer = Layer("mask", Bands((Band("1"),)), dtype)
    return ArrayReader(layer, np.asarray(values, dtype), valid)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 17),
    st.integers(0, 2**32 - 1),
    st.sampled_from([64, 1 << 24]),
)
def test_counts_are_those_of_a_loop_over_cells(shape, cell, seed, chunk_px):
    rng = np.random.default_rng(seed)
    rows, cols = shape
    values, valid = rng.integers(-3, 4, shape), rng.random(shape) < 0.8
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("geocore.tiling.samplers._CHUNK_PX", chunk_px)
        counts = count_classes(labels(values, valid, "int16"), [3, -2, 9], cell_px=cell)
    for label in (3, -2, 9):
        for i in range(-(-rows // cell)):
            for j in range(-(-cols // cell)):
                place = (slice(i * cell, (i + 1) * cell), slice(j * cell, (j + 1) * cell))
                assert counts.counts[label][i, j] == (valid[place] & (values[place] == label)).sum()


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(DataError, match="class labels are one band of integers"):
        count_classes(labels(np.zeros((4, 4)), dtype="float32"), [0])


def mass_of(density, sample, size):
    """Density summed over all positions, as a sampler without alignment does it."""
    rows, cols = (np.arange(max(0, edge - size) + 1) // density.cell_px for edge in sample.shape)
    return float(density.values[np.ix_(rows, cols)].sum())


def test_densities_sum_to_one_over_all_positions_of_all_samples():
    rng = np.random.default_rng(0)
    samples = [count_classes(labels(rng.integers(0, 3, shape)), [0, 1], cell_px=8) for shape in ((50, 33), (20, 90))]
    densities = class_densities(samples, 12, {0: 1, 1: 3})
    total = sum(mass_of(density, sample, 12) for density, sample in zip(densities, samples, strict=True))
    assert total == pytest.approx(1, rel=1e-12)


def test_a_density_holds_the_mean_pixels_that_windows_of_a_cell_see():
    values = np.zeros((40, 40))
    values[16:24, 8:16] = 1  # one cell
    density = class_densities([count_classes(labels(values), [1], cell_px=8)], 12, {1: 1})[0]
    seen = np.array(
        [[(values[r : r + 12, c : c + 12] == 1).sum() for c in range(29)] for r in range(29)], dtype=np.float64
    )
    means = [[seen[i : i + 8, j : j + 8].mean() for j in range(0, 29, 8)] for i in range(0, 29, 8)]
    # Cells at the border hold fewer positions, of which the density takes the mean over all, so they are left out.
    ratio = density.values[:3, :3][np.array(means)[:3, :3] > 0] / np.array(means)[:3, :3][np.array(means)[:3, :3] > 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)
    assert density.values[0, 3] == 0 == means[0][3]


def test_classes_are_drawn_by_their_shares_however_rare():
    values = np.zeros((512, 512))
    values[256:320, 64:128] = 1
    valid = np.ones((1, 512, 512), bool)
    valid[:, :, 384:] = False
    counts = count_classes(labels(values, valid), [0, 1], cell_px=32)

    def drawn(weights):
        densities = class_densities([counts], 64, weights)
        sampler = ChunkedSampler(
            [(512, 512)], 64, 4000, seed=0, batch_size=8, cells_px=[(128, 128)], each=1, densities=densities
        )
        return [draw.window for draw in sampler.epoch(0)]

    def positive(window):
        return values[window.slices].any()

    uniform = ChunkedSampler([(512, 512)], 64, 4000, seed=0, batch_size=8, cells_px=[(128, 128)], each=1).epoch(0)
    assert np.mean([positive(draw.window) for draw in uniform]) < 0.1
    # Of the windows drawn for class 1, those that start in a cell some of whose windows see it: 30/36 of them see it.
    assert np.mean([positive(window) for window in drawn({1: 1})]) > 0.9
    assert np.mean([positive(window) for window in drawn({0: 1, 1: 3})]) == pytest.approx(0.75, abs=0.05)
    assert max(window.col for window in drawn({0: 1, 1: 3})) < 384, "where nothing is labelled nothing is drawn"


def test_a_class_without_pixels_is_said():
    counts = count_classes(labels(np.zeros((8, 8))), [0, 1], cell_px=4)
    with pytest.raises(DataError, match="class 1 has no labelled pixel in the 1 samples, but a share of 2"):
        class_densities([counts], 4, {0: 1, 1: 2})
    assert class_densities([counts], 4, {0: 1, 1: 0})[0].values.min() > 0


def test_shares_and_cells_that_do_not_fit_are_refused():
    counts = ClassCounts({1: np.ones((2, 2), np.int64)}, 4, (8, 8))
    with pytest.raises(ValueError, match="not all 0"):
        class_densities([counts], 4, {1: 0})
    with pytest.raises(ValueError, match="multiples of 3"):
        class_densities([counts], 4, {1: 1}, align=3)
    with pytest.raises(ValueError, match="finite"):
        Density(np.array([[-1.0]]), 4)
