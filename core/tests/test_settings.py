import pytest
from pydantic import ValidationError

from geocore.settings import (
    CacheSettings,
    DeviceSettings,
    EvaluationSettings,
    OptimizerSettings,
    RunSettings,
    ScheduleSettings,
    Settings,
    TilingSettings,
    TrainingSettings,
    deciding,
    deciding_values,
    operational,
)


class Logging(Settings):
    every: int = deciding(10, "steps")


class Toy(Settings):
    rate: float = deciding(0.1, "learning rate", gt=0)
    unmarked: int = 3
    workers: int = operational(0, "processes")
    tiling: TilingSettings = TilingSettings()
    training: TrainingSettings = TrainingSettings()
    logging: Logging = operational(Logging(), "a whole operational group")


def test_deciding_values_leave_out_operational_settings_and_groups():
    kept = deciding_values(Toy())
    assert set(kept) == {"rate", "unmarked", "tiling", "training"}
    assert kept["tiling"] == {"size": 256, "overlap": 64}
    assert "checkpoint_every" not in kept["training"]
    assert kept["training"]["seed"] == 0


def test_only_deciding_settings_tell_two_runs_apart():
    base = deciding_values(Toy())
    same = Toy(workers=4, training=TrainingSettings(log_every=1), logging=Logging(every=2))
    assert deciding_values(same) == base
    for other in (Toy(rate=0.2), Toy(unmarked=4), Toy(training=TrainingSettings(seed=1))):
        assert deciding_values(other) != base


class Branch(Settings):
    depth: int = deciding(1, "levels")
    tiling: TilingSettings = TilingSettings(size=512, overlap=128)


class Tree(Settings):
    branch: Branch = Branch(depth=3, tiling=TilingSettings(size=96, overlap=32))
    table: dict[str, Branch] = deciding({"known": Branch(depth=5)}, "a table of groups")
    names: dict[int, str] = deciding({1: "slump"}, "a table of texts")


def test_a_group_given_in_part_keeps_the_defaults_of_the_class_that_holds_it():
    assert Branch.model_validate({"tiling": {"size": 256}}).tiling == TilingSettings(size=256, overlap=128)
    given = {"branch": {"tiling": {"overlap": 8}}, "table": {"known": {}, "new": {}}, "names": {2: "scar"}}
    tree = Tree.model_validate(given)
    assert tree.branch == Branch(depth=3, tiling=TilingSettings(size=96, overlap=8))
    assert tree.table == {"known": Branch(depth=1), "new": Branch(depth=1)}  # a table is replaced as a whole
    assert tree.names == {2: "scar"}
    assert Tree.model_validate(tree.model_dump()) == tree
    with pytest.raises(
        ValidationError, match=r"overlap 128 must be smaller than size 100.*--tiling.overlap too, .* 25"
    ):
        Branch.model_validate({"tiling": {"size": 100}})


def test_a_cache_makes_no_other_run(tmp_path):
    class Training(CacheSettings):
        rate: float = deciding(0.1, "learning rate")

    assert deciding_values(Training(cache=tmp_path)) == deciding_values(Training()) == {"rate": 0.1}


def test_a_checkpoint_is_best_last_or_one_by_its_step():
    given = {"best": "best", "last": "last", "step-000060": "step-000060", "step-60": "step-000060"}
    for text, name in given.items():
        assert EvaluationSettings(run="r", checkpoint=text).checkpoint == name
    for text in ("first", "step-", "60", "step-1/../..", "step-1e3", ""):
        with pytest.raises(ValidationError, match="must be best, last, or the name of a checkpoint"):
            EvaluationSettings(run="r", checkpoint=text)


def test_what_a_run_needs_is_checked_with_its_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunSettings(data="sets/a").data == tmp_path / "sets" / "a"
    assert RunSettings().data is None
    with pytest.raises(ValidationError, match=r"schedule.warmup_steps = 9: must be below the 9 steps of the run"):
        RunSettings(training={"steps": 9}, schedule={"warmup_steps": 9})
    assert RunSettings(training={"steps": 10}, schedule={"warmup_steps": 9}).training.steps == 10


def test_settings_are_frozen_and_refuse_unknown_keys():
    with pytest.raises(ValidationError):
        Toy(rates=1)
    toy = Toy()
    with pytest.raises(ValidationError):
        toy.rate = 2.0


@pytest.mark.parametrize(
    ("cls", "values"),
    [
        (TilingSettings, {"size": -4}),
        (TilingSettings, {"size": 64, "overlap": 64}),
        (TilingSettings, {"overlap": -1}),
        (OptimizerSettings, {"learning_rate": float("nan")}),
        (OptimizerSettings, {"betas": (0.9, 1.0)}),
        (OptimizerSettings, {"name": "lion"}),
        (OptimizerSettings, {"name": "sgd", "momentum": 1.0}),
        (ScheduleSettings, {"kind": "poly", "restart_every": 5}),
        (ScheduleSettings, {"final_fraction": 1.5}),
        (DeviceSettings, {"precision": "float16"}),
        (TrainingSettings, {"steps": 0}),
        (TrainingSettings, {"ema_decay": 1.0}),
    ],
)
def test_values_that_break_a_rule_are_refused(cls, values):
    with pytest.raises(ValidationError):
        cls(**values)


def test_none_is_a_value_where_it_switches_something_off():
    assert OptimizerSettings(clip_norm=None).clip_norm is None
    assert TrainingSettings(patience=None, ema_decay=None).patience is None


def test_a_required_setting_has_no_default():
    class Needs(Settings):
        run: str = operational(..., "run folder", min_length=1)

    with pytest.raises(ValidationError):
        Needs()
    with pytest.raises(ValidationError):
        Needs(run="")
