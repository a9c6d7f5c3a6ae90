"""Shapes lie where they are asked for and are as rough as they are told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from geocore_synthetic.shapes import blob, blob_anywhere, cloud, corner, level_lines, local_axes, meander

SHAPE = (201, 241)


def draw_blob(roughness: float, seed: int = 0, taper: float = 0.0) -> np.ndarray:
    along, across = local_axes(SHAPE, (100, 120), (60, 30), 90)
    return blob(along, across, np.random.default_rng(seed), roughness=roughness, taper=taper)


@pytest.mark.parametrize(
    ("direction_deg", "ahead", "left"),
    [(0, (100, 180), (70, 120)), (90, (40, 120), (100, 90)), (180, (100, 60), (130, 120))],
)
def test_axes_point_where_they_should(direction_deg: float, ahead: tuple[int, int], left: tuple[int, int]) -> None:
    along, across = local_axes(SHAPE, (100, 120), (60, 30), direction_deg)
    assert (along[ahead], across[ahead]) == pytest.approx((1, 0), abs=1e-9)
    assert (along[left], across[left]) == pytest.approx((0, 1), abs=1e-9)


def test_a_blob_without_roughness_is_an_ellipse() -> None:
    depth = draw_blob(0.0)
    assert depth[100, 120] == depth.max() == 1
    assert depth[40, 120] == pytest.approx(0, abs=1e-9)
    assert depth[100, 90] == pytest.approx(0, abs=1e-9)
    assert (depth > 0).sum() == pytest.approx(np.pi * 60 * 30, rel=0.01)


def test_the_outline_is_as_rough_as_asked() -> None:
    # On the ellipse itself the depth is 1 - 1 / radius, close to the radius's deviation when that is small.
    along, across = local_axes(SHAPE, (100, 120), (60, 30), 90)
    outline = np.abs(np.hypot(along, across) - 1) < 0.02
    deviations = [draw_blob(0.08, seed)[outline].std() for seed in range(20)]
    assert np.mean(deviations) == pytest.approx(0.08, rel=0.1)
    assert all(ndimage.label(draw_blob(0.15, seed) > 0)[1] == 1 for seed in range(20))


def test_a_taper_widens_the_end_ahead() -> None:
    inside = draw_blob(0.0, taper=0.5) > 0
    assert inside[60].sum() > 1.5 * inside[140].sum()


def test_a_blob_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"roughness = -0\.1"):
        draw_blob(-0.1)
    with pytest.raises(ValueError, match=r"taper = 1\.0"):
        draw_blob(0.1, taper=1.0)


def test_a_meander_runs_through_and_its_distance_is_that_of_its_line() -> None:
    directions = set()
    for seed in range(8):
        distance = meander(SHAPE, np.random.default_rng(seed), amplitude_px=25, correlation_px=70)
        rows, cols = (distance > 0).any(axis=0) & (distance < 0).any(axis=0), (distance > 0).any(axis=1)
        along_rows = bool((np.diff(distance, axis=0) > 0).all())
        directions.add(along_rows)
        line = np.abs(distance) < 0.7
        true = ndimage.distance_transform_edt(~line)
        near = np.abs(distance) < 8
        assert np.abs(true - np.abs(distance))[near].mean() < 0.8  # half a pixel of it is the line's own width
        assert rows.mean() > 0.9 or cols.mean() > 0.9
    assert directions == {True, False}


def test_a_cloud_is_dense_inside_and_ends_at_the_outline() -> None:
    depth = draw_blob(0.1)
    opacity = cloud(depth, 30.0, np.random.default_rng(1))
    assert not opacity[depth <= 0].any()
    assert opacity.min() >= 0
    assert opacity.max() <= 1
    assert opacity[depth > 0.7].mean() > 0.9
    assert 0.1 < opacity[(depth > 0.05) & (depth < 0.3)].mean() < 0.6


def test_blobs_anywhere_have_the_sizes_asked() -> None:
    rng = np.random.default_rng(0)
    areas = np.array([(blob_anywhere((400, 400), (10, 40), rng) > 0).sum() for _ in range(80)])
    # Some reach beyond the image, and outlines are rough: only the bulk is bounded.
    assert np.percentile(areas, 95) < np.pi * 40**2 * 1.1
    assert np.median(areas) == pytest.approx(np.pi * 20**2, rel=0.3)


def test_level_lines_are_thin_and_as_wide_as_asked() -> None:
    covered = []
    for width in (1.0, 2.0):
        lines = level_lines((300, 300), np.random.default_rng(2), width_px=width, correlation_px=50.0)
        assert lines.min() >= 0
        assert 0.8 < lines.max() <= 1
        covered.append((lines > 0.3).mean())
    assert 0.01 < covered[0] < 0.1
    assert covered[1] == pytest.approx(2 * covered[0], rel=0.25)


@pytest.mark.parametrize(("which", "at"), [(0, (0, 0)), (1, (0, -1)), (2, (-1, 0)), (3, (-1, -1))])
def test_a_corner_is_a_triangle_of_the_size_asked(which: int, at: tuple[int, int]) -> None:
    cut = corner(SHAPE, (0.4, 0.6), which)
    assert cut[at]
    assert cut.mean() == pytest.approx(0.4 * 0.6 / 2, abs=0.002)
    assert cut.any(axis=1).mean() == pytest.approx(0.4, abs=0.01)
    assert cut.any(axis=0).mean() == pytest.approx(0.6, abs=0.01)


def test_draws_are_repeatable() -> None:
    one, again, other = (
        meander(SHAPE, np.random.default_rng(seed), amplitude_px=9, correlation_px=50) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(draw_blob(0.2, 5), draw_blob(0.2, 5))
    assert not np.array_equal(draw_blob(0.2, 5), draw_blob(0.2, 6))
