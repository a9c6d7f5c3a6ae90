"""Fields have the statistics they promise and come from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geocore_synthetic.fields import gaussian_field, wandering_curve


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    correlation=st.one_of(st.floats(0, 100), st.tuples(st.floats(0, 100), st.floats(0, 100))),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_length_gives_a_standard_field(
    rows: int, cols: int, correlation: float | tuple[float, float]
) -> None:
    field = gaussian_field((rows, cols), correlation, np.random.default_rng(1))
    assert field.shape == (rows, cols)
    assert field.dtype == np.float32
    assert np.isfinite(field).all()
    assert abs(field.mean()) < 1e-3
    if rows * cols > 1:
        assert abs(field.std() - 1) < 1e-3


@pytest.mark.parametrize("correlation_px", [4.0, 9.0, 25.0])
def test_the_autocorrelation_falls_to_1_over_e_at_the_correlation_length(correlation_px: float) -> None:
    field = gaussian_field((1000, 1000), correlation_px, np.random.default_rng(0))
    lag = int(correlation_px)
    assert np.mean(field[lag:] * field[:-lag]) == pytest.approx(np.exp(-1), abs=0.05)
    assert np.mean(field[:, lag:] * field[:, :-lag]) == pytest.approx(np.exp(-1), abs=0.05)
    assert np.mean(field[3 * lag :] * field[: -3 * lag]) == pytest.approx(0, abs=0.05)


def test_the_spline_between_knots_leaves_no_pattern() -> None:
    # 40 px correlation is drawn on knots 10 px apart: neither knots nor midpoints may stand out.
    fields = [gaussian_field((40, 2000), 40.0, np.random.default_rng(seed)) for seed in range(20)]
    spread = np.concatenate(fields).std(axis=0)
    by_phase = spread[:2000].reshape(-1, 10).mean(axis=0)
    assert np.ptp(by_phase) < 0.03


def test_each_axis_has_its_own_length() -> None:
    field = gaussian_field((600, 600), (3.0, 30.0), np.random.default_rng(2))
    down, across = np.mean(field[10:] * field[:-10]), np.mean(field[:, 10:] * field[:, :-10])
    assert down < 0.1
    assert across > 0.8


def test_length_zero_is_white_noise() -> None:
    field = gaussian_field((300, 300), 0.0, np.random.default_rng(3))
    assert abs(np.mean(field[1:] * field[:-1])) < 0.02


def test_same_generator_same_field_and_no_other_source() -> None:
    np.random.seed(0)  # noqa: NPY002  the legacy global state must not matter
    one = gaussian_field((50, 60), 12.0, np.random.default_rng(5))
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(one, gaussian_field((50, 60), 12.0, np.random.default_rng(5)))
    assert not np.array_equal(one, gaussian_field((50, 60), 12.0, np.random.default_rng(6)))


@pytest.mark.parametrize("correlation", [-1.0, (1.0, -1.0), (1.0,)])
def test_a_length_that_makes_no_sense_is_refused(correlation: float | tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="correlation_px"):
        gaussian_field((10, 10), correlation, np.random.default_rng(0))


def test_a_curve_wanders_about_its_line() -> None:
    curve = wandering_curve(4000, np.random.default_rng(0), amplitude_px=3.0, correlation_px=50.0, slope=0.1)
    line = 0.1 * (np.arange(4000) - 1999.5)
    assert (curve - line).std() == pytest.approx(3.0, rel=1e-3)
    assert curve.mean() == pytest.approx(0, abs=1e-3)
    assert np.abs(np.diff(curve)).max() < 1
