import itertools
import math

import pytest

from geocore.errors import SettingsError
from geocore.settings import ScheduleSettings
from geocore.training.optim import learning_rate_factor


def test_warmup_rises_linearly_to_one():
    schedule = ScheduleSettings(kind="constant", warmup_steps=4)
    assert [learning_rate_factor(step, 10, schedule) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


def test_cosine_passes_its_known_points():
    schedule = ScheduleSettings(kind="cosine", warmup_steps=10, final_fraction=0.1)
    assert learning_rate_factor(10, 110, schedule) == 1.0
    assert learning_rate_factor(60, 110, schedule) == pytest.approx(0.55)
    assert learning_rate_factor(85, 110, schedule) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(0.75 * math.pi)))
    assert learning_rate_factor(110, 110, schedule) == pytest.approx(0.1)
    assert learning_rate_factor(500, 110, schedule) == pytest.approx(0.1)


def test_cosine_starts_anew_after_so_many_steps():
    schedule = ScheduleSettings(kind="cosine", warmup_steps=2, restart_every=20, final_fraction=0.1)
    once = ScheduleSettings(kind="cosine", final_fraction=0.1)
    for step in range(2, 70):
        assert learning_rate_factor(step, 70, schedule) == pytest.approx(
            learning_rate_factor((step - 2) % 20, 20, once)
        )
    assert learning_rate_factor(42, 70, schedule) == 1.0
    assert learning_rate_factor(500, 70, schedule) == learning_rate_factor(69, 70, schedule)
    with pytest.raises(ValueError, match="only a cosine starts anew"):
        ScheduleSettings(kind="poly", restart_every=20)


def test_poly_follows_its_power():
    schedule = ScheduleSettings(kind="poly", power=2.0)
    factors = [learning_rate_factor(step, 4, schedule) for step in range(5)]
    assert factors == pytest.approx([1, 9 / 16, 1 / 4, 1 / 16, 0])


@pytest.mark.parametrize("kind", ["cosine", "poly"])
def test_never_rises_after_the_warmup(kind):
    schedule = ScheduleSettings(kind=kind, warmup_steps=5, final_fraction=0.01)
    factors = [learning_rate_factor(step, 50, schedule) for step in range(5, 60)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))
    assert min(factors) == pytest.approx(0.01)


def test_a_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(SettingsError, match="warmup_steps = 10: must be below the 10 steps"):
        learning_rate_factor(0, 10, ScheduleSettings(warmup_steps=10))
