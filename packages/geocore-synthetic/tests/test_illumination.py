"""Illumination factors have their extremes where they say."""

from __future__ import annotations

import numpy as np
import pytest

from geocore_synthetic.illumination import gradient, panel_numbers, seam_gains, vignetting


def test_vignetting_falls_from_one_at_the_centre_to_the_strength_at_the_corners() -> None:
    light = vignetting((101, 201), 0.3)
    assert light[50, 100] == 1
    assert light[[0, 0, -1, -1], [0, -1, 0, -1]] == pytest.approx(0.7)
    assert vignetting((101, 201), 0.3, centre=(0.0, 0.0)).argmin() == 101 * 201 - 1


def test_vignetting_of_more_than_all_light_is_refused() -> None:
    with pytest.raises(ValueError, match="strength = 1.5"):
        vignetting((10, 10), 1.5)


@pytest.mark.parametrize(("direction_deg", "brightest"), [(0, (slice(None), -1)), (90, (0, slice(None)))])
def test_a_gradient_rises_towards_its_direction(direction_deg: float, brightest: tuple[object, object]) -> None:
    light = gradient((40, 60), 0.2, direction_deg)
    assert light.mean() == pytest.approx(1, abs=1e-6)
    assert np.ptp(light) == pytest.approx(0.2, abs=1e-6)
    assert light[brightest] == pytest.approx(1.1, abs=1e-6)


def test_a_gradient_of_no_strength_is_even() -> None:
    assert (gradient((5, 6), 0.0, 33.0) == 1).all()


def test_panels_begin_at_the_seams() -> None:
    numbers = panel_numbers((4, 6), [2], [1, 4])
    assert numbers.tolist() == [[0, 1, 1, 1, 2, 2]] * 2 + [[3, 4, 4, 4, 5, 5]] * 2


def test_gains_are_constant_in_a_panel_and_step_at_the_seams() -> None:
    gains = seam_gains((50, 80), [20], [30, 60], 0.05, np.random.default_rng(0))
    assert len(np.unique(gains)) == 6
    assert np.flatnonzero(np.diff(gains[0])).tolist() == [29, 59]
    assert np.flatnonzero(np.diff(gains[:, 0])).tolist() == [19]


def test_gains_have_the_spread_asked_for() -> None:
    gains = seam_gains((40, 40), list(range(1, 40)), list(range(1, 40)), 0.05, np.random.default_rng(0))
    assert gains.mean() == pytest.approx(1, abs=0.005)
    assert gains.std() == pytest.approx(0.05, rel=0.06)


def test_one_panel_has_gain_one() -> None:
    assert (seam_gains((5, 5), [], [], 0.5, np.random.default_rng(0)) == 1).all()
