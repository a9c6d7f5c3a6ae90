"""Layers are decoded exactly where the truth is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from geocore.metrics.boundary import BoundaryCounts
from snowpack_sam2.layers import boundaries_of, layer_map, layer_table
from snowpack_sam2.ridges import boundary_mask, trace
from snowpack_sam2.sample import sample_photos

SHAPE = (160, 240)
EVERYWHERE = np.ones(SHAPE, bool)


def _mask(*rows: npt.NDArray[np.float64] | float) -> npt.NDArray[np.uint8]:
    """Layer ids 1, 2, ... between boundaries given as rows over the columns."""
    layers = np.ones(SHAPE, np.uint8)
    for row in rows:
        layers += (np.arange(SHAPE[0])[:, None] > np.broadcast_to(row, SHAPE[1])).astype(np.uint8)
    return layers


def _probability(layers: npt.NDArray[np.uint8], height: float = 1.0) -> npt.NDArray[np.float32]:
    """What a good network gives: soft lines some 5 px wide about the true ones."""
    soft = ndimage.gaussian_filter(boundaries_of(layers).astype(float), 1.2)
    return (height * np.clip(soft * 3, 0, 1)).astype(np.float32)


def test_a_line_is_one_pixel_wide_and_marks_the_upper_and_the_left_pixel() -> None:
    layers = np.array([[1, 1, 7], [1, 1, 7], [4, 4, 4]], np.uint8)
    assert boundaries_of(layers).tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_there_is_no_boundary_at_ignored_pixels() -> None:
    layers = np.array([[1, 255, 2], [255, 255, 255], [3, 3, 2]], np.uint8)
    assert boundaries_of(layers).tolist() == [[False] * 3, [False] * 3, [False, True, False]]
    assert boundaries_of(layers, ignore=None).sum() == 7


def test_ids_are_names() -> None:
    layers = _mask(40.0, 90.0)
    names = np.array([0, 9, 3, 200], np.uint8)
    np.testing.assert_array_equal(boundaries_of(layers), boundaries_of(names[layers]))


@pytest.mark.parametrize("slope", [0.0, 0.15, -0.4])
def test_sloping_layers_are_recovered_within_a_pixel(slope: float) -> None:
    cols = np.arange(SHAPE[1]) - SHAPE[1] / 2
    layers = _mask(*(row + slope * cols + 3 * np.sin(cols / 20) for row in (60.3, 80.6, 100.1)))
    probability = _probability(layers)
    boundaries = trace(probability, EVERYWHERE, 0.5)
    found = layer_map(boundaries, SHAPE, EVERYWHERE)
    assert len(boundaries) == 3
    assert found.max() == 4
    for number in (2, 3, 4):
        true_top, top = ((labels == number).argmax(axis=0) for labels in (layers, found))
        assert np.abs(true_top - top)[5:-5].mean() < 0.5
        assert np.abs(true_top - top)[5:-5].max() <= 1


def test_a_pinched_layer_merges_and_the_rest_stays() -> None:
    cols = np.arange(SHAPE[1])
    upper = np.full(SHAPE[1], 70.0)
    lower = upper + np.clip((cols - 120) * 0.25, 0, 25)  # nothing to the left, 25 px to the right
    layers = _mask(upper, lower, 130.0)
    found = layer_map(trace(_probability(layers), EVERYWHERE, 0.5), SHAPE, EVERYWHERE)
    assert found.max() == 4
    assert not (found[:, :100] == 2).any()
    assert abs(int((found[:, 230] == 2).sum()) - 25) <= 1
    assert (found == layers).mean() > 0.985


def test_layers_are_ordered_and_never_cross() -> None:
    rng = np.random.default_rng(3)
    probability = _probability(_mask(30.0, 50.0 + rng.normal(0, 1, SHAPE[1]), 110.0))
    probability[:, 100:140] = 0  # a gap too wide to bridge
    found = layer_map(trace(probability, EVERYWHERE, 0.3), SHAPE, EVERYWHERE)
    assert (np.diff(found.astype(int), axis=0) >= 0).all()
    assert set(np.unique(found)) == set(range(1, int(found.max()) + 1))


def test_a_short_gap_is_bridged() -> None:
    layers = _mask(60.0 + 0.2 * np.arange(SHAPE[1]))
    probability = _probability(layers)
    probability[:, 100:115] = 0
    assert len(trace(probability, EVERYWHERE, 0.5)) == 1
    assert (layer_map(trace(probability, EVERYWHERE, 0.5), SHAPE, EVERYWHERE) == layers).mean() > 0.99


def test_a_boundary_is_followed_where_it_fades_but_not_begun_there() -> None:
    layers = _mask(60.0, 100.0)
    probability = _probability(layers)
    probability[:80, 40:90] *= 0.6  # fades over more columns than a gap may have
    probability[80:] *= 0.6  # never reaches the threshold
    (found,) = trace(probability, EVERYWHERE, 0.8)
    assert (found.cols[0], found.cols[-1]) == (0, SHAPE[1] - 1)
    assert len(trace(probability, EVERYWHERE, 0.5)) == 2


def test_noise_below_the_threshold_gives_one_layer() -> None:
    noise = np.random.default_rng(0).uniform(0, 0.45, SHAPE).astype(np.float32)
    assert not boundary_mask(noise, EVERYWHERE, 0.5).any()
    assert trace(noise, EVERYWHERE, 0.5) == []
    assert (layer_map([], SHAPE, EVERYWHERE) == 1).all()


def test_lone_specks_above_the_threshold_are_no_boundary() -> None:
    probability = np.zeros(SHAPE, np.float32)
    probability[40:43, 60:63] = probability[90, 10] = 1
    assert not boundary_mask(probability, EVERYWHERE, 0.5).any()
    assert trace(probability, EVERYWHERE, 0.5) == []


def test_invalid_pixels_have_neither_boundary_nor_layer() -> None:
    valid = EVERYWHERE.copy()
    valid[:, :60] = False
    probability = _probability(_mask(80.0))
    assert not boundary_mask(probability, valid, 0.5)[:, :60].any()
    found = layer_map(trace(probability, valid, 0.5), SHAPE, valid)
    assert (found[:, :60] == 0).all()
    assert set(np.unique(found[:, 60:])) == {1, 2}


@pytest.mark.parametrize("angle_deg", [0, 20, 45, 70, 90])
def test_the_scored_line_follows_any_direction(angle_deg: int) -> None:
    angle = np.deg2rad(angle_deg)
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array([80, 120])[:, None, None]
    layers = np.where(rows * np.cos(angle) + cols * np.sin(angle) > 0.3, 2, 1).astype(np.uint8)
    lines = boundary_mask(_probability(layers), EVERYWHERE, 0.5)
    counts = BoundaryCounts(1.5)
    counts.update(boundaries_of(layers), lines, EVERYWHERE)
    assert counts.f1() > 0.97
    assert lines.sum() < 1.5 * boundaries_of(layers).sum()


def test_the_lines_of_sample_walls_survive_the_decoding() -> None:
    counts = BoundaryCounts(2)
    for photo in sample_photos(seed=3, pits=4, photos_per_pit=1, shape=(256, 256)):
        valid = photo.layers != 255
        truth = boundaries_of(photo.layers)
        probability = np.clip(3 * ndimage.gaussian_filter(truth.astype(np.float32), 1.2), 0, 1)
        counts.update(truth, boundary_mask(probability, valid, 0.5), valid)
    assert counts.f1() > 0.96


def test_the_table_says_depth_thickness_and_brightness() -> None:
    layers = _mask(39.0, 99.0)  # borders after rows 39 and 99: thickness 40, 60 and 60
    photo = np.array([0, 200, 240, 180])[layers].astype(np.uint16)
    table = layer_table(layers, photo, _probability(layers, 0.8), EVERYWHERE, cm_per_px=0.1)
    assert [row["layer"] for row in table] == [1, 2, 3]
    second = table[1]
    assert (second["top_px"], second["bottom_px"], second["thickness_mean_px"]) == (40, 100, 60)
    assert (second["top_cm"], second["thickness_min_cm"], second["thickness_max_cm"]) == (4, 6, 6)
    assert (second["brightness_mean"], second["brightness_std"]) == (240, 0)
    assert (second["top_contrast"], second["top_sharpness"], second["width_share"]) == (40, 1, 1)
    assert second["confidence"] == pytest.approx(0.8, abs=0.01)
    assert table[0]["top_contrast"] is None
    assert table[2]["top_contrast"] == -60


def test_the_table_without_scale_or_boundary_has_empty_cells() -> None:
    layers = layer_map([], SHAPE, EVERYWHERE)
    table = layer_table(layers, np.ones(SHAPE), np.zeros(SHAPE, np.float32), EVERYWHERE)
    assert len(table) == 1
    assert table[0]["confidence"] is None
    assert table[0]["top_cm"] is None
    assert table[0]["thickness_mean_px"] == SHAPE[0]


def test_a_layer_in_part_of_the_photo_says_its_share_of_the_width() -> None:
    layers = _mask(50.0)
    layers[100:, :60] = 3
    table = layer_table(layers, np.ones(SHAPE), np.zeros(SHAPE, np.float32), EVERYWHERE)
    assert table[2]["width_share"] == 0.25
    assert table[2]["thickness_mean_px"] == 60


def test_a_photo_without_any_valid_pixel_has_no_layers() -> None:
    nothing = np.zeros(SHAPE, bool)
    layers = layer_map([], SHAPE, nothing)
    assert not layers.any()
    assert layer_table(layers, np.ones(SHAPE), np.zeros(SHAPE, np.float32), nothing) == []
