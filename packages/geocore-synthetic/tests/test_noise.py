"""Noise has the mean and the spread that it promises."""

from __future__ import annotations

import numpy as np
import pytest

from geocore_synthetic.noise import shot, speckle, spots

SHAPE = (300, 400)


@pytest.mark.parametrize("strength", [0.01, 0.2, 1.0])
def test_speckle_has_mean_one_and_the_strength_as_spread(strength: float) -> None:
    factor = speckle(SHAPE, strength, np.random.default_rng(0))
    assert factor.min() >= 0
    assert factor.mean() == pytest.approx(1, abs=0.02 * strength)
    assert factor.std() == pytest.approx(strength, rel=0.02)


def test_no_speckle_is_one() -> None:
    assert (speckle(SHAPE, 0.0, np.random.default_rng(0)) == 1).all()


@pytest.mark.parametrize("level", [0.1, 0.9])
def test_shot_noise_grows_with_the_root_of_the_light(level: float) -> None:
    image = shot(np.full(SHAPE, level), 10_000, np.random.default_rng(0))
    assert image.dtype == np.float32
    assert image.mean() == pytest.approx(level, rel=1e-3)
    assert image.std() == pytest.approx(np.sqrt(level / 10_000), rel=0.02)


def test_negative_light_is_darkness() -> None:
    assert (shot(np.full((3, 3), -0.5), 100, np.random.default_rng(0)) == 0).all()


def test_spots_are_as_many_as_asked_and_no_higher_than_one_alone() -> None:
    field = spots(SHAPE, 1e-3, 1.5, np.random.default_rng(0))
    # Each spot has the volume 2 pi radius**2 times its height, half on average.
    volume = 1e-3 * SHAPE[0] * SHAPE[1] * 0.5 * 2 * np.pi * 1.5**2
    assert field.sum() == pytest.approx(volume, rel=0.2)
    assert 0.5 < field.max() < 2
    assert not spots(SHAPE, 0.0, 1.5, np.random.default_rng(0)).any()


def test_draws_are_repeatable() -> None:
    for draw in (
        lambda rng: speckle(SHAPE, 0.3, rng),
        lambda rng: shot(np.ones(SHAPE), 50, rng),
        lambda rng: spots(SHAPE, 1e-3, 2.0, rng),
    ):
        np.testing.assert_array_equal(draw(np.random.default_rng(4)), draw(np.random.default_rng(4)))
        assert not np.array_equal(draw(np.random.default_rng(4)), draw(np.random.default_rng(5)))


def test_strengths_that_make_no_sense_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="strength"):
        speckle(SHAPE, -0.1, rng)
    with pytest.raises(ValueError, match="full_well"):
        shot(np.ones(SHAPE), 0, rng)
    with pytest.raises(ValueError, match="density"):
        spots(SHAPE, -1e-3, 1.0, rng)
